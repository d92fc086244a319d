//! `wayfork lab` itself.

use crate::EXE;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;
use wayfork_tests::Bed;

#[test]
fn every_flow_of_every_scenario_agrees() -> Result<()> {
    if Bed::new(EXE)?.is_none() {
        return Ok(());
    }
    let output = Command::new(EXE).args(["--json", "lab"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let total = lines.pop().with_context(|| format!("no output; {errors}"))?;
    for line in &lines {
        ensure!(line["agree"] == true, "{line}");
        ensure!(line["stack"]["packets"] == 20, "{line}");
        // In this lab nothing stands against the fast path, so what it may do it does.
        ensure!(line["fast_path"] == "stack only" || line["fast_path"]["action"] == "redirect", "{line}");
    }
    for scenario in ["dual-uplink", "tunnel-default", "mark-steering"] {
        for family in ["ipv4", "ipv6"] {
            let of = |line: &&Value| line["scenario"] == scenario && line["family"] == family;
            ensure!(lines.iter().filter(of).count() >= 6, "{scenario} {family}: {text}");
        }
    }
    ensure!(total["flows"] == lines.len() && total["agree"] == lines.len() && total["differ"] == 0, "{total}");
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(())
}

#[test]
fn the_list_and_a_wrong_name() -> Result<()> {
    let list = Command::new(EXE).args(["lab", "--list"]).output()?;
    let text = String::from_utf8(list.stdout)?;
    ensure!(list.status.success() && text.lines().count() == 3 && text.contains("tunnel-default"), "{text}");
    let wrong = Command::new(EXE).args(["lab", "--scenario", "nope"]).output()?;
    let text = String::from_utf8(wrong.stderr)?;
    ensure!(wrong.status.code() == Some(2) && text.contains("dual-uplink"), "{:?}: {text}", wrong.status);
    Ok(())
}

#[test]
fn without_privilege_it_says_what_to_do() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(EXE);
    command.arg("lab");
    if nix::unistd::geteuid().is_root() {
        // nobody; the binary must be where that user can run it.
        let copy =
            tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir()?;
        let exe = copy.path().join("wayfork");
        std::fs::copy(EXE, &exe)?;
        command = Command::new(&exe);
        command.arg("lab").uid(65534).gid(65534);
        let output = command.output()?;
        return check(&output);
    }
    check(&command.output()?)
}

fn check(output: &std::process::Output) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(3) && text.contains("root"), "{:?}: {text}", output.status);
    Ok(())
}

/// The processes of a group that still run.
fn group(leader: u32) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    // After the name in parentheses: state, parent, group.
    let of = |stat: &String| {
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        fields.first() != Some(&"Z") && fields.get(2) == Some(&leader.to_string().as_str())
    };
    all.filter_map(stat).filter(of).collect()
}

#[test]
fn interrupted_it_leaves_no_process_behind() -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    use std::os::unix::process::CommandExt;
    use std::time::Duration;
    if Bed::new(EXE)?.is_none() {
        return Ok(());
    }
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut lab =
            Command::new(EXE).args(["--json", "lab"]).process_group(0).stdout(std::process::Stdio::null()).spawn()?;
        let child = || group(lab.id()).len() > 1;
        wayfork_tests::eventually(Duration::from_secs(10), "the lab starts wayfork run", || Ok(child()))?;
        // To the leader alone, as a kill from elsewhere; at a terminal the whole group gets it.
        kill(nix::unistd::Pid::from_raw(lab.id() as i32), signal)?;
        let leader = lab.id();
        ensure!(!lab.wait()?.success());
        wayfork_tests::eventually(Duration::from_secs(5), "no process is left", || Ok(group(leader).is_empty()))?;
    }
    Ok(())
}
