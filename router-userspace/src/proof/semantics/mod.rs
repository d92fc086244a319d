//! The semantics of `ip rule`, one named test for each: the kernel (RTM_GETROUTE in a namespace of its own), the TC program
//! (BPF_PROG_TEST_RUN) and the reference are asked about the same packet.
//!
//! Every test stands on the same router: packets come in by `lan`, table `main` leads out by `up0` and table 112 by `up1`, which is
//! of interface group 7. What is expected reads `up1` for a packet that leaves by `up1`, or is a verdict.
#![allow(clippy::unwrap_used)]

mod fallthrough;
mod local;
mod order;
mod selectors;

use super::testing::{INTERFACES, World, have_object, world};
use super::{Decider, Measure, Packet, Program, Refresh, agree, ask};
use crate::kernel::admin::write_setting;
use crate::kernel::{Kernel, Netlink};
use crate::model::{Attached, Family, Host, NextHop, Route, RouteKind, Rule, RuleAction, Selectors};
use crate::policy::Policy;
use router_common::verdict::{Action, Verdict};
use std::net::IpAddr;
use std::sync::Mutex;

/// Programs that no test is using: to verify one takes the kernel longer than all the rest of a test.
static IDLE: Mutex<Vec<Program>> = Mutex::new(Vec::new());

/// The router.
struct Bench<'a> {
    kernel: &'a mut Netlink,
    /// Got with the first question.
    program: Option<Program>,
}

