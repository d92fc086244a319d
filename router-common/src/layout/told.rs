//! What the program tells the loader: counters, the decision about a test run's packet, samples.

use super::AddrWords;
use bytemuck::{Pod, Zeroable};

/// An entry of `RULE_COUNTERS`: what a CPU has counted of one action of one rule ([`counter_index`]), and value of `PASS_COUNTERS` (per
/// CPU), indexed by [`crate::verdict::PassReason`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on; of the whole frame where that header was not read.
    pub bytes: u64,
}

/// How many actions are counted ([`crate::verdict::Action`]).
pub const ACTIONS_COUNTED: u32 = 4;

/// Where `RULE_COUNTERS` has what `cpu` has counted of an action of the rule with this counter, of so many. What one action counts lies
/// close together, and without the pointer that a map per CPU has for each entry.
#[inline(always)]
pub fn counter_index(cpu: u32, action: u32, counter: u32, counters: u32) -> u32 {
    (cpu.wrapping_mul(ACTIONS_COUNTED).wrapping_add(action)).wrapping_mul(counters).wrapping_add(counter)
}

/// The one entry of `DECISION`: what the probe decided about the packet of a test run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Decision {
    /// [`crate::verdict::Action`].
    pub action: u8,
    /// [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// [`crate::verdict::PassReason`], with action pass.
    pub reason: u8,
    /// 0, 4 or 6: as in [`super::RouteEntry`].
    pub via_family: u8,
    /// Outgoing interface index, 0 where there is none.
    pub oif: u32,
    /// The table that decided, 0 where none did.
    pub table: u32,
    /// `RuleEntry::counter` of the rule that decided; `u32::MAX` where none did.
    pub rule: u32,
    /// The mark after the `[[mark]]` statements and, with action mark, with Wayfork's bits.
    pub mark: u32,
    /// The next hop's address.
    pub via: AddrWords,
}

/// A record of `SAMPLES`: a packet that the attached program has decided itself, as it came in, and the decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sample {
    /// `Config::generation` by which it was decided.
    pub generation: u32,
    /// 4 or 6.
    pub family: u32,
    /// Ingress interface index.
    pub iif: u32,
    /// fwmark as received; `Decision::mark` has the one afterwards.
    pub mark: u32,
    /// Source address.
    pub src: AddrWords,
    /// Destination address.
    pub dst: AddrWords,
    /// Source port as rules see it, host byte order.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IP protocol, or next header.
    pub ipproto: u8,
    /// 1 for an IPv4 fragment.
    pub fragment: u8,
    /// Padding.
    pub pad: [u8; 2],
    /// Traffic class and flow label, as in [`crate::packet::Packet::flow`].
    pub flow: u32,
    /// What was decided.
    pub decision: Decision,
}

/// Bytes of `SAMPLES`, a ring buffer: a power of two and a multiple of every page size. Room for two thousand records.
pub const SAMPLES_BYTES: u32 = 1 << 18;

/// `Decision::rule` where no rule decided.
pub const NO_RULE: u32 = u32::MAX;
