//! Who agrees with whom, and what stands for a packet that the kernel cannot be asked about.

use super::decide::{Fast, agree, askable};
use super::packet::{ICMP, Packet, TCP, UDP};
use super::reference::{Reference, SourceCheck, Way};
use crate::kernel::RouteAnswer;
use crate::model::{Family, Host, Ports, Rule, Selectors};
use router_common::layout::{Decision, NO_RULE};
use router_common::verdict::{Action, PassReason, Verdict};
use std::net::IpAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn way(oif: u32) -> Way {
    Way { verdict: Verdict::Forward, oif, via: Some(ip("10.0.0.1")), table: 111, rule: None, mtu: u32::MAX }
}

fn fast(action: Action, verdict: Verdict, oif: u32) -> Fast {
    let forward = verdict == Verdict::Forward;
    Fast {
        action,
        verdict,
        reason: (action == Action::Pass).then_some(PassReason::Ttl),
        oif,
        via: forward.then(|| ip("10.0.0.1")),
        table: if forward { 111 } else { 0 },
        rule_id: None,
        mark: 0,
    }
}

fn answer(verdict: Verdict, errno: i32, oif: u32) -> RouteAnswer {
    let forward = verdict == Verdict::Forward;
    let via = forward.then(|| ip("10.0.0.1"));
    RouteAnswer { verdict, errno, oif, via, table: if forward { 111 } else { 0 }, prefsrc: None }
}

fn reference(ways: Vec<Way>) -> Reference {
    Reference { ways, ..Reference::default() }
}

#[test]
fn a_way_agrees_only_with_the_same_way() {
    let reference = reference(vec![way(3)]);
    let forward = fast(Action::Redirect, Verdict::Forward, 3);
    assert!(agree(&forward, Some(&answer(Verdict::Forward, 0, 3)), &reference));
    assert!(!agree(&forward, Some(&answer(Verdict::Forward, 0, 4)), &reference), "another interface");
    let other_table = RouteAnswer { table: 254, ..answer(Verdict::Forward, 0, 3) };
    assert!(!agree(&forward, Some(&other_table), &reference));
    let other_gateway = RouteAnswer { via: None, ..answer(Verdict::Forward, 0, 3) };
    assert!(!agree(&forward, Some(&other_gateway), &reference));
    assert!(!agree(&forward, Some(&answer(Verdict::Local, 0, 0)), &reference));
    assert!(
        !agree(&forward, Some(&answer(Verdict::Martian, libc::EINVAL, 0)), &reference),
        "a redirect skips the check"
    );
    assert!(agree(&fast(Action::Pass, Verdict::Undecided, 0), Some(&answer(Verdict::Local, 0, 0)), &reference));
}

#[test]
fn next_hops_of_one_route_agree_with_each_other() {
    let several = reference(vec![way(3), way(4)]);
    let forward = fast(Action::Redirect, Verdict::Forward, 3);
    assert!(agree(&forward, Some(&answer(Verdict::Forward, 0, 4)), &several));
    assert!(!agree(&forward, Some(&answer(Verdict::Forward, 0, 5)), &several));
}

#[test]
fn verdicts_that_the_kernel_cannot_tell_apart_agree() {
    let none =
        reference(vec![Way { verdict: Verdict::Blackhole, oif: 0, via: None, table: 0, rule: None, mtu: u32::MAX }]);
    let dropped = fast(Action::Drop, Verdict::Blackhole, 0);
    assert!(agree(&dropped, Some(&answer(Verdict::Martian, libc::EINVAL, 0)), &none));
    assert!(!agree(&dropped, Some(&answer(Verdict::NoRoute, libc::ENETUNREACH, 0)), &none));
    assert!(!agree(&dropped, Some(&answer(Verdict::Forward, 0, 3)), &none));
}

