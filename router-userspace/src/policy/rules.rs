//! `[[rule]]`: statements of the file, lowered to rules of the RPDB.

use super::LoweredRule;
use super::cursor::{Findings, Section, quote};
use super::diagnostic::Span;
use super::names::Tables;
use super::selectors::{MOST, combinations, combine, compared_mark, families, nets_of, only_ipv6, values};
use super::sets::{Sets, check_empty};
use super::values::{Net, choice, dscp, family, flowlabel, interface, ipproto, net, ports, uids};
use crate::model::{
    Attached, Family, OWN_PROTOCOL, PRIORITY_DEFAULT, PRIORITY_MAIN, Ports, Rule, RuleAction, Selectors,
};
use std::collections::{BTreeMap, HashSet};
use toml::de::DeTable;

const KEYS: [&str; 23] = [
    "name",
    "priority",
    "family",
    "not",
    "iif",
    "oif",
    "fwmark",
    "from",
    "to",
    "tos",
    "dscp",
    "ipproto",
    "sport",
    "dport",
    "flowlabel",
    "uidrange",
    "l3mdev",
    "tun_id",
    "table",
    "action",
    "goto",
    "suppress_prefixlength",
    "suppress_ifgroup",
];

/// One `[[rule]]` of the file.
pub(super) struct Statement {
    pub span: Span,
    pub name: Option<String>,
    /// None where it is missing or wrong.
    pub priority: Option<(u32, Span)>,
    pub families: Vec<Family>,
    pub not: Option<Span>,
    pub iif: Vec<(String, Span)>,
    pub oif: Vec<(String, Span)>,
    pub fwmark: Vec<(u32, u32, Span)>,
    pub from: Vec<(Net, Span)>,
    pub to: Vec<(Net, Span)>,
    pub tos: Vec<(u8, Span)>,
    pub dscp: Vec<((u8, u8), Span)>,
    pub ipproto: Vec<(u8, Span)>,
    pub sport: Vec<(Ports, Span)>,
    pub dport: Vec<(Ports, Span)>,
    pub flowlabel: Vec<((u32, u32), Span)>,
    pub uidrange: Vec<((u32, u32), Span)>,
    pub l3mdev: bool,
    pub tun_id: Vec<(u64, Span)>,
    /// None where it is missing or wrong.
    pub action: Option<(RuleAction, Span)>,
    pub suppress_prefixlength: Option<u32>,
    pub suppress_ifgroup: Option<u32>,
}

pub(super) fn read<'d>(
    findings: &mut Findings<'_>,
    tables: &Tables<'_>,
    sets: &Sets,
    sections: &[(Span, &'d DeTable<'d>)],
) -> Vec<Statement> {
    sections.iter().map(|(span, table)| read_one(findings, tables, sets, span.clone(), table)).collect()
}

