//! Routes, neighbours and rules.

use super::Notes;
use crate::kernel::{Admin, Error, Kernel, Result};
use crate::model::{Family, Host, Route, RouteKind, Rule};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Gives the namespace the host's routes, usable neighbours and rules.
pub fn copy(host: &Host, kernel: &mut dyn Kernel, notes: &mut Notes) -> Result<()> {
    objects(host, notes)?;
    routes(host, kernel, notes)?;
    neighbours(host, notes)?;
    rules(host, kernel, notes)
}

/// How long the kernel may take from a carrier to the last of the routes that it makes by itself.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);
/// It is done when nothing has changed for so long.
const QUIET: Duration = Duration::from_millis(40);

/// The kernel makes routes from addresses and carriers, some of them a moment later: only the difference is written, and
/// looked at again until it stays empty. What is one route's gateway may be another's destination, so that a route that
/// failed is tried again each time.
fn routes(host: &Host, kernel: &mut dyn Kernel, notes: &mut Notes) -> Result<()> {
    let wanted: Vec<Route> = host.routes.iter().map(plain).collect();
    let (started, mut quiet_since) = (Instant::now(), Instant::now());
    loop {
        let there: Vec<Route> = kernel.routes()?.iter().map(plain).collect();
        let surplus: Vec<&Route> = there.iter().filter(|route| !wanted.contains(route)).collect();
        let (its_own, missing): (Vec<&Route>, Vec<&Route>) =
            wanted.iter().filter(|route| !there.contains(route)).partition(|route| only_the_kernel_makes(route));
        let late = started.elapsed() > SETTLED_WITHIN;
        let settled = surplus.is_empty() && missing.is_empty() && its_own.is_empty();
        let mut failed = Vec::new();
        // A gateway may have been reached by a route that is gone since: what is there serves before it goes. What is gone
        // meanwhile need not be deleted.
        failed.extend(missing.into_iter().filter_map(|route| add(kernel, route).err()));
        let deleted = surplus.into_iter().filter_map(|route| kernel.delete_route(route).err());
        failed.extend(deleted.filter(|error| error.errno() != libc::ESRCH));
        if late {
            // As near as it gets: with another metric.
            failed.extend(its_own.into_iter().filter_map(|route| kernel.add_route(route).err()));
        }
        if !settled {
            quiet_since = Instant::now();
        }
        if late || quiet_since.elapsed() > QUIET {
            failed.into_iter().for_each(|error| notes.add(format!("not copied: {error}")));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// IPv6 gives a route that somebody adds without a metric 1024; those of the host's own addresses have 0.
fn only_the_kernel_makes(route: &Route) -> bool {
    route.family == Family::Ipv6 && route.metric == 0
}

/// Adds a route. What the gateway was reached by may be gone since: then it is on the link because the original says so.
fn add(kernel: &mut dyn Kernel, route: &Route) -> Result<()> {
    kernel.add_route(route).or_else(|error| {
        let mut onlink = route.clone();
        onlink.nexthops.iter_mut().filter(|hop| hop.via.is_some()).for_each(|hop| hop.onlink = true);
        kernel.add_route(&onlink).map_err(|_| error)
    })
}

/// A route without what belongs to the moment: dead next hops will show as such.
fn plain(route: &Route) -> Route {
    let mut route = route.clone();
    route.expires = None;
    if !goes_by_object(&route) {
        route.nhid = 0;
    }
    for hop in &mut route.nexthops {
        (hop.dead, hop.linkdown, hop.onlink, hop.realms) = (false, false, false, 0);
    }
    route
}

/// Objects that lead nowhere are copied as the routes' own refusal.
fn goes_by_object(route: &Route) -> bool {
    route.nhid != 0 && route.kind == RouteKind::Unicast && !route.nexthops.is_empty()
}

/// The next-hop objects that routes go by, under their own numbers. The members of groups get numbers that are free.
fn objects(host: &Host, notes: &mut Notes) -> Result<()> {
    let by_number: BTreeMap<u32, &Route> =
        host.routes.iter().filter(|route| goes_by_object(route)).map(|route| (route.nhid, route)).collect();
    let mut admin = Admin::open()?;
    let mut free = by_number.keys().max().copied().unwrap_or(0);
    for (id, route) in by_number {
        if let [hop] = route.nexthops.as_slice() {
            notes.attempt(admin.add_nexthop(id, route.family, hop));
            continue;
        }
        let mut members = Vec::new();
        for hop in &route.nexthops {
            free += 1;
            notes.attempt(admin.add_nexthop(free, route.family, hop));
            members.push((free, hop.weight));
        }
        notes.attempt(admin.add_nexthop_group(id, &members));
    }
    Ok(())
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

fn rules(host: &Host, kernel: &mut dyn Kernel, notes: &mut Notes) -> Result<()> {
    for error in write_rules(&host.rules, kernel)? {
        notes.add(format!("not copied: {error}"));
    }
    Ok(())
}

/// Makes the namespace's lists of both families these, and gives what the kernel refused. Where the lists differ, the whole
/// list of a family is written anew: its order counts.
pub fn write_rules(rules: &[Rule], kernel: &mut dyn Kernel) -> Result<Vec<Error>> {
    let there = kernel.rules()?;
    let mut refused = Vec::new();
    for family in Family::BOTH {
        let old: Vec<_> = there.iter().filter(|rule| rule.family == family).cloned().collect();
        let new: Vec<_> = rules.iter().filter(|rule| rule.family == family).cloned().collect();
        if old != new {
            let outcomes = kernel.delete_rules(&old).into_iter().chain(kernel.add_rules(&new));
            refused.extend(outcomes.filter_map(std::result::Result::err));
        }
    }
    Ok(refused)
}
