use super::testing::Maps;
use super::*;
use crate::model::{Attached, Link, NextHop, Route, RouteKind, Rule, RuleAction, Selectors};
use router_common::interval::{NOTHING, find32, find128};
use router_common::layout::{
    ACT_GOTO, ACT_TABLE, MAY_REDIRECT, ROUTE_UNICAST, ROUTE_UNSEEN, RULE_FALLBACK, RULE_NOT, RULE_SELECTS,
    SOURCE_DOUBTFUL, SOURCE_ONLINK,
};
use router_common::verdict::PassReason;
use std::net::IpAddr;

pub(super) fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        arphrd: 1,
        mac: Some([2, 0, 0, 0, 0, index as u8]),
        mtu: 1500,
        up: true,
        ..Link::default()
    }
}

pub(super) fn route(table: u32, dst: &str, via: Option<&str>, dev: u32) -> Route {
    let dst: ipnet::IpNet = dst.parse().expect("a prefix");
    Route {
        protocol: 4,
        scope: if via.is_some() { 0 } else { 253 },
        nexthops: vec![NextHop {
            via: via.map(|via| via.parse().expect("an address")),
            dev,
            weight: 1,
            ..NextHop::default()
        }],
        ..Route::to(table, dst, RouteKind::Unicast)
    }
}

pub(super) fn host(rules: Vec<Rule>, routes: Vec<Route>) -> Host {
    let links = [link(1, "eth0"), link(2, "eth1")].into_iter().map(|link| (link.index, link)).collect();
    Host { rules, routes, links, ..Host::default() }
}

pub(super) fn run(host: &Host) -> Generation {
    let input = Input { may: [(1, MAY_REDIRECT), (2, MAY_REDIRECT)].into(), ..Input::default() };
    compile(host, &input, &mut CounterSlots::default()).expect("fits")
}

/// A rule of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub action: u16,
    pub flags: u32,
    pub counter: u32,
    /// The number of its table; 0 without one.
    pub table: u32,
    /// Where it jumps to.
    pub target: u32,
}

/// The rules that IPv4 packets from an interface meet.
pub(super) fn list(generation: &Generation, ifindex: u32) -> Vec<Listed> {
    let list = generation.lists[generation.link(ifindex).expect("an interface").list4 as usize];
    let listed = |index: usize| {
        let rule = generation.rules[index];
        let action = generation.actions[rule.action as usize];
        let table = if action.action == ACT_TABLE { generation.tables[action.table as usize].id } else { 0 };
        let target = generation.steps[index].target;
        Listed { action: action.action, flags: action.flags, counter: rule.counter, table, target }
    };
    (list.first as usize..(list.first + list.count) as usize).map(listed).collect()
}

/// What these routes become, each as its table says at the first address of its prefix; None where it says nothing.
fn entries(routes: &[Route]) -> Vec<Option<RouteEntry>> {
    let rules = routes.iter().map(|route| Rule::lookup(route.family, route.table, route.table)).collect();
    let generation = run(&host(rules, routes.to_vec()));
    let entry = |route: &Route| {
        let table = generation.tables.iter().find(|table| table.id == route.table)?;
        let addr = route.dst.network();
        Maps::new(&generation).route_of(table, if addr.is_ipv4() { 4 } else { 6 }, &words::addr(addr)).copied()
    };
    routes.iter().map(entry).collect()
}

/// Kind and reason of what these routes become.
fn kinds(routes: &[Route]) -> Vec<(u8, u8)> {
    entries(routes).into_iter().map(|entry| entry.map_or((0, 0), |entry| (entry.kind, entry.reason))).collect()
}

const UNICAST: (u8, u8) = (ROUTE_UNICAST, 0);

fn unseen(reason: PassReason) -> (u8, u8) {
    (ROUTE_UNSEEN, reason as u8)
}

/// What is known of an IPv4 source.
fn source(generation: &Generation, addr: &str) -> Option<u32> {
    let addr: std::net::Ipv4Addr = addr.parse().expect("an address");
    let found = find32(generation.lines.as_slice(), generation.config.sources, addr.to_bits());
    (found != NOTHING).then_some(found)
}

pub(super) fn with(priority: u32, table: u32, selectors: Selectors) -> Rule {
    Rule { selectors, ..Rule::lookup(Family::Ipv4, priority, table) }
}

