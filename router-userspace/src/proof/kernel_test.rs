//! The reference against the running kernel: random routers, packets around their boundaries, RTM_GETROUTE.
#![allow(clippy::unwrap_used)]

use super::generate::Generator;
use super::testing::{INTERFACES, randomize, world};
use super::{Measure, ask, route_command, rule_command};
use crate::model::Host;
use router_common::verdict::Verdict;
use std::collections::BTreeMap;

/// All that makes a host, to be pasted.
fn commands(host: &Host) -> String {
    let mut lines: Vec<String> = host.rules.iter().map(rule_command).collect();
    let added = host.routes.iter().filter(|route| route.protocol != 2);
    lines.extend(added.map(|route| route_command(host, route)));
    lines.join("\n")
}

/// Compares on one random router; gives how many packets got each verdict.
fn compare(seed: u64, packets: usize) -> BTreeMap<Verdict, usize> {
    let Some(world) = world() else { return BTreeMap::new() };
    world.run(|kernel| {
        let host = randomize(kernel, &mut fastrand::Rng::with_seed(seed));
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
                commands(&host)
            );
        }
        verdicts
    })
}

#[test]
fn the_reference_decides_as_the_kernel_on_random_routers() {
    let routers: u64 = std::env::var("WAYFORK_ROUTERS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let mut all: BTreeMap<Verdict, usize> = BTreeMap::new();
    for seed in 0..routers {
        for (verdict, count) in compare(seed, 500) {
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
