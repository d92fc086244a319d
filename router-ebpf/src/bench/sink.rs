//! The sink.

use crate::frame::{Bytes, Head};
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use router_common::bench::{COUNTS, Count, ETHERNET, MAGIC, PAYLOAD, SAMPLES, Sink, Span, fold, sink_mac};
use router_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

#[map]
static SINK: Array<Sink> = Array::with_max_entries(1, 0);
/// By [`Count`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTS as u32, 0);
/// The last times of packets that arrived right, in nanoseconds.
#[map]
static TIMES: Array<u32> = Array::with_max_entries(SAMPLES, 0);

#[map]
static SPAN: PerCpuArray<Span> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let frame = Bytes::new(ctx.data(), ctx.data_end());
    let (judged, sent) = judge(frame, ctx.ingress_ifindex() as u32);
    if let Some(counter) = COUNTERS.get_ptr_mut(judged as u32) {
        // SAFETY: an entry of this CPU's own.
        let count = unsafe { *counter };
        // SAFETY: as above.
        unsafe { *counter = count + 1 };
        if matches!(judged, Count::Right) {
            stamp(count as u32, sent);
        }
    }
    XDP_DROP
}

#[inline(always)]
fn stamp(number: u32, sent: u64) {
    let Some(sink) = SINK.get(0) else { return };
    let Some(span) = SPAN.get_ptr_mut(0) else { return };
    // SAFETY: an entry of this CPU's own.
    let span = unsafe { &mut *span };
    if span.first == 0 {
        span.first = sent;
    }
    if number & sink.stamp != 0 {
        return;
    }
    // SAFETY: a plain helper.
    let now = unsafe { bpf_ktime_get_ns() };
    span.last = now;
    if sink.sample == 0 {
        return;
    }
    if let Some(time) = TIMES.get_ptr_mut(number & (SAMPLES - 1)) {
        // SAFETY: an entry of the map; the samples are read when no packet is on its way.
        unsafe { *time = (now - sent) as u32 };
    }
}

/// What is wrong with a frame, and when it was sent.
#[inline(always)]
fn judge(frame: Bytes, ifindex: u32) -> (Count, u64) {
    const FOREIGN: (Count, u64) = (Count::Foreign, 0);
    let Some(start) = frame.head::<{ ETHERNET }>() else { return FOREIGN };
    let ethertype = u16::from_be(start.read(12));
    if ethertype == ETHERTYPE_IPV4 {
        let Some(head) = frame.head::<{ ETHERNET + 20 + 8 + PAYLOAD }>() else { return FOREIGN };
        let words: [u32; 5] = head.read(ETHERNET);
        let sum = fold(words.iter().fold(0, |sum, word| sum + u64::from(*word)));
        judge_ip(head, 20, ifindex, head.read(ETHERNET + 8), sum == 0xffff)
    } else if ethertype == ETHERTYPE_IPV6 {
        let Some(head) = frame.head::<{ ETHERNET + 40 + 8 + PAYLOAD }>() else { return FOREIGN };
        judge_ip(head, 40, ifindex, head.read(ETHERNET + 7), true)
    } else {
        FOREIGN
    }
}

#[inline(always)]
fn judge_ip<const N: usize>(head: Head<N>, udp: usize, ifindex: u32, ttl: u8, summed: bool) -> (Count, u64) {
    let payload = ETHERNET + udp + 8;
    let [magic, exit]: [u32; 2] = head.read(payload);
    let sent: u64 = head.read(payload + 8);
    let expected = SINK.get(0).map_or(0, |sink| sink.ttl);
    let mac: [u8; 6] = head.read(0);
    let judged = if u32::from_be(magic) != MAGIC {
        Count::Foreign
    } else if u32::from_be(exit) != ifindex {
        Count::WrongExit
    } else if mac != sink_mac(ifindex) {
        Count::WrongMac
    } else if u32::from(ttl) != expected {
        Count::WrongTtl
    } else if !summed {
        Count::WrongChecksum
    } else {
        Count::Right
    };
    (judged, sent)
}
