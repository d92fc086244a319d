//! Asking for one packet's way: RTM_GETROUTE beside `ip route get`.

use super::{ip, namespace, netlink, settle, two_links};
use crate::kernel::admin::write_setting;
use crate::kernel::{Admin, Kernel, Netns, RouteAnswer, RouteQuery};
use crate::model::{Family, NextHop, Ports, Route, RouteKind, Rule, RuleAction, Selectors};
use router_common::verdict::Verdict;
use std::net::IpAddr;

fn query(to: &str, from: Option<&str>, iif: Option<u32>) -> RouteQuery {
    RouteQuery {
        to: to.parse().unwrap(),
        from: from.map(|from| from.parse().unwrap()),
        iif,
        mark: 0,
        ipproto: None,
        sport: None,
        dport: None,
        dscp: 0,
        flowlabel: 0,
    }
}

/// A router between `a0` and `a1`, with gateways in tables 111 (on `a0`) and 112 (on `a1`).
fn router(namespace: &Netns) -> (u32, u32) {
    two_links(namespace);
    let work = || {
        let mut admin = Admin::open().unwrap();
        admin.add_address("a1", "fd01::1/64".parse().unwrap()).unwrap();
        write_setting("net.ipv4.ip_forward", "1").unwrap();
        write_setting("net.ipv6.conf.all.forwarding", "1").unwrap();
        (admin.index("a0").unwrap(), admin.index("a1").unwrap())
    };
    let (a0, a1) = namespace.run(work).unwrap();
    settle(namespace);
    let mut kernel = netlink(namespace);
    for (family, table, via, dev) in [
        (Family::Ipv4, 111, "10.0.0.254", a0),
        (Family::Ipv4, 112, "10.0.1.254", a1),
        (Family::Ipv6, 111, "fd00::254", a0),
        (Family::Ipv6, 112, "fd01::254", a1),
    ] {
        kernel.add_route(&super::routes::unicast(family, table, Some(via.parse().unwrap()), dev)).unwrap();
    }
    (a0, a1)
}

#[test]
fn each_part_of_the_question_is_heard() {
    let Some(namespace) = namespace() else { return };
    let (a0, a1) = router(&namespace);
    let mut kernel = netlink(&namespace);
    let base = Selectors::default;
    let port = |port| Some(Ports::Range { start: port, end: port });
    for family in Family::BOTH {
        let (to, from, via) = match family {
            Family::Ipv4 => ("8.8.8.8", "10.0.0.7", "10.0.1.254"),
            Family::Ipv6 => ("2001:db8::8", "fd00::7", "fd01::254"),
        };
        let plain = query(to, Some(from), Some(a0));
        kernel.add_rule(&Rule::lookup(family, 2000, 111)).unwrap();
        let udp = || RouteQuery { ipproto: Some(17), sport: Some(1000), dport: Some(53), ..plain.clone() };
        for (selectors, asked) in [
            (Selectors { iif: Some("a0".to_owned()), ..base() }, plain.clone()),
            (Selectors { fwmark: Some((5324, u32::MAX)), ..base() }, RouteQuery { mark: 5324, ..plain.clone() }),
            (Selectors { from: Some(from.parse::<IpAddr>().unwrap().into()), ..base() }, plain.clone()),
            (Selectors { ipproto: Some(17), ..base() }, udp()),
            (Selectors { ipproto: Some(17), sport: port(1000), ..base() }, udp()),
            (Selectors { ipproto: Some(17), dport: port(53), ..base() }, udp()),
            (Selectors { dscp: Some((46, 0x3f)), ..base() }, RouteQuery { dscp: 46, ..plain.clone() }),
        ] {
            let rule = Rule { selectors, ..Rule::lookup(family, 1000, 112) };
            let without = kernel.route_get(&asked).unwrap();
            assert_eq!((without.verdict, without.oif, without.table), (Verdict::Forward, a0, 111), "{rule}");
            match kernel.add_rule(&rule) {
                Err(error) if rule.selectors.dscp.is_some() => {
                    eprintln!("left out: {error}");
                    continue;
                }
                other => other.unwrap(),
            }
            let answer = kernel.route_get(&asked).unwrap();
            let wanted = RouteAnswer {
                verdict: Verdict::Forward,
                errno: 0,
                oif: a1,
                via: Some(via.parse().unwrap()),
                table: 112,
                prefsrc: answer.prefsrc,
            };
            assert_eq!(answer, wanted, "{rule}");
            kernel.delete_rule(&rule).unwrap();
        }
        let error = kernel.route_get(&RouteQuery { ipproto: Some(132), ..plain.clone() }).unwrap_err();
        assert!(error.said.is_some(), "a question that the kernel does not take is an error: {error}");
    }
    let error = kernel.route_get(&query("8.8.8.8", Some("10.0.0.7"), Some(9999))).unwrap_err();
    assert_eq!(error.errno(), libc::ENODEV, "{error}");
}

