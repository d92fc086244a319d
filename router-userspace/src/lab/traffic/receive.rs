//! Receiving: one thread per far host, which reads all its sockets and counts.

use super::send::checksum;
use super::{Tally, UNIT, read_unit};
use crate::model::Family;
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSliceMut, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// ICMP_ECHO.
pub(super) const ECHO_V4: u8 = 8;
/// ICMPV6_ECHO_REQUEST.
pub(super) const ECHO_V6: u8 = 128;
/// Sockets hold this much, so that a slow receiver is not taken for a lossy path.
const BUFFER: usize = 1 << 20;

/// The ports on which a far host listens, in both families.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// UDP ports.
    pub udp: Vec<u16>,
    /// TCP ports.
    pub tcp: Vec<u16>,
}

/// A packet socket on one interface: counts units in UDP packets to a port that arrive there, for the outer packets of a
/// tunnel, whose last bytes are the unit that they carry.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Interface name.
    pub dev: String,
    /// UDP destination port.
    pub dport: u16,
}

enum Endpoint {
    Echo(Socket, Family),
    Datagrams(Socket),
    Listener(TcpListener),
    Stream(TcpStream, Vec<u8>),
    Watch(Socket, u16),
}

/// The sockets of one far host. They belong to the network namespace in which they were opened.
#[derive(Default)]
pub struct Sockets(Vec<Endpoint>);

impl Sockets {
    /// Opens sockets for echo requests and for the given ports; call it on a thread of the far host's namespace.
    pub fn open(ports: &Ports) -> io::Result<Self> {
        let mut endpoints = Vec::new();
        for family in Family::BOTH {
            let (domain, icmp, any): (_, _, IpAddr) = match family {
                Family::Ipv4 => (Domain::IPV4, Protocol::ICMPV4, Ipv4Addr::UNSPECIFIED.into()),
                Family::Ipv6 => (Domain::IPV6, Protocol::ICMPV6, Ipv6Addr::UNSPECIFIED.into()),
            };
            endpoints.push(Endpoint::Echo(ready(Socket::new(domain, Type::RAW, Some(icmp))?, family)?, family));
            for &port in &ports.udp {
                let socket = ready(Socket::new(domain, Type::DGRAM, None)?, family)?;
                socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
                endpoints.push(Endpoint::Datagrams(socket));
            }
            for &port in &ports.tcp {
                let socket = ready(Socket::new(domain, Type::STREAM, None)?, family)?;
                socket.set_reuse_address(true)?;
                socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
                socket.listen(16)?;
                endpoints.push(Endpoint::Listener(socket.into()));
            }
        }
        Ok(Sockets(endpoints))
    }

    /// Adds a packet socket; call it on a thread of the host's namespace.
    pub fn watch(&mut self, watch: Watch) -> io::Result<()> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        let index = nix::net::if_::if_nametoindex(watch.dev.as_str())?;
        bind_packet(&socket, index)?;
        self.0.push(Endpoint::Watch(socket, watch.dport));
        Ok(())
    }
}

/// Makes a socket non-blocking, of one family, and telling TTLs.
fn ready(socket: Socket, family: Family) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(BUFFER)?;
    match family {
        Family::Ipv4 => setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?,
        Family::Ipv6 => {
            // A raw socket is of one family anyway, and refuses.
            if socket.r#type()? != Type::RAW {
                socket.set_only_v6(true)?;
            }
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        }
    }
    Ok(socket)
}

/// Binds a packet socket to everything that an interface carries.
fn bind_packet(socket: &Socket, index: u32) -> io::Result<()> {
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
    socket.bind(&address)
}

