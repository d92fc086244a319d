//! The bits of the mark that tell of sets: one for each use of a set by a rule, chosen so that nobody else reads or writes it.

use super::bits::as_class_rule;
use super::facts::{Expression, Facts, MarkUse, Marks};
use crate::model::{Host, OWN_PROTOCOL, protocol_name};
use crate::policy::{Policy, SetUse};
use std::collections::{BTreeMap, BTreeSet};

/// Why the bits of the mark do not do for a policy on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; {mend}")]
pub struct NoBits {
    /// What stands against it.
    pub why: String,
    /// What to do.
    pub mend: String,
}

/// The policy with a bit of the mark for each use of a set ([`Policy::with_set_bits`]). `held` are the bits of the policy that is
/// in force, which stay where they are free: so that no packet is judged by one rule's bit and another rule's meaning.
pub fn with_set_bits(
    policy: &Policy,
    host: &Host,
    facts: &Facts,
    held: &BTreeMap<SetUse, u32>,
) -> Result<Policy, NoBits> {
    Ok(bound(policy, host, facts, held)?.unwrap_or_else(|| policy.clone()))
}

/// The same; None where the policy is that already, since it names no set.
pub fn bound(
    policy: &Policy,
    host: &Host,
    facts: &Facts,
    held: &BTreeMap<SetUse, u32>,
) -> Result<Option<Policy>, NoBits> {
    let users = users(policy, host, facts);
    if let Some(bits) = policy.router.mark_bits {
        check_mark_bits(bits, &users)?;
    }
    let wanted = policy.set_uses();
    if wanted.is_empty() {
        return Ok(None);
    }
    let (mut free, mut whole) = (policy.router.mark_bits.unwrap_or(u32::MAX), BTreeSet::new());
    for user in &users {
        match user.what {
            Marks::Bits(bits) => free &= !bits,
            // The file's bits are the word of somebody who knows; of the rules of the RPDB all is known.
            Marks::Whole(0) | Marks::Unknown if policy.router.mark_bits.is_some() && !user.is_rule => {}
            Marks::Whole(0) => {
                let bits = if user.is_rule { "" } else { ", or name bits that it has no use for: [router] mark_bits" };
                return Err(NoBits {
                    why: format!("{} takes packets whose whole mark is 0, which no packet of a set has", user.who),
                    mend: format!("make it compare the bits that it means{bits}"),
                });
            }
            Marks::Whole(value) => {
                free &= !value;
                whole.insert(value);
            }
            Marks::Unknown => {
                return Err(NoBits {
                    why: format!("{} may have to do with marks, and which bits cannot be seen", user.who),
                    mend: "name bits that it has no use for: [router] mark_bits = \"0xf0000000\", say".to_owned(),
                });
            }
        }
    }
    // The [[mark]] are done before the bits are set. What they set is for somebody.
    for mark in policy.mark_rules() {
        free &= !if mark.mask == u32::MAX { mark.value } else { mark.mask };
    }
    let bits = choose(&wanted, free, held, host).ok_or_else(|| {
        let of_file = if policy.router.mark_bits.is_some() { " of mark_bits" } else { "" };
        NoBits {
            why: format!(
                "{} bits of the mark are needed, one for each set in `from` and in `to` of the rules, and {}{of_file} are free",
                wanted.len(),
                free.count_ones()
            ),
            mend: "use fewer sets: one [[mark]] can gather several under bits of your own".to_owned(),
        }
    })?;
    Ok(Some(policy.with_set_bits(&bits, &whole)))
}

/// Somebody who looks at the mark or writes it.
struct User {
    who: String,
    what: Marks,
    /// It is a rule of the RPDB.
    is_rule: bool,
}

