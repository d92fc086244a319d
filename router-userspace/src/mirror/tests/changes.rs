//! From any state to any other, and back where a step fails.

use super::*;
use crate::mirror::{Undo, remove_all};
use crate::model::{Family, Link, MarkSelectors, NextHop, RouteKind, RuleAction};
use proptest::prelude::*;

prop_compose! {
    /// Any rule of a small world, twins and wide ones included.
    pub(super) fn any_rule(protocol: u8)(
        priority in 1u32..6,
        family in prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)],
        iif in prop::option::of(prop_oneof![Just("a"), Just("b")]),
        mark in prop::option::of(0u32..2),
        not in any::<bool>(),
        what in 0u32..7,
    ) -> Rule {
        let mut rule = Rule { protocol, ..Rule::lookup(family, priority, 111) };
        rule.selectors.iif = iif.map(str::to_owned);
        rule.selectors.fwmark = mark.map(|mark| (mark, 1));
        rule.selectors.not = not;
        rule.action = match what {
            0 => RuleAction::Goto(priority + 1),
            1 => RuleAction::Goto(priority + 2),
            2 => RuleAction::Nop,
            3 => RuleAction::Blackhole,
            4 => RuleAction::Table(112),
            _ => RuleAction::Table(111),
        };
        rule
    }
}

prop_compose! {
    fn any_route(protocol: u8)(
        table in 111u32..113,
        family in prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)],
        length in 0u8..3,
        metric in 1u32..4,
        kind in prop_oneof![Just(RouteKind::Unicast), Just(RouteKind::Blackhole)],
        dev in 2u32..4,
        mtu in prop::option::of(Just(1400u32)),
    ) -> Route {
        let dst = ipnet::IpNet::new(family.default_prefix().addr(), length).unwrap();
        let hop = NextHop { dev, weight: 1, ..NextHop::default() };
        let nexthops = if kind == RouteKind::Unicast { vec![hop] } else { vec![] };
        Route { metric, protocol, mtu, nexthops, ..Route::to(table, dst, kind) }
    }
}

fn any_marks() -> impl Strategy<Value = Vec<MarkRule>> {
    let mark = (0u32..3).prop_map(|value| MarkRule {
        membership: false,
        family: Family::Ipv4,
        statement: 0,
        selectors: MarkSelectors::default(),
        value,
        mask: 3,
    });
    prop::collection::vec(mark, 0..3)
}

#[derive(Clone, Debug)]
struct World {
    rules: Vec<Rule>,
    routes: Vec<Route>,
    marks: Vec<MarkRule>,
}

fn any_world(protocol: u8) -> impl Strategy<Value = World> {
    let rules = prop::collection::vec(any_rule(protocol), 0..9);
    let routes = prop::collection::vec(any_route(protocol), 0..6);
    (rules, routes, any_marks()).prop_map(|(mut rules, mut routes, marks)| {
        rules.sort_by_key(|rule| (rule.family, rule.priority));
        let mut seen = std::collections::HashSet::new();
        rules.retain(|rule| seen.insert(rule.clone()));
        let all = std::mem::take(&mut routes);
        for route in all {
            if !routes.iter().any(|other: &Route| other.same_slot(&route)) {
                routes.push(route);
            }
        }
        World { rules, routes, marks }
    })
}

pub(super) fn any_limits() -> impl Strategy<Value = Limits> {
    prop_oneof![Just(Limits::default()), Just(EAGER), Just(HASTY)]
}

/// A kernel with two devices and somebody else's rules and routes.
fn kernel_of(foreign: &World) -> FakeKernel {
    let mut kernel = FakeKernel::new();
    for (index, name) in [(2, "a"), (3, "b")] {
        kernel.add_link(Link { index, name: name.to_owned(), up: true, ..Link::default() });
    }
    for rule in &foreign.rules {
        kernel.add_rule(rule).unwrap();
    }
    for route in &foreign.routes {
        kernel.add_route(route).unwrap();
    }
    kernel
}

/// What is wanted, without what a foreign route is in the way of.
fn desired_of(world: &World, foreign: &World) -> Desired {
    let free = |route: &&Route| !foreign.routes.iter().any(|other| other.same_slot(route));
    wanting(world.rules.clone(), world.routes.iter().filter(free).cloned().collect(), world.marks.clone())
}

/// All that a state is, in a comparable form. Foreign and own rules each in their order: where the two share a priority, an
/// own one that went and came again is behind, and there is no way to its old place that leaves the others alone.
#[derive(Debug, PartialEq)]
struct Picture {
    own: Vec<Rule>,
    foreign: Vec<Rule>,
    routes: Vec<Route>,
    marks: Option<Vec<MarkRule>>,
}

fn picture(kernel: &FakeKernel) -> Picture {
    let state = kernel.state();
    Picture {
        own: own_rules(state),
        foreign: foreign_rules(state),
        routes: sorted(state.routes.clone()),
        marks: kernel.marks().map(<[MarkRule]>::to_vec),
    }
}