fn read_one<'d>(
    findings: &mut Findings<'_>,
    tables: &Tables<'_>,
    sets: &Sets,
    span: Span,
    table: &'d DeTable<'d>,
) -> Statement {
    let section = Section::open(findings, "[[rule]]", span.clone(), table, &KEYS);
    let said = section.get("family").and_then(|field| field.one(findings)).and_then(|item| family(findings, &item));
    let not = section.get("not").and_then(|field| field.one(findings));
    let l3mdev = section.get("l3mdev").and_then(|field| field.one(findings));
    let l3mdev = l3mdev.and_then(|item| item.boolean(findings)).unwrap_or(false);
    let mut nets = |key| values(findings, &section, key, |findings, item| net(findings, item, sets));
    let (from, to) = (nets("from"), nets("to"));
    let flowlabel = values(findings, &section, "flowlabel", flowlabel);
    let mut families = families(findings, said, &from, &to);
    only_ipv6(findings, &flowlabel, &mut families);
    // The kernel keeps "no ports" as 0 and refuses 65535 (`fib_rule_port_range_valid()`, include/net/fib_rules.h).
    let port = |findings: &mut Findings<'_>, item: &super::cursor::Item<'d>| ports(findings, item, u16::MAX - 1);
    let statement = Statement {
        name: read_name(findings, &section),
        priority: read_priority(findings, &section),
        families,
        not: not.and_then(|item| item.boolean(findings)?.then_some(item.span)),
        iif: values(findings, &section, "iif", interface),
        oif: values(findings, &section, "oif", interface),
        fwmark: compared_mark(findings, &section),
        from,
        to,
        tos: values(findings, &section, "tos", |findings, item| Some(item.number(findings, 1..=255)? as u8)),
        dscp: values(findings, &section, "dscp", |findings, item| dscp(findings, item)),
        ipproto: values(findings, &section, "ipproto", ipproto),
        sport: values(findings, &section, "sport", port),
        dport: values(findings, &section, "dport", port),
        flowlabel,
        uidrange: values(findings, &section, "uidrange", uids),
        l3mdev,
        tun_id: values(findings, &section, "tun_id", |findings, item| item.number(findings, 1..=u64::MAX)),
        action: read_action(findings, tables, &section, l3mdev),
        suppress_prefixlength: suppress(findings, &section, "suppress_prefixlength", 128),
        // -1 is how the kernel keeps "none".
        suppress_ifgroup: suppress(findings, &section, "suppress_ifgroup", i32::MAX as u32),
        span,
    };
    check_tos(findings, &statement);
    check_sets(findings, &statement);
    let selects = statement.selector_lengths().iter().any(|length| *length > 0) || statement.l3mdev;
    if let (Some(span), false) = (&statement.not, selects) {
        findings.warn(span.clone(), "`not` of everything matches no packet", "give what the packet shall not be");
    }
    statement
}

fn read_name(findings: &mut Findings<'_>, section: &Section<'_>) -> Option<String> {
    let item = section.get("name")?.one(findings)?;
    let text = item.text(findings, "guests")?;
    if text.trim().is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
        let message = format!("{} cannot be a name", quote(text));
        findings.error(item.span, message, "1 to 64 characters on one line");
        return None;
    }
    Some(text.to_owned())
}

fn read_priority(findings: &mut Findings<'_>, section: &Section<'_>) -> Option<(u32, Span)> {
    let Some(field) = section.get("priority") else {
        let help = "add priority = 1000; lower goes first";
        section.missing(findings, &["priority"], "the rule has no priority", help);
        return None;
    };
    let item = field.one(findings)?;
    let number = item.number(findings, 0..=u64::from(u32::MAX))?;
    Some((number as u32, item.span))
}

fn suppress(findings: &mut Findings<'_>, section: &Section<'_>, key: &'static str, most: u32) -> Option<u32> {
    let field = section.get(key)?;
    if section.get("action").is_some() || section.get("goto").is_some() {
        let message = format!("`{key}` drops what a table answers, and this rule looks none up");
        findings.error(field.key_span, message, "take it away, or give a table");
        return None;
    }
    let item = field.one(findings)?;
    Some(item.number(findings, 0..=u64::from(most))? as u32)
}

fn read_action(
    findings: &mut Findings<'_>,
    tables: &Tables<'_>,
    section: &Section<'_>,
    l3mdev: bool,
) -> Option<(RuleAction, Span)> {
    let fields: Vec<_> = ["table", "action", "goto"].into_iter().filter_map(|key| section.get(key)).collect();
    let Some(field) = fields.first() else {
        if l3mdev {
            return Some((RuleAction::Table(0), section.span.clone()));
        }
        let help = "add table = \"main\", or action = \"unreachable\", or goto = PRIORITY";
        section.missing(findings, &["table", "action", "goto"], "the rule does nothing", help);
        return None;
    };
    if let Some(second) = fields.get(1) {
        let message = format!("a rule has one of `table`, `action` and `goto`; this has `{}` too", field.key);
        findings.error(second.key_span.clone(), message, format!("take `{}` or `{}` away", field.key, second.key));
        return None;
    }
    let item = field.one(findings)?;
    let action = match field.key {
        "table" if l3mdev => {
            let message = "with `l3mdev` the VRF names the table";
            findings.error(field.key_span.clone(), message, "take `table` away");
            return None;
        }
        "table" => RuleAction::Table(tables.resolve(findings, &item)?),
        "goto" => RuleAction::Goto(item.number(findings, 1..=u64::from(u32::MAX))? as u32),
        _ => choice(
            findings,
            &item,
            &[
                ("blackhole", RuleAction::Blackhole),
                ("unreachable", RuleAction::Unreachable),
                ("prohibit", RuleAction::Prohibit),
                ("nop", RuleAction::Nop),
            ],
        )?,
    };
    Some((action, item.span))
}

