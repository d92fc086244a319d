//! Where the kernel knows more of its rules, or sees more of a packet, than it tells.

use crate::semantics::{BY_PORT, both};
use crate::twins;
use anyhow::{Result, ensure};
use std::time::Duration;
use wayfork_tests::rig::Rig;
use wayfork_tests::twins::{acted, all_by, passed};
use wayfork_tests::{eventually, tc};

#[test]
fn a_rule_by_another_name_stays_with_the_interface_that_had_it() -> Result<()> {
    let twins = twins!();
    twins.ip("link property add dev n1 altname lan")?;
    twins.ip("-4 rule add priority 10 iif lan table 103
              -6 rule add priority 10 iif lan table 103")?;
    let daemon = twins.run("ebpf", "")?;
    let arrivals = both("before", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    twins.ip("link property del dev n1 altname lan
              link property add dev n3 altname lan")?;
    let arrivals = both("after", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    ensure!(passed(&twins.with, "rule-selector")? == 4);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_policy_by_another_name_is_the_interfaces_own() -> Result<()> {
    let twins = twins!();
    twins.ip("link property add dev n1 altname lan")?;
    let policy = "[[rule]]\npriority = 10\niif = \"lan\"\ntable = 103\n";
    twins.alone.ip("-4 rule add priority 10 iif n1 table 103
                    -6 rule add priority 10 iif n1 table 103")?;
    let daemon = twins.run("ebpf", policy)?;
    let arrivals = both("by-policy", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    ensure!(acted(&twins.with, "redirect")? == 2);
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// Waits until this is what packets from n1 may have done to them.
fn becomes(rig: &Rig, may: &str) -> Result<()> {
    eventually(Duration::from_secs(20), may, || {
        let status = rig.status()?;
        let interfaces = status["interfaces"].as_array().into_iter().flatten();
        Ok(interfaces.clone().any(|interface| interface["name"] == "n1" && interface["may"] == may))
    })
}

#[test]
fn what_a_flow_dissector_of_bpf_finds_is_what_the_rules_see() -> Result<()> {
    let twins = twins!();
    twins.ip(BY_PORT)?;
    let daemon = twins.run("ebpf", "")?;
    let arrivals = both("by-port", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    assert_eq!(acted(&twins.with, "redirect")?, 2);
    let dissectors = [&twins.alone, &twins.with].map(|rig| tc::dissect_nothing(&rig.lab, Rig::HOST));
    // Nobody tells of it: Wayfork looks once a second.
    becomes(&twins.with, "pass")?;
    let arrivals = both("without-ports", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n2")?;
    assert_eq!(acted(&twins.with, "redirect")?, 2);
    drop(dissectors);
    becomes(&twins.with, "redirect")?;
    let arrivals = both("by-port-again", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}
