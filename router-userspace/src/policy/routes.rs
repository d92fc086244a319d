//! `[[route]]`: routes of the file, one for each family.

use super::cursor::{Findings, Item, Section, Wrong, quote};
use super::diagnostic::Span;
use super::names::Tables;
use super::values::{address, choice, family, interface, prefix, title};
use super::{PolicyNextHop, PolicyRoute, Via};
use crate::model::{Family, RouteKind, TABLE_LOCAL, TABLE_MAIN};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use toml::de::{DeTable, DeValue};

const KEYS: [&str; 13] =
    ["table", "to", "via", "dev", "type", "family", "tos", "metric", "src", "mtu", "onlink", "nhid", "nexthops"];

/// What a route goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Default,
    Prefix(IpNet),
}

/// A route as the file has it, before its families are known.
struct Statement {
    table: u32,
    to: Option<(To, Span)>,
    said: Option<Family>,
    kind: RouteKind,
    tos: Option<(u8, Span)>,
    nhid: Option<(u32, Span)>,
    hops: Vec<(PolicyNextHop, Span)>,
    src: Option<(IpAddr, Span)>,
    metric: Option<u32>,
    mtu: Option<u32>,
}

pub(super) fn read<'d>(
    findings: &mut Findings<'_>,
    tables: &Tables<'_>,
    sections: &[(Span, &'d DeTable<'d>)],
) -> Vec<PolicyRoute> {
    let mut routes: Vec<PolicyRoute> = Vec::new();
    let mut slots: HashMap<(Family, u32, IpNet, u8, u32), usize> = HashMap::new();
    for (span, table) in sections {
        for route in read_one(findings, tables, span.clone(), table) {
            // What the kernel takes a missing metric for.
            let metric = match (route.metric, route.family) {
                (None | Some(0), Family::Ipv6) => 1024,
                (metric, _) => metric.unwrap_or(0),
            };
            if let Some(first) = slots.insert((route.family, route.table, route.to, route.tos, metric), span.start) {
                let line = findings.text.place(first).0;
                let message = format!("line {line} has a route to {} in the same table, of the same metric", route.to);
                let help = "give one of them another metric, or one route with nexthops = [{ via, dev, weight }]";
                findings.error(span.clone(), message, help);
                break;
            }
            routes.push(route);
        }
    }
    routes
}

fn read_one<'d>(
    findings: &mut Findings<'_>,
    tables: &Tables<'_>,
    span: Span,
    table: &'d DeTable<'d>,
) -> Vec<PolicyRoute> {
    let section = Section::open(findings, "[[route]]", span.clone(), table, &KEYS);
    let one = |findings: &mut Findings<'_>, key| section.get(key).and_then(|field| field.one(findings));
    let kinds = [
        ("unicast", RouteKind::Unicast),
        ("blackhole", RouteKind::Blackhole),
        ("unreachable", RouteKind::Unreachable),
        ("prohibit", RouteKind::Prohibit),
        ("throw", RouteKind::Throw),
        ("local", RouteKind::Local),
        ("broadcast", RouteKind::Broadcast),
        ("anycast", RouteKind::Anycast),
        ("multicast", RouteKind::Multicast),
    ];
    let kind = match one(findings, "type") {
        Some(item) => choice(findings, &item, &kinds),
        None => Some(RouteKind::Unicast),
    };
    let table = match one(findings, "table") {
        Some(item) => {
            let id = tables.resolve(findings, &item);
            if id == Some(TABLE_LOCAL) && !kind.is_some_and(is_of_this_host) {
                let message = "table `local` is the kernel's own list of this host's addresses";
                findings.warn(item.span, message, "a route for other packets belongs into another table");
            }
            id
        }
        // As ip(8) has it.
        None if kind.is_some_and(is_of_this_host) => Some(TABLE_LOCAL),
        None => Some(TABLE_MAIN),
    };
    let to = one(findings, "to").and_then(|item| read_to(findings, &item));
    if section.get("to").is_none() {
        section.missing(findings, &["to"], "the route goes nowhere", "add to = \"default\", or a prefix");
    }
    let said = one(findings, "family").and_then(|item| family(findings, &item));
    let src = one(findings, "src").and_then(|item| Some((address(findings, &item)?, item.span)));
    let most = u64::from(u32::MAX);
    let metric = one(findings, "metric").and_then(|item| item.number(findings, 0..=most)).map(|number| number as u32);
    let mtu = one(findings, "mtu").and_then(|item| item.number(findings, 68..=most)).map(|number| number as u32);
    let tos = one(findings, "tos").and_then(|item| read_tos(findings, &item));
    let nhid = one(findings, "nhid").and_then(|item| Some((item.number(findings, 1..=most)? as u32, item.span)));
    let hops = read_hops(findings, &section, kind);
    let (Some(kind), Some(table), Some(hops)) = (kind, table, hops) else { return Vec::new() };
    let statement = Statement { table, to, said, kind, tos, nhid, hops, src, metric, mtu };
    let at = findings.text.at(span.start);
    families(findings, &statement).into_iter().filter_map(|family| statement.of_family(family, &at)).collect()
}

