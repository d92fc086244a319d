//! What a change would do, item by item, and what on the host stands against it. Pure.

use super::desired::{Desired, Origin, Wanted};
use super::diff::{Changes, Step};
use super::routes::BySlot;
use super::text::{self, Words};
use crate::model::{Family, Host, OWN_PROTOCOL, Route, Rule, protocol_name, rule_id};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// So many rules of one priority take the kernel minutes: it walks them all to find the place of the next.
const LONG_PRIORITY: usize = 20_000;

/// What happens to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// It comes.
    Add,
    /// It goes.
    Remove,
    /// It stays as it is.
    Keep,
}

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A rule of the RPDB.
    Rule,
    /// A route.
    Route,
    /// A rule in a chain of Wayfork's nftables table.
    Chain,
    /// The TC program on an interface.
    Attachment,
}

/// One thing of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What happens to it.
    pub op: Op,
    /// What kind of thing it is.
    pub kind: Kind,
    /// Its family; None for what has both or none.
    pub family: Option<Family>,
    /// It, in the words of iproute2.
    pub text: String,
    /// The name that the file gives it, or what it is for.
    pub name: Option<String>,
    /// Where the file asks for it.
    pub at: Option<String>,
    /// What tells a rule; None for what is none.
    #[serde(flatten)]
    pub rule: Option<Told>,
}

/// What tells a rule of the RPDB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// As in `status`.
    pub rule_id: String,
    /// Its priority.
    pub priority: u32,
    /// Who has it, or is to have it, by rt_protos.
    pub owner: String,
}

impl Told {
    fn of(rule: &Rule) -> Self {
        Told { rule_id: rule_id(rule), priority: rule.priority, owner: protocol_name(rule.protocol) }
    }
}

/// What `changes` does to rules, routes and marks, and what stays: rules in the kernel's order, then routes, then marks.
pub fn items(desired: &Desired, host: &Host, changes: &Changes, words: &Words<'_>) -> Vec<Item> {
    let mut items = rule_items(desired, host, changes, words);
    items.extend(route_items(desired, host, words));
    items.extend(mark_items(desired, changes));
    items
}

fn item<T>(op: Op, kind: Kind, family: Family, text: String, wanted: Option<&Wanted<T>>) -> Item {
    let origin = wanted.map(|wanted| &wanted.origin);
    Item {
        op,
        kind,
        family: Some(family),
        text,
        name: origin.and_then(Origin::name).map(str::to_owned),
        at: origin.and_then(Origin::at).map(str::to_owned),
        rule: None,
    }
}

fn rule_item(op: Op, rule: &Rule, text: String, wanted: Option<&Wanted<Rule>>) -> Item {
    Item { rule: Some(Told::of(rule)), ..item(op, Kind::Rule, rule.family, text, wanted) }
}

/// `… (owner: dhcp)`: somebody else has it already.
fn left<T>(kind: Kind, family: Family, text: String, wanted: &Wanted<T>, owner: u8) -> Item {
    item(Op::Keep, kind, family, format!("{text} (owner: {})", protocol_name(owner)), Some(wanted))
}

