//! When the table that sets marks changes, where the rules that look for them change in the same go.
//!
//! Statements that come in addition are there before the rules. Where an old one goes or becomes another, the new rules are there
//! first: those for marks that nobody has yet match nothing, and the old ones match up to the moment of the change.
//!
//! The bits of sets that go out of use are set on until no rule looks for them any more. A rule for a set looks for a bit of the mark, and
//! a set with another name has another bit. Between the change of the table that sets the bits and the deletion of the old rules, these
//! would find theirs gone while the new rules are not there yet. (A use that stays keeps its bit: the old rules see its new members for
//! that moment.)

use super::diff::{Own, Step, mark_digest};
use crate::model::{Family, MarkRule, MarkSelectors, Rule};
use std::collections::{BTreeSet, HashMap};

/// Puts the change of marks where it leaves no gap, and has the old bits set beside the new ones while the rules change, where that
/// does not meddle with what the new rules and marks mean. `turn` as in [`super::Changes`].
pub(super) fn hand_over(steps: &mut Vec<Step>, turn: usize, before: &Own) {
    let Some(old) = &before.marks else { return };
    let is_rule = |step: &Step| matches!(step, Step::AddRule(_) | Step::DeleteRule(_));
    let first = steps.iter().position(|step| matches!(step, Step::SetMarks { marks, .. } if !marks.is_empty()));
    let (Some(first), Some(last)) = (first, steps.iter().rposition(is_rule)) else { return };
    let Some(Step::SetMarks { marks: new, digest }) = steps.get(first).cloned() else { return };
    let carried = carried(old, &new, &rules_after(steps, before));
    if last < first {
        return;
    }
    if carried.is_empty() {
        if first < turn && bits_of_sets(&new) & !bits_of_sets(old) == 0 && !holds_all_of(&new, old) {
            let step = steps.remove(first);
            steps.insert(turn - 1, step);
        }
        return;
    }
    steps.insert(last + 1, Step::SetMarks { marks: new.clone(), digest });
    let both: Vec<MarkRule> = new.into_iter().chain(carried).collect();
    steps[first] = Step::SetMarks { digest: mark_digest(&both), marks: both };
}

/// The bits that tell of sets.
fn bits_of_sets(marks: &[MarkRule]) -> u32 {
    marks.iter().filter(|mark| mark.membership).fold(0, |all, mark| all | mark.mask)
}

/// Whether every `[[mark]]` of `old` is in `new`, in the same order.
fn holds_all_of(new: &[MarkRule], old: &[MarkRule]) -> bool {
    let plain = |mark: &&MarkRule| !mark.membership;
    let mut new = new.iter().filter(plain);
    let mut old = old.iter().filter(plain);
    old.all(|one| new.any(|other| MarkRule { statement: one.statement, ..other.clone() } == *one))
}

/// Wayfork's own rules when all steps are taken.
fn rules_after<'a>(steps: &'a [Step], before: &'a Own) -> Vec<&'a Rule> {
    let mut gone: HashMap<&Rule, usize> = HashMap::new();
    for step in steps {
        if let Step::DeleteRule(rule) = step {
            *gone.entry(rule).or_default() += 1;
        }
    }
    let added = steps.iter().filter_map(|step| if let Step::AddRule(rule) = step { Some(rule) } else { None });
    let stays = |rule: &&'a Rule| match gone.get_mut(rule) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        _ => true,
    };
    before.rules.iter().chain(added).filter(stays).collect()
}

/// The statements of `old` for bits that nothing of the new list has to do with, to stand behind `new`.
fn carried(old: &[MarkRule], new: &[MarkRule], rules: &[&Rule]) -> Vec<MarkRule> {
    let bits = |(value, mask): (u32, u32)| if mask == u32::MAX { value } else { mask };
    let compared = || rules.iter().filter_map(|rule| rule.selectors.fwmark);
    let of_marks = |mark: &MarkRule| bits((mark.value, mark.mask)) | mark.selectors.fwmark.map_or(0, bits);
    let used = new.iter().map(of_marks).chain(compared().map(bits)).fold(0, |all, bits| all | bits);
    let whole: BTreeSet<u32> = compared().filter(|(_, mask)| *mask == u32::MAX).map(|(value, _)| value).collect();

    let memberships: Vec<&MarkRule> = old.iter().filter(|mark| mark.membership).collect();
    let groups: Vec<&[&MarkRule]> = memberships
        .chunk_by(|one, other| one.statement == other.statement)
        .filter(|group| group.iter().any(|mark| mark.selectors.sets().next().is_some()))
        .filter(|group| group.iter().all(|mark| mark.mask & used == 0))
        .collect();
    let all = groups.iter().flat_map(|group| group.iter()).fold(0, |all, mark| all | mark.mask);
    if all == 0 {
        return Vec::new();
    }
    let first = new.iter().map(|mark| mark.statement + 1).max().unwrap_or(0);
    let plain = |family, statement, fwmark, mask| MarkRule {
        family,
        statement,
        selectors: MarkSelectors { fwmark, ..MarkSelectors::default() },
        value: 0,
        mask,
        membership: true,
    };
    let mut carried: Vec<MarkRule> = Family::BOTH.map(|family| plain(family, first, None, all)).into();
    for (statement, group) in (first + 1..).zip(groups) {
        // Who carries a whole mark that is compared now keeps it, as in the new list.
        let kept = whole
            .iter()
            .flat_map(|value| Family::BOTH.map(|family| plain(family, statement, Some((*value, u32::MAX)), 0)));
        carried.extend(kept);
        carried.extend(group.iter().map(|mark| MarkRule { statement, ..with_members_of(new, mark) }));
    }
    carried
}