/// No ways out, where none of these keys is there; `why` says why they may not.
fn without<'d>(
    findings: &mut Findings<'_>,
    section: &Section<'d>,
    keys: &[&'static str],
    why: &str,
    other: &str,
) -> Option<Vec<(PolicyNextHop, Span)>> {
    let mut wrong = false;
    for field in keys.iter().filter_map(|key| section.get(key)) {
        let message = format!("{why}, so it has no `{}`", field.key);
        findings.error(field.key_span, message, format!("take `{}` or `{other}` away", field.key));
        wrong = true;
    }
    (!wrong).then(Vec::new)
}

/// What the kernel keeps in its table of this host's own addresses: ip(8) puts such routes there.
fn is_of_this_host(kind: RouteKind) -> bool {
    matches!(kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast)
}

/// Packets are compared in three bits (`fib_dscp_masked_match()`, include/net/ip_fib.h): others would never match.
fn read_tos(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<(u8, Span)> {
    let tos = item.number(findings, 1..=255)? as u8;
    let value = match tos & !0x1c {
        0 => Ok((tos, item.span.clone())),
        _ => Err(Wrong::new(
            format!("no packet has the TOS {tos:#x}: three bits are compared"),
            "0x04 to 0x1c, in steps of 4",
        )),
    };
    findings.take(&item.span, value)
}

fn read_to(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<(To, Span)> {
    let text = item.text(findings, "default")?;
    let to = if text == "default" { Ok(To::Default) } else { prefix(text).map(To::Prefix) };
    Some((findings.take(&item.span, to)?, item.span.clone()))
}

/// The ways out, from `via` and `dev` or from `nexthops`; None where something is wrong with them.
fn read_hops<'d>(
    findings: &mut Findings<'_>,
    section: &Section<'d>,
    kind: Option<RouteKind>,
) -> Option<Vec<(PolicyNextHop, Span)>> {
    let kind = kind?;
    match kind {
        RouteKind::Unicast if section.get("nhid").is_some() => {
            return without(
                findings,
                section,
                &["via", "dev", "nexthops", "onlink"],
                "the next-hop object has the ways out of this route",
                "nhid",
            );
        }
        RouteKind::Unicast => {}
        RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast => {
            let why = format!("a route of type {} stays on its device", kind.name());
            without(findings, section, &["via", "nexthops", "onlink", "nhid"], &why, "type")?;
            if section.get("dev").is_none() {
                section.missing(
                    findings,
                    &["dev"],
                    "the route has no device",
                    "add dev = \"lo\", or the device that it is about",
                );
                return None;
            }
        }
        _ => {
            let why = format!("a route of type {} sends nothing out", kind.name());
            return without(findings, section, &["via", "dev", "nexthops", "onlink", "nhid"], &why, "type");
        }
    }
    let Some(list) = section.get("nexthops") else {
        return Some(vec![read_hop(findings, section, false)?]);
    };
    for key in ["via", "dev", "onlink"] {
        if let Some(field) = section.get(key) {
            let message = format!("a route has `nexthops` or `{key}`, not both");
            findings.error(field.key_span, message, format!("put `{key}` into the next hops"));
            return None;
        }
    }
    let help = "nexthops = [{ via = \"10.0.0.1\", dev = \"eth1\", weight = 2 }, …]";
    let DeValue::Array(array) = list.value.get_ref() else {
        findings.error(list.value.span(), "`nexthops` is a list of next hops", help);
        return None;
    };
    if array.is_empty() {
        findings.error(list.value.span(), "`nexthops` is empty", help);
    }
    let mut hops = Vec::new();
    for value in array.iter() {
        let DeValue::Table(table) = value.get_ref() else {
            findings.error(value.span(), "a next hop is a table", help);
            continue;
        };
        let hop = Section::open(findings, "a next hop", value.span(), table, &["via", "dev", "weight", "onlink"]);
        hops.extend(read_hop(findings, &hop, true));
    }
    (hops.len() == array.len() && !hops.is_empty()).then_some(hops)
}

fn read_hop<'d>(findings: &mut Findings<'_>, section: &Section<'d>, weighed: bool) -> Option<(PolicyNextHop, Span)> {
    let one = |findings: &mut Findings<'_>, key| section.get(key).and_then(|field| field.one(findings));
    let via_item = one(findings, "via");
    let dev_there = section.get("dev").is_some();
    let dev = one(findings, "dev").and_then(|item| interface(findings, &item));
    let onlink = one(findings, "onlink");
    let weight = if weighed { one(findings, "weight") } else { None };
    let weight = weight.map_or(Some(1), |item| item.number(findings, 1..=256))? as u16;
    let span = via_item.as_ref().map_or_else(|| section.span.clone(), |item| item.span.clone());
    let via = match &via_item {
        None => None,
        Some(item) => Some(read_via(findings, item, dev_there)?),
    };
    if via.is_none() && !dev_there && section.get("via").is_none() {
        let help = "add via = \"10.0.0.1\", or dev = \"eth1\", or type = \"unreachable\"";
        section.missing(findings, &["via", "dev", "type"], "the route has no way out", help);
        return None;
    }
    let onlink = match onlink {
        Some(item) => {
            let value = item.boolean(findings)?;
            if value && (!dev_there || !matches!(via, Some(Via::Address(_)))) {
                let help = "give both, or take `onlink` away";
                findings.error(item.span, "`onlink` is about a gateway on a device: `via` and `dev`", help);
                return None;
            }
            value
        }
        None => false,
    };
    // A device whose name is wrong has its own error.
    (dev.is_some() == dev_there).then_some((PolicyNextHop { via, dev, weight, onlink }, span))
}

