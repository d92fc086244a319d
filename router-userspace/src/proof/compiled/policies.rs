//! Long lists of rules of one shape each, and the host that they are on.

use crate::model::{
    Attached, DeviceConf, Family, Host, Link, NextHop, Ports, Route, RouteKind, Rule, RuleAction, Selectors,
};
use crate::model::{Neighbour, NeighbourState, PRIORITY_MAIN, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Interfaces that packets come in by.
pub const INGRESS: [(u32, &str); 2] = [(2, "lan"), (3, "guest")];
/// The first of the interfaces that lead out, and how many there are.
const UPLINKS: (u32, u32) = (10, 4);
/// The first table, and how many there are.
const TABLES: (u32, u32) = (100, 8);

/// A way to write many rules.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Sources one after the other.
    FromSorted,
    /// Sources of all lengths, in no order.
    FromShuffled,
    /// Sources within sources.
    FromNested,
    /// Destinations of all lengths.
    To,
    /// Whole marks, and some under masks.
    Marks,
    /// Ranges and single ports, of source and destination.
    Ports,
    /// All of these, wide rules of others in between, `not`, and jumps.
    Mixed,
    /// Sources in groups, each behind a jump over it, as they are grouped for the kernel.
    Grouped,
}

pub const SHAPES: [Shape; 8] = [
    Shape::FromSorted,
    Shape::FromShuffled,
    Shape::FromNested,
    Shape::To,
    Shape::Marks,
    Shape::Ports,
    Shape::Mixed,
    Shape::Grouped,
];

/// A host with so many rules of a shape in one family; the other family has the kernel's own.
pub fn host(shape: Shape, family: Family, count: u32, seed: u64) -> Host {
    let mut rng = Rng::with_seed(seed);
    let mut host = bare();
    for of in Family::BOTH {
        host.rules.push(Rule::lookup(of, 0, TABLE_LOCAL));
        if of == family {
            match shape {
                Shape::Grouped => grouped(&mut host.rules, family, count),
                _ => plain(&mut host.rules, shape, family, count, &mut rng),
            }
        }
        // Behind whatever priorities the policy has.
        host.rules.push(Rule { priority: PRIORITY_MAIN.max(count * 4), ..Rule::lookup(of, 0, TABLE_MAIN) });
        host.rules
            .push(Rule { priority: (PRIORITY_MAIN + 1).max(count * 4 + 1), ..Rule::lookup(of, 0, TABLE_DEFAULT) });
        routes(&mut host, of);
    }
    host
}

/// Interfaces, settings, neighbours.
fn bare() -> Host {
    let mut host = Host::default();
    let ups: Vec<(u32, String)> = (0..UPLINKS.1).map(|number| (UPLINKS.0 + number, format!("up{number}"))).collect();
    let names = INGRESS.into_iter().map(|(index, name)| (index, name.to_owned())).chain(ups);
    for (index, name) in names {
        let v4 = DeviceConf { forwarding: true, ..DeviceConf::default() };
        let mac = Some([2, 0, 0, 0, 0, index as u8]);
        let link = Link { index, name, arphrd: 1, mac, mtu: 1500, v4, up: true, lower_up: true, ..Link::default() };
        host.links.insert(index, link);
    }
    host.settings.all_v6.forwarding = true;
    host.neighbours = (0..UPLINKS.1)
        .flat_map(|number| Family::BOTH.map(|family| (UPLINKS.0 + number, gateway(family, number))))
        .map(|(index, addr)| Neighbour { index, addr, mac: Some([2, 1, 0, 0, 0, 1]), state: NeighbourState::Reachable })
        .collect();
    host
}

fn gateway(family: Family, number: u32) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(192, 0, 2, number as u8 + 1).into(),
        Family::Ipv6 => Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(number) + 1).into(),
    }
}

