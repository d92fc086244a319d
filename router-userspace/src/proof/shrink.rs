//! The smallest packet that still shows a disagreement.

use super::packet::{Packet, Shape, UDP, has_ports};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Simplifies `packet` as long as `differs` says that the disagreement stays: fewer fields that are not zero, fewer bits.
pub fn shrink<E>(packet: Packet, mut differs: impl FnMut(&Packet) -> Result<bool, E>) -> Result<Packet, E> {
    let mut smallest = packet;
    loop {
        let mut simpler = None;
        for candidate in candidates(&smallest) {
            if differs(&candidate)? {
                simpler = Some(candidate);
                break;
            }
        }
        match simpler {
            Some(candidate) => smallest = candidate,
            None => return Ok(smallest),
        }
    }
}

/// Packets that are simpler by one step each, the largest steps first. Each has fewer set bits or a plainer field, so that
/// shrinking ends.
fn candidates(packet: &Packet) -> Vec<Packet> {
    let mut all = Vec::new();
    let mut offer = |candidate: Packet| {
        if candidate != *packet {
            all.push(candidate);
        }
    };
    offer(Packet { mark: 0, ..*packet });
    offer(Packet { dscp: 0, ..*packet });
    offer(Packet { flowlabel: 0, ..*packet });
    offer(Packet { fragment: false, ..*packet });
    let shape = packet.shape;
    let plain = Shape::default();
    for simpler in [
        Shape { ecn: 0, ..shape },
        Shape { ttl: plain.ttl, ..shape },
        Shape { length: 0, ..shape },
        Shape { extension: None, ..shape },
    ] {
        offer(Packet { shape: simpler, ..*packet });
    }
    offer(Packet { sport: 0, ..*packet });
    offer(Packet { dport: 0, ..*packet });
    if packet.ipproto != UDP && !has_ports(packet.ipproto) {
        offer(Packet { ipproto: UDP, ..*packet });
    }
    for from in simpler_addresses(packet.source()) {
        offer(Packet { from: Some(from), ..*packet });
    }
    for to in simpler_addresses(packet.to) {
        offer(Packet { to, ..*packet });
    }
    for bit in 0..32 {
        offer(Packet { mark: packet.mark & !(1 << bit), ..*packet });
    }
    for smaller in [|port: u16| port >> 1, |port: u16| port.saturating_sub(1)] {
        offer(Packet { sport: smaller(packet.sport), ..*packet });
        offer(Packet { dport: smaller(packet.dport), ..*packet });
    }
    for bit in 0..16 {
        offer(Packet { sport: packet.sport & !(1 << bit), ..*packet });
        offer(Packet { dport: packet.dport & !(1 << bit), ..*packet });
    }
    all
}

/// The address with its last bits cleared, most of them first, then with single bits cleared.
fn simpler_addresses(addr: IpAddr) -> Vec<IpAddr> {
    let (bits, width): (u128, u32) = match addr {
        IpAddr::V4(addr) => (addr.to_bits().into(), 32),
        IpAddr::V6(addr) => (addr.to_bits(), 128),
    };
    let tails = (1..width).rev().map(|length| bits >> length << length);
    let single = (0..width).map(|bit| bits & !(1 << bit));
    tails
        .chain(single)
        .filter(|simpler| *simpler != bits)
        .map(|simpler| match addr {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(simpler as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(simpler)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_disagreement_needs_is_left() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let packet = Packet {
            mark: 0xdead_beef,
            ipproto: 1,
            dscp: 46,
            flowlabel: 0,
            fragment: false,
            ..Packet::new(Some(3), Some(ip("10.1.2.3")), ip("203.0.113.200"))
        };
        let mut asked = 0;
        let small = shrink(packet, |p| {
            asked += 1;
            let net: ipnet::IpNet = "203.0.113.192/26".parse().expect("a prefix");
            Ok::<bool, ()>(p.mark & 0x20 != 0 && net.contains(&p.to) && p.dscp & 2 != 0)
        })
        .expect("no error");
        assert_eq!(small.mark, 0x20);
        assert_eq!(small.to, ip("203.0.113.192"));
        assert_eq!((small.from, small.ipproto, small.dscp), (Some(ip("0.0.0.0")), UDP, 46));
        assert!(asked < 2000, "{asked} questions");
    }
}
