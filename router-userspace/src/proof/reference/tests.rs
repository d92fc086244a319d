#![allow(clippy::unwrap_used)]
//! The semantics by hand-made cases; `proof::kernel_test` puts the same questions to the kernel.

use super::*;
use crate::model::{DeviceConf, Link, MarkRule, MarkSelectors, Ports, Route, Selectors};

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(table: u32, dst: &str, dev: u32, via: Option<&str>) -> Route {
    let dst = net(dst);
    let family = Family::of(dst.addr());
    Route {
        metric: if family == Family::Ipv6 { 1024 } else { 0 },
        protocol: 3,
        nexthops: vec![NextHop { dev, via: via.map(ip), weight: 1, ..NextHop::default() }],
        ..Route::to(table, dst, RouteKind::Unicast)
    }
}

fn refusing(table: u32, dst: &str, kind: RouteKind) -> Route {
    Route { kind, nexthops: Vec::new(), ..route(table, dst, 0, None) }
}

fn rule(family: Family, priority: u32, table: u32, selectors: Selectors) -> Rule {
    Rule { selectors, ..Rule::lookup(family, priority, table) }
}

/// Three interfaces (2: lan, 3: up0, 4: up1), the usual rules, a default route by up0 in `main`.
fn host() -> Host {
    let on = DeviceConf { forwarding: true, ..DeviceConf::default() };
    let mut host = Host::default();
    for (index, name) in [(1, "lo"), (2, "lan"), (3, "up0"), (4, "up1")] {
        let link = Link { index, name: name.to_owned(), v4: on, up: true, lower_up: true, ..Link::default() };
        host.links.insert(index, link);
    }
    host.settings.all_v6.forwarding = true;
    for family in Family::BOTH {
        host.rules.push(Rule::lookup(family, 0, 255));
        host.rules.push(Rule::lookup(family, 32766, 254));
    }
    host.rules.push(Rule::lookup(Family::Ipv4, 32767, 253));
    host.routes.push(route(254, "0.0.0.0/0", 3, Some("10.1.0.1")));
    host.routes.push(route(254, "::/0", 3, Some("fd01::1")));
    host.routes.push(route(254, "192.168.8.0/24", 2, None));
    host.routes.push(Route { kind: RouteKind::Local, ..route(255, "192.168.8.1/32", 2, None) });
    host.addresses.push(crate::model::Address { index: 2, addr: ip("192.168.8.1"), prefix_len: 24 });
    host
}

fn add(host: &mut Host, rule: Rule) {
    let at = host.rules.iter().position(|r| r.family == rule.family && r.priority > rule.priority);
    host.rules.insert(at.unwrap_or(host.rules.len()), rule);
}

fn packet(from: &str, to: &str) -> Packet {
    Packet::new(Some(2), Some(ip(from)), ip(to))
}

fn v4() -> Packet {
    packet("192.168.8.7", "8.8.8.8")
}

/// Verdict, egress interface and table of the likeliest way.
fn way(host: &Host, packet: &Packet) -> (Verdict, u32, u32) {
    let reference = decide(host, packet);
    (reference.way().verdict, reference.way().oif, reference.way().table)
}

#[test]
fn a_gateway_that_is_an_address_of_this_host_may_count_as_none() {
    let mut host = host();
    let own = crate::model::Address { index: 3, addr: ip("10.1.0.1"), prefix_len: 24 };
    host.addresses.push(own);
    let vias: Vec<_> = decide(&host, &v4()).ways.iter().map(|way| (way.oif, way.via)).take(2).collect();
    assert_eq!(vias, [(3, None), (3, Some(ip("10.1.0.1")))]);
    host.addresses.clear();
    let ways = |scope| {
        let mut host = host.clone();
        host.routes.push(Route { scope, ..route(254, "10.1.0.1/32", 3, None) });
        decide(&host, &v4()).ways.iter().any(|way| way.via.is_none())
    };
    assert_eq!((ways(253), ways(254)), (false, true), "a route to the gateway may have the scope of a host");
}

