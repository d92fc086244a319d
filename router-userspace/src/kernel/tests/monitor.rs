//! The monitor: each kind of change is told, and so is the loss of any.

use super::{ip, namespace, netlink, two_links};
use crate::kernel::admin::{NewLink, write_setting};
use crate::kernel::{Admin, Event, Kernel, Monitor, Netns};
use crate::model::{Family, NeighbourState, Rule};
use std::net::IpAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

fn monitor(namespace: &Netns) -> Monitor {
    namespace.run(Monitor::open).unwrap().unwrap()
}

/// Everything told so far.
fn all(monitor: &mut Monitor) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let events = monitor.next_events().unwrap();
        if events.is_empty() {
            return all;
        }
        all.extend(events);
    }
}

#[test]
fn every_kind_of_change_is_told() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let mut kernel = netlink(&namespace);
    let mut monitor = monitor(&namespace);
    let told = |monitor: &mut Monitor, event: Event, what: &str| {
        let events = all(monitor);
        assert!(events.contains(&event), "{what}: {events:?}");
        assert!(!events.contains(&Event::Overrun), "{what}: {events:?}");
    };
    assert_eq!(all(&mut monitor), [], "quiet before");
    for family in Family::BOTH {
        let rule = Rule::lookup(family, 100, 5);
        kernel.add_rule(&rule).unwrap();
        assert_eq!(all(&mut monitor), [Event::Rules(family)]);
        kernel.delete_rule(&rule).unwrap();
        assert_eq!(all(&mut monitor), [Event::Rules(family)]);
        let route = super::routes::unicast(family, 5, None, 0);
        kernel.add_route(&route).unwrap();
        assert_eq!(all(&mut monitor), [Event::Routes]);
        kernel.delete_route(&route).unwrap();
        assert_eq!(all(&mut monitor), [Event::Routes]);
    }
    let admin = |work: fn(&mut Admin)| namespace.run(|| work(&mut Admin::open().unwrap())).unwrap();
    admin(|admin| admin.add_address("a0", "10.7.0.1/24".parse().unwrap()).unwrap());
    told(&mut monitor, Event::Addresses, "an IPv4 address");
    admin(|admin| admin.delete_address("a0", "fd00::1/64".parse().unwrap()).unwrap());
    told(&mut monitor, Event::Addresses, "an IPv6 address");
    admin(|admin| admin.set_mtu("a0", 1400).unwrap());
    told(&mut monitor, Event::Links, "the MTU");
    admin(|admin| admin.down("a1").unwrap());
    told(&mut monitor, Event::Links, "down");
    admin(|admin| admin.delete_link("a1").unwrap());
    told(&mut monitor, Event::Links, "gone");
    for setting in [
        "net.ipv4.conf.a0.forwarding",
        "net.ipv4.conf.a0.rp_filter",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv6.conf.a0.forwarding",
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.ip_forward",
        "net.ipv4.conf.a0.ignore_routes_with_linkdown",
    ] {
        let on = namespace.run(|| super::super::settings::read(setting)).unwrap().unwrap().unwrap() != "0";
        namespace.run(|| write_setting(setting, if on { "0" } else { "1" })).unwrap().unwrap();
        told(&mut monitor, Event::Links, setting);
    }
    // Told by what it takes away.
    namespace.run(|| write_setting("net.ipv6.conf.a0.disable_ipv6", "1")).unwrap().unwrap();
    told(&mut monitor, Event::Routes, "disable_ipv6");
    if ip(&namespace, "nexthop add id 7 dev a0").is_some() {
        told(&mut monitor, Event::Routes, "a next-hop object");
    }
}

#[test]
fn neighbours_are_told_one_by_one() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let index = namespace.run(|| Admin::open().unwrap().index("a0").unwrap()).unwrap();
    let mut monitor = monitor(&namespace);
    for addr in ["10.0.0.9", "fd00::9"] {
        let addr: IpAddr = addr.parse().unwrap();
        for last in [1, 2] {
            namespace.run(|| Admin::open().unwrap().set_neighbour("a0", addr, [2, 0, 0, 0, 0, last])).unwrap().unwrap();
        }
        namespace.run(|| Admin::open().unwrap().delete_neighbour("a0", addr)).unwrap().unwrap();
        let events = all(&mut monitor);
        let macs: Vec<u8> = events
            .iter()
            .filter_map(|event| match event {
                Event::Neighbour(entry) if entry.addr == addr && entry.state == NeighbourState::Permanent => {
                    assert_eq!(entry.index, index);
                    entry.mac.map(|mac| mac[5])
                }
                _ => None,
            })
            .collect();
        assert_eq!(macs, [1, 2], "{events:?}");
        assert_eq!(events.last(), Some(&Event::NeighbourGone(index, addr)), "{events:?}");
    }
}

