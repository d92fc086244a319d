//! Which rules of a list are found by a look-up instead of being tried one by one, and the look-up's tree.

use super::interval::{self, Key, Segment, tree32, tree128};
use super::lists::Candidate;
use super::selectors::selects_nothing;
use crate::model::Family;
use router_common::interval::{Line, NOTHING};
use router_common::layout::{
    AddrWords, CANDIDATES, FILTER_DPORT, FILTER_FROM, FILTER_MARK, FILTER_SPORT, FILTER_TO, Filter, MAX_FILTERS,
    NO_POSITION, RULE_NOT, SELECT_DPORT, SELECT_PORTS, SELECT_SPORT, Selectors, ports,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Fewer rules than this are tried one by one sooner than looked up: a rule costs about as much as half a look-up.
const LEAST: usize = 6;
/// Of rules that look for the very same, no more than this are left to one filter: another selector may tell them apart.
const MOST_ALIKE: usize = 16;
/// Candidates in all chains of a filter, for each rule, and for any.
const CHAINS: usize = 16;
const CHAINS_AT_LEAST: usize = 1 << 16;

/// Where a rule is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the chain of linear rules.
    Linear,
    /// By a filter; `proven` where whoever is found by it matches, since the rule looks at nothing else.
    Filter { proven: bool },
}

/// The filters of a list, and where each rule is found.
pub(super) struct Chosen {
    pub filters: Vec<Filter>,
    pub places: Vec<Place>,
}

/// What a filter looks up: `FILTER_*`, and the mask of a mark.
type By = (u32, u32);

/// Chooses filters: by turns the selector of which the rules that are left name the most different values.
pub(super) fn choose(
    list: &[Candidate],
    family: Family,
    lines: &mut Vec<Line>,
    chains: &mut Vec<u32>,
) -> Result<Chosen, interval::Error> {
    let mut chosen = Chosen { filters: Vec::new(), places: vec![Place::Linear; list.len()] };
    while chosen.filters.len() < MAX_FILTERS && list.len() >= LEAST {
        let Some((by, mut rules)) = widest(list, family, &chosen.places) else { break };
        keep_affordable(&mut rules, list.len());
        if rules.len() < LEAST {
            break;
        }
        for (_, _, position) in &rules {
            let proven = looks_at_nothing_but(&list[*position].selectors, by.0);
            chosen.places[*position] = Place::Filter { proven };
        }
        let segments = segments(&rules, chains);
        let tree = match (by.0, family) {
            (FILTER_FROM | FILTER_TO, Family::Ipv6) => tree128(lines, &segments)?,
            _ => tree32(lines, &segments.iter().filter_map(narrow).collect::<Vec<_>>())?,
        };
        chosen.filters.push(Filter { by: by.0, mask: by.1, tree });
    }
    Ok(chosen)
}

/// A rule's first and last key, and its position.
type Span = (u128, u128, usize);

/// The selector that tells the most rules apart, and the rules that it is worth it for.
fn widest(list: &[Candidate], family: Family, places: &[Place]) -> Option<(By, Vec<Span>)> {
    let mut by: BTreeMap<By, Vec<Span>> = BTreeMap::new();
    for (position, candidate) in list.iter().enumerate() {
        if places[position] == Place::Linear && candidate.action.flags & RULE_NOT == 0 {
            for (what, first, last) in spans(&candidate.selectors, family) {
                by.entry(what).or_default().push((first, last, position));
            }
        }
    }
    let worth = by.into_iter().map(|(what, mut rules)| {
        rules.sort_unstable();
        let alike = |a: &Span, b: &Span| (a.0, a.1) == (b.0, b.1);
        let kept: Vec<Span> =
            rules.chunk_by(alike).filter(|rules| rules.len() <= MOST_ALIKE).flatten().copied().collect();
        let different = kept.chunk_by(alike).count();
        (different, what, kept)
    });
    // The first of equals, for a repeatable answer.
    let best = worth
        .filter(|(different, ..)| *different >= LEAST)
        .reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    Some((best.1, best.2))
}

