//! Frames and packets made by hand, put on a cable and caught at the other end, byte for byte.

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
use wayfork::lab::topology::Lab;

/// What every payload begins with; a name and a semicolon follow.
const TAG: &[u8] = b"wayfork-frame:";

/// A packet socket on an interface of a host: sends frames as they are and catches those that come in.
#[derive(Debug)]
pub struct Tap(Socket);

/// A frame as it came in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caught {
    /// The name in its tag.
    pub name: String,
    /// The mark that it carries. What crosses from one namespace to another has lost it (`skb_scrub_packet()`).
    pub mark: u32,
    /// Bytes of payload of each segment; 0 where it is one.
    pub gso_size: u16,
    /// Every byte.
    pub frame: Vec<u8>,
}

/// A TCP packet of many segments, as a driver with segmentation offload hands them to the stack.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    /// Bytes of payload of each segment.
    pub size: u16,
    /// Where the TCP header begins in the frame.
    pub start: u16,
    /// IPv6.
    pub v6: bool,
}

/// The length of `struct virtio_net_hdr`, which stands before each frame on a [`Tap`] (PACKET_VNET_HDR).
const OFFLOADS: usize = 10;

impl Tap {
    /// Opens it.
    pub fn open(lab: &Lab, host: &str, dev: &str) -> Result<Self> {
        let socket = lab.netns(host)?.run(|| -> std::io::Result<Socket> {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            socket.set_nonblocking(true)?;
            socket.set_recv_buffer_size(4 << 20)?;
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR)?;
            set_option(&socket, libc::SOL_SOCKET, SO_RCVMARK)?;
            let index = nix::net::if_::if_nametoindex(dev)?;
            socket.bind(&every_frame(index)?)?;
            Ok(socket)
        })?;
        Ok(Tap(socket.with_context(|| format!("packet socket on {dev} of {host}"))?))
    }

    /// Puts a frame on the cable.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.put(&[0; OFFLOADS], frame)
    }

    /// Puts a frame with a mark on the cable, which it keeps as long as it stays in its namespace.
    pub fn send_marked(&self, frame: &[u8], mark: u32) -> Result<()> {
        self.0.set_mark(mark)?;
        self.send(frame)
    }

    /// Puts a packet of many segments on the cable, whose TCP checksum is that of the pseudo header alone.
    pub fn send_segments(&self, frame: &[u8], mark: u32, segments: Segments) -> Result<()> {
        const NEEDS_CHECKSUM: u8 = 1;
        const TCPV4: u8 = 1;
        const TCPV6: u8 = 4;
        const CHECKSUM: u16 = 16;
        self.0.set_mark(mark)?;
        let mut header = vec![NEEDS_CHECKSUM, if segments.v6 { TCPV6 } else { TCPV4 }];
        for field in [segments.start + 20, segments.size, segments.start, CHECKSUM] {
            header.extend(field.to_ne_bytes());
        }
        self.put(&header, frame)
    }

    fn put(&self, offloads: &[u8], frame: &[u8]) -> Result<()> {
        self.0.send(&[offloads, frame].concat()).with_context(|| format!("send a frame of {} bytes", frame.len()))?;
        Ok(())
    }

    /// Every tagged frame that comes in until nothing has come for `quiet`, with the name of its tag.
    pub fn catch(&self, quiet: Duration) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(self.catch_all(quiet)?.into_iter().map(|caught| (caught.name, caught.frame)).collect())
    }

    /// The same, with everything that can be seen of it.
    pub fn catch_all(&self, quiet: Duration) -> Result<Vec<Caught>> {
        let mut caught = Vec::new();
        let mut deadline = Instant::now() + quiet;
        let mut buffer = vec![0u8; OFFLOADS + 65536 + 64];
        let mut control = nix::cmsg_space!(u32);
        while readable(self.0.as_fd(), deadline)? {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<SockaddrStorage>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
            let outgoing = message
                .address
                .as_ref()
                .and_then(SockaddrStorage::as_link_addr)
                .is_some_and(|link| link.pkttype() == libc::PACKET_OUTGOING);
            let mark = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Unknown(unknown) if unknown.cmsg_header.cmsg_type == libc::SO_MARK => {
                    unknown.data_bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
                }
                _ => None,
            });
            let length = message.bytes;
            let frame = &buffer[OFFLOADS..length.max(OFFLOADS)];
            if let (false, Some(name)) = (outgoing, tag(frame)) {
                let gso_size = if buffer[1] == 0 { 0 } else { u16::from_ne_bytes([buffer[4], buffer[5]]) };
                caught.push(Caught { name, mark: mark.unwrap_or(0), gso_size, frame: frame.to_vec() });
                deadline = Instant::now() + quiet;
            }
        }
        Ok(caught)
    }
}

/// SO_RCVMARK (include/uapi/asm-generic/socket.h): each packet is read with its mark.
const SO_RCVMARK: libc::c_int = 75;

fn set_option(socket: &Socket, level: libc::c_int, option: libc::c_int) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: both options take an int, whose length is given.
    let outcome = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size_of_val(&on) as libc::socklen_t)
    };
    nix::errno::Errno::result(outcome).map(drop).map_err(Into::into)
}

/// Waits until a descriptor can be read; false when the deadline has passed.
pub fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout)? > 0)
}

