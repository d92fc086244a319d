//! Real packets through the attached program. The router's namespace has no addresses and does not forward: what arrives on
//! the other side was carried by the program, and nothing else.

use crate::packets::{Ip, TCP, both, ipv4, ipv6};
use crate::plan::rule;
use crate::support::*;
use router_common::layout::*;
use router_common::verdict::{Action, PassReason};
use std::io::Write;
use std::time::Duration;
use wayfork::fastpath::{Attached, Capacity, FastPath, ethernet_frame};
use wayfork::kernel::admin::{TunKind, tun};

/// The frame as the gateway gets it.
fn at_the_gateway(packet: Vec<u8>) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&GATEWAY_MAC[..], &WAN_MAC, &ethertype, &packet].concat()
}

impl Router {
    fn send(&self, packet: &Ip) {
        self.hosts.send(&ethernet_frame(LAN_MAC, &packet.bytes()));
    }

    /// Sends a frame that the program must leave alone, for a reason, then one that it carries: only that arrives.
    fn refused(&self, frame: &[u8], reason: PassReason) {
        let before = self.passed(reason);
        self.hosts.send(frame);
        self.send(&ipv4().dsfield(0x20));
        let arrived = self.gateway.receive();
        assert_eq!(arrived, Some(at_the_gateway(ipv4().dsfield(0x20).forwarded())), "{}", reason.name());
        assert_eq!(self.passed(reason), before + 1, "{}", reason.name());
    }
}

#[test]
fn a_forwarded_packet_has_new_addresses_and_one_hop_less() {
    in_a_namespace(|| {
        let router = Router::attached();
        for packet in both() {
            for ttl in [2, 64, 255] {
                router.send(&packet.clone().ttl(ttl));
                assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.clone().ttl(ttl).forwarded())));
            }
        }
        // Every possible carry of the incremental checksum.
        for id in 0..=255u8 {
            let packet = ipv4().dsfield(id);
            router.send(&packet);
            assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.forwarded())));
        }
        let counters = router.fast.rule_counters();
        assert_eq!(counters[0].packets[Action::Redirect as usize], 6 + 256);
        assert_eq!(counters[0].bytes[Action::Redirect as usize], 3 * 60 + (3 + 256) * 40);
    });
}

#[test]
fn padding_stays_behind() {
    in_a_namespace(|| {
        let router = Router::attached();
        for mut packet in both() {
            packet.payload = 9;
            let mut frame = ethernet_frame(LAN_MAC, &packet.bytes());
            frame.resize(80, 0xaa);
            router.hosts.send(&frame);
            assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.forwarded())));
        }
    });
}

#[test]
fn what_is_the_stacks_alone_stays_there() {
    in_a_namespace(|| {
        let mut router = Router::attached();
        let good = |packet: &Ip| ethernet_frame(LAN_MAC, &packet.bytes());
        for packet in both() {
            router.refused(&ethernet_frame([2, 0, 0, 0, 0xa, 9], &packet.bytes()), PassReason::NotForThisHost);
            router.refused(&ethernet_frame([0xff; 6], &packet.bytes()), PassReason::NotForThisHost);
            let mut tagged = good(&packet);
            tagged.splice(12..12, [0x81, 0, 0, 5]);
            router.refused(&tagged, PassReason::Vlan);
            router.refused(&good(&packet.clone().ttl(1)), PassReason::Ttl);
            let mut short = good(&packet);
            short.pop();
            router.refused(&short, PassReason::BadHeader);
            short.truncate(14 + 12);
            router.refused(&short, PassReason::BadHeader);
            router.refused(&good(&packet.length(1501)), PassReason::Mtu);
        }
        let mut bad_sum = good(&ipv4());
        bad_sum[24] ^= 1;
        router.refused(&bad_sum, PassReason::BadHeader);
        let mut arp = good(&ipv4());
        arp[12..14].copy_from_slice(&[8, 6]);
        router.refused(&arp, PassReason::NotIp);
        router.refused(&good(&ipv6().proto(0)), PassReason::ExtensionHeader);
        router.refused(&good(&ipv4().to("224.0.0.9")), PassReason::LocalDestination);
        let fragment = Ip { fragment: 0x2000, ..ipv4() };
        router.send(&fragment);
        assert_eq!(router.gateway.receive(), Some(at_the_gateway(fragment.forwarded())));
        router.change(|generation| generation.fragments = FRAGMENTS_PASS);
        router.refused(&good(&fragment), PassReason::Fragment);
        router.fast.set_neighbour(wayfork::compile::neighbour_key(router.wan, addr("fe80::1")), None).unwrap();
        router.refused(&good(&ipv6()), PassReason::Neighbour);
    });
}

