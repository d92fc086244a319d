//! Packets around the boundaries of a host's rules and routes, always the same ones for the same seed.

use super::packet::{Extension, ICMP, ICMPV6, Packet, Shape, TCP, UDP, askable_protocol, has_ports};
use crate::model::{FLOWLABEL_MASK, Family, Host, MarkRule, Ports, Route, Rule, TABLE_LOCAL};
use fastrand::Rng;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Makes packets for one host.
pub struct Generator {
    rng: Rng,
    ingress: Vec<u32>,
    families: [Values; 2],
}

/// The values of each field that are worth a try, in one family.
struct Values {
    family: Family,
    rules: Vec<Wish>,
    addresses: Vec<IpAddr>,
    /// Those that are neither this host's nor special to the kernel: else most packets would end there, and show nothing of
    /// the rules.
    plain: Vec<IpAddr>,
    marks: Vec<u32>,
    protocols: Vec<u8>,
    ports: Vec<u16>,
    dscps: Vec<u8>,
    flowlabels: Vec<u32>,
    /// One byte less than an MTU, as long, and one more.
    lengths: Vec<u16>,
}

/// What a packet must have to match the selectors of a rule or to take a route.
#[derive(Clone, Debug, Default)]
struct Wish {
    iif: Option<u32>,
    from: Option<IpNet>,
    to: Option<IpNet>,
    mark: Option<(u32, u32)>,
    ipproto: Option<u8>,
    sport: Option<Ports>,
    dport: Option<Ports>,
    /// Value and mask.
    dscp: Option<(u8, u8)>,
    /// Value and mask.
    flowlabel: Option<(u32, u32)>,
}

impl Generator {
    /// A generator for packets that come in by one of `ingress`.
    pub fn new(host: &Host, marks: &[MarkRule], ingress: Vec<u32>, seed: u64) -> Self {
        let families = Family::BOTH.map(|family| Values::new(host, marks, family));
        Generator { rng: Rng::with_seed(seed), ingress, families }
    }

    /// The next packet.
    pub fn next_packet(&mut self) -> Option<Packet> {
        let rng = &mut self.rng;
        let iif = choose(rng, &self.ingress)?;
        let values = &self.families[rng.usize(..2)];
        let mut packet = values.any(rng, iif);
        // Two of three packets are made to match one rule in full; half of these are then pushed over one boundary.
        if rng.u8(..3) != 0
            && let Some(wish) = choose(rng, &values.rules)
        {
            values.fulfil(rng, &wish, &mut packet, &self.ingress);
            if rng.bool() {
                values.disturb(rng, &mut packet);
            }
        }
        if !has_ports(packet.ipproto) {
            (packet.sport, packet.dport) = (0, 0);
        }
        Some(packet)
    }
}

impl Values {
    fn new(host: &Host, marks: &[MarkRule], family: Family) -> Self {
        let index_of = |name: &Option<String>| name.as_ref().and_then(|name| host.link(name)).map(|link| link.index);
        let mut rules: Vec<Wish> =
            host.rules_of(family).map(|rule| wish_of(rule, index_of(&rule.selectors.iif))).collect();
        rules.extend(marks.iter().filter(|mark| mark.family == family).map(|mark| Wish {
            iif: index_of(&mark.selectors.iif),
            from: mark.selectors.from,
            to: mark.selectors.to,
            mark: mark.selectors.fwmark,
            ipproto: mark.selectors.ipproto,
            sport: mark.selectors.sport,
            dport: mark.selectors.dport,
            dscp: mark.selectors.dscp,
            flowlabel: mark.selectors.flowlabel,
        }));
        let mut nets: BTreeSet<IpNet> = rules.iter().flat_map(|wish| [wish.from, wish.to]).flatten().collect();
        nets.extend(host.routes.iter().filter(|route| route.family == family).map(|route| route.dst));
        let own: BTreeSet<IpAddr> =
            host.addresses.iter().map(|address| address.addr).filter(|addr| Family::of(*addr) == family).collect();
        let mut addresses: BTreeSet<IpAddr> =
            nets.iter().flat_map(|net| around(*net)).chain(own.iter().copied()).collect();
        addresses.extend(unrelated(family).into_iter().chain(special(family)));
        let local = |addr: &IpAddr| {
            let is_own =
                |r: &Route| r.table == TABLE_LOCAL && r.dst.prefix_len() == family.bits() && r.dst.contains(addr);
            host.routes.iter().any(|route| route.family == family && is_own(route))
        };
        let is_plain = |addr: &&IpAddr| !own.contains(addr) && !is_special(**addr) && !local(addr);
        let plain = addresses.iter().filter(is_plain).copied().collect();
        let marks: BTreeSet<u32> = rules.iter().filter_map(|wish| wish.mark).flat_map(marks_around).collect();
        let ports: BTreeSet<u16> =
            rules.iter().flat_map(|wish| [wish.sport, wish.dport]).flatten().flat_map(ports_around).collect();
        let protocols = rules.iter().filter_map(|wish| wish.ipproto).filter(|proto| askable_protocol(*proto, family));
        let icmp = if family == Family::Ipv4 { ICMP } else { ICMPV6 };
        let dscps: BTreeSet<u8> = rules
            .iter()
            .filter_map(|wish| wish.dscp)
            .flat_map(|(dscp, _)| (0..6).map(move |bit| dscp ^ 1 << bit).chain([dscp]))
            .collect();
        // Without a rule that looks at them they would only take turns away from what matters, and old kernels cannot be asked.
        let flowlabels: BTreeSet<u32> = rules
            .iter()
            .filter_map(|wish| wish.flowlabel)
            .flat_map(|(label, mask)| {
                (0..20).map(move |bit| label ^ 1 << bit).chain([label, label | !mask & FLOWLABEL_MASK])
            })
            .collect();
        Values {
            family,
            addresses: addresses.into_iter().collect(),
            plain,
            marks: marks.into_iter().chain([0, 1, u32::MAX]).collect(),
            protocols: protocols.collect::<BTreeSet<u8>>().into_iter().chain([UDP, TCP, icmp]).collect(),
            ports: ports.into_iter().chain([1, 53, 443, 65535]).collect(),
            dscps: dscps.into_iter().chain([0, 46, 63]).collect(),
            flowlabels: flowlabels.into_iter().chain([0]).collect(),
            lengths: lengths(host),
            rules,
        }
    }