/// A default route in every table but one; more specific ones, one that says no, one that says go on, one for this host.
fn routes(host: &mut Host, family: Family) {
    let mut add = |table: u32, dst: IpNet, kind: RouteKind, uplink: Option<u32>| {
        let hop = uplink.map(|number| NextHop {
            via: (kind == RouteKind::Unicast).then(|| gateway(family, number)),
            dev: UPLINKS.0 + number,
            weight: 1,
            ..NextHop::default()
        });
        host.routes.push(route(table, dst, kind, hop));
    };
    let net = |short, bits| prefix(family, family_base(family) ^ bits, short);
    for number in 0..TABLES.1 {
        let (table, uplink) = (TABLES.0 + number, Some(number % UPLINKS.1));
        match number {
            // Half of the addresses only.
            6 => add(table, net(1, 0), RouteKind::Unicast, uplink),
            _ => add(table, family.default_prefix(), RouteKind::Unicast, uplink),
        }
        add(table, net(12, 0), RouteKind::Unicast, Some((number + 1) % UPLINKS.1));
        match number {
            1 => add(table, net(14, 1 << 20), RouteKind::Throw, None),
            2 => add(table, net(14, 1 << 20), RouteKind::Blackhole, None),
            3 => add(table, net(14, 1 << 20), RouteKind::Unreachable, None),
            _ => {}
        }
    }
    add(TABLE_MAIN, family.default_prefix(), RouteKind::Unicast, Some(0));
    let host_bits = family.bits();
    for bits in [1u128, 77, 4096] {
        add(TABLE_LOCAL, net(host_bits, bits << 8), RouteKind::Local, Some(0));
    }
    add(TABLE_LOCAL, net(host_bits - 8, 9 << 16), RouteKind::Local, Some(1));
}

fn route(table: u32, dst: IpNet, kind: RouteKind, hop: Option<NextHop>) -> Route {
    Route { protocol: 3, nexthops: hop.into_iter().collect(), ..Route::to(table, dst, kind) }
}

/// Where the addresses of the policies begin: 10.0.0.0 and 2001:db8::.
fn family_base(family: Family) -> u128 {
    match family {
        Family::Ipv4 => 10 << 24,
        Family::Ipv6 => 0x2001_0db8 << 96,
    }
}

/// The prefix around an address given as a number.
fn prefix(family: Family, addr: u128, len: u8) -> IpNet {
    match family {
        Family::Ipv4 => Ipv4Net::new(Ipv4Addr::from_bits(addr as u32), len).unwrap().trunc().into(),
        Family::Ipv6 => Ipv6Net::new(Ipv6Addr::from_bits(addr), len).unwrap().trunc().into(),
    }
}

/// An address of the policies' range, its lower bits from a number.
fn addr(family: Family, low: u32) -> u128 {
    match family {
        Family::Ipv4 => family_base(family) | u128::from(low & 0xff_ffff),
        // In two words, so that trees lie within trees.
        Family::Ipv6 => family_base(family) | u128::from(low >> 8) << 60 | u128::from(low & 0xff) << 8,
    }
}

fn table(rng: &mut Rng) -> RuleAction {
    RuleAction::Table(TABLES.0 + rng.u32(..TABLES.1))
}

fn plain(rules: &mut Vec<Rule>, shape: Shape, family: Family, count: u32, rng: &mut Rng) {
    let bits = family.bits();
    let length = |rng: &mut Rng| bits - rng.u8(..if family == Family::Ipv4 { 9 } else { 70 });
    for number in 0..count {
        let priority = 10 + number * 3;
        let mut rule = Rule { action: table(rng), ..Rule::lookup(family, priority, 0) };
        let s = &mut rule.selectors;
        let shape = match shape {
            Shape::Mixed => *rng.choice(&SHAPES[..6]).unwrap(),
            other => other,
        };
        match shape {
            Shape::FromSorted => s.from = Some(prefix(family, addr(family, number * 4), bits - 1)),
            Shape::FromShuffled => s.from = Some(prefix(family, addr(family, rng.u32(..)), length(rng))),
            Shape::FromNested => {
                let len = *rng.choice(&[bits, bits, bits, bits - 3, bits - 8, bits - 12]).unwrap();
                s.from = Some(prefix(family, addr(family, rng.u32(..count.max(16) * 2)), len));
            }
            Shape::To => s.to = Some(prefix(family, addr(family, rng.u32(..)), length(rng))),
            Shape::Marks => {
                s.fwmark = Some(match rng.u8(..8) {
                    0 => (number & 0xffff, 0xffff),
                    1 => (number << 8 & 0xff_ff00, 0xff_ff00),
                    _ => (number, u32::MAX),
                });
            }
            _ => ports(s, rng),
        }
        rules.push(rule);
        if number % 97 == 50 {
            rules.push(foreign(rng, family, priority + 1, count));
        }
    }
}