/// Own rules may stand in another order where it does not matter: neighbours with the same action.
pub(super) fn canonical(rules: &[Rule]) -> Vec<Rule> {
    let mut deciders: Vec<Rule> = rules.iter().filter(|rule| rule.action != RuleAction::Nop).cloned().collect();
    let mut nops: Vec<Rule> = rules.iter().filter(|rule| rule.action == RuleAction::Nop).cloned().collect();
    let same = |a: &Rule, b: &Rule| (a.family, a.priority, a.action) == (b.family, b.priority, b.action);
    deciders.chunk_by_mut(same).for_each(<[Rule]>::sort);
    nops.sort();
    [deciders, nops].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// From A to B ends at B, with what others have untouched, and then there is nothing left to do.
    #[test]
    fn ends_exactly_there(
        foreign in any_world(3),
        from in any_world(OWN_PROTOCOL),
        to in any_world(OWN_PROTOCOL),
        limits in any_limits(),
    ) {
        let mut kernel = kernel_of(&foreign);
        let start = picture(&kernel);
        for world in [&from, &to] {
            let desired = desired_of(world, &foreign);
            let way = changes(&mut kernel, &desired, limits);
            go(&mut kernel, &way).unwrap();
            let there = picture(&kernel);
            prop_assert_eq!(canonical(&there.own), canonical(&world.rules), "{:#?}", way.steps);
            prop_assert_eq!(&there.foreign, &start.foreign);
            let wanted = desired.routes.iter().map(|wanted| wanted.item.clone());
            prop_assert_eq!(&there.routes, &sorted(wanted.chain(foreign.routes.clone())), "{:#?}", way.steps);
            prop_assert_eq!(there.marks.unwrap_or_default(), world.marks.clone());
            let again = changes(&mut kernel, &desired, limits);
            prop_assert!(again.is_empty(), "a second time it would do {:?}", again.steps);
        }
        remove_all(&mut kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        prop_assert_eq!(picture(&kernel), start, "everything is taken back");
    }

    /// Whatever step fails, all is as it was.
    #[test]
    fn a_failure_leaves_nothing_behind(
        foreign in any_world(3),
        from in any_world(OWN_PROTOCOL),
        to in any_world(OWN_PROTOCOL),
        limits in any_limits(),
    ) {
        let mut before = kernel_of(&foreign);
        let first = changes(&mut before, &desired_of(&from, &foreign), limits);
        go(&mut before, &first).unwrap();
        let start = picture(&before);
        let way = changes(&mut before, &desired_of(&to, &foreign), limits).with_installed_marks(&from.marks);
        for nth in 1..=way.steps.len() {
            let mut kernel = before.clone();
            kernel.fail_change(nth, libc::ENOBUFS);
            let error = go(&mut kernel, &way).unwrap_err();
            prop_assert_eq!(error.cause.as_ref().unwrap().errno(), libc::ENOBUFS);
            prop_assert!(matches!(error.undo, Undo::Whole), "step {nth} of {:#?}: {error}", way.steps);
            let end = picture(&kernel);
            prop_assert_eq!(canonical(&end.own), canonical(&start.own), "step {} of {:#?}", nth, way.steps);
            prop_assert_eq!((end.foreign, end.routes, end.marks), (start.foreign.clone(), start.routes.clone(), start.marks.clone()));
        }
    }

    /// Killed at any step, the next run ends where it should, and a removal leaves nothing.
    #[test]
    fn a_kill_is_put_right(
        foreign in any_world(3),
        from in any_world(OWN_PROTOCOL),
        to in any_world(OWN_PROTOCOL),
        then in any_world(OWN_PROTOCOL),
        limits in any_limits(),
    ) {
        let mut before = kernel_of(&foreign);
        let untouched = picture(&before);
        let first = changes(&mut before, &desired_of(&from, &foreign), limits);
        go(&mut before, &first).unwrap();
        let way = changes(&mut before, &desired_of(&to, &foreign), limits);
        for done in 0..way.steps.len() {
            let mut kernel = before.clone();
            let killed = Changes { steps: way.steps[..done].to_vec(), ..way.clone() };
            go(&mut kernel, &killed).unwrap();
            let desired = desired_of(&then, &foreign);
            let repair = changes(&mut kernel, &desired, limits);
            go(&mut kernel, &repair).unwrap();
            let there = picture(&kernel);
            prop_assert_eq!(canonical(&there.own), canonical(&then.rules), "{:#?}", repair.steps);
            prop_assert_eq!(there.foreign, untouched.foreign.clone());
            let again = changes(&mut kernel, &desired, limits);
            prop_assert!(again.is_empty(), "a second time it would do {:?}", again.steps);
            remove_all(&mut kernel, &mut |_| ControlFlow::Continue(())).unwrap();
            prop_assert_eq!(picture(&kernel), picture(&kernel_of(&foreign)));
        }
    }
}

fn narrow_and_wide() -> (Rule, Rule) {
    let wide = Rule::lookup(Family::Ipv4, 10, 111);
    let mut narrow = wide.clone();
    narrow.selectors.iif = Some("a".to_owned());
    (narrow, wide)
}

#[test]
fn the_right_one_of_two_twins_goes() {
    let (narrow, wide) = narrow_and_wide();
    let mut twin = narrow.clone();
    twin.selectors.not = true;
    for (stays, goes) in [(&narrow, &wide), (&narrow, &twin), (&twin, &narrow)] {
        let mut kernel = FakeKernel::new();
        kernel.add_rule(stays).unwrap();
        kernel.add_rule(goes).unwrap();
        let way = changes(&mut kernel, &wanting(vec![stays.clone()], vec![], vec![]), Limits::default());
        go(&mut kernel, &way).unwrap();
        assert_eq!(own_rules(kernel.state()), std::slice::from_ref(stays));
    }
}

#[test]
fn an_unknown_mark_chain_is_named_where_it_cannot_come_back() {
    let mark = |value| MarkRule {
        family: Family::Ipv4,
        statement: 0,
        selectors: MarkSelectors::default(),
        value,
        mask: 3,
        membership: false,
    };
    let (old, new) = (vec![mark(1)], vec![mark(2)]);
    let mut kernel = FakeKernel::new();
    kernel.set_mark_chain(&old, mark_digest(&old)).unwrap();
    let desired = wanting(vec![narrow_and_wide().0], vec![], new);
    for known in [false, true] {
        let mut kernel = kernel.clone();
        let mut way = changes(&mut kernel, &desired, Limits::default());
        if known {
            way = way.with_installed_marks(&old);
        }
        kernel.fail_change(2, libc::EPERM);
        let error = go(&mut kernel, &way).unwrap_err();
        assert_eq!(matches!(error.undo, Undo::Whole), known, "{error}");
        assert_eq!(kernel.marks() == Some(old.as_slice()), known);
        assert!(own_rules(kernel.state()).is_empty(), "the rest is undone in any case");
    }
}

#[test]
fn it_can_be_broken_off() {
    let rules: Vec<Rule> = (1..2000).map(|priority| Rule::lookup(Family::Ipv4, priority, 111)).collect();
    let mut kernel = FakeKernel::new();
    let way = changes(&mut kernel, &wanting(rules, vec![], vec![]), Limits::default());
    let mut calls = 0;
    let error = apply(&mut kernel, &way, &mut |progress| {
        calls += 1;
        assert_eq!(progress.total, way.steps.len());
        if progress.done > 700 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let error = error.unwrap_err();
    assert!(error.cause.is_none() && matches!(error.undo, Undo::Whole), "{error}");
    assert!(calls > 2);
    assert!(own_rules(kernel.state()).is_empty());
}

#[test]
fn what_cannot_be_undone_is_named() {
    let (narrow, wide) = narrow_and_wide();
    let mut kernel = FakeKernel::new();
    let way = changes(&mut kernel, &wanting(vec![narrow.clone(), wide], vec![], vec![]), Limits::default());
    kernel.fail_change(2, libc::ENOBUFS);
    kernel.fail_change(3, libc::EPERM);
    let error = go(&mut kernel, &way).unwrap_err();
    let Undo::Incomplete(left) = &error.undo else { panic!("{error}") };
    assert!(left.iter().any(|left| left.contains("delete rule") && left.contains("iif a")), "{left:?}");
    assert_eq!(own_rules(kernel.state()), [narrow]);
}

/// While an own route is replaced in its place, the prefix always has a route.
#[test]
fn a_replaced_route_is_never_missing() {
    let mut kernel = kernel_of(&World { rules: vec![], routes: vec![], marks: vec![] });
    let route = |dev| {
        let hop = NextHop { dev, weight: 1, ..NextHop::default() };
        let dst = Family::Ipv4.default_prefix();
        Route { protocol: OWN_PROTOCOL, nexthops: vec![hop], scope: 253, ..Route::to(111, dst, RouteKind::Unicast) }
    };
    kernel.add_route(&route(2)).unwrap();
    let way = changes(&mut kernel, &wanting(vec![], vec![route(3)], vec![]), Limits::default());
    for done in 0..=way.steps.len() {
        let mut kernel = kernel.clone();
        go(&mut kernel, &Changes { steps: way.steps[..done].to_vec(), ..way.clone() }).unwrap();
        let best = kernel.state().routes.iter().min_by_key(|route| route.metric).expect("there is one at every moment");
        assert!([2, 3].contains(&best.nexthops[0].dev));
    }
    go(&mut kernel, &way).unwrap();
    assert_eq!(kernel.state().routes, [route(3)]);
}
