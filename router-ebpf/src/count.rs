//! What happened, per CPU: nobody else writes the entry that is counted in.

use crate::maps::{PASS_COUNTERS, RULE_COUNTERS};
use router_common::classify::Outcome;
use router_common::layout::NO_RULE;
use router_common::verdict::Action;

/// Counts one packet of `bytes` (from the IP header on) for the rule that decided, and for the reason where it was passed.
#[inline(always)]
pub fn count(outcome: &Outcome, bytes: u32) {
    if outcome.action == Action::Pass as u8
        && let Some(counter) = PASS_COUNTERS.get_ptr_mut(u32::from(outcome.reason))
    {
        // SAFETY: an entry of this CPU's own.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
    if outcome.rule != NO_RULE
        && let Some(counter) = RULE_COUNTERS.get_ptr_mut(outcome.rule)
    {
        let action = usize::from(outcome.action & 3);
        // SAFETY: an entry of this CPU's own, and an index below 4.
        unsafe {
            (*counter).packets[action] += 1;
            (*counter).bytes[action] += u64::from(bytes);
        }
    }
}
