//! Interfaces, addresses, neighbours and settings, compared with what /proc/sys and iproute2 say.

use super::{ip, namespace, netlink, two_links};
use crate::kernel::admin::{self, NewLink, TunKind, read_setting, write_setting};
use crate::kernel::{Admin, Kernel, Netns};
use crate::model::{Address, NeighbourState};
use std::net::IpAddr;

fn on(name: &str) -> bool {
    read_setting(name).unwrap().is_some_and(|value| value != "0")
}

#[test]
fn links_report_the_settings_that_proc_sys_shows() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let mut kernel = netlink(&namespace);
    let v4 = [
        "forwarding",
        "rp_filter",
        "accept_redirects",
        "send_redirects",
        "accept_local",
        "src_valid_mark",
        "route_localnet",
    ];
    let v6 = ["forwarding", "force_forwarding", "accept_redirects", "ignore_routes_with_linkdown", "disable_ipv6"];
    let both: Vec<String> = v4
        .iter()
        .chain(&["ignore_routes_with_linkdown"])
        .map(|name| format!("net.ipv4.conf.a0.{name}"))
        .chain(v6.iter().map(|name| format!("net.ipv6.conf.a0.{name}")))
        .collect();
    // Each setting turned round by itself, so that no two places of the array can be mistaken for each other.
    for turned in &both {
        let was = namespace.run(|| read_setting(turned).unwrap()).unwrap();
        let Some(was) = was else {
            eprintln!("left out, not in this kernel: {turned}");
            continue;
        };
        let value = if was == "0" { "1" } else { "0" };
        namespace.run(|| write_setting(turned, value).unwrap()).unwrap();
        let link = kernel.links().unwrap().into_values().find(|link| link.name == "a0").unwrap();
        namespace
            .run(|| {
                let text = |name: &str| read_setting(&format!("net.ipv4.conf.a0.{name}")).unwrap().unwrap();
                let set4 = |name: &str| on(&format!("net.ipv4.conf.a0.{name}"));
                let set6 = |name: &str| on(&format!("net.ipv6.conf.a0.{name}"));
                assert_eq!(link.v4.forwarding, set4("forwarding"), "{turned}");
                assert_eq!(link.v4.rp_filter.to_string(), text("rp_filter"), "{turned}");
                assert_eq!(link.v4.accept_redirects, set4("accept_redirects"), "{turned}");
                assert_eq!(link.v4.send_redirects, set4("send_redirects"), "{turned}");
                assert_eq!(link.v4.accept_local, set4("accept_local"), "{turned}");
                assert_eq!(link.v4.src_valid_mark, set4("src_valid_mark"), "{turned}");
                assert_eq!(link.v4.route_localnet, set4("route_localnet"), "{turned}");
                assert_eq!(link.v4.ignore_linkdown, set4("ignore_routes_with_linkdown"), "{turned}");
                assert_eq!(link.v6.forwarding, set6("forwarding"), "{turned}");
                assert_eq!(link.v6.force_forwarding, set6("force_forwarding"), "{turned}");
                assert_eq!(link.v6.ignore_linkdown, set6("ignore_routes_with_linkdown"), "{turned}");
                assert_eq!(link.v6.accept_redirects, set6("accept_redirects"), "{turned}");
                assert_eq!(link.v6.disabled, set6("disable_ipv6"), "{turned}");
                assert_eq!(Some(link.v6.mtu.to_string()), read_setting("net.ipv6.conf.a0.mtu").unwrap(), "{turned}");
                write_setting(turned, &was).unwrap();
            })
            .unwrap();
    }
}

