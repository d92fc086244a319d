//! What a table's answer does to the walk: on to the next rule, or the end.

use super::super::packet::Shape;
use super::super::testing::ip;
use super::*;
use crate::kernel::Admin;

fn inside(family: Family) -> &'static str {
    if family == Family::Ipv4 { "8.8.8.0/24" } else { "2001:db8::/64" }
}

#[test]
fn no_table_no_route_and_throw_go_on_with_the_next_rule() {
    in_both(|bench, family| {
        bench.add([Rule::lookup(family, 100, 999)]);
        bench.all(&packet(family), "up0");
        let elsewhere = if family == Family::Ipv4 { "9.9.9.0/24" } else { "2001:db9::/64" };
        bench.route(family, 999, elsewhere, "up1");
        bench.all(&packet(family), "up0");
        bench.add([rule(family, 200, any())]);
        bench.refuse(family, 999, inside(family), RouteKind::Throw);
        bench.route(family, 999, "default", "up0");
        bench.all(&packet(family), "up1");
    });
}

#[test]
fn nothing_left_is_no_route() {
    in_both(|bench, family| {
        let mut far = packet(family);
        far.to = if family == Family::Ipv4 { "9.9.9.9" } else { "2001:db9::9" }.parse().unwrap();
        bench.add([rule(family, 100, Selectors { iif: Some("lo".into()), ..any() })]);
        let rules = bench.kernel.rules().unwrap();
        rules.iter().filter(|rule| rule.family == family && rule.priority > 100).for_each(|rule| bench.delete(rule));
        bench.all(&far, "no-route");
    });
}

/// `fib6_rule_lookup` goes by the rules only once one was added; taking the kernel's own away is no such thing.
#[test]
fn ipv6_looks_into_local_and_main_whatever_was_taken_away_until_a_rule_is_added() {
    bench(|bench| {
        let main = Rule { protocol: 2, ..Rule::lookup(Family::Ipv6, 32766, 254) };
        bench.delete(&main);
        // The snapshot does not tell whether there ever was another rule.
        bench.ask(&packet(Family::Ipv6), "up0", Fast::Pass("rule-selector"));
        let other = acting(Family::Ipv6, 100, RuleAction::Nop);
        bench.add([other.clone()]);
        bench.all(&packet(Family::Ipv6), "no-route");
        bench.delete(&other);
        bench.ask(&packet(Family::Ipv6), "up0", Fast::Pass("rule-selector"));
    });
}

#[test]
fn suppress_prefixlength_drops_short_prefixes_in_both_families() {
    in_both(|bench, family| {
        bench
            .add([Rule { suppress_prefixlength: Some(0), ..Rule::lookup(family, 100, 254) }, rule(family, 200, any())]);
        bench.all(&packet(family), "up1");
        bench.route(family, 254, inside(family), "up0");
        bench.all(&packet(family), "up0");
    });
}

#[test]
fn suppress_prefixlength_reaches_up_to_its_number() {
    in_both(|bench, family| {
        let length = inside(family).split_once('/').unwrap().1.parse().unwrap();
        bench.route(family, 254, inside(family), "up0");
        bench.add([rule(family, 200, any())]);
        for (most, oif) in [(length - 1, "up0"), (length, "up1")] {
            let limited = Rule { suppress_prefixlength: Some(most), ..Rule::lookup(family, 100, 254) };
            bench.add([limited.clone()]);
            bench.all(&packet(family), oif);
            bench.delete(&limited);
        }
    });
}

#[test]
fn suppress_ifgroup_drops_what_leaves_by_such_an_interface() {
    in_both(|bench, family| {
        bench.add([Rule { suppress_ifgroup: Some(7), ..rule(family, 100, any()) }]);
        bench.all(&packet(family), "up0");
        bench.add([Rule { suppress_ifgroup: Some(8), ..rule(family, 110, any()) }]);
        bench.all(&packet(family), "up1");
    });
}

#[test]
fn what_refuses_is_never_suppressed() {
    in_both(|bench, family| {
        let limited = |table| Rule {
            suppress_prefixlength: Some(32),
            suppress_ifgroup: Some(0),
            ..Rule::lookup(family, 100, table)
        };
        for (table, kind, verdict) in [
            (201, RouteKind::Blackhole, "blackhole"),
            (202, RouteKind::Unreachable, "unreachable"),
            (203, RouteKind::Prohibit, "prohibit"),
        ] {
            bench.refuse(family, table, "default", kind);
            bench.add([limited(table)]);
            bench.all(&packet(family), verdict);
            bench.delete(&limited(table));
        }
    });
}

#[test]
fn rules_that_refuse_end_the_walk() {
    in_both(|bench, family| {
        for (action, verdict) in [
            (RuleAction::Blackhole, "blackhole"),
            (RuleAction::Unreachable, "unreachable"),
            (RuleAction::Prohibit, "prohibit"),
        ] {
            bench.add([acting(family, 100, action)]);
            bench.all(&packet(family), verdict);
            bench.delete(&acting(family, 100, action));
        }
    });
}

