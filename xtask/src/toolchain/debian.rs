//! Debian's rustc-web, which comes with a `core` for BPF: unpacked into the cache, so that nothing is installed and
//! no root is needed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::compiler::{Compiler, ask, entries, file_name};
use crate::{
    place::{Cache, Workshop},
    step,
};

const COMPILER: &str = "rustc-web";
const CORE: &str = "libstd-rust-web-dev-bpf";
/// Where the compiler is when somebody installed the packages.
const INSTALLED: &str = "/usr/bin/rustc";
const UPDATE: &str = "run `apt-get update` as root";

/// The compiler as installed, as unpacked before, or as unpacked now.
pub fn get(cache: &Cache) -> Result<Compiler> {
    let home = cache.join("debian");
    for ready in [PathBuf::from(INSTALLED), home.join("rustc")] {
        if let Ok(compiler) = Compiler::probe(&ready)
            && !compiler.build_std
        {
            return Ok(compiler);
        }
    }
    let packages = packages(cache)?;
    let workshop = cache.workshop("debian")?;
    fetch(cache, &workshop, &packages)?;
    fs::write(workshop.path().join("root/rustc"), wrapper(&workshop.path().join("root"))?)
        .and_then(|()| fs::set_permissions(workshop.path().join("root/rustc"), fs::Permissions::from_mode(0o755)))
        .context("cannot write the compiler's wrapper")?;
    workshop.deliver("root", &home)?;
    let compiler = Compiler::probe(&home.join("rustc")).context("Debian's compiler does not run when unpacked")?;
    if compiler.build_std {
        bail!("Debian's {CORE} has no core that fits its {COMPILER}");
    }
    Ok(compiler)
}

/// The packages to unpack, each as apt's NAME=VERSION.
fn packages(cache: &Cache) -> Result<Vec<String>> {
    if ask(Command::new("apt-get").arg("--version")).is_err() || ask(Command::new("dpkg").arg("--version")).is_err() {
        bail!("this is no Debian: apt-get and dpkg are missing");
    }
    if let Ok(list) = simulate() {
        return Ok(list);
    }
    if ask(Command::new("id").arg("-u"))?.trim() != "0" {
        return simulate().context(format!("apt does not know {COMPILER} and {CORE}; {UPDATE} and try again"));
    }
    step::run(
        "updating apt's package lists",
        Command::new("apt-get").arg("update"),
        &cache.log("apt-update"),
        "Mend apt's sources, then try again.",
    )?;
    simulate().context(format!("apt's sources have no {COMPILER} and {CORE}; Debian 12's security updates do"))
}

/// What apt would install for a compiler for BPF; asks, changes nothing, needs no privilege.
fn simulate() -> Result<Vec<String>> {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--simulate", "--yes", "--no-install-recommends", COMPILER, CORE]).env("LC_ALL", "C");
    let list = needed(&ask(&mut apt)?);
    for name in [COMPILER, CORE] {
        if !list.iter().any(|package| package.starts_with(&format!("{name}="))) {
            bail!("{name} is installed already, but there is no compiler for BPF at {INSTALLED}");
        }
    }
    Ok(list)
}

/// Reads apt's `Inst NAME (VERSION …)` lines. A package that stands there with `[OLD]` is on the system and only
/// newer in the archive: the system's is used, since a second C library beside the system's would not run.
/// Headers and the host's C compiler are no part of what rustc needs to compile for BPF.
fn needed(simulation: &str) -> Vec<String> {
    let of_rust = |name: &str| name.starts_with(COMPILER) || name.starts_with("libstd-rust-web");
    let runtime = |name: &str| name.starts_with("lib") && !name.ends_with("-dev") && !name.contains("gcc");
    simulation
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.strip_prefix('(')?.split_whitespace().next()?;
            (of_rust(name) || runtime(name)).then(|| format!("{name}={version}"))
        })
        .collect()
}

fn fetch(cache: &Cache, workshop: &Workshop, packages: &[String]) -> Result<()> {
    let (archives, root) = (workshop.path().join("archives"), workshop.path().join("root"));
    for folder in [&archives, &root] {
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    step::run(
        "getting Debian's compiler for BPF (about 120 MB)",
        Command::new("apt-get").arg("download").args(packages).current_dir(&archives),
        &cache.log("debian-download"),
        &format!("Where a package is not found any more, {UPDATE} and try again."),
    )?;
    for archive in entries(&archives) {
        step::run(
            &format!("unpacking {}", file_name(&archive).split('_').next().unwrap_or("a package")),
            Command::new("dpkg").arg("-x").arg(&archive).arg(&root),
            &cache.log("debian-unpack"),
            "Is the disk of the cache full? WAYFORK_CACHE names another place.",
        )?;
    }
    Ok(())
}

/// A script beside the unpacked tree that starts its rustc with its own libraries.
fn wrapper(root: &Path) -> Result<String> {
    let lib = root.join("usr/lib");
    let holds_driver = |folder: &PathBuf| entries(folder).iter().any(|p| file_name(p).starts_with("librustc_driver"));
    let folder = std::iter::once(lib.clone())
        .chain(entries(&lib))
        .find(holds_driver)
        .ok_or_else(|| anyhow!("Debian's {COMPILER} came without librustc_driver"))?;
    let below = folder.strip_prefix(root).context("the library folder is inside the tree")?;
    Ok(format!(
        "#!/bin/sh\n\
         # Starts the rustc of the packages unpacked here with their libraries, not the system's.\n\
         here=$(dirname \"$(readlink -f \"$0\")\")\n\
         LD_LIBRARY_PATH=\"$here/{}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\n\
         export LD_LIBRARY_PATH\n\
         exec \"$here/usr/bin/rustc\" \"$@\"\n",
        below.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::needed;

    #[test]
    fn takes_the_compiler_and_missing_libraries_but_no_second_c_library() {
        let simulation = "Reading package lists...\n\
            Inst libc6 [2.36-9] (2.36-10 Debian:12 [amd64])\n\
            Inst gcc-12 (12.2.0-14 Debian:12 [amd64])\n\
            Inst libc6-dev (2.36-10 Debian:12 [amd64])\n\
            Inst libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable-security [amd64])\n\
            Inst libstd-rust-web-dev (1.96.0+dfsg1-1~deb12u2 Debian-Security:12 [amd64])\n\
            Inst rustc-web (1.96.0+dfsg1-1~deb12u2 Debian-Security:12 [amd64])\n\
            Conf rustc-web (1.96.0+dfsg1-1~deb12u2 Debian-Security:12 [amd64])\n";
        assert_eq!(
            needed(simulation),
            [
                "libllvm22=1:22.1.8-1~deb12u1",
                "libstd-rust-web-dev=1.96.0+dfsg1-1~deb12u2",
                "rustc-web=1.96.0+dfsg1-1~deb12u2"
            ]
        );
    }
}
