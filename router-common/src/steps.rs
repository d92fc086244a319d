//! The compiled walk: `[[mark]]` statements, then the rules of one list, over a trait of tables, so that the eBPF program (its
//! maps) and host tests (collections) run the same code.
//!
//! Every step is one round of a loop that the eBPF program runs by `bpf_loop`. `V4` is the family of the packet, known where the
//! loop begins, so that IPv4 compares one word of an address and not four.

use crate::interval::{NOTHING, Tree};
use crate::layout::*;
use crate::packet::Packet;
use crate::verdict::{PassReason, Verdict};

/// The tables that the steps look at.
pub trait Lists {
    /// `LISTS[index]`.
    fn list(&self, index: u32) -> Option<&ListEntry>;
    /// `RULES[index]`.
    fn rule(&self, index: u32) -> Option<&RuleEntry>;
    /// `STEPS[index]`.
    fn step(&self, index: u32) -> Option<&StepEntry>;
    /// `ACTIONS[index]`.
    fn action(&self, index: u32) -> Option<&ActionEntry>;
    /// `SELECTORS[index]`.
    fn selectors(&self, index: u32) -> Option<&Selectors>;
    /// `CHAINS[index]`.
    fn chain(&self, index: u32) -> Option<&u32>;
    /// `TABLES[index]`.
    fn table(&self, index: u32) -> Option<&TableEntry>;
    /// `ROUTES[index]`.
    fn route(&self, index: u32) -> Option<&RouteEntry>;
    /// `MARKS[index]`.
    fn mark_entry(&self, index: u32) -> Option<&MarkEntry>;
    /// The value of the segment that holds the key, a number; [`NOTHING`] where none does.
    fn find32(&self, tree: Tree, key: u32) -> u32;
    /// The same for an IPv6 address, most significant word first, each a number.
    fn find128(&self, tree: Tree, key: &[u32; 4]) -> u32;
    /// CLOCK_MONOTONIC, whole seconds.
    fn seconds(&self) -> u32;
}

/// How a walk ended.
pub mod end {
    /// Not yet.
    pub const RUNNING: u32 = 0;
    /// At a route: `Walk::route`.
    pub const ROUTE: u32 = 1;
    /// A rule, a route or the end of the list refuses the packet: `Walk::verdict`.
    pub const REFUSED: u32 = 2;
    /// It is the stack's: `Walk::reason`.
    pub const PASS: u32 = 3;
}

/// The state of a walk.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The packet, with the mark as it stands.
    pub packet: Packet,
    /// The entry of `ROUTES` that was found.
    pub route: u32,
    /// Not 0 with `PASS`: whatever the stack makes of it, the route leads out of this host.
    pub leads_out: u32,
    /// One of [`end`].
    pub end: u32,
    /// A [`Verdict`], with `REFUSED`.
    pub verdict: u32,
    /// A [`PassReason`], with `PASS`.
    pub reason: u32,
    /// Counter of the rule that decided; [`NO_RULE`] where none has, and then the next three mean nothing.
    pub rule: u32,
    /// The number of its table, with `ROUTE` and where a route decided.
    pub table: u32,
    /// Its mark class.
    pub class: u32,
    /// Not 0 where what it decides is the stack's.
    pub fallback: u32,
    /// What is known of an IPv4 source: `SOURCE_*` bits.
    pub source: u32,
    /// Not 0 where a route was met whose time is limited: a later packet may find another.
    pub timed: u32,
    /// Index of the next mark, or of the next filter.
    at: u32,
    /// The mark statement that has matched: its other alternatives do not count. `u32::MAX` for none yet.
    statement: u32,
    /// Entry of `LISTS`.
    list: u32,
    /// Its first entry in `RULES`.
    first: u32,
    /// How many rules it has.
    count: u32,
    /// How many filters it has.
    filters: u32,
    /// Positions before this one have been jumped over.
    floor: u32,
    /// Position of the next linear rule.
    linear: u32,
    /// Position of each filter's next candidate.
    heads: [u32; MAX_FILTERS],
    /// Where each filter's chain goes on in `CHAINS`; [`NO_POSITION`] where it does not.
    cursors: [u32; MAX_FILTERS],
}

