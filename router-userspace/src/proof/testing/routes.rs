//! Random routes of all types and shapes, and the next-hop objects that some of them use.

use super::{INTERFACES, net, one_in, pick};
use crate::kernel::Admin;
use crate::model::{Family, Host, NextHop, Route, RouteKind};
use fastrand::Rng;
use std::net::IpAddr;

/// Next-hop objects: two single ones and a group of them, for each family.
const OBJECTS: [(Family, [u32; 3]); 2] = [(Family::Ipv4, [41, 42, 43]), (Family::Ipv6, [61, 62, 63])];

/// A way out: by a gateway, on the link, and in IPv4 now and then by an IPv6 gateway.
pub fn hop(rng: &mut Rng, host: &Host, family: Family) -> NextHop {
    let number = rng.u8(1..=6);
    let dev = host.link(INTERFACES[usize::from(number) - 1]).unwrap().index;
    let far = rng.u8(2..4);
    let six = family == Family::Ipv6 || one_in(rng, 6);
    let via: Option<IpAddr> = (number <= 4 && !one_in(rng, 4)).then(|| match six {
        false => format!("10.{number}.0.{far}").parse().unwrap(),
        true => format!("fd0{number}::{far}").parse().unwrap(),
    });
    NextHop {
        via,
        dev,
        weight: pick(rng, &[1, 1, 3, 256]),
        onlink: via.is_some() && one_in(rng, 6),
        ..NextHop::default()
    }
}

/// A route of one of the tables that the rules use.
pub fn route(rng: &mut Rng, host: &Host, family: Family) -> Route {
    let kind = match rng.u8(..20) {
        0 => RouteKind::Blackhole,
        1 => RouteKind::Unreachable,
        2 => RouteKind::Prohibit,
        3 => RouteKind::Throw,
        4 => pick(rng, &[RouteKind::Local, RouteKind::Broadcast, RouteKind::Anycast, RouteKind::Multicast]),
        _ => RouteKind::Unicast,
    };
    let mut plain = plain(rng, host, family);
    // A wide one would leave hardly a packet to the rules.
    while kind != RouteKind::Unicast && has_way(kind) && plain.dst.prefix_len() < family.bits() - 2 {
        plain.dst = net(rng, family);
    }
    let here = NextHop { dev: pick(rng, &[1, plain.nexthops[0].dev]), weight: 1, ..NextHop::default() };
    let hops = pick(rng, &[1, 1, 1, 1, 2, 3]);
    let objects = OBJECTS.into_iter().find(|(of, _)| *of == family).map(|(_, ids)| ids).unwrap();
    let nhid = if kind == RouteKind::Unicast && one_in(rng, 8) { pick(rng, &objects) } else { 0 };
    Route {
        kind,
        src: Some(net(rng, family)).filter(|net| net.prefix_len() != 0 && family == Family::Ipv6 && one_in(rng, 8)),
        tos: if family == Family::Ipv4 && one_in(rng, 8) { 0x10 } else { 0 },
        pref: if family == Family::Ipv6 && one_in(rng, 6) { pick(rng, &[1, 3]) } else { 0 },
        // What the kernel wants of routes to this host (`fib_create_info`).
        scope: match kind {
            RouteKind::Local if family == Family::Ipv4 => 254,
            RouteKind::Broadcast | RouteKind::Multicast if family == Family::Ipv4 => 253,
            _ => 0,
        },
        nhid,
        nexthops: match kind {
            RouteKind::Unicast if nhid != 0 => Vec::new(),
            RouteKind::Unicast => {
                let more: Vec<NextHop> = (1..hops).map(|_| hop(rng, host, family)).collect();
                plain.nexthops.iter().cloned().chain(more).collect()
            }
            kind if has_way(kind) => vec![here],
            _ => Vec::new(),
        },
        ..plain
    }
}

fn has_way(kind: RouteKind) -> bool {
    !matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
}

/// A unicast route with one next hop and nothing special about it.
pub fn plain(rng: &mut Rng, host: &Host, family: Family) -> Route {
    Route {
        family,
        table: pick(rng, &[111, 111, 112, 112, 113, 254, 4_000_000_000]),
        dst: net(rng, family),
        kind: RouteKind::Unicast,
        src: None,
        tos: 0,
        metric: pick(rng, &[0, 0, 10, 20]),
        protocol: 3,
        scope: 0,
        prefsrc: None,
        mtu: None,
        mtu_locked: false,
        expires: None,
        pref: 0,
        nhid: 0,
        nexthops: vec![NextHop { weight: 1, ..hop(rng, host, family) }],
    }
}

/// Makes the next-hop objects anew. A kernel that refuses one refuses the routes by it.
pub fn objects(admin: &mut Admin, rng: &mut Rng, host: &Host) {
    for (family, [one, other, group]) in OBJECTS {
        for id in [group, one, other] {
            drop(admin.delete_nexthop(id));
        }
        for id in [one, other] {
            drop(admin.add_nexthop(id, family, &NextHop { onlink: false, ..hop(rng, host, family) }));
        }
        drop(admin.add_nexthop_group(group, &[(one, 1), (other, pick(rng, &[1, 4]))]));
    }
}
