//! The administrator's programs on the hosts of the bed.

use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::process::Output;
use wayfork::lab::needs::{self, Since};
use wayfork::lab::process;
use wayfork_tests::Bed;
use wayfork_tests::twins::Twins;

/// How programs say that the kernel lacks something. "Unknown device type" is ip's own word for EOPNOTSUPP; nft speaks of missing kernel
/// modules by ENOENT, and the kernel's own sentences about traffic control end as here.
const LACKING: [&str; 5] = [
    "Unknown device type",
    "not supported",
    "No such file or directory",
    "TC classifier not found",
    "Failed to load TC action module",
];

fn output(bed: &Bed, host: &str, line: &str) -> Result<Output> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((program, args)) = words.split_first() else { bail!("no command") };
    Ok(process::output(bed.lab.netns(host)?, Path::new(program), args)?)
}

/// Runs `PROGRAM ARGS`, separated by white space, on a host; what it prints.
pub fn tool(bed: &Bed, host: &str, line: &str) -> Result<String> {
    let output = output(bed, host, line)?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same for several lines of one program.
pub fn tools(bed: &Bed, host: &str, lines: &[&str]) -> Result<()> {
    lines.iter().try_for_each(|line| tool(bed, host, line).map(drop))
}

/// The same for what the kernel may lack: false where it says so.
pub fn made(bed: &Bed, host: &str, line: &str) -> Result<bool> {
    let output = output(bed, host, line)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(true);
    }
    ensure!(LACKING.iter().any(|word| said.contains(word)), "{line}: {said}");
    Ok(false)
}

/// Makes a device on both routers by `ip`; false where the kernel says that it has no such kind, and the test is left out at least in
/// part, which is said.
pub fn made_on_both(twins: &Twins, what: &str, command: &str) -> Result<bool> {
    match twins.ip(command) {
        Err(error) if LACKING.iter().any(|word| error.to_string().contains(word)) => {
            needs::left_out(what, Since::Configured(6, 1))?;
            Ok(false)
        }
        other => other.map(|()| true),
    }
}
