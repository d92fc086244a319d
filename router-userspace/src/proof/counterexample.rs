//! A disagreement, made small and told so that anyone can repeat it.

use super::explain::Explanation;
use super::packet::Packet;
use super::reference::Step;
use super::text::{route_command, rule_command};
use crate::model::{Family, Host, Route, RuleAction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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

/// The smallest packet that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counterexample {
    /// Who differs from the kernel.
    pub differs: Side,
    /// The packet on both sides, with every rule tried.
    pub explanation: Explanation,
    /// Commands that make the interfaces, rules and routes at hand in an empty namespace.
    pub commands: Vec<String>,
}

/// The commands for the rules that were tried, the routes of their tables that hold source or destination, and the
/// interfaces of both.
pub fn commands(host: &Host, packet: &Packet, trail: &[Step]) -> Vec<String> {
    let family = packet.family();
    let rules: Vec<_> = trail.iter().map(|step| &host.rules[step.rule]).collect();
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
    const RTPROT_KERNEL: u8 = 2;
    let routes: Vec<&Route> =
        host.routes.iter().filter(holds).filter(|route| route.protocol != RTPROT_KERNEL).collect();
    let mut devices: BTreeSet<u32> = routes.iter().flat_map(|route| route.nexthops.iter().map(|hop| hop.dev)).collect();
    devices.extend(packet.iif);
    let mut lines = Vec::new();
    for link in devices.iter().filter_map(|index| host.links.get(index)).filter(|link| link.index > 1) {
        lines.push(format!("ip link add {} type dummy", link.name));
        let own = host.addresses.iter().filter(|a| a.index == link.index && Family::of(a.addr) == family);
        lines.extend(own.map(|a| format!("ip address add {}/{} dev {}", a.addr, a.prefix_len, link.name)));
        lines.push(format!("ip link set {} up", link.name));
    }
    lines.extend(routes.into_iter().map(|route| route_command(host, route)));
    // Those that every namespace begins with are there already.
    let own = rules.into_iter().filter(|rule| rule.protocol != RTPROT_KERNEL);
    lines.extend(own.map(rule_command));
    lines
}
