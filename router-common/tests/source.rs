//! What is for this host, and which sources the way back refuses.

mod world;

use router_common::layout::*;
use router_common::packet::Packet;
use router_common::verdict::{PassReason, Verdict};
use world::*;

fn local() -> RouteEntry {
    kind(ROUTE_UNSEEN, PassReason::LocalDestination)
}

const OWN: Told = Told::Pass(PassReason::LocalDestination);
const REFUSED: Told = Told::Pass(PassReason::Source);

#[test]
fn what_is_for_this_host_is_so_in_the_table_that_a_rule_finds() {
    let base = world().route4(255, [8, 8, 8, 8], 32, local());
    assert_eq!(base.clone().rules(&[table(255), table(111)]).told(packet4()), OWN);
    assert_eq!(base.clone().rules(&[table(111), table(255)]).told(packet4()), far(111), "another rule is first");
    // `fib4_rule_suppress()`: it has a next hop like any other.
    assert_eq!(base.clone().rules(&[table(255).suppress(31), table(111)]).told(packet4()), OWN);
    assert_eq!(base.rules(&[table(255).suppress(32), table(111)]).told(packet4()), far(111));
}

#[test]
fn what_is_for_this_host_before_all_rules_is_so_whatever_rule_finds_it() {
    let first = kind(ROUTE_LOCAL_FIRST, PassReason::LocalDestination);
    let base = world().route4(111, [8, 8, 8, 8], 32, first).route4(5, [8, 8, 8, 8], 32, first);
    let told = |rules: &[Rule]| base.clone().rules(rules).decide(packet4());
    for rules in [
        vec![table(111)],
        vec![table(111).suppress(32)],
        // It is no decision of this rule's.
        vec![table(111).flags(RULE_FALLBACK)],
        vec![table(5).suppress(32), table(111)],
    ] {
        let outcome = told(&rules);
        assert_eq!(outcome.reason, PassReason::LocalDestination as u8, "{rules:?}");
        assert_eq!((outcome.rule, outcome.verdict), (NO_RULE, Verdict::Undecided as u8));
    }
    let other = Packet { dst: v4([8, 8, 8, 9]), ..packet4() };
    assert_eq!(base.told(other), far(111));
}

#[test]
fn only_a_source_in_doubt_is_looked_up() {
    // The way back would find that the source is this host's own.
    let base = world().back(&[table(255)]).route4(255, [192, 168, 8, 5], 32, local());
    assert_eq!(base.told(packet4()), far(111));
    assert_eq!(base.clone().source([192, 168, 8, 5], 32, SOURCE_ONLINK).told(packet4()), far(111));
    assert_eq!(base.clone().source([192, 168, 8, 6], 32, SOURCE_DOUBTFUL).told(packet4()), far(111));
    let doubtful = base.source([192, 168, 8, 0], 24, SOURCE_DOUBTFUL | SOURCE_ONLINK);
    assert_eq!(doubtful.told(packet4()), REFUSED);
    let outcome = doubtful.decide(packet4());
    assert_eq!((outcome.rule, outcome.table), (111, 111), "how far it came");
    // IPv6 asks nothing about a source (`ip6_forward()`).
    assert_eq!(doubtful.told(Packet { src: [packet4().src[0], 0, 0, 0], ..packet6() }), far(111));
    // Nor is one looked at where the packet is not forwarded.
    let dropped = doubtful.rules(&[rule(ACT_BLACKHOLE, 0)]);
    assert_eq!(dropped.told(packet4()), Told::Drop);
}

/// What comes of a packet whose source is in doubt, with these rules on the way back.
fn back(rules: &[Rule], change: impl FnOnce(World) -> World) -> Told {
    let world = world().source([192, 168, 8, 5], 32, SOURCE_DOUBTFUL).back(rules);
    change(world).told(packet4())
}

#[test]
fn the_way_back_refuses_what_has_no_way_out() {
    let by = |entry: RouteEntry| back(&[table(5)], |world| world.route4(5, [192, 168, 8, 5], 32, entry));
    assert_eq!(by(via([10, 0, 0, 9])), far(111));
    let several = kind(ROUTE_UNSEEN, PassReason::Multipath);
    assert_eq!(by(several), far(111), "several ways out are ways out");
    // `fib4_rule_suppress()`: by the group of the first, and on with the next rule.
    let by_group = |group| {
        let mut suppressing = table(5);
        suppressing.entry.suppress_ifgroup = group;
        let world = |world: World| {
            let world = world.route4(
                5,
                [192, 168, 8, 5],
                32,
                RouteEntry { group: 7, certain: several.certain | ROUTE_HAS_GROUP, ..several },
            );
            world.route4(255, [192, 168, 8, 5], 32, local())
        };
        back(&[suppressing, table(255)], world)
    };
    assert_eq!([by_group(7), by_group(8)], [REFUSED, far(111)]);
    assert_eq!(by(local()), REFUSED);
    assert_eq!(by(kind(ROUTE_LOCAL_FIRST, PassReason::LocalDestination)), REFUSED);
    assert_eq!(by(kind(ROUTE_UNSEEN, PassReason::RouteKind)), REFUSED, "who knows what it is");
    assert_eq!(by(RouteEntry { expires: 10, ..via([10, 0, 0, 9]) }), far(111));
    let late = |world: World| World { seconds: 10, ..world };
    let expired = RouteEntry { expires: 10, ..via([10, 0, 0, 9]) };
    assert_eq!(back(&[table(5)], |world| late(world.route4(5, [192, 168, 8, 5], 32, expired))), REFUSED);
    // Errors, and no answer at all, are no objection while rp_filter is off (`last_resort` of `__fib_validate_source()`).
    for route in [ROUTE_BLACKHOLE, ROUTE_UNREACHABLE, ROUTE_PROHIBIT, ROUTE_THROW] {
        assert_eq!(by(kind(route, PassReason::Resync)), far(111));
    }
    for action in [ACT_BLACKHOLE, ACT_UNREACHABLE, ACT_PROHIBIT] {
        assert_eq!(back(&[rule(action, 0)], |world| world), far(111));
    }
    assert_eq!(back(&[], |world| world), far(111));
    assert_eq!(back(&[rule(ACT_UNSEEN, 0)], |world| world), REFUSED);
    assert_eq!(back(&[rule(ACT_NOP, 0).flags(RULE_UNSEEN)], |world| world), REFUSED);
}

