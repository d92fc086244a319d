//! An XDP program that forwards by `bpf_fib_lookup`, rules included: what xdp-forward of xdp-tools does.

use crate::frame::{Bytes, Head};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_fib_lookup as Lookup, xdp_action::XDP_PASS};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect};
use aya_ebpf::programs::XdpContext;
use core::mem;
use router_common::bench::ETHERNET;
use router_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_HOP_LIMIT_OFFSET};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    forward(ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn forward(ctx: &XdpContext) -> Option<u32> {
    let frame = Bytes::new(ctx.data(), ctx.data_end());
    let start: Head<{ ETHERNET + 20 }> = frame.head()?;
    // SAFETY: plain data, for which all zeroes is a value.
    let mut lookup: Lookup = unsafe { mem::zeroed() };
    lookup.ifindex = ctx.ingress_ifindex() as u32;
    let ethertype = u16::from_be(start.read(12));
    if ethertype == ETHERTYPE_IPV4 {
        lookup.family = AF_INET;
        lookup.l4_protocol = start.read(ETHERNET + 9);
        lookup.__bindgen_anon_1.tot_len = u16::from_be(start.read(ETHERNET + 2));
        lookup.__bindgen_anon_2.tos = start.read(ETHERNET + 1);
        lookup.__bindgen_anon_3.ipv4_src = start.read(ETHERNET + 12);
        lookup.__bindgen_anon_4.ipv4_dst = start.read(ETHERNET + 16);
    } else if ethertype == ETHERTYPE_IPV6 {
        let head: Head<{ ETHERNET + 40 }> = frame.head()?;
        lookup.family = AF_INET6;
        lookup.l4_protocol = head.read(ETHERNET + IPV6_HOP_LIMIT_OFFSET as usize + 2);
        lookup.__bindgen_anon_1.tot_len = u16::from_be(head.read(ETHERNET + 4)) + 40;
        lookup.__bindgen_anon_3.ipv6_src = head.read(ETHERNET + 8);
        lookup.__bindgen_anon_4.ipv6_dst = head.read(ETHERNET + 24);
    } else {
        return None;
    }
    // SAFETY: the context is the program's, the parameters are as long as said.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut lookup, size_of::<Lookup>() as i32, 0) };
    // BPF_FIB_LKUP_RET_SUCCESS.
    if found != 0 {
        return None;
    }
    start.forward(ethertype, [lookup.dmac, lookup.smac]);
    // SAFETY: a plain helper.
    Some(unsafe { bpf_redirect(lookup.ifindex, 0) as u32 })
}
