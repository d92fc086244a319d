//! The rules of a host as `[[rule]]`.

use super::super::write::{Section, quoted};
use super::Import;
use crate::model::{
    FLOWLABEL_MASK, Family, OWN_PROTOCOL, Ports, Rule, RuleAction, Selectors, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN,
    display_rules, protocol_name,
};
use crate::policy::{Policy, ipproto_name};
use crate::safety::as_class_rule;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What the file says of the rules of one priority.
#[derive(Default)]
struct Said<'a> {
    /// The statement that has the priority.
    section: Option<Section>,
    /// The rules that it comes to, without a landing behind it.
    rules: Vec<&'a Rule>,
    /// Those that the file does not say.
    left: Vec<&'a Rule>,
    /// The families in which the statement jumps over its last rule, and brings along where that lands.
    lands: Vec<Family>,
}

impl Import<'_> {
    pub(super) fn rules(&mut self) {
        let host = self.host;
        let mut by_priority: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for family in Family::BOTH {
            for rule in host.rules_of(family).filter(|rule| !is_kernels_own(rule) && !is_no_policy(rule)) {
                match self.sets_of(rule) {
                    Some(sets) => self.leave_set_out(rule, &sets),
                    None => by_priority.entry(rule.priority).or_default().push(rule),
                }
            }
        }
        self.missing_defaults();
        let mut all: BTreeMap<u32, Said<'_>> = BTreeMap::new();
        // From the back, since a `not` with a list needs to know what stands where it lands.
        for (priority, group) in by_priority.iter().rev() {
            let behind = |priority: &u32| {
                let next = priority.checked_add(1)?;
                Some((by_priority.get(&next)?, all.get(&next)?))
            };
            let said = self.group(*priority, group, behind(priority));
            // The landings that it brings along by itself.
            let brought =
                |there: &[&Rule], rule: &Rule| said.lands.contains(&rule.family) && is_only_nop(there, rule.family);
            if let (Some(next), Some((there, _))) = (priority.checked_add(1), behind(priority))
                && there.iter().any(|rule| brought(there, rule))
            {
                let rest: Vec<&Rule> = there.iter().copied().filter(|rule| !brought(there, rule)).collect();
                let again = self.group(next, &rest, behind(&next));
                all.insert(next, again);
            }
            all.insert(*priority, said);
        }
        for (priority, said) in all {
            if let Some(section) = &said.section {
                self.body += &(section.text() + "\n");
            }
            said.left.iter().for_each(|rule| self.leave_rule_out(priority, rule));
        }
    }

    /// The sets whose bits one of Wayfork's own rules looks for; None where it looks for none.
    fn sets_of(&self, rule: &Rule) -> Option<String> {
        let (_, mask) = rule.selectors.fwmark.filter(|_| rule.protocol == OWN_PROTOCOL)?;
        let uses = self.set_uses.iter().filter(|(bit, _)| mask & **bit != 0).map(|(_, used)| used.as_str());
        Some(uses.collect::<Vec<_>>().join(" and ")).filter(|uses| !uses.is_empty())
    }

    /// The bit says nothing by itself: only a running Wayfork sets it, and another run may choose another.
    fn leave_set_out(&mut self, rule: &Rule, sets: &str) {
        let what = display_rules(std::slice::from_ref(rule)).trim_end().to_owned();
        let why = format!(
            "it is the rule of the policy that Wayfork runs here for {sets}; no rule has the prefixes of a set: take both from that file"
        );
        self.leave_out(what, &why, Some(rule.clone()), None);
    }

    /// All rules of one priority: one statement where that can say them, else some of them. `behind`: the rules of the next
    /// priority, and what is said of them.
    fn group<'a>(&self, priority: u32, group: &[&'a Rule], behind: Option<(&Vec<&'a Rule>, &Said<'a>)>) -> Said<'a> {
        if group.is_empty() {
            return Said::default();
        }
        if let Ok(section) = self.statement(priority, group) {
            return Said { section: Some(section), rules: group.to_vec(), left: Vec::new(), lands: Vec::new() };
        }
        if let Some((section, lands)) = self.none_of(priority, group, behind) {
            return Said { section: Some(section), rules: group.to_vec(), left: Vec::new(), lands };
        }
        // A priority is there once in a file: the first rules that can be said together have it.
        let alike = |rule: &Rule, other: &Rule| {
            let what =
                |rule: &Rule| (rule.action, rule.suppress_prefixlength, rule.suppress_ifgroup, rule.selectors.not);
            what(rule) == what(other)
        };
        let mut parts = split(group, alike);
        parts.extend(split(group, |rule, other| alike(rule, other) && rule.family == other.family));
        parts.extend(group.iter().map(|rule| vec![*rule]));
        let taken = parts.into_iter().find_map(|part| Some((self.statement(priority, &part).ok()?, part)));
        let (section, rules) = taken.map_or((None, Vec::new()), |(section, part)| (Some(section), part));
        let left = group.iter().copied().filter(|rule| !rules.iter().any(|said| std::ptr::eq(*said, *rule)));
        Said { section, left: left.collect(), rules, lands: Vec::new() }
    }

    fn leave_rule_out(&mut self, priority: u32, rule: &Rule) {
        let what = display_rules(std::slice::from_ref(rule)).trim_end().to_owned();
        match self.statement(priority, &[rule]) {
            Ok(section) => {
                let why = "a priority is there once in a policy file; give it one of its own to take it over";
                self.leave_out(what, why, Some(rule.clone()), None);
                self.body.truncate(self.body.trim_end().len());
                self.body += &format!("\n{}\n", section.commented_out());
            }
            Err(why) => self.leave_out(what, &why, Some(rule.clone()), None),
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

    /// A `not` with lists, from the jumps that it was lowered to, and the families in which it was. A family of which the lists
    /// have one value has a rule with `not` instead.
    fn none_of<'a>(
        &self,
        priority: u32,
        rules: &[&'a Rule],
        behind: Option<(&Vec<&'a Rule>, &Said<'a>)>,
    ) -> Option<(Section, Vec<Family>)> {
        let next = priority.checked_add(1)?;
        let jumps = |rule: &Rule| rule.action == RuleAction::Goto(next) && !rule.selectors.not;
        let selecting: Vec<&Rule> = rules.iter().copied().filter(|rule| jumps(rule) || rule.selectors.not).collect();
        let acts = rules.iter().find(|rule| !jumps(rule))?;
        let section = self.section(priority, &selecting, acts, true);
        let own = |policy: &Policy| {
            Family::BOTH.into_iter().all(|family| {
                let said = policy.rpdb().filter(|rule| rule.family == family && rule.priority == priority);
                said.map(ownerless).eq(rules.iter().filter(|rule| rule.family == family).map(|rule| ownerless(rule)))
            })
        };
        self.verify(&section, own).ok()?;
        let lands: Vec<Family> = Family::BOTH
            .into_iter()
            .filter(|family| rules.iter().any(|rule| rule.family == *family && jumps(rule)))
            .collect();
        // Where no statement has the next priority, the file's rule brings a landing along. Without one in the kernel a jump
        // leads nowhere there.
        let (there, said) = behind?;
        let lands_there =
            |family: &Family| is_only_nop(there, *family) || said.rules.iter().any(|rule| rule.family == *family);
        lands.iter().all(lands_there).then_some((section, lands))
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

/// Whether all that these have of a family is a rule that does nothing.
fn is_only_nop(rules: &[&Rule], family: Family) -> bool {
    let mut of_family = rules.iter().filter(|rule| rule.family == family);
    let nop = |rule: &&&Rule| rule.selectors == Selectors::default() && rule.action == RuleAction::Nop;
    of_family.next().is_some_and(|rule| nop(&rule)) && of_family.next().is_none()
}

/// The rules in parts that are `alike`, in the order of each part's first.
fn split<'a>(rules: &[&'a Rule], alike: impl Fn(&Rule, &Rule) -> bool) -> Vec<Vec<&'a Rule>> {
    let mut parts: Vec<Vec<&Rule>> = Vec::new();
    for rule in rules {
        match parts.iter_mut().find(|part| alike(part[0], rule)) {
            Some(part) => part.push(rule),
            None => parts.push(vec![rule]),
        }
    }
    parts
}

fn ownerless(rule: &Rule) -> Rule {
    Rule { protocol: 0, ..rule.clone() }
}
