//! What is kept of a flow decides its next packets as the walk would.

mod world;

use proptest::prelude::*;
use router_common::flow::{Recall, look};
use router_common::layout::*;
use router_common::packet::{Packet, TCP};
use router_common::verdict::PassReason;
use world::*;

/// Rules that look at all that a rule can look at, statements that rewrite the mark, doubtful sources and exceptions.
fn everything() -> World {
    let local = kind(ROUTE_UNSEEN, PassReason::LocalDestination);
    let mut world = world()
        .route4(255, [192, 168, 8, 5], 32, local)
        .route4(255, [10, 0, 0, 1], 32, local)
        .route4(5, [0; 4], 0, via([10, 0, 0, 1]))
        .route4(6, [0; 4], 0, RouteEntry { oif: TUN, via_family: 0, ..via([0; 4]) })
        .route4(7, [0; 4], 0, RouteEntry { oif: LAN, ..via([10, 0, 0, 1]) })
        .source([192, 168, 8, 5], 32, SOURCE_DOUBTFUL)
        .source([192, 168, 8, 6], 32, SOURCE_ONLINK)
        .rules(&[
            table(255),
            table(5).select(|all| (all.flags, all.ports, all.ports_mask) = (SELECT_PORTS, ports(1, 2), u32::MAX)),
            table(6).select(|all| (all.flags, all.ipproto) = (SELECT_IPPROTO, TCP.into())),
            rule(ACT_BLACKHOLE, 0).select(|all| (all.flow, all.flow_mask) = (1, 1)),
            rule(ACT_PROHIBIT, 0).mark(3, 3),
            table(5).mark(2, 3).flags(RULE_FALLBACK),
            table(7).from4([192, 168, 8, 6], 31),
            table(111),
        ]);
    world.routes.push(Route {
        family: 6,
        table: 5,
        to: [0; 4],
        entry: RouteEntry { oif: TUN, via_family: 0, ..via([0; 4]) },
    });
    let statement = |statement, iif, value| MarkEntry {
        family: 4,
        iif,
        statement,
        set_value: value,
        set_mask: value,
        selectors: Selectors { mark: 8, mark_mask: 8, ..zeroed() },
        ..zeroed()
    };
    world.marks = vec![statement(0, LAN, 1), statement(1, WAN, 2)];
    world.config.marks = 2;
    world.config.fragments = FRAGMENTS_REDIRECT;
    world.config.epoch = 1;
    world.exceptions.push((4, v4([8, 8, 8, 9])));
    world.link_mut(WAN).may = MAY_MARK;
    world.link_mut(LAN).flags |= LINK_REDIRECTS4;
    world
}

