//! Debian's rustc-web, which comes with a `core` for BPF: unpacked into the cache, so that nothing is installed and
//! no root is needed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::compiler::{Compiler, entries, file_name};
use crate::{
    apt::{self, Apt, UPDATE},
    place::{Cache, Workshop},
    privilege::is_root,
    step,
};

const COMPILER: &str = "rustc-web";
const CORE: &str = "libstd-rust-web-dev-bpf";
/// Where the compiler is when somebody installed the packages.
const INSTALLED: &str = "/usr/bin/rustc";

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
    apt::check()?;
    if let Ok(list) = simulate() {
        return Ok(list);
    }
    if !is_root() {
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

/// What apt would install for a compiler for BPF.
fn simulate() -> Result<Vec<String>> {
    let list = needed(Apt::default().simulate(&[COMPILER, CORE])?);
    for name in [COMPILER, CORE] {
        if !list.iter().any(|package| package.starts_with(&format!("{name}="))) {
            bail!("{name} is installed already, but there is no compiler for BPF at {INSTALLED}");
        }
    }
    Ok(list)
}

/// Headers and the host's C compiler are no part of what rustc needs to compile for BPF.
fn needed(packages: Vec<String>) -> Vec<String> {
    let of_rust = |name: &str| name.starts_with(COMPILER) || name.starts_with("libstd-rust-web");
    let runtime = |name: &str| name.starts_with("lib") && !name.ends_with("-dev") && !name.contains("gcc");
    let name = |package: &String| package.split('=').next().unwrap_or_default().to_owned();
    packages.into_iter().filter(|package| of_rust(&name(package)) || runtime(&name(package))).collect()
}

fn fetch(cache: &Cache, workshop: &Workshop, packages: &[String]) -> Result<()> {
    let root = workshop.path().join("root");
    fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for archive in Apt::default().download(cache, workshop, "Debian's compiler for BPF (about 120 MB)", packages)? {
        apt::unpack(cache, &archive, &root)?;
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
    fn takes_the_compiler_and_missing_libraries_and_no_headers() {
        let packages = [
            "gcc-12=12.2.0-14",
            "libc6-dev=2.36-10",
            "libllvm22=1:22.1.8-1",
            "libstd-rust-web-dev=1.96.0",
            "rustc-web=1.96.0",
        ];
        assert_eq!(
            needed(packages.map(str::to_owned).to_vec()),
            ["libllvm22=1:22.1.8-1", "libstd-rust-web-dev=1.96.0", "rustc-web=1.96.0"]
        );
    }
}
