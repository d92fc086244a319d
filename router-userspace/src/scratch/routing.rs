//! Routes, neighbours and rules.

use super::Notes;
use crate::kernel::{Admin, Kernel, Result};
use crate::model::{Family, Host, Route};
use std::time::{Duration, Instant};

/// Gives the namespace the host's routes, usable neighbours and rules.
pub fn copy(host: &Host, kernel: &mut dyn Kernel, notes: &mut Notes) -> Result<()> {
    routes(host, kernel, notes)?;
    neighbours(host, notes)?;
    rules(host, kernel, notes)
}

/// RTPROT_KERNEL.
const BY_THE_KERNEL: u8 = 2;
/// How long the kernel may take from a carrier to the routes that it makes by itself.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// The kernel's own routes follow from addresses and carriers, a moment later: what it still makes must not be taken for
/// missing.
fn settled(wanted: &[Route], kernel: &mut dyn Kernel) -> Result<Vec<Route>> {
    let started = Instant::now();
    loop {
        let there: Vec<Route> = kernel.routes()?.iter().map(plain).collect();
        let mut its_own = wanted.iter().filter(|route| route.protocol == BY_THE_KERNEL);
        if its_own.all(|route| there.contains(route)) || started.elapsed() > SETTLED_WITHIN {
            return Ok(there);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The kernel has made routes from the addresses already: only the difference is written. What is one route's gateway may
/// be another's destination, so that those that failed are tried again as long as any succeeds.
fn routes(host: &Host, kernel: &mut dyn Kernel, notes: &mut Notes) -> Result<()> {
    let wanted: Vec<Route> = host.routes.iter().map(plain).collect();
    let there = settled(&wanted, kernel)?;
    for route in there.iter().filter(|route| !wanted.contains(route)) {
        notes.attempt(kernel.delete_route(route));
    }
    let mut missing: Vec<&Route> = wanted.iter().filter(|route| !there.contains(route)).collect();
    loop {
        let mut failed = Vec::new();
        let before = missing.len();
        for route in missing {
            if let Err(error) = kernel.add_route(route) {
                failed.push((route, error));
            }
        }
        if failed.is_empty() || failed.len() == before {
            failed.into_iter().for_each(|(_, error)| notes.add(format!("not copied: {error}")));
            return Ok(());
        }
        missing = failed.into_iter().map(|(route, _)| route).collect();
    }
}

/// A route without what belongs to the moment: next-hop objects become their next hops, dead ones will show as such.
fn plain(route: &Route) -> Route {
    let mut route = route.clone();
    route.nhid = 0;
    for hop in &mut route.nexthops {
        (hop.dead, hop.linkdown) = (false, false);
    }
    route
}

/// Nobody answers in the copy: neighbours that are usable are made so for good, the others are left out.
fn neighbours(host: &Host, notes: &mut Notes) -> Result<()> {
    let mut admin = Admin::open()?;
    // The kernel keeps entries for groups by itself, and routes nothing by them.
    let unicast = host.neighbours.iter().filter(|neighbour| !neighbour.addr.is_multicast());
    for neighbour in unicast.filter(|neighbour| neighbour.state.is_usable()) {
        if let (Some(link), Some(mac)) = (host.links.get(&neighbour.index), neighbour.mac)
            && link.mac.is_some()
            && link.up
        {
            notes.attempt(admin.set_neighbour(&link.name, neighbour.addr, mac));
        }
    }
    Ok(())
}

/// Where the lists differ, the whole list of a family is written anew: its order counts.
fn rules(host: &Host, kernel: &mut dyn Kernel, notes: &mut Notes) -> Result<()> {
    let there = kernel.rules()?;
    for family in Family::BOTH {
        let old: Vec<_> = there.iter().filter(|rule| rule.family == family).cloned().collect();
        let new: Vec<_> = host.rules_of(family).cloned().collect();
        if old == new {
            continue;
        }
        for outcome in kernel.delete_rules(&old).into_iter().chain(kernel.add_rules(&new)) {
            notes.attempt(outcome);
        }
    }
    Ok(())
}
