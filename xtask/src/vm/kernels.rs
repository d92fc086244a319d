//! Debian's kernels, unpacked into the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use super::archive::Archive;
use crate::{
    place::Cache,
    step,
    toolchain::{entries, file_name},
};

/// After this long a kernel in the cache is looked for anew.
const FRESH: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// What a virtual machine without disks and screen has no use for; it is most of the size.
const LEFT_OUT: [&str; 13] = [
    "./usr/share",
    "./boot/System.map-*",
    "*/kernel/sound",
    "*/kernel/drivers/[!nv]*",
    "*/kernel/drivers/nv*",
    "*/kernel/drivers/vi[!r]*",
    "*/kernel/drivers/net/ethernet",
    "*/kernel/drivers/net/wireless",
    "*/kernel/drivers/net/wwan",
    "*/kernel/drivers/net/usb",
    "*/kernel/drivers/net/phy",
    "*/kernel/drivers/net/can",
    "*/kernel/fs/[!9fno]*",
];

/// One kernel, ready to boot.
pub struct Kernel {
    /// As `uname -r` gives it.
    pub release: String,
    /// The folder with `vmlinuz` and `lib/modules`.
    pub home: PathBuf,
}

impl Kernel {
    fn read(home: &Path) -> Option<Self> {
        let release = fs::read_to_string(home.join("release")).ok()?;
        Some(Self { release, home: home.to_owned() })
    }

    fn fresh(&self) -> bool {
        let made = fs::metadata(self.home.join("release")).and_then(|meta| meta.modified());
        made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < FRESH))
    }

    /// The folder of this kernel's modules.
    pub fn modules(&self) -> PathBuf {
        self.home.join("lib/modules").join(&self.release)
    }
}

/// The kernel whose version begins with `name`, or the newest where that is `newest`: from the cache, or got now from
/// what `archive` opens. An old one is better than none.
pub fn get(cache: &Cache, name: &str, busybox: &Path, archive: impl FnOnce() -> Result<Archive>) -> Result<Kernel> {
    let home = cache.join("vm/kernels").join(name);
    let known = Kernel::read(&home);
    if let Some(kernel) = known.as_ref().filter(|kernel| kernel.fresh()) {
        return Ok(Kernel { release: kernel.release.clone(), home });
    }
    let got = archive().and_then(|archive| fetch(cache, name, busybox, &archive, &home));
    match (got, known) {
        (Err(error), Some(kernel)) => {
            eprintln!("warning: {error:#}\nThe older {} of the cache is used.", kernel.release);
            Ok(kernel)
        }
        (got, _) => got,
    }
}

fn fetch(cache: &Cache, name: &str, busybox: &Path, archive: &Archive, home: &Path) -> Result<Kernel> {
    let packages = archive.kernel((name != "newest").then_some(name))?;
    let workshop = cache.workshop("kernel")?;
    let root = workshop.path().join("root");
    fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for package in archive.all.download(cache, &workshop, &format!("Linux {name} (about 100 MB)"), &packages)? {
        unpack(cache, name, &package, &root)?;
    }
    let (release, image, modules) =
        found(&root).ok_or_else(|| anyhow!("{} have no kernel in them", packages.join(", ")))?;

    let made = workshop.path().join("made");
    fs::create_dir_all(made.join("lib/modules"))
        .and_then(|()| fs::rename(&image, made.join("vmlinuz")))
        .and_then(|()| fs::rename(&modules, made.join("lib/modules").join(&release)))
        .and_then(|()| fs::write(made.join("release"), &release))
        .with_context(|| format!("cannot write to {}", made.display()))?;
    step::run(
        &format!("sorting the modules of {release}"),
        // busybox's insmod reads no xz.
        Command::new("sh")
            .args(["-c", "find lib/modules -name '*.ko.xz' -exec \"$0\" unxz {} + && \"$0\" depmod -b \"$PWD\" \"$1\""])
            .arg(busybox)
            .arg(&release)
            .current_dir(&made),
        &cache.log("vm-depmod"),
        "",
    )?;
    workshop.deliver("made", home)?;
    Kernel::read(home).ok_or_else(|| anyhow!("{} was not written", home.display()))
}

/// The release, the image and the folder of modules in what was unpacked. Debian has moved both since 6.1, the image
/// into the folder of modules.
fn found(root: &Path) -> Option<(String, PathBuf, PathBuf)> {
    let homes = [root.join("lib/modules"), root.join("usr/lib/modules")];
    let modules = homes.iter().flat_map(|home| entries(home)).find(|folder| folder.join("kernel").is_dir())?;
    let release = file_name(&modules);
    let images = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.is_file())?;
    Some((release, image, modules))
}

/// One package of a kernel.
fn unpack(cache: &Cache, name: &str, package: &Path, root: &Path) -> Result<()> {
    let excluded = LEFT_OUT.iter().map(|pattern| format!("--exclude={pattern}"));
    step::run(
        &format!("unpacking Linux {name}"),
        Command::new("bash")
            .args(["-o", "pipefail", "-c"])
            .arg("package=$1; shift; dpkg-deb --fsys-tarfile \"$package\" | tar -x \"$@\"")
            .arg("bash")
            .arg(package)
            .args(excluded)
            .current_dir(root),
        &cache.log("vm-unpack"),
        "Is the disk of the cache full? WAYFORK_CACHE names another place.",
    )
}
