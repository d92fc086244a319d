//! The layout of the maps between the loader and the TC program.
//!
//! Every type is `repr(C)` without padding. Integers are in host byte order but for addresses, which are the bytes of the
//! wire read as native words, so that a masked comparison needs no swapping; ports are host byte order.

use bytemuck::{Pod, Zeroable};

/// Raised whenever a map's layout or meaning changes.
pub const ABI_VERSION: u32 = 4;

/// An address of either family: IPv4 in the first word, the others 0. The family stands beside it wherever it is used.
pub type AddrWords = [u32; 4];

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
}

/// No rule and no mark looks at ports: fragments are like any other packet.
pub const FRAGMENTS_DECIDE: u32 = 0;
/// A rule or a mark looks at ports, which a fragment has none of. Where a packet may be redirected no hook puts fragments together,
/// and the rules of the stack see the same; elsewhere one may.
pub const FRAGMENTS_REDIRECT: u32 = 1;
/// The same, but a hook may put fragments together everywhere: they are the stack's.
pub const FRAGMENTS_PASS: u32 = 2;

/// Key of `LINKS`: an interface index. What is known of an interface, as ingress and as egress.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct LinkEntry {
    /// `LINK_*` bits.
    pub flags: u32,
    /// Longest IPv4 packet that goes out, bytes from the IP header on.
    pub mtu4: u32,
    /// Longest IPv6 packet that goes out.
    pub mtu6: u32,
    /// First entry in `RULES` of what an IPv4 packet from here meets, and how many.
    pub rules4: [u32; 2],
    /// The same for IPv6.
    pub rules6: [u32; 2],
    /// Hardware address; zero without `LINK_ETHERNET`.
    pub mac: [u8; 6],
    /// The most that may be done with a packet from here: `MAY_*`.
    pub may: u8,
    /// Padding.
    pub pad: u8,
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

/// An entry of `RULES`. The lists of an ingress interface hold only rules that can match there: what is known beforehand
/// (iif, oif, …) is resolved by the compiler and not seen here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RuleEntry {
    /// `RULE_*` bits: which selectors count. Of one that does not, the mask (mark, from, to, ports, flow) is 0: the program looks
    /// at the mask alone.
    pub flags: u32,
    /// One of `ACT_*`.
    pub action: u32,
    /// The table of `ACT_TABLE`; the index within this list of `ACT_GOTO`, larger than the rule's own.
    pub target: u32,
    /// Suppress a route whose prefix is at most this long; -1 is none.
    pub suppress_prefixlength: i32,
    /// Suppress a route whose device is of this interface group; [`NO_GROUP`] is none.
    pub suppress_ifgroup: u32,
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
    pub ipproto: u8,
    /// Padding.
    pub pad: [u8; 3],
    /// Index in `RULE_COUNTERS`.
    pub counter: u32,
    /// The value within `Config::mark_bits` that makes the stack take this table at once; 0 where it has none.
    pub mark_class: u32,
}

/// `not`: the conjunction is inverted.
pub const RULE_NOT: u32 = 1 << 0;
/// `mark` counts.
pub const RULE_MARK: u32 = 1 << 1;
/// `from` counts.
pub const RULE_FROM: u32 = 1 << 2;
/// `to` counts.
pub const RULE_TO: u32 = 1 << 3;
/// `ipproto` counts.
pub const RULE_IPPROTO: u32 = 1 << 4;
/// `sport` counts.
pub const RULE_SPORT: u32 = 1 << 5;
/// `dport` counts.
pub const RULE_DPORT: u32 = 1 << 6;
/// `flow` counts.
pub const RULE_FLOW: u32 = 1 << 7;
/// It looks at something unseen here: a packet that all other selectors leave open is the stack's.
pub const RULE_UNSEEN: u32 = 1 << 8;
/// It has decided otherwise than the kernel: what it decides is the stack's.
pub const RULE_FALLBACK: u32 = 1 << 31;
/// `ports` counts.
pub const RULE_PORTS: u32 = 1 << 9;

