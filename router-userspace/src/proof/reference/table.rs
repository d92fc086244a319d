//! What one table answers: `fib_table_lookup` (net/ipv4/fib_trie.c), `fib6_table_lookup` and `rt6_select` (net/ipv6/route.c).

use super::Flow;
use crate::model::{Family, Host, NeighbourState, NextHop, Route, RouteKind, SCOPE_HOST};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// The kernel's index of the loopback interface, in every namespace.
pub const LOOPBACK: u32 = 1;

/// What a table answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has no such route, or there is no such table: on to the next rule.
    NoRoute,
    /// A route without an error. The next hops are those among which the kernel may choose.
    Found {
        /// Index in `Host::routes`.
        route: usize,
        /// Indexes of the next hops that may be chosen; never empty.
        hops: Vec<usize>,
    },
    /// A `throw`, `blackhole`, `unreachable` or `prohibit` route.
    Refused(usize),
    /// A route of a type that is not known here.
    Unknown(usize),
}

/// The FIB, arranged for looking up: per table, longest prefix first.
pub struct Fib<'a> {
    host: &'a Host,
    tables: HashMap<(Family, u32), Table>,
    /// IPv6 routes by the ways out of their next-hop objects.
    by_object: HashMap<(Option<IpAddr>, u32), Vec<usize>>,
    /// What any table holds as this host's own IPv4 addresses.
    own4: Vec<IpNet>,
}

/// Prefixes by length, longest first; under each prefix its routes in the order in which the kernel looks at them.
type Table = BTreeMap<Reverse<u8>, HashMap<IpNet, Vec<usize>>>;