/// What of a rule's selectors can be looked up.
fn spans(selectors: &Selectors, family: Family) -> Vec<(By, u128, u128)> {
    let mut spans = Vec::new();
    let addresses =
        [(FILTER_FROM, &selectors.from, &selectors.from_mask), (FILTER_TO, &selectors.to, &selectors.to_mask)];
    for (by, value, mask) in addresses {
        if *mask != [0; 4] {
            let (first, mask) = (number(value, family), number(mask, family));
            let all = if family == Family::Ipv4 { u128::from(u32::MAX) } else { u128::MAX };
            spans.push(((by, 0), first & mask, first & mask | all & !mask));
        }
    }
    if selectors.mark_mask != 0 {
        let value = u128::from(selectors.mark & selectors.mark_mask);
        spans.push(((FILTER_MARK, selectors.mark_mask), value, value));
    }
    for (by, [first, last]) in [(FILTER_SPORT, selectors.sport), (FILTER_DPORT, selectors.dport)] {
        let (flag, whole) = port_words(by);
        if selectors.flags & flag != 0 {
            spans.push(((by, 0), first.into(), last.into()));
        } else if selectors.flags & SELECT_PORTS != 0 && selectors.ports_mask & whole == whole {
            let port = u128::from(if by == FILTER_SPORT { selectors.ports >> 16 } else { selectors.ports & 0xffff });
            spans.push(((by, 0), port, port));
        }
    }
    spans
}

/// An address as a number.
fn number(addr: &AddrWords, family: Family) -> u128 {
    match family {
        Family::Ipv4 => u32::from_be(addr[0]).into(),
        Family::Ipv6 => u128::from_be_bytes(bytemuck::cast(*addr)),
    }
}

fn looks_at_nothing_but(selectors: &Selectors, by: u32) -> bool {
    let mut rest = *selectors;
    match by {
        FILTER_FROM => (rest.from, rest.from_mask) = ([0; 4], [0; 4]),
        FILTER_TO => (rest.to, rest.to_mask) = ([0; 4], [0; 4]),
        FILTER_MARK => (rest.mark, rest.mark_mask) = (0, 0),
        FILTER_SPORT | FILTER_DPORT => {
            let (flag, whole) = port_words(by);
            if rest.flags & flag != 0 {
                rest.flags &= !flag;
            } else {
                rest.ports_mask &= !whole;
                if rest.ports_mask == 0 {
                    rest.flags &= !SELECT_PORTS;
                }
            }
        }
        _ => return false,
    }
    selects_nothing(&rest)
}

/// The flag of a range of ports on one side, and the mask of one whole port there.
fn port_words(by: u32) -> (u32, u32) {
    if by == FILTER_SPORT { (SELECT_SPORT, ports(u16::MAX, 0)) } else { (SELECT_DPORT, ports(0, u16::MAX)) }
}

/// Leaves out the widest spans where all chains together would become too long.
fn keep_affordable(rules: &mut Vec<Span>, list: usize) {
    let bounds: BTreeSet<u128> =
        rules.iter().flat_map(|(first, last, _)| [Some(*first), last.next()]).flatten().collect();
    let bounds: Vec<u128> = bounds.into_iter().collect();
    let mut covers: Vec<(usize, Span)> = rules
        .iter()
        .map(|span| {
            let before = |key: u128| bounds.partition_point(|bound| *bound <= key);
            (before(span.1) - before(span.0) + 1, *span)
        })
        .collect();
    covers.sort_unstable();
    let mut left = (list * CHAINS).max(CHAINS_AT_LEAST);
    let affordable = covers.iter().take_while(|(cover, _)| {
        let enough = *cover < left;
        left = left.saturating_sub(*cover);
        enough
    });
    *rules = affordable.map(|(_, span)| *span).collect();
}

/// The candidates of every key, as segments whose values are positions or chains.
fn segments(rules: &[Span], chains: &mut Vec<u32>) -> Vec<Segment<u128>> {
    let mut events: BTreeMap<u128, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
    for (first, last, position) in rules {
        events.entry(*first).or_default().0.push(*position as u32);
        if let Some(after) = last.next() {
            events.entry(after).or_default().1.push(*position as u32);
        }
    }
    let mut open = BTreeSet::new();
    let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
    let mut segments: Vec<Segment<u128>> = Vec::new();
    for (first, (begin, end)) in events {
        end.iter().for_each(|position| {
            open.remove(position);
        });
        open.extend(begin);
        let mut here = open.iter().copied();
        let value = match (here.next(), open.len()) {
            (None, _) => NOTHING,
            (Some(only), 1) => only,
            _ => {
                let chain: Vec<u32> = open.iter().copied().chain([NO_POSITION]).collect();
                *known.entry(chain).or_insert_with_key(|chain| {
                    let at = chains.len() as u32;
                    chains.extend(chain);
                    at | CANDIDATES
                })
            }
        };
        segments.push(Segment { first, value });
    }
    segments
}

/// Of keys that have 32 bits: what is behind the last of them is no key.
fn narrow(segment: &Segment<u128>) -> Option<Segment<u32>> {
    Some(Segment { first: u32::try_from(segment.first).ok()?, value: segment.value })
}

#[cfg(test)]
mod tests;
