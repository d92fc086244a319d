//! The rules of Wayfork's own table as lists of nftables' expressions.

use super::sets::set_name;
use super::uapi::*;
use crate::kernel::wire::Attrs;
use crate::model::{Family, MarkRule, MarkSelectors, Ports};
use ipnet::IpNet;

/// Where the ports of a protocol stand, in bytes after the IP header: the protocols that have ports in `proto_ports_offset()`
/// (include/linux/ip.h), which the rules of the RPDB go by. Any other protocol has none, whatever stands there.
fn ports_offset(protocol: u8) -> Option<u32> {
    match i32::from(protocol) {
        libc::IPPROTO_TCP
        | libc::IPPROTO_UDP
        | libc::IPPROTO_DCCP
        | libc::IPPROTO_ESP
        | libc::IPPROTO_SCTP
        | libc::IPPROTO_UDPLITE => Some(0),
        libc::IPPROTO_AH => Some(4),
        _ => None,
    }
}

/// The rules of one alternative: one, but where it names ports one for each protocol that has ports and that it may mean.
pub(super) fn rules_of(mark: &MarkRule) -> Vec<Attrs> {
    let MarkSelectors { ipproto, sport, dport, .. } = &mark.selectors;
    if sport.is_none() && dport.is_none() {
        return vec![rule(mark, *ipproto, 0)];
    }
    let meant = ipproto.map_or(0..=u8::MAX, |protocol| protocol..=protocol);
    meant.filter_map(|protocol| Some(rule(mark, Some(protocol), ports_offset(protocol)?))).collect()
}

/// What `nft list ruleset` shows behind a rule that sets a set's bit, and what tells whose bit it is. Short: names of sets are.
pub(super) fn comment(mark: &MarkRule) -> Option<String> {
    let set = mark.selectors.sets().next().filter(|_| mark.membership && mark.mask != 0)?;
    let side = if mark.selectors.from_set.is_some() { "from" } else { "to" };
    Some(format!("{:#x} {side} @{}", mark.mask, set.name))
}

/// The bit and the use of a set that a comment tells of.
pub(super) fn read_comment(comment: &str) -> Option<(u32, String)> {
    let (bit, used) = comment.strip_prefix("0x")?.split_once(' ')?;
    Some((u32::from_str_radix(bit, 16).ok()?, used.to_owned()))
}

/// The expressions of one alternative.
fn rule(mark: &MarkRule, protocol: Option<u8>, ports: u32) -> Attrs {
    let MarkSelectors { iif, fwmark, from, to, ipproto: _, sport, dport, dscp, flowlabel, from_set, to_set } =
        &mark.selectors;
    let mut list = Expressions::default();
    let nfproto = match mark.family {
        Family::Ipv4 => NFPROTO_IPV4,
        Family::Ipv6 => NFPROTO_IPV6,
    };
    list.meta(NFT_META_NFPROTO).equal(&[nfproto]);
    if let Some(name) = iif {
        // All 16 bytes, so that `eth1` is not taken for the start of `eth10`.
        let mut padded = [0; libc::IFNAMSIZ];
        let length = name.len().min(libc::IFNAMSIZ - 1);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        list.meta(NFT_META_IIFNAME).equal(&padded);
    }
    if let Some((value, mask)) = fwmark {
        list.meta(NFT_META_MARK).masked(&mask.to_ne_bytes()).equal(&(value & mask).to_ne_bytes());
    }
    let (source, destination) = match mark.family {
        Family::Ipv4 => (12, 16),
        Family::Ipv6 => (8, 24),
    };
    for (net, offset) in [(from, source), (to, destination)] {
        if let Some(net) = net {
            list.prefix(*net, offset);
        }
    }
    for (set, offset) in [(from_set, source), (to_set, destination)] {
        if let Some(set) = set {
            list.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, u32::from(mark.family.bits()) / 8);
            list.member_of(&set_name(set, mark.family));
        }
    }
    if let Some((dscp, mask)) = dscp {
        // IPv4: the upper 6 bits of the second octet. IPv6: the upper 6 bits of the traffic class, which starts at bit 4.
        match mark.family {
            Family::Ipv4 => {
                list.payload(NFT_PAYLOAD_NETWORK_HEADER, 1, 1).masked(&[mask << 2]).equal(&[(dscp & mask) << 2])
            }
            Family::Ipv6 => list
                .payload(NFT_PAYLOAD_NETWORK_HEADER, 0, 2)
                .masked(&(u16::from(*mask) << 6).to_be_bytes())
                .equal(&(u16::from(dscp & mask) << 6).to_be_bytes()),
        };
    }
    if let Some((label, mask)) = flowlabel {
        list.payload(NFT_PAYLOAD_NETWORK_HEADER, 0, 4).masked(&mask.to_be_bytes()).equal(&(label & mask).to_be_bytes());
    }
    if let Some(protocol) = protocol {
        list.meta(NFT_META_L4PROTO).equal(&[protocol]);
    }
    for (range, offset) in [(sport, ports), (dport, ports + 2)] {
        if let Some(range) = range {
            list.payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2).ports(*range);
        }
    }
    if mark.mask != 0 {
        list.set_mark(mark.value, mark.mask);
    }
    list.push(verdict(NFT_RETURN, None));
    list.0
}

