//! From the rules that are there to those that are wanted, in an order in which every packet meets, at every moment, what it
//! met before or what it will meet in the end.
//!
//! Added from the lowest priority number up, the new rules that are there already always begin the new list; deleted from the
//! highest down, the old ones still there always begin the old list. The first rule that decides is then either the one of the
//! new list or the one of the old. There are two exceptions, each for a moment: jumps over rules that change in the same go, and
//! rules of one priority that the kernel's deletion takes for each other ([`super::twins`]).
//!
//! The kernel finds the place of a rule by walking the list from its head (`fib_newrule`, `rule_find` in net/core/fib_rules.c),
//! so that going up takes time by the square of the length: 100,000 rules take minutes. A long run of new priorities is
//! therefore added from the top down, behind a gate (a `goto` over the whole run) that is taken away in its turn: quick, and
//! the run comes into force at once. For a deletion a gate gains nothing: with any `goto` in the list, each deletion walks all of
//! it. A very long list is deleted from the front, and for that second the order above does not hold.

use super::Step;
use super::group::{Group, Settled};
use super::jumps::Jumps;
use crate::model::{Family, OWN_PROTOCOL, Rule, RuleAction};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where the ways part between short and long lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// So many rules of several new priorities in a row are added behind a gate.
    pub gated: usize,
    /// So many steps along the list may deletions from the back cost the kernel in all; 10 to 50 ns each.
    pub walked: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { gated: 512, walked: 20_000_000 }
    }
}

/// So many jumps in a run are worth a gate, however few the rules.
const JUMPS_GATED: usize = 4;

/// The steps of one or both families.
#[derive(Default)]
pub(super) struct RuleSteps {
    /// First these, in order.
    pub add: Vec<Step>,
    /// Then these, in order.
    pub delete: Vec<Step>,
}

/// Plans the way from `now` (the whole RPDB of both families) to one whose own rules are `want`.
pub(super) fn steps(now: &[Rule], want: &[Rule], limits: Limits) -> RuleSteps {
    let mut all = RuleSteps::default();
    for family in Family::BOTH {
        let now: Vec<&Rule> = now.iter().filter(|rule| rule.family == family).collect();
        let want: Vec<&Rule> = want.iter().filter(|rule| rule.family == family).collect();
        let mut groups: BTreeMap<u32, Group<'_>> = BTreeMap::new();
        for rule in now.iter().filter(|rule| !rule.is_skip()) {
            let group = groups.entry(rule.priority).or_default();
            if rule.protocol == OWN_PROTOCOL { group.now.push(rule) } else { group.foreign += 1 }
        }
        for rule in want.iter().filter(|rule| !rule.is_skip()) {
            groups.entry(rule.priority).or_default().want.push(rule);
        }
        if now.iter().any(|rule| rule.protocol == OWN_PROTOCOL) || !want.is_empty() {
            Plan::new(family, groups, limits, &now, &want).write(&mut all);
        }
    }
    all
}

/// The plan of one family.
struct Plan<'a> {
    family: Family,
    groups: BTreeMap<u32, Group<'a>>,
    settled: BTreeMap<u32, Settled>,
    jumps: Jumps<'a>,
    /// The rules at each priority that gets jumps, as they will stand before.
    standing: BTreeMap<u32, Vec<Rule>>,
    limits: Limits,
    /// Priorities that have a scaffold to jump to.
    scaffolds: BTreeSet<u32>,
    add: Vec<Step>,
}

/// Neighbouring priorities that get rules, none of which has one, or one that has.
struct Run {
    priorities: Vec<u32>,
    rules: usize,
    fresh: bool,
}

