//! Random routers, each built twice: one alone with its stack, the other with `wayfork run`. What comes out of both is the same
//! to the byte: interface, next hop, TTL, checksums, DSCP, payload, mark, segments.
//!
//! `WAYFORK_SEED` and `WAYFORK_ROUNDS` choose other routers and more of them; a failure names the seed of its round.

mod packets;
mod router;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use packets::{Flow, comparable};
use router::Plan;
use std::collections::BTreeMap;
use std::time::Duration;
use wayfork::kernel::Kernel;
use wayfork::proof::{route_command, rule_command};
use wayfork_tests::rig::{Rig, Seen};

/// Rounds without `WAYFORK_ROUNDS`.
const ROUNDS: u64 = 24;
/// Packets of a round.
const FLOWS: usize = 150;

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
    drop: u64,
    passed: BTreeMap<String, u64>,
    sent: usize,
    came_out: usize,
}

impl Tally {
    fn add(&mut self, status: &serde_json::Value) {
        for rule in status["rules"].as_array().into_iter().flatten() {
            let packets = |action: &str| rule["actions"][action]["packets"].as_u64().unwrap_or(0);
            self.redirect += packets("redirect");
            self.mark += packets("mark");
            self.drop += packets("drop");
        }
        for (reason, count) in status["pass_reasons"].as_object().into_iter().flatten() {
            *self.passed.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }
}

/// The bits of the mark that Wayfork's class rules look at.
fn class_bits(rig: &Rig) -> Result<u32> {
    let rules = rig.kernel(|kernel| kernel.rules())?;
    Ok(rules.iter().filter_map(wayfork::safety::as_class_rule).map(|(bits, _, _)| bits).fold(0, |all, bits| all | bits))
}

/// What came out of both, by the name of the flow.
fn both(alone: &Rig, with: &Rig, flows: &[&Flow], quiet: Duration) -> Result<BTreeMap<String, [Vec<Seen>; 2]>> {
    let mut all: BTreeMap<String, [Vec<Seen>; 2]> = BTreeMap::new();
    let bits = class_bits(with)?;
    for (place, rig) in [alone, with].into_iter().enumerate() {
        for flow in flows {
            flow.send(rig).with_context(|| format!("{flow:?}"))?;
        }
        for one in comparable(rig.catch(quiet)?, bits) {
            all.entry(one.caught.name.clone()).or_default()[place].push(one);
        }
    }
    Ok(all)
}

fn round(seed: u64, tally: &mut Tally) -> Result<bool> {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::new(&mut rng);
    let (Some(alone), Some(with)) = (plan.build(crate::EXE)?, plan.build(crate::EXE)?) else { return Ok(false) };
    let flows: Vec<Flow> = (0..FLOWS).map(|number| Flow::new(&mut rng, &plan, format!("n{number}"))).collect();
    let daemon = with.run("auto", "")?;
    let first = both(&alone, &with, &flows.iter().collect::<Vec<_>>(), Duration::from_millis(60))?;
    tally.sent += flows.len();
    tally.came_out += first.len();
    let differ = |all: &BTreeMap<String, [Vec<Seen>; 2]>| -> Vec<String> {
        all.iter().filter(|(_, [one, other])| one != other).map(|(name, _)| name.clone()).collect()
    };
    // A busy machine delivers late: what differed is sent once more, by itself and with more patience.
    for name in differ(&first) {
        let flow = flows.iter().find(|flow| flow.name == name).context("a packet that nobody sent")?;
        let again = both(&alone, &with, &[flow], Duration::from_millis(400))?;
        ensure!(differ(&again).is_empty(), "{}", report(seed, &plan, flow, &again, &with)?);
    }
    tally.add(&with.status()?);
    ensure!(daemon.stop()?.success());
    Ok(true)
}

/// All that is needed to see what went wrong.
fn report(seed: u64, plan: &Plan, flow: &Flow, all: &BTreeMap<String, [Vec<Seen>; 2]>, rig: &Rig) -> Result<String> {
    let mut text = format!("seed {seed}\n{:#?}\n{flow:?}\n", plan.interfaces);
    let host = rig.kernel(|kernel| kernel.host())?;
    for rule in &host.rules {
        text += &format!("{}\n", rule_command(rule));
    }
    for route in host.routes.iter().filter(|route| route.table != 255 && route.protocol != 2) {
        text += &format!("{}\n", route_command(&host, route));
    }
    for (name, seen) in all.values().flat_map(|sides| ["stack", "wayfork"].into_iter().zip(sides)) {
        for one in seen {
            text += &format!("{name}: {} mark {:#x} gso {} ", one.dev, one.caught.mark, one.caught.gso_size);
            text += &format!(
                "{} bytes {:02x?}\n",
                one.caught.frame.len(),
                &one.caught.frame[..one.caught.frame.len().min(80)]
            );
        }
    }
    for interface in rig.status()?["interfaces"].as_array().into_iter().flatten() {
        text += &format!("{interface}\n");
    }
    Ok(text)
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
    ensure!(tally.redirect as usize > tally.sent / 10, "the fast path hardly took part: {tally:?}");
    ensure!(tally.came_out > tally.sent / 3, "hardly anything came out: {tally:?}");
    Ok(())
}
