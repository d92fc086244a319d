//! Devices on top of others, and devices that lead nowhere: VLAN, macvlan, bond, dummy.

use crate::tools::{tool, tools};
use crate::{bed, made};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use wayfork::lab::traffic::Proto;
use wayfork_tests::{Bed, POLICY, Way, eventually};

/// All protocols from an address of the LAN in each family, 20 units each, go to a place.
fn all_by(bed: &mut Bed, from: [&str; 2], place: &str) -> Result<()> {
    for from in from {
        for proto in Proto::ALL {
            let way = bed.flow(from, proto, 9000, 20)?;
            ensure!(way == Way { place: place.to_owned(), packets: 20 }, "{from} {proto:?}: {way:?}, not {place}");
        }
    }
    Ok(())
}

/// The same in every mode, and with the fast path by the fast path.
fn in_every_mode(bed: &mut Bed, policy: &str, from: [&str; 2], place: &str, redirecting: &[&str]) -> Result<()> {
    let daemon = bed.run("netlink", policy)?;
    for from in from {
        // Devices that have just been made may not have told their neighbours yet.
        eventually(Duration::from_secs(5), "the first packet arrives", || {
            Ok(bed.flow(from, Proto::Udp, 9000, 1)?.packets == 1)
        })?;
    }
    all_by(bed, from, place)?;
    ensure!(daemon.stop()?.success());
    let daemon = bed.run("ebpf", policy)?;
    // The first packets resolve neighbours.
    all_by(bed, from, place)?;
    for device in redirecting {
        ensure!(bed.interface(device)?["may"] == "redirect", "{device}: {}", bed.interface(device)?);
    }
    let before = bed.redirected()?;
    all_by(bed, from, place)?;
    // 20 echo requests and 20 datagrams in each family; what a connection comes to depends on how its pieces are joined.
    ensure!(bed.redirected()? > before + 80, "the fast path took {} of them", bed.redirected()? - before);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn tagged_frames_are_the_vlan_devices() -> Result<()> {
    let mut bed = bed!();
    made!(bed, "VLAN devices", "router", "ip link add lan0.7 link lan0 type vlan id 7");
    tools(
        &bed,
        "router",
        &[
            "ip link set lan0.7 up",
            "ip address add 192.168.7.1/24 dev lan0.7",
            "ip address add fd00:7::1/64 dev lan0.7 nodad",
        ],
    )?;
    tools(
        &bed,
        "lan",
        &[
            "ip link add eth0.7 link eth0 type vlan id 7",
            "ip link set eth0.7 up",
            "ip address add 192.168.7.10/24 dev eth0.7",
            "ip address add fd00:7::10/64 dev eth0.7 nodad",
            "ip -4 route add 111.11.1.1 via 192.168.7.1",
            "ip -6 route add 2001:db8:111::1 via fd00:7::1",
        ],
    )?;
    // Without a rule for the VLAN device, its packets keep to main.
    let policy = POLICY.replace("from     = [\"192.168.8.0/24\", \"fd00:8::/64\"]", "iif = \"lan0.7\"");
    in_every_mode(&mut bed, &policy, ["192.168.7.10", "fd00:7::10"], "isp2", &["lan0", "lan0.7", "eth1"])?;
    let other = POLICY.replace("from     = [\"192.168.8.0/24\", \"fd00:8::/64\"]", "iif = \"lan0\"");
    in_every_mode(&mut bed, &other, ["192.168.7.10", "fd00:7::10"], "isp1", &["lan0.7"])
}

#[test]
fn a_bond_decides_for_its_slaves() -> Result<()> {
    let mut bed = bed!();
    made!(bed, "bonds", "router", "ip link add up2 type bond mode active-backup miimon 100");
    tools(
        &bed,
        "router",
        &[
            "ip link set eth1 down",
            "ip address flush dev eth1",
            "ip link set eth1 master up2",
            "ip link set up2 up",
            "ip address add 10.0.0.2/24 dev up2",
            "ip address add 2001:db8:b::2/64 dev up2 nodad",
        ],
    )?;
    eventually(Duration::from_secs(5), "up2 has a carrier", || {
        Ok(tool(&bed, "router", "ip link show dev up2")?.contains("LOWER_UP"))
    })?;
    let policy = POLICY.replace("\"eth1\"", "\"up2\"");
    in_every_mode(&mut bed, &policy, ["192.168.8.10", "fd00:8::10"], "isp2", &["lan0", "up2"])?;
    let daemon = bed.run("ebpf", &policy)?;
    ensure!(bed.interface("eth1")?.is_null(), "the slave is not attached to: {}", bed.interface("eth1")?);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn an_uplink_that_is_a_macvlan() -> Result<()> {
    let mut bed = bed!();
    made!(bed, "macvlan devices", "router", "ip link add up2 link eth1 type macvlan mode bridge");
    tools(
        &bed,
        "router",
        &[
            "ip address flush dev eth1",
            "ip link set up2 up",
            "ip address add 10.0.0.2/24 dev up2",
            "ip address add 2001:db8:b::2/64 dev up2 nodad",
        ],
    )?;
    eventually(Duration::from_secs(5), "up2 has a carrier", || {
        Ok(tool(&bed, "router", "ip link show dev up2")?.contains("LOWER_UP"))
    })?;
    let policy = POLICY.replace("\"eth1\"", "\"up2\"");
    in_every_mode(&mut bed, &policy, ["192.168.8.10", "fd00:8::10"], "isp2", &["lan0", "up2"])?;
    let daemon = bed.run("ebpf", &policy)?;
    ensure!(bed.interface("eth1")?.is_null(), "what is below is not attached to: {}", bed.interface("eth1")?);
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// Packets that a device has sent.
fn sent(bed: &Bed, device: &str) -> Result<u64> {
    let text = tool(bed, "router", &format!("ip -s -j link show dev {device}"))?;
    let links: Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["tx"]["packets"].as_u64().context("no statistics")
}

#[test]
fn a_dummy_device_swallows_the_same_packets() -> Result<()> {
    let mut bed = bed!();
    made!(bed, "dummy devices", "router", "ip link add hole type dummy");
    tools(
        &bed,
        "router",
        &["ip link set hole up", "ip -4 route add 111.11.1.1 dev hole", "ip -6 route add 2001:db8:111::1 dev hole"],
    )?;
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run_with(&["--mode", mode])?;
        for from in ["192.168.8.10", "fd00:8::10"] {
            let (before, fast) = (sent(&bed, "hole")?, bed.redirected()?);
            let way = bed.flow(from, Proto::Udp, 9000, 20)?;
            ensure!(way.packets == 0, "{mode} {from}: {way:?}");
            ensure!(sent(&bed, "hole")? == before + 20, "{mode} {from}: {} came out", sent(&bed, "hole")? - before);
            let fast = bed.redirected()? - fast;
            ensure!(fast == if mode == "ebpf" { 20 } else { 0 }, "{mode} {from}: {fast} by the fast path");
        }
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}
