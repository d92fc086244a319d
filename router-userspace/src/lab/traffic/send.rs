//! Sending a flow.

use super::{Flow, Proto, UNIT, unit};
use crate::model::Family;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// A socket ready to send one flow. It belongs to the network namespace in which it was opened and may be used anywhere.
#[derive(Debug)]
pub struct Sender {
    flow: Flow,
    socket: Socket,
}

impl Sender {
    /// Opens the socket; call it on a thread of the sending host's namespace.
    pub fn open(flow: Flow) -> io::Result<Self> {
        let domain = match flow.family() {
            Family::Ipv4 => Domain::IPV4,
            Family::Ipv6 => Domain::IPV6,
        };
        let (kind, protocol) = match (flow.proto, flow.family()) {
            (Proto::Icmp, Family::Ipv4) => (Type::RAW, Some(Protocol::ICMPV4)),
            (Proto::Icmp, Family::Ipv6) => (Type::RAW, Some(Protocol::ICMPV6)),
            (Proto::Udp, _) => (Type::DGRAM, None),
            (Proto::Tcp, _) => (Type::STREAM, None),
        };
        let socket = Socket::new(domain, kind, protocol)?;
        if flow.mark != 0 {
            socket.set_mark(flow.mark)?;
        }
        socket.bind(&SockAddr::from(SocketAddr::new(flow.from, 0)))?;
        Ok(Sender { flow, socket })
    }

    /// Sends the whole flow. A datagram or echo request that the stack refuses to send is an error; one that is lost is not.
    /// `patience` is the longest wait for a TCP connection, each of its writes, and its end.
    pub fn send(self, patience: Duration) -> io::Result<()> {
        let port = if self.flow.proto == Proto::Icmp { 0 } else { self.flow.dport };
        let to = SockAddr::from(SocketAddr::new(self.flow.to, port));
        match self.flow.proto {
            Proto::Icmp => self
                .each(|socket, flow, number| socket.send_to(&echo_request(flow.from, flow.id, number), &to).map(drop)),
            Proto::Udp => self.each(|socket, flow, number| socket.send_to(&unit(flow.id, number), &to).map(drop)),
            Proto::Tcp => self.stream(&to, patience),
        }
    }

    fn each(&self, mut send: impl FnMut(&Socket, &Flow, u32) -> io::Result<()>) -> io::Result<()> {
        (0..self.flow.units).try_for_each(|number| send(&self.socket, &self.flow, number))
    }

    /// One connection, its bytes, and then the far side's end of stream: when this returns Ok, all was read there.
    fn stream(self, to: &SockAddr, patience: Duration) -> io::Result<()> {
        let flow = self.flow;
        self.socket.connect_timeout(to, patience)?;
        let mut stream = TcpStream::from(self.socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        // All at once, so that the sender's kernel makes it into large segmented packets, as any bulk transfer does.
        let bytes: Vec<u8> = (0..flow.units).flat_map(|number| unit(flow.id, number)).collect();
        stream.write_all(&bytes)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        match stream.read(&mut [0u8; 1])? {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the far side sent something")),
        }
    }
}

/// An echo request that carries a unit. The kernel fills in the checksum of ICMPv6 (RFC 3542, section 3.1), not of ICMP.
fn echo_request(from: IpAddr, flow: u32, number: u32) -> Vec<u8> {
    let kind = if from.is_ipv4() { super::receive::ECHO_V4 } else { super::receive::ECHO_V6 };
    let mut message = Vec::with_capacity(8 + UNIT);
    message.extend([kind, 0, 0, 0]);
    message.extend((flow as u16).to_be_bytes());
    message.extend((number as u16).to_be_bytes());
    message.extend(unit(flow, number));
    if from.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The Internet checksum (RFC 1071); 0 over a message whose checksum is right.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u64 =
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    !(folded as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_has_a_right_checksum() {
        let message = echo_request(IpAddr::from([10, 0, 0, 1]), 70_000, 3);
        assert_eq!(checksum(&message), 0);
        assert_eq!(message.len(), 8 + UNIT);
        // RFC 1071, section 3: the example's sum is 0xddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
