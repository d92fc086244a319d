//! Long lists in no order, and long lists of one priority, get an order in which they can be jumped through.
//!
//! A jump leads to a priority, and over neighbours. So where neighbours in the file's order have nothing in common, the rules
//! of the list exchange their places ([`super::arrange`]: no packet can tell) and stand in pieces at priorities of the list: those
//! that the file gives its rules, and the free ones between and behind. Nothing passes a rule of another program, a rule of
//! another kind, or a priority that somebody jumps to.

use super::arrange::{Member, arrange};
use super::cover::{Axis, Cover};
use super::desired::{Origin, Wanted};
use super::labels::labels;
use super::skips::{Shape, longest_walk, targets};
use crate::model::{Family, Host, OWN_PROTOCOL, Rule};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Included};

/// Arranges the lists that need it. `rules` are in the kernel's order, and are again afterwards.
pub(super) fn spread(rules: &mut [Wanted<Rule>], host: &Host, shape: &Shape) {
    for family in Family::BOTH {
        let start = rules.partition_point(|wanted| wanted.item.family < family);
        let count = rules[start..].partition_point(|wanted| wanted.item.family == family);
        let list = &mut rules[start..start + count];
        let foreign: Vec<&Rule> = host.rules_of(family).filter(|rule| rule.protocol != OWN_PROTOCOL).collect();
        let own = list.iter().map(|wanted| &wanted.item);
        let bounds = Bounds {
            targets: targets(own.chain(foreign.iter().copied()), family),
            foreign: foreign.into_iter().map(|rule| rule.priority).collect(),
        };
        let shape = &shape.among(list.len());
        let mut held: Option<Held> = None;
        let mut at = 0;
        while at < list.len() {
            let Some((length, axis)) = bounds.window(list, at).filter(|(length, _)| *length >= shape.run) else {
                at += 1;
                continue;
            };
            let end = bounds.end(list, at + length);
            let window = &mut list[at..at + length];
            if is_long(window, axis, shape) {
                let held = held.get_or_insert_with(|| Held::by(host, family));
                settle(window, axis, end, held, shape);
            }
            at += length;
        }
    }
}

/// What a list ends at.
struct Bounds {
    /// Priorities that somebody jumps to.
    targets: BTreeSet<u32>,
    /// Priorities of other programs' rules.
    foreign: BTreeSet<u32>,
}

impl Bounds {
    /// The longest list that begins at `at`: how many rules, and what all of them select by.
    fn window(&self, list: &[Wanted<Rule>], at: usize) -> Option<(usize, Axis)> {
        let first = list.get(at)?.item.priority;
        let begins = at == 0 || list[at - 1].item.priority < first;
        let axes = if begins && !self.foreign.contains(&first) { Axis::of(&list[at].item) } else { Vec::new() };
        axes.into_iter().map(|axis| (self.length(&list[at..], axis), axis)).max_by_key(|(length, _)| *length)
    }

    fn length(&self, list: &[Wanted<Rule>], axis: Axis) -> usize {
        let mut before = list[0].item.priority;
        let belongs = |wanted: &&Wanted<Rule>| {
            let rule = &wanted.item;
            let parted = rule.priority > before
                && (self.targets.range((Excluded(before), Included(rule.priority))).next().is_some()
                    || self.foreign.range(before..=rule.priority).next().is_some());
            before = rule.priority;
            !parted && matches!(wanted.origin, Origin::File { .. }) && axis.cover(rule).is_some()
        };
        let mut length = list.iter().take_while(belongs).count();
        // The rules of one priority belong together.
        let beyond = list.get(length).map(|wanted| wanted.item.priority);
        while length > 0 && Some(list[length - 1].item.priority) == beyond {
            length -= 1;
        }
        length
    }

    /// The first priority that a list which ends before `next` cannot have.
    fn end(&self, list: &[Wanted<Rule>], next: usize) -> u32 {
        let last = list[next - 1].item.priority;
        let beyond = |set: &BTreeSet<u32>| set.range(last.saturating_add(1)..).next().copied();
        let own = list.get(next).map(|wanted| wanted.item.priority);
        [own, beyond(&self.foreign), beyond(&self.targets)].into_iter().flatten().min().unwrap_or(u32::MAX)
    }
}

/// Whether a packet walks too many of these, with jumps, where they stand.
fn is_long(window: &[Wanted<Rule>], axis: Axis, shape: &Shape) -> bool {
    let entries = window.chunk_by(|a, b| a.item.priority == b.item.priority);
    let entry = |rules: &[Wanted<Rule>]| {
        let cover = rules.iter().filter_map(|wanted| axis.cover(&wanted.item)).reduce(Cover::with)?;
        Some((cover, rules.len()))
    };
    longest_walk(&entries.filter_map(entry).collect::<Vec<_>>(), shape) > shape.run
}

