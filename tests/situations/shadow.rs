//! `run --shadow`: what is right agrees, whatever changes meanwhile, and what is wrong is found, told and taken off the fast path.

use crate::bed;
use anyhow::{Context, Result, ensure};
use router_common::layout::{ROUTE_UNICAST, RouteEntry};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use wayfork::kernel::{Kernel, Netlink};
use wayfork::lab::process::Daemon;
use wayfork::lab::traffic::Proto;
use wayfork::model::{Family, Route, Rule};
use wayfork_tests::maps::ForeignMap;
use wayfork_tests::{Bed, POLICY, eventually};

/// Starts a router that checks all that it decides.
fn run(bed: &Bed, mode: &str, policy: &str) -> Result<Daemon> {
    let args = ["-", "--mode", mode, "--shadow", "1/1"];
    Ok(Daemon::ready(bed.lab.netns("router")?, bed.exe(), &args, Some(policy))?)
}

fn shadow(bed: &Bed) -> Result<Value> {
    Ok(bed.status()?["shadow"].clone())
}

fn count(shadow: &Value, what: &str) -> Result<u64> {
    shadow[what].as_u64().with_context(|| format!("no {what} in {shadow}"))
}

/// Waits until every sample has been dealt with, and says what came out.
fn settled(bed: &Bed) -> Result<Value> {
    eventually(Duration::from_secs(20), "all samples are checked", || {
        let now = shadow(bed)?;
        let sum = count(&now, "checked")? + count(&now, "outdated")? + count(&now, "dropped")?;
        Ok(sum == count(&now, "sampled")? && count(&now, "checked")? > 0)
    })?;
    let now = shadow(bed)?;
    assert_eq!(count(&now, "checked")?, count(&now, "agreed")? + count(&now, "disagreed")?);
    Ok(now)
}

