//! Packets from a capture: addresses, protocol, ports and DSCP of each IP packet; a capture knows no marks.

use super::packet::{Packet, Shape, has_ports};
use crate::model::Host;
use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkSlice};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::Read;
use std::net::IpAddr;

/// The readers hold one block at a time: a frame with what the formats put around it.
const LARGEST_BLOCK: usize = 1 << 20;

/// LINKTYPE_* (https://www.tcpdump.org/linktypes.html).
mod linktype {
    pub const ETHERNET: i32 = 1;
    pub const RAW: i32 = 101;
    pub const LINUX_SLL: i32 = 113;
    pub const IPV4: i32 = 228;
    pub const IPV6: i32 = 229;
    pub const LINUX_SLL2: i32 = 276;
}

/// Why a capture could not be read (any further).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CaptureError(String);

/// Reads packets from a pcap or pcapng capture, each different one once.
///
/// A capture does not tell where a frame came in. One that was sent to an interface's hardware address came in there; for
/// any other each interface of `ingress` is tried.
pub struct Capture<'a> {
    reader: Box<dyn PcapReaderIterator + 'a>,
    /// Of the section at hand, by number.
    linktypes: Vec<i32>,
    macs: Vec<([u8; 6], u32)>,
    ingress: Vec<u32>,
    seen: HashSet<Packet>,
    ready: VecDeque<Packet>,
    /// Frames that are no question, by what they are.
    pub skipped: BTreeMap<String, u64>,
    /// Why it ended early.
    pub error: Option<CaptureError>,
}

impl<'a> Capture<'a> {
    /// Begins to read.
    pub fn new(from: impl Read + Send + 'a, host: &Host, ingress: Vec<u32>) -> Result<Self, CaptureError> {
        let reader = create_reader(LARGEST_BLOCK, from).map_err(|error| CaptureError(describe(&error)))?;
        let macs = ingress.iter().filter_map(|index| Some((host.links.get(index)?.mac?, *index))).collect();
        Ok(Capture {
            reader,
            linktypes: Vec::new(),
            macs,
            ingress,
            seen: HashSet::new(),
            ready: VecDeque::new(),
            skipped: BTreeMap::new(),
            error: None,
        })
    }

    /// Reads one block; false at the end.
    fn advance(&mut self) -> Result<bool, CaptureError> {
        // What a block says is taken out of it before it is given back to the reader.
        let mut frame: Option<(u32, Vec<u8>)> = None;
        match self.reader.next() {
            Ok((length, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => self.linktypes = vec![header.network.0],
                    PcapBlockOwned::Legacy(block) => frame = Some((0, captured(block.data, block.caplen))),
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => self.linktypes.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(block)) => self.linktypes.push(block.linktype.0),
                    PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                        frame = Some((block.if_id, captured(block.data, block.caplen)));
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                        frame = Some((0, captured(block.data, block.origlen)))
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                self.reader.consume(length);
            }
            Err(PcapError::Eof) => return Ok(false),
            Err(PcapError::Incomplete(_)) => {
                let before = self.reader.position();
                self.reader.refill().map_err(|error| CaptureError(describe(&error)))?;
                if self.reader.reader_exhausted() && self.reader.position() == before {
                    return Err(CaptureError("the last frame is cut off".to_owned()));
                }
            }
            Err(error) => return Err(CaptureError(describe(&error))),
        }
        if let Some((interface, bytes)) = frame {
            let linktype = self.linktypes.get(interface as usize).copied();
            if let Err(what) =
                linktype.ok_or("of an unknown interface").and_then(|linktype| self.take(linktype, &bytes))
            {
                *self.skipped.entry(what.to_owned()).or_default() += 1;
            }
        }
        Ok(true)
    }

    /// Turns a frame into questions; an error says what it is instead.
    fn take(&mut self, linktype: i32, bytes: &[u8]) -> Result<(), &'static str> {
        let short = "cut short";
        let sliced = match linktype {
            linktype::ETHERNET => LaxSlicedPacket::from_ethernet(bytes).map_err(|_| short)?,
            linktype::RAW | linktype::IPV4 | linktype::IPV6 => LaxSlicedPacket::from_ip(bytes).map_err(|_| "not-ip")?,
            // Both "cooked" headers are of fixed length: 16 and 20 bytes.
            linktype::LINUX_SLL => LaxSlicedPacket::from_ip(bytes.get(16..).ok_or(short)?).map_err(|_| "not-ip")?,
            linktype::LINUX_SLL2 => LaxSlicedPacket::from_ip(bytes.get(20..).ok_or(short)?).map_err(|_| "not-ip")?,
            _ => return Err("of an unknown link type"),
        };
        if !sliced.link_exts.is_empty() {
            return Err("vlan");
        }
        let (from, to, dscp, flowlabel, payload) = match sliced.net.as_ref().ok_or("not-ip")? {
            LaxNetSlice::Ipv4(ip) => {
                let header = ip.header();
                let (from, to) = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
                (from, to, header.dcp().value(), 0, ip.payload())
            }
            LaxNetSlice::Ipv6(ip) => {
                let header = ip.header();
                let (from, to) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
                (from, to, header.dscp().value(), header.flow_label().value(), ip.payload())
            }
            LaxNetSlice::Arp(_) => return Err("not-ip"),
        };
        if payload.fragmented && to.is_ipv6() {
            return Err("fragment");
        }
        let ipproto = payload.ip_number.0;
        let (sport, dport) = match payload.payload {
            _ if payload.fragmented => (0, 0),
            [a, b, c, d, ..] if has_ports(ipproto) => (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
            _ if has_ports(ipproto) => return Err(short),
            _ => (0, 0),
        };
        let packet = Packet {
            iif: None,
            from: Some(from),
            to,
            mark: 0,
            ipproto,
            sport,
            dport,
            dscp,
            flowlabel,
            fragment: payload.fragmented,
            shape: Shape::default(),
        };
        let mac = match &sliced.link {
            Some(LinkSlice::Ethernet2(header)) => Some(header.destination()),
            _ => None,
        };
        let known: Vec<u32> = self.macs.iter().filter(|(own, _)| Some(*own) == mac).map(|(_, index)| *index).collect();
        let ways_in = if known.is_empty() { &self.ingress } else { &known };
        let mut fresh = false;
        for iif in ways_in {
            let packet = Packet { iif: Some(*iif), ..packet };
            if self.seen.insert(packet) {
                self.ready.push_back(packet);
                fresh = true;
            }
        }
        if fresh { Ok(()) } else { Err("repeated") }
    }
}

