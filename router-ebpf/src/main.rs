//! Wayfork's TC program. This file holds the program sections only; the way of a packet is in `ingress`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod act;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod ingress;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod sample;
#[cfg(target_arch = "bpf")]
mod skb;

#[cfg(target_arch = "bpf")]
mod bpf {
    use crate::act::{act, skb_of};
    use crate::count::count;
    use crate::ingress::{State, decide};
    use crate::maps::{DECISION, MapLists};
    use crate::sample::sample;
    use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

    /// Attached at TC ingress. The name is the one that `tc filter` shows, by which a filter left by a killed run is found.
    #[classifier]
    pub fn wayfork(ctx: TcContext) -> i32 {
        let skb = skb_of(&ctx);
        let Some(state) = State::take::<false>(&skb) else { return TC_ACT_UNSPEC };
        decide::<false>(&skb, state);
        let status = act(&ctx, &skb, state);
        count(&state.outcome, state.counters, state.walk.packet.len);
        sample(state);
        state.give_back();
        status
    }

    /// Never attached: BPF_PROG_TEST_RUN asks it what `wayfork` would do. Changes nothing but DECISION.
    #[classifier]
    pub fn wayfork_probe(ctx: TcContext) -> i32 {
        let skb = skb_of(&ctx);
        let Some(state) = State::take::<true>(&skb) else { return TC_ACT_UNSPEC };
        decide::<true>(&skb, state);
        if let Some(decision) = DECISION.get_ptr_mut(0) {
            // SAFETY: the one entry of the map; test runs are not run side by side.
            unsafe { *decision = state.outcome.decision(&MapLists) };
        }
        state.give_back();
        TC_ACT_UNSPEC
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
