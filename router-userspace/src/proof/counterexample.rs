//! A disagreement, made small and told so that anyone can repeat it.

use super::decide::askable;
use super::explain::Explanation;
use super::packet::Packet;
use super::reduce::RTPROT_KERNEL;
use super::reference::{LOOPBACK, Reference};
use super::route_get;
use super::text::{route_commands, rule_command};
use crate::model::{
    DeviceConf, Family, Host, Link, MarkRule, MarkSelectors, Route, Rule, RuleAction, TABLE_DEFAULT, TABLE_LOCAL,
    TABLE_MAIN,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Who differs from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The fast path's decision.
    FastPath,
    /// The way that the packet takes with the mark that the fast path gave it.
    Mark,
    /// The reference: a fault of Wayfork's proof, or a kernel that decides otherwise than those that it was made for.
    Reference,
}

/// The smallest policy and packet that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counterexample {
    /// Who differs from the kernel.
    pub differs: Side,
    /// The packet on both sides, with every rule tried.
    pub explanation: Explanation,
    /// Why rules, routes, settings and `[[mark]]` statements are not the fewest that show it; null where they are.
    pub not_shrunk: Option<String>,
    /// Commands that make the interfaces, settings, rules and routes at hand in an empty namespace, and ask the kernel.
    pub commands: Vec<String>,
    /// A policy file with the `[[mark]]` statements that it needs; null where it needs none, or some that no such file can say.
    pub policy: Option<String>,
    /// The packet.
    #[serde(skip)]
    pub packet: Option<Packet>,
}