#[test]
fn the_first_rule_with_a_route_decides_and_the_trail_says_so() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv4, 100, 111, Selectors { fwmark: Some((7, u32::MAX)), ..Selectors::default() }));
    add(&mut host, rule(Family::Ipv4, 200, 111, Selectors { iif: Some("lan".into()), ..Selectors::default() }));
    add(&mut host, rule(Family::Ipv4, 300, 112, Selectors::default()));
    host.routes.push(route(112, "8.0.0.0/8", 4, Some("10.2.0.1")));
    let reference = decide(&host, &v4());
    assert_eq!(way(&host, &v4()), (Verdict::Forward, 4, 112));
    assert_eq!(reference.way().via, Some(ip("10.2.0.1")));
    let told: Vec<_> =
        reference.trail.iter().map(|s| (host.rules[s.rule].priority, s.why_not, s.outcome.clone())).collect();
    assert_eq!(told[0], (0, None, Some(Outcome::NoRoute)));
    assert_eq!(told[1], (100, Some(WhyNot::Fwmark), None));
    assert_eq!(told[2], (200, None, Some(Outcome::NoRoute)), "no such table: on with the next rule");
    assert_eq!(told[3], (300, None, Some(Outcome::Route(host.routes.len() - 1))));
    assert_eq!(told.len(), 4);
}

#[test]
fn not_turns_the_whole_conjunction_round_and_matches_with_a_detached_interface() {
    let mut host = host();
    host.routes.push(route(112, "0.0.0.0/0", 4, None));
    let mut selectors =
        Selectors { not: true, iif: Some("lan".into()), fwmark: Some((5, u32::MAX)), ..Selectors::default() };
    add(&mut host, rule(Family::Ipv4, 100, 112, selectors.clone()));
    assert_eq!(way(&host, &v4()).1, 4, "one selector of two does not match");
    assert_eq!(way(&host, &Packet { mark: 5, ..v4() }).1, 3, "both match, so `not` does not");
    selectors.iif = Some("gone".into());
    host.rules[1].selectors = selectors;
    host.rules[1].attached.iif = false;
    assert_eq!(way(&host, &Packet { mark: 5, ..v4() }).1, 4);
}

#[test]
fn throw_falls_through_and_blackholes_are_never_suppressed() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors::default()));
    let mut second = rule(Family::Ipv4, 200, 113, Selectors::default());
    second.suppress_prefixlength = Some(0);
    add(&mut host, second);
    host.routes.push(route(112, "0.0.0.0/0", 4, None));
    host.routes.push(refusing(112, "8.8.8.0/24", RouteKind::Throw));
    host.routes.push(route(113, "0.0.0.0/0", 4, None));
    assert_eq!(way(&host, &v4()), (Verdict::Forward, 3, 254), "thrown, then suppressed");
    *host.routes.last_mut().unwrap() = refusing(113, "0.0.0.0/0", RouteKind::Prohibit);
    assert_eq!(way(&host, &v4()).0, Verdict::Prohibit);
}

#[test]
fn goto_goes_forward_and_goes_on_when_its_target_is_gone() {
    let mut host = host();
    host.routes.push(route(112, "0.0.0.0/0", 4, None));
    add(&mut host, Rule { action: RuleAction::Goto(300), ..rule(Family::Ipv4, 100, 0, Selectors::default()) });
    add(&mut host, rule(Family::Ipv4, 200, 112, Selectors::default()));
    assert_eq!(way(&host, &v4()).1, 4, "no rule at 300: on with the next");
    add(&mut host, Rule { action: RuleAction::Nop, ..rule(Family::Ipv4, 300, 0, Selectors::default()) });
    assert_eq!(way(&host, &v4()).1, 3, "jumped over 200");
}

#[test]
fn tos_is_three_bits_in_ipv4_and_dscp_all_six() {
    let mut host = host();
    host.routes.push(route(112, "0.0.0.0/0", 4, None));
    host.routes.push(route(112, "::/0", 4, None));
    for family in Family::BOTH {
        add(&mut host, rule(family, 100, 112, Selectors { tos: 0x10, ..Selectors::default() }));
    }
    assert_eq!(way(&host, &Packet { dscp: 0x24, ..v4() }).1, 4, "0x90 & 0x1c is 0x10");
    let six = packet("fd08::7", "2001:db8::1");
    assert_eq!(way(&host, &Packet { dscp: 0x24, ..six }).1, 3, "IPv6 compares the whole DSCP");
    assert_eq!(way(&host, &Packet { dscp: 0x04, ..six }).1, 4);
    add(&mut host, rule(Family::Ipv4, 90, 112, Selectors { dscp: Some((0, 0x3f)), ..Selectors::default() }));
    assert_eq!(way(&host, &v4()).1, 4, "DSCP 0 is a selector of its own");
}

