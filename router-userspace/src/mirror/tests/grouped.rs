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
const SMALL: Shape = Shape { run: 4, leaf: 2, largest_leaf: 4, walked: 450, fan: 2, least: 2 };

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
    spread(&mut desired.rules, host, &SMALL);
    shorten(&mut desired.rules, host, &SMALL);
    desired
}

/// The list as the file has it, with the rules of others, who were there first.
fn flat(foreign: &[Rule], rules: &[Rule]) -> Vec<Rule> {
    let mut all = [foreign, rules].concat();
    all.sort_by_key(|rule| rule.priority);
    all
}

/// The rules wherever they stand.
fn unplaced(rules: &[Rule]) -> Vec<Rule> {
    let mut all: Vec<Rule> = rules.iter().map(|rule| Rule { priority: 0, ..rule.clone() }).collect();
    all.sort();
    // A rule that is there twice says the same again.
    all.dedup();
    all
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
    prop_assert_eq!(unplaced(&without_scaffolds(&own)), unplaced(rules));
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

    /// Neither order nor jumps change a verdict, whatever foreign rules are among the list.
    #[test]
    fn the_verdicts_are_those_of_the_flat_list(foreign in any_foreign(), list in any_list(), limits in any_limits()) {
        let mut kernel = kernel_of(&foreign);
        install(&mut kernel, &list, limits);
        assert_there(&mut kernel, &list, limits)?;
        let all = kernel.state().rules.clone();
        prop_assert_eq!(verdicts(&all), verdicts(&without_scaffolds(&all)), "{}", crate::model::display_rules(&all));
        prop_assert_eq!(verdicts(&all), verdicts(&flat(&foreign, &list)), "{}", crate::model::display_rules(&all));
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
        let old = verdicts(&flat(&foreign, &before));
        kernel.record_history();
        let way = install(&mut kernel, &after, limits);
        assert_there(&mut kernel, &after, limits)?;
        let new = verdicts(&flat(&foreign, &after));
        prop_assert_eq!(&verdicts(&kernel.state().rules), &new);
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
            // Of rules of one priority the one that came first is first.
            if !after.iter().any(|rule| rule.priority == later.priority) {
                let foreign = flat(&foreign, std::slice::from_ref(&later));
                prop_assert_eq!(verdicts(&all), verdicts(&flat(&foreign, &after)), "{}", crate::model::display_rules(&all));
            }
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

/// One rule for each address, of tables in turns: the number of the address by the place of the rule.
fn numbered(numbers: impl IntoIterator<Item = u32>, tables: u32, together: u32) -> Vec<Rule> {
    let one = |(place, number): (u32, u32)| {
        let mut rule = Rule::lookup(Family::Ipv4, 1000 + place / together, 111 + place % tables);
        rule.selectors.from = Some(ipnet::IpNet::new(Ipv4Addr::from(0x0a00_0000 + number * 257).into(), 32).unwrap());
        rule
    };
    (0..).zip(numbers).map(one).collect()
}

/// As a file with these rules comes to.
fn laid(rules: &[Rule], host: &Host) -> Desired {
    let mut desired = wanting(rules.to_vec(), vec![], vec![]);
    spread(&mut desired.rules, host, &Shape::default());
    shorten(&mut desired.rules, host, &Shape::default());
    desired
}

/// How many rules a packet from each address walks, the table that it comes to, and the same for a stranger.
fn walks(desired: &Desired, numbers: impl IntoIterator<Item = u32>) -> Vec<(usize, Option<RuleAction>)> {
    let all: Vec<&Rule> = desired.rules.iter().map(|wanted| &wanted.item).collect();
    let mut firsts = std::collections::HashMap::new();
    for (place, rule) in all.iter().enumerate() {
        firsts.entry(rule.priority).or_insert(place);
    }
    let walk = |source: Ipv4Addr| {
        let (mut at, mut steps) = (0, 0);
        while let Some(rule) = all.get(at) {
            steps += 1;
            at += 1;
            if rule.selectors.from.is_none_or(|net| net.contains(&std::net::IpAddr::from(source))) == rule.selectors.not
            {
                continue;
            }
            match rule.action {
                RuleAction::Goto(target) => at = firsts[&target],
                RuleAction::Nop => {}
                action => return (steps, Some(action)),
            }
        }
        (steps, None)
    };
    let sources = numbers.into_iter().map(|number| Ipv4Addr::from(0x0a00_0000 + number * 257));
    sources.chain([Ipv4Addr::new(192, 0, 2, 1)]).map(walk).collect()
}

#[test]
fn a_sorted_list_stays_where_it_is_and_is_walked_in_few_steps() {
    let rules = numbered(0..1000, 1000, 1);
    let desired = laid(&rules, &Host::default());
    let all: Vec<Rule> = desired.rules.iter().map(|wanted| wanted.item.clone()).collect();
    assert_eq!(without_scaffolds(&all), rules);
    let made = all.len() - rules.len();
    assert!((60..250).contains(&made), "{made} jumps");
    let walks = walks(&desired, 0..1000);
    let (strange, hits) = walks.split_last().unwrap();
    assert!(hits.iter().all(|(steps, _)| *steps < 48), "{hits:?}");
    assert_eq!(*strange, (2, None), "past all of them, and the landing");
}

/// Whether each rule has its priority or shares it with neighbours, a packet walks a few rules of thousands in no order.
#[test]
fn a_list_in_no_order_is_walked_in_few_steps() {
    // Neighbouring places far apart.
    let scattered = |count: u32| (0..count).map(move |place| place * 7919 % count);
    for (count, together, most) in [(1000, 1, 36), (9973, 1, 48), (9973, 10, 48), (99_991, 1, 96), (99_991, 10, 96)] {
        let rules = numbered(scattered(count), 3, together);
        let desired = laid(&rules, &Host::default());
        let own = rules.iter().map(|rule| rule.priority);
        let (first, last) = (own.clone().min().unwrap(), own.max().unwrap());
        let places = || desired.rules.iter().map(|wanted| &wanted.item).filter(|rule| !rule.is_scaffold());
        // Each in the list's own priorities, where there are enough.
        assert!(places().all(|rule| rule.priority >= first && (rule.priority <= last || together > 1)), "{count}");
        assert_eq!(places().count(), rules.len());
        let walks = walks(&desired, scattered(count));
        let (strange, hits) = walks.split_last().unwrap();
        for ((steps, action), rule) in hits.iter().zip(&rules) {
            assert_eq!(*action, Some(rule.action));
            assert!(*steps <= most, "{count}: {steps} steps to {rule}");
        }
        assert!(strange.0 <= 2 && strange.1.is_none(), "{strange:?}");
    }
}

/// A rule of a long list that comes, goes or changes takes a handful of requests, in order or not.
#[test]
fn a_small_change_is_a_few_requests() {
    let list = |scattered: bool, skip: u32, more: Option<u32>, table: u32| -> Vec<Rule> {
        let number = |place: u32| if scattered { place * 7919 % 20_011 } else { place * 4 };
        let numbers: Vec<u32> = (0..5003).map(number).collect();
        let mut rules = numbered(numbers, 2, 1);
        rules[777].action = RuleAction::Table(table);
        let mut more = numbered(more, 1, 1);
        more.iter_mut().for_each(|rule| rule.priority = 1000 + 5003);
        rules.remove(skip as usize);
        [rules, more].concat()
    };
    for scattered in [false, true] {
        let mut kernel = FakeKernel::with_host(Host::default());
        let changes_to =
            [(1, None, 113), (1, None, 114), (2500, None, 114), (2501, None, 114), (0, None, 114), (0, Some(9), 114)];
        let steps: Vec<usize> = changes_to
            .into_iter()
            .map(|(skip, more, table)| {
                let rules = list(scattered, skip, more, table);
                let wish = laid(&rules, kernel.state());
                let way = changes(&mut kernel, &wish, Limits::default());
                go(&mut kernel, &way).unwrap();
                let again = laid(&rules, kernel.state());
                assert!(changes(&mut kernel, &again, Limits::default()).is_empty());
                way.steps.len()
            })
            .collect();
        // Where the list got its order from the mirror, pieces come and go with a rule.
        let most = if scattered { 150 } else { 60 };
        assert!(steps[0] > 5000 && steps[1..].iter().all(|steps| (1..most).contains(steps)), "{scattered}: {steps:?}");
    }
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