/// [`RuleEntry::suppress_ifgroup`] of a rule that suppresses no group (-1, as the kernel keeps it).
pub const NO_GROUP: u32 = u32::MAX;

/// Both ports in one word, as [`RuleEntry::ports`] compares them: the source port in the upper half.
#[inline(always)]
pub fn ports(sport: u16, dport: u16) -> u32 {
    (sport as u32) << 16 | dport as u32
}

/// Look the destination up in `target`.
pub const ACT_TABLE: u32 = 1;
/// Go on at `target`.
pub const ACT_GOTO: u32 = 2;
/// Go on with the next rule.
pub const ACT_NOP: u32 = 3;
/// Verdict blackhole.
pub const ACT_BLACKHOLE: u32 = 4;
/// Verdict unreachable (the kernel answers ENETUNREACH).
pub const ACT_UNREACHABLE: u32 = 5;
/// Verdict prohibit.
pub const ACT_PROHIBIT: u32 = 6;
/// The stack's alone.
pub const ACT_UNSEEN: u32 = 7;

/// Key data of `ROUTES4`: prefix length = 32 + that of the route.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct RouteKey4 {
    /// Table number, big endian, so that it comes whole before the address.
    pub table: [u8; 4],
    /// Address, wire order.
    pub addr: [u8; 4],
}

/// Key data of `ROUTES6`: prefix length = 32 + that of the route.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct RouteKey6 {
    /// Table number, big endian.
    pub table: [u8; 4],
    /// Address, wire order.
    pub addr: [u8; 16],
}

/// What the longest prefix of a table says. Of several routes to a prefix only the one that the kernel takes is there.
/// Host-local, broadcast, anycast and multicast routes are not in it but in `ADDRS4`, `ADDRS6`, which are looked at first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
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
    /// Interface group of the outgoing interface.
    pub group: u32,
    /// The route's own MTU; 0: the device's counts.
    pub mtu: u32,
    /// From this second of CLOCK_MONOTONIC on the kernel may not use the route any more (it may have got more time since): it is
    /// the stack's. 0: it stays.
    pub expires: u32,
    /// Gateway, of `via_family`.
    pub via: AddrWords,
}

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

/// Value of `ADDRS4`, `ADDRS6` (LPM tries over addresses, all tables together). The compiler ORs into an entry what its
/// covering prefixes say, so that the longest match says all.
pub type AddrFlags = u32;
/// Some table has a local, broadcast, anycast or multicast route here: as a destination it is the stack's, and so is a
/// packet with such a source (`fib_validate_source`).
pub const ADDR_SPECIAL: AddrFlags = 1 << 0;
/// On the link of one of this host's interfaces: a hairpin from here may draw an ICMP redirect.
pub const ADDR_ONLINK: AddrFlags = 1 << 1;
/// The stack has learned a gateway or a path MTU for this one destination: it is the stack's.
pub const ADDR_EXCEPTION: AddrFlags = 1 << 2;

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

/// Value of `NEIGHBOURS`. Only usable neighbours are in the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NeighbourEntry {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Padding.
    pub pad: [u8; 2],
}

/// An entry of `MARKS`, in order: one alternative of a `[[mark]]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct MarkEntry {
    /// `RULE_*` bits, as in [`RuleEntry`]; `RULE_MARK` here is about the mark as the statements before left it.
    pub flags: u32,
    /// 4 or 6.
    pub family: u32,
    /// Ingress interface index; 0 is any.
    pub iif: u32,
    /// Number of the `[[mark]]`: of those with equal numbers the first that matches counts.
    pub statement: u32,
    /// Selector.
    pub mark: u32,
    /// Selector.
    pub mark_mask: u32,
    /// Bits to set.
    pub set_value: u32,
    /// Bits to replace.
    pub set_mask: u32,
    /// Selector, see [`RuleEntry`].
    pub from: AddrWords,
    /// Selector.
    pub from_mask: AddrWords,
    /// Selector.
    pub to: AddrWords,
    /// Selector.
    pub to_mask: AddrWords,
    /// Selector.
    pub ports: u32,
    /// Selector.
    pub ports_mask: u32,
    /// Selector.
    pub sport: [u16; 2],
    /// Selector.
    pub dport: [u16; 2],
    /// Selector.
    pub flow: u32,
    /// Selector.
    pub flow_mask: u32,
    /// Selector.
    pub ipproto: u8,
    /// Padding.
    pub pad: [u8; 3],
}

