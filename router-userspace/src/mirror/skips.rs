//! Jumps over groups of rules that cannot match, so that a packet does not walk a long list one by one.
//!
//! In front of a group of neighbours that select within one prefix stands `not from PREFIX goto NEXT`. No rule moves for it, and
//! no packet meets another rule that matches it: what is jumped over matches nothing outside the prefix, in the walk for the
//! way and in the one that IPv4 makes for the source alike. Groups are those of a binary trie over the list as it stands,
//! each as large as its size allows; so they nest, a packet walks a few at each size, and one rule that comes or goes changes the groups that it is in and no
//! others. They end where a rule of another program stands, and never reach beyond the priority after their last rule.

use super::cover::{Axis, Cover};
use crate::model::{Family, Rule, RuleAction, Selectors};
use crate::safety::{CLASS_PRIORITY, as_class_rule};
use std::collections::BTreeSet;
use std::ops::Range;

/// How long lists are cut up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Shorter lists stay as they are. A rule costs a packet about 13 ns in each of the two walks of IPv4: below this, less than
    /// the rest of its way through the stack, and nobody who reads `ip rule` has to wonder.
    pub run: usize,
    /// The most rules in a group of the innermost kind, where there are not too many rules.
    pub leaf: usize,
    /// The most among however many.
    pub largest_leaf: usize,
    /// The kernel walks the whole list for each jump that is deleted: innermost groups are larger where all of them together
    /// would pass by many more rules than this.
    pub walked: usize,
    /// A group has up to so many of the next smaller kind: twice as many would be more steps, half as many more jumps.
    pub fan: usize,
    /// So few rules cost no more than the jump over them.
    pub least: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { run: 64, leaf: 16, largest_leaf: 512, walked: 160_000_000, fan: 4, least: 4 }
    }
}

impl Shape {
    /// For a family with so many rules in all.
    pub fn among(&self, rules: usize) -> Shape {
        let mut leaf = self.leaf.max(1);
        while leaf < self.largest_leaf && rules.saturating_mul(rules) / leaf > self.walked {
            leaf *= 2;
        }
        Shape { leaf, ..*self }
    }

    /// The most rules in a group of a list of so many rules, of the innermost kind and outwards.
    fn sizes(&self, rules: usize) -> Vec<usize> {
        let leaf = self.leaf.max(1);
        std::iter::successors(Some(leaf), |size| size.checked_mul(self.fan.max(2)))
            .take_while(|size| *size == leaf || *size < rules)
            .collect()
    }
}

/// So many rules of one priority may stand behind a jump: to put one in front of them later, all are added anew.
const HOSTED: usize = 256;

/// The rules of one priority.
struct Entry<'a> {
    priority: u32,
    rules: &'a [&'a Rule],
    /// Whether another program has rules here too.
    shared: bool,
}

/// A stretch of a list that selects within one prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Of the members.
    pub members: Range<usize>,
    pub cover: Cover,
}

/// The jumps for the rules of one family that Wayfork is to hold, in the kernel's order, with a landing where one is needed.
/// `foreign` are the priorities of others' rules, `targets` what real rules of anybody jump to.
pub(super) fn skips(own: &[&Rule], foreign: &BTreeSet<u32>, targets: &BTreeSet<u32>, shape: &Shape) -> Vec<Rule> {
    let entries: Vec<Entry<'_>> = own
        .chunk_by(|a, b| a.priority == b.priority)
        .map(|rules| Entry { priority: rules[0].priority, rules, shared: foreign.contains(&rules[0].priority) })
        .collect();
    let shape = &shape.among(own.len());
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(entry) = entries.get(at) {
        let axes = Axis::of(entry.rules[0]);
        let runs = axes.into_iter().filter_map(|axis| Run::from(&entries[at..], foreign, axis, shape));
        let Some(run) = runs.max_by_key(|run| run.worth()) else {
            at += 1;
            continue;
        };
        run.write(targets, &mut all);
        at += run.entries.len();
    }
    all
}

