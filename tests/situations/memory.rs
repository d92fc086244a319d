//! A policy that would not fit in memory is refused before anything is touched.

use crate::bed;
use anyhow::{Context as _, Result, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use wayfork::kernel::Kernel;
use wayfork_tests::{Bed, POLICY};

/// The address space that Wayfork gets: enough for [`POLICY`], too little for [`large`] once it is read, and for the others even
/// to be read.
const SPACE: &str = "--as=268435456";

/// 150,000 rules more.
fn large() -> String {
    let mut policy = format!("{POLICY}\n[[rule]]\npriority = 20000\ntable = 111\nfrom = [\n");
    for number in 0..150_000u32 {
        // Writing to a String does not fail.
        writeln!(policy, "\"10.{}.{}.{}/31\",", 100 + (number >> 15), number >> 7 & 255, number << 1 & 255)
            .unwrap_or_default();
    }
    policy + "]\n"
}

/// Few lines, from which 441,000 rules come.
fn product() -> String {
    let prefix = |first: u32, at: u32| format!("\"{first}.0.{}.{}/32\"", at >> 8, at & 255);
    let list = |first| (0..210).map(|at| prefix(first, at)).collect::<Vec<_>>().join(",");
    let rule = |priority| {
        format!("[[rule]]\npriority = {priority}\ntable = 111\nfrom = [{}]\nto = [{}]\n", list(100), list(101))
    };
    format!("{POLICY}\n{}", (20000..20010).map(rule).collect::<String>())
}

/// So many sections that the document alone is too much.
fn sections() -> String {
    let section = |at: u32| format!("[[rule]]\npriority = {at}\niif = \"eth1\"\ntable = 111\n");
    format!("{POLICY}\n{}", (40_000..140_000).map(section).collect::<String>())
}

fn prlimit(bed: &Bed, args: &[&str], input: &str) -> Result<Output> {
    // One that is taken would run for ever.
    let mut command = Command::new("timeout");
    command
        .args(["60", "prlimit", SPACE])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = bed.lab.netns("router")?.spawn(command)?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that has ended says why.
        pipe.write_all(input.as_bytes()).ok();
    }
    Ok(child.wait_with_output()?)
}

fn refused(output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    let says = |text: &str| said.contains(text);
    ensure!(output.status.code() == Some(3), "{}: {said}", output.status);
    ensure!(says("would not fit in memory") && says("RLIMIT_AS") && says("needs about") && says("MiB"), "{said}");
    Ok(())
}

#[test]
fn what_would_not_fit_is_refused_at_the_start_and_at_a_reload() -> Result<()> {
    let mut bed = bed!();
    let before = bed.kernel(|kernel| kernel.host())?;
    let exe = bed.exe().to_string_lossy().into_owned();
    let policies = [("once it is read", large()), ("with its rules", product()), ("with its sections", sections())];
    for (what, policy) in &policies {
        refused(&prlimit(&bed, &[&exe, "run", "-"], policy)?).with_context(|| format!("run: {what}"))?;
        let after = bed.kernel(|kernel| kernel.host())?;
        ensure!(before.rules == after.rules && before.routes == after.routes, "{what}: something was touched");
    }

    let daemon = bed.run("ebpf", POLICY)?;
    bed.expect_soon("isp2")?;
    let rules = bed.kernel(|kernel| kernel.rules())?;
    prlimit(&bed, &["--pid", &daemon.pid().to_string()], "")?;
    let generation = bed.status()?["generation"].clone();
    // The one with few lines costs whoever asks for it the most.
    for (what, policy) in [&policies[0], &policies[2]] {
        refused(&bed.wayfork_with(&["reload", "-"], policy)?).with_context(|| format!("reload: {what}"))?;
        ensure!(bed.kernel(|kernel| kernel.rules())? == rules, "{what}: something was touched");
        bed.expect("isp2")?;
    }
    ensure!(bed.status()?["generation"] == generation, "the fast path was not left alone");
    // One that fits is still taken.
    ensure!(bed.wayfork_with(&["reload", "-"], POLICY)?.status.success(), "{}", daemon.log());
    ensure!(daemon.stop()?.success());
    Ok(())
}
