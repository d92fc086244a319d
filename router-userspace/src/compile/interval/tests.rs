//! The trees against a search through all prefixes.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use router_common::interval::{find32, find128};

/// The value of the longest prefix that holds the key; of equal ones the last.
fn naive<K: Key + Into<u128>>(ranges: &[Range<K>], key: K) -> u32 {
    let size = |range: &Range<K>| range.last.into() - range.first.into();
    let mut found: Option<&Range<K>> = None;
    for range in ranges {
        if range.first <= key && key <= range.last && found.is_none_or(|other| size(range) <= size(other)) {
            found = Some(range);
        }
    }
    found.map_or(NOTHING, |range| range.value)
}

fn words_of(key: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| (key >> shift) as u32)
}

/// Both ends of every range and the keys beside them, and the ends of the key space.
fn boundaries<K: Copy>(ranges: &[Range<K>], beside: impl Fn(K) -> [K; 3], ends: [K; 2]) -> Vec<K> {
    ranges.iter().flat_map(|range| [range.first, range.last]).chain(ends).flat_map(beside).collect()
}

fn holds32(ranges: &[Range<u32>], more: &[u32]) -> Result<(), TestCaseError> {
    // Beside another tree, so that no line is where a tree alone would have it.
    let mut lines = vec![Line::leaf([(u32::MAX, 77)].into_iter()); 3];
    let tree = tree32(&mut lines, &flatten(ranges.to_vec())).expect("a tree");
    let beside = |key: u32| [key.wrapping_sub(1), key, key.wrapping_add(1)];
    for key in boundaries(ranges, beside, [0, u32::MAX]).iter().chain(more) {
        prop_assert_eq!(find32(&lines[..], tree, *key), naive(ranges, *key), "key {:#x} of {:x?}", key, ranges);
    }
    Ok(())
}

fn holds128(ranges: &[Range<u128>], more: &[u128]) -> Result<(), TestCaseError> {
    let mut lines = vec![Line::leaf([(u32::MAX, 77)].into_iter()); 3];
    let tree = tree128(&mut lines, &flatten(ranges.to_vec())).expect("a tree");
    let beside = |key: u128| [key.wrapping_sub(1), key, key.wrapping_add(1)];
    for key in boundaries(ranges, beside, [0, u128::MAX]).iter().chain(more) {
        let found = find128(&lines[..], tree, &words_of(*key));
        prop_assert_eq!(found, naive(ranges, *key), "key {:#x} of {:x?}", key, ranges);
    }
    Ok(())
}

/// Few distinct bits, so that prefixes hold one another and lie side by side; few values, so that neighbours merge.
fn prefix4() -> impl Strategy<Value = Range<u32>> {
    let address =
        prop_oneof![any::<u32>(), (0..64u32).prop_map(|bits| bits << 26), (0..64u32), (0..64u32).prop_map(|b| !b)];
    (address, 0..=32u8, 0..4u32).prop_map(|(bits, length, value)| Range::prefix4(bits.into(), length, value))
}

fn prefix6() -> impl Strategy<Value = Range<u128>> {
    let few = prop::sample::select(vec![0, 1, 2, 3, u32::MAX - 1, u32::MAX]);
    let address = prop_oneof![any::<[u32; 4]>(), [few.clone(), few.clone(), few.clone(), few]];
    (address, 0..=128u8, 0..4u32).prop_map(|(words, length, value)| {
        let bits = words.iter().fold(0, |bits: u128, word| bits << 32 | u128::from(*word));
        Range::prefix6(bits.into(), length, value)
    })
}

/// What segments say of a key.
fn at<K: Key>(segments: &[Segment<K>], key: K) -> u32 {
    segments.iter().rev().find(|segment| segment.first <= key).map_or(NOTHING, |segment| segment.value)
}

proptest! {
    #[test]
    fn what_is_laid_over_counts_where_it_says_anything(lower in vec(prefix4(), 0..20), upper in vec(prefix4(), 0..8)) {
        let both = overlay(lower.clone(), upper.clone());
        prop_assert!(both.windows(2).all(|pair| pair[0].first < pair[1].first && pair[0].value != pair[1].value));
        let all = [lower.clone(), upper.clone()].concat();
        let beside = |key: u32| [key.wrapping_sub(1), key, key.wrapping_add(1)];
        for key in boundaries(&all, beside, [0, u32::MAX]) {
            let above = naive(&upper, key);
            let wanted = if above == NOTHING { naive(&lower, key) } else { above };
            prop_assert_eq!(at(&both, key), wanted, "{:#x}", key);
        }
    }

    #[test]
    fn the_longest_ipv4_prefix_gives_the_value(ranges in vec(prefix4(), 0..300), more in vec(any::<u32>(), 20)) {
        holds32(&ranges, &more)?;
    }

    #[test]
    fn the_longest_ipv6_prefix_gives_the_value(ranges in vec(prefix6(), 0..200), more in vec(any::<u128>(), 20)) {
        holds128(&ranges, &more)?;
    }

    /// Any ranges, overlapping ones too, against the value that each key was given last in the order that `flatten` tells of.
    #[test]
    fn of_overlapping_ranges_the_one_that_begins_later_counts(
        ranges in vec((0..40u32, 0..40u32, 0..6u32), 0..30)
    ) {
        let ranges: Vec<_> = ranges.into_iter().map(|(first, last, value)| Range { first, last, value }).collect();
        let mut painted = [NOTHING; 41];
        let mut ordered = ranges.clone();
        ordered.sort_by_key(|range| (range.first, Reverse(range.last)));
        for range in ordered {
            (range.first..=range.last).for_each(|key| painted[key as usize] = range.value);
        }
        let segments = flatten(ranges);
        for pair in segments.windows(2) {
            prop_assert!(pair[0].first < pair[1].first && pair[0].value != pair[1].value, "{:?}", segments);
        }
        for (key, value) in painted.into_iter().enumerate() {
            let of = segments.iter().rev().find(|segment| segment.first as usize <= key);
            prop_assert_eq!(of.map_or(NOTHING, |segment| segment.value), value, "key {} of {:?}", key, segments);
        }
    }

    /// Segments need not be merged, nor begin at 0, nor be something.
    #[test]
    fn segments_are_taken_as_they_are(
        segments in prop::collection::btree_map(any::<u32>(), prop_oneof![Just(NOTHING), 0..3u32], 0..400)
    ) {
        let list: Vec<_> = segments.iter().map(|(first, value)| Segment { first: *first, value: *value }).collect();
        let wide: Vec<_> = list.iter().map(|one| Segment { first: u128::from(one.first) << 40, value: one.value }).collect();
        let mut lines = Vec::new();
        let tree = tree32(&mut lines, &list).expect("a tree");
        let wide = tree128(&mut lines, &wide).expect("a tree");
        for key in segments.keys().flat_map(|key| [key.saturating_sub(1), *key, key.saturating_add(1)]) {
            let value = segments.range(..=key).next_back().map_or(NOTHING, |(_, value)| *value);
            prop_assert_eq!(find32(&lines[..], tree, key), value);
            prop_assert_eq!(find128(&lines[..], wide, &words_of(u128::from(key) << 40)), value);
        }
    }
}

