//! A long list in one `[[rule]]` comes to rules of one priority, which no jump can lead into. Where the priorities behind it are
//! free, its pieces take these: one `[[rule]]` has one outcome, so that the order among its rules is of no matter.

use super::cover::{Axis, Cover};
use super::desired::{Origin, Wanted};
use super::skips::{Shape, targets};
use crate::model::{Family, Host, OWN_PROTOCOL, Rule};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// The pieces stand so far apart at most, which leaves room for those that come later.
const STRIDE: u32 = 16;

/// Gives the rules of long lists priorities of their own, sorted by what they select. `rules` are in the kernel's order.
pub(super) fn spread(rules: &mut [Wanted<Rule>], host: &Host, shape: &Shape) {
    for family in Family::BOTH {
        let foreign = || host.rules_of(family).filter(|rule| rule.protocol != OWN_PROTOCOL);
        let all: Vec<&Rule> = rules.iter().map(|wanted| &wanted.item).chain(foreign()).collect();
        // What stops a list: a rule, or a priority that a jump would find.
        let mut marks = targets(all.iter().copied(), family);
        marks.extend(all.iter().filter(|rule| rule.family == family).map(|rule| rule.priority));
        let shared: BTreeSet<u32> = foreign().map(|rule| rule.priority).collect();
        let mut held: Option<HashMap<Rule, u32>> = None;
        let same =
            |a: &Wanted<Rule>, b: &Wanted<Rule>| (a.item.family, a.item.priority) == (b.item.family, b.item.priority);
        for list in rules.chunk_by_mut(same) {
            let Rule { priority, family: here, .. } = list[0].item;
            if here != family || list.len() < shape.run || shared.contains(&priority) {
                continue;
            }
            let Some(covers) = sort(list) else { continue };
            let end = priority.checked_add(1).and_then(|next| marks.range(next..).next().copied()).unwrap_or(u32::MAX);
            let Some(pieces) = fit(&covers, shape, end - priority) else { continue };
            let held = held.get_or_insert_with(|| holding(host, family));
            let places = pieces.iter().map(|piece| {
                let place = |wanted: &Wanted<Rule>| held.get(&anywhere(&wanted.item)).copied();
                list[piece.clone()].iter().find_map(place)
            });
            let labels = labels(&places.collect::<Vec<_>>(), priority, end);
            for (piece, label) in pieces.into_iter().zip(labels) {
                list[piece].iter_mut().for_each(|wanted| wanted.item.priority = label);
            }
        }
    }
}

fn anywhere(rule: &Rule) -> Rule {
    Rule { priority: 0, ..rule.clone() }
}

/// Where Wayfork's own rules are now: they stay there where they can.
fn holding(host: &Host, family: Family) -> HashMap<Rule, u32> {
    let own = host.rules_of(family).filter(|rule| rule.protocol == OWN_PROTOCOL && !rule.is_scaffold());
    own.map(|rule| (anywhere(rule), rule.priority)).collect()
}

/// Sorts a list by what its rules select, where that is all by which they differ that matters; gives their prefixes.
fn sort(list: &mut [Wanted<Rule>]) -> Option<Vec<Cover>> {
    let first = &list[0];
    let alike = |wanted: &Wanted<Rule>| {
        wanted.item.outcome() == first.item.outcome()
            && wanted.origin == first.origin
            && matches!(wanted.origin, Origin::File { .. })
    };
    if !list.iter().all(alike) {
        return None;
    }
    let shared = |axis: &Axis| list.iter().all(|wanted| axis.cover(&wanted.item).is_some());
    let several = |axis: &Axis| list.iter().any(|wanted| axis.cover(&wanted.item) != axis.cover(&first.item));
    let axis = Axis::of(&first.item).into_iter().find(|axis| shared(axis) && several(axis))?;
    list.sort_by_cached_key(|wanted| axis.cover(&wanted.item));
    list.iter().map(|wanted| axis.cover(&wanted.item)).collect()
}