impl<'a> Plan<'a> {
    fn new(
        family: Family,
        groups: BTreeMap<u32, Group<'a>>,
        limits: Limits,
        now: &[&'a Rule],
        want: &[&'a Rule],
    ) -> Self {
        let settled: BTreeMap<u32, Settled> =
            groups.iter().map(|(priority, group)| (*priority, group.settle())).collect();
        let mut jumps = Jumps::new(now, want, false);
        let deletions: usize = settled.values().map(|settled| settled.delete.len()).sum();
        if dearer_with(&jumps, deletions, now.len(), limits) {
            jumps = Jumps::new(now, want, true);
        }
        let stands = |priority: &u32| {
            let (group, settled) = (groups.get(priority)?, settled.get(priority)?);
            let mut gone: HashMap<&Rule, usize> = HashMap::new();
            settled.delete.iter().for_each(|rule| *gone.entry(rule).or_default() += 1);
            let all = group.now.iter().copied().filter(|rule| !rule.is_passing()).chain(&settled.add);
            // Of equal ones the first goes.
            let mut stay = Vec::new();
            for rule in all {
                match gone.get_mut(rule) {
                    Some(left) if *left > 0 => *left -= 1,
                    _ => stay.push(rule.clone()),
                }
            }
            Some((*priority, stay))
        };
        let standing = jumps.missing.keys().filter_map(stands).collect();
        Plan { family, groups, settled, jumps, standing, limits, scaffolds: BTreeSet::new(), add: Vec::new() }
    }

    fn write(mut self, all: &mut RuleSteps) {
        all.add.extend(self.jumps.stale.iter().map(|skip| Step::DeleteRule((*skip).clone())));
        let runs = self.runs();
        // From the top down too, so that no run is between the head of the list and the place of another.
        let gates: Vec<Option<Rule>> = runs.iter().rev().map(|run| self.add_behind_a_gate(run)).collect();
        for (run, gate) in runs.iter().zip(gates.into_iter().rev()) {
            match gate {
                Some(gate) => self.add.push(Step::DeleteRule(gate)),
                None => run.priorities.iter().for_each(|priority| self.add_here(*priority)),
            }
        }
        self.hold_targets_of_stale_jumps();
        all.add.append(&mut self.add);
        let jumps = self.add_jumps();
        all.delete.extend(self.deletions().into_iter().map(Step::DeleteRule));
        all.delete.extend(jumps);
    }

    /// The jumps that are missing, from the last to the first, each before the rules of its priority.
    fn add_jumps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (priority, skips) in std::mem::take(&mut self.jumps.missing).into_iter().rev() {
            let standing = self.standing.remove(&priority).unwrap_or_default();
            steps.extend(skips.into_iter().cloned().map(Step::AddRule));
            steps.extend(standing.iter().cloned().map(Step::AddRule));
            // From the front: each request hits the first own rule, which is the one that it asks for. They have one outcome.
            steps.extend(standing.into_iter().map(Step::DeleteRule));
        }
        steps
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut broken = true;
        for (priority, settled) in &self.settled {
            let rules = settled.add.len() + settled.nops.len();
            let fresh = self.groups[priority].is_fresh();
            if rules > 0 {
                match runs.last_mut().filter(|run| run.fresh && fresh && !broken) {
                    Some(run) => {
                        run.priorities.push(*priority);
                        run.rules += rules;
                    }
                    None => runs.push(Run { priorities: vec![*priority], rules, fresh }),
                }
            }
            broken = !fresh;
        }
        runs
    }

    fn add_here(&mut self, priority: u32) {
        let Some(settled) = self.settled.get_mut(&priority) else { return };
        let nops = std::mem::take(&mut settled.nops);
        let add = std::mem::take(&mut settled.add);
        self.push(nops);
        for target in targets(&add) {
            self.hold_target(target);
        }
        self.push(add);
    }

    /// Adds a run that is worth a gate, and gives back the gate, which is still closed.
    fn add_behind_a_gate(&mut self, run: &Run) -> Option<Rule> {
        let (first, last) = (*run.priorities.first()?, *run.priorities.last()?);
        // Behind a gate jumps come in their places; elsewhere all the rules that they stand before are added once more.
        let jumps = run.priorities.iter().filter(|priority| self.jumps.missing.contains_key(priority)).count();
        if !run.fresh || first == last || run.rules < self.limits.gated && jumps < JUMPS_GATED {
            return None;
        }
        let (before, behind) = (first.checked_sub(1)?, last.checked_add(1)?);
        let next = self.groups.range(behind..).next().map_or(u32::MAX, |(priority, _)| *priority);
        for priority in &run.priorities {
            let jumps = self.settled.get(priority).map(|settled| targets(&settled.add)).unwrap_or_default();
            let skips = self.skips_in_place(*priority, next);
            let jumps = jumps.into_iter().chain(skips.iter().flat_map(|skip| targets(std::slice::from_ref(*skip))));
            // A target inside the run is there before what jumps to it.
            jumps.filter(|target| *target > last).for_each(|target| self.hold_target(target));
        }
        if self.groups.get(&behind).is_none_or(Group::is_fresh) {
            self.hold(behind);
        }
        let gate = Rule::gate(self.family, before, behind);
        self.add.push(Step::AddRule(gate.clone()));
        for priority in run.priorities.iter().rev() {
            let skips = self.skips_in_place(*priority, next);
            if !skips.is_empty() {
                self.jumps.missing.remove(priority);
                self.add.extend(skips.into_iter().cloned().map(Step::AddRule));
            }
            if let Some(settled) = self.settled.get_mut(priority) {
                let rules = std::mem::take(&mut settled.nops).into_iter().chain(std::mem::take(&mut settled.add));
                self.add.extend(rules.map(Step::AddRule));
            }
        }
        Some(gate)
    }

    /// The jumps of a priority, where all of them can be added before its rules: they reach no further than to `next`.
    fn skips_in_place(&self, priority: u32, next: u32) -> Vec<&'a Rule> {
        let skips = self.jumps.missing.get(&priority).cloned().unwrap_or_default();
        let near = |skip: &&Rule| matches!(skip.action, RuleAction::Goto(target) if target <= next);
        if skips.iter().all(near) { skips } else { Vec::new() }
    }

