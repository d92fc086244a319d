//! An in-memory kernel for tests: rules, routes, links and the mark chain behave as the real ones where the mirror relies on it.
//!
//! What it copies, and from where: the order of rules (`fib_newrule`, net/core/fib_rules.c: after the last rule whose
//! priority is not larger), the comparison of a deletion (`rule_find`: what the request leaves out matches everything, and
//! `not` and the goto target are never compared), the slots of routes (`fib_table_insert`, net/ipv4/fib_trie.c;
//! `fib6_add_rt2node`, net/ipv6/ip6_fib.c, both with NLM_F_EXCL), the checks of a next hop (`fib_check_nh`,
//! `ip6_route_check_nh`), and routes that go with their link (`fib_sync_down_dev`, `fib6_ifdown`).

use super::{Error, Kernel, Result, RouteAnswer, RouteQuery};
use crate::model::{
    Address, Family, Host, Link, MarkRule, Neighbour, Route, RouteKind, Rule, RuleAction, RuleFeature, Settings,
    TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

/// A change that was made, in the order in which it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A rule was added.
    AddRule(Rule),
    /// This rule went, which need not be the one that was asked for.
    DeleteRule(Rule),
    /// A route was added.
    AddRoute(Route),
    /// A route was deleted.
    DeleteRoute(Route),
    /// The mark chain was replaced.
    SetMarks(u64),
}

/// The kernel of one imaginary network namespace.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    host: Host,
    marks: Option<(Vec<MarkRule>, u64)>,
    answers: Vec<(RouteQuery, RouteAnswer)>,
    log: Vec<Change>,
    attempts: usize,
    failures: BTreeMap<usize, i32>,
    /// A copy of the rules after every change of one, for tests of what a packet met meanwhile.
    history: Option<Vec<Vec<Rule>>>,
}

impl FakeKernel {
    /// A fresh namespace: the kernel's own rules, the loopback device, no routes.
    pub fn new() -> Self {
        let mut host = Host::default();
        for (family, priority, table) in [
            (Family::Ipv4, 0, TABLE_LOCAL),
            (Family::Ipv4, 32766, TABLE_MAIN),
            (Family::Ipv4, 32767, TABLE_DEFAULT),
            (Family::Ipv6, 0, TABLE_LOCAL),
            (Family::Ipv6, 32766, TABLE_MAIN),
        ] {
            host.rules.push(Rule { protocol: 2, ..Rule::lookup(family, priority, table) });
        }
        host.links.insert(1, Link { index: 1, name: "lo".into(), arphrd: 772, mtu: 65536, ..Link::default() });
        FakeKernel { host, ..FakeKernel::default() }
    }

    /// A kernel that holds exactly this.
    pub fn with_host(host: Host) -> Self {
        FakeKernel { host, ..FakeKernel::default() }
    }

    /// What it holds now.
    pub fn state(&self) -> &Host {
        &self.host
    }

    /// What it holds now, to be changed as another program would: without the checks and without the log.
    pub fn state_mut(&mut self) -> &mut Host {
        &mut self.host
    }

    /// The installed marks.
    pub fn marks(&self) -> Option<&[MarkRule]> {
        self.marks.as_ref().map(|(marks, _)| marks.as_slice())
    }

    /// The changes so far.
    pub fn log(&self) -> &[Change] {
        &self.log
    }

    /// Forgets the log.
    pub fn clear_log(&mut self) {
        self.log.clear();
    }

    /// How many changes were asked for so far, the refused ones included.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// Makes the `nth` change from now on (1 is the next one) fail with `errno`.
    pub fn fail_change(&mut self, nth: usize, errno: i32) {
        self.failures.insert(self.attempts + nth, errno);
    }

    /// Takes back every failure that was ordered and has not come yet.
    pub fn fail_no_more(&mut self) {
        self.failures.clear();
    }

    /// From now on keeps a copy of all rules after each change of a rule.
    pub fn record_history(&mut self) {
        self.history = Some(Vec::new());
    }

    /// The copies that [`FakeKernel::record_history`] asked for.
    pub fn history(&self) -> &[Vec<Rule>] {
        self.history.as_deref().unwrap_or_default()
    }

    /// The answer to a route look-up; other questions are refused with EOPNOTSUPP. Several answers to one question are given
    /// in turn, the last one for good.
    pub fn answer(&mut self, query: RouteQuery, answer: RouteAnswer) {
        self.answers.push((query, answer));
    }

    /// Adds an interface, or replaces the one with its index.
    pub fn add_link(&mut self, link: Link) {
        self.host.links.insert(link.index, link);
    }

