use super::*;
use crate::model::{Attached, Link, NextHop, Route, RouteKind, Rule, RuleAction, Selectors};
use router_common::layout::{
    ACT_GOTO, ACT_TABLE, ADDR_ONLINK, ADDR_SPECIAL, MAY_REDIRECT, ROUTE_UNICAST, ROUTE_UNSEEN, RULE_FALLBACK,
    RULE_MARK, RULE_NOT,
};
use router_common::verdict::PassReason;

fn link(index: u32, name: &str) -> Link {
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

fn route(table: u32, dst: &str, via: Option<&str>, dev: u32) -> Route {
    let dst: ipnet::IpNet = dst.parse().expect("a prefix");
    Route {
        family: Family::of(dst.addr()),
        table,
        dst,
        kind: RouteKind::Unicast,
        src: None,
        tos: 0,
        metric: 0,
        protocol: 4,
        scope: if via.is_some() { 0 } else { 253 },
        prefsrc: None,
        mtu: None,
        mtu_locked: false,
        expires: None,
        pref: 0,
        nhid: 0,
        nexthops: vec![NextHop {
            via: via.map(|via| via.parse().expect("an address")),
            dev,
            weight: 1,
            ..NextHop::default()
        }],
    }
}

fn host(rules: Vec<Rule>, routes: Vec<Route>) -> Host {
    let links = [link(1, "eth0"), link(2, "eth1")].into_iter().map(|link| (link.index, link)).collect();
    Host { rules, routes, links, ..Host::default() }
}

fn run(host: &Host) -> Generation {
    let input = Input { may: [(1, MAY_REDIRECT), (2, MAY_REDIRECT)].into(), ..Input::default() };
    compile(host, &input, &mut CounterSlots::default()).expect("fits")
}

fn list(generation: &Generation, ifindex: u32) -> &[RuleEntry] {
    let [start, len] = generation.links[&ifindex].rules4;
    &generation.rules[start as usize..(start + len) as usize]
}

fn with(priority: u32, table: u32, selectors: Selectors) -> Rule {
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
    let rules = vec![
        jump,
        with(20, 111, Selectors::default()),
        Rule { attached: Attached { iif: false, oif: true }, ..with(30, 111, other) },
        with(30, 111, Selectors { fwmark: Some((5, u32::MAX)), not: true, ..Selectors::default() }),
    ];
    let generation = run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    let list = list(&generation, 1);
    assert_eq!(list.len(), 3);
    assert_eq!((list[0].action, list[0].target), (ACT_GOTO, 2));
    assert_eq!((list[2].action, list[2].flags), (ACT_TABLE, RULE_MARK | RULE_NOT));
}

#[test]
fn an_unresolved_goto_goes_on_and_an_empty_table_is_no_rule() {
    let mut jump = with(10, 0, Selectors::default());
    jump.action = RuleAction::Goto(99);
    let rules = vec![jump, with(20, 253, Selectors::default()), with(30, 111, Selectors::default())];
    let generation = run(&host(rules, vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    assert_eq!(list(&generation, 1).iter().map(|rule| rule.target).collect::<Vec<_>>(), [111]);
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
    let key = |table: u32| (32, RouteKey4 { table: table.to_be_bytes(), addr: [0; 4] });
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
    let generation = run(&host(vec![], vec![backup, dead, many, tos, all_dead]));
    assert_eq!((generation.routes4[&key(1)].kind, generation.routes4[&key(1)].oif), (ROUTE_UNICAST, 2));
    assert_eq!(generation.routes4[&key(2)].reason, PassReason::Multipath as u8);
    assert_eq!(
        (generation.routes4[&key(3)].kind, generation.routes4[&key(3)].reason),
        (ROUTE_UNSEEN, PassReason::RouteKind as u8)
    );
    assert!(!generation.routes4.contains_key(&key(4)), "the look-up goes on with a shorter prefix");
}

#[test]
fn several_ipv6_routes_of_one_metric_are_the_stacks() {
    let routes = vec![route(1, "2001:db8::/32", Some("fe80::1"), 1), route(1, "2001:db8::/32", Some("fe80::2"), 2)];
    let generation = run(&host(vec![], routes));
    assert_eq!(
        generation.routes6.values().map(|entry| entry.reason).collect::<Vec<_>>(),
        [PassReason::Multipath as u8]
    );
}

#[test]
fn ipv6_routes_of_all_other_metrics_compete_where_the_lowest_is_dead() {
    let with_metric = |metric, dev| Route { metric, ..route(1, "2001:db8::/32", Some("fe80::1"), dev) };
    let mut dead = with_metric(10, 1);
    dead.nexthops[0].dead = true;
    let kinds = |routes: Vec<Route>| {
        let generation = run(&host(vec![], routes));
        generation.routes6.values().map(|entry| (entry.kind, entry.reason, entry.oif)).collect::<Vec<_>>()
    };
    assert_eq!(kinds(vec![dead.clone(), with_metric(20, 2)]), [(ROUTE_UNICAST, 0, 2)], "the only one left");
    let rivals = kinds(vec![dead.clone(), with_metric(20, 2), with_metric(50, 1)]);
    assert_eq!((rivals[0].0, rivals[0].1), (ROUTE_UNSEEN, PassReason::Multipath as u8));
    assert_eq!(kinds(vec![with_metric(10, 2), with_metric(50, 1)]), [(ROUTE_UNICAST, 0, 2)], "the lowest lives");
}

#[test]
fn address_flags_are_inherited_from_covering_prefixes() {
    let mut local = route(255, "10.0.0.8/32", None, 1);
    local.kind = RouteKind::Local;
    let generation = run(&host(vec![], vec![local, route(254, "10.0.0.0/24", None, 1)]));
    assert_eq!(generation.addrs4[&(32, [10, 0, 0, 8])], ADDR_SPECIAL | ADDR_ONLINK);
    assert_eq!(generation.addrs4[&(24, [10, 0, 0, 0])], ADDR_ONLINK);
    assert!(generation.routes4.keys().all(|(prefix, _)| *prefix != 64), "a local route is no way out");
}

#[test]
fn equal_lists_are_stored_once() {
    let generation =
        run(&host(vec![with(10, 111, Selectors::default())], vec![route(111, "0.0.0.0/0", Some("10.0.0.1"), 2)]));
    // And what stands for IPv6's list, from which the kernel's own rules are missing here.
    assert_eq!(generation.rules.len(), 2);
    assert_eq!(generation.links[&1].rules4, generation.links[&2].rules4);
}

#[test]
fn no_mark_towards_what_may_read_it_however_deep_it_lies() {
    use router_common::layout::LINK_READS_MARK;
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
    let reads: Vec<u32> = generation
        .links
        .iter()
        .filter(|(_, entry)| entry.flags & LINK_READS_MARK != 0)
        .map(|(index, _)| *index)
        .collect();
    assert_eq!(reads, [20, 21, 22, 30, 31, 40, 50, 70]);
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
        compile(&host, &input, &mut CounterSlots::default()).expect("fits").fragments
    };
    let ports = Selectors { dport: port, ..Selectors::default() };
    let protocol = Selectors { ipproto: Some(17), ..Selectors::default() };
    assert_eq!(of(protocol.clone(), false, true), FRAGMENTS_DECIDE, "a fragment has its protocol");
    assert_eq!(of(ports.clone(), false, false), FRAGMENTS_REDIRECT);
    assert_eq!(of(ports, false, true), FRAGMENTS_PASS, "a bypassed hook may put them together");
    assert_eq!(of(protocol, true, false), FRAGMENTS_PASS, "nftables finds the ports of a first fragment");
}

#[test]
fn what_the_settings_forbid_an_interface() {
    use router_common::layout::{LINK_FORWARDS4, LINK_FORWARDS6};
    let mut host = host(vec![], vec![]);
    host.settings.all_v6.forwarding = true;
    host.settings.keep_priority = true;
    if let Some(link) = host.links.get_mut(&2) {
        link.v4.forwarding = true;
        link.v6.disabled = true;
    }
    let generation = run(&host);
    assert_eq!(generation.links[&1].flags & (LINK_FORWARDS4 | LINK_FORWARDS6), LINK_FORWARDS6);
    assert_eq!(
        generation.links[&2].flags & (LINK_FORWARDS4 | LINK_FORWARDS6),
        LINK_FORWARDS4,
        "no IPv6 comes in there"
    );
    assert_eq!(generation.links[&2].mtu6, 0, "and none goes out");
    assert!(generation.keep_priority);
}

#[test]
fn an_mtu_of_an_ipv6_route_is_bound_by_the_interface_unless_it_is_locked() {
    let with_mtu = |table, dst, mtu, mtu_locked| {
        let via = if table == 4 { "10.0.0.1" } else { "2001:db8::1" };
        Route { mtu: Some(mtu), mtu_locked, ..route(table, dst, Some(via), 1) }
    };
    let routes = vec![
        with_mtu(4, "0.0.0.0/0", 9000, false),
        with_mtu(6, "::/0", 9000, false),
        with_mtu(7, "::/0", 9000, true),
        with_mtu(8, "::/0", 1300, false),
    ];
    let generation = run(&host(vec![], routes));
    assert_eq!(generation.routes4.values().map(|entry| entry.mtu).collect::<Vec<_>>(), [9000]);
    assert_eq!(generation.routes6.values().map(|entry| entry.mtu).collect::<Vec<_>>(), [1500, 9000, 1300]);
}

#[test]
fn a_gateway_that_is_an_address_of_this_host_is_a_doubt() {
    let own = Route { kind: RouteKind::Local, scope: 254, ..route(255, "10.9.0.1/32", None, 1) };
    let to = |dst, onlink| {
        let mut route = route(254, dst, Some("10.9.0.1"), 2);
        route.nexthops[0].onlink = onlink;
        route
    };
    let generation = run(&host(vec![], vec![own, to("10.10.0.0/24", false), to("10.11.0.0/24", true)]));
    let kinds: Vec<_> = generation.routes4.values().map(|entry| (entry.kind, entry.reason)).collect();
    assert_eq!(kinds, [(ROUTE_UNSEEN, PassReason::RouteKind as u8), (ROUTE_UNICAST, 0)]);
    assert_eq!(generation.addrs4[&(24, [10, 10, 0, 0])], ADDR_ONLINK, "its sources may draw redirects");
}

#[test]
fn a_route_without_a_gateway_is_on_the_link_whatever_its_scope() {
    let global = Route { scope: 0, ..route(254, "10.9.0.0/24", None, 1) };
    let generation = run(&host(vec![], vec![global]));
    assert_eq!(generation.addrs4[&(24, [10, 9, 0, 0])], ADDR_ONLINK);
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
    use router_common::layout::ADDR_EXCEPTION;
    let mut host = host(vec![], vec![route(254, "10.9.0.0/24", None, 1)]);
    host.exceptions = ["10.9.0.7", "2001:db8::7"].map(|addr| addr.parse().expect("an address")).into();
    let generation = run(&host);
    assert_eq!(generation.addrs4[&(32, [10, 9, 0, 7])], ADDR_EXCEPTION | ADDR_ONLINK);
    assert_eq!(generation.addrs4[&(24, [10, 9, 0, 0])], ADDR_ONLINK);
    assert_eq!(generation.addrs6.values().collect::<Vec<_>>(), [&ADDR_EXCEPTION]);
}

#[test]
fn ipv6_routes_that_share_a_next_hop_object_are_the_stacks() {
    let by_object = |dst: &str, nhid| Route { nhid, ..route(111, dst, Some("fd00::1"), 2) };
    let kinds = |routes: Vec<Route>| run(&host(vec![], routes)).routes6.values().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!(kinds(vec![by_object("::/0", 7)]), [ROUTE_UNICAST]);
    assert_eq!(kinds(vec![by_object("::/0", 7), by_object("fd01::/64", 7)]), [ROUTE_UNSEEN; 2]);
    assert_eq!(kinds(vec![by_object("::/0", 0), by_object("fd01::/64", 7)]), [ROUTE_UNICAST; 2], "one has no object");
}

#[test]
fn ipv4_routes_that_share_a_next_hop_object_are_the_stacks_where_their_answers_differ() {
    let by_object = |dst: &str, mtu| Route { nhid: 7, mtu, ..route(111, dst, Some("10.0.0.1"), 2) };
    let kinds = |routes: Vec<Route>| run(&host(vec![], routes)).routes4.values().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!(kinds(vec![by_object("50.0.0.0/8", None), by_object("51.0.0.0/8", None)]), [ROUTE_UNICAST; 2]);
    assert_eq!(kinds(vec![by_object("50.0.0.0/8", Some(800)), by_object("51.0.0.0/8", None)]), [ROUTE_UNSEEN; 2]);
    let local = Route { kind: RouteKind::Local, ..by_object("60.0.0.0/8", None) };
    assert_eq!(kinds(vec![local, by_object("61.0.0.0/8", None)]), [ROUTE_UNSEEN], "delivered here, or sent on");
}

#[test]
fn a_locked_mtu_of_nought_is_the_stacks() {
    let locked = |mtu| Route { mtu, mtu_locked: true, ..route(111, "50.0.0.0/8", Some("10.0.0.1"), 2) };
    let kinds = |route: Route| run(&host(vec![], vec![route])).routes4.values().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!(kinds(locked(Some(800))), [ROUTE_UNICAST]);
    assert_eq!(kinds(locked(Some(0))), [ROUTE_UNSEEN]);
}
