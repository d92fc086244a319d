//! Frames made by hand: whatever is odd about them, they come out the same with the fast path and without it.

use crate::bed;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use wayfork::kernel::Kernel;
use wayfork::kernel::admin::Admin;
use wayfork::lab::topology::Lab;
use wayfork::lab::traffic::Proto;
use wayfork::model::{Family, NextHop, Route, RouteKind};
use wayfork_tests::frames::{Packet, Tap, ethernet, payload, udp};
use wayfork_tests::{Bed, FAR, POLICY};

const QUIET: Duration = Duration::from_millis(500);
const LAN: [&str; 2] = ["192.168.8.10", "fd00:8::10"];

fn mac(lab: &Lab, host: &str, dev: &str) -> Result<[u8; 6]> {
    let links = lab.inside(host, || wayfork::kernel::Netlink::open()?.links())?;
    let link = links.values().find(|link| link.name == dev).with_context(|| format!("{host} has no {dev}"))?;
    link.mac.with_context(|| format!("{dev} of {host} has no hardware address"))
}

/// Every frame that the LAN sends, by name. Those named `plain…` must arrive.
fn frames(bed: &Bed) -> Result<Vec<(String, Vec<u8>)>> {
    let router = mac(&bed.lab, "router", "lan0")?;
    let lan = mac(&bed.lab, "lan", "eth0")?;
    let mut frames = Vec::new();
    let mut add = |name: &str, to: [u8; 6], change: &dyn Fn(&mut Packet)| -> Result<()> {
        for (from, far) in LAN.into_iter().zip(FAR) {
            let name = format!("{name}-{}", if from.contains(':') { "v6" } else { "v4" });
            let mut packet = Packet::udp(from, far, &name)?;
            change(&mut packet);
            frames.push((name, ethernet(to, lan, packet.ethertype(), &packet.bytes())));
        }
        Ok(())
    };
    add("plain", router, &|_| {})?;
    add("plain-dscp", router, &|packet| packet.tos = 0xb8)?;
    add("plain-ect", router, &|packet| packet.tos = 0x02)?;
    add("plain-ttl-2", router, &|packet| packet.ttl = 2)?;
    add("ttl-1", router, &|packet| packet.ttl = 1)?;
    add("ttl-0", router, &|packet| packet.ttl = 0)?;
    add("foreign-mac", [2, 0, 0, 0, 0, 9], &|_| {})?;
    add("broadcast-mac", [0xff; 6], &|_| {})?;
    add("multicast-mac", [1, 0, 0x5e, 0, 0, 9], &|_| {})?;
    add("bad-checksum", router, &|packet| packet.checksum_error = 0x0100)?;
    add("length-too-long", router, &|packet| packet.length_error = 9)?;
    add("length-too-short", router, &|packet| packet.length_error = -9)?;
    add("length-tiny", router, &|packet| packet.length_error = -90)?;
    add("wrong-udp-checksum", router, &|packet| packet.body[6] ^= 0x55)?;
    add("first-fragment", router, &|packet| packet.fragment_as(0, true))?;
    add("later-fragment", router, &|packet| packet.fragment_as(72, false))?;
    add("no-fragmenting", router, &|packet| packet.fragment = 0x4000)?;
    add("extra-header", router, &extra)?;
    add("other-protocol", router, &|packet| packet.protocol = 253)?;
    for (name, from) in [
        ("loopback", ["127.0.0.9", "::1"]),
        ("unspecified", ["0.0.0.0", "::"]),
        ("multicast", ["224.1.2.3", "ff0e::9"]),
        ("link-local", ["169.254.1.1", "fe80::9"]),
        ("reserved", ["240.0.0.9", "2001:db8:ffff::9"]),
        ("routers-own", ["192.168.8.1", "fd00:8::1"]),
        ("broadcast", ["255.255.255.255", "ff02::1"]),
    ] {
        add(&format!("from-{name}"), router, &|packet| source(packet, from))?;
    }
    for (name, to) in [
        ("loopback", ["127.0.0.9", "::1"]),
        ("multicast", ["239.1.2.3", "ff0e::9"]),
        ("link-local", ["169.254.1.1", "fe80::9"]),
        ("reserved", ["240.0.0.9", "2001:db8:ffff::9"]),
        ("broadcast", ["255.255.255.255", "ff02::1"]),
        ("own-broadcast", ["192.168.8.255", "fd00:8::"]),
        ("router", ["192.168.8.1", "fd00:8::1"]),
        ("other-uplink", ["192.0.2.1", "2001:db8:a::1"]),
        ("unresolved-neighbour", ["192.0.2.99", "2001:db8:a::99"]),
    ] {
        add(&format!("to-{name}"), router, &|packet| destination(packet, to))?;
    }
    // In a VLAN that this router has no device for.
    for (from, far) in LAN.into_iter().zip(FAR) {
        let name = format!("vlan-{}", if from.contains(':') { "v6" } else { "v4" });
        let packet = Packet::udp(from, far, &name)?;
        let tagged = [&7u16.to_be_bytes()[..], &packet.ethertype().to_be_bytes(), &packet.bytes()].concat();
        frames.push((name, ethernet(router, lan, 0x8100, &tagged)));
    }
    Ok(frames)
}