#[test]
fn iif_is_decided_beforehand_with_not_too() {
    let iif = |not| Selectors { iif: Some("eth1".into()), not, ..Selectors::default() };
    let rules = vec![with(10, 111, iif(false)), with(20, 111, iif(true))];
    let generation = run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    let counters =
        |ifindex| list(&generation, ifindex).iter().map(|rule| (rule.counter, rule.flags)).collect::<Vec<_>>();
    assert_eq!(counters(1), [(1, 0)], "on eth0 only the inverted rule is left, and it matches always");
    assert_eq!(counters(2), [(0, 0)], "on eth1 only the plain one");
}

#[test]
fn a_detached_iif_never_matches_and_inverted_always_does() {
    let gone = |not| Selectors { iif: Some("ppp0".into()), not, ..Selectors::default() };
    let detached = |rule| Rule { attached: Attached { iif: false, oif: true }, ..rule };
    let rules = vec![detached(with(10, 111, gone(false))), detached(with(20, 111, gone(true)))];
    let generation = run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    assert_eq!(list(&generation, 1).iter().map(|rule| rule.counter).collect::<Vec<_>>(), [1]);
}

#[test]
fn goto_lands_on_the_first_rule_that_is_left_at_or_after_its_target() {
    let mut jump = with(10, 0, Selectors::default());
    jump.action = RuleAction::Goto(30);
    let other = Selectors { iif: Some("ppp0".into()), ..Selectors::default() };
    let detached =
        |priority| Rule { attached: Attached { iif: false, oif: true }, ..with(priority, 111, other.clone()) };
    let rules = vec![
        jump,
        detached(15),
        with(20, 111, Selectors::default()),
        detached(30),
        with(30, 111, Selectors { fwmark: Some((5, u32::MAX)), not: true, ..Selectors::default() }),
    ];
    let generation = run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    let list = list(&generation, 1);
    assert_eq!(list.len(), 3);
    assert_eq!((list[0].action, list[0].target), (ACT_GOTO, 2));
    assert_eq!((list[2].action, list[2].flags), (ACT_TABLE, RULE_SELECTS | RULE_NOT));
}

#[test]
fn an_unresolved_goto_goes_on_and_an_empty_table_is_no_rule() {
    let mut jump = with(10, 0, Selectors::default());
    jump.action = RuleAction::Goto(99);
    let rules = vec![jump, with(20, 253, Selectors::default()), with(30, 111, Selectors::default())];
    let generation = run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    assert_eq!(list(&generation, 1).iter().map(|rule| rule.table).collect::<Vec<_>>(), [111]);
}

#[test]
fn selectors_that_a_forwarded_packet_never_meets() {
    let rules = vec![
        with(10, 111, Selectors { oif: Some("eth0".into()), ..Selectors::default() }),
        with(11, 111, Selectors { uidrange: Some((1, 1000)), ..Selectors::default() }),
        with(12, 111, Selectors { tun_id: Some(7), ..Selectors::default() }),
        with(13, 111, Selectors { l3mdev: true, ..Selectors::default() }),
        with(14, 111, Selectors { uidrange: Some((0, 0)), ..Selectors::default() }),
    ];
    let generation = run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    assert_eq!(list(&generation, 1).iter().map(|rule| rule.counter).collect::<Vec<_>>(), [4]);
}

#[test]
fn the_lowest_metric_that_lives_wins_and_choices_are_the_stacks() {
    let mut dead = route(1, "0.0.0.0/0", Some("10.0.0.1"), 1);
    dead.nexthops[0].dead = true;
    let mut backup = route(1, "0.0.0.0/0", Some("10.0.0.2"), 2);
    backup.metric = 100;
    let mut many = route(2, "0.0.0.0/0", Some("10.0.0.1"), 1);
    many.nexthops.push(many.nexthops[0].clone());
    let mut tos = route(3, "0.0.0.0/0", Some("10.0.0.1"), 1);
    tos.tos = 0x10;
    let mut all_dead = route(4, "0.0.0.0/0", Some("10.0.0.1"), 1);
    all_dead.nexthops[0].dead = true;
    let all = entries(&[backup, dead, many, tos, all_dead.clone()]);
    let (first, second) = (all[0].expect("a route"), all[1].expect("a route"));
    assert_eq!((first.kind, first.oif), (ROUTE_UNICAST, 2));
    assert_eq!(first, second, "of one prefix");
    let told: Vec<_> = all[2..].iter().map(|entry| entry.map(|entry| (entry.kind, entry.reason))).collect();
    let wanted = [Some(unseen(PassReason::Multipath)), Some(unseen(PassReason::RouteKind)), None];
    assert_eq!(told, wanted, "where all are dead the look-up goes on with a shorter prefix");
    let shorter = Route { table: 4, ..route(4, "0.0.0.0/0", Some("10.0.0.9"), 2) };
    let longer = Route { dst: "10.9.0.0/16".parse().expect("a prefix"), ..all_dead };
    let all = entries(&[shorter, longer]);
    assert_eq!(all[0], all[1]);
}

