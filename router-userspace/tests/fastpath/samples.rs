//! Samples of what the attached program decides: which packets are told of, and what is told.

use crate::packets::{TCP, both, ipv4};
use crate::support::*;
use router_common::layout::*;
use router_common::packet::FLOW_CLASS_SHIFT;
use router_common::verdict::{Action, PassReason, Verdict};
use wayfork::compile::words;
use wayfork::fastpath::{Context, Samples, ethernet_frame};

const GENERATION: u32 = 41;

/// An attached router that samples by `threshold`.
fn sampling(threshold: u32) -> (Router, Samples) {
    let mut router = Router::attached();
    let samples = router.fast.take_samples().unwrap().expect("the reader's end");
    assert!(router.fast.take_samples().unwrap().is_none(), "it is handed out once");
    router.fast.sample(threshold, GENERATION);
    router.fast.suspend().unwrap();
    router.change(|_| ());
    (router, samples)
}

impl Router {
    /// Sends a packet and waits until it has arrived.
    fn carry(&self, packet: &crate::packets::Ip) {
        self.hosts.send(&ethernet_frame(LAN_MAC, &packet.bytes()));
        self.gateway.receive().expect("it arrives");
    }
}

#[test]
fn every_decided_packet_is_told_of_as_it_came_in() {
    in_a_namespace(|| {
        let (mut router, mut samples) = sampling(u32::MAX);
        router.change(|generation| {
            let mark = MarkEntry { family: 4, set_value: 0x5, set_mask: 0xff, ..zeroed() };
            generation.marks = vec![mark, MarkEntry { family: 6, ..mark }];
        });
        for packet in both() {
            let packet = packet.proto(TCP).dsfield(0xb9);
            router.carry(&packet);
            let sample = samples.next_waiting().expect("a sample");
            let told =
                router.fast.probe(&packet.bytes(), Context { ifindex: router.lan, mark: 0, gso_size: 0 }).unwrap();
            assert_eq!(sample.decision, told, "what the probe says");
            assert_eq!(
                (sample.decision.action, sample.decision.verdict),
                (Action::Redirect as u8, Verdict::Forward as u8)
            );
            assert_eq!((sample.generation, sample.iif), (GENERATION, router.lan));
            assert_eq!((sample.mark, sample.decision.mark), (0, 5), "before and after");
            assert_eq!((sample.ipproto, sample.flow >> FLOW_CLASS_SHIFT), (TCP, 0xb9));
            let bytes = packet.bytes();
            let (family, addresses, ports) = match bytes[0] >> 4 {
                4 => (4, &bytes[12..20], &bytes[20..24]),
                _ => (6, &bytes[8..40], &bytes[40..44]),
            };
            assert_eq!(sample.family, u32::from(family));
            let port = |at| u16::from_be_bytes([ports[at], ports[at + 1]]);
            assert_eq!((sample.sport, sample.dport), (port(0), port(2)));
            for (addr, half) in [(sample.src, 0), (sample.dst, 1)] {
                let length = addresses.len() / 2;
                let sent = &addresses[half * length..(half + 1) * length];
                let read = match words::to_addr(family, addr).unwrap() {
                    std::net::IpAddr::V4(addr) => addr.octets().to_vec(),
                    std::net::IpAddr::V6(addr) => addr.octets().to_vec(),
                };
                assert_eq!(read, sent);
            }
            assert!(samples.next_waiting().is_none(), "one each, and none of the question");
        }
    });
}

#[test]
fn what_is_left_to_the_stack_is_never_told_of() {
    in_a_namespace(|| {
        let (router, mut samples) = sampling(u32::MAX);
        router.hosts.send(&ethernet_frame(LAN_MAC, &ipv4().ttl(1).bytes()));
        router.carry(&ipv4());
        assert_eq!(router.passed(PassReason::Ttl), 1);
        assert!(samples.next_waiting().is_some());
        assert!(samples.next_waiting().is_none());
    });
}

#[test]
fn the_rate_is_kept_and_nought_is_none() {
    in_a_namespace(|| {
        let (mut router, mut samples) = sampling(0);
        (0..200).for_each(|_| router.carry(&ipv4()));
        assert!(samples.next_waiting().is_none());
        router.fast.sample(u32::MAX / 2, GENERATION);
        router.fast.suspend().unwrap();
        router.change(|_| ());
        (0..2000).for_each(|_| router.carry(&ipv4()));
        let told = std::iter::from_fn(|| samples.next_waiting()).count();
        // Nine standard deviations.
        assert!((800..=1200).contains(&told), "{told} of 2000 at one in two");
        assert_eq!(samples.dropped().unwrap(), 0);
    });
}

#[test]
fn a_full_buffer_loses_samples_and_no_packet() {
    in_a_namespace(|| {
        let (router, mut samples) = sampling(u32::MAX);
        (0..4000).for_each(|_| router.carry(&ipv4()));
        let told = std::iter::from_fn(|| samples.next_waiting()).count() as u64;
        let dropped = samples.dropped().unwrap();
        assert!(dropped > 0 && told > 1000, "{told} told, {dropped} dropped");
        assert_eq!(told + dropped, 4000);
        let counters = router.fast.rule_counters();
        assert_eq!(counters[0].packets[Action::Redirect as usize], 4000);
        // There is room again.
        router.carry(&ipv4());
        assert!(samples.next_waiting().is_some());
    });
}

#[test]
fn what_a_rule_in_fallback_decides_is_not_redirected() {
    in_a_namespace(|| {
        let (mut router, mut samples) = sampling(u32::MAX);
        router.change(|generation| generation.rules[0].action.flags |= RULE_FALLBACK);
        router.hosts.send(&ethernet_frame(LAN_MAC, &ipv4().bytes()));
        router.change(|generation| generation.rules[0].action.flags = 0);
        router.carry(&ipv4().dsfield(0x20));
        assert_eq!(router.passed(PassReason::ShadowDisagreed), 1);
        assert!(samples.next_waiting().is_some_and(|sample| sample.flow >> FLOW_CLASS_SHIFT == 0x20));
        assert!(samples.next_waiting().is_none());
    });
}
