//! The maps, kept in step with a [`Generation`].

use super::grace::wait_for_running_programs;
use super::shared::Shared;
use super::switch::{Stopper, held, write_config};
use super::{Counter, Error, Result};
use crate::compile::Generation;
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use router_common::interval::Line;
use router_common::layout::*;
use router_common::verdict::PassReason;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Every map of the program.
pub(super) struct Tables {
    config: Array<MapData, Config>,
    lease: Array<MapData, u64>,
    links: Shared<LinkEntry>,
    lists: Shared<ListEntry>,
    rules: Shared<RuleEntry>,
    steps: Shared<StepEntry>,
    actions: Shared<ActionEntry>,
    selectors: Shared<Selectors>,
    chains: Shared<u32>,
    tables: Shared<TableEntry>,
    routes: Shared<RouteEntry>,
    gateways: Shared<u64>,
    lines: Shared<Line>,
    neighbours: HashMap<MapData, NeighbourKey, NeighbourEntry>,
    marks: Shared<MarkEntry>,
    marks_in_use: Shared<u32>,
    rule_counters: Shared<Count>,
    /// How many of them each CPU has for each action, and how many CPUs there are.
    counters: (u32, u32),
    pass_counters: PerCpuArray<MapData, Count>,
    decision: Array<MapData, Decision>,
    /// What `LINKS` holds, and how many rules have counters: of the last `apply` that came through.
    known_links: Vec<LinkEntry>,
    counted: u32,
    /// What `NEIGHBOURS` holds.
    known_neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
    /// Where in `GATEWAYS` a neighbour is.
    gateway_of: BTreeMap<NeighbourKey, u32>,
    /// What `CONFIG` holds.
    current: Arc<Mutex<Config>>,
    /// No program decides, nor still runs that did.
    idle: bool,
    /// What the next one gets as `sample` and `generation`.
    sampling: (u32, u32),
}

/// Takes a map out of a loaded object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T> {
    let map = ebpf.take_map(name).ok_or(Error::Object(name))?;
    T::try_from(map).map_err(|error| Error::from_any(format!("open the map {name}"), error))
}

/// Does the same with every array that a generation fills, and with what it has for it.
macro_rules! with_each {
    ($tables:ident, $wanted:ident, |$map:ident, $values:ident| $work:expr) => {
        with_each!($tables, $wanted, |$map, $values| $work; links lists rules steps actions selectors chains tables routes lines
            marks marks_in_use)
    };
    ($tables:ident, $wanted:ident, |$map:ident, $values:ident| $work:expr; $($name:ident)*) => {
        $({
            let ($map, $values) = (&mut $tables.$name, &$wanted.$name);
            $work;
        })*
    };
}

fn share<T: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Shared<T>> {
    Shared::new(ebpf.take_map(name).ok_or(Error::Object(name))?, name)
}

impl Tables {
    /// Takes the maps of a freshly loaded object, all empty, with so many counters of rules.
    pub fn take(ebpf: &mut Ebpf, counters: u32) -> Result<Self> {
        let mut tables = Tables {
            config: take(ebpf, "CONFIG")?,
            lease: take(ebpf, "LEASE")?,
            links: share(ebpf, "LINKS")?,
            lists: share(ebpf, "LISTS")?,
            rules: share(ebpf, "RULES")?,
            steps: share(ebpf, "STEPS")?,
            actions: share(ebpf, "ACTIONS")?,
            selectors: share(ebpf, "SELECTORS")?,
            chains: share(ebpf, "CHAINS")?,
            tables: share(ebpf, "TABLES")?,
            routes: share(ebpf, "ROUTES")?,
            gateways: share(ebpf, "GATEWAYS")?,
            lines: share(ebpf, "LINES")?,
            neighbours: take(ebpf, "NEIGHBOURS")?,
            marks: share(ebpf, "MARKS")?,
            marks_in_use: share(ebpf, "MARKS_IN_USE")?,
            rule_counters: share(ebpf, "RULE_COUNTERS")?,
            counters: (counters, super::cpus()?),
            pass_counters: take(ebpf, "PASS_COUNTERS")?,
            decision: take(ebpf, "DECISION")?,
            known_links: Vec::new(),
            counted: 0,
            known_neighbours: BTreeMap::new(),
            gateway_of: BTreeMap::new(),
            current: Arc::new(Mutex::new(bytemuck::Zeroable::zeroed())),
            idle: true,
            sampling: (0, 0),
        };
        tables.set_config(Generation::default().config)?;
        Ok(tables)
    }

    pub fn is_active(&self) -> bool {
        self.current().active != 0
    }

    fn current(&self) -> Config {
        *held(&self.current)
    }

    pub fn sample(&mut self, threshold: u32, generation: u32) {
        self.sampling = (threshold, generation);
    }

    fn set_config(&mut self, config: Config) -> Result<()> {
        write_config(&mut self.config, &mut held(&self.current), config)
    }

    pub fn suspend(&mut self) -> Result<()> {
        // One that a `Stopper` has stopped may still be running somewhere.
        if !self.idle {
            self.set_config(Config { active: 0, ..self.current() })?;
            wait_for_running_programs()?;
            self.idle = true;
        }
        Ok(())
    }

    /// Something else may stop the program meanwhile.
    pub fn stopper(&self) -> Result<Stopper> {
        Stopper::new(&self.config, Arc::clone(&self.current))
    }