#[test]
fn settings_are_of_the_namespace_that_was_opened() {
    let Some(namespace) = namespace() else { return };
    let other = Netns::new().unwrap();
    for (name, value) in [
        ("net.ipv4.conf.all.rp_filter", "2"),
        ("net.ipv4.conf.all.accept_redirects", "0"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.ip_forward_use_pmtu", "1"),
        ("net.ipv4.ip_forward_update_priority", "0"),
        ("net.ipv4.fib_multipath_hash_policy", "1"),
        ("net.ipv6.fib_multipath_hash_policy", "2"),
    ] {
        namespace.run(|| write_setting(name, value).unwrap()).unwrap();
    }
    // From this thread, which is in neither.
    let read = |namespace: &Netns| netlink(namespace).settings().unwrap();
    let (here, there) = (read(&namespace), read(&other));
    assert_eq!(namespace.run(|| netlink(&namespace).settings().unwrap()).unwrap(), here, "nor does it matter inside");
    assert_eq!((here.all_v4.rp_filter, here.all_v4.send_redirects), (2, false));
    assert!(here.all_v6.forwarding && here.forward_use_pmtu && here.keep_priority);
    assert_eq!((here.hash_policy_v4, here.hash_policy_v6), (1, 2));
    assert_eq!((here.all_v4.accept_redirects, there.all_v4.accept_redirects), (false, true));
    assert_eq!((there.all_v4.rp_filter, there.all_v4.send_redirects), (0, true));
    assert!(!there.all_v6.forwarding && !there.forward_use_pmtu && !there.keep_priority);
    assert_eq!((there.hash_policy_v4, there.hash_policy_v6), (0, 0));
}

#[test]
fn links_of_every_shape() {
    let Some(namespace) = namespace() else { return };
    let other = Netns::new().unwrap();
    let mac = [2, 0, 0, 0, 0, 7];
    let (_tun, _tap) = namespace
        .run(|| {
            let mut admin = Admin::open().unwrap();
            admin.veth(NewLink::named("near").mac(mac).mtu(1400).index(0x7000_0001), NewLink::named("peer")).unwrap();
            let there = NewLink::named("there").inside(other.fd()).index(77);
            assert_eq!(admin.veth(NewLink::named("here"), there).unwrap_err().errno(), libc::EINVAL);
            admin.veth(NewLink::named("here").index(76), there).unwrap();
            admin.bridge(NewLink::named("br0")).unwrap();
            admin.set_master("peer", Some("br0")).unwrap();
            admin.set_group("peer", 42).unwrap();
            admin.up("near").unwrap();
            admin.up("peer").unwrap();
            (admin::tun("tun0", TunKind::Tun, false).unwrap(), admin::tun("tap0", TunKind::Tap, false).unwrap())
        })
        .unwrap();
    let links = netlink(&namespace).links().unwrap();
    let link = |name: &str| links.values().find(|link| link.name == name).unwrap_or_else(|| panic!("no {name}"));
    let near = link("near");
    assert_eq!((near.index, near.mac, near.mtu, near.arphrd), (0x7000_0001, Some(mac), 1400, 1));
    assert!(near.up && near.lower_up && near.kind == "veth");
    let peer = link("peer");
    assert_eq!((near.lower, peer.lower), (Some(peer.index), Some(near.index)), "veth peers in one namespace");
    assert_eq!((peer.master, peer.group), (Some(link("br0").index), 42));
    assert_eq!((link("here").lower, link("here").up), (None, false), "the peer is elsewhere");
    assert_eq!((link("tun0").arphrd, link("tun0").mac, link("tun0").kind.as_str()), (65534, None, "tun"));
    assert_eq!(link("tap0").arphrd, 1);
    assert_eq!((link("lo").arphrd, link("lo").up), (772, true));
    let there = netlink(&other).links().unwrap();
    assert_eq!(there.get(&77).map(|link| link.name.as_str()), Some("there"));

    namespace
        .run(|| {
            let mut admin = Admin::open().unwrap();
            admin.set_mac("near", [2, 0, 0, 0, 0, 9]).unwrap();
            admin.set_mtu("near", 1300).unwrap();
            admin.down("near").unwrap();
            admin.set_master("peer", None).unwrap();
            admin.move_to("br0", other.fd()).unwrap_err();
            admin.move_to("tap0", other.fd()).unwrap();
            admin.delete_link("here").unwrap();
            assert_eq!(admin.index("here").unwrap_err().errno(), libc::ENODEV);
        })
        .unwrap();
    let links = netlink(&namespace).links().unwrap();
    let near = &links[&0x7000_0001];
    assert_eq!((near.mac, near.mtu, near.up), (Some([2, 0, 0, 0, 0, 9]), 1300, false));
    assert_eq!(links[&peer.index].master, None);
    assert!(!links.values().any(|link| ["here", "tap0"].contains(&link.name.as_str())));
    assert!(netlink(&other).links().unwrap().values().all(|link| link.name != "there"), "a veth goes with its peer");
}

#[test]
fn addresses_and_neighbours() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    let mut kernel = netlink(&namespace);
    let index = namespace.run(|| Admin::open().unwrap().index("a0").unwrap()).unwrap();
    let has = |kernel: &mut super::Netlink, addr: &str, prefix_len| {
        let wanted = Address { index, addr: addr.parse().unwrap(), prefix_len };
        kernel.addresses().unwrap().contains(&wanted)
    };
    assert!(has(&mut kernel, "10.0.0.1", 24) && has(&mut kernel, "fd00::1", 64));
    namespace.run(|| Admin::open().unwrap().delete_address("a0", "fd00::1/64".parse().unwrap()).unwrap()).unwrap();
    assert!(!has(&mut kernel, "fd00::1", 64));

    for addr in ["10.0.0.9", "fd00::9"] {
        let addr: IpAddr = addr.parse().unwrap();
        let entry = |kernel: &mut super::Netlink| {
            let all = kernel.neighbours().unwrap();
            all.into_iter().find(|entry| entry.addr == addr).map(|entry| (entry.index, entry.mac, entry.state))
        };
        for mac in [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]] {
            namespace.run(|| Admin::open().unwrap().set_neighbour("a0", addr, mac).unwrap()).unwrap();
            assert_eq!(entry(&mut kernel), Some((index, Some(mac), NeighbourState::Permanent)));
        }
        kernel.use_neighbour(index, addr).unwrap();
        assert_eq!(entry(&mut kernel).unwrap().2, NeighbourState::Permanent, "stays what it was");
        namespace.run(|| Admin::open().unwrap().delete_neighbour("a0", addr).unwrap()).unwrap();
        assert!(entry(&mut kernel).is_none_or(|(_, _, state)| state == NeighbourState::Failed));
    }
    let unknown: IpAddr = "10.0.0.77".parse().unwrap();
    kernel.use_neighbour(index, unknown).unwrap();
    let state = kernel.neighbours().unwrap().into_iter().find(|entry| entry.addr == unknown).map(|entry| entry.state);
    assert_eq!(state, Some(NeighbourState::Incomplete), "being resolved");
}

