//! What the kernel is to hold for a policy on a host.

use super::diff::mark_digest;
use super::resolve::{Resolver, Waiting};
use super::routes::{BySlot, Slot, same_route, slot};
use super::skips::{self, Shape};
use super::spread::spread;
use super::text::Words;
use crate::model::{Family, Host, MarkRule, OWN_PROTOCOL, Route, RouteKind, Rule, protocol_name};
use crate::policy::Policy;
use crate::safety::{Judgement, as_class_rule, class_rule};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Who asked for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file, here.
    File {
        /// The rule's name.
        name: Option<String>,
        /// `policy.toml:12`.
        at: String,
    },
    /// The last resort of a strict table, which the file declares here.
    Strict {
        /// `policy.toml:12`.
        at: String,
    },
    /// The fast path's action `mark`: packets that carry this class are looked up in its table at once.
    MarkClass,
    /// Nobody: it only spares packets the way past rules that do not match them ([`Rule::is_skip`] and what these lead to).
    Scaffold,
}

impl Origin {
    /// Where the file says so.
    pub fn at(&self) -> Option<&str> {
        match self {
            Origin::File { at, .. } | Origin::Strict { at } => Some(at),
            Origin::MarkClass | Origin::Scaffold => None,
        }
    }

    /// The name that the file gives it, else what it is for where that does not show.
    pub fn name(&self) -> Option<&str> {
        match self {
            Origin::File { name, .. } => name.as_deref(),
            Origin::Strict { .. } => Some("strict"),
            Origin::MarkClass => Some("fast path's marks"),
            Origin::Scaffold => Some("spares a walk"),
        }
    }
}

/// Something the kernel is to hold, and who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<T> {
    /// What.
    pub item: T,
    /// Who.
    pub origin: Origin,
}

/// The values of the mark that the fast path writes, and the tables that they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkClasses {
    /// The bits that are Wayfork's.
    pub bits: u32,
    /// By table: a value within `bits`, never 0.
    pub tables: BTreeMap<u32, u32>,
}

impl From<&Judgement> for MarkClasses {
    fn from(judgement: &Judgement) -> Self {
        match judgement.mark_bits {
            Some(bits) => MarkClasses { bits, tables: judgement.mark_classes.clone() },
            None => MarkClasses::default(),
        }
    }
}

/// Something that cannot be installed: a route or marks whose place is taken (the kernel keeps one route for each prefix and
/// metric of a table, and one nftables table of a name), or a rule that this kernel would take for another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} ({at}): {why}; {mend}")]
pub struct Conflict {
    /// The route or rule of the file, or `[[mark]]`.
    pub wanted: String,
    /// Where it is.
    pub at: String,
    /// What stands against it.
    pub why: String,
    /// What can be done.
    pub mend: String,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Conflicts(pub Vec<Conflict>);

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, conflict) in self.0.iter().enumerate() {
            write!(f, "{}{conflict}", if index > 0 { "\n" } else { "" })?
        }
        Ok(())
    }
}

/// What the kernel is to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Rules in the kernel's order, IPv4 first; without those that another owner has.
    pub rules: Vec<Wanted<Rule>>,
    /// Routes, without those that another owner has and those that wait.
    pub routes: Vec<Wanted<Route>>,
    /// The alternatives of all `[[mark]]`, in order.
    pub marks: Vec<MarkRule>,
    /// Where each of them is in the file.
    pub marks_at: Vec<String>,
    /// What tells these marks from others.
    pub digest: u64,
    /// What cannot be installed yet.
    pub waiting: Vec<Waiting>,
    /// Rules of the file that another owner has already, with its protocol number.
    pub left_rules: Vec<(Wanted<Rule>, u8)>,
    /// Routes of the file that another owner has already, with its protocol number.
    pub left_routes: Vec<(Wanted<Route>, u8)>,
    /// What cannot be installed at all.
    pub conflicts: Vec<Conflict>,
}

impl Desired {
    /// Notes whether the name of the nftables table is another program's ([`crate::kernel::Kernel::marks_are_anothers`]):
    /// then there is no place for marks.
    #[must_use]
    pub fn with_marks_taken(mut self, taken: bool) -> Self {
        if let (true, Some(at)) = (taken, self.marks_at.first()) {
            self.conflicts.push(Conflict {
                wanted: "[[mark]]".to_owned(),
                at: at.clone(),
                why: "the nftables table inet wayfork is another program's".to_owned(),
                mend: crate::kernel::NAME_TAKEN.to_owned(),
            });
        }
        self
    }

