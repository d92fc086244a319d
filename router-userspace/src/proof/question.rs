//! What `explain` is asked, and the packet that this makes on a host.

use super::packet::{self, Packet, Shape, UDP};
use crate::model::{FLOWLABEL_MASK, Family, Host};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet as a person describes it. Travels over the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Destination.
    pub to: IpAddr,
    /// Ingress interface by name; None is a packet made on this host.
    pub iif: Option<String>,
    /// Source; where there is none, a neighbour on the ingress interface is taken.
    pub from: Option<IpAddr>,
    /// fwmark, before the `[[mark]]` statements.
    pub mark: u32,
    /// IP protocol by name or number; UDP where there is none.
    pub ipproto: Option<String>,
    /// Source port, host byte order.
    pub sport: Option<u16>,
    /// Destination port, host byte order.
    pub dport: Option<u16>,
    /// DSCP, 0 to 63.
    pub dscp: u8,
    /// IPv6 flow label, 20 bits.
    #[serde(default)]
    pub flowlabel: u32,
    /// The first of several IPv4 fragments.
    #[serde(default)]
    pub fragment: bool,
}

/// Why a question makes no packet: wrong usage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// There is no such interface.
    #[error("--iif: there is no interface {name:?} here; there are: {known}")]
    UnknownInterface {
        /// What was asked for.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// Source and destination of different families.
    #[error("--from {from} and {to} are addresses of different families; give both as IPv4 or both as IPv6")]
    Families {
        /// Source.
        from: IpAddr,
        /// Destination.
        to: IpAddr,
    },
    /// No such protocol.
    #[error("--ipproto: unknown protocol {0:?}; give a name such as tcp, udp or icmp, or a number up to 255")]
    Protocol(String),
    /// DSCP has six bits.
    #[error("--dscp: {0} is too large; DSCP is 0 to 63")]
    Dscp(u8),
    /// Ports of a protocol without ports.
    #[error("--sport and --dport: {0} has no ports; leave them out, or name a protocol that has them, such as tcp")]
    Ports(String),
    /// Rules find no ports in a fragment.
    #[error("--sport and --dport: rules find no ports in a fragment; leave them out, or --fragment")]
    FragmentPorts,
    /// A flow label has 20 bits, and IPv4 none.
    #[error("--flowlabel: {0:#x} is none; IPv6 packets alone have one, 0 to 0xfffff")]
    Flowlabel(u32),
    /// IPv6 has a header for fragments, which rules see before the protocol.
    #[error("--fragment is about IPv4; an IPv6 fragment is the stack's alone")]
    Fragment,
}

impl Question {
    /// The packet, and what had to be assumed for it, in sentences.
    pub fn packet(&self, host: &Host) -> Result<(Packet, Vec<String>), BadQuestion> {
        let mut assumed = Vec::new();
        let iif = match &self.iif {
            None => None,
            Some(name) => Some(host.link_by_any_name(name).ok_or_else(|| unknown_interface(host, name))?.index),
        };
        let ipproto = match &self.ipproto {
            None => UDP,
            Some(text) => packet::protocol_number(text).ok_or_else(|| BadQuestion::Protocol(text.clone()))?,
        };
        if let Some(from) = self.from
            && from.is_ipv4() != self.to.is_ipv4()
        {
            return Err(BadQuestion::Families { from, to: self.to });
        }
        if self.dscp > 63 {
            return Err(BadQuestion::Dscp(self.dscp));
        }
        if (self.sport.is_some() || self.dport.is_some()) && !packet::has_ports(ipproto) {
            return Err(BadQuestion::Ports(packet::protocol_name(ipproto)));
        }
        if self.flowlabel > FLOWLABEL_MASK || self.flowlabel != 0 && self.to.is_ipv4() {
            return Err(BadQuestion::Flowlabel(self.flowlabel));
        }
        if self.fragment && self.to.is_ipv6() {
            return Err(BadQuestion::Fragment);
        }
        if self.fragment && (self.sport.is_some() || self.dport.is_some()) {
            return Err(BadQuestion::FragmentPorts);
        }
        let from = match (self.from, iif) {
            (None, Some(iif)) => {
                let from = a_neighbour(host, iif, Family::of(self.to));
                assumed.push(format!("no --from was given: the packet comes from {from}"));
                Some(from)
            }
            (from, _) => from,
        };
        let packet = Packet {
            iif,
            from,
            to: self.to,
            mark: self.mark,
            ipproto,
            sport: self.sport.unwrap_or(0),
            dport: self.dport.unwrap_or(0),
            dscp: self.dscp,
            flowlabel: self.flowlabel,
            fragment: self.fragment,
            shape: Shape::default(),
        };
        Ok((packet, assumed))
    }
}