#[test]
fn what_one_asked_for_itself_is_left_out_and_nothing_else() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let (mut own, mut other) = (netlink(&namespace), netlink(&namespace));
    let mut monitor = monitor(&namespace);
    monitor.leave_out(own.port());
    for family in Family::BOTH {
        let rule = Rule::lookup(family, 100, 5);
        let route = super::routes::unicast(family, 5, None, 0);
        own.add_rule(&rule).unwrap();
        own.add_route(&route).unwrap();
        assert_eq!(all(&mut monitor), []);
        // The same, told of another.
        other.delete_rule(&rule).unwrap();
        assert_eq!(all(&mut monitor), [Event::Rules(family)]);
        other.delete_route(&route).unwrap();
        assert_eq!(all(&mut monitor), [Event::Routes]);
        other.add_rule(&rule).unwrap();
        other.add_route(&route).unwrap();
        assert_eq!(all(&mut monitor), [Event::Rules(family), Event::Routes]);
        own.delete_rule(&rule).unwrap();
        own.delete_route(&route).unwrap();
        assert_eq!(all(&mut monitor), []);
    }
}

#[test]
fn changes_elsewhere_are_not_told() {
    let (Some(namespace), Some(other)) = (namespace(), namespace()) else { return };
    let mut monitor = monitor(&namespace);
    netlink(&other).add_rule(&Rule::lookup(Family::Ipv4, 100, 5)).unwrap();
    assert!(!all(&mut monitor).contains(&Event::Rules(Family::Ipv4)));
}

#[test]
fn an_overrun_is_told_and_gone_when_read() {
    let Some(namespace) = namespace() else { return };
    let mut monitor = namespace.run(|| Monitor::with_receive_buffer(1)).unwrap().unwrap();
    let mut kernel = netlink(&namespace);
    let rules: Vec<Rule> = (0..200).map(|at| Rule::lookup(Family::Ipv4, 1000 - at, 5)).collect();
    assert!(kernel.add_rules(&rules).iter().all(Result::is_ok));
    assert!(all(&mut monitor).contains(&Event::Overrun));
    assert_eq!(all(&mut monitor), []);
    kernel.delete_rule(&rules[0]).unwrap();
    assert_eq!(all(&mut monitor), [Event::Rules(Family::Ipv4)], "it goes on afterwards");
}

/// The reactor is edge-triggered: each change, and what one reading left, must wake it again.
#[test]
fn a_reactor_is_woken_for_everything() {
    let Some(namespace) = namespace() else { return };
    let mut monitor = monitor(&namespace);
    let mut kernel = netlink(&namespace);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // SAFETY: the monitor, and with it the descriptor, outlives the registration.
        let fd = unsafe { AsyncFd::register_with_interest(monitor.fds()[0], Interest::READABLE) }.unwrap();
        let woken = async |monitor: &mut Monitor| {
            let wait = tokio::time::timeout(std::time::Duration::from_secs(5), fd.readable());
            wait.await.expect("woken").unwrap().clear_ready();
            monitor.next_events().unwrap()
        };
        for round in 0..3 {
            kernel.add_rule(&Rule::lookup(Family::Ipv4, round, 5)).unwrap();
            assert_eq!(woken(&mut monitor).await, [Event::Rules(Family::Ipv4)], "round {round}");
        }
        // More than one reading takes, then silence: the rest must wake it without any further change.
        let rules: Vec<Rule> = (0..2500).map(|at| Rule::lookup(Family::Ipv6, 9000 - at, 5)).collect();
        assert!(kernel.add_rules(&rules).iter().all(Result::is_ok));
        let mut wakes = 0;
        while !fds_are_quiet(&monitor) {
            assert_eq!(woken(&mut monitor).await, [Event::Rules(Family::Ipv6)]);
            wakes += 1;
        }
        assert!(wakes > 1, "{wakes}");
    });
}

fn fds_are_quiet(monitor: &Monitor) -> bool {
    let mut fd = libc::pollfd { fd: monitor.fds()[0], events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, no waiting.
    unsafe { libc::poll(&raw mut fd, 1, 0) == 0 }
}

#[test]
fn a_link_that_comes_and_goes_is_told() {
    let Some(namespace) = namespace() else { return };
    let mut monitor = monitor(&namespace);
    namespace.run(|| Admin::open().unwrap().veth(NewLink::named("x"), NewLink::named("y"))).unwrap().unwrap();
    assert!(all(&mut monitor).contains(&Event::Links));
    namespace.run(|| Admin::open().unwrap().delete_link("x")).unwrap().unwrap();
    assert!(all(&mut monitor).contains(&Event::Links));
}
