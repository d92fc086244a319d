//! Random settings and addresses.

use super::{INTERFACES, one_in, pick};
use crate::kernel::admin::{read_setting, write_setting};
use crate::kernel::{Admin, Kernel, Netlink};
use crate::model::{Address, Host};
use fastrand::Rng;
use ipnet::IpNet;
use std::net::IpAddr;

/// Addresses beside the usual one: secondary ones, single ones, networks of two.
const MORE: [(&str, &str); 7] = [
    ("lan", "10.1.0.9/24"),
    ("guest", "10.2.5.0/31"),
    ("up0", "192.0.2.55/32"),
    ("up1", "10.4.0.130/25"),
    ("lan", "fd01::7/128"),
    ("guest", "fd02:5::/127"),
    ("up1", "fd04:0:0:9::1/64"),
];

/// Some of the further addresses instead of those that are there.
pub fn addresses(kernel: &mut Netlink, admin: &mut Admin, rng: &mut Rng, host: &Host) {
    for (name, text) in MORE {
        let net: ipnet::IpNet = text.parse().unwrap();
        let there = host.addresses.iter().any(|address| address.addr == net.addr());
        match (there, one_in(rng, 3)) {
            (true, false) => admin.delete_address(name, net).unwrap(),
            (false, true) => admin.add_address(name, net).unwrap(),
            _ => {}
        }
    }
    // The kernel makes the routes of IPv6 addresses a moment later (`addrconf_dad_work`), that of the network's anycast address
    // last, where it forwards.
    for _ in 0..200 {
        let host = kernel.host().unwrap();
        let has = |addr: IpAddr| host.routes.iter().any(|route| route.table == 255 && route.dst == addr.into());
        let anycast = |net: IpNet| host.settings.all_v6.forwarding && net.prefix_len() < 127;
        let complete = |address: &Address| {
            let net = IpNet::new(address.addr, address.prefix_len).unwrap();
            has(net.addr()) && (!anycast(net) || has(net.network()))
        };
        let ours = |address: &&Address| address.addr.is_ipv6() && address.addr.to_string().starts_with("fd");
        if host.addresses.iter().filter(ours).all(complete) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("the routes of new addresses did not come within a second");
}

/// Every setting that a decision looks at. `easy`: those with which the fast path decides most packets itself.
pub fn settings(rng: &mut Rng, easy: bool) {
    // Writing `forwarding` for all devices writes it to each of them, so that comes first.
    let mild = easy || !one_in(rng, 4);
    set("net.ipv6.conf.all.forwarding", u8::from(easy || !one_in(rng, 6)));
    for (setting, most) in
        [("rp_filter", 3), ("send_redirects", 2), ("src_valid_mark", 2), ("accept_local", 2), ("route_localnet", 2)]
    {
        let value = if mild { 0 } else { rng.u8(..most) };
        set(&format!("net.ipv4.conf.all.{setting}"), value);
    }
    for family in ["ipv4", "ipv6"] {
        set(&format!("net.{family}.fib_multipath_hash_policy"), rng.u8(..4));
    }
    for name in INTERFACES {
        for (setting, value) in [
            ("rp_filter", if easy { 0 } else { rng.u8(..3) }),
            ("src_valid_mark", if easy { 0 } else { rng.u8(..2) }),
            ("accept_local", u8::from(one_in(rng, 6))),
            ("route_localnet", u8::from(one_in(rng, 6))),
            ("send_redirects", rng.u8(..2)),
            ("forwarding", u8::from(easy || !one_in(rng, 8))),
            ("ignore_routes_with_linkdown", rng.u8(..2)),
        ] {
            set(&format!("net.ipv4.conf.{name}.{setting}"), value);
        }
        set(&format!("net.ipv6.conf.{name}.ignore_routes_with_linkdown"), rng.u8(..2));
        set(&format!("net.ipv6.conf.{name}.force_forwarding"), pick(rng, &[0, 0, 1]));
    }
}

/// Writes a setting where it is another; what this kernel does not have cannot matter on it.
fn set(name: &str, value: u8) {
    let value = value.to_string();
    if read_setting(name).unwrap().is_some_and(|now| now != value) {
        write_setting(name, &value).unwrap();
    }
}
