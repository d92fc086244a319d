//! Whether a rule matches, and which selector says no: `fib_rule_match` (net/core/fib_rules.c) with `fib4_rule_match` and
//! `fib6_rule_match`.

use super::Flow;
use crate::model::{Family, Host, Ports, Rule, Selectors};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// What a rule says to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It matches.
    Yes,
    /// It does not, because of this selector.
    No(WhyNot),
    /// It looks at something that cannot be known here.
    Unknown(String),
}

/// The selector that kept a rule from matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhyNot {
    /// All selectors match, and `not` turns that round.
    Not,
    /// `iif`.
    Iif,
    /// `iif` names an interface that does not exist.
    IifDetached,
    /// `oif`: a forwarded packet has none yet.
    Oif,
    /// `fwmark`.
    Fwmark,
    /// `tun_id`: the packet came out of no light-weight tunnel.
    TunId,
    /// `l3mdev`: the interface belongs to no VRF.
    L3mdev,
    /// `uidrange`.
    Uidrange,
    /// `from`.
    From,
    /// `to`.
    To,
    /// `tos`.
    Tos,
    /// `dscp`.
    Dscp,
    /// `ipproto`.
    Ipproto,
    /// `sport`.
    Sport,
    /// `dport`.
    Dport,
    /// `flowlabel`.
    Flowlabel,
}

impl WhyNot {
    /// iproute2's word for the selector.
    pub fn selector(self) -> &'static str {
        match self {
            WhyNot::Not => "not",
            WhyNot::Iif | WhyNot::IifDetached => "iif",
            WhyNot::Oif => "oif",
            WhyNot::Fwmark => "fwmark",
            WhyNot::TunId => "tun_id",
            WhyNot::L3mdev => "l3mdev",
            WhyNot::Uidrange => "uidrange",
            WhyNot::From => "from",
            WhyNot::To => "to",
            WhyNot::Tos => "tos",
            WhyNot::Dscp => "dscp",
            WhyNot::Ipproto => "ipproto",
            WhyNot::Sport => "sport",
            WhyNot::Dport => "dport",
            WhyNot::Flowlabel => "flowlabel",
        }
    }
}

/// Interface indexes by the interfaces' own names: a rule names its interface.
pub type Names<'a> = HashMap<&'a str, u32>;

/// Answers `rule` to `flow`.
pub fn matches(host: &Host, names: &Names<'_>, rule: &Rule, flow: &Flow) -> Match {
    let conjunction = all_selectors(host, names, rule, flow);
    match (rule.selectors.not, conjunction) {
        (false, answer) => answer,
        (true, Match::Yes) => Match::No(WhyNot::Not),
        (true, Match::No(_)) => Match::Yes,
        (true, Match::Unknown(what)) => Match::Unknown(what),
    }
}

