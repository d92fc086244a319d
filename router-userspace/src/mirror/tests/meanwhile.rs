//! What packets meet while the rules change.

use super::*;
use crate::model::{Family, RuleAction};
use proptest::prelude::*;

/// A packet: where it came in, and its mark.
type Packet = (&'static str, u32);

const PACKETS: [Packet; 9] = [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)];

/// What a packet meets: the action of the rule that decides. Table 113 has no routes.
fn decide(rules: &[Rule], (iif, mark): Packet) -> Option<RuleAction> {
    let mut at = 0;
    while let Some(rule) = rules.get(at) {
        let selectors = &rule.selectors;
        let matches = selectors.iif.as_deref().is_none_or(|name| name == iif)
            && selectors.fwmark.is_none_or(|(value, mask)| (mark ^ value) & mask == 0);
        at += 1;
        if matches == selectors.not {
            continue;
        }
        match rule.action {
            RuleAction::Nop | RuleAction::Table(113) => {}
            RuleAction::Goto(target) => {
                at = rules.iter().position(|rule| rule.priority == target).unwrap_or(at);
            }
            action => return Some(action),
        }
    }
    None
}

fn all(rules: &[Rule]) -> Vec<Option<RuleAction>> {
    PACKETS.map(|packet| decide(rules, packet)).to_vec()
}

/// Goes from `before` to `after` and looks at every state on the way.
fn watch(foreign: Vec<Rule>, before: Vec<Rule>, after: Vec<Rule>, limits: Limits) -> Result<(), TestCaseError> {
    let mut kernel = FakeKernel::with_host(Host::default());
    for rule in &foreign {
        kernel.add_rule(rule).unwrap();
    }
    let first = changes(&mut kernel, &wanting(before, vec![], vec![]), limits);
    go(&mut kernel, &first).unwrap();
    let old = all(&kernel.state().rules);
    let change = changes(&mut kernel, &wanting(after, vec![], vec![]), limits);
    kernel.record_history();
    go(&mut kernel, &change).unwrap();
    let new = all(&kernel.state().rules);
    for state in kernel.history() {
        for ((packet, now), (old, new)) in PACKETS.iter().zip(all(state)).zip(old.iter().zip(&new)) {
            prop_assert!(
                now == *old || now == *new,
                "{packet:?} met {now:?}, neither {old:?} nor {new:?}, in\n{}\nsteps {:#?}",
                crate::model::display_rules(state),
                change.steps
            );
        }
    }
    Ok(())
}

prop_compose! {
    /// A rule that names an interface and a mark that is not 0, so that no request for one hits another.
    fn plain(protocol: u8)(
        priority in 1u32..9,
        iif in prop_oneof![Just("a"), Just("b"), Just("c")],
        table in 111u32..114,
        mark in 1u32..3,
    ) -> Rule {
        let mut rule = Rule { protocol, ..Rule::lookup(Family::Ipv4, priority, table) };
        rule.selectors.iif = Some(iif.to_owned());
        rule.selectors.fwmark = Some((mark, 3));
        rule
    }
}

/// A `[[rule]]` with a `not` and a list, as it is lowered.
fn none_of(priority: u32, interfaces: &[&str], table: u32) -> Vec<Rule> {
    let mut rules: Vec<Rule> = interfaces
        .iter()
        .map(|name| {
            let mut jump = Rule::lookup(Family::Ipv4, priority, 0);
            jump.action = RuleAction::Goto(priority + 1);
            jump.selectors.iif = Some((*name).to_owned());
            jump
        })
        .collect();
    rules.push(Rule::lookup(Family::Ipv4, priority, table));
    rules.push(Rule { action: RuleAction::Nop, ..Rule::lookup(Family::Ipv4, priority + 1, 0) });
    rules
}

fn by_priority(mut rules: Vec<Rule>) -> Vec<Rule> {
    rules.sort_by_key(|rule| rule.priority);
    rules
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Without jumps over what changes, every packet meets what it met before or what it will meet.
    #[test]
    fn before_or_after_and_nothing_else(
        foreign in prop::collection::vec(plain(3), 0..4),
        before in prop::collection::vec(plain(OWN_PROTOCOL), 0..8),
        after in prop::collection::vec(plain(OWN_PROTOCOL), 0..8),
        gated in 2usize..20,
    ) {
        watch(foreign, by_priority(before), by_priority(after), Limits { gated, walked: u64::MAX })?;
    }

    /// So it is with one list after `not` that comes, goes or changes.
    #[test]
    fn a_not_list_is_never_half_there(
        foreign in prop::collection::vec(plain(3), 0..4),
        others in prop::collection::vec(plain(OWN_PROTOCOL), 0..5),
        before in prop::option::of((prop::sample::subsequence(vec!["a", "b", "c"], 1..=3), 111u32..114)),
        after in prop::option::of((prop::sample::subsequence(vec!["a", "b", "c"], 1..=3), 111u32..114)),
        gated in 2usize..20,
    ) {
        let with = |list: Option<(Vec<&str>, u32)>| {
            let others = others.iter().filter(|rule| rule.priority != 4).cloned();
            by_priority(others.chain(list.into_iter().flat_map(|(names, table)| none_of(4, &names, table))).collect())
        };
        watch(foreign, with(before), with(after), Limits { gated, walked: u64::MAX })?;
    }
}

#[test]
fn the_walk_above_decides_at_all() {
    let rules = by_priority([none_of(4, &["a"], 111), vec![Rule::lookup(Family::Ipv4, 9, 112)]].concat());
    assert_eq!(decide(&rules, ("a", 0)), Some(RuleAction::Table(112)));
    assert_eq!(decide(&rules, ("b", 0)), Some(RuleAction::Table(111)));
}
