//! Interfaces that come later, go, and come again.

use crate::bed;
use anyhow::{Result, ensure};
use std::time::Duration;
use wayfork::kernel::admin::{Admin, NewLink};
use wayfork::lab::traffic::Proto;
use wayfork::model::Family;
use wayfork_tests::{Bed, POLICY, eventually};

fn delete(bed: &Bed, dev: &str) -> Result<()> {
    Ok(bed.lab.inside("router", || Admin::open()?.delete_link(dev))?)
}

/// The cable to isp2 with the addresses that [`Bed`] gives it.
fn make_eth1(bed: &mut Bed) -> Result<()> {
    bed.lab.wire(
        ("router", "eth1", &["10.0.0.2/24", "2001:db8:b::2/64"]),
        ("isp2", "eth0", &["10.0.0.1/24", "2001:db8:b::1/64"]),
    )?;
    bed.lab.route("isp2", "default", &["10.0.0.2", "2001:db8:b::2"])?;
    bed.lab.settle()?;
    Ok(())
}

fn back_by_isp2(bed: &mut Bed) -> Result<()> {
    for family in Family::BOTH {
        eventually(Duration::from_secs(5), "traffic goes by eth1 again", || {
            Ok(bed.send(family, Proto::Udp, 1)?.place == "isp2")
        })?;
    }
    bed.expect("isp2")
}

#[test]
fn a_missing_interface_is_waited_for() -> Result<()> {
    let mut bed = bed!();
    for mode in ["netlink", "ebpf"] {
        delete(&bed, "eth1")?;
        let daemon = bed.run(mode, POLICY)?;
        // Its table has no route, so the walk goes on to main.
        bed.expect("isp1")?;
        let status = bed.status()?;
        let waiting = status["waiting"].to_string();
        ensure!(waiting.contains("eth1"), "{mode}: does not say what it waits for: {status}");
        make_eth1(&mut bed)?;
        back_by_isp2(&mut bed)?;
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

#[test]
fn an_interface_deleted_and_made_again_is_used_again() -> Result<()> {
    let mut bed = bed!();
    let before = bed.snapshot()?;
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run(mode, POLICY)?;
        bed.expect("isp2")?;
        delete(&bed, "eth1")?;
        eventually(Duration::from_secs(5), "traffic falls back to eth0", || {
            Ok(bed.send(Family::Ipv4, Proto::Udp, 1)?.place == "isp1")
        })?;
        bed.expect("isp1")?;
        make_eth1(&mut bed)?;
        back_by_isp2(&mut bed)?;
        ensure!(daemon.stop()?.success(), "{mode}");
    }
    let rules = bed.snapshot()?.rules;
    assert_eq!(rules, before.rules);
    Ok(())
}

#[test]
fn the_ingress_interface_of_a_rule_comes_later() -> Result<()> {
    let mut bed = bed!();
    let policy = POLICY.replace("from     = [\"192.168.8.0/24\", \"fd00:8::/64\"]", "iif      = \"lan0\"");
    delete(&bed, "lan0")?;
    let daemon = bed.run("ebpf", &policy)?;
    bed.lab.wire(
        ("router", "lan0", &["192.168.8.1/24", "fd00:8::1/64"]),
        ("lan", "eth0", &["192.168.8.10/24", "fd00:8::10/64"]),
    )?;
    bed.lab.route("lan", "default", &["192.168.8.1", "fd00:8::1"])?;
    back_by_isp2(&mut bed)?;
    bed.warm()?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn an_interface_index_of_more_than_16_bits_is_redirected_to() -> Result<()> {
    let mut bed = bed!();
    delete(&bed, "eth1")?;
    let far = bed.lab.netns("isp2")?.fd();
    let near = NewLink::named("eth1").index(0x4000_0001);
    bed.lab.inside("router", || Admin::open()?.veth(near, NewLink::named("eth0").inside(far)))?;
    bed.lab.address("router", "eth1", &["10.0.0.2/24", "2001:db8:b::2/64"])?;
    bed.lab.address("isp2", "eth0", &["10.0.0.1/24", "2001:db8:b::1/64"])?;
    for (host, dev) in [("router", "eth1"), ("isp2", "eth0")] {
        bed.lab.inside(host, || Admin::open()?.up(dev))?;
    }
    bed.lab.route("isp2", "default", &["10.0.0.2", "2001:db8:b::2"])?;
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    let before = bed.redirected()?;
    bed.expect("isp2")?;
    ensure!(bed.redirected()? > before + 80);
    ensure!(daemon.stop()?.success());
    Ok(())
}
