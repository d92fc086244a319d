//! The RPDB over netlink: RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE (net/core/fib_rules.c, include/uapi/linux/fib_rules.h).

use super::attributes::{Attribute, Attributes, Decode, Malformed, decode, family_number, family_of};
use super::socket::{Request, Socket};
use super::{Error, Result};
use crate::model::{Attached, FLOWLABEL_MASK, Family, Ports, Rule, RuleAction, Selectors};
use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{
    RuleAttribute as Attr, RuleFlags, RuleHeader, RuleMessage, RulePortRange, RuleUidRange,
};

/// Length of `struct fib_rule_hdr`.
const HEADER: usize = 12;
/// DSCP is 6 bits.
const DSCP_MASK: u8 = 0x3f;
/// FIB_RULE_IIF_DETACHED, FIB_RULE_OIF_DETACHED: there is no interface of that name.
const IIF_DETACHED: u32 = 0x8;
const OIF_DETACHED: u32 = 0x10;
/// FIB_RULE_FIND_SADDR: look for a source address that suits the rule.
const FIND_SADDR: u32 = 0x0001_0000;

/// FRA_*: the attributes of a rule.
mod fra {
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const IIFNAME: u16 = 3;
    pub const GOTO: u16 = 4;
    pub const PRIORITY: u16 = 6;
    pub const FWMARK: u16 = 10;
    pub const FLOW: u16 = 11;
    pub const TUN_ID: u16 = 12;
    pub const SUPPRESS_IFGROUP: u16 = 13;
    pub const SUPPRESS_PREFIXLEN: u16 = 14;
    pub const TABLE: u16 = 15;
    pub const FWMASK: u16 = 16;
    pub const OIFNAME: u16 = 17;
    pub const PAD: u16 = 18;
    pub const L3MDEV: u16 = 19;
    pub const UID_RANGE: u16 = 20;
    pub const PROTOCOL: u16 = 21;
    pub const IP_PROTO: u16 = 22;
    pub const SPORT_RANGE: u16 = 23;
    pub const DPORT_RANGE: u16 = 24;
    pub const DSCP: u16 = 25;
    pub const FLOWLABEL: u16 = 26;
    pub const FLOWLABEL_MASK: u16 = 27;
    pub const SPORT_MASK: u16 = 28;
    pub const DPORT_MASK: u16 = 29;
    pub const DSCP_MASK: u16 = 30;
}

/// FR_ACT_*: what a rule does.
mod act {
    pub const TO_TABLE: u8 = 1;
    pub const GOTO: u8 = 2;
    pub const NOP: u8 = 3;
    pub const BLACKHOLE: u8 = 6;
    pub const UNREACHABLE: u8 = 7;
    pub const PROHIBIT: u8 = 8;
}