/// The statement, with what a set of its name has now: the table has one set of a name.
fn with_members_of(new: &[MarkRule], mark: &MarkRule) -> MarkRule {
    let mut mark = mark.clone();
    for set in [&mut mark.selectors.from_set, &mut mark.selectors.to_set].into_iter().flatten() {
        if let Some(now) = new.iter().flat_map(|mark| mark.selectors.sets()).find(|now| now.name == set.name) {
            *set = now.clone();
        }
    }
    mark
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Desired, MarkClasses, desired, diff};
    use super::*;
    use crate::model::{Host, OWN_PROTOCOL};
    use crate::policy::{Policy, TableNames, parse};
    use crate::safety::{Facts, with_set_bits};

    fn policy(text: &str, held: Option<&Policy>) -> Policy {
        let read = parse("p.toml", text, &TableNames::default()).unwrap_or_else(|error| panic!("{error}")).policy;
        let held = held.map(|policy| policy.set_bits.clone()).unwrap_or_default();
        with_set_bits(&read, &Host::default(), &Facts::default(), &held).unwrap()
    }

    fn of_set(name: &str) -> String {
        format!(
            "[sets]\n{name} = [\"10.0.0.0/8\", \"fd00::/8\"]\n[[rule]]\npriority = 9\nfrom = \"@{name}\"\ntable = 7\n"
        )
    }

    /// The steps from one policy to another.
    fn way(from: &Policy, to: &Policy) -> (Own, Vec<Step>) {
        let wanted = |policy| -> Desired { desired(policy, &Host::default(), &MarkClasses::default()) };
        let (old, new) = (wanted(from), wanted(to));
        let host = Host { rules: old.rules.iter().map(|wanted| wanted.item.clone()).collect(), ..Host::default() };
        let changes = diff(&new, &host, Some(old.digest)).with_installed_marks(&from.mark_rules());
        (changes.before.clone(), changes.steps)
    }

    /// How many rules of a family find their bit set for a member, after each step.
    fn matching(before: &Own, steps: &[Step], family: Family) -> Vec<usize> {
        let (mut rules, mut marks) = (before.rules.clone(), before.marks.clone().unwrap());
        steps
            .iter()
            .map(|step| {
                match step {
                    Step::AddRule(rule) => rules.push(rule.clone()),
                    Step::DeleteRule(rule) => rules.retain(|held| held != rule),
                    Step::SetMarks { marks: set, .. } => marks.clone_from(set),
                    _ => {}
                }
                let set = marks.iter().filter(|mark| mark.family == family && mark.selectors.sets().next().is_some());
                let bits = set.fold(0, |all, mark| all | mark.value);
                let own = rules.iter().filter(|rule| rule.family == family && rule.protocol == OWN_PROTOCOL);
                own.filter(|rule| rule.selectors.fwmark.is_some_and(|(value, mask)| bits & mask == value)).count()
            })
            .collect()
    }

    #[test]
    fn a_set_of_another_name_takes_over_without_a_gap() {
        let old = policy(&of_set("a"), None);
        let new = policy(&of_set("b"), Some(&old));
        let (before, steps) = way(&old, &new);
        for family in Family::BOTH {
            let matching = matching(&before, &steps, family);
            assert!(matching.iter().all(|rules| *rules > 0), "{family}: {matching:?} {steps:#?}");
        }
        let Some(Step::SetMarks { marks, .. }) = steps.last() else { panic!("{steps:#?}") };
        assert_eq!(*marks, new.mark_rules(), "in the end the new bits alone are set");
    }

    #[test]
    fn bits_that_have_another_meaning_now_are_not_set_on() {
        let old = policy(&of_set("a"), None);
        let bit = *old.set_bits.values().next().unwrap();
        let taken = format!("{}[[rule]]\npriority = 3\nfwmark = \"{bit:#x}/{bit:#x}\"\ntable = 8\n", of_set("b"));
        let (_, steps) = way(&old, &policy(&taken, Some(&old)));
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::SetMarks { .. })).count(), 1, "{steps:#?}");
    }

    #[test]
    fn a_mark_of_another_value_finds_its_rule() {
        let of_value = |value: u32, more: &str| {
            let text = format!("{more}[[mark]]\nset = {value}\n[[rule]]\npriority = 9\nfwmark = {value}\ntable = 7\n");
            policy(&text, None)
        };
        let place = |to: &Policy| {
            let (_, steps) = way(&of_value(1, ""), to);
            let at = |what: fn(&Step) -> bool| steps.iter().position(what);
            let marks = at(|step| matches!(step, Step::SetMarks { .. }));
            [
                at(|step| matches!(step, Step::AddRule(_))) < marks,
                marks < at(|step| matches!(step, Step::DeleteRule(_))),
            ]
        };
        assert_eq!(place(&of_value(2, "")), [true, true], "behind the new rule, before the old one goes");
        let more = "[[rule]]\npriority = 5\nfwmark = 5\ntable = 5\n[[mark]]\niif = \"a\"\nset = 5\n";
        assert_eq!(place(&of_value(1, more)), [false, false], "one more: ahead of its rule; and none goes");
    }

    #[test]
    fn members_alone_need_no_handing_over() {
        let old = policy(&of_set("a"), None);
        let more = of_set("a").replace("10.0.0.0/8", "11.0.0.0/8");
        let (_, steps) = way(&old, &policy(&more, Some(&old)));
        assert!(matches!(steps.as_slice(), [Step::SetMarks { .. }]), "{steps:#?}");
    }
}
