//! Generations made by hand, and how they are laid out: every rule linear, every list once for each family.

use crate::support::{addr, zeroed};
use ipnet::IpNet;
use router_common::interval::{Line, Tree};
use router_common::layout::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use wayfork::compile::interval::{Range, flatten, tree32, tree128};
use wayfork::compile::{Generation, neighbour_key};

/// A rule: what it does, and what it looks at.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its table is a table's number.
    pub action: ActionEntry,
    pub selectors: Selectors,
    /// Where a jump leads.
    pub target: u32,
}

/// A rule without selectors; `target` is a table or, of a jump, a position.
pub fn rule(action: u16, target: u32) -> Rule {
    let action =
        ActionEntry { action, suppress_prefixlength: -1, suppress_ifgroup: NO_GROUP, table: target, ..zeroed() };
    Rule { action, selectors: zeroed(), target }
}

impl Rule {
    pub fn flags(mut self, flags: u32) -> Self {
        self.action.flags |= flags;
        self
    }

    pub fn select(mut self, change: impl FnOnce(&mut Selectors)) -> Self {
        change(&mut self.selectors);
        self.flags(RULE_SELECTS)
    }

    pub fn mark(self, mark: u32, mask: u32) -> Self {
        self.select(|selectors| (selectors.mark, selectors.mark_mask) = (mark, mask))
    }
}

/// A generation before it is laid out.
#[derive(Clone, Default)]
pub struct Plan {
    /// By interface index. Packets from each meet all rules.
    pub links: BTreeMap<u32, LinkEntry>,
    pub rules: Vec<Rule>,
    /// By table and destination.
    pub routes: BTreeMap<(u32, IpNet), RouteEntry>,
    /// `SOURCE_*` bits of IPv4 sources.
    pub sources: BTreeMap<IpNet, u32>,
    pub neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
    pub marks: Vec<MarkEntry>,
    pub marks_in_use: Vec<u32>,
    pub counters: Vec<Option<String>>,
    pub fragments: u32,
    pub mark_bits: u32,
    pub keep_priority: bool,
}

impl Plan {
    /// An Ethernet interface from and to which everything may go.
    pub fn add_link(&mut self, index: u32, mac: [u8; 6]) {
        let flags = LINK_ETHERNET | LINK_EGRESS | LINK_FORWARDS4 | LINK_FORWARDS6;
        let mac = bytemuck::cast(mac);
        let entry = LinkEntry { index, flags, mtu4: 1500, mtu6: 1500, may: MAY_REDIRECT, mac, ..zeroed() };
        self.links.insert(index, entry);
    }

    /// One like another, but for these flags.
    pub fn add_link_like(&mut self, like: u32, index: u32, without: u32) {
        let like = self.links[&like];
        self.links.insert(index, LinkEntry { index, flags: like.flags & !without, ..like });
    }

    pub fn link(&mut self, index: u32) -> &mut LinkEntry {
        self.links.get_mut(&index).expect("a known link")
    }

    pub fn add_route(&mut self, table: u32, to: &str, entry: RouteEntry) {
        let net: IpNet = to.parse().expect("a prefix");
        self.routes.insert((table, net), RouteEntry { prefix_len: net.prefix_len(), ..entry });
    }

    /// A usable neighbour.
    pub fn add_neighbour(&mut self, ifindex: u32, neighbour: &str, mac: [u8; 6]) {
        let entry = NeighbourEntry { mac: bytemuck::cast(mac), usable: 1 };
        self.neighbours.insert(neighbour_key(ifindex, addr(neighbour)), entry);
    }

    pub fn lay(&self) -> Generation {
        let mut generation = Generation {
            marks: self.marks.clone(),
            marks_in_use: self.marks_in_use.clone(),
            counters: self.counters.clone(),
            neighbours: self.neighbours.clone(),
            ..Generation::default()
        };
        let list4 = self.list(4, &mut generation);
        let list6 = self.list(6, &mut generation);
        generation.links = self.links.values().map(|link| LinkEntry { list4, list6, back: list4, ..*link }).collect();
        let places =
            (0..).zip(self.links.keys()).map(|(place, index)| Range { first: *index, last: *index, value: place });
        let lines = &mut generation.lines;
        let config = &mut generation.config;
        config.links = tree32(lines, &flatten(places.collect())).expect("fits");
        config.sources = tree(lines, 4, self.sources.iter().map(|(net, bits)| (*net, *bits)));
        config.fragments = self.fragments;
        config.mark_bits = self.mark_bits;
        config.keep_priority = self.keep_priority.into();
        (config.marks, config.marks_in_use) = (self.marks.len() as u32, self.marks_in_use.len() as u32);
        generation
    }

    /// The rules, with the tables of one family.
    fn list(&self, family: u32, generation: &mut Generation) -> u32 {
        let named: BTreeSet<u32> = self.rules.iter().map(|rule| rule.action.table).collect();
        let tables: BTreeMap<u32, u32> = named.iter().map(|id| (*id, self.table(family, *id, generation))).collect();
        let (first, count) = (generation.rules.len() as u32, self.rules.len() as u32);
        let mut known: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for (next, rule) in (1..).zip(&self.rules) {
            let action = ActionEntry { table: tables[&rule.action.table], ..rule.action };
            let action = *known.entry(bytemuck::bytes_of(&action).to_vec()).or_insert_with(|| {
                generation.actions.push(action);
                generation.actions.len() as u32 - 1
            });
            generation.rules.push(RuleEntry { action, counter: 0 });
            generation.steps.push(StepEntry { next, target: rule.target, target_linear: rule.target, pad: 0 });
            generation.selectors.push(rule.selectors);
        }
        generation.lists.push(ListEntry { first, count, ..zeroed() });
        generation.lists.len() as u32 - 1
    }

    fn table(&self, family: u32, id: u32, generation: &mut Generation) -> u32 {
        let mut prefixes = Vec::new();
        for ((_, net), entry) in self.routes.range((id, min())..).take_while(|((table, _), _)| *table == id) {
            let egress = self.links.keys().position(|index| *index == entry.oif);
            let mut entry = RouteEntry { egress: egress.map_or(u32::MAX, |place| place as u32), ..*entry };
            if entry.via_family != 0 {
                let key = NeighbourKey { ifindex: entry.oif, family: entry.via_family.into(), addr: entry.via };
                let known = generation.gateways.iter().position(|gateway| *gateway == key);
                entry.gateway = known.unwrap_or(generation.gateways.len()) as u32;
                generation.gateways.extend(Some(key).filter(|_| known.is_none()));
            }
            prefixes.push((*net, generation.routes.len() as u32));
            generation.routes.push(entry);
        }
        let routes = tree(&mut generation.lines, family, prefixes.into_iter());
        generation.tables.push(TableEntry { id, routes, pad: 0 });
        generation.tables.len() as u32 - 1
    }
}

/// Before every other prefix.
fn min() -> IpNet {
    "0.0.0.0/0".parse().expect("a prefix")
}

fn tree(lines: &mut Vec<Line>, family: u32, prefixes: impl Iterator<Item = (IpNet, u32)>) -> Tree {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for (net, value) in prefixes {
        match net.addr() {
            IpAddr::V4(addr) => four.push(Range::prefix4(addr, net.prefix_len(), value)),
            IpAddr::V6(addr) => six.push(Range::prefix6(addr, net.prefix_len(), value)),
        }
    }
    match family {
        4 => tree32(lines, &flatten(four)),
        _ => tree128(lines, &flatten(six)),
    }
    .expect("fits")
}
