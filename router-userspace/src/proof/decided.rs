//! How much the fast path decides itself: of packets that the kernel forwards, to neighbours that are known, with no hook in
//! the way and no ICMP redirect due, under any rules and with plain routes.
#![allow(clippy::unwrap_used)]

use super::decide::Decider;
use super::packet::Extension;
use super::reference::{Outcome, Reference};
use super::testing::{INTERFACES, World, clear, have_object, plain_routes, randomize_more, world};
use super::text::route_text;
use super::{Measure, Packet, Program, Refresh, ask, generated};
use crate::kernel::admin::write_setting;
use crate::kernel::{Kernel, Netlink, RouteAnswer};
use crate::model::{Host, Route, RouteKind};
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
    /// Why a route is the stack's, of what was passed for its route's sake.
    routes: BTreeMap<&'static str, u64>,
}

/// What is counted apart where routes are of all kinds: the guard's say about a host, and several next hops.
const EXCEPTED: [&str; 2] = ["interface", "multipath"];

/// Whether the promise is about this packet, judged by the kernel's answer and not by the program's.
fn counts(host: &Host, packet: &Packet, answer: &RouteAnswer) -> bool {
    let next = answer.via.unwrap_or(packet.to);
    let known = |n: &crate::model::Neighbour| n.index == answer.oif && n.addr == next && n.state.is_usable();
    // IPv4's redirects are switched off in these worlds; IPv6 has no switch (`ip6_forward`, `ndisc_send_redirect`).
    let link_local = |addr: IpAddr| matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    let redirect = packet.to.is_ipv6() && packet.iif == Some(answer.oif) && (next == packet.to || link_local(next));
    answer.verdict == Verdict::Forward
        // As IPv4's options: a router has to read them.
        && packet.shape.extension != Some(Extension::HopByHop)
        && host.neighbours.iter().any(known)
        && !redirect
        && stack_forwards(packet)
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

/// What is odd about the route that the packet takes; None where nothing is.
fn oddity(host: &Host, reference: &Reference, packet: &Packet) -> Option<&'static str> {
    let taken = reference.trail.iter().find_map(|step| match step.outcome {
        Some(Outcome::Route(index)) => host.routes.get(index),
        _ => None,
    })?;
    let hops = || taken.nexthops.iter();
    let is_local = |via: IpAddr| host.routes.iter().any(|r| r.kind == RouteKind::Local && r.dst.contains(&via));
    let shares = |r: &Route| r.nhid != 0 && r.nexthops.iter().any(|o| hops().any(|h| (h.via, h.dev) == (o.via, o.dev)));
    let beside = |odd: &dyn Fn(&Route) -> bool| {
        let with = |r: &&Route| (r.family, r.table) == (taken.family, taken.table) && odd(r);
        host.routes.iter().any(|r| with(&r) && (r.dst.contains(&taken.dst) || taken.dst.contains(&r.dst)))
    };
    Some(if taken.nexthops.len() > 1 {
        "several next hops"
    } else if taken.nexthops.iter().any(|hop| hop.encap) {
        "encap"
    } else if taken.nexthops.iter().any(|hop| hop.realms != 0) {
        "realms"
    } else if taken.nhid != 0 {
        "next-hop object"
    } else if hops().filter_map(|hop| hop.via).any(is_local) {
        "a gateway that is local somewhere"
    } else if host.routes.iter().any(shares) {
        "the way of a next-hop object"
    } else if beside(&|r| r.tos != 0 || r.src.is_some_and(|src| src.prefix_len() > 0)) {
        "tos or source"
    } else if beside(&|r| r.dst == taken.dst && (r.metric, r.tos) == (taken.metric, taken.tos) && r != taken) {
        "routes of one metric"
    } else if beside(&|r| r.dst == taken.dst && r != taken) {
        "routes of one prefix"
    } else if host.routes.iter().any(|r| r.dst.contains(&packet.to) && is_odd(r)) {
        "an odd route in the way"
    } else {
        return None;
    })
}

/// Of a kind that the program leaves to the stack, whatever the stack makes of it: the walk may have gone on where the program stopped.
fn is_odd(route: &Route) -> bool {
    let hop = |hop: &crate::model::NextHop| hop.encap || hop.realms != 0;
    route.nhid != 0
        || route.tos != 0
        || route.src.is_some_and(|src| src.prefix_len() > 0)
        || route.nexthops.len() > 1
        || route.nexthops.iter().any(hop)
}

