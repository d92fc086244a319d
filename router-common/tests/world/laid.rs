//! A world laid out as the maps hold it, plainly: ranges of keys in place of trees, and everything written anew for each question.

use super::{Rule, World, zeroed};
use router_common::classify::Tables;
use router_common::flow::{Recall, look};
use router_common::interval::{NOTHING, Tree};
use router_common::layout::*;
use router_common::packet::IPV4;
use router_common::steps::{Lists, Walk};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// First key, last key and value; of several that hold a key the narrowest counts.
pub type Ranges = Vec<(u128, u128, u32)>;

/// The tags of a place, and what it keeps.
type Place = (u16, Flow, Flow6);

pub struct Laid {
    pub config: Config,
    pub links: Vec<LinkEntry>,
    pub lists: Vec<ListEntry>,
    rules: Vec<RuleEntry>,
    steps: Vec<StepEntry>,
    actions: Vec<ActionEntry>,
    selectors: Vec<Selectors>,
    chains: Vec<u32>,
    tables: Vec<TableEntry>,
    routes: Vec<RouteEntry>,
    pub gateways: Vec<NeighbourEntry>,
    neighbours: HashMap<NeighbourKey, NeighbourEntry>,
    marks: Vec<MarkEntry>,
    marks_in_use: Vec<u32>,
    /// `Tree::root` is the index.
    trees: Vec<Ranges>,
    device_mtu_of_segments: Option<u32>,
    pub seconds: u32,
    /// By place; None: nothing is kept.
    flows: Option<RefCell<HashMap<u32, Place>>>,
    /// How many packets met what was kept.
    pub recalled: Cell<u32>,
}

/// An address as a number.
fn number(family: u32, addr: &AddrWords) -> u128 {
    if family == IPV4 { u32::from_be(addr[0]).into() } else { u128::from_be_bytes(bytemuck::cast(*addr)) }
}

/// The keys of a prefix.
fn prefix(family: u32, addr: &AddrWords, len: u32) -> (u128, u128) {
    let (bits, all) = if family == IPV4 { (32, u32::MAX.into()) } else { (128, u128::MAX) };
    let host = if len == bits { 0 } else { all >> len };
    let first = number(family, addr) & !host;
    (first, first | host)
}

/// The keys that a rule's selector takes, and whether that is all of what the rule looks at.
fn span(family: u32, rule: &Rule, (by, mask): (u32, u32)) -> ((u128, u128), bool) {
    let mut rest = rule.selectors;
    let masked = |value: &AddrWords, mask: &AddrWords| {
        let mask = number(family, mask);
        prefix(family, value, mask.count_ones())
    };
    let keys = match by {
        FILTER_FROM => masked(&std::mem::take(&mut rest.from), &std::mem::take(&mut rest.from_mask)),
        FILTER_TO => masked(&std::mem::take(&mut rest.to), &std::mem::take(&mut rest.to_mask)),
        FILTER_MARK => {
            assert_eq!(std::mem::take(&mut rest.mark_mask), mask, "a filter for another mask");
            let mark = u128::from(std::mem::take(&mut rest.mark) & mask);
            (mark, mark)
        }
        FILTER_SPORT => {
            rest.flags &= !SELECT_SPORT;
            let [first, last] = std::mem::take(&mut rest.sport);
            (first.into(), last.into())
        }
        FILTER_DPORT => {
            rest.flags &= !SELECT_DPORT;
            let [first, last] = std::mem::take(&mut rest.dport);
            (first.into(), last.into())
        }
        _ => panic!("no filter {by}"),
    };
    (keys, rest == zeroed())
}

impl Laid {
    pub fn new(world: &World) -> Laid {
        let mut laid = Laid {
            config: world.config,
            links: world.links.clone(),
            lists: Vec::new(),
            rules: Vec::new(),
            steps: Vec::new(),
            actions: Vec::new(),
            selectors: Vec::new(),
            chains: Vec::new(),
            tables: Vec::new(),
            routes: Vec::new(),
            gateways: Vec::new(),
            neighbours: world.neighbours.clone(),
            marks: world.marks.clone(),
            marks_in_use: world.marks_in_use.clone(),
            trees: world.trees.clone(),
            device_mtu_of_segments: world.device_mtu_of_segments,
            seconds: world.seconds,
            flows: None,
            recalled: Cell::new(0),
        };
        let list4 = laid.lay_list(world, 4, &world.rules);
        let list6 = laid.lay_list(world, 6, &world.rules);
        let back = laid.lay_list(world, 4, world.back.as_ref().unwrap_or(&world.rules));
        for link in &mut laid.links {
            (link.list4, link.list6, link.back) = (list4, list6, back);
        }
        let sources = world.sources.iter().map(|(addr, len, bits)| {
            let (first, last) = prefix(4, addr, *len);
            (first, last, *bits)
        });
        laid.config.sources = laid.tree(sources.collect());
        let exceptions = |family| {
            let own = world.exceptions.iter().filter(move |(of, _)| *of == family);
            own.map(move |(_, addr)| (number(family, addr), number(family, addr), 0)).collect()
        };
        laid.config.exceptions4 = laid.tree(exceptions(4));
        laid.config.exceptions6 = laid.tree(exceptions(6));
        laid
    }

