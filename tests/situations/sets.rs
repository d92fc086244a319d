//! Sets of addresses: a rule for a set sends packets where the stack sends them by a rule for each prefix.

use crate::{bed, twins};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::fmt::Write;
use std::fs;
use std::time::Duration;
use wayfork::lab::process::Daemon;
use wayfork_tests::twins::{Arrival, Twins, devices, of_stack};
use wayfork_tests::{eventually, nft};

/// What the set file and the rules of the stack alone say: prefixes, of which some touch and some hold others.
const PREFIXES: [&str; 7] =
    ["10.1.0.0/28", "10.1.0.128/25", "10.1.0.200/32", "10.1.0.16/30", "10.9.0.0/16", "fd01::/124", "fd01::100/120"];

/// Sources inside, at the edges and outside, each as it comes in by n1.
fn arrivals() -> Result<Vec<Arrival>> {
    let mut all = Vec::new();
    for last in [0, 1, 7, 15, 16, 19, 20, 127, 128, 200, 255] {
        let from = format!("10.1.0.{last}");
        all.push(Arrival::udp(&format!("v4-{last}"), "n1", &from, Twins::FAR[0])?);
    }
    for last in ["1", "f", "10", "ff", "100", "1ff", "200"] {
        all.push(Arrival::udp(&format!("v6-{last}"), "n1", &format!("fd01::{last}"), Twins::FAR[1])?);
    }
    all.push(Arrival::udp("elsewhere", "n1", "10.9.200.1", Twins::FAR[0])?);
    // A mark of somebody's, whatever its bits are: it makes nobody a member, and keeps nobody out.
    for (name, from) in [("in", "10.1.0.3"), ("out", "10.1.0.40")] {
        for mark in [1, 0x8000_0000, u32::MAX] {
            all.push(Arrival::udp(&format!("{name}-{mark:x}"), "n1", from, Twins::FAR[0])?.marked(mark));
        }
    }
    Ok(all)
}

/// Compares, and says how many left by n3.
fn compare(twins: &Twins) -> Result<usize> {
    let arrivals = arrivals()?;
    let all = twins.compare(&arrivals)?;
    Ok(of_stack(&all, &arrivals).into_iter().filter(|seen| devices(seen) == ["n3"]).count())
}

/// With the mirror alone, and with the fast path before it.
const MODES: [&str; 2] = ["netlink", "ebpf"];

/// A rule for each prefix.
fn install_prefixes(twins: &Twins, words: &str) -> Result<()> {
    for prefix in PREFIXES {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        twins.alone.ip(&format!("{family} rule add priority 100 from {prefix} {words} table 103"))?;
    }
    Ok(())
}

/// A set of them on the other.
fn install(twins: &Twins, mode: &str, rule: &str) -> Result<Daemon> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("members.txt"), PREFIXES.join("\n"))?;
    let file = folder.path().join("members.txt");
    let sets = format!("[sets]\nmembers = {{ file = {:?} }}\n", file.display().to_string());
    twins.run(mode, &format!("{sets}{rule}"))
}

#[test]
fn a_set_sends_its_members_where_a_rule_each_does() -> Result<()> {
    let twins = twins!();
    let rule = "[[rule]]\npriority = 100\nfrom = \"@members\"\ntable = 103\n";
    install_prefixes(&twins, "")?;
    for mode in MODES {
        let daemon = install(&twins, mode, rule)?;
        let by_n3 = compare(&twins)?;
        // Ten of IPv4 by their addresses, four of IPv6, and three with marks.
        ensure!(by_n3 >= 12, "mode {mode}: only {by_n3} packets were in the set");
        ensure!(daemon.stop()?.success());
    }
    let left = twins.with.kernel(wayfork::kernel::Kernel::mark_chain)?;
    ensure!(left.is_none(), "the table is left behind");
    Ok(())
}