#[test]
fn a_stale_neighbour_is_revalidated_when_used() {
    let Some(namespace) = namespace() else { return };
    two_links(&namespace);
    if ip(&namespace, "neigh add 10.0.0.5 lladdr 02:00:00:00:00:05 nud stale dev a0").is_none() {
        return;
    }
    let mut kernel = netlink(&namespace);
    let addr: IpAddr = "10.0.0.5".parse().unwrap();
    let index = namespace.run(|| Admin::open().unwrap().index("a0").unwrap()).unwrap();
    let state = |kernel: &mut super::Netlink| {
        kernel.neighbours().unwrap().into_iter().find(|entry| entry.addr == addr).unwrap().state
    };
    assert_eq!(state(&mut kernel), NeighbourState::Stale);
    kernel.use_neighbour(index, addr).unwrap();
    assert_eq!(state(&mut kernel), NeighbourState::Delay);
}

#[test]
fn the_kernels_own_sentence_is_in_the_error() {
    let Some(namespace) = namespace() else { return };
    let error = namespace.run(|| {
        let mut admin = Admin::open().unwrap();
        admin.veth(NewLink::named("a"), NewLink::named("a-name-that-is-too-long")).unwrap_err()
    });
    let error = error.unwrap();
    assert!(error.said.is_some(), "{error}");
    assert!(error.to_string().starts_with("make veth a and a-name-that-is-too-long: "), "{error}");
}

/// The kernel says of a list of links that changed while it was read that it did (NLM_F_DUMP_INTR): it is read again.
#[test]
fn the_list_is_whole_while_others_change_it() {
    let Some(namespace) = namespace() else { return };
    let steady: Vec<String> = (0..200).flat_map(|n| [format!("a{n}"), format!("b{n}")]).collect();
    let build = || {
        let mut admin = Admin::open().unwrap();
        for pair in steady.chunks(2) {
            admin.veth(NewLink::named(&pair[0]), NewLink::named(&pair[1])).unwrap();
        }
    };
    namespace.run(build).unwrap();
    let mut kernel = netlink(&namespace);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let done = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut admin = namespace.run(Admin::open).unwrap().unwrap();
            let mut flips = 0;
            while !done() {
                let (name, mtu) = (&steady[flips % steady.len()], 1000 + flips as u32 % 500);
                admin.set_mtu(name, mtu).unwrap();
                if flips % 20 == 0 {
                    admin.simple(NewLink::named("flip"), "bridge").unwrap();
                    admin.delete_link("flip").unwrap();
                }
                flips += 1;
            }
        });
        let missing = (0..20).find_map(|_| match kernel.links() {
            Err(error) => Some(error.to_string()),
            Ok(links) => {
                let names: std::collections::HashSet<&str> = links.values().map(|link| link.name.as_str()).collect();
                steady.iter().find(|name| !names.contains(name.as_str())).cloned()
            }
        });
        // Before anything is asserted: a panic would wait for the other thread, which nobody stops then.
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(missing, None);
    });
}
