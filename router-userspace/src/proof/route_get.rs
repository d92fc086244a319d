//! What `ip route get` shows of a packet, and where that is not what becomes of it.

use super::decide::askable;
use super::packet::{Packet, askable_protocol, protocol_name};
use super::reference::Refusal;
use crate::kernel::{self, Kernel, RouteAnswer, RouteQuery};
use crate::model::Host;
use crate::safety::Between;
use router_common::verdict::Verdict;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One `ip route get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteGet {
    /// The command.
    pub command: String,
    /// Its answer: `eth1 via 10.0.0.1 table 111`, or the verdict.
    pub shows: String,
    /// Why this is not, or may not be, what becomes of the packet; null where it is.
    pub differs: Option<String>,
}

/// The packet as it is asked about, and what the kernel does to it beside the look-up.
pub(super) struct Asked<'a> {
    pub host: &'a Host,
    pub packet: &'a Packet,
    /// The mark after the `[[mark]]` statements.
    pub mark: u32,
    /// The kernel's answer about the packet.
    pub answer: Option<&'a RouteAnswer>,
    /// What the stack does instead of what the look-up says.
    pub refusal: Option<Refusal>,
    /// What else the packet meets.
    pub between: &'a [Between],
}

/// The short command that people type, and the whole one that stands for the packet.
pub(super) fn commands(kernel: &mut dyn Kernel, asked: &Asked<'_>) -> kernel::Result<Vec<RouteGet>> {
    let mut all = Vec::new();
    let plain = RouteQuery::to(asked.packet.to);
    let whole = asked.packet.query(asked.mark);
    if whole != plain {
        let answer = kernel.route_get(&plain)?;
        let same = asked.answer.is_some_and(|there| same_way(there, &answer));
        let why = match asked.packet.iif {
            Some(_) => "it answers for a packet made on this host, without the packet's source, interface and mark",
            None => "it leaves out what the packet carries",
        };
        all.push(RouteGet {
            command: format!("ip route get {}", asked.packet.to),
            shows: shown(asked.host, &answer),
            differs: (!same).then(|| why.to_owned()),
        });
    }
    if let Some(answer) = asked.answer {
        all.push(RouteGet {
            command: command(asked.host, asked.packet, &whole),
            shows: shown(asked.host, answer),
            differs: why_not(asked),
        });
    }
    Ok(all)
}

/// Why the kernel's answer to the whole question is not what becomes of the packet.
fn why_not(asked: &Asked<'_>) -> Option<String> {
    let mut reasons: Vec<String> = asked.refusal.iter().map(|refusal| refusal.why.to_owned()).collect();
    let rewriting = asked.between.iter().filter(|one| one.rewrites);
    reasons.extend(rewriting.map(|one| format!("it does not pass {}, which {}", one.what, one.effect)));
    let stood_for = askable(asked.host, asked.packet).filter(|other| other.ipproto != asked.packet.ipproto);
    if stood_for.is_some() && !askable_protocol(asked.packet.ipproto, asked.packet.family()) {
        let name = protocol_name(asked.packet.ipproto);
        reasons.push(format!("it takes no {name}; no rule tells the protocol from the one asked about"));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn same_way(one: &RouteAnswer, other: &RouteAnswer) -> bool {
    (one.verdict, one.oif, one.via, one.table) == (other.verdict, other.oif, other.via, other.table)
}

fn shown(host: &Host, answer: &RouteAnswer) -> String {
    if answer.verdict != Verdict::Forward {
        return answer.verdict.name().to_owned();
    }
    let via = answer.via.map(|via| format!(" via {via}")).unwrap_or_default();
    format!("{}{via} table {}", host.link_name(answer.oif), answer.table)
}

/// The command in ip(8)'s words, whose `tos` is hexadecimal.
pub(super) fn command(host: &Host, packet: &Packet, query: &RouteQuery) -> String {
    let mut line = format!("ip route get {}", packet.to);
    let mut add = |word: &str, value: Option<String>| {
        if let Some(value) = value {
            line += &format!(" {word} {value}");
        }
    };
    add("from", query.from.map(|from: IpAddr| from.to_string()));
    add("iif", query.iif.map(|iif| host.link_name(iif)));
    add("mark", (query.mark != 0).then(|| format!("{:#x}", query.mark)));
    add("tos", (query.dscp != 0).then(|| format!("{:#x}", query.dscp << 2)));
    add("flowlabel", (query.flowlabel != 0).then(|| format!("{:#x}", query.flowlabel)));
    add("ipproto", query.ipproto.map(protocol_name));
    add("sport", query.sport.map(|port| port.to_string()));
    add("dport", query.dport.map(|port| port.to_string()));
    // IPv6 takes a question without a user for nobody's, and a packet that comes in belongs to root.
    let by_user = host.rules_of(packet.family()).any(|rule| rule.selectors.uidrange.is_some());
    add("uid", (by_user && query.iif.is_some()).then(|| "0".to_owned()));
    line
}