/// Everybody else: rules of the file and of others, nftables, WireGuard.
fn users(policy: &Policy, host: &Host, facts: &Facts) -> Vec<User> {
    let rule = |who: String, (value, mask)| User {
        who,
        what: if mask == u32::MAX { Marks::Whole(value) } else { Marks::Bits(mask) },
        is_rule: true,
    };
    let of_file = policy.rules.iter().filter_map(|lowered| {
        let who = || format!("the rule of priority {} ({})", lowered.rule.priority, lowered.at);
        lowered.rule.selectors.fwmark.map(|mark| rule(who(), mark))
    });
    let foreign = host.rules.iter().filter(|rule| rule.protocol != OWN_PROTOCOL).filter_map(|one| {
        let who = || format!("the {} rule `{one}` (owner: {})", one.family, protocol_name(one.protocol));
        one.selectors.fwmark.map(|mark| rule(who(), mark))
    });
    let others = facts.marks.iter();
    let others = others.map(|MarkUse { who, what }| User { who: who.clone(), what: *what, is_rule: false });
    let unseen = unseen(host, facts).into_iter().map(|who| User { who, what: Marks::Unknown, is_rule: false });
    of_file.chain(foreign).chain(others).chain(unseen).collect()
}

/// Who may look at marks after routing or write them, without a word of which.
fn unseen(host: &Host, facts: &Facts) -> Vec<String> {
    let mut all: Vec<String> = facts.doubts.iter().map(|doubt| format!("what is not known ({doubt})")).collect();
    // Those of the others are among `Facts::marks`.
    let followed = |expression: &Expression| match expression.name.as_str() {
        "meta" | "ct" | "fib" | "socket" | "tproxy" => true,
        _ => matches!(expression.extension.as_deref(), Some("mark" | "MARK" | "connmark" | "CONNMARK")),
    };
    for chain in &facts.chains {
        let expression = chain.expressions.iter().find(|one| one.may_touch_mark() && !followed(one));
        all.extend(expression.map(|expression| format!("{} ({})", chain.title(), expression.title())));
    }
    all.extend(facts.legacy_tables.iter().map(|table| format!("table {table}")));
    for (index, filters) in &facts.filters {
        let filter = filters.iter().find(|filter| !filter.ingress && filter.may_touch_mark());
        all.extend(filter.map(|filter| format!("a TC filter ({}) on {}", filter.kind, host.link_name(*index))));
    }
    all
}

/// `mark_bits` of the file against everybody else on this host; what the file itself does with them was seen when it was read.
fn check_mark_bits(bits: u32, users: &[User]) -> Result<(), NoBits> {
    for user in users {
        let used = match user.what {
            Marks::Bits(used) | Marks::Whole(used) => used & bits,
            Marks::Unknown => 0,
        };
        if used != 0 {
            return Err(NoBits {
                why: format!("mark_bits {bits:#x} shares {used:#x} with {}", user.who),
                mend: "choose other bits, or let Wayfork choose: leave mark_bits out".to_owned(),
            });
        }
    }
    Ok(())
}

/// A free bit for each use. Those held stay; others are the highest that nobody had so far, neither another use nor the classes of
/// the fast path: a rule that is still there would take the packets that get a bit anew.
fn choose(
    wanted: &BTreeSet<SetUse>,
    free: u32,
    held: &BTreeMap<SetUse, u32>,
    host: &Host,
) -> Option<BTreeMap<SetUse, u32>> {
    let keeps = |used: &SetUse| held.get(used).copied().filter(|bit| free & bit != 0);
    let mut chosen: BTreeMap<SetUse, u32> =
        wanted.iter().filter_map(|used| Some((used.clone(), keeps(used)?))).collect();
    let mut left = free & !chosen.values().fold(0, |all, bit| all | bit);
    let classes = host.rules.iter().filter_map(as_class_rule).fold(0, |all, (bits, _, _)| all | bits);
    let avoided = held.values().fold(classes, |all, bit| all | bit);
    for used in wanted {
        if chosen.contains_key(used) {
            continue;
        }
        let from = if left & !avoided != 0 { left & !avoided } else { left };
        let bit = 1_u32 << from.checked_ilog2()?;
        left &= !bit;
        chosen.insert(used.clone(), bit);
    }
    Some(chosen)
}