    /// Any packet.
    fn any(&self, rng: &mut Rng, iif: u32) -> Packet {
        let to = if rng.u8(..6) == 0 { self.any_address(rng) } else { self.plain_address(rng) };
        let from = if rng.u8(..20) == 0 { self.any_address(rng) } else { self.plain_address(rng) };
        Packet {
            iif: Some(iif),
            from: Some(from),
            to,
            mark: choose(rng, &self.marks).unwrap_or(0),
            ipproto: choose(rng, &self.protocols).unwrap_or(UDP),
            sport: self.port(rng),
            dport: self.port(rng),
            dscp: choose(rng, &self.dscps).unwrap_or(0),
            flowlabel: choose(rng, &self.flowlabels).unwrap_or(0),
            fragment: self.family == Family::Ipv4 && rng.u8(..16) == 0,
            shape: self.shape(rng),
        }
    }

    /// One packet in four is of another shape than most.
    fn shape(&self, rng: &mut Rng) -> Shape {
        let plain = Shape::default();
        match rng.u8(..16) {
            0 => Shape { ecn: rng.u8(..4), ..plain },
            1 => Shape { ttl: choose(rng, &[0, 1, 2, 255]).unwrap_or(plain.ttl), ..plain },
            2 => Shape { length: choose(rng, &self.lengths).unwrap_or(0), ..plain },
            3 if self.family == Family::Ipv6 => Shape { extension: choose(rng, &Extension::ALL), ..plain },
            _ => plain,
        }
    }

    fn any_address(&self, rng: &mut Rng) -> IpAddr {
        choose(rng, &self.addresses).unwrap_or(self.family.default_prefix().addr())
    }

    fn plain_address(&self, rng: &mut Rng) -> IpAddr {
        choose(rng, &self.plain).unwrap_or_else(|| self.any_address(rng))
    }

    fn port(&self, rng: &mut Rng) -> u16 {
        if rng.bool() { choose(rng, &self.ports).unwrap_or(0) } else { rng.u16(..) }
    }

    /// Gives the packet all that one rule looks for.
    fn fulfil(&self, rng: &mut Rng, wish: &Wish, packet: &mut Packet, ingress: &[u32]) {
        if let Some(iif) = wish.iif.filter(|iif| ingress.contains(iif)) {
            packet.iif = Some(iif);
        }
        if let Some(net) = wish.from {
            packet.from = Some(within(rng, net));
        }
        if let Some(net) = wish.to {
            packet.to = within(rng, net);
        }
        if let Some((value, mask)) = wish.mark {
            packet.mark = packet.mark & !mask | value & mask;
        }
        packet.ipproto = wish.ipproto.filter(|proto| askable_protocol(*proto, self.family)).unwrap_or(packet.ipproto);
        if wish.sport.or(wish.dport).is_some() && !has_ports(packet.ipproto) {
            packet.ipproto = UDP;
        }
        if let Some(ports) = wish.sport {
            packet.sport = one_of(rng, ports);
        }
        if let Some(ports) = wish.dport {
            packet.dport = one_of(rng, ports);
        }
        if let Some((value, mask)) = wish.dscp {
            packet.dscp = packet.dscp & !mask | value & mask;
        }
        if let Some((label, mask)) = wish.flowlabel {
            packet.flowlabel = (packet.flowlabel & !mask | label & mask) & FLOWLABEL_MASK;
        }
    }

