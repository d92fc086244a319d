//! The decision's tables as collections instead of maps: a world in the words of the tests, and its layout.
#![allow(dead_code, reason = "each test file uses its part")]

mod laid;

pub use laid::{Laid, Ranges};

use router_common::classify::{Outcome, Tables, decide};
use router_common::interval::Tree;
use router_common::layout::*;
use router_common::packet::{IPV4, IPV6, Packet, UDP};
use router_common::steps::Walk;
use router_common::verdict::{Action, PassReason};
use std::collections::HashMap;

pub const LAN: u32 = 2;
pub const WAN: u32 = 70_000;
pub const TUN: u32 = 4;

#[derive(Clone)]
pub struct World {
    pub config: Config,
    pub links: Vec<LinkEntry>,
    /// What packets from every interface meet.
    pub rules: Vec<Rule>,
    /// What the way back meets; None: the same.
    pub back: Option<Vec<Rule>>,
    pub routes: Vec<Route>,
    /// IPv4 prefixes and `SOURCE_*` bits.
    pub sources: Vec<(AddrWords, u32, u32)>,
    pub exceptions: Vec<(u32, AddrWords)>,
    pub neighbours: HashMap<NeighbourKey, NeighbourEntry>,
    pub marks: Vec<MarkEntry>,
    pub marks_in_use: Vec<u32>,
    /// Trees that marks name.
    pub trees: Vec<Ranges>,
    pub device_mtu_of_segments: Option<u32>,
    pub seconds: u32,
}

/// What a rule does, in one piece.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Does {
    pub flags: u32,
    pub action: u16,
    /// A table's number, or the position that a jump leads to.
    pub target: u32,
    pub suppress_prefixlength: i16,
    pub suppress_ifgroup: u32,
    pub counter: u32,
    pub mark_class: u32,
}

/// A route: its entry says the length of its prefix.
#[derive(Clone, Copy)]
pub struct Route {
    pub family: u32,
    pub table: u32,
    pub to: AddrWords,
    pub entry: RouteEntry,
}

/// A rule before it is laid out: its target is a table's number, or a position.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub entry: Does,
    pub selectors: Selectors,
    /// Found by a filter (`FILTER_*`, and the mask of a mark), or tried in its turn.
    pub filter: Option<(u32, u32)>,
}

impl Rule {
    pub fn flags(mut self, flags: u32) -> Self {
        self.entry.flags |= flags;
        self
    }

    pub fn suppress(mut self, prefixlength: i16) -> Self {
        self.entry.suppress_prefixlength = prefixlength;
        self
    }

    pub fn counter(mut self, counter: u32) -> Self {
        self.entry.counter = counter;
        self
    }

    pub fn select(mut self, change: impl FnOnce(&mut Selectors)) -> Self {
        change(&mut self.selectors);
        self.flags(RULE_SELECTS)
    }

    pub fn mark(self, mark: u32, mask: u32) -> Self {
        self.select(|selectors| (selectors.mark, selectors.mark_mask) = (mark, mask))
    }

    pub fn from4(self, addr: [u8; 4], len: u32) -> Self {
        self.select(|selectors| (selectors.from, selectors.from_mask) = (v4(addr), mask4(len)))
    }

    pub fn to4(self, addr: [u8; 4], len: u32) -> Self {
        self.select(|selectors| (selectors.to, selectors.to_mask) = (v4(addr), mask4(len)))
    }

    pub fn found_by(mut self, by: u32, mask: u32) -> Self {
        self.filter = Some((by, mask));
        self
    }
}

pub fn v4(addr: [u8; 4]) -> AddrWords {
    [u32::from_ne_bytes(addr), 0, 0, 0]
}

pub fn mask4(len: u32) -> AddrWords {
    [u32::MAX.checked_shl(32 - len).unwrap_or(0).to_be(), 0, 0, 0]
}

pub fn v6(text: &str) -> AddrWords {
    bytemuck::cast(text.parse::<std::net::Ipv6Addr>().expect("an address").octets())
}

pub fn mac(bytes: [u8; 6]) -> Mac {
    bytemuck::cast(bytes)
}

pub fn neighbour(bytes: [u8; 6]) -> NeighbourEntry {
    NeighbourEntry { mac: mac(bytes), usable: 1 }
}

pub fn zeroed<T: bytemuck::Zeroable>() -> T {
    bytemuck::Zeroable::zeroed()
}

pub fn rule(action: u16, target: u32) -> Rule {
    let entry = Does {
        action,
        target,
        suppress_prefixlength: -1,
        suppress_ifgroup: NO_GROUP,
        counter: target,
        mark_class: 0x0300_0000,
        flags: 0,
    };
    Rule { entry, selectors: zeroed(), filter: None }
}

pub fn table(table: u32) -> Rule {
    rule(ACT_TABLE, table)
}

pub fn via(addr: [u8; 4]) -> RouteEntry {
    RouteEntry {
        kind: ROUTE_UNICAST,
        via_family: 4,
        oif: WAN,
        via: v4(addr),
        certain: ROUTE_HAS_NEXT_HOPS | ROUTE_LEADS_OUT | ROUTE_HAS_GROUP,
        ..zeroed()
    }
}