/// The most `[[mark]]` alternatives that the program follows.
pub const MAX_MARKS: u32 = 256;
/// The most whole-mark values of other programs that the program keeps clear of.
pub const MAX_MARKS_IN_USE: u32 = 64;
/// The longest list of rules that the program follows for one packet.
pub const MAX_RULES: u32 = 1 << 17;

/// Value of `RULE_COUNTERS` (per CPU), indexed by [`crate::verdict::Action`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counter {
    /// Packets per action.
    pub packets: [u64; 4],
    /// Bytes per action, from the IP header on.
    pub bytes: [u64; 4],
}

/// Value of `PASS_COUNTERS` (per CPU), indexed by [`crate::verdict::PassReason`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PassCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on; of the whole frame where that header was not read.
    pub bytes: u64,
}

/// The one entry of `DECISION`: what the probe decided about the packet of a test run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Decision {
    /// [`crate::verdict::Action`].
    pub action: u8,
    /// [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// [`crate::verdict::PassReason`], with action pass.
    pub reason: u8,
    /// 0, 4 or 6: as in [`RouteEntry`].
    pub via_family: u8,
    /// Outgoing interface index, 0 where there is none.
    pub oif: u32,
    /// The table that decided, 0 where none did.
    pub table: u32,
    /// `RuleEntry::counter` of the rule that decided; `u32::MAX` where none did.
    pub rule: u32,
    /// The mark after the `[[mark]]` statements and, with action mark, with Wayfork's bits.
    pub mark: u32,
    /// The next hop's address.
    pub via: AddrWords,
}

/// A record of `SAMPLES`: a packet that the attached program has decided itself, as it came in, and the decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sample {
    /// `Config::generation` by which it was decided.
    pub generation: u32,
    /// 4 or 6.
    pub family: u32,
    /// Ingress interface index.
    pub iif: u32,
    /// fwmark as received; `Decision::mark` has the one afterwards.
    pub mark: u32,
    /// Source address.
    pub src: AddrWords,
    /// Destination address.
    pub dst: AddrWords,
    /// Source port as rules see it, host byte order.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IP protocol, or next header.
    pub ipproto: u8,
    /// 1 for an IPv4 fragment.
    pub fragment: u8,
    /// Padding.
    pub pad: [u8; 2],
    /// Traffic class and flow label, as in [`crate::packet::Packet::flow`].
    pub flow: u32,
    /// What was decided.
    pub decision: Decision,
}

/// Bytes of `SAMPLES`, a ring buffer: a power of two and a multiple of every page size. Room for two thousand records.
pub const SAMPLES_BYTES: u32 = 1 << 18;

/// `Decision::rule` where no rule decided.
pub const NO_RULE: u32 = u32::MAX;

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
        RuleEntry,
        RouteKey4,
        RouteKey6,
        RouteEntry,
        NeighbourKey,
        NeighbourEntry,
        MarkEntry,
        Counter,
        PassCounter,
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
        assert_eq!(size_of::<Config>(), 36);
        assert_eq!(size_of::<LinkEntry>(), 36);
        assert_eq!(size_of::<RuleEntry>(), 128);
        assert_eq!(size_of::<RouteKey4>(), 8);
        assert_eq!(size_of::<RouteKey6>(), 20);
        assert_eq!(size_of::<RouteEntry>(), 36);
        assert_eq!(size_of::<NeighbourKey>(), 24);
        assert_eq!(size_of::<NeighbourEntry>(), 8);
        assert_eq!(size_of::<MarkEntry>(), 124);
        assert_eq!(size_of::<Counter>(), 64);
        assert_eq!(size_of::<PassCounter>(), 16);
        assert_eq!(size_of::<Decision>(), 36);
        assert_eq!(size_of::<Sample>(), 96);
    }
}
