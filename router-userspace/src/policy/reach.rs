//! Rules that no packet can reach, and rules that are there twice. Warnings only, and only where it is certain from the file
//! alone.

use super::cursor::Findings;
use super::rules::Statement;
use super::{LoweredRule, Policy};
use crate::model::{Family, Ports, RouteKind, Rule, RuleAction, Selectors};
use ipnet::IpNet;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// How many kinds of ending rules are told apart; a file with more has some of its unreachable rules unnoticed.
const SHAPES: usize = 64;

/// Warns of unreachable and of equal rules. `sources` has the index of the statement of each rule.
pub(super) fn warn(findings: &mut Findings<'_>, policy: &Policy, statements: &[Statement], sources: &[usize]) {
    let mut verdicts: Vec<Option<Found>> = vec![None; statements.len()];
    for family in Family::BOTH {
        let own = |rule: &Rule, index: usize| {
            // The landing that Wayfork adds behind a `not` with a list is no rule of the file.
            statements[index].priority.as_ref().is_some_and(|(priority, _)| *priority == rule.priority)
        };
        let rules: Vec<(Judged<'_>, usize)> = policy
            .rules
            .iter()
            .zip(sources)
            .map(|(lowered, index)| (with_sets(lowered), *index))
            .filter(|(rule, index)| rule.family == family && own(rule, *index))
            .collect();
        for (index, found) in walk(policy, family, &rules) {
            let verdict = &mut verdicts[index];
            // A statement is reported only where all of its rules, in both families, share the fate.
            *verdict = match (*verdict, found) {
                (None, found) => Some(found),
                (Some(Found::Live), _) | (_, Found::Live) => Some(Found::Live),
                (Some(Found::Behind(a, b)), Found::Behind(c, d)) => Some(Found::Behind(a.min(c), b.max(d))),
                (Some(Found::Twice(a)), Found::Twice(b)) => Some(Found::Twice(a.min(b))),
                _ => Some(Found::Live),
            };
        }
    }
    for (statement, verdict) in statements.iter().zip(&verdicts) {
        let line = |index: usize| {
            let other = &statements[index];
            let name = other.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            format!("line {}{name}", findings.text.place(other.span.start).0)
        };
        let span = statement.priority.as_ref().map_or(statement.span.clone(), |(_, span)| span.clone());
        match verdict {
            Some(Found::Behind(first, last)) => {
                let who = match first == last {
                    true => format!("the rule on {} takes them all", line(*first)),
                    false => format!("the rules on {} and {} take them all", line(*first), line(*last)),
                };
                let message = format!("no packet reaches this rule: {who}");
                findings.warn(span, message, "give it a lower priority than theirs, or take it away");
            }
            Some(Found::Twice(other)) => {
                let message = format!("this rule is the same as the one on {}", line(*other));
                findings.warn(span, message, "take one away");
            }
            _ => {}
        }
    }
}

/// A rule of the list, or one made for the purpose. A `Cow` would take as much room for each as a rule does.
enum Judged<'a> {
    Listed(&'a Rule),
    Made(Box<Rule>),
}

impl Deref for Judged<'_> {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        match self {
            Judged::Listed(rule) => rule,
            Judged::Made(rule) => rule,
        }
    }
}

/// The rule with its sets among its selectors, as what nothing is known about.
fn with_sets(lowered: &LoweredRule) -> Judged<'_> {
    if lowered.from_set.is_none() && lowered.to_set.is_none() {
        return Judged::Listed(&lowered.rule);
    }
    let mut rule = lowered.rule.clone();
    for (side, set) in [("from", &lowered.from_set), ("to", &lowered.to_set)] {
        rule.selectors.unknown.extend(set.iter().map(|set| format!("{side} @{set}")));
    }
    Judged::Made(Box::new(rule))
}

/// What is found of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Packets may reach it, and it is the first of its kind.
    Live,
    /// The statements of these indexes, and maybe some between, take all of its packets.
    Behind(usize, usize),
    /// The statement of this index has the same rule.
    Twice(usize),
}

/// A rule after which no packet that it matches goes on, up to a priority.
#[derive(Clone, Copy)]
struct Ender {
    /// Its own priority.
    priority: u32,
    /// The first priority at which its packets go on; None is nowhere.
    until: Option<u32>,
    statement: usize,
}

/// A rule wherever it stands.
struct Anywhere<'a>(&'a Rule);