/// What the kernel takes as TOS: nothing in the ECN bits, in IPv4 nothing above 0x1c (`fib4_rule_configure()`,
/// `fib6_rule_configure()`), and not together with DSCP.
fn check_tos(findings: &mut Findings<'_>, statement: &Statement) {
    for (tos, span) in &statement.tos {
        if tos & 0x03 != 0 {
            let help = format!("without them it is {:#x}", tos & !0x03);
            findings.error(span.clone(), format!("{tos:#x} has ECN bits set, which are no part of the TOS"), help);
        } else if tos & !0x1c != 0 && statement.families.contains(&Family::Ipv4) {
            let message = format!("IPv4 compares only the bits 0x1c of `tos`, and {tos:#x} has others");
            findings.error(span.clone(), message, format!("use dscp = {}, or family = \"ipv6\"", tos >> 2));
        }
    }
    if let (Some(_), Some((_, span))) = (statement.tos.first(), statement.dscp.first()) {
        findings.error(span.clone(), "a rule has `tos` or `dscp`, not both", "keep `dscp`");
    }
}

/// What a rule with sets can be: a set becomes a bit of the mark beside the rule's own `fwmark`.
fn check_sets(findings: &mut Findings<'_>, statement: &Statement) {
    check_empty(findings, &statement.from, statement.not.is_some());
    check_empty(findings, &statement.to, statement.not.is_some());
    if !statement.names_sets() {
        return;
    }
    for (value, _, span) in statement.fwmark.iter().filter(|(_, mask, _)| *mask == u32::MAX) {
        let message = "`fwmark` compares the whole mark here, and a set is told by one of the mark's bits";
        let help = format!("compare the bits that are meant: fwmark = \"{value:#x}/0xffff\", say");
        findings.error(span.clone(), message, help);
    }
}

/// What the rules of a file that names sets cannot compare a mark with.
pub(super) fn check_whole_marks(findings: &mut Findings<'_>, statements: &[Statement]) {
    let Some(first) = statements.iter().find(|statement| statement.names_sets()) else { return };
    let line = findings.text.place(first.span.start).0;
    for statement in statements.iter().filter(|statement| !statement.names_sets()) {
        for (value, _, span) in statement.fwmark.iter().filter(|(_, mask, _)| *mask == u32::MAX) {
            match value {
                0 => findings.error(
                    span.clone(),
                    format!("`fwmark` 0 without a mask takes packets whose whole mark is 0, which no packet of a set has (line {line})"),
                    "compare the bits that are meant: fwmark = \"0/0xffff\", say",
                ),
                value => findings.warn(
                    span.clone(),
                    format!("packets whose whole mark is {value:#x} are in no set (line {line}): they keep that mark"),
                    format!("if that is not meant, compare bits: fwmark = \"{value:#x}/0xffff\", say"),
                ),
            }
        }
    }
}

