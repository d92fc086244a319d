//! The sets of Wayfork's own table: intervals of addresses, written as start and end elements.

use super::uapi::*;
use crate::kernel::wire::Attrs;
use crate::model::{AddressSet, Family, MarkRule, PrefixSet, difference};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Ranges in one message: the list of elements is one attribute, which ends at 64 KiB.
const RANGES: usize = 900;

/// The sets that some marks look at, by name.
pub(super) type Sets = BTreeMap<String, (Family, Arc<PrefixSet>)>;

/// The name of a set's part of one family.
pub(super) fn set_name(set: &AddressSet, family: Family) -> String {
    format!("{family}-{}", set.name)
}

/// The sets that marks look at.
pub(super) fn sets_of(marks: &[MarkRule]) -> Sets {
    let named = |mark: &MarkRule| {
        let family = mark.family;
        mark.selectors.sets().map(move |set| (set_name(set, family), (family, set.members.clone()))).collect::<Vec<_>>()
    };
    marks.iter().flat_map(named).collect()
}

/// A new set, empty. `id` is its own within the transaction.
pub(super) fn new_set(table: Attrs, name: &str, family: Family, id: u32) -> Attrs {
    // nft's numbers for `ipv4_addr` and `ipv6_addr`, by which it lists the members.
    let kind = match family {
        Family::Ipv4 => 7,
        Family::Ipv6 => 8,
    };
    table
        .string(NFTA_SET_NAME, name)
        .be32(NFTA_SET_FLAGS, NFT_SET_INTERVAL)
        .be32(NFTA_SET_KEY_TYPE, kind)
        .be32(NFTA_SET_KEY_LEN, u32::from(family.bits()) / 8)
        .be32(NFTA_SET_ID, id)
}

/// The messages' bodies that add all members of a set.
pub(super) fn all(table: &Attrs, name: &str, (family, members): &(Family, Arc<PrefixSet>)) -> Vec<Attrs> {
    match family {
        Family::Ipv4 => bodies(table, name, members.v4()),
        Family::Ipv6 => bodies(table, name, members.v6()),
    }
}

/// The messages' bodies that lead from one content of a set to another: what to delete, what to add.
pub(super) fn between(
    table: &Attrs,
    name: &str,
    (family, old): &(Family, Arc<PrefixSet>),
    new: &PrefixSet,
) -> (Vec<Attrs>, Vec<Attrs>) {
    fn both<T: Address>(table: &Attrs, name: &str, old: &[(T, T)], new: &[(T, T)]) -> (Vec<Attrs>, Vec<Attrs>) {
        let (gone, come) = difference(old, new);
        (bodies(table, name, &gone), bodies(table, name, &come))
    }
    match family {
        Family::Ipv4 => both(table, name, old.v4(), new.v4()),
        Family::Ipv6 => both(table, name, old.v6(), new.v6()),
    }
}

/// An address as a number.
trait Address: Copy + Ord {
    /// In wire order.
    fn octets(self) -> Vec<u8>;
    /// The next one; None behind the last.
    fn next(self) -> Option<Self>;
}

impl Address for u32 {
    fn octets(self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    fn octets(self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Elements: each range has one at its start and one, marked as an end, behind its last address. A range that goes to the last
/// address of all has no end, as nft writes it.
fn bodies<T: Address>(table: &Attrs, name: &str, ranges: &[(T, T)]) -> Vec<Attrs> {
    let element = |address: T, end: bool| {
        let key = Attrs::default().bytes(NFTA_DATA_VALUE, &address.octets());
        let element = Attrs::default().nested(NFTA_SET_ELEM_KEY, key);
        if end { element.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END) } else { element }
    };
    let message = |ranges: &[(T, T)]| {
        let mut list = Attrs::default();
        for (first, last) in ranges {
            list = list.nested(NFTA_LIST_ELEM, element(*first, false));
            if let Some(behind) = last.next() {
                list = list.nested(NFTA_LIST_ELEM, element(behind, true));
            }
        }
        table.clone().string(NFTA_SET_ELEM_LIST_SET, name).nested(NFTA_SET_ELEM_LIST_ELEMENTS, list)
    };
    ranges.chunks(RANGES).map(message).collect()
}
