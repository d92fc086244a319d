//! What real senders hand over: GSO packets, checksums that are not filled in, marks and priorities.

use crate::packets::{Ip, UDP, both, checksum, ipv4, ipv6};
use crate::plan::{Plan, rule};
use crate::raw::{DropsWhere, MARK, PRIORITY};
use crate::support::*;
use router_common::layout::*;
use router_common::packet::forwarded_priority;
use router_common::verdict::{Action, PassReason};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;
use wayfork::fastpath::{Capacity, FastPath, ethernet_frame};
use wayfork::kernel::Kernel as _;
use wayfork::kernel::Netlink;
use wayfork::kernel::admin::{Admin, NewLink, TunKind, tun, write_setting};
use wayfork::kernel::netns::Netns;

const A: [&str; 2] = ["10.1.0.2", "fd00::a"];
const B: [&str; 2] = ["10.1.1.2", "fd00::b"];

/// Two hosts, each in a namespace of its own, that take each other for neighbours; between them a router without addresses
/// that does not forward.
struct Hosts {
    a: Netns,
    b: Netns,
    fast: FastPath,
    generation: Plan,
    admin: Admin,
    to_a: u32,
    to_b: u32,
}

fn host(name: &str, router_mac: [u8; 6], own: [&str; 2], others: &[&str]) -> Netns {
    let netns = Netns::new().unwrap();
    let (near, far) = (format!("to_{name}"), format!("{name}0"));
    let mut admin = Admin::open().unwrap();
    admin.veth(NewLink::named(&near).mac(router_mac), NewLink::named(&far).inside(netns.fd())).unwrap();
    admin.up(&near).unwrap();
    netns
        .run(|| {
            write_setting("net.ipv6.conf.all.accept_dad", "0").unwrap();
            write_setting(&format!("net.ipv6.conf.{far}.accept_dad"), "0").unwrap();
            let mut admin = Admin::open().unwrap();
            admin.up(&far).unwrap();
            admin.add_address(&far, format!("{}/8", own[0]).parse().unwrap()).unwrap();
            admin.add_address(&far, format!("{}/64", own[1]).parse().unwrap()).unwrap();
            for other in others {
                admin.set_neighbour(&far, addr(other), router_mac).unwrap();
            }
        })
        .unwrap();
    netns
}

fn mac_of(netns: &Netns, name: &str) -> [u8; 6] {
    let links = netns.run(|| Netlink::open().unwrap().links().unwrap()).unwrap();
    links.values().find(|link| link.name == name).unwrap().mac.unwrap()
}

impl Hosts {
    fn new() -> Self {
        write_setting("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        let a = host("a", LAN_MAC, A, &[B[0], B[1], "10.9.0.1", "fd00::99"]);
        let b = host("b", WAN_MAC, B, &A);
        let mut admin = Admin::open().unwrap();
        let (to_a, to_b) = (admin.index("to_a").unwrap(), admin.index("to_b").unwrap());
        let mut generation = Plan { rules: vec![rule(ACT_TABLE, TABLE)], ..Plan::default() };
        generation.add_link(to_a, LAN_MAC);
        generation.add_link(to_b, WAN_MAC);
        generation.counters = vec![Some("the only rule".to_owned())];
        for (addrs, netns, name, index) in [(A, &a, "a0", to_a), (B, &b, "b0", to_b)] {
            for (addr, len) in addrs.iter().zip([32, 128]) {
                generation.add_route(TABLE, &format!("{addr}/{len}"), route(index, None));
                generation.add_neighbour(index, addr, mac_of(netns, name));
            }
        }
        let mut fast = FastPath::load(Capacity::of(&generation.lay())).unwrap();
        fast.apply(&generation.lay()).unwrap();
        fast.renew_lease(Duration::from_secs(3600)).unwrap();
        fast.attach(to_a).unwrap();
        fast.attach(to_b).unwrap();
        Hosts { a, b, fast, generation, admin, to_a, to_b }
    }
}

fn socket_addr(addr_: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr(addr_), port)
}

