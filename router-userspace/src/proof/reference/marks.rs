//! The `[[mark]]` statements, as Wayfork's nftables chain applies them before the routing decision.

use super::super::packet::Packet;
use crate::model::{Host, MarkRule, MarkSelectors, Ports};

/// The packet's mark after all statements: they apply in order, each to what the one before left, and of a statement's
/// alternatives the first that matches is the only one.
pub fn rewrite(host: &Host, marks: &[MarkRule], packet: &Packet) -> u32 {
    let mut mark = packet.mark;
    let mut done: Option<u32> = None;
    for rule in marks.iter().filter(|rule| rule.family == packet.family()) {
        if done == Some(rule.statement) || !matches(host, &rule.selectors, packet, mark) {
            continue;
        }
        mark = mark & !rule.mask | rule.value & rule.mask;
        done = Some(rule.statement);
    }
    mark
}

fn matches(host: &Host, selectors: &MarkSelectors, packet: &Packet, mark: u32) -> bool {
    let MarkSelectors { iif, fwmark, from, to, ipproto, sport, dport, dscp, flowlabel } = selectors;
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
}
