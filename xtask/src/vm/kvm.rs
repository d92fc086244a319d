//! Whether the processor's own virtualisation works here. On some machines /dev/kvm is there, the guest's firmware runs,
//! and no kernel ever gets to its first program: only a guest that has ended by itself counts.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{guest, kernels::Kernel, qemu::Qemu};
use crate::place::{Cache, target_dir};

/// Where it works, a guest is at its end in about two seconds.
const LIMIT: Duration = Duration::from_secs(10);
const INIT: &str = "#!/bin/busybox sh\n/bin/busybox poweroff -f\n";

/// Uses it from now on where it works. The answer is kept until the machine boots anew.
pub fn take(qemu: &mut Qemu, cache: &Cache, kernel: &Kernel, busybox: &Path) -> Result<()> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(());
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let note = cache.join("vm/kvm");
    let known = fs::read_to_string(&note).unwrap_or_default();
    qemu.kvm = match known.strip_prefix(&boot).filter(|_| !boot.is_empty()) {
        Some(answer) => answer == "works",
        None => {
            let works = ends(qemu, kernel, busybox)?;
            fs::write(&note, boot + if works { "works" } else { "does not" })
                .with_context(|| format!("cannot write {}", note.display()))?;
            works
        }
    };
    Ok(())
}

fn ends(qemu: &mut Qemu, kernel: &Kernel, busybox: &Path) -> Result<bool> {
    let folder = target_dir().join("vm/kvm");
    guest::initrd(kernel, busybox, &folder, INIT)?;
    qemu.kvm = true;
    let mut command = guest::boot(qemu, kernel, &folder);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(Duration::from_millis(100));
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}