/// In place of a filter: the chain of linear rules.
const LINEAR: usize = MAX_FILTERS;

impl Walk {
    /// Before any packet.
    pub const EMPTY: Walk = Walk {
        packet: Packet::EMPTY,
        route: 0,
        leads_out: 0,
        end: end::RUNNING,
        verdict: 0,
        reason: 0,
        rule: NO_RULE,
        table: 0,
        class: 0,
        fallback: 0,
        source: 0,
        timed: 0,
        at: 0,
        statement: u32::MAX,
        list: 0,
        first: 0,
        count: 0,
        filters: 0,
        floor: 0,
        linear: 0,
        heads: [NO_POSITION; MAX_FILTERS],
        cursors: [NO_POSITION; MAX_FILTERS],
    };

    /// Stands before the first `[[mark]]`.
    #[inline(always)]
    pub(crate) fn begin_marks(&mut self) {
        self.at = 0;
        self.statement = u32::MAX;
    }

    /// Stands before the first rule of a list. The filters are still to be looked up.
    #[inline(always)]
    pub fn begin(&mut self, index: u32, list: &ListEntry) {
        self.end = end::RUNNING;
        self.nothing_decided();
        self.at = 0;
        self.list = index;
        self.first = list.first;
        self.count = list.count;
        self.linear = list.linear;
        self.filters = list.filters;
        self.floor = 0;
        if list.filters != 0 {
            for head in &mut self.heads {
                // One by one: an array that is written whole becomes a loop over its bytes in BPF.
                // SAFETY: a reference.
                unsafe { core::ptr::write_volatile(head, NO_POSITION) };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn pass(&mut self, reason: PassReason) -> bool {
        self.leads_out = 0;
        self.end = end::PASS;
        self.reason = reason as u32;
        false
    }

    /// Left to the stack for what the route says.
    #[inline(always)]
    fn leave_at(&mut self, route: &RouteEntry, leads_out: u32) -> bool {
        self.end = end::PASS;
        self.reason = u32::from(route.reason);
        self.leads_out = leads_out;
        false
    }

    #[inline(always)]
    fn refuse(&mut self, verdict: Verdict) -> bool {
        self.end = end::REFUSED;
        self.verdict = verdict as u32;
        false
    }

    #[inline(always)]
    fn nothing_decided(&mut self) -> bool {
        self.rule = NO_RULE;
        true
    }

    /// The candidate behind the present one of a filter.
    #[inline(always)]
    fn advance(&mut self, lists: &impl Lists, filter: usize) {
        let filter = filter & (MAX_FILTERS - 1);
        let cursor = self.cursors[filter];
        self.heads[filter] = match lists.chain(cursor) {
            Some(position) if cursor != NO_POSITION => *position,
            _ => NO_POSITION,
        };
        self.cursors[filter] = cursor.wrapping_add(1);
    }
}

/// The selectors that rules and marks have in common: 0 where all of them match. Without branches, because the verifier follows
/// every way through them once more for each round of the loop; a selector that does not count has the mask 0.
#[inline(always)]
fn mismatch<const V4: bool>(entry: &Selectors, packet: &Packet) -> u32 {
    let mut mismatch = ((packet.mark ^ entry.mark) & entry.mark_mask)
        | difference::<V4>(&packet.src, &entry.from, &entry.from_mask)
        | difference::<V4>(&packet.dst, &entry.to, &entry.to_mask)
        | ((packet.flow ^ entry.flow) & entry.flow_mask);
    let flags = entry.flags;
    if flags != 0 {
        mismatch |= ((ports(packet.sport, packet.dport) ^ entry.ports) & entry.ports_mask)
            | (u32::from(packet.ipproto) ^ entry.ipproto) & all_if(flags, SELECT_IPPROTO)
            | outside(packet.sport, entry.sport) & all_if(flags, SELECT_SPORT)
            | outside(packet.dport, entry.dport) & all_if(flags, SELECT_DPORT);
    }
    mismatch
}

#[inline(always)]
fn difference<const V4: bool>(addr: &AddrWords, value: &AddrWords, mask: &AddrWords) -> u32 {
    let first = (addr[0] ^ value[0]) & mask[0];
    if V4 {
        return first;
    }
    first | ((addr[1] ^ value[1]) & mask[1]) | ((addr[2] ^ value[2]) & mask[2]) | ((addr[3] ^ value[3]) & mask[3])
}

/// Not 0 where the port is outside the range: the sign of either distance.
#[inline(always)]
fn outside(port: u16, [first, last]: [u16; 2]) -> u32 {
    let (port, first, last) = (u32::from(port), u32::from(first), u32::from(last));
    (port.wrapping_sub(first) | last.wrapping_sub(port)) & 0x8000_0000
}

/// All bits where the flag (a power of two) is set, else none.
#[inline(always)]
fn all_if(flags: u32, flag: u32) -> u32 {
    0u32.wrapping_sub((flags >> flag.trailing_zeros()) & 1)
}

/// The value of an address in a tree.
#[inline(always)]
pub(crate) fn find_addr<const V4: bool>(lists: &impl Lists, tree: Tree, addr: &AddrWords) -> u32 {
    if V4 { lists.find32(tree, u32::from_be(addr[0])) } else { lists.find128(tree, &addr.map(u32::from_be)) }
}

/// One alternative of a `[[mark]]`. Says whether to go on.
#[inline(always)]
pub fn mark_step<const V4: bool>(lists: &impl Lists, walk: &mut Walk) -> bool {
    let Some(entry) = lists.mark_entry(walk.at) else { return false };
    walk.at += 1;
    let packet = &walk.packet;
    let applies = entry.family == packet.family && (entry.iif == 0 || entry.iif == packet.iif);
    if applies && entry.statement != walk.statement && mismatch::<V4>(&entry.selectors, packet) == 0 {
        if entry.sets & MARK_FROM_SET != 0 && find_addr::<V4>(lists, entry.from_set, &packet.src) == NOTHING {
            return true;
        }
        if entry.sets & MARK_TO_SET != 0 && find_addr::<V4>(lists, entry.to_set, &packet.dst) == NOTHING {
            return true;
        }
        walk.packet.mark = (packet.mark & !entry.set_mask) | (entry.set_value & entry.set_mask);
        walk.statement = entry.statement;
    }
    true
}

/// The look-up of one filter. Says whether to go on.
#[inline(always)]
pub fn filter_step<const V4: bool>(lists: &impl Lists, walk: &mut Walk) -> bool {
    let number = walk.at as usize;
    let Some(list) = lists.list(walk.list) else { return false };
    if number >= MAX_FILTERS || walk.at >= list.filters {
        return false;
    }
    walk.at += 1;
    let filter = &list.filter[number];
    let packet = &walk.packet;
    let found = match filter.by {
        FILTER_FROM => find_addr::<V4>(lists, filter.tree, &packet.src),
        FILTER_TO => find_addr::<V4>(lists, filter.tree, &packet.dst),
        FILTER_MARK => lists.find32(filter.tree, packet.mark & filter.mask),
        FILTER_SPORT => lists.find32(filter.tree, u32::from(packet.sport)),
        _ => lists.find32(filter.tree, u32::from(packet.dport)),
    };
    if found == NOTHING || found & CANDIDATES == 0 {
        walk.heads[number] = found;
        walk.cursors[number] = NO_POSITION;
    } else {
        walk.cursors[number] = found & !CANDIDATES;
        walk.advance(lists, number);
    }
    true
}

/// One rule: `fib_rules_lookup()` and `fib_rule_match()`, net/core/fib_rules.c. Says whether to go on.
#[inline(always)]
pub fn rule_step<const V4: bool>(lists: &impl Lists, walk: &mut Walk) -> bool {
    let mut at = walk.linear;
    let mut stream = LINEAR;
    if walk.filters != 0 {
        for filter in 0..MAX_FILTERS {
            if walk.heads[filter] < at {
                at = walk.heads[filter];
                stream = filter;
            }
        }
    }
    if at >= walk.count {
        return walk.refuse(Verdict::NoRoute);
    }
    let index = walk.first.wrapping_add(at);
    let Some(rule) = lists.rule(index) else { return walk.pass(PassReason::Resync) };
    let Some(action) = lists.action(rule.action) else { return walk.pass(PassReason::Resync) };
    if stream == LINEAR {
        let Some(step) = lists.step(index) else { return walk.pass(PassReason::Resync) };
        walk.linear = step.next;
    } else {
        walk.advance(lists, stream);
        if at < walk.floor {
            return true;
        }
    }
    if action.flags & (RULE_SELECTS | RULE_UNSEEN | RULE_NOT) != 0 {
        let mut all = true;
        if action.flags & RULE_SELECTS != 0 {
            let Some(selectors) = lists.selectors(index) else { return walk.pass(PassReason::Resync) };
            all = mismatch::<V4>(selectors, &walk.packet) == 0;
        }
        if all && action.flags & RULE_UNSEEN != 0 {
            return walk.pass(PassReason::RuleSelector);
        }
        if all == (action.flags & RULE_NOT != 0) {
            return true;
        }
    }
    match action.action {
        ACT_NOP => return true,
        ACT_GOTO => {
            let Some(step) = lists.step(index) else { return walk.pass(PassReason::Resync) };
            // The compiler only writes targets ahead; one that is not would make the walk longer than its list.
            if step.target <= at {
                return walk.pass(PassReason::Resync);
            }
            walk.floor = step.target;
            walk.linear = step.target_linear;
            return true;
        }
        _ => {}
    }
    walk.rule = rule.counter;
    walk.table = 0;
    walk.class = action.mark_class;
    walk.fallback = action.flags & RULE_FALLBACK;
    match action.action {
        ACT_TABLE => table_step::<V4>(lists, walk, action),
        ACT_BLACKHOLE => walk.refuse(Verdict::Blackhole),
        ACT_UNREACHABLE => walk.refuse(Verdict::Unreachable),
        ACT_PROHIBIT => walk.refuse(Verdict::Prohibit),
        _ => walk.pass(PassReason::RuleSelector),
    }
}

/// What the rule's table says: `fib4_rule_action()` and `fib4_rule_suppress()`, net/ipv4/fib_rules.c; `fib6_rule_action()` and
/// `fib6_rule_suppress()`, net/ipv6/fib6_rules.c.
#[inline(always)]
fn table_step<const V4: bool>(lists: &impl Lists, walk: &mut Walk, action: &ActionEntry) -> bool {
    let Some(table) = lists.table(action.table) else { return walk.pass(PassReason::Resync) };
    let found = find_addr::<V4>(lists, table.routes, &walk.packet.dst);
    if found == NOTHING {
        return walk.nothing_decided();
    }
    let Some(route) = lists.route(found) else { return walk.pass(PassReason::Resync) };
    // One whose time is over is not there (`__find_rr_leaf()`, net/ipv6/route.c): another may take its place.
    if route.expires != 0 {
        walk.timed = 1;
        if lists.seconds() >= route.expires {
            return walk.pass(PassReason::RouteExpiry);
        }
    }
    if route.kind == ROUTE_THROW {
        return walk.nothing_decided();
    }
    if route.kind == ROUTE_LOCAL_FIRST {
        walk.nothing_decided();
        return walk.pass(PassReason::LocalDestination);
    }
    if route.certain & ROUTE_HAS_NEXT_HOPS != 0 {
        if i32::from(route.prefix_len) <= i32::from(action.suppress_prefixlength) {
            return walk.nothing_decided();
        }
        if action.suppress_ifgroup != NO_GROUP {
            if route.certain & ROUTE_HAS_GROUP == 0 {
                return walk.leave_at(route, 0);
            }
            if action.suppress_ifgroup == route.group {
                return walk.nothing_decided();
            }
        }
    }
    walk.table = table.id;
    match route.kind {
        ROUTE_UNICAST => {
            walk.route = found;
            walk.end = end::ROUTE;
            false
        }
        ROUTE_BLACKHOLE => walk.refuse(Verdict::Blackhole),
        ROUTE_UNREACHABLE => walk.refuse(Verdict::Unreachable),
        ROUTE_PROHIBIT => walk.refuse(Verdict::Prohibit),
        _ => walk.leave_at(route, route.certain & ROUTE_LEADS_OUT),
    }
}
