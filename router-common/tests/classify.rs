//! The compiled decision, over collections instead of maps.

mod world;

use router_common::layout::*;
use router_common::packet::{Packet, SEGMENT_UNKNOWN};
use router_common::verdict::{PassReason, Verdict};
use world::*;

#[test]
fn redirects_with_the_gateways_address() {
    let outcome = world().decide(packet4());
    assert_eq!(outcome.ethernet, 1);
    assert_eq!(outcome.macs, [mac([2, 0, 0, 0, 1, 1]), mac([2, 0, 0, 0, 0, 7])]);
    let decision = world().decision(packet4());
    assert_eq!((decision.oif, decision.table, decision.rule, decision.via_family), (WAN, 111, 111, 4));
    assert_eq!(decision.via, v4([10, 0, 0, 1]));
    assert_eq!(decision.verdict, Verdict::Forward as u8);

    assert_eq!(world().decide(packet6()).macs, [mac([2, 0, 0, 0, 1, 6]), mac([2, 0, 0, 0, 0, 7])]);
    assert_eq!(world().decision(packet6()).via, v6("fe80::1"));
}

#[test]
fn an_ipv4_route_by_an_ipv6_gateway_asks_for_the_ipv6_neighbour() {
    let route = RouteEntry { via_family: 6, via: v6("fe80::1"), ..via([0; 4]) };
    let outcome = world().route4(111, [8, 0, 0, 0], 8, route).decide(packet4());
    assert_eq!(outcome.macs[0], mac([2, 0, 0, 0, 1, 6]));
}

#[test]
fn without_a_gateway_the_destination_is_the_neighbour() {
    let on_link = RouteEntry { via_family: 0, ..via([0; 4]) };
    let mut world = world().route4(111, [8, 0, 0, 0], 8, on_link);
    assert_eq!(world.told(packet4()), Told::Pass(PassReason::Neighbour));
    let key = NeighbourKey { ifindex: WAN, family: 4, addr: packet4().dst };
    world.neighbours.insert(key, neighbour([2, 0, 0, 0, 8, 8]));
    assert_eq!(world.decide(packet4()).macs[0], mac([2, 0, 0, 0, 8, 8]));
}

#[test]
fn towards_a_device_without_ethernet_no_neighbour_is_needed() {
    let tunnel = RouteEntry { via_family: 0, oif: TUN, ..via([0; 4]) };
    let world = world().route4(111, [8, 0, 0, 0], 8, tunnel);
    assert_eq!(world.told(packet4()), Told::Redirect { oif: TUN, table: 111 });
    assert_eq!(world.decide(packet4()).ethernet, 0);
}

#[test]
fn what_a_rule_in_fallback_decides_is_the_stacks_and_nothing_else() {
    let fallback = |rule: Rule| rule.flags(RULE_FALLBACK);
    let alone = |rule| world().rules(&[rule]).told(packet4());
    assert_eq!(alone(fallback(table(111))), Told::Pass(PassReason::ShadowDisagreed));
    assert_eq!(alone(rule(ACT_BLACKHOLE, 0)), Told::Drop);
    assert_eq!(alone(fallback(rule(ACT_BLACKHOLE, 0))), Told::Pass(PassReason::ShadowDisagreed));
    // It looked, found nothing, and the next one decides.
    let empty = fallback(table(5));
    let next = world().rules(&[empty, table(111)]);
    assert_eq!(next.told(packet4()), far(111));
    // Nor does it decide where nobody does.
    assert_eq!(world().rules(&[empty]).told(packet4()), Told::Pass(PassReason::IcmpError));
    // Its selectors leave the packet out.
    let other = fallback(table(111)).from4([9; 4], 32);
    assert_eq!(world().rules(&[other, table(111)]).told(packet4()), far(111));
}

