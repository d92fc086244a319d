//! Rules and routes of other programs stay as they are, and decide along.

use crate::bed;
use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use wayfork::kernel::Kernel;
use wayfork::lab::process::Daemon;
use wayfork::lab::traffic::Proto;
use wayfork::model::{Family, Rule, RuleAction, Selectors};
use wayfork_tests::{Bed, POLICY, eventually, nft};

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

#[test]
fn no_packet_goes_astray_while_everything_around_it_changes() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    let router = bed.lab.netns("router")?.try_clone()?;
    let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let seen = std::thread::scope(|scope| {
        let churn = scope.spawn(|| router.run(|| churn(&stop, &rounds)));
        let mut seen = Ok(());
        while seen.is_ok() && rounds.load(Relaxed) < 15 && !churn.is_finished() {
            seen = Family::BOTH.into_iter().try_for_each(|family| {
                let way = bed.send(family, Proto::Udp, 100)?;
                let round = rounds.load(Relaxed);
                ensure!(way.place == "isp2" && way.packets == 100, "round {round}, {family}: {way:?}");
                Ok(())
            });
        }
        stop.store(true, Relaxed);
        churn.join().expect("no panic").and_then(|done| done)?;
        seen
    });
    seen?;
    // When it is quiet again, the fast path is back.
    bed.warm()?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// Rules, routes, addresses and links come and go that are about other packets.
fn churn(stop: &AtomicBool, rounds: &AtomicU32) -> wayfork::kernel::Result<()> {
    use wayfork::kernel::admin::{Admin, NewLink};
    let (mut kernel, mut admin) = (wayfork::kernel::Netlink::open()?, Admin::open()?);
    let other = Selectors { from: "10.50.0.0/16".parse().ok(), ..Selectors::default() };
    let rule = Rule { selectors: other, protocol: STATIC, ..Rule::lookup(Family::Ipv4, 950, 254) };
    let net: ipnet::IpNet = "10.60.0.1/24".parse().expect("a constant");
    while !stop.load(Relaxed) {
        kernel.add_rule(&rule)?;
        admin.veth(NewLink::named("t0"), NewLink::named("t1"))?;
        admin.up("t0")?;
        admin.up("t1")?;
        admin.add_address("t0", net)?;
        std::thread::sleep(std::time::Duration::from_millis(3));
        kernel.delete_rule(&rule)?;
        admin.delete_link("t0")?;
        std::thread::sleep(std::time::Duration::from_millis(10));
        rounds.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// More changes than the monitor's buffer holds: everything is the stack's while they last, and afterwards all is true again.
#[test]
fn a_storm_of_foreign_rules_ends_with_the_truth() -> Result<()> {
    const MANY: u32 = 50_000;
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    // The later the lower, so that the kernel finds the place of each at once. The last one decides.
    let mut rules: Vec<Rule> = (0..MANY).map(|n| from("10.99.0.0/16", 51_000 - n, 254)).collect::<Result<_>>()?;
    rules.push(from("192.168.8.10/32", 800, 254)?);
    let added = bed.kernel(|kernel| kernel.add_rules(&rules).into_iter().collect::<wayfork::kernel::Result<Vec<()>>>());
    ensure!(added?.len() == rules.len());
    // Nothing is decided by the old rules from the first announcement on.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let way = bed.send(Family::Ipv4, Proto::Udp, 20)?;
    ensure!(way.place == "isp1" && way.packets == 20, "{way:?}");
    let redirects = |bed: &mut Bed, place: &str| {
        let mut before = u64::MAX;
        eventually(std::time::Duration::from_secs(120), "redirects by the new rules", || {
            let way = bed.send(Family::Ipv4, Proto::Udp, 1)?;
            ensure!(way.place == place, "{way:?}");
            let now = bed.redirected()?;
            Ok(now > std::mem::replace(&mut before, now))
        })
    };
    redirects(&mut bed, "isp1")?;
    rules.reverse();
    bed.kernel(|kernel| kernel.delete_rules(&rules).into_iter().collect::<wayfork::kernel::Result<Vec<()>>>())?;
    std::thread::sleep(std::time::Duration::from_millis(50));
    redirects(&mut bed, "isp2")?;
    bed.warm()?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// A table of Wayfork's name that Wayfork did not make: it is seen as a firewall, and neither replaced nor removed.
#[test]
fn a_foreign_nftables_table_of_our_name_is_never_touched() -> Result<()> {
    let mut bed = bed!();
    let before = bed.snapshot()?;
    let chain = "chain forward { type filter hook forward priority 0; };";
    nft::load(&bed.lab, "router", &format!("table inet wayfork {{ {chain} }}"))?;
    let marked = format!("{POLICY}\n[[mark]]\niif = \"lan0\"\nset = \"0x20/0xff\"\n");
    let plan = bed.wayfork_with(&["plan", "-"], &marked)?;
    let text = String::from_utf8_lossy(&plan.stdout);
    ensure!(text.contains("the nftables table inet wayfork is another program's"), "{text}");
    for mode in ["netlink", "ebpf", "auto"] {
        let router = bed.lab.netns("router")?;
        let mut refused = Daemon::start(router, bed.exe(), &["-", "--mode", mode], Some(&marked))?;
        let status = refused.wait(Duration::from_secs(10))?;
        ensure!(status.and_then(|status| status.code()) == Some(3), "{mode}: {status:?}\n{}", refused.log());
        ensure!(refused.log().contains("nft delete table inet wayfork"), "{mode}: {}", refused.log());
        assert_eq!(bed.snapshot()?, before, "{mode}: something was installed");
        // Without marks it is not in the way.
        let daemon = bed.run(mode, POLICY)?;
        bed.expect("isp2")?;
        if mode != "netlink" {
            let lan = bed.interface("lan0")?;
            ensure!(lan["may"] != "redirect", "{mode}: its chain is not seen: {lan}");
            ensure!(lan["why"].as_str().is_some_and(|why| why.contains("wayfork/forward")), "{mode}: {lan}");
        }
        ensure!(!bed.wayfork_with(&["reload", "-"], &marked)?.status.success(), "{mode}: a reload took it");
        ensure!(daemon.stop()?.success());
        assert_eq!(bed.snapshot()?, before, "{mode}");
    }
    // It is still there, which is what its removal shows.
    nft::load(&bed.lab, "router", "delete table inet wayfork")?;
    let daemon = bed.run("netlink", &marked)?;
    ensure!(bed.snapshot()?.marks.is_some(), "the marks are not installed");
    ensure!(daemon.stop()?.success());
    assert_eq!(bed.snapshot()?, before);
    Ok(())
}