#[test]
fn an_ipv6_route_is_not_there_once_its_time_is_over() {
    bench(|bench| {
        let asked = packet(Family::Ipv6);
        bench.add([Rule::lookup(Family::Ipv6, 100, 300), rule(Family::Ipv6, 200, any())]);
        // Loads the program, which takes its time on a busy machine, while the route's has not begun.
        bench.all(&asked, "up1");
        let second = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap().tv_sec() as u32;
        let hop = NextHop { via: "fd03::2".parse().ok(), dev: 12, weight: 1, ..NextHop::default() };
        let short = Route {
            nexthops: vec![hop],
            expires: Some(second + 6),
            ..refusing(Family::Ipv6, 300, "2001:db8::/64", RouteKind::Unicast)
        };
        bench.kernel.add_route(&short).unwrap();
        bench.all(&asked, "up0");
        let Some(program) = &mut bench.program else { return };
        let host = bench.kernel.host().unwrap();
        // The program was told when; it needs no loader to stop.
        let mut decide = || program.decide(&asked, &host.links[&10]).unwrap();
        assert_eq!(decide().action, Action::Redirect);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while decide().action == Action::Redirect {
            assert!(std::time::Instant::now() < until, "the program still uses the route");
            let answer = ask(bench.kernel, &host, &asked, 0).unwrap().unwrap();
            // What the kernel says may have changed between the two questions; what the program said before may not be later.
            if answer.oif != 12 {
                assert_ne!(decide().action, Action::Redirect, "the kernel does not use the route any more");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(decide().reason.map(|reason| reason.name()), Some("route-expiry"));
        while ask(bench.kernel, &host, &asked, 0).unwrap().unwrap().oif == 12 {
            assert!(std::time::Instant::now() < until, "the kernel still uses the route");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
}

#[test]
fn routes_by_tos_and_by_source_are_the_stacks() {
    bench(|bench| {
        let hop = |via: &str| vec![NextHop { via: via.parse().ok(), dev: 12, weight: 1, ..NextHop::default() }];
        let by_tos = Route {
            tos: 0x10,
            nexthops: hop("10.3.0.2"),
            ..refusing(Family::Ipv4, 112, "default", RouteKind::Unicast)
        };
        bench.kernel.add_route(&by_tos).unwrap();
        let by_source = Route {
            src: "fd01::/64".parse().ok(),
            nexthops: hop("fd03::2"),
            ..refusing(Family::Ipv6, 112, "default", RouteKind::Unicast)
        };
        // A kernel without CONFIG_IPV6_SUBTREES refuses the second.
        let subtrees = bench.kernel.add_route(&by_source).is_ok();
        bench.add(Family::BOTH.map(|family| rule(family, 100, any())));
        let v4 = packet(Family::Ipv4);
        bench.ask(&v4, "up1", Fast::Pass("route-kind"));
        bench.ask(&Packet { dscp: 4, ..v4 }, "up0", Fast::Pass("route-kind"));
        if subtrees {
            bench.ask(&packet(Family::Ipv6), "up0", Fast::Pass("route-kind"));
            let other = Packet { from: "fd99::1".parse().ok(), ..packet(Family::Ipv6) };
            bench.ask(&other, "up1", Fast::Pass("route-kind"));
        }
    });
}

#[test]
fn the_mtu_is_the_routes_or_the_interfaces_in_ipv6_the_lower_unless_it_is_locked() {
    bench(|bench| {
        Admin::open().unwrap().set_mtu("up1", 1280).unwrap();
        // Of packets that come in alone: the kernel's look-up of a gateway is not to find it.
        let by_lan = || Selectors { iif: Some("lan".into()), ..any() };
        bench.add(Family::BOTH.map(|family| rule(family, 100, by_lan())));
        let [v4, v6] = Family::BOTH;
        for (family, mtu, most) in [
            (v4, "", 1280),
            (v4, "mtu 1400", 1400),
            (v4, "mtu lock 1400", 1400),
            (v4, "mtu 1000", 1000),
            (v6, "", 1280),
            (v6, "mtu 1400", 1280),
            (v6, "mtu lock 1400", 1400),
        ] {
            let (flag, via) = if family == v4 { ("-4", "10.4.0.2") } else { ("-6", "fd04::2") };
            ip(flag, &format!("route replace default via {via} dev up1 table 112 metric 50 {mtu}\n"));
            for (length, fits) in [(most, true), (most + 1, false)] {
                let packet = Packet { shape: Shape { length, ..Shape::default() }, ..packet(family) };
                bench.ask(&packet, "up1", if fits { Fast::Same } else { Fast::Pass("mtu") });
                let host = bench.kernel.host().unwrap();
                let refusal = Measure::new(&host, &[]).reference(&packet).1.refuses(Verdict::Forward, 13);
                assert_eq!(refusal.is_none(), fits, "{mtu:?}, {length} bytes: {refusal:?}");
            }
        }
    });
}
