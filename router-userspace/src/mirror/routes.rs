//! From the routes that are there to those that are wanted, in an order that never sends a packet a third way.

use super::Step;
use crate::model::{Family, NextHop, OWN_PROTOCOL, Route, RouteKind};
use std::cmp::Reverse;
use std::net::IpAddr;

/// The steps before the rules change, and those after.
#[derive(Default)]
pub(super) struct RouteSteps {
    /// First these, in order.
    pub add: Vec<Step>,
    /// In the end these, in order.
    pub delete: Vec<Step>,
}

/// Whether two routes say the same, whoever owns them. The state of a next hop is not what a route says, nor is what the kernel
/// makes up itself, nor `onlink`, which only says how the kernel is to check the gateway.
pub(super) fn same_route(a: &Route, b: &Route) -> bool {
    let scope = |route: &Route| if route.family == Family::Ipv4 { route.scope } else { 0 };
    a.same_slot(b)
        && a.kind == b.kind
        && a.prefsrc == b.prefsrc
        && a.mtu == b.mtu
        && a.mtu_locked == b.mtu_locked
        && a.nhid == b.nhid
        && (leads_nowhere(a.kind) || (scope(a) == scope(b) && hops(a) == hops(b)))
}

/// The kinds without a next hop.
pub(super) fn leads_nowhere(kind: RouteKind) -> bool {
    matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
}

/// What a next hop is, without its state, in an order of its own: IPv6 keeps none.
fn hops(route: &Route) -> Vec<(Option<IpAddr>, u32, u16, bool)> {
    let tell = |hop: &NextHop| (hop.via, hop.dev, hop.weight, hop.encap);
    let mut hops: Vec<_> = route.nexthops.iter().map(tell).collect();
    hops.sort_unstable();
    hops
}

/// Plans the way from `now` (the whole FIB) to one whose own routes are `want`.
pub(super) fn steps(now: &[Route], want: &[Route]) -> RouteSteps {
    let own: Vec<&Route> = now.iter().filter(|route| route.protocol == OWN_PROTOCOL).collect();
    let missing = want.iter().filter(|want| !own.iter().any(|route| same_route(route, want)));
    let mut missing: Vec<&Route> = missing.collect();
    let mut stale = own;
    stale.retain(|route| !want.iter().any(|want| same_route(route, want)));
    sort(&mut missing, want);
    let mut steps = RouteSteps::default();
    let mut stand_ins = Vec::new();
    for route in missing {
        let slot = stale.iter().position(|old| old.same_slot(route));
        let Some(old) = slot.map(|slot| stale.remove(slot)) else {
            steps.add.push(Step::AddRoute(route.clone()));
            continue;
        };
        // The slot is taken by the old one. A copy with another metric carries the traffic while they change places.
        let stand_in = stand_in(route, &[now, want, &stand_ins]);
        steps.add.extend(stand_in.clone().map(Step::AddRoute));
        steps.add.extend([Step::DeleteRoute(old.clone()), Step::AddRoute(route.clone())]);
        steps.add.extend(stand_in.clone().map(Step::DeleteRoute));
        stand_ins.extend(stand_in);
    }
    sort(&mut stale, now);
    steps.delete.extend(stale.into_iter().rev().cloned().map(Step::DeleteRoute));
    steps
}

/// The order of adding: what a gateway is reached by first; then the longest prefix first, so that no destination goes by a
/// shorter one that comes before its own; of one prefix the best metric first. Deleting goes the other way round.
fn sort(routes: &mut [&Route], all: &[Route]) {
    routes.sort_by_key(|route| (!carries_a_gateway(route, all), Reverse(route.dst.prefix_len()), route.metric));
}

/// Whether some gateway is on the link by this route.
fn carries_a_gateway(route: &Route, all: &[Route]) -> bool {
    let on_link = |dev: u32, via: IpAddr| route.dst.contains(&via) && route.nexthops.iter().any(|hop| hop.dev == dev);
    route.kind == RouteKind::Unicast
        && route.nexthops.iter().all(|hop| hop.via.is_none())
        && all.iter().flat_map(|other| &other.nexthops).any(|hop| hop.via.is_some_and(|via| on_link(hop.dev, via)))
}

/// The same route with the nearest metric that nobody has: behind it where there is room, else before it.
fn stand_in(route: &Route, taken: &[&[Route]]) -> Option<Route> {
    let free = |metric: &u32| {
        let mut other = route.clone();
        other.metric = *metric;
        !taken.iter().any(|routes| routes.iter().any(|route| route.same_slot(&other)))
    };
    // IPv6 takes 0 for 1024.
    let lowest = if route.family == Family::Ipv6 { 1 } else { 0 };
    let near = |distance: u32| {
        let behind = route.metric.checked_add(distance);
        let before = route.metric.checked_sub(distance).filter(|metric| *metric >= lowest);
        behind.into_iter().chain(before)
    };
    let metric = (1..=64).flat_map(near).find(free)?;
    Some(Route { metric, ..route.clone() })
}