    /// Takes an interface away, and with it its routes, addresses and neighbours. Rules that name it stay.
    pub fn remove_link(&mut self, index: u32) {
        self.host.links.remove(&index);
        self.lose_routes(index);
        self.host.addresses.retain(|address| address.index != index);
        self.host.neighbours.retain(|neighbour| neighbour.index != index);
    }

    /// Sets an interface up or down. A device that goes down takes its routes with it, and they do not come back by themselves.
    pub fn set_up(&mut self, index: u32, up: bool) {
        if let Some(link) = self.host.links.get_mut(&index) {
            link.up = up;
            link.lower_up = up;
        }
        if !up {
            self.lose_routes(index);
        }
    }

    fn lose_routes(&mut self, index: u32) {
        for route in &mut self.host.routes {
            match route.family {
                // A multipath route stays while one next hop lives.
                Family::Ipv4 => {
                    route.nexthops.iter_mut().filter(|hop| hop.dev == index).for_each(|hop| hop.dead = true)
                }
                // Each next hop is a route of its own inside.
                Family::Ipv6 if route.nexthops.len() > 1 => route.nexthops.retain(|hop| hop.dev != index),
                Family::Ipv6 => {
                    route.nexthops.iter_mut().filter(|hop| hop.dev == index).for_each(|hop| hop.dead = true)
                }
            }
        }
        let lives = |route: &Route| !needs_nexthop(route.kind) || route.nexthops.iter().any(|hop| !hop.dead);
        self.host.routes.retain(lives);
    }

    /// Counts an attempt, and refuses it where a failure was ordered.
    fn attempt(&mut self, what: impl FnOnce() -> String) -> Result<()> {
        self.attempts += 1;
        match self.failures.remove(&self.attempts) {
            Some(errno) => Err(refused(what(), errno)),
            None => Ok(()),
        }
    }

    fn remember(&mut self) {
        if let Some(history) = &mut self.history {
            history.push(self.host.rules.clone());
        }
    }

    /// What the kernel finds wrong with a next hop.
    fn check_nexthops(&self, route: &Route) -> Result<(), i32> {
        if needs_nexthop(route.kind) && route.nexthops.is_empty() {
            return Err(libc::EINVAL);
        }
        for hop in &route.nexthops {
            let link = self.host.links.get(&hop.dev).ok_or(libc::ENODEV)?;
            if !link.up {
                return Err(libc::ENETDOWN);
            }
            if route.family == Family::Ipv6 && link.v6.disabled {
                return Err(libc::EACCES);
            }
            let Some(via) = hop.via else { continue };
            let link_local = matches!(via, IpAddr::V6(via) if via.is_unicast_link_local());
            let on_link = hop.onlink
                || link_local
                || self.host.routes.iter().any(|other| {
                    other.kind == RouteKind::Unicast
                        && other.dst.contains(&via)
                        && (other.table == route.table || other.table == TABLE_MAIN)
                        && other.nexthops.iter().any(|other| other.dev == hop.dev && other.via.is_none())
                });
            if !on_link {
                return Err(if route.family == Family::Ipv4 { libc::ENETUNREACH } else { libc::EHOSTUNREACH });
            }
        }
        Ok(())
    }
}

fn needs_nexthop(kind: RouteKind) -> bool {
    !matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
}

fn refused(what: impl Into<String>, errno: i32) -> Error {
    Error::new(what, io::Error::from_raw_os_error(errno))
}

/// The route as the kernel keeps it.
fn as_stored(route: &Route) -> Route {
    let mut stored = route.clone();
    stored.dst = route.dst.trunc();
    if route.family == Family::Ipv6 {
        stored.scope = 0;
        if stored.metric == 0 {
            stored.metric = 1024;
        }
    }
    if !needs_nexthop(route.kind) {
        stored.nexthops.clear();
    }
    stored
}

