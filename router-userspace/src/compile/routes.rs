//! Routes: for each prefix of each table the one route that the kernel takes, or the reason to leave it to the stack.

use super::interval::{self, Range, flatten, overlay, tree32, tree128};
use super::{Generation, links, words};
use crate::model::{Family, Host, NextHop, Route, RouteKind, Rule, RuleAction, SCOPE_HOST, TABLE_LOCAL};
use ipnet::{IpNet, Ipv4Net};
use router_common::layout::{
    NeighbourKey, ROUTE_BLACKHOLE, ROUTE_HAS_GROUP, ROUTE_HAS_NEXT_HOPS, ROUTE_LEADS_OUT, ROUTE_LOCAL_FIRST,
    ROUTE_PROHIBIT, ROUTE_THROW, ROUTE_UNICAST, ROUTE_UNREACHABLE, ROUTE_UNSEEN, RouteEntry, SOURCE_DOUBTFUL,
    SOURCE_ONLINK, TableEntry,
};
use router_common::verdict::PassReason;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// Whether the kernel delivers such a route's packets here, or floods them: never forwarded by the program.
fn is_special(kind: RouteKind) -> bool {
    matches!(
        kind,
        RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast | RouteKind::Unknown(_)
    )
}

/// The routing tables of one family, before they are laid into trees: which of them are needed, and how, the rules decide.
pub(super) struct Tables {
    family: Family,
    /// Of each table that holds a route: prefixes and their entries in `ROUTES`.
    prefixes: BTreeMap<u32, Vec<(IpNet, u32)>>,
    /// What the table `local` delivers to this host, if that is all it does: the same prefixes with [`ROUTE_LOCAL_FIRST`].
    local_first: Option<Vec<(IpNet, u32)>>,
    /// Entries in `TABLES` of those that have been laid out: alone, and behind `local`.
    laid: BTreeMap<(u32, bool), u32>,
}

impl Tables {
    /// Whether the table holds a route.
    pub fn contains(&self, id: u32) -> bool {
        self.prefixes.contains_key(&id)
    }

    /// Whether a rule for the table `local` before all others can be left out where every table is laid out behind it.
    pub fn can_put_local_first(&self) -> bool {
        self.local_first.is_some()
    }

    /// The entry in `TABLES` of a table; `behind_local`: what is in the table `local` is for this host first.
    pub fn lay(&mut self, id: u32, behind_local: bool, generation: &mut Generation) -> Result<u32, interval::Error> {
        if let Some(place) = self.laid.get(&(id, behind_local)) {
            return Ok(*place);
        }
        let own = self.prefixes.get(&id).into_iter().flatten().copied();
        let local = self.local_first.iter().flatten().copied().filter(|_| behind_local);
        let routes = match self.family {
            Family::Ipv4 => tree32(&mut generation.lines, &overlay(ranges4(own), ranges4(local)))?,
            Family::Ipv6 => tree128(&mut generation.lines, &overlay(ranges6(own), ranges6(local)))?,
        };
        generation.tables.push(TableEntry { id, routes, pad: 0 });
        let place = generation.tables.len() as u32 - 1;
        self.laid.insert((id, behind_local), place);
        Ok(place)
    }
}

