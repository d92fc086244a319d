//! Counters by rule id, whatever happens to the slots and maps below.

use crate::fastpath::Counter;
use std::collections::{HashMap, HashSet};

/// What each rule counted since the router started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// What earlier maps counted for a rule.
    carried: HashMap<String, Counter>,
    /// The rule in each slot, and what the slot held when the rule got it.
    slots: Vec<Option<(String, Counter)>>,
}

impl Counters {
    /// The slots now belong to `ids`; `live` is what the maps hold at this moment.
    pub fn assign(&mut self, ids: &[Option<String>], live: &[Counter]) {
        self.slots.resize(ids.len().max(self.slots.len()), None);
        for (slot, held) in self.slots.iter_mut().enumerate() {
            let id = ids.get(slot).and_then(Option::as_ref);
            if held.as_ref().map(|(id, _)| id) == id {
                continue;
            }
            let base = live.get(slot).copied().unwrap_or_default();
            *held = id.map(|id| {
                self.carried.remove(id);
                (id.clone(), base)
            });
        }
    }

    /// The maps are about to be replaced by new ones that start at 0.
    pub fn carry_over(&mut self, live: &[Counter]) {
        for (slot, held) in self.slots.iter_mut().enumerate() {
            if let Some((id, base)) = held.take() {
                let now = live.get(slot).copied().unwrap_or_default();
                let sum = add(self.carried.get(&id).copied().unwrap_or_default(), subtract(now, base));
                self.carried.insert(id, sum);
            }
        }
    }

    /// Takes slots in fresh maps without forgetting what was carried over.
    pub fn reassign(&mut self, ids: &[Option<String>]) {
        self.slots = ids.iter().map(|id| id.clone().map(|id| (id, Counter::default()))).collect();
        let known: HashSet<&String> = ids.iter().flatten().collect();
        self.carried.retain(|id, _| known.contains(id));
    }

    /// What each rule has counted.
    pub fn read(&self, live: &[Counter]) -> HashMap<&str, Counter> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(slot, held)| {
                let (id, base) = held.as_ref()?;
                let now = live.get(slot).copied().unwrap_or_default();
                Some((id.as_str(), add(self.carried.get(id).copied().unwrap_or_default(), subtract(now, *base))))
            })
            .collect()
    }
}

fn combine(a: Counter, b: Counter, op: fn(u64, u64) -> u64) -> Counter {
    Counter {
        packets: std::array::from_fn(|i| op(a.packets[i], b.packets[i])),
        bytes: std::array::from_fn(|i| op(a.bytes[i], b.bytes[i])),
    }
}

fn add(a: Counter, b: Counter) -> Counter {
    combine(a, b, u64::wrapping_add)
}

fn subtract(a: Counter, b: Counter) -> Counter {
    combine(a, b, u64::saturating_sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(packets: u64) -> Counter {
        Counter { packets: [packets; 4], bytes: [packets * 100; 4] }
    }

    fn ids(ids: &[&str]) -> Vec<Option<String>> {
        ids.iter().map(|id| (!id.is_empty()).then(|| (*id).to_owned())).collect()
    }

    #[test]
    fn a_reused_slot_starts_at_nought_and_new_maps_lose_nothing() {
        let mut counters = Counters::default();
        counters.assign(&ids(&["a", "b"]), &[]);
        assert_eq!(counters.read(&[count(5), count(7)])["b"], count(7));
        // "a" goes, "c" takes its slot.
        counters.assign(&ids(&["", "b"]), &[count(5), count(7)]);
        counters.assign(&ids(&["c", "b"]), &[count(6), count(8)]);
        let now = [count(9), count(8)];
        assert_eq!(counters.read(&now)["c"], count(3));
        // New maps.
        counters.carry_over(&now);
        counters.reassign(&ids(&["b", "c"]));
        assert_eq!(counters.read(&[count(1), count(1)])["c"], count(4));
        assert_eq!(counters.read(&[count(1), count(1)])["b"], count(9));
    }
}