#[test]
fn drop_is_for_blackholes() {
    in_a_namespace(|| {
        let mut router = Router::attached();
        router.change(|generation| {
            let blackhole = RouteEntry { kind: ROUTE_BLACKHOLE, ..zeroed() };
            generation.add_route(TABLE, "8.8.8.8/32", blackhole);
        });
        router.send(&ipv4());
        router.send(&ipv4().to("8.8.8.9"));
        assert_eq!(router.gateway.receive(), Some(at_the_gateway(ipv4().to("8.8.8.9").forwarded())));
        assert_eq!(router.fast.rule_counters()[0].packets, [0, 1, 0, 1]);
    });
}

#[test]
fn interface_indexes_have_32_bits() {
    in_a_namespace(|| {
        let mut router = Router::with_wan_index(Some(1_234_567));
        assert_eq!(router.wan, 1_234_567);
        router.fast.attach(router.lan).unwrap();
        for packet in both() {
            router.send(&packet);
            assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.forwarded())));
        }
        // And back, in by the large index.
        router.fast.attach(router.wan).unwrap();
        let lan = router.lan;
        router.change(|generation| {
            generation.add_route(TABLE, "8.8.8.8/32", route(lan, Some("192.168.8.1")));
            generation.add_neighbour(lan, "192.168.8.1", HOST_MAC);
        });
        router.gateway.send(&ethernet_frame(WAN_MAC, &ipv4().bytes()));
        let expected = [&HOST_MAC[..], &LAN_MAC, &[8, 0], &ipv4().forwarded()].concat();
        assert_eq!(router.hosts.receive(), Some(expected));
    });
}

/// A TUN device in the generation, with packets allowed in and out of it.
fn add_tun(router: &mut Router, name: &str) -> (std::fs::File, u32) {
    let device = tun(name, TunKind::Tun, false).unwrap();
    router.admin.up(name).unwrap();
    let index = router.admin.index(name).unwrap();
    router.change(|generation| {
        let like = *generation.links.keys().next().unwrap();
        generation.add_link_like(like, index, LINK_ETHERNET);
        generation.link(index).mac = [0; 3];
    });
    router.fast.attach(index).unwrap();
    (device.into(), index)
}

#[test]
fn devices_without_ethernet_in_both_directions() {
    in_a_namespace(|| {
        let mut router = Router::attached();
        let (mut one, _) = add_tun(&mut router, "one");
        let (two, second) = add_tun(&mut router, "two");
        for packet in both() {
            one.write_all(&packet.bytes()).unwrap();
            assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.forwarded())), "TUN to Ethernet");
        }
        router.change(|generation| {
            generation.add_route(TABLE, "0.0.0.0/0", route(second, None));
            generation.add_route(TABLE, "::/0", route(second, None));
        });
        let two = two.into();
        for packet in both() {
            router.send(&packet);
            assert_eq!(read_tun(&two), Some(packet.forwarded()), "Ethernet to TUN");
            one.write_all(&packet.bytes()).unwrap();
            assert_eq!(read_tun(&two), Some(packet.forwarded()), "TUN to TUN");
        }
        // From a device without Ethernet headers there may be bytes behind the packet, too.
        router.hosts.send(&[ethernet_frame(LAN_MAC, &ipv6().bytes()), vec![0xaa; 7]].concat());
        assert_eq!(read_tun(&two), Some(ipv6().forwarded()));
    });
}

