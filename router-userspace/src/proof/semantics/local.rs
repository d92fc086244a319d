//! This host itself: its addresses, sources that it refuses, whether it forwards.

use super::*;

fn own(family: Family) -> IpAddr {
    if family == Family::Ipv4 { "10.3.0.1" } else { "fd03::1" }.parse().unwrap()
}

#[test]
fn local_delivery_stands_where_its_rule_stands() {
    in_both(|bench, family| {
        let to_self = Packet { to: own(family), ..packet(family) };
        bench.add([rule(family, 100, any())]);
        bench.all(&to_self, "local");
        // Moved behind: the other rule's table answers first.
        let local = bench.kernel.rules().unwrap().into_iter().find(|rule| rule.family == family && rule.priority == 0);
        bench.add([Rule { priority: 200, ..local.clone().unwrap() }]);
        bench.delete(&local.unwrap());
        bench.all(&to_self, "up1");
    });
}

#[test]
fn limited_broadcast_and_groups_go_before_all_rules() {
    bench(|bench| {
        bench.add([acting(Family::Ipv4, 0, RuleAction::Blackhole)]);
        let local = bench.kernel.rules().unwrap().into_iter().find(|rule| rule.family == Family::Ipv4).unwrap();
        bench.delete(&local);
        let to = |to: &str| Packet { to: to.parse().unwrap(), ..packet(Family::Ipv4) };
        bench.ask(&to("255.255.255.255"), "local", Fast::Pass("local-destination"));
        // Whether anybody joined the group is no part of a snapshot; that no rule is asked is.
        let host = bench.kernel.host().unwrap();
        let group = Measure::new(&host, &[]).reference(&to("224.0.0.5")).1;
        assert!(group.trail.is_empty() && group.ways.iter().any(|way| way.verdict == Verdict::Local));
        bench.ask(&to("224.0.0.5"), "martian", Fast::Pass("local-destination"));
        bench.all(&packet(Family::Ipv4), "blackhole");
    });
}

#[test]
fn sources_that_no_packet_can_have_are_refused() {
    bench(|bench| {
        bench.add([rule(Family::Ipv4, 100, any())]);
        for source in ["10.3.0.1", "10.3.0.255", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0"] {
            bench.all(&Packet { from: source.parse().ok(), ..packet(Family::Ipv4) }, "martian");
        }
        bench.all(&Packet { from: "10.99.0.1".parse().ok(), ..packet(Family::Ipv4) }, "up1");
    });
}

#[test]
fn rp_filter_asks_for_the_way_back() {
    bench(|bench| {
        let spoofed = Packet { from: "172.16.0.1".parse().ok(), ..packet(Family::Ipv4) };
        // The way back of what comes from elsewhere is the default route by up0.
        for (value, expected) in [("1", "martian"), ("2", "up0")] {
            write_setting("net.ipv4.conf.lan.rp_filter", value).unwrap();
            bench.ask(&spoofed, expected, Fast::Leaves);
            bench.ask(&packet(Family::Ipv4), "up0", Fast::Leaves);
        }
        write_setting("net.ipv4.conf.lan.rp_filter", "0").unwrap();
        bench.all(&spoofed, "up0");
    });
}

#[test]
fn the_way_back_has_the_mark_only_with_src_valid_mark() {
    bench(|bench| {
        write_setting("net.ipv4.conf.lan.rp_filter", "1").unwrap();
        // Marked packets find the source behind lan.
        let hop = NextHop { dev: 10, weight: 1, ..NextHop::default() };
        let back = Route {
            nexthops: vec![hop],
            scope: 253,
            ..refusing(Family::Ipv4, 300, "172.16.0.0/12", RouteKind::Unicast)
        };
        bench.kernel.add_route(&back).unwrap();
        bench.add([Rule {
            selectors: Selectors { fwmark: Some((9, u32::MAX)), ..any() },
            ..Rule::lookup(Family::Ipv4, 100, 300)
        }]);
        let marked = Packet { mark: 9, from: "172.16.0.1".parse().ok(), ..packet(Family::Ipv4) };
        bench.ask(&marked, "martian", Fast::Leaves);
        write_setting("net.ipv4.conf.lan.src_valid_mark", "1").unwrap();
        bench.ask(&marked, "up0", Fast::Leaves);
    });
}

#[test]
fn an_interface_that_does_not_forward_ipv4_answers_unreachable() {
    bench(|bench| {
        write_setting("net.ipv4.conf.lan.forwarding", "0").unwrap();
        bench.ask(&packet(Family::Ipv4), "unreachable", Fast::Pass("forwarding-off"));
        bench.ask(&Packet { iif: Some(11), ..packet(Family::Ipv4) }, "up0", Fast::Same);
    });
}

#[test]
fn ipv6_forwards_by_the_switch_of_all_or_by_force() {
    bench(|bench| {
        // RTM_GETROUTE does not look at either: the reference tells in a note what the stack does with the route.
        let note = |bench: &mut Bench<'_>| {
            let host = bench.kernel.host().unwrap();
            Measure::new(&host, &[]).reference(&packet(Family::Ipv6)).1.refuses(Verdict::Forward, 12)
        };
        bench.all(&packet(Family::Ipv6), "up0");
        assert_eq!(note(bench), None);
        // IPv4 keeps the interface in use.
        write_setting("net.ipv6.conf.all.forwarding", "0").unwrap();
        write_setting("net.ipv4.conf.lan.forwarding", "1").unwrap();
        // The device's own switch changes nothing.
        write_setting("net.ipv6.conf.lan.forwarding", "1").unwrap();
        bench.ask(&packet(Family::Ipv6), "up0", Fast::Pass("forwarding-off"));
        assert_eq!(note(bench).unwrap().verdict, Verdict::Blackhole);
        // 6.17 and later.
        if write_setting("net.ipv6.conf.lan.force_forwarding", "1").is_ok() {
            bench.all(&packet(Family::Ipv6), "up0");
            assert_eq!(note(bench), None);
        }
    });
}
