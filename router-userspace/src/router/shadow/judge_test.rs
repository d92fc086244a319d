//! A decider that lies is found out; a kernel that moves is not taken for one.
#![allow(clippy::unwrap_used)]

use super::Situation;
use super::judge::{Judge, Judged, Watch};
use crate::compile::words;
use crate::kernel::fake::FakeKernel;
use crate::kernel::{self, RouteAnswer, RouteQuery};
use crate::model::{Family, Host, Link, NextHop, Route, RouteKind, Rule};
use crate::policy::{Bypass, Policy};
use crate::proof::Measure;
use router_common::layout::{Decision, Sample};
use router_common::verdict::{Action, Verdict};
use std::collections::BTreeSet;
use std::net::IpAddr;

const GENERATION: u32 = 7;
const LAN: u32 = 2;
const WAN: u32 = 3;
const WRONG: u32 = 4;
const GRE: u8 = 47;
const UDP: u8 = 17;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Table 111 goes by `wan`.
fn host() -> Host {
    let mut host = FakeKernel::new().state().clone();
    for (index, name) in [(LAN, "lan"), (WAN, "wan"), (WRONG, "wrong")] {
        let mut link = Link { index, name: name.into(), arphrd: 1, up: true, lower_up: true, ..Link::default() };
        link.v4.forwarding = true;
        host.links.insert(index, link);
    }
    host.rules.insert(1, Rule::lookup(Family::Ipv4, 1000, 111));
    host.routes.push(Route {
        protocol: 4,
        nexthops: vec![NextHop { via: Some(ip("10.0.0.1")), dev: WAN, weight: 1, ..NextHop::default() }],
        ..Route::to(111, "0.0.0.0/0".parse().unwrap(), RouteKind::Unicast)
    });
    host
}

/// A UDP packet that was redirected by `oif`.
fn sample(oif: u32) -> Sample {
    Sample {
        generation: GENERATION,
        family: 4,
        iif: LAN,
        mark: 0,
        src: words::addr(ip("192.168.8.10")),
        dst: words::addr(ip("8.8.8.8")),
        sport: 1000,
        dport: 53,
        ipproto: UDP,
        fragment: 0,
        flow: 0xb8 << router_common::packet::FLOW_CLASS_SHIFT,
        pad: [0; 2],
        decision: Decision {
            action: Action::Redirect as u8,
            verdict: Verdict::Forward as u8,
            reason: 0,
            via_family: 4,
            oif,
            table: 111,
            rule: 0,
            mark: 0,
            via: words::addr(ip("10.0.0.1")),
        },
    }
}

fn query(mark: u32) -> RouteQuery {
    RouteQuery {
        to: ip("8.8.8.8"),
        from: Some(ip("192.168.8.10")),
        iif: Some(LAN),
        mark,
        ipproto: Some(UDP),
        sport: Some(1000),
        dport: Some(53),
        dscp: 46,
        flowlabel: 0,
    }
}

fn forward(oif: u32) -> RouteAnswer {
    RouteAnswer { verdict: Verdict::Forward, errno: 0, oif, via: Some(ip("10.0.0.1")), table: 111, prefsrc: None }
}

fn refused_source() -> RouteAnswer {
    RouteAnswer { verdict: Verdict::Martian, errno: libc::EXDEV, oif: 0, via: None, table: 0, prefsrc: None }
}

/// A kernel, what was compiled from it, and what happens while a sample is judged.
struct Trial {
    kernel: FakeKernel,
    situation: Situation,
    in_force: bool,
    announced: bool,
    known: BTreeSet<String>,
}

impl Trial {
    fn new(answers: &[RouteAnswer]) -> Self {
        let mut kernel = FakeKernel::with_host(host());
        answers.iter().for_each(|answer| kernel.answer(query(0), answer.clone()));
        let (host, policy) = (host(), Policy::default());
        let counters = vec![Some("rule-1000".to_owned())];
        let situation = Situation { generation: GENERATION, host, policy, marks: Vec::new(), counters };
        Trial { kernel, situation, in_force: true, announced: false, known: BTreeSet::new() }
    }

    fn judge(&mut self, sample: &Sample) -> Judged {
        let announced = self.announced;
        let watch = || -> kernel::Result<Watch> { Ok(Box::new(move || Ok(announced))) };
        let measure = Measure::new(&self.situation.host, &self.situation.marks);
        let known = std::mem::take(&mut self.known);
        let mut judge = Judge { situation: &self.situation, measure: &measure, known };
        let judged = judge.judge(sample, &mut self.kernel, &|| self.in_force, &watch).unwrap();
        self.known = judge.known;
        judged
    }
}

