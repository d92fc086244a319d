//! What a rule looks at, as prefixes that hold one another: addresses, or the bits of the mark under one mask.

use crate::model::{Family, Rule, RuleAction, Selectors};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A prefix of up to 128 bits, from the highest bit on. The order is that of a sorted list: what holds others before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cover {
    bits: u128,
    length: u8,
}

/// The selector that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    From,
    To,
    /// The mark under this mask.
    Mark(u32),
}

impl Cover {
    fn new(bits: u128, length: u8) -> Self {
        let kept = match length {
            0 => 0,
            length => u128::MAX << (128 - u32::from(length.min(128))),
        };
        Cover { bits: bits & kept, length }
    }

    /// How many bits it has.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The longest prefix that holds both.
    pub fn with(self, other: Cover) -> Cover {
        let common = (self.bits ^ other.bits).leading_zeros() as u8;
        Cover::new(self.bits, common.min(self.length).min(other.length))
    }

    /// Whether all of `other` lies in it.
    pub fn holds(self, other: Cover) -> bool {
        self.length <= other.length && Cover::new(other.bits, self.length) == self
    }

    /// The half of `whole` that it lies in, which is one bit longer; None where it is all of it.
    pub fn half_of(self, whole: Cover) -> Option<Cover> {
        (self.length > whole.length).then(|| Cover::new(self.bits, whole.length + 1))
    }
}

/// The bits of a mask, the highest first.
fn places(mask: u32) -> impl Iterator<Item = u32> {
    (0..u32::BITS).rev().map(|place| 1 << place).filter(move |bit| mask & bit != 0)
}

impl Axis {
    /// The selectors by which a rule can be told to match nothing outside a prefix.
    pub fn of(rule: &Rule) -> Vec<Axis> {
        let selectors = &rule.selectors;
        // A request to delete a jump would hit a skip before it: the target is not compared. And what does nothing goes ways of
        // its own in a change.
        if selectors.not || matches!(rule.action, RuleAction::Goto(_) | RuleAction::Nop) {
            return Vec::new();
        }
        let from = selectors.from.filter(|net| net.prefix_len() > 0).map(|_| Axis::From);
        let to = selectors.to.filter(|net| net.prefix_len() > 0).map(|_| Axis::To);
        let mark = selectors.fwmark.filter(|(_, mask)| *mask != 0).map(|(_, mask)| Axis::Mark(mask));
        [from, to, mark].into_iter().flatten().collect()
    }

    /// The prefix outside which `rule` matches nothing; None where there is none.
    pub fn cover(self, rule: &Rule) -> Option<Cover> {
        if !Axis::of(rule).contains(&self) {
            return None;
        }
        let net = match self {
            Axis::From => rule.selectors.from?,
            Axis::To => rule.selectors.to?,
            Axis::Mark(mask) => {
                let (value, _) = rule.selectors.fwmark?;
                let set = |bits: u128, (place, bit): (usize, u32)| {
                    bits | u128::from(value & bit != 0) << (u128::BITS as usize - 1 - place)
                };
                return Some(Cover::new(places(mask).enumerate().fold(0, set), mask.count_ones() as u8));
            }
        };
        let bits = match net.addr() {
            IpAddr::V4(addr) => u128::from(u32::from(addr)) << 96,
            IpAddr::V6(addr) => u128::from(addr),
        };
        Some(Cover::new(bits, net.prefix_len()))
    }

    /// The rule but for this selector and its priority.
    pub fn rest(self, rule: &Rule) -> Rule {
        let mut rest = Rule { priority: 0, ..rule.clone() };
        match self {
            Axis::From => rest.selectors.from = None,
            Axis::To => rest.selectors.to = None,
            Axis::Mark(_) => rest.selectors.fwmark = None,
        }
        rest
    }

    /// Everything outside `cover`.
    pub fn outside(self, family: Family, cover: Cover) -> Selectors {
        let mut selectors = Selectors { not: true, ..Selectors::default() };
        let net = || match family {
            Family::Ipv4 => {
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from((cover.bits >> 96) as u32), cover.length.min(32)))
            }
            Family::Ipv6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(cover.bits), cover.length.min(128))),
        };
        match self {
            Axis::From => selectors.from = Some(net()),
            Axis::To => selectors.to = Some(net()),
            Axis::Mark(mask) => {
                let top = |place: usize| cover.bits >> (u128::BITS as usize - 1 - place) & 1 != 0;
                let kept = || places(mask).take(cover.length.into()).enumerate();
                let value = kept().filter(|(place, _)| top(*place)).map(|(_, bit)| bit).sum();
                selectors.fwmark = Some((value, kept().map(|(_, bit)| bit).sum()));
            }
        }
        selectors
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prefixes_hold_one_another() {
        let cover = |net: &str| {
            let mut rule = Rule::lookup(Family::Ipv4, 1, 7);
            rule.selectors.from = Some(net.parse().unwrap());
            Axis::From.cover(&rule).unwrap()
        };
        let (wide, near, far) = (cover("10.0.0.0/8"), cover("10.0.0.0/9"), cover("10.128.0.0/16"));
        assert_eq!(near.with(far), wide);
        assert_eq!(wide.with(near), wide);
        assert_eq!(far.half_of(wide), Some(cover("10.128.0.0/9")));
        assert_eq!(wide.half_of(wide), None);
        assert!(wide.holds(wide) && wide.holds(far) && !far.holds(wide) && !near.holds(far));
        assert_eq!(Axis::From.outside(Family::Ipv4, far).to_string(), "not from 10.128.0.0/16");
        assert!(wide < near && near < far);
    }

    #[test]
    fn marks_are_prefixes_of_their_mask() {
        let rule = |value| {
            let mut rule = Rule::lookup(Family::Ipv4, 1, 7);
            rule.selectors.fwmark = Some((value, 0xf0f0));
            rule
        };
        let axis = Axis::Mark(0xf0f0);
        let both = axis.cover(&rule(0x1010)).unwrap().with(axis.cover(&rule(0x1070)).unwrap());
        assert_eq!(both.length(), 5);
        let outside = axis.outside(Family::Ipv4, both);
        assert_eq!(outside.fwmark, Some((0x1000, 0xf080)));
        let whole =
            Rule { selectors: Selectors { fwmark: Some((0x1000, u32::MAX)), ..Selectors::default() }, ..rule(0) };
        assert_eq!(axis.cover(&whole), None, "of another mask nothing is said");
    }
}
