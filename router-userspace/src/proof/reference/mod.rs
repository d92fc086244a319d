//! The reference: where the kernel would send a packet, read from its source and written to be read.
//!
//! Slow and pure. The eBPF program shares nothing with it, because the two are compared with each other and with the
//! kernel (RTM_GETROUTE), whose answer is the measure. Everything here is about a packet that comes in; for one made on this
//! host the trail shows the rules that `iif lo` meets.

#[cfg(test)]
pub(super) mod laws;
mod marks;
mod rules;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod walk;

pub use marks::{memberships, rewrite};
pub use rules::WhyNot;
pub use source::SourceCheck;
pub use table::LOOPBACK;
pub use walk::{Outcome, Step, Walker};

use super::packet::Packet;
use crate::kernel::RouteAnswer;
use crate::model::{Family, Host, NextHop, Route, RouteKind, Rule, RuleAction, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use router_common::verdict::Verdict;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use walk::End;

/// What a look-up is made for (`struct flowi`).
#[derive(Clone, Debug)]
pub struct Flow {
    /// `flowi_iif`.
    iif: u32,
    /// IPv6 scores routes by the ingress interface as if it were asked for as the egress one (`ip6_pol_route_input`); 0 is none.
    oif6: u32,
    saddr: IpAddr,
    /// IPv6's RT6_LOOKUP_F_HAS_SADDR; always true in IPv4, where an unset source is 0.0.0.0.
    has_saddr: bool,
    daddr: IpAddr,
    mark: u32,
    /// The octet that DSCP is the upper six bits of.
    dsfield: u8,
    ipproto: u8,
    sport: u16,
    dport: u16,
    /// IPv6, 20 bits.
    flowlabel: u32,
    /// A forwarded packet belongs to uid 0 (`sock_net_uid(net, NULL)`).
    uid: u32,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The verdict; `Undecided` where the snapshot does not hold what it hangs on.
    pub verdict: Verdict,
    /// Egress interface index; 0 without `forward`.
    pub oif: u32,
    /// Gateway; None where the destination is the neighbour.
    pub via: Option<IpAddr>,
    /// The table that gave the route; 0 where none did.
    pub table: u32,
    /// Index in `Host::rules` of the rule that decided.
    pub rule: Option<usize>,
    /// The longest packet that is forwarded so; the longest of all without `forward`.
    pub mtu: u32,
}

/// A packet that the stack drops whatever its routing decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Why, in a sentence that names the kernel's function.
    pub why: &'static str,
    of: Refused,
}

/// Which packets a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// Those for this host too.
    All,
    /// Those that would be forwarded.
    Forwarded,
    /// Those that would be forwarded by another interface than this one, by which they come in.
    ForwardedElsewhere(u32),
    /// Those that would be forwarded by this interface.
    ForwardedBy(u32),
}

/// The reference's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Every answer that is right, the likeliest first: of several next hops any may be chosen, and some of what IPv4
    /// looks at is no part of a snapshot. Never empty.
    pub ways: Vec<Way>,
    /// Every rule tried, in order.
    pub trail: Vec<Step>,
    /// IPv4's look at the source, where it came to that.
    pub source: Option<SourceCheck>,
    /// What the stack refuses before the routing decision or after it, which RTM_GETROUTE does not tell.
    pub refusals: Vec<Refusal>,
    /// Why the reference does not know, with verdict `Undecided`.
    pub unknown: Option<String>,
}

impl Reference {
    /// The likeliest answer.
    pub fn way(&self) -> &Way {
        &self.ways[0]
    }

    /// What the stack does instead of this outcome of the look-up; `oif` is 0 without `forward`.
    pub fn refuses(&self, verdict: Verdict, oif: u32) -> Option<Refusal> {
        let forwarded = verdict == Verdict::Forward;
        let concerned = |refusal: &&Refusal| match refusal.of {
            Refused::All => true,
            Refused::Forwarded => forwarded,
            Refused::ForwardedElsewhere(iif) => forwarded && oif != iif,
            Refused::ForwardedBy(dev) => forwarded && oif == dev,
        };
        self.refusals.iter().find(concerned).copied()
    }

    /// Whether an answer of the kernel is one of the right ones.
    pub fn allows(&self, answer: &RouteAnswer) -> bool {
        self.ways.iter().any(|way| match way.verdict {
            Verdict::Undecided => true,
            Verdict::Forward => {
                answer.verdict == Verdict::Forward
                    && (answer.oif, answer.via, answer.table) == (way.oif, way.via, way.table)
            }
            verdict => answer.allows(verdict),
        })
    }

