//! The maps, kept in step with a [`Generation`].

use super::grace::wait_for_running_programs;
use super::shared::Shared;
use super::{Counter, Error, Result};
use crate::compile::Generation;
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use router_common::interval::Line;
use router_common::layout::*;
use router_common::verdict::PassReason;
use std::collections::BTreeMap;
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
    /// What the maps hold, where the last `apply` came through; else what they are to hold.
    installed: Generation,
    /// Where in `GATEWAYS` a neighbour is.
    gateway_of: BTreeMap<NeighbourKey, u32>,
    /// What `CONFIG` holds.
    current: Config,
    /// What the next one gets as `sample` and `generation`.
    sampling: (u32, u32),
}

/// Takes a map out of a loaded object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T> {
    let map = ebpf.take_map(name).ok_or(Error::Object(name))?;
    T::try_from(map).map_err(|error| Error::from_any(format!("open the map {name}"), error))
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
            installed: Generation::default(),
            gateway_of: BTreeMap::new(),
            current: bytemuck::Zeroable::zeroed(),
            sampling: (0, 0),
        };
        tables.set_config(tables.installed.config)?;
        Ok(tables)
    }

    pub fn is_active(&self) -> bool {
        self.current.active != 0
    }

    pub fn sample(&mut self, threshold: u32, generation: u32) {
        self.sampling = (threshold, generation);
    }

    fn set_config(&mut self, config: Config) -> Result<()> {
        self.config.set(0, config, 0).map_err(|error| Error::from_map("write the map CONFIG", error))?;
        self.current = config;
        Ok(())
    }

    pub fn suspend(&mut self) -> Result<()> {
        if self.is_active() {
            self.set_config(Config { active: 0, ..self.current })?;
            wait_for_running_programs()?;
        }
        Ok(())
    }

    pub fn apply(&mut self, wanted: &Generation) -> Result<()> {
        if self.is_active() && self.installed == *wanted {
            return Ok(());
        }
        self.suspend()?;
        self.links.write(&wanted.links)?;
        self.lists.write(&wanted.lists)?;
        self.rules.write(&wanted.rules)?;
        self.steps.write(&wanted.steps)?;
        self.actions.write(&wanted.actions)?;
        self.selectors.write(&wanted.selectors)?;
        self.chains.write(&wanted.chains)?;
        self.tables.write(&wanted.tables)?;
        self.routes.write(&wanted.routes)?;
        self.lines.write(&wanted.lines)?;
        self.marks.write(&wanted.marks)?;
        self.marks_in_use.write(&wanted.marks_in_use)?;
        self.gateway_of = wanted.gateways.iter().copied().zip(0..).collect();
        let word = |key: &NeighbourKey| wanted.neighbours.get(key).map_or(0, gateway_word);
        self.gateways.write(&wanted.gateways.iter().map(word).collect::<Vec<_>>())?;
        let installed = std::mem::take(&mut self.installed.neighbours);
        self.installed = Generation { neighbours: installed, ..wanted.clone() };
        sync_neighbours(&mut self.neighbours, &mut self.installed.neighbours, &wanted.neighbours)?;
        let (sample, generation) = self.sampling;
        let epoch = self.current.epoch.wrapping_add(1).max(1);
        let config = Config { sample, generation, epoch, counters: self.counters.0, ..wanted.config };
        // Inactive first: a program that runs meanwhile must not read the new switch with the old rest.
        self.set_config(config)?;
        self.set_config(Config { active: 1, ..config })
    }

    pub fn set_neighbour(&mut self, key: NeighbourKey, entry: Option<NeighbourEntry>) -> Result<()> {
        let known = &mut self.installed.neighbours;
        if known.get(&key) == entry.as_ref() {
            return Ok(());
        }
        if let Some(gateway) = self.gateway_of.get(&key) {
            self.gateways.store(*gateway, entry.as_ref().map_or(0, gateway_word));
        }
        set_neighbour(&mut self.neighbours, known, key, entry)
    }

    pub fn renew_lease(&mut self, duration: Duration) -> Result<()> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_err(|error| Error::from_os("read CLOCK_MONOTONIC", error.into()))?;
        let until = if duration.is_zero() { Duration::ZERO } else { Duration::from(now).saturating_add(duration) };
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.lease.set(0, until, 0).map_err(|error| Error::from_map("write the map LEASE", error))
    }

    pub fn rule_counters(&self) -> Vec<Counter> {
        (0..self.installed.counters.len() as u32).map(|slot| self.rule_counter(slot)).collect()
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
        self.installed.link(ifindex)
    }
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
