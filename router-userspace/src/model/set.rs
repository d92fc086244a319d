//! Sets of addresses: the members of `[sets]`.

use super::Family;
use ipnet::IpNet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Addresses of both families, as ranges that are in order, apart and not next to each other: one form for one set, however its
/// prefixes were written.
#[derive(Default)]
pub struct PrefixSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    digest: u64,
}

/// A set with its name in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressSet {
    /// Its name, without `@`.
    pub name: Arc<str>,
    /// Its members.
    pub members: Arc<PrefixSet>,
}

/// Which address of a packet is looked for in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The source.
    From,
    /// The destination.
    To,
}

impl Side {
    /// The selector's name.
    pub fn name(self) -> &'static str {
        match self {
            Side::From => "from",
            Side::To => "to",
        }
    }
}

impl PrefixSet {
    /// The addresses of these prefixes. Equal ones, overlapping ones and neighbours become one range.
    pub fn new(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        merge(&mut v4, |last, next| last.checked_add(1).is_none_or(|after| next <= after));
        merge(&mut v6, |last, next| last.checked_add(1).is_none_or(|after| next <= after));
        let words = v4.iter().flat_map(|(first, last)| [u64::from(*first), u64::from(*last)]);
        let long = v6.iter().flat_map(|(first, last)| [*first, *last]);
        let long = long.flat_map(|number| [(number >> 64) as u64, number as u64]);
        // FNV-1a by words. The count in front keeps the families apart.
        let all = [v4.len() as u64].into_iter().chain(words).chain(long);
        let digest = all.fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
            (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(7)
        });
        PrefixSet { v4, v6, digest }
    }

    /// The IPv4 ranges, first and last address of each in host byte order.
    pub fn v4(&self) -> &[(u32, u32)] {
        &self.v4
    }

    /// The IPv6 ranges, first and last address of each as numbers.
    pub fn v6(&self) -> &[(u128, u128)] {
        &self.v6
    }

    /// How many ranges of a family it has.
    pub fn ranges(&self, family: Family) -> usize {
        match family {
            Family::Ipv4 => self.v4.len(),
            Family::Ipv6 => self.v6.len(),
        }
    }

    /// Whether it has no address at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// What tells it from other sets, as far as 64 bits do.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// Brings ranges into order and makes one of those that `touches` (the end of one, the start of the next) says belong together.
fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>, touches: impl Fn(T, T) -> bool) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let together = touches(kept.1, next.0);
        if together {
            kept.1 = kept.1.max(next.1);
        }
        together
    });
    ranges.shrink_to_fit();
}

/// Ranges, first and last address of each.
pub type Ranges<T> = Vec<(T, T)>;

/// The difference between two lists of ranges that are in order and apart: what is only in the first, what is only in the
/// second, as whole ranges.
pub fn difference<T: Copy + Ord>(old: &[(T, T)], new: &[(T, T)]) -> (Ranges<T>, Ranges<T>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return (gone, come),
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => {
                gone.push(**a);
                old.next();
            }
            _ => come.extend(new.next().copied()),
        }
    }
}

impl PartialEq for PrefixSet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.v4 == other.v4 && self.v6 == other.v6
    }
}

impl Eq for PrefixSet {}

impl Hash for PrefixSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for PrefixSet {
    /// Its size and digest: a million members are of no use to a reader.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrefixSet({} ranges, {} ranges, {:#018x})", self.v4.len(), self.v6.len(), self.digest)
    }
}

impl fmt::Display for AddressSet {
    /// `@streaming`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn set(prefixes: &[&str]) -> PrefixSet {
        PrefixSet::new(prefixes.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn prefixes_become_ranges_apart() {
        let one =
            set(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.3.0/24", "255.255.255.255/32", "fd00::/8"]);
        let start = u32::from_be_bytes([10, 0, 0, 0]);
        assert_eq!(one.v4(), [(start, start + 511), (start + 768, start + 1023), (u32::MAX, u32::MAX)]);
        assert_eq!(one.v6(), [(0xfd << 120, (0xfe << 120) - 1)]);
        assert_eq!(set(&["0.0.0.0/0", "10.0.0.0/8", "::/0", "ff00::/8"]), set(&["::/0", "0.0.0.0/1", "128.0.0.0/1"]));
        assert!(set(&[]).is_empty());
        // The same numbers in the other family are another set.
        assert_ne!(set(&["0.0.0.1/32"]).digest(), set(&["::1/128"]).digest());
    }

    proptest! {
        #[test]
        fn the_same_addresses_are_the_same_set(nets in prop::collection::vec((0u32..64, 26u8..=32), 0..12), probe in 0u32..80) {
            let nets: Vec<ipnet::Ipv4Net> = nets.iter().map(|(addr, len)| ipnet::Ipv4Net::new((*addr).into(), *len).unwrap().trunc()).collect();
            let set = PrefixSet::new(nets.iter().map(|net| IpNet::V4(*net)));
            let within = set.v4().iter().any(|(first, last)| (*first..=*last).contains(&probe));
            prop_assert_eq!(within, nets.iter().any(|net| net.contains(&std::net::Ipv4Addr::from(probe))));
            prop_assert!(set.v4().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", set.v4());
        }

        #[test]
        fn a_difference_leads_from_one_to_the_other(old in ranges(), new in ranges()) {
            let (gone, come) = difference(&old, &new);
            prop_assert!(gone.iter().all(|range| old.contains(range) && !new.contains(range)));
            let mut then: Vec<_> = old.iter().filter(|range| !gone.contains(range)).chain(&come).copied().collect();
            then.sort_unstable();
            prop_assert_eq!(then, new);
        }
    }

    fn ranges() -> impl Strategy<Value = Vec<(u32, u32)>> {
        prop::collection::btree_map(0u32..20, 0u32..2, 0..12)
            .prop_map(|ranges| ranges.into_iter().map(|(start, len)| (start * 3, start * 3 + len)).collect())
    }
}
