//! The reference against the running kernel: random routers, packets around their boundaries, RTM_GETROUTE.
#![allow(clippy::unwrap_used)]

use super::generate::Generator;
use super::testing::{INTERFACES, all_commands, have_object, randomize, world};
use super::{Measure, Program, Subject, ask, compare as compare_all, generated, in_scratch};
use crate::kernel::admin::write_setting;
use crate::policy::Policy;
use router_common::verdict::{Action, Verdict};
use std::collections::BTreeMap;

/// Holds the reference against the kernel on one random router; gives how many packets got each verdict.
fn hold(seed: u64, packets: usize) -> BTreeMap<Verdict, usize> {
    let Some(world) = world() else { return BTreeMap::new() };
    world.run(|kernel| {
        let host = randomize(kernel, &mut fastrand::Rng::with_seed(seed), false);
        let ingress = INTERFACES.iter().map(|name| host.link(name).unwrap().index).collect();
        let mut generator = Generator::new(&host, &[], ingress, seed);
        let measure = Measure::new(&host, &[]);
        let mut verdicts = BTreeMap::new();
        for _ in 0..packets {
            let packet = generator.next_packet().unwrap();
            let (mark, reference) = measure.reference(&packet);
            let Some(answer) = ask(kernel, &host, &packet, mark).unwrap() else { continue };
            *verdicts.entry(reference.way().verdict).or_default() += 1;
            if reference.allows(&answer) {
                continue;
            }
            panic!(
                "seed {seed}: {packet:?}\nthe kernel: {answer:?}\nthe reference: {reference:#?}\nlinks: {:#?}\nall: {:?}\n{}",
                packet.iif.and_then(|iif| host.links.get(&iif)),
                host.settings,
                all_commands(&host)
            );
        }
        verdicts
    })
}

#[test]
fn the_reference_decides_as_the_kernel_on_random_routers() {
    let mut all: BTreeMap<Verdict, usize> = BTreeMap::new();
    for seed in routers(40) {
        for (verdict, count) in hold(seed, 500) {
            *all.entry(verdict).or_default() += count;
        }
    }
    if all.is_empty() {
        return;
    }
    // A comparison that never sees a verdict proves nothing about it.
    for verdict in Verdict::ALL.into_iter().filter(|verdict| *verdict != Verdict::Undecided) {
        assert!(all.get(&verdict).is_some_and(|count| *count >= 100), "too few of {}: {all:?}", verdict.name());
    }
    assert_eq!(all.get(&Verdict::Undecided), None, "the random rules hold nothing that the reference does not know");
}

/// The seeds of the random routers that a test tries: always the same, but for WAYFORK_ROUTERS (how many) and WAYFORK_SEED
/// (the first).
fn routers(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("WAYFORK_SEED").unwrap_or(0);
    first..first + number("WAYFORK_ROUTERS").unwrap_or(usual)
}

#[test]
fn the_program_the_kernel_and_the_reference_agree_on_random_routers() {
    if !have_object() {
        return;
    }
    let (mut decided, mut all, mut passed, mut forward_passed) = (0, 0, BTreeMap::new(), BTreeMap::new());
    for seed in routers(30) {
        let Some(world) = world() else { return };
        let report = world.run(|kernel| {
            let host = randomize(kernel, &mut fastrand::Rng::with_seed(seed), seed % 4 != 0);
            let policy = Policy::default();
            let mut program = Program::load(&host, &policy, None).unwrap();
            let packets = &mut generated(&host, &[], seed, 500);
            let mut subject = Subject { kernel, decider: &mut program, policy: None, scratch: None };
            let report = compare_all(&mut subject, host.clone(), packets, &mut |_| {}).unwrap();
            if report.counterexample.is_some() {
                eprintln!(
                    "seed {seed}\n{}\n{:#?}\n{:?}",
                    all_commands(&host),
                    report.counterexample,
                    program.judgement().interfaces
                );
            }
            report
        });
        assert_eq!(report.disagree, 0, "seed {seed}");
        assert_eq!(report.packets, 500);
        decided += report.decided;
        all += report.packets;
        for (reason, count) in report.passed {
            *passed.entry(reason).or_insert(0) += count;
        }
        for (reason, count) in report.forward_passed {
            *forward_passed.entry(reason).or_insert(0) += count;
        }
    }
    eprintln!("{decided} of {all} decided; passed {passed:?}; of these forwarded by the kernel {forward_passed:?}");
    assert!(decided * 5 > all, "the fast path decided only {decided} of {all}: nothing was compared");
}

/// Marks before the rules, rules of both families with names, lists and `not`, a strict table.
const POLICY: &str = r#"
[tables]
vpn = { id = 5324, strict = true }

[[route]]
table = "vpn"
to    = "default"
via   = "10.4.0.2"
dev   = "up1"

[[route]]
table = "vpn"
to    = "default"
via   = "fd04::2"
dev   = "up1"

[[mark]]
iif     = ["lan", "guest"]
ipproto = "tcp"
dport   = [53, "80-443"]
set     = "0x20/0xff"

[[mark]]
fwmark = "0x20/0xff"
from   = ["8.8.8.0/24", "2001:db8::/32"]
set    = "0x1/0xff"

[[rule]]
priority = 15
fwmark   = "0x20/0xff"
table    = "vpn"

[[rule]]
priority = 16
not      = true
from     = ["10.0.0.0/8", "fd00::/8"]
to       = ["203.0.112.0/20", "2a00::/16"]
table    = "vpn"
"#;

#[test]
fn a_policy_in_a_scratch_namespace_agrees_too_with_marks_written_and_read() {
    if !have_object() {
        return;
    }
    let policy = crate::policy::parse("policy.toml", POLICY, &crate::policy::TableNames::default()).unwrap().policy;
    let mut marked = 0;
    for seed in routers(8) {
        let Some(world) = world() else { return };
        let (report, notes) = world.run(|kernel| {
            randomize(kernel, &mut fastrand::Rng::with_seed(seed), true);
            // rp_filter keeps the fast path from redirecting; it marks then.
            if seed % 2 == 0 {
                write_setting("net.ipv4.conf.all.rp_filter", "2").unwrap();
            }
            in_scratch(&policy, |trial| {
                let packets = &mut generated(&trial.host, &policy.mark_rules(), seed, 1000);
                let mut counting = Counting(trial.program.as_mut().unwrap(), 0);
                let host = trial.host.clone();
                let mut subject = Subject {
                    kernel: trial.kernel,
                    decider: &mut counting,
                    policy: Some(&policy),
                    scratch: trial.scratch,
                };
                let report = compare_all(&mut subject, host, packets, &mut |_| {}).unwrap();
                (report, counting.1)
            })
            .unwrap()
        });
        assert_eq!(notes, Vec::<String>::new(), "seed {seed}");
        assert_eq!(report.0.disagree, 0, "seed {seed}: {:#?}", report.0.counterexample);
        marked += report.1;
    }
    assert!(marked > 100, "only {marked} packets were marked: the marks' way was not compared");
}

/// Counts the packets that the program marks.
struct Counting<'a>(&'a mut Program, u32);

impl super::Decider for Counting<'_> {
    fn decide(
        &mut self,
        packet: &super::Packet,
        link: &crate::model::Link,
    ) -> Result<super::Fast, super::DeciderError> {
        let fast = self.0.decide(packet, link)?;
        self.1 += u32::from(fast.action == Action::Mark);
        Ok(fast)
    }
}

impl super::Refresh for Counting<'_> {
    fn refresh(&mut self, host: &crate::model::Host) -> Result<(), super::DeciderError> {
        self.0.refresh(host)
    }
}