    /// Changes one field to another value worth a try.
    fn disturb(&self, rng: &mut Rng, packet: &mut Packet) {
        match rng.u8(..11) {
            0 => packet.from = Some(self.plain_address(rng)),
            1 => packet.to = self.any_address(rng),
            2 => packet.mark ^= 1 << rng.u32(..32),
            3 => packet.mark = choose(rng, &self.marks).unwrap_or(0),
            4 => packet.ipproto = choose(rng, &self.protocols).unwrap_or(UDP),
            5 => packet.sport = self.port(rng),
            6 => packet.dport = self.port(rng),
            7 => packet.fragment = self.family == Family::Ipv4 && !packet.fragment,
            9 => packet.shape = self.shape(rng),
            8 => packet.flowlabel = choose(rng, &self.flowlabels).unwrap_or(0),
            _ => packet.dscp ^= 1 << rng.u8(..6),
        }
    }
}

/// What a packet must have to match a rule. Where the rule says `not`, matching the rest is the boundary.
fn wish_of(rule: &Rule, iif: Option<u32>) -> Wish {
    let s = &rule.selectors;
    Wish {
        iif,
        from: s.from,
        to: s.to,
        mark: s.fwmark,
        ipproto: s.ipproto,
        sport: s.sport,
        dport: s.dport,
        dscp: s.dscp.or((s.tos != 0).then_some((s.tos >> 2, if rule.family == Family::Ipv4 { 7 } else { 0x3f }))),
        flowlabel: s.flowlabel,
    }
}

fn choose<T: Clone>(rng: &mut Rng, values: &[T]) -> Option<T> {
    if values.is_empty() { None } else { Some(values[rng.usize(..values.len())].clone()) }
}

/// The last address before a prefix, its first, second, last but one and last, and the first after it.
fn around(net: IpNet) -> Vec<IpAddr> {
    let step = |addr: u128, by: i128| addr.checked_add_signed(by);
    let numbers = |first: u128, last: u128| {
        [
            step(first, -1),
            Some(first),
            step(first, 1).filter(|n| *n <= last),
            step(last, -1).filter(|n| *n >= first),
            Some(last),
            step(last, 1),
        ]
        .into_iter()
        .flatten()
        .collect::<BTreeSet<u128>>()
    };
    match net {
        IpNet::V4(net) => numbers(net.network().to_bits().into(), net.broadcast().to_bits().into())
            .into_iter()
            .filter_map(|number| u32::try_from(number).ok())
            .map(|number| IpAddr::V4(Ipv4Addr::from_bits(number)))
            .collect(),
        IpNet::V6(net) => numbers(net.network().to_bits(), net.broadcast().to_bits())
            .into_iter()
            .map(|number| IpAddr::V6(Ipv6Addr::from_bits(number)))
            .collect(),
    }
}

/// An address of a prefix: an end of it, or any.
fn within(rng: &mut Rng, net: IpNet) -> IpAddr {
    match (rng.u8(..3), net) {
        (0, _) => net.network(),
        (1, _) => net.broadcast(),
        (_, IpNet::V4(net)) => {
            let host = !net.netmask().to_bits();
            IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() | rng.u32(..) & host))
        }
        (_, IpNet::V6(net)) => {
            let host = !net.netmask().to_bits();
            IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | rng.u128(..) & host))
        }
    }
}

/// A mark's value, the values one bit away from it, and the value with all the bits set that its mask leaves out.
fn marks_around((value, mask): (u32, u32)) -> impl Iterator<Item = u32> {
    (0..32).map(move |bit| value ^ 1 << bit).chain([value, value | !mask, value.wrapping_sub(1), value.wrapping_add(1)])
}

/// The lengths around the MTUs of interfaces and routes, as far as a test run takes such packets.
fn lengths(host: &Host) -> Vec<u16> {
    /// A page, without what the kernel needs of it around the frame (`bpf_test_init`, net/bpf/test_run.c).
    const MOST: u32 = 3000;
    let devices = host.links.values().flat_map(|link| [link.mtu, link.v6.mtu]);
    let mtus: BTreeSet<u32> = devices.chain(host.routes.iter().filter_map(|route| route.mtu)).collect();
    let around = mtus.into_iter().filter(|mtu| (68..MOST).contains(mtu)).flat_map(|mtu| [mtu - 1, mtu, mtu + 1]);
    around.filter_map(|length| u16::try_from(length).ok()).collect()
}