/// The pieces of a sorted list, as small as groups are where there are priorities for so many; None where it stays whole.
fn fit(covers: &[Cover], shape: &Shape, room: u32) -> Option<Vec<Range<usize>>> {
    let mut most = *shape.sizes(covers.len()).first()?;
    loop {
        let mut pieces = Vec::new();
        cut(covers, 0..covers.len(), most, &mut pieces);
        let pieces = join(pieces, most, shape.least);
        if pieces.len() <= room as usize {
            return (pieces.len() > 1).then_some(pieces);
        }
        most = most.saturating_mul(2);
    }
}

/// The largest parts of the trie that have `most` rules or fewer.
fn cut(covers: &[Cover], range: Range<usize>, most: usize, pieces: &mut Vec<Range<usize>>) {
    let hull = covers[range.clone()].iter().copied().reduce(Cover::with);
    let Some(hull) = hull.filter(|_| range.len() > most) else { return pieces.push(range) };
    let half = |place: usize| covers[place].half_of(hull);
    let mut start = range.start;
    while start < range.end {
        let here = half(start);
        // Sorted: what is equal stands together.
        let end = start + covers[start..range.end].partition_point(|cover| cover.half_of(hull) == here);
        match here {
            Some(_) => cut(covers, start..end, most, pieces),
            None => pieces.push(start..end),
        }
        start = end;
    }
}

/// Puts pieces of a few rules together with the one before.
fn join(pieces: Vec<Range<usize>>, most: usize, few: usize) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.len().min(piece.len()) < few && last.len() + piece.len() <= most => last.end = piece.end,
            _ => joined.push(piece),
        }
    }
    joined
}

/// A rising number below `end` for each piece, the first one's `first`. `places` are where the pieces are now: who has a place
/// that will do keeps it. There is room for all of them.
fn labels(places: &[Option<u32>], first: u32, end: u32) -> Vec<u32> {
    let mut labels: Vec<Option<u32>> = Vec::with_capacity(places.len());
    let mut last = first;
    for (piece, place) in places.iter().enumerate() {
        let behind = (places.len() - 1 - piece) as u32;
        let kept = place.filter(|place| *place > last && *place < end && end - place > behind);
        let label = if piece == 0 { Some(first) } else { kept };
        last = label.unwrap_or(last);
        labels.push(label);
    }
    if !fill(&mut labels, end) {
        labels.fill(None);
        labels[0] = Some(first);
        fill(&mut labels, end);
    }
    labels.into_iter().flatten().collect()
}

/// Numbers what has none, evenly between its neighbours; false where there is no room. The first one has one.
fn fill(labels: &mut [Option<u32>], end: u32) -> bool {
    let mut at = 0;
    while at < labels.len() {
        let Some(from) = labels[at] else { return false };
        let next = (at + 1..labels.len()).find(|place| labels[*place].is_some()).unwrap_or(labels.len());
        let missing = (next - at - 1) as u32;
        let room = labels.get(next).copied().flatten().unwrap_or(end) - from;
        let stride = (room / (missing + 1)).min(STRIDE);
        if missing > 0 && stride == 0 {
            return false;
        }
        for (number, place) in (1..).zip(at + 1..next) {
            labels[place] = Some(from + number * stride);
        }
        at = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_their_numbers() {
        assert_eq!(labels(&[None; 4], 1000, 1100), [1000, 1016, 1032, 1048]);
        assert_eq!(labels(&[None; 4], 1000, 1004), [1000, 1001, 1002, 1003]);
        let now = [Some(1000), Some(1016), None, Some(1032), Some(1032), Some(1048)];
        assert_eq!(labels(&now, 1000, 1100), [1000, 1016, 1024, 1032, 1040, 1048]);
        // No room between two that stay: all anew. A place beyond the end is none.
        assert_eq!(labels(&[Some(1000), Some(1001), None, Some(1002)], 1000, 1010), [1000, 1002, 1004, 1006]);
        assert_eq!(labels(&[Some(7), Some(2000), Some(1005)], 1000, 1010), [1000, 1002, 1005]);
        // One that takes the last number leaves none for those behind it.
        assert_eq!(labels(&[None, Some(1009), None], 1000, 1010), [1000, 1003, 1006]);
    }
}
