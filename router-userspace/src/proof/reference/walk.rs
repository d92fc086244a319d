//! The walk of the rules: `fib_rules_lookup` (net/core/fib_rules.c) with `fib4_rule_action`, `fib6_rule_action` and their
//! `suppress`.

use super::Flow;
use super::rules::{Match, Names, WhyNot, matches};
use super::table::{Answer, Fib};
use crate::model::{Family, Host, Route, RouteKind, Rule, RuleAction, TABLE_LOCAL, TABLE_MAIN};
use router_common::verdict::Verdict;
use std::collections::HashMap;

/// One rule tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index in `Host::rules`.
    pub rule: usize,
    /// None where it matched.
    pub why_not: Option<WhyNot>,
    /// What came of it where it matched.
    pub outcome: Option<Outcome>,
}

/// What came of a rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The table gave a route (its index in `Host::routes`): the walk ends.
    Route(usize),
    /// The table has no route for it, or there is no such table: on with the next rule.
    NoRoute,
    /// A `throw` route: on with the next rule.
    Throw(usize),
    /// The route is too short a prefix, or of the wrong interface group: on with the next rule.
    Suppressed(usize),
    /// A route that says blackhole, unreachable or prohibit: the walk ends.
    Refused(usize),
    /// On at the first rule of this priority.
    Goto(u32),
    /// There is no rule of that priority: on with the next rule.
    GotoUnresolved(u32),
    /// Nothing: on with the next rule.
    Nop,
    /// The rule's own blackhole, unreachable or prohibit: the walk ends.
    Action(Verdict),
    /// Something that cannot be known here: the walk ends undecided.
    Unknown(String),
}

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With this route; the next hops are those that the kernel may choose.
    Route {
        /// Index in `Host::rules`; None where IPv4 asked no rule.
        rule: Option<usize>,
        /// Index in `Host::routes`.
        route: usize,
        /// Indexes of next hops.
        hops: Vec<usize>,
    },
    /// With a verdict that is an error, by a rule or a route.
    Refused {
        /// Index in `Host::rules`; None where IPv4 asked no rule.
        rule: Option<usize>,
        /// The verdict.
        verdict: Verdict,
        /// Index in `Host::routes` where it was a route's.
        route: Option<usize>,
    },
    /// Past the last rule.
    Nothing,
    /// Undecided, for this reason.
    Unknown(String),
}

/// The rules and tables of a host.
pub struct Walker<'a> {
    pub(super) host: &'a Host,
    pub(super) fib: Fib<'a>,
    lists: [Vec<usize>; 2],
    /// Where the first rule of each priority stands in its list.
    firsts: [HashMap<u32, usize>; 2],
    names: Names<'a>,
}

impl<'a> Walker<'a> {
    /// Arranges a host's rules and routes.
    pub fn new(host: &'a Host) -> Self {
        let list = |family| (0..host.rules.len()).filter(|index| host.rules[*index].family == family).collect();
        let names = host.links.values().map(|link| (link.name.as_str(), link.index)).collect();
        let lists: [Vec<usize>; 2] = [list(Family::Ipv4), list(Family::Ipv6)];
        let firsts = [0, 1].map(|family: usize| {
            let mut firsts = HashMap::new();
            for (at, rule) in lists[family].iter().enumerate() {
                firsts.entry(host.rules[*rule].priority).or_insert(at);
            }
            firsts
        });
        Walker { host, fib: Fib::new(host), lists, firsts, names }
    }

    /// The rules of a family, as indexes, in order.
    pub(super) fn list(&self, family: Family) -> &[usize] {
        match family {
            Family::Ipv4 => &self.lists[0],
            Family::Ipv6 => &self.lists[1],
        }
    }

    /// Where the first rule of a priority stands in the list of a family.
    fn first(&self, family: Family, priority: u32) -> Option<usize> {
        match family {
            Family::Ipv4 => self.firsts[0].get(&priority).copied(),
            Family::Ipv6 => self.firsts[1].get(&priority).copied(),
        }
    }

    /// Walks the list. More than one end: the kernel chooses among next hops, and the choice matters to `suppress_ifgroup`.
    /// The trail is that of the first end.
    pub(super) fn walk(&self, flow: &Flow, trail: &mut Vec<Step>) -> Vec<End> {
        let mut ends = Vec::new();
        self.walk_from(0, flow, Some(trail), &mut ends);
        ends
    }

