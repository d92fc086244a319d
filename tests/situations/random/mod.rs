//! Random routers, each built twice: one alone with its stack, the other with `wayfork run`. What comes out of both is the same
//! to the byte: interface, next hop, TTL, checksums, DSCP, payload, mark, segments.
//!
//! `WAYFORK_SEED` and `WAYFORK_ROUNDS` choose other routers and more of them; a failure names the seed of its round.

mod packets;
mod router;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use router::Plan;
use std::collections::BTreeMap;
use wayfork::kernel::Kernel;
use wayfork::proof::{route_command, rule_command};
use wayfork_tests::rig::Rig;
use wayfork_tests::twins::Twins;

/// Rounds without `WAYFORK_ROUNDS`.
const ROUNDS: u64 = 24;
/// Packets of a round.
const PACKETS: usize = 150;

pub(super) fn pick<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.usize(..values.len())]
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{name} is to be a number"))?))
}

/// What the fast path did, over all rounds.
#[derive(Debug, Default)]
struct Tally {
    redirect: u64,
    mark: u64,
    /// Of these, on routers with a policy file.
    mark_with_file: u64,
    drop: u64,
    passed: BTreeMap<String, u64>,
    sent: usize,
    came_out: usize,
}

impl Tally {
    fn add(&mut self, status: &serde_json::Value, file: bool) {
        for rule in status["rules"].as_array().into_iter().flatten() {
            let packets = |action: &str| rule["actions"][action]["packets"].as_u64().unwrap_or(0);
            self.redirect += packets("redirect");
            self.mark += packets("mark");
            self.mark_with_file += if file { packets("mark") } else { 0 };
            self.drop += packets("drop");
        }
        for (reason, count) in status["pass_reasons"].as_object().into_iter().flatten() {
            *self.passed.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }
}

fn round(seed: u64, tally: &mut Tally) -> Result<bool> {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::new(&mut rng);
    let (Some(alone), Some(with)) = (plan.build(crate::EXE)?, plan.build(crate::EXE)?) else { return Ok(false) };
    let twins = Twins { alone, with };
    let arrivals: Vec<_> =
        (0..PACKETS).map(|number| packets::arrival(&mut rng, &plan, &format!("n{number}"))).collect();
    let alone = if plan.policy.is_empty() { None } else { Some(twins.alone.run("netlink", &plan.policy)?) };
    let daemon = twins.run("auto", &format!("{}{}", plan.cap, plan.policy))?;
    let departures = twins.compare(&arrivals).with_context(|| describe(seed, &plan, &twins.with))?;
    tally.sent += arrivals.len();
    tally.came_out += departures.values().filter(|[seen, _]| !seen.is_empty()).count();
    tally.add(&twins.with.status()?, !plan.policy.is_empty());
    for daemon in alone.into_iter().chain([daemon]) {
        ensure!(daemon.stop()?.success());
    }
    Ok(true)
}

/// How to make this router.
fn describe(seed: u64, plan: &Plan, rig: &Rig) -> String {
    let mut text = format!("seed {seed}\n{:#?}\n{}{}\n", plan.interfaces, plan.cap, plan.policy);
    if let Ok(host) = rig.kernel(|kernel| kernel.host()) {
        text.extend(host.rules.iter().map(|rule| format!("{}\n", rule_command(rule))));
        let added = host.routes.iter().filter(|route| route.table != 255 && route.protocol != 2);
        text.extend(added.map(|route| format!("{}\n", route_command(&host, route))));
    }
    text
}

#[test]
fn random_routers_treat_every_packet_as_the_stack_does() -> Result<()> {
    let rounds = from_environment("WAYFORK_ROUNDS")?.unwrap_or(ROUNDS);
    let seed = from_environment("WAYFORK_SEED")?.unwrap_or(1);
    let mut tally = Tally::default();
    for round_seed in seed..seed + rounds {
        if !round(round_seed, &mut tally)? {
            return Ok(());
        }
    }
    println!("{tally:?}");
    // A few rounds may be anything.
    if rounds < ROUNDS {
        return Ok(());
    }
    ensure!(tally.redirect as usize > tally.sent / 10, "the fast path hardly took part: {tally:?}");
    ensure!(
        tally.mark as usize > tally.sent / 100 && tally.mark_with_file > 0,
        "hardly anything was marked: {tally:?}"
    );
    ensure!(tally.came_out > tally.sent / 3, "hardly anything came out: {tally:?}");
    Ok(())
}
