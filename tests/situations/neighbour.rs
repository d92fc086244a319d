//! The gateway silently changes its hardware address: a replaced router, a failover without gratuitous ARP.

use crate::bed;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use wayfork::kernel::admin::Admin;
use wayfork::lab::traffic::Proto;
use wayfork::model::Family;
use wayfork_tests::POLICY;

/// The time that the stack needs itself with the settings below: 1.5 times the reachable time at most, the delay before the
/// first probe, three unicast probes, and the look-up; and half as much again for a busy machine.
const LIMIT: Duration = Duration::from_secs(6);

#[test]
fn a_gateway_that_changes_its_hardware_address_is_found_again() -> Result<()> {
    let mut bed = bed!();
    for version in ["ipv4", "ipv6"] {
        bed.lab.settings(
            "router",
            &[
                (&format!("net.{version}.neigh.eth1.base_reachable_time_ms"), "1000"),
                (&format!("net.{version}.neigh.eth1.delay_first_probe_time"), "1"),
                (&format!("net.{version}.neigh.eth1.retrans_time_ms"), "200"),
            ],
        )?;
    }
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    bed.expect("isp2")?;
    let mac = [2, 0x57, 0x46, 0, 0, 1];
    bed.lab.inside("isp2", || Admin::open()?.set_mac("eth0", mac))?;
    for family in Family::BOTH {
        let start = Instant::now();
        // Steady traffic, as the users of a gateway that went away make it.
        while bed.send(family, Proto::Udp, 1)?.packets == 0 {
            ensure!(start.elapsed() < LIMIT, "{family}: nothing arrives {LIMIT:?} after the change");
        }
    }
    // And the fast path takes over again.
    bed.warm()?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_neighbour_that_is_only_stale_is_revalidated_by_traffic() -> Result<()> {
    let mut bed = bed!();
    for version in ["ipv4", "ipv6"] {
        bed.lab.settings("router", &[(&format!("net.{version}.neigh.eth1.base_reachable_time_ms"), "500")])?;
    }
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    std::thread::sleep(Duration::from_secs(2));
    bed.expect("isp2")?;
    bed.warm()?;
    ensure!(daemon.stop()?.success());
    Ok(())
}