/// A far host that counts what arrives until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts counting under the name of a place.
    pub fn start(place: impl Into<String>, sockets: Sockets, tally: Tally) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        let place = place.into();
        let thread = std::thread::Builder::new()
            .name(format!("receiver {place}"))
            .spawn(move || serve(&place, sockets.0, &woken, &tally))?;
        Ok(Receiver { wake, thread: Some(thread) })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Either call can only fail when the thread is gone already, which is what they are for.
        self.wake.shutdown(std::net::Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Endpoint {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Endpoint::Echo(socket, _) | Endpoint::Datagrams(socket) | Endpoint::Watch(socket, ..) => socket.as_fd(),
            Endpoint::Listener(listener) => listener.as_fd(),
            Endpoint::Stream(stream, _) => stream.as_fd(),
        }
    }
}

fn serve(place: &str, mut endpoints: Vec<Endpoint>, woken: &UnixStream, tally: &Tally) {
    loop {
        let mut fds: Vec<PollFd<'_>> =
            endpoints.iter().map(|endpoint| PollFd::new(endpoint.fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(woken.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return tracing::error!(place, %error, "the receiver stops: poll"),
            Ok(_) => {}
        }
        let busy: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        if busy.last() == Some(&true) {
            return;
        }
        let mut next = Vec::with_capacity(endpoints.len());
        for (mut endpoint, busy) in endpoints.into_iter().zip(busy) {
            let keep = !busy || endpoint.drain(place, tally, &mut next);
            if keep {
                next.push(endpoint);
            }
        }
        endpoints = next;
    }
}

impl Endpoint {
    /// Reads all there is; false when the endpoint is done for.
    fn drain(&mut self, place: &str, tally: &Tally, more: &mut Vec<Endpoint>) -> bool {
        let mut buffer = [0u8; 2048];
        match self {
            Endpoint::Echo(socket, family) => {
                while let Some((length, ttl)) = receive(socket, &mut buffer) {
                    if let Some((flow, number)) = read_echo(*family, &buffer[..length]) {
                        tally.record(place, flow, number, ttl);
                    }
                }
                true
            }
            Endpoint::Datagrams(socket) => {
                while let Some((length, ttl)) = receive(socket, &mut buffer) {
                    if let Some((flow, number)) = read_unit(&buffer[..length]) {
                        tally.record(place, flow, number, ttl);
                    }
                }
                true
            }
            Endpoint::Listener(listener) => {
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok() {
                        more.push(Endpoint::Stream(stream, Vec::new()));
                    }
                }
                true
            }
            Endpoint::Stream(stream, left) => loop {
                match stream.read(&mut buffer) {
                    Ok(0) => return false,
                    Ok(length) => {
                        left.extend_from_slice(&buffer[..length]);
                        let whole = left.len() / UNIT * UNIT;
                        for (flow, number) in left[..whole].chunks(UNIT).filter_map(read_unit) {
                            tally.record(place, flow, number, None);
                        }
                        left.drain(..whole);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return false,
                }
            },
            Endpoint::Watch(socket, dport) => {
                while let Some(length) = receive_inbound(socket, &mut buffer) {
                    if let Some((flow, number, ttl)) = read_outer(&buffer[..length], *dport) {
                        tally.record(place, flow, number, Some(ttl));
                    }
                }
                true
            }
        }
    }
}

/// One datagram and the TTL or hop limit it came with; None when there is none (an ICMP error reported to the socket is
/// skipped: it is no traffic).
fn receive(socket: &Socket, buffer: &mut [u8]) -> Option<(usize, Option<u8>)> {
    loop {
        let mut control = cmsg_space!(i32);
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) {
            Ok(message) => {
                let ttl = message.cmsgs().ok().and_then(|mut control| {
                    control.find_map(|message| match message {
                        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                            u8::try_from(ttl).ok()
                        }
                        _ => None,
                    })
                });
                return Some((message.bytes, ttl));
            }
            Err(nix::errno::Errno::EAGAIN) => return None,
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNREFUSED) => {}
            Err(_) => return None,
        }
    }
}

