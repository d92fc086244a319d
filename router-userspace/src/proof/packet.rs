//! One packet as a routing decision sees it, and the same packet as a frame and as a question to the kernel.

use crate::kernel::RouteQuery;
use crate::model::{FLOWLABEL_MASK, Family, Link};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_ICMPV6.
pub const ICMPV6: u8 = 58;

/// ARPHRD_ETHER.
const ARPHRD_ETHER: u16 = 1;

/// What no rule looks at, but what can make a packet another for the program, or for the stack after its routing decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The two ECN bits, which share an octet with DSCP.
    pub ecn: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The length with the IP header; shorter than its headers: just these.
    pub length: u16,
    /// IPv6: a header between that of IPv6 and the transport's.
    pub extension: Option<Extension>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { ecn: 0, ttl: 64, length: 0, extension: None }
    }
}

impl Shape {
    /// What is unusual about it, in a sentence; None where nothing is.
    pub fn text(self) -> Option<String> {
        let plain = Shape::default();
        let mut said = Vec::new();
        if self.ecn != plain.ecn {
            said.push(format!("the ECN bits {:#04b}", self.ecn));
        }
        if self.ttl != plain.ttl {
            said.push(format!("the TTL {}", self.ttl));
        }
        if self.length != plain.length {
            said.push(format!("{} bytes", self.length));
        }
        if let Some(extension) = self.extension {
            said.push(format!("an extension header ({})", extension.number()));
        }
        (!said.is_empty()).then(|| format!("the packet has {}", said.join(", ")))
    }
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// Hop-by-hop options.
    HopByHop,
    /// A routing header of a type that nobody knows, with nothing left to visit.
    Routing,
    /// The first of several fragments. Rules find no ports in it.
    Fragment,
    /// Destination options.
    Destination,
}

impl Extension {
    /// All of them.
    pub const ALL: [Extension; 4] =
        [Extension::HopByHop, Extension::Routing, Extension::Fragment, Extension::Destination];

    /// NEXTHDR_* (include/net/ipv6.h).
    fn number(self) -> u8 {
        match self {
            Extension::HopByHop => 0,
            Extension::Routing => 43,
            Extension::Fragment => 44,
            Extension::Destination => 60,
        }
    }

    /// Its eight bytes in front of a header of protocol `next`.
    fn bytes(self, next: u8) -> [u8; 8] {
        match self {
            // PadN over the four bytes that are left.
            Extension::HopByHop | Extension::Destination => [next, 0, 1, 4, 0, 0, 0, 0],
            Extension::Routing => [next, 0, 253, 0, 0, 0, 0, 0],
            // More fragments follow; number 7.
            Extension::Fragment => [next, 0, 0, 1, 0, 0, 0, 7],
        }
    }
}

/// What a routing decision looks at. Ports are in host byte order and 0 where the protocol has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Ingress interface index; None is a packet made on this host.
    pub iif: Option<u32>,
    /// Source; None is the unspecified address.
    pub from: Option<IpAddr>,
    /// Destination, of the source's family.
    pub to: IpAddr,
    /// fwmark.
    pub mark: u32,
    /// IP protocol number.
    pub ipproto: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// DSCP, 6 bits.
    pub dscp: u8,
    /// IPv6 flow label, 20 bits; 0 in IPv4.
    pub flowlabel: u32,
    /// IPv4: one of several fragments, the first one. Rules find no ports in it.
    pub fragment: bool,
    /// Its other sides.
    pub shape: Shape,
}

