//! The smallest policy that still shows a disagreement: rules and routes taken away in a namespace that nobody else uses.

use crate::kernel::{self, Kernel};
use crate::model::{Family, Host, NextHop, Route, Rule};
use crate::scratch;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// RTPROT_KERNEL: the kernel makes these from addresses, and the rules that every namespace begins with.
pub const RTPROT_KERNEL: u8 = 2;

/// The rules and routes of a namespace, in order.
#[derive(Clone)]
struct Parts {
    rules: Vec<Rule>,
    routes: Vec<Route>,
}

/// The fewest of `all` with which `differs` stays true: halves are left out first, then single ones.
pub fn fewest<T: Clone, E>(all: Vec<T>, mut differs: impl FnMut(&[T]) -> Result<bool, E>) -> Result<Vec<T>, E> {
    let mut kept = all;
    let mut chunk = kept.len().div_ceil(2).max(1);
    loop {
        let (mut at, mut smaller) = (0, false);
        while at < kept.len() {
            let mut candidate = kept.clone();
            candidate.drain(at..kept.len().min(at + chunk));
            if differs(&candidate)? {
                kept = candidate;
                smaller = true;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 && !smaller {
            return Ok(kept);
        }
        chunk = chunk.div_ceil(2);
    }
}

/// Takes all rules and routes away that `differs` does not need, and leaves the namespace so. `differs` reads the namespace
/// itself. Only what somebody added is taken away.
pub fn reduce<E: From<kernel::Error>>(
    kernel: &mut dyn Kernel,
    host: &Host,
    mut differs: impl FnMut(&mut dyn Kernel) -> Result<bool, E>,
) -> Result<(), E> {
    let all = Parts::of(host);
    let kept = fewest(all.removable(), |parts| {
        lay(kernel, &all.with(parts))?;
        differs(kernel)
    })?;
    Ok(lay(kernel, &all.with(&kept))?)
}

/// Gives the namespace the rules and routes of `host` again.
pub fn restore(kernel: &mut dyn Kernel, host: &Host) -> kernel::Result<()> {
    lay(kernel, &Parts::of(host))
}

/// One thing that can be taken away, by its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Rule(usize),
    Route(usize),
}

impl Parts {
    fn of(host: &Host) -> Self {
        Parts { rules: host.rules.clone(), routes: host.routes.iter().map(settled).collect() }
    }

    fn removable(&self) -> Vec<Part> {
        let rules = self.rules.iter().enumerate().filter(|(_, rule)| rule.protocol != RTPROT_KERNEL);
        let routes = self.routes.iter().enumerate().filter(|(_, route)| route.protocol != RTPROT_KERNEL);
        rules.map(|(at, _)| Part::Rule(at)).chain(routes.map(|(at, _)| Part::Route(at))).collect()
    }

    /// What cannot be taken away, and these.
    fn with(&self, kept: &[Part]) -> Parts {
        let gone: Vec<Part> = self.removable().into_iter().filter(|part| !kept.contains(part)).collect();
        let rules = self.rules.iter().enumerate().filter(|(at, _)| !gone.contains(&Part::Rule(*at)));
        let routes = self.routes.iter().enumerate().filter(|(at, _)| !gone.contains(&Part::Route(*at)));
        Parts {
            rules: rules.map(|(_, rule)| rule.clone()).collect(),
            routes: routes.map(|(_, route)| route.clone()).collect(),
        }
    }
}

/// Makes the namespace hold exactly these parts. What the kernel will not take back is missing then, which the next look
/// shows.
fn lay(kernel: &mut dyn Kernel, wanted: &Parts) -> kernel::Result<()> {
    scratch::write_rules(&wanted.rules, kernel)?;
    let there: Vec<Route> = kernel.routes()?.iter().map(settled).collect();
    let (there, wanted) = (by_prefix(&there), by_prefix(&wanted.routes));
    for route in there.iter().filter(|(prefix, routes)| wanted.get(*prefix) != Some(*routes)).flat_map(|(_, r)| r) {
        drop(kernel.delete_route(route));
    }
    let mut missing: Vec<&Route> =
        wanted.iter().filter(|(prefix, routes)| there.get(*prefix) != Some(*routes)).flat_map(|(_, r)| r).collect();
    // What is one route's gateway may be another's destination.
    loop {
        let before = missing.len();
        missing.retain(|route| kernel.add_route(route).is_err());
        if missing.is_empty() || missing.len() == before {
            return Ok(());
        }
    }
}

/// Added routes of each prefix of each table, in the kernel's order, which counts.
fn by_prefix(routes: &[Route]) -> BTreeMap<(Family, u32, IpNet), Vec<Route>> {
    let mut groups: BTreeMap<_, Vec<Route>> = BTreeMap::new();
    for route in routes.iter().filter(|route| route.protocol != RTPROT_KERNEL) {
        groups.entry((route.family, route.table, route.dst)).or_default().push(route.clone());
    }
    groups
}

/// A route without what belongs to the moment.
fn settled(route: &Route) -> Route {
    let hop = |hop: &NextHop| NextHop { dead: false, linkdown: false, ..hop.clone() };
    Route { nexthops: route.nexthops.iter().map(hop).collect(), ..route.clone() }
}
