//! The limit of what a TC program gains on this path: it decides nothing.

use crate::frame::{Bytes, Head};
use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;
use router_common::bench::{ETHERNET, Limit};
use router_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

#[map]
static LIMIT: Array<Limit> = Array::with_max_entries(1, 0);

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    forward(ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn forward(ctx: &TcContext) -> Option<i32> {
    let limit = LIMIT.get(0)?;
    let head: Head<{ ETHERNET + 20 }> = Bytes::new(ctx.data(), ctx.data_end()).head()?;
    let ethertype = u16::from_be(head.read(12));
    if !matches!(ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
        return None;
    }
    head.forward(ethertype, limit.macs);
    // SAFETY: a plain helper.
    Some(unsafe { bpf_redirect(limit.oif, 0) as i32 })
}