#[test]
fn the_way_back_sees_the_packet_turned_round() {
    let refuses = |rule: Rule| {
        let told = back(&[rule, table(111)], |world| world.route4(255, [192, 168, 8, 5], 32, local()));
        assert!(told == REFUSED || told == far(111), "{told:?}");
        told == REFUSED
    };
    let local = table(255);
    assert!(refuses(local.from4([8, 8, 8, 8], 32)) && !refuses(local.from4([192, 168, 8, 5], 32)));
    assert!(refuses(local.to4([192, 168, 8, 5], 32)) && !refuses(local.to4([8, 8, 8, 8], 32)));
    let port = |sport, dport| {
        local.select(|all| (all.flags, all.ports, all.ports_mask) = (SELECT_PORTS, ports(sport, dport), u32::MAX))
    };
    assert!(refuses(port(53, 1000)) && !refuses(port(1000, 53)));
    let proto = |proto| local.select(|all| (all.flags, all.ipproto) = (SELECT_IPPROTO, proto));
    assert!(refuses(proto(17)) && !refuses(proto(6)));
    let flow = |flow| local.select(|all| (all.flow, all.flow_mask) = (flow, u32::MAX));
    assert!(refuses(flow(0)) && !refuses(flow(7)), "what the room held before is gone");
}

#[test]
fn the_way_back_has_no_mark_unless_the_interface_says_so() {
    let told = |flags, rule: Rule| {
        let mut world = world().source([192, 168, 8, 5], 32, SOURCE_DOUBTFUL).back(&[rule, table(111)]);
        world.link_mut(LAN).flags |= flags;
        world.route4(255, [192, 168, 8, 5], 32, local()).told(Packet { mark: 3, ..packet4() })
    };
    let marked = |mark| table(255).mark(mark, u32::MAX);
    assert_eq!([told(0, marked(3)), told(0, marked(0))], [far(111), REFUSED]);
    assert_eq!([told(LINK_SRC_VALID_MARK, marked(3)), told(LINK_SRC_VALID_MARK, marked(0))], [REFUSED, far(111)]);
    // The mark as the statements leave it.
    let mut world = world().source([192, 168, 8, 5], 32, SOURCE_DOUBTFUL).back(&[marked(9)]);
    world.link_mut(LAN).flags |= LINK_SRC_VALID_MARK;
    world.marks = vec![MarkEntry { family: 4, set_value: 9, set_mask: u32::MAX, ..zeroed() }];
    world.config.marks = 1;
    assert_eq!(world.route4(255, [192, 168, 8, 5], 32, local()).told(packet4()), REFUSED);
}

#[test]
fn the_way_back_meets_the_list_of_the_interface_that_the_packet_leaves_by() {
    let world = world().source([192, 168, 8, 5], 32, SOURCE_DOUBTFUL).route4(255, [192, 168, 8, 5], 32, local());
    let mut laid = Laid::new(&world.back(&[table(255)]));
    assert_eq!(laid.told(packet4()), REFUSED);
    let list = laid.links[0].list4;
    for link in laid.links.iter_mut().filter(|link| link.index != WAN) {
        link.back = list;
    }
    assert_eq!(laid.told(packet4()), REFUSED, "the other interfaces' do not count");
    laid.links.iter_mut().for_each(|link| link.back = list);
    assert_eq!(laid.told(packet4()), far(111));
    laid.links.iter_mut().for_each(|link| link.back = 99);
    assert_eq!(laid.told(packet4()), REFUSED, "a list that is not there");
}

#[test]
fn a_mark_is_written_only_where_the_source_is_good() {
    let mut world = world().source([192, 168, 8, 5], 32, SOURCE_DOUBTFUL).back(&[table(255)]);
    world.link_mut(LAN).may = MAY_MARK;
    assert_eq!(world.told(packet4()), Told::Mark(0x0300_0000));
    assert_eq!(world.route4(255, [192, 168, 8, 5], 32, local()).told(packet4()), REFUSED);
}

#[test]
fn a_route_counts_until_its_time_is_over() {
    let mut world = world().route4(111, [8, 0, 0, 0], 8, RouteEntry { expires: 100, ..via([10, 0, 0, 1]) });
    for (seconds, told) in [(0, far(111)), (99, far(111)), (100, Told::Pass(PassReason::RouteExpiry))] {
        world.seconds = seconds;
        assert_eq!(world.told(packet4()), told);
    }
    // Another may take its place then: no other rule is asked, and nothing is suppressed.
    let world = world.rules(&[table(111).suppress(32), table(111)]);
    assert_eq!(world.told(packet4()), Told::Pass(PassReason::RouteExpiry));
    assert_eq!(world.told(Packet { dst: v4([9, 9, 9, 9]), ..packet4() }), far(111));
}
