//! What a comparison found, for a person.

use super::explain;
use crate::proof::{Report, Side};
use owo_colors::OwoColorize;
use std::fmt::{self, Write};

/// The whole report.
pub fn text(report: &Report, color: bool) -> Result<String, fmt::Error> {
    let mut out = String::new();
    if report.scratch {
        writeln!(out, "tried in a scratch namespace made like this host; this host is unchanged")?;
    }
    let seed = report.seed.map_or_else(String::new, |seed| format!(" (seed {seed})"));
    let line = match report.disagree {
        0 => format!("✓ {} packets{seed}: fast path, kernel and reference agree on all", report.packets),
        _ => format!("✗ {} packets{seed}: the last one differs", report.packets),
    };
    writeln!(
        out,
        "{}",
        match (color, report.disagree) {
            (false, _) => line,
            (true, 0) => line.green().bold().to_string(),
            (true, _) => line.red().bold().to_string(),
        }
    )?;
    let percent = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 };
    writeln!(out, "\n{:>10}  decided by the fast path itself", report.decided)?;
    for (reason, count) in &report.passed {
        let forwarded = report.forward_passed.get(reason).copied().unwrap_or(0);
        writeln!(
            out,
            "{count:>10}  left to the stack: {reason}{}",
            match forwarded {
                0 => String::new(),
                some => format!(" ({some} of them forwarded)"),
            }
        )?;
    }
    let forward = report.verdicts.get("forward").copied().unwrap_or(0);
    let passed: u64 = report.forward_passed.values().sum();
    writeln!(
        out,
        "\nof {forward} packets that the kernel forwards the fast path decides {:.1} %",
        percent(forward - passed.min(forward), forward)
    )?;
    for (verdict, count) in &report.verdicts {
        writeln!(out, "{count:>10}  {verdict}")?;
    }
    if report.unasked > 0 {
        writeln!(
            out,
            "{:>10}  held against the reference alone: the kernel takes no question about them",
            report.unasked
        )?;
    }
    if report.moved > 0 {
        writeln!(
            out,
            "rules, routes or interfaces changed {} times meanwhile; packets were asked again",
            report.moved
        )?;
    }
    for (what, count) in &report.skipped {
        writeln!(out, "{count:>10}  frames left out: {what}")?;
    }
    if let Some(example) = &report.counterexample {
        let who = match example.differs {
            Side::FastPath => "the fast path decides otherwise than the kernel",
            Side::Mark => "the mark that the fast path gives leads elsewhere",
            Side::Reference => "the reference decides otherwise than the kernel",
        };
        let what = if example.not_shrunk.is_some() { "the smallest packet" } else { "the smallest policy and packet" };
        writeln!(out, "\n{what} that differs: {who}\n")?;
        out += &explain::text(&example.explanation, color)?;
        if let Some(why) = &example.not_shrunk {
            writeln!(out, "\nwhat it needs is not made fewer: {why}")?;
        }
        writeln!(out, "\nto repeat it in an empty network namespace:")?;
        for command in &example.commands {
            writeln!(out, "  {command}")?;
        }
        let question = question(&example.explanation.packet);
        match &example.policy {
            None => writeln!(out, "  {question}")?,
            Some(policy) => {
                writeln!(out, "  cat > marks.toml <<'END'\n{policy}END\n  {question} --config marks.toml")?;
            }
        }
    }
    Ok(out)
}

/// The question as a command.
fn question(packet: &crate::proof::PacketView) -> String {
    let mut command = format!("wayfork explain {}", packet.to);
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            command += &format!(" --{name} {value}");
        }
    };
    option("iif", packet.iif.clone());
    option("from", packet.from.map(|from| from.to_string()));
    option("mark", (packet.mark != 0).then(|| format!("{:#x}", packet.mark)));
    option("ipproto", Some(packet.ipproto.clone()));
    option("sport", (packet.sport != 0).then(|| packet.sport.to_string()));
    option("dport", (packet.dport != 0).then(|| packet.dport.to_string()));
    option("dscp", (packet.dscp != 0).then(|| packet.dscp.to_string()));
    option("flowlabel", (packet.flowlabel != 0).then(|| format!("{:#x}", packet.flowlabel)));
    if packet.fragment {
        command += " --fragment";
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_reasons_and_shares_are_told() {
        let report = Report {
            schema: 1,
            packets: 100,
            agree: 100,
            decided: 70,
            passed: [("multipath".to_owned(), 10), ("icmp-error".to_owned(), 20)].into(),
            forward_passed: [("multipath".to_owned(), 10)].into(),
            verdicts: [("forward".to_owned(), 80), ("no-route".to_owned(), 20)].into(),
            seed: Some(7),
            ..Report::default()
        };
        let text = text(&report, false).expect("text");
        for line in [
            "✓ 100 packets (seed 7): fast path, kernel and reference agree on all",
            "        10  left to the stack: multipath (10 of them forwarded)",
            "        20  left to the stack: icmp-error\n",
            "of 80 packets that the kernel forwards the fast path decides 87.5 %",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
    }
}
