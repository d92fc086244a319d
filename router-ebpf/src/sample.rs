//! Samples for `run --shadow`: what was decided about one packet in many, told to the loader.

use crate::ingress::State;
use crate::maps::{MapLists, SAMPLES, SAMPLES_DROPPED};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use router_common::layout::{AddrWords, Sample};
use router_common::packet::{IPV4, Packet};
use router_common::verdict::Action;

/// Tells of the packet, where its turn has come. What was left to the stack claims nothing and is never told.
#[inline(always)]
pub fn sample(state: &State) {
    if state.sample == 0 || state.outcome.action == Action::Pass as u8 {
        return;
    }
    // SAFETY: a helper without arguments.
    if unsafe { bpf_get_prandom_u32() } > state.sample {
        return;
    }
    let packet = &state.walk.packet;
    let Some(mut record) = SAMPLES.reserve::<Sample>(0) else {
        if let Some(dropped) = SAMPLES_DROPPED.get_ptr_mut(0) {
            // SAFETY: an entry of this CPU's own.
            unsafe { *dropped += 1 };
        }
        return;
    };
    record.write(Sample {
        generation: state.generation,
        family: packet.family,
        iif: packet.iif,
        mark: state.mark,
        src: address(packet, &packet.src),
        dst: address(packet, &packet.dst),
        sport: packet.sport,
        dport: packet.dport,
        ipproto: packet.ipproto,
        fragment: packet.fragment,
        flow: packet.flow,
        pad: [0; 2],
        decision: state.outcome.decision(&MapLists),
    });
    record.submit(0);
}

/// An address with nothing in the words that IPv4 does not use.
#[inline(always)]
fn address(packet: &Packet, addr: &AddrWords) -> AddrWords {
    if packet.family == IPV4 { [addr[0], 0, 0, 0] } else { *addr }
}