#[test]
fn ports_are_inclusive_and_a_protocol_without_ports_has_none() {
    let mut host = host();
    host.routes.push(route(112, "0.0.0.0/0", 4, None));
    let dport = Some(Ports::Range { start: 80, end: 443 });
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors { dport, ..Selectors::default() }));
    for (port, oif) in [(79, 3), (80, 4), (443, 4), (444, 3), (0, 3)] {
        assert_eq!(way(&host, &Packet { dport: port, ..v4() }).1, oif, "port {port}");
    }
    assert_eq!(way(&host, &Packet { dport: 80, ipproto: 1, ..v4() }).1, 3, "ICMP");
}

#[test]
fn what_a_forwarded_packet_cannot_have_never_matches() {
    let mut host = host();
    host.routes.push(route(112, "0.0.0.0/0", 4, None));
    for selectors in [
        Selectors { oif: Some("up1".into()), ..Selectors::default() },
        Selectors { uidrange: Some((1, 1000)), ..Selectors::default() },
        Selectors { l3mdev: true, ..Selectors::default() },
        Selectors { tun_id: Some(9), ..Selectors::default() },
    ] {
        let mut host = host.clone();
        add(&mut host, rule(Family::Ipv4, 100, 112, selectors.clone()));
        assert_eq!(way(&host, &v4()).1, 3, "{selectors}");
    }
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors { uidrange: Some((0, 0)), ..Selectors::default() }));
    assert_eq!(way(&host, &v4()).1, 4, "a forwarded packet is uid 0's");
}

#[test]
fn an_unknown_selector_leaves_it_undecided_unless_another_one_says_no() {
    let mut host = host();
    let unknown = Selectors { unknown: vec!["flowlabel".into()], ..Selectors::default() };
    add(&mut host, rule(Family::Ipv4, 100, 254, unknown.clone()));
    assert_eq!(way(&host, &v4()).0, Verdict::Undecided);
    host.rules[1].selectors = Selectors { fwmark: Some((1, 1)), ..unknown };
    assert_eq!(way(&host, &v4()).0, Verdict::Forward);
}

#[test]
fn of_equal_prefixes_the_lower_metric_counts_and_dead_next_hops_do_not() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors::default()));
    host.routes.push(Route { metric: 20, ..route(112, "8.0.0.0/8", 3, None) });
    host.routes.push(Route { metric: 10, ..route(112, "8.0.0.0/8", 4, None) });
    assert_eq!(way(&host, &v4()), (Verdict::Forward, 4, 112));
    host.routes.last_mut().unwrap().nexthops[0].dead = true;
    assert_eq!(way(&host, &v4()), (Verdict::Forward, 3, 112));
    host.routes.iter_mut().for_each(|r| r.nexthops.iter_mut().for_each(|n| n.dead |= r.table == 112));
    assert_eq!(way(&host, &v4()), (Verdict::Forward, 3, 254), "all dead: the table has no route");
}

#[test]
fn any_next_hop_of_a_multipath_route_is_right() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors::default()));
    let mut multipath = route(112, "0.0.0.0/0", 3, Some("10.1.0.1"));
    multipath.nexthops.push(NextHop { dev: 4, via: Some(ip("10.2.0.1")), weight: 2, ..NextHop::default() });
    host.routes.push(multipath);
    let reference = decide(&host, &v4());
    assert_eq!(reference.ways.iter().map(|w| w.oif).collect::<Vec<_>>(), [3, 4]);
    assert!(reference.allows_decision(Verdict::Forward, 4, Some(ip("10.2.0.1")), 112));
    assert!(!reference.allows_decision(Verdict::Forward, 4, Some(ip("10.1.0.1")), 112), "a mix of both");
}

#[test]
fn suppress_ifgroup_looks_at_the_chosen_next_hop_in_ipv6_and_at_the_first_in_ipv4() {
    let mut host = host();
    host.links.get_mut(&4).unwrap().group = 9;
    for (family, dst) in [(Family::Ipv4, "0.0.0.0/0"), (Family::Ipv6, "::/0")] {
        add(&mut host, Rule { suppress_ifgroup: Some(9), ..rule(family, 100, 112, Selectors::default()) });
        let mut multipath = route(112, dst, 3, None);
        multipath.nexthops.push(NextHop { dev: 4, weight: 1, ..NextHop::default() });
        host.routes.push(multipath);
    }
    let tables = |packet: &Packet| decide(&host, packet).ways.iter().map(|w| (w.oif, w.table)).collect::<Vec<_>>();
    assert_eq!(tables(&v4()), [(3, 112), (4, 112)]);
    assert_eq!(tables(&packet("fd08::7", "2001:db8::1")), [(3, 112), (3, 254)]);
}