impl<'a> Fib<'a> {
    /// Arranges the routes of a host.
    pub fn new(host: &'a Host) -> Self {
        let mut tables: HashMap<(Family, u32), Table> = HashMap::new();
        for (index, route) in host.routes.iter().enumerate() {
            let table = tables.entry((route.family, route.table)).or_default();
            table.entry(Reverse(route.dst.prefix_len())).or_default().entry(route.dst.trunc()).or_default().push(index);
        }
        for routes in
            tables.values_mut().flat_map(|table| table.values_mut()).flat_map(|by_prefix| by_prefix.values_mut())
        {
            // The dump has equal routes in the kernel's order; the sort is stable and keeps it.
            routes.sort_by_key(|index| order(&host.routes[*index]));
        }
        let mut by_object: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, route) in host.routes.iter().enumerate().filter(|(_, r)| r.family == Family::Ipv6 && r.nhid != 0) {
            for hop in &route.nexthops {
                by_object.entry((hop.via, hop.dev)).or_default().push(index);
            }
        }
        let kept_here = |route: &&Route| match route.kind {
            RouteKind::Local => true,
            RouteKind::Unicast => route.scope >= SCOPE_HOST,
            _ => false,
        };
        let own4 = host.routes.iter().filter(|route| route.family == Family::Ipv4).filter(kept_here);
        let own4 = own4.map(|route| route.dst).chain(host.addresses.iter().map(|address| address.addr.into()));
        Fib { host, tables, by_object, own4: own4.collect() }
    }

    /// The routes for which the kernel may take a route that it found, the route itself first. An IPv6 next-hop object keeps
    /// one answer for all routes by it: table and prefix length are those of the route that was asked for first
    /// (`rt6_get_pcpu_route`, net/ipv6/route.c; `fib6_nh_alloc_percpu` makes the place one of the next hop's).
    pub fn stand_ins(&self, route: usize, hop: usize) -> Vec<usize> {
        let found = &self.host.routes[route];
        let way = found.nexthops.get(hop).filter(|_| found.family == Family::Ipv6 && found.nhid != 0);
        let others = way.and_then(|hop| self.by_object.get(&(hop.via, hop.dev)));
        let others = others.into_iter().flatten().copied().filter(|other| *other != route);
        std::iter::once(route).chain(others).collect()
    }

    /// Whether an IPv4 gateway is one of this host's addresses to some table, or reached by a route of the scope of a host. Where the table that was asked when the route was
    /// added said so, the next hop has the scope of a host and the packet goes to its destination without the gateway
    /// (`fib_check_nh_v4_gw`, net/ipv4/fib_semantics.c; `rt_set_nexthop`, net/ipv4/route.c); nothing shows it later.
    pub fn may_be_here(&self, hop: &NextHop) -> bool {
        let Some(via @ IpAddr::V4(_)) = hop.via.filter(|_| !hop.onlink) else { return false };
        self.own4.iter().any(|net| net.contains(&via))
    }

    /// What `table` answers to `flow`.
    pub fn lookup(&self, table: u32, flow: &Flow) -> Answer {
        let family = Family::of(flow.daddr);
        let Some(table) = self.tables.get(&(family, table)) else { return Answer::NoRoute };
        match family {
            Family::Ipv4 => self.lookup4(&[table], flow),
            Family::Ipv6 => self.lookup6(table, flow),
        }
    }

    /// What IPv4's `local` and `main` answer together, as one trie: they are one until the first rule is added
    /// (`fib_trie_unmerge`). Of equal prefixes `local`'s goes first.
    pub fn lookup_merged(&self, tables: &[u32], flow: &Flow) -> Answer {
        let tables: Vec<&Table> = tables.iter().filter_map(|id| self.tables.get(&(Family::Ipv4, *id))).collect();
        self.lookup4(&tables, flow)
    }

    fn lookup4(&self, tables: &[&Table], flow: &Flow) -> Answer {
        for length in (0..=32).rev() {
            let Some(prefix) = prefix_of(flow.daddr, length) else { continue };
            for routes in tables.iter().filter_map(|table| table.get(&Reverse(length))?.get(&prefix)) {
                for index in routes {
                    let route = &self.host.routes[*index];
                    if route.tos != 0 && route.tos & 0xfc != flow.dsfield & 0x1c {
                        continue;
                    }
                    match route.kind {
                        RouteKind::Throw | RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                            return Answer::Refused(*index);
                        }
                        RouteKind::Unknown(_) => return Answer::Unknown(*index),
                        _ => {}
                    }
                    let hops: Vec<usize> =
                        (0..route.nexthops.len()).filter(|hop| self.usable4(&route.nexthops[*hop])).collect();
                    if !hops.is_empty() {
                        return Answer::Found { route: *index, hops };
                    }
                    // A next-hop object without a live next hop leaves the whole prefix (`goto miss`).
                    if route.nhid != 0 {
                        break;
                    }
                }
            }
        }
        Answer::NoRoute
    }

    /// `fib_lookup_good_nhc`.
    fn usable4(&self, hop: &NextHop) -> bool {
        let ignores = self.host.settings.all_v4.ignore_linkdown
            || self.host.links.get(&hop.dev).is_some_and(|link| link.v4.ignore_linkdown);
        !(hop.dead || hop.linkdown && ignores)
    }

    fn lookup6(&self, table: &Table, flow: &Flow) -> Answer {
        // A host that does not forward prefers reachable gateways at first (`ip6_pol_route`).
        let passes: &[bool] = if self.host.settings.all_v6.forwarding { &[false] } else { &[true, false] };
        for reachable in passes {
            let mut arrived = false;
            for (Reverse(length), prefixes) in table {
                let Some(routes) = prefix_of(flow.daddr, *length).and_then(|prefix| prefixes.get(&prefix)) else {
                    continue;
                };
                // Each source is a node of its own; `order` has put the longest first and none last.
                let nodes: Vec<&[usize]> =
                    routes.chunk_by(|a, b| self.host.routes[*a].src == self.host.routes[*b].src).collect();
                let source = |node: &[usize]| self.host.routes[node[0]].src.filter(|src| src.prefix_len() != 0);
                let fits = |node: &[usize]| source(node).is_none_or(|src| src.contains(&flow.saddr));
                let specific = |node: &&[usize]| source(node).is_some();
                // On its way to the first node the kernel leaves a prefix that has source-specific routes as soon as none of
                // them fits, and its plain routes with it; coming back from a node that did not do it looks at them
                // (`fib6_node_lookup_1`, `fib6_backtrack`). The root of the table is never left.
                let hidden = !arrived && *length != 0 && nodes.iter().any(specific);
                if hidden && !nodes.iter().filter(|node| specific(node)).any(|node| fits(node)) {
                    continue;
                }
                arrived = true;
                for node in nodes.into_iter().filter(|node| fits(node)) {
                    if let Some(answer) = self.select6(node, flow, *reachable) {
                        return answer;
                    }
                }
            }
        }
        Answer::NoRoute
    }

    /// `find_rr_leaf`: the best of the lowest metric; if none will do, the best of all others together.
    fn select6(&self, node: &[usize], flow: &Flow, reachable: bool) -> Option<Answer> {
        let metric = self.host.routes[*node.first()?].metric;
        let (lowest, others): (Vec<usize>, Vec<usize>) =
            node.iter().partition(|index| self.host.routes[**index].metric == metric);
        let chosen = self.best6(&lowest, flow, reachable).or_else(|| self.best6(&others, flow, reachable))?;
        let route = &self.host.routes[chosen];
        Some(match route.kind {
            RouteKind::Throw | RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                Answer::Refused(chosen)
            }
            RouteKind::Unknown(_) => Answer::Unknown(chosen),
            _ => {
                let all = 0..route.nexthops.len();
                Answer::Found { route: chosen, hops: all.filter(|hop| self.usable6(&route.nexthops[*hop])).collect() }
            }
        })
    }

    /// The first of the routes with the highest score.
    fn best6(&self, routes: &[usize], flow: &Flow, reachable: bool) -> Option<usize> {
        let mut best: Option<(i32, usize)> = None;
        for index in routes {
            let route = &self.host.routes[*index];
            // A route without a next hop (blackhole, …) stands on the loopback device.
            let on_loopback = [NextHop { dev: LOOPBACK, ..NextHop::default() }];
            let hops = if route.nexthops.is_empty() { &on_loopback } else { route.nexthops.as_slice() };
            for hop in hops {
                if let Some(score) = self.score6(route, hop, flow, reachable)
                    && best.is_none_or(|(highest, _)| score > highest)
                {
                    best = Some((score, *index));
                }
            }
        }
        best.map(|(_, index)| index)
    }

    /// `find_match` and `rt6_score_route`: the ingress interface and the router preference count.
    fn score6(&self, route: &Route, hop: &NextHop, flow: &Flow, reachable: bool) -> Option<i32> {
        if !self.usable6(hop) {
            return None;
        }
        let same_device = flow.oif6 == 0 || hop.dev == flow.oif6;
        if !same_device && needs_strict(flow.daddr) {
            return None;
        }
        if reachable
            && let Some(via) = hop.via
            && self.failed(hop.dev, via)
        {
            return None;
        }
        // IPV6_DECODE_PREF: low 1, medium 2, high 3.
        let preference = i32::from(route.pref & 3 ^ 2);
        Some(if same_device { 2 } else { 0 } | preference << 2)
    }

    /// Next hops that `find_match` and `rt6_multipath_rebalance` leave in.
    fn usable6(&self, hop: &NextHop) -> bool {
        let ignores = self.host.links.get(&hop.dev).is_some_and(|link| link.v6.ignore_linkdown);
        !(hop.dead || hop.linkdown && ignores)
    }

    /// `rt6_check_neigh` with CONFIG_IPV6_ROUTER_PREF: only a neighbour that failed counts against a gateway.
    fn failed(&self, dev: u32, via: IpAddr) -> bool {
        self.host.neighbours.iter().any(|n| n.index == dev && n.addr == via && n.state == NeighbourState::Failed)
    }
}

/// Where a route stands among those of its prefix: IPv4 has higher TOS first (`fib_find_alias`), IPv6 longer sources first.
fn order(route: &Route) -> (Reverse<u8>, Reverse<u8>, u32) {
    (Reverse(route.src.map_or(0, |src| src.prefix_len())), Reverse(route.tos), route.metric)
}

/// The prefix of that length which holds the address.
fn prefix_of(addr: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(addr, length).ok().map(|net| net.trunc())
}

/// `rt6_need_strict`: a multicast, link-local or loopback destination stays on its interface.
fn needs_strict(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(addr) => addr.is_multicast() || addr.is_unicast_link_local() || addr.is_loopback(),
    }
}
