//! Which rules a filter finds. (That they decide as linear ones, long lists and random hosts show: `proof::compiled`.)

use crate::compile::Generation;
use crate::compile::tests::{host, route, run, with};
use crate::model::{Ports, Rule, Selectors};
use router_common::layout::{
    FILTER_DPORT, FILTER_FROM, FILTER_MARK, FILTER_SPORT, FILTER_TO, ListEntry, NO_POSITION, RULE_SELECTS,
};

fn compiled(selectors: Vec<Selectors>) -> Generation {
    let rules: Vec<Rule> = (10..).zip(selectors).map(|(priority, selectors)| with(priority, 111, selectors)).collect();
    run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]))
}

fn list(generation: &Generation) -> ListEntry {
    generation.lists[generation.links[0].list4 as usize]
}

/// What the filters look up, with the mask of a mark.
fn filters(generation: &Generation) -> Vec<(u32, u32)> {
    let list = list(generation);
    list.filter[..list.filters as usize].iter().map(|filter| (filter.by, filter.mask)).collect()
}

/// Positions of the linear rules.
fn linear(generation: &Generation) -> Vec<u32> {
    let list = list(generation);
    let mut at = list.linear;
    let next = || {
        let here = at;
        at = generation.steps.get((list.first + here) as usize).map_or(list.count, |step| step.next);
        (here < list.count).then_some(here)
    };
    std::iter::from_fn(next).collect()
}

/// Whether the rule at a position is still tried against its selectors.
fn is_tried(generation: &Generation, position: u32) -> bool {
    let rule = generation.rules[(list(generation).first + position) as usize];
    generation.actions[rule.action as usize].flags & RULE_SELECTS != 0
}

fn from(number: u32) -> Selectors {
    Selectors { from: format!("10.0.{number}.0/24").parse().ok(), ..Selectors::default() }
}

fn marked(mark: u32, mask: u32) -> Selectors {
    Selectors { fwmark: Some((mark, mask)), ..Selectors::default() }
}

#[test]
fn a_few_rules_are_tried_one_by_one() {
    let five = compiled((0..5).map(from).collect());
    assert_eq!((filters(&five), linear(&five)), (vec![], vec![0, 1, 2, 3, 4]));
    let six = compiled((0..6).map(from).collect());
    assert_eq!((filters(&six), linear(&six)), (vec![(FILTER_FROM, 0)], vec![]));
    // Six times the same tell nothing apart.
    assert_eq!(filters(&compiled((0..6).map(|_| from(1)).collect())), []);
}

/// The selectors of the rule of that number.
type Make = fn(u32) -> Selectors;

#[test]
fn every_selector_of_many_values_is_looked_up() {
    let port = |port| Some(Ports::one(port));
    let cases: [(Make, (u32, u32)); 5] = [
        (from, (FILTER_FROM, 0)),
        (|n| Selectors { to: format!("10.0.{n}.0/24").parse().ok(), ..Selectors::default() }, (FILTER_TO, 0)),
        (|n| marked(n, 0xff), (FILTER_MARK, 0xff)),
        (|n| Selectors { sport: Some(Ports::one(n as u16 + 1)), ..Selectors::default() }, (FILTER_SPORT, 0)),
        (
            |n| Selectors { dport: Some(Ports::Range { start: n as u16 + 1, end: 99 }), ..Selectors::default() },
            (FILTER_DPORT, 0),
        ),
    ];
    for (selectors, filter) in cases {
        let generation = compiled((0..8).map(selectors).collect());
        assert_eq!((filters(&generation), linear(&generation)), (vec![filter], vec![]));
        assert!((0..8).all(|position| !is_tried(&generation, position)), "{filter:?} proves it");
    }
    // Ports under a mask that does not look at all of them are no range.
    let masked = |n| Selectors { dport: Some(Ports::Masked { value: n, mask: 0xff }), ..Selectors::default() };
    assert_eq!(filters(&compiled((1..9).map(masked).collect())), []);
    // Of both ports one is looked up, and the other is still to be tried.
    let both = |n| Selectors { sport: port(7), dport: port(n), ..Selectors::default() };
    let generation = compiled((1..9).map(both).collect());
    assert_eq!(filters(&generation), [(FILTER_DPORT, 0)]);
    assert!((0..8).all(|position| is_tried(&generation, position)));
}

#[test]
fn what_else_a_rule_looks_at_is_still_tried() {
    let mut selectors: Vec<Selectors> = (0..8).map(from).collect();
    selectors[3].ipproto = Some(6);
    selectors[5].fwmark = Some((1, 1));
    let generation = compiled(selectors);
    assert_eq!((0..8).filter(|position| is_tried(&generation, *position)).collect::<Vec<_>>(), [3, 5]);
}

#[test]
fn not_and_wide_rules_stay_linear() {
    let mut selectors: Vec<Selectors> = (0..8).map(from).collect();
    selectors.insert(2, Selectors { not: true, ..from(100) });
    selectors.insert(5, Selectors { ipproto: Some(6), ..Selectors::default() });
    selectors.push(Selectors::default());
    let generation = compiled(selectors);
    assert_eq!((filters(&generation), linear(&generation)), (vec![(FILTER_FROM, 0)], vec![2, 5, 10]));
}

#[test]
fn several_filters_each_take_what_they_tell_apart_best_and_never_more_than_four() {
    let mut selectors: Vec<Selectors> = (0..20).map(from).collect();
    selectors.extend((0..10).map(|n| marked(n, 0xff)));
    selectors.extend((0..8).map(|n| marked(n << 8, 0xff00)));
    selectors.extend((1..8).map(|n| Selectors { dport: Some(Ports::one(n)), ..Selectors::default() }));
    selectors.extend((1..7).map(|n| Selectors { sport: Some(Ports::one(n)), ..Selectors::default() }));
    let generation = compiled(selectors);
    let wanted = [(FILTER_FROM, 0), (FILTER_MARK, 0xff), (FILTER_MARK, 0xff00), (FILTER_DPORT, 0)];
    assert_eq!(filters(&generation), wanted);
    assert_eq!(linear(&generation), (45..51).collect::<Vec<u32>>(), "one filter too many");
}

#[test]
fn rules_that_hold_one_another_are_a_chain_in_the_lists_order() {
    let mut selectors: Vec<Selectors> = (0..6).map(from).collect();
    selectors.push(Selectors { from: "10.0.0.0/8".parse().ok(), ..Selectors::default() });
    selectors.insert(0, Selectors { from: "10.0.3.7/32".parse().ok(), ..Selectors::default() });
    let generation = compiled(selectors);
    assert!(linear(&generation).is_empty());
    let chains: Vec<&[u32]> = generation.chains.split(|position| *position == NO_POSITION).collect();
    // 10.0.3.7 lies in its own, in 10.0.3.0/24 and in 10.0.0.0/8.
    assert!(chains.contains(&&[0, 4, 7][..]), "{chains:?}");
    assert!(chains.iter().all(|chain| chain.is_sorted()), "{chains:?}");
}

#[test]
fn what_would_make_the_chains_too_long_is_tried_one_by_one() {
    // Each holds all that come after it: half a square of candidates.
    let within = |n: u32| {
        let (first, last) = (1 + n as u16, u16::MAX - 1 - n as u16);
        Selectors { dport: Some(Ports::Range { start: first, end: last }), ..Selectors::default() }
    };
    let generation = compiled((0..2000).map(within).collect());
    assert!(generation.chains.len() < 200_000, "{} candidates", generation.chains.len());
    let left = linear(&generation).len();
    assert!((1..2000).contains(&left), "{left} are linear");
}
