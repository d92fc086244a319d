//! What a rule can see of a packet, and the arithmetic of its header.
//!
//! Byte order: addresses and [`Frame::words`] are the bytes of the wire read as native words (see [`crate::layout`]); ports,
//! lengths and every other number are host byte order.

use crate::layout::AddrWords;

/// ETH_P_IP.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ETH_P_IPV6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// ETH_P_8021Q.
pub const ETHERTYPE_8021Q: u16 = 0x8100;
/// ETH_P_8021AD.
pub const ETHERTYPE_8021AD: u16 = 0x88a8;

/// [`Packet::family`] of IPv4.
pub const IPV4: u32 = 4;
/// [`Packet::family`] of IPv6.
pub const IPV6: u32 = 6;

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: u32 = 20;
/// Bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER: u32 = 40;
/// Where the IPv4 header holds TTL, protocol and checksum.
pub const IPV4_TTL_OFFSET: u32 = 8;
/// Where the IPv6 header holds payload length, next header and hop limit.
pub const IPV6_HOP_LIMIT_OFFSET: u32 = 4;

/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_DCCP.
pub const DCCP: u8 = 33;
/// IPPROTO_ESP.
pub const ESP: u8 = 50;
/// IPPROTO_AH.
pub const AH: u8 = 51;
/// IPPROTO_ICMPV6.
pub const ICMPV6: u8 = 58;
/// IPPROTO_ROUTING, an IPv6 extension header.
pub const ROUTING: u8 = 43;
/// IPPROTO_FRAGMENT, an IPv6 extension header.
pub const FRAGMENT: u8 = 44;
/// IPPROTO_DSTOPTS, an IPv6 extension header.
pub const DESTINATION_OPTIONS: u8 = 60;
/// IPPROTO_SCTP.
pub const SCTP: u8 = 132;
/// IPPROTO_UDPLITE.
pub const UDPLITE: u8 = 136;

/// Byte access to a received packet: direct packet access in the eBPF program, slices in tests.
pub trait Frame {
    /// `N` words that begin `offset` bytes after the first byte of the IP header, as they lie in memory. None beyond the end.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;
    /// Bytes from the IP header on, link-layer padding included.
    fn received_len(&self) -> u32;
    /// The link layer's protocol (`skb->protocol`), host byte order.
    fn protocol(&self) -> u16;
    /// A VLAN tag was taken off the frame (`skb->vlan_present`).
    fn vlan_present(&self) -> bool;
    /// The frame is addressed to this host (PACKET_HOST).
    fn for_this_host(&self) -> bool;
    /// Payload bytes of each segment of a GSO packet; 0 for any other packet.
    fn gso_size(&self) -> u32;
    /// Ingress interface index.
    fn iif(&self) -> u32;
    /// fwmark.
    fn mark(&self) -> u32;
}

/// A packet that the program may decide about.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// [`IPV4`] or [`IPV6`].
    pub family: u32,
    /// Ingress interface index.
    pub iif: u32,
    /// fwmark: as received, then as the `[[mark]]` statements leave it.
    pub mark: u32,
    /// Length by the IP header, header included: what goes out.
    pub len: u32,
    /// Length of the longest packet on the wire, from its IP header on: `len`, or that of a GSO segment;
    /// [`SEGMENT_UNKNOWN`] where only the kernel knows.
    pub segment: u32,
    /// Source address. Of IPv4 only the first word means anything.
    pub src: AddrWords,
    /// Destination address. Of IPv4 only the first word means anything.
    pub dst: AddrWords,
    /// Source port as rules see it; 0 where there is none.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IP protocol, or next header.
    pub ipproto: u8,
    /// What the first word of an IPv6 header holds behind the version: the traffic class in bits 20 to 27, the flow label in bits 0
    /// to 19. IPv4's TOS octet stands in the place of the traffic class.
    pub flow: u32,
    /// 1 for an IPv4 fragment, the first one included.
    pub fragment: u8,
    /// TTL or hop limit as received, at least 2.
    pub ttl: u8,
}

