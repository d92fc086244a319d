//! The maps, kept in step with a [`Generation`].

use super::grace::wait_for_running_programs;
use super::{Error, Result};
use crate::compile::Generation;
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use router_common::layout::*;
use router_common::verdict::PassReason;
use std::collections::BTreeMap;
use std::time::Duration;

/// Every map of the program.
pub(super) struct Tables {
    config: Array<MapData, Config>,
    lease: Array<MapData, u64>,
    links: HashMap<MapData, u32, LinkEntry>,
    rules: Array<MapData, RuleEntry>,
    routes4: LpmTrie<MapData, RouteKey4, RouteEntry>,
    routes6: LpmTrie<MapData, RouteKey6, RouteEntry>,
    addrs4: LpmTrie<MapData, [u8; 4], AddrFlags>,
    addrs6: LpmTrie<MapData, [u8; 16], AddrFlags>,
    neighbours: HashMap<MapData, NeighbourKey, NeighbourEntry>,
    marks: Array<MapData, MarkEntry>,
    marks_in_use: Array<MapData, u32>,
    rule_counters: PerCpuArray<MapData, Counter>,
    pass_counters: PerCpuArray<MapData, PassCounter>,
    decision: Array<MapData, Decision>,
    /// What the maps hold: after every single write, so that a failed `apply` leaves it true.
    installed: Generation,
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

impl Tables {
    /// Takes the maps of a freshly loaded object: all empty.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut tables = Tables {
            config: take(ebpf, "CONFIG")?,
            lease: take(ebpf, "LEASE")?,
            links: take(ebpf, "LINKS")?,
            rules: take(ebpf, "RULES")?,
            routes4: take(ebpf, "ROUTES4")?,
            routes6: take(ebpf, "ROUTES6")?,
            addrs4: take(ebpf, "ADDRS4")?,
            addrs6: take(ebpf, "ADDRS6")?,
            neighbours: take(ebpf, "NEIGHBOURS")?,
            marks: take(ebpf, "MARKS")?,
            marks_in_use: take(ebpf, "MARKS_IN_USE")?,
            rule_counters: take(ebpf, "RULE_COUNTERS")?,
            pass_counters: take(ebpf, "PASS_COUNTERS")?,
            decision: take(ebpf, "DECISION")?,
            installed: Generation::default(),
            current: bytemuck::Zeroable::zeroed(),
            sampling: (0, 0),
        };
        tables.set_config(Config { abi: ABI_VERSION, ..tables.current })?;
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
        let installed = &mut self.installed;
        sync_map(&mut self.links, &mut installed.links, &wanted.links)?;
        sync_array(&mut self.rules, "RULES", &mut installed.rules, &wanted.rules)?;
        sync_map(&mut self.routes4, &mut installed.routes4, &wanted.routes4)?;
        sync_map(&mut self.routes6, &mut installed.routes6, &wanted.routes6)?;
        sync_map(&mut self.addrs4, &mut installed.addrs4, &wanted.addrs4)?;
        sync_map(&mut self.addrs6, &mut installed.addrs6, &wanted.addrs6)?;
        sync_map(&mut self.neighbours, &mut installed.neighbours, &wanted.neighbours)?;
        sync_array(&mut self.marks, "MARKS", &mut installed.marks, &wanted.marks)?;
        sync_array(&mut self.marks_in_use, "MARKS_IN_USE", &mut installed.marks_in_use, &wanted.marks_in_use)?;
        installed.mark_bits = wanted.mark_bits;
        installed.fragments = wanted.fragments;
        installed.keep_priority = wanted.keep_priority;
        installed.counters.clone_from(&wanted.counters);
        let config = Config {
            abi: ABI_VERSION,
            active: 0,
            marks: length(wanted.marks.len())?,
            fragments: wanted.fragments,
            mark_bits: wanted.mark_bits,
            marks_in_use: length(wanted.marks_in_use.len())?,
            keep_priority: u32::from(wanted.keep_priority),
            sample: self.sampling.0,
            generation: self.sampling.1,
        };
        // Inactive first: a program that runs meanwhile must not read the new switch with the old rest.
        self.set_config(config)?;
        self.set_config(Config { active: 1, ..config })
    }

    pub fn set_neighbour(&mut self, key: NeighbourKey, entry: Option<NeighbourEntry>) -> Result<()> {
        let known = &mut self.installed.neighbours;
        if known.get(&key) == entry.as_ref() {
            return Ok(());
        }
        match entry {
            Some(entry) => {
                Table::write(&mut self.neighbours, &key, &entry)?;
                known.insert(key, entry);
            }
            None => {
                Table::erase(&mut self.neighbours, &key)?;
                known.remove(&key);
            }
        }
        Ok(())
    }

    pub fn renew_lease(&mut self, duration: Duration) -> Result<()> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_err(|error| Error::from_os("read CLOCK_MONOTONIC", error.into()))?;
        let until = if duration.is_zero() { Duration::ZERO } else { Duration::from(now).saturating_add(duration) };
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.lease.set(0, until, 0).map_err(|error| Error::from_map("write the map LEASE", error))
    }

    pub fn rule_counters(&self) -> Result<Vec<Counter>> {
        let read = |slot: u32| {
            let values = self.rule_counters.get(&slot, 0)?;
            Ok(values.iter().fold(Counter::default(), |mut sum, counter| {
                for action in 0..4 {
                    sum.packets[action] += counter.packets[action];
                    sum.bytes[action] += counter.bytes[action];
                }
                sum
            }))
        };
        (0..length(self.installed.counters.len())?)
            .map(read)
            .collect::<Result<_, MapError>>()
            .map_err(|error| Error::from_map("read the map RULE_COUNTERS", error))
    }

    pub fn reset_rule_counter(&mut self, slot: u32) -> Result<()> {
        let what = "write the map RULE_COUNTERS";
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| Error::from_os(what, error))?;
        let values = PerCpuValues::try_from(vec![Counter::default(); cpus]).map_err(|e| Error::from_os(what, e))?;
        self.rule_counters.set(slot, values, 0).map_err(|error| Error::from_map(what, error))
    }

    pub fn pass_counters(&self) -> Result<Vec<(PassReason, PassCounter)>> {
        let read = |reason: &PassReason| {
            let values = self.pass_counters.get(&u32::from(*reason as u8), 0)?;
            let sum = values.iter().fold(PassCounter::default(), |sum, counter| PassCounter {
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
        self.installed.links.get(&ifindex)
    }
}

fn length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::Full)
}

