//! Builds the trees of [`router_common::interval`]: prefixes or ranges, which may hold one another, become segments that do not,
//! and segments become lines.

use router_common::interval::{CHILDREN, Line, MAX_DEPTH, MAX_LINES, MAX_VALUE, NOTHING, Tree, VALUES};
use std::cmp::Reverse;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What is looked up: `u32` (IPv4 addresses, ports, marks), or `u128` (IPv6 addresses).
pub trait Key: Copy + Ord {
    /// The one after it; None for the largest.
    fn next(self) -> Option<Self>;
}

impl Key for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Key for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Keys that share a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<K> {
    /// The first key.
    pub first: K,
    /// The last key; a range whose last is below its first holds none.
    pub last: K,
    /// At most [`MAX_VALUE`].
    pub value: u32,
}

impl Range<u32> {
    /// Of an IPv4 prefix, whose bits after `length` (at most 32) do not matter.
    pub fn prefix4(address: Ipv4Addr, length: u8, value: u32) -> Self {
        let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        let bits = address.to_bits();
        Range { first: bits & !host, last: bits | host, value }
    }
}

impl Range<u128> {
    /// Of an IPv6 prefix, whose bits after `length` (at most 128) do not matter.
    pub fn prefix6(address: Ipv6Addr, length: u8, value: u32) -> Self {
        let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        let bits = address.to_bits();
        Range { first: bits & !host, last: bits | host, value }
    }
}

/// Keys from `first` up to the next segment's, or to the end. What is before the first segment has the value [`NOTHING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<K> {
    /// The first key.
    pub first: K,
    /// At most [`MAX_VALUE`], or [`NOTHING`].
    pub value: u32,
}

/// What cannot become a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value.
    #[error("the value {0} is too large for a tree of intervals: {MAX_VALUE} is the most")]
    Value(u32),
    /// The lines of all trees together.
    #[error("the trees of intervals need more than {MAX_LINES} lines")]
    Lines,
    /// Segments out of order.
    #[error("segment {0} does not begin after the one before")]
    Order(usize),
}

/// Cuts ranges into segments, in ascending order, neighbours with different values.
///
/// Of ranges that hold one another the inner one counts; of two that are the same, the later in the list; of two that overlap
/// otherwise, the one that begins later.
pub fn flatten<K: Key>(mut ranges: Vec<Range<K>>) -> Vec<Segment<K>> {
    ranges.retain(|range| range.first <= range.last);
    // Stable: equal ranges stay in their order.
    ranges.sort_by_key(|range| (range.first, Reverse(range.last)));
    let mut flat = Flat { segments: Vec::with_capacity(ranges.len()), open: Vec::new() };
    for range in ranges {
        flat.close_before(range.first);
        begin(&mut flat.segments, range.first, range.value);
        flat.open.push((range.last, range.value));
    }
    while let Some(next) = flat.open.last().and_then(|(last, _)| last.next()) {
        flat.close_before(next);
    }
    flat.segments
}

/// Cuts ranges into segments as [`flatten`] does, and lays those of `upper` over those of `lower`: where an upper one has a value,
/// it counts.
pub fn overlay<K: Key>(lower: Vec<Range<K>>, upper: Vec<Range<K>>) -> Vec<Segment<K>> {
    let (lower, upper) = (flatten(lower), flatten(upper));
    let mut segments = Vec::with_capacity(lower.len() + upper.len());
    let (mut below, mut above) = (NOTHING, NOTHING);
    let (mut lower, mut upper) = (lower.into_iter().peekable(), upper.into_iter().peekable());
    while let Some(first) = [lower.peek(), upper.peek()].into_iter().flatten().map(|segment| segment.first).min() {
        if let Some(segment) = lower.next_if(|segment| segment.first == first) {
            below = segment.value;
        }
        if let Some(segment) = upper.next_if(|segment| segment.first == first) {
            above = segment.value;
        }
        begin(&mut segments, first, if above == NOTHING { below } else { above });
    }
    segments
}

struct Flat<K> {
    segments: Vec<Segment<K>>,
    /// The ranges that hold the place, by last key and value: the innermost is the last.
    open: Vec<(K, u32)>,
}

impl<K: Key> Flat<K> {
    /// Ends the ranges whose last key is before `place`.
    fn close_before(&mut self, place: K) {
        while let Some((last, _)) = self.open.pop_if(|(last, _)| *last < place) {
            let Some(next) = last.next() else { return };
            // Those that end no later have been hidden to their ends.
            while self.open.pop_if(|(last, _)| *last < next).is_some() {}
            let value = self.open.last().map_or(NOTHING, |(_, value)| *value);
            begin(&mut self.segments, next, value);
        }
    }
}