fn rewrite(packet: &mut Packet) {
    let data = packet.body.split_off(8);
    packet.body = udp(packet.from, packet.to, 4000, 9000, &data);
}

fn source(packet: &mut Packet, from: [&str; 2]) {
    packet.from = from[usize::from(packet.from.is_ipv6())].parse().expect("an address");
    rewrite(packet);
}

fn destination(packet: &mut Packet, to: [&str; 2]) {
    packet.to = to[usize::from(packet.to.is_ipv6())].parse().expect("an address");
    rewrite(packet);
}

/// IPv4: options (a record-route of no entries, padded). IPv6: destination options of padding.
fn extra(packet: &mut Packet) {
    if packet.from.is_ipv4() {
        packet.extra = vec![7, 3, 4, 0];
    } else {
        packet.extra = vec![packet.protocol, 0, 1, 4, 0, 0, 0, 0];
        packet.protocol = 60;
    }
}

/// What came out, by place and name. Between routers and isps the whole frame counts; to the LAN go ICMP errors, of which
/// type and code do (identification and rate limits are the stack's own business).
fn send(bed: &Bed, frames: &[(String, Vec<u8>)]) -> Result<Vec<(&'static str, String, Vec<u8>)>> {
    let taps = [("isp1", Tap::open(&bed.lab, "isp1", "eth0")?), ("isp2", Tap::open(&bed.lab, "isp2", "eth0")?)];
    let lan = Tap::open(&bed.lab, "lan", "eth0")?;
    for (name, frame) in frames {
        lan.send(frame).with_context(|| name.clone())?;
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut caught = Vec::new();
    for (place, tap) in taps {
        caught.extend(tap.catch(QUIET)?.into_iter().map(|(name, frame)| (place, name, frame)));
    }
    for (name, frame) in lan.catch(QUIET)? {
        let icmp = if frame[12..14] == [8, 0] { 34 } else { 54 };
        caught.push(("lan", name, frame.get(icmp..icmp + 2).unwrap_or_default().to_vec()));
    }
    caught.sort();
    Ok(caught)
}

fn compare(bed: &mut Bed, policy: &str, frames: &[(String, Vec<u8>)]) -> Result<()> {
    let settings = [
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv4.icmp_msgs_per_sec", "10000"),
        ("net.ipv4.icmp_msgs_burst", "10000"),
        ("net.ipv6.icmp.ratelimit", "0"),
    ];
    bed.lab.settings("router", &settings)?;
    // The error for an unresolved neighbour comes while the test still listens.
    for dev in ["lan0", "eth0", "eth1"] {
        for version in ["ipv4", "ipv6"] {
            let name = |setting: &str| format!("net.{version}.neigh.{dev}.{setting}");
            bed.lab.settings("router", &[(&name("mcast_solicit"), "1"), (&name("retrans_time_ms"), "50")])?;
        }
    }
    let daemon = bed.run("netlink", policy)?;
    bed.expect("isp2")?;
    let stack = send(bed, frames)?;
    ensure!(daemon.stop()?.success());
    for (name, _) in frames.iter().filter(|(name, _)| name.starts_with("plain")) {
        let came = stack.iter().filter(|(place, caught, _)| *place == "isp2" && caught == name).count();
        ensure!(came == 1, "{name} came {came} times to isp2 through the stack: the test itself is wrong");
    }
    let daemon = bed.run("ebpf", policy)?;
    bed.warm()?;
    bed.expect("isp2")?;
    let before = bed.redirected()?;
    let fast = send(bed, frames)?;
    ensure!(bed.redirected()? > before, "nothing took the fast path: {}", bed.status()?);
    ensure!(daemon.stop()?.success());
    for one in &stack {
        ensure!(fast.contains(one), "only through the stack: {one:02x?}\nall: {:?}", names(&fast, &one.1));
    }
    for one in &fast {
        ensure!(stack.contains(one), "only through the fast path: {one:02x?}\nall: {:?}", names(&stack, &one.1));
    }
    assert_eq!(stack.len(), fast.len(), "something came twice");
    Ok(())
}

fn names<'a>(caught: &'a [(&'static str, String, Vec<u8>)], name: &str) -> Vec<&'a (&'static str, String, Vec<u8>)> {
    caught.iter().filter(|(_, caught, _)| caught == name).collect()
}

#[test]
fn odd_frames_come_out_the_same() -> Result<()> {
    let mut bed = bed!();
    let frames = frames(&bed)?;
    compare(&mut bed, POLICY, &frames)
}

#[test]
fn odd_frames_come_out_the_same_where_rules_look_at_ports() -> Result<()> {
    let mut bed = bed!();
    let frames = frames(&bed)?;
    let rules = "
[[rule]]
priority = 990
ipproto  = \"udp\"
dport    = 9000
to       = [\"192.0.2.0/24\", \"2001:db8:a::/64\"]
table    = \"main\"
";
    compare(&mut bed, &format!("{POLICY}{rules}"), &frames)
}

#[test]
fn odd_frames_come_out_the_same_when_marks_are_written() -> Result<()> {
    let mut bed = bed!();
    let frames = frames(&bed)?;
    let marks = "
[[mark]]
iif     = \"lan0\"
ipproto = \"udp\"
dport   = 9000
set     = \"0x20/0xff\"

[[rule]]
priority = 980
fwmark   = \"0x20/0xff\"
table    = \"isp2\"
";
    compare(&mut bed, &format!("{POLICY}{marks}"), &frames)
}

/// Datagrams around the MTU of the way out, with and without leave to fragment. Every part of them is tagged.
fn large_frames(bed: &Bed) -> Result<Vec<(String, Vec<u8>)>> {
    let router = mac(&bed.lab, "router", "lan0")?;
    let lan = mac(&bed.lab, "lan", "eth0")?;
    let mut frames = Vec::new();
    for (from, far) in LAN.into_iter().zip(FAR) {
        for length in [1280usize, 1299, 1300, 1301, 1302, 1400, 1500] {
            for whole in [false, true] {
                let small = if length <= 1300 { "plain-" } else { "" };
                let name = format!("{small}{length}-{}-{far}", if whole { "whole" } else { "free" });
                let mut packet = Packet::udp(from, far, &name)?;
                packet.fragment = if whole { 0x4000 } else { 0 };
                let header = if packet.from.is_ipv4() { 28 } else { 48 };
                let data: Vec<u8> = payload(&name).into_iter().cycle().take(length - header).collect();
                packet.body = udp(packet.from, packet.to, 4000, 9000, &data);
                frames.push((name, ethernet(router, lan, packet.ethertype(), &packet.bytes())));
            }
        }
    }
    Ok(frames)
}

#[test]
fn large_frames_come_out_the_same_where_the_way_out_is_narrow() -> Result<()> {
    let mut bed = bed!();
    bed.lab.inside("router", || Admin::open()?.set_mtu("eth1", 1300))?;
    let frames = large_frames(&bed)?;
    compare(&mut bed, POLICY, &frames)
}

/// IPv4 goes by what a route says; IPv6 by the lower of route and interface, unless the route's MTU is locked.
#[test]
fn large_frames_come_out_the_same_where_a_route_says_more_than_the_way_out() -> Result<()> {
    let mut bed = bed!();
    bed.lab.inside("router", || Admin::open()?.set_mtu("eth1", 1300))?;
    let index = bed.lab.inside("router", || Admin::open()?.index("eth1"))?;
    for (far, via) in FAR.into_iter().zip(["10.0.0.1", "2001:db8:b::1"]) {
        let to: std::net::IpAddr = far.parse()?;
        let hop = NextHop { via: via.parse().ok(), dev: index, weight: 1, ..NextHop::default() };
        let route = Route {
            metric: 50,
            protocol: 4,
            mtu: Some(1400),
            mtu_locked: true,
            nexthops: vec![hop],
            ..Route::to(111, to.into(), RouteKind::Unicast)
        };
        bed.kernel(|kernel| kernel.add_route(&route))?;
    }
    let frames = large_frames(&bed)?;
    compare(&mut bed, POLICY, &frames)
}

#[test]
fn a_narrow_way_out_is_found_by_bulk_transfers() -> Result<()> {
    let mut bed = bed!();
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run(mode, POLICY)?;
        if mode == "ebpf" {
            bed.warm()?;
        }
        for (mtu, units) in [(1500, 20_000), (1300, 20_000)] {
            bed.lab.inside("router", || Admin::open()?.set_mtu("eth1", mtu))?;
            for family in Family::BOTH {
                let way = bed.send(family, Proto::Tcp, units)?;
                ensure!(way.place == "isp2" && way.packets == units, "{mode}, MTU {mtu}, {family}: {way:?}");
            }
        }
        ensure!(mode == "netlink" || bed.redirected()? > 100, "{}", bed.status()?);
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

/// What rules see of a fragment: no ports, be it the first one with all its ports, but its protocol.
#[test]
fn fragments_have_no_ports() -> Result<()> {
    let mut bed = bed!();
    let (router, lan) = (mac(&bed.lab, "router", "lan0")?, mac(&bed.lab, "lan", "eth0")?);
    let mut frames = Vec::new();
    for (name, offset, more) in [("whole", 0, false), ("first", 0, true), ("later", 72, false)] {
        let mut packet = Packet::udp(LAN[0], FAR[0], name)?;
        packet.fragment_as(offset, more);
        frames.push((name.to_owned(), ethernet(router, lan, packet.ethertype(), &packet.bytes())));
    }
    // Whole packets to port 9000 go by eth0, all other UDP by eth1; what is not UDP would be refused.
    let by_port = "
[[rule]]
priority = 980
family   = \"ipv4\"
iif      = \"lan0\"
dport    = 9000
table    = \"main\"

[[rule]]
priority = 981
family   = \"ipv4\"
iif      = \"lan0\"
not      = true
ipproto  = \"udp\"
action   = \"prohibit\"
";
    let policy = format!("{POLICY}{by_port}");
    let expected = [("isp1", "whole"), ("isp2", "first"), ("isp2", "later")];
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run(mode, &policy)?;
        if mode == "ebpf" {
            bed.warm()?;
        }
        // The other uplink's neighbour is resolved, and known, before it counts.
        for _ in 0..3 {
            bed.flow(LAN[0], Proto::Udp, 443, 1)?;
        }
        let before = bed.redirected()?;
        let caught = send(&bed, &frames)?;
        let mut came: Vec<(&str, &str)> = caught.iter().map(|(place, name, _)| (*place, name.as_str())).collect();
        came.sort_by_key(|(place, name)| (*place, *name != "first"));
        assert_eq!(came, expected, "{mode}");
        ensure!(mode == "netlink" || bed.redirected()? >= before + 3, "the stack did it: {}", bed.status()?);
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}
