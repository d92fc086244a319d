//! Another program on the way of a packet: it sees every one as the stack would have it, whatever the fast path would like.

use crate::bed;
use anyhow::{Result, ensure};
use std::time::Duration;
use wayfork::lab::traffic::Proto;
use wayfork::model::Family;
use wayfork_tests::{POLICY, eventually, tc};

/// Attaches, or says on standard error that the kernel is too old for this test.
macro_rules! foreign {
    ($bed:expr, $verdict:expr) => {
        foreign!($bed, "lan0", tc::Side::Ingress, $verdict)
    };
    ($bed:expr, $dev:expr, $side:expr, $verdict:expr) => {
        match tc::attach(&$bed.lab, "router", $dev, $side, $verdict)? {
            Some(link) => link,
            None => return Ok(wayfork::lab::needs::left_out("TCX", wayfork::lab::needs::Since::Version(6, 6))?),
        }
    };
}

#[test]
fn a_program_that_is_there_first_still_drops() -> Result<()> {
    let mut bed = bed!();
    bed.expect("isp1")?;
    let _foreign = foreign!(bed, tc::DROP);
    let daemon = bed.run("ebpf", POLICY)?;
    for family in Family::BOTH {
        let way = bed.send(family, Proto::Udp, 20)?;
        ensure!(way.packets == 0, "{family}: {way:?} went around the other program");
    }
    let interface = bed.interface("lan0")?;
    ensure!(interface["may"] != "redirect", "{interface}");
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_program_that_appears_gets_every_packet_soon() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    bed.expect("isp2")?;
    let foreign = foreign!(bed, tc::DROP);
    // The kernel announces no TCX program: it is found at the next look, twice a second.
    eventually(Duration::from_secs(2), "the other program drops", || {
        let ways = [bed.send(Family::Ipv4, Proto::Udp, 1)?, bed.send(Family::Ipv6, Proto::Udp, 1)?];
        Ok(ways.iter().all(|way| way.packets == 0))
    })?;
    let interface = bed.interface("lan0")?;
    ensure!(interface["may"] != "redirect", "{interface}");
    drop(foreign);
    eventually(Duration::from_secs(3), "redirects again", || Ok(bed.interface("lan0")?["may"] == "redirect"))?;
    bed.warm()?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn beside_a_program_that_lets_pass_everything_still_goes_by_the_policy() -> Result<()> {
    let mut bed = bed!();
    let _foreign = foreign!(bed, tc::NEXT);
    let daemon = bed.run("ebpf", POLICY)?;
    bed.expect("isp2")?;
    ensure!(bed.interface("lan0")?["may"] != "redirect", "{}", bed.interface("lan0")?);
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// A redirected packet passes it as the stack's do. Where nothing is redirected, it could see Wayfork's mark.
#[test]
fn a_program_on_an_egress_sees_every_packet_and_no_mark_of_wayforks() -> Result<()> {
    let mut bed = bed!();
    let foreign = foreign!(bed, "eth1", tc::Side::Egress, tc::DROP);
    let daemon = bed.run("ebpf", POLICY)?;
    ensure!(bed.interface("lan0")?["may"] == "redirect", "{}", bed.interface("lan0")?);
    for family in Family::BOTH {
        let way = bed.send(family, Proto::Udp, 20)?;
        ensure!(way.packets == 0, "{family}: {way:?} went around the other program");
    }
    ensure!(daemon.stop()?.success());
    drop(foreign);

    bed.lab.settings("router", &[("net.ipv4.conf.all.rp_filter", "2")])?;
    let daemon = bed.run("auto", POLICY)?;
    let interface = bed.interface("lan0")?;
    ensure!(interface["may"] == "mark", "{interface}");
    let _foreign = foreign!(bed, "eth1", tc::Side::Egress, tc::NEXT);
    eventually(Duration::from_secs(3), "no mark any more", || Ok(bed.interface("lan0")?["may"] == "pass"))?;
    let interface = bed.interface("lan0")?;
    ensure!(interface["why"].as_str().is_some_and(|why| why.contains("on eth1 may look at marks")), "{interface}");
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_generic_xdp_program_at_the_far_end_sees_every_packet_soon() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    bed.expect("isp2")?;
    let program = tc::drop_by_generic_xdp(&bed.lab, "isp2", "eth0")?;
    eventually(Duration::from_secs(4), "no redirect any more", || Ok(bed.interface("lan0")?["may"] != "redirect"))?;
    for family in Family::BOTH {
        let way = bed.send(family, Proto::Udp, 20)?;
        ensure!(way.packets == 0, "{family}: {way:?} went around the other program");
    }
    let interface = bed.interface("lan0")?;
    ensure!(interface["why"].as_str().is_some_and(|why| why.contains("behind eth1")), "{interface}");
    drop(program);
    eventually(Duration::from_secs(4), "redirects again", || Ok(bed.interface("lan0")?["may"] == "redirect"))?;
    ensure!(daemon.stop()?.success());
    Ok(())
}
