//! A new policy while the router runs: whole or not at all.

use crate::bed;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use wayfork::kernel::{Kernel, Netlink};
use wayfork_tests::{POLICY, eventually};

/// The LAN's second host goes by isp2, the rest by isp1.
fn second_host() -> String {
    POLICY.replace("192.168.8.0/24", "192.168.8.77").replace("fd00:8::/64", "fd00:8::77")
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

#[test]
fn sighup_takes_the_changed_file() -> Result<()> {
    let mut bed = bed!();
    for mode in ["netlink", "ebpf"] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("policy.toml");
        write(&path, POLICY)?;
        let daemon = bed.run_with(&[&path.to_string_lossy(), "--mode", mode])?;
        bed.expect("isp2")?;
        write(&path, &second_host())?;
        daemon.signal(Signal::SIGHUP)?;
        eventually(Duration::from_secs(5), "the new policy is in force", || {
            Ok(bed.send(wayfork::model::Family::Ipv4, wayfork::lab::traffic::Proto::Udp, 1)?.place == "isp1")
        })?;
        bed.expect("isp1")?;
        let way = bed.flow("192.168.8.77", wayfork::lab::traffic::Proto::Tcp, 9000, 20)?;
        ensure!(way.place == "isp2" && way.packets == 20, "{mode}: {way:?}");
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

#[test]
fn reload_takes_another_file_and_a_wrong_one_changes_nothing() -> Result<()> {
    let mut bed = bed!();
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let good = file("good.toml", &second_host())?;
    let wrong = file("wrong.toml", &POLICY.replace("via   = \"10.0.0.1\"", "via   = \"10.0.0.one\""))?;
    // Right by itself, but another program has the route's place already.
    bed.lab.inside("router", || {
        let mut kernel = Netlink::open()?;
        let default = kernel.routes()?.into_iter().find(|route| route.dst.prefix_len() == 0 && route.table == 254);
        let mut foreign = default.expect("a default route");
        foreign.table = 112;
        kernel.add_route(&foreign)
    })?;
    let taken = "\n[[route]]\ntable = 112\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.1\"\ndev = \"eth1\"\n";
    let refused = file("refused.toml", &format!("{}{taken}", second_host()))?;
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run(mode, POLICY)?;
        let installed = bed.snapshot()?;
        for bad in [&wrong, &refused] {
            let output = bed.wayfork(&["reload", bad])?;
            ensure!(!output.status.success(), "{mode}: {bad} was taken");
            ensure!(!output.stderr.is_empty(), "{mode}: {bad}: no reason given");
            assert_eq!(bed.snapshot()?, installed, "{mode}: {bad} changed something");
            bed.expect("isp2")?;
        }
        let output = bed.wayfork(&["reload", &good])?;
        ensure!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        bed.expect("isp1")?;
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

#[test]
fn a_file_that_became_wrong_keeps_the_old_policy_at_sighup() -> Result<()> {
    let mut bed = bed!();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.toml");
    write(&path, POLICY)?;
    let daemon = bed.run_with(&[&path.to_string_lossy(), "--mode", "ebpf"])?;
    let installed = bed.snapshot()?;
    write(&path, "[[rule]]\npriority = \"high\"\n")?;
    daemon.signal(Signal::SIGHUP)?;
    ensure!(
        daemon.wait_line(Duration::from_secs(5), |line| line.contains("policy.toml")),
        "says nothing: {}",
        daemon.log()
    );
    assert_eq!(bed.snapshot()?, installed);
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn no_packet_goes_astray_while_an_equal_policy_is_loaded() -> Result<()> {
    let mut bed = bed!();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.toml");
    write(&path, POLICY)?;
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run_with(&[&path.to_string_lossy(), "--mode", mode])?;
        bed.expect("isp2")?;
        for round in 0..20 {
            daemon.signal(Signal::SIGHUP)?;
            let way = bed.send(wayfork::model::Family::Ipv4, wayfork::lab::traffic::Proto::Udp, 200)?;
            ensure!(way.place == "isp2" && way.packets == 200, "{mode}, round {round}: {way:?}");
        }
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

/// What was read from standard input cannot be read again: the router's own standard input is somebody else's.
#[test]
fn after_a_reload_from_standard_input_there_is_no_file_to_read_again() -> Result<()> {
    let mut bed = bed!();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.toml");
    write(&path, POLICY)?;
    let daemon = bed.run_with(&[&path.to_string_lossy(), "--mode", "netlink"])?;
    ensure!(bed.status()?["file"] == path.to_string_lossy().as_ref(), "{}", bed.status()?);
    let output = bed.wayfork_with(&["reload", "-"], &second_host())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let installed = bed.snapshot()?;
    bed.expect("isp1")?;
    ensure!(bed.status()?["file"].is_null(), "{}", bed.status()?);
    daemon.signal(Signal::SIGHUP)?;
    let said = |line: &str| line.contains("no file to read again") && line.contains("the old policy stays");
    ensure!(daemon.wait_line(Duration::from_secs(5), said), "says nothing: {}", daemon.log());
    let output = bed.wayfork(&["reload"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("no file to read again"), "{output:?}");
    assert_eq!(bed.snapshot()?, installed, "another policy is in force");
    bed.expect("isp1")?;
    // A file can be named again, and is then the one.
    ensure!(bed.wayfork(&["reload", &path.to_string_lossy()])?.status.success());
    ensure!(bed.status()?["file"] == path.to_string_lossy().as_ref(), "{}", bed.status()?);
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// `at` says the file as the user named it, under `run`, after `reload FILE` and after SIGHUP alike.
#[test]
fn places_in_the_file_are_named_as_they_were_typed() -> Result<()> {
    let bed = bed!();
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("deeper"))?;
    let path = folder.path().join("policy.toml");
    write(&path, POLICY)?;
    let typed = folder.path().join("deeper/../policy.toml");
    let typed = typed.to_string_lossy();
    let daemon = bed.run_with(&[&typed, "--mode", "netlink"])?;
    let at = || -> Result<Vec<String>> {
        let status = bed.status()?;
        let rules = status["rules"].as_array().expect("rules").iter().filter_map(|rule| rule["at"].as_str());
        Ok(rules.map(|at| at.rsplit_once(':').map_or("", |(file, _)| file).to_owned()).collect())
    };
    let named = vec![typed.to_string(); 4];
    assert_eq!(at()?, named);
    ensure!(bed.wayfork(&["reload", &typed])?.status.success());
    assert_eq!(at()?, named);
    // The same by a path that means something else elsewhere, and read again.
    let mut relative = std::process::Command::new(bed.exe());
    relative.current_dir(folder.path()).args(["reload", "policy.toml"]);
    ensure!(bed.lab.netns("router")?.spawn(relative)?.wait()?.success());
    assert_eq!(at()?, ["policy.toml"; 4]);
    ensure!(bed.wayfork(&["reload"])?.status.success());
    assert_eq!(at()?, ["policy.toml"; 4]);
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// As many rules as make a reload take much longer than the switch at its end.
fn with_many_rules(policy: &str) -> String {
    let mut policy = format!("{policy}\n[[rule]]\npriority = 20000\ntable = 111\nfrom = [\n");
    for number in 0..4_000u32 {
        policy += &format!("\"100.64.{}.{}/32\",\n", number >> 8, number & 255);
    }
    policy + "]\n"
}

/// What was left to the stack because the fast path did not decide.
fn undecided(status: &serde_json::Value) -> u64 {
    let passed = |reason: &str| status["pass_reasons"][reason].as_u64().unwrap_or(0);
    passed("resync") + passed("lease-expired")
}

/// Old and new policy lead to different uplinks. No packet is lost, each goes by one of the two, and the fast path decides nearly all
/// of them: until the kernel has the new rules by the old ones, and then at once by the new ones.
#[test]
fn the_fast_path_goes_on_while_the_rules_change() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", &with_many_rules(POLICY))?;
    bed.warm()?;
    let mut shares = Vec::new();
    for (policy, place) in [(second_host(), "isp1"), (POLICY.to_owned(), "isp2"), (second_host(), "isp1")] {
        let before = bed.status()?;
        let policy = with_many_rules(&policy);
        let mut sent = 0;
        let reloaded = std::thread::scope(|scope| -> Result<_> {
            let (netns, exe) = (bed.lab.netns("router")?.try_clone()?, bed.exe().to_owned());
            let reload = scope.spawn(move || {
                let mut command = std::process::Command::new(exe);
                command.args(["reload", "-"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
                let mut child = netns.spawn(command)?;
                if let Some(mut pipe) = child.stdin.take() {
                    pipe.write_all(policy.as_bytes())?;
                }
                anyhow::Ok(child.wait_with_output()?)
            });
            while !reload.is_finished() {
                let way = bed.send(wayfork::model::Family::Ipv4, wayfork::lab::traffic::Proto::Udp, 50)?;
                ensure!(way.packets == 50 && way.place.starts_with("isp"), "{way:?}");
                sent += 50;
            }
            reload.join().map_err(|_| anyhow::anyhow!("the thread that reloads"))?
        })?;
        ensure!(reloaded.status.success(), "{reloaded:?}");
        let way = bed.send(wayfork::model::Family::Ipv4, wayfork::lab::traffic::Proto::Udp, 50)?;
        ensure!(way.place == place && way.packets == 50, "after the reload: {way:?}");
        let after = bed.status()?;
        // What else the kernel tells meanwhile (of a neighbour, say) suspends the fast path, and is no matter of the reload.
        if after["generation"].as_u64() == before["generation"].as_u64().map(|before| before + 1) {
            shares.push((undecided(&after) - undecided(&before), sent));
        }
    }
    ensure!(!shares.is_empty(), "each reload took several passes: {}", daemon.log());
    let fewest = shares.iter().map(|(undecided, sent)| (undecided * 100).checked_div(*sent).unwrap_or(100)).min();
    ensure!(fewest.is_some_and(|percent| percent < 30), "undecided of those sent meanwhile: {shares:?}");
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// What is refused before anything is touched leaves the fast path as it is: it does not even pause.
#[test]
fn a_refused_policy_leaves_the_fast_path_alone() -> Result<()> {
    let mut bed = bed!();
    let daemon = bed.run("ebpf", POLICY)?;
    bed.warm()?;
    let before = bed.status()?;
    // The place of the router's own default route.
    let taken =
        format!("{POLICY}\n[[route]]\nto = \"default\"\nvia = \"10.0.0.1\"\ndev = \"eth1\"\nfamily = \"ipv4\"\n");
    let output = bed.wayfork_with(&["reload", "-"], &taken)?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    bed.expect("isp2")?;
    let after = bed.status()?;
    ensure!(after["generation"] == before["generation"], "{} and {}", before["generation"], after["generation"]);
    ensure!(undecided(&after) == undecided(&before) && after["fast_path"] == "active", "{after}");
    ensure!(daemon.stop()?.success());
    Ok(())
}