/// The conjunction. One selector that says no decides, whatever the unknown ones say.
fn all_selectors(host: &Host, names: &Names<'_>, rule: &Rule, flow: &Flow) -> Match {
    // Taken apart field by field, so that a selector that is added to the model cannot be forgotten here.
    let Selectors {
        not: _,
        iif,
        oif,
        fwmark,
        from,
        to,
        tos,
        dscp,
        ipproto,
        sport,
        dport,
        flowlabel,
        uidrange,
        l3mdev,
        tun_id,
        unknown,
    } = &rule.selectors;
    let mut unseen: Option<String> = None;

    if let Some(name) = iif {
        match names.get(name.as_str()) {
            _ if !rule.attached.iif => return Match::No(WhyNot::IifDetached),
            // `fib_nl2rule` finds it among all names, and only it knows which that was then.
            None => {
                unseen = Some(format!(
                    "iif {name}: the kernel attached it to an interface of which this is not the own name"
                ))
            }
            // A packet from a VRF's port counts as one from the VRF.
            Some(index) if vrf_of(host, flow.iif).is_some() => {
                unseen = Some(format!("iif {}: its packets belong to a VRF", host.link_name(*index)));
            }
            Some(index) if *index != flow.iif => return Match::No(WhyNot::Iif),
            Some(_) => {}
        }
    }
    // The flow of a packet that comes in has no egress interface: `flowi4_oif` is 0 in ip_route_input_slow.
    if oif.is_some() {
        return Match::No(WhyNot::Oif);
    }
    if let Some((value, mask)) = fwmark
        && (value ^ flow.mark) & mask != 0
    {
        return Match::No(WhyNot::Fwmark);
    }
    if tun_id.is_some_and(|id| id != 0) {
        return Match::No(WhyNot::TunId);
    }
    if *l3mdev {
        match vrf_of(host, flow.iif) {
            None => return Match::No(WhyNot::L3mdev),
            Some(name) => unseen = Some(format!("l3mdev: the table of {name} is not known here")),
        }
    }
    match uidrange {
        Some((first, last)) if host.settings.of_other_users => {
            unseen = Some(format!(
                "uidrange {first}-{last}: the namespace is one of other users, whose root has another number here"
            ));
        }
        Some((first, last)) if !(*first..=*last).contains(&flow.uid) => return Match::No(WhyNot::Uidrange),
        _ => {}
    }
    if !contains(*from, flow.saddr, flow.has_saddr) {
        return Match::No(WhyNot::From);
    }
    if !contains(*to, flow.daddr, true) {
        return Match::No(WhyNot::To);
    }
    // IPv4 compares three bits of the DSCP with a `tos` (fib_dscp_masked_match), IPv6 all six.
    let tos_bits = match rule.family {
        Family::Ipv4 => 0x1c,
        Family::Ipv6 => 0xfc,
    };
    if *tos != 0 && *tos & 0xfc != flow.dsfield & tos_bits {
        return Match::No(WhyNot::Tos);
    }
    if let Some((value, mask)) = dscp
        && (value ^ flow.dsfield >> 2) & mask != 0
    {
        return Match::No(WhyNot::Dscp);
    }
    // 0 is "any" to the kernel (`rule->ip_proto &&`).
    if ipproto.is_some_and(|proto| proto != 0 && proto != flow.ipproto) {
        return Match::No(WhyNot::Ipproto);
    }
    if !in_range(*sport, flow.sport) {
        return Match::No(WhyNot::Sport);
    }
    if !in_range(*dport, flow.dport) {
        return Match::No(WhyNot::Dport);
    }
    if let Some((label, mask)) = flowlabel
        && (label ^ flow.flowlabel) & mask != 0
    {
        return Match::No(WhyNot::Flowlabel);
    }
    if !unknown.is_empty() {
        unseen = Some(unknown.join(", "));
    }
    unseen.map_or(Match::Yes, Match::Unknown)
}

/// Whether the rule makes the kernel dissect every packet for protocol and ports (`fib_rule_requires_fldissect`): a rule for
/// `iif lo` does not.
pub fn requires_dissection(rule: &Rule) -> bool {
    let s = &rule.selectors;
    s.iif.as_deref() != Some("lo") && (s.ipproto.is_some_and(|p| p != 0) || s.sport.is_some() || s.dport.is_some())
}

/// The VRF that an interface is, or belongs to.
fn vrf_of(host: &Host, index: u32) -> Option<&str> {
    let link = host.links.get(&index)?;
    let own = (link.kind == "vrf").then_some(link);
    own.or_else(|| link.master.and_then(|master| host.links.get(&master)).filter(|l| l.kind == "vrf"))
        .map(|l| l.name.as_str())
}

/// A prefix of length 0 is no selector. IPv6 never matches a source that the flow does not have (RT6_LOOKUP_F_HAS_SADDR).
fn contains(net: Option<IpNet>, addr: IpAddr, known: bool) -> bool {
    net.is_none_or(|net| net.prefix_len() == 0 || (known && net.contains(&addr)))
}

/// Port 0, which every fragment and every protocol without ports has, is in no range (`fib_rule_port_range_valid`), but may agree
/// with a value under a mask (`fib_rule_port_match`).
fn in_range(ports: Option<Ports>, port: u16) -> bool {
    ports.is_none_or(|ports| ports.contains(port))
}
