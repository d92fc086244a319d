//! The same rules for every path: a flat list, the list grouped by hand, an nftables map, a policy file with rules or with sets.

use crate::model::{Family, Rule, RuleAction, Selectors};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use router_common::bench::{BLOCK, MAX_PREFIXES, Plan};
use router_common::packet::{IPV4, IPV6};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::{fs, io};

/// Priority of the first rule; every rule has its own.
pub const FIRST: u32 = 1000;
/// The same for a few rules that go when all others come: they stand behind them.
pub const FIRST_OF_FEW: u32 = FIRST + MAX_PREFIXES;
/// Priority of the rule for the table `main`. There are more rules than priorities before the usual one, and whoever has so many puts
/// `main` behind them.
pub const MAIN: u32 = 3_000_000;
/// Table of the first exit; the next has the next.
pub const FIRST_TABLE: u32 = 101;

/// The family as the plan has it.
pub fn family_number(family: Family) -> u32 {
    match family {
        Family::Ipv4 => IPV4,
        Family::Ipv6 => IPV6,
    }
}

/// The family of a plan.
pub fn family(plan: &Plan) -> Family {
    if plan.family == IPV4 { Family::Ipv4 } else { Family::Ipv6 }
}

fn net(plan: &Plan, ([first, second], length): ([u32; 2], u32)) -> IpNet {
    // At most 31 and 59: see `Plan::prefix`.
    let length = length as u8;
    match family(plan) {
        Family::Ipv4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(first), length)),
        Family::Ipv6 => {
            let addr = u128::from(first) << 96 | u128::from(second) << 64;
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(addr), length))
        }
    }
}

/// The source prefix of a rule.
pub fn prefix(plan: &Plan, rule: u32) -> IpNet {
    net(plan, plan.prefix(rule))
}

/// The table of a rule.
pub fn table(plan: &Plan, rule: u32) -> u32 {
    FIRST_TABLE + plan.exit(rule)
}

fn rule(plan: &Plan, priority: u32, from: Option<IpNet>, action: RuleAction) -> Rule {
    Rule {
        selectors: Selectors { from, ..Selectors::default() },
        action,
        protocol: nix::libc::RTPROT_STATIC,
        ..Rule::lookup(family(plan), priority, 0)
    }
}

/// One after the other, in the order of the plan.
pub fn flat(plan: &Plan) -> Vec<Rule> {
    let one = |number| {
        let action = RuleAction::Table(table(plan, number));
        rule(plan, FIRST + number, Some(prefix(plan, number)), action)
    };
    (0..plan.rules).map(one).collect()
}

/// The same, each block of neighbours behind a rule that goes past it: `not from BLOCK goto NEXT`.
pub fn grouped(plan: &Plan) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut priority = FIRST;
    for first in (0..plan.rules).step_by(BLOCK as usize) {
        let block = first..plan.rules.min(first + BLOCK);
        let next = priority + 1 + block.len() as u32;
        let mut past = rule(plan, priority, Some(net(plan, plan.block(first))), RuleAction::Goto(next));
        past.selectors.not = true;
        rules.push(past);
        for number in block {
            priority += 1;
            rules.push(rule(plan, priority, Some(prefix(plan, number)), RuleAction::Table(table(plan, number))));
        }
        priority = next;
    }
    rules.push(rule(plan, priority, None, RuleAction::Nop));
    rules
}

/// What [`nft`] marks packets with, a rule for each exit.
pub fn by_mark(plan: &Plan) -> Vec<Rule> {
    let one = |exit| {
        let mut rule = rule(plan, FIRST + exit, None, RuleAction::Table(FIRST_TABLE + exit));
        rule.selectors.fwmark = Some((exit + 1, u32::MAX));
        rule
    };
    (0..plan.exits).map(one).collect()
}

/// An nftables file: an interval map from prefix to mark, looked up once in prerouting.
pub fn nft(plan: &Plan) -> String {
    let (kind, selector) = match family(plan) {
        Family::Ipv4 => ("ipv4_addr", "ip saddr"),
        Family::Ipv6 => ("ipv6_addr", "ip6 saddr"),
    };
    let mut text = format!("table inet bench {{\nmap classes {{ type {kind} : mark; flags interval; elements = {{\n");
    for number in 0..plan.rules {
        // Writing to a String does not fail.
        writeln!(text, "{} : {:#x},", prefix(plan, number), plan.exit(number) + 1).ok();
    }
    text += "} }\nchain marks { type filter hook prerouting priority mangle; policy accept; ";
    text += &format!("meta mark set {selector} map @classes; }}\n}}\n");
    text
}

/// A rule by its number, and the exit that it leads to.
pub type Way = (u32, u32);

/// All rules. Those in `moved` lead to the next exit instead of their own.
pub fn ways(plan: &Plan, moved: &[u32]) -> Vec<Way> {
    let exit = |number| (plan.exit(number) + u32::from(moved.contains(&number))) % plan.exits;
    (0..plan.rules).map(|number| (number, exit(number))).collect()
}

/// A policy file's beginning: `settings` for its section `[router]`, a default route for each exit, by gateway and device.
fn head(settings: &str, exits: &[(String, &str)]) -> String {
    let mut text = format!("[router]\n{settings}\n");
    for (table, (via, dev)) in (FIRST_TABLE..).zip(exits) {
        // Writing to a String does not fail.
        writeln!(text, "[[route]]\ntable = {table}\nto = \"default\"\nvia = \"{via}\"\ndev = \"{dev}\"").ok();
    }
    text
}

