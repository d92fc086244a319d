//! Random routers for tests: a namespace with five interfaces, rules and routes of the whole language.
#![allow(clippy::unwrap_used)]

mod odd;
mod routes;
mod rules;
mod settings;

pub use odd::ip;
pub use routes::{plain, route};
pub use rules::{marks, rule};

use crate::kernel::admin::{NewLink, write_setting};
use crate::kernel::{Admin, Kernel, Netlink, Netns};
use crate::model::{Family, Host, NextHop, Route, Rule, TABLE_LOCAL};
use fastrand::Rng;

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
    Some(world_in(Netns::new().unwrap()))
}

/// The same in this namespace, which is empty.
pub fn world_in(netns: Netns) -> World {
    let far = Netns::new().unwrap();
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
    World { netns, _far: far }
}

/// Waits until the kernel has noticed all carriers and given its links their link-local addresses and routes.
fn settle() {
    let mut kernel = Netlink::open().unwrap();
    for _ in 0..400 {
        let host = kernel.host().unwrap();
        let has = |table: u32, dev: u32, what: &str| {
            let is = |r: &Route| r.table == table && r.nexthops.iter().any(|hop| hop.dev == dev);
            host.routes.iter().any(|r| is(r) && r.dst.to_string().starts_with(what))
        };
        let linked = |dev| has(254, dev, "fe80::/64") && has(255, dev, "fe80::") && has(255, dev, "ff00");
        let mut up = host.links.values().filter(|link| link.up && link.index > 1 && link.name != "down");
        if up.all(|link| link.lower_up && (link.v6.disabled || linked(link.index))) {
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

const NETS4: [&str; 14] = [
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
    "10.2.5.0/31",
    "10.4.0.128/25",
    "10.3.0.0/31",
];
const NETS6: [&str; 10] = [
    "::/0",
    "fd00::/8",
    "fd01::/64",
    "fd01::7/128",
    "2001:db8::/32",
    "2001:db8:0:8000::/49",
    "2a00::/16",
    "fd77:0:0:1::/64",
    "fd02:5::/127",
    "fd03::/127",
];

fn net(rng: &mut Rng, family: Family) -> ipnet::IpNet {
    match family {
        Family::Ipv4 => pick(rng, &NETS4),
        Family::Ipv6 => pick(rng, &NETS6),
    }
    .parse()
    .unwrap()
}

/// Adds random rules, routes and settings; what the kernel refuses is left out. Gives what is there in the end.
///
/// `easy`: settings with which the fast path decides most packets itself.
pub fn randomize(kernel: &mut Netlink, rng: &mut Rng, easy: bool) -> Host {
    let mut admin = Admin::open().unwrap();
    let host = kernel.host().unwrap();
    settings::settings(rng, easy);
    settings::addresses(kernel, &mut admin, rng, &host);
    routes::objects(&mut admin, rng, &host);
    let mut added = 0;
    if easy {
        for (family, via) in [(Family::Ipv4, "10.3.0.2"), (Family::Ipv6, "fd03::2")] {
            let dev = host.link("up0").unwrap().index;
            let hop = NextHop { via: via.parse().ok(), dev, weight: 1, ..NextHop::default() };
            let (table, dst, metric) = (254, family.default_prefix(), 50);
            let plain = routes::plain(rng, &host, family);
            kernel.add_route(&Route { table, dst, metric, nexthops: vec![hop], ..plain }).unwrap();
        }
    }
    for family in Family::BOTH {
        // Now and then a list that nobody touched: IPv4 takes a short cut then.
        let rules = if one_in(rng, 8) { 0 } else { rng.usize(2..14) };
        for _ in 0..rules {
            added += usize::from(kernel.add_rule(&rules::rule(rng, family)).is_ok());
        }
        if rules > 0 && one_in(rng, 6) {
            rules::move_local(kernel, rng, family);
        }
        for _ in 0..rng.usize(4..20) {
            added += usize::from(kernel.add_route(&routes::route(rng, &host, family)).is_ok());
        }
    }
    assert!(added >= 4, "the kernel took only {added} of the random rules and routes");
    kernel.host().unwrap()
}

/// The same with what only ip(8) can ask for, and changed afterwards; every other one is left as it is.
pub fn randomize_more(kernel: &mut Netlink, rng: &mut Rng, easy: bool) -> Host {
    let host = randomize(kernel, rng, easy);
    if !one_in(rng, 2) {
        return host;
    }
    odd::additions(rng);
    odd::changes(kernel, &mut Admin::open().unwrap(), rng);
    settle();
    kernel.host().unwrap()
}

/// Random rules over plain routes by interfaces that are up, each prefix with one; nothing in the way of the fast path.
pub fn plain_routes(kernel: &mut Netlink, rng: &mut Rng) -> Host {
    settings::settings(rng, true);
    for name in INTERFACES {
        write_setting(&format!("net.ipv4.conf.{name}.send_redirects"), "0").unwrap();
    }
    let host = kernel.host().unwrap();
    let up = |route: &Route| route.nexthops.iter().all(|hop| hop.dev != host.link("down").unwrap().index);
    for family in Family::BOTH {
        let taken = |kernel: &mut Netlink, route: &Route| {
            let one = |r: &Route| (r.family, r.table, r.dst) == (route.family, route.table, route.dst);
            kernel.routes().unwrap().iter().any(one)
        };
        for _ in 0..rng.usize(2..14) {
            drop(kernel.add_rule(&rules::rule(rng, family)));
        }
        for _ in 0..rng.usize(8..24) {
            let route = routes::plain(rng, &host, family);
            if up(&route) && !taken(kernel, &route) {
                drop(kernel.add_route(&route));
            }
        }
    }
    kernel.host().unwrap()
}

/// Takes the rules and routes of [`randomize`] away again; settings, addresses and next-hop objects are for the next one to
/// set. Not everything is as new: that a rule was ever added, a namespace never forgets.
pub fn clear(kernel: &mut Netlink) {
    odd::restore(kernel);
    settle();
    let added = kernel.routes().unwrap().into_iter().filter(|route| route.protocol == 3);
    // Of several that share a slot one may have gone with another.
    added.for_each(|route| drop(kernel.delete_route(&route)));
    if kernel.routes().unwrap().iter().any(|route| route.protocol == 3) {
        odd::flush();
    }
    let rules = kernel.rules().unwrap();
    let added: Vec<Rule> = rules.iter().filter(|rule| rule.protocol == 3).cloned().collect();
    kernel.delete_rules(&added).into_iter().for_each(|outcome| outcome.unwrap());
    for family in Family::BOTH {
        let is_local = |rule: &Rule| *rule == Rule { protocol: 2, ..Rule::lookup(family, 0, TABLE_LOCAL) };
        if !rules.iter().any(is_local) {
            kernel.add_rule(&Rule { protocol: 2, ..Rule::lookup(family, 0, TABLE_LOCAL) }).unwrap();
        }
    }
    let left: Vec<Route> = kernel.routes().unwrap().into_iter().filter(|route| route.protocol == 3).collect();
    assert_eq!(left, [], "routes that cannot be deleted");
    let left = kernel.rules().unwrap();
    assert_eq!(left.len(), 5, "rules that cannot be deleted: {}", crate::model::display_rules(&left));
}