/// Neighbours that select on one axis.
struct Run<'a> {
    entries: &'a [Entry<'a>],
    axis: Axis,
    groups: Vec<Group>,
    /// What comes after the last: a used priority or the end.
    next: Option<u32>,
}

impl<'a> Run<'a> {
    /// The run that begins with the first entry; None where it is not worth it.
    fn from(entries: &'a [Entry<'a>], foreign: &BTreeSet<u32>, axis: Axis, shape: &Shape) -> Option<Self> {
        let mut members = Vec::new();
        let mut before = None;
        for entry in entries {
            let between = before.is_some_and(|before: u32| foreign.range(before..entry.priority).next().is_some());
            let mut covers = entry.rules.iter().map(|rule| axis.cover(rule));
            let cover = covers.try_fold(None, |whole: Option<Cover>, one| {
                Some(Some(whole.map_or(one?, |whole| whole.with(one.unwrap_or(whole))))).filter(|_| one.is_some())
            });
            let (false, false, Some(Some(cover))) = (between, entry.shared, cover) else { break };
            members.push((cover, entry.rules.len()));
            before = Some(entry.priority);
        }
        let (entries, rest) = entries.split_at(members.len());
        if members.iter().map(|(_, rules)| rules).sum::<usize>() < shape.run {
            return None;
        }
        let last = entries.last()?.priority;
        let foreign = last.checked_add(1).and_then(|next| foreign.range(next..).next().copied());
        let next = rest.first().map(|entry| entry.priority).into_iter().chain(foreign).min();
        Some(Run { entries, axis, groups: groups(&members, shape), next })
    }

    /// How many rules can be jumped over, each counted in every group that it is in.
    fn worth(&self) -> usize {
        let rules = |group: &Group| self.entries[group.members.clone()].iter().map(|entry| entry.rules.len());
        self.groups.iter().flat_map(rules).sum()
    }

    /// Whether a jump can stand before the rules of a priority: in a change these are added anew behind it, in any order.
    fn hosts(entry: &Entry<'_>) -> bool {
        entry.rules.len() <= HOSTED && entry.rules.iter().all(|rule| rule.outcome() == entry.rules[0].outcome())
    }

    fn write(&self, targets: &BTreeSet<u32>, all: &mut Vec<Rule>) {
        let Some((first, last)) = self.entries.first().zip(self.entries.last()) else { return };
        let family = first.rules[0].family;
        let behind = last.priority.checked_add(1);
        // Not on to whatever is next: what somebody puts in between is not to be jumped over.
        let needs_landing = behind != self.next;
        let landing = behind.filter(|behind| !needs_landing || !targets.contains(behind));
        let mut lands = false;
        for group in &self.groups {
            let host = &self.entries[group.members.start];
            let inside = self.entries.get(group.members.end).map(|entry| entry.priority);
            let Some(target) = inside.or(landing).filter(|_| Run::hosts(host)) else { continue };
            lands |= inside.is_none();
            all.push(Rule::skip(family, host.priority, self.axis.outside(family, group.cover), target));
        }
        if let (true, true, Some(landing)) = (lands, needs_landing, landing) {
            all.push(Rule::landing(family, landing));
        }
    }
}

/// The groups of a list of members, each with its prefix and so many rules: outer ones before those within.
pub(super) fn groups(members: &[(Cover, usize)], shape: &Shape) -> Vec<Group> {
    let mut before = vec![0];
    for (_, rules) in members {
        before.push(before.last().copied().unwrap_or(0) + rules);
    }
    let sizes = shape.sizes(before.last().copied().unwrap_or(0));
    let outermost = sizes.len() + 1;
    let mut trie = Trie { members, before, sizes, least: shape.least, groups: Vec::new() };
    if let Some(whole) = trie.hull(0..members.len()) {
        trie.divide(0..members.len(), whole, outermost);
    }
    trie.groups
}

