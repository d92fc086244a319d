//! `wayfork run`: ready, alone in its namespace, gone without a trace, recovering after a kill.

use crate::bed;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::time::Duration;
use wayfork::kernel::Kernel;
use wayfork::lab::process::Daemon;
use wayfork_tests::{POLICY, eventually};

#[test]
fn ready_means_that_traffic_goes_by_the_policy_and_a_signal_leaves_nothing() -> Result<()> {
    let mut bed = bed!();
    bed.expect("isp1")?;
    let before = bed.snapshot()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for mode in ["netlink", "ebpf"] {
            let mut daemon = bed.run(mode, POLICY)?;
            bed.expect("isp2")?;
            ensure!(bed.snapshot()? != before, "{mode}: nothing was installed");
            daemon.signal(signal)?;
            let status = daemon.wait(Duration::from_secs(5))?;
            ensure!(status.is_some_and(|status| status.success()), "{mode}: {signal}: {status:?}\n{}", daemon.log());
            assert_eq!(bed.snapshot()?, before, "{mode}: {signal} left something");
            bed.expect("isp1")?;
        }
    }
    Ok(())
}

#[test]
fn a_second_run_is_refused_and_names_the_first() -> Result<()> {
    let mut bed = bed!();
    let first = bed.run("netlink", POLICY)?;
    let installed = bed.snapshot()?;
    let router = bed.lab.netns("router")?;
    let mut second = Daemon::start(router, bed.exe(), &["-", "--mode", "netlink"], Some(POLICY))?;
    let status = second.wait(Duration::from_secs(5))?;
    ensure!(status.is_some_and(|status| !status.success()), "{status:?}\n{}", second.log());
    let log = second.log();
    ensure!(log.contains(&first.pid().to_string()), "does not name process {}: {log}", first.pid());
    assert_eq!(bed.snapshot()?, installed, "the refused one changed something");
    bed.expect("isp2")?;
    ensure!(first.stop()?.success());
    Ok(())
}

#[test]
fn after_sigkill_the_next_run_puts_everything_right() -> Result<()> {
    let mut bed = bed!();
    let before = bed.snapshot()?;
    for mode in ["netlink", "ebpf"] {
        let mut daemon = bed.run(mode, POLICY)?;
        let installed = bed.snapshot()?;
        daemon.signal(Signal::SIGKILL)?;
        ensure!(daemon.wait(Duration::from_secs(5))?.is_some(), "survived SIGKILL");
        assert_eq!(bed.snapshot()?, installed, "{mode}: who took it away?");
        // What is left still decides, through the stack.
        bed.expect("isp2")?;
        // A policy that wants less than what was left.
        let next = bed.run(mode, "[tables]\nisp2 = 111\n")?;
        assert_eq!(bed.snapshot()?, before, "{mode}: leftovers stayed");
        bed.expect("isp1")?;
        ensure!(next.stop()?.success());
        assert_eq!(bed.snapshot()?, before);
    }
    Ok(())
}

/// Who supervises it starts it again at once: the killed one may still be ending, with the name of the control socket.
#[test]
fn a_run_right_after_sigkill_waits_for_the_killed_one_to_end() -> Result<()> {
    let bed = bed!();
    for round in 0..15 {
        let mode = ["netlink", "ebpf", "auto"][round % 3];
        let killed = bed.run(mode, POLICY)?;
        killed.signal(Signal::SIGKILL)?;
        let next = bed.run(mode, POLICY)?;
        ensure!(next.stop()?.success(), "round {round}, {mode}");
    }
    Ok(())
}

#[test]
fn a_run_that_is_killed_while_it_starts_is_recovered_too() -> Result<()> {
    let mut bed = bed!();
    let before = bed.snapshot()?;
    for delay in [1, 10, 30, 60, 100] {
        let router = bed.lab.netns("router")?;
        let mut daemon = Daemon::start(router, bed.exe(), &["-", "--mode", "ebpf"], Some(POLICY))?;
        std::thread::sleep(Duration::from_millis(delay));
        daemon.signal(Signal::SIGKILL)?;
        ensure!(daemon.wait(Duration::from_secs(5))?.is_some(), "survived SIGKILL");
        let daemon = bed.run("ebpf", POLICY)?;
        bed.expect("isp2")?;
        ensure!(daemon.stop()?.success());
        assert_eq!(bed.snapshot()?, before, "killed after {delay} ms");
    }
    Ok(())
}