impl Iterator for Capture<'_> {
    type Item = Packet;

    fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Some(packet);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.error = Some(error);
                    return None;
                }
            }
        }
    }
}

/// The bytes of a frame without the padding to the block's end.
fn captured(data: &[u8], length: u32) -> Vec<u8> {
    data[..data.len().min(length as usize)].to_vec()
}

fn describe<I: std::fmt::Debug>(error: &PcapError<I>) -> String {
    match error {
        PcapError::Eof => "it is empty".to_owned(),
        PcapError::HeaderNotRecognized => "it is neither a pcap nor a pcapng capture".to_owned(),
        PcapError::BufferTooSmall => "a block is larger than a megabyte".to_owned(),
        PcapError::UnexpectedEof | PcapError::Incomplete(_) => "it is cut off".to_owned(),
        PcapError::ReadError => "it cannot be read".to_owned(),
        _ => "it is damaged".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Link;

    /// A host with two interfaces.
    fn host() -> Host {
        let mut host = Host::default();
        for index in [2u32, 3] {
            let mac = Some([2, 0, 0, 0, 0, index as u8]);
            host.links.insert(index, Link { index, arphrd: 1, mac, ..Link::default() });
        }
        host
    }

    /// A little-endian pcap file of Ethernet frames.
    fn file(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        bytes.extend([0; 8]);
        bytes.extend(65535u32.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        for frame in frames {
            bytes.extend([0; 8]);
            bytes.extend((frame.len() as u32).to_le_bytes());
            bytes.extend((frame.len() as u32).to_le_bytes());
            bytes.extend(frame);
        }
        bytes
    }

    fn packet(iif: u32) -> Packet {
        let ip = |text: &str| text.parse().expect("an address");
        Packet {
            ipproto: 6,
            sport: 1000,
            dport: 443,
            dscp: 46,
            ..Packet::new(Some(iif), Some(ip("10.0.0.8")), ip("8.8.8.8"))
        }
    }

    #[test]
    fn frames_become_the_packets_that_they_carry() {
        let host = host();
        let known = packet(3).frame(&host.links[&3]);
        let mut other = packet(2).frame(&host.links[&2]);
        other[0] = 0x06;
        other[14 + 19] = 9;
        let mut tagged = known.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        let mut fragment = known.clone();
        fragment[20] = 0x20;
        let arp = [&known[..12], &[8, 6], &[0; 28]].concat();
        let bytes = file(&[known.clone(), known, other, tagged, fragment, arp]);
        let mut capture = Capture::new(bytes.as_slice(), &host, vec![2, 3]).expect("a capture");
        let packets: Vec<Packet> = capture.by_ref().collect();
        let elsewhere = |iif| Packet { to: "8.8.8.9".parse().expect("an address"), ..packet(iif) };
        let part = Packet { fragment: true, sport: 0, dport: 0, ..packet(3) };
        assert_eq!(packets, [packet(3), elsewhere(2), elsewhere(3), part], "by its MAC, or by every interface");
        let skipped: Vec<_> = capture.skipped.iter().map(|(what, count)| (what.as_str(), *count)).collect();
        assert_eq!(skipped, [("not-ip", 1), ("repeated", 1), ("vlan", 1)]);
        assert!(capture.error.is_none());
    }

    #[test]
    fn what_is_no_capture_says_so() {
        let host = host();
        let error =
            Capture::new(&b"not a capture at all, but long enough"[..], &host, vec![2]).err().expect("an error");
        assert_eq!(error.to_string(), "it is neither a pcap nor a pcapng capture");
        let mut cut = file(&[packet(2).frame(&host.links[&2])]);
        cut.truncate(cut.len() - 10);
        let mut capture = Capture::new(cut.as_slice(), &host, vec![2]).expect("a capture");
        assert_eq!(capture.by_ref().count(), 0);
        assert!(capture.error.is_some(), "a frame that is cut off");
        for length in 0..cut.len() {
            if let Ok(capture) = Capture::new(&cut[..length], &host, vec![2]) {
                assert!(capture.count() == 0, "a packet out of {length} bytes");
            }
        }
    }
}
