//! VRFs: what comes in by a slave is routed in the VRF's table, by the rule `l3mdev`.

use crate::tools::{made_on_both, tools};
use crate::{bed, made, twins};
use anyhow::{Context as _, Result, ensure};
use std::net::IpAddr;
use wayfork::lab::traffic::Proto;
use wayfork_tests::twins::{Arrival, Twins, acted, devices};
use wayfork_tests::{Bed, Way};

fn all_by(bed: &mut Bed, place: &str) -> Result<()> {
    for from in ["192.168.8.10", "fd00:8::10"] {
        for proto in Proto::ALL {
            let way = bed.flow(from, proto, 9000, 20)?;
            ensure!(way == Way { place: place.to_owned(), packets: 20 }, "{from} {proto:?}: {way:?}, not {place}");
        }
    }
    Ok(())
}

#[test]
fn a_slave_of_a_vrf_is_left_to_the_stack() -> Result<()> {
    let mut bed = bed!();
    made!(bed, "VRF devices", "router", "ip link add blue type vrf table 500");
    tools(
        &bed,
        "router",
        &[
            "ip link set blue up",
            "ip link set lan0 master blue",
            // The kernel takes the IPv6 addresses of a device away when it gets a master.
            "ip -6 address replace fd00:8::1/64 dev lan0 nodad",
            "ip -4 route add default via 10.0.0.1 dev eth1 table 500",
            "ip -6 route add default via 2001:db8:b::1 dev eth1 table 500",
            // The way back, for what comes in outside the VRF.
            "ip -4 route add 192.168.8.0/24 dev lan0",
            "ip -6 route add fd00:8::/64 dev lan0",
        ],
    )?;
    all_by(&mut bed, "isp2")?;
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run_with(&["--mode", mode])?;
        all_by(&mut bed, "isp2")?;
        if mode == "ebpf" {
            let lan = bed.interface("lan0")?;
            ensure!(lan.is_null() || lan["may"] == "pass", "packets of a VRF's slave are the stack's: {lan}");
            // The answers come in outside the VRF, by main's route into it.
            let vrf = bed.interface("blue")?;
            ensure!(vrf.is_null() || vrf["may"] == "pass", "{vrf}");
        }
        ensure!(daemon.stop()?.success());
    }
    all_by(&mut bed, "isp2")
}

#[test]
fn a_vrf_that_comes_while_running_takes_its_slaves_from_the_fast_path() -> Result<()> {
    let mut bed = bed!();
    made!(bed, "VRF devices", "router", "ip link add blue type vrf table 500");
    let daemon = bed.run_with(&["--mode", "ebpf"])?;
    bed.warm()?;
    ensure!(bed.interface("lan0")?["may"] == "redirect");
    tools(
        &bed,
        "router",
        &[
            "ip -4 route add default via 10.0.0.1 dev eth1 table 500",
            "ip -6 route add default via 2001:db8:b::1 dev eth1 table 500",
            "ip link set blue up",
            "ip link set lan0 master blue",
            "ip -6 address replace fd00:8::1/64 dev lan0 nodad",
            "ip -4 route add 192.168.8.0/24 dev lan0",
            "ip -6 route add fd00:8::/64 dev lan0",
        ],
    )?;
    wayfork_tests::eventually(std::time::Duration::from_secs(5), "lan0 is left to the stack", || {
        let lan = bed.interface("lan0")?;
        Ok(lan.is_null() || lan["may"] == "pass")
    })?;
    all_by(&mut bed, "isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// Whatever comes in by a slave, by the way into the VRF, or beside it, comes out of both routers alike.
#[test]
fn packets_into_out_of_and_beside_a_vrf() -> Result<()> {
    let twins = twins!();
    if !made_on_both(&twins, "VRF devices", "link add blue type vrf table 500")? {
        return Ok(());
    }
    // The kernel takes the IPv6 addresses of a device away when it gets a master, and its neighbours.
    twins.ip("link set blue up
              link set n1 master blue
              -6 addr replace fd01::1/64 dev n1 nodad")?;
    let neighbours: Vec<IpAddr> =
        ["10.1.0.2", "fd01::2", "10.1.0.7", "fd01::7"].map(str::parse).into_iter().collect::<Result<_, _>>()?;
    twins.each(|rig| rig.neighbours("n1", 1, &neighbours))?;
    twins.ip("-4 route add default via 10.3.0.2 dev n3 table 500
              -6 route add default via fd03::2 dev n3 table 500
              -4 route add 10.1.0.0/24 dev n1
              -6 route add fd01::/64 dev n1
              -4 route add local 10.3.0.88 dev n3 table 500
              -4 route add 198.51.100.9/32 dev blue
              -6 route add 2001:db8:51::9/128 dev blue
              -4 rule add priority 100 iif blue to 198.51.100.1 table 102
              -4 rule add priority 101 iif n1 to 198.51.100.2 table 102
              -6 rule add priority 100 iif blue to 2001:db8:51::1 table 102
              -6 rule add priority 101 iif n1 to 2001:db8:51::2 table 102
              -4 rule add priority 102 iif n3 to 198.51.100.3 table 103
              -6 rule add priority 102 iif n3 to 2001:db8:51::3 table 103")?;
    let daemon = twins.run("ebpf", "")?;
    let mut arrivals = Vec::new();
    for (family, [slave, beside, net]) in
        [("v4", ["10.1.0.7", "10.3.0.7", "198.51.100."]), ("v6", ["fd01::7", "fd03::7", "2001:db8:51::"])]
    {
        let far = Twins::FAR[usize::from(family == "v6")];
        let targets = [1, 2, 3, 9].map(|last| format!("{net}{last}"));
        for (dev, from) in [("n1", slave), ("n3", beside)] {
            for to in [far, slave, beside].into_iter().chain(targets.iter().map(String::as_str)) {
                arrivals.push(Arrival::udp(&format!("{dev}-{to}"), dev, from, to)?);
            }
        }
        // A source that is at home in the VRF, from outside it.
        arrivals.push(Arrival::udp(&format!("stray-{family}"), "n3", slave, far)?);
    }
    // This host's own where the way back leads through the VRF, and nobody's elsewhere.
    for (name, to) in [("own-there", "10.1.0.7"), ("stranger", Twins::FAR[0])] {
        arrivals.push(Arrival::udp(name, "n3", "10.3.0.88", to)?);
    }
    let all = twins.compare(&arrivals)?;
    assert_eq!(devices(&all["own-there"][0]), [""; 0], "the stack takes it");
    for (name, dev) in [
        ("n1-111.11.1.1", "n3"),
        ("n3-111.11.1.1", "n2"),
        ("n3-10.1.0.7", "n1"),
        ("n3-fd01::7", "n1"),
        ("n3-198.51.100.9", "n3"),
        ("stranger", "n2"),
    ] {
        assert_eq!(devices(&all[name][0]), [dev], "the stack's way for {name}");
    }
    // Only what has nothing to do with the VRF is the fast path's.
    ensure!(acted(&twins.with, "redirect")? > 0, "{}", twins.with.status()?);
    let status = twins.with.status()?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    let may = |name: &str| interfaces.iter().find(|one| one["name"] == name).map(|one| one["may"].clone());
    ensure!(may("n1").is_none_or(|may| may == "pass"), "{status}");
    ensure!(may("n3").is_some_and(|may| may == "redirect"), "{status}");
    ensure!(daemon.stop()?.success());
    Ok(())
}
