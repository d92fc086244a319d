//! `cargo xtask lint`: formatting, clippy for the host and for BPF, and the architecture.

use std::{
    env,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{
    build, place, tidy,
    toolchain::{self, Toolchain},
};

type Check = fn() -> Result<()>;

/// `cargo xtask lint`: every check runs, so that one round shows all there is to mend.
pub fn command() -> Result<ExitCode> {
    let checks: [(&str, Check); 4] = [
        ("formatting", formatting),
        ("clippy", clippy_host),
        ("clippy of the eBPF program", clippy_ebpf),
        ("tidy", tidy::check),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        eprintln!("== {name}");
        if let Err(error) = check() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("lint: nothing to mend");
        return Ok(ExitCode::SUCCESS);
    }
    println!("lint: to mend: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn formatting() -> Result<()> {
    let mut cargo = Command::new(place::cargo());
    cargo.args(["fmt", "--all", "--check"]).current_dir(place::workspace());
    build::check(&mut cargo, "`cargo fmt --check`").context("`cargo fmt` mends this")
}

fn clippy_host() -> Result<()> {
    let mut cargo = build::cargo("clippy");
    cargo.args(["--workspace", "--all-targets", "--", "--deny", "warnings"]);
    build::check(&mut cargo, "clippy")
}

/// What the eBPF crate compiles only for BPF is seen only with the BPF target.
fn clippy_ebpf() -> Result<()> {
    let toolchain = toolchain::get()?;
    let mut cargo = if toolchain.compiler.has_clippy() {
        clippy_of(&toolchain)?
    } else {
        eprintln!("{} has no clippy: its own warnings are denied instead", toolchain.compiler.account(toolchain.way));
        toolchain.cargo("check", &["-Dwarnings"])
    };
    cargo.args(["--package", "router-ebpf", "--target-dir"]).arg(place::target_dir().join("ebpf-lint"));
    if toolchain.compiler.has_clippy() {
        cargo.args(["--", "--deny", "warnings"]);
    }
    build::check(&mut cargo, "checking the eBPF program")
}

fn clippy_of(toolchain: &Toolchain) -> Result<Command> {
    let mut cargo = toolchain.cargo("clippy", &[]);
    // cargo looks for its clippy on the path; another compiler's would not read this one's metadata.
    let mut folders = vec![toolchain.compiler.bin()];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    cargo.env("PATH", env::join_paths(folders).context("the path to this compiler's clippy holds a colon")?);
    Ok(cargo)
}