/// One of some ports.
fn one_of(rng: &mut Rng, ports: Ports) -> u16 {
    match ports {
        Ports::Range { start, end } => rng.u16(start..=end.max(start)),
        Ports::Masked { value, mask } => value & mask | rng.u16(..) & !mask,
    }
}

/// The ends of a range and the ports beside them; a port under a mask, those one bit away, and that with all other bits set.
fn ports_around(ports: Ports) -> Vec<u16> {
    match ports {
        Ports::Range { start, end } => vec![start.saturating_sub(1), start, end, end.saturating_add(1)],
        Ports::Masked { value, mask } => (0..16).map(|bit| value ^ 1 << bit).chain([value, value | !mask, 0]).collect(),
    }
}

/// Addresses that no policy names.
fn unrelated(family: Family) -> Vec<IpAddr> {
    match family {
        Family::Ipv4 => [[8, 8, 8, 8], [192, 0, 2, 55], [198, 51, 100, 7], [203, 0, 113, 200], [100, 64, 3, 3]]
            .map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
            .to_vec(),
        Family::Ipv6 => [
            0x2001_0db8_0000_0000_0000_0000_0000_0055,
            0x2a00_1450_4001_0080_0000_0000_0000_2004,
            0xfd77_0000_0000_0001_0000_0000_0000_0009,
        ]
        .map(|bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        .to_vec(),
    }
}

/// Addresses that the kernel treats by themselves.
fn special(family: Family) -> Vec<IpAddr> {
    match family {
        Family::Ipv4 => {
            [[255, 255, 255, 255], [224, 0, 0, 5], [127, 0, 0, 1], [0, 0, 0, 0], [0, 1, 2, 3], [169, 254, 9, 9]]
                .map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
                .to_vec()
        }
        Family::Ipv6 => [0, 1, 0xfe80_0000_0000_0000_0000_0000_0000_0009, 0xff02_0000_0000_0000_0000_0000_0000_0001]
            .map(|bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits)))
            .to_vec(),
    }
}

/// Whether the kernel treats an address by itself, whatever the rules say.
fn is_special(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            addr.is_multicast()
                || addr.is_loopback()
                || addr.is_unspecified()
                || addr.is_broadcast()
                || addr.is_link_local()
        }
        IpAddr::V6(addr) => {
            addr.is_multicast() || addr.is_loopback() || addr.is_unspecified() || addr.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Selectors;

    #[test]
    fn the_addresses_around_a_prefix() {
        let texts =
            |net: &str| around(net.parse().expect("a prefix")).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts("10.0.0.0/24"),
            ["9.255.255.255", "10.0.0.0", "10.0.0.1", "10.0.0.254", "10.0.0.255", "10.0.1.0"]
        );
        assert_eq!(texts("10.0.0.7/32"), ["10.0.0.6", "10.0.0.7", "10.0.0.8"]);
        assert_eq!(texts("0.0.0.0/0"), ["0.0.0.0", "0.0.0.1", "255.255.255.254", "255.255.255.255"]);
        assert_eq!(texts("::/0").len(), 4);
    }

    #[test]
    fn packets_reach_both_sides_of_every_boundary_and_repeat_with_the_seed() {
        let mut host = Host::default();
        let mut rule = Rule::lookup(Family::Ipv4, 100, 7);
        rule.selectors = Selectors {
            from: "10.1.0.0/16".parse().ok(),
            fwmark: Some((0x20, 0xff)),
            ipproto: Some(TCP),
            dport: Some(Ports::Range { start: 80, end: 443 }),
            ..Selectors::default()
        };
        host.rules.push(rule.clone());
        let packets = |seed| {
            let mut generator = Generator::new(&host, &[], vec![2, 3], seed);
            (0..4000).filter_map(|_| generator.next_packet()).collect::<Vec<_>>()
        };
        let first = packets(1);
        assert_eq!(first, packets(1));
        assert_ne!(first, packets(2));
        let net = rule.selectors.from.expect("set above");
        let matches = |p: &Packet| {
            net.contains(&p.source()) && p.mark & 0xff == 0x20 && p.ipproto == TCP && (80..=443).contains(&p.dport)
        };
        assert!(first.iter().filter(|p| matches(p)).count() > 400);
        for port in [79, 80, 443, 444] {
            let others_match = |p: &&Packet| p.dport == port && net.contains(&p.source()) && p.mark & 0xff == 0x20;
            assert!(first.iter().any(|p| others_match(&p)), "port {port} with everything else matching");
        }
        assert!(first.iter().any(|p| p.to.is_ipv6()) && first.iter().all(|p| p.source().is_ipv4() == p.to.is_ipv4()));
    }
}
