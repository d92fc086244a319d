//! Loading: the object, the sizes of its maps, both programs.

use super::error::release;
use super::tables::Tables;
use super::{EBPF_OBJECT, Error, PROBE, PROGRAM, Result};
use crate::compile::Generation;
use aya::programs::{ProgramType, SchedClassifier};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use router_common::layout::MAX_RULES;
use std::collections::BTreeMap;

/// How much the maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Interfaces.
    pub links: u32,
    /// Rules of all lists together.
    pub rules: u32,
    /// IPv4 routes.
    pub routes4: u32,
    /// IPv6 routes.
    pub routes6: u32,
    /// IPv4 addresses and prefixes.
    pub addrs4: u32,
    /// IPv6 addresses and prefixes.
    pub addrs6: u32,
    /// Neighbours of both families.
    pub neighbours: u32,
    /// Counters.
    pub counters: u32,
}

impl Capacity {
    /// What `generation` needs, with room to grow to twice of it.
    pub fn of(generation: &Generation) -> Self {
        let room = |len: usize, least: u32| u32::try_from(len).unwrap_or(u32::MAX).saturating_mul(2).max(least);
        Capacity {
            links: room(generation.links.len(), 64),
            rules: room(generation.rules.len(), 256),
            routes4: room(generation.routes4.len(), 1024),
            routes6: room(generation.routes6.len(), 1024),
            addrs4: room(generation.addrs4.len(), 256),
            addrs6: room(generation.addrs6.len(), 256),
            neighbours: room(generation.neighbours.len(), 4096),
            counters: room(generation.counters.len(), 256).min(MAX_RULES * 4),
        }
    }

    /// Whether it is enough for `generation`. Neighbours come and go one by one: some room must be left for them.
    pub fn holds(&self, generation: &Generation) -> bool {
        let fits = |len: usize, size: u32| u32::try_from(len).is_ok_and(|len| len <= size);
        fits(generation.links.len(), self.links)
            && fits(generation.rules.len(), self.rules)
            && fits(generation.routes4.len(), self.routes4)
            && fits(generation.routes6.len(), self.routes6)
            && fits(generation.addrs4.len(), self.addrs4)
            && fits(generation.addrs6.len(), self.addrs6)
            && fits(generation.neighbours.len() + generation.neighbours.len() / 4, self.neighbours)
            && fits(generation.counters.len(), self.counters)
    }
}

/// The loaded program and its maps. Dropping it detaches and unloads all of it.
pub struct FastPath {
    pub(super) ebpf: Ebpf,
    pub(super) tables: Tables,
    pub(super) capacity: Capacity,
    pub(super) attachments: BTreeMap<u32, super::attach::Attachment>,
    pub(super) logger: EbpfLogger<&'static dyn log::Log>,
}

impl std::fmt::Debug for FastPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FastPath").field("capacity", &self.capacity).field("attachments", &self.attachments).finish()
    }
}

impl FastPath {
    /// Loads both programs, suspended, without a lease and attached nowhere.
    pub fn load(capacity: Capacity) -> Result<Self> {
        if EBPF_OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("LINKS", capacity.links)
            .map_max_entries("RULES", capacity.rules)
            .map_max_entries("ROUTES4", capacity.routes4)
            .map_max_entries("ROUTES6", capacity.routes6)
            .map_max_entries("ADDRS4", capacity.addrs4)
            .map_max_entries("ADDRS6", capacity.addrs6)
            .map_max_entries("NEIGHBOURS", capacity.neighbours)
            .map_max_entries("RULE_COUNTERS", capacity.counters);
        // Since 5.11 the memory of maps is charged to the cgroup: there is no RLIMIT_MEMLOCK to raise on any kernel that can
        // run the program.
        let mut ebpf = loader.load(EBPF_OBJECT).map_err(|error| Error::from_any("create the eBPF maps", error))?;
        let tables = Tables::take(&mut ebpf)?;
        let logger =
            EbpfLogger::init(&mut ebpf).map_err(|error| Error::from_any("read the eBPF program's log", error))?;
        for name in [PROGRAM, PROBE] {
            program(&mut ebpf, name)?.load().map_err(explain_refusal)?;
        }
        Ok(FastPath { ebpf, tables, capacity, attachments: BTreeMap::new(), logger })
    }

    /// How many instructions the verifier looked at (5.16 and later) and how many bytes of stack it found, for the attached
    /// program and for the probe.
    pub fn verified(&mut self) -> Result<[Verified; 2]> {
        let mut all = [Verified::default(); 2];
        for (verified, name) in all.iter_mut().zip([PROGRAM, PROBE]) {
            let program = program(&mut self.ebpf, name)?;
            let what = "read the program's information";
            let info = program.info().map_err(|error| Error::from_any(what, error))?;
            verified.instructions = info.verified_instruction_count();
            verified.stack = super::stack::depth(&info.fd().map_err(|error| Error::from_any(what, error))?)?;
        }
        Ok(all)
    }
}

/// What the verifier found out about a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Instructions it looked at, the same one by several ways included.
    pub instructions: Option<u32>,
    /// Bytes of stack of the deepest chain of calls.
    pub stack: Option<u32>,
}

/// One of the two programs.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).ok_or(Error::Object(name))?;
    program.try_into().map_err(|_| Error::Object(name))
}

/// A kernel without bpf_loop refuses the program with an "unknown func"; say so in other words.
fn explain_refusal(error: aya::programs::ProgramError) -> Error {
    let error = Error::from_load(error);
    let lacks_loop =
        || matches!(is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_loop), Ok(false));
    if matches!(error, Error::Refused { .. }) && lacks_loop() {
        return Error::Kernel {
            release: release(),
            feature: "bpf_loop",
            remedy: "it came with Linux 5.17; without it, run with `--mode netlink`",
        };
    }
    error
}
