//! Counters keep their place as long as their rule lives.

use std::collections::{HashMap, HashSet};

/// Which counter belongs to which rule, from one generation to the next.
#[derive(Debug, Default)]
pub struct CounterSlots {
    by_id: HashMap<String, u32>,
    asked: HashSet<u32>,
    free: Vec<u32>,
    next: u32,
}

impl CounterSlots {
    /// The slot of a rule: its old one, or a free one.
    pub(super) fn slot(&mut self, id: String) -> u32 {
        let slot = match self.by_id.get(&id) {
            Some(slot) => *slot,
            None => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.next += 1;
                    self.next - 1
                });
                self.by_id.insert(id, slot);
                slot
            }
        };
        self.asked.insert(slot);
        slot
    }

    /// Ends a generation: slots that nobody asked for become free, for the generation after the next one's reader has seen
    /// them vanish. Returns the rule id of each slot.
    pub(super) fn finish(&mut self) -> Vec<Option<String>> {
        let asked = std::mem::take(&mut self.asked);
        let mut names = vec![None; self.next as usize];
        let free = &mut self.free;
        self.by_id.retain(|id, slot| {
            let keep = asked.contains(slot);
            if keep {
                names[*slot as usize] = Some(id.clone());
            } else {
                free.push(*slot);
            }
            keep
        });
        // The lowest first, so that the counters stay dense and an order is repeatable.
        free.sort_unstable_by(|a, b| b.cmp(a));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_keeps_its_slot_and_a_gone_one_gives_it_back() {
        let mut slots = CounterSlots::default();
        assert_eq!((slots.slot("a".into()), slots.slot("b".into())), (0, 1));
        assert_eq!(slots.finish(), [Some("a".to_owned()), Some("b".to_owned())]);
        assert_eq!(slots.slot("b".into()), 1);
        assert_eq!(slots.finish(), [None, Some("b".to_owned())]);
        assert_eq!((slots.slot("c".into()), slots.slot("b".into())), (0, 1));
        assert_eq!(slots.finish(), [Some("c".to_owned()), Some("b".to_owned())]);
    }
}
