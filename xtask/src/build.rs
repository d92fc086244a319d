//! `cargo xtask build`: the eBPF object, then the one binary with the object inside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    elf,
    place::{self, in_ci, target_dir, workspace},
    toolchain,
};

/// `cargo xtask build`.
pub fn command(debug: bool, ebpf_only: bool) -> Result<ExitCode> {
    let made = if ebpf_only { object()? } else { binary(debug)? };
    println!("{}", made.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds `wayfork` with the eBPF object inside, and says where it is.
pub fn binary(debug: bool) -> Result<PathBuf> {
    object()?;
    let mut cargo = cargo("build");
    cargo.args(["--package", "router-userspace", "--bin", "wayfork"]);
    if !debug {
        cargo.arg("--release");
    }
    check(&mut cargo, "building wayfork")?;
    Ok(target_dir().join(if debug { "debug/wayfork" } else { "release/wayfork" }))
}

/// The objects of the `router-ebpf` crate: the router's, and that of the benchmark.
const OBJECTS: [&str; 2] = ["router-ebpf", "bench-ebpf"];

/// Builds the eBPF objects and puts them where `router-userspace/build.rs` embeds them from. Returns the router's.
pub fn object() -> Result<PathBuf> {
    let toolchain = toolchain::get()?;
    let work = target_dir().join("ebpf-build");
    let mut cargo = toolchain.cargo("build", &[]);
    cargo.args(["--release", "--package", "router-ebpf", "--target-dir"]).arg(&work);
    lock_in_ci(&mut cargo);
    check(&mut cargo, "building the eBPF objects")?;
    for name in OBJECTS {
        deliver(name, &work)?;
    }
    Ok(place::ebpf_object(OBJECTS[0]))
}

/// Puts one object that was built in `work` in its place.
fn deliver(name: &str, work: &Path) -> Result<()> {
    let made = work.join(toolchain::TARGET).join("release").join(name);
    let bytes = fs::read(&made).with_context(|| format!("the eBPF build left no {}", made.display()))?;
    if let Some(fault) = elf::not_bpf_with_btf(&bytes) {
        bail!(
            "{} is no use as an eBPF object: {fault}. `cargo xtask toolchain` looks for another compiler.",
            made.display()
        );
    }
    let object = place::ebpf_object(name);
    // An object that is the same keeps its time stamp, so that nothing is built anew for it.
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let draft = work.join(format!("{name}.new"));
    fs::create_dir_all(target_dir().join("ebpf"))
        .and_then(|()| fs::write(&draft, bytes))
        .and_then(|()| fs::rename(&draft, &object))
        .with_context(|| format!("cannot write {}", object.display()))
}

/// `cargo SUBCOMMAND` for the host, in the workspace and its target folder.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(place::cargo());
    command.arg(subcommand).current_dir(workspace()).env("CARGO_TARGET_DIR", target_dir());
    lock_in_ci(&mut command);
    command
}

/// A developer may add a dependency and go on; what is checked in has to be complete.
fn lock_in_ci(cargo: &mut Command) {
    if in_ci() {
        cargo.arg("--locked");
    }
}

/// Runs a command whose output people read as it comes; an error where it fails.
pub fn check(command: &mut Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{what}: cannot start {program}"))?;
    if !status.success() {
        bail!("{what} failed; what is wrong stands above");
    }
    Ok(())
}
