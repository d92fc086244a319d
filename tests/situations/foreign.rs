//! Rules and routes of other programs stay as they are, and decide along.

use crate::bed;
use anyhow::{Result, ensure};
use wayfork::kernel::Kernel;
use wayfork::lab::traffic::Proto;
use wayfork::model::{Family, Rule, RuleAction, Selectors};
use wayfork_tests::{Bed, POLICY};

/// RTPROT_STATIC: an administrator's.
const STATIC: u8 = 4;

fn add(bed: &Bed, rules: &[Rule]) -> Result<()> {
    bed.kernel(|kernel| rules.iter().try_for_each(|rule| kernel.add_rule(rule)))
}

fn from(prefix: &str, priority: u32, table: u32) -> Result<Rule> {
    let net: ipnet::IpNet = prefix.parse()?;
    let family = Family::of(net.addr());
    let selectors = Selectors { from: Some(net), ..Selectors::default() };
    Ok(Rule { selectors, protocol: STATIC, ..Rule::lookup(family, priority, table) })
}

#[test]
fn foreign_rules_are_never_touched() -> Result<()> {
    let mut bed = bed!();
    let mut rules = vec![
        // At the policy's own priority, before and unlike its rule.
        from("192.168.8.77/32", 1000, 254)?,
        from("fd00:8::77/128", 1000, 254)?,
        from("192.168.9.0/24", 500, 112)?,
    ];
    rules.push(Rule { action: RuleAction::Prohibit, ..from("192.168.10.0/24", 1000, 0)? });
    // Twins that differ only in `not`, which the kernel's own comparison ignores.
    let mut inverted = from("192.168.8.0/24", 1000, 111)?;
    inverted.selectors.not = true;
    inverted.selectors.to = Some("198.18.0.0/15".parse()?);
    rules.push(inverted);
    add(&bed, &rules)?;
    let before = bed.snapshot()?;
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run(mode, POLICY)?;
        let during = bed.snapshot()?;
        let foreign: Vec<&Rule> =
            during.rules.iter().filter(|rule| rule.protocol != wayfork::model::OWN_PROTOCOL).collect();
        assert_eq!(foreign, before.rules.iter().collect::<Vec<_>>(), "{mode}");
        bed.expect("isp2")?;
        // The foreign rule at the same priority was there first, so it decides.
        for source in ["192.168.8.77", "fd00:8::77"] {
            let way = bed.flow(source, Proto::Udp, 9000, 20)?;
            ensure!(way.place == "isp1" && way.packets == 20, "{mode} {source}: {way:?}");
        }
        ensure!(daemon.stop()?.success());
        assert_eq!(bed.snapshot()?, before, "{mode}");
    }
    Ok(())
}

#[test]
fn a_policy_rule_that_another_owner_has_already_is_left_to_its_owner() -> Result<()> {
    let mut bed = bed!();
    add(&bed, &[from("192.168.8.0/24", 1000, 111)?, from("fd00:8::/64", 1000, 111)?])?;
    let before = bed.snapshot()?;
    let daemon = bed.run("ebpf", POLICY)?;
    let during = bed.snapshot()?;
    let at: Vec<&Rule> = during.rules.iter().filter(|rule| rule.priority == 1000).collect();
    assert_eq!(at.len(), 2, "{at:?}");
    ensure!(at.iter().all(|rule| rule.protocol == STATIC), "{at:?}");
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    assert_eq!(bed.snapshot()?, before);
    Ok(())
}

#[test]
fn rules_that_come_and_go_while_it_runs_are_followed() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    let rules = [from("192.168.8.10/32", 900, 254)?, from("fd00:8::10/128", 900, 254)?];
    for _ in 0..10 {
        add(&bed, &rules)?;
        bed.expect_soon("isp1")?;
        bed.kernel(|kernel| rules.iter().try_for_each(|rule| kernel.delete_rule(rule)))?;
        bed.expect_soon("isp2")?;
    }
    ensure!(daemon.stop()?.success());
    Ok(())
}
