//! The compiled decision: the walk of the rules, the source, the way out. Over traits of tables, so that the eBPF program (its
//! maps) and host tests (collections) run the same code.
//!
//! What is asked is what the stack asks (`ip_route_input_slow()`, `ip6_forward()`): rules and routes as `fib_rules_lookup()` walks them, local
//! delivery included, for IPv4 the way back to the source, then what `ip_forward()` and the neighbour layer would still have to say.

use crate::flow::Recall;
use crate::interval::{NOTHING, Tree};
use crate::layout::*;
use crate::packet::{IPV4, IPV6, Packet, SEGMENT_UNKNOWN};
use crate::parse::is_link_local6;
use crate::steps::{Lists, Walk, end, filter_step, find_addr, mark_step, rule_step};
use crate::verdict::{Action, PassReason, Verdict};

/// The other tables, and the loops over [`Lists`], which the eBPF program runs by `bpf_loop` in ways of its own.
pub trait Tables {
    /// What the steps of a walk look at.
    type Lists: Lists;
    /// What the steps of a walk look at.
    fn lists(&self) -> &Self::Lists;
    /// `LINKS[index]`.
    fn link(&self, index: u32) -> Option<&LinkEntry>;
    /// `GATEWAYS[index]`.
    fn gateway(&self, index: u32) -> Option<NeighbourEntry>;
    /// A usable neighbour.
    fn neighbour(&self, key: &NeighbourKey) -> Option<&NeighbourEntry>;
    /// `MARKS_IN_USE[index]`.
    fn mark_in_use(&self, index: u32) -> Option<&u32>;
    /// Whether every segment of this GSO packet fits the device, and the device's MTU is at most `mtu`.
    fn segments_fit(&self, oif: u32, mtu: u32) -> bool;
    /// Brings the walk to where that of an earlier packet like it ended ([`crate::layout::Flow::recall`]), where one is known.
    fn recall(&self, epoch: u32, walk: &mut Walk) -> Recall;
    /// Keeps what a walk has found for a packet that came with this mark ([`crate::layout::Flow::keep`]).
    fn keep(&self, epoch: u32, mark: u32, walk: &Walk);
    /// Calls [`crate::steps::mark_step`] until it says false, at most `times` times.
    fn rewrite_mark(&self, walk: &mut Walk, times: u32) {
        repeat(self.lists(), walk, times, mark_step::<true>, mark_step::<false>)
    }
    /// Calls [`crate::steps::filter_step`] until it says false, at most `times` times.
    fn look_up_filters(&self, walk: &mut Walk, times: u32) {
        repeat(self.lists(), walk, times, filter_step::<true>, filter_step::<false>)
    }
    /// Calls [`crate::steps::rule_step`] until it says false, at most `times` times.
    fn walk_rules(&self, walk: &mut Walk, times: u32) {
        repeat(self.lists(), walk, times, rule_step::<true>, rule_step::<false>)
    }
}

/// Runs a step of the packet's family until it says false.
fn repeat<L>(
    lists: &L,
    walk: &mut Walk,
    times: u32,
    v4: impl Fn(&L, &mut Walk) -> bool,
    v6: impl Fn(&L, &mut Walk) -> bool,
) {
    let ipv4 = walk.packet.family == IPV4;
    (0..times).all(|_| if ipv4 { v4(lists, walk) } else { v6(lists, walk) });
}

/// What is to be done with a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// An [`Action`].
    pub action: u8,
    /// A [`Verdict`]; with action pass, how far it came.
    pub verdict: u8,
    /// A [`PassReason`], with action pass.
    pub reason: u8,
    /// 1, with action redirect: the outgoing device's frames have an Ethernet header, with the addresses of `macs`.
    pub ethernet: u8,
    /// Counter of the rule that decided; [`NO_RULE`] for none.
    pub rule: u32,
    /// The number of its table; 0 for none.
    pub table: u32,
    /// The entry of `ROUTES` that was found, with verdict forward.
    pub route: u32,
    /// Outgoing interface index, with verdict forward.
    pub oif: u32,
    /// The mark after the `[[mark]]` statements and, with action mark, with Wayfork's bits.
    pub mark: u32,
    /// The mark to write into the packet with actions redirect and mark.
    pub write_mark: u32,
    /// Destination and source.
    pub macs: [Mac; 2],
}

