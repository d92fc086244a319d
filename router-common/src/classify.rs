//! The compiled decision: marks, the walk of the rules, the way out. Over traits of tables, so that the eBPF program (its
//! maps) and host tests (collections) run the same code.
//!
//! The order is the stack's: local delivery and sources before forwarding (`ip_route_input_slow()`, `ip6_forward()`), rules and
//! routes as `fib_rules_lookup()` walks them, then what `ip_forward()` and the neighbour layer would still have to say.

use crate::layout::*;
use crate::packet::{IPV4, IPV6, Packet, SEGMENT_UNKNOWN};
use crate::parse::is_link_local6;
use crate::verdict::{Action, PassReason, Verdict};

/// The tables that the two loops look at.
pub trait Lists {
    /// `RULES[index]`.
    fn rule(&self, index: u32) -> Option<&RuleEntry>;
    /// The longest prefix of `table` that holds the address.
    fn route(&self, family: u32, table: u32, addr: &AddrWords) -> Option<&RouteEntry>;
    /// CLOCK_MONOTONIC, whole seconds.
    fn seconds(&self) -> u32;
    /// `MARKS[index]`.
    fn mark_entry(&self, index: u32) -> Option<&MarkEntry>;
}

/// The other tables, and the two loops over [`Lists`], which the eBPF program runs by `bpf_loop`.
pub trait Tables {
    /// What is known of an address; 0 for nothing.
    fn addr_flags(&self, family: u32, addr: &AddrWords) -> AddrFlags;
    /// `LINKS[ifindex]`.
    fn link(&self, ifindex: u32) -> Option<&LinkEntry>;
    /// A usable neighbour.
    fn neighbour(&self, key: &NeighbourKey) -> Option<&NeighbourEntry>;
    /// `MARKS_IN_USE[index]`.
    fn mark_in_use(&self, index: u32) -> Option<&u32>;
    /// Whether every segment of this GSO packet fits the device, and the device's MTU is at most `mtu`.
    fn segments_fit(&self, oif: u32, mtu: u32) -> bool;
    /// Calls [`mark_step`] until it says false, at most `times` times.
    fn rewrite_mark(&self, walk: &mut Walk, times: u32);
    /// Calls [`rule_step`] until it says false, at most `times` times.
    fn walk_rules(&self, walk: &mut Walk, times: u32);
}

/// What is to be done with a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was decided. With action pass, verdict and the rest say how far it came.
    pub decision: Decision,
    /// The mark to write into the packet with actions redirect and mark.
    pub write_mark: u32,
    /// 1, with action redirect: the outgoing device's frames have an Ethernet header, with these addresses.
    pub ethernet: u32,
    /// Destination, then source address.
    pub macs: [u8; 12],
}

impl Outcome {
    /// Left to the stack with nothing known yet.
    #[inline(always)]
    pub fn pass(reason: PassReason, mark: u32) -> Self {
        Outcome {
            decision: Decision {
                action: Action::Pass as u8,
                verdict: Verdict::Undecided as u8,
                reason: reason as u8,
                via_family: 0,
                oif: 0,
                table: 0,
                rule: NO_RULE,
                mark,
                via: [0; 4],
            },
            write_mark: mark,
            ethernet: 0,
            macs: [0; 12],
        }
    }

    /// Leaves the packet to the stack after all; what is known stays.
    #[inline(always)]
    pub fn leave(&mut self, reason: PassReason) {
        self.decision.action = Action::Pass as u8;
        self.decision.reason = reason as u8;
    }
}

/// Where the walk stands: [`Walk::end`].
mod end {
    /// It goes on.
    pub const RUNNING: u32 = 0;
    /// A route was found.
    pub const ROUTE: u32 = 1;
    /// A rule or a route refuses the packet: `Walk::verdict`.
    pub const REFUSED: u32 = 2;
    /// It is the stack's: `Walk::reason`.
    pub const PASS: u32 = 3;
}

/// The state of the loops over marks and rules.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The packet, with the mark as it stands.
    pub packet: Packet,
    /// The route found.
    pub route: RouteEntry,
    /// Index in the list of the next rule, or of the next mark.
    at: u32,
    /// First entry of the list in `RULES`.
    first: u32,
    /// How many rules the list has.
    count: u32,
    /// One of [`end`].
    end: u32,
    /// A [`Verdict`], with `REFUSED`.
    verdict: u32,
    /// A [`PassReason`], with `PASS`.
    reason: u32,
    /// Counter of the rule that decided.
    rule: u32,
    /// Its table, where it has one.
    table: u32,
    /// Its mark class.
    class: u32,
    /// Not 0 where what it decides is the stack's.
    fallback: u32,
    /// The mark statement that has matched: its other alternatives do not count. `u32::MAX` for none yet.
    statement: u32,
}

