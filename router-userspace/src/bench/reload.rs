//! `wayfork reload` of a running router while packets flow: what becomes of each of them.

use super::loading::{self, Rise};
use super::measure::{Burst, Driver};
use super::paths::{Path, Ready};
use super::report::UpdateRow;
use super::rules::{self, Way};
use super::{Error, Flows, Options, Result, Traffic};
use crate::fastpath::Switch;
use crate::model::Family;
use router_common::bench::{Count, Plan};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a policy file may have much of, and the path that is reloaded with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Rules.
    Rules,
    /// Prefixes of two sets.
    Prefixes,
}

impl Of {
    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Of::Rules => "rules",
            Of::Prefixes => "prefixes",
        }
    }

    /// The path that is reloaded.
    pub fn path(self) -> Result<&'static Path> {
        Path::named(match self {
            Of::Rules => "wayfork-redirect",
            Of::Prefixes => "sets-redirect",
        })
    }
}

/// Packets flow for so long before and after.
const AROUND: Duration = Duration::from_millis(100);

/// Starts with the rules (or prefixes) of the traffic alone, puts all of `size` into their place, then moves two from one exit to
/// the other, at once, and back.
pub fn measure(driver: &mut Driver, of: Of, family: Family, size: u32, options: &Options) -> Result<Vec<UpdateRow>> {
    let path = of.path()?;
    let plan = Plan::new(rules::family_number(family), size, path.exits);
    let plan = plan.ok_or_else(|| Error::invalid(format!("{size} {} (1 to 1,048,576)", of.name())))?;
    let all = rules::ways(&plan, &[]);
    let used: BTreeSet<u32> = (0..=Flows::Few.mask()).map(|flow| plan.rule_of(flow)).collect();
    let few: Vec<Way> = all.iter().filter(|way| used.contains(&way.0)).copied().collect();
    let mut ready = Ready::build_with(path, plan, &few, &mut driver.workload, options.patience)?;
    let traffic = Traffic { family, flows: Flows::Few, ..Traffic::default() };
    driver.check(&ready, traffic)?;
    driver.aim(&ready, traffic, false)?;
    let moved = moved(&plan);
    let steps = [
        ("load", all.clone(), Side::Original),
        ("change", rules::ways(&plan, &moved), Side::Moved),
        ("change", all, Side::Original),
    ];
    let mut rows = Vec::new();
    for (update, ways, to) in steps {
        let policy = ready.policy(&ways, rules::FIRST)?;
        rows.push(UpdateRow { update, of: of.name(), ..reload(driver, &ready, &policy, to, &moved)? });
    }
    // Not only those that the packets flowed by.
    driver.check(&ready, Traffic { flows: Flows::Random, ..traffic })?;
    ready.stop()?;
    Ok(rows)
}

/// The rules that move: that of the first flow, and that of another flow which leaves by the same exit.
fn moved(plan: &Plan) -> Vec<u32> {
    let first = plan.rule_of(0);
    let mut others = (1..=Flows::Few.mask()).map(|flow| plan.rule_of(flow));
    let other = others.find(|other| *other != first && plan.exit(*other) == plan.exit(first));
    [first].into_iter().chain(other).collect()
}