fn read_via(findings: &mut Findings<'_>, item: &Item<'_>, dev_there: bool) -> Option<Via> {
    let text = item.text(findings, "10.0.0.1")?;
    let via = match text {
        "learned" => Ok(Via::Learned),
        text => text.parse().map(Via::Address).map_err(|_| {
            Wrong::new(format!("{} is no gateway", quote(text)), "an address such as \"10.0.0.1\", or \"learned\"")
        }),
    };
    let via = findings.take(&item.span, via)?;
    match via {
        Via::Learned if !dev_there => {
            let help = "add dev = \"eth1\": the gateway that DHCP or router advertisements give there";
            findings.error(item.span.clone(), "a learned gateway needs its device", help);
            None
        }
        Via::Address(IpAddr::V6(addr)) if addr.is_unicast_link_local() && !dev_there => {
            let help = "add dev = \"eth1\"";
            findings.error(item.span.clone(), format!("`{addr}` is a link-local address, there on every link"), help);
            None
        }
        via => Some(via),
    }
}

/// The families of a route: what it says, else those of its prefix, gateways and source, else both.
fn families(findings: &mut Findings<'_>, statement: &Statement) -> Vec<Family> {
    let Some((to, to_span)) = &statement.to else { return Vec::new() };
    let mut evidence: Vec<(Family, &Span, &str)> = Vec::new();
    if let To::Prefix(net) = to {
        evidence.push((Family::of(net.addr()), to_span, "to"));
    }
    if let Some((src, span)) = &statement.src {
        evidence.push((Family::of(*src), span, "src"));
    }
    for (hop, span) in &statement.hops {
        match hop.via {
            // An IPv4 route by an IPv6 gateway (RTA_VIA) is possible, and asked for by saying the family.
            Some(Via::Address(addr)) if statement.said == Some(Family::Ipv4) && addr.is_ipv6() => {}
            Some(Via::Address(addr)) => evidence.push((Family::of(addr), span, "via")),
            _ => {}
        }
    }
    match statement.kind {
        RouteKind::Broadcast => evidence.push((Family::Ipv4, to_span, "type")),
        RouteKind::Anycast => evidence.push((Family::Ipv6, to_span, "type")),
        _ => {}
    }
    if let Some((_, span)) = &statement.tos {
        evidence.push((Family::Ipv4, span, "tos"));
    }
    let first =
        statement.said.map(|family| (family, "family")).or(evidence.first().map(|(family, _, key)| (*family, *key)));
    let Some((family, key)) = first else {
        if let Some((_, span)) = &statement.nhid {
            let help = "add family = \"ipv4\" or family = \"ipv6\"";
            findings.error(span.clone(), "a next-hop object is of one family, and the route does not say which", help);
            return Vec::new();
        }
        return Family::BOTH.to_vec();
    };
    if let Some((other, span, wrong)) = evidence.iter().find(|(other, ..)| *other != family) {
        let help = match (family, *wrong) {
            (Family::Ipv6, "tos") => "IPv6 has no routes by tos: take it away, or use a rule with `dscp`",
            (Family::Ipv6, "type") => "IPv6 has no broadcast; it is multicast or anycast there",
            (Family::Ipv4, "type") => "anycast is IPv6's",

            (Family::Ipv4, "via") => "give an IPv4 gateway; if IPv4 by an IPv6 gateway is meant, say family = \"ipv4\"",
            _ => "all addresses of a route are of one family; write one [[route]] for each",
        };
        let message = format!("`{wrong}` is {}, but `{key}` is {}", title(*other), title(family));
        findings.error((*span).clone(), message, help);
        return Vec::new();
    }
    vec![family]
}

impl Statement {
    fn of_family(&self, family: Family, at: &str) -> Option<PolicyRoute> {
        let to = match self.to.as_ref()?.0 {
            To::Default => family.default_prefix(),
            To::Prefix(net) => net,
        };
        Some(PolicyRoute {
            table: self.table,
            family,
            to,
            kind: self.kind,
            tos: self.tos.as_ref().map_or(0, |(tos, _)| *tos),
            nhid: self.nhid.as_ref().map(|(id, _)| *id),
            nexthops: self.hops.iter().map(|(hop, _)| hop.clone()).collect(),
            metric: self.metric,
            src: self.src.as_ref().map(|(src, _)| *src),
            mtu: self.mtu,
            at: at.to_owned(),
        })
    }
}