#[test]
fn a_right_decision_agrees_and_a_wrong_one_is_explained_once() {
    let mut trial = Trial::new(&[forward(WAN)]);
    assert!(matches!(trial.judge(&sample(WAN)), Judged::Agrees { asked: true }));
    let judged = trial.judge(&sample(WRONG));
    let Judged::Differs { asked: true, rule_id: Some(rule_id), explanation: Some(told) } = judged else {
        panic!("{judged:?}")
    };
    assert_eq!(rule_id, "rule-1000");
    assert!(!told.agree);
    assert_eq!(told.ebpf.unwrap().oif.as_deref(), Some("wrong"));
    assert_eq!(told.kernel.unwrap().oif.as_deref(), Some("wan"));
    let tried: Vec<_> = told.trail.iter().map(|step| (step.rule.priority, step.matched)).collect();
    assert_eq!(tried, [(0, true), (1000, true)], "every rule tried");
    assert_eq!((told.packet.dscp, told.packet.sport), (46, 1000));
    // The rule is known to be wrong now, and only the rule: its right decisions still agree.
    assert!(matches!(trial.judge(&sample(WRONG)), Judged::Differs { explanation: None, .. }));
    assert!(matches!(trial.judge(&sample(WAN)), Judged::Agrees { .. }));
}

#[test]
fn what_has_moved_meanwhile_is_no_disagreement() {
    let of_before = Sample { generation: GENERATION - 1, ..sample(WRONG) };
    assert!(matches!(Trial::new(&[forward(WAN)]).judge(&of_before), Judged::Outdated));

    let mut no_longer = Trial::new(&[forward(WAN)]);
    no_longer.in_force = false;
    assert!(matches!(no_longer.judge(&sample(WRONG)), Judged::Outdated));
    assert!(matches!(no_longer.judge(&sample(WAN)), Judged::Outdated), "nor is it agreement");

    // There and back again.
    let mut twice = Trial::new(&[forward(WAN), forward(WRONG)]);
    assert!(matches!(twice.judge(&sample(WRONG)), Judged::Outdated));

    let mut announced = Trial::new(&[forward(WAN)]);
    announced.announced = true;
    assert!(matches!(announced.judge(&sample(WRONG)), Judged::Outdated));

    // The kernel holds something else than the program was compiled from, and the loop does not know it yet.
    let mut moved = Trial::new(&[forward(WAN)]);
    moved.kernel.state_mut().routes[0].metric = 5;
    assert!(matches!(moved.judge(&sample(WRONG)), Judged::Outdated));
    assert!(moved.known.is_empty());
}

#[test]
fn what_the_kernel_takes_no_question_about_is_held_against_the_reference() {
    let mut trial = Trial::new(&[]);
    // The rule tells GRE from all that can be asked about.
    trial.situation.host.rules[1].selectors.ipproto = Some(GRE);
    *trial.kernel.state_mut() = trial.situation.host.clone();
    let gre = |oif| Sample { ipproto: GRE, sport: 0, dport: 0, ..sample(oif) };
    assert!(matches!(trial.judge(&gre(WAN)), Judged::Agrees { asked: false }));
    assert!(matches!(trial.judge(&gre(WRONG)), Judged::Differs { asked: false, .. }));
}

#[test]
fn a_source_that_rp_filter_refuses_may_be_bypassed_by_the_file_alone() {
    let mut trial = Trial::new(&[refused_source()]);
    for links in [&mut trial.situation.host.links, &mut trial.kernel.state_mut().links] {
        links.get_mut(&LAN).unwrap().v4.rp_filter = 1;
    }
    assert!(matches!(trial.judge(&sample(WAN)), Judged::Differs { .. }));
    trial.situation.policy.router.bypass.insert(Bypass::RpFilter);
    trial.known.clear();
    assert!(matches!(trial.judge(&sample(WAN)), Judged::Agrees { .. }));
}

#[test]
fn a_mark_has_to_lead_the_stack_the_same_way() {
    let marked = |oif| {
        let mut sample = sample(oif);
        sample.decision.action = Action::Mark as u8;
        sample.decision.mark = 0x0300_0000;
        sample
    };
    let with = |answer| {
        let mut trial = Trial::new(&[forward(WAN)]);
        trial.kernel.answer(query(0x0300_0000), answer);
        trial.judge(&marked(WAN))
    };
    assert!(matches!(with(forward(WAN)), Judged::Agrees { .. }));
    let judged = with(forward(WRONG));
    let Judged::Differs { explanation: Some(told), .. } = judged else { panic!("{judged:?}") };
    assert!(told.notes.iter().any(|note| note.contains("0x3000000")), "{:?}", told.notes);

    let mut left_with_a_mark = sample(WAN);
    left_with_a_mark.decision.mark = 5;
    let judged = Trial::new(&[forward(WAN)]).judge(&left_with_a_mark);
    assert!(matches!(judged, Judged::Differs { .. }), "a redirect writes no mark but that of [[mark]]: {judged:?}");
}