#[test]
fn special_destinations_and_sources() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors::default()));
    host.routes.push(Route { kind: RouteKind::Broadcast, ..route(255, "192.168.8.255/32", 2, None) });
    for (from, to, verdict) in [
        ("192.168.8.7", "192.168.8.1", Verdict::Local),
        ("192.168.8.7", "192.168.8.255", Verdict::Local),
        ("192.168.8.7", "255.255.255.255", Verdict::Local),
        ("0.0.0.0", "255.255.255.255", Verdict::Local),
        ("192.168.8.7", "0.0.0.0", Verdict::Martian),
        ("0.0.0.0", "8.8.8.8", Verdict::Martian),
        ("192.168.8.7", "0.1.2.3", Verdict::Forward),
        ("224.0.0.1", "8.8.8.8", Verdict::Martian),
        ("255.255.255.255", "8.8.8.8", Verdict::Martian),
        ("127.0.0.1", "8.8.8.8", Verdict::Martian),
        ("192.168.8.7", "127.0.0.1", Verdict::Martian),
        ("192.168.8.1", "8.8.8.8", Verdict::Martian),
        ("192.168.8.255", "8.8.8.8", Verdict::Martian),
    ] {
        assert_eq!(way(&host, &packet(from, to)).0, verdict, "{from} to {to}");
    }
    let multicast = decide(&host, &packet("192.168.8.7", "224.0.0.5"));
    assert_eq!(multicast.ways.iter().map(|w| w.verdict).collect::<Vec<_>>(), [Verdict::Martian, Verdict::Local]);
}

#[test]
fn a_host_that_does_not_forward_says_unreachable_to_everything() {
    let mut host = host();
    host.links.get_mut(&2).unwrap().v4.forwarding = false;
    assert_eq!(way(&host, &v4()).0, Verdict::Unreachable);
    host.routes.push(refusing(254, "8.8.0.0/16", RouteKind::Blackhole));
    assert_eq!(way(&host, &v4()).0, Verdict::Unreachable, "a blackhole too");
    assert_eq!(way(&host, &packet("192.168.8.7", "192.168.8.1")).0, Verdict::Local);
}

#[test]
fn rp_filter_looks_the_way_back_up_with_the_interfaces_swapped() {
    let mut host = host();
    host.links.get_mut(&2).unwrap().v4.rp_filter = 1;
    assert_eq!(way(&host, &v4()).0, Verdict::Forward, "the way back is by lan");
    assert_eq!(way(&host, &packet("172.16.0.1", "8.8.8.8")).0, Verdict::Martian, "the way back is by up0");
    host.links.get_mut(&2).unwrap().v4.rp_filter = 2;
    assert_eq!(way(&host, &packet("172.16.0.1", "8.8.8.8")).0, Verdict::Forward, "loose: any way back will do");
    host.routes.remove(0);
    host.routes.push(route(254, "8.0.0.0/8", 3, None));
    assert_eq!(way(&host, &packet("172.16.0.1", "8.8.8.8")).0, Verdict::Martian, "loose, but no way back at all");
    // The way back meets the rules as a packet from up0: `iif up0` leads it to a table that knows the source.
    add(&mut host, rule(Family::Ipv4, 50, 113, Selectors { iif: Some("up0".into()), ..Selectors::default() }));
    host.routes.push(route(113, "172.16.0.0/12", 2, None));
    host.links.get_mut(&2).unwrap().v4.rp_filter = 1;
    assert_eq!(way(&host, &packet("172.16.0.1", "8.8.8.8")).0, Verdict::Forward);
}

#[test]
fn the_mark_counts_on_the_way_back_only_with_src_valid_mark() {
    let mut host = host();
    host.links.get_mut(&2).unwrap().v4.rp_filter = 1;
    add(&mut host, rule(Family::Ipv4, 50, 113, Selectors { fwmark: Some((9, u32::MAX)), ..Selectors::default() }));
    host.routes.push(route(113, "172.16.0.0/12", 2, None));
    let marked = Packet { mark: 9, ..packet("172.16.0.1", "8.8.8.8") };
    assert_eq!(way(&host, &marked).0, Verdict::Martian);
    host.links.get_mut(&2).unwrap().v4.src_valid_mark = true;
    assert_eq!(way(&host, &marked).0, Verdict::Forward);
}

