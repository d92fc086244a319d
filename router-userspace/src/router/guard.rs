//! What the guard is told, and what it says, for the running router.

use super::engine::Engine;
use crate::fastpath::FastPath;
use crate::kernel::{ForeignPrograms, survey};
use crate::mirror::{self, Desired, MarkClasses};
use crate::model::Host;
use crate::policy::Policy;
use crate::safety::{self, Facts, Judgement, Wanted};
use std::time::Instant;

impl Engine {
    /// Looks what else acts on packets, as far as that matters; true where it is something else than before.
    pub(super) fn survey(&mut self, policy: &Policy) -> bool {
        let facts = match &mut self.fast {
            Some(fast) => facts(fast, &self.host),
            None if policy.wants_mark_bits() => survey(ForeignPrograms::default()),
            None => Facts::default(),
        };
        self.surveyed = Instant::now();
        let before = std::mem::replace(&mut self.facts, facts);
        before != self.facts
    }
}

/// What the guard allows once the file's rules are there, and what the mirror is to hold. Without a fast path nothing is judged.
pub(super) fn judged(policy: &Policy, host: &Host, facts: &Facts, has_fast_path: bool) -> (Judgement, Desired) {
    let desired = mirror::desired(policy, host, &MarkClasses::default());
    if !has_fast_path {
        return (Judgement::default(), desired);
    }
    let wanted = Wanted { settings: &policy.router, marks: &policy.mark_rules() };
    let judgement = safety::judge(&mirror::after(&desired, host), facts, &wanted);
    let classes = MarkClasses::from(&judgement);
    let desired = if classes == MarkClasses::default() { desired } else { mirror::desired(policy, host, &classes) };
    (judgement, desired)
}

/// Everything on this host that could act on a packet.
pub(super) fn facts(fast: &mut FastPath, host: &Host) -> Facts {
    survey(fast.foreign(host.links.keys().copied()))
}
