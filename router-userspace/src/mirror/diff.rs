//! The steps from what the kernel holds to what it is to hold.

use super::desired::Desired;
use super::handover::hand_over;
use super::{routes, rules};
use crate::model::{Host, MarkRule, OWN_PROTOCOL, Route, Rule};

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add this route.
    AddRoute(Route),
    /// Replace the table of marks; with none, remove it.
    SetMarks {
        /// The marks.
        marks: Vec<MarkRule>,
        /// Their digest.
        digest: u64,
    },
    /// Add this rule behind those of its priority.
    AddRule(Rule),
    /// Delete this rule.
    DeleteRule(Rule),
    /// Delete this route.
    DeleteRoute(Route),
}

/// What of Wayfork's own the kernel holds: what an undo goes back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub rules: Vec<Rule>,
    pub routes: Vec<Route>,
    /// The digest of the installed marks.
    pub digest: Option<u64>,
    /// The installed marks, where they are known.
    pub marks: Option<Vec<MarkRule>>,
}

/// The way from one state to another.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// When so many are taken, all new rules are there and hardly an old one is gone.
    pub(super) turn: usize,
    pub(super) before: Own,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many ranges the sets have that are set.
    pub fn members(&self) -> usize {
        let marks = self.steps.iter().filter_map(|step| match step {
            Step::SetMarks { marks, .. } => Some(marks),
            _ => None,
        });
        let of = |mark: &MarkRule| mark.selectors.sets().map(|set| set.members.ranges(mark.family)).sum::<usize>();
        marks.flatten().map(of).sum()
    }

    /// The marks that are installed now, where the caller knows them: the kernel tells only their digest, and without the
    /// marks a failure later on cannot put them back, nor are the bits of sets handed over. Ignored where the digest is another.
    #[must_use]
    pub fn with_installed_marks(mut self, marks: &[MarkRule]) -> Self {
        if self.before.digest == Some(mark_digest(marks)) {
            self.before.marks = Some(marks.to_vec());
            hand_over(&mut self.steps, self.turn, &self.before);
        }
        self
    }
}

/// The steps from `host`, with marks of this digest installed ([`crate::kernel::Kernel::mark_chain`]), to `desired`: set
/// difference against what is Wayfork's own. Nothing of another owner is touched, nothing that is right is touched.
pub fn diff(desired: &Desired, host: &Host, installed_marks: Option<u64>) -> Changes {
    diff_within(desired, host, installed_marks, rules::Limits::default())
}

pub(super) fn diff_within(
    desired: &Desired,
    host: &Host,
    installed_marks: Option<u64>,
    limits: rules::Limits,
) -> Changes {
    let want = Own {
        rules: desired.rules.iter().map(|wanted| wanted.item.clone()).collect(),
        routes: desired.routes.iter().map(|wanted| wanted.item.clone()).collect(),
        digest: (!desired.marks.is_empty()).then_some(desired.digest),
        marks: Some(desired.marks.clone()),
    };
    let (steps, turn) = with_turn(&host.rules, &host.routes, installed_marks, &want, limits);
    // Either may be long: not both at once.
    drop(want);
    let before = Own {
        rules: host.rules.iter().filter(|rule| rule.protocol == OWN_PROTOCOL).cloned().collect(),
        routes: host.routes.iter().filter(|route| route.protocol == OWN_PROTOCOL).cloned().collect(),
        digest: installed_marks,
        marks: None,
    };
    Changes { steps, turn, before }
}

/// The steps from a state to one whose own part is `want`: new before old, so that nothing points to what is not there.
/// Marks that are not known are left as they are.
pub(super) fn between(
    rules_now: &[Rule],
    routes_now: &[Route],
    digest_now: Option<u64>,
    want: &Own,
    limits: rules::Limits,
) -> Vec<Step> {
    with_turn(rules_now, routes_now, digest_now, want, limits).0
}

/// The same, with [`Changes::turn`].
fn with_turn(
    rules_now: &[Rule],
    routes_now: &[Route],
    digest_now: Option<u64>,
    want: &Own,
    limits: rules::Limits,
) -> (Vec<Step>, usize) {
    let routes = routes::steps(routes_now, &want.routes);
    let rules = rules::steps(rules_now, &want.rules, limits);
    let marks = match &want.marks {
        _ if digest_now == want.digest => None,
        Some(marks) => Some(Step::SetMarks { marks: marks.clone(), digest: want.digest.unwrap_or_default() }),
        None if want.digest.is_none() => Some(Step::SetMarks { marks: Vec::new(), digest: 0 }),
        None => None,
    };
    // Marks that nothing sets any more go after the rules that ask for them.
    let goes = matches!(&marks, Some(Step::SetMarks { marks, .. }) if marks.is_empty());
    let (marks_first, marks_last) = if goes { (None, marks) } else { (marks, None) };
    let mut steps = routes.add;
    steps.extend(marks_first);
    steps.extend(rules.add);
    let turn = steps.len();
    steps.extend(rules.delete);
    steps.extend(marks_last);
    steps.extend(routes.delete);
    (steps, turn)
}

/// What tells one list of marks from another; never 0, which stands for a table that was changed by hand.
pub fn mark_digest(marks: &[MarkRule]) -> u64 {
    // FNV-1a, 64 bits, over the form that the fields have in messages; the number in front is that of the chains' form. Another
    // version may find another digest for the same marks: then the table is replaced once.
    let text = format!("3 {marks:?}");
    let digest = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    digest.max(1)
}
