//! Commands of a user who is not root.

use crate::bed;
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use wayfork_tests::{Bed, POLICY};

/// Who is nobody on every host.
const NOBODY: u32 = 65534;

/// Runs `wayfork ARGS` as nobody, on the router; there is a network namespace called `blue`.
fn as_nobody(bed: &Bed, exe: &Path, args: &[&str]) -> Result<Output> {
    let work = || -> Result<Output> {
        // A /run of this thread's own: the host's names are neither seen nor touched.
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        std::fs::create_dir("/run/netns")?;
        std::fs::write("/run/netns/blue", "")?;
        mount(Some("/proc/thread-self/ns/net"), "/run/netns/blue", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let mut command = Command::new(exe);
        command.args(args).uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
        command.output().context("start wayfork")
    };
    bed.lab.netns("router")?.run(work)?
}

#[test]
fn what_only_root_is_told_is_refused_with_what_to_do() -> Result<()> {
    let bed = bed!();
    // Where the build is, nobody may not look.
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
    let exe = folder.path().join("wayfork");
    std::fs::copy(bed.exe(), &exe)?;
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, POLICY)?;
    let run = |args: &[&str]| as_nobody(&bed, &exe, args);
    let refused = |args: &[&str], said: &str| -> Result<()> {
        let output = run(args)?;
        ensure!(output.status.code() == Some(3), "{args:?}: {output:?}");
        let text = String::from_utf8_lossy(if args.contains(&"--json") { &output.stdout } else { &output.stderr });
        ensure!(text.matches(said).count() == 1, "{args:?}: not once {said:?}: {text}");
        ensure!(text.contains("sudo") && text.lines().count() == 1, "{args:?}: {text}");
        Ok(())
    };
    refused(&["-n", "blue", "status"], "CAP_SYS_ADMIN")?;
    refused(&["-n", "blue", "check", &policy.to_string_lossy()], "CAP_SYS_ADMIN")?;
    ensure!(run(&["-n", "no-such", "status"])?.status.code() == Some(2));
    ensure!(run(&["status"])?.status.code() == Some(1), "none is running");

    // Nothing may be called complete that nobody could see.
    let plan = run(&["plan"])?;
    let text = String::from_utf8_lossy(&plan.stdout);
    ensure!(plan.status.success() && text.contains("of what could be seen"), "{plan:?}");
    ensure!(text.contains("where the fast path would be attached") && text.contains("run as root"), "{text}");
    ensure!(run(&["plan", "--exit-code"])?.status.code() == Some(3), "whether there is a change is not known");
    let document: Value = serde_json::from_slice(&run(&["plan", "--json"])?.stdout)?;
    ensure!(document["unseen"].as_array().is_some_and(|unseen| !unseen.is_empty()), "{document}");
    let root: Value = serde_json::from_slice(&bed.wayfork(&["plan", "--json"])?.stdout)?;
    ensure!(root["unseen"] == serde_json::json!([]), "{root}");

    let daemon = bed.run("netlink", POLICY)?;
    let installed = bed.snapshot()?;
    for _ in 0..20 {
        refused(&["status"], "answers root alone")?;
        refused(&["status", "--json"], "answers root alone")?;
        refused(&["reload"], "answers root alone")?;
        refused(&["reload", &policy.to_string_lossy()], "answers root alone")?;
    }
    assert_eq!(bed.snapshot()?, installed);
    ensure!(daemon.stop()?.success());
    Ok(())
}