prop_compose! {
    /// One of few, so that they repeat.
    fn some_packet()(
        six in any::<bool>(), iif in prop::sample::select(vec![LAN, WAN]), last in (4u8..8, 8u8..10), low in (0u32..2, 0u32..2),
        mark in prop::sample::select(vec![0u32, 1, 2, 3, 8, 9]), ports in (0u16..2, 1u16..3), tcp in any::<bool>(),
        flow in 0u32..2, fragment in prop::sample::select(vec![0u8, 0, 0, 1]), word in 1usize..4,
    ) -> Packet {
        let packet = Packet { iif, mark, sport: ports.0, dport: ports.1, flow, ..packet4() };
        let packet = Packet { ipproto: if tcp { TCP } else { packet.ipproto }, ..packet };
        let (src, dst) = (v4([192, 168, 8, last.0]), v4([8, 8, 8, last.1]));
        if six {
            // IPv6 that begins as IPv4 does, and differs behind that.
            let longer = |mut addr: AddrWords, low| { addr[word] = low; addr };
            Packet { family: 6, src: longer(src, low.0), dst: longer(dst, low.1), ..packet }
        } else {
            // What IPv4's other words hold means nothing.
            Packet { src: [src[0], low.0, 0, 0], dst, fragment, ..packet }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_kept_decides_as_the_walk(packets in prop::collection::vec(some_packet(), 200)) {
        let world = everything();
        let (plain, keeping) = (Laid::new(&world), Laid::new(&world).with_flows());
        for packet in packets {
            let (walked, kept) = (plain.decide(packet), keeping.decide(packet));
            prop_assert_eq!(walked, kept, "{:?}", packet);
            for _ in 0..2 {
                prop_assert_eq!(keeping.decide(packet), walked, "and again: {:?}", packet);
            }
        }
        prop_assert!(keeping.recalled.get() >= 200, "{} of 600 were recalled", keeping.recalled.get());
    }
}

#[test]
fn every_packet_but_the_first_two_of_a_flow_is_spared_the_walk() {
    let laid = Laid::new(&everything()).with_flows();
    let marked = Packet { mark: 8, ..packet4() };
    for packet in [packet4(), packet6(), marked] {
        for _ in 0..4 {
            laid.decide(packet);
        }
    }
    assert_eq!(laid.recalled.get(), 6);
}

#[test]
fn another_epoch_knows_nothing_of_it() {
    let mut laid = Laid::new(&world()).with_flows();
    laid.config.epoch = 1;
    assert_eq!(laid.told(packet4()), far(111));
    assert_eq!(laid.told(packet4()), far(111));
    laid.lists.iter_mut().for_each(|list| (list.count, list.linear) = (0, 0));
    assert_eq!(laid.told(packet4()), far(111), "kept");
    laid.config.epoch = 2;
    assert_eq!(laid.told(packet4()), Told::Pass(PassReason::IcmpError));
}

#[test]
fn flows_of_one_place_do_not_push_each_other_out_in_turns() {
    let [mut tags, kept, other] = [0, 7, 9];
    assert_eq!([look(&mut tags, kept), look(&mut tags, kept)], [Recall::Unknown, Recall::Keep]);
    for _ in 0..5 {
        assert_eq!([look(&mut tags, other), look(&mut tags, kept)], [Recall::Unknown, Recall::Found]);
    }
    // Once the kept flow has ended, the other takes its place.
    assert_eq!([look(&mut tags, other), look(&mut tags, other)], [Recall::Unknown, Recall::Keep]);
    assert_eq!([look(&mut tags, other), look(&mut tags, kept)], [Recall::Found, Recall::Unknown]);
}

#[test]
fn packets_that_never_come_again_push_no_flow_out() {
    let [mut tags, kept] = [0, 7];
    assert_eq!([look(&mut tags, kept), look(&mut tags, kept)], [Recall::Unknown, Recall::Keep]);
    for never_again in 8..250 {
        assert_eq!(look(&mut tags, never_again), Recall::Unknown);
    }
    assert_eq!(look(&mut tags, kept), Recall::Found);
}

#[test]
fn what_changes_within_an_epoch_is_not_kept() {
    // Time.
    let expiring = RouteEntry { expires: 10, ..via([10, 0, 0, 1]) };
    let mut laid = Laid::new(&world().route4(111, [8, 0, 0, 0], 8, expiring)).with_flows();
    (0..2).for_each(|_| assert_eq!(laid.told(packet4()), far(111)));
    laid.seconds = 10;
    assert_eq!(laid.told(packet4()), Told::Pass(PassReason::RouteExpiry));
    // It counts that one was met, wherever the walk ended.
    let suppressed = world().route4(5, [8, 0, 0, 0], 8, expiring).rules(&[table(5).suppress(8), table(111)]);
    let mut laid = Laid::new(&suppressed).with_flows();
    (0..2).for_each(|_| assert_eq!(laid.told(packet4()), far(111)));
    laid.seconds = 10;
    assert_eq!(laid.told(packet4()), Told::Pass(PassReason::RouteExpiry));
    // Neighbours.
    let mut laid = Laid::new(&world()).with_flows();
    (0..2).for_each(|_| assert_eq!(laid.told(packet4()), far(111)));
    laid.gateways.iter_mut().for_each(|gateway| gateway.usable = 0);
    assert_eq!(laid.told(packet4()), Told::Pass(PassReason::Neighbour));
    // The packet's length.
    assert_eq!(laid.told(Packet { len: 1501, segment: 1501, ..packet4() }), Told::Pass(PassReason::Mtu));
}