fn count(
    world: &World,
    kernel_rounds: u64,
    seed: u64,
    count: &mut Count,
    routes: impl Fn(&mut Netlink, &mut fastrand::Rng) -> Host + Sync,
) {
    let mut one = |kernel: &mut Netlink| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut program: Option<Program> = None;
        for round in 0..kernel_rounds {
            if round > 0 {
                clear(kernel);
            }
            let host = routes(kernel, &mut rng);
            match &mut program {
                Some(program) => program.refresh(&host, &[]).unwrap(),
                None => program = Some(Program::load(&host, &Policy::default(), None).unwrap()),
            }
            let program = program.as_mut().unwrap();
            let measure = Measure::new(&host, &[]);
            for packet in generated(&host, &[], rng.u64(..), 400) {
                let (mark, reference) = measure.reference(&packet);
                let Some(answer) = ask(kernel, &host, &packet, mark).unwrap() else { continue };
                if !counts(&host, &packet, &answer) || reference.refuses(answer.verdict, answer.oif).is_some() {
                    continue;
                }
                count.forwarded += 1;
                count.hairpins += u64::from(packet.iif == Some(answer.oif));
                let link = &host.links[&packet.iif.unwrap()];
                if let Some(reason) = program.decide(&packet, link).unwrap().reason {
                    *count.passed.entry(reason.name()).or_default() += 1;
                    if reason.name() == "route-kind" {
                        *count.routes.entry(oddity(&host, &reference, &packet).unwrap_or("plain")).or_default() += 1;
                    }
                    if std::env::var_os("WAYFORK_SHOW_PASSED").is_some() {
                        let taken = reference.trail.last().and_then(|step| step.outcome.clone());
                        let route = match taken {
                            Some(Outcome::Route(index)) => route_text(&host, &host.routes[index]),
                            other => format!("{other:?}"),
                        };
                        let odd = oddity(&host, &reference, &packet);
                        eprintln!("{} {odd:?} {route}: {packet:?} {answer:?}", reason.name());
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
        count(&world, 12, seed, &mut all, plain_routes);
    }
    let passed: u64 = all.passed.values().sum();
    eprintln!(
        "{passed} of {} forwarded packets left to the stack: {:?}; {} hairpins",
        all.forwarded, all.passed, all.hairpins
    );
    assert!(all.forwarded >= 10_000 && all.hairpins >= 1_000, "too few: {all:?}");
    assert!(passed * 100 <= all.forwarded, "less than 99 %: {all:?}");
}

#[test]
fn under_the_whole_language_only_odd_routes_and_local_addresses_are_left_to_the_stack() {
    if !have_object() {
        return;
    }
    let mut all = Count::default();
    let whole = |kernel: &mut Netlink, rng: &mut fastrand::Rng| {
        randomize_more(kernel, rng, true);
        for name in INTERFACES.into_iter().chain(["all"]) {
            drop(write_setting(&format!("net.ipv4.conf.{name}.send_redirects"), "0"));
        }
        kernel.host().unwrap()
    };
    for seed in 100..112 {
        let Some(world) = world() else { return };
        count(&world, 12, seed, &mut all, whole);
    }
    let share = |count: u64| count as f64 * 100.0 / all.forwarded as f64;
    for (reason, count) in &all.passed {
        eprintln!("{:6.2} % {reason}", share(*count));
    }
    for (oddity, count) in &all.routes {
        eprintln!("{:6.2} % route-kind, {oddity}", share(*count));
    }
    eprintln!("of {} packets that the kernel forwards, {} hairpins", all.forwarded, all.hairpins);
    let excepted = EXCEPTED.iter().chain(&["route-kind"]).filter_map(|reason| all.passed.get(reason)).sum::<u64>();
    let plain = all.routes.get("plain").copied().unwrap_or(0);
    let passed = all.passed.values().sum::<u64>() - excepted + plain;
    assert!(all.forwarded >= 10_000, "too few: {all:?}");
    assert!(passed * 100 <= all.forwarded, "less than 99 %: {all:?}");
}