pub fn kind(kind: u8, reason: PassReason) -> RouteEntry {
    let certain = match reason {
        PassReason::Multipath => ROUTE_HAS_NEXT_HOPS | ROUTE_LEADS_OUT,
        PassReason::LocalDestination => ROUTE_HAS_NEXT_HOPS,
        _ => 0,
    };
    RouteEntry { kind, reason: reason as u8, certain, ..zeroed() }
}

/// `lan` and `wan` are Ethernet, `tun` is not; one rule for table 111 with a default route to 10.0.0.1 on `wan`.
pub fn world() -> World {
    let flags = LINK_EGRESS | LINK_FORWARDS4 | LINK_FORWARDS6;
    let link = |index| LinkEntry { index, flags, mtu4: 1500, mtu6: 1500, may: MAY_REDIRECT, ..zeroed() };
    let ethernet =
        |index, last| LinkEntry { flags: flags | LINK_ETHERNET, mac: mac([2, 0, 0, 0, 0, last]), ..link(index) };
    let gateway = NeighbourKey { ifindex: WAN, family: 4, addr: v4([10, 0, 0, 1]) };
    let gateway6 = NeighbourKey { ifindex: WAN, family: 6, addr: v6("fe80::1") };
    let empty = Tree::EMPTY;
    World {
        config: Config {
            abi: ABI_VERSION,
            active: 1,
            mark_bits: 0xff00_0000,
            links: empty,
            sources: empty,
            exceptions4: empty,
            exceptions6: empty,
            ..zeroed()
        },
        links: vec![ethernet(LAN, 2), link(TUN), ethernet(WAN, 7)],
        rules: vec![table(111)],
        back: None,
        routes: vec![
            Route { family: 4, table: 111, to: v4([0; 4]), entry: via([10, 0, 0, 1]) },
            Route {
                family: 6,
                table: 111,
                to: [0; 4],
                entry: RouteEntry { via_family: 6, via: v6("fe80::1"), ..via([0; 4]) },
            },
        ],
        sources: Vec::new(),
        exceptions: Vec::new(),
        neighbours: [(gateway, neighbour([2, 0, 0, 0, 1, 1])), (gateway6, neighbour([2, 0, 0, 0, 1, 6]))].into(),
        marks: Vec::new(),
        marks_in_use: Vec::new(),
        trees: Vec::new(),
        device_mtu_of_segments: None,
        seconds: 0,
    }
}

impl World {
    pub fn link_mut(&mut self, index: u32) -> &mut LinkEntry {
        self.links.iter_mut().find(|link| link.index == index).expect("a link of the world")
    }

    pub fn rules(mut self, rules: &[Rule]) -> Self {
        self.rules = rules.to_vec();
        self
    }

    pub fn back(mut self, rules: &[Rule]) -> Self {
        self.back = Some(rules.to_vec());
        self
    }

    pub fn source(mut self, addr: [u8; 4], len: u32, bits: u32) -> Self {
        self.sources.push((v4(addr), len, bits));
        self
    }

    pub fn route4(mut self, table: u32, to: [u8; 4], len: u8, entry: RouteEntry) -> Self {
        self.routes.push(Route { family: 4, table, to: v4(to), entry: RouteEntry { prefix_len: len, ..entry } });
        self
    }

    pub fn decide(&self, packet: Packet) -> Outcome {
        Laid::new(self).decide(packet)
    }

    pub fn told(&self, packet: Packet) -> Told {
        Laid::new(self).told(packet)
    }

    /// What the loader is told.
    pub fn decision(&self, packet: Packet) -> Decision {
        let laid = Laid::new(self);
        laid.decide(packet).decision(&laid)
    }
}

impl Laid {
    pub fn decide(&self, packet: Packet) -> Outcome {
        let (mut walk, mut back) = (Walk::EMPTY, Walk::EMPTY);
        walk.packet = packet;
        // The room of the way back holds what the packet before left.
        back.packet = Packet { sport: 7, dport: 7, mark: 7, flow: 7, ipproto: 7, ..packet6() };
        let mut outcome = Outcome { route: 7, oif: 7, ..Outcome::EMPTY };
        outcome.begin(packet.mark);
        let ingress = self.links.iter().position(|link| link.index == packet.iif).expect("a known interface");
        let ingress = *self.link(ingress as u32).expect("a known interface");
        decide(self, &self.config, &ingress, &mut walk, &mut back, &mut outcome);
        outcome
    }

    pub fn told(&self, packet: Packet) -> Told {
        let outcome = self.decide(packet);
        match Action::from_u8(outcome.action).expect("a known action") {
            Action::Redirect => Told::Redirect { oif: outcome.oif, table: outcome.table },
            Action::Mark => Told::Mark(outcome.write_mark),
            Action::Drop => Told::Drop,
            Action::Pass => Told::Pass(PassReason::from_u8(outcome.reason).expect("a known reason")),
        }
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

/// Redirected to `wan` by a route of this table.
pub fn far(table: u32) -> Told {
    Told::Redirect { oif: WAN, table }
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