impl Outcome {
    /// Nothing decided yet.
    pub const EMPTY: Outcome = Outcome {
        action: Action::Pass as u8,
        verdict: Verdict::Undecided as u8,
        reason: PassReason::Resync as u8,
        ethernet: 0,
        rule: NO_RULE,
        table: 0,
        route: 0,
        oif: 0,
        mark: 0,
        write_mark: 0,
        macs: [[0; 3]; 2],
    };

    /// Makes it a pass of which nothing is known yet. What only other outcomes mean stays as it was.
    #[inline(always)]
    pub fn begin(&mut self, mark: u32) {
        self.action = Action::Pass as u8;
        self.verdict = Verdict::Undecided as u8;
        self.reason = PassReason::Resync as u8;
        self.ethernet = 0;
        self.rule = NO_RULE;
        self.table = 0;
        self.mark = mark;
        self.write_mark = mark;
    }

    /// Leaves the packet to the stack after all; what is known stays.
    #[inline(always)]
    pub fn leave(&mut self, reason: PassReason) {
        self.action = Action::Pass as u8;
        self.reason = reason as u8;
    }

    /// The outcome as it is told to the loader.
    #[inline(always)]
    pub fn decision(&self, lists: &impl Lists) -> Decision {
        let forward = self.verdict == Verdict::Forward as u8;
        let route = if forward { lists.route(self.route) } else { None };
        Decision {
            action: self.action,
            verdict: self.verdict,
            reason: self.reason,
            via_family: route.map_or(0, |route| route.via_family),
            oif: route.map_or(0, |route| route.oif),
            table: self.table,
            rule: self.rule,
            mark: self.mark,
            via: route.map_or([0; 4], |route| route.via),
        }
    }
}

/// Decides about the packet in `walk`, which came in by `ingress`. `outcome` has begun ([`Outcome::begin`]) and says in the end
/// what to do; nothing is rewritten. `back` is room for the walk back to the source. (All are passed by reference because a program's
/// stack is 512 bytes.)
#[inline(always)]
pub fn decide(
    tables: &impl Tables,
    config: &Config,
    ingress: &LinkEntry,
    walk: &mut Walk,
    back: &mut Walk,
    outcome: &mut Outcome,
) {
    let received_mark = walk.packet.mark;
    if ingress.may == MAY_PASS {
        return outcome.leave(PassReason::InterfacePass);
    }
    let ipv4 = walk.packet.family == IPV4;
    if ingress.flags & (if ipv4 { LINK_FORWARDS4 } else { LINK_FORWARDS6 }) == 0 {
        return outcome.leave(PassReason::ForwardingOff);
    }
    let recall = tables.recall(config.epoch, walk);
    if recall != Recall::Found {
        find(tables, config, ingress, walk, back);
        if recall == Recall::Keep {
            tables.keep(config.epoch, received_mark, walk);
        }
    }

    outcome.mark = walk.packet.mark;
    if walk.rule != NO_RULE {
        outcome.rule = walk.rule;
        outcome.table = walk.table;
    }
    match walk.end {
        end::ROUTE => {
            let Some(route) = tables.lists().route(walk.route) else { return outcome.leave(PassReason::Resync) };
            let Some(egress) = tables.link(route.egress) else { return outcome.leave(PassReason::EgressInterface) };
            outcome.verdict = Verdict::Forward as u8;
            outcome.route = walk.route;
            outcome.oif = route.oif;
            if ingress.may == MAY_REDIRECT {
                redirect(tables, ingress, egress, route, walk, outcome)
            } else {
                mark(tables, config, egress, walk, received_mark, outcome)
            }
        }
        end::REFUSED => {
            outcome.verdict = walk.verdict as u8;
            if walk.verdict != Verdict::Blackhole as u32 {
                outcome.leave(PassReason::IcmpError)
            } else if ingress.may != MAY_REDIRECT {
                outcome.leave(PassReason::NothingToMark)
            } else {
                outcome.action = Action::Drop as u8
            }
        }
        end::PASS => outcome.reason = walk.reason as u8,
        _ => outcome.leave(PassReason::RuleLimit),
    }
}

