//! Loading: the object, the sizes of its maps, both programs.

use super::error::release;
use super::tables::Tables;
use super::{EBPF_OBJECT, Error, PROBE, PROGRAM, Result};
use crate::compile::Generation;
use aya::programs::{ProgramType, SchedClassifier};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use router_common::layout::{ACTIONS_COUNTED, FLOWS_PER_CPU};
use std::collections::BTreeMap;

/// Its entries are for one CPU and one action.
const RULE_COUNTERS: &str = "RULE_COUNTERS";

/// How much the maps hold: entries of each that grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity(BTreeMap<&'static str, u32>);

impl Capacity {
    /// What `generation` needs, with room to grow to twice of it, or by [`MOST_ROOM`] entries.
    pub fn of(generation: &Generation) -> Self {
        let room = |(name, len, least): (_, usize, u32)| {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            (name, len.saturating_add(len.min(MOST_ROOM)).max(least))
        };
        Capacity(needs(generation).map(room).into())
    }

    /// Whether it is enough for `generation`.
    pub fn holds(&self, generation: &Generation) -> bool {
        needs(generation).iter().all(|(name, len, _)| self.0.get(name).is_some_and(|size| *len <= *size as usize))
    }
}

/// No map is made larger by more than this for what may come.
const MOST_ROOM: u32 = 1 << 16;

/// The maps that grow: what a generation needs of each, and how many entries there are at least.
fn needs(generation: &Generation) -> [(&'static str, usize, u32); 13] {
    // Neighbours come and go one by one: some room must be left for them.
    let neighbours = generation.neighbours.len() + generation.neighbours.len() / 4;
    [
        ("LINKS", generation.links.len(), 64),
        ("LISTS", generation.lists.len(), 64),
        ("RULES", generation.rules.len(), 256),
        ("STEPS", generation.steps.len(), 256),
        ("ACTIONS", generation.actions.len(), 64),
        ("SELECTORS", generation.selectors.len(), 256),
        ("CHAINS", generation.chains.len(), 64),
        ("TABLES", generation.tables.len(), 64),
        ("ROUTES", generation.routes.len(), 64),
        ("GATEWAYS", generation.gateways.len(), 64),
        ("LINES", generation.lines.len(), 256),
        ("NEIGHBOURS", neighbours, 4096),
        (RULE_COUNTERS, generation.counters.len(), 256),
    ]
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
    /// Loads the program, suspended, without a lease and attached nowhere. The probe follows with the first question: to verify each is
    /// most of what a start takes.
    pub fn load(capacity: Capacity) -> Result<Self> {
        if EBPF_OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let mut loader = EbpfLoader::new();
        for (name, entries) in &capacity.0 {
            loader.map_max_entries(name, *entries);
        }
        let cpus = super::cpus()?;
        for name in ["FLOWS", "FLOWS6"] {
            loader.map_max_entries(name, (cpus + 1).saturating_mul(FLOWS_PER_CPU));
        }
        loader.map_max_entries("TAGS", cpus + 1);
        let counters = capacity.0.get(RULE_COUNTERS).copied().unwrap_or(0);
        let all = counters.checked_mul(cpus * ACTIONS_COUNTED).ok_or(Error::Full)?;
        loader.map_max_entries(RULE_COUNTERS, all);
        // Since 5.11 the memory of maps is charged to the cgroup: there is no RLIMIT_MEMLOCK to raise on any kernel that can
        // run the program.
        let mut ebpf = loader.load(EBPF_OBJECT).map_err(|error| Error::from_any("create the eBPF maps", error))?;
        let tables = Tables::take(&mut ebpf, counters)?;
        let logger =
            EbpfLogger::init(&mut ebpf).map_err(|error| Error::from_any("read the eBPF program's log", error))?;
        program(&mut ebpf, PROGRAM)?;
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

/// A TC program of an object, which is handed to the verifier when it is asked for first.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).ok_or(Error::Object(name))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|_| Error::Object(name))?;
    if program.fd().is_err() {
        program.load().map_err(explain_refusal)?;
    }
    Ok(program)
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
