//! Routes: every shape there and back.

use super::{ip, namespace, netlink, settle, two_links};
use crate::kernel::admin::write_setting;
use crate::kernel::{Admin, Kernel, Netns};
use crate::model::{Family, NextHop, OWN_PROTOCOL, Route, RouteKind};
use std::net::IpAddr;

/// A default route of Wayfork's: out of device `dev`, or of the loopback device where that is 0.
pub(super) fn unicast(family: Family, table: u32, via: Option<IpAddr>, dev: u32) -> Route {
    let link_scope = family == Family::Ipv4 && via.is_none();
    Route {
        metric: if family == Family::Ipv6 { 1024 } else { 0 },
        protocol: OWN_PROTOCOL,
        scope: if link_scope { 253 } else { 0 },
        nexthops: vec![NextHop { via, dev: dev.max(1), weight: 1, ..Default::default() }],
        ..Route::to(table, family.default_prefix(), RouteKind::Unicast)
    }
}

/// Every shape of route in one family, over the two devices of [`two_links`].
fn shapes(family: Family, a0: u32, a1: u32) -> Vec<Route> {
    let addr = |v4: &str, v6: &str| -> IpAddr { if family == Family::Ipv4 { v4 } else { v6 }.parse().unwrap() };
    let net = |v4: &str, v6: &str| if family == Family::Ipv4 { v4 } else { v6 }.parse().unwrap();
    let (near, far) = (addr("10.0.0.254", "fd00::254"), addr("10.0.1.254", "fd01::254"));
    let host = net("192.0.2.1/32", "2001:db8::1/128");
    let gateway = unicast(family, 111, Some(near), a0);
    let hop = |via, dev, weight| NextHop { via, dev, weight, ..Default::default() };
    let several = |hops: &[NextHop]| Route { nexthops: hops.to_vec(), ..gateway.clone() };
    let mut all = vec![
        unicast(family, 5, None, 0),
        unicast(family, 254, None, a0),
        unicast(family, 256, None, a1),
        unicast(family, u32::MAX, None, a1),
        gateway.clone(),
        Route { dst: host, ..gateway.clone() },
        Route { dst: net("198.51.100.0/24", "2001:db8:1::/48"), metric: 42, ..gateway.clone() },
        Route { metric: u32::MAX, ..gateway.clone() },
        Route { protocol: 4, ..gateway.clone() },
        Route { mtu: Some(1400), ..gateway.clone() },
        Route { mtu: Some(1400), mtu_locked: true, ..gateway.clone() },
        Route { prefsrc: Some(addr("10.0.0.1", "fd00::1")), ..gateway.clone() },
        Route {
            kind: RouteKind::Local,
            scope: if family == Family::Ipv4 { 254 } else { 0 },
            dst: host,
            ..unicast(family, 255, None, 1)
        },
        several(&[hop(Some(near), a0, 1), hop(Some(far), a1, 256)]),
        several(&[NextHop { onlink: true, ..hop(Some(addr("203.0.113.1", "2001:db8:9::1")), a1, 1) }]),
    ];
    for kind in [RouteKind::Blackhole, RouteKind::Unreachable, RouteKind::Prohibit, RouteKind::Throw] {
        all.push(Route { kind, metric: 7, scope: 0, nexthops: Vec::new(), ..gateway.clone() });
    }
    match family {
        Family::Ipv4 => {
            all.push(Route { tos: 0x10, ..gateway.clone() });
            let link_local = "fe80::1".parse().unwrap();
            all.push(several(&[hop(Some(link_local), a0, 1)]));
            all.push(several(&[hop(Some(link_local), a0, 2), hop(Some(near), a0, 3), hop(None, a1, 4)]));
            all.push(Route { kind: RouteKind::Broadcast, scope: 253, dst: host, ..unicast(family, 255, None, a0) });
        }
        Family::Ipv6 => {
            all.push(Route { pref: 1, ..gateway.clone() });
            all.push(Route { src: Some("2001:db8:5::/48".parse().unwrap()), ..gateway.clone() });
            all.push(Route { kind: RouteKind::Anycast, dst: host, ..unicast(family, 255, None, a0) });
            all.push(Route {
                kind: RouteKind::Multicast,
                dst: "ff0e::/16".parse().unwrap(),
                ..unicast(family, 255, None, a0)
            });
        }
    }
    all
}

fn indexes(namespace: &Netns) -> (u32, u32) {
    let find = || {
        let mut admin = Admin::open().unwrap();
        admin.add_address("a1", "fd01::1/64".parse().unwrap()).unwrap();
        (admin.index("a0").unwrap(), admin.index("a1").unwrap())
    };
    let found = namespace.run(find).unwrap();
    settle(namespace);
    found
}