fn rule_items(desired: &Desired, host: &Host, changes: &Changes, words: &Words<'_>) -> Vec<Item> {
    let held: HashSet<&Rule> = host.rules.iter().filter(|rule| rule.protocol == OWN_PROTOCOL).collect();
    let wanted: HashSet<&Rule> = desired.rules.iter().map(|wanted| &wanted.item).collect();
    let moved: HashSet<&Rule> = changes
        .steps
        .iter()
        .filter_map(|step| if let Step::AddRule(rule) = step { Some(rule) } else { None })
        .filter(|rule| held.contains(rule))
        .collect();
    let mut all: Vec<((Family, u32), Item)> = Vec::new();
    let mut scaffolds: BTreeMap<(Family, Op), usize> = BTreeMap::new();
    for rule in held.iter().filter(|rule| !wanted.contains(*rule)) {
        if rule.is_scaffold() && !rule.is_passing() {
            *scaffolds.entry((rule.family, Op::Remove)).or_default() += 1;
            continue;
        }
        let what = if rule.is_passing() { " (left by a run that was cut off)" } else { "" };
        let text = format!("{}{what}", words.rule(rule));
        all.push(((rule.family, rule.priority), rule_item(Op::Remove, rule, text, None)));
    }
    for entry in &desired.rules {
        let rule = &entry.item;
        if entry.origin == Origin::Scaffold {
            let op = if held.contains(rule) { Op::Keep } else { Op::Add };
            *scaffolds.entry((rule.family, op)).or_default() += 1;
            continue;
        }
        let text = words.rule(rule);
        let here = (rule.family, rule.priority);
        if held.contains(rule) && !moved.contains(rule) {
            all.push((here, rule_item(Op::Keep, rule, text, Some(entry))));
            continue;
        }
        if moved.contains(rule) {
            let text = format!("{text} (from its place among its priority)");
            all.push((here, rule_item(Op::Remove, rule, text, Some(entry))));
        }
        all.push((here, rule_item(Op::Add, rule, text, Some(entry))));
    }
    for (entry, owner) in &desired.left_rules {
        let rule = &entry.item;
        let told = Told::of(&Rule { protocol: *owner, ..rule.clone() });
        let item = Item { rule: Some(told), ..left(Kind::Rule, rule.family, words.rule(rule), entry, *owner) };
        all.push(((rule.family, rule.priority), item));
    }
    // Many, and no rules of the policy: one line for all of a kind, behind the rules.
    for ((family, op), count) in scaffolds {
        let text = format!(
            "{count} more that decide{} nothing: jumps over groups of rules that do not match, and where they land",
            if count == 1 { "s" } else { "" }
        );
        let name = Origin::Scaffold.name().map(str::to_owned);
        let item = Item { op, kind: Kind::Rule, family: Some(family), text, name, at: None, rule: None };
        all.push(((family, u32::MAX), item));
    }
    // The set above has no order of its own.
    all.sort_by(|(a, x), (b, y)| {
        a.cmp(b).then_with(|| (x.op == Op::Add).cmp(&(y.op == Op::Add))).then_with(|| {
            if x.op == Op::Remove && y.op == Op::Remove { x.text.cmp(&y.text) } else { std::cmp::Ordering::Equal }
        })
    });
    all.into_iter().map(|(_, item)| item).collect()
}

fn route_items(desired: &Desired, host: &Host, words: &Words<'_>) -> Vec<Item> {
    let own = || host.routes.iter().filter(|route| route.protocol == OWN_PROTOCOL);
    let held: BySlot<'_> = own().collect();
    let wanted: BySlot<'_> = desired.routes.iter().map(|wanted| &wanted.item).collect();
    let gone = own().filter(|route| !wanted.has(route));
    let mut items: Vec<Item> =
        gone.map(|route| item::<Route>(Op::Remove, Kind::Route, route.family, words.route(route), None)).collect();
    for entry in &desired.routes {
        let op = if held.has(&entry.item) { Op::Keep } else { Op::Add };
        items.push(item(op, Kind::Route, entry.item.family, words.route(&entry.item), Some(entry)));
    }
    for (entry, owner) in &desired.left_routes {
        items.push(left(Kind::Route, entry.item.family, words.route(&entry.item), entry, *owner));
    }
    items
}

fn mark_items(desired: &Desired, changes: &Changes) -> Vec<Item> {
    let set = changes.steps.iter().any(|step| matches!(step, Step::SetMarks { .. }));
    let mut items = Vec::new();
    if set && changes.before.digest.is_some() {
        let text = "table inet wayfork as it is now".to_owned();
        items.push(Item { op: Op::Remove, kind: Kind::Chain, family: None, text, name: None, at: None, rule: None });
    }
    for (mark, at) in desired.marks.iter().zip(&desired.marks_at) {
        items.push(Item {
            op: if set { Op::Add } else { Op::Keep },
            kind: Kind::Chain,
            family: Some(mark.family),
            text: format!("mark-{}: {}", mark.statement, text::mark(mark)),
            name: None,
            at: Some(at.clone()),
            rule: None,
        });
    }
    items
}

/// What on this host stands against the policy, a sentence each. What waits is told apart ([`Desired::waiting`]).
pub fn against(desired: &Desired, host: &Host, mark_bits: Option<u32>) -> Vec<String> {
    let mut all: Vec<String> = desired.conflicts.iter().map(ToString::to_string).collect();
    all.extend(missing_interfaces(desired, host));
    all.extend(forwarding(desired, host));
    all.extend(equal_priorities(desired, host));
    all.extend(long_priorities(desired));
    all.extend(mark_bits.and_then(|bits| bits_in_use(desired, host, bits)));
    all
}

/// The rules of the file, for sentences: not those that the fast path brings along.
fn of_file(desired: &Desired) -> impl Iterator<Item = &Wanted<Rule>> {
    desired.rules.iter().filter(|wanted| !matches!(wanted.origin, Origin::MarkClass | Origin::Scaffold))
}

fn place(wanted: &Wanted<Rule>) -> String {
    format!("the rule of priority {} ({})", wanted.item.priority, wanted.origin.at().unwrap_or_default())
}