/// A policy file with a rule for each, from the priority `first` on.
pub fn policy(plan: &Plan, settings: &str, exits: &[(String, &str)], ways: &[Way], first: u32) -> String {
    let mut text = head(settings, exits);
    for &(number, exit) in ways {
        let (priority, table, from) = (first + number, FIRST_TABLE + exit, prefix(plan, number));
        writeln!(text, "[[rule]]\npriority = {priority}\ntable = {table}\nfrom = \"{from}\"").ok();
    }
    text
}

/// A policy file with a set and a rule for each exit; the sets' files are written into `folder`.
pub fn sets(plan: &Plan, settings: &str, exits: &[(String, &str)], ways: &[Way], folder: &Path) -> io::Result<String> {
    let mut text = head(settings, exits) + "[sets]\n";
    for exit in 0..plan.exits {
        let of_exit = ways.iter().filter(|way| way.1 == exit);
        let members: String = of_exit.map(|(number, _)| format!("{}\n", prefix(plan, *number))).collect();
        let file = folder.join(format!("exit{exit}.txt"));
        fs::write(&file, members)?;
        writeln!(text, "exit{exit} = {{ file = \"{}\" }}", file.display()).ok();
    }
    for exit in 0..plan.exits {
        let (priority, table) = (FIRST + exit, FIRST_TABLE + exit);
        writeln!(text, "[[rule]]\npriority = {priority}\ntable = {table}\nfrom = \"@exit{exit}\"").ok();
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{self, TableNames};
    use std::collections::BTreeSet;

    fn exits() -> [(String, &'static str); 2] {
        [("10.20.0.2".to_owned(), "out0"), ("10.20.1.2".to_owned(), "out1")]
    }

    fn plan(family: Family, rules: u32) -> Plan {
        Plan::new(family_number(family), rules, 2).expect("a plan")
    }

    #[test]
    fn the_policy_file_is_the_flat_list() {
        for family in Family::BOTH {
            for rules in [1, 40, 20_011] {
                let plan = plan(family, rules);
                let text = policy(&plan, "fast_path = \"mark\"", &exits(), &ways(&plan, &[]), FIRST);
                let loaded = policy::parse("p.toml", &text, &TableNames::default()).expect("a policy");
                let wanted: Vec<String> = flat(&plan).iter().map(Rule::to_string).collect();
                let found: Vec<String> = loaded.policy.rpdb().map(Rule::to_string).collect();
                assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn the_groups_have_every_rule_once_and_skip_no_rule_of_theirs() {
        let plan = plan(Family::Ipv4, 100);
        let (flat, grouped) = (flat(&plan), grouped(&plan));
        let of = |rules: &[Rule]| {
            let tables = rules.iter().filter(|rule| matches!(rule.action, RuleAction::Table(_)));
            tables.map(|rule| (rule.selectors.from, rule.action)).collect::<BTreeSet<_>>()
        };
        assert_eq!(of(&grouped), of(&flat));
        let (mut block, mut next) = (None, 0);
        for rule in &grouped {
            if let RuleAction::Goto(target) = rule.action {
                assert!(rule.selectors.not && target > rule.priority);
                (block, next) = (rule.selectors.from, target);
            } else if let (RuleAction::Table(_), Some(block), Some(from)) = (rule.action, block, rule.selectors.from) {
                assert!(block.contains(&from) && rule.priority < next, "{rule}");
            }
        }
        assert_eq!(grouped.last().map(|rule| (rule.priority, rule.action)), Some((next, RuleAction::Nop)));
    }

    #[test]
    fn the_sets_hold_every_prefix_once_where_its_rule_leads() {
        let (plan, folder) = (plan(Family::Ipv4, 100), tempfile::tempdir().expect("a folder"));
        for moved in [&[][..], &[0, 7]] {
            let ways = ways(&plan, moved);
            let text = sets(&plan, "", &exits(), &ways, folder.path()).expect("files");
            let loaded = policy::parse("p.toml", &text, &TableNames::default()).expect("a policy");
            assert!(loaded.warnings.is_empty() && loaded.policy.sets.len() == 2);
            let led_to = |number: u32| {
                let members =
                    |exit: u32| fs::read_to_string(folder.path().join(format!("exit{exit}.txt"))).expect("a file");
                let has = |exit: &u32| members(*exit).lines().any(|line| line == prefix(&plan, number).to_string());
                (0..2).filter(has).collect::<Vec<_>>()
            };
            for number in 0..plan.rules {
                let exit = if moved.contains(&number) { 1 - plan.exit(number) } else { plan.exit(number) };
                assert_eq!(led_to(number), [exit], "rule {number}");
            }
        }
    }

    #[test]
    fn every_rule_has_a_priority_of_its_own_before_main() {
        for rules in [1, 33, 10_000, 100_000, MAX_PREFIXES] {
            let plan = plan(Family::Ipv4, rules);
            for list in [flat(&plan), grouped(&plan)] {
                let mut priorities: Vec<u32> = list.iter().map(|rule| rule.priority).collect();
                assert!(priorities.is_sorted() && priorities.last().is_some_and(|last| *last < MAIN), "{rules}");
                priorities.dedup();
                assert_eq!(priorities.len(), list.len(), "{rules}");
            }
        }
    }
}
