//! What is kept of flows.

use bytemuck::{Pod, Zeroable};

/// An entry of `FLOWS`: what the walk of the rules has found for packets that look like this one to all rules, marks and routes.
/// It holds as long as the generation does that it was found in. (What may change in between is not in it: neighbours, time.)
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// `Config::epoch`.
    pub epoch: u32,
    /// Ingress interface index.
    pub iif: u32,
    /// First words of source and destination.
    pub addrs: [u32; 2],
    /// [`super::ports`] as rules see them.
    pub ports: u32,
    /// fwmark as received.
    pub mark: u32,
    /// As in [`crate::packet::Packet::flow`].
    pub flow: u32,
    /// Family, protocol, and whether it is a fragment.
    pub kind: u32,
    /// `Walk::route`.
    pub route: u32,
    /// `Walk::end`, `Walk::reason` or `Walk::verdict`, `Walk::source`, a byte each, the lowest first.
    pub end: u32,
    /// `Walk::rule`.
    pub rule: u32,
    /// `Walk::table`.
    pub table: u32,
    /// `Walk::class`.
    pub class: u32,
    /// The mark after the `[[mark]]` statements.
    pub mark_after: u32,
    /// Padding: one line of the CPU's caches.
    pub pad: [u32; 2],
}

/// An entry of `FLOWS6`, beside that of `FLOWS`: the other words of source and destination, IPv6's alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow6(pub [[u32; 3]; 2]);

/// How many of `FLOWS` each CPU has: its own block, and one more for the probe. A power of two.
pub const FLOWS_PER_CPU: u32 = 8192;

/// An entry of `TAGS`, one for each CPU and one for the probe: the two tags of each of its places ([`crate::flow::look`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tags(pub [u16; FLOWS_PER_CPU as usize]);
