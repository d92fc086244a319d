//! A bpf-linker that reads the bitcode of a given compiler.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    compiler::{Compiler, ask, file_name},
    proof,
};
use crate::{
    place::{self, Cache},
    step,
};

/// The version that is built, and the oldest that is taken from the path.
const VERSION: &str = "0.13.0";
/// The majors of LLVM that this version has a feature for.
const LLVM_MAJORS: [&str; 3] = ["21", "22", "23"];

/// One on the path, one built before, or one built now: the first that links this compiler's output.
pub fn get(cache: &Cache, compiler: &Compiler) -> Result<PathBuf> {
    let built = cache.join(format!("bpf-linker/{VERSION}-{}/bin/bpf-linker", compiler.label()));
    let ready = on_path().into_iter().chain(Some(built.clone()).filter(|path| path.is_file()));
    for linker in ready {
        match proof::run(cache, compiler, &linker) {
            Ok(()) => return Ok(linker),
            Err(error) => eprintln!("note: {} does not fit this compiler: {error:#}", linker.display()),
        }
    }
    install(cache, compiler, &built)?;
    proof::run(cache, compiler, &built)?;
    Ok(built)
}

fn on_path() -> Option<PathBuf> {
    let mut folders = env::split_paths(&env::var_os("PATH")?).collect::<Vec<_>>().into_iter();
    let path = folders.find_map(|folder| Some(folder.join("bpf-linker")).filter(|path| path.is_file()))?;
    let answer = ask(Command::new(&path).arg("--version")).ok()?;
    let version = answer.split_whitespace().last()?;
    (numbers(version) >= numbers(VERSION)).then_some(path)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Builds one against the libLLVM that the compiler itself uses, so that it reads all that the compiler writes.
fn install(cache: &Cache, compiler: &Compiler, built: &Path) -> Result<()> {
    let major = compiler.llvm_major();
    if !LLVM_MAJORS.contains(&major) {
        bail!("the compiler writes LLVM {major}, and bpf-linker {VERSION} knows {} only", LLVM_MAJORS.join(", "));
    }
    let libllvm = compiler.libllvm().ok_or_else(|| {
        anyhow!(
            "this compiler has no libLLVM of its own to build a bpf-linker against; install bpf-linker {VERSION} or \
             later for LLVM {major} on the path"
        )
    })?;
    let libllvm = fs::canonicalize(&libllvm).with_context(|| format!("cannot find {}", libllvm.display()))?;
    let folder = libllvm.parent().ok_or_else(|| anyhow!("{} is in no folder", libllvm.display()))?;

    let workshop = cache.workshop("bpf-linker")?;
    // The linker's build looks for a whole LLVM; these two links are all it uses of one.
    let prefix = workshop.path().join("llvm");
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("cannot make {}", lib.display()))?;
    for name in [file_name(&libllvm).as_str(), "libLLVM.so"] {
        symlink(&libllvm, lib.join(name)).with_context(|| format!("cannot link {name} into {}", lib.display()))?;
    }
    step::run(
        &format!("building bpf-linker {VERSION} for LLVM {} (about a minute, once)", compiler.llvm),
        Command::new(place::cargo())
            .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"])
            .args(["--features", &format!("llvm-{major}"), "--root"])
            .arg(workshop.path().join("root"))
            .current_dir(workshop.path())
            .env("LLVM_PREFIX", &prefix)
            .env("CARGO_TARGET_DIR", workshop.path().join("target"))
            .env("CARGO_ENCODED_RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", folder.display())),
        &cache.log("bpf-linker"),
        "It needs a C++ compiler's libstdc++ (Debian: g++) and cargo's registry. An own bpf-linker on the path is used too.",
    )?;
    let home = built.parent().and_then(Path::parent).ok_or_else(|| anyhow!("{} is no bin/ path", built.display()))?;
    workshop.deliver("root", home)
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("0.13.0") >= numbers("0.13.0"));
        assert!(numbers("0.9.15") < numbers("0.13.0"));
        assert!(numbers("1.0.0") > numbers("0.13.0"));
        assert!(numbers("unknown") < numbers("0.13.0"));
    }
}