    pub fn apply(&mut self, wanted: &Generation) -> Result<()> {
        // While the program may still decide by what the maps hold: what is already as it is to be is not written again, and the
        // time without decisions is that of writing the rest.
        let word = |key: &NeighbourKey| wanted.neighbours.get(key).map_or(0, gateway_word);
        let gateways: Vec<u64> = wanted.gateways.iter().map(word).collect();
        let mut same = self.gateways.compare(&gateways)?;
        with_each!(self, wanted, |map, values| same &= map.compare(values)?);
        let (sample, generation) = self.sampling;
        let counters = self.counters.0;
        let epoch = self.current().epoch;
        let config = Config { sample, generation, counters, epoch, active: 1, ..wanted.config };
        if same && self.current() == config && self.known_neighbours == wanted.neighbours {
            self.note(wanted);
            return Ok(());
        }
        self.suspend()?;
        with_each!(self, wanted, |map, values| map.write(values));
        self.gateways.write(&gateways);
        sync_neighbours(&mut self.neighbours, &mut self.known_neighbours, &wanted.neighbours)?;
        self.note(wanted);
        let epoch = epoch.wrapping_add(1).max(1);
        // Inactive first: a program that runs meanwhile must not read the new switch with the old rest.
        self.set_config(Config { epoch, active: 0, ..config })?;
        self.idle = false;
        self.set_config(Config { epoch, ..config })
    }

    fn note(&mut self, wanted: &Generation) {
        self.gateway_of = wanted.gateways.iter().copied().zip(0..).collect();
        self.known_links.clone_from(&wanted.links);
        self.counted = wanted.counters.len() as u32;
    }

    pub fn set_neighbour(&mut self, key: NeighbourKey, entry: Option<NeighbourEntry>) -> Result<()> {
        let known = &mut self.known_neighbours;
        if known.get(&key) == entry.as_ref() {
            return Ok(());
        }
        if let Some(gateway) = self.gateway_of.get(&key) {
            self.gateways.store(*gateway, entry.as_ref().map_or(0, gateway_word));
        }
        set_neighbour(&mut self.neighbours, known, key, entry)
    }

    pub fn renew_lease(&mut self, duration: Duration) -> Result<()> {
        let until = if duration.is_zero() { Duration::ZERO } else { now()?.saturating_add(duration) };
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.lease.set(0, until, 0).map_err(|error| Error::from_map("write the map LEASE", error))
    }

    pub fn rule_counters(&self) -> Vec<Counter> {
        (0..self.counted).map(|slot| self.rule_counter(slot)).collect()
    }

    fn rule_counter(&self, slot: u32) -> Counter {
        let mut sum = Counter::default();
        for (cpu, action) in self.parts() {
            let count = self.rule_counters.read(counter_index(cpu, action, slot, self.counters.0));
            sum.packets[action as usize] += count.packets;
            sum.bytes[action as usize] += count.bytes;
        }
        sum
    }

    /// Every CPU and every action that is counted.
    fn parts(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let cpus = self.counters.1;
        (0..ACTIONS_COUNTED).flat_map(move |action| (0..cpus).map(move |cpu| (cpu, action)))
    }

    pub fn pass_counters(&self) -> Result<Vec<(PassReason, Count)>> {
        let read = |reason: &PassReason| {
            let values = self.pass_counters.get(&u32::from(*reason as u8), 0)?;
            let sum = values.iter().fold(Count::default(), |sum, counter| Count {
                packets: sum.packets + counter.packets,
                bytes: sum.bytes + counter.bytes,
            });
            Ok((*reason, sum))
        };
        PassReason::ALL
            .iter()
            .map(read)
            .collect::<Result<_, MapError>>()
            .map_err(|error| Error::from_map("read the map PASS_COUNTERS", error))
    }

    /// What the probe wrote last.
    pub fn decision(&self) -> Result<Decision> {
        self.decision.get(&0, 0).map_err(|error| Error::from_map("read the map DECISION", error))
    }

    /// What is known of an interface.
    pub fn link(&self, ifindex: u32) -> Option<&LinkEntry> {
        let at = self.known_links.binary_search_by_key(&ifindex, |link| link.index).ok()?;
        self.known_links.get(at)
    }
}

/// The time by which leases are told: CLOCK_MONOTONIC.
pub(super) fn now() -> Result<Duration> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).map_err(|error| Error::from_os("read CLOCK_MONOTONIC", error.into()))
}

/// A neighbour as it lies in `GATEWAYS`.
fn gateway_word(entry: &NeighbourEntry) -> u64 {
    bytemuck::cast(*entry)
}

/// Writes what differs. What goes, goes first, so that a full map has room for what comes.
fn sync_neighbours(
    map: &mut HashMap<MapData, NeighbourKey, NeighbourEntry>,
    installed: &mut BTreeMap<NeighbourKey, NeighbourEntry>,
    wanted: &BTreeMap<NeighbourKey, NeighbourEntry>,
) -> Result<()> {
    let gone: Vec<NeighbourKey> = installed.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    for key in gone {
        set_neighbour(map, installed, key, None)?;
    }
    for (key, entry) in wanted {
        if installed.get(key) != Some(entry) {
            set_neighbour(map, installed, *key, Some(*entry))?;
        }
    }
    Ok(())
}

fn set_neighbour(
    map: &mut HashMap<MapData, NeighbourKey, NeighbourEntry>,
    installed: &mut BTreeMap<NeighbourKey, NeighbourEntry>,
    key: NeighbourKey,
    entry: Option<NeighbourEntry>,
) -> Result<()> {
    match entry {
        Some(entry) => {
            map.insert(key, entry, 0).map_err(|error| Error::from_map("write a neighbour of the fast path", error))?;
            installed.insert(key, entry);
        }
        None => {
            map.remove(&key).map_err(|error| Error::from_map("delete a neighbour of the fast path", error))?;
            installed.remove(&key);
        }
    }
    Ok(())
}