fn unknown_interface(host: &Host, name: &str) -> BadQuestion {
    let known: Vec<&str> = host.links.values().map(|link| link.name.as_str()).collect();
    BadQuestion::UnknownInterface { name: name.to_owned(), known: known.join(", ") }
}

/// An address that a host behind an interface could have: in the interface's own network, and not this host's. An address
/// for documentation where the interface has no network.
fn a_neighbour(host: &Host, iif: u32, family: Family) -> IpAddr {
    let is_own = |addr: &IpAddr| host.addresses.iter().any(|own| own.addr == *addr);
    let networks = host.addresses.iter().filter(|a| a.index == iif && Family::of(a.addr) == family);
    for network in networks.filter(|a| !is_link_local(a.addr)) {
        let Ok(net) = ipnet::IpNet::new(network.addr, network.prefix_len) else { continue };
        let free = match net {
            ipnet::IpNet::V4(net) => net.hosts().take(8).map(IpAddr::V4).find(|addr| !is_own(addr)),
            ipnet::IpNet::V6(net) => net.hosts().skip(1).take(8).map(IpAddr::V6).find(|addr| !is_own(addr)),
        };
        if let Some(addr) = free {
            return addr;
        }
    }
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, Link};

    fn host() -> Host {
        let mut host = Host::default();
        for (index, name) in [(1, "lo"), (2, "eth1")] {
            host.links.insert(index, Link { index, name: name.to_owned(), ..Link::default() });
        }
        let addr = "10.0.0.1".parse().expect("an address");
        host.addresses.push(Address { index: 2, addr, prefix_len: 24 });
        host
    }

    fn question(to: &str) -> Question {
        let to = to.parse().expect("an address");
        Question {
            to,
            iif: None,
            from: None,
            mark: 0,
            ipproto: None,
            sport: None,
            dport: None,
            dscp: 0,
            flowlabel: 0,
            fragment: false,
        }
    }

    #[test]
    fn a_source_is_assumed_from_the_ingress_network_and_said() {
        let question = Question { iif: Some("eth1".into()), ..question("8.8.8.8") };
        let (packet, assumed) = question.packet(&host()).expect("a packet");
        assert_eq!(packet.from, "10.0.0.2".parse().ok(), "the first address that is not this host's");
        assert_eq!(assumed, ["no --from was given: the packet comes from 10.0.0.2"]);
        let six = Question { iif: Some("eth1".into()), ..self::question("2001:db8::9") };
        assert_eq!(six.packet(&host()).expect("a packet").0.from, "2001:db8::1".parse().ok());
        assert_eq!(
            self::question("8.8.8.8").packet(&host()).expect("a packet").0.from,
            None,
            "made here: the kernel's choice"
        );
    }

    #[test]
    fn wrong_questions_are_told_apart() {
        let unknown =
            Question { iif: Some("eth9".into()), ..question("8.8.8.8") }.packet(&host()).expect_err("unknown");
        assert_eq!(unknown.to_string(), "--iif: there is no interface \"eth9\" here; there are: lo, eth1");
        let families = Question { from: "fd00::1".parse().ok(), ..question("8.8.8.8") };
        assert!(matches!(families.packet(&host()), Err(BadQuestion::Families { .. })));
        let protocol = Question { ipproto: Some("quic".into()), ..question("8.8.8.8") };
        assert_eq!(protocol.packet(&host()), Err(BadQuestion::Protocol("quic".into())));
        let ports = Question { ipproto: Some("icmp".into()), dport: Some(1), ..question("8.8.8.8") };
        assert_eq!(ports.packet(&host()), Err(BadQuestion::Ports("icmp".into())));
        assert_eq!(Question { dscp: 64, ..question("8.8.8.8") }.packet(&host()), Err(BadQuestion::Dscp(64)));
    }
}
