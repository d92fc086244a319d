//! What the stack learns of single destinations, which no route shows and nobody announces.

use crate::bed;
use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use wayfork::kernel::{Kernel, RouteQuery};
use wayfork::lab::traffic::Proto;
use wayfork::model::Family;
use wayfork_tests::{Bed, FAR, POLICY, eventually};

/// Has the first provider tell the router that its own packets to [`FAR`] are too large, for a path of so few bytes that the
/// kernel locks the MTU it learns: then forwarded packets are bound by it too (`ip_dst_mtu_maybe_forward`).
fn send_fragmentation_needed(bed: &Bed) -> Result<()> {
    let router = Ipv4Addr::new(192, 0, 2, 2);
    let far: Ipv4Addr = FAR[0].parse()?;
    // The router's echo reply, of which the message is about: no socket has to know of it (`icmp_err`).
    let mut reply = vec![0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 1, 0, 0];
    reply.extend(router.octets());
    reply.extend(far.octets());
    reply.extend([0; 8]);
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(500u16.to_be_bytes());
    message.extend(reply);
    let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let socket = bed.lab.netns("isp1")?.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))??;
    socket.send_to(&message, &SockAddr::from(SocketAddrV4::new(router, 0))).context("send an ICMP message")?;
    Ok(())
}

#[test]
fn a_destination_with_a_learned_mtu_is_left_to_the_stack_soon() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    send_fragmentation_needed(&bed)?;
    let far = FAR[0].parse()?;
    let own = RouteQuery::to(far);
    eventually(Duration::from_secs(5), "the router has an exception", || {
        // A route looked up is what makes the kernel show it.
        Ok(bed.kernel(|kernel| kernel.route_get(&own).and_then(|_| kernel.exceptions()))?.contains(&far))
    })?;
    eventually(Duration::from_secs(5), "the stack has the packets", || {
        bed.send(Family::Ipv4, Proto::Udp, 1)?;
        Ok(bed.status()?["pass_reasons"]["exception"].as_u64() > Some(0))
    })?;
    let before = bed.redirected()?;
    let way = bed.send(Family::Ipv4, Proto::Udp, 20)?;
    ensure!(way.place == "isp2" && way.packets == 20, "{way:?}");
    ensure!(bed.redirected()? == before, "went around what the stack has learned");
    bed.send(Family::Ipv6, Proto::Udp, 20)?;
    ensure!(bed.redirected()? > before, "of other destinations it knows all");
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn where_icmp_redirects_are_heeded_the_stack_forwards() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    let settings = [("net.ipv4.conf.all.accept_redirects", "1"), ("net.ipv4.conf.eth0.accept_redirects", "1")];
    bed.lab.settings("router", &settings)?;
    eventually(Duration::from_secs(3), "no redirect any more", || Ok(bed.interface("lan0")?["may"] != "redirect"))?;
    let interface = bed.interface("lan0")?;
    ensure!(interface["why"].as_str().is_some_and(|why| why.contains("accept_redirects is on at eth0")), "{interface}");
    bed.expect("isp2")?;
    bed.lab.settings("router", &[("net.ipv4.conf.all.accept_redirects", "0")])?;
    eventually(Duration::from_secs(3), "redirects again", || Ok(bed.interface("lan0")?["may"] == "redirect"))?;
    ensure!(daemon.stop()?.success());
    Ok(())
}
