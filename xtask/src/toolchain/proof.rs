//! The proof that a compiler and a linker fit: a small program for BPF, with type information, built by both.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{Compiler, TARGET, bpf_cargo};
use crate::{elf, place::Cache, step};

const MANIFEST: &str = "[package]\nname = \"proof\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
    [profile.release]\ncodegen-units = 1\n\n[workspace]\n";
const PROGRAM: &str = include_str!("../../proof/main.rs");

/// Builds the program; an error where the two do not fit.
pub fn run(cache: &Cache, compiler: &Compiler, linker: &Path) -> Result<()> {
    let workshop = cache.workshop("proof")?;
    let source = workshop.path().join("src");
    fs::create_dir(&source)
        .and_then(|()| fs::write(workshop.path().join("Cargo.toml"), MANIFEST))
        .and_then(|()| fs::write(source.join("main.rs"), PROGRAM))
        .with_context(|| format!("cannot write to {}", workshop.path().display()))?;
    let target = workshop.path().join("target");
    step::run(
        "proving that compiler and linker fit",
        bpf_cargo(compiler, linker, "build", &[])
            .args(["--release", "--target-dir"])
            .arg(&target)
            .current_dir(workshop.path()),
        &cache.log("proof"),
        "This compiler and this linker cannot build for BPF together.",
    )?;
    let object = target.join(TARGET).join("release/proof");
    let bytes = fs::read(&object).with_context(|| format!("the linker left no {}", object.display()))?;
    match elf::not_bpf_with_btf(&bytes) {
        Some(fault) => bail!("{} made no BPF program: {fault}", linker.display()),
        None => Ok(()),
    }
}