/// Finds what marks, rules, routes and the source make of the packet: all that depends on nothing but what rules and routes can see of
/// it, and so is the same for the next packet of the flow.
#[inline(always)]
fn find(tables: &impl Tables, config: &Config, ingress: &LinkEntry, walk: &mut Walk, back: &mut Walk) {
    walk.rule = NO_RULE;
    walk.source = 0;
    walk.timed = 0;
    if is_exception(tables, config, &walk.packet) {
        walk.pass(PassReason::Exception);
        return;
    }
    // A fragment has no ports: that is what the stack's rules see too, where nothing puts it together on the way to them.
    let whole =
        config.fragments == FRAGMENTS_PASS || (config.fragments == FRAGMENTS_REDIRECT && ingress.may != MAY_REDIRECT);
    if walk.packet.fragment != 0 && whole {
        walk.pass(PassReason::Fragment);
        return;
    }
    if config.marks != 0 {
        walk.begin_marks();
        tables.rewrite_mark(walk, if config.marks < MAX_MARKS { config.marks } else { MAX_MARKS });
    }
    let ipv4 = walk.packet.family == IPV4;
    if !walk_list(tables, walk, if ipv4 { ingress.list4 } else { ingress.list6 }) {
        walk.pass(PassReason::Resync);
        return;
    }
    if walk.rule != NO_RULE && walk.fallback != 0 {
        walk.pass(PassReason::ShadowDisagreed);
        return;
    }
    // IPv6 forwards whatever the source, but for those that the parser refuses (`ip6_forward()`).
    if ipv4 && walk.end == end::ROUTE {
        let source = tables.lists().find32(config.sources, u32::from_be(walk.packet.src[0]));
        walk.source = if source == NOTHING { 0 } else { source };
        if walk.source & SOURCE_DOUBTFUL != 0 && source_is_refused(tables, ingress, walk, back) {
            walk.pass(PassReason::Source);
        }
    }
}

/// Walks one list. False where there is none.
#[inline(always)]
fn walk_list(tables: &impl Tables, walk: &mut Walk, index: u32) -> bool {
    let Some(list) = tables.lists().list(index) else { return false };
    walk.begin(index, list);
    if list.filters != 0 {
        tables.look_up_filters(walk, MAX_FILTERS as u32);
    }
    // Every step takes one rule; one more finds the list at its end.
    tables.walk_rules(walk, if list.count < MAX_RULES { list.count + 1 } else { MAX_RULES + 1 });
    true
}

#[inline(always)]
fn is_exception(tables: &impl Tables, config: &Config, packet: &Packet) -> bool {
    if packet.family == IPV4 {
        config.exceptions4 != Tree::EMPTY
            && find_addr::<true>(tables.lists(), config.exceptions4, &packet.dst) != NOTHING
    } else {
        config.exceptions6 != Tree::EMPTY
            && find_addr::<false>(tables.lists(), config.exceptions6, &packet.dst) != NOTHING
    }
}

/// Whether the look-up of the way back finds something else than a way out: `__fib_validate_source()`, net/ipv4/fib_frontend.c, with
/// rp_filter off (where it is on, the guard forbids redirecting). Finding nothing, or a refusal, is no objection then.
#[inline(always)]
fn source_is_refused(tables: &impl Tables, ingress: &LinkEntry, walk: &Walk, back: &mut Walk) -> bool {
    let packet = &walk.packet;
    let Some(egress) = tables.lists().route(walk.route).and_then(|route| tables.link(route.egress)) else {
        return true;
    };
    let there = &mut back.packet;
    (there.src[0], there.dst[0]) = (packet.dst[0], packet.src[0]);
    (there.sport, there.dport) = (packet.dport, packet.sport);
    there.mark = if ingress.flags & LINK_SRC_VALID_MARK != 0 { packet.mark } else { 0 };
    (there.family, there.ipproto, there.flow) = (packet.family, packet.ipproto, packet.flow);
    if !walk_list(tables, back, egress.back) {
        return true;
    }
    !(back.end == end::ROUTE || back.end == end::REFUSED || back.end == end::PASS && back.leads_out != 0)
}

