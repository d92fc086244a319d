//! `cargo xtask run`: builds, then becomes `wayfork`.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};

use crate::{build, privilege::is_root};

/// `cargo xtask run [-- ARGS]`. Returns only where `wayfork` could not be started, so its exit status and the signals
/// that end it reach the caller as they are.
pub fn command(args: &[OsString]) -> Result<ExitCode> {
    let args = if args.is_empty() { vec!["lab".into()] } else { args.to_vec() };
    let wayfork = build::binary(false)?;
    let mut command = starter(&wayfork, needs_privilege(&args));
    let error = command.args(&args).exec();
    if command.get_program() != wayfork {
        bail!("cannot start sudo ({error}); run this as root: {}", wayfork.display());
    }
    bail!("cannot start {}: {error}", wayfork.display());
}

/// Starts `wayfork`, through sudo where it needs root and this is not root.
pub fn starter(wayfork: &Path, privileged: bool) -> Command {
    if !privileged || is_root() {
        return Command::new(wayfork);
    }
    eprintln!("this needs root: starting it through sudo");
    let mut command = Command::new("sudo");
    command.arg("--").arg(wayfork);
    command
}

/// True for what touches the kernel. What only reads a file or prints help runs as the user.
fn needs_privilege(args: &[OsString]) -> bool {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    if words.iter().any(|word| matches!(word.as_ref(), "--help" | "-h" | "--version" | "-V")) {
        return false;
    }
    let mut verbs = words.iter().filter(|word| !word.starts_with('-'));
    match verbs.next().map(AsRef::as_ref) {
        Some("check" | "help") | None => false,
        Some("import") => verbs.next().is_none_or(|what| what != "wg-quick"),
        Some("lab" | "bench") => !words.iter().any(|word| word == "--list"),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(line: &str) -> bool {
        needs_privilege(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_touches_the_kernel_needs_privilege() {
        for line in
            ["lab", "bench --quick", "run policy.toml", "--json status", "import kernel", "-n blue explain 1.2.3.4"]
        {
            assert!(needs(line), "{line}");
        }
    }

    #[test]
    fn what_reads_a_file_or_prints_help_does_not() {
        for line in [
            "check policy.toml",
            "--json check -",
            "import wg-quick wg0.conf",
            "help run",
            "run --help",
            "-V",
            "lab --list",
            "bench --list",
        ] {
            assert!(!needs(line), "{line}");
        }
    }
}