    fn walk_from(&self, start: usize, flow: &Flow, mut trail: Option<&mut Vec<Step>>, ends: &mut Vec<End>) {
        let list = self.list(Family::of(flow.daddr));
        let mut position = start;
        while let Some(index) = list.get(position).copied() {
            let rule = &self.host.rules[index];
            let mut note = |why_not, outcome| {
                if let Some(trail) = trail.as_deref_mut() {
                    trail.push(Step { rule: index, why_not, outcome });
                }
            };
            position += 1;
            match matches(self.host, &self.names, rule, flow) {
                Match::Yes => {}
                Match::No(why_not) => {
                    note(Some(why_not), None);
                    continue;
                }
                Match::Unknown(what) => {
                    note(None, Some(Outcome::Unknown(what.clone())));
                    return ends.push(End::Unknown(what));
                }
            }
            let table = match rule.action {
                RuleAction::Table(table) => table,
                RuleAction::Nop => {
                    note(None, Some(Outcome::Nop));
                    continue;
                }
                RuleAction::Goto(target) => {
                    // Forward only: the kernel refuses a target that is not larger than the rule's own priority.
                    match self.first(rule.family, target) {
                        Some(at) if at >= position => {
                            note(None, Some(Outcome::Goto(target)));
                            position = at;
                        }
                        _ => note(None, Some(Outcome::GotoUnresolved(target))),
                    }
                    continue;
                }
                // An action that the kernel does not know either is a blackhole (`default:` in fib4_rule_action).
                RuleAction::Blackhole | RuleAction::Unknown(_) => {
                    note(None, Some(Outcome::Action(Verdict::Blackhole)));
                    return ends.push(End::Refused { rule: Some(index), verdict: Verdict::Blackhole, route: None });
                }
                RuleAction::Unreachable => {
                    note(None, Some(Outcome::Action(Verdict::Unreachable)));
                    return ends.push(End::Refused { rule: Some(index), verdict: Verdict::Unreachable, route: None });
                }
                RuleAction::Prohibit => {
                    note(None, Some(Outcome::Action(Verdict::Prohibit)));
                    return ends.push(End::Refused { rule: Some(index), verdict: Verdict::Prohibit, route: None });
                }
            };
            match self.fib.lookup(table, flow) {
                Answer::NoRoute => note(None, Some(Outcome::NoRoute)),
                Answer::Refused(route) => match refusal(&self.host.routes[route]) {
                    None => note(None, Some(Outcome::Throw(route))),
                    Some(verdict) => {
                        note(None, Some(Outcome::Refused(route)));
                        return ends.push(End::Refused { rule: Some(index), verdict, route: Some(route) });
                    }
                },
                Answer::Unknown(_) => {
                    let what = "a route type that is not known here".to_owned();
                    note(None, Some(Outcome::Unknown(what.clone())));
                    return ends.push(End::Unknown(what));
                }
                Answer::Found { route, hops } => {
                    let (kept, suppressed) = self.suppress(rule, route, hops);
                    if kept.is_empty() {
                        note(None, Some(Outcome::Suppressed(route)));
                        continue;
                    }
                    note(None, Some(Outcome::Route(route)));
                    ends.push(End::Route { rule: Some(index), route, hops: kept });
                    // The kernel may as well have chosen a next hop that is suppressed: then it went on.
                    if !suppressed.is_empty() {
                        self.walk_from(position, flow, None, ends);
                    }
                    return;
                }
            }
        }
        ends.push(End::Nothing);
    }

    /// A route's next hops with which it may stand, and those with which the rule may suppress it.
    fn suppress(&self, rule: &Rule, index: usize, hops: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
        let route = &self.host.routes[index];
        // An IPv6 next-hop object may keep the answer, and with it the prefix length, of another route, be it gone or not
        // (`fib6_drop_pcpu_from`, net/ipv6/ip6_fib.c).
        let any_length = route.family == Family::Ipv6 && route.nhid != 0;
        let (may_stand, may_go) = match rule.suppress_prefixlength {
            None => (true, false),
            Some(_) if any_length => (true, true),
            Some(most) => (u32::from(route.dst.prefix_len()) > most, u32::from(route.dst.prefix_len()) <= most),
        };
        let short: Vec<usize> = hops.iter().copied().filter(|_| may_go).collect();
        let hops: Vec<usize> = hops.into_iter().filter(|_| may_stand).collect();
        let Some(group) = rule.suppress_ifgroup else { return (hops, short) };
        let in_group = |hop: &usize| {
            let dev = route.nexthops.get(*hop).map_or(0, |hop| hop.dev);
            self.host.links.get(&dev).is_some_and(|link| link.group == group)
        };
        let (kept, grouped): (Vec<usize>, Vec<usize>) = match rule.family {
            // IPv4 looks at the first next hop whichever is chosen (fib4_rule_suppress), IPv6 at the chosen one.
            Family::Ipv4 if in_group(&0) => (Vec::new(), hops),
            Family::Ipv4 => (hops, Vec::new()),
            Family::Ipv6 => hops.into_iter().partition(|hop| !in_group(hop)),
        };
        (kept, short.into_iter().chain(grouped).collect())
    }

    /// IPv6's way as long as no rule was ever added in the namespace: `local`, then `main` (`fib6_rule_lookup`).
    pub(super) fn lookup_without_rules6(&self, flow: &Flow) -> End {
        self.first_of([TABLE_LOCAL, TABLE_MAIN].map(|table| self.fib.lookup(table, flow)))
    }

    /// IPv4's way as long as no rule was ever added in the namespace: no rules, one trie of `local` and `main`, then
    /// `default` (`fib_lookup`, include/net/ip_fib.h).
    pub(super) fn lookup_without_rules(&self, flow: &Flow) -> End {
        let tables = [&[TABLE_LOCAL, TABLE_MAIN][..], &[crate::model::TABLE_DEFAULT]];
        self.first_of(tables.map(|tables| self.fib.lookup_merged(tables, flow)))
    }

    /// How a walk ends whose tables answered so, without a rule that could say more.
    fn first_of(&self, answers: [Answer; 2]) -> End {
        for answer in answers {
            match answer {
                Answer::NoRoute => {}
                Answer::Found { route, hops } => return End::Route { rule: None, route, hops },
                Answer::Refused(route) => {
                    if let Some(verdict) = refusal(&self.host.routes[route]) {
                        return End::Refused { rule: None, verdict, route: Some(route) };
                    }
                }
                Answer::Unknown(_) => return End::Unknown("a route type that is not known here".to_owned()),
            }
        }
        End::Nothing
    }
}

/// The verdict of a route without a next hop; None for `throw`.
fn refusal(route: &Route) -> Option<Verdict> {
    match route.kind {
        RouteKind::Blackhole => Some(Verdict::Blackhole),
        RouteKind::Unreachable => Some(Verdict::Unreachable),
        RouteKind::Prohibit => Some(Verdict::Prohibit),
        _ => None,
    }
}
