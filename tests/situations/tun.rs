//! A device without an Ethernet header, both ways: Ethernet in and TUN out, TUN in and Ethernet out.

use crate::bed;
use anyhow::{Result, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use wayfork::kernel::admin::{self, Admin, TunKind};
use wayfork::lab::traffic::Ports;
use wayfork_tests::frames::{Packet, Tap, payload, readable, tag, udp};
use wayfork_tests::{Bed, FAR, eventually};

const POLICY_TUN: &str = r#"
[[route]]
table = 5324
to    = "default"
dev   = "wg0"

[[rule]]
priority = 900
table    = "main"
suppress_prefixlength = 0

[[rule]]
priority = 1000
iif      = "lan0"
table    = 5324
"#;

/// A TUN device on the router whose other end is the test.
fn tun(bed: &Bed) -> Result<File> {
    let tun = bed.lab.inside("router", || admin::tun("wg0", TunKind::Tun, false))?;
    bed.lab.address("router", "wg0", &["10.99.0.2/24", "fd00:99::2/64"])?;
    bed.lab.inside("router", || Admin::open()?.up("wg0"))?;
    Ok(tun.into())
}

/// Tagged packets that come out of the device until nothing has come for a while.
fn read_all(tun: &mut File) -> Result<Vec<(String, Vec<u8>)>> {
    let mut packets = Vec::new();
    let mut buffer = vec![0u8; 65536];
    while readable(tun.as_fd(), Instant::now() + Duration::from_millis(200))? {
        let length = tun.read(&mut buffer)?;
        packets.extend(tag(&buffer[..length]).map(|name| (name, buffer[..length].to_vec())));
    }
    packets.sort();
    Ok(packets)
}

fn redirected_by(bed: &Bed, priority: u64) -> Result<u64> {
    let status = bed.status()?;
    let rules = status["rules"].as_array().cloned().unwrap_or_default();
    let of = rules.iter().filter(|rule| rule["priority"] == priority);
    Ok(of.filter_map(|rule| rule["actions"]["redirect"]["packets"].as_u64()).sum())
}

/// Datagrams of several lengths from the LAN into the device, as they come out of it.
fn into_tun(bed: &mut Bed, tun: &mut File) -> Result<Vec<(String, Vec<u8>)>> {
    let lan = Tap::open(&bed.lab, "lan", "eth0")?;
    let links =
        |host: &str| bed.lab.inside(host, || wayfork::kernel::Kernel::links(&mut wayfork::kernel::Netlink::open()?));
    let mac = |host: &str, dev: &str| -> Result<[u8; 6]> {
        Ok(links(host)?.values().find(|link| link.name == dev).and_then(|link| link.mac).unwrap_or_default())
    };
    let (router, own) = (mac("router", "lan0")?, mac("lan", "eth0")?);
    for (from, to) in ["192.168.8.10", "fd00:8::10"].into_iter().zip(FAR) {
        for length in [64, 65, 600, 1400] {
            let mut packet = Packet::udp(from, to, "")?;
            let mut data = payload(&format!("{to}/{length}"));
            data.resize(length, b'.');
            packet.body = udp(packet.from, packet.to, 4000, 9000, &data);
            lan.send(&wayfork_tests::frames::ethernet(router, own, packet.ethertype(), &packet.bytes()))?;
        }
    }
    read_all(tun)
}

/// Packets of several lengths out of the device to the LAN, as they come there, without their Ethernet headers.
fn out_of_tun(bed: &mut Bed, tun: &mut File) -> Result<Vec<(String, Vec<u8>)>> {
    let lan = Tap::open(&bed.lab, "lan", "eth0")?;
    for (from, to) in FAR.into_iter().zip(["192.168.8.10", "fd00:8::10"]) {
        for length in [64, 65, 600, 1400] {
            let mut packet = Packet::udp(from, to, "")?;
            let mut data = payload(&format!("{to}/{length}"));
            data.resize(length, b'.');
            packet.body = udp(packet.from, packet.to, 4000, 9000, &data);
            ensure!(tun.write(&packet.bytes())? == packet.bytes().len());
        }
    }
    let mut caught = lan.catch(Duration::from_millis(200))?;
    caught.sort();
    Ok(caught)
}

fn same(stack: &[(String, Vec<u8>)], fast: &[(String, Vec<u8>)]) -> Result<()> {
    let names = |packets: &[(String, Vec<u8>)]| packets.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(stack), names(fast));
    for ((name, one), (_, other)) in stack.iter().zip(fast) {
        let head = |bytes: &[u8]| format!("{:02x?}, {} bytes", &bytes[..80.min(bytes.len())], bytes.len());
        ensure!(one == other, "{name}\nstack     {}\nfast path {}", head(one), head(other));
    }
    Ok(())
}

#[test]
fn both_directions_give_the_same_bytes_as_the_stack() -> Result<()> {
    let mut bed = bed!();
    let mut tun = tun(&bed)?;
    // Without a listener the LAN would answer with ICMP errors, which quote the datagrams that are counted here.
    bed.lab.receive("lan", &Ports { udp: vec![9000], tcp: Vec::new() })?;
    let daemon = bed.run("netlink", POLICY_TUN)?;
    let (in_stack, out_stack) = (into_tun(&mut bed, &mut tun)?, out_of_tun(&mut bed, &mut tun)?);
    ensure!(daemon.stop()?.success());
    ensure!(
        in_stack.len() == 8 && out_stack.len() == 8,
        "through the stack {} and {}",
        in_stack.len(),
        out_stack.len()
    );

    let daemon = bed.run("ebpf", POLICY_TUN)?;
    assert_eq!(bed.interface("wg0")?["may"], "redirect");
    eventually(Duration::from_secs(5), "both directions take the fast path", || {
        let before = (redirected_by(&bed, 1000)?, redirected_by(&bed, 900)?);
        into_tun(&mut bed, &mut tun)?;
        out_of_tun(&mut bed, &mut tun)?;
        Ok(redirected_by(&bed, 1000)? >= before.0 + 8 && redirected_by(&bed, 900)? >= before.1 + 8)
    })?;
    let before = (redirected_by(&bed, 1000)?, redirected_by(&bed, 900)?);
    same(&in_stack, &into_tun(&mut bed, &mut tun)?)?;
    same(&out_stack, &out_of_tun(&mut bed, &mut tun)?)?;
    ensure!(redirected_by(&bed, 1000)? >= before.0 + 8, "Ethernet to TUN: {}", bed.status()?);
    ensure!(redirected_by(&bed, 900)? >= before.1 + 8, "TUN to Ethernet: {}", bed.status()?);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_tunnel_that_goes_away_leaves_the_rest_working() -> Result<()> {
    let mut bed = bed!();
    let device = tun(&bed)?;
    let daemon = bed.run("ebpf", POLICY_TUN)?;
    drop(device);
    // The device is gone and table 5324 empty: on to main.
    bed.expect_soon("isp1")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}
