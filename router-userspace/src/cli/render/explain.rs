//! One packet on both sides, for a person.

use crate::proof::{Explanation, FastView, KernelView, PacketView, RuleView, StepView};
use comfy_table::{Attribute, Cell, Color, Table};
use owo_colors::OwoColorize;
use router_common::verdict::PassReason;
use std::fmt::{self, Write};

/// The whole answer.
pub fn text(explanation: &Explanation, color: bool) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(out, "{}", packet(&explanation.packet))?;
    if explanation.scratch {
        writeln!(out, "tried in a scratch namespace made like this host; this host is unchanged")?;
    }
    writeln!(out, "\n{}\n", sides(explanation, color))?;
    writeln!(out, "{}", agreement(explanation, color))?;
    for note in &explanation.notes {
        writeln!(out, "  note: {note}")?;
    }
    writeln!(out, "\nrules tried, in order:")?;
    out += &trail(&explanation.trail, color);
    if let Some(check) = &explanation.source_check {
        let judged = if check.valid { "accepted" } else { "refused" };
        writeln!(out, "\nsource {judged} (rp_filter {}): {}", check.rp_filter, check.why)?;
        if !check.trail.is_empty() {
            writeln!(out, "rules tried on the way back:")?;
            out += &trail(&check.trail, color);
        }
    }
    out += &route_get(explanation, color)?;
    out += &between(explanation, color)?;
    Ok(out)
}

/// What ip(8) shows, where that is not the whole truth.
fn route_get(explanation: &Explanation, color: bool) -> Result<String, fmt::Error> {
    let mut out = String::new();
    if explanation.ip_route_get.iter().all(|asked| asked.differs.is_none()) {
        return Ok(out);
    }
    writeln!(out, "\nwhat `ip route get` shows:")?;
    for asked in &explanation.ip_route_get {
        writeln!(out, "  {}", asked.command)?;
        match &asked.differs {
            None => writeln!(out, "      {}", asked.shows)?,
            Some(why) if color => writeln!(out, "      {}, {}: {why}", asked.shows, "but".yellow())?,
            Some(why) => writeln!(out, "      {}, but: {why}", asked.shows)?,
        }
    }
    Ok(out)
}

/// What else the packet meets.
fn between(explanation: &Explanation, color: bool) -> Result<String, fmt::Error> {
    let mut out = String::new();
    if explanation.between.is_empty() {
        return Ok(out);
    }
    writeln!(out, "\nwhat else the packet meets:")?;
    for met in &explanation.between {
        let effect = if color && met.rewrites { met.effect.yellow().to_string() } else { met.effect.clone() };
        writeln!(out, "  {}: {effect}", met.what)?;
    }
    Ok(out)
}

/// The packet in one line.
pub fn packet(packet: &PacketView) -> String {
    let mut line = match &packet.iif {
        Some(iif) => format!("packet in by {iif}"),
        None => "packet made on this host".to_owned(),
    };
    if let Some(from) = packet.from {
        line += &format!(", from {from}");
    }
    line += &format!(", to {}, {}", packet.to, packet.ipproto);
    if packet.sport != 0 || packet.dport != 0 {
        line += &format!(" {} → {}", packet.sport, packet.dport);
    }
    line += &format!(", mark {:#x}", packet.mark);
    if packet.dscp != 0 {
        line += &format!(", dscp {}", packet.dscp);
    }
    if packet.flowlabel != 0 {
        line += &format!(", flow label {:#x}", packet.flowlabel);
    }
    if packet.fragment {
        line += ", a fragment";
    }
    line
}

fn sides(explanation: &Explanation, color: bool) -> Table {
    let mut table = super::table(color);
    table.set_header(["", "fast path", "kernel"]);
    let fast = explanation.ebpf.as_ref();
    let kernel = explanation.kernel.as_ref();
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut row = |name: &str, one: Option<String>, other: Option<String>| {
        table.add_row(vec![Cell::new(name), cell(&shown(one), color), cell(&shown(other), color)]);
    };
    row("verdict", fast.and_then(|fast| fast.verdict.clone()), kernel.map(|kernel| kernel.verdict.clone()));
    row("action", fast.map(|fast| fast.action.clone()), None);
    if let Some(reason) = fast.and_then(|fast| fast.reason.clone()) {
        row("reason", Some(reason), None);
    }
    row("out", fast.and_then(out_of_fast), kernel.and_then(out_of_kernel));
    row(
        "table",
        fast.and_then(|fast| fast.table).map(table_name),
        kernel.and_then(|kernel| kernel.table).map(table_name),
    );
    row("rule", fast.and_then(|fast| fast.rule.as_ref()).map(rule), None);
    row("mark", fast.map(|fast| format!("{:#x}", fast.mark)), None);
    table
}

