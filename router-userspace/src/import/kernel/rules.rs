//! The rules of a host as `[[rule]]`.

use super::super::write::{Section, quoted};
use super::Import;
use crate::model::{
    FLOWLABEL_MASK, Family, Ports, Rule, RuleAction, Selectors, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, display_rules,
    protocol_name,
};
use crate::policy::{Policy, ipproto_name};
use crate::safety::as_class_rule;
use std::collections::{BTreeMap, BTreeSet, HashSet};

impl Import<'_> {
    pub(super) fn rules(&mut self) {
        let mut by_priority: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for family in Family::BOTH {
            for rule in self.host.rules_of(family).filter(|rule| !is_kernels_own(rule) && !is_no_policy(rule)) {
                by_priority.entry(rule.priority).or_default().push(rule);
            }
        }
        self.missing_defaults();
        // The landings that `not` with a list brings along by itself.
        let mut landings: BTreeSet<(u32, Family)> = BTreeSet::new();
        for (priority, mut group) in by_priority {
            for family in Family::BOTH {
                let is_landing =
                    |rule: &&Rule| rule.family == family && is_plain(rule) && rule.action == RuleAction::Nop;
                let others = group.iter().filter(|rule| rule.family == family).count();
                if landings.contains(&(priority, family)) && others == 1 {
                    group.retain(|rule| !is_landing(rule));
                }
            }
            if !group.is_empty() {
                self.group(priority, &group, &mut landings);
            }
        }
    }

    /// All rules of one priority: one statement where that can say them, else its first part.
    fn group(&mut self, priority: u32, group: &[&Rule], landings: &mut BTreeSet<(u32, Family)>) {
        if let Ok(section) = self.statement(priority, group) {
            self.body += &(section.text() + "\n");
            return;
        }
        if let Some(section) = self.none_of(priority, group) {
            self.body += &(section.text() + "\n");
            if let Some(next) = priority.checked_add(1) {
                landings.extend(group.iter().map(|rule| (next, rule.family)));
            }
            return;
        }
        // A priority is there once in a file: the first rules that can be said together have it.
        let mut parts: Vec<Vec<&Rule>> = Vec::new();
        for rule in group {
            let alike = |part: &&mut Vec<&Rule>| {
                let first = part[0];
                let what =
                    |rule: &Rule| (rule.action, rule.suppress_prefixlength, rule.suppress_ifgroup, rule.selectors.not);
                what(first) == what(rule)
            };
            match parts.iter_mut().find(alike) {
                Some(part) => part.push(rule),
                None => parts.push(vec![rule]),
            }
        }
        let taken = parts.iter().find_map(|part| Some((part.clone(), self.statement(priority, part).ok()?)));
        if let Some((_, section)) = &taken {
            self.body += &(section.text() + "\n");
        }
        let kept = taken.map(|(part, _)| part).unwrap_or_default();
        for rule in group.iter().filter(|rule| !kept.iter().any(|kept| std::ptr::eq(*kept, **rule))) {
            let what = display_rules(&[(*rule).clone()]).trim_end().to_owned();
            match self.statement(priority, &[rule]) {
                Ok(section) => {
                    let why = "a priority is there once in a policy file; give it one of its own to take it over";
                    self.leave_out(what, why, Some((*rule).clone()), None);
                    self.body.truncate(self.body.trim_end().len());
                    self.body += &format!("\n{}\n", section.commented_out());
                }
                Err(why) => self.leave_out(what, &why, Some((*rule).clone()), None),
            }
        }
    }

    /// One `[[rule]]` for these rules, proven by parsing it.
    fn statement(&self, priority: u32, rules: &[&Rule]) -> Result<Section, String> {
        let first = rules.first().ok_or("no rule")?;
        if let Some(unknown) = rules.iter().find_map(|rule| rule.selectors.unknown.first()) {
            return Err(format!("its selector {unknown} is not known to Wayfork"));
        }
        if rules.iter().any(|rule| rule.realms.is_some()) {
            return Err("a policy file has no realms".to_owned());
        }
        let section = self.section(priority, rules, first, first.selectors.not);
        let wanted = |family| rules.iter().copied().filter(move |rule| rule.family == family);
        self.verify(&section, |policy| {
            Family::BOTH.into_iter().all(|family| {
                let said = policy.rpdb().filter(|rule| rule.family == family);
                said.map(ownerless).eq(wanted(family).map(ownerless))
            })
        })?;
        Ok(section)
    }

    /// A `not` with lists, from the jumps that it was lowered to.
    fn none_of(&self, priority: u32, rules: &[&Rule]) -> Option<Section> {
        let next = priority.checked_add(1)?;
        let (jumps, last): (Vec<&Rule>, Vec<&Rule>) =
            rules.iter().partition(|rule| rule.action == RuleAction::Goto(next) && !rule.selectors.not);
        let section = self.section(priority, &jumps, last.first()?, true);
        let own = |policy: &Policy| {
            Family::BOTH.into_iter().all(|family| {
                let said = policy.rpdb().filter(|rule| rule.family == family && rule.priority == priority);
                said.map(ownerless).eq(rules.iter().filter(|rule| rule.family == family).map(|rule| ownerless(rule)))
            })
        };
        self.verify(&section, own).ok()?;
        Some(section)
    }

    /// `[[rule]]` with the selectors of `rules` and the action of `acts`.
    fn section(&self, priority: u32, rules: &[&Rule], acts: &Rule, not: bool) -> Section {
        let mut section = Section::new("rule");
        let owners: BTreeSet<String> =
            rules.iter().copied().chain([acts]).map(|rule| protocol_name(rule.protocol)).collect();
        section.comment(format!("owner: {}", owners.into_iter().collect::<Vec<_>>().join(", ")));
        section.line("priority", priority.to_string());
        let one_family = rules.iter().all(|rule| rule.family == acts.family);
        let addressed = rules.iter().any(|rule| rule.selectors.from.is_some() || rule.selectors.to.is_some());
        if one_family && !addressed {
            section.line("family", quoted(&acts.family.to_string()));
        }
        if not {
            section.line("not", "true");
        }
        let each = |value: &dyn Fn(&Rule) -> Option<String>| -> Vec<String> {
            let mut seen = HashSet::new();
            rules.iter().filter_map(|rule| value(rule)).filter(|value| seen.insert(value.clone())).collect()
        };
        let range =
            |(start, end): (u32, u32)| if start == end { start.to_string() } else { quoted(&format!("{start}-{end}")) };
        let ports = |ports: Ports| match ports {
            Ports::Range { start, end } => range((start.into(), end.into())),
            masked @ Ports::Masked { .. } => quoted(&masked.to_string()),
        };
        section.list("iif", each(&|rule| Some(quoted(rule.selectors.iif.as_ref()?))));
        section.list("oif", each(&|rule| Some(quoted(rule.selectors.oif.as_ref()?))));
        section.list(
            "fwmark",
            each(&|rule| {
                let (value, mask) = rule.selectors.fwmark?;
                Some(if mask == u32::MAX { format!("{value:#x}") } else { quoted(&format!("{value:#x}/{mask:#x}")) })
            }),
        );
        section.list("from", each(&|rule| Some(quoted(&rule.selectors.from?.to_string()))));
        section.list("to", each(&|rule| Some(quoted(&rule.selectors.to?.to_string()))));
        section.list("tos", each(&|rule| (rule.selectors.tos != 0).then(|| format!("{:#04x}", rule.selectors.tos))));
        section.list(
            "dscp",
            each(&|rule| {
                let (value, mask) = rule.selectors.dscp?;
                Some(if mask == 0x3f { value.to_string() } else { quoted(&format!("{value}/{mask:#x}")) })
            }),
        );
        section.list(
            "ipproto",
            each(&|rule| {
                let number = rule.selectors.ipproto?;
                Some(ipproto_name(number).map_or_else(|| number.to_string(), quoted))
            }),
        );
        section.list("sport", each(&|rule| Some(ports(rule.selectors.sport?))));
        section.list("dport", each(&|rule| Some(ports(rule.selectors.dport?))));
        section.list(
            "flowlabel",
            each(&|rule| {
                let (label, mask) = rule.selectors.flowlabel?;
                Some(if mask == FLOWLABEL_MASK {
                    format!("{label:#x}")
                } else {
                    quoted(&format!("{label:#x}/{mask:#x}"))
                })
            }),
        );
        section.list("uidrange", each(&|rule| Some(range(rule.selectors.uidrange?))));
        if rules.iter().any(|rule| rule.selectors.l3mdev) {
            section.line("l3mdev", "true");
        }
        section.list("tun_id", each(&|rule| Some(rule.selectors.tun_id?.to_string())));
        match acts.action {
            // With `l3mdev` the VRF names the table.
            RuleAction::Table(0) => {}
            RuleAction::Table(table) => section.line("table", self.tables.value(table)),
            RuleAction::Goto(target) => section.line("goto", target.to_string()),
            RuleAction::Unknown(number) => section.line("action", number.to_string()),
            action => section.line("action", quoted(&action.to_string())),
        }
        if let Some(length) = acts.suppress_prefixlength {
            section.line("suppress_prefixlength", length.to_string());
        }
        if let Some(group) = acts.suppress_ifgroup {
            section.line("suppress_ifgroup", group.to_string());
        }
        section
    }

    /// The kernel's own rules that somebody took away.
    fn missing_defaults(&mut self) {
        for (family, priority, table) in DEFAULTS {
            let there = self.host.rules_of(family).any(|rule| is_default(rule, family, priority, table));
            // A host without any rule of a family has the family switched off.
            if !there && self.host.rules_of(family).next().is_some() {
                let what = format!("{family} {} was deleted", Rule::lookup(family, priority, table));
                self.leave_out(what, "a policy file takes nothing away", None, None);
            }
        }
    }
}

