//! A firewall that appears while the router runs: nothing may be forwarded around it.

use crate::bed;
use anyhow::{Result, ensure};
use std::time::Duration;
use wayfork::lab::traffic::Proto;
use wayfork::model::Family;
use wayfork_tests::{POLICY, eventually, nft};

#[test]
fn a_firewall_that_appears_takes_redirect_away_at_once() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    bed.expect("isp2")?;
    nft::drop_all_forwarded(&bed.lab, "router")?;
    // The time of one event: what is sent after that must meet the firewall.
    std::thread::sleep(Duration::from_millis(50));
    for family in Family::BOTH {
        let way = bed.send(family, Proto::Udp, 20)?;
        ensure!(way.packets == 0, "{family}: {way:?} went around the firewall");
    }
    let interface = bed.interface("lan0")?;
    ensure!(interface["may"] != "redirect", "{interface}");
    ensure!(interface["why"].as_str().is_some_and(|why| why.contains(nft::TABLE)), "does not name it: {interface}");
    nft::remove(&bed.lab, "router")?;
    eventually(Duration::from_secs(5), "redirects again", || Ok(bed.interface("lan0")?["may"] == "redirect"))?;
    bed.warm()?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_firewall_that_is_there_is_never_gone_around() -> Result<()> {
    let mut bed = bed!();
    nft::drop_all_forwarded(&bed.lab, "router")?;
    let daemon = bed.run("ebpf", POLICY)?;
    for family in Family::BOTH {
        for proto in [Proto::Icmp, Proto::Udp] {
            let way = bed.send(family, proto, 20)?;
            ensure!(way.packets == 0, "{family} {proto:?}: {way:?} went around the firewall");
        }
    }
    nft::remove(&bed.lab, "router")?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn bypass_names_what_may_be_gone_around() -> Result<()> {
    let mut bed = bed!();
    nft::drop_all_forwarded(&bed.lab, "router")?;
    let daemon = bed.run("ebpf", &format!("[router]\nbypass = [\"netfilter\"]\n{POLICY}"))?;
    let interface = bed.interface("lan0")?;
    assert_eq!(interface["may"], "redirect", "{interface}");
    // The stack drops what would resolve the neighbours: resolve them from outside.
    for (isp, addresses) in [("isp2", ["10.0.0.2", "2001:db8:b::2"]), ("lan", ["192.168.8.1", "fd00:8::1"])] {
        for address in addresses {
            let from: std::net::IpAddr = match (isp, address.contains(':')) {
                ("isp2", false) => "10.0.0.1",
                ("isp2", true) => "2001:db8:b::1",
                (_, false) => "192.168.8.10",
                (_, true) => "fd00:8::10",
            }
            .parse()?;
            let flow = wayfork::lab::traffic::Flow {
                id: 0,
                proto: Proto::Icmp,
                from,
                to: address.parse()?,
                dport: 0,
                mark: 0,
                units: 1,
            };
            bed.lab.send(isp, flow, Duration::from_secs(1))??;
        }
    }
    bed.warm()?;
    let way = bed.send(Family::Ipv4, Proto::Udp, 20)?;
    ensure!(way.place == "isp2" && way.packets == 20, "{way:?}");
    ensure!(daemon.stop()?.success());
    Ok(())
}