#[test]
fn several_ipv6_routes_of_one_metric_are_the_stacks() {
    let routes = vec![route(1, "2001:db8::/32", Some("fe80::1"), 1), route(1, "2001:db8::/32", Some("fe80::2"), 2)];
    assert_eq!(kinds(&routes), [unseen(PassReason::Multipath); 2]);
}

#[test]
fn several_next_hops_have_the_group_of_the_first_in_ipv4_and_none_in_ipv6() {
    use router_common::layout::ROUTE_HAS_GROUP;
    let several = |dst: &str, via: &str, first| {
        let mut route = route(7, dst, Some(via), first);
        route.nexthops.push(NextHop { dev: 2, ..route.nexthops[0].clone() });
        route
    };
    let entry = |route: Route| {
        let mut host = host(vec![], vec![route]);
        host.links.get_mut(&1).expect("eth0").group = 7;
        let generation = run(&host);
        let entry = generation.routes[0];
        assert_eq!(entry.reason, PassReason::Multipath as u8);
        Some(entry.group).filter(|_| entry.certain & ROUTE_HAS_GROUP != 0)
    };
    assert_eq!(entry(several("10.9.0.0/16", "10.0.0.1", 1)), Some(7));
    assert_eq!(entry(several("10.9.0.0/16", "10.0.0.1", 2)), Some(0));
    assert_eq!(entry(several("fd09::/64", "fd00::1", 1)), None);
    assert_eq!(entry(several("10.9.0.0/16", "10.0.0.1", 99)), None, "an interface that nobody knows");
}

#[test]
fn ipv6_routes_of_all_other_metrics_compete_where_the_lowest_is_dead() {
    let with_metric = |metric, dev| Route { metric, ..route(1, "2001:db8::/32", Some("fe80::1"), dev) };
    let mut dead = with_metric(10, 1);
    dead.nexthops[0].dead = true;
    let way = |routes: &[Route]| {
        let all = entries(routes);
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "of one prefix");
        all[0].map(|entry| (entry.kind, entry.reason, entry.oif))
    };
    let by_the_second = Some((ROUTE_UNICAST, 0, 2));
    assert_eq!(way(&[dead.clone(), with_metric(20, 2)]), by_the_second, "the only one left");
    let rivals = kinds(&[dead.clone(), with_metric(20, 2), with_metric(50, 1)]);
    assert_eq!(rivals, [unseen(PassReason::Multipath); 3]);
    assert_eq!(way(&[with_metric(10, 2), with_metric(50, 1)]), by_the_second, "the lowest lives");
}

#[test]
fn what_is_known_of_a_source_is_inherited_from_covering_prefixes() {
    let mut local = route(255, "10.0.0.8/32", None, 1);
    local.kind = RouteKind::Local;
    let routes = [route(254, "10.0.0.0/24", None, 1), local, route(254, "10.1.0.0/24", Some("10.0.0.1"), 1)];
    let generation = run(&host(vec![], routes.to_vec()));
    assert_eq!(source(&generation, "10.0.0.8"), Some(SOURCE_DOUBTFUL | SOURCE_ONLINK));
    assert_eq!(source(&generation, "10.0.0.7"), Some(SOURCE_ONLINK));
    assert_eq!([source(&generation, "10.0.1.0"), source(&generation, "10.1.0.1")], [None; 2]);
    assert_eq!(kinds(&routes), [UNICAST, unseen(PassReason::LocalDestination), UNICAST], "a local route is no way out");
    // Broadcast, multicast and anycast are refused too, and what nobody knows may be.
    for kind in [RouteKind::Broadcast, RouteKind::Multicast, RouteKind::Anycast, RouteKind::Unknown(99)] {
        let special = Route { kind, ..route(7, "10.0.0.255/32", None, 1) };
        assert_eq!(source(&run(&host(vec![], vec![special])), "10.0.0.255"), Some(SOURCE_DOUBTFUL), "{kind:?}");
    }
    for kind in [RouteKind::Blackhole, RouteKind::Prohibit, RouteKind::Throw] {
        let error = Route { kind, nexthops: Vec::new(), ..route(7, "10.0.0.255/32", None, 1) };
        assert_eq!(source(&run(&host(vec![], vec![error])), "10.0.0.255"), None, "{kind:?}");
    }
}

