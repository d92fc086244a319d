//! Frames for the probe.

use router_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// An Ethernet frame around an IP packet, from a locally administered address to `to`. The ethertype follows the version
/// in the packet's first byte.
pub fn ethernet_frame(to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet.first().is_some_and(|byte| byte >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let mut frame = Vec::with_capacity(14 + packet.len());
    frame.extend(to);
    frame.extend([0x02, 0, 0, 0, 0, 1]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}