/// Expressions of one rule; all of them work on register 1.
#[derive(Default)]
struct Expressions(Attrs);

impl Expressions {
    fn push(&mut self, expression: Attrs) -> &mut Self {
        self.0 = std::mem::take(&mut self.0).nested(NFTA_LIST_ELEM, expression);
        self
    }

    fn meta(&mut self, key: u32) -> &mut Self {
        let data = Attrs::default().be32(NFTA_META_DREG, NFT_REG_1).be32(NFTA_META_KEY, key);
        self.push(expression("meta", data))
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) -> &mut Self {
        let data = Attrs::default()
            .be32(NFTA_PAYLOAD_DREG, NFT_REG_1)
            .be32(NFTA_PAYLOAD_BASE, base)
            .be32(NFTA_PAYLOAD_OFFSET, offset)
            .be32(NFTA_PAYLOAD_LEN, length);
        self.push(expression("payload", data))
    }

    /// Keeps the bits of `mask`; nothing is written for a full one.
    fn masked(&mut self, mask: &[u8]) -> &mut Self {
        if mask.iter().all(|byte| *byte == u8::MAX) {
            return self;
        }
        self.bitwise(mask, &vec![0; mask.len()])
    }

    /// Register & mask ^ xor.
    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) -> &mut Self {
        let data = Attrs::default()
            .be32(NFTA_BITWISE_SREG, NFT_REG_1)
            .be32(NFTA_BITWISE_DREG, NFT_REG_1)
            .be32(NFTA_BITWISE_LEN, mask.len() as u32)
            .nested(NFTA_BITWISE_MASK, value(mask))
            .nested(NFTA_BITWISE_XOR, value(xor));
        self.push(expression("bitwise", data))
    }

    fn equal(&mut self, wanted: &[u8]) -> &mut Self {
        let data = Attrs::default()
            .be32(NFTA_CMP_SREG, NFT_REG_1)
            .be32(NFTA_CMP_OP, NFT_CMP_EQ)
            .nested(NFTA_CMP_DATA, value(wanted));
        self.push(expression("cmp", data))
    }

    /// Goes on where the register is in the set.
    fn member_of(&mut self, set: &str) -> &mut Self {
        let data = Attrs::default().string(NFTA_LOOKUP_SET, set).be32(NFTA_LOOKUP_SREG, NFT_REG_1);
        self.push(expression("lookup", data))
    }

    fn ports(&mut self, ports: Ports) -> &mut Self {
        match ports {
            Ports::Range { start, end } if start == end => self.equal(&start.to_be_bytes()),
            Ports::Range { start, end } => {
                let data = Attrs::default()
                    .be32(NFTA_RANGE_SREG, NFT_REG_1)
                    .be32(NFTA_RANGE_OP, NFT_RANGE_EQ)
                    .nested(NFTA_RANGE_FROM_DATA, value(&start.to_be_bytes()))
                    .nested(NFTA_RANGE_TO_DATA, value(&end.to_be_bytes()));
                self.push(expression("range", data))
            }
            Ports::Masked { value, mask } => self.masked(&mask.to_be_bytes()).equal(&(value & mask).to_be_bytes()),
        }
    }

    fn prefix(&mut self, net: IpNet, offset: u32) -> &mut Self {
        let octets = |addr: std::net::IpAddr| match addr {
            std::net::IpAddr::V4(addr) => addr.octets().to_vec(),
            std::net::IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        if net.prefix_len() == 0 {
            return self;
        }
        let network = octets(net.network());
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, network.len() as u32)
            .masked(&octets(net.netmask()))
            .equal(&network)
    }

    fn set_mark(&mut self, set: u32, mask: u32) -> &mut Self {
        if mask == u32::MAX {
            let data = Attrs::default()
                .be32(NFTA_IMMEDIATE_DREG, NFT_REG_1)
                .nested(NFTA_IMMEDIATE_DATA, value(&set.to_ne_bytes()));
            self.push(expression("immediate", data));
        } else {
            self.meta(NFT_META_MARK).bitwise(&(!mask).to_ne_bytes(), &(set & mask).to_ne_bytes());
        }
        let data = Attrs::default().be32(NFTA_META_KEY, NFT_META_MARK).be32(NFTA_META_SREG, NFT_REG_1);
        self.push(expression("meta", data))
    }
}

fn expression(name: &str, data: Attrs) -> Attrs {
    Attrs::default().string(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data)
}

fn value(bytes: &[u8]) -> Attrs {
    Attrs::default().bytes(NFTA_DATA_VALUE, bytes)
}

pub(super) fn verdict(code: i32, chain: Option<&str>) -> Attrs {
    let mut verdict = Attrs::default().be32(NFTA_VERDICT_CODE, code.cast_unsigned());
    if let Some(chain) = chain {
        verdict = verdict.string(NFTA_VERDICT_CHAIN, chain);
    }
    let data = Attrs::default()
        .be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
        .nested(NFTA_IMMEDIATE_DATA, Attrs::default().nested(NFTA_DATA_VERDICT, verdict));
    expression("immediate", data)
}
