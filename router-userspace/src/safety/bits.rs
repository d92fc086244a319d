//! The bits of the packet mark: which are free, which value stands for which table.

use crate::model::{Family, Host, MarkRule, Rule, RuleAction, STAYING, Selectors, TABLE_LOCAL};
use std::collections::{BTreeMap, BTreeSet};

/// The priority of the rules that turn a mark into a table: after `local`, with one before it for what leads past them. Not 0: a
/// rule that somebody adds without a priority comes right before the second one of the list (`fib_default_rule_pref`), and
/// should come before what leads past. A rule of others that goes before loses nothing by a mark that it does not look at.
pub const CLASS_PRIORITY: u32 = 2;

/// The rule that makes the stack look `table` up for a packet that carries `class` in `bits`. An interface group that no device is
/// in tells it from a rule of the file that says the same.
pub fn class_rule(family: Family, class: u32, bits: u32, table: u32) -> Rule {
    let selectors = Selectors { fwmark: Some((class, bits)), ..Selectors::default() };
    Rule { selectors, suppress_ifgroup: Some(STAYING), ..Rule::lookup(family, CLASS_PRIORITY, table) }
}

/// Whether it is a rule as [`class_rule`] makes them: its bits, class and table.
pub fn as_class_rule(rule: &Rule) -> Option<(u32, u32, u32)> {
    let (class, bits) = rule.selectors.fwmark?;
    let RuleAction::Table(table) = rule.action else { return None };
    let as_made = *rule == class_rule(rule.family, class, bits, table);
    (bits != u32::MAX && class != 0 && as_made).then_some((bits, class, table))
}

/// What other rules and the file's `[[mark]]` do with marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Bits that nobody reads or writes.
    pub free: u32,
    /// Values that rules compare a whole mark with: such packets are left alone.
    pub whole: BTreeSet<u32>,
}

/// Looks through the RPDB, without Wayfork's class rules, and the `[[mark]]` of the file.
pub fn used(host: &Host, marks: &[MarkRule]) -> Use {
    let of_rules =
        host.rules.iter().filter(|rule| as_class_rule(rule).is_none()).filter_map(|rule| rule.selectors.fwmark);
    let of_marks = marks.iter().filter_map(|mark| mark.selectors.fwmark);
    let mut used = Use { free: u32::MAX, whole: BTreeSet::new() };
    for (value, mask) in of_rules.chain(of_marks) {
        if mask == u32::MAX {
            // A mark that has one of the other bits set differs from the value as it did before.
            used.free &= !value;
            used.whole.insert(value);
        } else {
            used.free &= !mask;
        }
    }
    for mark in marks {
        used.free &= !mark.mask;
    }
    used
}

/// The tables that rules look up and that can give a way out.
pub fn tables(host: &Host) -> BTreeSet<u32> {
    host.rules
        .iter()
        .filter(|rule| as_class_rule(rule).is_none())
        .filter_map(|rule| match rule.action {
            RuleAction::Table(table) if table != 0 && table != TABLE_LOCAL => Some(table),
            _ => None,
        })
        .collect()
}

/// How many bits hold a value other than 0 for each of `tables` tables; at least one.
pub fn bits_needed(tables: usize) -> u32 {
    usize::BITS - tables.max(1).leading_zeros()
}

/// `count` bits out of `free`: those that class rules use already where they will do, else the highest.
pub fn choose(host: &Host, free: u32, count: u32) -> Option<u32> {
    let held = host.rules.iter().find_map(|rule| as_class_rule(rule).map(|(bits, _, _)| bits));
    if let Some(bits) = held.filter(|bits| bits & !free == 0 && bits.count_ones() >= count) {
        return Some(bits);
    }
    let mut bits = 0;
    let highest_first = (0..u32::BITS).rev().map(|bit| 1 << bit).filter(|bit| free & bit != 0);
    for bit in highest_first.take(count as usize) {
        bits |= bit;
    }
    (bits.count_ones() == count).then_some(bits)
}

/// A value within `bits` for each table. A table that has one by a class rule keeps it.
pub fn classes(host: &Host, bits: u32, tables: &BTreeSet<u32>) -> BTreeMap<u32, u32> {
    let mut classes = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (held, class, table) in host.rules.iter().filter_map(as_class_rule) {
        if held == bits && tables.contains(&table) && !classes.contains_key(&table) && taken.insert(class) {
            classes.insert(table, class);
        }
    }
    let mut free = (1..).map_while(|number| deposit(number, bits)).filter(|class| !taken.contains(class));
    for table in tables {
        if !classes.contains_key(table)
            && let Some(class) = free.next()
        {
            classes.insert(*table, class);
        }
    }
    classes
}

/// Spreads the bits of `number` over the bits set in `bits`, lowest first; None where they do not fit.
fn deposit(number: u32, bits: u32) -> Option<u32> {
    let mut value = 0;
    let mut rest = number;
    for bit in (0..u32::BITS).map(|bit| 1_u32 << bit).filter(|bit| bits & bit != 0) {
        if rest & 1 != 0 {
            value |= bit;
        }
        rest >>= 1;
    }
    (rest == 0).then_some(value)
}
