//! VRFs: what comes in by a slave is routed in the VRF's table, by the rule `l3mdev`.

use crate::tools::tools;
use crate::{bed, made};
use anyhow::{Result, ensure};
use wayfork::lab::traffic::Proto;
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
