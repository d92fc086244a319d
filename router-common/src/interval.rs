//! Which of many intervals holds a key: static B+ trees of 64-byte lines, many trees in one array.
//!
//! The loader cuts the key space into intervals that do not overlap, each with one value (of prefixes that hold one another the
//! longest gives it), so that a look-up need not know of prefixes at all. It touches one line for every level, of which only the
//! last and perhaps the one above are outside the CPU's caches however many intervals there are. Nothing is hashed and nothing
//! remembered: no choice of addresses makes it slower.
//!
//! An inner line is the number of its first child and the ends of its children but the last, an end being the last key that
//! belongs to it; children follow each other. A leaf is the values of eight intervals and the ends of these but the last. Ends
//! that are not used are [`u32::MAX`]. Keys of 128 bits are four words: a tree over the first, whose value is the word's answer
//! or the tree over the next word ([`Tree::packed`]).
//!
//! Within a line the ends below the key are counted, every fourth first and then those of one quarter, without a jump: a jump that
//! nobody can predict costs more than all of the comparisons, and the verifier would follow both of its sides.

use bytemuck::{Pod, Zeroable};
use core::hint::black_box;

/// The value of a key that no interval holds.
pub const NOTHING: u32 = u32::MAX;
/// The largest value of an interval.
pub const MAX_VALUE: u32 = SUBTREE - 1;
/// Set in a value that is a tree over the key's next word. [`NOTHING`] is none: no tree is that deep.
const SUBTREE: u32 = 1 << 31;
const DEPTH_SHIFT: u32 = 27;
/// How many lines there can be, of all trees.
pub const MAX_LINES: u32 = 1 << DEPTH_SHIFT;
/// Levels above the leaves, at most.
pub const MAX_DEPTH: u32 = 6;
/// Children of an inner line.
pub const CHILDREN: usize = 16;
/// Intervals of a leaf.
pub const VALUES: usize = 8;
const WORDS: usize = 16;

/// An entry of `LINES`: one line of the CPU's caches.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Line(pub [u32; WORDS]);

/// A tree of lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Tree {
    /// The number of its uppermost line.
    pub root: u32,
    /// Levels of inner lines above the leaves, at most [`MAX_DEPTH`].
    pub depth: u32,
}

/// Where the lines are.
pub trait Lines {
    /// The line of a number; None where there is none.
    fn line(&self, index: u32) -> Option<&Line>;
}

impl Lines for [Line] {
    fn line(&self, index: u32) -> Option<&Line> {
        self.get(index as usize)
    }
}

impl Tree {
    /// Holds nothing.
    pub const EMPTY: Tree = Tree { root: u32::MAX, depth: 0 };

    /// As the value of an interval of the word before; None where a tree cannot lie there.
    pub fn packed(self) -> Option<u32> {
        (self.root < MAX_LINES && self.depth <= MAX_DEPTH).then_some(SUBTREE | self.depth << DEPTH_SHIFT | self.root)
    }

    #[inline(always)]
    fn unpacked(value: u32) -> Option<Tree> {
        let tree = Tree { root: value & (MAX_LINES - 1), depth: (value & !SUBTREE) >> DEPTH_SHIFT };
        (value >= SUBTREE && value != NOTHING).then_some(tree)
    }
}

impl Line {
    /// Of the children from `first` on, of which every one but the last has an end, in ascending order.
    pub fn inner(first: u32, ends: impl Iterator<Item = u32>) -> Line {
        let mut words = [u32::MAX; WORDS];
        words[0] = first;
        words[1..].iter_mut().zip(ends).for_each(|(word, end)| *word = end);
        Line(words)
    }

    /// Of intervals as pairs of end and value, in ascending order, at most [`VALUES`]. The last end of a full leaf is not looked at.
    pub fn leaf(intervals: impl Iterator<Item = (u32, u32)>) -> Line {
        let mut words = [u32::MAX; WORDS];
        for (place, (end, value)) in intervals.take(VALUES).enumerate() {
            words[place] = value;
            words[VALUES + place] = end;
        }
        Line(words)
    }

    #[inline(always)]
    fn child(&self, key: u64) -> u32 {
        let quarter = 4 * (self.below(4, key) + self.below(8, key) + self.below(12, key));
        let child =
            quarter + self.below(quarter + 1, key) + self.below(quarter + 2, key) + self.below(quarter + 3, key);
        self.word(0).wrapping_add(child)
    }

    #[inline(always)]
    fn value(&self, key: u64) -> u32 {
        let half = 4 * self.below(11, key);
        self.word(half + self.below(half + 8, key) + self.below(half + 9, key) + self.below(half + 10, key))
    }

    /// 1 where the word is below `key`, else 0.
    #[inline(always)]
    fn below(&self, place: u32, key: u64) -> u32 {
        (u64::from(self.word(place)).wrapping_sub(key) >> 63) as u32
    }

    /// The mask says what is true anyway.
    #[inline(always)]
    fn word(&self, place: u32) -> u32 {
        self.0[place as usize & (WORDS - 1)]
    }
}

/// The value at `key`, which compares as a number (an address in host byte order).
#[inline(always)]
pub fn find32(lines: &(impl Lines + ?Sized), tree: Tree, key: u32) -> u32 {
    let key = opaque(key);
    let Tree { mut root, depth } = tree;
    for level in 0..MAX_DEPTH {
        if level == depth {
            break;
        }
        let Some(line) = lines.line(root) else { return NOTHING };
        root = line.child(key);
    }
    lines.line(root).map_or(NOTHING, |line| line.value(key))
}

/// The value at `key`: words that compare as numbers, the most significant first.
#[inline(always)]
pub fn find128(lines: &(impl Lines + ?Sized), mut tree: Tree, key: &[u32; 4]) -> u32 {
    for word in key {
        let value = find32(lines, tree, *word);
        match Tree::unpacked(value) {
            Some(next) => tree = next,
            None => return value,
        }
    }
    NOTHING
}

/// The key as a number of which the compiler knows nothing: it would make the sign of a difference a comparison again, and BPF
/// has no comparison without a jump.
#[inline(always)]
fn opaque(key: u32) -> u64 {
    black_box(u64::from(key))
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: repr(C), Copy, 'static, and without padding: bytemuck's derive of Pod proves it.
    unsafe impl aya::Pod for super::Line {}
}
