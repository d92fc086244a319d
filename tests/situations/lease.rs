//! A fast path whose loader hangs or is gone stops deciding within two seconds.

use crate::bed;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use wayfork::kernel::Kernel;
use wayfork::lab::traffic::Proto;
use wayfork::model::{Family, OWN_PROTOCOL};
use wayfork_tests::{Bed, POLICY};

/// Makes the stack decide otherwise than the fast path was last told.
fn delete_own_rules(bed: &Bed) -> Result<()> {
    bed.kernel(|kernel| {
        let own: Vec<_> = kernel.rules()?.into_iter().filter(|rule| rule.protocol == OWN_PROTOCOL).collect();
        own.iter().try_for_each(|rule| kernel.delete_rule(rule))
    })
}

fn until_the_stack_decides(bed: &mut Bed, since: Instant) -> Result<()> {
    loop {
        let ways = [bed.send(Family::Ipv4, Proto::Udp, 1)?, bed.send(Family::Ipv6, Proto::Udp, 1)?];
        if ways.iter().all(|way| way.place == "isp1") {
            return Ok(());
        }
        let age = since.elapsed();
        ensure!(age < Duration::from_secs(2), "{age:?} after the loader's last breath it still decides: {ways:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_loader_that_hangs_loses_its_lease() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    bed.expect("isp2")?;
    daemon.signal(Signal::SIGSTOP)?;
    let stopped = Instant::now();
    delete_own_rules(&bed)?;
    until_the_stack_decides(&mut bed, stopped)?;
    bed.expect("isp1")?;
    // Awake again, it sees what happened meanwhile and puts its rules back.
    daemon.signal(Signal::SIGCONT)?;
    wayfork_tests::eventually(Duration::from_secs(5), "its rules are back", || {
        Ok(bed.send(Family::Ipv4, Proto::Udp, 1)?.place == "isp2")
    })?;
    bed.expect_soon("isp2")?;
    bed.warm()?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_loader_that_is_killed_decides_no_longer() -> Result<()> {
    let mut bed = bed!();
    let mut daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    daemon.signal(Signal::SIGKILL)?;
    let killed = Instant::now();
    ensure!(daemon.wait(Duration::from_secs(5))?.is_some(), "survived SIGKILL");
    delete_own_rules(&bed)?;
    until_the_stack_decides(&mut bed, killed)?;
    bed.expect("isp1")?;
    Ok(())
}
