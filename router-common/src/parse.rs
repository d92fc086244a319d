//! From the bytes of a received packet to a [`Packet`], or to the reason why it is the stack's.
//!
//! Nothing is dropped here: what the kernel would refuse is left to it, so that its counters and ICMP errors stay true.

use crate::packet::*;
use crate::verdict::PassReason;

/// Reads the IP header into `packet`, which is written only where it can be decided about: field by field, and of IPv4 addresses the
/// first word alone, because a structure that is written whole becomes a loop over its bytes in BPF. Everything that `ip_rcv_core()`, `ip6_rcv_core()` or the routing decision treats in a way of its
/// own before or instead of forwarding ends in a [`PassReason`].
#[inline(always)]
pub fn parse(frame: &impl Frame, packet: &mut Packet) -> Result<(), PassReason> {
    let protocol = frame.protocol();
    if frame.vlan_present() || protocol == ETHERTYPE_8021Q || protocol == ETHERTYPE_8021AD {
        return Err(PassReason::Vlan);
    }
    if protocol != ETHERTYPE_IPV4 && protocol != ETHERTYPE_IPV6 {
        return Err(PassReason::NotIp);
    }
    if !frame.for_this_host() {
        return Err(PassReason::NotForThisHost);
    }
    if protocol == ETHERTYPE_IPV4 { parse_ipv4(frame, packet) } else { parse_ipv6(frame, packet) }
}

/// The checks of `ip_rcv_core()` (net/ipv4/ip_input.c), then the addresses that `ip_route_input_rcu()` and
/// `ip_route_input_slow()` (net/ipv4/route.c) do not look up in the tables, then the TTL as in `ip_forward()`.
#[inline(always)]
fn parse_ipv4(frame: &impl Frame, packet: &mut Packet) -> Result<(), PassReason> {
    let words: [u32; 5] = frame.words(0).ok_or(PassReason::BadHeader)?;
    let first = u32::from_be(words[0]);
    if first >> 28 != 4 {
        return Err(PassReason::BadHeader);
    }
    match (first >> 24) & 0xf {
        5 => {}
        0..5 => return Err(PassReason::BadHeader),
        _ => return Err(PassReason::IpOptions),
    }
    let len = first & 0xffff;
    if header_sum(&words) != 0xffff || len < IPV4_HEADER || !length_is_right(frame, len) {
        return Err(PassReason::BadHeader);
    }
    let (src, dst) = (u32::from_be(words[3]), u32::from_be(words[4]));
    if dst == 0 || is_loopback(dst) || is_multicast(dst) || dst == u32::MAX {
        return Err(PassReason::LocalDestination);
    }
    if src == 0 || is_loopback(src) || is_multicast(src) || src == u32::MAX {
        return Err(PassReason::Source);
    }
    let third = u32::from_be(words[2]);
    let (ttl, ipproto) = ((third >> 24) as u8, (third >> 16) as u8);
    if ttl <= 1 {
        return Err(PassReason::Ttl);
    }
    // IP_MF or an offset: every fragment, the first one included.
    let fragment = u32::from_be(words[1]) & 0x3fff != 0;
    let ports = if fragment { (0, 0) } else { ports(frame, IPV4_HEADER, ipproto, len) };
    packet.family = IPV4;
    packet.len = len;
    packet.segment = segment(frame, IPV4_HEADER, ipproto, len);
    packet.src[0] = words[3];
    packet.dst[0] = words[4];
    packet.flow = (first & 0x00ff_0000) << (FLOW_CLASS_SHIFT - 16);
    packet.fragment = u8::from(fragment);
    finish(frame, packet, ports, ipproto, ttl);
    Ok(())
}

/// The checks of `ip6_rcv_core()` (net/ipv6/ip6_input.c), then the addresses that `ip6_forward()` (net/ipv6/ip6_output.c) refuses
/// or that are looked up with a scope (`rt6_need_strict()`), then the hop limit.
#[inline(always)]
fn parse_ipv6(frame: &impl Frame, packet: &mut Packet) -> Result<(), PassReason> {
    let words: [u32; 10] = frame.words(0).ok_or(PassReason::BadHeader)?;
    let first = u32::from_be(words[0]);
    if first >> 28 != 6 {
        return Err(PassReason::BadHeader);
    }
    let second = u32::from_be(words[1]);
    let (first_header, ttl) = ((second >> 8) as u8, second as u8);
    let len = IPV6_HEADER + (second >> 16);
    if !length_is_right(frame, len) {
        return Err(PassReason::BadHeader);
    }
    let src = [words[2], words[3], words[4], words[5]];
    let dst = [words[6], words[7], words[8], words[9]];
    if is_scoped6(&dst) {
        return Err(PassReason::LocalDestination);
    }
    if is_scoped6(&src) {
        return Err(PassReason::Source);
    }
    if ttl <= 1 {
        return Err(PassReason::Ttl);
    }
    let (ipproto, header) = if is_extension(first_header) {
        behind_extension(frame, first_header, len)?
    } else {
        (first_header, IPV6_HEADER)
    };
    if ipproto == ICMPV6 && is_neighbour_discovery(frame, header) {
        return Err(PassReason::NeighbourDiscovery);
    }
    let fragment = first_header == FRAGMENT;
    let ports = if fragment { (0, 0) } else { ports(frame, header, ipproto, len) };
    packet.family = IPV6;
    packet.len = len;
    packet.segment = segment(frame, header, ipproto, len);
    packet.src = src;
    packet.dst = dst;
    packet.flow = first & 0x0fff_ffff;
    packet.fragment = u8::from(fragment);
    finish(frame, packet, ports, ipproto, ttl);
    Ok(())
}

