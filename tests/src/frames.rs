//! Frames and packets made by hand, put on a cable and caught at the other end, byte for byte.

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg};
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

impl Tap {
    /// Opens it.
    pub fn open(lab: &Lab, host: &str, dev: &str) -> Result<Self> {
        let socket = lab.netns(host)?.run(|| -> std::io::Result<Socket> {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            socket.set_nonblocking(true)?;
            socket.set_recv_buffer_size(1 << 20)?;
            let index = nix::net::if_::if_nametoindex(dev)?;
            socket.bind(&every_frame(index)?)?;
            Ok(socket)
        })?;
        Ok(Tap(socket.with_context(|| format!("packet socket on {dev} of {host}"))?))
    }

    /// Puts a frame on the cable.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.0.send(frame).with_context(|| format!("send a frame of {} bytes", frame.len()))?;
        Ok(())
    }

    /// Every tagged frame that comes in until nothing has come for `quiet`, with the name of its tag.
    pub fn catch(&self, quiet: Duration) -> Result<Vec<(String, Vec<u8>)>> {
        let mut caught = Vec::new();
        let mut deadline = Instant::now() + quiet;
        let mut buffer = vec![0u8; 65536];
        while readable(self.0.as_fd(), deadline)? {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<SockaddrStorage>(self.0.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?;
            let outgoing = message
                .address
                .as_ref()
                .and_then(SockaddrStorage::as_link_addr)
                .is_some_and(|link| link.pkttype() == libc::PACKET_OUTGOING);
            let length = message.bytes;
            if let (false, Some(name)) = (outgoing, tag(&buffer[..length])) {
                caught.push((name, buffer[..length].to_vec()));
                deadline = Instant::now() + quiet;
            }
        }
        Ok(caught)
    }
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
    /// UDP with a right checksum, ports 4000 and 9000, TTL 64, and a tag.
    pub fn udp(from: &str, to: &str, name: &str) -> Result<Packet> {
        let (from, to) = (from.parse()?, to.parse()?);
        Ok(Packet {
            from,
            to,
            ttl: 64,
            tos: 0,
            id: 1,
            fragment: 0,
            extra: Vec::new(),
            protocol: 17,
            body: udp(from, to, 4000, 9000, &payload(name)),
            length_error: 0,
            checksum_error: 0,
        })
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
    let length = (8 + data.len()) as u16;
    let mut bytes = Vec::new();
    for field in [sport, dport, length, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(data);
    let mut pseudo = Vec::new();
    for addr in [from, to] {
        match addr {
            IpAddr::V4(addr) => pseudo.extend(addr.octets()),
            IpAddr::V6(addr) => pseudo.extend(addr.octets()),
        }
    }
    pseudo.extend([0, 17]);
    pseudo.extend(length.to_be_bytes());
    let sum = sum(&[&pseudo, &bytes]);
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
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