/// Lets a segment begin after or with the last one, whose place it takes then.
fn begin<K: Key>(segments: &mut Vec<Segment<K>>, first: K, value: u32) {
    segments.pop_if(|segment| segment.first == first);
    if segments.last().map_or(NOTHING, |segment| segment.value) != value {
        segments.push(Segment { first, value });
    }
}

/// Appends a tree of single keys of 32 bits, each with a value, to `lines`.
pub fn points32(lines: &mut Vec<Line>, points: impl Iterator<Item = (u32, u32)>) -> Result<Tree, Error> {
    tree32(lines, &flatten(points.map(|(key, value)| Range { first: key, last: key, value }).collect()))
}

/// Appends a tree over keys of 32 bits to `lines`. What fails leaves lines behind that nothing points to.
pub fn tree32(lines: &mut Vec<Line>, segments: &[Segment<u32>]) -> Result<Tree, Error> {
    check(segments)?;
    build(lines, segments.to_vec())
}

/// Appends a tree over keys of 128 bits to `lines`. What fails leaves lines behind that nothing points to.
pub fn tree128(lines: &mut Vec<Line>, segments: &[Segment<u128>]) -> Result<Tree, Error> {
    check(segments)?;
    words(lines, NOTHING, segments, 96)
}

fn check<K: Key>(segments: &[Segment<K>]) -> Result<(), Error> {
    let wrong = |segment: &&Segment<K>| segment.value > MAX_VALUE && segment.value != NOTHING;
    if let Some(segment) = segments.iter().find(wrong) {
        return Err(Error::Value(segment.value));
    }
    match segments.windows(2).position(|pair| pair[0].first >= pair[1].first) {
        Some(place) => Err(Error::Order(place + 1)),
        None => Ok(()),
    }
}

/// The tree over the word that lies `shift` bits above the key's end, of keys that are the same in the words before it; `before` is
/// the value up to the first segment. Calls itself for the next word, so at most three deep.
fn words(lines: &mut Vec<Line>, before: u32, segments: &[Segment<u128>], shift: u32) -> Result<Tree, Error> {
    let word = |key: u128| (key >> shift) as u32;
    let mut found = Vec::new();
    begin(&mut found, 0, before);
    let mut value = before;
    for group in segments.chunk_by(|one, other| word(one.first) == word(other.first)) {
        let first = word(group[0].first);
        let last = group[group.len() - 1].value;
        // One that begins with the word holds all of it.
        if group.len() == 1 && group[0].first.trailing_zeros() >= shift {
            begin(&mut found, first, last);
        } else {
            let next = words(lines, value, group, shift - 32)?;
            begin(&mut found, first, if next == Tree::EMPTY { NOTHING } else { next.packed().ok_or(Error::Lines)? });
            if let Some(next) = first.next() {
                begin(&mut found, next, last);
            }
        }
        value = last;
    }
    build(lines, found)
}

/// Level by level, the uppermost first, so that the children of a line follow each other.
fn build(lines: &mut Vec<Line>, mut segments: Vec<Segment<u32>>) -> Result<Tree, Error> {
    match segments.first() {
        None => return Ok(Tree::EMPTY),
        Some(segment) if segment.first > 0 => segments.insert(0, Segment { first: 0, value: NOTHING }),
        Some(_) => {}
    }
    let end = |place: usize| segments.get(place + 1).map_or(u32::MAX, |next| next.first - 1);
    // How many segments a line of each level holds, the leaves' first.
    let mut holds = vec![VALUES];
    while holds[holds.len() - 1] < segments.len() {
        holds.push(holds[holds.len() - 1] * CHILDREN);
    }
    let tree = Tree { root: lines.len() as u32, depth: holds.len() as u32 - 1 };
    let total: usize = holds.iter().map(|held| segments.len().div_ceil(*held)).sum();
    if lines.len() + total > MAX_LINES as usize || tree.depth > MAX_DEPTH {
        return Err(Error::Lines);
    }
    lines.reserve(total);
    for level in holds.iter().skip(1).rev() {
        let (children, child) = (lines.len() + segments.len().div_ceil(*level), level / CHILDREN);
        for (number, held) in segments.chunks(*level).enumerate() {
            let inside = held.len().div_ceil(child) - 1;
            let ends = (1..=inside).map(|place| end(number * level + place * child - 1));
            lines.push(Line::inner((children + number * CHILDREN) as u32, ends));
        }
    }
    for (number, held) in segments.chunks(VALUES).enumerate() {
        let intervals = held.iter().enumerate().map(|(place, segment)| (end(number * VALUES + place), segment.value));
        lines.push(Line::leaf(intervals));
    }
    Ok(tree)
}

#[cfg(test)]
mod tests;
