//! Random routers for tests: a namespace with five interfaces, rules and routes of the whole language.
#![allow(clippy::unwrap_used)]

use crate::kernel::admin::{NewLink, write_setting};
use crate::kernel::{Admin, Kernel, Netlink, Netns};
use crate::model::{Attached, Family, Host, NextHop, Ports, Route, RouteKind, Rule, RuleAction, Selectors};
use fastrand::Rng;
use std::net::IpAddr;

/// The interfaces that packets come in by. `bare` has no address, `down` no carrier.
pub const INTERFACES: [&str; 6] = ["lan", "guest", "up0", "up1", "bare", "down"];

/// A router in a namespace of its own; the far ends of its links are in another.
pub struct World {
    pub netns: Netns,
    _far: Netns,
}

/// None, said loudly, where this process may not make namespaces.
pub fn world() -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("\nSKIPPED {test}: needs root to make network namespaces\n").as_bytes(),
        )
        .unwrap();
        return None;
    }
    let (netns, far) = (Netns::new().unwrap(), Netns::new().unwrap());
    netns
        .run(|| {
            let mut admin = Admin::open().unwrap();
            write_setting("net.ipv6.conf.default.accept_dad", "0").unwrap();
            // An interface that does not forward and takes redirects keeps the whole fast path from redirecting.
            for family in ["ipv4", "ipv6"] {
                write_setting(&format!("net.{family}.conf.default.accept_redirects"), "0").unwrap();
            }
            for (number, name) in (1u8..).zip(INTERFACES) {
                let index = 9 + u32::from(number);
                admin.veth(NewLink::named(name).index(index), NewLink::named(name).inside(far.fd())).unwrap();
                if name != "bare" && name != "down" {
                    admin.add_address(name, format!("10.{number}.0.1/24").parse().unwrap()).unwrap();
                    admin.add_address(name, format!("fd0{number}::1/64").parse().unwrap()).unwrap();
                }
                admin.up(name).unwrap();
                if name != "down" {
                    far.run(|| Admin::open().unwrap().up(name).unwrap()).unwrap();
                }
            }
            admin.set_group("up1", 7).unwrap();
            write_setting("net.ipv4.ip_forward", "1").unwrap();
            write_setting("net.ipv6.conf.all.forwarding", "1").unwrap();
            settle();
            // Gateways, and some hosts on every link, so that the fast path has whom to send to.
            for (number, name) in (1..).zip(INTERFACES) {
                for host in [
                    format!("10.{number}.0.2"),
                    format!("10.{number}.0.3"),
                    format!("fd0{number}::2"),
                    format!("fd0{number}::3"),
                ] {
                    admin.set_neighbour(name, host.parse().unwrap(), [2, 0, 0, 0, number, 1]).unwrap();
                }
                for host in
                    ["8.8.8.8", "10.1.0.128", "203.0.113.200", "10.0.0.0", "2001:db8::1", "fd77:0:0:1::9", "2a00::1"]
                {
                    admin.set_neighbour(name, host.parse().unwrap(), [2, 0, 0, 0, number, 2]).unwrap();
                }
            }
        })
        .unwrap();
    Some(World { netns, _far: far })
}

/// Waits until the kernel has noticed all carriers and given its links their link-local addresses and routes.
fn settle() {
    let mut kernel = Netlink::open().unwrap();
    for _ in 0..400 {
        let host = kernel.host().unwrap();
        let up: Vec<u32> =
            host.links.values().filter(|link| link.lower_up && link.index > 1).map(|link| link.index).collect();
        let has = |table: u32, dev: u32, what: &str| {
            let is = |r: &Route| r.table == table && r.nexthops.iter().any(|hop| hop.dev == dev);
            host.routes.iter().any(|r| is(r) && r.dst.to_string().starts_with(what))
        };
        if up.len() == 5
            && up.iter().all(|dev| has(254, *dev, "fe80::/64") && has(255, *dev, "fe80::") && has(255, *dev, "ff00"))
        {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the links did not come up within four seconds");
}

impl World {
    /// Runs `work` inside, with a netlink socket.
    pub fn run<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> T + Send) -> T {
        self.netns.run(|| work(&mut Netlink::open().unwrap())).unwrap()
    }
}

/// Whether this test binary carries the eBPF program; says so where it does not.
pub fn have_object() -> bool {
    let have = !crate::fastpath::EBPF_OBJECT.is_empty();
    if !have {
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        let line = format!("\nSKIPPED {test}: built without the eBPF object; `cargo xtask test` builds it\n");
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
    have
}

fn pick<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.usize(..values.len())]
}

fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}

const NETS4: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.128/25",
    "8.8.8.0/24",
    "8.8.8.8/32",
    "203.0.112.0/20",
    "192.0.2.55/32",
    "10.3.0.0/24",
    "10.1.0.1/32",
    "10.1.0.255/32",
];
const NETS6: [&str; 8] = [
    "::/0",
    "fd00::/8",
    "fd01::/64",
    "fd01::7/128",
    "2001:db8::/32",
    "2001:db8:0:8000::/49",
    "2a00::/16",
    "fd77:0:0:1::/64",
];

fn net(rng: &mut Rng, family: Family) -> ipnet::IpNet {
    match family {
        Family::Ipv4 => pick(rng, &NETS4),
        Family::Ipv6 => pick(rng, &NETS6),
    }
    .parse()
    .unwrap()
}

const TABLES: [u32; 6] = [111, 112, 113, 254, 999, 4_000_000_000];

/// A rule with few or many selectors.
pub fn rule(rng: &mut Rng, family: Family) -> Rule {
    let mut s = Selectors { not: one_in(rng, 5), ..Selectors::default() };
    if one_in(rng, 3) {
        s.iif = Some(pick(rng, &["lan", "guest", "up0", "lo", "gone"]).to_owned());
    }
    s.oif = one_in(rng, 12).then(|| "up1".to_owned());
    if one_in(rng, 3) {
        s.fwmark =
            Some(pick(rng, &[(1, u32::MAX), (0x20, 0xff), (0, 0xff), (0x8000_0000, 0x8000_0000), (0, u32::MAX)]));
    }
    s.from = one_in(rng, 3).then(|| net(rng, family));
    s.to = one_in(rng, 3).then(|| net(rng, family));
    s.tos = if one_in(rng, 9) { pick(rng, &[0x08, 0x10, 0x1c]) } else { 0 };
    if s.tos == 0 && one_in(rng, 9) {
        s.dscp = Some(pick(rng, &[(46, 0x3f), (0, 0x3f), (0x20, 0x38)]));
    }
    if one_in(rng, 5) {
        s.ipproto = Some(pick(rng, &[6, 17, if family == Family::Ipv4 { 1 } else { 58 }]));
    }
    let masked = Ports::Masked { value: 0x0100, mask: 0xff00 };
    let range = |rng: &mut Rng| pick(rng, &[Ports::Range { start: 80, end: 443 }, Ports::one(53), masked]);
    s.sport = one_in(rng, 9).then(|| range(rng));
    s.dport = one_in(rng, 6).then(|| range(rng));
    s.uidrange = one_in(rng, 15).then(|| pick(rng, &[(0, 0), (1, 1000), (0, 5000)]));
    if family == Family::Ipv6 && one_in(rng, 9) {
        s.flowlabel = Some(pick(rng, &[(0x12345, 0xfffff), (0x12000, 0xff000), (0, 0xf)]));
    }
    s.tun_id = one_in(rng, 20).then_some(7);
    let priority = pick(rng, &[10, 20, 30, 30, 40, 50, 60, 32766, 32800]);
    let action = match rng.u8(..16) {
        0 => RuleAction::Nop,
        1 => RuleAction::Blackhole,
        2 => RuleAction::Unreachable,
        3 => RuleAction::Prohibit,
        4 | 5 => RuleAction::Goto(priority + pick(rng, &[10, 20, 5])),
        _ => RuleAction::Table(pick(rng, &TABLES)),
    };
    let table = matches!(action, RuleAction::Table(_));
    Rule {
        family,
        priority,
        selectors: s,
        action,
        suppress_prefixlength: (table && one_in(rng, 6)).then(|| pick(rng, &[0, 8, 24])),
        suppress_ifgroup: (table && one_in(rng, 9)).then_some(7),
        realms: (family == Family::Ipv4 && one_in(rng, 9)).then_some(0x1_0002),
        protocol: 3,
        attached: Attached::default(),
    }
}