/// Whether a deletion of `asked` takes `rule` for it.
fn taken_for(asked: &Rule, rule: &Rule) -> bool {
    let (want, have) = (&asked.selectors, &rule.selectors);
    let (action, table) = numbers(asked.action);
    let (mark, mask) = want.fwmark.unwrap_or_default();
    let (has_mark, has_mask) = have.fwmark.unwrap_or_default();
    asked.family == rule.family
        && asked.priority == rule.priority
        && action == numbers(rule.action).0
        && (table == 0 || table == numbers(rule.action).1)
        && left_out_or_equal(&want.iif, &have.iif)
        && left_out_or_equal(&want.oif, &have.oif)
        && (mark == 0 || mark == has_mark)
        && (mask == 0 || mask == has_mask)
        && left_out_or_equal(&asked.suppress_prefixlength, &rule.suppress_prefixlength)
        && left_out_or_equal(&asked.suppress_ifgroup, &rule.suppress_ifgroup)
        && left_out_or_equal(&want.tun_id, &have.tun_id)
        && (!want.l3mdev || have.l3mdev)
        && left_out_or_equal(&want.uidrange, &have.uidrange)
        && left_out_or_equal(&want.ipproto, &have.ipproto)
        && (asked.protocol == 0 || asked.protocol == rule.protocol)
        && left_out_or_equal(&want.sport, &have.sport)
        && left_out_or_equal(&want.dport, &have.dport)
        && left_out_or_equal(&want.from, &have.from)
        && left_out_or_equal(&want.to, &have.to)
        && (want.tos == 0 || want.tos == have.tos)
        && left_out_or_equal(&want.dscp, &have.dscp)
}

fn left_out_or_equal<T: PartialEq>(asked: &Option<T>, has: &Option<T>) -> bool {
    asked.is_none() || asked == has
}

/// FR_ACT_* and the table that the kernel stores with it.
fn numbers(action: RuleAction) -> (u8, u32) {
    match action {
        RuleAction::Table(table) => (1, table),
        RuleAction::Goto(_) => (2, 0),
        RuleAction::Nop => (3, 0),
        RuleAction::Blackhole => (6, 0),
        RuleAction::Unreachable => (7, 0),
        RuleAction::Prohibit => (8, 0),
        RuleAction::Unknown(action) => (action, 0),
    }
}

impl Kernel for FakeKernel {
    fn write_setting(&mut self, name: &str, _: &str) -> Result<()> {
        Err(Error::from_errno(format!("write the setting {name}"), libc::EROFS))
    }

    fn rules(&mut self) -> Result<Vec<Rule>> {
        Ok(self.host.rules.clone())
    }

    fn routes(&mut self) -> Result<Vec<Route>> {
        Ok(self.host.routes.clone())
    }

    fn links(&mut self) -> Result<BTreeMap<u32, Link>> {
        Ok(self.host.links.clone())
    }

    fn addresses(&mut self) -> Result<Vec<Address>> {
        Ok(self.host.addresses.clone())
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        Ok(self.host.neighbours.clone())
    }

    fn nexthop_objects(&mut self) -> Result<BTreeSet<u32>> {
        Ok(self.host.nexthop_objects.clone())
    }

    fn lacks(&mut self) -> Result<BTreeSet<RuleFeature>> {
        Ok(self.host.lacks.clone())
    }

    fn settings(&mut self) -> Result<Settings> {
        Ok(self.host.settings)
    }

    fn exceptions(&mut self) -> Result<BTreeSet<IpAddr>> {
        Ok(self.host.exceptions.clone())
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let what = || format!("add rule: {} {rule}", rule.family);
        self.attempt(what)?;
        if matches!(rule.action, RuleAction::Goto(target) if target <= rule.priority) {
            return Err(refused(what(), libc::EINVAL));
        }
        let after = |other: &Rule| (other.family, other.priority) <= (rule.family, rule.priority);
        let place = self.host.rules.iter().rposition(after).map_or(0, |index| index + 1);
        self.host.rules.insert(place, rule.clone());
        self.log.push(Change::AddRule(rule.clone()));
        self.remember();
        Ok(())
    }

    fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        let what = || format!("delete rule: {} {rule}", rule.family);
        self.attempt(what)?;
        let found = self.host.rules.iter().position(|other| taken_for(rule, other));
        let found = found.ok_or_else(|| refused(what(), libc::ENOENT))?;
        let gone = self.host.rules.remove(found);
        self.log.push(Change::DeleteRule(gone));
        self.remember();
        Ok(())
    }

    fn add_route(&mut self, route: &Route) -> Result<()> {
        let what = || format!("add route: {} {}", route.family, route.dst);
        self.attempt(what)?;
        let route = as_stored(route);
        self.check_nexthops(&route).map_err(|errno| refused(what(), errno))?;
        if self.host.routes.iter().any(|other| other.same_slot(&route)) {
            return Err(refused(what(), libc::EEXIST));
        }
        self.host.routes.push(route.clone());
        self.log.push(Change::AddRoute(route));
        Ok(())
    }

    fn delete_route(&mut self, route: &Route) -> Result<()> {
        let what = || format!("delete route: {} {}", route.family, route.dst);
        self.attempt(what)?;
        let route = as_stored(route);
        let same = |other: &Route| {
            other.same_slot(&route)
                && other.kind == route.kind
                && other.protocol == route.protocol
                && hops(other) == hops(&route)
        };
        let found = self.host.routes.iter().position(same).ok_or_else(|| refused(what(), libc::ESRCH))?;
        let gone = self.host.routes.remove(found);
        self.log.push(Change::DeleteRoute(gone));
        Ok(())
    }

    fn mark_chain(&mut self) -> Result<Option<u64>> {
        Ok(self.marks.as_ref().map(|(_, digest)| *digest))
    }

    fn marks_are_anothers(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn set_uses(&mut self) -> Result<BTreeMap<u32, String>> {
        Ok(BTreeMap::new())
    }

    fn set_mark_chain(&mut self, marks: &[MarkRule], digest: u64) -> Result<()> {
        self.attempt(|| "replace the mark chain".to_owned())?;
        self.marks = (!marks.is_empty()).then(|| (marks.to_vec(), digest));
        self.log.push(Change::SetMarks(digest));
        Ok(())
    }

    fn route_get(&mut self, query: &RouteQuery) -> Result<RouteAnswer> {
        let mut known = (0..self.answers.len()).filter(|at| self.answers[*at].0 == *query);
        let (first, another) = (known.next(), known.next().is_some());
        match first {
            Some(at) if another => Ok(self.answers.remove(at).1),
            Some(at) => Ok(self.answers[at].1.clone()),
            None => Err(refused("look a route up", libc::EOPNOTSUPP)),
        }
    }

    fn use_neighbour(&mut self, index: u32, addr: IpAddr) -> Result<()> {
        let known = self.host.neighbours.iter().any(|entry| entry.index == index && entry.addr == addr);
        if known { Ok(()) } else { Err(refused(format!("use neighbour {addr}"), libc::ENOENT)) }
    }
}

/// What tells the next hops of two routes apart when one of them is to be deleted: not their state.
fn hops(route: &Route) -> Vec<(Option<IpAddr>, u32, u16)> {
    let mut hops: Vec<_> = route.nexthops.iter().map(|hop| (hop.via, hop.dev, hop.weight)).collect();
    hops.sort_unstable();
    hops
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rule(priority: u32, iif: Option<&str>, not: bool) -> Rule {
        let mut rule = Rule::lookup(Family::Ipv4, priority, 111);
        rule.selectors.iif = iif.map(str::to_owned);
        rule.selectors.not = not;
        rule
    }

    fn own(kernel: &FakeKernel) -> Vec<Rule> {
        kernel.host.rules.iter().filter(|rule| rule.protocol == crate::model::OWN_PROTOCOL).cloned().collect()
    }

    #[test]
    fn equal_priorities_keep_the_order_of_adding() {
        let mut kernel = FakeKernel::new();
        let (a, b, c) = (rule(10, Some("a"), false), rule(10, Some("b"), false), rule(9, None, false));
        for rule in [&a, &b, &c] {
            kernel.add_rule(rule).unwrap();
        }
        assert_eq!(own(&kernel), [c, a, b]);
        assert_eq!(kernel.host.rules[0].priority, 0, "the kernel's own come where they were");
    }

    #[test]
    fn a_deletion_hits_the_first_that_it_covers() {
        let mut kernel = FakeKernel::new();
        let (narrow, twin, wide) = (rule(10, Some("a"), false), rule(10, Some("a"), true), rule(10, None, false));
        for rule in [&narrow, &twin, &wide] {
            kernel.add_rule(rule).unwrap();
        }
        kernel.delete_rule(&wide).unwrap();
        assert_eq!(own(&kernel), [twin.clone(), wide.clone()], "a selector left out covers every value");
        kernel.delete_rule(&narrow).unwrap();
        assert_eq!(own(&kernel), [wide], "`not` is not compared");
        assert_eq!(kernel.delete_rule(&narrow).unwrap_err().errno(), libc::ENOENT);
    }

    #[test]
    fn ordered_failures_come_once() {
        let mut kernel = FakeKernel::new();
        kernel.fail_change(2, libc::ENOBUFS);
        kernel.add_rule(&rule(1, None, false)).unwrap();
        assert_eq!(kernel.add_rule(&rule(2, None, false)).unwrap_err().errno(), libc::ENOBUFS);
        kernel.add_rule(&rule(2, None, false)).unwrap();
        assert_eq!(own(&kernel).len(), 2);
    }
}
