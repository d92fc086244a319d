//! The programs of the benchmark that look addresses up and do no more. See `router_common::bench::lookups`.

use super::object::BENCH_OBJECT;
use super::tables::take;
use super::{Error, Result};
use crate::model::Family;
use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use router_common::bench::lookups::{Found, Lookups};
use router_common::interval::Line;
use std::time::Duration;

/// What prefixes can be held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Structure {
    /// Nothing: addresses are made and not looked up.
    None,
    /// The trees of `router_common::interval`.
    Tree,
    /// The kernel's map of prefixes.
    Trie,
    /// One hash for every length that occurs.
    Hashes,
}

impl Structure {
    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Structure::None => "none",
            Structure::Tree => "tree",
            Structure::Trie => "LPM_TRIE",
            Structure::Hashes => "hashes",
        }
    }

    fn program(self, family: Family) -> Option<&'static str> {
        Some(match (self, family) {
            (Structure::None, Family::Ipv4) => "lookup_none4",
            (Structure::None, Family::Ipv6) => "lookup_none6",
            (Structure::Tree, Family::Ipv4) => "lookup_tree4",
            (Structure::Tree, Family::Ipv6) => "lookup_tree6",
            (Structure::Trie, Family::Ipv4) => "lookup_trie4",
            (Structure::Trie, Family::Ipv6) => "lookup_trie6",
            (Structure::Hashes, Family::Ipv4) => "lookup_hashes4",
            (Structure::Hashes, Family::Ipv6) => return None,
        })
    }

    /// The structures that there are for a family.
    pub fn of(family: Family) -> impl Iterator<Item = Structure> {
        let all = [Structure::None, Structure::Tree, Structure::Trie, Structure::Hashes];
        all.into_iter().filter(move |structure| structure.program(family).is_some())
    }
}

/// The maps of all structures, for one family, and the programs over them.
pub struct LookupMaps {
    ebpf: Ebpf,
    family: Family,
    lookups: Array<MapData, Lookups>,
    found: Array<MapData, Found>,
}

impl LookupMaps {
    /// Empty maps with room for so many prefixes and lines, and the programs of the family.
    pub fn load(family: Family, prefixes: u32, lines: u32) -> Result<Self> {
        if BENCH_OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let mut loader = EbpfLoader::new();
        match family {
            Family::Ipv4 => loader.map_max_entries("TRIE4", prefixes).map_max_entries("HASHES", prefixes),
            Family::Ipv6 => loader.map_max_entries("TRIE6", prefixes),
        };
        loader.map_max_entries("LINES", lines);
        let loaded = loader.load(BENCH_OBJECT);
        let mut ebpf = loaded.map_err(|error| Error::from_any("create the eBPF maps", error))?;
        for name in Structure::of(family).filter_map(|structure| structure.program(family)) {
            super::load::program(&mut ebpf, name)?;
        }
        Ok(LookupMaps { lookups: take(&mut ebpf, "LOOKUPS")?, found: take(&mut ebpf, "FOUND")?, ebpf, family })
    }

    /// Writes the lines of the tree.
    pub fn set_lines(&mut self, lines: &[Line]) -> Result<()> {
        let mut map: Array<MapData, Line> = take(&mut self.ebpf, "LINES")?;
        let written = (0..).zip(lines).try_for_each(|(index, line)| map.set(index, line, 0));
        written.map_err(|error| Error::from_map("write the map LINES", error))
    }

    /// Fills the trie of IPv4 with addresses in host byte order, their lengths and values.
    pub fn set_trie4(&mut self, prefixes: impl Iterator<Item = (u32, u32, u32)>) -> Result<()> {
        self.set_trie("TRIE4", prefixes.map(|(address, length, value)| (address.to_be(), length, value)))
    }

    /// As [`LookupMaps::set_trie4`].
    pub fn set_trie6(&mut self, prefixes: impl Iterator<Item = ([u32; 4], u32, u32)>) -> Result<()> {
        self.set_trie("TRIE6", prefixes.map(|(address, length, value)| (address.map(u32::to_be), length, value)))
    }

    fn set_trie<K: Pod>(&mut self, name: &'static str, prefixes: impl Iterator<Item = (K, u32, u32)>) -> Result<()> {
        let mut map: LpmTrie<MapData, K, u32> = take(&mut self.ebpf, name)?;
        let mut prefixes = prefixes;
        let written = prefixes.try_for_each(|(key, length, value)| map.insert(&Key::new(length, key), value, 0));
        written.map_err(|error| Error::from_map("write the trie of prefixes", error))
    }

    /// As [`LookupMaps::set_trie4`], for the hashes.
    pub fn set_hashes4(&mut self, mut prefixes: impl Iterator<Item = (u32, u32, u32)>) -> Result<()> {
        let mut map: HashMap<MapData, [u32; 2], u32> = take(&mut self.ebpf, "HASHES")?;
        let written = prefixes.try_for_each(|(address, length, value)| map.insert([length, address], value, 0));
        written.map_err(|error| Error::from_map("write the map HASHES", error))
    }

    /// What the next runs look up, from the address number `first` on.
    pub fn aim(&mut self, lookups: &Lookups, first: u32) -> Result<()> {
        self.lookups.set(0, lookups, 0).map_err(|error| Error::from_map("write the map LOOKUPS", error))?;
        let found = Found { next: first.into(), sum: 0 };
        self.found.set(0, found, 0).map_err(|error| Error::from_map("write the map FOUND", error))
    }

    /// Runs a structure's program `repeat` times on the CPU of the calling thread: the mean time of a run, and the sum of all
    /// values found since [`LookupMaps::aim`].
    pub fn run(&self, structure: Structure, repeat: u32) -> Result<(Duration, u64)> {
        let what = "look addresses up (BPF_PROG_TEST_RUN)";
        let name = structure.program(self.family).ok_or(Error::Object("lookups"))?;
        let program = self.ebpf.program(name).ok_or(Error::Object(name))?;
        let program: &SchedClassifier = program.try_into().map_err(|_| Error::Object(name))?;
        let mut options = TestRunOptions::new();
        // A TC program gets a frame, whatever it is for.
        options.data_in = Some(&[0; 64]);
        options.repeat = repeat;
        let time = program.test_run(options).map_err(|error| Error::from_any(what, error))?.duration;
        let found = self.found.get(&0, 0).map_err(|error| Error::from_map("read the map FOUND", error))?;
        Ok((time, found.sum))
    }
}

impl std::fmt::Debug for LookupMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookupMaps").field("family", &self.family).finish_non_exhaustive()
    }
}