/// The most rules and jumps that a packet walks in a list of members, each with its prefix and so many rules.
pub(super) fn longest_walk(members: &[(Cover, usize)], shape: &Shape) -> usize {
    fn walk(members: &[(Cover, usize)], range: Range<usize>, groups: &[Group]) -> usize {
        let (mut steps, mut most, mut at, mut next) = (0, 0, range.start, 0);
        while at < range.end {
            match groups.get(next).filter(|group| group.members.start == at) {
                Some(Group { members: inside, .. }) => {
                    let count = groups[next + 1..].partition_point(|group| group.members.start < inside.end);
                    steps += 1;
                    most = most.max(steps + walk(members, inside.clone(), &groups[next + 1..][..count]));
                    (at, next) = (inside.end, next + 1 + count);
                }
                None => {
                    steps += members[at].1;
                    at += 1;
                }
            }
        }
        most.max(steps)
    }
    walk(members, 0..members.len(), &groups(members, shape))
}

struct Trie<'a> {
    members: &'a [(Cover, usize)],
    /// How many rules there are before each member, and in all.
    before: Vec<usize>,
    sizes: Vec<usize>,
    least: usize,
    groups: Vec<Group>,
}

impl Trie<'_> {
    fn hull(&self, range: Range<usize>) -> Option<Cover> {
        self.members[range].iter().map(|(cover, _)| *cover).reduce(Cover::with)
    }

    /// `range` lies within `cover`; the group around it is of the size `around`.
    fn divide(&mut self, range: Range<usize>, cover: Cover, around: usize) {
        let rules = self.before[range.end] - self.before[range.start];
        // Beyond the last, no group has an end.
        let size = self.sizes.iter().position(|size| rules <= *size).unwrap_or(self.sizes.len());
        // Closer than the half that the members are in: what is in the half and not among them goes past them too.
        let hull = self.hull(range.clone());
        let cover = hull.unwrap_or(cover);
        if rules >= self.least && size < around && cover.length() > 0 {
            self.groups.push(Group { members: range.clone(), cover });
        }
        let Some(hull) = hull.filter(|_| size > 0) else { return };
        let half = |member: usize| self.members[member].0.half_of(hull);
        let mut start = range.start;
        while start < range.end {
            let here = half(start);
            let end = (start..range.end).find(|member| half(*member) != here).unwrap_or(range.end);
            if let Some(cover) = here {
                self.divide(start..end, cover, size);
            }
            start = end;
        }
    }
}

/// What leads past the rules for the fast path's marks: packets without such a mark, and those made on this host, whose sockets
/// may carry it by chance. Nothing where somebody else's rules are among them.
pub(super) fn past_classes(own: &[&Rule], foreign: &BTreeSet<u32>, targets: &BTreeSet<u32>) -> Vec<Rule> {
    let (before, behind) = (CLASS_PRIORITY - 1, CLASS_PRIORITY + 1);
    let Some((bits, _, _)) = own.iter().find_map(|rule| as_class_rule(rule)) else { return Vec::new() };
    let near = own.iter().filter(|rule| (before..=behind).contains(&rule.priority));
    let used: BTreeSet<u32> = near.clone().map(|rule| rule.priority).collect();
    let mixed = near.into_iter().any(|rule| rule.priority < behind && as_class_rule(rule).is_none());
    let needs_landing = !used.contains(&behind) && !foreign.contains(&behind);
    if mixed
        || foreign.range(before..behind).next().is_some()
        || targets.range(before..behind).next().is_some()
        || needs_landing && targets.contains(&behind)
    {
        return Vec::new();
    }
    let family = own[0].family;
    let unmarked = Selectors { fwmark: Some((0, bits)), ..Selectors::default() };
    let made_here = Selectors { iif: Some("lo".to_owned()), ..Selectors::default() };
    let mut all = vec![Rule::skip(family, before, unmarked, behind), Rule::skip(family, before, made_here, behind)];
    all.extend(needs_landing.then(|| Rule::landing(family, behind)));
    all
}

/// The priorities that real rules jump to.
pub(super) fn targets<'a>(rules: impl IntoIterator<Item = &'a Rule>, family: Family) -> BTreeSet<u32> {
    let real = rules.into_iter().filter(|rule| rule.family == family && !rule.is_scaffold());
    real.filter_map(|rule| if let RuleAction::Goto(target) = rule.action { Some(target) } else { None }).collect()
}