impl Walk {
    /// Before the packet is parsed.
    #[inline(always)]
    #[expect(clippy::new_without_default, reason = "it is a state to fill, not a value")]
    pub fn new() -> Self {
        Walk {
            packet: Packet::EMPTY,
            route: RouteEntry {
                kind: 0,
                prefix_len: 0,
                via_family: 0,
                reason: 0,
                oif: 0,
                group: 0,
                mtu: 0,
                expires: 0,
                via: [0; 4],
            },
            at: 0,
            first: 0,
            count: 0,
            end: end::RUNNING,
            verdict: 0,
            reason: 0,
            rule: NO_RULE,
            table: 0,
            class: 0,
            fallback: 0,
            statement: u32::MAX,
        }
    }

    #[inline(always)]
    fn pass(&mut self, reason: PassReason) -> bool {
        self.end = end::PASS;
        self.reason = reason as u32;
        false
    }

    #[inline(always)]
    fn refuse(&mut self, verdict: Verdict) -> bool {
        self.end = end::REFUSED;
        self.verdict = verdict as u32;
        false
    }
}

/// The selectors that rules and marks have in common: 0 where all of them match. Without branches, because the verifier follows
/// every way through them once more for each round of the loop; a selector that does not count has the mask 0.
macro_rules! mismatch {
    ($entry:expr, $packet:expr) => {{
        let (entry, packet) = ($entry, $packet);
        let mut mismatch = ((packet.mark ^ entry.mark) & entry.mark_mask)
            | difference(&packet.src, &entry.from, &entry.from_mask)
            | difference(&packet.dst, &entry.to, &entry.to_mask)
            | ((packet.flow ^ entry.flow) & entry.flow_mask);
        let flags = entry.flags;
        if flags & (RULE_IPPROTO | RULE_PORTS | RULE_SPORT | RULE_DPORT) != 0 {
            mismatch |= ((ports(packet.sport, packet.dport) ^ entry.ports) & entry.ports_mask)
                | u32::from(packet.ipproto ^ entry.ipproto) & all_if(flags, RULE_IPPROTO)
                | outside(packet.sport, entry.sport) & all_if(flags, RULE_SPORT)
                | outside(packet.dport, entry.dport) & all_if(flags, RULE_DPORT);
        }
        mismatch
    }};
}

