//! The fast path's loader: puts the TC program into the kernel, its maps in step with a [`Generation`], and asks it questions.
//! The only use of aya.
//!
//! Everything acts on the network namespace of the calling thread: load, attach and probe from the same one.
//!
//! A packet never sees a mix of two generations: [`FastPath::apply`] looks for the difference, suspends the program (it then
//! passes every packet), waits until no CPU still runs it with the old state, writes the difference, and lets it decide again.

mod attach;
mod error;
mod foreign;
mod frame;
mod grace;
mod load;
mod lookups;
mod object;
mod probe;
mod samples;
mod shared;
mod stack;
mod switch;
mod tables;
mod workload;

pub use attach::{Attached, ForeignProgram};
pub use error::{Error, Result};
pub use foreign::netfilter_programs;
pub use frame::ethernet_frame;
pub use load::{Capacity, FastPath, Verified};
pub use lookups::{LookupMaps, Structure};
pub use object::EBPF_OBJECT;
pub use probe::Context;
pub use samples::Samples;
pub use switch::{Stopper, Switch};
pub use workload::Workload;

use crate::compile::Generation;
use router_common::layout::{ACTIONS_COUNTED, Count, NeighbourEntry, NeighbourKey};
use router_common::verdict::PassReason;
use std::time::Duration;

/// Name of the attached program, and of its clsact filter. Fifteen characters at most (BPF_OBJ_NAME_LEN).
pub const PROGRAM: &str = "wayfork";
/// Name of the program that is never attached and only answers questions.
pub const PROBE: &str = "wayfork_probe";

/// What one rule has decided, on all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets by [`router_common::verdict::Action`].
    pub packets: [u64; ACTIONS_COUNTED as usize],
    /// Bytes likewise, from the IP header on.
    pub bytes: [u64; ACTIONS_COUNTED as usize],
}

/// How many CPUs there can be: each has counters of its own.
pub fn cpus() -> Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| Error::from_os(what, error))?;
    u32::try_from(cpus).map_err(|_| Error::Full)
}

impl FastPath {
    /// Whether the maps hold that much. Where not, load a new [`FastPath`] with [`Capacity::of`] it.
    pub fn fits(&self, generation: &Generation) -> bool {
        self.capacity.holds(generation)
    }

    /// The program passes every packet from now on; returns when no CPU decides any more. Neighbours, links and rules
    /// stay in the maps.
    pub fn suspend(&mut self) -> Result<()> {
        self.tables.suspend()
    }

    /// What stops the program from another thread, until [`FastPath::apply`] comes through or [`FastPath::suspend`] is called.
    pub fn stopper(&self) -> Result<Stopper> {
        self.tables.stopper()
    }

    /// Makes the program decide by `generation`. Where it decides now, it goes on until all that can be done beforehand is done;
    /// then it is suspended until the rest is complete, and left so where it fails. Nothing happens where nothing is other than
    /// it was. (The lease is a matter of its own: see [`FastPath::renew_lease`].)
    pub fn apply(&mut self, generation: &Generation) -> Result<()> {
        if !self.fits(generation) {
            return Err(Error::Full);
        }
        self.tables.apply(generation)
    }

    /// Whether the program decides (as far as its lease goes).
    pub fn is_active(&self) -> bool {
        self.tables.is_active()
    }

    /// One neighbour became usable, changed its address, or is usable no more. Applied at once.
    pub fn set_neighbour(&mut self, key: NeighbourKey, entry: Option<NeighbourEntry>) -> Result<()> {
        self.tables.set_neighbour(key, entry)
    }

    /// The program may decide for this long from now on, by CLOCK_MONOTONIC. Zero ends the lease.
    pub fn renew_lease(&mut self, duration: Duration) -> Result<()> {
        self.tables.renew_lease(duration)
    }

    /// Packets and bytes per action of every rule, by `RuleEntry::counter`; as many as the generation in force has.
    pub fn rule_counters(&self) -> Vec<Counter> {
        self.tables.rule_counters()
    }

    /// Packets and bytes per reason that have been passed.
    pub fn pass_counters(&self) -> Result<Vec<(PassReason, Count)>> {
        self.tables.pass_counters()
    }

    /// Writes what the program has to say to the log. Call it every second or so.
    pub fn poll_log(&mut self) {
        self.logger.flush();
    }
}