#[test]
fn pass_and_mark_go_on_to_other_programs_and_redirect_does_not() {
    if !has_tcx() {
        return;
    }
    in_a_namespace(|| {
        let mut router = Router::attached();
        let lan = router.lan;
        assert_eq!(router.fast.foreign_programs(lan).unwrap(), vec![]);
        // Two more of the same, without a lease: each counts what it sees.
        let mut others = Vec::new();
        for how in [Attached::Tcx, Attached::Clsact] {
            let mut other = FastPath::load(Capacity::of(&router.generation.lay())).unwrap();
            assert_eq!(other.attach_by(lan, how).unwrap(), how);
            others.push(other);
        }
        let seen = |others: &[FastPath]| -> Vec<u64> {
            let count = |fast: &FastPath| fast.pass_counters().unwrap()[PassReason::LeaseExpired as usize].1.packets;
            others.iter().map(count).collect()
        };
        router.send(&ipv4());
        assert!(router.gateway.receive().is_some());
        assert_eq!(seen(&others), [0, 0], "redirected");
        router.send(&ipv4().ttl(1));
        assert_eq!(seen(&others), [1, 1], "passed");
        router.change(|generation| {
            generation.mark_bits = 0xff00_0000;
            generation.rules[0].action.mark_class = 0x0100_0000;
            generation.link(lan).may = MAY_MARK;
        });
        router.send(&ipv4());
        assert_eq!(seen(&others), [2, 2], "marked");
        assert_eq!(router.fast.rule_counters()[0].packets, [0, 1, 1, 0]);

        // The same program is no other's, as for a command that looks at the interfaces of a running router.
        assert_eq!(router.fast.foreign_programs(lan).unwrap(), vec![]);
    });
}

#[test]
fn what_action_mark_writes_the_next_program_sees() {
    if !has_tcx() {
        return;
    }
    in_a_namespace(|| {
        let mut router = Router::attached();
        let lan = router.lan;
        router.change(|generation| {
            generation.mark_bits = 0xff00_0000;
            generation.rules[0].action.mark_class = 0x4200_0000;
            generation.link(lan).may = MAY_MARK;
        });
        // Behind it: a program that knows the mark only where the first has written it.
        let mut second = FastPath::load(Capacity::of(&router.generation.lay())).unwrap();
        let mut generation = router.generation.clone();
        generation.link(lan).may = MAY_REDIRECT;
        generation.rules[0] = generation.rules[0].mark(0x4200_0000, u32::MAX);
        second.apply(&generation.lay()).unwrap();
        second.renew_lease(Duration::from_secs(60)).unwrap();
        second.attach(lan).unwrap();
        for packet in both() {
            router.send(&packet);
            assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.forwarded())));
        }
    });
}

#[test]
fn without_a_lease_nothing_is_decided() {
    in_a_namespace(|| {
        let mut router = Router::attached();
        router.fast.renew_lease(Duration::from_millis(200)).unwrap();
        router.send(&ipv4());
        assert!(router.gateway.receive().is_some());
        // The program's clock is as coarse as the kernel's tick.
        std::thread::sleep(Duration::from_millis(220));
        router.send(&ipv4());
        assert_eq!(router.gateway.receive_within(Duration::from_millis(200)), None);
        assert_eq!(router.passed(PassReason::LeaseExpired), 1);
    });
}

#[test]
fn tcx_vanishes_with_its_process_and_clsact_filters_are_found_again() {
    if !has_tcx() {
        return;
    }
    in_a_namespace(|| {
        let mut router = Router::new();
        let lan = router.lan;
        assert_eq!(router.fast.attach(lan).unwrap(), Attached::Tcx, "this kernel has TCX");
        assert_eq!(router.fast.attach(lan).unwrap(), Attached::Tcx);
        assert!(!router.fast.detach(lan).unwrap());
        assert!(!router.fast.detach(lan).unwrap());
        router.send(&ipv4());
        assert_eq!(router.gateway.receive_within(Duration::from_millis(100)), None);

        assert_eq!(router.fast.attach_by(lan, Attached::Clsact).unwrap(), Attached::Clsact);
        router.send(&ipv4());
        assert_eq!(router.gateway.receive(), Some(at_the_gateway(ipv4().forwarded())));
        assert!(router.fast.detach(lan).unwrap(), "the qdisc was made for it");
        router.send(&ipv4());
        assert_eq!(router.gateway.receive_within(Duration::from_millis(100)), None);

        // What a killed run leaves: a filter of our name, held by nobody.
        assert_eq!(FastPath::remove_leftovers(&[lan, router.wan, 1, 999_999]).unwrap(), Vec::<u32>::new());
        router.fast.attach_by(lan, Attached::Clsact).unwrap();
        assert_eq!(FastPath::remove_leftovers(&[lan, router.wan]).unwrap(), vec![lan]);
        router.send(&ipv4());
        assert_eq!(router.gateway.receive_within(Duration::from_millis(100)), None);
        assert_eq!(FastPath::remove_leftovers(&[lan]).unwrap(), Vec::<u32>::new());
    });
}

