//! The layout of the maps between the loader and the TC program.
//!
//! Every type is `repr(C)` without padding. Integers are in host byte order but for addresses, which are the bytes of the
//! wire read as native words, so that a masked comparison needs no swapping; ports are host byte order.

mod flows;
mod told;

pub use flows::*;
pub use told::*;

use crate::interval::Tree;
use bytemuck::{Pod, Zeroable};

/// Raised whenever a map's layout or meaning changes.
pub const ABI_VERSION: u32 = 6;

/// An address of either family: IPv4 in the first word, the others 0. The family stands beside it wherever it is used.
pub type AddrWords = [u32; 4];

/// A hardware address: its bytes in order, two by two, so that it is copied in three pieces.
pub type Mac = [u16; 3];

/// The one entry of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// [`ABI_VERSION`].
    pub abi: u32,
    /// 1: decide. 0: pass every packet with [`crate::verdict::PassReason::Resync`].
    pub active: u32,
    /// How many entries of `MARKS` are in use, IPv4 and IPv6 together.
    pub marks: u32,
    /// One of `FRAGMENTS_*`.
    pub fragments: u32,
    /// The bits that `mark` may write; 0 where it may not.
    pub mark_bits: u32,
    /// How many entries of `MARKS_IN_USE` hold.
    pub marks_in_use: u32,
    /// 1: `net.ipv4.ip_forward_update_priority` is off, a forwarded packet keeps its priority.
    pub keep_priority: u32,
    /// Of the packets that the attached program decides itself, those are sampled whose random number is at most this; 0: none.
    pub sample: u32,
    /// Which state of the maps decides; carried by every sample.
    pub generation: u32,
    /// Never the same for two generations of this program's life, and never 0: entries of `FLOWS` of another one do not count.
    pub epoch: u32,
    /// How many counters of rules each CPU has for each action.
    pub counters: u32,
    /// Padding.
    pub pad: u32,
    /// Interface index to entry of `LINKS`.
    pub links: Tree,
    /// IPv4 source to `SOURCE_*` bits.
    pub sources: Tree,
    /// IPv4 destinations for which the stack has learned a gateway or a path MTU: they are the stack's.
    pub exceptions4: Tree,
    /// The same for IPv6.
    pub exceptions6: Tree,
}

/// The source may be one that the kernel refuses: this host's own, or a broadcast address (`fib_validate_source()`). Whether it is, the
/// walk back tells.
pub const SOURCE_DOUBTFUL: u32 = 1 << 0;
/// On the link of one of this host's interfaces: a hairpin from here may draw an ICMP redirect.
pub const SOURCE_ONLINK: u32 = 1 << 1;

/// No rule and no mark looks at ports: fragments are like any other packet.
pub const FRAGMENTS_DECIDE: u32 = 0;
/// A rule or a mark looks at ports, which a fragment has none of. Where a packet may be redirected no hook puts fragments together,
/// and the rules of the stack see the same; elsewhere one may.
pub const FRAGMENTS_REDIRECT: u32 = 1;
/// The same, but a hook may put fragments together everywhere: they are the stack's.
pub const FRAGMENTS_PASS: u32 = 2;

/// An entry of `LINKS`. What is known of an interface, as ingress and as egress.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct LinkEntry {
    /// Interface index.
    pub index: u32,
    /// `LINK_*` bits.
    pub flags: u32,
    /// Longest IPv4 packet that goes out, bytes from the IP header on.
    pub mtu4: u32,
    /// Longest IPv6 packet that goes out.
    pub mtu6: u32,
    /// Entry of `LISTS`: the rules that an IPv4 packet from here meets.
    pub list4: u32,
    /// The same for IPv6.
    pub list6: u32,
    /// Entry of `LISTS`: the rules that the look-up of the way back meets for an IPv4 packet that leaves here.
    pub back: u32,
    /// Hardware address; zero without `LINK_ETHERNET`.
    pub mac: Mac,
    /// The most that may be done with a packet from here: `MAY_*`.
    pub may: u8,
    /// Padding.
    pub pad: [u8; 5],
}

/// Leave every packet from this interface alone.
pub const MAY_PASS: u8 = 0;
/// Mark at most.
pub const MAY_MARK: u8 = 1;
/// Mark or redirect.
pub const MAY_REDIRECT: u8 = 2;