/// Writes routes, gateways and what is known of addresses; returns the tables of both families.
pub(super) fn compile(host: &Host, generation: &mut Generation) -> Result<[Tables; 2], interval::Error> {
    let mut groups: BTreeMap<(Family, u32, IpNet), Vec<&Route>> = BTreeMap::new();
    let mut sources: BTreeMap<IpNet, u32> = BTreeMap::new();
    let own = OwnAddresses::new(host);
    for route in &host.routes {
        let on_link =
            route.nexthops.iter().any(|hop| hop.dev != 0 && (hop.via.is_none() || own.is_gateway_of(route, hop)));
        if is_special(route.kind) {
            *sources.entry(route.dst.trunc()).or_default() |= SOURCE_DOUBTFUL;
        } else if route.kind == RouteKind::Unicast && on_link {
            // Whatever the route's own scope is: a next hop without a gateway is on the link (`fib_check_nh_nongw`).
            *sources.entry(route.dst.trunc()).or_default() |= SOURCE_ONLINK;
        }
        groups.entry((route.family, route.table, route.dst.trunc())).or_default().push(route);
    }
    generation.config.sources = tree32(&mut generation.lines, &flatten(ranges4(inherit(&sources))))?;
    let exceptions = || host.exceptions.iter().map(|addr| (IpNet::from(*addr), 0));
    generation.config.exceptions4 = tree32(&mut generation.lines, &flatten(ranges4(exceptions())))?;
    generation.config.exceptions6 = tree128(&mut generation.lines, &flatten(ranges6(exceptions())))?;

    let places = host.links.keys().copied().zip(0..).collect();
    let known = Known { host, own, shared: SharedObjects::new(host), places };
    let mut entries = Entries::default();
    let mut tables = Family::BOTH.map(|family| Tables {
        family,
        prefixes: BTreeMap::new(),
        local_first: Some(Vec::new()),
        laid: BTreeMap::new(),
    });
    for ((family, table, dst), routes) in groups {
        let Some(entry) = select(&known, family, routes) else { continue };
        let tables = &mut tables[usize::from(family == Family::Ipv6)];
        if table == TABLE_LOCAL {
            let delivers = entry.kind == ROUTE_UNSEEN && entry.reason == PassReason::LocalDestination as u8;
            tables.local_first = tables.local_first.take().filter(|_| delivers).map(|mut prefixes| {
                let first = RouteEntry { kind: ROUTE_LOCAL_FIRST, prefix_len: 0, group: 0, certain: 0, ..entry };
                prefixes.push((dst, entries.add(first, generation)));
                prefixes
            });
        }
        let number = entries.add(entry, generation);
        tables.prefixes.entry(table).or_default().push((dst, number));
    }
    Ok(tables)
}

fn ranges4(prefixes: impl IntoIterator<Item = (IpNet, u32)>) -> Vec<Range<u32>> {
    let range = |(net, value): (IpNet, u32)| match net.network() {
        IpAddr::V4(addr) => Some(Range::prefix4(addr, net.prefix_len(), value)),
        IpAddr::V6(_) => None,
    };
    prefixes.into_iter().filter_map(range).collect()
}

fn ranges6(prefixes: impl IntoIterator<Item = (IpNet, u32)>) -> Vec<Range<u128>> {
    let range = |(net, value): (IpNet, u32)| match net.network() {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(Range::prefix6(addr, net.prefix_len(), value)),
    };
    prefixes.into_iter().filter_map(range).collect()
}

/// The entries of `ROUTES` and `GATEWAYS`, each once.
#[derive(Default)]
struct Entries {
    routes: HashMap<RouteEntry, u32>,
    gateways: HashMap<NeighbourKey, u32>,
}

impl Entries {
    /// The number of a route's entry.
    fn add(&mut self, mut entry: RouteEntry, generation: &mut Generation) -> u32 {
        if entry.via_family != 0 {
            let key = NeighbourKey { ifindex: entry.oif, family: entry.via_family.into(), addr: entry.via };
            entry.gateway = *self.gateways.entry(key).or_insert_with(|| {
                generation.gateways.push(key);
                generation.gateways.len() as u32 - 1
            });
        }
        *self.routes.entry(entry).or_insert_with(|| {
            generation.routes.push(entry);
            generation.routes.len() as u32 - 1
        })
    }
}

/// The IPv4 prefixes that end at this host by the scope of their routes, where the kernel's look-up of a gateway can come upon them: it
/// looks into the route's own table, then walks the rules for a packet without a mark.
struct OwnAddresses {
    /// With the table whose routes alone come upon it; None for those of every table.
    prefixes: HashSet<(Option<u32>, Ipv4Net)>,
    /// The lengths that they have.
    lengths: BTreeSet<u8>,
}

impl OwnAddresses {
    fn new(host: &Host) -> Self {
        // It has no source, mark, protocol and ports, and comes from this host (`fib_check_nh_v4_gw`).
        let meets = |rule: &&Rule| {
            let selectors = &rule.selectors;
            let from = selectors.from.is_none_or(|net| net.addr().is_unspecified());
            let iif = selectors.iif.as_deref().is_none_or(|name| name == "lo");
            let mark = selectors.fwmark.is_none_or(|(value, mask)| value & mask == 0);
            let port = selectors.ipproto.is_none() && selectors.sport.is_none() && selectors.dport.is_none();
            selectors.not || (from && iif && mark && port)
        };
        let table = |rule: &Rule| match rule.action {
            RuleAction::Table(table) => Some(table),
            _ => None,
        };
        let reached: BTreeSet<u32> = host.rules_of(Family::Ipv4).filter(meets).filter_map(table).collect();
        let ends_here =
            |route: &&Route| matches!(route.kind, RouteKind::Local | RouteKind::Unicast) && route.scope >= SCOPE_HOST;
        let of = |route: &Route| match route.dst {
            IpNet::V4(net) => Some((Some(route.table).filter(|table| !reached.contains(table)), net.trunc())),
            IpNet::V6(_) => None,
        };
        let prefixes: HashSet<_> = host.routes.iter().filter(ends_here).filter_map(of).collect();
        OwnAddresses { lengths: prefixes.iter().map(|(_, net)| net.prefix_len()).collect(), prefixes }
    }