    /// Refuses where something cannot be installed.
    pub fn check(&self) -> Result<(), Conflicts> {
        if self.conflicts.is_empty() { Ok(()) } else { Err(Conflicts(self.conflicts.clone())) }
    }
}

/// What the kernel is to hold for `policy` on `host`, with an early rule in both families for each of `classes`.
pub fn desired(policy: &Policy, host: &Host, classes: &MarkClasses) -> Desired {
    desired_within(policy, host, classes, &Shape::default())
}

pub(super) fn desired_within(policy: &Policy, host: &Host, classes: &MarkClasses, shape: &Shape) -> Desired {
    let mut desired = Desired {
        marks: policy.mark_rules(),
        marks_at: policy.marks.iter().map(|mark| mark.at.clone()).collect(),
        ..Desired::default()
    };
    desired.digest = mark_digest(&desired.marks);
    for wanted in policy.set_uses().iter().filter(|used| !policy.set_bits.contains_key(used)) {
        desired.conflicts.push(Conflict {
            wanted: format!("{} @{}", wanted.side.name(), wanted.set),
            at: policy.rules.first().map(|lowered| lowered.at.clone()).unwrap_or_default(),
            why: "no bit of the mark was chosen for it".to_owned(),
            mend: "this is a fault of Wayfork".to_owned(),
        });
    }
    want_rules(policy, host, classes, &mut desired);
    spread(&mut desired.rules, host, shape);
    shorten(&mut desired.rules, host, shape);
    want_routes(policy, host, &mut desired);
    desired
}

fn want_rules(policy: &Policy, host: &Host, classes: &MarkClasses, desired: &mut Desired) {
    let ownerless = |rule: &Rule| Rule { protocol: 0, ..rule.clone() };
    let foreign = host.rules.iter().filter(|rule| rule.protocol != OWN_PROTOCOL);
    let foreign: HashMap<Rule, u8> = foreign.map(|rule| (ownerless(rule), rule.protocol)).collect();
    let own_names = host.own_names();
    let mut seen = HashSet::new();
    let early = classes
        .tables
        .iter()
        .flat_map(|(table, class)| Family::BOTH.map(|family| class_rule(family, *class, classes.bits, *table)));
    let early = early.map(|item| Wanted { item, origin: Origin::MarkClass });
    let filed = policy.rules.iter().map(|lowered| Wanted {
        item: as_kept(&lowered.rule).by_own_names(&own_names),
        origin: Origin::File { name: lowered.name.clone(), at: lowered.at.clone() },
    });
    for wanted in early.chain(filed) {
        if let Some(feature) = host.lacks.iter().find(|feature| wanted.item.needs(**feature)) {
            desired.conflicts.push(Conflict {
                wanted: format!("{} {}", wanted.item.family, wanted.item),
                at: wanted.origin.at().unwrap_or_default().to_owned(),
                why: format!("this kernel takes no notice of {} in a rule", feature.name()),
                mend: format!("Linux {} and later do; take the rule out", feature.since()),
            });
            continue;
        }
        let key = ownerless(&wanted.item);
        match foreign.get(&key) {
            Some(owner) => desired.left_rules.push((wanted, *owner)),
            // A second equal rule can only say again what the first said.
            None if !seen.insert(key) => {}
            None => desired.rules.push(wanted),
        }
    }
    desired.rules.sort_by_key(|wanted| (wanted.item.family, wanted.item.priority));
}

/// Puts jumps before the rules that they spare packets; `rules` are in the kernel's order.
pub(super) fn shorten(rules: &mut Vec<Wanted<Rule>>, host: &Host, shape: &Shape) {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let own: Vec<&Rule> = rules.iter().map(|wanted| &wanted.item).filter(|rule| rule.family == family).collect();
        let others: Vec<&Rule> = host.rules_of(family).filter(|rule| rule.protocol != OWN_PROTOCOL).collect();
        let foreign = others.iter().map(|rule| rule.priority).collect();
        let targets = skips::targets(own.iter().chain(&others).copied(), family);
        all.extend(skips::past_classes(&own, &foreign, &targets));
        all.extend(skips::skips(&own, &foreign, &targets, shape));
    }
    let made = all.into_iter().map(|item| Wanted { item, origin: Origin::Scaffold });
    // Stable: before the rules of their priority.
    rules.splice(0..0, made);
    rules.sort_by_key(|wanted| (wanted.item.family, wanted.item.priority));
}

