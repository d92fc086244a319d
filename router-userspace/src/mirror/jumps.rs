//! Which of the jumps over groups stay, which go before anything else changes, and which come when all else is done.
//!
//! Without a jump a packet meets the same rules, only after more steps. So a jump that is not wanted any more goes first, and one
//! that is missing comes last. Then one that is there leads past nothing at any moment but rules of the old list, among which
//! it was right, and rules of the new one, among which it is.

use crate::model::{OWN_PROTOCOL, Rule};
use std::collections::{BTreeMap, HashSet};

/// The jumps of one family.
#[derive(Default)]
pub(super) struct Jumps<'a> {
    /// To be deleted first, in this order.
    pub stale: Vec<&'a Rule>,
    /// To be added last, by priority; there all other own rules come behind them.
    pub missing: BTreeMap<u32, Vec<&'a Rule>>,
    /// How many stay.
    pub kept: usize,
}

/// The jumps of one priority.
#[derive(Default)]
struct Place<'a> {
    now: Vec<&'a Rule>,
    /// So many of these stand before all other own rules.
    leading: usize,
    want: Vec<&'a Rule>,
}

impl<'a> Jumps<'a> {
    /// Decides. `now` is the family's list, `want` Wayfork's part of the one that is to be. With `anew` none stays.
    pub fn new(now: &[&'a Rule], want: &[&'a Rule], anew: bool) -> Self {
        let mut jumps = Jumps::default();
        for (priority, place) in places(now, want) {
            let kept = if anew { HashSet::new() } else { place.kept() };
            if kept.len() < place.want.len() {
                jumps.missing.insert(priority, place.want[kept.len()..].to_vec());
            }
            jumps.kept += kept.len();
            let stale = (0..place.now.len()).filter(|index| !kept.contains(index));
            jumps.stale.extend(stale.map(|index| place.now[index]));
        }
        jumps
    }
}

fn places<'a>(now: &[&'a Rule], want: &[&'a Rule]) -> BTreeMap<u32, Place<'a>> {
    let mut places: BTreeMap<u32, Place<'_>> = BTreeMap::new();
    let mut behind: HashSet<u32> = HashSet::new();
    for rule in now.iter().filter(|rule| rule.protocol == OWN_PROTOCOL && !rule.is_passing()) {
        if rule.is_skip() {
            let place = places.entry(rule.priority).or_default();
            place.now.push(rule);
            place.leading += usize::from(!behind.contains(&rule.priority));
        } else {
            behind.insert(rule.priority);
        }
    }
    for rule in want.iter().filter(|rule| rule.is_skip()) {
        places.entry(rule.priority).or_default().want.push(rule);
    }
    places
}

impl Place<'_> {
    /// Indexes into `now` of those that stay: what is added comes behind them, so they are what `want` begins with.
    fn kept(&self) -> HashSet<usize> {
        let mut kept = HashSet::new();
        let mut from = 0;
        for skip in &self.want {
            let Some(index) = (from..self.leading).find(|index| self.now[*index] == *skip) else { break };
            kept.insert(index);
            from = index + 1;
        }
        kept
    }
}