/// Checks between rules: priorities, targets of `goto`.
pub(super) fn check_together(findings: &mut Findings<'_>, statements: &[Statement]) {
    let mut taken: BTreeMap<u32, &Statement> = BTreeMap::new();
    let (mut twice, mut behind_main) = (Vec::new(), Vec::new());
    for statement in statements {
        let Some((priority, span)) = &statement.priority else { continue };
        if let Some(first) = taken.get(priority) {
            twice.push((*priority, first.span.start, span.clone()));
        } else {
            taken.insert(*priority, statement);
        }
        if *priority > PRIORITY_MAIN {
            behind_main.push((*priority, span.clone()));
        }
    }
    // Of many the first stands for all.
    if let Some(((priority, span), others)) = behind_main.split_first() {
        let others = match others.len() {
            0 => String::new(),
            1 => ", and so does one other".to_owned(),
            others => format!(", and so do {others} others"),
        };
        let message = format!("priority {priority} comes after the rule for `main` ({PRIORITY_MAIN}){others}");
        let help = "it is asked only where main has no route; give it a lower number to go before";
        findings.warn(span.clone(), message, help);
    }
    for (priority, first, span) in twice {
        let line = findings.text.place(first).0;
        let free = (priority..=u32::MAX)
            .take(if findings.is_full() { 0 } else { 1000 })
            .find(|other| !taken.contains_key(other));
        let help = match free {
            Some(free) => format!("each rule needs its own; {free} is free"),
            None => "each rule needs its own".to_owned(),
        };
        findings.error(span, format!("the rule on line {line} has priority {priority} already"), help);
    }
    for statement in statements {
        let (Some((priority, _)), Some((RuleAction::Goto(target), span))) = (&statement.priority, &statement.action)
        else {
            continue;
        };
        if target <= priority {
            let message = format!("goto {target} leads back: this rule's own priority is {priority}");
            findings.error(span.clone(), message, "goto leads forward only, to a higher number");
            continue;
        }
        let reached = |family: &Family| match taken.get(target) {
            Some(there) => there.families.contains(family),
            // The kernel's own rules; IPv6 has none for the table `default`.
            None => *target == PRIORITY_MAIN || *target == PRIORITY_DEFAULT && *family == Family::Ipv4,
        };
        if let Some(family) = statement.families.iter().find(|family| !reached(family)) {
            let message = match taken.get(target) {
                Some(_) => format!("the rule of priority {target} is not there in {family}"),
                None => format!("no rule of this file has priority {target}"),
            };
            findings.warn(
                span.clone(),
                message,
                "a goto without its target does nothing; action = \"nop\" makes a target",
            );
        }
    }
}

/// The rules of all statements in the kernel's order, each with the index of its statement.
pub(super) fn lower(findings: &mut Findings<'_>, sets: &Sets, statements: &[Statement]) -> Vec<(LoweredRule, usize)> {
    let mut targets: HashSet<(Family, u32)> = HashSet::new();
    for statement in statements {
        if let Some((priority, _)) = statement.priority {
            targets.extend(statement.families.iter().map(|family| (*family, priority)));
        }
    }
    let mut all: Vec<(LoweredRule, usize)> = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        let lengths = statement.selector_lengths();
        if combinations(&lengths).saturating_mul(2).saturating_add(2) > MOST - all.len().min(MOST) {
            let message = format!("with this rule the file comes to more than {MOST} rules of the kernel");
            findings.error(
                statement.span.clone(),
                message,
                "use shorter lists, wider prefixes, or a [[mark]] and one fwmark rule",
            );
            break;
        }
        let at = findings.text.at(statement.span.start);
        let mut rules = Vec::new();
        for family in &statement.families {
            lower_one(findings, statement, *family, &targets, &mut rules);
        }
        let set = |place: Option<usize>| place.and_then(|place| sets.get(place)).map(|set| set.name);
        let named = |(rule, from, to): (Rule, Option<usize>, Option<usize>)| LoweredRule {
            rule,
            from_set: set(from),
            to_set: set(to),
            name: statement.name.clone(),
            at: at.clone(),
        };
        all.extend(rules.into_iter().map(|rule| (named(rule), index)));
    }
    // Stable: within a family the rules of one priority come from one statement, in its order.
    all.sort_by_key(|(lowered, _)| (lowered.rule.priority, lowered.rule.family));
    all
}

