//! The running kernel, over netlink.

use super::socket::Socket;
use super::{Error, Kernel, Netns, Result, RouteAnswer, RouteQuery};
use super::{links, neighbours, nexthops, nft, probe, route_get, routes, rules, settings};
use crate::model::{Address, Link, MarkRule, Neighbour, Route, Rule, RuleFeature, Settings};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The kernel of this host, in the network namespace of the thread that opened it, on whichever thread it is used.
pub struct Netlink {
    socket: Socket,
    namespace: Netns,
    /// The marks that were set last.
    marks: nft::Installed,
}

impl Netlink {
    /// Opens the request socket.
    pub fn open() -> Result<Self> {
        Ok(Netlink {
            socket: Socket::open(NETLINK_ROUTE)?,
            namespace: Netns::current()?,
            marks: nft::Installed::default(),
        })
    }

    /// What tells this one's changes of rules and routes among all that are announced: see [`super::Monitor::leave_out`].
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Does what depends on the calling thread's namespace in this one's.
    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if Netns::current()?.id()? == self.namespace.id()? { work() } else { self.namespace.run(work)? }
    }

    /// Adds a rule with FIB_RULE_FIND_SADDR, which [`Rule`] has no place for.
    #[cfg(test)]
    pub(super) fn add_find_saddr(&mut self, rule: &Rule) -> Result<()> {
        self.socket.request(rules::add_find_saddr(rule)?)
    }

    /// Many requests; nothing is sent where one of them cannot be written.
    fn batch(&mut self, rules: &[Rule], make: impl Fn(&Rule) -> Result<super::socket::Request>) -> Vec<Result<()>> {
        let mut requests = Vec::with_capacity(rules.len());
        for rule in rules {
            match make(rule) {
                Ok(request) => requests.push(request),
                Err(error) => {
                    let not_tried = |rule: &Rule| Err(Error::from_errno(format!("{rule}"), libc::ECANCELED));
                    let mut results: Vec<Result<()>> = rules.iter().map(not_tried).collect();
                    results[requests.len()] = Err(error);
                    return results;
                }
            }
        }
        self.socket.batch(requests)
    }
}

impl Kernel for Netlink {
    fn write_setting(&mut self, name: &str, value: &str) -> Result<()> {
        self.inside(|| super::admin::write_setting(name, value))
    }

    fn rules(&mut self) -> Result<Vec<Rule>> {
        rules::dump(&mut self.socket)
    }

    fn routes(&mut self) -> Result<Vec<Route>> {
        routes::dump(&mut self.socket)
    }

    fn links(&mut self) -> Result<BTreeMap<u32, Link>> {
        links::dump(&mut self.socket)
    }

    fn addresses(&mut self) -> Result<Vec<Address>> {
        links::addresses(&mut self.socket)
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        neighbours::dump(&mut self.socket)
    }

    fn nexthop_objects(&mut self) -> Result<BTreeSet<u32>> {
        Ok(nexthops::dump(&mut self.socket)?.into_keys().collect())
    }

    fn lacks(&mut self) -> Result<BTreeSet<RuleFeature>> {
        Ok(probe::lacks(&mut self.socket))
    }

    fn settings(&mut self) -> Result<Settings> {
        self.inside(settings::read_all)
    }

    fn exceptions(&mut self) -> Result<BTreeSet<IpAddr>> {
        routes::exceptions(&mut self.socket)
    }

    /// What is flushed unannounced (`fib_table_flush`) is flushed by whoever holds the RTNL lock, and announces the cause under
    /// the same hold. Dumps of rules and routes are made without it: they can see half of a flush. A question that waits for
    /// the lock is answered when the flush is over.
    fn wait_for_changes(&mut self) -> Result<()> {
        links::ask_loopback(&mut self.socket)
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        self.socket.request(rules::add(rule)?)
    }

    fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        self.socket.request(rules::delete(rule)?)
    }

    fn add_rules(&mut self, rules: &[Rule]) -> Vec<Result<()>> {
        self.batch(rules, rules::add)
    }

    fn delete_rules(&mut self, rules: &[Rule]) -> Vec<Result<()>> {
        self.batch(rules, rules::delete)
    }

    fn add_route(&mut self, route: &Route) -> Result<()> {
        routes::add(&mut self.socket, route)
    }

    fn delete_route(&mut self, route: &Route) -> Result<()> {
        routes::delete(&mut self.socket, route)
    }

    fn mark_chain(&mut self) -> Result<Option<u64>> {
        self.inside(nft::mark_chain)
    }

    fn marks_are_anothers(&mut self) -> Result<bool> {
        self.inside(nft::name_is_taken)
    }

    fn set_uses(&mut self) -> Result<BTreeMap<u32, String>> {
        self.inside(nft::set_uses)
    }

    fn set_mark_chain(&mut self, marks: &[MarkRule], digest: u64) -> Result<()> {
        let mut installed = std::mem::take(&mut self.marks);
        let result = self.inside(|| nft::set_mark_chain(marks, digest, &mut installed));
        self.marks = installed;
        result
    }

    fn route_get(&mut self, query: &RouteQuery) -> Result<RouteAnswer> {
        route_get::ask(&mut self.socket, query)
    }

    fn use_neighbour(&mut self, index: u32, addr: IpAddr) -> Result<()> {
        neighbours::use_entry(&mut self.socket, index, addr)
    }
}
