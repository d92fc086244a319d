//! The same rules for every path: a flat list, the list grouped by hand, an nftables map, a policy file.

use crate::model::{Family, Rule, RuleAction, Selectors};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use router_common::bench::{BLOCK, Plan};
use router_common::packet::{IPV4, IPV6};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Priority of the first rule. The last one's stays below that of `main`.
const FIRST: u32 = 1000;
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
        rule(plan, FIRST + plan.section(number), Some(prefix(plan, number)), action)
    };
    (0..plan.rules).map(one).collect()
}

/// The same, each block of neighbours behind a rule that goes past it: `not from BLOCK goto NEXT`.
pub fn grouped(plan: &Plan) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut priority = FIRST;
    for first in (0..plan.rules).step_by(BLOCK as usize) {
        let mut past = rule(plan, priority, Some(net(plan, plan.block(first))), RuleAction::Goto(priority + 2));
        past.selectors.not = true;
        rules.push(past);
        for number in first..plan.rules.min(first + BLOCK) {
            let action = RuleAction::Table(table(plan, number));
            rules.push(rule(plan, priority + 1, Some(prefix(plan, number)), action));
        }
        priority += 2;
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

/// A policy file: `settings` for its section `[router]`, a default route for each exit, the rules in the order of the plan.
/// `exits` are gateway and device; the sections in `moved` leave by the next exit instead of their own.
pub fn policy(plan: &Plan, settings: &str, exits: &[(String, &str)], moved: &[u32]) -> String {
    let mut text = format!("[router]\n{settings}\n");
    for (table, (via, dev)) in (FIRST_TABLE..).zip(exits) {
        writeln!(text, "[[route]]\ntable = {table}\nto = \"default\"\nvia = \"{via}\"\ndev = \"{dev}\"").ok();
    }
    for first in (0..plan.rules).step_by(plan.per_section as usize) {
        let section = plan.section(first);
        let exit = (plan.exit(first) + u32::from(moved.contains(&section))) % plan.exits;
        let (priority, table) = (FIRST + section, FIRST_TABLE + exit);
        writeln!(text, "[[rule]]\npriority = {priority}\ntable = {table}\nfrom = [").ok();
        for number in first..plan.rules.min(first + plan.per_section) {
            writeln!(text, "\"{}\",", prefix(plan, number)).ok();
        }
        text += "]\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{self, TableNames};
    use std::collections::BTreeSet;

    fn plan(family: Family, rules: u32) -> Plan {
        Plan::new(family_number(family), rules, 2).expect("a plan")
    }

    #[test]
    fn the_policy_file_is_the_flat_list() {
        for family in Family::BOTH {
            for rules in [1, 40, 20_011] {
                let plan = plan(family, rules);
                let exits = [("10.20.0.2".to_owned(), "out0"), ("10.20.1.2".to_owned(), "out1")];
                let text = policy(&plan, "fast_path = \"mark\"", &exits, &[]);
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
    fn priorities_stay_before_main() {
        for rules in [1, 10_000, 100_000] {
            let plan = plan(Family::Ipv4, rules);
            assert!(flat(&plan).iter().all(|rule| rule.priority < 32766), "{rules}");
            assert!(grouped(&plan).iter().all(|rule| rule.priority < 32766), "{rules}");
        }
    }
}
