//! Long lists with jumps over their groups: the same verdicts as the flat list, at every moment of a change.

use super::changes::{any_limits, canonical};
use super::*;
use crate::mirror::cover::Axis;
use crate::mirror::desired::shorten;
use crate::mirror::remove_all;
use crate::mirror::skips::{Shape, groups};
use crate::mirror::spread::spread;
use crate::model::{Family, RuleAction};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::Ipv4Addr;

/// Groups of a few rules.
const SMALL: Shape = Shape { run: 4, sizes: &[2, 4, 8], long_sizes: &[4, 8], long: 30, least: 2 };

/// The addresses that matter: 64 of them, and one that is far away.
const BASE: u32 = 0x0a00_0040;
fn addresses() -> impl Iterator<Item = u32> {
    (BASE..BASE + 64).chain([0x0a00_0000, 0xc000_0201])
}

fn prefix(offset: u32, length: u8) -> ipnet::IpNet {
    ipnet::IpNet::new(Ipv4Addr::from(BASE + offset).into(), length).unwrap().trunc()
}

fn from(priority: u32, offset: u32, length: u8, table: u32) -> Rule {
    let mut rule = Rule::lookup(Family::Ipv4, priority, table);
    rule.selectors.from = Some(prefix(offset, length));
    rule
}

/// What a packet from `source` meets: the action of the rule that decides. Table 113 has no routes.
fn decide(rules: &[Rule], source: u32) -> Option<RuleAction> {
    let mut at = 0;
    while let Some(rule) = rules.get(at) {
        let from = rule.selectors.from;
        let matches = from.is_none_or(|net| net.contains(&std::net::IpAddr::from(Ipv4Addr::from(source))));
        at += 1;
        if matches == rule.selectors.not {
            continue;
        }
        match rule.action {
            RuleAction::Nop | RuleAction::Table(113) => {}
            RuleAction::Goto(target) => at = rules.iter().position(|rule| rule.priority == target).unwrap_or(at),
            action => return Some(action),
        }
    }
    None
}

fn verdicts(rules: &[Rule]) -> Vec<Option<RuleAction>> {
    addresses().map(|source| decide(rules, source)).collect()
}

prop_compose! {
    fn one(protocol: u8, last: u32)(
        priority in 1..=last,
        offset in 0u32..64,
        length in prop_oneof![3 => 29u8..=32, 1 => 26u8..=28],
        what in 0u32..8,
    ) -> Rule {
        let mut rule = Rule { protocol, ..from(priority, offset, length, 111 + what % 3) };
        match what {
            6 => rule.action = RuleAction::Blackhole,
            7 if protocol != OWN_PROTOCOL => rule.selectors.from = None,
            _ => {}
        }
        rule
    }
}

/// Rules as a file comes to, in order; sorted by address or not.
fn any_list() -> impl Strategy<Value = Vec<Rule>> {
    let rules = prop::collection::vec(one(OWN_PROTOCOL, 40), 0..40);
    (rules, any::<bool>(), prop::option::of(1u32..40)).prop_map(|(mut rules, sorted, jump)| {
        if sorted {
            rules.sort_by_key(|rule| rule.selectors.from);
            (1..).zip(&mut rules).for_each(|(priority, rule)| rule.priority = priority);
        }
        if let Some(jump) = jump {
            rules.push(Rule { action: RuleAction::Goto(jump + 5), ..from(jump, 0, 27, 0) });
        }
        let mut seen = HashSet::new();
        rules.retain(|rule| seen.insert(rule.clone()));
        rules.sort_by_key(|rule| rule.priority);
        rules
    })
}

fn any_foreign() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(one(3, 45), 0..3)
}

fn kernel_of(foreign: &[Rule]) -> FakeKernel {
    let mut kernel = FakeKernel::with_host(Host::default());
    foreign.iter().for_each(|rule| kernel.add_rule(rule).unwrap());
    kernel
}

fn grouped(rules: &[Rule], host: &Host) -> Desired {
    let mut desired = wanting(rules.to_vec(), vec![], vec![]);
    shorten(&mut desired.rules, host, &SMALL);
    desired
}

fn install(kernel: &mut FakeKernel, rules: &[Rule], limits: Limits) -> Changes {
    let desired = grouped(rules, kernel.state());
    let way = changes(kernel, &desired, limits);
    go(kernel, &way).unwrap();
    way
}