#[test]
fn a_tcp_stream_goes_through_in_gso_packets() {
    in_a_namespace(|| {
        let hosts = Hosts::new();
        for family in [0, 1] {
            let before = hosts.fast.rule_counters()[0];
            let listener = hosts.b.run(|| TcpListener::bind(socket_addr(B[family], 5000)).unwrap()).unwrap();
            let mut sender = hosts.a.run(|| TcpStream::connect(socket_addr(B[family], 5000)).unwrap()).unwrap();
            let mut receiver = listener.accept().unwrap().0;
            let data: Vec<u8> = (0..8_000_000u32).map(|index| (index * 7 + index / 251) as u8).collect();
            let received = std::thread::scope(|scope| {
                scope.spawn(|| {
                    sender.write_all(&data).unwrap();
                    drop(sender);
                });
                let mut received = Vec::new();
                receiver.read_to_end(&mut received).unwrap();
                received
            });
            assert!(received == data);
            let after = hosts.fast.rule_counters()[0];
            let at = Action::Redirect as usize;
            let (packets, bytes) = (after.packets[at] - before.packets[at], after.bytes[at] - before.bytes[at]);
            assert!(bytes > 8_000_000, "{bytes} bytes");
            assert!(bytes / packets > 3000, "{packets} packets, {bytes} bytes: no GSO packets among them");
        }
    });
}

#[test]
fn udp_gso_packets_go_where_their_segments_fit() {
    in_a_namespace(|| {
        let mut hosts = Hosts::new();
        for family in [0, 1] {
            let receiver = hosts.b.run(|| UdpSocket::bind(socket_addr(B[family], 5001)).unwrap()).unwrap();
            receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let sender = hosts.a.run(|| UdpSocket::bind(socket_addr(A[family], 5002)).unwrap()).unwrap();
            let segment: libc::c_int = 1000;
            // SAFETY: the option's value is an int.
            let status = unsafe {
                const UDP_SEGMENT: libc::c_int = 103;
                let value = (&raw const segment).cast();
                libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, value, size_of_val(&segment) as u32)
            };
            assert_eq!(status, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
            let at = Action::Redirect as usize;
            let before = hosts.fast.rule_counters()[0].packets[at];
            sender.send_to(&[7; 4000], socket_addr(B[family], 5001)).unwrap();
            let mut buffer = [0; 5000];
            for _ in 0..4 {
                assert_eq!(receiver.recv(&mut buffer).expect("a segment"), 1000);
            }
            assert_eq!(hosts.fast.rule_counters()[0].packets[at], before + 1, "one GSO packet");

            // Segments that do not fit are the stack's to answer for; so are those of which only the device's own MTU, larger
            // than the route's or than what IPv6 may use, says that they fit.
            let to_b = hosts.to_b;
            let passed = |fast: &FastPath| fast.pass_counters().unwrap()[PassReason::Mtu as usize].1.packets;
            for (device, known) in [(1010, 1010), (1500, 1499)] {
                hosts.admin.set_mtu("to_b", device).unwrap();
                let link = hosts.generation.link(to_b);
                (link.mtu4, link.mtu6) = (known, known);
                hosts.fast.apply(&hosts.generation.lay()).unwrap();
                let before = passed(&hosts.fast);
                sender.send_to(&[7; 4000], socket_addr(B[family], 5001)).unwrap();
                assert_eq!(passed(&hosts.fast), before + 1);
            }
            let link = hosts.generation.link(to_b);
            (link.mtu4, link.mtu6) = (1500, 1500);
            hosts.fast.apply(&hosts.generation.lay()).unwrap();
        }
    });
}

