//! The `[[mark]]` statements, as Wayfork's nftables chain applies them before the routing decision.

use super::super::packet::Packet;
use crate::model::{AddressSet, Host, MarkRule, MarkSelectors, Ports};
use std::net::IpAddr;

/// The packet's mark after all statements: they apply in order, each to what the one before left, and of a statement's
/// alternatives the first that matches is the only one. A packet made on this host meets those alone that tell of sets.
pub fn rewrite(host: &Host, marks: &[MarkRule], packet: &Packet) -> u32 {
    let mut mark = packet.mark;
    let mut done: Option<u32> = None;
    let met = |rule: &&MarkRule| rule.family == packet.family() && (rule.membership || packet.iif.is_some());
    for rule in marks.iter().filter(met) {
        if done == Some(rule.statement) || !matches(host, &rule.selectors, packet, mark) {
            continue;
        }
        mark = mark & !rule.mask | rule.value & rule.mask;
        done = Some(rule.statement);
    }
    mark
}

/// The sets of the statements that hold one of the packet's addresses, as a rule would name them: `from @guests`.
pub fn memberships(marks: &[MarkRule], packet: &Packet) -> Vec<String> {
    let mut found = Vec::new();
    for rule in marks.iter().filter(|rule| rule.family == packet.family()) {
        for (side, set, address) in
            [("from", &rule.selectors.from_set, packet.source()), ("to", &rule.selectors.to_set, packet.to)]
        {
            let Some(set) = set.as_ref().filter(|set| holds(set, address)) else { continue };
            let name = format!("{side} {set}");
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    found
}

fn matches(host: &Host, selectors: &MarkSelectors, packet: &Packet, mark: u32) -> bool {
    let MarkSelectors { iif, fwmark, from, to, ipproto, sport, dport, dscp, flowlabel, from_set, to_set } = selectors;
    let in_range = |ports: &Ports, port: u16| packet.has_ports() && ports.contains(port);
    iif.as_ref().is_none_or(|name| host.link(name).is_some_and(|link| Some(link.index) == packet.iif))
        && fwmark.is_none_or(|(value, mask)| (value ^ mark) & mask == 0)
        && from.is_none_or(|net| net.contains(&packet.source()))
        && to.is_none_or(|net| net.contains(&packet.to))
        && ipproto.is_none_or(|proto| proto == packet.ipproto)
        && sport.as_ref().is_none_or(|range| in_range(range, packet.sport))
        && dport.as_ref().is_none_or(|range| in_range(range, packet.dport))
        && dscp.is_none_or(|(value, mask)| (value ^ packet.dscp) & mask == 0)
        && flowlabel.is_none_or(|(label, mask)| (label ^ packet.flowlabel) & mask == 0)
        && from_set.as_ref().is_none_or(|set| holds(set, packet.source()))
        && to_set.as_ref().is_none_or(|set| holds(set, packet.to))
}

/// Whether an address lies in one of the set's ranges, which are in order: the last that starts at or before it is the only one
/// that can hold it.
fn holds(set: &AddressSet, address: IpAddr) -> bool {
    fn within<T: Copy + Ord>(ranges: &[(T, T)], number: T) -> bool {
        match ranges.binary_search_by(|(first, _)| first.cmp(&number)) {
            Ok(_) => true,
            Err(behind) => behind.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| number <= *last),
        }
    }
    match address {
        IpAddr::V4(address) => within(set.members.v4(), address.into()),
        IpAddr::V6(address) => within(set.members.v6(), address.into()),
    }
}
