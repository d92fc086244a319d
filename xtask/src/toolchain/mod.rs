//! A compiler that builds for `bpfel-unknown-none` and a bpf-linker that reads its bitcode: found, or got.

mod compiler;
mod debian;
mod linker;
mod proof;
mod record;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;

pub use compiler::{Compiler, ask, entries, file_name};

use crate::place::{Cache, workspace};

/// The target that the eBPF program is compiled for.
pub const TARGET: &str = "bpfel-unknown-none";

/// Chooses a way for a build, where the first that works is not the one wanted.
const WAY_VARIABLE: &str = "WAYFORK_BPF_WAY";

/// Where a compiler for BPF can come from, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// The rustc in use, which builds `core` for BPF from the rust-src component
    Current,
    /// Debian's rustc-web, which has a `core` for BPF ready; unpacked into the cache, not installed
    Debian,
    /// A nightly with rust-src that rustup has already
    Nightly,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Debian => "debian",
            Self::Nightly => "nightly",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|way| way.name() == name)
    }
}

/// A compiler and a linker that have built a BPF program together.
pub struct Toolchain {
    /// Where the compiler came from.
    pub way: Way,
    /// The compiler.
    pub compiler: Compiler,
    /// The bpf-linker.
    pub linker: PathBuf,
}

impl Toolchain {
    /// `cargo SUBCOMMAND` in the workspace, set up to compile for BPF with these.
    pub fn cargo(&self, subcommand: &str, rustflags: &[&str]) -> Command {
        let mut command = bpf_cargo(&self.compiler, &self.linker, subcommand, rustflags);
        command.current_dir(workspace());
        command
    }
}

/// `cargo xtask toolchain`: looks anew, says what was found, and notes it down for the builds to come.
pub fn command(way: Option<Way>) -> Result<ExitCode> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    let wanted = wanted()?;
    let found = find(&cache, way.or(wanted))?;
    record::save(&cache, wanted, &found)?;
    println!("compiler  {}", found.compiler.account(found.way));
    println!("          {}", found.compiler.rustc.display());
    println!("linker    {}", found.linker.display());
    println!("proof     compiled and linked a BPF program with BTF");
    Ok(ExitCode::SUCCESS)
}

/// The toolchain that was found before, or the first that works now.
pub fn get() -> Result<Toolchain> {
    let cache = Cache::open()?;
    let wanted = wanted()?;
    if let Some(known) = record::load(&cache, wanted) {
        return Ok(known);
    }
    let _lock = cache.lock()?;
    // Whoever held the lock may have found it meanwhile.
    if let Some(known) = record::load(&cache, wanted) {
        return Ok(known);
    }
    let found = find(&cache, wanted)?;
    record::save(&cache, wanted, &found)?;
    eprintln!("eBPF compiler: {}", found.compiler.account(found.way));
    Ok(found)
}

fn wanted() -> Result<Option<Way>> {
    let Some(value) = env::var_os(WAY_VARIABLE).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let name = value.to_string_lossy();
    let way = Way::from_name(&name).ok_or_else(|| {
        anyhow!("{WAY_VARIABLE}={name} is no way to a compiler; set it to current, debian or nightly")
    })?;
    Ok(Some(way))
}

/// Tries each way, or the one wanted, until a program has been built. Needs the cache's lock.
fn find(cache: &Cache, wanted: Option<Way>) -> Result<Toolchain> {
    let ways: Vec<Way> = Way::value_variants().iter().copied().filter(|way| wanted.is_none_or(|w| w == *way)).collect();
    let mut reasons = Vec::new();
    for way in ways {
        match try_way(cache, way) {
            Ok(found) => {
                for reason in &reasons {
                    eprintln!("note: {reason}");
                }
                return Ok(found);
            }
            Err(error) => reasons.push(format!("{}: {error:#}", way.name())),
        }
    }
    bail!(
        "no way to compile for BPF on this machine.\n  {}\nThe shortest remedy is `rustup component add rust-src`; on Debian 12 \
         it is apt's package lists, by `apt-get update` as root. Then run `cargo xtask toolchain`.",
        reasons.join("\n  ")
    )
}

fn try_way(cache: &Cache, way: Way) -> Result<Toolchain> {
    let compiler = match way {
        Way::Current => compiler::current(cache)?,
        Way::Debian => debian::get(cache)?,
        Way::Nightly => compiler::nightly()?,
    };
    let linker = linker::get(cache, &compiler)?;
    Ok(Toolchain { way, compiler, linker })
}

/// `cargo SUBCOMMAND` for the BPF target, whatever the user has set for other targets.
fn bpf_cargo(compiler: &Compiler, linker: &Path, subcommand: &str, rustflags: &[&str]) -> Command {
    let mut flags = vec!["-Cdebuginfo=2", "-Clink-arg=--btf"];
    flags.extend(rustflags);
    let mut command = Command::new(&compiler.cargo);
    command
        .args([subcommand, "--target", TARGET])
        .env("RUSTC", &compiler.rustc)
        // aya and `-Z build-std` ask for what a stable compiler has but does not offer.
        .env("RUSTC_BOOTSTRAP", "1")
        // The encoded form beats RUSTFLAGS and every configuration file, and takes paths with spaces.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        // A compiler cache keyed to the host's rustc would run the wrong one.
        .env("RUSTC_WRAPPER", "");
    if compiler.build_std {
        command.arg("-Zbuild-std=core");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ways_lead_back_to_them() {
        for way in Way::value_variants() {
            assert_eq!(Way::from_name(way.name()), Some(*way));
        }
        assert_eq!(Way::from_name("other"), None);
    }
}
