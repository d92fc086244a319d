//! A route of the file as this host can have it: names become interface indexes, `learned` becomes an address; and what is
//! not there yet is waited for.

use super::text::Words;
use crate::model::{Family, Host, Link, NextHop, OWN_PROTOCOL, Route, RouteKind, RuleAction, TABLE_MAIN};
use crate::policy::{PolicyNextHop, PolicyRoute, Via};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// Numbers of rt_protos (include/uapi/linux/rtnetlink.h).
const RTPROT_BOOT: u8 = 3;
const RTPROT_STATIC: u8 = 4;
const RTPROT_RA: u8 = 9;
const RTPROT_DHCP: u8 = 16;

/// Whether a route says that it was learned from the network.
fn says_learned(route: &Route) -> bool {
    matches!(route.protocol, RTPROT_RA | RTPROT_DHCP)
}

/// What a route, or one of its next hops, waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such interface.
    NoDevice(String),
    /// It is down; the kernel takes no route by it.
    DeviceDown(String),
    /// IPv6 is disabled on it.
    NoIpv6(String),
    /// No default route by this interface, which DHCP or a router advertisement would bring.
    NothingLearned(String, Family),
    /// The gateway is on no network of the interface.
    OffLink(IpAddr, String),
    /// The gateway is on no network of this host.
    NoWayTo(IpAddr),
    /// There is no next-hop object of that number.
    NoObject(u32),
    /// The gateway is an address of this host on that interface.
    OwnAddress(IpAddr, String),
    /// The gateway is the broadcast address of a network.
    Broadcast(IpAddr),
    /// The preferred source is no address of this host.
    NoSource(IpAddr),
}

/// A route of the file that cannot be installed now, or not with all its next hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its family.
    pub family: Family,
    /// The route in iproute2's words.
    pub what: String,
    /// For what.
    pub reason: Reason,
    /// Where the file asks for it.
    pub at: String,
    /// It is installed, but without this next hop.
    pub partly: bool,
}

/// What became of a route.
pub(super) struct Resolved {
    /// None where all of it waits.
    pub route: Option<Route>,
    /// What it waits for, one for each next hop that is not there.
    pub waiting: Vec<Waiting>,
}

/// What the host offers.
pub(super) struct Resolver<'a> {
    host: &'a Host,
    words: &'a Words<'a>,
    /// Tables that the look-up of a gateway may come to.
    looked_up: BTreeSet<u32>,
    /// Own routes without a gateway that will be there.
    on_link: Vec<Route>,
}

impl<'a> Resolver<'a> {
    pub fn new(host: &'a Host, words: &'a Words<'a>) -> Self {
        let table = |action| if let RuleAction::Table(table) = action { Some(table) } else { None };
        let looked_up = host.rules.iter().filter_map(|rule| table(rule.action)).collect();
        Resolver { host, words, looked_up, on_link: Vec::new() }
    }

    /// Resolves all; the result is in the order of the file.
    pub fn all(mut self, routes: &[PolicyRoute]) -> Vec<Resolved> {
        let gateways = |route: &PolicyRoute| route.nexthops.iter().any(|hop| hop.via.is_some());
        let mut resolved: Vec<Option<Resolved>> = Vec::new();
        resolved.resize_with(routes.len(), || None);
        // Those without a gateway first: a gateway may be on the link by one of them.
        for with_gateway in [false, true] {
            for (route, resolved) in routes.iter().zip(&mut resolved) {
                if gateways(route) == with_gateway {
                    let one = self.one(route);
                    self.on_link.extend(one.route.clone().filter(|route| !with_gateway && !route.nexthops.is_empty()));
                    *resolved = Some(one);
                }
            }
        }
        resolved.into_iter().flatten().collect()
    }

