//! What a guest starts with: the initial file system, and the job that it runs.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{kernels::Kernel, programs::Program, qemu::Qemu};

/// PID 1 of a guest that runs tests.
pub const INIT: &str = include_str!("init.sh");
/// What the guest needs before it has its root.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// Tests that say how long something takes, do a thing so often that an emulated processor is not done in time, or wait
/// for a coincidence that it is too slow for.
const SKIPPED: [&str; 8] = [
    "an_answer_takes_less_than_50_microseconds",
    "a_hundred_thousand_rules",
    "a_list_of_100_000_rules",
    "ten_thousand_rules",
    "generations_change_under_traffic",
    "rules_that_change_meanwhile_are_no_disagreement",
    "the_list_is_whole_while_others_change_it",
    "an_ipv6_route_is_not_there_once_its_time_is_over",
];
/// Between the output of one test program and the next.
pub const HEADING: &str = "wayfork-vm: ";

/// Which tests of a program to run.
pub struct Choice<'a> {
    /// The program.
    pub program: &'a Program,
    /// Parts of the names of tests; all where there are none.
    pub filters: Vec<String>,
}

impl Choice<'_> {
    /// What the program is told: which tests to run, and which not.
    pub fn args(&self) -> Vec<String> {
        let skips = SKIPPED.iter().flat_map(|name| ["--skip", name]);
        self.filters.iter().map(String::as_str).chain(skips).map(str::to_owned).collect()
    }
}

/// A machine that boots `kernel` with the `initrd` of `folder`, and writes its console there.
pub fn boot(qemu: &Qemu, kernel: &Kernel, folder: &Path) -> Command {
    let mut command = qemu.machine();
    command.arg("-kernel").arg(kernel.home.join("vmlinuz")).arg("-initrd").arg(folder.join("initrd"));
    // Pages that nobody has to see emptied, and grace periods that nobody waits for, are time alone.
    let arguments = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off init_on_alloc=0 rcupdate.rcu_expedited=1";
    command.args(["-append", arguments]);
    command.arg("-serial").arg(format!("file:{}", folder.join("console.log").display()));
    command
}

/// Writes `initrd` in `folder`, which is made anew; its PID 1 is the script `init`.
pub fn initrd(kernel: &Kernel, busybox: &Path, folder: &Path, init: &str) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let tree = folder.join("initrd.d");
    let (bin, modules) = (tree.join("bin"), tree.join("modules"));
    for made in [&bin, &modules] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    let mut order = String::new();
    for below in order_of(kernel)? {
        let name = below.rsplit('/').next().unwrap_or(&below).to_owned();
        copy(&kernel.modules().join(&below), &modules.join(&name))?;
        writeln!(order, "{name}")?;
    }
    fs::write(modules.join("order"), order)?;
    fs::write(modules.join("home"), kernel.home.join("lib/modules").display().to_string())?;
    copy(busybox, &bin.join("busybox"))?;
    fs::write(tree.join("init"), init)?;
    for program in [tree.join("init"), bin.join("busybox")] {
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    let status = Command::new("sh")
        .args(["-c", "find . | \"$0\" cpio -o -H newc >../initrd"])
        .arg(busybox)
        .current_dir(&tree)
        .stderr(Stdio::null())
        .status()
        .context("cannot start sh")?;
    if !status.success() {
        bail!("writing the guest's initial file system failed ({status})");
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// The modules to insert, dependencies first, as paths below the kernel's own folder of modules.
fn order_of(kernel: &Kernel) -> Result<Vec<String>> {
    let path = kernel.modules().join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(order(&text, &MODULES))
}

/// Reads `modules.dep`: each line a module, a colon, and all it depends on, the last first. What is not there is built
/// into the kernel.
fn order(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let of = |line: &&str| line.split(':').next().is_some_and(|path| path.ends_with(&format!("/{name}.ko")));
        let Some((path, needed)) = dependencies.lines().find(of).and_then(|line| line.split_once(':')) else {
            continue;
        };
        for module in needed.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == module) {
                order.push(module.to_owned());
            }
        }
    }
    order
}

/// The script that runs the tests, writes what they print to `output` beside it, and their exit status to `status`.
pub fn job(choices: &[Choice]) -> String {
    let mut script =
        "cd /run/wayfork-vm/job\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
        export HOME=/root RUST_BACKTRACE=1 NO_COLOR=1 WAYFORK_FULL_KERNEL=1 WAYFORK_PATIENCE=5\n\
        exec >output 2>&1 </dev/null\n\
        ip link set lo up\nuname -r\nstatus=0\n"
            .to_owned();
    for choice in choices {
        let name = &choice.program.name;
        let words: Vec<String> = choice.args().iter().map(|word| quote(word)).collect();
        script += &format!(
            "echo {}\ncd {} && {} --test-threads=4 {} || status=1\n",
            quote(&format!("{HEADING}{name}")),
            quote(&choice.program.home.display().to_string()),
            quote(&choice.program.path.display().to_string()),
            words.join(" "),
        );
    }
    // Nothing may come after the status: once it is there, the machine may be ended.
    script + "echo $status >/run/wayfork-vm/job/status\n/run/wayfork-vm/busybox poweroff -f\n"
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n\
            kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio.ko\n";
        assert_eq!(
            order(dependencies, &["overlay", "9pnet_virtio", "9p"]),
            [
                "kernel/drivers/virtio/virtio.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/net/9p/9pnet_virtio.ko",
                "kernel/fs/netfs/netfs.ko",
                "kernel/fs/9p/9p.ko"
            ]
        );
    }

    #[test]
    fn words_of_the_shell() {
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