/// Frames start with an Ethernet header (ARPHRD_ETHER); without it packets start with the IP header (ARPHRD_NONE).
pub const LINK_ETHERNET: u32 = 1 << 0;
/// A packet may be redirected out of it: up, and of a kind whose transmit needs no route attached.
pub const LINK_EGRESS: u32 = 1 << 1;
/// Forwards IPv4 packets that come in here.
pub const LINK_FORWARDS4: u32 = 1 << 2;
/// Forwards IPv6 packets that come in here.
pub const LINK_FORWARDS6: u32 = 1 << 3;
/// The stack sends IPv4 ICMP redirects here.
pub const LINK_REDIRECTS4: u32 = 1 << 4;
/// Its outer look-up uses the packet's mark (VXLAN, GENEVE): a packet that leaves here is never marked.
pub const LINK_READS_MARK: u32 = 1 << 5;
/// `src_valid_mark`: the look-up of the way back of an IPv4 packet from here sees its mark.
pub const LINK_SRC_VALID_MARK: u32 = 1 << 6;

/// An entry of `LISTS`: the rules that packets from one interface meet, in the kernel's order. It holds only rules that can match
/// there: what is known beforehand (iif, oif, …) is resolved by the compiler and not seen here.
///
/// Every rule is either in the chain of *linear* rules, tried one after the other, or among the candidates of one *filter*: the filter
/// finds those that its selector does not rule out. The walk takes the lowest position of all these, so that the order is the list's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ListEntry {
    /// First entry in `RULES`, and in `SELECTORS`. A rule's *position* is counted from here.
    pub first: u32,
    /// How many rules the list has.
    pub count: u32,
    /// Position of the first linear rule; `count` where there is none.
    pub linear: u32,
    /// How many of `filter` are in use.
    pub filters: u32,
    /// The filters.
    pub filter: [Filter; MAX_FILTERS],
}

/// The most filters of one list.
pub const MAX_FILTERS: usize = 4;

/// One selector of many rules, turned into a look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Filter {
    /// One of `FILTER_*`: what is looked up.
    pub by: u32,
    /// With [`FILTER_MARK`], the bits of the mark that are looked up.
    pub mask: u32,
    /// What is looked up in. The value is a rule's position, or [`CANDIDATES`] and the first entry in `CHAINS` of several.
    pub tree: Tree,
}

/// The source address.
pub const FILTER_FROM: u32 = 1;
/// The destination address.
pub const FILTER_TO: u32 = 2;
/// The mark, as the `[[mark]]` statements leave it.
pub const FILTER_MARK: u32 = 3;
/// The source port.
pub const FILTER_SPORT: u32 = 4;
/// The destination port.
pub const FILTER_DPORT: u32 = 5;

/// In the value of a filter: the rest is an index in `CHAINS`, where positions follow in ascending order up to [`NO_POSITION`].
pub const CANDIDATES: u32 = 1 << 30;
/// No rule: the end of a chain.
pub const NO_POSITION: u32 = u32::MAX;

/// An entry of `RULES`. As short as can be: a packet that never comes again finds its rule's entry in no cache of the CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RuleEntry {
    /// Entry of `ACTIONS`: what the rule does, as many others do.
    pub action: u32,
    /// Number of its counter.
    pub counter: u32,
}

/// An entry of `STEPS`, beside its rule's in `RULES`; read of linear rules and of jumps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct StepEntry {
    /// Position of the next linear rule behind this one; the list's `count` where there is none.
    pub next: u32,
    /// The position that `ACT_GOTO` goes on at, behind the rule's own.
    pub target: u32,
    /// Position of the first linear rule at `target` or behind it, with `ACT_GOTO`.
    pub target_linear: u32,
    /// Padding.
    pub pad: u32,
}

/// An entry of `ACTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ActionEntry {
    /// `RULE_*` bits.
    pub flags: u32,
    /// One of `ACT_*`.
    pub action: u16,
    /// Suppress a route whose prefix is at most this long; -1 is none.
    pub suppress_prefixlength: i16,
    /// Suppress a route whose device is of this interface group; [`NO_GROUP`] is none.
    pub suppress_ifgroup: u32,
    /// The entry of `TABLES` of `ACT_TABLE`.
    pub table: u32,
    /// The value within `Config::mark_bits` that makes the stack take this table at once; 0 where it has none.
    pub mark_class: u32,
}