#[test]
fn every_shape_there_and_back() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let (a0, a1) = indexes(&namespace);
    let mut kernel = netlink(&namespace);
    let before = kernel.routes().unwrap();
    for family in Family::BOTH {
        for route in shapes(family, a0, a1) {
            match kernel.add_route(&route) {
                // CONFIG_IPV6_SUBTREES is an option.
                Err(error) if route.src.is_some() && error.errno() == libc::EINVAL => {
                    eprintln!("left out: {error}");
                    continue;
                }
                other => other.unwrap(),
            }
            let after = kernel.routes().unwrap();
            let new: Vec<&Route> = after.iter().filter(|one| !before.contains(one)).collect();
            assert_eq!(new, [&route], "as dumped against as added");
            let again = kernel.add_route(&route).unwrap_err();
            assert_eq!(again.errno(), libc::EEXIST, "{again}");
            kernel.delete_route(&route).unwrap();
            assert_eq!(kernel.routes().unwrap(), before, "after deleting {route:?}");
            let again = kernel.delete_route(&route).unwrap_err();
            assert_eq!(again.errno(), libc::ESRCH, "{again}");
        }
    }
}

#[test]
fn a_deletion_takes_nothing_else() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let (a0, a1) = indexes(&namespace);
    let mut kernel = netlink(&namespace);
    for (family, v) in [(Family::Ipv4, "10.0.0.254"), (Family::Ipv6, "fd00::254")] {
        let route = unicast(family, 111, Some(v.parse().unwrap()), a0);
        // To the kernel, IPv4's metric 0 is any metric, and IPv6 does not look at the kind.
        let near_misses = [
            Route { metric: 2048, ..route.clone() },
            Route { protocol: 4, ..route.clone() },
            Route { table: 112, ..route.clone() },
            Route {
                nexthops: unicast(family, 0, None, a1).nexthops,
                scope: 253 * u8::from(family == Family::Ipv4),
                ..route.clone()
            },
            Route { kind: RouteKind::Unreachable, nexthops: Vec::new(), ..route.clone() },
        ];
        for other in near_misses {
            kernel.add_route(&other).unwrap();
            let before = kernel.routes().unwrap();
            let error = kernel.delete_route(&route).unwrap_err();
            assert_eq!(error.errno(), libc::ESRCH, "{other:?}: {error}");
            assert_eq!(kernel.routes().unwrap(), before, "{other:?}");
            kernel.delete_route(&other).unwrap();
        }
    }
}

#[test]
fn nexthop_objects_are_resolved() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let (a0, a1) = indexes(&namespace);
    for command in [
        "nexthop add id 1 via 10.0.0.254 dev a0",
        "nexthop add id 2 via 10.0.1.254 dev a1",
        "nexthop add id 10 group 1,3/2,256",
        "nexthop add id 3 blackhole",
        "nexthop add id 6 via fd00::254 dev a0",
        "route add 192.0.2.0/24 nhid 1 table 7",
        "route add 198.51.100.0/24 nhid 10 table 7",
        "route add 203.0.113.0/24 nhid 3 table 7",
        "-6 route add 2001:db8::/32 nhid 6 table 7",
    ] {
        if ip(&namespace, command).is_none() {
            return;
        }
    }
    let mut kernel = netlink(&namespace);
    let hop = |via: &str, dev, weight| NextHop { via: Some(via.parse().unwrap()), dev, weight, ..Default::default() };
    for compat in ["1", "0"] {
        namespace.run(|| write_setting("net.ipv4.nexthop_compat_mode", compat)).unwrap().unwrap();
        let routes = kernel.routes().unwrap();
        let find = |dst: &str| routes.iter().find(|route| route.dst.to_string() == dst).unwrap();
        let told = |dst: &str| (find(dst).nhid, find(dst).kind, find(dst).nexthops.clone());
        let one = hop("10.0.0.254", a0, 1);
        assert_eq!(told("192.0.2.0/24"), (1, RouteKind::Unicast, vec![one]), "compat {compat}");
        let group = vec![hop("10.0.0.254", a0, 3), hop("10.0.1.254", a1, 256)];
        assert_eq!(told("198.51.100.0/24"), (10, RouteKind::Unicast, group), "compat {compat}");
        assert_eq!(told("203.0.113.0/24"), (3, RouteKind::Blackhole, vec![]), "compat {compat}");
        assert_eq!(told("2001:db8::/32"), (6, RouteKind::Unicast, vec![hop("fd00::254", a0, 1)]), "compat {compat}");
    }
}

#[test]
fn a_lost_carrier_shows_on_the_next_hop() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let (a0, _) = indexes(&namespace);
    let mut kernel = netlink(&namespace);
    let routes = [
        unicast(Family::Ipv4, 111, Some("10.0.0.254".parse().unwrap()), a0),
        unicast(Family::Ipv6, 111, Some("fd00::254".parse().unwrap()), a0),
    ];
    for route in &routes {
        kernel.add_route(route).unwrap();
    }
    namespace.run(|| Admin::open().unwrap().down("b0")).unwrap().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let all = kernel.routes().unwrap();
        let down = all.iter().filter(|route| route.table == 111 && route.nexthops[0].linkdown).count();
        if down == 2 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{all:#?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn encapsulation_is_seen() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let command = "-6 route add 2001:db8:7::/48 encap seg6 mode encap segs fc00::1 dev a0 table 7";
    if ip(&namespace, "-Version").is_none() {
        return;
    }
    if std::panic::catch_unwind(|| ip(&namespace, command)).is_err() {
        eprintln!("left out: this kernel has no seg6");
        return;
    }
    let mut kernel = netlink(&namespace);
    let routes = kernel.routes().unwrap();
    let route = routes.iter().find(|route| route.dst.to_string() == "2001:db8:7::/48").unwrap();
    assert!(route.nexthops[0].encap);
    assert_eq!(kernel.add_route(&Route { table: 8, ..route.clone() }).unwrap_err().errno(), libc::EOPNOTSUPP);
}

