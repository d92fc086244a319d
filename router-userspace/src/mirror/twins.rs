//! Which rule the kernel deletes when it is asked to delete one.
//!
//! `rule_find` (net/core/fib_rules.c) takes the first rule that agrees with what the request names. What the request leaves
//! out agrees with everything, and `not` and the goto target are never compared: so asking for the wide one of two rules of a
//! priority can hit the narrow one, and asking for `X` can hit `not X`.

use crate::model::{Rule, RuleAction};
use std::collections::{HashMap, HashSet, VecDeque};

/// The largest list with rules of different shapes that is gone through rule by rule; a larger one is built anew instead.
const SIMULATED: usize = 4096;

/// Whether deleting `order` (indexes into `list`, each once) one after the other hits exactly these. All of `list` are rules
/// of one family, one priority and one owner, in the kernel's order.
pub(super) fn hits_exactly(list: &[&Rule], order: &[usize]) -> bool {
    // Action and table are always named (a table of 0 is not, but no lookup has it), so rules that differ there never meet.
    let mut members: HashMap<(u8, u32), Vec<usize>> = HashMap::new();
    let mut deleted: HashMap<(u8, u32), Vec<usize>> = HashMap::new();
    for (index, rule) in list.iter().enumerate() {
        members.entry(action_numbers(rule.action)).or_default().push(index);
    }
    for index in order {
        deleted.entry(action_numbers(list[*index].action)).or_default().push(*index);
    }
    deleted.into_iter().all(|(action, deleted)| {
        let members = members.remove(&action).unwrap_or_default();
        let shapes: HashSet<u32> = members.iter().map(|index| shape(list[*index])).collect();
        if shapes.len() == 1 {
            by_value(list, &members, &deleted)
        } else {
            members.len() <= SIMULATED && by_trying(list, members, &deleted)
        }
    })
}

/// Where all name the same selectors, a request hits the first of equal values.
fn by_value(list: &[&Rule], members: &[usize], deleted: &[usize]) -> bool {
    let mut queues: HashMap<Rule, VecDeque<usize>> = HashMap::new();
    for index in members {
        queues.entry(compared(list[*index])).or_default().push_back(*index);
    }
    deleted.iter().all(|index| queues.get_mut(&compared(list[*index])).and_then(VecDeque::pop_front) == Some(*index))
}

fn by_trying(list: &[&Rule], mut left: Vec<usize>, deleted: &[usize]) -> bool {
    deleted.iter().all(|index| match left.iter().position(|other| covers(list[*index], list[*other])) {
        Some(place) => left.remove(place) == *index,
        None => false,
    })
}

/// The rule without what is never compared.
fn compared(rule: &Rule) -> Rule {
    let mut compared = rule.clone();
    compared.selectors.not = false;
    if let RuleAction::Goto(target) = &mut compared.action {
        *target = 0;
    }
    compared
}

/// The kernel's number of an action (FR_ACT_*) and the table it keeps with it.
fn action_numbers(action: RuleAction) -> (u8, u32) {
    match action {
        RuleAction::Table(table) => (1, table),
        RuleAction::Goto(_) => (2, 0),
        RuleAction::Nop => (3, 0),
        RuleAction::Blackhole => (6, 0),
        RuleAction::Unreachable => (7, 0),
        RuleAction::Prohibit => (8, 0),
        RuleAction::Unknown(number) => (number, 0),
    }
}

/// Which of the compared fields a request for this rule names, a bit for each.
fn shape(rule: &Rule) -> u32 {
    let selectors = &rule.selectors;
    let (mark, mask) = selectors.fwmark.unwrap_or((0, 0));
    let named = [
        selectors.iif.is_some(),
        selectors.oif.is_some(),
        mark != 0,
        mask != 0,
        selectors.from.is_some_and(|net| net.prefix_len() > 0),
        selectors.to.is_some_and(|net| net.prefix_len() > 0),
        selectors.tos != 0,
        selectors.dscp.is_some(),
        selectors.ipproto.is_some_and(|number| number != 0),
        selectors.sport.is_some(),
        selectors.dport.is_some(),
        selectors.uidrange.is_some(),
        selectors.l3mdev,
        selectors.tun_id.is_some_and(|id| id != 0),
        rule.suppress_prefixlength.is_some(),
        rule.suppress_ifgroup.is_some(),
        selectors.flowlabel.is_some(),
        rule.realms.is_some(),
    ];
    named.iter().enumerate().fold(0, |bits, (bit, named)| bits | (u32::from(*named) << bit))
}