#[test]
fn other_selectors_hold_beside_a_set() -> Result<()> {
    let twins = twins!();
    let rule = "[[rule]]\npriority = 100\nfrom = \"@members\"\nfwmark = \"1/1\"\niif = \"n1\"\ntable = 103\n";
    install_prefixes(&twins, "fwmark 1/1 iif n1")?;
    for mode in MODES {
        let daemon = install(&twins, mode, rule)?;
        let by_n3 = compare(&twins)?;
        ensure!(by_n3 == 2, "mode {mode}: {by_n3} packets carry the mark and are in the set");
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

/// `not`, and a list of a set and a prefix: what is none of them.
#[test]
fn not_of_a_set_is_everybody_else() -> Result<()> {
    let twins = twins!();
    let set = "10.1.0.0/28";
    twins.alone.ip(&format!(
        "-4 rule add priority 100 from {set} goto 101
         -4 rule add priority 100 from 10.1.0.128/25 goto 101
         -4 rule add priority 100 table 103
         -4 rule add priority 101 nop"
    ))?;
    let policy = format!(
        "[sets]\nfew = [\"{set}\"]\n[[rule]]\npriority = 100\nnot = true\nfrom = [\"@few\", \"10.1.0.128/25\"]\ntable = 103\n"
    );
    for mode in MODES {
        let daemon = twins.run(mode, &policy)?;
        let by_n3 = compare(&twins)?;
        ensure!(by_n3 > 4, "mode {mode}: {by_n3}");
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

/// Destination NAT comes first on both ways: a rule of the RPDB sees the address that it leaves.
#[test]
fn a_set_of_destinations_holds_what_nat_makes_of_them() -> Result<()> {
    let twins = twins!();
    let script = "table ip shift {
        chain pre {
            type nat hook prerouting priority dstnat;
            ip saddr 10.1.0.7 dnat to 10.77.0.1
        }
    }";
    twins.each(|rig| nft::load(&rig.lab, wayfork_tests::rig::Rig::HOST, script))?;
    twins.alone.ip("-4 rule add priority 100 to 10.77.0.0/16 table 103")?;
    let policy = "[sets]\nshifted = [\"10.77.0.0/16\"]\n[[rule]]\npriority = 100\nto = \"@shifted\"\ntable = 103\n";
    let daemon = twins.run("netlink", policy)?;
    let arrivals = [
        Arrival::udp("shifted", "n1", "10.1.0.7", Twins::FAR[0])?,
        Arrival::udp("plain", "n1", "10.1.0.8", Twins::FAR[0])?,
    ];
    let all = twins.compare(&arrivals)?;
    assert_eq!(of_stack(&all, &arrivals).into_iter().map(devices).collect::<Vec<_>>(), [["n3"], ["n2"]]);
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// The set's file is read again, and a wrong line keeps the old one.
#[test]
fn a_changed_file_of_a_set_is_taken_at_sighup() -> Result<()> {
    let bed = bed!();
    let folder = tempfile::tempdir()?;
    let members = folder.path().join("members.txt");
    let path = folder.path().join("policy.toml");
    let mut text = String::new();
    for number in 0..100_000_u32 {
        let start = std::net::Ipv4Addr::from(0x0a00_0000 + number * 512);
        writeln!(text, "{start}/24")?;
    }
    fs::write(&members, &text)?;
    fs::write(
        &path,
        "[sets]\nmembers = { file = \"members.txt\" }\n[[rule]]\npriority = 100\nfrom = \"@members\"\ntable = 103\n",
    )?;
    let daemon = bed.run_with(&[&path.to_string_lossy(), "--mode", "netlink"])?;
    let digest = || bed.kernel(wayfork::kernel::Kernel::mark_chain);
    let first = digest()?;
    ensure!(first.is_some_and(|digest| digest != 0), "{first:?}");
    text += "192.0.2.1\n";
    fs::write(&members, &text)?;
    daemon.signal(Signal::SIGHUP)?;
    eventually(Duration::from_secs(30), "the new member is in force", || Ok(digest()? != first))?;
    let second = digest()?;
    fs::write(&members, text + "nonsense\n")?;
    let output = bed.wayfork(&["reload", &path.to_string_lossy()])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2) && said.contains("members.txt:100002:1"), "{said}");
    assert_eq!(digest()?, second);
    ensure!(daemon.stop()?.success());
    Ok(())
}
