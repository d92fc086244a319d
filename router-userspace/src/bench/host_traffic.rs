//! What the host itself can send while it has the rules: every look-up of a local packet walks them too.

use super::measure::{Driver, pin};
use super::paths::Ready;
use super::report::HostRow;
use super::topology::FAR;
use super::{Error, Result, rules};
use crate::model::Family;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Sends from the router for `time` each way; None for a path without a router.
pub fn measure(driver: &Driver, ready: &Ready, time: Duration) -> Result<Option<HostRow>> {
    if ready.path.is_direct() {
        return Ok(None);
    }
    let family = rules::family(&ready.plan);
    let far: IpAddr =
        FAR[usize::from(family == Family::Ipv6)].parse().map_err(|_| Error::invalid("the far address"))?;
    let cpu = driver.cpu();
    let (udp_sends, tcp_connects) = ready.bed.router()?.run(|| {
        pin(cpu)?;
        Ok::<_, Error>((
            rate(time, sender(far)?).map_err(|error| Error::new(format!("send to {far}"), error))?,
            rate(time, || connect(far)).map_err(|error| Error::new(format!("connect to {far}"), error))?,
        ))
    })??;
    Ok(Some(HostRow { path: ready.path.name, rules: ready.plan.rules, family, udp_sends, tcp_connects }))
}

/// How often a second it can be done.
fn rate(time: Duration, mut work: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let start = Instant::now();
    let mut done = 0u32;
    while start.elapsed() < time {
        work()?;
        done += 1;
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

/// Sends a datagram to a discard port, on a socket without a peer: each one is routed anew.
fn sender(far: IpAddr) -> Result<impl FnMut() -> io::Result<()>> {
    let domain = if far.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP));
    let socket = socket.map_err(|error| Error::new("open a UDP socket", error))?;
    let to = SockAddr::from(SocketAddr::new(far, 9));
    Ok(move || match socket.send_to(&[0; 16], &to) {
        // The queue is full: the attempt was routed all the same.
        Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => Err(error),
        _ => Ok(()),
    })
}

/// Begins a TCP connection that nobody answers, and gives it up.
fn connect(far: IpAddr) -> io::Result<()> {
    let domain = if far.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SocketAddr::new(far, 9).into()) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}