    /// Whether a decision of the fast path is one of the right ones.
    pub fn allows_decision(&self, verdict: Verdict, oif: u32, via: Option<IpAddr>, table: u32) -> bool {
        self.ways.iter().any(|way| match way.verdict {
            Verdict::Undecided => true,
            Verdict::Forward => verdict == Verdict::Forward && (oif, via, table) == (way.oif, way.via, way.table),
            expected => expected == verdict,
        })
    }
}

/// Decides one packet; for many, keep a [`Walker`].
pub fn decide(host: &Host, packet: &Packet) -> Reference {
    Walker::new(host).decide(packet)
}

/// IPv4's list before anyone touched it (`fib_default_rules_init`).
fn is_untouched(rules: &[&Rule]) -> bool {
    let expected = [(0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, TABLE_DEFAULT)];
    rules.len() == expected.len()
        && rules.iter().zip(expected).all(|(rule, (priority, table))| {
            let plain = Rule { protocol: rule.protocol, ..Rule::lookup(Family::Ipv4, priority, table) };
            **rule == plain && rule.action == RuleAction::Table(table)
        })
}

impl Walker<'_> {
    /// Where the kernel would send `packet`, whose mark is the one after the `[[mark]]` statements ([`rewrite`]).
    pub fn decide(&self, packet: &Packet) -> Reference {
        let mut reference = Reference::default();
        match packet.family() {
            Family::Ipv4 => self.input4(packet, &mut reference),
            Family::Ipv6 => self.input6(packet, &mut reference),
        }
        if self.host.exceptions.contains(&packet.to) {
            reference.unknown = Some("the stack has learned a gateway or a path MTU for this destination".to_owned());
            reference.give(Verdict::Undecided);
        }
        self.shape(packet, &mut reference);
        let mut distinct: Vec<Way> = Vec::new();
        for way in reference.ways.drain(..) {
            if !distinct.contains(&way) {
                distinct.push(way);
            }
        }
        reference.ways = distinct;
        reference
    }

    /// `ip_route_input_rcu` and `ip_route_input_slow` (net/ipv4/route.c), then `ip_mkroute_input`.
    fn input4(&self, packet: &Packet, reference: &mut Reference) {
        let (IpAddr::V4(saddr), IpAddr::V4(daddr)) = (packet.source(), packet.to) else {
            return reference.give(Verdict::Undecided);
        };
        let mut flow = self.flow(packet);
        let Some(iif) = packet.iif else {
            let ends = self.walk(&flow, &mut reference.trail);
            let local = |kind| if kind == RouteKind::Unicast { Verdict::Forward } else { Verdict::Local };
            return ends.into_iter().for_each(|end| self.finish(end, reference, |kind, _| vec![local(kind)]));
        };
        let localnet = self.v4_switch(iif, |conf| conf.route_localnet);
        if daddr.is_multicast() {
            // Who joined which group is no part of the snapshot.
            reference.give(Verdict::Martian);
            return reference.give(Verdict::Local);
        }
        if saddr.is_multicast() || saddr.is_broadcast() {
            return reference.give(Verdict::Martian);
        }
        if daddr.is_broadcast() || (saddr.is_unspecified() && daddr.is_unspecified()) {
            if saddr.is_unspecified() {
                return reference.give(Verdict::Local);
            }
            flow.daddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let verdicts = self.source_is_valid(packet, &flow, None, reference).verdicts(Verdict::Local);
            return verdicts.into_iter().for_each(|verdict| reference.give(verdict));
        }
        // Since 5.3 the rest of 0.0.0.0/8 is like any other address (`ipv4_is_zeronet`).
        let loopback = daddr.is_loopback() || saddr.is_loopback();
        if saddr.is_unspecified() || daddr.is_unspecified() || (loopback && !localnet) {
            return reference.give(Verdict::Martian);
        }
        let forwards = self.host.links.get(&iif).is_some_and(|link| self.host.forwards(link, Family::Ipv4));
        let mut ends = self.walk(&flow, &mut reference.trail);
        if self.untouched() {
            ends.push(self.lookup_without_rules(&flow));
        }
        for end in ends {
            match end {
                // The errors of a host that does not forward are all EHOSTUNREACH.
                End::Nothing | End::Refused { .. } if !forwards => reference.give(Verdict::Unreachable),
                end => {
                    let mut found = Reference::default();
                    self.finish(end, &mut found, |kind, oif| match kind {
                        RouteKind::Local | RouteKind::Broadcast => {
                            let mut flow = flow.clone();
                            if kind == RouteKind::Broadcast {
                                flow.daddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                            }
                            self.source_is_valid(packet, &flow, None, reference).verdicts(Verdict::Local)
                        }
                        _ if !forwards => vec![Verdict::Unreachable],
                        RouteKind::Unicast => {
                            self.source_is_valid(packet, &flow, Some(oif), reference).verdicts(Verdict::Forward)
                        }
                        _ => vec![Verdict::Martian],
                    });
                    reference.ways.append(&mut found.ways);
                    reference.unknown = reference.unknown.take().or(found.unknown);
                }
            }
        }
    }

    /// What `ip_forward` and `ip6_forward` ask of a packet beside its addresses.
    fn shape(&self, packet: &Packet, reference: &mut Reference) {
        if packet.iif.is_none() {
            return;
        }
        if packet.shape.ttl <= 1 {
            let why = "its TTL ends here: the stack says that the time is exceeded (ip_forward, ip6_forward)";
            reference.refusals.push(Refusal { verdict: Verdict::Unreachable, why, of: Refused::Forwarded });
        }
        for way in reference.ways.iter().filter(|way| u32::from(packet.shape.length) > way.mtu) {
            let why = "it is longer than the MTU: the stack cuts it or sends it back (ip_forward, ip6_forward)";
            let of = Refused::ForwardedBy(way.oif);
            reference.refusals.push(Refusal { verdict: Verdict::Unreachable, why, of });
        }
    }

    /// The length that a packet may have that takes this way out of a route: `ip_dst_mtu_maybe_forward`,
    /// `ip6_dst_mtu_maybe_forward` (and `ip6_skb_dst_mtu` after it).
    fn mtu(&self, route: &Route, dev: u32) -> u32 {
        let Some(link) = self.host.links.get(&dev) else { return 0 };
        match route.family {
            Family::Ipv4 => route.mtu.filter(|mtu| *mtu > 0).unwrap_or(link.mtu),
            Family::Ipv6 => {
                let device = if link.v6.mtu > 0 { link.v6.mtu } else { link.mtu };
                match route.mtu.filter(|mtu| *mtu > 0) {
                    // `ip6_forward` goes by the route alone then, and nobody behind it looks at the device.
                    Some(mtu) if route.mtu_locked => mtu,
                    Some(mtu) => device.min(mtu),
                    None => device,
                }
            }
        }
    }

    /// `ip6_route_input_lookup` (net/ipv6/route.c); what `ip6_rcv` and `ip6_forward` refuse besides is told apart.
    fn input6(&self, packet: &Packet, reference: &mut Reference) {
        let flow = self.flow(packet);
        let mut ends = self.walk(&flow, &mut reference.trail);
        if packet.iif.is_some() && self.may_skip_rules6() {
            ends.insert(0, self.lookup_without_rules6(&flow));
        }
        for end in ends {
            self.finish(end, reference, |kind, _| match kind {
                RouteKind::Unicast => vec![Verdict::Forward],
                _ => vec![Verdict::Local],
            });
        }
        let (IpAddr::V6(saddr), Some(link)) = (packet.source(), packet.iif.and_then(|iif| self.host.links.get(&iif)))
        else {
            return;
        };
        let mut refuse = |of, verdict, why| reference.refusals.push(Refusal { verdict, why, of });
        let never = |addr: Ipv6Addr| addr.is_loopback();
        if link.v6.disabled {
            let why = "IPv6 is off on the ingress interface: the stack drops the packet (ip6_rcv)";
            refuse(Refused::All, Verdict::Blackhole, why);
        } else if saddr.is_multicast() || never(saddr) || matches!(packet.to, IpAddr::V6(daddr) if never(daddr)) {
            let why =
                "no packet comes in from a group, or from or to the loopback address: the stack drops it (ip6_rcv)";
            refuse(Refused::All, Verdict::Martian, why);
        } else if !self.host.forwards(link, Family::Ipv6) {
            let why =
                "IPv6 forwarding is off: the stack drops the packet (ip6_forward), although the look-up gives a route";
            refuse(Refused::Forwarded, Verdict::Blackhole, why);
        } else if saddr.is_unspecified() || saddr.is_unicast_link_local() {
            let why = "the stack forwards no packet with such a source, but back to where it came from (ip6_forward)";
            refuse(Refused::ForwardedElsewhere(link.index), Verdict::Martian, why);
        }
    }

    /// Turns the end of a walk into answers. `judge` says what may become of a route of a kind by an egress interface, the
    /// likeliest first.
    fn finish(&self, end: End, reference: &mut Reference, mut judge: impl FnMut(RouteKind, u32) -> Vec<Verdict>) {
        match end {
            End::Nothing => reference.give(Verdict::NoRoute),
            End::Unknown(why) => {
                reference.unknown = Some(why);
                reference.give(Verdict::Undecided);
            }
            End::Refused { rule, verdict, route } => {
                let table = route.map_or(0, |route| self.host.routes[route].table);
                reference.ways.push(Way { verdict, oif: 0, via: None, table, rule, mtu: u32::MAX });
            }
            End::Route { rule, route, hops } => {
                let found = &self.host.routes[route];
                // A local IPv6 route may come without a next hop.
                let none = NextHop::default();
                let hops: Vec<(usize, &NextHop)> = match found.nexthops.is_empty() {
                    true => vec![(0, &none)],
                    false => hops.into_iter().filter_map(|hop| Some((hop, found.nexthops.get(hop)?))).collect(),
                };
                for (number, hop) in hops {
                    for verdict in judge(found.kind, hop.dev) {
                        let (oif, via) = if verdict == Verdict::Forward { (hop.dev, hop.via) } else { (0, None) };
                        let mtu = if oif == 0 { u32::MAX } else { self.mtu(found, oif) };
                        let direct = (via.is_some() && self.fib.may_be_here(hop)).then_some(None);
                        for named in self.fib.stand_ins(route, number) {
                            let table = match self.host.routes[named].table {
                                // Without rules IPv4 names the table that it looked into, which is both (`fib_table_lookup`).
                                TABLE_LOCAL if rule.is_none() && found.family == Family::Ipv4 => TABLE_MAIN,
                                table => table,
                            };
                            let ways = direct.into_iter().chain([via]);
                            reference.ways.extend(ways.map(|via| Way { verdict, oif, via, table, rule, mtu }));
                        }
                    }
                }
            }
        }
    }

    /// The flow of a packet that comes in (or is made here: `iif lo`).
    fn flow(&self, packet: &Packet) -> Flow {
        let saddr = packet.source();
        Flow {
            iif: packet.iif.unwrap_or(LOOPBACK),
            oif6: packet.iif.unwrap_or(0),
            saddr,
            has_saddr: saddr.is_ipv4() || !saddr.is_unspecified(),
            daddr: packet.to,
            mark: packet.mark,
            dsfield: packet.dscp << 2,
            ipproto: packet.ipproto,
            sport: if packet.has_ports() { packet.sport } else { 0 },
            dport: if packet.has_ports() { packet.dport } else { 0 },
            flowlabel: packet.flowlabel,
            uid: 0,
        }
    }

    /// Whether the IPv4 list is the one that every namespace begins with. Then the kernel may never have left its short cut,
    /// or it did and was given the list back: the snapshot does not tell.
    fn untouched(&self) -> bool {
        let rules: Vec<&Rule> = self.list(Family::Ipv4).iter().map(|index| &self.host.rules[*index]).collect();
        is_untouched(&rules)
    }
}

impl Walker<'_> {
    /// Whether IPv6 may look into `local` and `main` whatever its list says: while no rule was ever added (`fib6_has_custom_rules`).
    /// Of what a namespace begins with something was taken away then; else the list says the same.
    fn may_skip_rules6(&self) -> bool {
        let begins_with = [(0, TABLE_LOCAL), (32766, TABLE_MAIN)];
        let list = self.list(Family::Ipv6);
        list.len() < begins_with.len()
            && list.iter().all(|index| {
                let rule = &self.host.rules[*index];
                begins_with.iter().any(|(priority, table)| {
                    *rule == Rule { protocol: rule.protocol, ..Rule::lookup(Family::Ipv6, *priority, *table) }
                })
            })
    }
}

impl Reference {
    /// Whether IPv4 refuses the packet for its source.
    pub fn refuses_source(&self) -> bool {
        self.source.as_ref().is_some_and(|check| !check.valid || check.doubtful)
    }

    fn give(&mut self, verdict: Verdict) {
        self.ways.push(Way { verdict, oif: 0, via: None, table: 0, rule: None, mtu: u32::MAX });
    }
}