/// A value, coloured where it is a verdict or an action.
fn cell(text: &str, color: bool) -> Cell {
    let cell = Cell::new(text);
    let paint = match text {
        "forward" | "redirect" => Color::Green,
        "mark" | "pass" | "local" => Color::Yellow,
        "martian" | "blackhole" | "unreachable" | "prohibit" | "no-route" | "drop" => Color::Red,
        _ => return cell,
    };
    if color { cell.fg(paint).add_attribute(Attribute::Bold) } else { cell }
}

fn out_of_fast(fast: &FastView) -> Option<String> {
    Some(out(fast.oif.as_ref()?, fast.via))
}

fn out_of_kernel(kernel: &KernelView) -> Option<String> {
    Some(out(kernel.oif.as_ref()?, kernel.via))
}

fn out(oif: &str, via: Option<std::net::IpAddr>) -> String {
    via.map_or_else(|| format!("{oif}, on the link"), |via| format!("{oif} via {via}"))
}

fn table_name(table: u32) -> String {
    match table {
        crate::model::TABLE_LOCAL => "local".to_owned(),
        crate::model::TABLE_MAIN => "main".to_owned(),
        crate::model::TABLE_DEFAULT => "default".to_owned(),
        table => table.to_string(),
    }
}

fn rule(rule: &RuleView) -> String {
    let mut text = rule.priority.to_string();
    if let Some(name) = &rule.name {
        text += &format!(" {name}");
    }
    if let Some(at) = &rule.at {
        text += &format!(" ({at})");
    }
    text
}

fn agreement(explanation: &Explanation, color: bool) -> String {
    let (sign, text) = match (&explanation.ebpf, &explanation.kernel, explanation.agree) {
        (None, _, _) => {
            let why = explanation.ebpf_reason.as_deref().unwrap_or("there is no program to ask");
            return format!("the kernel's side alone: {why}");
        }
        (Some(fast), _, true) if fast.action == "pass" => {
            let known = PassReason::ALL.iter().find(|known| Some(known.name()) == fast.reason.as_deref());
            let sentence = known.map_or("", |known| known.sentence());
            ("✓", format!("the fast path leaves the packet to the kernel. {sentence}"))
        }
        (_, None, true) => ("✓", "the fast path agrees with the reference; the kernel cannot be asked".to_owned()),
        (_, _, true) => ("✓", "both agree".to_owned()),
        (_, _, false) => ("✗", "they differ: this is a fault of Wayfork; please report it".to_owned()),
    };
    let line = format!("{sign} {text}");
    match (color, explanation.agree) {
        (false, _) => line,
        (true, true) => line.green().bold().to_string(),
        (true, false) => line.red().bold().to_string(),
    }
}

/// The rules tried, a line each.
fn trail(steps: &[StepView], color: bool) -> String {
    let width = steps.iter().map(|step| shown_rule(&step.rule).chars().count()).max().unwrap_or(0).min(72);
    steps
        .iter()
        .map(|step| {
            let line = format!("  {} {:>5}  {:width$}  ", sign(step), step.rule.priority, shown_rule(&step.rule));
            let answer = answer(step);
            match (color, step.matched, step.outcome.as_deref()) {
                (false, _, _) => format!("{line}{answer}\n"),
                (true, false, _) => format!("{}\n", format!("{line}{answer}").dimmed()),
                (true, true, Some("route")) => format!("{line}{}\n", answer.green()),
                (true, true, Some("blackhole" | "unreachable" | "prohibit" | "unknown")) => {
                    format!("{line}{}\n", answer.red())
                }
                (true, true, _) => format!("{line}{}\n", answer.yellow()),
            }
        })
        .collect()
}

fn sign(step: &StepView) -> char {
    match (step.matched, step.outcome.as_deref()) {
        (false, _) => '·',
        (true, Some("route" | "blackhole" | "unreachable" | "prohibit")) => '●',
        (true, _) => '○',
    }
}

fn shown_rule(rule: &RuleView) -> String {
    match (&rule.name, &rule.at) {
        (Some(name), _) => format!("{} [{name}]", rule.text),
        (None, Some(at)) => format!("{} [{at}]", rule.text),
        (None, None) => rule.text.clone(),
    }
}