/// Reloads to a policy by which those of `moved` leave as `to` has it.
fn reload(driver: &Driver, ready: &Ready, policy: &str, to: Side, moved: &[u32]) -> Result<UpdateRow> {
    let (plan, pid) = (ready.plan, ready.pid().ok_or_else(|| Error::invalid("a router that runs"))?);
    let mut off = Off::new(Switch::among(loading::maps(pid).into_keys())?);
    let before = ready.actions()?.unwrap_or_default();
    // Of the reload, not of telling what was done so far.
    loading::forget_peak(pid)?;
    let (stop, mut maps, mut rise) = (AtomicBool::new(false), 0, Rise::begin());
    let mut seen = Seen::new(&plan, moved);
    let took = std::thread::scope(|scope| {
        let sender = scope.spawn(|| driver.stream(ready, &stop, &mut |burst| seen.note(burst)));
        std::thread::sleep(AROUND);
        let took = ready.reload(policy, &mut || {
            maps = maps.max(loading::maps(pid).values().sum());
            rise.look();
            off.look();
        });
        // The kernel may have told of something meanwhile: then it is all read once more.
        let end = Instant::now() + AROUND;
        while Instant::now() < end {
            off.look();
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Relaxed);
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.and(took)
    })?;
    // Before the router tells what was done.
    let peak_bytes = loading::memory(pid).peak;
    let after = ready.actions()?.unwrap_or_default();
    let more = |name: &str| after.get(name).unwrap_or(&0).saturating_sub(*before.get(name).unwrap_or(&0));
    let passed = after.keys().filter(|name| name.starts_with("pass: ")).map(|name| more(name)).sum();
    // The last packets are decided by the new policy, all of them.
    if seen.last != Some(to) {
        let what = format!("after a reload packets still went by the old rules: {seen:?}");
        return Err(Error::Path { path: ready.path.name, rules: plan.rules, what });
    }
    Ok(UpdateRow {
        sent: Some(seen.sent),
        arrived: Some(seen.arrived),
        lost: Some(seen.sent - seen.arrived),
        wrong: Some(seen.wrong),
        mixed_bursts: Some(seen.mixed),
        by_stack: Some(passed),
        by_resync: Some(more("pass: resync")),
        off_ms: off.time.map(|time| time.as_secs_f64() * 1e3),
        peak_bytes,
        map_bytes: Some(maps).filter(|bytes| *bytes > 0),
        kernel_bytes: rise.look(),
        ..UpdateRow::new("reload", "", plan.rules, rules::family(&plan), Some(took.as_secs_f64() * 1e3))
    })
}

/// Which policy a burst was decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Original,
    Moved,
    /// Some packets by the one, some by the other.
    Mixed,
}

/// How long the program did not decide.
struct Off {
    switch: Option<Switch>,
    /// None where it cannot be told.
    time: Option<Duration>,
    since: Instant,
    was_on: bool,
}

impl Off {
    fn new(switch: Option<Switch>) -> Self {
        Off { time: switch.as_ref().map(|_| Duration::ZERO), switch, since: Instant::now(), was_on: true }
    }

    /// Has to be called often: the time between two looks is off where either was.
    fn look(&mut self) {
        let on = self.switch.as_ref().is_none_or(|switch| switch.is_on().unwrap_or(false));
        let now = Instant::now();
        if !on || !self.was_on {
            self.time = self.time.map(|time| time + (now - self.since));
        }
        (self.since, self.was_on) = (now, on);
    }
}

/// What became of the packets.
#[derive(Debug)]
struct Seen {
    /// Of the packets of a burst, how many belong to rules that move.
    share: u64,
    sent: u64,
    arrived: u64,
    /// Arrived, but as neither policy has it.
    wrong: u64,
    mixed: u64,
    last: Option<Side>,
}

impl Seen {
    fn new(plan: &Plan, moved: &[u32]) -> Self {
        let flows = u64::from(Flows::Few.mask()) + 1;
        let of_moved = |flow: &u64| moved.contains(&plan.rule_of(*flow as u32));
        let share = (0..flows).filter(of_moved).count() as u64 * u64::from(Burst::PACKETS) / flows;
        Seen { share, sent: 0, arrived: 0, wrong: 0, mixed: 0, last: None }
    }

    /// Hears of a burst once all of it has arrived, or no more will.
    fn note(&mut self, burst: &Burst) {
        const { assert!(Count::Right as usize == 0 && Count::WrongExit as usize == 1) };
        let [right, exit, ..] = burst.counts;
        self.sent += burst.sent;
        self.arrived += burst.arrived();
        self.wrong += burst.arrived() - right - exit + exit.saturating_sub(self.share);
        let side = match exit {
            0 => Side::Original,
            _ if exit == self.share => Side::Moved,
            _ => Side::Mixed,
        };
        self.mixed += u64::from(side == Side::Mixed);
        self.last = Some(side);
    }
}
