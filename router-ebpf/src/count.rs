//! What happened, per CPU: nobody else writes the entry that is counted in.

use crate::maps::{PASS_COUNTERS, RULE_COUNTERS};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use router_common::classify::Outcome;
use router_common::layout::{ACTIONS_COUNTED, NO_RULE, counter_index};
use router_common::verdict::Action;

/// Counts one packet of `bytes` (from the IP header on) for the rule that decided, and for the reason where it was passed. There are
/// `counters` of rules.
#[inline(always)]
pub fn count(outcome: &Outcome, counters: u32, bytes: u32) {
    if outcome.action == Action::Pass as u8
        && let Some(counter) = PASS_COUNTERS.get_ptr_mut(u32::from(outcome.reason))
    {
        // SAFETY: an entry of this CPU's own.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
    if outcome.rule != NO_RULE && outcome.rule < counters {
        // SAFETY: a plain helper.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let index = counter_index(cpu, u32::from(outcome.action) & (ACTIONS_COUNTED - 1), outcome.rule, counters);
        if let Some(counter) = RULE_COUNTERS.get_ptr_mut(index) {
            // SAFETY: an entry of this CPU's own.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += u64::from(bytes);
            }
        }
    }
}
