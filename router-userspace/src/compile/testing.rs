//! A generation that decides on the host: what the program does with the maps, without a kernel.

use super::Generation;
use bytemuck::Zeroable;
use router_common::classify::{Outcome, Tables, decide};
use router_common::flow::Recall;
use router_common::interval::{self, Tree};
use router_common::layout::*;
use router_common::packet::{IPV4, Packet};
use router_common::steps::{Lists, Walk};

/// The maps, as a generation fills them.
pub(crate) struct Maps<'a> {
    pub generation: &'a Generation,
    /// CLOCK_MONOTONIC.
    pub seconds: u32,
}

impl<'a> Maps<'a> {
    pub fn new(generation: &'a Generation) -> Self {
        Maps { generation, seconds: 0 }
    }

    /// Decides a packet as the program does once it is parsed. None where it knows nothing of the interface.
    pub fn decide(&self, packet: &Packet) -> Option<Outcome> {
        let place = self.find32(self.generation.config.links, packet.iif);
        let ingress = self.link(place)?;
        let (mut walk, mut back) = (Walk::EMPTY, Walk::EMPTY);
        walk.packet = *packet;
        let mut outcome = Outcome::EMPTY;
        outcome.begin(packet.mark);
        decide(self, &self.generation.config, ingress, &mut walk, &mut back, &mut outcome);
        Some(outcome)
    }

    /// The entry in `ROUTES` that a table has for an address, of the family whose words these are.
    pub fn route_of(&self, table: &TableEntry, family: u32, addr: &AddrWords) -> Option<&'a RouteEntry> {
        let found = match family {
            IPV4 => self.find32(table.routes, u32::from_be(addr[0])),
            _ => self.find128(table.routes, &addr.map(u32::from_be)),
        };
        self.generation.routes.get(found as usize)
    }
}

/// The same lists, of which every rule is tried in its turn.
pub(crate) fn without_filters(generation: &Generation) -> Generation {
    let mut linear = generation.clone();
    for list in &mut linear.lists {
        (list.linear, list.filters) = (0, 0);
        for (next, index) in (1..).zip(list.first as usize..(list.first + list.count) as usize) {
            let step = &mut linear.steps[index];
            (step.next, step.target_linear) = (next, step.target);
            if linear.selectors[index] != Selectors::zeroed() {
                // Where a filter had proven that it matches.
                let rule = &mut linear.rules[index];
                let action = linear.actions[rule.action as usize];
                rule.action = linear.actions.len() as u32;
                linear.actions.push(ActionEntry { flags: action.flags | RULE_SELECTS, ..action });
            }
        }
    }
    linear
}

fn get<T>(all: &[T], index: u32) -> Option<&T> {
    all.get(index as usize)
}

impl Lists for Maps<'_> {
    fn list(&self, index: u32) -> Option<&ListEntry> {
        get(&self.generation.lists, index)
    }
    fn rule(&self, index: u32) -> Option<&RuleEntry> {
        get(&self.generation.rules, index)
    }
    fn step(&self, index: u32) -> Option<&StepEntry> {
        get(&self.generation.steps, index)
    }
    fn action(&self, index: u32) -> Option<&ActionEntry> {
        get(&self.generation.actions, index)
    }
    fn selectors(&self, index: u32) -> Option<&Selectors> {
        get(&self.generation.selectors, index)
    }
    fn chain(&self, index: u32) -> Option<&u32> {
        get(&self.generation.chains, index)
    }
    fn table(&self, index: u32) -> Option<&TableEntry> {
        get(&self.generation.tables, index)
    }
    fn route(&self, index: u32) -> Option<&RouteEntry> {
        get(&self.generation.routes, index)
    }
    fn mark_entry(&self, index: u32) -> Option<&MarkEntry> {
        get(&self.generation.marks, index)
    }
    fn find32(&self, tree: Tree, key: u32) -> u32 {
        interval::find32(self.generation.lines.as_slice(), tree, key)
    }
    fn find128(&self, tree: Tree, key: &[u32; 4]) -> u32 {
        interval::find128(self.generation.lines.as_slice(), tree, key)
    }
    fn seconds(&self) -> u32 {
        self.seconds
    }
}

impl Tables for Maps<'_> {
    type Lists = Self;
    fn lists(&self) -> &Self {
        self
    }
    fn link(&self, index: u32) -> Option<&LinkEntry> {
        get(&self.generation.links, index)
    }
    fn gateway(&self, index: u32) -> Option<NeighbourEntry> {
        let key = get(&self.generation.gateways, index)?;
        self.neighbour(key).copied()
    }
    fn neighbour(&self, key: &NeighbourKey) -> Option<&NeighbourEntry> {
        self.generation.neighbours.get(key)
    }
    fn mark_in_use(&self, index: u32) -> Option<&u32> {
        get(&self.generation.marks_in_use, index)
    }
    fn segments_fit(&self, _oif: u32, _mtu: u32) -> bool {
        false
    }
    fn recall(&self, _epoch: u32, _walk: &mut Walk) -> Recall {
        Recall::Unknown
    }
    fn keep(&self, _epoch: u32, _mark: u32, _walk: &Walk) {}
}
