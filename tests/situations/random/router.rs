//! Random routers: interfaces, settings, rules and routes, always the same ones for the same seed.

use super::pick;
use anyhow::Result;
use fastrand::Rng;
use ipnet::IpNet;
use std::net::IpAddr;
use wayfork::kernel::{Admin, Kernel};
use wayfork::model::{Family, NextHop, Ports, Route, RouteKind, Rule, RuleAction, Selectors, TABLE_LOCAL};
use wayfork_tests::rig::{Kind, Rig};

/// One router, before it is built.
#[derive(Debug)]
pub struct Plan {
    pub interfaces: Vec<Interface>,
    settings: Vec<(String, String)>,
    rules: Vec<Rule>,
    routes: Vec<Route>,
    /// The rules of the kernel for local addresses stand behind these.
    local_last: bool,
    /// A policy file besides, or nothing. Both routers get it, one for its stack alone.
    pub policy: String,
    /// The far ends of all cables but the first one's are apart, so that marks may be written.
    apart: bool,
    /// More of the section `[router]` for the one with Wayfork.
    pub cap: &'static str,
}

#[derive(Debug)]
pub struct Interface {
    pub name: String,
    pub number: u8,
    pub kind: Kind,
    pub mtu: u32,
    /// Its cable is not plugged in at the other end.
    pub unplugged: bool,
    addresses: Vec<String>,
}

/// Destinations behind the router.
pub const FAR: [[&str; 4]; 2] = [
    ["111.11.1.1", "111.11.2.2", "203.0.113.7", "100.64.9.9"],
    ["2001:db8:111::1", "2001:db8:111:2::2", "2001:db8:203::7", "2a00:64::9"],
];

const STATIC: u8 = 4;
const TABLES: [u32; 6] = [100, 101, 102, 254, 999, 4_000_000_000];