impl Anywhere<'_> {
    fn parts(&self) -> impl PartialEq + Hash + '_ {
        let Rule { family, priority: _, selectors, action, realms, protocol, attached, .. } = self.0;
        let suppresses = (self.0.suppress_prefixlength, self.0.suppress_ifgroup);
        (family, selectors, action, suppresses, realms, protocol, attached)
    }
}

impl Hash for Anywhere<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for Anywhere<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Anywhere<'_> {}

/// Judges every rule of one family, each with the index of its statement.
fn walk(policy: &Policy, family: Family, rules: &[(Judged<'_>, usize)]) -> Vec<(usize, Found)> {
    let ending = ending_tables(policy, family);
    // Targets that certainly exist. That Wayfork's own landings are left out here only leaves a warning out.
    let priorities: HashSet<u32> = rules.iter().map(|(rule, _)| rule.priority).collect();
    let mut landings: Vec<u32> = rules
        .iter()
        .filter_map(|(rule, _)| match rule.action {
            RuleAction::Goto(target) => Some(target),
            _ => None,
        })
        .collect();
    landings.sort_unstable();
    let mut enders: HashMap<Shape, HashMap<Cow<'_, Selectors>, Ender>> = HashMap::new();
    let mut first: HashMap<Anywhere<'_>, usize> = HashMap::new();
    let mut found = Vec::with_capacity(rules.len());
    for (rule, statement) in rules {
        // A target behind the ending rule lets packets jump over it.
        let jumped = |ender: &Ender| {
            let after = landings.partition_point(|landing| *landing <= ender.priority);
            landings.get(after).is_some_and(|landing| *landing <= rule.priority)
        };
        let behind = enders.iter().find_map(|(shape, by_selectors)| {
            let ender = by_selectors.get(&shape.project(&rule.selectors)?)?;
            let covers = ender.until.is_none_or(|until| rule.priority < until) && ender.statement != *statement;
            (covers && !jumped(ender)).then_some(ender.statement)
        });
        let twin = first.get(&Anywhere(rule)).filter(|twin| **twin != *statement);
        // Each `nop` is a landing of its own.
        let twin = twin.filter(|_| rule.action != RuleAction::Nop);
        found.push((
            *statement,
            match (behind, twin) {
                (Some(ender), _) => Found::Behind(ender, ender),
                (None, Some(twin)) => Found::Twice(*twin),
                (None, None) => Found::Live,
            },
        ));
        first.entry(Anywhere(rule)).or_insert(*statement);
        let until = match rule.action {
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => None,
            RuleAction::Table(table)
                if ending.contains(&table)
                    && rule.suppress_prefixlength.is_none()
                    && rule.suppress_ifgroup.is_none()
                    && !rule.selectors.l3mdev =>
            {
                None
            }
            // One without its target goes on with the next rule.
            RuleAction::Goto(target) if priorities.contains(&target) => Some(target),
            _ => continue,
        };
        let shape = Shape::of(&rule.selectors);
        if enders.len() < SHAPES || enders.contains_key(&shape) {
            let other = shape.project(&rule.selectors).filter(|projected| *projected != rule.selectors);
            let key = other.map_or(Cow::Borrowed(&rule.selectors), Cow::Owned);
            let ender = Ender { priority: rule.priority, until, statement: *statement };
            enders.entry(shape).or_default().entry(key).or_insert(ender);
        }
    }
    found
}

/// The tables whose look-up always ends the walk: strict ones, and those with a default route of the file that cannot go
/// away with an interface; none that the file gives a `throw` route.
fn ending_tables(policy: &Policy, family: Family) -> HashSet<u32> {
    let of_family = || policy.routes.iter().filter(|route| route.family == family);
    let mut ending: HashSet<u32> = policy.strict_tables().into_iter().collect();
    for route in of_family() {
        let stays = matches!(route.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit);
        if stays && route.to == family.default_prefix() {
            ending.insert(route.table);
        }
    }
    for route in of_family().filter(|route| route.kind == RouteKind::Throw) {
        ending.remove(&route.table);
    }
    ending
}

/// Which selectors a rule has, and how wide: all rules of a shape can be found by one look-up for those that cover a
/// given narrower one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shape {
    /// Covers what has these selectors and maybe more.
    Plain {
        iif: bool,
        oif: bool,
        fwmark: Option<u32>,
        from: Option<u8>,
        to: Option<u8>,
        tos: bool,
        dscp: Option<u8>,
        ipproto: bool,
        sport: Option<Ports>,
        dport: Option<Ports>,
        flowlabel: Option<u32>,
        uidrange: Option<(u32, u32)>,
    },
    /// Covers only exactly the same selectors: `not`, and what is seldom.
    Exact,
}

impl Shape {
    fn of(selectors: &Selectors) -> Shape {
        if selectors.not || selectors.l3mdev || selectors.tun_id.is_some() || !selectors.unknown.is_empty() {
            return Shape::Exact;
        }
        Shape::Plain {
            iif: selectors.iif.is_some(),
            oif: selectors.oif.is_some(),
            fwmark: selectors.fwmark.map(|(_, mask)| mask),
            from: selectors.from.map(|net| net.prefix_len()),
            to: selectors.to.map(|net| net.prefix_len()),
            tos: selectors.tos != 0,
            dscp: selectors.dscp.map(|(_, mask)| mask),
            ipproto: selectors.ipproto.is_some(),
            sport: selectors.sport,
            dport: selectors.dport,
            flowlabel: selectors.flowlabel.map(|(_, mask)| mask),
            uidrange: selectors.uidrange,
        }
    }

    /// The rule of this shape that covers all packets of `selectors`, if there is one; None where none can.
    fn project(&self, selectors: &Selectors) -> Option<Selectors> {
        let Shape::Plain { iif, oif, fwmark, from, to, tos, dscp, ipproto, sport, dport, flowlabel, uidrange } = self
        else {
            return Some(selectors.clone());
        };
        if selectors.not {
            // Matches more than its selectors say: only a rule without any covers it.
            return (*self == Shape::of(&Selectors::default())).then(Selectors::default);
        }
        let within = |wide: &Option<Ports>, narrow: Option<Ports>| match (wide, narrow) {
            (None, _) => Some(None),
            (Some(wide), Some(narrow)) if holds(*wide, narrow) => Some(Some(*wide)),
            _ => None,
        };
        let uids = match (uidrange, selectors.uidrange) {
            (None, _) => None,
            (Some(wide), Some(narrow)) if wide.0 <= narrow.0 && narrow.1 <= wide.1 => Some(*wide),
            _ => return None,
        };
        Some(Selectors {
            iif: if *iif { Some(selectors.iif.clone()?) } else { None },
            oif: if *oif { Some(selectors.oif.clone()?) } else { None },
            fwmark: match fwmark {
                None => None,
                Some(mask) => {
                    let (value, narrow) = selectors.fwmark?;
                    // Bits outside of a mask are not compared, so they are no difference.
                    if narrow & mask == *mask { Some((value & mask, *mask)) } else { return None }
                }
            },
            from: shorten(*from, selectors.from)?,
            to: shorten(*to, selectors.to)?,
            tos: match (tos, selectors.tos) {
                (false, _) => 0,
                (true, 0) => return None,
                (true, tos) => tos,
            },
            dscp: match dscp {
                None => None,
                Some(mask) => {
                    let (value, narrow) = selectors.dscp?;
                    if narrow & mask == *mask { Some((value & mask, *mask)) } else { return None }
                }
            },
            ipproto: if *ipproto { Some(selectors.ipproto?) } else { None },
            sport: within(sport, selectors.sport)?,
            dport: within(dport, selectors.dport)?,
            flowlabel: match flowlabel {
                None => None,
                Some(mask) => {
                    let (value, narrow) = selectors.flowlabel?;
                    if narrow & mask == *mask { Some((value & mask, *mask)) } else { return None }
                }
            },
            uidrange: uids,
            ..Selectors::default()
        })
    }
}

/// Whether all of some ports are among others.
fn holds(wide: Ports, narrow: Ports) -> bool {
    match (wide, narrow) {
        (Ports::Range { start, end }, Ports::Range { start: first, end: last }) => start <= first && last <= end,
        (Ports::Masked { .. }, Ports::Range { start, end }) => start == end && wide.contains(start),
        (Ports::Masked { mask, .. }, Ports::Masked { value, mask: narrow }) => {
            narrow & mask == mask && wide.contains(value)
        }
        (Ports::Range { .. }, Ports::Masked { .. }) => false,
    }
}

/// The prefix of that length that holds `net`: Some(None) for "no such selector", None where `net` is wider.
fn shorten(len: Option<u8>, net: Option<IpNet>) -> Option<Option<IpNet>> {
    let Some(len) = len else { return Some(None) };
    let net = net.filter(|net| net.prefix_len() >= len)?;
    Some(Some(IpNet::new(net.addr(), len).ok()?.trunc()))
}