#[test]
fn keep_leaves_the_mirror_and_the_next_run_takes_it_over() -> Result<()> {
    let mut bed = bed!();
    let before = bed.snapshot()?;
    let router = bed.lab.netns("router")?;
    let keeper = Daemon::ready(router, bed.exe(), &["-", "--mode", "netlink", "--keep"], Some(POLICY))?;
    let installed = bed.snapshot()?;
    ensure!(keeper.stop()?.success());
    assert_eq!(bed.snapshot()?, installed);
    bed.expect("isp2")?;
    let next = bed.run("netlink", POLICY)?;
    assert_eq!(bed.snapshot()?, installed, "a second run changes nothing");
    ensure!(next.stop()?.success());
    assert_eq!(bed.snapshot()?, before);
    Ok(())
}

#[test]
fn a_wrong_file_installs_nothing() -> Result<()> {
    let bed = bed!();
    let before = bed.snapshot()?;
    let wrong = POLICY.replace("priority = 1000", "priority = 1000\nprioritee = 5");
    let router = bed.lab.netns("router")?;
    let mut daemon = Daemon::start(router, bed.exe(), &["-"], Some(&wrong))?;
    let status = daemon.wait(Duration::from_secs(5))?;
    ensure!(status.and_then(|status| status.code()) == Some(2), "{status:?}\n{}", daemon.log());
    ensure!(daemon.log().contains("prioritee"), "{}", daemon.log());
    assert_eq!(bed.snapshot()?, before);
    Ok(())
}

#[test]
fn a_signal_breaks_off_a_long_installation_and_leaves_nothing() -> Result<()> {
    let bed = bed!();
    let before = bed.snapshot()?;
    // One priority, so that the kernel walks all that are there for each that is added.
    let list: Vec<String> =
        (0..30_000u32).map(|n| format!("\"10.{}.{}.{}\"", n >> 16, n >> 8 & 255, n & 255)).collect();
    let policy = format!("[[rule]]\npriority = 1000\nto = [{}]\naction = \"prohibit\"\n", list.join(", "));
    let router = bed.lab.netns("router")?;
    let mut daemon = Daemon::start(router, bed.exe(), &["-", "--mode", "netlink"], Some(&policy))?;
    eventually(Duration::from_secs(30), "the first rules", || Ok(bed.kernel(|kernel| kernel.rules())?.len() > 100))?;
    daemon.signal(Signal::SIGTERM)?;
    let status = daemon.wait(Duration::from_secs(60))?;
    ensure!(status.is_some_and(|status| status.success()), "{status:?}\n{}", daemon.log());
    ensure!(!daemon.log().contains("wayfork: ready"), "it was ready before the signal came: the list is too short");
    assert_eq!(bed.snapshot()?, before, "something stayed");
    Ok(())
}

/// What happens to the policy while nobody looks is in the log, once for each change.
#[test]
fn what_changes_is_logged_once() -> Result<()> {
    let bed = bed!();
    let policy = format!("{POLICY}\n[[rule]]\npriority = 1100\niif = \"lan0\"\ntable = \"isp2\"\n");
    let daemon = bed.run("netlink", &policy)?;
    let told = |wanted: &str, times: usize| -> Result<()> {
        eventually(Duration::from_secs(5), wanted, || Ok(daemon.log().matches(wanted).count() >= times))?;
        // More would come with the next ticks.
        std::thread::sleep(Duration::from_millis(1200));
        ensure!(daemon.log().matches(wanted).count() == times, "{wanted}: not {times}\n{}", daemon.log());
        Ok(())
    };
    told("installed: 6 rules added, 2 routes added", 1)?;
    bed.kernel(|kernel| {
        let own = kernel.rules()?.into_iter().find(|rule| rule.priority == 900).expect("the policy's");
        kernel.delete_rule(&own)
    })?;
    told("put right: 1 rule added", 1)?;
    bed.lab.inside("router", || wayfork::kernel::Admin::open()?.down("eth1"))?;
    told("waits: eth1 is down", 2)?;
    bed.lab.inside("router", || wayfork::kernel::Admin::open()?.delete_link("lan0"))?;
    told("interface lan0 is gone", 1)?;
    ensure!(daemon.log().matches("waits: eth1 is down").count() == 2, "told again: {}", daemon.log());
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_shadow_without_a_fast_path_is_warned_of() -> Result<()> {
    let bed = bed!();
    for (mode, times) in [("netlink", 1), ("ebpf", 0)] {
        let daemon = bed.run_with(&["--mode", mode, "--shadow", "1/1"])?;
        let log = daemon.log();
        ensure!(log.matches("nothing to check").count() == times, "{mode}: {log}");
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}
