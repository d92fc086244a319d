//! QEMU, found or got, and how a machine is started with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::archive::Archive;
use crate::{apt, place::Cache, toolchain::ask};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// QEMU 7.2 crashes guests of Linux 6.12 when it emulates the processor.
const OLDEST: u32 = 9;

/// The emulated processor. Instructions that copy or clear a whole block are emulated byte by byte: without these promises kernel and C
/// library do it by words (a sixth of all the time).
const EMULATED: &str = "max,-erms,-fsrm,-fsrs,-fzrm";

/// A QEMU that runs here.
pub struct Qemu {
    program: PathBuf,
    /// Where it was unpacked, if it is not installed.
    root: Option<PathBuf>,
    /// True where the processor's own virtualisation is to be used: by [`super::kvm`], where a guest has got to its end.
    pub kvm: bool,
}

/// The one on the path, the one unpacked before, or one unpacked now from what `archive` opens.
pub fn get(cache: &Cache, archive: impl FnOnce() -> Result<Archive>) -> Result<Qemu> {
    let home = cache.join("vm/qemu");
    let unpacked =
        |root: &Path| Qemu { program: root.join("usr/bin").join(PROGRAM), root: Some(root.into()), kvm: false };
    let on_path = Qemu { program: PROGRAM.into(), root: None, kvm: false };
    for ready in [on_path, unpacked(&home)] {
        if ready.version().is_ok_and(|version| version >= OLDEST) {
            return Ok(ready);
        }
    }
    let archive = archive()?;
    let packages = packages(&archive)?;
    let workshop = cache.workshop("qemu")?;
    let root = workshop.path().join("root");
    fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for package in archive.own.download(cache, &workshop, "QEMU (about 60 MB)", &packages)? {
        apt::unpack(cache, &package, &root)?;
    }
    let qemu = unpacked(&root);
    let version =
        qemu.version().with_context(|| format!("Debian's QEMU does not run when unpacked: install {PACKAGE}"))?;
    if version < OLDEST {
        bail!("apt has QEMU {version}, and {OLDEST} is the oldest that runs these kernels: install a newer {PACKAGE}");
    }
    workshop.deliver("root", &home)?;
    Ok(unpacked(&home))
}

/// From backports where the release's own is too old, and what it needs beside the machine's libraries.
fn packages(archive: &Archive) -> Result<Vec<String>> {
    let newer = archive.own.simulate(&["-t", &archive.backports, PACKAGE]);
    let list = newer.or_else(|_| archive.own.simulate(&[PACKAGE]))?;
    let needed = |package: &String| {
        ["qemu-system", "seabios", "ipxe-qemu", "lib"].iter().any(|prefix| package.starts_with(prefix))
    };
    Ok(list.into_iter().filter(needed).collect())
}

impl Qemu {
    /// The major version.
    fn version(&self) -> Result<u32> {
        let answer = ask(self.command().arg("--version"))?;
        let major = answer.split_whitespace().skip_while(|word| *word != "version").nth(1);
        major.and_then(|version| version.split('.').next()?.parse().ok()).context("QEMU tells no version")
    }

    /// It ends with the thread that starts it, however that ends: `setpriv` asks the kernel for a signal (PR_SET_PDEATHSIG) and
    /// becomes QEMU.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
        if let Some(root) = &self.root {
            let folders: Vec<_> = ["usr/lib", "lib"]
                .iter()
                .flat_map(|lib| [root.join(lib), root.join(lib).join("x86_64-linux-gnu")])
                .map(|folder| folder.display().to_string())
                .collect();
            command.env("LD_LIBRARY_PATH", folders.join(":"));
            for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        command
    }

    /// A machine without disks and screen.
    pub fn machine(&self) -> Command {
        let mut command = self.command();
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35", "-m", "1024"]);
        // One processor: emulated, two are no faster, and two machines run side by side.
        command.args(["-smp", "1", "-cpu", if self.kvm { "host" } else { EMULATED }]);
        command.args(["-accel", if self.kvm { "kvm" } else { "tcg,thread=multi" }]);
        command
    }
}

/// busybox without libraries, for the time before the guest has its root.
pub fn busybox(cache: &Cache, archive: impl FnOnce() -> Result<Archive>) -> Result<PathBuf> {
    let home = cache.join("vm/busybox");
    if !home.is_file() {
        let workshop = cache.workshop("busybox")?;
        let root = workshop.path().join("root");
        for package in archive()?.own.download(cache, &workshop, "busybox", &["busybox-static".to_owned()])? {
            apt::unpack(cache, &package, &root)?;
        }
        // Debian has moved it from /bin to /usr/bin.
        let made = ["usr/bin/busybox", "bin/busybox"].into_iter().find(|path| root.join(path).is_file());
        let Some(made) = made else {
            bail!("Debian's busybox-static came without busybox");
        };
        workshop.deliver(Path::new("root").join(made), &home)?;
    }
    Ok(home)
}
