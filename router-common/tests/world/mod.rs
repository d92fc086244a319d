//! The decision's tables as collections instead of maps.
#![allow(dead_code, reason = "each test file uses its part")]

use router_common::classify::{Lists, Outcome, Tables, Walk, decide, mark_step, rule_step};
use router_common::layout::*;
use router_common::packet::{IPV4, IPV6, Packet, UDP};
use router_common::verdict::{Action, PassReason};
use std::collections::HashMap;

pub const LAN: u32 = 2;
pub const WAN: u32 = 70_000;
pub const TUN: u32 = 4;

#[derive(Clone)]
pub struct World {
    pub config: Config,
    pub links: HashMap<u32, LinkEntry>,
    pub rules: Vec<RuleEntry>,
    /// Family, table, address, prefix length.
    pub routes: Vec<(u32, u32, AddrWords, u32, RouteEntry)>,
    pub addrs: HashMap<AddrWords, AddrFlags>,
    pub neighbours: HashMap<NeighbourKey, NeighbourEntry>,
    pub marks: Vec<MarkEntry>,
    pub marks_in_use: Vec<u32>,
    pub device_mtu_of_segments: Option<u32>,
    pub seconds: u32,
}

/// Whether the first `bits` bits are equal.
pub fn same_prefix(a: &AddrWords, b: &AddrWords, bits: u32) -> bool {
    let bytes = |addr: &AddrWords| u128::from_be_bytes(bytemuck::cast(*addr));
    bits == 0 || (bytes(a) ^ bytes(b)) >> (128 - bits) == 0
}

impl Lists for World {
    fn rule(&self, index: u32) -> Option<&RuleEntry> {
        self.rules.get(index as usize)
    }
    fn route(&self, family: u32, table: u32, addr: &AddrWords) -> Option<&RouteEntry> {
        let found =
            self.routes.iter().filter(|(f, t, to, len, _)| *f == family && *t == table && same_prefix(addr, to, *len));
        found.max_by_key(|(.., len, _)| *len).map(|(.., entry)| entry)
    }
    fn seconds(&self) -> u32 {
        self.seconds
    }
    fn mark_entry(&self, index: u32) -> Option<&MarkEntry> {
        self.marks.get(index as usize)
    }
}