/// Ports as a rule may look for them.
fn ports(s: &mut Selectors, rng: &mut Rng) {
    let some = |rng: &mut Rng| match rng.u8(..4) {
        0 => Ports::Masked { value: rng.u16(..) & 0xfff0, mask: 0xfff0 },
        1 => {
            let start = rng.u16(1..65000);
            Ports::Range { start, end: start + rng.u16(..500) }
        }
        _ => Ports::one(rng.u16(1..65535)),
    };
    s.ipproto = Some(if rng.bool() { 17 } else { 6 });
    match rng.u8(..4) {
        0 => s.sport = Some(some(rng)),
        1 => (s.sport, s.dport) = (Some(some(rng)), Some(some(rng))),
        _ => s.dport = Some(some(rng)),
    }
}

/// A rule as other programs have them: wide, inverted, for one interface, a jump.
fn foreign(rng: &mut Rng, family: Family, priority: u32, count: u32) -> Rule {
    let mut rule = Rule { action: table(rng), protocol: 3, ..Rule::lookup(family, priority, 0) };
    let s = &mut rule.selectors;
    match rng.u8(..7) {
        0 => (s.fwmark, s.not) = (Some((rng.u32(..256) << 8, 0xff00)), rng.u8(..8) == 0),
        1 => s.iif = Some("guest".to_owned()),
        2 => (s.iif, rule.attached) = (Some("gone".to_owned()), Attached { iif: false, oif: true }),
        3 => rule.suppress_prefixlength = Some(0),
        4 => s.dscp = Some((46, 0x3f)),
        _ => {
            // To the priority of a rule that is there, of one of its own, or of none.
            let ahead = 10 + rng.u32(..count) * 3 + rng.u32(..2);
            rule.action = RuleAction::Goto(ahead.max(priority + 1));
            match rng.u8(..3) {
                0 => s.fwmark = Some((rng.u32(..4), 3)),
                1 => s.ipproto = Some(6),
                _ => (s.from, s.not) = (Some(prefix(family, addr(family, rng.u32(..)), family.bits() - 20)), true),
            }
        }
    }
    // So that the rules behind it are met too.
    if matches!(rule.action, RuleAction::Table(_)) && rule.suppress_prefixlength.is_none() && rng.u8(..3) != 0 {
        rule.selectors.ipproto = Some(1);
    }
    rule
}

/// Groups of 32, which `not from C goto` jumps over.
fn grouped(rules: &mut Vec<Rule>, family: Family, count: u32) {
    let bits = family.bits();
    for group in 0..count.div_ceil(32) {
        let priority = 10 + group * 64;
        let within = prefix(family, addr(family, group * 32), bits - if family == Family::Ipv4 { 5 } else { 64 });
        let mut jump = Rule::lookup(family, priority, 0);
        (jump.selectors.from, jump.selectors.not) = (Some(within), true);
        jump.action = RuleAction::Goto(priority + 64);
        rules.push(jump);
        for number in 0..32.min(count - group * 32) {
            let mut rule = Rule::lookup(family, priority + 1 + number, TABLES.0 + number % TABLES.1);
            rule.selectors.from = Some(prefix(family, addr(family, group * 32 + number), bits));
            rules.push(rule);
        }
    }
    // The last jump's target.
    rules.push(Rule { action: RuleAction::Nop, ..Rule::lookup(family, 10 + count.div_ceil(32) * 64, 0) });
}