#[test]
fn a_mark_leaves_the_source_to_the_stack() {
    let marked = fast(Action::Mark, Verdict::Forward, 3);
    let refused = SourceCheck { valid: false, doubtful: false, why: "", rp_filter: 1, trail: Vec::new() };
    let martian = answer(Verdict::Martian, libc::EINVAL, 0);
    let by_source = Reference { source: Some(refused.clone()), ..reference(vec![way(3)]) };
    assert!(agree(&marked, Some(&martian), &by_source));
    assert!(!agree(&marked, Some(&martian), &reference(vec![way(3)])), "a blackhole is no matter of the source");
    let valid = Reference { source: Some(SourceCheck { valid: true, ..refused }), ..reference(vec![way(3)]) };
    assert!(!agree(&marked, Some(&martian), &valid));
    assert!(!agree(&marked, Some(&answer(Verdict::Forward, 0, 4)), &by_source));
}

#[test]
fn what_the_kernel_was_not_asked_is_held_against_the_reference() {
    let reference = reference(vec![way(3)]);
    assert!(agree(&fast(Action::Redirect, Verdict::Forward, 3), None, &reference));
    assert!(!agree(&fast(Action::Redirect, Verdict::Forward, 4), None, &reference));
    assert!(agree(&fast(Action::Pass, Verdict::Undecided, 0), None, &reference));
}

#[test]
fn another_protocol_stands_in_where_no_rule_can_tell() {
    let rule = |ipproto: Option<u8>, dport: Option<Ports>| Rule {
        selectors: Selectors { ipproto, dport, ..Selectors::default() },
        ..Rule::lookup(Family::Ipv4, 100, 7)
    };
    let gre = Packet { ipproto: 47, ..Packet::new(Some(2), Some(ip("10.0.0.8")), ip("8.8.8.8")) };
    let asked =
        |rules: Vec<Rule>, packet: &Packet| askable(&Host { rules, ..Host::default() }, packet).map(|p| p.ipproto);
    assert_eq!(asked(vec![], &gre), Some(ICMP));
    assert_eq!(asked(vec![rule(Some(ICMP), None)], &gre), Some(UDP));
    assert_eq!(asked(vec![rule(Some(47), None)], &gre), None, "no protocol that may be asked looks like it");
    let all = [ICMP, UDP, TCP].map(|proto| rule(Some(proto), None)).to_vec();
    assert_eq!(asked(all, &gre), None);
    let ports = Some(Ports::Range { start: 80, end: 90 });
    let sctp = Packet { ipproto: 132, dport: 85, ..gre };
    assert_eq!(asked(vec![rule(None, ports)], &sctp), Some(UDP), "one that has its ports");
    assert_eq!(asked(vec![rule(Some(UDP), None)], &Packet { ipproto: UDP, ..gre }), Some(UDP), "itself");
    let group = Packet::new(Some(2), Some(ip("fd00::8")), ip("ff0e::1"));
    assert_eq!(asked(vec![], &group), None, "an IPv6 group");
}

#[test]
fn the_probes_words_are_read() {
    let mut decision = Decision {
        action: Action::Redirect as u8,
        verdict: Verdict::Forward as u8,
        reason: 0,
        via_family: 6,
        oif: 3,
        table: 111,
        rule: 1,
        mark: 5,
        via: [0xfd00u16.to_be() as u32, 0, 0, 9u32.to_be()],
    };
    let counters = [None, Some("v6-1000".to_owned())];
    let fast = Fast::new(&decision, &counters).expect("known numbers");
    assert_eq!((fast.via, fast.rule_id.as_deref(), fast.mark), (Some(ip("fd00::9")), Some("v6-1000"), 5));
    decision.via_family = 4;
    decision.via[0] = u32::from_ne_bytes([10, 0, 0, 1]);
    assert_eq!(Fast::new(&decision, &counters).expect("known numbers").via, Some(ip("10.0.0.1")));
    decision.rule = NO_RULE;
    decision.action = Action::Pass as u8;
    decision.reason = PassReason::Multipath as u8;
    let passed = Fast::new(&decision, &counters).expect("known numbers");
    assert_eq!((passed.verdict, passed.oif, passed.via, passed.table), (Verdict::Undecided, 0, None, 0));
    assert_eq!((passed.reason, passed.rule_id), (Some(PassReason::Multipath), None));
    decision.action = 200;
    assert!(Fast::new(&decision, &counters).is_err());
}