impl Tables for World {
    fn addr_flags(&self, _family: u32, addr: &AddrWords) -> AddrFlags {
        self.addrs.get(addr).copied().unwrap_or(0)
    }
    fn link(&self, ifindex: u32) -> Option<&LinkEntry> {
        self.links.get(&ifindex)
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
    fn rewrite_mark(&self, walk: &mut Walk, times: u32) {
        (0..times).all(|_| mark_step(self, walk));
    }
    fn walk_rules(&self, walk: &mut Walk, times: u32) {
        (0..times).all(|_| rule_step(self, walk));
    }
}

pub fn v4(addr: [u8; 4]) -> AddrWords {
    [u32::from_ne_bytes(addr), 0, 0, 0]
}

pub fn v6(text: &str) -> AddrWords {
    bytemuck::cast(text.parse::<std::net::Ipv6Addr>().expect("an address").octets())
}

pub fn zeroed<T: bytemuck::Zeroable>() -> T {
    bytemuck::Zeroable::zeroed()
}

pub fn rule(action: u32, target: u32) -> RuleEntry {
    RuleEntry {
        action,
        target,
        suppress_prefixlength: -1,
        suppress_ifgroup: NO_GROUP,
        counter: target,
        mark_class: 0x0300_0000,
        ..zeroed()
    }
}

pub fn via(addr: [u8; 4]) -> RouteEntry {
    RouteEntry { kind: ROUTE_UNICAST, via_family: 4, oif: WAN, via: v4(addr), ..zeroed() }
}

pub fn kind(kind: u8, reason: PassReason) -> RouteEntry {
    RouteEntry { kind, reason: reason as u8, ..zeroed() }
}

/// `lan` and `wan` are Ethernet, `tun` is not; one rule for table 111 with a default route to 10.0.0.1 on `wan`.
pub fn world() -> World {
    let flags = LINK_EGRESS | LINK_FORWARDS4 | LINK_FORWARDS6;
    let link =
        LinkEntry { flags, mtu4: 1500, mtu6: 1500, rules4: [0, 1], rules6: [0, 1], may: MAY_REDIRECT, ..zeroed() };
    let ethernet = |last| LinkEntry { flags: flags | LINK_ETHERNET, mac: [2, 0, 0, 0, 0, last], ..link };
    let gateway = NeighbourKey { ifindex: WAN, family: 4, addr: v4([10, 0, 0, 1]) };
    let gateway6 = NeighbourKey { ifindex: WAN, family: 6, addr: v6("fe80::1") };
    World {
        config: Config { abi: ABI_VERSION, active: 1, mark_bits: 0xff00_0000, ..zeroed() },
        links: [(LAN, ethernet(2)), (WAN, ethernet(7)), (TUN, link)].into(),
        rules: vec![rule(ACT_TABLE, 111)],
        routes: vec![
            (4, 111, v4([0; 4]), 0, via([10, 0, 0, 1])),
            (6, 111, [0; 4], 0, RouteEntry { via_family: 6, via: v6("fe80::1"), ..via([0; 4]) }),
        ],
        addrs: HashMap::new(),
        neighbours: [
            (gateway, NeighbourEntry { mac: [2, 0, 0, 0, 1, 1], pad: [0; 2] }),
            (gateway6, NeighbourEntry { mac: [2, 0, 0, 0, 1, 6], pad: [0; 2] }),
        ]
        .into(),
        marks: Vec::new(),
        marks_in_use: Vec::new(),
        device_mtu_of_segments: None,
        seconds: 0,
    }
}

impl World {
    pub fn link_mut(&mut self, index: u32) -> &mut LinkEntry {
        self.links.get_mut(&index).expect("a link of the world")
    }

    pub fn rules(mut self, rules: &[RuleEntry]) -> Self {
        self.rules = rules.to_vec();
        for link in self.links.values_mut() {
            (link.rules4, link.rules6) = ([0, rules.len() as u32], [0, rules.len() as u32]);
        }
        self
    }

    pub fn route4(mut self, table: u32, to: [u8; 4], len: u8, entry: RouteEntry) -> Self {
        let entry = RouteEntry { prefix_len: len, ..entry };
        self.routes.push((4, table, v4(to), u32::from(len), entry));
        self
    }

    pub fn decide(&self, packet: Packet) -> Outcome {
        let mut walk = Walk::new();
        walk.packet = packet;
        let mut outcome = Outcome::pass(PassReason::Resync, packet.mark);
        let ingress = *self.link(packet.iif).expect("a known interface");
        decide(self, &self.config, &ingress, &mut walk, &mut outcome);
        outcome
    }

    pub fn told(&self, packet: Packet) -> Told {
        Told::from(self.decide(packet))
    }
}

/// An outcome in words.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Redirect { oif: u32, table: u32 },
    Mark(u32),
    Drop,
    Pass(PassReason),
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        let decision = outcome.decision;
        match Action::from_u8(decision.action).expect("a known action") {
            Action::Redirect => Told::Redirect { oif: decision.oif, table: decision.table },
            Action::Mark => Told::Mark(outcome.write_mark),
            Action::Drop => Told::Drop,
            Action::Pass => Told::Pass(PassReason::from_u8(decision.reason).expect("a known reason")),
        }
    }
}

pub fn packet4() -> Packet {
    Packet {
        family: IPV4,
        iif: LAN,
        len: 100,
        segment: 100,
        src: v4([192, 168, 8, 5]),
        dst: v4([8, 8, 8, 8]),
        sport: 1000,
        dport: 53,
        ipproto: UDP,
        flow: 0,
        ttl: 64,
        ..Packet::EMPTY
    }
}

pub fn packet6() -> Packet {
    Packet { family: IPV6, src: v6("2001:db8::5"), dst: v6("2001:db8:ffff::1"), ..packet4() }
}