#[test]
fn the_ends_of_what_can_be_said() {
    let all4 = Range::prefix4(Ipv4Addr::UNSPECIFIED, 0, 1);
    let all6 = Range::prefix6(Ipv6Addr::UNSPECIFIED, 0, 1);
    let last4 = Range::prefix4(Ipv4Addr::BROADCAST, 32, 2);
    let last6 = Range::prefix6(u128::MAX.into(), 128, 2);
    let first6 = Range::prefix6(Ipv6Addr::UNSPECIFIED, 128, 3);
    holds32(&[], &[7]).expect("nothing");
    holds128(&[], &[7]).expect("nothing");
    holds32(&[all4], &[7]).expect("all");
    holds128(&[all6], &[7]).expect("all");
    holds32(&[last4, all4], &[7]).expect("all but the last");
    holds128(&[last6, first6, all6], &[7, 1 << 64, !(1 << 64)]).expect("all but the ends");
    holds128(&[last6, first6], &[7, 1 << 64, !(1 << 64)]).expect("the ends");
    assert_eq!(flatten(vec![Range { first: 5u32, last: 4, value: 1 }]), []);
}

#[test]
fn trees_of_every_depth_are_full_and_not_full() {
    for count in [1, 2, 7, 8, 9, 127, 128, 129, 2047, 2048, 2049, 32_767, 32_768, 32_769] {
        let segments: Vec<_> = (0..count).map(|place| Segment { first: place * 3, value: place }).collect();
        let mut lines = Vec::new();
        let tree = tree32(&mut lines, &segments).expect("a tree");
        assert_eq!(tree.depth, [8, 128, 2048, 32_768].iter().filter(|most| count > **most).count() as u32);
        for key in (0..count * 3).chain([u32::MAX]) {
            assert_eq!(find32(&lines[..], tree, key), (key / 3).min(count - 1), "key {key} of {count}");
        }
    }
}

#[test]
fn what_no_tree_can_hold_is_refused() {
    let segment = |first, value| Segment { first, value };
    assert_eq!(tree32(&mut Vec::new(), &[segment(0, MAX_VALUE + 1)]), Err(Error::Value(MAX_VALUE + 1)));
    assert_eq!(tree32(&mut Vec::new(), &[segment(1, 1), segment(1, 2)]), Err(Error::Order(1)));
    assert_eq!(tree32(&mut Vec::new(), &[segment(0, MAX_VALUE), segment(9, NOTHING)]).map(|tree| tree.depth), Ok(0));
}

/// A million prefixes of mixed lengths, everywhere and all within one /16, against the same held in a map by length and prefix.
#[test]
fn a_million_prefixes() {
    for within in [0u32, 16] {
        let mut random = fastrand::Rng::with_seed(4);
        let mut by_length = vec![std::collections::HashMap::new(); 33];
        let mut ranges = Vec::new();
        for value in 0..1_000_000 {
            let length = random.u8(within.max(8) as u8..=32);
            let address = 0x0a05_0000 & !u32::MAX.checked_shr(within).unwrap_or(0) | random.u32(..) >> within;
            let range = Range::prefix4(address.into(), length, value);
            by_length[usize::from(length)].insert(range.first, value);
            ranges.push(range);
        }
        let naive = |key: u32| {
            let of = |length: usize| by_length[length].get(&Range::prefix4(key.into(), length as u8, 0).first).copied();
            (0..=32).rev().find_map(of).unwrap_or(NOTHING)
        };
        let mut lines = Vec::new();
        let tree = tree32(&mut lines, &flatten(ranges.clone())).expect("a tree");
        for range in ranges.iter().step_by(7) {
            for key in
                [range.first.wrapping_sub(1), range.first, range.last, range.last.wrapping_add(1), random.u32(..)]
            {
                assert_eq!(find32(&lines[..], tree, key), naive(key), "key {key:#x}");
            }
        }
    }
}
