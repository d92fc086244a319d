//! What the guard is told, and what it says, for the running router.

use super::engine::Engine;
use crate::fastpath::FastPath;
use crate::kernel::{ForeignPrograms, survey};
use crate::mirror::{self, MarkClasses};
use crate::model::Host;
use crate::policy::Policy;
use crate::safety::{self, Facts, Judgement, Wanted};
use std::time::Instant;

impl Engine {
    /// Looks what else acts on packets, as far as that matters.
    pub(super) fn survey(&mut self, policy: &Policy) {
        self.facts = match &mut self.fast {
            Some(fast) => facts(fast, &self.host),
            None if policy.wants_mark_bits() => survey(ForeignPrograms::default()),
            None => Facts::default(),
        };
        self.surveyed = Instant::now();
    }

    /// What the guard allows, once the file's rules are there.
    pub(super) fn judge(&self, policy: &Policy) -> Judgement {
        if self.fast.is_none() {
            return Judgement::default();
        }
        let host = mirror::after(&mirror::desired(policy, &self.host, &MarkClasses::default()), &self.host);
        safety::judge(&host, &self.facts, &Wanted { settings: &policy.router, marks: &policy.mark_rules() })
    }
}

/// Everything on this host that could act on a packet.
pub(super) fn facts(fast: &mut FastPath, host: &Host) -> Facts {
    survey(fast.foreign(host.links.keys().copied()))
}