/// A list that changes while it is read is read again: nothing that stays is missing or told twice.
#[test]
fn a_list_is_whole_while_others_change_it() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let (a0, _) = indexes(&namespace);
    let mut kernel = netlink(&namespace);
    let mut steady = Vec::new();
    for n in 0..1500u32 {
        let v4 = ipnet::Ipv4Net::new(std::net::Ipv4Addr::from(0x1400_0000 + n), 32).unwrap();
        let v6 = ipnet::Ipv6Net::new(std::net::Ipv6Addr::from((0xfd77_u128 << 112) + u128::from(n)), 128).unwrap();
        steady.push(Route { dst: v4.into(), ..unicast(Family::Ipv4, 9, None, a0) });
        steady.push(Route { dst: v6.into(), ..unicast(Family::Ipv6, 9, None, a0) });
    }
    for route in &steady {
        kernel.add_route(route).unwrap();
    }
    steady.sort();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = netlink(&namespace);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for family in Family::BOTH {
                    let coming_and_going = unicast(family, 10, None, a0);
                    other.add_route(&coming_and_going).unwrap();
                    other.delete_route(&coming_and_going).unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        for _ in 0..30 {
            let mut seen: Vec<Route> = kernel.routes().unwrap().into_iter().filter(|route| route.table == 9).collect();
            seen.sort();
            assert!(seen == steady, "{} instead of {}", seen.len(), steady.len());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Destination, table, metric, type, first gateway and device of each route, as iproute2 lists them and as Wayfork does.
#[test]
fn the_list_is_the_one_that_iproute2_shows() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let (a0, a1) = indexes(&namespace);
    let mut kernel = netlink(&namespace);
    for family in Family::BOTH {
        for (table, route) in (1000..).zip(shapes(family, a0, a1)) {
            let route = Route { table, ..route };
            if kernel.add_route(&route).is_err() {
                assert!(route.src.is_some(), "{route:?}");
            }
        }
    }
    let links = kernel.links().unwrap();
    for family in Family::BOTH {
        let flag = if family == Family::Ipv4 { "-4" } else { "-6" };
        let Some(text) = ip(&namespace, &format!("{flag} -j -N -d route show table all")) else { return };
        let shown: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let mut theirs: Vec<String> = shown.iter().map(|one| line_of(family, one)).collect();
        let ours = kernel.routes().unwrap().into_iter().filter(|route| route.family == family);
        let mut ours: Vec<String> = ours
            .map(|route| {
                let hop = route.nexthops.first().cloned().unwrap_or_default();
                let via = hop.via.map_or("-".to_owned(), |via| via.to_string());
                let dev = links.get(&hop.dev).map_or("-", |link| link.name.as_str());
                let count = route.nexthops.len().max(1);
                let (dst, table, metric) = (route.dst, route.table, route.metric);
                format!("{} {dst} {table} {metric} {} {via} {dev} x{count}", route.kind.name(), route.protocol)
            })
            .collect();
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs);
        assert!(ours.len() > 20, "{ours:#?}");
    }
}

/// One object of `ip -j -N -d route show` as a line.
fn line_of(family: Family, route: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value, key: &str| match &value[key] {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let bits = family.bits();
    let dst = match text(route, "dst").unwrap().as_str() {
        "default" => family.default_prefix().to_string(),
        whole if whole.contains('/') => whole.to_owned(),
        host => format!("{host}/{bits}"),
    };
    let kind = match text(route, "type").as_deref() {
        None => "unicast".to_owned(),
        Some(number) => match number.parse() {
            Ok(number) => super::super::routes::kind_of(number).name().to_owned(),
            Err(_) => number.to_owned(),
        },
    };
    let hops = route["nexthops"].as_array();
    let first = hops.map_or(route, |hops| &hops[0]);
    let via = text(first, "gateway").or_else(|| text(&first["via"], "host")).unwrap_or("-".to_owned());
    // IPv6 puts its rejecting routes on the loopback device.
    let rejects = ["blackhole", "unreachable", "prohibit", "throw"].contains(&kind.as_str());
    let dev = text(first, "dev").filter(|_| !rejects).unwrap_or("-".to_owned());
    let table = text(route, "table").unwrap_or("254".to_owned());
    let metric = text(route, "metric").unwrap_or("0".to_owned());
    let protocol = text(route, "protocol").unwrap_or("3".to_owned());
    format!("{kind} {dst} {table} {metric} {protocol} {via} {dev} x{}", hops.map_or(1, Vec::len))
}
