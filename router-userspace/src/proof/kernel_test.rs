//! The reference against the running kernel: random routers, packets around their boundaries, RTM_GETROUTE.
#![allow(clippy::unwrap_used)]

use super::generate::Generator;
use super::testing::{INTERFACES, all_commands, have_object, randomize, world};
use super::{Measure, Program, Subject, ask, compare as compare_all, generated};
use crate::policy::Policy;
use router_common::verdict::Verdict;
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
    let routers = routers(40);
    let mut all: BTreeMap<Verdict, usize> = BTreeMap::new();
    for seed in 0..routers {
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

/// How many random routers a test tries; WAYFORK_ROUTERS for more of them.
fn routers(usual: u64) -> u64 {
    std::env::var("WAYFORK_ROUTERS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

#[test]
fn the_program_the_kernel_and_the_reference_agree_on_random_routers() {
    if !have_object() {
        return;
    }
    let (mut decided, mut all, mut passed, mut forward_passed) = (0, 0, BTreeMap::new(), BTreeMap::new());
    for seed in 0..routers(30) {
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