/// The rules of both families, each in the kernel's order.
pub(super) fn dump(socket: &mut Socket) -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let what = format!("read the {family} rules");
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::from(family_number(family));
        let rules = socket.dump(&what, libc::RTM_GETRULE, &request, |bytes| decode(&what, || read(bytes)));
        match rules {
            // The first list is not copied: it may be long.
            Ok(rules) if all.is_empty() => all = rules,
            Ok(rules) => all.extend(rules),
            // A kernel without IPv6 has no such list.
            Err(error) if family == Family::Ipv6 && error.errno() == libc::EAFNOSUPPORT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// One rule from the payload of RTM_NEWRULE; None for the families that are not IPv4 or IPv6.
fn read(bytes: &[u8]) -> Decode<Option<Rule>> {
    let header = RuleHeader::parse(bytes).map_err(|_| Malformed("rule header"))?;
    let Some(family) = family_of(header.family.into()) else {
        return Ok(None);
    };
    let mut found = Found::default();
    let selectors = &mut found.selectors;
    selectors.not = header.flags.contains(RuleFlags::Invert);
    selectors.tos = header.tos;
    if header.flags.bits() & FIND_SADDR != 0 {
        selectors.unknown.push("find_saddr".to_owned());
    }
    found.attached =
        Attached { iif: header.flags.bits() & IIF_DETACHED == 0, oif: header.flags.bits() & OIF_DETACHED == 0 };
    found.table = u32::from(header.table);
    for attribute in Attributes::after(bytes, HEADER)? {
        found.take(attribute?, &header)?;
    }
    let action = u8::from(header.action);
    Ok(Some(found.finish(family, action)))
}

/// What the attributes said so far.
#[derive(Default)]
struct Found {
    selectors: Selectors,
    priority: u32,
    table: u32,
    target: u32,
    protocol: u8,
    suppress_prefixlength: Option<u32>,
    suppress_ifgroup: Option<u32>,
    mark: Option<u32>,
    mask: Option<u32>,
    dscp: Option<u8>,
    dscp_mask: Option<u8>,
    flowlabel: Option<u32>,
    flowlabel_mask: Option<u32>,
    sport_mask: Option<u16>,
    dport_mask: Option<u16>,
    realms: Option<u32>,
    attached: Attached,
}

impl Found {
    fn take(&mut self, attribute: Attribute<'_>, header: &RuleHeader) -> Decode<()> {
        let selectors = &mut self.selectors;
        match attribute.kind {
            // The address means nothing without a length.
            fra::DST if header.dst_len == 0 => {}
            fra::SRC if header.src_len == 0 => {}
            fra::DST => selectors.to = Some(attribute.prefix(header.dst_len)?),
            fra::SRC => selectors.from = Some(attribute.prefix(header.src_len)?),
            fra::IIFNAME => selectors.iif = Some(attribute.text()),
            fra::OIFNAME => selectors.oif = Some(attribute.text()),
            fra::GOTO => self.target = attribute.u32()?,
            fra::PRIORITY => self.priority = attribute.u32()?,
            fra::FWMARK => self.mark = Some(attribute.u32()?),
            fra::FWMASK => self.mask = Some(attribute.u32()?),
            fra::TABLE => self.table = attribute.u32()?,
            fra::PROTOCOL => self.protocol = attribute.u8()?,
            // -1 is none, and is what most rules carry.
            fra::SUPPRESS_PREFIXLEN => self.suppress_prefixlength = Some(attribute.u32()?).filter(|n| *n != u32::MAX),
            fra::SUPPRESS_IFGROUP => self.suppress_ifgroup = Some(attribute.u32()?).filter(|n| *n != u32::MAX),
            fra::TUN_ID => selectors.tun_id = Some(attribute.u64_be()?),
            fra::L3MDEV => selectors.l3mdev = attribute.u8()? != 0,
            fra::UID_RANGE => selectors.uidrange = Some(uid_range(&attribute)?),
            fra::IP_PROTO => selectors.ipproto = Some(attribute.u8()?),
            fra::SPORT_RANGE => selectors.sport = Some(port_range(&attribute)?),
            fra::DPORT_RANGE => selectors.dport = Some(port_range(&attribute)?),
            fra::SPORT_MASK => self.sport_mask = Some(attribute.u16()?),
            fra::DPORT_MASK => self.dport_mask = Some(attribute.u16()?),
            fra::DSCP => self.dscp = Some(attribute.u8()?),
            fra::DSCP_MASK => self.dscp_mask = Some(attribute.u8()?),
            fra::FLOWLABEL => self.flowlabel = Some(attribute.u32_be()?),
            fra::FLOWLABEL_MASK => self.flowlabel_mask = Some(attribute.u32_be()?),
            fra::FLOW => self.realms = Some(attribute.u32()?).filter(|realms| *realms != 0),
            fra::PAD => {}
            other => selectors.unknown.push(format!("attribute {other}")),
        }
        Ok(())
    }

    fn finish(self, family: Family, action: u8) -> Rule {
        let mut selectors = self.selectors;
        // The kernel reports a mark that is not 0 and a mask that is not 0, and both where either is (fib_nl_fill_rule).
        if self.mark.is_some() || self.mask.is_some() {
            selectors.fwmark = Some((self.mark.unwrap_or(0), self.mask.unwrap_or(u32::MAX)));
        }
        if let Some(value) = self.dscp {
            // A kernel that knows of masks always tells one. One that does not (6.12 to 6.14) compares no class that is 0
            // in IPv6, and every bit in IPv4 (fib6_rule_match, fib4_rule_match).
            let heeded = value != 0 || family == Family::Ipv4;
            selectors.dscp = Some((value, self.dscp_mask.unwrap_or(if heeded { DSCP_MASK } else { 0 })));
        }
        if self.flowlabel.is_some() || self.flowlabel_mask.is_some() {
            selectors.flowlabel = Some((self.flowlabel.unwrap_or(0), self.flowlabel_mask.unwrap_or(FLOWLABEL_MASK)));
        }
        selectors.sport = selectors.sport.map(|ports| masked(ports, self.sport_mask));
        selectors.dport = selectors.dport.map(|ports| masked(ports, self.dport_mask));
        Rule {
            family,
            priority: self.priority,
            selectors,
            action: match action {
                act::TO_TABLE => RuleAction::Table(self.table),
                act::GOTO => RuleAction::Goto(self.target),
                act::NOP => RuleAction::Nop,
                act::BLACKHOLE => RuleAction::Blackhole,
                act::UNREACHABLE => RuleAction::Unreachable,
                act::PROHIBIT => RuleAction::Prohibit,
                other => RuleAction::Unknown(other),
            },
            suppress_prefixlength: self.suppress_prefixlength,
            suppress_ifgroup: self.suppress_ifgroup,
            realms: self.realms,
            protocol: self.protocol,
            attached: self.attached,
        }
    }
}

/// A single port is reported with the full mask, a range without one.
fn masked(ports: Ports, mask: Option<u16>) -> Ports {
    match (ports, mask) {
        (Ports::Range { start, .. }, Some(mask)) if mask != 0 && mask != u16::MAX => {
            Ports::Masked { value: start, mask }
        }
        (ports, _) => ports,
    }
}

/// `struct fib_rule_port_range`, host byte order.
fn port_range(attribute: &Attribute<'_>) -> Decode<Ports> {
    let [a, b, c, d] = attribute.value.try_into().map_err(|_| Malformed("port range"))?;
    Ok(Ports::Range { start: u16::from_ne_bytes([a, b]), end: u16::from_ne_bytes([c, d]) })
}

/// `struct fib_rule_uid_range`.
fn uid_range(attribute: &Attribute<'_>) -> Decode<(u32, u32)> {
    let both = attribute.element(0).zip(attribute.element(1)).filter(|_| attribute.value.len() == 8);
    both.ok_or(Malformed("uid range"))
}

/// The message that adds a rule, and the one that deletes it.
fn message(what: &str, rule: &Rule) -> Result<RuleMessage> {
    let selectors = &rule.selectors;
    if let Some(unknown) = selectors.unknown.first() {
        return Err(unsupported(what, format!("this version cannot write the selector `{unknown}`")));
    }
    let mut header = RuleHeader { family: AddressFamily::from(family_number(rule.family)), ..Default::default() };
    let mut attributes = vec![Attr::Priority(rule.priority), Attr::Protocol(rule.protocol.into())];
    header.tos = selectors.tos;
    header.flags.set(RuleFlags::Invert, selectors.not);
    header.src_len = address(what, rule.family, selectors.from, &mut attributes, Attr::Source)?;
    header.dst_len = address(what, rule.family, selectors.to, &mut attributes, Attr::Destination)?;
    let (action, table) = match rule.action {
        RuleAction::Table(table) => (act::TO_TABLE, table),
        RuleAction::Goto(target) => {
            attributes.push(Attr::Goto(target));
            (act::GOTO, 0)
        }
        RuleAction::Nop => (act::NOP, 0),
        RuleAction::Blackhole => (act::BLACKHOLE, 0),
        RuleAction::Unreachable => (act::UNREACHABLE, 0),
        RuleAction::Prohibit => (act::PROHIBIT, 0),
        RuleAction::Unknown(action) => return Err(unsupported(what, format!("action {action} is not known"))),
    };
    header.action = action.into();
    // The header has room for the old 8-bit numbers; the attribute wins (frh_get_table).
    header.table = u8::try_from(table).unwrap_or(0);
    if table != 0 {
        attributes.push(Attr::Table(table));
    }
    write_selectors(selectors, &mut attributes);
    attributes.extend(rule.suppress_prefixlength.map(Attr::SuppressPrefixLen));
    attributes.extend(rule.suppress_ifgroup.map(Attr::SuppressIfGroup));
    attributes.extend(rule.realms.map(|realms| raw(fra::FLOW, &realms.to_ne_bytes())));
    let mut message = RuleMessage::default();
    message.header = header;
    message.attributes = attributes;
    Ok(message)
}

fn write_selectors(selectors: &Selectors, attributes: &mut Vec<Attr>) {
    attributes.extend(selectors.iif.clone().map(Attr::Iifname));
    attributes.extend(selectors.oif.clone().map(Attr::Oifname));
    if let Some((mark, mask)) = selectors.fwmark {
        attributes.extend([Attr::FwMark(mark), Attr::FwMask(mask)]);
    }
    attributes.extend(selectors.tun_id.map(Attr::TunId));
    attributes.extend(selectors.l3mdev.then_some(Attr::L3MDev(true)));
    attributes.extend(selectors.uidrange.map(|(start, end)| Attr::UidRange(RuleUidRange { start, end })));
    attributes.extend(selectors.ipproto.map(|protocol| Attr::IpProtocol(protocol.into())));
    if let Some(ports) = selectors.sport {
        attributes.push(Attr::SourcePortRange(port_range_of(ports)));
        attributes.extend(port_mask(ports).map(|mask| raw(fra::SPORT_MASK, &mask.to_ne_bytes())));
    }
    if let Some(ports) = selectors.dport {
        attributes.push(Attr::DestinationPortRange(port_range_of(ports)));
        attributes.extend(port_mask(ports).map(|mask| raw(fra::DPORT_MASK, &mask.to_ne_bytes())));
    }
    if let Some((value, mask)) = selectors.dscp {
        attributes.push(raw(fra::DSCP, &[value]));
        // Kernels before 6.15 have no mask, and would not heed the attribute.
        if mask != DSCP_MASK {
            attributes.push(raw(fra::DSCP_MASK, &[mask]));
        }
    }
    if let Some((label, mask)) = selectors.flowlabel {
        attributes.push(raw(fra::FLOWLABEL, &label.to_be_bytes()));
        attributes.push(raw(fra::FLOWLABEL_MASK, &mask.to_be_bytes()));
    }
}

fn port_range_of(ports: Ports) -> RulePortRange {
    match ports {
        Ports::Range { start, end } => RulePortRange { start, end },
        Ports::Masked { value, .. } => RulePortRange { start: value, end: value },
    }
}

fn port_mask(ports: Ports) -> Option<u16> {
    match ports {
        Ports::Range { .. } => None,
        Ports::Masked { mask, .. } => Some(mask),
    }
}

/// An attribute that netlink-packet-route has no name for.
fn raw(kind: u16, value: &[u8]) -> Attr {
    Attr::Other(DefaultNla::new(kind, value.to_vec()))
}

/// Writes a prefix selector and gives its length for the header; 0 selects nothing.
fn address(
    what: &str,
    family: Family,
    net: Option<IpNet>,
    attributes: &mut Vec<Attr>,
    attribute: impl Fn(std::net::IpAddr) -> Attr,
) -> Result<u8> {
    let Some(net) = net.filter(|net| net.prefix_len() != 0) else {
        return Ok(0);
    };
    if Family::of(net.addr()) != family {
        return Err(unsupported(what, format!("{net} is no {family} prefix")));
    }
    attributes.push(attribute(net.addr()));
    Ok(net.prefix_len())
}

fn unsupported(what: &str, said: String) -> Error {
    Error::from_errno(what, libc::EOPNOTSUPP).saying(Some(said))
}

/// The request that adds a rule after those of equal priority.
///
/// Never NLM_F_EXCL: `rule_exists` compares neither `not` nor the goto target.
pub(super) fn add(rule: &Rule) -> Result<Request> {
    let what = format!("add {} rule: {rule}", rule.family);
    let message = message(&what, rule)?;
    Ok(Request::new(what, libc::RTM_NEWRULE, libc::NLM_F_CREATE, &message))
}

/// Whether the kernel takes `candidate` for the rule that a deletion of `wanted` names (`rule_find`, `fib4_rule_compare`,
/// `fib6_rule_compare`): the first such rule of the list is the one that goes.
///
/// What `wanted` does not name is not compared, so that it hits rules with more selectors than its own; `not` and the
/// target of a `goto` never are.
pub fn rule_matches_deletion(wanted: &Rule, candidate: &Rule) -> bool {
    fn named<T: PartialEq>(wanted: Option<T>, candidate: Option<T>) -> bool {
        wanted.is_none() || wanted == candidate
    }
    fn number(action: RuleAction) -> (u8, u32) {
        match action {
            RuleAction::Table(table) => (act::TO_TABLE, table),
            RuleAction::Goto(_) => (act::GOTO, 0),
            RuleAction::Nop => (act::NOP, 0),
            RuleAction::Blackhole => (act::BLACKHOLE, 0),
            RuleAction::Unreachable => (act::UNREACHABLE, 0),
            RuleAction::Prohibit => (act::PROHIBIT, 0),
            RuleAction::Unknown(other) => (other, 0),
        }
    }
    let (w, c) = (&wanted.selectors, &candidate.selectors);
    let ((wanted_act, wanted_table), (act, table)) = (number(wanted.action), number(candidate.action));
    let prefix = |net: Option<IpNet>| net.filter(|net| net.prefix_len() != 0);
    // A mark or a mask of 0 is not compared.
    let mark = |mark: Option<(u32, u32)>, candidate: Option<(u32, u32)>| {
        let ((value, mask), (value_c, mask_c)) = (mark.unwrap_or_default(), candidate.unwrap_or_default());
        (value == 0 || value == value_c) && (mask == 0 || mask == mask_c)
    };
    wanted.family == candidate.family
        && wanted.priority == candidate.priority
        && wanted_act == act
        && (wanted_table == 0 || wanted_table == table)
        && (wanted.protocol == 0 || wanted.protocol == candidate.protocol)
        && named(w.iif.as_ref(), c.iif.as_ref())
        && named(w.oif.as_ref(), c.oif.as_ref())
        && mark(w.fwmark, c.fwmark)
        && named(prefix(w.from), prefix(c.from))
        && named(prefix(w.to), prefix(c.to))
        && (w.tos == 0 || w.tos == c.tos)
        && named(w.dscp, c.dscp)
        && named(w.ipproto, c.ipproto)
        && named(w.sport, c.sport)
        && named(w.dport, c.dport)
        && named(w.flowlabel, c.flowlabel)
        && named(wanted.realms, candidate.realms)
        && named(w.uidrange, c.uidrange)
        && named(w.tun_id, c.tun_id)
        && (!w.l3mdev || c.l3mdev)
        && named(wanted.suppress_prefixlength, candidate.suppress_prefixlength)
        && named(wanted.suppress_ifgroup, candidate.suppress_ifgroup)
}

/// The request that deletes the first rule that the kernel takes for equal.
pub(super) fn delete(rule: &Rule) -> Result<Request> {
    let what = format!("delete {} rule: {rule}", rule.family);
    let message = message(&what, rule)?;
    Ok(Request::new(what, libc::RTM_DELRULE, 0, &message))
}

/// The request that adds a rule with FIB_RULE_FIND_SADDR, which [`Rule`] has no place for.
#[cfg(test)]
pub(super) fn add_find_saddr(rule: &Rule) -> Result<Request> {
    let what = format!("add {} rule: {rule} with FIB_RULE_FIND_SADDR", rule.family);
    let mut message = message(&what, rule)?;
    message.header.flags |= RuleFlags::from_bits_retain(FIND_SADDR);
    Ok(Request::new(what, libc::RTM_NEWRULE, libc::NLM_F_CREATE, &message))
}