#[test]
fn equal_lists_are_stored_once() {
    let generation =
        run(&host(vec![with(10, 111, Selectors::default())], vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    // And what stands for IPv6's list, from which the kernel's own rules are missing here.
    assert_eq!(generation.rules.len(), 2);
    assert_eq!(generation.links[0].list4, generation.links[1].list4);
}

#[test]
fn no_mark_and_no_redirect_towards_what_may_miss_it_however_deep_it_lies() {
    use router_common::layout::{LINK_EGRESS, LINK_READS_MARK};
    let kind = |index, kind: &str, master, lower| Link {
        kind: kind.into(),
        master,
        lower,
        ..link(index, &format!("l{index}"))
    };
    let mut host = host(vec![], vec![]);
    for link in [
        kind(10, "bridge", None, None),
        kind(11, "veth", Some(10), None),
        kind(20, "bridge", None, None),
        kind(21, "bond", Some(20), None),
        kind(22, "vxlan", Some(21), None),
        kind(30, "vlan", None, Some(31)),
        kind(31, "geneve", None, None),
        kind(40, "veth", None, Some(1)),
        kind(50, "ip6tnl", None, None),
        kind(60, "wireguard", None, None),
        Link { lower_elsewhere: true, ..kind(70, "macvlan", None, None) },
        Link { lower_elsewhere: true, ..kind(80, "veth", None, None) },
    ] {
        host.links.insert(link.index, link);
    }
    let generation = run(&host);
    let with = |flag: u32| -> Vec<u32> {
        generation.links.iter().filter(|entry| entry.flags & flag != 0).map(|entry| entry.index).collect()
    };
    assert_eq!(with(LINK_READS_MARK), [20, 21, 22, 30, 31, 40, 50, 70]);
    // Nor a redirect towards what asks the packet's route.
    let redirects = with(LINK_EGRESS);
    assert!([20, 21, 22, 30, 31].iter().all(|index| !redirects.contains(index)), "{redirects:?}");
    assert!([10, 40, 60, 70, 80].iter().all(|index| redirects.contains(index)), "{redirects:?}");
}

#[test]
fn rules_of_a_vrf_are_the_stacks_on_its_interfaces_and_match_nowhere_else() {
    use router_common::layout::RULE_UNSEEN;
    let mut host = host(
        vec![
            with(10, 111, Selectors { iif: Some("red".into()), ..Selectors::default() }),
            with(20, 111, Selectors { l3mdev: true, ..Selectors::default() }),
        ],
        vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)],
    );
    host.links.insert(3, Link { kind: "vrf".into(), ..link(3, "red") });
    host.links.get_mut(&2).expect("eth1").master = Some(3);
    let generation = run(&host);
    assert!(list(&generation, 1).is_empty());
    assert_eq!(list(&generation, 2).iter().map(|rule| rule.flags).collect::<Vec<_>>(), [RULE_UNSEEN; 2]);
}

#[test]
fn fragments_are_decided_where_nothing_shows_the_stack_their_ports() {
    use router_common::layout::{FRAGMENTS_DECIDE, FRAGMENTS_PASS, FRAGMENTS_REDIRECT};
    let port = Some(crate::model::Ports::one(53));
    let table = vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)];
    let of = |selectors: Selectors, marked: bool, bypass: bool| {
        let selectors_of_mark = crate::model::MarkSelectors { ipproto: Some(17), dport: port, ..Default::default() };
        let mark = MarkRule {
            family: Family::Ipv4,
            statement: 0,
            selectors: selectors_of_mark,
            value: 1,
            mask: 1,
            membership: false,
        };
        let input = Input {
            may: [(1, MAY_REDIRECT)].into(),
            marks: if marked { vec![mark] } else { Vec::new() },
            bypasses_netfilter: bypass,
            ..Input::default()
        };
        let host = host(vec![with(10, 111, selectors)], table.clone());
        compile(&host, &input, &mut CounterSlots::default()).expect("fits").config.fragments
    };
    let ports = Selectors { dport: port, ..Selectors::default() };
    let protocol = Selectors { ipproto: Some(17), ..Selectors::default() };
    assert_eq!(of(protocol.clone(), false, true), FRAGMENTS_DECIDE, "a fragment has its protocol");
    assert_eq!(of(ports.clone(), false, false), FRAGMENTS_REDIRECT);
    assert_eq!(of(ports, false, true), FRAGMENTS_PASS, "a bypassed hook may put them together");
    assert_eq!(of(protocol, true, false), FRAGMENTS_PASS, "nftables finds the ports of a first fragment");
}

