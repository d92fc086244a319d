//! The only access to `__sk_buff`.
//!
//! Packet bytes are read directly and written only by helpers: a program that writes directly gets a prologue from the verifier
//! that copies every cloned packet, those that it passes included.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use core::ffi::c_long;
use core::ptr;
use router_common::packet::Frame;

/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: u32 = 14;

/// The longest headers that are read: IPv6 and TCP up to its flags.
const HEADERS: u32 = 40 + 20;

/// BPF_MTU_CHK_SEGS (include/uapi/linux/bpf.h).
const BPF_MTU_CHK_SEGS: u64 = 1;

/// PACKET_HOST.
const PACKET_HOST: u32 = 0;

/// A packet at TC ingress.
pub struct Skb {
    raw: *mut __sk_buff,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $field:ident),* $(,)?) => {
        impl Skb { $(
            $(#[$doc])*
            #[inline(always)]
            pub fn $name(&self) -> u32 {
                // SAFETY: `raw` is the program's context. Volatile, because the verifier allows whole-word access only.
                unsafe { ptr::read_volatile(&raw const (*self.raw).$field) }
            }
        )* }
    };
}

fields! {
    /// Bytes, the Ethernet header included.
    len: len,
    /// The interface it came in by.
    ifindex: ifindex,
    /// fwmark.
    mark: mark,
    /// Payload of each GSO segment, or 0.
    gso_size: gso_size,
    protocol: protocol,
    vlan_present: vlan_present,
    pkt_type: pkt_type,
    data: data,
    data_end: data_end,
}

/// A helper refused.
pub struct Refused;

#[inline(always)]
fn done(status: c_long) -> Result<(), Refused> {
    if status == 0 { Ok(()) } else { Err(Refused) }
}

impl Skb {
    /// The context of a TC program.
    #[inline(always)]
    pub fn new(raw: *mut __sk_buff) -> Self {
        Skb { raw }
    }

    /// Writes the fwmark.
    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: `raw` is the program's context; `mark` is writable.
        unsafe { ptr::write_volatile(&raw mut (*self.raw).mark, mark) }
    }

    /// Writes the queueing priority.
    #[inline(always)]
    pub fn set_priority(&self, priority: u32) {
        // SAFETY: as for `set_mark`.
        unsafe { ptr::write_volatile(&raw mut (*self.raw).priority, priority) }
    }

    /// Makes the headers readable that [`PacketAt`] may look at, where the driver left them in fragments.
    #[inline(always)]
    pub fn pull_headers(&self, base: u32) {
        let len = self.len();
        let wanted = if len < base + HEADERS { len } else { base + HEADERS };
        if self.data_end() - self.data() < wanted {
            // Refused for want of memory: then the bytes are not there, and the packet is passed for that.
            // SAFETY: `raw` is the program's context.
            let _ = unsafe { bpf_skb_pull_data(self.raw, wanted) };
        }
    }

    /// Writes `bytes` at `offset` from the frame's first byte.
    #[inline(always)]
    pub fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Result<(), Refused> {
        self.store_with(offset, bytes, 0)
    }

    /// Writes, and keeps a checksum over the whole packet (CHECKSUM_COMPLETE) true.
    #[inline(always)]
    pub fn store_summed<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Result<(), Refused> {
        self.store_with(offset, bytes, u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    #[inline(always)]
    fn store_with<const N: usize>(&self, offset: u32, bytes: &[u8; N], flags: u64) -> Result<(), Refused> {
        // SAFETY: `bytes` are N readable bytes; the helper checks the range in the packet.
        done(unsafe { bpf_skb_store_bytes(self.raw.cast(), offset, bytes.as_ptr().cast(), N as u32, flags) })
    }

    /// Cuts the frame to `len` bytes.
    #[inline(always)]
    pub fn trim(&self, len: u32) -> Result<(), Refused> {
        // SAFETY: `raw` is the program's context.
        done(unsafe { bpf_skb_change_tail(self.raw, len, 0) })
    }

    /// Makes room for an Ethernet header before the IP header of a packet that has none.
    #[inline(always)]
    pub fn add_ethernet_header(&self) -> Result<(), Refused> {
        // SAFETY: `raw` is the program's context.
        done(unsafe { bpf_skb_change_head(self.raw, ETHERNET_HEADER, 0) })
    }

    /// Has the packet sent out by `oif` when the program returns the result.
    #[inline(always)]
    pub fn redirect(&self, oif: u32) -> i32 {
        // SAFETY: a plain helper.
        unsafe { bpf_redirect(oif, 0) as i32 }
    }

    /// Whether the device's MTU is at most `mtu` and every segment of this GSO packet fits it.
    #[inline(always)]
    pub fn segments_fit(&self, oif: u32, mtu: u32) -> bool {
        let mut device_mtu = 0u32;
        // SAFETY: the helper writes the device's MTU to `device_mtu`.
        let status =
            unsafe { bpf_check_mtu(self.raw.cast(), oif, &raw mut device_mtu, 0, BPF_MTU_CHK_SEGS) };
        status == 0 && device_mtu <= mtu
    }
}

/// The packet's IP header and what follows, `BASE` bytes after the frame's first byte.
pub struct PacketAt<'a, const BASE: usize> {
    pub skb: &'a Skb,
}

impl<const BASE: usize> Frame for PacketAt<'_, BASE> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let start = self.skb.data() as usize + BASE + offset;
        if start + N * 4 > self.skb.data_end() as usize {
            return None;
        }
        // SAFETY: the bytes lie before data_end. They may be misaligned for a word on machines that do not care
        // (NET_IP_ALIGN 0); on others the kernel aligns IP headers, and the verifier checks that this is enough.
        Some(unsafe { *(start as *const [u32; N]) })
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.skb.len().wrapping_sub(BASE as u32)
    }

    #[inline(always)]
    fn protocol(&self) -> u16 {
        u16::from_be(self.skb.protocol() as u16)
    }

    #[inline(always)]
    fn vlan_present(&self) -> bool {
        self.skb.vlan_present() != 0
    }

    #[inline(always)]
    fn for_this_host(&self) -> bool {
        self.skb.pkt_type() == PACKET_HOST
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.skb.gso_size()
    }

    #[inline(always)]
    fn iif(&self) -> u32 {
        self.skb.ifindex()
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.skb.mark()
    }
}