fn answer(step: &StepView) -> String {
    let detail = step.detail.as_deref().unwrap_or("");
    match (step.why_not.as_deref(), step.outcome.as_deref()) {
        (Some("not"), _) => "no: all it looks at matches, and it says `not`".to_owned(),
        (Some(selector), _) if detail.is_empty() => format!("no: {selector}"),
        (Some(selector), _) => format!("no: {selector} ({detail})"),
        (None, Some("route")) => detail.to_owned(),
        (None, Some("no-route")) => "no route: on".to_owned(),
        (None, Some("throw")) => format!("{detail}: on"),
        (None, Some("suppressed")) => format!("suppressed: {detail}"),
        (None, Some("goto")) => format!("goto {detail}"),
        (None, Some("goto-unresolved")) => format!("goto {detail}: there is no such rule, on"),
        (None, Some("nop")) => "nop: on".to_owned(),
        (None, Some("unknown")) => format!("not known here: {detail}"),
        (None, Some(verdict)) if detail.is_empty() => verdict.to_owned(),
        (None, Some(_)) => detail.to_owned(),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{BetweenView, RouteGet};

    fn rule_view(priority: u32, text: &str) -> RuleView {
        RuleView {
            rule_id: "v4".into(),
            priority,
            family: "ipv4".into(),
            name: None,
            owner: "wayfork".into(),
            at: Some("p.toml:3".into()),
            text: text.into(),
        }
    }

    #[test]
    fn a_person_sees_both_sides_and_every_rule() {
        let explanation = Explanation {
            schema: 1,
            scratch: true,
            packet: PacketView {
                iif: Some("eth1".into()),
                from: "10.0.0.8".parse().ok(),
                to: "111.11.1.1".parse().expect("an address"),
                mark: 0x20,
                ipproto: "udp".into(),
                sport: 1,
                dport: 2,
                dscp: 0,
                flowlabel: 0,
                fragment: false,
            },
            ebpf: Some(FastView {
                verdict: Some("forward".into()),
                action: "redirect".into(),
                oif: Some("eth1".into()),
                via: "10.0.0.1".parse().ok(),
                table: Some(111),
                rule: Some(rule_view(1000, "from all iif eth1 lookup 111")),
                mark: 0x20,
                reason: None,
            }),
            ebpf_reason: None,
            kernel: Some(KernelView {
                verdict: "forward".into(),
                oif: Some("eth0".into()),
                via: None,
                table: Some(254),
                errno: 0,
            }),
            agree: false,
            trail: vec![
                StepView {
                    rule: rule_view(900, "from all fwmark 0x1 lookup 5"),
                    matched: false,
                    why_not: Some("fwmark".into()),
                    outcome: None,
                    detail: None,
                },
                StepView {
                    rule: rule_view(1000, "from all iif eth1 lookup 111"),
                    matched: true,
                    why_not: None,
                    outcome: Some("route".into()),
                    detail: Some("default via 10.0.0.1 dev eth1 table 111".into()),
                },
            ],
            source_check: None,
            ip_route_get: vec![RouteGet {
                command: "ip route get 111.11.1.1".into(),
                shows: "eth0 table 254".into(),
                differs: Some("it answers for a packet made on this host".into()),
            }],
            between: vec![BetweenView {
                what: "nftables chain inet t/c (hook prerouting)".into(),
                effect: "may rewrite the packet before routing (meta mark set)".into(),
                rewrites: true,
            }],
            notes: vec!["a note".into()],
        };
        let text = text(&explanation, false).expect("text");
        for line in [
            "packet in by eth1, from 10.0.0.8, to 111.11.1.1, udp 1 → 2, mark 0x20",
            "tried in a scratch namespace made like this host; this host is unchanged",
            "✗ they differ",
            "  note: a note",
            "      eth0 table 254, but: it answers for a packet made on this host",
            "  nftables chain inet t/c (hook prerouting): may rewrite the packet before routing (meta mark set)",
            "  ·   900  from all fwmark 0x1 lookup 5 [p.toml:3]  no: fwmark",
            "  ●  1000  from all iif eth1 lookup 111 [p.toml:3]  default via 10.0.0.1 dev eth1 table 111",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        assert!(text.lines().any(|l| l.contains("eth1 via 10.0.0.1") && l.contains("eth0, on the link")), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(super::text(&explanation, true).expect("text").contains('\u{1b}'), "colours where they are wanted");
    }
}
