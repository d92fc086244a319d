//! How much the fast path decides itself: of packets that the kernel forwards, to neighbours that are known, with no hook in
//! the way and no ICMP redirect due, under any rules and with plain routes.
#![allow(clippy::unwrap_used)]

use super::decide::Decider;
use super::testing::{World, clear, have_object, plain_routes, world};
use super::{Measure, Packet, Program, Refresh, ask, generated};
use crate::kernel::{Netlink, RouteAnswer};
use crate::model::Host;
use crate::policy::Policy;
use router_common::verdict::Verdict;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What was counted.
#[derive(Debug, Default)]
struct Count {
    forwarded: u64,
    hairpins: u64,
    passed: BTreeMap<&'static str, u64>,
}

/// Whether the promise is about this packet, judged by the kernel's answer and not by the program's.
fn counts(host: &Host, packet: &Packet, answer: &RouteAnswer) -> bool {
    let next = answer.via.unwrap_or(packet.to);
    let known = |n: &crate::model::Neighbour| n.index == answer.oif && n.addr == next && n.state.is_usable();
    // IPv4's redirects are switched off in these worlds; IPv6 has no switch (`ip6_forward`, `ndisc_send_redirect`).
    let link_local = |addr: IpAddr| matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    let redirect = packet.to.is_ipv6() && packet.iif == Some(answer.oif) && (next == packet.to || link_local(next));
    answer.verdict == Verdict::Forward && host.neighbours.iter().any(known) && !redirect && stack_forwards(packet)
}

/// What RTM_GETROUTE does not look at: `ip6_rcv` and `ip6_forward` refuse these sources.
fn stack_forwards(packet: &Packet) -> bool {
    match packet.source() {
        IpAddr::V4(_) => true,
        IpAddr::V6(from) => {
            !(from.is_multicast() || from.is_loopback() || from.is_unspecified() || from.is_unicast_link_local())
        }
    }
}

fn count(world: &World, kernel_rounds: u64, seed: u64, count: &mut Count) {
    let mut one = |kernel: &mut Netlink| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut program: Option<Program> = None;
        for round in 0..kernel_rounds {
            if round > 0 {
                clear(kernel);
            }
            let host = plain_routes(kernel, &mut rng);
            match &mut program {
                Some(program) => program.refresh(&host).unwrap(),
                None => program = Some(Program::load(&host, &Policy::default(), None).unwrap()),
            }
            let program = program.as_mut().unwrap();
            let measure = Measure::new(&host, &[]);
            for packet in generated(&host, &[], rng.u64(..), 400) {
                let (mark, _) = measure.reference(&packet);
                let Some(answer) = ask(kernel, &host, &packet, mark).unwrap() else { continue };
                if !counts(&host, &packet, &answer) {
                    continue;
                }
                count.forwarded += 1;
                count.hairpins += u64::from(packet.iif == Some(answer.oif));
                let link = &host.links[&packet.iif.unwrap()];
                if let Some(reason) = program.decide(&packet, link).unwrap().reason {
                    *count.passed.entry(reason.name()).or_default() += 1;
                    if std::env::var_os("WAYFORK_SHOW_PASSED").is_some() {
                        eprintln!("{}: {packet:?} {answer:?}", reason.name());
                    }
                }
            }
        }
    };
    world.run(&mut one);
}

#[test]
fn nearly_all_that_is_forwarded_is_decided_under_any_rules() {
    if !have_object() {
        return;
    }
    let mut all = Count::default();
    for seed in 0..12 {
        let Some(world) = world() else { return };
        count(&world, 12, seed, &mut all);
    }
    let passed: u64 = all.passed.values().sum();
    eprintln!(
        "{passed} of {} forwarded packets left to the stack: {:?}; {} hairpins",
        all.forwarded, all.passed, all.hairpins
    );
    assert!(all.forwarded >= 10_000 && all.hairpins >= 1_000, "too few: {all:?}");
    assert!(passed * 100 <= all.forwarded, "less than 99 %: {all:?}");
}