/// The commands. `mark` is the packet's after the `[[mark]]` statements. `whole`: all added rules and routes are needed; else
/// the rules that were tried, and the routes of their tables that hold source or destination.
pub fn commands(host: &Host, packet: &Packet, mark: u32, reference: &Reference, whole: bool) -> Vec<String> {
    let family = packet.family();
    let back = reference.source.iter().flat_map(|source| &source.trail);
    let tried: BTreeSet<usize> = reference.trail.iter().chain(back).map(|step| step.rule).collect();
    let is_needed = |(at, rule): &(usize, &Rule)| tried.contains(at) || whole && rule.protocol != RTPROT_KERNEL;
    let rules: Vec<&Rule> = host.rules.iter().enumerate().filter(is_needed).map(|(_, rule)| rule).collect();
    let tables: BTreeSet<u32> = rules
        .iter()
        .filter_map(|rule| if let RuleAction::Table(table) = rule.action { Some(table) } else { None })
        .collect();
    let holds = |route: &&Route| {
        route.family == family
            && tables.contains(&route.table)
            && (route.dst.contains(&packet.to) || route.dst.contains(&packet.source()))
    };
    // The kernel makes its own routes from the addresses.
    let added = host.routes.iter().filter(|route| route.protocol != RTPROT_KERNEL);
    let routes: Vec<&Route> = added.filter(|route| whole || holds(route)).collect();

    let gateways = routes.iter().flat_map(|route| &route.nexthops).filter_map(|hop| hop.via);
    let reached: Vec<IpAddr> = gateways.chain([packet.to, packet.source()]).collect();
    let mut devices: BTreeSet<u32> = routes.iter().flat_map(|route| route.nexthops.iter().map(|hop| hop.dev)).collect();
    devices.extend(packet.iif);
    devices.extend(rules.iter().filter_map(|rule| host.link(rule.selectors.iif.as_deref()?)).map(|link| link.index));
    devices.extend(host.addresses.iter().filter(|own| reached.iter().any(|addr| near(own, addr))).map(|own| own.index));

    let links: Vec<&Link> =
        devices.iter().filter_map(|index| host.links.get(index)).filter(|link| link.index != LOOPBACK).collect();
    let mut lines = Vec::new();
    for (number, link) in links.iter().enumerate() {
        lines.extend(link_commands(link, number));
    }
    lines.extend(settings(host, &links).into_iter().map(|(name, value)| format!("sysctl -w {name}={value}")));
    for link in &links {
        // The kernel makes link-local addresses by itself.
        let own = |address: &&crate::model::Address| {
            address.index == link.index && !matches!(address.addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
        };
        for address in host.addresses.iter().filter(own) {
            let nodad = if address.addr.is_ipv6() { " nodad" } else { "" };
            lines.push(format!("ip address add {}/{} dev {}{nodad}", address.addr, address.prefix_len, link.name));
        }
        // Whom the fast path sends to must be known.
        for neighbour in host.neighbours.iter().filter(|n| n.index == link.index && reached.contains(&n.addr)) {
            if let Some(mac) = neighbour.mac.filter(|_| neighbour.state.is_usable()) {
                let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                let (addr, mac) = (neighbour.addr, mac.join(":"));
                lines.push(format!("ip neigh replace {addr} lladdr {mac} dev {} nud permanent", link.name));
            }
        }
    }
    lines.extend(routes.into_iter().flat_map(|route| route_commands(host, route)).fold(
        Vec::new(),
        |mut once, line| {
            if !once.contains(&line) {
                once.push(line);
            }
            once
        },
    ));
    lines.extend(missing_rules(host, family));
    lines.extend(rules.into_iter().filter(|rule| !is_original(rule)).map(rule_command));
    lines.extend(askable(host, packet).map(|asked| route_get::command(host, &asked, &asked.query(mark))));
    lines
}

/// Whether an address' network holds another, or it is the other.
fn near(own: &crate::model::Address, addr: &IpAddr) -> bool {
    ipnet::IpNet::new(own.addr, own.prefix_len).is_ok_and(|net| net.contains(addr))
}

/// The device: one end of a pair, whose other end gives it a carrier; a TUN device where it has no Ethernet header.
fn link_commands(link: &Link, number: usize) -> Vec<String> {
    let (name, peer) = (&link.name, format!("peer{number}"));
    let mut lines = match link.mac {
        Some(_) => vec![format!("ip link add name {name} type veth peer name {peer}")],
        None => vec![format!("ip tuntap add dev {name} mode tun")],
    };
    if link.mac.is_some() && link.lower_up {
        lines.push(format!("ip link set dev {peer} up"));
    }
    if link.group != 0 {
        lines.push(format!("ip link set dev {name} group {}", link.group));
    }
    if ![0, 1500].contains(&link.mtu) {
        lines.push(format!("ip link set dev {name} mtu {}", link.mtu));
    }
    if link.up {
        lines.push(format!("ip link set dev {name} up"));
    }
    lines
}

/// The settings that routing looks at. A new namespace may have IPv4's from the one that it was made in, so that the values
/// which nobody set are written too where they decide something.
fn settings(host: &Host, links: &[&Link]) -> Vec<(String, u8)> {
    let (all4, all6) = (&host.settings.all_v4, &host.settings.all_v6);
    let mut lines: Vec<(String, u8)> = Vec::new();
    let mut set = |name: String, value: u8| lines.push((name, value));
    set("net.ipv4.ip_forward".into(), u8::from(all4.forwarding));
    set("net.ipv6.conf.all.forwarding".into(), u8::from(all6.forwarding));
    let own = |conf: &DeviceConf| {
        [
            ("rp_filter", conf.rp_filter),
            ("send_redirects", u8::from(conf.send_redirects)),
            ("src_valid_mark", u8::from(conf.src_valid_mark)),
            ("accept_local", u8::from(conf.accept_local)),
            ("route_localnet", u8::from(conf.route_localnet)),
            ("ignore_routes_with_linkdown", u8::from(conf.ignore_linkdown)),
        ]
    };
    let inherited = ["rp_filter", "send_redirects"];
    let all = ("all".to_owned(), all4);
    for (name, conf) in std::iter::once(all).chain(links.iter().map(|link| (link.name.replace('.', "/"), &link.v4))) {
        if name != "all" && conf.forwarding != all4.forwarding {
            set(format!("net.ipv4.conf.{name}.forwarding"), u8::from(conf.forwarding));
        }
        for (setting, value) in own(conf).into_iter().filter(|(setting, on)| *on != 0 || inherited.contains(setting)) {
            set(format!("net.ipv4.conf.{name}.{setting}"), value);
        }
    }
    for link in links {
        let name = link.name.replace('.', "/");
        if link.v6.force_forwarding {
            set(format!("net.ipv6.conf.{name}.force_forwarding"), 1);
        }
        if link.v6.ignore_linkdown {
            set(format!("net.ipv6.conf.{name}.ignore_routes_with_linkdown"), 1);
        }
    }
    for (family, policy) in [("ipv4", host.settings.hash_policy_v4), ("ipv6", host.settings.hash_policy_v6)] {
        if policy != 0 {
            set(format!("net.{family}.fib_multipath_hash_policy"), policy);
        }
    }
    lines
}

/// The settings of a host that routing looks at, in the order in which they have to be written.
pub(super) fn all_settings(host: &Host) -> Vec<(String, u8)> {
    settings(host, &host.links.values().filter(|link| link.index != LOOPBACK).collect::<Vec<_>>())
}

/// The settings that are not as in a plain router, and the value that they have there: everything off, but all that forwards.
pub(super) fn odd_settings(host: &Host) -> Vec<(String, u8)> {
    let plain = |name: &str| u8::from(name.ends_with("forward") || name.ends_with(".forwarding"));
    let odd = all_settings(host).into_iter().filter(|(name, value)| *value != plain(name));
    odd.map(|(name, _)| (name.clone(), plain(&name))).collect()
}

/// The `[[mark]]` statements as a policy file; None where one of them is for a set, which no statement can say.
pub(super) fn marks_file(marks: &[MarkRule]) -> Option<String> {
    // Alternatives of one statement set the same bits, so that each may stand for itself.
    let sections: Option<Vec<String>> = marks.iter().map(mark_section).collect();
    Some(sections?.join("\n"))
}

fn mark_section(mark: &MarkRule) -> Option<String> {
    let MarkSelectors { iif, fwmark, from, to, ipproto, sport, dport, dscp, flowlabel, from_set, to_set } =
        &mark.selectors;
    if mark.membership || mark.mask == 0 || from_set.is_some() || to_set.is_some() {
        return None;
    }
    let text = |value: &dyn std::fmt::Display| format!("{:?}", value.to_string());
    let masked = |(value, mask): (u32, u32)| format!("\"{value:#x}/{mask:#x}\"");
    let lines = [
        ("family", Some(text(&mark.family))),
        ("iif", iif.as_ref().map(|name| text(name))),
        ("fwmark", fwmark.map(masked)),
        ("from", from.as_ref().map(|net| text(net))),
        ("to", to.as_ref().map(|net| text(net))),
        ("ipproto", ipproto.map(|number| number.to_string())),
        ("sport", sport.map(|ports| text(&ports))),
        ("dport", dport.map(|ports| text(&ports))),
        ("dscp", dscp.map(|(value, mask)| masked((value.into(), mask.into())))),
        ("flowlabel", flowlabel.map(masked)),
        ("set", Some(masked((mark.value & mark.mask, mark.mask)))),
    ];
    let lines = lines.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)));
    Some(format!("[[mark]]\n{}", lines.collect::<String>()))
}

/// The rules that every namespace begins with.
fn originals(family: Family) -> Vec<Rule> {
    let mut all = vec![(0, TABLE_LOCAL), (32766, TABLE_MAIN)];
    if family == Family::Ipv4 {
        all.push((32767, TABLE_DEFAULT));
    }
    all.into_iter().map(|(priority, table)| Rule::lookup(family, priority, table)).collect()
}

fn is_original(rule: &Rule) -> bool {
    originals(rule.family).iter().any(|original| original.same_rule(rule)) && rule.protocol == RTPROT_KERNEL
}

fn missing_rules(host: &Host, family: Family) -> impl Iterator<Item = String> {
    let gone = move |original: &Rule| !host.rules_of(family).any(|rule| rule.same_rule(original) && is_original(rule));
    let flag = if family == Family::Ipv4 { "-4" } else { "-6" };
    originals(family).into_iter().filter(gone).map(move |rule| format!("ip {flag} rule delete {rule}"))
}