    /// Keeps what was found for the packets of a flow.
    pub fn with_flows(mut self) -> Laid {
        self.flows = Some(RefCell::default());
        self
    }

    fn tree(&mut self, ranges: Ranges) -> Tree {
        if ranges.is_empty() {
            return Tree::EMPTY;
        }
        self.trees.push(ranges);
        Tree { root: self.trees.len() as u32 - 1, depth: 0 }
    }

    fn find(&self, tree: Tree, key: u128) -> u32 {
        let ranges = self.trees.get(tree.root as usize).into_iter().flatten();
        let holding = ranges.filter(|(first, last, _)| (*first..=*last).contains(&key));
        holding.min_by_key(|(first, last, _)| last - first).map_or(NOTHING, |(.., value)| *value)
    }

    fn lay_list(&mut self, world: &World, family: u32, rules: &[Rule]) -> u32 {
        let count = rules.len();
        let linear_from = |at: usize| (at..count).find(|at| rules[*at].filter.is_none()).unwrap_or(count) as u32;
        let mut by: Vec<(u32, u32)> = Vec::new();
        let first = self.rules.len() as u32;
        for (position, rule) in rules.iter().enumerate() {
            let does = &rule.entry;
            let mut action = ActionEntry {
                flags: does.flags,
                action: does.action,
                suppress_prefixlength: does.suppress_prefixlength,
                suppress_ifgroup: does.suppress_ifgroup,
                table: 0,
                mark_class: does.mark_class,
            };
            let mut step = StepEntry { next: linear_from(position + 1), ..zeroed() };
            match does.action {
                ACT_TABLE => action.table = self.lay_table(world, family, does.target),
                ACT_GOTO => (step.target, step.target_linear) = (does.target, linear_from(does.target as usize)),
                _ => {}
            }
            if let Some(filter) = rule.filter {
                if !by.contains(&filter) {
                    by.push(filter);
                }
                if span(family, rule, filter).1 {
                    action.flags &= !RULE_SELECTS;
                }
            }
            self.rules.push(RuleEntry { action: self.actions.len() as u32, counter: does.counter });
            self.actions.push(action);
            self.steps.push(step);
            self.selectors.push(rule.selectors);
        }
        let mut list =
            ListEntry { first, count: count as u32, linear: linear_from(0), filters: by.len() as u32, ..zeroed() };
        for (place, filter) in by.into_iter().enumerate() {
            let tree = self.filter(family, rules, filter);
            list.filter[place] = Filter { by: filter.0, mask: filter.1, tree };
        }
        self.lists.push(list);
        self.lists.len() as u32 - 1
    }

    /// The candidates between every two boundaries.
    fn filter(&mut self, family: u32, rules: &[Rule], filter: (u32, u32)) -> Tree {
        let spans: Vec<(u128, u128, u32)> = rules
            .iter()
            .zip(0..)
            .filter(|(rule, _)| rule.filter == Some(filter))
            .map(|(rule, position)| {
                let (first, last) = span(family, rule, filter).0;
                (first, last, position)
            })
            .collect();
        let mut bounds: Vec<u128> = spans.iter().map(|(first, ..)| *first).collect();
        bounds.extend(spans.iter().filter_map(|(_, last, _)| last.checked_add(1)));
        bounds.sort_unstable();
        bounds.dedup();
        let mut ranges = Vec::new();
        for (place, first) in bounds.iter().enumerate() {
            let last = bounds.get(place + 1).map_or(u128::MAX, |next| next - 1);
            let holding = spans.iter().filter(|(from, to, _)| (*from..=*to).contains(first));
            let candidates: Vec<u32> = holding.map(|(.., position)| *position).collect();
            match candidates[..] {
                [] => {}
                [only] => ranges.push((*first, last, only)),
                _ => {
                    ranges.push((*first, last, CANDIDATES | self.chains.len() as u32));
                    self.chains.extend(candidates);
                    self.chains.push(NO_POSITION);
                }
            }
        }
        self.tree(ranges)
    }

