//! The differential test: random policies of the whole language, packets around their boundaries, and what the program, the
//! kernel and the reference say about each.
//!
//! `cargo xtask test` runs the same rounds always; `cargo xtask soak` runs the same test with others, for as long as asked:
//! WAYFORK_SOAK_MINUTES says how long, WAYFORK_SEED with which round to begin.
#![allow(clippy::unwrap_used)]

use super::testing::{clear, have_object, marks, randomize_more, world};
use super::{Decider, DeciderError, Fast, Packet, Program, Refresh, Report, Subject, compare, generated};
use crate::model::{Host, Link, MarkRule};
use router_common::verdict::{Action, PassReason, Verdict};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Rounds of the fixed run.
const ROUNDS: u64 = 27;
/// Policies of one round: they share a namespace, one after another, and the `[[mark]]` statements.
const POLICIES: u64 = 20;
/// Packets for each policy.
const PACKETS: u64 = 400;

/// What came of all rounds.
#[derive(Debug, Default)]
struct Tally {
    policies: u64,
    packets: u64,
    decided: u64,
    unasked: u64,
    verdicts: BTreeMap<String, u64>,
    passed: BTreeMap<String, u64>,
    forward_passed: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, report: Report) {
        self.policies += 1;
        self.packets += report.packets;
        self.decided += report.decided;
        self.unasked += report.unasked;
        for (sums, counts) in [
            (&mut self.verdicts, report.verdicts),
            (&mut self.passed, report.passed),
            (&mut self.forward_passed, report.forward_passed),
        ] {
            counts.into_iter().for_each(|(name, count)| *sums.entry(name).or_default() += count);
        }
    }
}

/// One round, the same for the same seed; it ends with the first packet about which not all agree. False where this process
/// may not make namespaces. `program` is loaded in the first round, and goes on to the next one.
fn round(seed: u64, program: &mut Option<Program>, tally: &mut Tally) -> bool {
    let Some(world) = world() else { return false };
    world.run(|kernel| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let policy = marks(&mut rng);
        for number in 0..POLICIES {
            if number > 0 {
                clear(kernel);
            }
            let host = randomize_more(kernel, &mut rng, number % 4 != 0);
            match program {
                Some(program) => {
                    program.refresh(&host, &policy.mark_rules()).unwrap();
                }
                None if crate::fastpath::EBPF_OBJECT.is_empty() => {}
                None => *program = Some(Program::load(&host, &policy, None).unwrap()),
            }
            let decider: &mut dyn Refresh = match program {
                Some(program) => program,
                None => &mut Absent,
            };
            let of_packets = rng.u64(..);
            let packets = &mut generated(&host, &policy.mark_rules(), of_packets, PACKETS);
            let mut subject =
                Subject { kernel, decider, policy: Some(&policy), scratch: None, throw_away: true };
            let report = compare(&mut subject, host, packets, &mut |_| {}).unwrap();
            if report.moved > 0 {
                eprintln!("round {seed}, policy {number}: {} disagreements were gone a moment later", report.moved);
            }
            if let Some(example) = &report.counterexample {
                panic!(
                    "round {seed}, policy {number}: {:?} differs\n{:#?}\n{}\n\n{}\n{}\n\nto repeat it: cargo xtask soak --minutes 0 --seed {seed}",
                    example.differs,
                    example.explanation,
                    example.not_shrunk.as_deref().unwrap_or("the smallest policy and packet:"),
                    example.commands.join("\n"),
                    example.policy.as_deref().unwrap_or_default(),
                );
            }
            tally.add(report);
        }
    });
    true
}

/// Stands in where the program was not built: kernel and reference are compared all the same.
struct Absent;

impl Decider for Absent {
    fn decide(&mut self, packet: &Packet, _: &Link) -> Result<Fast, DeciderError> {
        Ok(Fast {
            action: Action::Pass,
            verdict: Verdict::Undecided,
            reason: Some(PassReason::Resync),
            oif: 0,
            via: None,
            table: 0,
            rule_id: None,
            mark: packet.mark,
        })
    }
}

impl Refresh for Absent {
    fn refresh(&mut self, _: &Host, _: &[MarkRule]) -> Result<(), DeciderError> {
        Ok(())
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn the_program_the_kernel_and_the_reference_agree_on_random_policies() {
    let soak = number("WAYFORK_SOAK_MINUTES").map(|minutes| Duration::from_secs(minutes * 60));
    let object = have_object();
    let started = Instant::now();
    let first = number("WAYFORK_SEED").unwrap_or_else(|| if soak.is_some() { fastrand::u64(..1 << 48) } else { 0 });
    let (mut program, mut tally) = (None, Tally::default());
    for seed in first.. {
        match soak {
            Some(limit) => {
                let left = limit.saturating_sub(started.elapsed()).as_secs();
                if left == 0 && seed > first {
                    break;
                }
                eprintln!("round {seed}: {} policies, {} packets so far; {left} s left", tally.policies, tally.packets);
            }
            None if seed - first == ROUNDS => break,
            None => {}
        }
        if !round(seed, &mut program, &mut tally) {
            return;
        }
    }
    eprintln!("{tally:#?}");
    if soak.is_some() {
        return;
    }
    assert!(tally.policies >= 500 && tally.packets >= 200_000, "too few: {tally:?}");
    // A comparison that never sees a verdict proves nothing about it.
    for verdict in Verdict::ALL.into_iter().filter(|verdict| *verdict != Verdict::Undecided) {
        assert!(tally.verdicts.get(verdict.name()).is_some_and(|count| *count >= 500), "{}: {tally:?}", verdict.name());
    }
    assert_eq!(tally.verdicts.get(Verdict::Undecided.name()), None, "the reference knows all that is random");
    assert!(!object || tally.decided * 4 > tally.packets, "hardly anything was compared: {tally:?}");
}