#[test]
fn interfaces_and_addresses_before_rules() {
    let reason = |change: fn(&mut World)| {
        let mut world = world();
        change(&mut world);
        world.told(packet4())
    };
    assert_eq!(reason(|w| w.link_mut(LAN).may = MAY_PASS), Told::Pass(PassReason::InterfacePass));
    assert_eq!(reason(|w| w.link_mut(LAN).flags &= !LINK_FORWARDS4), Told::Pass(PassReason::ForwardingOff));
    assert_eq!(reason(|w| w.link_mut(LAN).flags &= !LINK_FORWARDS6), far(111));
    let with_exception = |family, addr| {
        let mut world = world();
        world.exceptions.push((family, addr));
        world
    };
    assert_eq!(with_exception(4, packet4().dst).told(packet4()), Told::Pass(PassReason::Exception));
    assert_eq!(with_exception(4, packet4().src).told(packet4()), far(111), "it is about what goes there");
    assert_eq!(with_exception(6, packet6().dst).told(packet6()), Told::Pass(PassReason::Exception));
    assert_eq!(with_exception(6, packet6().dst).told(packet4()), far(111));

    let mut no6 = world();
    no6.link_mut(LAN).flags &= !LINK_FORWARDS6;
    assert_eq!(no6.told(packet6()), Told::Pass(PassReason::ForwardingOff));
}

#[test]
fn fragments_are_the_stacks_where_ports_count_and_something_may_put_them_together() {
    let fragment = Packet { fragment: 1, sport: 0, dport: 0, ..packet4() };
    let mut world = world();
    assert_eq!(world.told(fragment), far(111));
    world.config.fragments = FRAGMENTS_REDIRECT;
    assert_eq!(world.told(fragment), far(111));
    world.link_mut(LAN).may = MAY_MARK;
    assert_eq!(world.told(fragment), Told::Pass(PassReason::Fragment));
    world.link_mut(LAN).may = MAY_REDIRECT;
    world.config.fragments = FRAGMENTS_PASS;
    assert_eq!(world.told(fragment), Told::Pass(PassReason::Fragment));
    assert_eq!(world.told(packet4()), far(111));
}

#[test]
fn the_walk_falls_through_and_ends() {
    // A missing table, a table without a route, a throw route: the next rule.
    let base = world().route4(20, [9, 9, 9, 9], 32, via([10, 0, 0, 1])).route4(
        30,
        [8, 8, 0, 0],
        16,
        kind(ROUTE_THROW, PassReason::Resync),
    );
    assert_eq!(base.clone().rules(&[table(10), table(20), table(30), table(111)]).told(packet4()), far(111));
    // Nothing left.
    let none = base.clone().rules(&[table(10), table(20), table(30)]);
    assert_eq!(none.told(packet4()), Told::Pass(PassReason::IcmpError));
    let end = none.decide(packet4());
    assert_eq!((end.verdict, end.rule, end.table), (Verdict::NoRoute as u8, NO_RULE, 0));
    assert_eq!(base.clone().rules(&[]).told(packet4()), Told::Pass(PassReason::IcmpError));
    // A throw hides the default route of its own table.
    let thrown = base.clone().route4(30, [0; 4], 0, via([10, 0, 0, 1])).rules(&[table(30)]);
    assert_eq!(thrown.told(packet4()), Told::Pass(PassReason::IcmpError));
}

#[test]
fn refusals_end_the_walk() {
    for (action, route, verdict, told) in [
        (ACT_BLACKHOLE, ROUTE_BLACKHOLE, Verdict::Blackhole, Told::Drop),
        (ACT_UNREACHABLE, ROUTE_UNREACHABLE, Verdict::Unreachable, Told::Pass(PassReason::IcmpError)),
        (ACT_PROHIBIT, ROUTE_PROHIBIT, Verdict::Prohibit, Told::Pass(PassReason::IcmpError)),
    ] {
        let by_rule = world().rules(&[rule(action, 0), table(111)]);
        assert_eq!((by_rule.decide(packet4()).verdict, by_rule.told(packet4())), (verdict as u8, told));
        // Error routes are never suppressed.
        let suppressing = table(5).suppress(32);
        let by_route =
            world().route4(5, [8, 0, 0, 0], 8, kind(route, PassReason::Resync)).rules(&[suppressing, table(111)]);
        let by_route = by_route.decide(packet4());
        assert_eq!((by_route.verdict, by_route.table), (verdict as u8, 5));
    }
    let mut marking = world().rules(&[rule(ACT_BLACKHOLE, 0)]);
    marking.link_mut(LAN).may = MAY_MARK;
    assert_eq!(marking.told(packet4()), Told::Pass(PassReason::NothingToMark));
}

