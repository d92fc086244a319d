//! Addresses as the maps hold them: the bytes of the wire read as native words.

use ipnet::IpNet;
use router_common::layout::AddrWords;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in words; IPv4 in the first.
pub fn addr(addr: IpAddr) -> AddrWords {
    match addr {
        IpAddr::V4(addr) => [u32::from_ne_bytes(addr.octets()), 0, 0, 0],
        IpAddr::V6(addr) => bytemuck::cast(addr.octets()),
    }
}

/// Network address and mask of a prefix, in words.
pub fn prefix(net: IpNet) -> (AddrWords, AddrWords) {
    (addr(net.network()), addr(net.netmask()))
}

/// The address back from words; None for a family other than 4 or 6.
pub fn to_addr(family: u8, words: AddrWords) -> Option<IpAddr> {
    match family {
        4 => Some(IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()))),
        6 => Some(IpAddr::V6(Ipv6Addr::from(bytemuck::cast::<AddrWords, [u8; 16]>(words)))),
        _ => None,
    }
}
