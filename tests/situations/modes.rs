//! The three modes, and what may be done per interface.

use crate::bed;
use anyhow::{Result, ensure};
use wayfork_tests::POLICY;

#[test]
fn netlink_attaches_nothing() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("netlink", POLICY)?;
    let status = bed.status()?;
    assert_eq!(status["mode"], "netlink");
    for interface in status["interfaces"].as_array().into_iter().flatten() {
        assert!(interface["attached"].is_null(), "{interface}");
    }
    bed.expect("isp2")?;
    assert_eq!(bed.redirected()?, 0);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn ebpf_redirects_and_counts_what_it_redirects() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    for name in ["lan0", "eth0", "eth1"] {
        let interface = bed.interface(name)?;
        assert_eq!(interface["may"], "redirect", "{interface}");
        assert!(interface["attached"] == "tcx" || interface["attached"] == "clsact", "{interface}");
    }
    let before = bed.redirected()?;
    bed.expect("isp2")?;
    // Two families, of ICMP and UDP 20 packets each; TCP and the answers come on top.
    ensure!(bed.redirected()? - before >= 80, "{} redirected", bed.redirected()? - before);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn auto_chooses_for_itself_and_says_why() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("auto", POLICY)?;
    bed.expect("isp2")?;
    let status = bed.status()?;
    assert_eq!(status["mode"], "auto");
    let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
    ensure!(!interfaces.is_empty(), "{status}");
    for interface in interfaces {
        ensure!(interface["why"].as_str().is_some_and(|why| !why.is_empty()), "{interface}");
    }
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn fast_path_mark_marks_and_the_stack_sends() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", &format!("[router]\nfast_path = \"mark\"\n{POLICY}"))?;
    bed.expect("isp2")?;
    let before = bed.acted("mark")?;
    bed.expect("isp2")?;
    ensure!(bed.acted("mark")? - before >= 80, "{} marked: {}", bed.acted("mark")? - before, bed.status()?);
    assert_eq!(bed.redirected()?, 0);
    assert_eq!(bed.interface("lan0")?["may"], "mark");
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn rp_filter_forbids_redirect_on_that_interface_and_the_stack_still_judges() -> Result<()> {
    let mut bed = bed!();
    // Strict: what comes in by lan0 with a source that main knows elsewhere is a martian.
    bed.lab.settings("router", &[("net.ipv4.conf.lan0.rp_filter", "1")])?;
    let daemon = bed.run("ebpf", POLICY)?;
    bed.expect("isp2")?;
    let interface = bed.interface("lan0")?;
    ensure!(interface["may"] != "redirect", "{interface}");
    ensure!(interface["why"].as_str().is_some_and(|why| why.contains("rp_filter")), "{interface}");
    ensure!(daemon.stop()?.success());
    Ok(())
}