/// The name in a frame's or packet's tag.
pub fn tag(bytes: &[u8]) -> Option<String> {
    let start = bytes.windows(TAG.len()).position(|window| window == TAG)? + TAG.len();
    let end = start + bytes[start..].iter().position(|byte| *byte == b';')?;
    String::from_utf8(bytes[start..end].to_vec()).ok()
}

/// A payload with a tag, 64 bytes long.
pub fn payload(name: &str) -> Vec<u8> {
    let mut bytes = TAG.to_vec();
    bytes.extend(name.as_bytes());
    bytes.push(b';');
    bytes.resize(64.max(bytes.len()), b'.');
    bytes
}

/// The address of a packet socket that sees all frames of an interface.
fn every_frame(index: u32) -> std::io::Result<SockAddr> {
    // SAFETY: an all-zero sockaddr_ll is valid; the length given is that of the structure.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as u16;
            (*link).sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            (*link).sll_ifindex = index as i32;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

/// An Ethernet frame.
pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), packet].concat()
}

/// An IP packet of either family, with everything that a test may want to be odd.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv4: identification.
    pub id: u16,
    /// IPv4: flags and fragment offset, as on the wire.
    pub fragment: u16,
    /// IPv4: options, a multiple of four bytes. IPv6: extension headers, whose last next-header byte is the caller's.
    pub extra: Vec<u8>,
    /// Protocol, or the first next header.
    pub protocol: u8,
    /// What follows.
    pub body: Vec<u8>,
    /// Added to the length field.
    pub length_error: i32,
    /// IPv4: flipped in the header checksum.
    pub checksum_error: u16,
}

impl Packet {
    /// An empty one, TTL 64.
    pub fn between(from: IpAddr, to: IpAddr) -> Packet {
        Packet {
            from,
            to,
            ttl: 64,
            tos: 0,
            id: 1,
            fragment: 0,
            extra: Vec::new(),
            protocol: 253,
            body: Vec::new(),
            length_error: 0,
            checksum_error: 0,
        }
    }

    /// UDP with a right checksum, ports 4000 and 9000, TTL 64, and a tag.
    pub fn udp(from: &str, to: &str, name: &str) -> Result<Packet> {
        let (from, to) = (from.parse()?, to.parse()?);
        let body = udp(from, to, 4000, 9000, &payload(name));
        Ok(Packet { protocol: 17, body, ..Packet::between(from, to) })
    }

    /// Makes it a fragment: in IPv4 by its header's fields, in IPv6 by a fragment header.
    pub fn fragment_as(&mut self, offset: u16, more: bool) {
        if self.from.is_ipv4() {
            self.fragment = (offset / 8) | if more { 0x2000 } else { 0 };
        } else {
            self.extra = vec![self.protocol, 0];
            self.extra.extend((offset | u16::from(more)).to_be_bytes());
            self.extra.extend([0, 0, 0, 1]);
            self.protocol = 44;
        }
    }

    /// Its ethertype.
    pub fn ethertype(&self) -> u16 {
        if self.from.is_ipv4() { 0x0800 } else { 0x86dd }
    }

    /// As on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.v4(from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.v6(from, to),
            _ => Vec::new(),
        }
    }

    fn v4(&self, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let header = 20 + self.extra.len();
        let length = (header + self.body.len()) as i32 + self.length_error;
        let mut bytes = vec![0x40 | (header / 4) as u8, self.tos];
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(&self.extra);
        let sum = sum(&[&bytes]) ^ self.checksum_error;
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.body);
        bytes
    }

    fn v6(&self, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let length = (self.extra.len() + self.body.len()) as i32 + self.length_error;
        let mut bytes = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([self.protocol, self.ttl]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(&self.extra);
        bytes.extend(&self.body);
        bytes
    }
}

/// A UDP datagram with its checksum.
pub fn udp(from: IpAddr, to: IpAddr, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [sport, dport, (8 + data.len()) as u16, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(data);
    let sum = sum(&[&pseudo(from, to, 17, bytes.len()), &bytes]);
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A TCP segment (ACK and PSH) with its checksum; `partial`: with the sum of the pseudo header alone, for
/// [`Tap::send_segments`].
pub fn tcp(from: IpAddr, to: IpAddr, sport: u16, dport: u16, data: &[u8], partial: bool) -> Vec<u8> {
    let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(data);
    let pseudo = pseudo(from, to, 6, bytes.len());
    let sum = if partial { !sum(&[&pseudo]) } else { sum(&[&pseudo, &bytes]) };
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An ICMP echo request of either family with its checksum.
pub fn echo(from: IpAddr, to: IpAddr, id: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![if from.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(data);
    let pseudo = if from.is_ipv4() { Vec::new() } else { pseudo(from, to, 58, bytes.len()) };
    let sum = sum(&[&pseudo, &bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// What the checksums of UDP, TCP and ICMPv6 cover besides the packet itself.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut pseudo = Vec::new();
    for addr in [from, to] {
        match addr {
            IpAddr::V4(addr) => pseudo.extend(addr.octets()),
            IpAddr::V6(addr) => pseudo.extend(addr.octets()),
        }
    }
    pseudo.extend((length as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

/// The Internet checksum (RFC 1071) over parts, each of which but the last has an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
