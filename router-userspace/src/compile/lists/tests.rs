//! The rule for `local` before all others, left out or kept.

use crate::compile::Generation;
use crate::compile::testing::Maps;
use crate::compile::tests::{host, list, route, run, with};
use crate::compile::words;
use crate::model::{Family, Route, RouteKind, Rule, RuleAction, Selectors};
use router_common::layout::LINK_FORWARDS4;
use router_common::packet::{Packet, UDP};
use router_common::verdict::PassReason;

const OWN: &str = "10.0.0.8";

fn local() -> Rule {
    Rule::lookup(Family::Ipv4, 0, 255)
}

/// `local` has one address of this host, main and 111 a default route each.
fn compiled(rules: Vec<Rule>) -> Generation {
    let own = Route { kind: RouteKind::Local, ..route(255, &format!("{OWN}/32"), None, 1) };
    let default = |table| route(table, "0.0.0.0/0", Some("10.9.0.1"), 2);
    let mut host = host(rules, vec![own, default(254), default(111)]);
    host.links.values_mut().for_each(|link| link.v4.forwarding = true);
    let generation = run(&host);
    assert!(generation.links[0].flags & LINK_FORWARDS4 != 0);
    generation
}

fn tables(generation: &Generation) -> Vec<u32> {
    list(generation, 1).iter().map(|rule| rule.table).collect()
}

/// Why a packet from here to there is left to the stack; there is no neighbour that it could be sent to.
fn passed(generation: &Generation, from: &str, to: &str, mark: u32) -> PassReason {
    let addr = |text: &str| words::addr(text.parse().expect("an address"));
    let (src, dst) = (addr(from), addr(to));
    let packet =
        Packet { family: 4, iif: 1, len: 100, segment: 100, src, dst, ipproto: UDP, ttl: 64, mark, ..Packet::EMPTY };
    let outcome = Maps::new(generation).decide(&packet).expect("a known interface");
    PassReason::from_u8(outcome.reason).expect("a known reason")
}

const FAR: &str = "8.8.8.8";
const HOST: &str = "192.168.8.5";
/// Decided to forward.
const FORWARD: PassReason = PassReason::Neighbour;

fn decides_all(generation: &Generation, mark: u32) {
    assert_eq!(passed(generation, HOST, FAR, mark), FORWARD);
    assert_eq!(passed(generation, HOST, OWN, mark), PassReason::LocalDestination);
    assert_eq!(passed(generation, OWN, FAR, mark), PassReason::Source);
}

#[test]
fn it_is_left_out_where_all_other_rules_ask_tables() {
    let main = || Rule::lookup(Family::Ipv4, 32766, 254);
    let generation = compiled(vec![local(), main()]);
    assert_eq!(tables(&generation), [254]);
    decides_all(&generation, 0);
    let marked = with(10, 111, Selectors { fwmark: Some((5, u32::MAX)), ..Selectors::default() });
    let generation = compiled(vec![local(), marked, main()]);
    assert_eq!(tables(&generation), [111, 254]);
    decides_all(&generation, 0);
    decides_all(&generation, 5);
    // What is suppressed otherwise is still for this host.
    let generation = compiled(vec![
        local(),
        Rule { suppress_prefixlength: Some(32), ..with(10, 111, Selectors::default()) },
        main(),
    ]);
    assert_eq!(tables(&generation), [111, 254]);
    decides_all(&generation, 0);
}

#[test]
fn a_jump_leads_one_place_less_far() {
    let jump = Rule { action: RuleAction::Goto(30), ..with(10, 0, Selectors::default()) };
    let generation =
        compiled(vec![local(), jump, Rule::lookup(Family::Ipv4, 20, 111), Rule::lookup(Family::Ipv4, 30, 254)]);
    let rules = list(&generation, 1);
    assert_eq!((tables(&generation), rules[0].target), (vec![0, 111, 254], 2));
    decides_all(&generation, 0);
}

#[test]
fn it_stays_where_a_rule_decides_without_a_table_or_is_not_the_first() {
    let main = || Rule::lookup(Family::Ipv4, 32766, 254);
    let refusing = Rule {
        action: RuleAction::Blackhole,
        ..with(10, 0, Selectors { fwmark: Some((5, 5)), ..Selectors::default() })
    };
    let generation = compiled(vec![local(), refusing, main()]);
    assert_eq!(tables(&generation), [255, 0, 254]);
    decides_all(&generation, 0);
    assert_eq!(passed(&generation, HOST, OWN, 5), PassReason::LocalDestination, "before the blackhole");
    let generation = compiled(vec![Rule::lookup(Family::Ipv4, 10, 111), Rule { priority: 20, ..local() }, main()]);
    assert_eq!(tables(&generation), [111, 255, 254]);
    assert_eq!(passed(&generation, HOST, OWN, 0), FORWARD, "the other rule is before it");
    let only_some = Rule { selectors: Selectors { ipproto: Some(6), ..Selectors::default() }, ..local() };
    assert_eq!(tables(&compiled(vec![only_some, main()])), [255, 254]);
    let suppressing = Rule { suppress_prefixlength: Some(0), ..local() };
    assert_eq!(tables(&compiled(vec![suppressing, main()])), [255, 254]);
    assert_eq!(tables(&compiled(vec![local()])), [255]);
}

#[test]
fn it_stays_where_the_way_back_might_ask_no_other_table() {
    // The way back has no mark.
    let marked = with(10, 111, Selectors { fwmark: Some((5, u32::MAX)), ..Selectors::default() });
    let generation = compiled(vec![local(), marked.clone()]);
    assert_eq!(tables(&generation), [255, 111]);
    decides_all(&generation, 5);
    // Jumps to the end, past the rule that matches always.
    let past =
        Rule { action: RuleAction::Goto(40), ..with(20, 0, Selectors { ipproto: Some(UDP), ..Selectors::default() }) };
    let end = Rule { action: RuleAction::Nop, ..with(40, 0, Selectors::default()) };
    let generation = compiled(vec![local(), marked, past, Rule::lookup(Family::Ipv4, 30, 254), end]);
    assert_eq!(tables(&generation)[0], 255);
    decides_all(&generation, 5);
}

#[test]
fn another_route_than_one_to_this_host_keeps_it() {
    let refused = Route { kind: RouteKind::Blackhole, nexthops: Vec::new(), ..route(255, "10.0.0.9/32", None, 1) };
    let main = route(254, "0.0.0.0/0", Some("10.9.0.1"), 2);
    let generation = run(&host(vec![local(), Rule::lookup(Family::Ipv4, 32766, 254)], vec![refused, main]));
    assert_eq!(tables(&generation), [255, 254]);
}
