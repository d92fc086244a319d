#![allow(clippy::unwrap_used)]
//! A copy of a random router is the router.

use super::Scratch;
use crate::kernel::{Kernel, Netlink};
use crate::model::{Host, NeighbourState, RouteKind};
use crate::proof::testing::{randomize, world};
use std::collections::BTreeMap;

/// What a copy cannot have, or has under another name: the order of a dump is not part of a host, and neighbours that
/// nobody answers for are left out.
fn comparable(mut host: Host) -> Host {
    for link in host.links.values_mut() {
        (link.kind, link.lower, link.master, link.lower_elsewhere) = (String::new(), None, None, false);
    }
    // Under load the kernel keeps the anycast address of a network that it forwards for no more. Nobody else can make such a
    // route: the copy's has a metric.
    for route in host.routes.iter_mut().filter(|route| route.kind == RouteKind::Anycast) {
        route.metric = 0;
    }
    host.routes.iter_mut().flat_map(|route| &mut route.nexthops).for_each(|hop| hop.onlink = false);
    host.routes.sort();
    host.addresses.sort();
    host.neighbours.retain(|n| n.state == NeighbourState::Permanent);
    host.neighbours.sort_by_key(|n| (n.index, n.addr));
    host
}

#[test]
fn a_copy_holds_what_the_original_holds() {
    let Some(world) = world() else { return };
    for seed in 0..6 {
        let (original, copy, notes) = world.run(|kernel| {
            randomize(kernel, &mut fastrand::Rng::with_seed(seed), false);
            // What the kernel made by itself and somebody took away must not come back in the copy.
            let made = kernel.host().unwrap();
            let connected = |r: &&crate::model::Route| r.protocol == 2 && r.table == 254 && r.dst.addr().is_ipv4();
            if let Some(route) = made.routes.iter().find(connected) {
                kernel.delete_route(route).unwrap();
            }
            let mut link_local = made.addresses.iter().filter(|a| a.addr.to_string().starts_with("fe80"));
            if let Some(address) = link_local.next() {
                let net = ipnet::IpNet::new(address.addr, 64).unwrap();
                crate::kernel::Admin::open().unwrap().delete_address(&made.link_name(address.index), net).unwrap();
            }
            let original = kernel.host().unwrap();
            let scratch = Scratch::like(&original).unwrap();
            let copy = scratch.run(|| scratch.host(&mut Netlink::open().unwrap()).unwrap()).unwrap();
            (original, copy, scratch.notes().to_vec())
        });
        assert_eq!(notes, Vec::<String>::new(), "seed {seed}");
        let (original, copy) = (comparable(original), comparable(copy));
        assert_eq!(copy.rules, original.rules, "seed {seed}");
        assert_eq!(copy.links, original.links, "seed {seed}");
        assert_eq!(copy.addresses, original.addresses, "seed {seed}");
        assert_eq!(copy.settings, original.settings, "seed {seed}");
        assert_eq!(copy.neighbours, original.neighbours, "seed {seed}");
        let by_text = |host: &Host| -> BTreeMap<String, usize> {
            let mut count = BTreeMap::new();
            host.routes.iter().for_each(|route| *count.entry(format!("{route:?}")).or_default() += 1);
            count
        };
        let (one, other) = (by_text(&original), by_text(&copy));
        let differ: Vec<_> = one
            .iter()
            .filter(|(k, v)| other.get(*k) != Some(v))
            .chain(other.iter().filter(|(k, _)| !one.contains_key(*k)))
            .collect();
        assert!(differ.is_empty(), "seed {seed}: {differ:#?}");
    }
}

#[test]
fn a_device_without_a_header_is_copied_and_the_original_is_not_touched() {
    let Some(world) = world() else { return };
    world.run(|kernel| {
        let _tun = crate::kernel::admin::tun("wg0", crate::kernel::admin::TunKind::Tun, false).unwrap();
        crate::kernel::Admin::open().unwrap().up("wg0").unwrap();
        let before = kernel.host().unwrap();
        let scratch = Scratch::like(&before).unwrap();
        let copy = scratch.run(|| scratch.host(&mut Netlink::open().unwrap()).unwrap()).unwrap();
        let (wg0, original) = (copy.link("wg0").unwrap(), before.link("wg0").unwrap());
        assert_eq!((wg0.index, wg0.arphrd, wg0.mac, wg0.mtu), (original.index, 65534, None, original.mtu));
        assert!(wg0.up && wg0.lower_up);
        scratch.run(|| crate::kernel::Admin::open().unwrap().delete_link("lan").unwrap()).unwrap();
        drop(scratch);
        assert_eq!(kernel.host().unwrap().rules, before.rules);
        assert!(kernel.host().unwrap().link("lan").is_some());
    });
}
