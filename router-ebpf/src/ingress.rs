//! The way of a packet: may the program decide at all, read the headers, decide.

use crate::maps::{CONFIG, LEASE, Maps, STATES};
use crate::skb::{ETHERNET_HEADER, Skb};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns};
use router_common::classify::{self, Outcome, Tables};
use router_common::layout::{ABI_VERSION, LINK_ETHERNET, MAY_PASS};
use router_common::parse::parse;
use router_common::steps::{Lists, Walk};
use router_common::verdict::PassReason;

/// A packet, and what is to be done with it.
///
/// Kept in a map and not on the stack: what comes from a map has no known value for the verifier, so that the ways through
/// the headers do not multiply with those through the rules, and the stack is 512 bytes.
#[repr(C)]
pub struct State {
    pub walk: Walk,
    /// Room for the walk back to the source.
    back: Walk,
    pub outcome: Outcome,
    /// 1: the frame has an Ethernet header.
    pub ethernet: u32,
    /// 1: `ip_forward` would leave the priority alone.
    pub keep_priority: u32,
    /// fwmark as received.
    pub mark: u32,
    /// `Config::sample`; 0 while nothing is decided.
    pub sample: u32,
    /// `Config::generation`.
    pub generation: u32,
    /// `Config::counters`.
    pub counters: u32,
    /// 1: in use.
    busy: u32,
}

impl State {
    /// The state of this CPU; None where a program that this one has preempted uses it (kernels with PREEMPT_RT).
    /// The attached program and the probe have one each.
    #[inline(always)]
    pub fn take<const PROBE: bool>(skb: &Skb) -> Option<&'static mut State> {
        let state = STATES.get_ptr_mut(u32::from(PROBE))?;
        // SAFETY: an entry of this CPU's own; `busy` keeps a second program on it away.
        let state = unsafe { &mut *state };
        if state.busy != 0 {
            return None;
        }
        state.busy = 1;
        state.walk.packet.len = skb.len();
        state.mark = skb.mark();
        state.outcome.begin(state.mark);
        state.sample = 0;
        Some(state)
    }

    /// Lets the next packet have it.
    #[inline(always)]
    pub fn give_back(&mut self) {
        self.busy = 0;
    }

    /// Where the IP header begins.
    #[inline(always)]
    pub fn base(&self) -> u32 {
        if self.ethernet != 0 { ETHERNET_HEADER } else { 0 }
    }
}

/// Decides. Rewrites nothing and counts nothing.
#[inline(always)]
pub fn decide<const PROBE: bool>(skb: &Skb, state: &mut State) {
    if let Err(reason) = try_decide::<PROBE>(skb, state) {
        state.outcome.leave(reason);
    }
}

#[inline(always)]
fn try_decide<const PROBE: bool>(skb: &Skb, state: &mut State) -> Result<(), PassReason> {
    let lease = LEASE.get_ptr(0).ok_or(PassReason::LeaseExpired)?;
    // The clock that moves on with every timer tick: the others take longer to read than a rule to try.
    // SAFETY: a plain clock, and a word of an array map that the loader writes whole.
    if unsafe { bpf_ktime_get_coarse_ns() > lease.read_volatile() } {
        return Err(PassReason::LeaseExpired);
    }
    let config = CONFIG.get(0).ok_or(PassReason::Resync)?;
    if config.active == 0 || config.abi != ABI_VERSION {
        return Err(PassReason::Resync);
    }
    // The probe answers whichever CPU it is asked on, and not two at once: its block is the first.
    // SAFETY: a plain helper.
    let block = if PROBE { 0 } else { 1 + unsafe { bpf_get_smp_processor_id() } };
    let maps = Maps { skb, block };
    // NOTHING is no entry.
    let ingress = maps.link(maps.lists().find32(config.links, skb.ifindex())).ok_or(PassReason::UnknownInterface)?;
    if ingress.may == MAY_PASS {
        return Err(PassReason::InterfacePass);
    }
    // BPF_PROG_TEST_RUN puts an Ethernet header before the packet whatever the device.
    state.ethernet = u32::from(PROBE || ingress.flags & LINK_ETHERNET != 0);
    parse(&skb.packet(state.base()), &mut state.walk.packet)?;
    state.keep_priority = config.keep_priority;
    state.sample = config.sample;
    state.generation = config.generation;
    state.counters = config.counters;
    let State { walk, back, outcome, .. } = state;
    classify::decide(&maps, config, ingress, walk, back, outcome);
    Ok(())
}
