//! The rules of one priority: which stay, which are added behind them, which go, and in what order.

use super::twins;
use crate::model::{Rule, RuleAction};
use std::collections::{HashMap, HashSet};

/// The rules of one priority and family.
#[derive(Default)]
pub(super) struct Group<'a> {
    /// Wayfork's own that are there, in the kernel's order.
    pub now: Vec<&'a Rule>,
    /// How many of other owners are there.
    pub foreign: usize,
    /// Wayfork's own that are to be there, in order.
    pub want: Vec<&'a Rule>,
}

/// What to do with a group. First all of `nops` and `add`, each in its order; then `delete` in its order; and when no rule
/// that goes jumps here any more, `last` in its order.
#[derive(Default)]
pub(super) struct Settled {
    /// Rules that do nothing, to be added; jumps may lead to them.
    pub nops: Vec<Rule>,
    /// Rules to be added behind all that is there.
    pub add: Vec<Rule>,
    /// Rules to be deleted.
    pub delete: Vec<Rule>,
    /// Gates that a run before this one left open.
    pub gates: Vec<Rule>,
    /// Rules that do nothing, to be deleted.
    pub last: Vec<Rule>,
    /// Whether own rules stay.
    pub keeps: bool,
}

impl Group<'_> {
    /// Whether nobody has a rule here yet.
    pub fn is_fresh(&self) -> bool {
        self.now.is_empty() && self.foreign == 0
    }

    /// Decides.
    pub fn settle(&self) -> Settled {
        let mut settled = Settled::default();
        let deciders = settle_nops(&self.now, &self.want, &mut settled);
        let mut seen = HashSet::new();
        // A second equal rule can only say again what the first said.
        let want: Vec<&Rule> =
            self.want.iter().copied().filter(|rule| rule.action != RuleAction::Nop && seen.insert(*rule)).collect();
        settle_deciders(&deciders, &want, &mut settled);
        settled
    }
}

/// Sorts out the rules that do nothing and the gates; gives back the others that are there.
fn settle_nops<'a>(now: &[&'a Rule], want: &[&'a Rule], settled: &mut Settled) -> Vec<&'a Rule> {
    let is_nop = |rule: &&&Rule| rule.action == RuleAction::Nop;
    let (scaffolds, plain): (Vec<&Rule>, Vec<&Rule>) = now.iter().partition(|rule| rule.is_passing());
    let nops: Vec<&Rule> = plain.iter().filter(is_nop).copied().collect();
    let mut missing: HashSet<&Rule> = want.iter().filter(is_nop).copied().collect();
    let stale: Vec<usize> = (0..nops.len()).filter(|index| !missing.remove(nops[*index])).collect();
    let add: Vec<&Rule> = want.iter().copied().filter(|rule| missing.remove(*rule)).collect();
    let list: Vec<&Rule> = nops.iter().chain(&add).copied().collect();
    // A request for a plain one would hit a scaffold before it.
    settled.last.extend(scaffolds.iter().filter(is_nop).copied().cloned());
    if twins::hits_exactly(&list, &stale) {
        settled.keeps = stale.len() < nops.len();
        settled.nops.extend(add.into_iter().cloned());
        settled.last.extend(stale.into_iter().map(|index| nops[index].clone()));
    } else {
        let mut seen = HashSet::new();
        settled.nops.extend(want.iter().filter(is_nop).filter(|rule| seen.insert(**rule)).copied().cloned());
        settled.last.extend(nops.into_iter().cloned());
    }
    // As with plain jumps where a gate stands before them.
    let first_gate = now.iter().position(|rule| rule.is_passing() && rule.action != RuleAction::Nop);
    let jump = |rule: &&Rule| matches!(rule.action, RuleAction::Goto(_)) && !rule.is_passing();
    let gates = scaffolds.into_iter().filter(|rule| rule.action != RuleAction::Nop).cloned();
    if first_gate.is_some_and(|gate| now.iter().skip(gate).any(jump)) {
        settled.delete.extend(gates);
    } else {
        settled.gates.extend(gates);
    }
    plain.into_iter().filter(|rule| rule.action != RuleAction::Nop).collect()
}

fn settle_deciders(now: &[&Rule], want: &[&Rule], settled: &mut Settled) {
    let kept = keep(now, want);
    let stale: Vec<usize> = (0..now.len()).filter(|index| !kept.contains(index)).collect();
    let kept_rules: HashSet<&Rule> = kept.iter().map(|index| now[*index]).collect();
    let add: Vec<&Rule> = want.iter().copied().filter(|rule| !kept_rules.contains(rule)).collect();
    settled.keeps |= !kept.is_empty();
    if stale.is_empty() {
        settled.add.extend(add.into_iter().cloned());
        return;
    }
    let list: Vec<&Rule> = now.iter().chain(&add).copied().collect();
    // From the back, so that what is left of the old rules decides as all of them did, or not at all.
    let backwards = from_the_back(now, &stale);
    for order in [backwards, stale] {
        if twins::hits_exactly(&list, &order) {
            settled.add.extend(add.into_iter().cloned());
            settled.delete.extend(order.into_iter().map(|index| now[index].clone()));
            return;
        }
    }
    // All new ones behind all old ones, and the old ones from the front: each request then hits the first own rule, which is
    // the one that it asks for.
    settled.keeps &= kept.is_empty();
    settled.add.extend(want.iter().copied().cloned());
    settled.delete.extend(now.iter().copied().cloned());
}

/// Indexes into `now` of the rules that can stay: what is added comes behind them, so they must be what `want` begins with,
/// but for the order among neighbours of one outcome.
fn keep(now: &[&Rule], want: &[&Rule]) -> HashSet<usize> {
    let mut places: HashMap<&Rule, Vec<usize>> = HashMap::new();
    for (index, rule) in now.iter().enumerate() {
        places.entry(rule).or_default().push(index);
    }
    let mut kept = HashSet::new();
    let mut from = 0;
    for run in want.chunk_by(|a, b| a.outcome() == b.outcome()) {
        let place = |rule: &&Rule| places.get(*rule)?.iter().copied().find(|index| *index >= from);
        let found: Vec<usize> = run.iter().filter_map(place).collect();
        kept.extend(&found);
        if found.len() < run.len() {
            break;
        }
        from = found.into_iter().max().map_or(from, |index| index + 1);
    }
    kept
}

/// The stale ones from the last to the first; neighbours of one outcome from the first to the last, which is as right and
/// spares the kernel the search.
fn from_the_back(now: &[&Rule], stale: &[usize]) -> Vec<usize> {
    let runs: Vec<&[usize]> = stale.chunk_by(|a, b| now[*a].outcome() == now[*b].outcome()).collect();
    runs.into_iter().rev().flatten().copied().collect()
}
