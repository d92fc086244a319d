//! From the routes that are there to those that are wanted, in an order that never sends a packet a third way.

use super::Step;
use crate::model::{Family, NextHop, OWN_PROTOCOL, Route, RouteKind};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
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
        && (leads_nowhere(a.kind) || a.nhid != 0 || (scope(a) == scope(b) && hops(a) == hops(b)))
}

/// What the kernel tells routes apart by: [`Route::same_slot`] as a key.
pub(super) type Slot = (Family, u32, IpNet, Option<IpNet>, u8, u32);

/// The place of a route.
pub(super) fn slot(route: &Route) -> Slot {
    (route.family, route.table, route.dst, route.src, route.tos, route.metric)
}

/// Routes by their place.
#[derive(Default)]
pub(super) struct BySlot<'a>(HashMap<Slot, Vec<&'a Route>>);

impl<'a> FromIterator<&'a Route> for BySlot<'a> {
    fn from_iter<T: IntoIterator<Item = &'a Route>>(routes: T) -> Self {
        let mut by_slot = BySlot::default();
        routes.into_iter().for_each(|route| by_slot.0.entry(slot(route)).or_default().push(route));
        by_slot
    }
}

impl<'a> BySlot<'a> {
    /// Those in the place of `route`.
    pub fn at(&self, route: &Route) -> &[&'a Route] {
        self.0.get(&slot(route)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether one of them says the same.
    pub fn has(&self, route: &Route) -> bool {
        self.at(route).iter().any(|other| same_route(other, route))
    }
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
    let own = || now.iter().filter(|route| route.protocol == OWN_PROTOCOL);
    let (held, wanted): (BySlot<'_>, BySlot<'_>) = (own().collect(), want.iter().collect());
    let mut missing: Vec<&Route> = want.iter().filter(|route| !held.has(route)).collect();
    let mut stale: Vec<&Route> = own().filter(|route| !wanted.has(route)).collect();
    sort(&mut missing, want);
    sort(&mut stale, own());
    let mut taken: Option<HashSet<Slot>> = None;
    let mut replaced = HashSet::new();
    let mut steps = RouteSteps::default();
    for route in missing {
        let Some(old) = held.at(route).iter().find(|old| !wanted.has(old)) else {
            steps.add.push(Step::AddRoute(route.clone()));
            continue;
        };
        // The slot is taken by the old one. A copy with another metric carries the traffic while they change places.
        let taken = taken.get_or_insert_with(|| now.iter().chain(want).map(slot).collect());
        let stand_in = stand_in(route, taken);
        steps.add.extend(stand_in.clone().map(Step::AddRoute));
        steps.add.extend([Step::DeleteRoute((*old).clone()), Step::AddRoute(route.clone())]);
        steps.add.extend(stand_in.map(Step::DeleteRoute));
        replaced.insert(slot(route));
    }
    let gone = stale.into_iter().rev().filter(|route| !replaced.contains(&slot(route)));
    steps.delete.extend(gone.cloned().map(Step::DeleteRoute));
    steps
}

/// The order of adding: what a gateway is reached by first; then the longest prefix first, so that no destination goes by a
/// shorter one that comes before its own; of one prefix the best metric first. Deleting goes the other way round.
fn sort<'a>(routes: &mut [&Route], all: impl IntoIterator<Item = &'a Route>) {
    let hops = all.into_iter().flat_map(|route| &route.nexthops);
    let gateways: HashSet<(u32, IpAddr)> = hops.filter_map(|hop| Some((hop.dev, hop.via?))).collect();
    // Whether some gateway is on the link by this route.
    let carries = |route: &Route| {
        let reaches = |dev: u32, via: &IpAddr| {
            route.dst.contains(via) && route.nexthops.iter().any(|hop| hop.dev == dev && hop.via.is_none())
        };
        route.kind == RouteKind::Unicast && gateways.iter().any(|(dev, via)| reaches(*dev, via))
    };
    routes.sort_by_cached_key(|route| (!carries(route), Reverse(route.dst.prefix_len()), route.metric));
}

/// The same route with the nearest metric that nobody has: behind it where there is room, else before it.
fn stand_in(route: &Route, taken: &HashSet<Slot>) -> Option<Route> {
    let with = |metric| Route { metric, ..route.clone() };
    // IPv6 takes 0 for 1024.
    let lowest = if route.family == Family::Ipv6 { 1 } else { 0 };
    let near = |distance: u32| {
        let behind = route.metric.checked_add(distance);
        let before = route.metric.checked_sub(distance).filter(|metric| *metric >= lowest);
        behind.into_iter().chain(before)
    };
    (1..=64).flat_map(near).map(with).find(|other| !taken.contains(&slot(other)))
}