#[test]
fn short_prefixes_are_suppressed() {
    let main = |limit| table(254).suppress(limit);
    let told = |limit, len| {
        let world = world().route4(254, [8, 8, 8, 8], len, via([10, 0, 0, 1])).rules(&[main(limit), table(111)]);
        match world.told(packet4()) {
            Told::Redirect { table, .. } => table,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        [told(-1, 0), told(0, 0), told(0, 1), told(24, 24), told(24, 25), told(32, 32)],
        [254, 111, 254, 111, 254, 111]
    );
    // Several next hops are a route like another; what is not known is not.
    let unseen = |reason| {
        let world = world().route4(254, [0; 4], 0, kind(ROUTE_UNSEEN, reason)).rules(&[main(0), table(111)]);
        world.told(packet4())
    };
    assert_eq!(unseen(PassReason::Multipath), far(111));
    assert_eq!(unseen(PassReason::RouteKind), Told::Pass(PassReason::RouteKind));
}

#[test]
fn unseen_things_pass() {
    for reason in [PassReason::Multipath, PassReason::RouteKind] {
        let world = world().route4(111, [8, 0, 0, 0], 8, kind(ROUTE_UNSEEN, reason));
        assert_eq!(world.told(packet4()), Told::Pass(reason));
    }
    let unseen = rule(ACT_NOP, 0).flags(RULE_UNSEEN);
    assert_eq!(world().rules(&[unseen]).told(packet4()), Told::Pass(PassReason::RuleSelector));
    assert_eq!(world().rules(&[rule(ACT_UNSEEN, 0)]).told(packet4()), Told::Pass(PassReason::RuleSelector));
    // What is seen speaks against the packet already: with `not`, the rule matches.
    let other_mark = rule(ACT_PROHIBIT, 0).flags(RULE_UNSEEN).mark(1, u32::MAX);
    let rest = table(111);
    assert_eq!(world().rules(&[other_mark, rest]).told(packet4()), far(111));
    let inverted = other_mark.flags(RULE_NOT);
    assert_eq!(world().rules(&[inverted, rest]).told(packet4()), Told::Pass(PassReason::IcmpError));
}

#[test]
fn goto_goes_forward() {
    let base = world().route4(5, [0; 4], 0, via([10, 0, 0, 1]));
    let told = |rules: &[Rule]| base.clone().rules(rules).told(packet4());
    assert_eq!(told(&[rule(ACT_GOTO, 2), table(5), table(111)]), far(111));
    assert_eq!(told(&[rule(ACT_GOTO, 1), table(5), table(111)]), far(5));
    assert_eq!(told(&[rule(ACT_NOP, 0), table(5)]), far(5));
    // To the end of the list: nothing left.
    assert_eq!(told(&[rule(ACT_GOTO, 2), table(5)]), Told::Pass(PassReason::IcmpError));
    // Backwards there is no way, whatever a map says.
    assert_eq!(told(&[table(9), rule(ACT_GOTO, 0)]), Told::Pass(PassReason::Resync));
    assert_eq!(told(&[rule(ACT_GOTO, 0)]), Told::Pass(PassReason::Resync));
}

#[test]
fn every_interface_has_lists_of_its_own() {
    let world = world().route4(5, [0; 4], 0, via([10, 0, 0, 1]));
    let [one, other] = [5, 111].map(|id| Laid::new(&world.clone().rules(&[table(id)])));
    assert_eq!((one.told(packet4()), other.told(packet4())), (far(5), far(111)));
    // A list that begins further behind, and a list of IPv6 that is another one.
    let mut laid = Laid::new(&world.rules(&[table(5), table(111)]));
    let second = ListEntry { first: laid.lists[0].first + 1, count: 1, linear: 0, ..zeroed() };
    laid.lists.push(second);
    let place = laid.links.iter().position(|link| link.index == LAN).expect("lan");
    laid.links[place].list4 = laid.lists.len() as u32 - 1;
    assert_eq!(laid.told(packet4()), far(111));
    assert_eq!(laid.told(packet6()), far(111), "table 5 has no IPv6 route");
    laid.links[place].list6 = laid.links[place].list4;
    assert_eq!(laid.told(packet6()), Told::Pass(PassReason::IcmpError), "that list is about IPv4's tables");
    laid.links[place].list4 = 99;
    assert_eq!(laid.told(packet4()), Told::Pass(PassReason::Resync), "a list that is not there");
}

#[test]
fn no_list_is_longer_than_what_the_program_follows() {
    let longest = |len| world().rules(&vec![rule(ACT_NOP, 0); len as usize]).told(packet4());
    assert_eq!(longest(MAX_RULES), Told::Pass(PassReason::IcmpError), "followed to its end");
    assert_eq!(longest(MAX_RULES + 1), Told::Pass(PassReason::RuleLimit));
    // Rules that are not there.
    let mut laid = Laid::new(&world());
    laid.lists[0].count = 9;
    laid.lists[0].linear = 7;
    assert_eq!(laid.told(packet4()), Told::Pass(PassReason::Resync));
}

#[test]
fn the_mtu_is_the_routes_or_the_devices() {
    let told = |world: &World, len, segment| world.told(Packet { len, segment, ..packet4() });
    let mut plain = world();
    plain.link_mut(WAN).mtu6 = 1280;
    assert_eq!(told(&plain, 1500, 1500), far(111));
    assert_eq!(told(&plain, 1501, 1501), Told::Pass(PassReason::Mtu));
    assert_eq!(told(&plain, 60_000, 1500), far(111), "segments count");
    let big6 = Packet { len: 1281, segment: 1281, ..packet6() };
    assert_eq!(plain.told(big6), Told::Pass(PassReason::Mtu));
    assert_eq!(plain.told(Packet { len: 1280, segment: 1280, ..big6 }), far(111));
    let narrow = world().route4(111, [8, 0, 0, 0], 8, RouteEntry { mtu: 1400, ..via([10, 0, 0, 1]) });
    assert_eq!(told(&narrow, 1400, 1400), far(111));
    assert_eq!(told(&narrow, 1401, 1401), Told::Pass(PassReason::Mtu));
    // Where only the kernel knows the segments, it is asked, and answers for the device's MTU.
    let mut asked = narrow;
    assert_eq!(told(&asked, 9000, SEGMENT_UNKNOWN), Told::Pass(PassReason::Mtu));
    asked.device_mtu_of_segments = Some(1400);
    assert_eq!(told(&asked, 9000, SEGMENT_UNKNOWN), far(111));
    asked.device_mtu_of_segments = Some(1500);
    assert_eq!(told(&asked, 9000, SEGMENT_UNKNOWN), Told::Pass(PassReason::Mtu));
}

#[test]
fn egress_interfaces_that_cannot_be_used() {
    let mut down = world();
    down.link_mut(WAN).flags &= !LINK_EGRESS;
    assert_eq!(down.told(packet4()), Told::Pass(PassReason::EgressInterface));
    let gone = world().route4(111, [8, 0, 0, 0], 8, RouteEntry { oif: 99, ..via([10, 0, 0, 1]) });
    assert_eq!(gone.told(packet4()), Told::Pass(PassReason::EgressInterface));
    let mut unresolved = world();
    unresolved.neighbours.clear();
    assert_eq!(unresolved.told(packet4()), Told::Pass(PassReason::Neighbour));
}

#[test]
fn ipv4_hairpins_draw_redirects_from_hosts_on_the_link() {
    let back = Packet { iif: WAN, ..packet4() };
    let mut world = world();
    assert_eq!(world.told(back), far(111));
    world.sources.push((back.src, 32, SOURCE_ONLINK));
    assert_eq!(world.told(back), far(111), "send_redirects is off");
    world.link_mut(WAN).flags |= LINK_REDIRECTS4;
    assert_eq!(world.told(back), Told::Pass(PassReason::IcmpRedirect));
    world.sources.clear();
    assert_eq!(world.told(back), far(111), "the source is behind a router");
}

#[test]
fn ipv6_hairpins_draw_redirects_to_link_local_routers_and_to_neighbours() {
    let back = Packet { iif: WAN, ..packet6() };
    let by = |via_family, via| {
        let mut world = world();
        world.routes[1].entry = RouteEntry { via_family, via, ..world.routes[1].entry };
        for addr in ["2001:db8::99", "2001:db8:ffff::1"] {
            let key = NeighbourKey { ifindex: WAN, family: 6, addr: v6(addr) };
            world.neighbours.insert(key, neighbour([2, 0, 0, 0, 9, 9]));
        }
        world.told(back)
    };
    assert_eq!(by(6, v6("fe80::1")), Told::Pass(PassReason::IcmpRedirect));
    assert_eq!(by(0, [0; 4]), Told::Pass(PassReason::IcmpRedirect));
    assert_eq!(by(6, v6("2001:db8:ffff::1")), Told::Pass(PassReason::IcmpRedirect));
    assert_eq!(by(6, v6("2001:db8::99")), far(111));
}

#[test]
fn marks_are_rewritten_in_order_the_first_of_each_statement() {
    let set = |statement, mark, mark_mask, set_value, set_mask| MarkEntry {
        family: 4,
        statement,
        set_value,
        set_mask,
        selectors: Selectors { mark, mark_mask, ..zeroed() },
        ..zeroed()
    };
    let mut world = world();
    world.marks = vec![
        set(0, 0, 0, 0x10, 0xff),
        set(0, 0, 0, 0x77, 0xff),
        set(1, 0x10, 0xff, 0x2000, 0xff00),
        MarkEntry { family: 6, ..set(2, 0, 0, 0, u32::MAX) },
        MarkEntry { iif: WAN, ..set(3, 0, 0, 0, u32::MAX) },
        MarkEntry { iif: LAN, ..set(4, 0x2010, u32::MAX, 0x4_0000, 0xf_0000) },
        set(5, 0x2010, u32::MAX, 0, u32::MAX),
    ];
    world.config.marks = world.marks.len() as u32;
    let outcome = world.decide(Packet { mark: 0x8000_0001, ..packet4() });
    assert_eq!(outcome.mark, 0x8000_2010, "a statement that looks at the whole mark sees the high bit");
    let outcome = world.decide(Packet { mark: 1, ..packet4() });
    assert_eq!((outcome.mark, outcome.write_mark), (0x4_2010, 0x4_2010));
    // Rules look at the mark as it is then.
    let by_mark = table(111).mark(0x4_2010, u32::MAX);
    assert_eq!(world.clone().rules(&[by_mark]).told(Packet { mark: 1, ..packet4() }), far(111));
    world.config.marks = 1;
    assert_eq!(world.decide(packet4()).mark, 0x10, "no more than are in use");
}

#[test]
fn action_mark_writes_its_own_bits_only() {
    let mut world = world();
    world.link_mut(LAN).may = MAY_MARK;
    world.neighbours.clear();
    world.marks = vec![MarkEntry { family: 4, set_value: 5, set_mask: 0xff, ..zeroed() }];
    world.config.marks = 1;
    let outcome = world.decide(Packet { mark: 0x7f00_0100, ..packet4() });
    assert_eq!((outcome.write_mark, outcome.mark), (0x0300_0100, 0x0300_0105));
    assert_eq!((outcome.oif, outcome.table), (WAN, 111));
    assert_eq!(world.told(Packet { mark: 0x7f00_0100, ..packet4() }), Told::Mark(0x0300_0100));

    world.marks_in_use = vec![1, 0x105];
    world.config.marks_in_use = 2;
    assert_eq!(world.told(Packet { mark: 0x100, ..packet4() }), Told::Pass(PassReason::MarkInUse), "after [[mark]]");
    assert_eq!(world.told(Packet { mark: 1, ..packet4() }), Told::Pass(PassReason::MarkInUse), "as received");
    assert_eq!(world.told(Packet { mark: 2, ..packet4() }), Told::Mark(0x0300_0002));
    world.config.marks_in_use = 1;
    assert_eq!(world.told(Packet { mark: 0x100, ..packet4() }), Told::Mark(0x0300_0100));

    world.link_mut(WAN).flags |= LINK_READS_MARK;
    assert_eq!(world.told(packet4()), Told::Pass(PassReason::EgressInterface));
    world.link_mut(WAN).flags &= !LINK_READS_MARK;
    world.rules[0].entry.mark_class = 0;
    assert_eq!(world.told(packet4()), Told::Pass(PassReason::NothingToMark));
    world.rules[0].entry.mark_class = 0x0300_0000;
    world.config.mark_bits = 0;
    assert_eq!(world.told(packet4()), Told::Pass(PassReason::NothingToMark));
}