/// Whether a request for `asked` agrees with `other`, for rules of one family, priority and owner.
fn covers(asked: &Rule, other: &Rule) -> bool {
    fn agrees<T: PartialEq>(asked: Option<T>, other: Option<T>) -> bool {
        asked.is_none_or(|asked| other == Some(asked))
    }
    let (named, has) = (&asked.selectors, &other.selectors);
    let mark = |rule: &Rule| rule.selectors.fwmark.map(|(mark, _)| mark).filter(|mark| *mark != 0);
    let mask = |rule: &Rule| rule.selectors.fwmark.map(|(_, mask)| mask).filter(|mask| *mask != 0);
    let net = |net: Option<ipnet::IpNet>| net.filter(|net| net.prefix_len() > 0);
    action_numbers(asked.action) == action_numbers(other.action)
        && agrees(named.iif.as_ref(), has.iif.as_ref())
        && agrees(named.oif.as_ref(), has.oif.as_ref())
        && agrees(mark(asked), mark(other))
        && agrees(mask(asked), mask(other))
        && agrees(net(named.from), net(has.from))
        && agrees(net(named.to), net(has.to))
        && (named.tos == 0 || named.tos == has.tos)
        && agrees(named.dscp, has.dscp)
        && agrees(named.ipproto.filter(|number| *number != 0), has.ipproto)
        && agrees(named.sport, has.sport)
        && agrees(named.dport, has.dport)
        && agrees(named.uidrange, has.uidrange)
        && (!named.l3mdev || has.l3mdev)
        && agrees(named.tun_id.filter(|id| *id != 0), has.tun_id)
        && agrees(asked.suppress_prefixlength, other.suppress_prefixlength)
        && agrees(asked.suppress_ifgroup, other.suppress_ifgroup)
        && agrees(named.flowlabel, has.flowlabel)
        && agrees(asked.realms, other.realms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    fn rule(iif: Option<&str>, not: bool) -> Rule {
        let mut rule = Rule::lookup(Family::Ipv4, 10, 111);
        rule.selectors.iif = iif.map(str::to_owned);
        rule.selectors.not = not;
        rule
    }

    #[test]
    fn a_wide_request_hits_a_narrow_rule_before_it() {
        let (narrow, wide) = (rule(Some("a"), false), rule(None, false));
        assert!(!hits_exactly(&[&narrow, &wide], &[1]));
        assert!(hits_exactly(&[&narrow, &wide], &[0]));
        assert!(hits_exactly(&[&narrow, &wide], &[0, 1]));
        assert!(hits_exactly(&[&wide, &narrow], &[0]));
        assert!(hits_exactly(&[&wide, &narrow], &[1]), "the wide rule does not agree with a request that names more");
    }

    #[test]
    fn not_and_the_goto_target_are_unseen() {
        let (plain, twin) = (rule(Some("a"), false), rule(Some("a"), true));
        assert!(!hits_exactly(&[&plain, &twin], &[1]));
        assert!(hits_exactly(&[&plain, &twin], &[0, 1]));
        let to = |target| Rule { action: RuleAction::Goto(target), ..rule(None, false) };
        assert!(!hits_exactly(&[&to(20), &to(30)], &[1]));
        let elsewhere = Rule { action: RuleAction::Table(112), ..rule(None, false) };
        assert!(hits_exactly(&[&plain, &elsewhere], &[1]), "another table is another rule");
    }

    #[test]
    fn large_lists_of_one_shape_are_quick_and_exact() {
        let many: Vec<Rule> = (0..20_000).map(|n| rule(Some(&format!("i{n}")), n % 2 == 0)).collect();
        let list: Vec<&Rule> = many.iter().collect();
        let backwards: Vec<usize> = (0..list.len()).rev().collect();
        assert!(hits_exactly(&list, &backwards));
    }
}
