//! Prefixes and addresses for the look-ups alone, all of which follow from numbers: whoever fills the maps and the program that
//! looks addresses up need no list of either.
//!
//! IPv4 prefixes lie anywhere, IPv6 prefixes in blocks of sixteen neighbours anywhere in 2000::/3; they hold one another as it
//! comes. An address lies in a prefix that its number picks.

use super::mix;
use crate::interval::Tree;
use bytemuck::{Pod, Zeroable};

/// The lengths of IPv4 prefixes, all as frequent as they stand here.
pub const LENGTHS4: [u8; 32] = [
    24, 32, 23, 24, 22, 24, 32, 24, 21, 24, 16, 24, 32, 20, 24, 22, 24, 32, 19, 24, 23, 24, 32, 18, 24, 22, 24, 32, 17,
    24, 23, 8,
];
/// The same of IPv6.
pub const LENGTHS6: [u8; 32] = [
    48, 64, 48, 32, 48, 44, 48, 128, 48, 40, 48, 64, 48, 56, 48, 36, 48, 64, 48, 48, 32, 48, 44, 48, 64, 48, 56, 48,
    29, 48, 64, 128,
];
/// Different lengths.
pub const LENGTHS: usize = 12;

/// What is looked up in what. The one entry of `LOOKUPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Lookups {
    /// Prefixes that there are.
    pub prefixes: u32,
    /// Address `n` is that of `n & mask`.
    pub mask: u32,
    /// Addresses to look up in a run.
    pub count: u32,
    /// The bits of a value that the next address depends on. There are none, but no CPU knows that before the value is there, so
    /// that look-ups do not overlap.
    pub waits_for: u32,
    /// Padding.
    pub pad: u32,
    /// The tree with the prefixes.
    pub tree: Tree,
    /// The lengths of the prefixes, which [`LENGTHS4`] or [`LENGTHS6`] has.
    pub lengths: [u8; 32],
    /// The lengths that occur, the longest first; the rest is 0.
    pub occurring: [u32; LENGTHS],
}

/// Where the look-ups are. The one entry of `FOUND`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Found {
    /// The number of the next address; a run goes on where the one before ended.
    pub next: u64,
    /// The sum of all values found.
    pub sum: u64,
}

impl Lookups {
    /// A prefix, the bits after its length 0; words in host byte order. Of two that are the same, the later one counts.
    #[inline(always)]
    pub fn prefix4(&self, number: u32) -> (u32, u32) {
        let length = u32::from(self.lengths[number as usize & 31]);
        (mix(!number) & mask(length), length)
    }

    /// As [`Lookups::prefix4`].
    #[inline(always)]
    pub fn prefix6(&self, number: u32) -> ([u32; 4], u32) {
        let length = u32::from(self.lengths[number as usize & 31]);
        let words =
            [0x2000_0000 | mix(number >> 4) >> 3, mix(!number), mix(number ^ 0x5bd1_e995), mix(number ^ 0x1b87_3593)];
        (and(words, masks(length)), length)
    }

    /// The address of a number.
    #[inline(always)]
    pub fn address4(&self, number: u32) -> u32 {
        let random = mix(number & self.mask);
        let (prefix, length) = self.prefix4(self.pick(random));
        prefix | (mix(random ^ 0x9e37_79b9) & !mask(length))
    }

    /// As [`Lookups::address4`].
    #[inline(always)]
    pub fn address6(&self, number: u32) -> [u32; 4] {
        let random = mix(number & self.mask);
        let (prefix, length) = self.prefix6(self.pick(random));
        let host = mix(random ^ 0x9e37_79b9);
        let hosts = and([host, !host, host ^ 0x5555_5555, host ^ 0x3333_3333], masks(length).map(|mask| !mask));
        [prefix[0] | hosts[0], prefix[1] | hosts[1], prefix[2] | hosts[2], prefix[3] | hosts[3]]
    }

    #[inline(always)]
    fn pick(&self, random: u32) -> u32 {
        ((u64::from(random) * u64::from(self.prefixes)) >> 32) as u32
    }
}

/// The first `length` bits of a word, at most 32.
#[inline(always)]
pub fn mask(length: u32) -> u32 {
    !(u64::from(u32::MAX) >> (length & 63)) as u32
}

#[inline(always)]
fn masks(length: u32) -> [u32; 4] {
    [0, 32, 64, 96].map(|before| mask(length.saturating_sub(before).min(32)))
}

#[inline(always)]
fn and(words: [u32; 4], masks: [u32; 4]) -> [u32; 4] {
    [words[0] & masks[0], words[1] & masks[1], words[2] & masks[2], words[3] & masks[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookups(lengths: [u8; 32], mask: u32) -> Lookups {
        let occurring = [0; LENGTHS];
        Lookups { prefixes: 100_000, mask, count: 1, waits_for: 0, pad: 0, tree: Tree::EMPTY, lengths, occurring }
    }

    #[test]
    fn every_address_lies_in_a_prefix_and_hosts_differ() {
        let (four, six) = (lookups(LENGTHS4, u32::MAX), lookups(LENGTHS6, u32::MAX));
        let (mut seen4, mut seen6) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        for number in 0..10_000 {
            let pick = four.pick(mix(number));
            let (prefix, length) = four.prefix4(pick);
            let address = four.address4(number);
            assert_eq!(address & mask(length), prefix, "{number}");
            seen4.insert(address);
            let (prefix, length) = six.prefix6(pick);
            let address = six.address6(number);
            assert_eq!(and(address, masks(length)), prefix, "{number}");
            seen6.insert(address);
        }
        assert!(seen4.len() > 9_500 && seen6.len() > 9_500, "{} and {} addresses", seen4.len(), seen6.len());
        let one = lookups(LENGTHS4, 0);
        assert_eq!(one.address4(1), one.address4(2));
    }

    #[test]
    fn no_more_lengths_occur_than_there_is_room_for() {
        for lengths in [LENGTHS4, LENGTHS6] {
            let distinct: std::collections::HashSet<u8> = lengths.into_iter().collect();
            assert!(distinct.len() <= LENGTHS, "{distinct:?}");
        }
        assert_eq!([0, 1, 32].map(mask), [0, 1 << 31, u32::MAX]);
        assert_eq!(masks(65), [u32::MAX, u32::MAX, 1 << 31, 0]);
    }
}