    fn one(&self, wanted: &PolicyRoute) -> Resolved {
        let waiting = |reason, partly| Waiting {
            family: wanted.family,
            what: self.words.policy_route(wanted),
            reason,
            at: wanted.at.clone(),
            partly,
        };
        let mut route = Route {
            tos: wanted.tos,
            metric: metric(wanted.family, wanted.metric),
            protocol: OWN_PROTOCOL,
            prefsrc: wanted.src,
            mtu: wanted.mtu,
            nhid: wanted.nhid.unwrap_or(0),
            ..Route::to(wanted.table, wanted.to.trunc(), wanted.kind)
        };
        if let Some(source) = wanted.src.filter(|source| !self.host.addresses.iter().any(|own| own.addr == *source)) {
            return Resolved { route: None, waiting: vec![waiting(Reason::NoSource(source), false)] };
        }
        if let Some(id) = wanted.nhid.filter(|id| !self.host.nexthop_objects.contains(id)) {
            return Resolved { route: None, waiting: vec![waiting(Reason::NoObject(id), false)] };
        }
        let mut missing = Vec::new();
        for hop in &wanted.nexthops {
            match self.hop(wanted, hop) {
                Ok(hop) => route.nexthops.push(hop),
                Err(reason) => missing.push(reason),
            }
        }
        if let [only] = route.nexthops.as_mut_slice() {
            only.weight = 1;
        }
        // As iproute2 gives them to IPv4 routes: RT_SCOPE_LINK where there is no gateway, RT_SCOPE_HOST to a local one. IPv6 has no
        // scopes.
        let on_link = route.nhid == 0 && route.nexthops.iter().all(|hop| hop.via.is_none());
        route.scope = match (route.family, route.kind) {
            (Family::Ipv4, RouteKind::Local) => 254,
            (Family::Ipv4, RouteKind::Broadcast | RouteKind::Multicast) => 253,
            (Family::Ipv4, RouteKind::Unicast) if on_link => 253,
            _ => 0,
        };
        let whole = route.nexthops.is_empty() && !wanted.nexthops.is_empty();
        Resolved {
            route: (!whole).then_some(route),
            waiting: missing.into_iter().map(|reason| waiting(reason, !whole)).collect(),
        }
    }

    fn hop(&self, route: &PolicyRoute, hop: &PolicyNextHop) -> Result<NextHop, Reason> {
        let link = hop.dev.as_deref().map(|name| self.usable(name, route.family)).transpose()?;
        let mut found = NextHop { weight: hop.weight, onlink: hop.onlink, ..NextHop::default() };
        match (hop.via, link) {
            (None, Some(link)) => found.dev = link.index,
            (None, None) => {}
            (Some(Via::Learned), Some(link)) => {
                let learned = self.learned(route.family, link);
                let learned = learned.ok_or_else(|| Reason::NothingLearned(link.name.clone(), route.family))?;
                found.dev = link.index;
                found.via = learned.via;
                found.onlink |= learned.onlink;
            }
            // The policy's checks leave no such route.
            (Some(Via::Learned), None) => return Err(Reason::NoDevice(String::new())),
            (Some(Via::Address(via)), Some(link)) => {
                self.no_gateway(via, link, hop.onlink)?;
                let link_local = matches!(via, IpAddr::V6(via) if via.is_unicast_link_local());
                if !hop.onlink && !link_local && !self.on_link(route.table, via, link.index) {
                    return Err(Reason::OffLink(via, link.name.clone()));
                }
                found.dev = link.index;
                found.via = Some(via);
            }
            (Some(Via::Address(via)), None) => {
                found.dev = self.device_to(route.table, via).ok_or(Reason::NoWayTo(via))?;
                found.via = Some(via);
            }
        }
        Ok(found)
    }

    /// What the kernel refuses as a gateway by this interface: everybody's address there, and this host's own; but IPv4 takes
    /// its own for one where it looks it up, without `onlink` (`fib_check_nh_v4_gw`, `ip6_validate_gw`).
    fn no_gateway(&self, via: IpAddr, link: &Link, onlink: bool) -> Result<(), Reason> {
        let there = |route: &&Route| {
            route.dst.addr() == via
                && route.dst.prefix_len() == route.dst.max_prefix_len()
                && route.nexthops.iter().any(|hop| hop.dev == link.index)
        };
        let kinds = |kind| self.host.routes.iter().filter(there).any(|route| route.kind == kind);
        match (kinds(RouteKind::Local), kinds(RouteKind::Broadcast)) {
            (true, _) if via.is_ipv6() || onlink => Err(Reason::OwnAddress(via, link.name.clone())),
            (_, true) => Err(Reason::Broadcast(via)),
            _ => Ok(()),
        }
    }

