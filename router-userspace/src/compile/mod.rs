//! The model, compiled into what the maps of the fast path hold. Pure: no kernel, no eBPF loader.

mod below;
mod filters;
pub mod interval;
mod jumps;
mod links;
mod lists;
mod marks;
mod routes;
mod selectors;
mod slots;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod words;

pub use links::{neighbour, neighbour_key};
pub use slots::CounterSlots;

use crate::model::{Family, Host, MarkRule};
use bytemuck::Zeroable;
use router_common::interval::{Line, Tree};
use router_common::layout::{
    ABI_VERSION, ActionEntry, Config, FRAGMENTS_DECIDE, FRAGMENTS_PASS, FRAGMENTS_REDIRECT, LinkEntry, ListEntry,
    MAX_MARKS, MAX_MARKS_IN_USE, MAX_RULES, MarkEntry, NeighbourEntry, NeighbourKey, RouteEntry, RuleEntry,
    SELECT_DPORT, SELECT_PORTS, SELECT_SPORT, Selectors, StepEntry, TableEntry,
};
use std::collections::{BTreeMap, BTreeSet};

/// One whole state of the maps.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// `CONFIG`, inactive and without samples.
    pub config: Config,
    /// `LINKS`, ascending by interface index.
    pub links: Vec<LinkEntry>,
    /// `LISTS`.
    pub lists: Vec<ListEntry>,
    /// `RULES`.
    pub rules: Vec<RuleEntry>,
    /// `STEPS`, as many as rules.
    pub steps: Vec<StepEntry>,
    /// `ACTIONS`, each once.
    pub actions: Vec<ActionEntry>,
    /// `SELECTORS`, as many as rules.
    pub selectors: Vec<Selectors>,
    /// `CHAINS`.
    pub chains: Vec<u32>,
    /// `TABLES`.
    pub tables: Vec<TableEntry>,
    /// `ROUTES`.
    pub routes: Vec<RouteEntry>,
    /// Who is in each entry of `GATEWAYS`. Its address is that in `neighbours`.
    pub gateways: Vec<NeighbourKey>,
    /// `LINES`.
    pub lines: Vec<Line>,
    /// `NEIGHBOURS`: the usable ones.
    pub neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
    /// `MARKS`, in order.
    pub marks: Vec<MarkEntry>,
    /// `MARKS_IN_USE`: whole marks that other programs look for.
    pub marks_in_use: Vec<u32>,
    /// The rule id behind each counter; None where the slot is free.
    pub counters: Vec<Option<String>>,
}

impl Default for Generation {
    /// Knows of no interface: every packet is the stack's.
    fn default() -> Self {
        let config = Config {
            abi: ABI_VERSION,
            links: Tree::EMPTY,
            sources: Tree::EMPTY,
            exceptions4: Tree::EMPTY,
            exceptions6: Tree::EMPTY,
            ..Zeroable::zeroed()
        };
        Generation {
            config,
            links: Vec::new(),
            lists: Vec::new(),
            rules: Vec::new(),
            steps: Vec::new(),
            actions: Vec::new(),
            selectors: Vec::new(),
            chains: Vec::new(),
            tables: Vec::new(),
            routes: Vec::new(),
            gateways: Vec::new(),
            lines: Vec::new(),
            neighbours: BTreeMap::new(),
            marks: Vec::new(),
            marks_in_use: Vec::new(),
            counters: Vec::new(),
        }
    }
}

impl Generation {
    /// What is known of an interface.
    pub fn link(&self, ifindex: u32) -> Option<&LinkEntry> {
        let at = self.links.binary_search_by_key(&ifindex, |link| link.index).ok()?;
        self.links.get(at)
    }
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
    /// Trees.
    #[error(transparent)]
    Trees(#[from] interval::Error),
}

/// Compiles what the host has now into one generation of the maps.
///
/// `slots` carries the counters' places from one generation to the next.
pub fn compile(host: &Host, input: &Input, slots: &mut CounterSlots) -> Result<Generation, TooLarge> {
    let mut generation = Generation { marks_in_use: input.marks_in_use.clone(), ..Generation::default() };
    if input.marks_in_use.len() > MAX_MARKS_IN_USE as usize {
        return Err(TooLarge::MarksInUse(input.marks_in_use.len()));
    }
    let mut sets = marks::Sets::default();
    for mark in &input.marks {
        generation.marks.extend(marks::entry(host, mark, &mut sets, &mut generation.lines)?);
    }
    if generation.marks.len() > MAX_MARKS as usize {
        return Err(TooLarge::Marks(generation.marks.len()));
    }
    let [tables4, tables6] = routes::compile(host, &mut generation)?;
    let mut lists4 = lists::RuleLists::new(host, Family::Ipv4, tables4, input, slots);
    let mut lists6 = lists::RuleLists::new(host, Family::Ipv6, tables6, input, slots);
    for link in host.links.values() {
        let mut entry = links::entry(host, link);
        entry.back = lists4.back(link, &mut generation)?;
        if let Some(may) = input.may.get(&link.index) {
            entry.may = *may;
            entry.list4 = lists4.forward(link, &mut generation)?;
            entry.list6 = lists6.forward(link, &mut generation)?;
        }
        generation.links.push(entry);
    }
    let places = generation.links.iter().zip(0..).map(|(link, place)| (link.index, place));
    generation.config.links = interval::points32(&mut generation.lines, places)?;
    generation.neighbours = host.neighbours.iter().filter_map(neighbour).collect();
    generation.counters = slots.finish();

    let config = &mut generation.config;
    config.marks = generation.marks.len() as u32;
    config.marks_in_use = generation.marks_in_use.len() as u32;
    config.mark_bits = input.mark_bits;
    config.keep_priority = u32::from(host.settings.keep_priority);
    let looks_at_ports = |selectors: &Selectors| selectors.flags & (SELECT_PORTS | SELECT_SPORT | SELECT_DPORT) != 0;
    let by_rules = generation.selectors.iter().any(looks_at_ports);
    // nftables finds the ports of a first fragment, which no rule does.
    let by_marks = generation.marks.iter().any(|mark| looks_at_ports(&mark.selectors));
    config.fragments = match (by_rules, by_marks || by_rules && input.bypasses_netfilter) {
        (_, true) => FRAGMENTS_PASS,
        (true, false) => FRAGMENTS_REDIRECT,
        (false, false) => FRAGMENTS_DECIDE,
    };
    Ok(generation)
}