#[test]
fn refusals_are_answers() {
    let Some(namespace) = namespace() else { return };
    let (a0, a1) = router(&namespace);
    let mut kernel = netlink(&namespace);
    for (family, to, from) in [(Family::Ipv4, "192.0.2.9", "10.0.0.7"), (Family::Ipv6, "2001:db8:9::9", "fd00::7")] {
        let asked = query(to, Some(from), Some(a0));
        assert_eq!(kernel.route_get(&asked).unwrap().verdict, Verdict::NoRoute);
        let outcomes = [
            (RouteKind::Blackhole, RuleAction::Blackhole, Verdict::Blackhole),
            (RouteKind::Unreachable, RuleAction::Unreachable, Verdict::Unreachable),
            (RouteKind::Prohibit, RuleAction::Prohibit, Verdict::Prohibit),
        ];
        for (kind, action, verdict) in outcomes {
            let route = Route { kind, nexthops: Vec::new(), scope: 0, ..super::routes::unicast(family, 254, None, 0) };
            kernel.add_route(&route).unwrap();
            let answer = kernel.route_get(&asked).unwrap();
            assert!(answer.allows(verdict) && !answer.allows(Verdict::Forward), "{kind:?}: {answer:?}");
            kernel.delete_route(&route).unwrap();
            let rule = Rule { action, ..Rule::lookup(family, 1000, 0) };
            kernel.add_rule(&rule).unwrap();
            let answer = kernel.route_get(&asked).unwrap();
            assert!(answer.allows(verdict) && !answer.allows(Verdict::Forward), "{action:?}: {answer:?}");
            kernel.delete_rule(&rule).unwrap();
        }
        let local = if family == Family::Ipv4 { "10.0.1.1" } else { "fd01::1" };
        let answer = kernel.route_get(&query(local, Some(from), Some(a0))).unwrap();
        assert_eq!((answer.verdict, answer.table), (Verdict::Local, 255));
    }
    // Refused sources: one that is not a host's, and one that rp_filter finds on another interface.
    let martian = kernel.route_get(&query("10.0.1.9", Some("127.0.0.5"), Some(a0))).unwrap();
    assert_eq!(martian.verdict, Verdict::Martian);
    namespace.run(|| write_setting("net.ipv4.conf.a0.rp_filter", "1")).unwrap().unwrap();
    let spoofed = query("10.0.0.9", Some("10.0.1.9"), Some(a0));
    assert_eq!(kernel.route_get(&spoofed).unwrap().verdict, Verdict::Martian);
    namespace.run(|| write_setting("net.ipv4.conf.a0.rp_filter", "0")).unwrap().unwrap();
    assert_eq!(kernel.route_get(&spoofed).unwrap().verdict, Verdict::Forward);
    assert_eq!(kernel.route_get(&query("10.0.1.255", Some("10.0.0.7"), Some(a0))).unwrap().verdict, Verdict::Local);
    // Made here: no ingress, and the kernel says the source it would take.
    let own = kernel.route_get(&query("10.0.1.9", None, None)).unwrap();
    assert_eq!((own.verdict, own.oif, own.prefsrc), (Verdict::Forward, a1, Some("10.0.1.1".parse().unwrap())));
}

#[test]
fn the_answer_is_the_one_that_iproute2_shows() {
    let Some(namespace) = namespace() else { return };
    let (a0, _) = router(&namespace);
    let mut kernel = netlink(&namespace);
    let marked = Selectors { fwmark: Some((7, 7)), ..Selectors::default() };
    let link_local = NextHop { via: Some("fe80::9".parse().unwrap()), dev: a0, weight: 1, ..Default::default() };
    let route = Route { nexthops: vec![link_local], scope: 0, ..super::routes::unicast(Family::Ipv4, 300, None, 0) };
    kernel.add_route(&route).unwrap();
    kernel.add_rule(&Rule { selectors: marked, ..Rule::lookup(Family::Ipv4, 100, 300) }).unwrap();
    kernel.add_rule(&Rule::lookup(Family::Ipv4, 200, 112)).unwrap();
    for mark in [0, 7] {
        let asked = RouteQuery { mark, ..query("8.8.8.8", Some("10.0.0.7"), Some(a0)) };
        let Some(text) = ip(&namespace, &format!("-j -N route get 8.8.8.8 from 10.0.0.7 iif a0 mark {mark}")) else {
            return;
        };
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        let answer = kernel.route_get(&asked).unwrap();
        let via = shown[0]["gateway"].as_str().or_else(|| shown[0]["via"]["host"].as_str());
        assert_eq!(answer.via.map(|via| via.to_string()).as_deref(), via, "{text}");
        assert_eq!(Some(answer.table.to_string().as_str()), shown[0]["table"].as_str(), "{text}");
        let oif = kernel.links().unwrap()[&answer.oif].name.clone();
        assert_eq!(Some(oif.as_str()), shown[0]["dev"].as_str(), "{text}");
    }
}