/// An entry of `SELECTORS`, beside its rule's in `RULES`; read where [`RULE_SELECTS`] says so. What does not count has the mask 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Selectors {
    /// `SELECT_*` bits: which of ports and protocol count.
    pub flags: u32,
    /// `(mark ^ value) & mask == 0`.
    pub mark: u32,
    /// See `mark`.
    pub mark_mask: u32,
    /// `(addr ^ from) & from_mask == 0`.
    pub from: AddrWords,
    /// See `from`.
    pub from_mask: AddrWords,
    /// `(addr ^ to) & to_mask == 0`.
    pub to: AddrWords,
    /// See `to`.
    pub to_mask: AddrWords,
    /// `(ports ^ value) & mask == 0` on [`ports`] of the packet: masked ports, both in one.
    pub ports: u32,
    /// See `ports`.
    pub ports_mask: u32,
    /// First and last source port.
    pub sport: [u16; 2],
    /// First and last destination port.
    pub dport: [u16; 2],
    /// `(flow ^ value) & mask == 0` on [`crate::packet::Packet::flow`]: `tos`, `dscp` and `flowlabel` in one.
    pub flow: u32,
    /// See `flow`.
    pub flow_mask: u32,
    /// IP protocol.
    pub ipproto: u32,
}

/// `ports` counts.
pub const SELECT_PORTS: u32 = 1 << 0;
/// `sport` counts.
pub const SELECT_SPORT: u32 = 1 << 1;
/// `dport` counts.
pub const SELECT_DPORT: u32 = 1 << 2;
/// `ipproto` counts.
pub const SELECT_IPPROTO: u32 = 1 << 3;

/// `not`: the conjunction is inverted.
pub const RULE_NOT: u32 = 1 << 0;
/// There are selectors to look at in `SELECTORS`; without it the rule matches (or its filter has proven that it does).
pub const RULE_SELECTS: u32 = 1 << 1;
/// It looks at something unseen here: a packet that all other selectors leave open is the stack's.
pub const RULE_UNSEEN: u32 = 1 << 2;
/// It has decided otherwise than the kernel: what it decides is the stack's.
pub const RULE_FALLBACK: u32 = 1 << 3;

/// [`ActionEntry::suppress_ifgroup`] of a rule that suppresses no group (-1, as the kernel keeps it).
pub const NO_GROUP: u32 = u32::MAX;

/// Both ports in one word, as [`Selectors::ports`] compares them: the source port in the upper half.
#[inline(always)]
pub fn ports(sport: u16, dport: u16) -> u32 {
    (sport as u32) << 16 | dport as u32
}

/// Look the destination up in `table`.
pub const ACT_TABLE: u16 = 1;
/// Go on at [`StepEntry::target`].
pub const ACT_GOTO: u16 = 2;
/// Go on with the next rule.
pub const ACT_NOP: u16 = 3;
/// Verdict blackhole.
pub const ACT_BLACKHOLE: u16 = 4;
/// Verdict unreachable (the kernel answers ENETUNREACH).
pub const ACT_UNREACHABLE: u16 = 5;
/// Verdict prohibit.
pub const ACT_PROHIBIT: u16 = 6;
/// The stack's alone.
pub const ACT_UNSEEN: u16 = 7;

/// An entry of `TABLES`: a routing table of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct TableEntry {
    /// Its number.
    pub id: u32,
    /// Destination to entry of `ROUTES`: the longest prefix.
    pub routes: Tree,
    /// Padding.
    pub pad: u32,
}

/// An entry of `ROUTES`: what the longest prefix says. Of several routes to a prefix only the one that the kernel takes is there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct RouteEntry {
    /// One of `ROUTE_*`.
    pub kind: u8,
    /// Prefix length, for suppress_prefixlength.
    pub prefix_len: u8,
    /// Family of the gateway: 0 none (the destination is the neighbour), 4 or 6.
    pub via_family: u8,
    /// With `ROUTE_UNSEEN`: the PassReason.
    pub reason: u8,
    /// Outgoing interface index.
    pub oif: u32,
    /// Its entry in `LINKS`.
    pub egress: u32,
    /// The gateway's entry in `GATEWAYS`.
    pub gateway: u32,
    /// Interface group of the outgoing interface; of several next hops, that of the first. With [`ROUTE_HAS_GROUP`].
    pub group: u32,
    /// The route's own MTU; 0: the device's counts.
    pub mtu: u32,
    /// From this second of CLOCK_MONOTONIC on the kernel may not use the route any more (it may have got more time since): it is
    /// the stack's. 0: it stays.
    pub expires: u32,
    /// Gateway, of `via_family`.
    pub via: AddrWords,
    /// `ROUTE_*` bits: what is certain of it, whatever the stack makes of it.
    pub certain: u32,
}

/// It has next hops, which is what `suppress_*` ask for.
pub const ROUTE_HAS_NEXT_HOPS: u32 = 1 << 0;
/// It leads out of this host.
pub const ROUTE_LEADS_OUT: u32 = 1 << 1;
/// `group` is that of its outgoing interface.
pub const ROUTE_HAS_GROUP: u32 = 1 << 2;

