//! Interfaces, neighbours and marks.

use super::below::{asks_route, reads_mark, stack};
use super::words;
use crate::model::{Family, Host, Link, Neighbour};
use router_common::layout::{
    LINK_EGRESS, LINK_ETHERNET, LINK_FORWARDS4, LINK_FORWARDS6, LINK_READS_MARK, LINK_REDIRECTS4, LINK_SRC_VALID_MARK,
    LinkEntry, NeighbourEntry, NeighbourKey,
};

/// No entry of `LISTS`.
const NO_LIST: u32 = u32::MAX;
/// ARPHRD_ETHER.
const ARPHRD_ETHER: u16 = 1;
/// ARPHRD_NONE.
const ARPHRD_NONE: u16 = 65534;
/// The largest IP packet (IP_MAX_MTU is 0xffff; IPv6 payloads longer than this are jumbograms).
const MAX_MTU: u32 = 0xffff;

/// Everything about an interface but its rules and what may be done there.
pub(super) fn entry(host: &Host, link: &Link) -> LinkEntry {
    let mut entry =
        LinkEntry { index: link.index, list4: NO_LIST, list6: NO_LIST, back: NO_LIST, ..bytemuck::Zeroable::zeroed() };
    let ethernet = link.arphrd == ARPHRD_ETHER;
    if ethernet && let Some(mac) = link.mac {
        entry.flags |= LINK_ETHERNET;
        entry.mac = bytemuck::cast(mac);
    }
    let below = stack(host, link);
    if link.up && can_transmit(link) && !asks_route(&below) {
        entry.flags |= LINK_EGRESS;
    }
    if host.forwards(link, Family::Ipv4) {
        entry.flags |= LINK_FORWARDS4;
    }
    // `ip6_rcv_core` drops what comes in where IPv6 is disabled.
    if host.forwards(link, Family::Ipv6) && !link.v6.disabled {
        entry.flags |= LINK_FORWARDS6;
    }
    if host.send_redirects(link) {
        entry.flags |= LINK_REDIRECTS4;
    }
    if link.v4.src_valid_mark || host.settings.all_v4.src_valid_mark {
        entry.flags |= LINK_SRC_VALID_MARK;
    }
    if reads_mark(&below) {
        entry.flags |= LINK_READS_MARK;
    }
    entry.mtu4 = link.mtu.min(MAX_MTU);
    entry.mtu6 = mtu6(link);
    entry
}

/// What of IPv6 fits the interface: `ip6_dst_mtu_maybe_forward` takes its IPv6 MTU. Without IPv6 nothing does.
pub(super) fn mtu6(link: &Link) -> u32 {
    match link.v6 {
        conf if conf.disabled => 0,
        conf if conf.mtu > 0 => conf.mtu.min(MAX_MTU),
        _ => link.mtu.min(MAX_MTU),
    }
}

/// Kinds of Ethernet devices that tell a redirected packet from the stack's: a VRF routes it once more, and IFB lets what was redirected
/// come in again and drops everything else (`ifb_xmit`). Tunnels are [`asks_route`]'s.
const LOOK_BEYOND_THE_FRAME: [&str; 2] = ["vrf", "ifb"];

/// Whether a packet without a route attached can be given to the device itself, whatever it stands on: Ethernet devices take any frame, but
/// for a few kinds; of those without a link-layer header only these decide by the packet alone. Tunnels such as xfrm, vti, ipip look at
/// `skb_dst`.
fn can_transmit(link: &Link) -> bool {
    match link.arphrd {
        ARPHRD_ETHER => link.mac.is_some() && !LOOK_BEYOND_THE_FRAME.contains(&link.kind.as_str()),
        ARPHRD_NONE => matches!(link.kind.as_str(), "tun" | "wireguard"),
        _ => false,
    }
}

/// Key and value of a neighbour; None where it must not be used.
pub fn neighbour(neighbour: &Neighbour) -> Option<(NeighbourKey, NeighbourEntry)> {
    let mac = neighbour.mac.filter(|_| neighbour.state.is_usable())?;
    Some((neighbour_key(neighbour.index, neighbour.addr), NeighbourEntry { mac: bytemuck::cast(mac), usable: 1 }))
}

/// The key of a neighbour.
pub fn neighbour_key(ifindex: u32, addr: std::net::IpAddr) -> NeighbourKey {
    NeighbourKey { ifindex, family: if addr.is_ipv4() { 4 } else { 6 }, addr: words::addr(addr) }
}

#[cfg(test)]
mod tests;