impl Packet {
    /// A UDP packet without ports, mark or DSCP.
    pub fn new(iif: Option<u32>, from: Option<IpAddr>, to: IpAddr) -> Self {
        let shape = Shape::default();
        Packet {
            iif,
            from,
            to,
            mark: 0,
            ipproto: UDP,
            sport: 0,
            dport: 0,
            dscp: 0,
            flowlabel: 0,
            fragment: false,
            shape,
        }
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.to)
    }

    /// The source, the unspecified address where it has none.
    pub fn source(&self) -> IpAddr {
        self.from.unwrap_or(match self.to {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        })
    }

    /// Whether the flow dissector finds ports in it: in its protocol (`proto_ports_offset`, include/linux/in.h), and in no fragment.
    pub fn has_ports(&self) -> bool {
        has_ports(self.ipproto) && !self.fragment && self.shape.extension != Some(Extension::Fragment)
    }

    /// The question to the kernel. `mark` is the packet's mark after the `[[mark]]` statements, which RTM_GETROUTE does not
    /// pass through. A protocol that the kernel refuses in a question is left out: it is for the caller to know whether
    /// that matters ([`super::askable`]).
    pub fn query(&self, mark: u32) -> RouteQuery {
        let ports = matches!(self.ipproto, TCP | UDP) && self.has_ports();
        RouteQuery {
            to: self.to,
            from: match self.iif {
                Some(_) => Some(self.source()),
                None => self.from,
            },
            iif: self.iif,
            mark,
            ipproto: askable_protocol(self.ipproto, self.family()).then_some(self.ipproto),
            sport: (ports && self.sport != 0).then_some(self.sport),
            dport: (ports && self.dport != 0).then_some(self.dport),
            dscp: self.dscp,
            flowlabel: self.flowlabel,
        }
    }

    /// The bytes that BPF_PROG_TEST_RUN takes for a packet that comes in by `link`: it wants an Ethernet header on every
    /// device, so that one without a link-layer header gets a header of zeros, which the probe is told to skip. An Ethernet
    /// frame is addressed to the device, because the kernel derives `pkt_type` from that (`eth_type_trans`).
    pub fn frame(&self, link: &Link) -> Vec<u8> {
        let mut frame = Vec::with_capacity(14 + 40 + 20);
        if link.arphrd == ARPHRD_ETHER {
            frame.extend(link.mac.unwrap_or_default());
            frame.extend([0x02, 0, 0, 0, 0, 1]);
        } else {
            frame.extend([0; 12]);
        }
        frame.extend(match self.to {
            IpAddr::V4(_) => [0x08, 0x00],
            IpAddr::V6(_) => [0x86, 0xdd],
        });
        let mut payload = self.transport();
        let header = if self.to.is_ipv4() { 20 } else { 40 };
        payload.resize(payload.len().max(usize::from(self.shape.length).saturating_sub(header)), 0);
        match (self.source(), self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => frame.extend(self.ipv4_header(from, to, payload.len())),
            (IpAddr::V6(from), IpAddr::V6(to)) => frame.extend(self.ipv6_header(from, to, payload.len())),
            // The two cannot differ: every packet is made from addresses of one family.
            _ => {}
        }
        frame.extend(payload);
        frame
    }

    /// The transport header behind the extension header, long enough for its protocol, without a checksum: nothing before the socket looks at it.
    fn transport(&self) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        match self.ipproto {
            TCP => bytes[12] = 5 << 4,
            UDP => {
                bytes.truncate(8);
                bytes[4..6].copy_from_slice(&8u16.to_be_bytes());
            }
            ICMP => {
                bytes.truncate(8);
                bytes[0] = 8;
            }
            ICMPV6 => {
                bytes.truncate(8);
                bytes[0] = 128;
            }
            _ => {}
        }
        if has_ports(self.ipproto) {
            // The dissector reads the ports of AH behind its first word.
            let at = if self.ipproto == AH { 4 } else { 0 };
            bytes[at..at + 2].copy_from_slice(&self.sport.to_be_bytes());
            bytes[at + 2..at + 4].copy_from_slice(&self.dport.to_be_bytes());
        }
        if let Some(extension) = self.shape.extension {
            bytes.splice(0..0, extension.bytes(self.ipproto));
        }
        bytes
    }

    fn ipv4_header(&self, from: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Vec<u8> {
        let mut header = vec![0u8; 20];
        header[0] = 0x45;
        header[1] = self.dscp << 2 | self.shape.ecn;
        header[2..4].copy_from_slice(&(20 + payload as u16).to_be_bytes());
        // More fragments follow.
        header[6] = if self.fragment { 0x20 } else { 0 };
        header[8] = self.shape.ttl;
        header[9] = self.ipproto;
        header[12..16].copy_from_slice(&from.octets());
        header[16..20].copy_from_slice(&to.octets());
        let checksum = internet_checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6_header(&self, from: Ipv6Addr, to: Ipv6Addr, payload: usize) -> Vec<u8> {
        let mut header = vec![0u8; 40];
        // Version 6, then the traffic class, of which DSCP is the upper six bits, then the flow label.
        let first =
            6 << 28 | u32::from(self.dscp) << 22 | u32::from(self.shape.ecn) << 20 | self.flowlabel & FLOWLABEL_MASK;
        header[..4].copy_from_slice(&first.to_be_bytes());
        header[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
        header[6] = self.shape.extension.map_or(self.ipproto, Extension::number);
        header[7] = self.shape.ttl;
        header[8..24].copy_from_slice(&from.octets());
        header[24..40].copy_from_slice(&to.octets());
        header
    }
}

/// IPPROTO_AH.
const AH: u8 = 51;

/// Whether the flow dissector finds ports in a protocol: those of `proto_ports_offset` (include/linux/in.h). The "ports" of
/// ESP and AH are the halves of the SPI.
pub fn has_ports(ipproto: u8) -> bool {
    /// DCCP, ESP, AH, SCTP, UDP-Lite.
    const OTHERS: [u8; 5] = [33, 50, AH, 132, 136];
    matches!(ipproto, TCP | UDP) || OTHERS.contains(&ipproto)
}

/// Whether RTM_GETROUTE takes this protocol (`rtm_getroute_parse_ip_proto`, net/ipv4/netlink.c).
pub fn askable_protocol(ipproto: u8, family: Family) -> bool {
    match family {
        Family::Ipv4 => matches!(ipproto, TCP | UDP | ICMP),
        Family::Ipv6 => matches!(ipproto, TCP | UDP | ICMPV6),
    }
}

/// The names that `--ipproto` takes, with their numbers; the contract's JSON shows the name where there is one.
const PROTOCOLS: [(&str, u8); 12] = [
    ("icmp", ICMP),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", TCP),
    ("udp", UDP),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", AH),
    ("ipv6-icmp", ICMPV6),
    ("sctp", 132),
    ("udplite", 136),
];

/// A protocol's number from its name (as /etc/protocols has it, `icmpv6` too) or number.
pub fn protocol_number(text: &str) -> Option<u8> {
    let text = text.to_ascii_lowercase();
    if text == "icmpv6" {
        return Some(ICMPV6);
    }
    PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number).or_else(|| text.parse().ok())
}

/// A protocol's name, its number where it has none here.
pub fn protocol_name(number: u8) -> String {
    PROTOCOLS.iter().find(|(_, n)| *n == number).map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// The one's-complement sum of RFC 1071 over a header whose checksum field is zero.
fn internet_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(arphrd: u16) -> Link {
        Link { arphrd, mac: (arphrd == 1).then_some([2, 0, 0, 0, 0, 9]), ..Link::default() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_ipv4_frame_has_a_right_checksum_and_the_devices_address() {
        let mut packet = Packet::new(Some(2), Some(ip("10.0.0.8")), ip("111.11.1.1"));
        (packet.ipproto, packet.sport, packet.dport, packet.dscp) = (TCP, 1000, 443, 46);
        let frame = packet.frame(&link(1));
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 9]);
        assert_eq!(frame[12..14], [8, 0]);
        assert_eq!(frame[15], 46 << 2);
        assert_eq!(internet_checksum(&frame[14..34]), 0, "a header with its checksum sums to zero");
        assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - 14);
        assert_eq!(frame[34..38], [0x03, 0xe8, 0x01, 0xbb]);
    }

    #[test]
    fn an_ipv6_frame_carries_the_dscp_over_two_octets() {
        let mut packet = Packet::new(Some(2), Some(ip("fd00::8")), ip("2001:db8::1"));
        packet.dscp = 0x2e;
        let frame = packet.frame(&link(65534));
        assert_eq!(frame[..14], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd], "no link-layer header: zeros");
        assert_eq!(frame[14..16], [0x6b, 0x80]);
        assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame.len() - 54);
    }

    #[test]
    fn what_the_kernel_cannot_be_asked_is_left_out() {
        let mut packet = Packet::new(Some(2), None, ip("10.0.0.1"));
        packet.ipproto = 50;
        (packet.sport, packet.dport) = (7, 9);
        let query = packet.query(5);
        assert_eq!((query.ipproto, query.sport, query.dport, query.mark), (None, None, None, 5));
        assert_eq!(query.from, Some(ip("0.0.0.0")), "an input question needs a source");
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        assert_eq!(protocol_number("TCP"), Some(6));
        assert_eq!(protocol_number("icmpv6"), Some(58));
        assert_eq!(protocol_number("47"), Some(47));
        assert_eq!(protocol_number("300"), None);
        assert_eq!(protocol_name(17), "udp");
        assert_eq!(protocol_name(99), "99");
    }
}