/// Gives the rules their order and their priorities, where they gain by it.
fn settle(window: &mut [Wanted<Rule>], axis: Axis, end: u32, held: &mut Held, shape: &Shape) {
    let (first, last) = (window[0].item.priority, window[window.len() - 1].item.priority);
    let members: Vec<Member<'_>> =
        window.iter().filter_map(|wanted| Some((&wanted.item, axis.cover(&wanted.item)?))).collect();
    if members.len() < window.len() {
        return;
    }
    let Some(pieces) = fit(&members, axis, shape, (end - first) as usize) else { return };
    let entry = |piece: &Vec<usize>| {
        let cover = piece.iter().map(|index| members[*index].1).reduce(Cover::with)?;
        Some((cover, piece.len()))
    };
    let entries: Vec<(Cover, usize)> = pieces.iter().filter_map(entry).collect();
    if longest_walk(&entries, shape) * 2 > window.len() {
        return;
    }
    // Not beyond the list's own priorities without need: others may want what is behind it.
    let near = last.saturating_add(1).min(end);
    let end = if pieces.len() * 2 <= (near - first) as usize { near } else { end };
    let mut place = |piece: &Vec<usize>| {
        let mut rules: Vec<Rule> = piece.iter().map(|index| members[*index].0.anywhere()).collect();
        // Equal ones select alike, so they stand together; the kernel has one of them.
        rules.dedup();
        let places = rules.iter().filter_map(|rule| held.take(rule, first));
        // Each takes its own, also where it is not needed.
        places.fold(None, |place, next| place.or(Some(next)))
    };
    let places: Vec<Option<u32>> = pieces.iter().map(&mut place).collect();
    let labels = labels(&places, first, end);
    let order: Vec<(usize, u32)> = pieces
        .into_iter()
        .zip(labels)
        .flat_map(|(piece, label)| piece.into_iter().map(move |index| (index, label)))
        .collect();
    for (index, label) in &order {
        window[*index].item.priority = *label;
    }
    permute(window, order.into_iter().map(|(index, _)| index));
}

/// The pieces, as small as groups are where there are priorities for so many; None where there are too few.
fn fit(members: &[Member<'_>], axis: Axis, shape: &Shape, room: usize) -> Option<Vec<Vec<usize>>> {
    let mut most = shape.leaf.max(1);
    loop {
        let pieces = arrange(members, most, shape.least);
        let pieces: Vec<Vec<usize>> = pieces.into_iter().flat_map(|piece| by_kind(piece, members, axis)).collect();
        if pieces.len() <= room {
            return Some(pieces);
        }
        most = most.checked_mul(2).filter(|_| most < members.len())?;
    }
}

/// A piece in parts of rules that differ in the prefix alone, so that each is what one `[[rule]]` can say.
fn by_kind(piece: Vec<usize>, members: &[Member<'_>], axis: Axis) -> Vec<Vec<usize>> {
    let mut kinds: Vec<(Rule, Vec<usize>)> = Vec::new();
    for index in piece {
        let rest = axis.rest(members[index].0);
        match kinds.iter_mut().find(|(kind, _)| *kind == rest) {
            Some((_, part)) => part.push(index),
            None => kinds.push((rest, vec![index])),
        }
    }
    kinds.into_iter().map(|(_, part)| part).collect()
}

/// Puts the items that stand at `order` there one after the other.
fn permute<T>(list: &mut [T], order: impl Iterator<Item = usize>) {
    let mut place = vec![0; list.len()];
    order.enumerate().for_each(|(to, from)| place[from] = to);
    for at in 0..list.len() {
        while place[at] != at {
            let to = place[at];
            list.swap(at, to);
            place.swap(at, to);
        }
    }
}

/// Where Wayfork's own rules are now, each place to be taken once: they stay there where they can.
struct Held(HashMap<Rule, VecDeque<u32>>);

impl Held {
    fn by(host: &Host, family: Family) -> Self {
        let mut held: HashMap<Rule, VecDeque<u32>> = HashMap::new();
        for rule in host.rules_of(family).filter(|rule| rule.protocol == OWN_PROTOCOL && !rule.is_scaffold()) {
            held.entry(rule.anywhere()).or_default().push_back(rule.priority);
        }
        Held(held)
    }

    /// The next place of a rule, from `first` on.
    fn take(&mut self, rule: &Rule, first: u32) -> Option<u32> {
        let places = self.0.get_mut(rule)?;
        std::iter::from_fn(|| places.pop_front()).find(|place| *place >= first)
    }
}

#[cfg(test)]
mod tests {
    use super::permute;

    #[test]
    fn an_order_is_taken() {
        let mut list = ['a', 'b', 'c', 'd', 'e'];
        permute(&mut list, [4, 0, 2, 1, 3].into_iter());
        assert_eq!(list, ['e', 'a', 'c', 'b', 'd']);
    }
}
