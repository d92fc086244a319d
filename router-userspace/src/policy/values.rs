//! The values of the policy file: addresses, marks, ports, names.

use super::cursor::{Findings, Item, NumberOrText, Wrong, nearest, parse_number, quote};
use super::sets::Sets;
use crate::model::{FLOWLABEL_MASK, Family, Ports};
use ipnet::IpNet;
use std::net::IpAddr;

/// A source or destination as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Net {
    /// `all`, of both families.
    All,
    /// A prefix without host bits.
    Prefix(IpNet),
    /// A set, by its place among all, and the families that it has members of.
    Set {
        index: usize,
        v4: bool,
        v6: bool,
        /// It has no members, and so none of a wrong family.
        empty: bool,
    },
}

impl Net {
    pub fn is_of(self, family: Family) -> bool {
        match self {
            Net::All => true,
            Net::Prefix(net) => Family::of(net.addr()) == family,
            Net::Set { v4, v6, .. } => match family {
                Family::Ipv4 => v4,
                Family::Ipv6 => v6,
            },
        }
    }

    /// The selector: None for a prefix that holds everything, as the kernel has no other way to keep it
    /// (a length of 0 is no selector).
    pub fn selector(self) -> Option<IpNet> {
        match self {
            Net::All | Net::Set { .. } => None,
            Net::Prefix(net) => (net.prefix_len() > 0).then_some(net),
        }
    }
}

/// A prefix, or one address.
pub(super) fn prefix(text: &str) -> Result<IpNet, Wrong> {
    let help = "such as \"10.0.0.0/8\", \"fd00::/8\" or one address";
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(addr) => IpNet::from(addr),
            Err(_) => {
                return Err(Wrong::new(
                    format!("{} is no address and no prefix", quote(text)),
                    mend_prefix(text, help),
                ));
            }
        },
    };
    if net.addr() == net.network() {
        return Ok(net);
    }
    Err(Wrong::new(
        format!("`{net}` has bits set beyond its length"),
        format!("the network is \"{}\", the address alone \"{}\"", net.trunc(), net.addr()),
    ))
}

/// The mend for common slips: a length beyond the address, an IPv4 netmask, missing octets.
fn mend_prefix(text: &str, otherwise: &str) -> String {
    let (addr, len) = text.split_once('/').unwrap_or((text, ""));
    if let Ok(addr) = addr.parse::<IpAddr>() {
        let bits = Family::of(addr).bits();
        if len.parse::<u32>().is_ok() {
            return format!("the length of an {} prefix goes from 0 to {bits}", title(Family::of(addr)));
        }
        let mask = len.parse().ok().and_then(|mask| ipnet::ip_mask_to_prefix(mask).ok());
        if let Some(net) = mask.and_then(|len| IpNet::new(addr, len).ok()) {
            return format!("write the mask as a length: \"{}\"", net.trunc());
        }
        return otherwise.to_owned();
    }
    let octets = addr.split('.').count();
    if (1..4).contains(&octets) && addr.split('.').all(|octet| octet.parse::<u8>().is_ok()) && !len.is_empty() {
        let full = format!("{addr}{}/{len}", ".0".repeat(4 - octets));
        if full.parse::<IpNet>().is_ok() {
            return format!("write all four octets: \"{full}\"");
        }
    }
    otherwise.to_owned()
}

