//! The generator. Pages come back as the router left them, so every header is written anew.

use crate::frame::{Bytes, Head};
use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use router_common::bench::{ETHERNET, Generator, MAGIC, PAYLOAD, Plan, header4, header6};
use router_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4};

#[map]
static GENERATOR: Array<Generator> = Array::with_max_entries(1, 0);
/// Packets so far.
#[map]
static SENT: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

const LEAST4: usize = ETHERNET + 20 + 8 + PAYLOAD;
const LEAST6: usize = ETHERNET + 40 + 8 + PAYLOAD;

#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    write(ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn write(ctx: &XdpContext) -> Option<u32> {
    let config = GENERATOR.get(0)?;
    let sent = SENT.get_ptr_mut(0)?;
    // SAFETY: an entry of this CPU's own.
    let number = unsafe { *sent };
    // SAFETY: as above.
    unsafe { *sent = number.wrapping_add(1) };

    let frame = Bytes::new(ctx.data(), ctx.data_end());
    let flow = number & config.flows;
    let plan = &config.plan;
    let (from, to) = plan.addresses(flow);
    let exit = config.first_exit + plan.exit(plan.rule_of(flow));
    let length = config.length - ETHERNET as u32;
    if plan.family == IPV4 {
        let head: Head<LEAST4> = frame.head()?;
        ethernet(head, config, ETHERTYPE_IPV4);
        head.write_words(0, header4(from[0], to[0], length));
        rest(head, 20, flow, length, exit);
    } else {
        let head: Head<LEAST6> = frame.head()?;
        ethernet(head, config, ETHERTYPE_IPV6);
        head.write_words(0, header6(from, to, length));
        rest(head, 40, flow, length, exit);
    }
    // SAFETY: a plain helper.
    Some(unsafe { bpf_redirect(config.oif, 0) as u32 })
}

#[inline(always)]
fn ethernet<const N: usize>(head: Head<N>, config: &Generator, ethertype: u16) {
    head.write(0, config.macs);
    head.write(12, ethertype.to_be());
}

/// UDP header, without a checksum, and payload.
#[inline(always)]
fn rest<const N: usize>(head: Head<N>, at: usize, flow: u32, length: u32, exit: u32) {
    head.write_words(at, [Plan::ports(flow), (length - at as u32) << 16, MAGIC, exit]);
    // SAFETY: a plain helper.
    head.write(ETHERNET + at + 16, unsafe { bpf_ktime_get_ns() });
}
