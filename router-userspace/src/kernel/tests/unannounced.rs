//! What the kernel changes without announcing it.

use super::{ip, namespace, netlink};
use crate::kernel::admin::NewLink;
use crate::kernel::{Admin, Event, Kernel, Monitor, Netns};
use crate::model::{Family, Route, RouteKind, TABLE_MAIN};
use std::net::Ipv4Addr;

/// Devices that go at once.
const DEVICES: u8 = 40;
/// Routes of others, all of which the kernel walks for each device that goes.
const OTHERS: u32 = 60_000;

/// Devices of one group, a connected network on each, and many routes that have nothing to do with them.
fn devices(namespace: &Netns) {
    let build = || {
        let mut admin = Admin::open().unwrap();
        for n in 0..DEVICES {
            let (one, other) = (format!("g{n}"), format!("h{n}"));
            admin.veth(NewLink::named(&one), NewLink::named(&other)).unwrap();
            admin.up(&one).unwrap();
            admin.up(&other).unwrap();
            let net = ipnet::Ipv4Net::new(Ipv4Addr::new(10, 77, n, 1), 24).unwrap();
            admin.add_address(&one, net.into()).unwrap();
            admin.set_group(&one, 7).unwrap();
        }
    };
    namespace.run(build).unwrap();
    let mut kernel = netlink(namespace);
    let one = super::routes::unicast(Family::Ipv4, TABLE_MAIN, None, 0);
    for n in 0..OTHERS {
        let dst = ipnet::Ipv4Net::new(Ipv4Addr::from(0x6440_0000 + n), 32).unwrap();
        let (kind, nexthops) = (RouteKind::Blackhole, Vec::new());
        kernel.add_route(&Route { dst: dst.into(), kind, nexthops, ..one.clone() }).unwrap();
    }
}

fn connected(routes: &[Route]) -> usize {
    let net: ipnet::IpNet = "10.77.0.0/16".parse().unwrap();
    routes.iter().filter(|route| net.contains(&route.dst)).count()
}

/// A device is told to be down before its routes go, and none of these is told (`fib_table_flush`); dumps of routes do not wait
/// for whoever is flushing them.
#[test]
fn what_is_read_after_an_announcement_is_what_it_leaves() {
    let Some(namespace) = namespace() else { return };
    devices(&namespace);
    let mut kernel = netlink(&namespace);
    let mut monitor = namespace.run(Monitor::open).unwrap().unwrap();
    assert!(connected(&kernel.routes().unwrap()) >= usize::from(DEVICES));
    let left = std::thread::scope(|scope| {
        let deletion = scope.spawn(|| ip(&namespace, "link delete group 7"));
        while !monitor.next_events().unwrap().contains(&Event::Links) {
            if deletion.is_finished() {
                return None;
            }
        }
        let left = connected(&kernel.host().unwrap().routes);
        deletion.join().unwrap().map(|_| left)
    });
    // None: iproute2 is not installed.
    assert!(left.is_none_or(|left| left == 0), "{left:?} routes that the kernel was about to flush");
}