/// Send to `via` by `oif`.
pub const ROUTE_UNICAST: u8 = 1;
/// Verdict blackhole.
pub const ROUTE_BLACKHOLE: u8 = 2;
/// Verdict unreachable.
pub const ROUTE_UNREACHABLE: u8 = 3;
/// Verdict prohibit.
pub const ROUTE_PROHIBIT: u8 = 4;
/// Go on with the next rule.
pub const ROUTE_THROW: u8 = 5;
/// The stack's alone, for `reason`.
pub const ROUTE_UNSEEN: u8 = 6;
/// For this host by the rule `local` before all others, which the lists leave out then: the stack's whatever rule finds it.
pub const ROUTE_LOCAL_FIRST: u8 = 7;

/// Key of `NEIGHBOURS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct NeighbourKey {
    /// Interface index.
    pub ifindex: u32,
    /// 4 or 6.
    pub family: u32,
    /// The neighbour's address.
    pub addr: AddrWords,
}

/// Value of `NEIGHBOURS`, and an entry of `GATEWAYS`: a neighbour that routes name. Eight bytes, written in one piece.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NeighbourEntry {
    /// Hardware address.
    pub mac: Mac,
    /// 1: it may be used. Only such neighbours are in `NEIGHBOURS`.
    pub usable: u16,
}

/// An entry of `MARKS`, in order: one alternative of a `[[mark]]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct MarkEntry {
    /// 4 or 6.
    pub family: u32,
    /// Ingress interface index; 0 is any.
    pub iif: u32,
    /// Number of the `[[mark]]`: of those with equal numbers the first that matches counts.
    pub statement: u32,
    /// Bits to set.
    pub set_value: u32,
    /// Bits to replace.
    pub set_mask: u32,
    /// `MARK_*_SET` bits.
    pub sets: u32,
    /// A set that has to hold the source: any value but [`crate::interval::NOTHING`] is a member.
    pub from_set: Tree,
    /// A set that has to hold the destination.
    pub to_set: Tree,
    /// What else it looks at; the mark is the one that the statements before left.
    pub selectors: Selectors,
}

/// `from_set` counts.
pub const MARK_FROM_SET: u32 = 1 << 0;
/// `to_set` counts.
pub const MARK_TO_SET: u32 = 1 << 1;

/// The most `[[mark]]` alternatives that the program follows.
pub const MAX_MARKS: u32 = 256;
/// The most whole-mark values of other programs that the program keeps clear of.
pub const MAX_MARKS_IN_USE: u32 = 64;
/// The longest list of rules that the program follows for one packet.
pub const MAX_RULES: u32 = 1 << 17;

/// Every type that aya hands to the kernel.
#[cfg(feature = "user")]
mod user {
    use super::*;
    use crate::bench::{
        Generator, Limit, Sink, Span,
        lookups::{Found, Lookups},
    };

    macro_rules! pod { ($($name:ident),*) => { $(
        // SAFETY: repr(C), Copy, 'static, and without padding: bytemuck's derive of Pod proves it.
        unsafe impl aya::Pod for $name {}
    )* } }
    pod!(
        Config,
        LinkEntry,
        ListEntry,
        RuleEntry,
        StepEntry,
        ActionEntry,
        Selectors,
        TableEntry,
        RouteEntry,
        NeighbourKey,
        NeighbourEntry,
        MarkEntry,
        Count,
        Decision,
        Sample,
        Generator,
        Limit,
        Sink,
        Span,
        Lookups,
        Found
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn sizes_are_the_abi() {
        assert_eq!(size_of::<Config>(), 80);
        assert_eq!(size_of::<LinkEntry>(), 40);
        assert_eq!(size_of::<ListEntry>(), 80);
        assert_eq!(size_of::<RuleEntry>(), 8);
        assert_eq!(size_of::<StepEntry>(), 16);
        assert_eq!(size_of::<ActionEntry>(), 20);
        assert_eq!(size_of::<Selectors>(), 104);
        assert_eq!(size_of::<TableEntry>(), 16);
        assert_eq!(size_of::<RouteEntry>(), 48);
        assert_eq!(size_of::<NeighbourKey>(), 24);
        assert_eq!(size_of::<NeighbourEntry>(), 8);
        assert_eq!(size_of::<MarkEntry>(), 144);
        assert_eq!(size_of::<Flow>(), 64);
        assert_eq!(size_of::<Flow6>(), 24);
        assert_eq!(size_of::<Count>(), 16);
        assert_eq!(size_of::<Decision>(), 36);
        assert_eq!(size_of::<Sample>(), 96);
    }
}