/// What is on the link of every interface that has a link layer: gateways first, then hosts.
pub fn on_link(number: u8) -> Vec<IpAddr> {
    let texts = [
        format!("10.{number}.0.2"),
        format!("10.{number}.0.3"),
        format!("198.18.{number}.9"),
        format!("10.{number}.0.7"),
        format!("10.{number}.1.5"),
        format!("fd0{number}::2"),
        format!("fd0{number}::3"),
        format!("2001:db8:f{number}::9"),
        format!("fd0{number}::7"),
        format!("fe80::{number}:9"),
    ];
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Plan {
        let interfaces: Vec<Interface> = (1..=rng.u8(3..=6)).map(|number| Interface::new(rng, number)).collect();
        let mut plan = Plan {
            settings: settings(rng, &interfaces),
            interfaces,
            rules: Vec::new(),
            routes: Vec::new(),
            local_last: one_in(rng, 8),
            policy: String::new(),
            apart: false,
            cap: "",
        };
        for family in Family::BOTH {
            plan.routes.push(Route {
                table: 254,
                dst: family.default_prefix(),
                metric: 500,
                ..plan.unicast(rng, family)
            });
            for _ in 0..rng.usize(4..16) {
                let route = plan.route(rng, family);
                plan.routes.push(route);
            }
            // Now and then a list that nobody touched: IPv4 takes a short cut then.
            let rules = if one_in(rng, 8) { 0 } else { rng.usize(1..10) };
            for _ in 0..rules {
                let rule = plan.rule(rng, family);
                plan.rules.push(rule);
            }
        }
        if one_in(rng, 3) {
            plan.policy = plan.policy(rng);
        }
        // More often with a file, or else files and marks would seldom meet.
        let file = !plan.policy.is_empty();
        plan.apart = rng.u8(..6) < if file { 4 } else { 3 };
        if plan.apart && (file || rng.bool()) {
            plan.cap = "fast_path = \"mark\"\n";
        }
        plan
    }

    /// A policy file with marks that decide.
    fn policy(&self, rng: &mut Rng) -> String {
        let mut text = String::new();
        for _ in 0..rng.usize(1..4) {
            text += &format!("[[mark]]\nset = {:?}\n", pick(rng, &["0x20/0xff", "0x100/0x100", "0/0xff", "0x3/0x3"]));
            if rng.bool() {
                text += &format!("iif = {:?}\n", pick_ref(rng, &self.interfaces).name);
            }
            text += pick(
                rng,
                &[
                    "",
                    "ipproto = \"udp\"\n",
                    "ipproto = \"tcp\"\ndport = [80, 443]\n",
                    "ipproto = [\"tcp\", \"udp\"]\nsport = \"4000-4001\"\n",
                    "dscp = 46\n",
                ],
            );
            text += pick(rng, &["", "", "fwmark = 1\n", "to = [\"111.11.0.0/16\", \"2001:db8::/32\"]\n"]);
        }
        for (priority, mark) in [(25, "0x20/0xff"), (26, "0x100/0x100"), (27, "0x3/0xf")] {
            let table = pick(rng, &[100, 101, 102, 254]);
            text += &format!("[[rule]]\npriority = {priority}\nfwmark = {mark:?}\ntable = {table}\n");
        }
        text
    }

    /// Builds it. What the kernel refuses is left out; it refuses the same each time.
    pub fn build(&self, exe: &str) -> Result<Option<Rig>> {
        let Some(mut rig) = Rig::new(exe)? else { return Ok(None) };
        if self.apart {
            let names: Vec<&str> = self.interfaces[1..].iter().map(|interface| &*interface.name).collect();
            rig.apart(&names)?;
        }
        for interface in &self.interfaces {
            let addresses: Vec<&str> = interface.addresses.iter().map(String::as_str).collect();
            rig.interface(&interface.name, interface.number, interface.kind, interface.mtu, &addresses)?;
        }
        rig.lab.inside(Rig::HOST, || Admin::open()?.set_group(&self.interfaces[1].name, 7))?;
        rig.settle()?;
        for interface in self.interfaces.iter().filter(|interface| interface.kind != Kind::Tun) {
            let mut all: Vec<IpAddr> = (1..=6).flat_map(on_link).collect();
            all.extend(FAR.iter().flatten().map(|text| text.parse::<IpAddr>().expect("an address")));
            rig.neighbours(&interface.name, interface.number, &all)?;
        }
        let settings: Vec<(&str, &str)> = self.settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        rig.lab.settings(Rig::HOST, &settings)?;
        rig.kernel(|kernel| {
            let rules = self.rules.iter().filter(|rule| kernel.add_rule(rule).is_ok()).count();
            let routes = self.routes.iter().filter(|route| kernel.add_route(route).is_ok()).count();
            assert!(rules * 2 >= self.rules.len() && routes >= 4, "the kernel took {rules} rules and {routes} routes");
            if self.local_last {
                for local in kernel.rules()?.into_iter().filter(|rule| rule.action == RuleAction::Table(TABLE_LOCAL)) {
                    kernel.add_rule(&Rule { priority: 32000, ..local.clone() })?;
                    kernel.delete_rule(&local)?;
                }
            }
            Ok(())
        })?;
        for interface in self.interfaces.iter().filter(|interface| interface.unplugged) {
            rig.unplug(&interface.name)?;
        }
        Ok(Some(rig))
    }

    fn rule(&self, rng: &mut Rng, family: Family) -> Rule {
        let mut s = Selectors { not: one_in(rng, 6), ..Selectors::default() };
        if one_in(rng, 3) {
            s.iif = Some(if one_in(rng, 5) { "gone".to_owned() } else { pick_ref(rng, &self.interfaces).name.clone() });
        }
        s.oif = one_in(rng, 15).then(|| self.interfaces[0].name.clone());
        if one_in(rng, 3) {
            s.fwmark = Some(pick(rng, &[(1, u32::MAX), (0x20, 0xff), (0, 0xff), (0x100, 0x100), (0, u32::MAX)]));
        }
        s.from = one_in(rng, 4).then(|| self.net(rng, family));
        s.to = one_in(rng, 3).then(|| self.net(rng, family));
        s.tos = if family == Family::Ipv4 && one_in(rng, 12) { pick(rng, &[0x08, 0x10]) } else { 0 };
        if s.tos == 0 && one_in(rng, 10) {
            s.dscp = Some((pick(rng, &[46, 8, 0]), 0x3f));
        }
        s.ipproto = one_in(rng, 6).then(|| pick(rng, &[6, 17, if family == Family::Ipv4 { 1 } else { 58 }]));
        s.sport = one_in(rng, 12).then_some(Ports::Range { start: 4000, end: 4001 });
        s.dport = one_in(rng, 6)
            .then(|| pick(rng, &[Ports::Range { start: 80, end: 443 }, Ports::Range { start: 53, end: 53 }]));
        s.uidrange = one_in(rng, 20).then_some((0, 1000));
        let priority = pick(rng, &[10, 20, 30, 30, 40, 50, 60, 32766, 32800]);
        let action = match rng.u8(..16) {
            0 => RuleAction::Blackhole,
            1 => RuleAction::Unreachable,
            2 => RuleAction::Prohibit,
            3 | 4 => RuleAction::Goto(priority + pick(rng, &[10, 20, 5])),
            _ => RuleAction::Table(pick(rng, &TABLES)),
        };
        let table = matches!(action, RuleAction::Table(_));
        Rule {
            selectors: s,
            action,
            suppress_prefixlength: (table && one_in(rng, 5)).then(|| pick(rng, &[0, 16, 24])),
            suppress_ifgroup: (table && one_in(rng, 10)).then_some(7),
            protocol: STATIC,
            ..Rule::lookup(family, priority, 0)
        }
    }

    fn route(&self, rng: &mut Rng, family: Family) -> Route {
        let kind = match rng.u8(..16) {
            0 => RouteKind::Blackhole,
            1 => RouteKind::Unreachable,
            2 => RouteKind::Prohibit,
            3 => RouteKind::Throw,
            _ => RouteKind::Unicast,
        };
        let mut route = Route { table: pick(rng, &[100, 101, 102, 254, 4_000_000_000]), ..self.unicast(rng, family) };
        route.metric = pick(rng, &[0, 0, 10, 20]);
        route.tos = if family == Family::Ipv4 && one_in(rng, 12) { 0x10 } else { 0 };
        route.mtu = one_in(rng, 6).then(|| pick(rng, &[1300, 1400, 9000]));
        route.mtu_locked = route.mtu.is_some() && rng.bool();
        if one_in(rng, 8) {
            let other = self.unicast(rng, family).nexthops;
            route.nexthops.extend(other);
        }
        if kind != RouteKind::Unicast {
            route = Route { kind, nexthops: Vec::new(), mtu: None, mtu_locked: false, ..route };
        }
        route
    }

    fn unicast(&self, rng: &mut Rng, family: Family) -> Route {
        let interface = pick_ref(rng, &self.interfaces);
        let number = interface.number;
        let hosts = on_link(number);
        let v4 = family == Family::Ipv4;
        let (via, onlink) = match rng.u8(..8) {
            _ if interface.kind == Kind::Tun => (None, false),
            0 => (None, false),
            1 => (Some(hosts[if v4 { 2 } else { 7 }]), true),
            // A gateway of the other family, or a link-local one.
            2 if v4 => (Some(hosts[5]), false),
            2 => (Some(hosts[9]), false),
            n => (Some(hosts[if v4 { 0 } else { 5 } + usize::from(n & 1)]), false),
        };
        let hop = NextHop { via, dev: 10 + u32::from(number), weight: 1, onlink, ..NextHop::default() };
        Route {
            family,
            table: 254,
            dst: self.net(rng, family),
            kind: RouteKind::Unicast,
            src: None,
            tos: 0,
            metric: 0,
            protocol: STATIC,
            scope: if via.is_none() && v4 { 253 } else { 0 },
            prefsrc: None,
            mtu: None,
            mtu_locked: false,
            pref: 0,
            nhid: 0,
            expires: None,
            nexthops: vec![hop],
        }
    }

    /// A prefix that some of the packets' addresses are in.
    fn net(&self, rng: &mut Rng, family: Family) -> IpNet {
        let number = pick_ref(rng, &self.interfaces).number;
        let far = pick(rng, &FAR[usize::from(family == Family::Ipv6)]);
        let text = match (family, rng.u8(..8)) {
            (Family::Ipv4, 0) => "0.0.0.0/0".to_owned(),
            (Family::Ipv4, 1) => "10.0.0.0/8".to_owned(),
            (Family::Ipv4, 2) => format!("10.{number}.0.0/16"),
            (Family::Ipv4, 3) => format!("10.{number}.0.7/32"),
            (Family::Ipv4, 4) => format!("{far}/16"),
            (Family::Ipv4, 5 | 6) => format!("{far}/24"),
            (Family::Ipv4, _) => format!("{far}/32"),
            (Family::Ipv6, 0) => "::/0".to_owned(),
            (Family::Ipv6, 1) => "fd00::/8".to_owned(),
            (Family::Ipv6, 2) => format!("fd0{number}::/64"),
            (Family::Ipv6, 3) => format!("fd0{number}::7/128"),
            (Family::Ipv6, 4) => format!("{far}/32"),
            (Family::Ipv6, 5 | 6) => format!("{far}/48"),
            (Family::Ipv6, _) => format!("{far}/128"),
        };
        text.parse::<IpNet>().expect("a prefix").trunc()
    }
}

