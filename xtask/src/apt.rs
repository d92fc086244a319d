//! Debian packages: what apt would take, got and unpacked into the cache, so that nothing is installed and no root is
//! needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    place::{Cache, Workshop},
    step,
    toolchain::{ask, entries, file_name},
};

/// What people can do about package lists that are missing or old.
pub const UPDATE: &str = "run `apt-get update` as root";

/// apt, with the machine's own sources or with others.
#[derive(Clone, Default)]
pub struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// With these options for every one of its programs.
    pub fn with(options: Vec<String>) -> Self {
        Self { options }
    }

    /// `PROGRAM ARGS`, where the program is one of apt's.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        // apt's answers are read by this program.
        command.args(&self.options).args(args).env("LC_ALL", "C");
        command
    }

    /// What installing `packages` would bring, as apt's NAME=VERSION, without what is on the system already; asks,
    /// changes nothing, needs no privilege.
    ///
    /// A package that is on the system and only newer in the archive is left out: the system's is used, since a second
    /// C library beside the system's would not run.
    pub fn simulate(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut apt = self.command("apt-get", &["install", "--simulate", "--yes", "--no-install-recommends"]);
        Ok(installed(&ask(apt.args(packages))?))
    }

    /// Downloads `packages` (NAME or NAME=VERSION) into `archives` in the workshop.
    pub fn download(
        &self,
        cache: &Cache,
        workshop: &Workshop,
        what: &str,
        packages: &[String],
    ) -> Result<Vec<PathBuf>> {
        let archives = workshop.path().join("archives");
        fs::create_dir_all(&archives).with_context(|| format!("cannot make {}", archives.display()))?;
        step::run(
            &format!("getting {what}"),
            self.command("apt-get", &["download"]).args(packages).current_dir(&archives),
            &cache.log("debian-download"),
            &format!("Where a package is not found any more, {UPDATE} and try again."),
        )?;
        Ok(entries(&archives))
    }
}

/// An error where apt or dpkg is missing.
pub fn check() -> Result<()> {
    if ask(Command::new("apt-get").arg("--version")).is_err() || ask(Command::new("dpkg").arg("--version")).is_err() {
        bail!("this is no Debian: apt-get and dpkg are missing");
    }
    Ok(())
}

/// Unpacks one package below `root`.
pub fn unpack(cache: &Cache, archive: &Path, root: &Path) -> Result<()> {
    step::run(
        &format!("unpacking {}", file_name(archive).split('_').next().unwrap_or("a package")),
        Command::new("dpkg").arg("-x").arg(archive).arg(root),
        &cache.log("debian-unpack"),
        "Is the disk of the cache full? WAYFORK_CACHE names another place.",
    )
}

/// Reads apt's `Inst NAME (VERSION …)` lines; `[OLD]` before the parenthesis is what is on the system.
fn installed(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.strip_prefix('(')?.split_whitespace().next()?;
            Some(format!("{name}={version}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::installed;

    #[test]
    fn what_is_on_the_system_is_not_fetched() {
        let simulation = "Reading package lists...\n\
            Inst libc6 [2.36-9] (2.36-10 Debian:12 [amd64])\n\
            Inst libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable-security [amd64])\n\
            Conf libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12 [amd64])\n";
        assert_eq!(installed(simulation), ["libllvm22=1:22.1.8-1~deb12u1"]);
    }
}