/// The rules that every network namespace begins with (`fib_default_rules_init()`, `fib6_rules_net_init()`).
const DEFAULTS: [(Family, u32, u32); 5] = [
    (Family::Ipv4, 0, TABLE_LOCAL),
    (Family::Ipv4, 32766, TABLE_MAIN),
    (Family::Ipv4, 32767, TABLE_DEFAULT),
    (Family::Ipv6, 0, TABLE_LOCAL),
    (Family::Ipv6, 32766, TABLE_MAIN),
];

fn is_default(rule: &Rule, family: Family, priority: u32, table: u32) -> bool {
    ownerless(rule) == ownerless(&Rule::lookup(family, priority, table))
}

fn is_kernels_own(rule: &Rule) -> bool {
    DEFAULTS.iter().any(|(family, priority, table)| is_default(rule, *family, *priority, *table))
}

/// What a running Wayfork has beside the rules of a policy: those for its own marks, and those that only spare a walk.
fn is_no_policy(rule: &Rule) -> bool {
    as_class_rule(rule).is_some() || rule.is_scaffold()
}

/// Without selectors.
fn is_plain(rule: &Rule) -> bool {
    rule.selectors == Selectors::default()
}

fn ownerless(rule: &Rule) -> Rule {
    Rule { protocol: 0, ..rule.clone() }
}
