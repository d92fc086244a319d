//! The user-space end of a tunnel: what the host routes into the TUN device goes out in UDP to the other end, and back.
//!
//! Stands in for WireGuard where the kernel has none: to the host it is the same, a device without an Ethernet header whose
//! outer packets carry a mark. Nothing is encrypted.

use super::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// The sockets and the device of one end. They belong to the namespace in which they were opened.
pub(super) struct Sockets {
    tun: File,
    /// Outer sockets, IPv4 and IPv6: an inner packet travels in its own family.
    outer: [Socket; 2],
    peer: [SockAddr; 2],
}

impl Sockets {
    /// Opens the outer sockets at the port of both addresses; call it on a thread of the end's host. `peer` is the other end's
    /// addresses, IPv4 first, at the same port.
    pub(super) fn open(tun: OwnedFd, at: [IpAddr; 2], peer: [IpAddr; 2], port: u16, mark: u32) -> io::Result<Self> {
        let open = |at: IpAddr| -> io::Result<Socket> {
            let domain = if at.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::DGRAM, None)?;
            socket.set_nonblocking(true)?;
            if mark != 0 {
                socket.set_mark(mark)?;
            }
            socket.bind(&SockAddr::from(SocketAddr::new(at, port)))?;
            Ok(socket)
        };
        nix::fcntl::fcntl(&tun, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Sockets {
            tun: File::from(tun),
            outer: [open(at[0])?, open(at[1])?],
            peer: peer.map(|addr| SockAddr::from(SocketAddr::new(addr, port))),
        })
    }
}

/// A working end; stops when it is dropped.
#[derive(Debug)]
pub(super) struct Endpoint {
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Starts carrying packets.
    pub(super) fn start(sockets: Sockets) -> Result<Self> {
        let (wake, woken) = UnixStream::pair().map_err(|error| Error::new("tunnel: socket pair", error))?;
        let thread = std::thread::Builder::new()
            .name("tunnel".to_owned())
            .spawn(move || carry(sockets, &woken))
            .map_err(|error| Error::new("tunnel: start a thread", error))?;
        Ok(Endpoint { wake, thread: Some(thread) })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Either call can only fail when the thread is gone already, which is what they are for.
        self.wake.shutdown(std::net::Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn carry(mut sockets: Sockets, woken: &UnixStream) {
    let mut packet = vec![0u8; 65536];
    loop {
        let fds = [sockets.tun.as_fd(), sockets.outer[0].as_fd(), sockets.outer[1].as_fd(), woken.as_fd()];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return tracing::error!(%error, "the tunnel stops: poll"),
            Ok(_) => {}
        }
        let [tun, _, _, stop] = fds.map(|fd| fd.any() == Some(true));
        if stop {
            return;
        }
        // Like every tunnel, this one loses what it cannot send or deliver.
        if tun {
            while let Ok(length @ 1..) = sockets.tun.read(&mut packet) {
                if let Some(family) = unicast(&packet[..length]) {
                    sockets.outer[family].send_to(&packet[..length], &sockets.peer[family]).ok();
                }
            }
        }
        for outer in &sockets.outer {
            while let Ok(length @ 1..) = (&*outer).read(&mut packet) {
                sockets.tun.write_all(&packet[..length]).ok();
            }
        }
    }
}

/// 0 for an IPv4 packet, 1 for an IPv6 one, None for anything else and for multicast (the host's own group reports, which
/// would be counted as traffic at the other end).
fn unicast(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => (*packet.get(16)? < 224).then_some(0),
        6 => (*packet.get(24)? != 0xff).then_some(1),
        _ => None,
    }
}