#[test]
fn an_interface_that_goes_takes_its_attachment_along() {
    in_a_namespace(|| {
        let mut router = Router::attached();
        let lan = router.lan;
        router.admin.delete_link("lan").unwrap();
        assert!(!router.fast.detach(lan).unwrap());
        assert!(matches!(router.fast.attach(lan), Err(wayfork::fastpath::Error::NoInterface(_))));
        assert!(router.fast.foreign_programs(lan).is_err());
    });
}

#[test]
fn generations_change_under_traffic_without_a_wrong_packet() {
    const LIST: usize = 4000;
    in_a_namespace(|| {
        let mut router = Router::new();
        let mut generation = router.generation.clone();
        generation.rules.resize(LIST, generation.rules[0]);
        router.fast = FastPath::load(Capacity::of(&generation.lay())).unwrap();
        router.change(|_| ());
        router.fast.renew_lease(Duration::from_secs(3600)).unwrap();
        router.fast.attach(router.lan).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let index = router.admin.index("lan0").unwrap();
            let (wire, stop) = (Wire::on(index), &stop);
            let frame = ethernet_frame(LAN_MAC, &ipv4().bytes());
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    wire.send(&frame);
                }
            });
            // Table, gateway and egress interface change together: a mix of two generations would be a packet without a route, a
            // neighbour or a way out. Behind many rules, so that at any time some packet is on its way through the program.
            let filler = rule(ACT_BLACKHOLE, 0).mark(1, 1);
            let mut stopper = router.fast.stopper().unwrap();
            for round in 0..40u32 {
                let wan = router.wan;
                if round % 3 == 0 {
                    // A program that is deciding may end that: it is waited for all the same.
                    stopper.stop().unwrap();
                }
                router.change(|generation| {
                    let (gateway, table) = (format!("10.0.0.{}", round / 2 + 1), 1000 + round);
                    generation.routes.clear();
                    generation.neighbours.clear();
                    generation.rules = vec![filler; LIST - 1];
                    let closed = round % 2 == 1;
                    generation.rules.push(if closed { rule(ACT_BLACKHOLE, 0) } else { rule(ACT_TABLE, table) });
                    let egress = generation.link(wan);
                    egress.flags = egress.flags & !LINK_EGRESS | if closed { 0 } else { LINK_EGRESS };
                    generation.add_route(table, "0.0.0.0/0", route(wan, Some(&gateway)));
                    generation.add_neighbour(wan, &gateway, GATEWAY_MAC);
                });
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let passed: Vec<_> = router.fast.pass_counters().unwrap().into_iter().filter(|(_, c)| c.packets > 0).collect();
        assert!(passed.iter().all(|(reason, _)| *reason == PassReason::Resync), "{passed:?}");
        assert!(router.fast.rule_counters()[0].packets[Action::Redirect as usize] > 100);
    });
}

#[test]
fn a_packet_as_long_as_the_mtu_goes_through() {
    in_a_namespace(|| {
        let router = Router::attached();
        for packet in both() {
            let packet = packet.proto(TCP).length(1500);
            router.send(&packet);
            assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.forwarded())));
        }
    });
}

/// A packet socket puts the headers of a frame of more than a page into a fragment (`packet_alloc_skb`).
#[test]
fn headers_in_fragments_are_found() {
    in_a_namespace(|| {
        let mut router = Router::attached();
        for name in ["lan", "lan0", "wan", "wan0"] {
            router.admin.set_mtu(name, 9000).unwrap();
        }
        let wan = router.wan;
        router.change_link(wan, |link| (link.mtu4, link.mtu6) = (9000, 9000));
        for packet in both() {
            let packet = packet.length(6000);
            router.send(&packet);
            assert_eq!(router.gateway.receive(), Some(at_the_gateway(packet.forwarded())));
        }
    });
}