#[test]
fn next_hops_without_a_carrier_and_with_more_than_a_gateway_are_the_stacks() {
    let one = |table, change: fn(&mut NextHop)| {
        let mut route = route(table, "0.0.0.0/0", Some("10.0.0.1"), 1);
        route.nexthops.iter_mut().for_each(change);
        route
    };
    let routes = [
        one(1, |_| {}),
        one(2, |hop| hop.linkdown = true),
        one(3, |hop| hop.encap = true),
        one(4, |hop| hop.realms = 5),
        one(5, |hop| hop.dev = 99),
    ];
    let [down, odd] = [unseen(PassReason::EgressInterface), unseen(PassReason::RouteKind)];
    assert_eq!(kinds(&routes), [UNICAST, down, odd, odd, down]);
}

#[test]
fn an_mtu_of_an_ipv6_route_is_bound_by_the_interface_unless_it_is_locked() {
    let with_mtu = |table, dst, mtu, mtu_locked| {
        let via = if table == 4 { "10.0.0.1" } else { "2001:db8::1" };
        Route { mtu: Some(mtu), mtu_locked, ..route(table, dst, Some(via), 1) }
    };
    let mtu = |route| entries(&[route])[0].map(|entry| entry.mtu);
    assert_eq!(mtu(with_mtu(4, "0.0.0.0/0", 9000, false)), Some(9000));
    assert_eq!(mtu(with_mtu(6, "::/0", 9000, false)), Some(1500));
    assert_eq!(mtu(with_mtu(7, "::/0", 9000, true)), Some(9000));
    assert_eq!(mtu(with_mtu(8, "::/0", 1300, false)), Some(1300));
}

#[test]
fn a_gateway_that_is_an_address_of_this_host_is_a_doubt() {
    let own = Route { kind: RouteKind::Local, scope: 254, ..route(255, "10.9.0.1/32", None, 1) };
    let to = |dst, onlink| {
        let mut route = route(254, dst, Some("10.9.0.1"), 2);
        route.nexthops[0].onlink = onlink;
        route
    };
    let routes = [own, to("10.10.0.0/24", false), to("10.11.0.0/24", true)];
    assert_eq!(kinds(&routes)[1..], [unseen(PassReason::RouteKind), UNICAST]);
    let generation = |rules| run(&host(rules, routes.to_vec()));
    let local = || Rule::lookup(Family::Ipv4, 0, 255);
    let reached = generation(vec![local()]);
    assert_eq!(source(&reached, "10.10.0.0"), Some(SOURCE_ONLINK), "its sources may draw redirects");
    assert_eq!(source(&reached, "10.11.0.0"), None);
    // The kernel's look-up of a gateway has no mark, and comes upon the address only where a rule leads there.
    let marked = |mark| Selectors { fwmark: Some((mark, 0xff)), ..Selectors::default() };
    assert_eq!(source(&generation(vec![Rule { selectors: marked(1), ..local() }]), "10.10.0.0"), None);
    let without_mark = generation(vec![Rule { selectors: marked(0), ..local() }]);
    assert_eq!(source(&without_mark, "10.10.0.0"), Some(SOURCE_ONLINK));
    assert_eq!(source(&generation(vec![]), "10.10.0.0"), None);
    // A unicast route says so too, by its scope.
    let of_scope = |scope| [Route { scope, ..route(254, "10.9.0.0/24", None, 1) }, to("10.10.0.0/24", false)];
    assert_eq!(kinds(&of_scope(254))[1], unseen(PassReason::RouteKind));
    assert_eq!(kinds(&of_scope(253))[1], UNICAST);
    // A wide prefix that is this host's, in a table that no rule leads to: for the gateways of that table's own routes.
    let wide = Route { kind: RouteKind::Local, scope: 254, ..route(7, "10.8.0.0/15", None, 1) };
    let in_table = |table, dst| Route { table, ..to(dst, false) };
    let routes = vec![wide, in_table(7, "10.12.0.0/24"), in_table(8, "10.13.0.0/24")];
    let generation = run(&host(vec![], routes));
    assert_eq!(source(&generation, "10.12.0.0"), Some(SOURCE_ONLINK));
    assert_eq!(source(&generation, "10.13.0.0"), None);
}