#[inline(always)]
fn difference(addr: &AddrWords, value: &AddrWords, mask: &AddrWords) -> u32 {
    ((addr[0] ^ value[0]) & mask[0])
        | ((addr[1] ^ value[1]) & mask[1])
        | ((addr[2] ^ value[2]) & mask[2])
        | ((addr[3] ^ value[3]) & mask[3])
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

/// One alternative of a `[[mark]]`. Says whether to go on.
#[inline(always)]
pub fn mark_step(lists: &impl Lists, walk: &mut Walk) -> bool {
    let Some(entry) = lists.mark_entry(walk.at) else { return false };
    walk.at += 1;
    let packet = &walk.packet;
    let applies = entry.family == packet.family && (entry.iif == 0 || entry.iif == packet.iif);
    if applies && entry.statement != walk.statement && mismatch!(entry, packet) == 0 {
        walk.packet.mark = (packet.mark & !entry.set_mask) | (entry.set_value & entry.set_mask);
        walk.statement = entry.statement;
    }
    true
}

/// One rule: `fib_rules_lookup()` and `fib_rule_match()`, net/core/fib_rules.c. Says whether to go on.
#[inline(always)]
pub fn rule_step(lists: &impl Lists, walk: &mut Walk) -> bool {
    if walk.at >= walk.count {
        return walk.refuse(Verdict::NoRoute);
    }
    let Some(rule) = lists.rule(walk.first.wrapping_add(walk.at)) else { return walk.pass(PassReason::Resync) };
    walk.at += 1;
    let all = mismatch!(rule, &walk.packet) == 0;
    if all && rule.flags & RULE_UNSEEN != 0 {
        return walk.pass(PassReason::RuleSelector);
    }
    if all == (rule.flags & RULE_NOT != 0) {
        return true;
    }
    match rule.action {
        ACT_NOP => return true,
        ACT_GOTO => {
            // The compiler only writes targets ahead; one that is not would make the walk longer than its list.
            if rule.target < walk.at {
                return walk.pass(PassReason::Resync);
            }
            walk.at = rule.target;
            return true;
        }
        _ => {}
    }
    walk.rule = rule.counter;
    walk.class = rule.mark_class;
    walk.fallback = rule.flags & RULE_FALLBACK;
    match rule.action {
        ACT_TABLE => table_step(lists, walk, rule),
        ACT_BLACKHOLE => walk.refuse(Verdict::Blackhole),
        ACT_UNREACHABLE => walk.refuse(Verdict::Unreachable),
        ACT_PROHIBIT => walk.refuse(Verdict::Prohibit),
        _ => walk.pass(PassReason::RuleSelector),
    }
}

/// What the rule's table says: `fib4_rule_action()` and `fib4_rule_suppress()`, net/ipv4/fib_rules.c; `fib6_rule_action()` and
/// `fib6_rule_suppress()`, net/ipv6/fib6_rules.c.
#[inline(always)]
fn table_step(lists: &impl Lists, walk: &mut Walk, rule: &RuleEntry) -> bool {
    walk.table = rule.target;
    let found = lists.route(walk.packet.family, rule.target, &walk.packet.dst);
    let Some(route) = found else { return nothing_decided(walk) };
    // One whose time is over is not there (`__find_rr_leaf()`, net/ipv6/route.c): another may take its place.
    if route.expires != 0 && lists.seconds() >= route.expires {
        return walk.pass(PassReason::RouteExpiry);
    }
    if route.kind == ROUTE_THROW {
        return nothing_decided(walk);
    }
    // Only what has next hops is suppressed: the kernel asks after a look-up without error.
    let has_next_hops =
        route.kind == ROUTE_UNICAST || (route.kind == ROUTE_UNSEEN && route.reason == PassReason::Multipath as u8);
    if has_next_hops && i32::from(route.prefix_len) <= rule.suppress_prefixlength {
        return nothing_decided(walk);
    }
    match route.kind {
        ROUTE_UNICAST => {
            if rule.suppress_ifgroup != NO_GROUP && rule.suppress_ifgroup == route.group {
                return nothing_decided(walk);
            }
            walk.route = *route;
            walk.end = end::ROUTE;
            false
        }
        ROUTE_BLACKHOLE => walk.refuse(Verdict::Blackhole),
        ROUTE_UNREACHABLE => walk.refuse(Verdict::Unreachable),
        ROUTE_PROHIBIT => walk.refuse(Verdict::Prohibit),
        _ => {
            walk.end = end::PASS;
            walk.reason = u32::from(route.reason);
            false
        }
    }
}

#[inline(always)]
fn nothing_decided(walk: &mut Walk) -> bool {
    walk.rule = NO_RULE;
    walk.table = 0;
    walk.class = 0;
    walk.fallback = 0;
    true
}

/// Decides about the packet in `walk`, which came in by `ingress`. `outcome` begins as [`Outcome::pass`] and says in the end
/// what to do; nothing is rewritten. (Both are passed by reference because a program's stack is 512 bytes.)
#[inline(always)]
pub fn decide(tables: &impl Tables, config: &Config, ingress: &LinkEntry, walk: &mut Walk, outcome: &mut Outcome) {
    let received_mark = walk.packet.mark;
    let packet = &walk.packet;
    if ingress.may == MAY_PASS {
        return outcome.leave(PassReason::InterfacePass);
    }
    let ipv4 = packet.family == IPV4;
    if ingress.flags & (if ipv4 { LINK_FORWARDS4 } else { LINK_FORWARDS6 }) == 0 {
        return outcome.leave(PassReason::ForwardingOff);
    }
    let destination = tables.addr_flags(packet.family, &packet.dst);
    if destination & ADDR_SPECIAL != 0 {
        return outcome.leave(PassReason::LocalDestination);
    }
    if destination & ADDR_EXCEPTION != 0 {
        return outcome.leave(PassReason::Exception);
    }
    // IPv6 forwards whatever the source, but for those that the parser refuses (`ip6_forward()`).
    let source = if ipv4 { tables.addr_flags(packet.family, &packet.src) } else { 0 };
    if source & ADDR_SPECIAL != 0 {
        return outcome.leave(PassReason::Source);
    }
    // A fragment has no ports: that is what the stack's rules see too, where nothing puts it together on the way to them.
    let whole =
        config.fragments == FRAGMENTS_PASS || (config.fragments == FRAGMENTS_REDIRECT && ingress.may != MAY_REDIRECT);
    if packet.fragment != 0 && whole {
        return outcome.leave(PassReason::Fragment);
    }
    let [first, count] = if ipv4 { ingress.rules4 } else { ingress.rules6 };
    if count > MAX_RULES {
        return outcome.leave(PassReason::RuleLimit);
    }

    if config.marks != 0 {
        tables.rewrite_mark(walk, if config.marks < MAX_MARKS { config.marks } else { MAX_MARKS });
    }
    walk.at = 0;
    walk.first = first;
    walk.count = count;
    // Once more than there are rules: that step finds the list at its end.
    tables.walk_rules(walk, count + 1);

    outcome.decision.mark = walk.packet.mark;
    outcome.decision.rule = walk.rule;
    outcome.decision.table = walk.table;
    if walk.fallback != 0 {
        return outcome.leave(PassReason::ShadowDisagreed);
    }
    match walk.end {
        end::ROUTE => {
            outcome.decision.verdict = Verdict::Forward as u8;
            outcome.decision.oif = walk.route.oif;
            outcome.decision.via_family = walk.route.via_family;
            outcome.decision.via = walk.route.via;
            let Some(egress) = tables.link(walk.route.oif) else { return outcome.leave(PassReason::EgressInterface) };
            if ingress.may == MAY_REDIRECT {
                redirect(tables, ingress, egress, source, walk, outcome)
            } else {
                mark(tables, config, egress, walk, received_mark, outcome)
            }
        }
        end::REFUSED => {
            outcome.decision.verdict = walk.verdict as u8;
            if walk.verdict != Verdict::Blackhole as u32 {
                outcome.leave(PassReason::IcmpError)
            } else if ingress.may != MAY_REDIRECT {
                outcome.leave(PassReason::NothingToMark)
            } else {
                outcome.decision.action = Action::Drop as u8
            }
        }
        end::PASS => outcome.decision.reason = walk.reason as u8,
        _ => outcome.leave(PassReason::RuleLimit),
    }
}

/// Whether the packet can go out by `egress` without the stack.
#[inline(always)]
fn redirect(
    tables: &impl Tables,
    ingress: &LinkEntry,
    egress: &LinkEntry,
    source: AddrFlags,
    walk: &Walk,
    outcome: &mut Outcome,
) {
    let (packet, route) = (&walk.packet, &walk.route);
    if egress.flags & LINK_EGRESS == 0 {
        return outcome.leave(PassReason::EgressInterface);
    }
    let direct = route.via_family == 0;
    let hop = NeighbourKey {
        ifindex: route.oif,
        family: if direct { packet.family } else { u32::from(route.via_family) },
        addr: if direct { packet.dst } else { route.via },
    };
    if route.oif == packet.iif && draws_redirect(ingress, source, packet, &hop) {
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
        let Some(neighbour) = tables.neighbour(&hop) else { return outcome.leave(PassReason::Neighbour) };
        let (d, s) = (&neighbour.mac, &egress.mac);
        outcome.macs = [d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5]];
        outcome.ethernet = 1;
    }
    outcome.write_mark = packet.mark;
    outcome.decision.action = Action::Redirect as u8;
}

/// Whether the stack, forwarding back by the interface of arrival, may tell the sender of a better way.
///
/// IPv4: `__mkroute_input()` asks for it where `fib_validate_source()` finds the source on the link and send_redirects is on.
/// IPv6: `ip6_forward()` always tries; `ndisc_send_redirect()` gives up where the target is neither the destination itself nor
/// a link-local address.
#[inline(always)]
fn draws_redirect(ingress: &LinkEntry, source: AddrFlags, packet: &Packet, hop: &NeighbourKey) -> bool {
    if packet.family == IPV4 {
        return ingress.flags & LINK_REDIRECTS4 != 0 && source & ADDR_ONLINK != 0;
    }
    hop.family == IPV6 && (hop.addr == packet.dst || is_link_local6(&hop.addr))
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
    outcome.decision.mark = (walk.packet.mark & !config.mark_bits) | class;
    outcome.decision.action = Action::Mark as u8;
}