/// Checks that a packet is UDP to `to` with a right checksum, and gives its TTL.
fn checked_udp(packet: &[u8], from: &str, to: &str) -> u8 {
    let (header, ttl) = if packet[0] >> 4 == 4 { (20, packet[8]) } else { (40, packet[7]) };
    if header == 20 {
        assert_eq!(checksum(&[&packet[..20]]), 0, "header checksum");
    }
    let template = Ip { from: addr(from), to: addr(to), proto: UDP, ..ipv4() };
    let sum = template.transport_checksum(&packet[header..]);
    assert!(sum == 0 || sum == 0xffff, "UDP checksum: {packet:02x?}");
    ttl
}

#[test]
fn checksums_that_are_not_filled_in_yet_become_right() {
    in_a_namespace(|| {
        let mut hosts = Hosts::new();
        let device = tun("tun", TunKind::Tun, false).unwrap();
        hosts.admin.up("tun").unwrap();
        let index = hosts.admin.index("tun").unwrap();
        hosts.generation.add_link_like(hosts.to_a, index, LINK_ETHERNET);
        let far = ["10.9.0.1", "fd00::99"];
        for (to, len) in far.iter().zip([32, 128]) {
            hosts.generation.add_route(TABLE, &format!("{to}/{len}"), route(index, None));
        }
        hosts.fast.apply(&hosts.generation.lay()).unwrap();
        for family in [0, 1] {
            let sender = hosts.a.run(|| UdpSocket::bind(socket_addr(A[family], 6000)).unwrap()).unwrap();
            for length in [1, 7, 100, 1400] {
                sender.send_to(&vec![0x5a; length], socket_addr(far[family], 6001)).unwrap();
                let packet = read_tun(&device).expect("a packet out of the tunnel");
                assert_eq!(checked_udp(&packet, A[family], far[family]), 63);
            }
        }
    });
}

/// Which priority a packet with this TOS leaves with, found by dropping it at egress.
fn priority_of(router: &Router, packet: &Ip) -> u32 {
    let leaves_with = |priority: u32| {
        let _drops = DropsWhere::field_is(router.wan, PRIORITY, priority);
        router.hosts.send(&ethernet_frame(LAN_MAC, &packet.bytes()));
        // The stack speaks, too: what counts is this packet.
        while let Some(frame) = router.gateway.receive_within(Duration::from_millis(100)) {
            if frame[14..] == packet.forwarded() {
                return false;
            }
        }
        true
    };
    let found: Vec<u32> = (0..8).filter(|&priority| leaves_with(priority)).collect();
    assert_eq!(found.len(), 1, "{packet:?}: {found:?}");
    found[0]
}

#[test]
fn the_priority_is_the_one_that_the_stack_gives() {
    if !has_tcx() {
        return;
    }
    in_a_namespace(|| {
        let mut router = Router::new();
        // The stack's own forwarding, to compare with.
        let lan = router.lan;
        router.admin.add_address("lan", "192.168.8.1/24".parse().unwrap()).unwrap();
        router.admin.add_address("wan", "10.0.0.2/24".parse().unwrap()).unwrap();
        router.admin.set_neighbour("wan", addr("10.0.0.1"), GATEWAY_MAC).unwrap();
        let mut kernel = Netlink::open().unwrap();
        let mut default =
            kernel.routes().unwrap().into_iter().find(|route| route.dst.addr() == addr("10.0.0.0")).unwrap();
        default.dst = "0.0.0.0/0".parse().unwrap();
        (default.scope, default.prefsrc) = (0, None);
        default.nexthops[0].via = Some(addr("10.0.0.1"));
        kernel.add_route(&default).unwrap();
        write_setting("net.ipv4.ip_forward", "1").unwrap();
        // Of the TOS bits, the two that count and two that do not.
        let values = [0x00, 0x08, 0x10, 0x18, 0x06, 0xe0, 0xb8, 0xff];
        let by_stack: Vec<u32> = values.iter().map(|&tos| priority_of(&router, &ipv4().dsfield(tos))).collect();
        assert_eq!(by_stack, values.map(forwarded_priority));
        write_setting("net.ipv4.ip_forward", "0").unwrap();
        router.fast.attach(lan).unwrap();
        let by_program: Vec<u32> = values.iter().map(|&tos| priority_of(&router, &ipv4().dsfield(tos))).collect();
        assert_eq!(by_program, by_stack);
        // IPv6 keeps what it had; so does IPv4 with ip_forward_update_priority off.
        assert_eq!(priority_of(&router, &ipv6().dsfield(0x10)), 0);
        router.change(|generation| generation.keep_priority = true);
        assert_eq!(priority_of(&router, &ipv4().dsfield(0x10)), 0);
    });
}