/// One packet that came in for this host by a packet socket; what this host itself sent by the interface is skipped.
fn receive_inbound(socket: &Socket, buffer: &mut [u8]) -> Option<usize> {
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty()) {
            Ok(message) => {
                let kind = message.address.as_ref().and_then(SockaddrStorage::as_link_addr).map(|link| link.pkttype());
                if kind == Some(libc::PACKET_HOST) {
                    return Some(message.bytes);
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// The unit in an echo request, with its header as a raw socket gives it: IPv4's begins with the IP header, ICMPv6's does not.
fn read_echo(family: Family, packet: &[u8]) -> Option<(u32, u32)> {
    let message = match family {
        Family::Ipv4 => {
            let message = packet.get(usize::from(packet.first()? & 15) * 4..)?;
            // The raw socket gets the packet before ICMP has looked at its checksum.
            (checksum(message) == 0).then_some(message)?
        }
        Family::Ipv6 => packet,
    };
    let request = match family {
        Family::Ipv4 => ECHO_V4,
        Family::Ipv6 => ECHO_V6,
    };
    (*message.first()? == request).then_some(())?;
    read_unit(message.get(8..)?)
}

/// The unit at the end of a UDP packet (given from its IP header on) to a port, and its TTL or hop limit.
fn read_outer(packet: &[u8], dport: u16) -> Option<(u32, u32, u8)> {
    let (protocol, ttl, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, *packet.get(8)?, usize::from(packet[0] & 15) * 4),
        6 => (*packet.get(6)?, *packet.get(7)?, 40),
        _ => return None,
    };
    let port = u16::from_be_bytes(packet.get(header + 2..header + 4)?.try_into().ok()?);
    if i32::from(protocol) != libc::IPPROTO_UDP || port != dport {
        return None;
    }
    let (flow, number) = read_unit(packet.get(packet.len().checked_sub(UNIT)?..)?)?;
    Some((flow, number, ttl))
}

#[cfg(test)]
mod tests {
    use super::super::{Flow, Proto, Sender};
    use super::*;
    use std::time::Duration;

    #[test]
    fn echo_replies_and_damaged_requests_are_no_traffic() {
        let mut packet = vec![0x45; 20];
        let mut message = vec![ECHO_V4, 0, 0, 0, 0, 1, 0, 0];
        message.extend(super::super::unit(9, 0));
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&message);
        assert_eq!(read_echo(Family::Ipv4, &packet), Some((9, 0)));
        packet[60] ^= 1;
        assert_eq!(read_echo(Family::Ipv4, &packet), None);
        message[0] = 0;
        assert_eq!(read_echo(Family::Ipv6, &message), None);
    }

    /// Over the loopback of whatever namespace the tests run in: UDP and TCP need no privilege.
    #[test]
    fn datagrams_and_streams_are_counted() {
        let tally = Tally::new();
        let mut endpoints = Vec::new();
        let udp = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("socket");
        let udp = ready(udp, Family::Ipv4).expect("options");
        udp.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("bind");
        let udp_port = udp.local_addr().expect("address").as_socket().expect("ip").port();
        endpoints.push(Endpoint::Datagrams(udp));
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        listener.set_nonblocking(true).expect("options");
        let tcp_port = listener.local_addr().expect("address").port();
        endpoints.push(Endpoint::Listener(listener));
        let _receiver = Receiver::start("here", Sockets(endpoints), tally.clone()).expect("thread");
        let local = IpAddr::from([127, 0, 0, 1]);
        for (id, proto, dport) in [(1, Proto::Udp, udp_port), (2, Proto::Tcp, tcp_port)] {
            let flow = Flow { id, proto, from: local, to: local, dport, mark: 0, units: 20 };
            Sender::open(flow).expect("open").send(Duration::from_secs(2)).expect("send");
            assert!(tally.wait(id, &["here"], 20, Duration::from_secs(2)), "{proto:?}");
            assert_eq!(tally.of(id)["here"].duplicates, 0);
        }
        assert_eq!(tally.of(1)["here"].ttls.len(), 1, "UDP tells its TTL");
    }
}