/// A route of one of the tables that the rules use.
pub fn route(rng: &mut Rng, host: &Host, family: Family) -> Route {
    let kind = match rng.u8(..14) {
        0 => RouteKind::Blackhole,
        1 => RouteKind::Unreachable,
        2 => RouteKind::Prohibit,
        3 => RouteKind::Throw,
        _ => RouteKind::Unicast,
    };
    let hop = |rng: &mut Rng| {
        let number = rng.u8(1..=6);
        let dev = host.link(INTERFACES[usize::from(number) - 1]).unwrap().index;
        let gateway: Option<IpAddr> = (number <= 4 && !one_in(rng, 4)).then(|| match family {
            Family::Ipv4 => format!("10.{number}.0.{}", rng.u8(2..4)).parse().unwrap(),
            Family::Ipv6 => format!("fd0{number}::{}", rng.u8(2..4)).parse().unwrap(),
        });
        NextHop { via: gateway, dev, weight: 1, ..NextHop::default() }
    };
    let hops = if one_in(rng, 6) { 2 } else { 1 };
    Route {
        family,
        table: pick(rng, &[111, 112, 113, 254, 4_000_000_000]),
        dst: net(rng, family),
        kind,
        src: Some(net(rng, family)).filter(|net| net.prefix_len() != 0 && family == Family::Ipv6 && one_in(rng, 8)),
        tos: if family == Family::Ipv4 && one_in(rng, 8) { 0x10 } else { 0 },
        metric: pick(rng, &[0, 0, 10, 20]),
        protocol: 3,
        scope: 0,
        prefsrc: None,
        mtu: None,
        mtu_locked: false,
        expires: None,
        pref: if family == Family::Ipv6 && one_in(rng, 6) { pick(rng, &[1, 3]) } else { 0 },
        nhid: 0,
        nexthops: if kind == RouteKind::Unicast { (0..hops).map(|_| hop(rng)).collect() } else { Vec::new() },
    }
}

/// All that makes a host, to be pasted.
pub fn all_commands(host: &Host) -> String {
    let mut lines: Vec<String> = host.rules.iter().map(super::rule_command).collect();
    let added = host.routes.iter().filter(|route| route.protocol != 2);
    lines.extend(added.map(|route| super::route_command(host, route)));
    lines.join("\n")
}

/// Adds random rules, routes and settings; what the kernel refuses is left out. Gives what is there in the end.
///
/// `easy`: settings with which the fast path decides most packets itself.
pub fn randomize(kernel: &mut Netlink, rng: &mut Rng, easy: bool) -> Host {
    let host = kernel.host().unwrap();
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
            write_setting(&format!("net.ipv4.conf.{name}.{setting}"), &value.to_string()).unwrap();
        }
        let linkdown = rng.u8(..2).to_string();
        write_setting(&format!("net.ipv6.conf.{name}.ignore_routes_with_linkdown"), &linkdown).unwrap();
    }
    if easy || !one_in(rng, 4) {
        for setting in ["rp_filter", "send_redirects", "src_valid_mark", "accept_local", "route_localnet"] {
            write_setting(&format!("net.ipv4.conf.all.{setting}"), "0").unwrap();
        }
    }
    if !easy && one_in(rng, 6) {
        write_setting("net.ipv6.conf.all.forwarding", "0").unwrap();
        for name in INTERFACES {
            write_setting(&format!("net.ipv4.conf.{name}.forwarding"), "1").unwrap();
        }
    }
    let mut added = 0;
    if easy {
        for (family, via) in [(Family::Ipv4, "10.3.0.2"), (Family::Ipv6, "fd03::2")] {
            let hop = NextHop {
                via: via.parse().ok(),
                dev: host.link("up0").unwrap().index,
                weight: 1,
                ..NextHop::default()
            };
            let dst = family.default_prefix();
            let plain = Route {
                kind: RouteKind::Unicast,
                table: 254,
                dst,
                src: None,
                tos: 0,
                metric: 50,
                pref: 0,
                ..route(rng, &host, family)
            };
            kernel.add_route(&Route { nexthops: vec![hop], ..plain }).unwrap();
        }
    }
    for family in Family::BOTH {
        // Now and then a list that nobody touched: IPv4 takes a short cut then.
        let rules = if one_in(rng, 8) { 0 } else { rng.usize(2..14) };
        for _ in 0..rules {
            added += usize::from(kernel.add_rule(&rule(rng, family)).is_ok());
        }
        for _ in 0..rng.usize(4..20) {
            added += usize::from(kernel.add_route(&route(rng, &host, family)).is_ok());
        }
    }
    assert!(added >= 4, "the kernel took only {added} of the random rules and routes");
    kernel.host().unwrap()
}
