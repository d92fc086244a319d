//! The only access to `__sk_buff`.
//!
//! Packet bytes are read and written where they lie. For the writes the verifier puts a prologue before the program that copies the
//! head of a cloned packet (one that a packet socket holds as well), those that are passed included: that is dearer only while somebody
//! captures, and the helper that writes costs every packet more than all of the rules.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_csum_update, bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_pull_data,
};
use core::ffi::c_long;
use core::ptr;
use router_common::layout::Mac;
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

/// Reads a field of the context whole and once: the verifier allows neither parts of it nor a pointer into it.
macro_rules! field {
    ($skb:expr, $field:ident) => {
        // SAFETY: `raw` is the program's context.
        unsafe { ptr::read_volatile(&raw const (*$skb.raw).$field) }
    };
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

    /// Bytes, the Ethernet header included.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        field!(self, len)
    }

    /// The interface it came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        field!(self, ifindex)
    }

    /// fwmark.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        field!(self, mark)
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

    /// The packet whose IP header begins `base` bytes after the frame's first byte. Its headers are made readable where the
    /// driver left them in fragments.
    #[inline(always)]
    pub fn packet(&self, base: u32) -> SkbFrame {
        let len = self.len();
        let wanted = if len < base + HEADERS { len } else { base + HEADERS };
        let (mut data, mut end) = self.window();
        if end - data < wanted as usize {
            // Refused for want of memory: then the bytes are not there, and the packet is passed for that.
            // SAFETY: `raw` is the program's context.
            unsafe { bpf_skb_pull_data(self.raw, wanted) };
            (data, end) = self.window();
        }
        SkbFrame {
            data,
            end,
            base: base as usize,
            len: len.wrapping_sub(base),
            protocol: u16::from_be(field!(self, protocol) as u16),
            vlan_present: field!(self, vlan_present) != 0,
            for_this_host: field!(self, pkt_type) == PACKET_HOST,
            gso_size: field!(self, gso_size),
            iif: self.ifindex(),
            mark: self.mark(),
        }
    }

    /// First byte, and the end of what can be read directly.
    #[inline(always)]
    fn window(&self) -> (usize, usize) {
        (field!(self, data) as usize, field!(self, data_end) as usize)
    }

    /// Changes the word at `offset` from the frame's first byte, host byte order.
    #[inline(always)]
    pub fn change_word(&self, offset: u32, change: impl FnOnce(u32) -> u32) -> Result<(), Refused> {
        let place: *mut u32 = self.place(offset as usize)?;
        // SAFETY: `place` has checked it.
        unsafe { *place = change(u32::from_be(*place)).to_be() };
        Ok(())
    }

    /// Writes destination and source address of the Ethernet header.
    #[inline(always)]
    pub fn set_macs(&self, macs: &[Mac; 2]) -> Result<(), Refused> {
        let place: *mut [Mac; 2] = self.place(0)?;
        // Piece by piece: an array that is copied whole becomes a loop over its bytes in BPF.
        for (address, mac) in macs.iter().enumerate() {
            for (piece, value) in mac.iter().enumerate() {
                // SAFETY: `place` has checked it.
                unsafe { (*place)[address][piece] = *value };
            }
        }
        Ok(())
    }

    /// Writes the type in the Ethernet header, host byte order.
    #[inline(always)]
    pub fn set_ethertype(&self, ethertype: u16) -> Result<(), Refused> {
        let place: *mut u16 = self.place(size_of::<[Mac; 2]>())?;
        // SAFETY: `place` has checked it.
        unsafe { *place = ethertype.to_be() };
        Ok(())
    }

    /// Where a value lies in the packet, all of it before the end. On its alignment see `read`.
    #[inline(always)]
    fn place<T>(&self, offset: usize) -> Result<*mut T, Refused> {
        let (data, end) = self.window();
        let start = data + offset;
        if start + size_of::<T>() > end { Err(Refused) } else { Ok(start as *mut T) }
    }

    /// Keeps a checksum over the whole packet (CHECKSUM_COMPLETE) true where a word has become less by `difference`, as both lie in
    /// memory.
    #[inline(always)]
    pub fn subtract_from_sum(&self, difference: u32) {
        // In ones' complement the negative is the complement. Packets without such a checksum are left as they are.
        // SAFETY: `raw` is the program's context.
        unsafe { bpf_csum_update(self.raw, !difference) };
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
        let status = unsafe { bpf_check_mtu(self.raw.cast(), oif, &raw mut device_mtu, 0, BPF_MTU_CHK_SEGS) };
        status == 0 && device_mtu <= mtu
    }
}

/// `N` words of the packet at `offset` from `data`.
#[inline(always)]
fn read<const N: usize>(data: usize, end: usize, offset: usize) -> Option<[u32; N]> {
    let start = data + offset;
    if start + N * 4 > end {
        return None;
    }
    // SAFETY: the bytes lie before the end. They may be misaligned for a word on machines that do not care
    // (NET_IP_ALIGN 0); on others the kernel aligns IP headers, and the verifier checks that this is enough.
    Some(unsafe { *(start as *const [u32; N]) })
}

/// The packet's IP header and what follows. Valid until the packet is changed.
pub struct SkbFrame {
    data: usize,
    end: usize,
    base: usize,
    len: u32,
    protocol: u16,
    vlan_present: bool,
    for_this_host: bool,
    gso_size: u32,
    iif: u32,
    mark: u32,
}

impl Frame for SkbFrame {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        read(self.data, self.end, self.base + offset)
    }

    #[inline(always)]
    fn received_len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn protocol(&self) -> u16 {
        self.protocol
    }

    #[inline(always)]
    fn vlan_present(&self) -> bool {
        self.vlan_present
    }

    #[inline(always)]
    fn for_this_host(&self) -> bool {
        self.for_this_host
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    #[inline(always)]
    fn iif(&self) -> u32 {
        self.iif
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.mark
    }
}