/// Runs `test` on a router of its own.
fn bench(test: impl FnOnce(&mut Bench<'_>) + Send) {
    bench_in(world(), test);
}

fn bench_in(world: Option<World>, test: impl FnOnce(&mut Bench<'_>) + Send) {
    let Some(World { netns, .. }) = &world else { return };
    let work = || {
        let kernel = &mut Netlink::open().unwrap();
        for name in INTERFACES.into_iter().chain(["all"]) {
            for setting in ["rp_filter", "send_redirects"] {
                write_setting(&format!("net.ipv4.conf.{name}.{setting}"), "0").unwrap();
            }
        }
        let mut bench = Bench { kernel, program: None };
        for family in Family::BOTH {
            bench.route(family, 254, "default", "up0");
            bench.route(family, 112, "default", "up1");
        }
        test(&mut bench);
        IDLE.lock().unwrap().extend(bench.program);
    };
    netns.run(work).unwrap();
}

/// Runs `test` once for each family, on a router of its own.
fn in_both(test: impl Fn(&mut Bench<'_>, Family) + Sync) {
    Family::BOTH.into_iter().for_each(|family| bench(|bench| test(bench, family)));
}

/// A rule to table 112.
fn rule(family: Family, priority: u32, selectors: Selectors) -> Rule {
    Rule { selectors, ..Rule::lookup(family, priority, 112) }
}

/// Selectors of nothing.
fn any() -> Selectors {
    Selectors::default()
}

/// UDP from a host on `lan` to one far away.
fn packet(family: Family) -> Packet {
    let (from, to) = match family {
        Family::Ipv4 => ("10.1.0.7", "8.8.8.8"),
        Family::Ipv6 => ("fd01::7", "2001:db8::1"),
    };
    Packet { sport: 1000, dport: 53, ..Packet::new(Some(10), from.parse().ok(), to.parse().unwrap()) }
}

/// What the fast path is expected to say.
#[derive(Clone, Copy, PartialEq)]
enum Fast {
    /// The same as the kernel; what it cannot answer itself (an ICMP error, this host's own) it leaves to it.
    Same,
    /// It redirects nothing: it passes, or marks the same way and leaves the source to the stack.
    Leaves,
    /// It leaves the packet to the stack, for this reason.
    Pass(&'static str),
}

impl Bench<'_> {
    fn add(&mut self, rules: impl IntoIterator<Item = Rule>) {
        rules.into_iter().for_each(|rule| self.kernel.add_rule(&rule).unwrap());
    }

    fn delete(&mut self, rule: &Rule) {
        self.kernel.delete_rule(rule).unwrap();
    }

    /// A route by the gateway on `dev`.
    fn route(&mut self, family: Family, table: u32, dst: &str, dev: &str) {
        let via: IpAddr = match (family, dev) {
            (Family::Ipv4, "up0") => "10.3.0.2",
            (Family::Ipv4, _) => "10.4.0.2",
            (Family::Ipv6, "up0") => "fd03::2",
            (Family::Ipv6, _) => "fd04::2",
        }
        .parse()
        .unwrap();
        let index = if dev == "up0" { 12 } else { 13 };
        let hop = NextHop { via: Some(via), dev: index, weight: 1, ..NextHop::default() };
        let route = Route { nexthops: vec![hop], ..refusing(family, table, dst, RouteKind::Unicast) };
        self.kernel.add_route(&route).unwrap();
    }

    fn refuse(&mut self, family: Family, table: u32, dst: &str, kind: RouteKind) {
        self.kernel.add_route(&refusing(family, table, dst, kind)).unwrap();
    }

    /// Asks all three about `packet`; what the kernel and the reference say must be `expected`, and the fast path's answer `fast`.
    fn ask(&mut self, packet: &Packet, expected: &str, fast: Fast) {
        let host = self.kernel.host().unwrap();
        let measure = Measure::new(&host, &[]);
        let (mark, reference) = measure.reference(packet);
        let told = |verdict: Verdict, oif| {
            if verdict == Verdict::Forward { host.link_name(oif) } else { verdict.name().to_owned() }
        };
        let way = reference.way();
        assert_eq!(told(way.verdict, way.oif), expected, "the reference about {packet:?}\n{}", self.rules(&host));
        let answer = ask(self.kernel, &host, packet, mark).unwrap();
        if let Some(answer) = &answer {
            assert!(reference.allows(answer), "the kernel says {answer:?} about {packet:?}\n{}", self.rules(&host));
        }
        if !have_object() {
            return;
        }
        let program = match self.program.take().or_else(|| IDLE.lock().unwrap().pop()) {
            Some(mut program) => {
                program.refresh(&host, &[]).unwrap();
                program
            }
            None => Program::load(&host, &Policy::default(), None).unwrap(),
        };
        let program = self.program.insert(program);
        // From the third packet of a flow on the walk is spared.
        let [decision, second, third] =
            [(); 3].map(|()| program.decide(packet, &host.links[&packet.iif.unwrap()]).unwrap());
        assert!(decision == second && second == third, "{decision:?}, later {second:?}, {third:?} about {packet:?}");
        let reason = decision.reason.map(|reason| reason.name());
        let what = || format!("the fast path says {decision:?} about {packet:?}\n{}", self.rules(&host));
        match (fast, way.verdict) {
            (Fast::Pass(expected), _) => assert_eq!(reason, Some(expected), "{}", what()),
            (Fast::Leaves, _) => {
                assert!(matches!(decision.action, Action::Pass | Action::Mark), "{}", what());
                assert!(agree(&decision, answer.as_ref(), &reference), "{}", what());
            }
            (Fast::Same, Verdict::Forward) => {
                assert_eq!(decision.action, Action::Redirect, "{}", what());
                assert_eq!((decision.oif, decision.via, decision.table), (way.oif, way.via, way.table), "{}", what());
            }
            (Fast::Same, Verdict::Blackhole) => assert_eq!(decision.action, Action::Drop, "{}", what()),
            (Fast::Same, Verdict::Local) => assert_eq!(reason, Some("local-destination"), "{}", what()),
            (Fast::Same, Verdict::Martian) => assert_eq!(reason, Some("source"), "{}", what()),
            (Fast::Same, _) => assert_eq!(reason, Some("icmp-error"), "{}", what()),
        }
    }

    /// All three agree, the fast path by deciding itself where there is something to decide.
    fn all(&mut self, packet: &Packet, expected: &str) {
        self.ask(packet, expected, Fast::Same);
    }

    fn rules(&self, host: &Host) -> String {
        crate::model::display_rules(&host.rules)
    }
}

fn refusing(family: Family, table: u32, dst: &str, kind: RouteKind) -> Route {
    Route {
        metric: 50,
        protocol: 3,
        ..Route::to(table, if dst == "default" { family.default_prefix() } else { dst.parse().unwrap() }, kind)
    }
}

fn goto(family: Family, priority: u32, target: u32) -> Rule {
    Rule { action: RuleAction::Goto(target), ..rule(family, priority, any()) }
}

fn acting(family: Family, priority: u32, action: RuleAction) -> Rule {
    Rule { action, attached: Attached::default(), ..rule(family, priority, any()) }
}
