//! Carrying the decision out.

use crate::ingress::State;
use crate::skb::{ETHERNET_HEADER, Refused, Skb};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::warn;
use router_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, FLOW_CLASS_SHIFT, IPV4, IPV4_TTL_OFFSET, IPV6_HOP_LIMIT_OFFSET, forwarded_priority,
    forwarded_ttl_word,
};
use router_common::steps::Walk;
use router_common::verdict::{Action, PassReason};

/// Redirects, marks, drops, or leaves the packet to the programs after this one. Corrects the decision where the packet could
/// not be rewritten.
#[inline(always)]
pub fn act(ctx: &TcContext, skb: &Skb, state: &mut State) -> i32 {
    let action = state.outcome.action;
    if action == Action::Redirect as u8 {
        match redirect(skb, state) {
            Ok(status) => status,
            Err(Failed::Untouched) => {
                state.outcome.leave(PassReason::Rewrite);
                TC_ACT_UNSPEC
            }
            Err(Failed::Halfway) => {
                state.outcome.action = Action::Drop as u8;
                say_dropped(ctx, state.outcome.oif);
                TC_ACT_SHOT
            }
        }
    } else if action == Action::Mark as u8 {
        skb.set_mark(state.outcome.write_mark);
        TC_ACT_UNSPEC
    } else if action == Action::Drop as u8 {
        TC_ACT_SHOT
    } else {
        TC_ACT_UNSPEC
    }
}

/// How far a rewrite came.
enum Failed {
    /// The stack can still have the packet. (It may have lost its padding, which the stack removes first as well.)
    Untouched,
    /// Neither the stack nor the wire can.
    Halfway,
}

#[inline(always)]
fn untouched(_: Refused) -> Failed {
    Failed::Untouched
}

#[inline(always)]
fn halfway(_: Refused) -> Failed {
    Failed::Halfway
}

/// What `ip_rcv_core()`, `ip_forward()` or `ip6_forward()` and the neighbour layer do to a packet on its way.
#[inline(always)]
fn redirect(skb: &Skb, state: &State) -> Result<i32, Failed> {
    let State { walk: Walk { packet, .. }, outcome, .. } = state;
    let base = state.base();
    let ipv4 = packet.family == IPV4;
    // Link-layer padding is not forwarded. A GSO packet has none (parse).
    let total = base + packet.len;
    if skb.len() > total {
        skb.trim(total).map_err(untouched)?;
    }
    let adds_header = base == 0 && outcome.ethernet != 0;
    let mut start = base;
    if adds_header {
        skb.add_ethernet_header().map_err(untouched)?;
        start = ETHERNET_HEADER;
    }
    let failed = |_| if adds_header { Failed::Halfway } else { Failed::Untouched };
    if ipv4 {
        // The sum over the header, checksum included, stays what it was: CHECKSUM_COMPLETE stays true.
        skb.change_word(start + IPV4_TTL_OFFSET, forwarded_ttl_word).map_err(failed)?;
    } else {
        skb.change_word(start + IPV6_HOP_LIMIT_OFFSET, |word| word.wrapping_sub(1)).map_err(failed)?;
        skb.subtract_from_sum(1u32.to_be());
    }
    if outcome.ethernet != 0 {
        // CHECKSUM_COMPLETE does not cover the Ethernet header, here at ingress.
        skb.set_macs(&outcome.macs).map_err(halfway)?;
        if adds_header {
            skb.set_ethertype(if ipv4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }).map_err(halfway)?;
        }
    }
    if outcome.write_mark != skb.mark() {
        skb.set_mark(outcome.write_mark);
    }
    // `ip6_forward()` leaves the priority alone.
    if ipv4 && state.keep_priority == 0 {
        skb.set_priority(forwarded_priority((packet.flow >> FLOW_CLASS_SHIFT) as u8));
    }
    // Towards a device without Ethernet headers the kernel strips this one (`__bpf_redirect_no_mac()`).
    Ok(skb.redirect(outcome.oif))
}

/// Not `#[cold]`: that would put it into a section of its own, and the loader mistakes its address for one in `.text`.
#[inline(never)]
fn say_dropped(ctx: &TcContext, oif: u32) {
    warn!(ctx, "dropped a packet to interface {}: no memory to rewrite it", oif);
}

/// The context as [`Skb`] takes it.
#[inline(always)]
pub fn skb_of(ctx: &TcContext) -> Skb {
    Skb::new(ctx.as_ptr().cast())
}
