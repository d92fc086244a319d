//! Another TC program on the same interface: it sees every packet, whatever the fast path would like.

use crate::bed;
use anyhow::{Result, ensure};
use std::io::Write;
use std::time::Duration;
use wayfork::lab::traffic::Proto;
use wayfork::model::Family;
use wayfork_tests::{POLICY, eventually, tc};

/// Attaches, or says on standard error that the kernel is too old for this test.
macro_rules! foreign {
    ($bed:expr, $verdict:expr) => {
        match tc::attach(&$bed.lab, "router", "lan0", $verdict)? {
            Some(link) => link,
            None => {
                std::io::stderr().write_all(b"LEFT OUT: a foreign TC program needs TCX (Linux 6.6)\n")?;
                return Ok(());
            }
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
