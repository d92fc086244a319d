//! The model, compiled into what the maps of the fast path hold. Pure: no kernel, no eBPF loader.

use router_common::layout::{
    AddrFlags, LinkEntry, MarkEntry, NeighbourEntry, NeighbourKey, RouteEntry, RouteKey4, RouteKey6, RuleEntry,
};
use std::collections::BTreeMap;

/// One whole state of the maps. Comparing two of these tells what to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// `LINKS`, by interface index.
    pub links: BTreeMap<u32, LinkEntry>,
    /// `RULES`.
    pub rules: Vec<RuleEntry>,
    /// `ROUTES4`: prefix length of the LPM key (32 + the route's) and key.
    pub routes4: BTreeMap<(u32, RouteKey4), RouteEntry>,
    /// `ROUTES6`.
    pub routes6: BTreeMap<(u32, RouteKey6), RouteEntry>,
    /// `ADDRS4`: prefix length and address in wire order.
    pub addrs4: BTreeMap<(u32, [u8; 4]), AddrFlags>,
    /// `ADDRS6`.
    pub addrs6: BTreeMap<(u32, [u8; 16]), AddrFlags>,
    /// `NEIGHBOURS`: the usable ones.
    pub neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
    /// `MARKS`, in order.
    pub marks: Vec<MarkEntry>,
    /// `MARKS_IN_USE`: whole marks that other programs look for.
    pub marks_in_use: Vec<u32>,
    /// The bits that the program may write; 0 for none.
    pub mark_bits: u32,
    /// Whether a rule or a mark looks at protocol or ports.
    pub needs_ports: bool,
    /// The rule id behind each `RuleEntry::counter`; None where the slot is free.
    pub counters: Vec<Option<String>>,
}