fn missing_interfaces(desired: &Desired, host: &Host) -> Vec<String> {
    let mut said = BTreeSet::new();
    for wanted in of_file(desired) {
        let selectors = &wanted.item.selectors;
        let missing = |name: &&String| name.as_str() != "lo" && host.link(name).is_none();
        for name in [&selectors.iif, &selectors.oif].into_iter().flatten().filter(missing) {
            // The kernel's own reading: such a rule is detached, and `not` turns that round (fib_rule_match).
            let meets = if selectors.not { "matches every packet" } else { "matches nothing" };
            said.insert(format!("there is no interface {name}: {} {meets} until it appears", place(wanted)));
        }
    }
    said.into_iter().collect()
}

/// What does not forward, of the interfaces that the rules name, or of all where they name none.
fn forwarding(desired: &Desired, host: &Host) -> Vec<String> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let rules = || of_file(desired).filter(|wanted| wanted.item.family == family);
        let named: BTreeSet<&str> = rules().filter_map(|wanted| wanted.item.selectors.iif.as_deref()).collect();
        let concerns = |name: &str| name != "lo" && (named.is_empty() || named.contains(name));
        let links = || host.links.values().filter(|link| concerns(&link.name));
        let mut off: Vec<&str> =
            links().filter(|link| !host.forwards(link, family)).map(|link| link.name.as_str()).collect();
        if rules().next().is_none() || off.is_empty() {
            continue;
        }
        off.sort_unstable();
        let none = off.len() == links().count();
        all.push(match family {
            Family::Ipv4 if none && named.is_empty() => {
                "this host does not forward IPv4 (net.ipv4.ip_forward = 0)".to_owned()
            }
            Family::Ipv4 => {
                // One that is not meant to forward is no fault where the rules name none.
                if named.is_empty() {
                    continue;
                }
                let off = off.join(", ");
                format!("IPv4 packets from {off} are not forwarded (net.ipv4.conf.DEV.forwarding = 0)")
            }
            Family::Ipv6 if none => "this host does not forward IPv6 (net.ipv6.conf.all.forwarding = 0)".to_owned(),
            Family::Ipv6 => continue,
        });
    }
    all
}

/// Rules of others at a priority of the file: which comes first depends on who came first.
fn equal_priorities(desired: &Desired, host: &Host) -> Vec<String> {
    let own: BTreeMap<(Family, u32), &Wanted<Rule>> =
        of_file(desired).map(|wanted| ((wanted.item.family, wanted.item.priority), wanted)).collect();
    let mut said = BTreeSet::new();
    for rule in host.rules.iter().filter(|rule| rule.protocol != OWN_PROTOCOL) {
        if let Some(wanted) = own.get(&(rule.family, rule.priority)) {
            let owner = protocol_name(rule.protocol);
            said.insert(format!(
                "{} has the priority of another program's {} rule `{} {}` (owner: {owner}): whichever was added first \
                 goes first; give it another priority",
                place(wanted),
                rule.family,
                rule.selectors,
                rule.action
            ));
        }
    }
    said.into_iter().collect()
}

fn long_priorities(desired: &Desired) -> Vec<String> {
    let mut count: BTreeMap<(Family, u32), (usize, &Wanted<Rule>)> = BTreeMap::new();
    for wanted in of_file(desired) {
        count.entry((wanted.item.family, wanted.item.priority)).or_insert((0, wanted)).0 += 1;
    }
    let long = count.into_values().filter(|(count, _)| *count > LONG_PRIORITY);
    long.map(|(count, wanted)| {
        format!(
            "{} becomes {count} rules of one priority, which take the kernel minutes to add; wider prefixes, free priorities \
             behind it for a list of prefixes, or a [[mark]] and one rule, take none",
            place(wanted)
        )
    })
    .collect()
}

/// `mark_bits` of the file that somebody reads or writes.
fn bits_in_use(desired: &Desired, host: &Host, bits: u32) -> Option<String> {
    let foreign = host.rules.iter().filter(|rule| rule.protocol != OWN_PROTOCOL);
    let of_rules =
        of_file(desired).map(|wanted| &wanted.item).chain(foreign).filter_map(|rule| rule.selectors.fwmark).map(
            |(value, mask)| {
                // A whole mark is told apart by the bits that are set in it.
                if mask == u32::MAX { value } else { mask }
            },
        );
    let of_marks = desired.marks.iter().map(|mark| mark.mask);
    let used = of_rules.chain(of_marks).fold(0, |all, mask| all | mask) & bits;
    (used != 0).then(|| format!("mark_bits: {used:#x} of {bits:#x} is used by rules or by [[mark]] already"))
}