    fn push(&mut self, rules: Vec<Rule>) {
        self.add.extend(rules.into_iter().map(Step::AddRule));
    }

    /// Sees to it that a jump to `target` finds there what the new list has, or at least the place of it.
    fn hold_target(&mut self, target: u32) {
        let Some(group) = self.groups.get(&target).filter(|group| group.is_fresh()) else { return };
        if group.want.is_empty() {
            return;
        }
        match self.settled.get_mut(&target) {
            // Its own that does nothing serves as well.
            Some(settled) if !settled.nops.is_empty() => {
                let nops = std::mem::take(&mut settled.nops);
                self.push(nops);
            }
            Some(settled) if !settled.add.is_empty() => self.hold(target),
            // All of it is there by now.
            _ => {}
        }
    }

    fn hold(&mut self, priority: u32) {
        if self.scaffolds.insert(priority) {
            self.add.push(Step::AddRule(Rule::scaffold_nop(self.family, priority)));
        }
    }

    /// What an old jump leads to goes before the jump does; the place of it must stay.
    fn hold_targets_of_stale_jumps(&mut self) {
        let stale: BTreeSet<u32> = self.settled.values().flat_map(|settled| targets(&settled.delete)).collect();
        for target in stale {
            let Some((group, settled)) = self.groups.get(&target).zip(self.settled.get(&target)) else { continue };
            let stays = group.foreign > 0 || settled.keeps || !group.want.is_empty() || !settled.last.is_empty();
            if !stays {
                self.hold(target);
            }
        }
    }

    fn deletions(self) -> Vec<Rule> {
        let from_the_front = self.cost_from_the_back() > self.limits.walked;
        let mut delete = Vec::new();
        let mut gates = Vec::new();
        let mut last = Vec::new();
        let mut groups: Vec<Settled> = self.settled.into_values().collect();
        for settled in &mut groups {
            gates.append(&mut settled.gates);
            last.append(&mut settled.last);
        }
        if from_the_front {
            delete.append(&mut gates);
        } else {
            groups.reverse();
        }
        delete.extend(groups.into_iter().flat_map(|settled| settled.delete));
        delete.extend(gates);
        // Scaffolds before plain ones of their priority: a request for a plain one would hit them.
        delete.extend(self.scaffolds.iter().map(|priority| Rule::scaffold_nop(self.family, *priority)));
        delete.extend(last);
        delete
    }

    /// How many rules the kernel passes by in all when they are deleted from the back. 0 where there are jumps: then each
    /// deletion walks the whole list, whatever the order.
    fn cost_from_the_back(&self) -> u64 {
        let (mut before, mut cost) = (0u64, 0u64);
        if self.jumps.kept > 0 {
            return 0;
        }
        for (priority, group) in &self.groups {
            let jumps = |rule: &&&Rule| matches!(rule.action, RuleAction::Goto(_)) && !rule.is_passing();
            if group.now.iter().chain(&group.want).any(|rule| jumps(&rule)) {
                return 0;
            }
            let stale = self.settled[priority].delete.len() as u64;
            cost = cost.saturating_add(stale.saturating_mul(before));
            before += (group.now.len() + group.foreign) as u64;
        }
        cost
    }
}

/// Whether it is quicker to take all jumps away first and to put them back in the end: with one in the list, each deletion walks
/// all of it.
fn dearer_with(jumps: &Jumps<'_>, deletions: usize, length: usize, limits: Limits) -> bool {
    let (deletions, length, kept) = (deletions as u64, length as u64, jumps.kept as u64);
    let walked = deletions.saturating_mul(length);
    kept > 0 && walked > limits.walked && deletions > kept.saturating_mul(6)
}

fn targets(rules: &[Rule]) -> Vec<u32> {
    let target = |rule: &Rule| match rule.action {
        RuleAction::Goto(target) => Some(target),
        _ => None,
    };
    rules.iter().filter_map(target).collect()
}
