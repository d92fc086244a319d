//! The rules whose decisions are left to the stack because one of them was wrong.

use crate::model::{Rule, rule_ids};
use std::collections::{BTreeMap, BTreeSet};

/// Which rules have fallen back, and why. It holds for one list of rules: where that changes, all of it is forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Fallen {
    rules: Vec<Rule>,
    why: BTreeMap<String, String>,
}

impl Fallen {
    /// Adds a rule of a list that was `then` when the rule decided and is `now`. False where that makes no difference: it has
    /// fallen back before, or is another rule by now.
    pub fn add(&mut self, rule_id: &str, why: String, then: &[Rule], now: &[Rule]) -> bool {
        self.keep(now);
        if then != now || self.why.contains_key(rule_id) || !rule_ids(now).iter().any(|id| id == rule_id) {
            return false;
        }
        self.rules = now.to_vec();
        self.why.insert(rule_id.to_owned(), why);
        true
    }

    /// The ids of the rules that have fallen back, of a list that is `now`.
    pub fn of(&mut self, now: &[Rule]) -> BTreeSet<String> {
        self.keep(now);
        self.why.keys().cloned().collect()
    }

    /// Rule ids with reasons.
    pub fn why(&self) -> impl Iterator<Item = (&str, &str)> {
        self.why.iter().map(|(id, why)| (id.as_str(), why.as_str()))
    }

    fn keep(&mut self, now: &[Rule]) {
        if !self.why.is_empty() && self.rules != now {
            tracing::info!("shadow: the rules have changed; those that had fallen back decide again");
            *self = Fallen::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    #[test]
    fn a_rule_falls_back_once_and_until_the_rules_change() {
        let rules = [Rule::lookup(Family::Ipv4, 100, 111), Rule::lookup(Family::Ipv4, 200, 112)];
        let ids = rule_ids(&rules);
        let mut fallen = Fallen::default();
        assert!(!fallen.add(&ids[0], "late".into(), &rules[..1], &rules), "the rules were others when it decided");
        assert!(!fallen.add("no such rule", "odd".into(), &rules, &rules));
        assert!(fallen.add(&ids[0], "wrong".into(), &rules, &rules));
        assert!(!fallen.add(&ids[0], "wrong again".into(), &rules, &rules), "it has fallen back already");
        assert_eq!(fallen.of(&rules), [ids[0].clone()].into());
        assert_eq!(fallen.why().collect::<Vec<_>>(), [(ids[0].as_str(), "wrong")]);
        assert!(fallen.of(&rules[..1]).is_empty(), "the rules have changed");
        assert!(fallen.of(&rules).is_empty(), "what is forgotten stays so");
    }
}
