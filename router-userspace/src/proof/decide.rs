//! One packet decided by the fast path and by the kernel, and whether the two agree.

use super::packet::{ICMP, ICMPV6, Packet, TCP, UDP, askable_protocol};
use super::reference::{Reference, Walker};
use crate::kernel::{self, Kernel, RouteAnswer};
use crate::model::{Family, Host, Link, MarkRule};
use router_common::layout::{Decision, NO_RULE};
use router_common::verdict::{Action, PassReason, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the fast path decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fast {
    /// What it would do with the packet.
    pub action: Action,
    /// The verdict; `Undecided` with `pass`.
    pub verdict: Verdict,
    /// Why, with `pass`.
    pub reason: Option<PassReason>,
    /// Egress interface index, 0 where there is none.
    pub oif: u32,
    /// The gateway; None where the destination is the neighbour.
    pub via: Option<IpAddr>,
    /// The table that gave the route, 0 where none did.
    pub table: u32,
    /// Id of the rule that decided.
    pub rule_id: Option<String>,
    /// The mark afterwards.
    pub mark: u32,
}

/// Something that decides packets as the TC program does: the program itself, by BPF_PROG_TEST_RUN.
pub trait Decider {
    /// Decides `packet`, which comes in by `link`. Changes no counter and no state.
    fn decide(&mut self, packet: &Packet, link: &Link) -> Result<Fast, DeciderError>;
}

/// A decider of our own, which can follow the kernel's state.
pub trait Refresh: Decider {
    /// Brings what it decides by up to date with a newer snapshot and these `[[mark]]` alternatives.
    fn refresh(&mut self, host: &Host, marks: &[MarkRule]) -> Result<(), DeciderError>;
}

/// The program could not be run.
#[derive(Debug, thiserror::Error)]
#[error("ask the fast path: {0}")]
pub struct DeciderError(pub String);

impl Fast {
    /// Reads what the probe wrote. `counters` tells the rule behind each counter ([`crate::compile::Generation::counters`]).
    pub fn new(decision: &Decision, counters: &[Option<String>]) -> Result<Self, DeciderError> {
        let unknown = |what: &str, number: u8| DeciderError(format!("it answered with an unknown {what}, {number}"));
        let action = Action::from_u8(decision.action).ok_or_else(|| unknown("action", decision.action))?;
        let verdict = Verdict::from_u8(decision.verdict).ok_or_else(|| unknown("verdict", decision.verdict))?;
        let reason = match action {
            Action::Pass => {
                Some(PassReason::from_u8(decision.reason).ok_or_else(|| unknown("reason", decision.reason))?)
            }
            _ => None,
        };
        let via = match decision.via_family {
            4 => Some(IpAddr::V4(Ipv4Addr::from(decision.via[0].to_ne_bytes()))),
            6 => {
                let mut octets = [0; 16];
                octets
                    .chunks_exact_mut(4)
                    .zip(decision.via)
                    .for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
                Some(IpAddr::V6(Ipv6Addr::from(octets)))
            }
            _ => None,
        };
        let rule_id = match decision.rule {
            NO_RULE => None,
            index => counters.get(index as usize).cloned().flatten(),
        };
        let passes = action == Action::Pass;
        Ok(Fast {
            action,
            verdict: if passes { Verdict::Undecided } else { verdict },
            reason,
            oif: if passes { 0 } else { decision.oif },
            via: via.filter(|_| !passes),
            table: if passes { 0 } else { decision.table },
            rule_id,
            mark: decision.mark,
        })
    }
}

/// A question that stands for `packet` at the kernel: RTM_GETROUTE takes only TCP, UDP and ICMP, so that another protocol is
/// asked for as one of these that no rule can tell from it. None where the rules can, and for an IPv6 group, about which the
/// multicast router answers instead (`rt6_fill_node`).
pub fn askable(host: &Host, packet: &Packet) -> Option<Packet> {
    let family = packet.family();
    if matches!(packet.to, IpAddr::V6(to) if to.is_multicast()) {
        return None;
    }
    // Kernels before 6.14 refuse a question with a flow label, and have no rule that looks at it.
    let labelled = host.rules_of(family).any(|rule| rule.selectors.flowlabel.is_some());
    let packet = &Packet { flowlabel: if labelled { packet.flowlabel } else { 0 }, ..*packet };
    if askable_protocol(packet.ipproto, family) {
        return Some(*packet);
    }
    let icmp = if family == Family::Ipv4 { ICMP } else { ICMPV6 };
    let ports = |proto| if matches!(proto, TCP | UDP) { (packet.sport, packet.dport) } else { (0, 0) };
    [icmp, UDP, TCP]
        .into_iter()
        .map(|proto| Packet { ipproto: proto, sport: ports(proto).0, dport: ports(proto).1, ..*packet })
        .find(|other| {
            host.rules_of(family).all(|rule| {
                let s = &rule.selectors;
                let sees = |p: &Packet| {
                    let port = |ports: Option<crate::model::Ports>, port: u16| {
                        ports.map(|ports| ports.contains(if p.has_ports() { port } else { 0 }))
                    };
                    (s.ipproto.map(|proto| proto == p.ipproto), port(s.sport, p.sport), port(s.dport, p.dport))
                };
                sees(packet) == sees(other)
            })
        })
}

/// The kernel's answer about `packet`, whose mark before the `[[mark]]` statements is replaced by `mark`. None where the
/// kernel cannot be asked about such a packet.
pub fn ask(kernel: &mut dyn Kernel, host: &Host, packet: &Packet, mark: u32) -> kernel::Result<Option<RouteAnswer>> {
    match askable(host, packet) {
        Some(packet) => kernel.route_get(&packet.query(mark)).map(Some),
        None => Ok(None),
    }
}

/// Whether the fast path's decision agrees with the kernel's answer (contract).
///
/// `pass` agrees by definition. `mark` leaves the packet to the stack, which still judges its source: where the kernel
/// refuses that, the mark has taken nothing away. What the kernel could not be asked is held against the reference.
pub fn agree(fast: &Fast, answer: Option<&RouteAnswer>, reference: &Reference) -> bool {
    // The look-up is not all: a packet that leaves by the fast path is not one that the stack drops.
    if fast.action == Action::Redirect && reference.refuses(fast.verdict, fast.oif).is_some() {
        return false;
    }
    let Some(answer) = answer else {
        return fast.action == Action::Pass || reference.allows_decision(fast.verdict, fast.oif, fast.via, fast.table);
    };
    match fast.action {
        Action::Pass => true,
        Action::Mark if answer.verdict == Verdict::Martian && reference.refuses_source() => true,
        _ if fast.verdict == Verdict::Forward => {
            answer.verdict == Verdict::Forward && (same_way(fast, answer) || several(fast, answer, reference))
        }
        _ => answer.allows(fast.verdict),
    }
}

fn same_way(fast: &Fast, answer: &RouteAnswer) -> bool {
    (fast.oif, fast.via, fast.table) == (answer.oif, answer.via, answer.table)
}

/// Both chose a next hop of one multipath route. Where the reference knows several answers for another reason, they are of
/// different tables, and the two have to agree.
fn several(fast: &Fast, answer: &RouteAnswer, reference: &Reference) -> bool {
    if fast.table != answer.table {
        return false;
    }
    let is_way = |oif, via, table| {
        reference
            .ways
            .iter()
            .any(|way| way.verdict == Verdict::Forward && (way.oif, way.via, way.table) == (oif, via, table))
    };
    is_way(fast.oif, fast.via, fast.table) && is_way(answer.oif, answer.via, answer.table)
}

/// Marks, reference and snapshot of one host: what every decision is held against.
pub struct Measure<'a> {
    /// The snapshot.
    pub host: &'a Host,
    /// The file's `[[mark]]` alternatives.
    pub marks: &'a [MarkRule],
    /// The reference over the snapshot.
    pub walker: Walker<'a>,
}

impl<'a> Measure<'a> {
    /// Arranges a snapshot.
    pub fn new(host: &'a Host, marks: &'a [MarkRule]) -> Self {
        Measure { host, marks, walker: Walker::new(host) }
    }

    /// The packet's mark after the `[[mark]]` statements, and the reference's answer about the packet with that mark.
    pub fn reference(&self, packet: &Packet) -> (u32, Reference) {
        let mark = super::reference::rewrite(self.host, self.marks, packet);
        (mark, self.walker.decide(&Packet { mark, ..*packet }))
    }
}
