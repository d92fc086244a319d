//! The model, compiled into what the maps of the fast path hold. Pure: no kernel, no eBPF loader.

mod below;
pub mod interval;
mod links;
mod routes;
mod rules;
mod selectors;
mod slots;
#[cfg(test)]
mod tests;
pub mod words;

pub use links::{neighbour, neighbour_key};
pub use slots::CounterSlots;

use crate::model::{Family, Host, MarkRule};
use router_common::layout::{
    AddrFlags, FRAGMENTS_DECIDE, FRAGMENTS_PASS, FRAGMENTS_REDIRECT, LinkEntry, MAX_MARKS, MAX_MARKS_IN_USE, MAX_RULES,
    MAY_PASS, MarkEntry, NeighbourEntry, NeighbourKey, RULE_DPORT, RULE_PORTS, RULE_SPORT, RouteEntry, RouteKey4,
    RouteKey6, RuleEntry,
};
use std::collections::{BTreeMap, BTreeSet};

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
    /// What becomes of fragments: one of `FRAGMENTS_*`.
    pub fragments: u32,
    /// `net.ipv4.ip_forward_update_priority` is off: a forwarded IPv4 packet keeps its priority.
    pub keep_priority: bool,
    /// The rule id behind each `RuleEntry::counter`; None where the slot is free.
    pub counters: Vec<Option<String>>,
}

/// What the compiler is told beside the host's state.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// What may be done on each interface where the program is (to be) attached: `MAY_*` by interface index. Others pass.
    pub may: BTreeMap<u32, u8>,
    /// The file's `[[mark]]` alternatives, in order.
    pub marks: Vec<MarkRule>,
    /// The bits that the program may write; 0 for none.
    pub mark_bits: u32,
    /// The value within `mark_bits` for which the mirror holds a rule to each table.
    pub mark_classes: BTreeMap<u32, u32>,
    /// Whole marks that other programs look for.
    pub marks_in_use: Vec<u32>,
    /// Ids of rules whose decisions are left to the stack.
    pub fallback: BTreeSet<String>,
    /// A packet may be redirected although netfilter has hooks, which may put fragments together.
    pub bypasses_netfilter: bool,
}

/// What does not fit the fast path; the stack carries the traffic then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// A rule list.
    #[error("{0} rules meet packets of one interface; the fast path follows {MAX_RULES} at most")]
    Rules(usize),
    /// Marks.
    #[error("{0} alternatives in [[mark]]; the fast path follows {MAX_MARKS} at most: use fewer, wider selectors")]
    Marks(usize),
    /// Whole marks.
    #[error(
        "{0} rules of other programs look for a whole fwmark; the fast path keeps clear of {MAX_MARKS_IN_USE} at most"
    )]
    MarksInUse(usize),
    /// A mark that looks an address up in a set. The guard leaves the interfaces of such a policy to the stack; this is for who
    /// does not ask it.
    #[error("the fast path does not look addresses up in sets")]
    Sets,
}

/// Compiles what the host has now into one generation of the maps.
///
/// `slots` carries the counters' places from one generation to the next.
pub fn compile(host: &Host, input: &Input, slots: &mut CounterSlots) -> Result<Generation, TooLarge> {
    let mut generation =
        Generation { mark_bits: input.mark_bits, marks_in_use: input.marks_in_use.clone(), ..Generation::default() };
    if input.marks_in_use.len() > MAX_MARKS_IN_USE as usize {
        return Err(TooLarge::MarksInUse(input.marks_in_use.len()));
    }
    let decides = input.may.values().any(|may| *may != MAY_PASS);
    if decides && input.marks.iter().any(|mark| mark.selectors.sets().next().is_some()) {
        return Err(TooLarge::Sets);
    }
    generation.marks = input.marks.iter().filter_map(|mark| links::mark(host, mark)).collect();
    if generation.marks.len() > MAX_MARKS as usize {
        return Err(TooLarge::Marks(generation.marks.len()));
    }
    let [tables4, tables6] = routes::compile(host, &mut generation);
    let context4 = rules::RuleContext::new(host, Family::Ipv4, &tables4, input, slots);
    let context6 = rules::RuleContext::new(host, Family::Ipv6, &tables6, input, slots);
    let mut lists = rules::RuleLists::default();
    for link in host.links.values() {
        let mut entry = links::entry(host, link);
        if let Some(may) = input.may.get(&link.index) {
            entry.may = *may;
            for (context, place) in [(&context4, &mut entry.rules4), (&context6, &mut entry.rules6)] {
                let list = context.list(link);
                if list.len() > MAX_RULES as usize {
                    return Err(TooLarge::Rules(list.len()));
                }
                *place = lists.add(list);
            }
        }
        generation.links.insert(link.index, entry);
    }
    generation.keep_priority = host.settings.keep_priority;
    generation.rules = lists.entries;
    generation.neighbours = host.neighbours.iter().filter_map(neighbour).collect();
    const PORTS: u32 = RULE_PORTS | RULE_SPORT | RULE_DPORT;
    let by_rules = generation.rules.iter().any(|rule| rule.flags & PORTS != 0);
    // nftables finds the ports of a first fragment, which no rule does.
    let by_marks = generation.marks.iter().any(|mark| mark.flags & PORTS != 0);
    generation.fragments = match (by_rules, by_marks || by_rules && input.bypasses_netfilter) {
        (_, true) => FRAGMENTS_PASS,
        (true, false) => FRAGMENTS_REDIRECT,
        (false, false) => FRAGMENTS_DECIDE,
    };
    generation.counters = slots.finish();
    Ok(generation)
}