/// Whether the packet can go out by `egress` without the stack.
#[inline(always)]
fn redirect(
    tables: &impl Tables,
    ingress: &LinkEntry,
    egress: &LinkEntry,
    route: &RouteEntry,
    walk: &Walk,
    outcome: &mut Outcome,
) {
    let packet = &walk.packet;
    if egress.flags & LINK_EGRESS == 0 {
        return outcome.leave(PassReason::EgressInterface);
    }
    if route.oif == packet.iif && draws_redirect(ingress, walk.source, packet, route) {
        return outcome.leave(PassReason::IcmpRedirect);
    }

    let device_mtu = if packet.family == IPV4 { egress.mtu4 } else { egress.mtu6 };
    let mtu = if route.mtu != 0 { route.mtu } else { device_mtu };
    let fits =
        if packet.segment == SEGMENT_UNKNOWN { tables.segments_fit(route.oif, mtu) } else { packet.segment <= mtu };
    if !fits {
        return outcome.leave(PassReason::Mtu);
    }

    if egress.flags & LINK_ETHERNET != 0 {
        let neighbour = if route.via_family == 0 {
            tables.neighbour(&destination_key(route.oif, packet)).copied()
        } else {
            tables.gateway(route.gateway)
        };
        let Some(neighbour) = neighbour.filter(|neighbour| neighbour.usable != 0) else {
            return outcome.leave(PassReason::Neighbour);
        };
        outcome.macs = [neighbour.mac, egress.mac];
        outcome.ethernet = 1;
    }
    outcome.write_mark = packet.mark;
    outcome.action = Action::Redirect as u8;
}

/// The destination as a neighbour. (Of an IPv4 packet only the first word is written.)
#[inline(always)]
fn destination_key(ifindex: u32, packet: &Packet) -> NeighbourKey {
    let addr = if packet.family == IPV4 { [packet.dst[0], 0, 0, 0] } else { packet.dst };
    NeighbourKey { ifindex, family: packet.family, addr }
}

/// Whether the stack, forwarding back by the interface of arrival, may tell the sender of a better way.
///
/// IPv4: `__mkroute_input()` asks for it where `fib_validate_source()` finds the source on the link and send_redirects is on.
/// IPv6: `ip6_forward()` always tries; `ndisc_send_redirect()` gives up where the target is neither the destination itself nor
/// a link-local address.
#[inline(always)]
fn draws_redirect(ingress: &LinkEntry, source: u32, packet: &Packet, route: &RouteEntry) -> bool {
    if packet.family == IPV4 {
        return ingress.flags & LINK_REDIRECTS4 != 0 && source & SOURCE_ONLINK != 0;
    }
    match u32::from(route.via_family) {
        0 => true,
        IPV6 => route.via == packet.dst || is_link_local6(&route.via),
        _ => false,
    }
}

/// Whether a mark makes the stack take the same way.
#[inline(always)]
fn mark(
    tables: &impl Tables,
    config: &Config,
    egress: &LinkEntry,
    walk: &Walk,
    received_mark: u32,
    outcome: &mut Outcome,
) {
    if egress.flags & LINK_READS_MARK != 0 {
        return outcome.leave(PassReason::EgressInterface);
    }
    if walk.class == 0 || config.mark_bits == 0 {
        return outcome.leave(PassReason::NothingToMark);
    }
    let mut index = 0;
    while index < MAX_MARKS_IN_USE && index < config.marks_in_use {
        if let Some(used) = tables.mark_in_use(index)
            && (*used == received_mark || *used == walk.packet.mark)
        {
            return outcome.leave(PassReason::MarkInUse);
        }
        index += 1;
    }
    let class = walk.class & config.mark_bits;
    // The `[[mark]]` statements are nftables' to apply once more on the way: only Wayfork's own bits are written here.
    outcome.write_mark = (received_mark & !config.mark_bits) | class;
    outcome.mark = (walk.packet.mark & !config.mark_bits) | class;
    outcome.action = Action::Mark as u8;
}