fn without_scaffolds(rules: &[Rule]) -> Vec<Rule> {
    rules.iter().filter(|rule| !rule.is_scaffold()).cloned().collect()
}

/// The list is the wanted one, the jumps are in their places, and there is nothing left to do.
fn assert_there(kernel: &mut FakeKernel, rules: &[Rule], limits: Limits) -> Result<(), TestCaseError> {
    let desired = grouped(rules, kernel.state());
    let own = own_rules(kernel.state());
    prop_assert_eq!(canonical(&without_scaffolds(&own)), canonical(rules));
    let made = |rules: &[Rule]| rules.iter().filter(|rule| rule.is_scaffold()).cloned().collect::<Vec<_>>();
    let wanted: Vec<Rule> = desired.rules.iter().map(|wanted| wanted.item.clone()).collect();
    prop_assert_eq!(made(&own), made(&wanted));
    for pair in own.windows(2).filter(|pair| pair[0].priority == pair[1].priority) {
        prop_assert!(pair[0].is_skip() || !pair[1].is_skip(), "{} stands behind {}", pair[1], pair[0]);
    }
    let again = changes(kernel, &desired, limits);
    prop_assert!(again.is_empty(), "a second time it would do {:#?}", again.steps);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// The jumps change no verdict, whatever foreign rules are among the list.
    #[test]
    fn the_verdicts_are_those_of_the_flat_list(foreign in any_foreign(), list in any_list(), limits in any_limits()) {
        let mut kernel = kernel_of(&foreign);
        install(&mut kernel, &list, limits);
        assert_there(&mut kernel, &list, limits)?;
        let all = kernel.state().rules.clone();
        prop_assert_eq!(verdicts(&all), verdicts(&without_scaffolds(&all)), "{}", crate::model::display_rules(&all));
        remove_all(&mut kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        let untouched = kernel_of(&foreign);
        prop_assert_eq!(&kernel.state().rules, &untouched.state().rules);
    }

    /// In a change from one list to another a packet meets what it would meet without any jumps at that moment: the old
    /// verdict or the new one, where there are no real jumps over what changes.
    #[test]
    fn no_moment_of_a_change_is_wrong(
        foreign in any_foreign(),
        before in any_list(),
        after in any_list(),
        little in any::<bool>(),
        limits in any_limits(),
    ) {
        let mut kernel = kernel_of(&foreign);
        install(&mut kernel, &before, limits);
        // Some of the old list, or another one.
        let after = if little {
            let some = before.iter().enumerate().filter(|(place, _)| place % 7 != 3).map(|(_, rule)| rule.clone());
            let more = after.into_iter().take(2).filter(|rule| !before.contains(rule));
            let mut list: Vec<Rule> = some.chain(more).collect();
            list.sort_by_key(|rule| rule.priority);
            list
        } else {
            after
        };
        let old = verdicts(&kernel.state().rules);
        kernel.record_history();
        let way = install(&mut kernel, &after, limits);
        assert_there(&mut kernel, &after, limits)?;
        let new = verdicts(&kernel.state().rules);
        let real_jumps = before.iter().chain(&after).any(|rule| matches!(rule.action, RuleAction::Goto(_)));
        for state in kernel.history() {
            let met = verdicts(state);
            // A real jump may lead to a priority that has only its skips for a moment.
            if real_jumps {
                continue;
            }
            let skips = |rules: &[Rule]| rules.iter().filter(|rule| !rule.is_skip()).cloned().collect::<Vec<_>>();
            prop_assert_eq!(&met, &verdicts(&skips(state)), "in\n{}", crate::model::display_rules(state));
            if limits.walked == 0 {
                continue;
            }
            for ((now, old), new) in met.iter().zip(&old).zip(&new) {
                prop_assert!(now == old || now == new, "in\n{}\n{:#?}", crate::model::display_rules(state), way.steps);
            }
        }
    }

    /// Whatever step fails, all is as it was; killed at any step, the next run ends where it should. A foreign rule that came
    /// meanwhile is met by whom it concerns as soon as the mirror has looked.
    #[test]
    fn failures_and_kills_are_put_right(
        foreign in any_foreign(),
        later in one(3, 45),
        before in any_list(),
        after in any_list(),
        limits in any_limits(),
    ) {
        let mut start = kernel_of(&foreign);
        install(&mut start, &before, limits);
        let desired = grouped(&after, start.state());
        let way = changes(&mut start, &desired, limits);
        for done in (0..way.steps.len()).step_by(way.steps.len() / 12 + 1) {
            let mut failing = start.clone();
            failing.fail_change(done + 1, libc::ENOBUFS);
            let error = go(&mut failing, &way).unwrap_err();
            prop_assert!(matches!(error.undo, crate::mirror::Undo::Whole), "{}", error);
            prop_assert_eq!(canonical(&own_rules(failing.state())), canonical(&own_rules(start.state())));
            let mut killed = start.clone();
            go(&mut killed, &Changes { steps: way.steps[..done].to_vec(), ..way.clone() }).unwrap();
            killed.add_rule(&later).unwrap();
            install(&mut killed, &after, limits);
            assert_there(&mut killed, &after, limits)?;
            let all = killed.state().rules.clone();
            prop_assert_eq!(verdicts(&all), verdicts(&without_scaffolds(&all)), "{}", crate::model::display_rules(&all));
            remove_all(&mut killed, &mut |_| ControlFlow::Continue(())).unwrap();
            prop_assert_eq!(own_rules(killed.state()), []);
        }
    }

    /// A list of one `[[rule]]` says the same in pieces, all of them before what comes next.
    #[test]
    fn a_list_in_pieces_is_the_same_list(
        offsets in prop::collection::btree_set((0u32..64, 28u8..=32), 4..40),
        changed in prop::collection::btree_set((0u32..64, 28u8..=32), 0..4),
        end in 11u32..80,
        foreign in any::<bool>(),
    ) {
        let list = |offsets: &std::collections::BTreeSet<(u32, u8)>| {
            let nets: std::collections::BTreeSet<_> = offsets.iter().map(|(offset, length)| prefix(*offset, *length)).collect();
            let one = |net| { let mut rule = from(10, 0, 32, 111); rule.selectors.from = Some(net); rule };
            nets.into_iter().map(one).collect::<Vec<_>>()
        };
        let stop = |protocol| Rule { protocol, ..Rule::lookup(Family::Ipv4, end, 112) };
        let mut kernel = kernel_of(if foreign { vec![stop(3)] } else { vec![] }.as_slice());
        let all: std::collections::BTreeSet<_> = offsets.symmetric_difference(&changed).copied().collect();
        for offsets in [&offsets, &all] {
            let mut rules = list(offsets);
            rules.extend((!foreign).then(|| stop(OWN_PROTOCOL)));
            let flat = rules.clone();
            let mut desired = wanting(rules, vec![], vec![]);
            spread(&mut desired.rules, kernel.state(), &SMALL);
            desired.rules.sort_by_key(|wanted| wanted.item.priority);
            let places = desired.rules.iter().map(|wanted| wanted.item.priority);
            prop_assert!(places.clone().next() == Some(10) && places.filter(|place| *place != end).all(|place| place < end));
            shorten(&mut desired.rules, kernel.state(), &SMALL);
            let way = changes(&mut kernel, &desired, Limits::default());
            go(&mut kernel, &way).unwrap();
            let mut flat = [flat, foreign_rules(kernel.state())].concat();
            flat.sort_by_key(|rule| rule.priority);
            prop_assert_eq!(verdicts(&kernel.state().rules), verdicts(&flat));
        }
    }
}

#[test]
fn a_sorted_list_is_walked_in_few_steps() {
    let rules: Vec<Rule> = (0..1000u32)
        .map(|n| {
            let mut rule = Rule::lookup(Family::Ipv4, 1000 + n, 111 + n);
            rule.selectors.from = Some(ipnet::IpNet::new(Ipv4Addr::from(0x0a00_0000 + n * 257).into(), 32).unwrap());
            rule
        })
        .collect();
    let mut desired = wanting(rules.clone(), vec![], vec![]);
    shorten(&mut desired.rules, &Host::default(), &Shape::default());
    let all: Vec<Rule> = desired.rules.iter().map(|wanted| wanted.item.clone()).collect();
    let made = all.len() - rules.len();
    assert!((60..200).contains(&made), "{made} jumps");
    let steps = |source: u32| {
        let (mut at, mut steps) = (0, 0);
        while let Some(rule) = all.get(at) {
            steps += 1;
            at += 1;
            let inside =
                rule.selectors.from.is_none_or(|net| net.contains(&std::net::IpAddr::from(Ipv4Addr::from(source))));
            match rule.action {
                RuleAction::Goto(target) if inside != rule.selectors.not => {
                    at = all.iter().position(|rule| rule.priority == target).unwrap();
                }
                RuleAction::Table(_) if inside != rule.selectors.not => break,
                _ => {}
            }
        }
        steps
    };
    let hits: Vec<usize> = (0..1000).map(|n| steps(0x0a00_0000 + n * 257)).collect();
    assert!(*hits.iter().max().unwrap() < 64, "{hits:?}");
    assert_eq!(steps(0xc000_0201), 2, "past all of them, and the landing");
}

/// One rule of a long list that comes, goes or changes takes a handful of requests.
#[test]
fn a_small_change_is_a_few_requests() {
    let list = |skip: u32, table: u32| -> Vec<Rule> {
        let net = |n: u32| ipnet::IpNet::new(Ipv4Addr::from(n.reverse_bits()).into(), 32).unwrap();
        let mut nets: Vec<_> = (0..5000u32).map(net).collect();
        nets.sort();
        let one = |(n, net): (u32, ipnet::IpNet)| {
            let mut rule = Rule::lookup(Family::Ipv4, 100 + 2 * n, if n == 777 { table } else { 111 });
            rule.selectors.from = Some(net);
            rule
        };
        (0..).zip(nets).filter(|(n, _)| *n != skip).map(one).collect()
    };
    let wish = |rules: Vec<Rule>| {
        let mut desired = wanting(rules, vec![], vec![]);
        shorten(&mut desired.rules, &Host::default(), &Shape::default());
        desired
    };
    let mut kernel = FakeKernel::with_host(Host::default());
    let steps: Vec<usize> = [list(u32::MAX, 111), list(u32::MAX, 112), list(2500, 112), list(2501, 112), list(0, 112)]
        .into_iter()
        .map(|rules| {
            let way = changes(&mut kernel, &wish(rules), Limits::default());
            go(&mut kernel, &way).unwrap();
            way.steps.len()
        })
        .collect();
    assert!(steps[0] > 5000 && steps[1..].iter().all(|steps| (1..40).contains(steps)), "{steps:?}");
}

/// A jump of somebody that leads nowhere goes on leading nowhere; and no group reaches on to whatever comes next.
#[test]
fn a_landing_is_where_nobody_jumps_to() {
    let rules: Vec<Rule> = (0..8).map(|n| from(10 + n, n, 32, 111)).collect();
    let last_target = |foreign: Vec<Rule>| {
        let mut kernel = kernel_of(&foreign);
        install(&mut kernel, &rules, Limits::default());
        let all = kernel.state().rules.clone();
        assert_eq!(verdicts(&all), verdicts(&without_scaffolds(&all)));
        let target = |rule: &Rule| if let RuleAction::Goto(target) = rule.action { Some(target) } else { None };
        all.iter().filter(|rule| rule.is_skip()).filter_map(target).max().unwrap()
    };
    let foreign = |priority, action| Rule { protocol: 3, action, ..Rule::lookup(Family::Ipv4, priority, 0) };
    assert_eq!(last_target(vec![foreign(30, RuleAction::Blackhole)]), 18);
    assert_eq!(last_target(vec![foreign(18, RuleAction::Blackhole)]), 18);
    let nowhere = foreign(5, RuleAction::Goto(18));
    assert!(last_target(vec![nowhere.clone()]) < 18);
    assert_eq!(last_target(vec![nowhere, foreign(18, RuleAction::Blackhole)]), 18);
}

#[test]
fn what_is_not_sorted_has_no_useful_groups() {
    let cover = |rule: &Rule| (Axis::From.cover(rule).unwrap(), 1);
    let of = |offsets: &[u32]| {
        let members: Vec<_> = offsets.iter().map(|offset| cover(&from(1, *offset, 32, 111))).collect();
        let ends = groups(&members, &SMALL).into_iter().map(|group| (group.members.start, group.members.end));
        ends.collect::<Vec<_>>()
    };
    assert_eq!(of(&[0, 1, 2, 3, 32, 33]), [(0, 6), (0, 4), (0, 2), (2, 4), (4, 6)]);
    assert_eq!(of(&[0, 32, 1, 33, 2, 34]), [(0, 6)], "nothing but the whole");
}