    /// Whether the way to the gateway ends at this host itself. If it did already when the route was made, its next hop has the
    /// scope `host`, and the kernel sends as if the route had no gateway (`fib_check_nh_v4_gw()`, `rt_set_nexthop()`). No dump tells.
    fn is_gateway_of(&self, route: &Route, hop: &NextHop) -> bool {
        let Some(IpAddr::V4(via)) = hop.via.filter(|_| !hop.onlink) else { return false };
        let holds = |net: Ipv4Net| [None, Some(route.table)].iter().any(|table| self.prefixes.contains(&(*table, net)));
        self.lengths.iter().filter_map(|length| Ipv4Net::new(via, *length).ok()).any(|net| holds(net.trunc()))
    }
}

/// IPv4's ways out by a next-hop object whose answer for one route may be another route's: the object keeps one answer for all that go
/// by it, that of the first which was asked for. (`rt_cache_route`, net/ipv4/route.c; any change of routes ends it.)
struct SharedObjects(BTreeSet<(Option<IpAddr>, u32)>);

impl SharedObjects {
    fn new(host: &Host) -> Self {
        let mut answers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for route in host.routes.iter().filter(|route| route.nhid != 0 && route.family == Family::Ipv4) {
            for hop in &route.nexthops {
                // Whether it is delivered here, and its MTU.
                let answer = (route.kind, route.mtu, route.mtu_locked);
                answers.entry((hop.via, hop.dev)).or_default().insert(answer);
            }
        }
        SharedObjects(answers.into_iter().filter(|(_, answers)| answers.len() > 1).map(|(way, _)| way).collect())
    }

    /// Whether the answer for a route may be another route's. An IPv6 object keeps its answer, with the prefix length that
    /// `suppress_prefixlength` sees and the MTU, beyond the end of the route that it was for (`fib6_drop_pcpu_from`, net/ipv6/ip6_fib.c;
    /// `rt6_get_pcpu_route`, net/ipv6/route.c): nothing shows which routes there have been.
    fn is_way_of(&self, route: &Route, hop: &NextHop) -> bool {
        route.nhid != 0 && (route.family == Family::Ipv6 || self.0.contains(&(hop.via, hop.dev)))
    }
}

/// What the choice of one route looks at besides the routes of its prefix.
struct Known<'a> {
    host: &'a Host,
    own: OwnAddresses,
    shared: SharedObjects,
    /// The entry in `LINKS` of each interface.
    places: BTreeMap<u32, u32>,
}

/// Gives every prefix what its covering prefixes say.
fn inherit(addrs: &BTreeMap<IpNet, u32>) -> BTreeMap<IpNet, u32> {
    addrs
        .iter()
        .map(|(net, own)| {
            let covering = std::iter::successors(net.supernet(), IpNet::supernet);
            let flags = covering.fold(*own, |flags, wider| flags | addrs.get(&wider).copied().unwrap_or(0));
            (*net, flags)
        })
        .collect()
}

/// Whether such a route has next hops, and is not an error to whoever looks it up (`fib_props`, net/ipv4/fib_semantics.c).
fn has_next_hops(kind: RouteKind) -> bool {
    matches!(
        kind,
        RouteKind::Unicast | RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast
    )
}

/// Whether the kernel would use this next hop at all (`fib_lookup_good_nhc`, `find_match`).
fn usable(hop: &NextHop) -> bool {
    !hop.dead
}

