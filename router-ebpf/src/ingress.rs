//! The way of a packet: may the program decide at all, read the headers, decide.

use crate::maps::{CONFIG, LEASE, Maps, link};
use crate::skb::{ETHERNET_HEADER, PacketAt, Skb};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use router_common::classify::{self, Outcome, Walk};
use router_common::layout::{ABI_VERSION, LINK_ETHERNET, MAY_PASS};
use router_common::packet::Frame;
use router_common::parse::parse;
use router_common::verdict::PassReason;

/// A packet, and what is to be done with it.
pub struct State {
    pub walk: Walk,
    pub outcome: Outcome,
    /// Where the IP header begins: 14, or 0 for a device without Ethernet headers.
    pub base: u32,
    /// `ip_forward` would set the priority.
    pub sets_priority: bool,
}

impl State {
    /// A packet of which nothing is known.
    #[inline(always)]
    pub fn new(skb: &Skb) -> Self {
        let mut walk = Walk::new();
        walk.packet.len = skb.len();
        let outcome = Outcome::pass(PassReason::Resync, skb.mark());
        State { walk, outcome, base: 0, sets_priority: false }
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
    // SAFETY: a plain clock, and a word of an array map that the loader writes whole.
    if unsafe { bpf_ktime_get_ns() > lease.read_volatile() } {
        return Err(PassReason::LeaseExpired);
    }
    let config = CONFIG.get(0).ok_or(PassReason::Resync)?;
    if config.active == 0 || config.abi != ABI_VERSION {
        return Err(PassReason::Resync);
    }
    let ingress = link(skb.ifindex()).ok_or(PassReason::UnknownInterface)?;
    if ingress.may == MAY_PASS {
        return Err(PassReason::InterfacePass);
    }
    // BPF_PROG_TEST_RUN puts an Ethernet header before the packet whatever the device.
    state.base = if PROBE || ingress.flags & LINK_ETHERNET != 0 { ETHERNET_HEADER } else { 0 };
    skb.pull_headers(state.base);
    let packet = &mut state.walk.packet;
    if state.base == 0 { parse(&PacketAt::<0> { skb }, packet)? } else { parse(&PacketAt::<14> { skb }, packet)? }
    state.sets_priority = config.keep_priority == 0;
    classify::decide(&Maps { skb }, config, ingress, &mut state.walk, &mut state.outcome);
    Ok(())
}

/// A word of the header, host byte order.
#[inline(always)]
pub fn header_word(skb: &Skb, base: u32, offset: u32) -> Option<u32> {
    let words: Option<[u32; 1]> = if base == 0 {
        PacketAt::<0> { skb }.words(offset as usize)
    } else {
        PacketAt::<14> { skb }.words(offset as usize)
    };
    words.map(|[word]| u32::from_be(word))
}