fn lower_one(
    findings: &mut Findings<'_>,
    statement: &Statement,
    family: Family,
    targets: &HashSet<(Family, u32)>,
    rules: &mut Vec<(Rule, Option<usize>, Option<usize>)>,
) {
    let (Some((priority, span)), Some((action, _))) = (&statement.priority, &statement.action) else { return };
    let alternatives = statement.alternatives(family);
    let rule = |priority: u32, selectors: Selectors, action: RuleAction| Rule {
        family,
        priority,
        selectors,
        action,
        suppress_prefixlength: None,
        suppress_ifgroup: None,
        realms: None,
        protocol: OWN_PROTOCOL,
        attached: Attached::default(),
    };
    let finally = |selectors| Rule {
        suppress_prefixlength: statement.suppress_prefixlength,
        suppress_ifgroup: statement.suppress_ifgroup,
        ..rule(*priority, selectors, *action)
    };
    if statement.not.is_none() || alternatives.len() == 1 {
        let not = statement.not.is_some();
        rules.extend(alternatives.into_iter().map(|one| {
            let rule = finally(Selectors { not, ..one.selectors });
            (rule, one.from_set, one.to_set)
        }));
        return;
    }
    // None of several: each of them jumps over the rule that takes all the others.
    let Some(next) = priority.checked_add(1) else {
        findings.error(
            span.clone(),
            "no priority is left behind this rule for `not` with a list",
            "give it a lower number",
        );
        return;
    };
    rules.extend(
        alternatives
            .into_iter()
            .map(|one| (rule(*priority, one.selectors, RuleAction::Goto(next)), one.from_set, one.to_set)),
    );
    rules.push((finally(Selectors::default()), None, None));
    if !targets.contains(&(family, next)) {
        rules.push((rule(next, Selectors::default(), RuleAction::Nop), None, None));
    }
}

/// One value of each selector.
#[derive(Clone, Default)]
struct Alternative {
    selectors: Selectors,
    /// The places of sets among all.
    from_set: Option<usize>,
    to_set: Option<usize>,
}

impl Statement {
    pub(super) fn selector_lengths(&self) -> [usize; 13] {
        [
            self.iif.len(),
            self.oif.len(),
            self.fwmark.len(),
            self.from.len(),
            self.to.len(),
            self.tos.len(),
            self.dscp.len(),
            self.ipproto.len(),
            self.sport.len(),
            self.dport.len(),
            self.flowlabel.len(),
            self.uidrange.len(),
            self.tun_id.len(),
        ]
    }

    /// Whether an address is looked for in a set.
    fn names_sets(&self) -> bool {
        self.from.iter().chain(&self.to).any(|(net, _)| matches!(net, Net::Set { .. }))
    }

    /// Every combination of single values, without `not`.
    fn alternatives(&self, family: Family) -> Vec<Alternative> {
        let selectors = Selectors { l3mdev: self.l3mdev, ..Selectors::default() };
        let all = vec![Alternative { selectors, ..Alternative::default() }];
        let all = combine(all, &self.iif, |one, (name, _)| one.selectors.iif = Some(name.clone()));
        let all = combine(all, &self.oif, |one, (name, _)| one.selectors.oif = Some(name.clone()));
        let all = combine(all, &self.fwmark, |one, (value, mask, _)| one.selectors.fwmark = Some((*value, *mask)));
        let all = combine(all, &nets_of(&self.from, family), |one, from| {
            (one.selectors.from, one.from_set) = (from.net, from.set);
        });
        let all = combine(all, &nets_of(&self.to, family), |one, to| {
            (one.selectors.to, one.to_set) = (to.net, to.set);
        });
        let all = combine(all, &self.tos, |one, (tos, _)| one.selectors.tos = *tos);
        let all = combine(all, &self.dscp, |one, (dscp, _)| one.selectors.dscp = Some(*dscp));
        let all = combine(all, &self.ipproto, |one, (number, _)| one.selectors.ipproto = Some(*number));
        let all = combine(all, &self.sport, |one, (range, _)| one.selectors.sport = Some(*range));
        let all = combine(all, &self.dport, |one, (range, _)| one.selectors.dport = Some(*range));
        let all = combine(all, &self.flowlabel, |one, (label, _)| one.selectors.flowlabel = Some(*label));
        let all = combine(all, &self.uidrange, |one, (range, _)| one.selectors.uidrange = Some(*range));
        combine(all, &self.tun_id, |one, (id, _)| one.selectors.tun_id = Some(*id))
    }
}