/// What both families have in common.
#[inline(always)]
fn finish(frame: &impl Frame, packet: &mut Packet, (sport, dport): (u16, u16), ipproto: u8, ttl: u8) {
    packet.iif = frame.iif();
    packet.mark = frame.mark();
    packet.sport = sport;
    packet.dport = dport;
    packet.ipproto = ipproto;
    packet.ttl = ttl;
}

/// Whether the header's length is there; the link layer may have added padding, but not to a GSO packet (whose length 0 in
/// the header, of more than 64 KiB, is the stack's).
#[inline(always)]
fn length_is_right(frame: &impl Frame, len: u32) -> bool {
    len == frame.received_len() || (len < frame.received_len() && frame.gso_size() == 0)
}

/// Ports as the flow dissector finds them for rules: `proto_ports_offset()` (include/linux/in.h), called by `__skb_flow_dissect()`;
/// it takes the two halves of an SPI for ports, and 0 where the packet is too short.
#[inline(always)]
fn ports(frame: &impl Frame, header: u32, ipproto: u8, len: u32) -> (u16, u16) {
    let offset = match ipproto {
        TCP | UDP | DCCP | ESP | SCTP | UDPLITE => header,
        AH => header + 4,
        _ => return (0, 0),
    };
    // Beyond the length of the header lies padding.
    if offset + 4 > len {
        return (0, 0);
    }
    match frame.words::<1>(offset as usize) {
        Some([word]) => {
            let word = u32::from_be(word);
            ((word >> 16) as u16, word as u16)
        }
        None => (0, 0),
    }
}

/// [`Packet::segment`]: `skb_gso_network_seglen()`, net/core/gso.c.
#[inline(always)]
fn segment(frame: &impl Frame, header: u32, ipproto: u8, len: u32) -> u32 {
    if frame.gso_size() == 0 {
        return len;
    }
    if ipproto != TCP {
        return SEGMENT_UNKNOWN;
    }
    match frame.words::<1>(header as usize + 12) {
        Some([word]) => (header + (u32::from_be(word) >> 28) * 4).saturating_add(frame.gso_size()),
        None => SEGMENT_UNKNOWN,
    }
}

/// Router and neighbour discovery: the host answers for an address that it is a proxy of (`ip6_forward_proxy_check()`, net/ipv6/ip6_output.c),
/// whether or not it forwards what else is sent there.
#[inline(always)]
fn is_neighbour_discovery(frame: &impl Frame, header: u32) -> bool {
    match frame.words::<1>(header as usize) {
        Some([word]) => matches!(u32::from_be(word) >> 24, 133..=137),
        None => false,
    }
}

/// The transport protocol behind one extension header, and where its header begins, as the flow dissector finds them for rules
/// (`__skb_flow_dissect()`, net/core/flow_dissector.c); it looks no further than a fragment header. What a router has to read
/// (hop-by-hop options), what the dissector does not know, and a second one are the stack's.
#[inline(always)]
fn behind_extension(frame: &impl Frame, header: u8, len: u32) -> Result<(u8, u32), PassReason> {
    if !matches!(header, ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        return Err(PassReason::ExtensionHeader);
    }
    let [word] = frame.words(IPV6_HEADER as usize).ok_or(PassReason::ExtensionHeader)?;
    let word = u32::from_be(word);
    // In units of 8 bytes, the first not counted.
    let units = if header == FRAGMENT { 0 } else { (word >> 16) & 0xff };
    let (next, end) = ((word >> 24) as u8, IPV6_HEADER + 8 * (units + 1));
    if is_extension(next) || end > len { Err(PassReason::ExtensionHeader) } else { Ok((next, end)) }
}

/// Next headers that are not the transport protocol yet: `ipv6_ext_hdr()`, and those that only hosts look at.
#[inline(always)]
fn is_extension(next_header: u8) -> bool {
    // Hop-by-hop, AH, mobility, HIP, shim6.
    matches!(next_header, ROUTING | FRAGMENT | DESTINATION_OPTIONS | 0 | 51 | 135 | 139 | 140)
}

#[inline(always)]
fn is_loopback(addr: u32) -> bool {
    addr >> 24 == 127
}

#[inline(always)]
fn is_multicast(addr: u32) -> bool {
    addr >> 28 == 0xe
}

/// Multicast, link-local, loopback or unspecified.
#[inline(always)]
fn is_scoped6(addr: &[u32; 4]) -> bool {
    let first = u32::from_be(addr[0]);
    let low = addr[0] | addr[1] | addr[2] == 0 && u32::from_be(addr[3]) <= 1;
    first >> 24 == 0xff || is_link_local6(addr) || low
}

/// Whether an IPv6 address is link-local unicast (fe80::/10).
#[inline(always)]
pub(crate) fn is_link_local6(addr: &[u32; 4]) -> bool {
    u32::from_be(addr[0]) >> 22 == 0xfe80 >> 6
}
