//! What `[[mark]]` and `[[rule]]` have in common: lists of values, families, expansion to one value each.

use super::cursor::{Findings, Item, Section};
use super::diagnostic::Span;
use super::values::{Net, mark, title};
use crate::model::Family;
use std::collections::HashSet;
use std::hash::Hash;

/// The most rules (and the most alternatives of marks) that a file may come to. The kernel walks its list one by one and needs
/// minutes to take in as many.
pub(super) const MOST: usize = 500_000;

/// The values of a key, one or a list, each with its place; equal ones once. None at all: the key is not there.
pub(super) fn values<'d, T: Clone + Eq + Hash>(
    findings: &mut Findings<'_>,
    section: &Section<'d>,
    key: &'static str,
    mut parse: impl FnMut(&mut Findings<'_>, &Item<'d>) -> Option<T>,
) -> Vec<(T, Span)> {
    let Some(field) = section.get(key) else { return Vec::new() };
    let mut seen = HashSet::new();
    let mut values = Vec::new();
    for item in field.items(findings, false) {
        let Some(value) = parse(findings, &item) else { continue };
        if seen.insert(value.clone()) {
            values.push((value, item.span));
        } else {
            findings.warn(item.span, format!("`{key}` has this value twice"), "take one away");
        }
    }
    values
}

/// A mark to compare with: `fwmark` of a rule or of a `[[mark]]`.
pub(super) fn compared_mark<'d>(findings: &mut Findings<'_>, section: &Section<'d>) -> Vec<(u32, u32, Span)> {
    let marks = values(findings, section, "fwmark", mark);
    let mut compared = Vec::with_capacity(marks.len());
    for ((value, mask), span) in marks {
        match mask {
            Some(0) => findings.error(
                span,
                "a mask of 0 compares no bit, so every mark matches",
                "leave `fwmark` out to match all",
            ),
            Some(mask) if value & !mask != 0 => {
                let message = format!("{value:#x} has bits outside of its mask {mask:#x}; they are not compared");
                findings.warn(span.clone(), message, format!("write \"{:#x}/{mask:#x}\"", value & mask));
                compared.push((value, mask, span));
            }
            // Without a mask the whole mark counts, 0 included; ip(8) would take a bare 0 for "any".
            mask => compared.push((value, mask.unwrap_or(u32::MAX), span)),
        }
    }
    compared
}

/// The families that a statement speaks of: the one it says, else those that its addresses leave.
pub(super) fn families(
    findings: &mut Findings<'_>,
    said: Option<Family>,
    from: &[(Net, Span)],
    to: &[(Net, Span)],
) -> Vec<Family> {
    if let Some(family) = said {
        for (net, span) in from.iter().chain(to) {
            if !net.is_of(family) {
                let message = match net {
                    Net::Set { .. } => {
                        format!("this set has no {} address, and the family is \"{family}\"", title(family))
                    }
                    _ => format!("this is no {} address, and the family is \"{family}\"", title(family)),
                };
                findings.error(span.clone(), message, "take it away, or the line with `family`");
            }
        }
        return vec![family];
    }
    let has = |nets: &[(Net, Span)], family| nets.is_empty() || nets.iter().any(|(net, _)| net.is_of(family));
    let families: Vec<Family> =
        Family::BOTH.into_iter().filter(|family| has(from, *family) && has(to, *family)).collect();
    if let ([], Some((_, span))) = (families.as_slice(), to.first()) {
        let message = "`from` and `to` share no family: no packet has an IPv4 and an IPv6 address";
        findings.error(span.clone(), message, "give both addresses of one family");
        return families;
    }
    for (nets, other) in [(from, "to"), (to, "from")] {
        for (net, span) in nets {
            if let Some(family) = Family::BOTH.into_iter().find(|family| !families.contains(family))
                && !families.iter().any(|family| net.is_of(*family))
            {
                let what = if matches!(net, Net::Set { .. }) { "set" } else { "address" };
                let message = format!("this {} {what} has no effect: `{other}` has none of that family", title(family));
                findings.warn(span.clone(), message, format!("take it away, or give `{other}` one too"));
            }
        }
    }
    families
}

/// A flow label is IPv6's: a statement that has one speaks of no other family.
pub(super) fn only_ipv6(findings: &mut Findings<'_>, labels: &[((u32, u32), Span)], families: &mut Vec<Family>) {
    let Some((_, span)) = labels.first() else { return };
    families.retain(|family| *family == Family::Ipv6);
    if families.is_empty() {
        let message = "`flowlabel` is a selector of IPv6, and this is about IPv4 alone";
        findings.error(span.clone(), message, "take it away, or the IPv4 addresses and the line with `family`");
    }
}

/// One alternative of a selector of addresses: a prefix, a set, or neither for "any".
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub net: Option<ipnet::IpNet>,
    /// The place of a set among all.
    pub set: Option<usize>,
}

/// The selectors of one family for a list of addresses; none where the list is not there.
pub(super) fn nets_of(nets: &[(Net, Span)], family: Family) -> Vec<Address> {
    let address = |net: &Net| Address {
        net: net.selector(),
        set: if let Net::Set { index, .. } = net { Some(*index) } else { None },
    };
    let mut of_family: Vec<_> = nets.iter().filter(|(net, _)| net.is_of(family)).map(|(net, _)| address(net)).collect();
    of_family.dedup();
    of_family
}

/// Every combination: each of `all` with each of `values`. Nothing to combine with leaves it alone.
pub(super) fn combine<S: Clone, T>(all: Vec<S>, values: &[T], set: impl Fn(&mut S, &T)) -> Vec<S> {
    if values.is_empty() {
        return all;
    }
    let mut combined = Vec::with_capacity(all.len() * values.len());
    for one in &all {
        for value in values {
            let mut one = one.clone();
            set(&mut one, value);
            combined.push(one);
        }
    }
    combined
}

/// How many combinations lists of these lengths have, 0 counting as 1.
pub(super) fn combinations(lengths: &[usize]) -> usize {
    lengths.iter().fold(1, |product: usize, length| product.saturating_mul((*length).max(1)))
}