/// The rule as the kernel will show it: what selects nothing is not there.
fn as_kept(rule: &Rule) -> Rule {
    let mut kept = rule.clone();
    let selectors = &mut kept.selectors;
    for net in [&mut selectors.from, &mut selectors.to] {
        *net = net.filter(|net| net.prefix_len() > 0);
    }
    selectors.fwmark = selectors.fwmark.filter(|mark| *mark != (0, 0));
    selectors.ipproto = selectors.ipproto.filter(|number| *number != 0);
    kept.protocol = OWN_PROTOCOL;
    kept
}

fn want_routes(policy: &Policy, host: &Host, desired: &mut Desired) {
    let words = Words { host, policy };
    let mut wanted: Vec<Wanted<Route>> = Vec::new();
    for (route, resolved) in policy.routes.iter().zip(Resolver::new(host, &words).all(&policy.routes)) {
        desired.waiting.extend(resolved.waiting);
        let origin = Origin::File { name: None, at: route.at.clone() };
        wanted.extend(resolved.route.map(|item| Wanted { item, origin }));
    }
    for table in policy.tables.values().filter(|table| table.strict) {
        let origin = Origin::Strict { at: table.at.clone() };
        wanted
            .extend(Family::BOTH.map(|family| Wanted { item: last_resort(family, table.id), origin: origin.clone() }));
    }
    let foreign: BySlot<'_> = host.routes.iter().filter(|route| route.protocol != OWN_PROTOCOL).collect();
    // Where each place in `desired.routes` is.
    let mut places: HashMap<Slot, usize> = HashMap::new();
    for wanted in wanted {
        let route = &wanted.item;
        let mut conflict = |why: String| {
            let at = wanted.origin.at().unwrap_or_default().to_owned();
            let mend = "give the route another metric".to_owned();
            desired.conflicts.push(Conflict { wanted: words.route(route), at, why, mend });
        };
        if let Some(earlier) = places.get(&slot(route)).and_then(|place| desired.routes.get(*place)) {
            if !same_route(&earlier.item, route) {
                let at = earlier.origin.at().unwrap_or_default();
                conflict(format!("its place is that of {} ({at})", words.route(&earlier.item)));
            }
            continue;
        }
        let holders = foreign.at(route);
        match (holders.iter().find(|other| same_route(other, route)), holders.first()) {
            (Some(same), _) => desired.left_routes.push((wanted.clone(), same.protocol)),
            (None, Some(holder)) => {
                let owner = protocol_name(holder.protocol);
                conflict(format!("its place is taken by {} (owner: {owner})", words.route(holder)));
            }
            (None, None) => {
                places.insert(slot(route), desired.routes.len());
                desired.routes.push(wanted);
            }
        }
    }
}

/// What a strict table says where it has no route: no look-up goes on to the next rule.
fn last_resort(family: Family, table: u32) -> Route {
    Route {
        metric: u32::MAX,
        protocol: OWN_PROTOCOL,
        ..Route::to(table, family.default_prefix(), RouteKind::Unreachable)
    }
}

/// The host as it would be with `desired` installed: what the guard judges and the fast path is compiled from. Early rules for
/// classes that are there stay, since the guard prefers those that are in force.
pub fn after(desired: &Desired, host: &Host) -> Host {
    let mut after = host.clone();
    after.rules.retain(|rule| rule.protocol != OWN_PROTOCOL || as_class_rule(rule).is_some());
    let held: HashSet<Rule> = after.rules.iter().cloned().collect();
    after.rules.extend(desired.rules.iter().map(|wanted| wanted.item.clone()).filter(|rule| !held.contains(rule)));
    // Stable: behind those of equal priority, as the kernel puts them.
    after.rules.sort_by_key(|rule| (rule.family, rule.priority));
    after.routes.retain(|route| route.protocol != OWN_PROTOCOL);
    after.routes.extend(desired.routes.iter().map(|wanted| wanted.item.clone()));
    after
}