    fn lay_table(&mut self, world: &World, family: u32, id: u32) -> u32 {
        let mut ranges = Ranges::new();
        for route in world.routes.iter().filter(|route| (route.family, route.table) == (family, id)) {
            let mut entry = route.entry;
            let egress = world.links.iter().position(|link| link.index == entry.oif);
            entry.egress = egress.map_or(u32::MAX, |place| place as u32);
            if entry.via_family != 0 {
                let key = NeighbourKey { ifindex: entry.oif, family: entry.via_family.into(), addr: entry.via };
                entry.gateway = self.gateways.len() as u32;
                self.gateways.push(world.neighbours.get(&key).copied().unwrap_or(zeroed()));
            }
            let (first, last) = prefix(family, &route.to, entry.prefix_len.into());
            ranges.push((first, last, self.routes.len() as u32));
            self.routes.push(entry);
        }
        let routes = self.tree(ranges);
        self.tables.push(TableEntry { id, routes, pad: 0 });
        self.tables.len() as u32 - 1
    }
}

impl Lists for Laid {
    fn list(&self, index: u32) -> Option<&ListEntry> {
        self.lists.get(index as usize)
    }
    fn rule(&self, index: u32) -> Option<&RuleEntry> {
        self.rules.get(index as usize)
    }
    fn step(&self, index: u32) -> Option<&StepEntry> {
        self.steps.get(index as usize)
    }
    fn action(&self, index: u32) -> Option<&ActionEntry> {
        self.actions.get(index as usize)
    }
    fn selectors(&self, index: u32) -> Option<&Selectors> {
        self.selectors.get(index as usize)
    }
    fn chain(&self, index: u32) -> Option<&u32> {
        self.chains.get(index as usize)
    }
    fn table(&self, index: u32) -> Option<&TableEntry> {
        self.tables.get(index as usize)
    }
    fn route(&self, index: u32) -> Option<&RouteEntry> {
        self.routes.get(index as usize)
    }
    fn mark_entry(&self, index: u32) -> Option<&MarkEntry> {
        self.marks.get(index as usize)
    }
    fn find32(&self, tree: Tree, key: u32) -> u32 {
        self.find(tree, key.into())
    }
    fn find128(&self, tree: Tree, key: &[u32; 4]) -> u32 {
        self.find(tree, key.iter().fold(0, |number, word| number << 32 | u128::from(*word)))
    }
    fn seconds(&self) -> u32 {
        self.seconds
    }
}

impl Tables for Laid {
    type Lists = Self;
    fn lists(&self) -> &Self {
        self
    }
    fn link(&self, index: u32) -> Option<&LinkEntry> {
        self.links.get(index as usize)
    }
    fn gateway(&self, index: u32) -> Option<NeighbourEntry> {
        self.gateways.get(index as usize).copied()
    }
    fn neighbour(&self, key: &NeighbourKey) -> Option<&NeighbourEntry> {
        self.neighbours.get(key)
    }
    fn mark_in_use(&self, index: u32) -> Option<&u32> {
        self.marks_in_use.get(index as usize)
    }
    fn segments_fit(&self, _oif: u32, mtu: u32) -> bool {
        self.device_mtu_of_segments.is_some_and(|device| device <= mtu)
    }
    fn recall(&self, epoch: u32, walk: &mut Walk) -> Recall {
        let Some(flows) = &self.flows else { return Recall::Unknown };
        let (place, tag) = Flow::place(&walk.packet, walk.packet.mark);
        assert!(place < FLOWS_PER_CPU);
        let mut flows = flows.borrow_mut();
        let (tags, flow, rest) = flows.entry(place).or_insert_with(|| (0, zeroed(), zeroed()));
        let recall = match look(tags, tag) {
            Recall::Found if !flow.recall(rest, epoch, walk) => Recall::Keep,
            recall => recall,
        };
        self.recalled.set(self.recalled.get() + u32::from(recall == Recall::Found));
        recall
    }
    fn keep(&self, epoch: u32, mark: u32, walk: &Walk) {
        let Some(flows) = &self.flows else { return };
        let mut flows = flows.borrow_mut();
        let (_, flow, rest) = flows.get_mut(&Flow::place(&walk.packet, mark).0).expect("`recall` has made it");
        flow.keep(rest, epoch, mark, walk);
    }
}
