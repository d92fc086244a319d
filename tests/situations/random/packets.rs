//! Random packets for a random router.

use super::pick;
use super::router::{FAR, Interface, Plan, on_link};
use fastrand::Rng;
use std::net::IpAddr;
use wayfork_tests::frames::{Packet, echo, payload, tcp, udp};
use wayfork_tests::rig::Kind;
use wayfork_tests::twins::Arrival;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet that comes in somewhere.
pub fn arrival(rng: &mut Rng, plan: &Plan, name: &str) -> Arrival {
    let plugged: Vec<&Interface> = plan.interfaces.iter().filter(|interface| !interface.unplugged).collect();
    let interface = pick(rng, &plugged);
    let v6 = rng.bool();
    let (from, to) = addresses(rng, plan, interface, v6);
    let ttl = pick(rng, &[64, 64, 64, 64, 64, 64, 64, 64, 255, 255, 2, 2, 1, 0]);
    let tos = pick(rng, &[0, 0, 0, 0xb8, 0x20, 0x10, 0x02, 0x08]);
    let mut packet = Packet {
        ttl,
        tos,
        id: rng.u16(..),
        // May not be fragmented, or may.
        fragment: if rng.bool() { 0x4000 } else { 0 },
        protocol: pick(rng, &[UDP, UDP, TCP, TCP, if v6 { 58 } else { 1 }, 253]),
        ..Packet::between(from, to)
    };
    let mut segments = 0;
    let headers = if v6 { 40 } else { 20 };
    let mut room = pick(rng, &[0, 0, 0, 1200, 1280, 1281, 1300, 1301, 1400, 1401, 1500]);
    room = room.min(interface.mtu as usize).saturating_sub(headers + 20);
    if interface.kind != Kind::Tun && packet.protocol == TCP && rng.u8(..3) == 0 {
        segments = pick(rng, &[1000, 1160, 1220, 1240, 1260, 1340, 1360, 1440, 1460]);
        room = usize::from(segments) * rng.usize(2..6) + rng.usize(1..500);
    }
    let data: Vec<u8> = payload(name).into_iter().cycle().take(room.max(64)).collect();
    let (sport, dport) = (pick(rng, &[4000, 4001, 4002]), pick(rng, &[53, 80, 443, 444, 9000]));
    packet.body = match packet.protocol {
        UDP => udp(from, to, sport, dport, &data),
        TCP => tcp(from, to, sport, dport, &data, segments != 0),
        253 => data,
        _ => echo(from, to, 7, &data),
    };
    if segments == 0 {
        odd(rng, &mut packet);
    }
    let mark = pick(rng, &[0, 0, 0, 1, 0x20, 0x21, 0x100, 0x120, 0xffff]);
    Arrival { name: name.to_owned(), dev: interface.name.clone(), mark, packet, segments }
}

/// Now and then: fragments, options, extension headers.
fn odd(rng: &mut Rng, packet: &mut Packet) {
    let v6 = packet.to.is_ipv6();
    match rng.u8(..16) {
        // A first, a middle or a last fragment.
        0 | 1 => {
            let (offset, more) = pick(rng, &[(0, true), (72, true), (144, false)]);
            packet.body.truncate(packet.body.len() & !7);
            packet.fragment_as(offset, more);
        }
        // No operation and end of options; router alert is something else again.
        2 if !v6 => packet.extra = vec![1, 1, 1, 0],
        2 => {
            // Destination options of padding.
            packet.extra = vec![packet.protocol, 0, 1, 4, 0, 0, 0, 0];
            packet.protocol = 60;
        }
        3 if v6 => {
            // Hop-by-hop options of padding.
            packet.extra = vec![packet.protocol, 0, 1, 4, 0, 0, 0, 0];
            packet.protocol = 0;
        }
        _ => {}
    }
}

fn addresses(rng: &mut Rng, plan: &Plan, interface: &Interface, v6: bool) -> (IpAddr, IpAddr) {
    let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
    let place = usize::from(v6);
    let here = on_link(interface.number);
    let other = on_link(plan.interfaces[rng.usize(..plan.interfaces.len())].number);
    let hosts = if v6 { 8..9 } else { 3..5 };
    let from = match rng.u8(..12) {
        0 => parse(pick(rng, &FAR[place])),
        1 => other[rng.usize(hosts.clone())],
        2 => parse(pick(
            rng,
            &[
                ["127.0.0.9", "0.0.0.0", "224.1.2.3", "255.255.255.255", "169.254.1.1", "10.1.0.1"],
                ["::1", "::", "ff0e::9", "ff02::1", "fe80::9", "fd01::1"],
            ][place],
        )),
        _ => here[rng.usize(hosts.clone())],
    };
    let to = match rng.u8(..12) {
        0 | 1 => other[rng.usize(hosts)],
        2 => here[if v6 { 5 } else { 0 }],
        3 => parse(pick(rng, &[["10.1.0.1", "10.1.0.255", "224.0.0.9"], ["fd01::1", "fd01::", "ff0e::9"]][place])),
        _ => parse(pick(rng, &FAR[place])),
    };
    (from, to)
}