    fn usable(&self, name: &str, family: Family) -> Result<&'a Link, Reason> {
        let link = self.host.link(name).ok_or_else(|| Reason::NoDevice(name.to_owned()))?;
        if !link.up {
            return Err(Reason::DeviceDown(name.to_owned()));
        }
        if family == Family::Ipv6 && link.v6.disabled {
            return Err(Reason::NoIpv6(name.to_owned()));
        }
        Ok(link)
    }

    /// The next hop of the default route that DHCP or a router advertisement gave on this interface: one that says so
    /// (protocol `dhcp` or `ra`; the kernel's own and NetworkManager's, systemd-networkd's, dhcpcd's), wherever it is, main's
    /// first; else one of protocol `boot` or `static` in main, where the scripts of dhclient, udhcpc and pppd put what they
    /// learned without saying whence. One of these in another table is somebody's policy. The best metric goes first, and one
    /// without a gateway (a point-to-point link) is one too.
    fn learned(&self, family: Family, link: &Link) -> Option<&'a NextHop> {
        let defaults = self.host.routes.iter().filter(|route| {
            let (said, main) = (says_learned(route), route.table == TABLE_MAIN);
            route.family == family
                && route.dst == family.default_prefix()
                && route.src.is_none()
                && route.kind == RouteKind::Unicast
                && (said || main && matches!(route.protocol, RTPROT_BOOT | RTPROT_STATIC))
        });
        let hops = defaults.flat_map(|route| route.nexthops.iter().map(move |hop| (route, hop)));
        hops.filter(|(_, hop)| hop.dev == link.index && !hop.encap)
            .min_by_key(|(route, hop)| {
                (!says_learned(route), hop.via.is_none(), route.table != TABLE_MAIN, route.metric)
            })
            .map(|(_, hop)| hop)
    }

    /// The routes by which a gateway of a route in `table` can be on the link (`fib_check_nh`, `ip6_route_check_nh`: in that
    /// table, else by the rules).
    fn reaching(&self, table: u32, via: IpAddr) -> impl Iterator<Item = &Route> {
        let foreign = self.host.routes.iter().filter(|route| route.protocol != OWN_PROTOCOL);
        foreign.chain(&self.on_link).filter(move |route| {
            route.kind == RouteKind::Unicast
                && route.dst.contains(&via)
                && route.nexthops.iter().all(|hop| hop.via.is_none())
                && (route.table == table || self.looked_up.contains(&route.table))
        })
    }

    fn on_link(&self, table: u32, via: IpAddr, dev: u32) -> bool {
        self.reaching(table, via).any(|route| route.nexthops.iter().any(|hop| hop.dev == dev))
    }

    fn device_to(&self, table: u32, via: IpAddr) -> Option<u32> {
        let best = self.reaching(table, via).max_by_key(|route| (route.dst.prefix_len(), route.table == table));
        best.and_then(|route| route.nexthops.first()).map(|hop| hop.dev)
    }
}

/// The metric that the kernel gives a route (IP6_RT_PRIO_USER where IPv6 is given none, or 0).
pub(super) fn metric(family: Family, metric: Option<u32>) -> u32 {
    match (family, metric.unwrap_or(0)) {
        (Family::Ipv6, 0) => 1024,
        (_, metric) => metric,
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoDevice(dev) => write!(f, "there is no interface {dev}"),
            Reason::DeviceDown(dev) => write!(f, "{dev} is down"),
            Reason::NoIpv6(dev) => write!(f, "IPv6 is disabled on {dev} (net.ipv6.conf.{dev}.disable_ipv6)"),
            Reason::NothingLearned(dev, family) => {
                let family = if *family == Family::Ipv4 { "IPv4" } else { "IPv6" };
                write!(
                    f,
                    "{dev} has no {family} default route from DHCP or a router advertisement (protocol dhcp or ra, or boot or static in table main)"
                )
            }
            Reason::OffLink(via, dev) => {
                write!(f, "the gateway {via} is on no network of {dev} (an address for {dev}, or `onlink = true`)")
            }
            Reason::NoWayTo(via) => write!(f, "the gateway {via} is on no network of this host"),
            Reason::NoObject(id) => write!(f, "there is no next-hop object {id} (ip nexthop)"),
            Reason::OwnAddress(via, dev) => write!(f, "the gateway {via} is this host's own address on {dev}"),
            Reason::Broadcast(via) => write!(f, "the gateway {via} is the broadcast address of its network"),
            Reason::NoSource(source) => write!(f, "{source} is no address of this host"),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.partly { "without one of its next hops" } else { "waits" };
        write!(f, "{} {} {how}: {} ({})", self.family, self.what, self.reason, self.at)
    }
}