/// `IPv4` or `IPv6`, for sentences.
pub(super) fn title(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

/// A source or destination of a rule.
pub(super) fn net(findings: &mut Findings<'_>, item: &Item<'_>, sets: &Sets) -> Option<Net> {
    let text = item.text(findings, "10.0.0.0/8")?;
    if let Some(name) = text.strip_prefix('@') {
        return sets.resolve(findings, item, name);
    }
    let value = if text == "all" { Ok(Net::All) } else { prefix(text).map(Net::Prefix) };
    findings.take(&item.span, value)
}

/// One address.
pub(super) fn address(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<IpAddr> {
    let text = item.text(findings, "10.0.0.1")?;
    let value = text.parse().map_err(|_| {
        let help = match text.split_once(['/', '%']) {
            Some((addr, _)) if addr.parse::<IpAddr>().is_ok() => format!("the address alone: \"{addr}\""),
            _ => "such as \"10.0.0.1\" or \"fe80::1\"".to_owned(),
        };
        Wrong::new(format!("{} is no address", quote(text)), help)
    });
    findings.take(&item.span, value)
}

/// The name of an interface: what the kernel takes for one (`dev_valid_name()` in net/core/dev.c).
pub(super) fn interface(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<String> {
    let text = item.text(findings, "eth1")?;
    let help = if text.len() > 15 {
        "a name has at most 15 bytes"
    } else if text.contains(['*', '?', '[']) {
        "rules match one name each; give a list of names"
    } else {
        "1 to 15 bytes without blanks, `/` and `:`"
    };
    let bad = text.is_empty()
        || text.len() > 15
        || text == "."
        || text == ".."
        || text.contains(['/', ':', '*', '?', '['])
        || text.chars().any(|c| c.is_whitespace() || c.is_control());
    let value = if bad {
        Err(Wrong::new(format!("{} cannot be the name of an interface", quote(text)), help))
    } else {
        Ok(text.to_owned())
    };
    findings.take(&item.span, value)
}

/// A mark with the mask that was written, if one was: an integer, or `"value/mask"` in decimal or hexadecimal.
pub(super) fn mark(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<(u32, Option<u32>)> {
    let example = "0x100 or \"0x100/0xff00\"";
    let wrong = |text: &str| {
        Wrong::new(
            format!("{} is no mark", quote(text)),
            "a number of 32 bits, alone or as \"value/mask\", decimal or with 0x: 5324 or \"0x100/0xff00\"",
        )
    };
    let value = match item.number_or_text(findings, "a mark", example)? {
        NumberOrText::Number(number) => {
            u32::try_from(number).map(|value| (value, None)).map_err(|_| wrong(&number.to_string()))
        }
        NumberOrText::Text(text) => {
            let number = |text: &str| parse_number(text).and_then(|number| u32::try_from(number).ok());
            match text.split_once('/') {
                Some((value, mask)) => number(value).zip(number(mask)).map(|(value, mask)| (value, Some(mask))),
                None => number(text).map(|value| (value, None)),
            }
            .ok_or_else(|| wrong(text))
        }
    };
    findings.take(&item.span, value)
}

/// Names of IP protocols as /etc/protocols has them; fixed, so that a file means the same on every host.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// The protocols that have ports.
pub(super) const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// The name of an IP protocol, where it has one that the file knows.
pub fn ipproto_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|(_, other)| *other == number).map(|(name, _)| *name)
}

/// An IP protocol by name or number. 0 cannot be matched: it is how the kernel keeps "any".
pub(super) fn ipproto(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<u8> {
    let in_range = |number: u64| u8::try_from(number).ok().filter(|number| *number > 0);
    let value = match item.number_or_text(findings, "a protocol", "\"tcp\" or 6")? {
        NumberOrText::Number(number) => in_range(number)
            .ok_or_else(|| Wrong::new(format!("{number} cannot be matched as a protocol"), "it goes from 1 to 255")),
        NumberOrText::Text(text) => ipproto_number(text).ok_or_else(|| {
            let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            let help = match nearest(text, &names) {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => format!("a number from 1 to 255, or {}", names.join(", ")),
            };
            Wrong::new(format!("{} is no protocol", quote(text)), help)
        }),
    };
    findings.take(&item.span, value)
}

/// The number of an IP protocol given by name or number, 1 to 255.
pub fn ipproto_number(text: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    named.or_else(|| parse_number(text).and_then(|number| u8::try_from(number).ok()).filter(|number| *number > 0))
}

/// A port, `"first-last"` or `"value/mask"`, within `1..=last_port`.
pub(super) fn ports(findings: &mut Findings<'_>, item: &Item<'_>, last_port: u16) -> Option<Ports> {
    let why = if last_port == u16::MAX { "0" } else { "0 and 65535" };
    let help = format!("ports go from 1 to {last_port}; a range is \"443-444\", ports under a mask \"0x1000/0xf000\"");
    let check = |start: u64, end: u64| match (u16::try_from(start), u16::try_from(end)) {
        (Ok(start), Ok(end)) if start > end => Err(Wrong::new(
            format!("the range of ports ends before it starts: {start}-{end}"),
            format!("write \"{end}-{start}\""),
        )),
        (Ok(start), Ok(end)) if start == 0 || end > last_port => {
            Err(Wrong::new(format!("port {why} cannot be matched"), help.clone()))
        }
        (Ok(start), Ok(end)) => Ok(Ports::Range { start, end }),
        _ => Err(Wrong::new("a port has 16 bits", help.clone())),
    };
    let masked = |value: u64, mask: u64| match (u16::try_from(value), u16::try_from(mask)) {
        (Ok(_), Ok(0)) => {
            Err(Wrong::new("a mask of 0 compares nothing", format!("leave `{}` out to match all", item.key)))
        }
        (Ok(value), Ok(u16::MAX)) => check(value.into(), value.into()),
        // The kernel keeps "no ports" as 0, masked or not.
        (Ok(0), Ok(_)) => Err(Wrong::new("port 0 cannot be matched, under a mask neither", help.clone())),
        (Ok(value), Ok(mask)) if value & !mask != 0 => {
            Err(Wrong::new("the port has bits outside of its mask", format!("write \"{:#x}/{mask:#x}\"", value & mask)))
        }
        (Ok(value), Ok(mask)) => Ok(Ports::Masked { value, mask }),
        _ => Err(Wrong::new("a port has 16 bits", help.clone())),
    };
    let value = match item.number_or_text(findings, "a port", "443 or \"443-444\"")? {
        NumberOrText::Number(number) => check(number, number),
        NumberOrText::Text(text) => match text.split_once('/') {
            Some((value, mask)) => parse_number(value.trim()).zip(parse_number(mask.trim())).map(|(v, m)| masked(v, m)),
            None => range(text).map(|(start, end)| check(start, end)),
        }
        .unwrap_or_else(|| Err(Wrong::new(format!("{} is no port and no range", quote(text)), help.clone()))),
    };
    findings.take(&item.span, value)
}

/// An IPv6 flow label and its mask: an integer, or `"value/mask"`.
pub(super) fn flowlabel(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<(u32, u32)> {
    let help = "a flow label has 20 bits: 0x12345, or \"0x12000/0xff000\"";
    let small = |number: u64| u32::try_from(number).ok().filter(|number| *number <= FLOWLABEL_MASK);
    let parsed = match item.number_or_text(findings, "a flow label", "0x12345 or \"0x12000/0xff000\"")? {
        NumberOrText::Number(number) => small(number).map(|label| (label, FLOWLABEL_MASK)),
        NumberOrText::Text(text) => match text.split_once('/') {
            Some((label, mask)) => parse_number(label).and_then(small).zip(parse_number(mask).and_then(small)),
            None => parse_number(text).and_then(small).map(|label| (label, FLOWLABEL_MASK)),
        },
    };
    let value = match parsed {
        None => Err(Wrong::new("no such flow label", help)),
        Some((_, 0)) => Err(Wrong::new("a mask of 0 compares nothing", "leave `flowlabel` out to match all")),
        Some((label, mask)) if label & !mask != 0 => Err(Wrong::new(
            "the flow label has bits outside of its mask",
            format!("write \"{:#x}/{mask:#x}\"", label & mask),
        )),
        Some(value) => Ok(value),
    };
    findings.take(&item.span, value)
}

/// A user id or `"first-last"`.
pub(super) fn uids(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<(u32, u32)> {
    let help = "user ids go from 0 to 4294967294; a range is \"1000-1999\"";
    // The last number is INVALID_UID in the kernel.
    let check = |start: u64, end: u64| match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end && end != u32::MAX => Ok((start, end)),
        _ => Err(Wrong::new(format!("{start}-{end} is no range of user ids"), help)),
    };
    let value = match item.number_or_text(findings, "a user id", "\"1000-1999\"")? {
        NumberOrText::Number(number) => check(number, number),
        NumberOrText::Text(text) => range(text)
            .ok_or_else(|| Wrong::new(format!("{} is no range of user ids", quote(text)), help))
            .and_then(|(start, end)| check(start, end)),
    };
    findings.take(&item.span, value)
}

/// `5` or `5-9`.
fn range(text: &str) -> Option<(u64, u64)> {
    match text.split_once('-') {
        Some((start, end)) => parse_number(start.trim()).zip(parse_number(end.trim())),
        None => parse_number(text).map(|number| (number, number)),
    }
}

/// Names of code points (RFC 2474, 2597, 3246, 5865, 8622).
const DSCP: &[(&str, u8)] = &[
    ("cs0", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

/// DSCP value and mask: a number, a name, or `"value/mask"`.
pub(super) fn dscp(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<(u8, u8)> {
    let help = "0 to 63, a name such as \"ef\", or \"value/mask\"";
    let small = |number: u64| u8::try_from(number).ok().filter(|number| *number < 64);
    let parsed = match item.number_or_text(findings, "a DSCP", "46 or \"ef\"")? {
        NumberOrText::Number(number) => small(number).map(|value| (value, 0x3f)),
        NumberOrText::Text(text) => match text.split_once('/') {
            Some((value, mask)) => parse_number(value).and_then(small).zip(parse_number(mask).and_then(small)),
            None => DSCP
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(text))
                .map(|(_, value)| *value)
                .or_else(|| parse_number(text).and_then(small))
                .map(|value| (value, 0x3f)),
        },
    };
    let value = match parsed {
        None => Err(Wrong::new("no such DSCP", help)),
        Some((_, 0)) => Err(Wrong::new("a mask of 0 compares nothing", "leave `dscp` out to match all")),
        Some((value, mask)) if value & !mask != 0 => {
            Err(Wrong::new("the DSCP has bits outside of its mask", format!("write \"{}/{mask:#x}\"", value & mask)))
        }
        Some(value) => Ok(value),
    };
    findings.take(&item.span, value)
}

/// `ipv4` or `ipv6`.
pub(super) fn family(findings: &mut Findings<'_>, item: &Item<'_>) -> Option<Family> {
    choice(findings, item, &[("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)])
}

/// One of some words.
pub(super) fn choice<T: Copy>(findings: &mut Findings<'_>, item: &Item<'_>, words: &[(&str, T)]) -> Option<T> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let text = item.text(findings, names.first().copied().unwrap_or_default())?;
    let value = words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let all = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let help = match nearest(text, &names) {
            Some(name) => format!("did you mean \"{name}\"? It is one of {all}"),
            None => format!("one of {all}"),
        };
        Wrong::new(format!("`{}` cannot be {}", item.key, quote(text)), help)
    });
    findings.take(&item.span, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(text: &str) -> String {
        prefix(text).expect_err(text).help
    }

    #[test]
    fn prefixes_are_mended() {
        assert_eq!(prefix("10.0.0.0/8"), Ok("10.0.0.0/8".parse().expect("prefix")));
        assert_eq!(prefix("10.1.2.3"), Ok("10.1.2.3/32".parse().expect("prefix")));
        assert_eq!(prefix("fd00::1"), Ok("fd00::1/128".parse().expect("prefix")));
        assert_eq!(help("10.0.0.1/24"), "the network is \"10.0.0.0/24\", the address alone \"10.0.0.1\"");
        assert_eq!(help("10.0.0.0/33"), "the length of an IPv4 prefix goes from 0 to 32");
        assert_eq!(help("10.1.0.0/255.255.0.0"), "write the mask as a length: \"10.1.0.0/16\"");
        assert_eq!(help("10/8"), "write all four octets: \"10.0.0.0/8\"");
        assert_eq!(help("192.168/16"), "write all four octets: \"192.168.0.0/16\"");
        for wrong in ["", "/", "10.0.0.0/", "10.0.0.0/x", "x/8", "fe80::1%eth0", "1.2.3.4.5/8", "/8", "./8"] {
            assert!(help(wrong).starts_with("such as"), "{wrong:?}: {}", help(wrong));
        }
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        assert_eq!(ipproto_number("TCP"), Some(6));
        assert_eq!(ipproto_number("132"), Some(132));
        assert_eq!(ipproto_number("0"), None);
        assert_eq!(ipproto_number("256"), None);
        assert_eq!(ipproto_name(58), Some("icmpv6"));
    }
}