#[test]
fn all_that_is_decided_agrees_with_the_kernel() -> Result<()> {
    let mut bed = bed!();
    for (action, policy) in
        [("redirect", POLICY.to_owned()), ("mark", format!("[router]\nfast_path = \"mark\"\n{POLICY}"))]
    {
        let daemon = run(&bed, "auto", &policy)?;
        bed.expect_soon("isp2")?;
        // Two families, ICMP and UDP; TCP and the answers come on top. On a busy machine some are passed at first.
        eventually(Duration::from_secs(20), "enough is decided", || {
            bed.expect("isp2")?;
            Ok(bed.acted(action)? >= 80)
        })?;
        let now = settled(&bed)?;
        assert_eq!(now["rate"], "1/1");
        ensure!(count(&now, "disagreed")? == 0, "{action}: {now}\n{}", daemon.log());
        ensure!(count(&now, "agreed")? >= 80, "{action}: {now}");
        ensure!(bed.acted(action)? >= 80, "{action}: {}", bed.status()?);
        assert_eq!(now["fallback"], serde_json::json!([]));
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

#[test]
fn without_it_nothing_is_sampled_and_a_wrong_rate_is_refused() -> Result<()> {
    let bed = bed!();
    let daemon = bed.run("auto", POLICY)?;
    ensure!(bed.status()?["shadow"].is_null());
    ensure!(daemon.stop()?.success());
    let output = bed.wayfork(&["run", "--shadow", "often"])?;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("often") && said.contains("1/1000"), "{said}");
    Ok(())
}

#[test]
fn rules_that_change_meanwhile_are_no_disagreement() -> Result<()> {
    let mut bed = bed!();
    let daemon = run(&bed, "auto", POLICY)?;
    bed.warm()?;
    let router = bed.lab.netns("router")?.try_clone()?;
    let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| router.run(|| churn(&stop, &rounds)));
        let mut sent = Ok(());
        while sent.is_ok() && rounds.load(Relaxed) < 60 && !churn.is_finished() {
            sent = Family::BOTH.into_iter().try_for_each(|family| bed.send(family, Proto::Udp, 200).map(drop));
        }
        stop.store(true, Relaxed);
        churn.join().expect("no panic").and_then(|done| done)?;
        sent
    })?;
    bed.expect_soon("isp2")?;
    let now = settled(&bed)?;
    ensure!(count(&now, "disagreed")? == 0, "{now}\n{}", daemon.log());
    assert_eq!(now["fallback"], serde_json::json!([]));
    ensure!(count(&now, "agreed")? > 0 && count(&now, "outdated")? > 0, "{now}");
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// Sends the LAN by the other uplink and back, again and again.
fn churn(stop: &AtomicBool, rounds: &AtomicU32) -> wayfork::kernel::Result<()> {
    let mut kernel = Netlink::open()?;
    let rules = Family::BOTH.map(|family| Rule { protocol: 4, ..Rule::lookup(family, 800, 254) });
    while !stop.load(Relaxed) {
        rules.iter().try_for_each(|rule| kernel.add_rule(rule))?;
        std::thread::sleep(Duration::from_millis(30));
        rules.iter().try_for_each(|rule| kernel.delete_rule(rule))?;
        std::thread::sleep(Duration::from_millis(30));
        rounds.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Turns the routes by the LAN's uplink in the maps towards the other one, and tells how many. The next state of the maps has them
/// right again.
fn corrupt(bed: &Bed, daemon: &Daemon) -> Result<usize> {
    let index = |name: &str| -> Result<u32> {
        let index = bed.interface(name)?["ifindex"].as_u64().context("an index")?;
        Ok(u32::try_from(index)?)
    };
    let (eth0, eth1) = (index("eth0")?, index("eth1")?);
    let routes = ForeignMap::of(daemon.pid(), "ROUTES")?;
    let by_gateway = |route: &RouteEntry, dev| route.kind == ROUTE_UNICAST && route.oif == dev && route.via_family != 0;
    let mut others = Vec::new();
    routes.change_array(nothing(), |route| {
        others.extend(Some(*route).filter(|route| by_gateway(route, eth0)));
        false
    })?;
    let mut turned = 0;
    routes.change_array(nothing(), |route| {
        let other = others.iter().find(|other| by_gateway(route, eth1) && other.via_family == route.via_family);
        if let Some(other) = other {
            turned += 1;
            *route = RouteEntry { prefix_len: route.prefix_len, ..*other };
        }
        other.is_some()
    })?;
    Ok(turned)
}

fn nothing() -> RouteEntry {
    RouteEntry {
        kind: 0,
        prefix_len: 0,
        via_family: 0,
        reason: 0,
        oif: 0,
        egress: 0,
        gateway: 0,
        group: 0,
        mtu: 0,
        expires: 0,
        via: [0; 4],
        certain: 0,
    }
}

/// The neighbours of both uplinks are known to the fast path.
fn warm_both(bed: &mut Bed) -> Result<()> {
    bed.warm()?;
    // Until a rule is there the LAN's packets go by eth0.
    let rules = Family::BOTH.map(|family| Rule { protocol: 4, ..Rule::lookup(family, 800, 254) });
    bed.kernel(|kernel| rules.iter().try_for_each(|rule| kernel.add_rule(rule)))?;
    bed.warm()?;
    bed.kernel(|kernel| rules.iter().try_for_each(|rule| kernel.delete_rule(rule)))?;
    bed.expect_soon("isp2")?;
    bed.warm()
}

/// Sends, by routes that are wrong, until so many rules have fallen back. (A sample that another rule's fall overtakes is out of date,
/// and with that fall the maps are written anew.)
fn fall_back(bed: &mut Bed, daemon: &Daemon, rules: usize) -> Result<()> {
    let mut turned = 0;
    eventually(Duration::from_secs(10), "the rules fall back", || {
        turned += corrupt(bed, daemon)?;
        for family in Family::BOTH {
            bed.send(family, Proto::Udp, 1)?;
        }
        Ok(shadow(bed)?["fallback"].as_array().is_some_and(|fallen| fallen.len() == rules))
    })?;
    ensure!(turned >= 2, "{turned} routes were turned round");
    Ok(())
}

#[test]
fn a_wrong_decision_is_found_told_and_in_mode_auto_left_to_the_stack() -> Result<()> {
    let mut bed = bed!();
    let daemon = run(&bed, "auto", POLICY)?;
    warm_both(&mut bed)?;
    let before = settled(&bed)?;
    ensure!(count(&before, "disagreed")? == 0, "{before}\n{}", daemon.log());
    // The packets that show it go astray; after that all go right.
    fall_back(&mut bed, &daemon, 2)?;
    bed.expect("isp2")?;
    let now = settled(&bed)?;
    let disagreed = count(&now, "disagreed")?;
    ensure!(disagreed >= 2, "{now}");
    let status = bed.status()?;
    let passed = |status: &Value| status["pass_reasons"]["shadow-disagreed"].as_u64().unwrap_or(0);
    ensure!(passed(&status) >= 80, "{status}");
    // The fallen rules are those of the file that look the LAN's table up, and `status` says why.
    for rule in now["fallback"].as_array().context("a list")? {
        let why = rule["why"].as_str().context("a reason")?;
        ensure!(why.contains("eth0") && why.contains("eth1"), "{why}");
        let known = status["rules"].as_array().context("a list")?;
        ensure!(known.iter().any(|known| known["rule_id"] == rule["rule_id"] && known["priority"] == 1000), "{rule}");
    }
    // The explanation has every rule tried.
    let log = daemon.log();
    for said in
        ["otherwise than the kernel", "rules tried, in order", "own-networks", "suppressed", "left to the stack"]
    {
        ensure!(log.contains(said), "{said:?} is not in the log:\n{log}");
    }
    // Other rules still decide: the answers come in by eth1 and leave by table main.
    let redirected = bed.redirected()?;
    bed.expect("isp2")?;
    ensure!(bed.redirected()? > redirected, "everything is left to the stack: {}", bed.status()?);
    assert_eq!(count(&settled(&bed)?, "disagreed")?, disagreed, "nothing is wrong any more");

    // It lasts until the rules change. The map is still wrong, so it is found again.
    let other = Rule { protocol: 4, ..Rule::lookup(Family::Ipv4, 30_000, 254) };
    bed.kernel(|kernel| kernel.add_rule(&other))?;
    eventually(Duration::from_secs(5), "it is forgotten", || {
        Ok(shadow(&bed)?["fallback"].as_array().is_some_and(Vec::is_empty))
    })?;
    fall_back(&mut bed, &daemon, 2)?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_reload_forgives_and_a_refused_one_does_not() -> Result<()> {
    let mut bed = bed!();
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let daemon = run(&bed, "auto", POLICY)?;
    warm_both(&mut bed)?;
    fall_back(&mut bed, &daemon, 2)?;
    let fallen = || -> Result<usize> { Ok(shadow(&bed)?["fallback"].as_array().map_or(0, Vec::len)) };
    // Another program has the place of a route that this one wants.
    bed.kernel(|kernel| {
        let default = kernel.routes()?.into_iter().find(|route| route.dst.prefix_len() == 0 && route.table == 254);
        kernel.add_route(&Route { table: 112, ..default.expect("a default route") })
    })?;
    let taken = "\n[[route]]\ntable = 112\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.1\"\ndev = \"eth1\"\n";
    let output = bed.wayfork(&["reload", &file("refused.toml", &format!("{POLICY}{taken}"))?])?;
    ensure!(!output.status.success(), "it was taken");
    assert_eq!(fallen()?, 2);
    let output = bed.wayfork(&["reload", &file("equal.toml", POLICY)?])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fallen()?, 0);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn mode_ebpf_tells_and_counts_and_goes_on() -> Result<()> {
    let mut bed = bed!();
    let daemon = run(&bed, "ebpf", POLICY)?;
    warm_both(&mut bed)?;
    let turned = corrupt(&bed, &daemon)?;
    ensure!(turned >= 2, "{turned} routes were turned round");
    eventually(Duration::from_secs(5), "it is counted", || {
        bed.send(Family::Ipv4, Proto::Udp, 5)?;
        Ok(count(&shadow(&bed)?, "disagreed")? > 0)
    })?;
    let now = settled(&bed)?;
    assert_eq!(now["fallback"], serde_json::json!([]));
    ensure!(daemon.log().contains("otherwise than the kernel"), "{}", daemon.log());
    let way = bed.send(Family::Ipv4, Proto::Udp, 20)?;
    ensure!(way.place == "isp1" && way.packets == 20, "the map is wrong, and the mode holds on to it: {way:?}");
    ensure!(daemon.stop()?.success());
    Ok(())
}