impl Interface {
    fn new(rng: &mut Rng, number: u8) -> Interface {
        let kind = match rng.u8(..8) {
            _ if number == 1 => Kind::Veth,
            0 => Kind::Bridge,
            1 => Kind::Macvlan,
            2 | 3 => Kind::Tun,
            _ => Kind::Veth,
        };
        let mut addresses = vec![format!("fd0{number}::1/{}", pick(rng, &[64, 64, 64, 126, 128]))];
        addresses.push(match rng.u8(..6) {
            0 => format!("10.{number}.0.3/31"),
            1 => format!("10.{number}.0.1/32"),
            _ => format!("10.{number}.0.1/24"),
        });
        if one_in(rng, 3) {
            addresses.push(format!("10.{number}.1.1/24"));
        }
        let mtu = pick(rng, &[1500, 1500, 1500, 1400, 1300, 1280, 1200]);
        let unplugged = kind != Kind::Tun && number > 2 && one_in(rng, 8);
        Interface { name: format!("n{number}"), number, kind, mtu, unplugged, addresses }
    }
}

fn settings(rng: &mut Rng, interfaces: &[Interface]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    // Most routers check no sources: else the fast path would seldom redirect.
    let checks = one_in(rng, 4);
    for Interface { name, .. } in interfaces {
        let mut v4 =
            |setting: &str, value: u8| all.push((format!("net.ipv4.conf.{name}.{setting}"), value.to_string()));
        v4("rp_filter", if checks { rng.u8(..3) } else { 0 });
        v4("src_valid_mark", u8::from(checks && rng.bool()));
        v4("accept_local", u8::from(one_in(rng, 6)));
        v4("route_localnet", u8::from(one_in(rng, 6)));
        v4("send_redirects", rng.u8(..2));
        v4("ignore_routes_with_linkdown", rng.u8(..2));
        v4("forwarding", u8::from(!one_in(rng, 10)));
    }
    all.push(("net.ipv6.conf.all.forwarding".to_owned(), u8::from(!one_in(rng, 10)).to_string()));
    // That one writes IPv6's interfaces alone; this keeps what was chosen for IPv4.
    for family in ["ipv4", "ipv6"] {
        all.push((format!("net.{family}.fib_multipath_hash_policy"), rng.u8(..3).to_string()));
    }
    all
}

fn pick_ref<'a, T>(rng: &mut Rng, values: &'a [T]) -> &'a T {
    &values[rng.usize(..values.len())]
}

fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}