impl Packet {
    /// Nothing read yet.
    pub const EMPTY: Packet = Packet {
        family: 0,
        iif: 0,
        mark: 0,
        len: 0,
        segment: 0,
        src: [0; 4],
        dst: [0; 4],
        sport: 0,
        dport: 0,
        ipproto: 0,
        flow: 0,
        fragment: 0,
        ttl: 0,
    };
}

/// Where [`Packet::flow`] holds the traffic class, or the TOS octet.
pub const FLOW_CLASS_SHIFT: u32 = 20;
/// The bits of [`Packet::flow`] that are the flow label.
pub const FLOW_LABEL: u32 = 0x000f_ffff;

/// [`Packet::segment`] of a GSO packet that is not TCP: tunnels wrap headers of unknown length into each segment.
pub const SEGMENT_UNKNOWN: u32 = u32::MAX;

/// Ones' complement sum of an IPv4 header without options; 0xffff where its checksum is right.
#[inline(always)]
pub fn header_sum(words: &[u32; 5]) -> u32 {
    let [a, b, c, d, e] = *words;
    let sum = u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d) + u64::from(e);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u32
}

/// The word of TTL, protocol and checksum (host byte order) of a forwarded IPv4 packet: `ip_decrease_ttl()`, include/net/ip.h.
/// The TTL must not be 0.
#[inline(always)]
pub fn forwarded_ttl_word(word: u32) -> u32 {
    // The TTL is the high byte of its 16-bit word: one less there is 0x0100 more in the complement.
    let check = (word & 0xffff) + 0x0100;
    let check = (check + u32::from(check >= 0xffff)) & 0xffff;
    (word.wrapping_sub(0x0100_0000) & 0xffff_0000) | check
}

/// What `ip_forward` gives `skb->priority`: `rt_tos2priority()`, include/net/route.h, with its table `ip_tos2prio` (net/ipv4/route.c).
#[inline(always)]
pub fn forwarded_priority(tos: u8) -> u32 {
    // By two of the TOS bits: TC_PRIO_BESTEFFORT 0, _BULK 2, _INTERACTIVE 6, _INTERACTIVE_BULK 4.
    (0x4620 >> (u32::from(tos & 0x18) / 2)) & 0xf
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow_sum(words: &[u32; 5]) -> u32 {
        let mut sum = 0u32;
        for word in words {
            for pair in word.to_ne_bytes().chunks(2) {
                sum += u32::from(u16::from_ne_bytes([pair[0], pair[1]]));
                sum = (sum & 0xffff) + (sum >> 16);
            }
        }
        sum
    }

    proptest! {
        #[test]
        fn header_sum_is_the_plain_sum(words in prop::array::uniform5(any::<u32>())) {
            prop_assert_eq!(header_sum(&words), slow_sum(&words));
        }

        #[test]
        fn a_forwarded_header_still_sums_up(mut words in prop::array::uniform5(any::<u32>()), ttl in 1u8..=255) {
            let mut host = u32::from_be(words[2]) & 0x00ff_0000 | u32::from(ttl) << 24;
            words[2] = host.to_be();
            let check = !(slow_sum(&words) as u16);
            host |= u32::from(u16::from_be(check));
            words[2] = host.to_be();
            prop_assert_eq!(slow_sum(&words), 0xffff);
            words[2] = forwarded_ttl_word(host).to_be();
            prop_assert_eq!(slow_sum(&words), 0xffff);
            prop_assert_eq!(u32::from_be(words[2]) >> 24, u32::from(ttl) - 1);
            prop_assert_eq!(u32::from_be(words[2]) & 0x00ff_0000, host & 0x00ff_0000);
        }
    }

    #[test]
    fn priorities_are_those_of_the_kernels_table() {
        let table = [0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4];
        for tos in 0..=255u8 {
            assert_eq!(forwarded_priority(tos), table[usize::from((tos & 0x1e) >> 1)], "tos {tos:#x}");
        }
    }
}