/// The route to one prefix of one table: the lowest metric that is usable. None where none is: the look-up goes on with
/// the next shorter prefix (`fib_table_lookup` backtracks, `fib6_table_lookup` does).
fn select(known: &Known<'_>, family: Family, mut routes: Vec<&Route>) -> Option<RouteEntry> {
    // One whose time is over may be given more without a word.
    let expires = routes.iter().filter_map(|route| route.expires).min().unwrap_or(0);
    let all = |is: fn(RouteKind) -> bool| routes.iter().all(|route| is(route.kind));
    let mut certain = if all(has_next_hops) { ROUTE_HAS_NEXT_HOPS } else { 0 };
    certain |= if all(|kind| kind == RouteKind::Unicast) { ROUTE_LEADS_OUT } else { 0 };
    let unseen = |route: &Route, reason: PassReason| {
        let mut entry = entry_of(ROUTE_UNSEEN, route);
        entry.reason = reason as u8;
        entry.expires = expires;
        entry.certain = certain;
        // IPv4 goes by the first next hop's interface group, whichever it chooses then (`fib4_rule_suppress()`); IPv6 by that of the
        // chosen one.
        let first = route.nexthops.first().filter(|_| family == Family::Ipv4);
        if let Some(link) = first.and_then(|hop| known.host.links.get(&hop.dev)) {
            entry.certain |= ROUTE_HAS_GROUP;
            entry.group = link.group;
        }
        Some(entry)
    };
    if let Some(route) = routes.iter().find(|route| route.tos != 0 || route.src.is_some_and(|net| net.prefix_len() > 0))
    {
        // A packet that it is not for goes on to a shorter prefix.
        let unseen = unseen(route, PassReason::RouteKind);
        return unseen.map(|entry| RouteEntry { certain: 0, ..entry });
    }
    // Stable: equal metrics keep the kernel's order.
    routes.sort_by_key(|route| route.metric);
    let position =
        routes.iter().position(|route| route.kind != RouteKind::Unicast || route.nexthops.iter().any(usable))?;
    let route = routes[position];
    // IPv6 keeps several routes of one metric and chooses among them; and where the lowest metric has no route that will do,
    // among those of all other metrics together (`find_rr_leaf`).
    let lowest_is_dead = routes.first().is_some_and(|first| first.metric != route.metric);
    let competes = |next: &&Route| family == Family::Ipv6 && (lowest_is_dead || next.metric == route.metric);
    let rival = routes.get(position + 1).is_some_and(competes);
    let kind = match route.kind {
        RouteKind::Unicast => ROUTE_UNICAST,
        RouteKind::Blackhole => ROUTE_BLACKHOLE,
        RouteKind::Unreachable => ROUTE_UNREACHABLE,
        RouteKind::Prohibit => ROUTE_PROHIBIT,
        RouteKind::Throw => ROUTE_THROW,
        _ if is_special(route.kind) => return unseen(route, PassReason::LocalDestination),
        _ => return unseen(route, PassReason::RouteKind),
    };
    if rival || route.nexthops.len() > 1 {
        return unseen(route, PassReason::Multipath);
    }
    let mut entry = entry_of(kind, route);
    entry.expires = expires;
    if kind != ROUTE_UNICAST {
        return Some(entry);
    }
    entry.certain = ROUTE_HAS_NEXT_HOPS | ROUTE_LEADS_OUT | ROUTE_HAS_GROUP;
    let Some(hop) = route.nexthops.first() else { return unseen(route, PassReason::RouteKind) };
    // A realm is looked for in the packet's route, which only the stack attaches.
    let unseen_hop = hop.encap || hop.realms != 0 || hop.dev == 0;
    // A locked MTU of 0 is the kernel's least one (`ip_dst_mtu_maybe_forward`), and 0 here is none.
    let least_mtu = route.mtu_locked && route.mtu.unwrap_or(0) == 0;
    if unseen_hop || least_mtu || known.own.is_gateway_of(route, hop) || known.shared.is_way_of(route, hop) {
        return unseen(route, PassReason::RouteKind);
    }
    let Some(link) = known.host.links.get(&hop.dev).filter(|_| !hop.linkdown) else {
        return unseen(route, PassReason::EgressInterface);
    };
    entry.oif = hop.dev;
    entry.egress = known.places.get(&hop.dev).copied().unwrap_or(u32::MAX);
    entry.group = link.group;
    entry.mtu = route.mtu.map_or(0, |mtu| match family {
        // `ip_dst_mtu_maybe_forward`.
        Family::Ipv4 => mtu,
        Family::Ipv6 if route.mtu_locked => mtu,
        // `ip6_forward` goes by the interface, and `ip6_finish_output` by the route (`ip6_skb_dst_mtu`).
        Family::Ipv6 => mtu.min(links::mtu6(link)),
    });
    if let Some(via) = hop.via {
        entry.via_family = if via.is_ipv4() { 4 } else { 6 };
        entry.via = words::addr(via);
    }
    Some(entry)
}

fn entry_of(kind: u8, route: &Route) -> RouteEntry {
    RouteEntry {
        kind,
        prefix_len: route.dst.prefix_len(),
        egress: u32::MAX,
        gateway: u32::MAX,
        ..bytemuck::Zeroable::zeroed()
    }
}