/// A map written entry by entry.
trait Table<K, V> {
    fn write(&mut self, key: &K, value: &V) -> Result<()>;
    fn erase(&mut self, key: &K) -> Result<()>;
}

impl<K: aya::Pod, V: aya::Pod> Table<K, V> for HashMap<MapData, K, V> {
    fn write(&mut self, key: &K, value: &V) -> Result<()> {
        self.insert(key, value, 0).map_err(|error| Error::from_map("write an entry of the fast path", error))
    }

    fn erase(&mut self, key: &K) -> Result<()> {
        self.remove(key).map_err(|error| Error::from_map("delete an entry of the fast path", error))
    }
}

impl<K: aya::Pod, V: aya::Pod> Table<(u32, K), V> for LpmTrie<MapData, K, V> {
    fn write(&mut self, (len, data): &(u32, K), value: &V) -> Result<()> {
        let written = self.insert(&Key::new(*len, *data), value, 0);
        written.map_err(|error| Error::from_map("write a prefix of the fast path", error))
    }

    fn erase(&mut self, (len, data): &(u32, K)) -> Result<()> {
        let erased = self.remove(&Key::new(*len, *data));
        erased.map_err(|error| Error::from_map("delete a prefix of the fast path", error))
    }
}

/// Writes what differs. What goes, goes first, so that a full map has room for what comes.
fn sync_map<K: Ord + Copy, V: PartialEq + Copy>(
    table: &mut impl Table<K, V>,
    installed: &mut BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> Result<()> {
    let gone: Vec<K> = installed.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    for key in gone {
        table.erase(&key)?;
        installed.remove(&key);
    }
    for (key, value) in wanted {
        if installed.get(key) != Some(value) {
            table.write(key, value)?;
            installed.insert(*key, *value);
        }
    }
    Ok(())
}

/// Writes what differs. Entries beyond the wanted ones stay behind: nothing refers to them.
fn sync_array<V: aya::Pod + PartialEq>(
    array: &mut Array<MapData, V>,
    name: &str,
    installed: &mut Vec<V>,
    wanted: &[V],
) -> Result<()> {
    installed.truncate(wanted.len());
    for (index, value) in wanted.iter().enumerate() {
        if installed.get(index) == Some(value) {
            continue;
        }
        array.set(length(index)?, value, 0).map_err(|error| Error::from_map(format!("write the map {name}"), error))?;
        match installed.get_mut(index) {
            Some(known) => *known = *value,
            None => installed.push(*value),
        }
    }
    Ok(())
}