#[test]
fn the_mark_goes_along() {
    if !has_tcx() {
        return;
    }
    in_a_namespace(|| {
        let mut router = Router::attached();
        let set = |family, value| MarkEntry { family, set_value: value, set_mask: u32::MAX, ..zeroed() };
        router.change(|generation| generation.marks = vec![set(4, 0x5678), set(6, 0x9abc)]);
        for (packet, mark) in [(ipv4(), 0x5678), (ipv6(), 0x9abc)] {
            for (dropped, arrives) in [(mark, false), (0, true), (mark + 1, true)] {
                let _drops = DropsWhere::field_is(router.wan, MARK, dropped);
                router.hosts.send(&ethernet_frame(LAN_MAC, &packet.bytes()));
                let arrived = router.gateway.receive_within(Duration::from_millis(100)).is_some();
                assert_eq!(arrived, arrives, "{dropped:#x}");
            }
        }
    });
}

/// A VXLAN packet with a checksum of its own around a frame: the kernel verifies it in software, and hands the inner frame on
/// with a sum over the whole of it (CHECKSUM_COMPLETE).
fn in_vxlan(frame: &[u8]) -> Vec<u8> {
    let mut outer = Ip { dport: 4789, ..ipv4() }.from("192.168.8.5").to("192.168.8.1");
    outer.payload = 8 + 8 + frame.len();
    let mut packet = outer.bytes();
    let transport = &mut packet[20..];
    transport[8..16].copy_from_slice(&[8, 0, 0, 0, 0, 0, 42, 0]);
    transport[16..].copy_from_slice(frame);
    transport[6..8].fill(0);
    let sum = outer.transport_checksum(transport);
    transport[6..8].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn a_checksum_over_the_whole_packet_stays_true() {
    if !has_tcx() {
        return;
    }
    in_a_namespace(|| {
        let mut router = Router::new();
        let mac = [2, 0, 0, 0, 0xc, 1];
        router.admin.add_address("lan", "192.168.8.1/24".parse().unwrap()).unwrap();
        router.admin.vxlan(NewLink::named("vx").mac(mac), 42, 4789).unwrap();
        router.admin.up("vx").unwrap();
        let (vx, wan) = (router.admin.index("vx").unwrap(), router.wan);
        router.change(|generation| {
            generation.add_link_like(wan, vx, 0);
            generation.link(vx).mac = bytemuck::cast(mac);
        });
        router.fast.attach(vx).unwrap();
        // (Where padding is cut off, bpf_skb_change_tail gives the sum up.)
        for packet in both() {
            let sent = ethernet_frame(LAN_MAC, &in_vxlan(&ethernet_frame(mac, &packet.bytes())));
            let ethertype = if packet.to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
            let expected = [&GATEWAY_MAC[..], &WAN_MAC, &ethertype, &packet.forwarded()].concat();
            router.hosts.send(&sent);
            assert_eq!(router.gateway.receive(), Some(expected.clone()));
            // In the order in which the kernel sums: native words.
            let sum = !checksum(&[&expected]).swap_bytes();
            let sum = if cfg!(target_endian = "little") { sum } else { sum.swap_bytes() };
            let _drops = DropsWhere::whole_sum_is(wan, sum);
            router.hosts.send(&sent);
            let arrived = router.gateway.receive_within(Duration::from_millis(150));
            assert_eq!(arrived, None, "{packet:?}: the sum that goes along is not {sum:#06x}");
        }
    });
}