#[test]
fn a_route_without_a_gateway_is_on_the_link_whatever_its_scope() {
    let global = Route { scope: 0, ..route(254, "10.9.0.0/24", None, 1) };
    assert_eq!(source(&run(&host(vec![], vec![global])), "10.9.0.255"), Some(SOURCE_ONLINK));
}

#[test]
fn a_rule_in_fallback_is_told_in_every_list() {
    let rules = vec![Rule::lookup(Family::Ipv4, 100, 111), Rule::lookup(Family::Ipv4, 200, 254)];
    let ids = crate::model::rule_ids(&rules);
    let host = host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 1), route(254, "0.0.0.0/0", None, 2)]);
    let may = [(1, MAY_REDIRECT), (2, MAY_REDIRECT)].into();
    let input = Input { may, fallback: [ids[1].clone()].into(), ..Input::default() };
    let generation = compile(&host, &input, &mut CounterSlots::default()).expect("fits");
    for ifindex in [1, 2] {
        let flags: Vec<_> = list(&generation, ifindex).iter().map(|rule| rule.flags & RULE_FALLBACK != 0).collect();
        assert_eq!(flags, [false, true]);
    }
}

#[test]
fn a_destination_with_an_exception_is_told_by_its_address_alone() {
    let mut host = host(vec![], vec![route(254, "10.9.0.0/24", None, 1)]);
    host.exceptions = ["10.9.0.7", "2001:db8::7"].map(|addr| addr.parse().expect("an address")).into();
    let generation = run(&host);
    let is_exception = |addr: &str| {
        let (lines, config) = (generation.lines.as_slice(), &generation.config);
        let found = match addr.parse().expect("an address") {
            IpAddr::V4(addr) => find32(lines, config.exceptions4, addr.to_bits()),
            IpAddr::V6(addr) => find128(lines, config.exceptions6, &words::addr(addr.into()).map(u32::from_be)),
        };
        found != NOTHING
    };
    let all = ["10.9.0.6", "10.9.0.7", "10.9.0.8", "2001:db8::6", "2001:db8::7", "2001:db8::8"].map(is_exception);
    assert_eq!(all, [false, true, false, false, true, false]);
    assert_eq!(source(&generation, "10.9.0.7"), Some(SOURCE_ONLINK), "as a source it is like another");
}

#[test]
fn ipv6_routes_by_a_next_hop_object_are_the_stacks() {
    let by_object = |dst: &str, nhid| Route { nhid, ..route(111, dst, Some("fd00::1"), 2) };
    let remembered = unseen(PassReason::RouteKind);
    assert_eq!(kinds(&[by_object("::/0", 7)]), [remembered], "it may have had another route");
    assert_eq!(kinds(&[by_object("::/0", 0), by_object("fd01::/64", 7)]), [UNICAST, remembered]);
}

#[test]
fn ipv4_routes_that_share_a_next_hop_object_are_the_stacks_where_their_answers_differ() {
    let by_object = |dst: &str, mtu| Route { nhid: 7, mtu, ..route(111, dst, Some("10.0.0.1"), 2) };
    assert_eq!(kinds(&[by_object("50.0.0.0/8", None), by_object("51.0.0.0/8", None)]), [UNICAST; 2]);
    let shared = [unseen(PassReason::RouteKind); 2];
    assert_eq!(kinds(&[by_object("50.0.0.0/8", Some(800)), by_object("51.0.0.0/8", None)]), shared);
    let local = Route { kind: RouteKind::Local, ..by_object("60.0.0.0/8", None) };
    let delivered = unseen(PassReason::LocalDestination);
    assert_eq!(kinds(&[local, by_object("61.0.0.0/8", None)]), [delivered, shared[0]], "delivered here, or sent on");
}

#[test]
fn a_locked_mtu_of_nought_is_the_stacks() {
    let locked = |mtu| Route { mtu, mtu_locked: true, ..route(111, "50.0.0.0/8", Some("10.0.0.1"), 2) };
    assert_eq!(kinds(&[locked(Some(800))]), [UNICAST]);
    assert_eq!(kinds(&[locked(Some(0))]), [unseen(PassReason::RouteKind)]);
}