#[test]
fn ipv6_prefers_the_router_preference_then_the_ingress_interface() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv6, 100, 112, Selectors::default()));
    host.routes.push(route(112, "2001:db8::/32", 3, None));
    host.routes.push(route(112, "2001:db8::/32", 2, None));
    let six = packet("fd08::7", "2001:db8::1");
    assert_eq!(way(&host, &six), (Verdict::Forward, 2, 112), "its own interface scores higher");
    let high = host.routes.len() - 2;
    host.routes[high].pref = 1;
    assert_eq!(way(&host, &six), (Verdict::Forward, 3, 112), "the preference counts more");
}

#[test]
fn marks_are_rewritten_in_order_and_once_per_statement() {
    let host = host();
    let mark = |statement, fwmark, value, mask| MarkRule {
        membership: false,
        family: Family::Ipv4,
        statement,
        selectors: MarkSelectors { fwmark, ..MarkSelectors::default() },
        value,
        mask,
    };
    let marks = [
        mark(0, Some((1, 0xff)), 0x20, 0xff),
        mark(0, Some((0x20, 0xff)), 0x30, 0xff),
        mark(1, Some((0x20, 0xff)), 0x500, 0xf00),
    ];
    assert_eq!(rewrite(&host, &marks, &Packet { mark: 1, ..v4() }), 0x520);
    assert_eq!(rewrite(&host, &marks, &Packet { mark: 0x20, ..v4() }), 0x30);
    assert_eq!(rewrite(&host, &marks, &packet("fd08::7", "2001:db8::1")), 0, "the other family");
    let ports = MarkSelectors { dport: Some(Ports::Range { start: 443, end: 444 }), ..MarkSelectors::default() };
    let marks = [MarkRule { selectors: ports, ..mark(0, None, 7, u32::MAX) }];
    assert_eq!(rewrite(&host, &marks, &Packet { dport: 444, ..v4() }), 7);
    assert_eq!(rewrite(&host, &marks, &Packet { dport: 445, ..v4() }), 0);
}

#[test]
fn of_equal_prefixes_a_matching_tos_goes_before_a_lower_metric() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors::default()));
    host.routes.push(route(112, "8.0.0.0/8", 3, None));
    host.routes.push(Route { tos: 0x10, metric: 50, ..route(112, "8.0.0.0/8", 4, None) });
    assert_eq!(way(&host, &Packet { dscp: 0x04, ..v4() }).1, 4);
    assert_eq!(way(&host, &v4()).1, 3);
}

#[test]
fn ipv6_takes_the_best_of_the_other_metrics_where_the_lowest_will_not_do() {
    let mut host = host();
    add(&mut host, rule(Family::Ipv6, 100, 112, Selectors::default()));
    let mut dead = route(112, "2001:db8::/32", 3, None);
    dead.nexthops[0].dead = true;
    host.routes.push(dead);
    host.routes.push(Route { metric: 2000, ..route(112, "2001:db8::/32", 3, None) });
    host.routes.push(Route { metric: 3000, pref: 1, ..route(112, "2001:db8::/32", 4, None) });
    let six = packet("fd08::7", "2001:db8::1");
    assert_eq!(way(&host, &six), (Verdict::Forward, 4, 112), "the preference counts more than these metrics");
}

#[test]
fn a_list_that_nobody_touched_may_be_looked_up_as_one_trie() {
    let mut host = host();
    host.routes.push(Route { kind: RouteKind::Local, ..route(255, "10.9.0.0/16", 2, None) });
    host.routes.push(route(254, "10.9.1.0/24", 4, None));
    let to = packet("192.168.8.7", "10.9.1.1");
    let verdicts = |host: &Host| decide(host, &to).ways.iter().map(|w| w.verdict).collect::<Vec<_>>();
    assert_eq!(verdicts(&host), [Verdict::Local, Verdict::Forward], "`local` first, or the longer prefix of `main`");
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors::default()));
    assert_eq!(verdicts(&host), [Verdict::Local]);
}

