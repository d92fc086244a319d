//! The limit of what a TC program gains on this path: it decides nothing.

use crate::frame::{Bytes, Head};
use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;
use router_common::bench::{ETHERNET, Limit};
use router_common::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_TTL_OFFSET, IPV6_HOP_LIMIT_OFFSET, forwarded_ttl_word,
};

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
    if ethertype == ETHERTYPE_IPV4 {
        let at = ETHERNET + IPV4_TTL_OFFSET as usize;
        head.write(at, forwarded_ttl_word(u32::from_be(head.read(at))).to_be());
    } else if ethertype == ETHERTYPE_IPV6 {
        let at = ETHERNET + IPV6_HOP_LIMIT_OFFSET as usize;
        head.write(at, u32::from_be(head.read(at)).wrapping_sub(1).to_be());
    } else {
        return None;
    }
    head.write(0, limit.macs);
    // SAFETY: a plain helper.
    Some(unsafe { bpf_redirect(limit.oif, 0) as i32 })
}