#[test]
fn a_broadcast_source_is_looked_at_or_not() {
    let mut host = host();
    host.routes.push(Route { kind: RouteKind::Broadcast, ..route(255, "192.168.8.255/32", 2, None) });
    let broadcast = packet("192.168.8.255", "8.8.8.8");
    let verdicts = |host: &Host, p: &Packet| decide(host, p).ways.iter().map(|w| w.verdict).collect::<Vec<_>>();
    assert_eq!(
        verdicts(&host, &broadcast)[..2],
        [Verdict::Forward, Verdict::Martian],
        "nobody touched the list, or somebody did"
    );
    add(&mut host, rule(Family::Ipv4, 100, 112, Selectors::default()));
    assert_eq!(verdicts(&host, &broadcast), [Verdict::Martian]);
    // accept_local without rp_filter skips the look, but not where an ICMP redirect may be due.
    let lan = host.links.get_mut(&2).unwrap();
    lan.v4.accept_local = true;
    lan.v4.send_redirects = true;
    assert_eq!(verdicts(&host, &broadcast), [Verdict::Forward]);
    host.routes.push(route(254, "8.8.8.0/24", 2, None));
    assert_eq!(verdicts(&host, &broadcast), [Verdict::Martian], "back out of the interface it came in by");
    host.links.get_mut(&2).unwrap().v4.send_redirects = false;
    assert_eq!(verdicts(&host, &broadcast), [Verdict::Forward]);
}

#[test]
fn a_rule_for_this_hosts_own_packets_does_not_have_protocols_looked_up_on_the_way_back() {
    let mut host = host();
    host.links.get_mut(&2).unwrap().v4.rp_filter = 1;
    let own = Selectors { iif: Some("lo".into()), ipproto: Some(17), ..Selectors::default() };
    add(&mut host, Rule { action: RuleAction::Blackhole, ..rule(Family::Ipv4, 50, 0, own) });
    let to_this_host = packet("192.168.8.7", "192.168.8.1");
    assert_eq!(way(&host, &to_this_host).0, Verdict::Local, "the way back is `iif lo`, its protocol unknown");
    let any = Selectors { ipproto: Some(6), ..Selectors::default() };
    add(&mut host, rule(Family::Ipv4, 60, 112, any));
    assert_eq!(way(&host, &to_this_host).0, Verdict::Martian, "another rule makes the kernel look it up");
}

/// Members at both ends of ranges and beside them, and who meets a set's bit at all.
#[test]
fn sets_hold_what_lies_in_their_ranges() {
    use crate::model::{AddressSet, PrefixSet};
    let prefixes = ["0.0.0.0/32", "10.1.0.0/16", "10.3.0.0/24", "255.255.255.255/32", "fd01::/16", "::1/128"];
    let members = PrefixSet::new(prefixes.map(|text| text.parse().unwrap()));
    let set = AddressSet { name: "a".into(), members: members.into() };
    let rule = |family, membership| MarkRule {
        family,
        statement: 0,
        selectors: MarkSelectors { from_set: Some(set.clone()), ..MarkSelectors::default() },
        value: 1,
        mask: 1,
        membership,
    };
    let marks = Family::BOTH.map(|family| rule(family, true));
    let host = Host::default();
    for (from, bit) in [
        ("0.0.0.0", 1),
        ("0.0.0.1", 0),
        ("10.0.255.255", 0),
        ("10.1.0.0", 1),
        ("10.1.255.255", 1),
        ("10.2.0.0", 0),
        ("10.3.0.255", 1),
        ("10.3.1.0", 0),
        ("255.255.255.254", 0),
        ("255.255.255.255", 1),
        ("::", 0),
        ("::1", 1),
        ("fd00:ffff::1", 0),
        ("fd01:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1),
        ("fd02::", 0),
    ] {
        let from = ip(from);
        let to = if from.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
        let packet = Packet { mark: 6, ..Packet::new(Some(1), Some(from), ip(to)) };
        assert_eq!(rewrite(&host, &marks, &packet), 6 | bit, "{from}");
        assert_eq!(super::memberships(&marks, &packet).len() as u32, bit, "{from}");
        // Made here: what tells of sets is met, a [[mark]] is not.
        let made_here = Packet { iif: None, ..packet };
        assert_eq!(rewrite(&host, &marks, &made_here), 6 | bit, "{from}");
        assert_eq!(rewrite(&host, &Family::BOTH.map(|family| rule(family, false)), &made_here), 6, "{from}");
    }
}
