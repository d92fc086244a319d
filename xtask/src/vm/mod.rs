//! `cargo xtask vm-test`: the tests that ask a kernel, on Debian's kernels, each in a virtual machine whose root is this
//! machine's own file system, read only.

mod archive;
mod guest;
mod kernels;
mod kvm;
mod machine;
mod programs;
mod qemu;

use std::{
    cell::OnceCell,
    collections::{BTreeSet, VecDeque},
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use self::{archive::Archive, guest::Choice, kernels::Kernel, machine::Outcome, programs::Program, qemu::Qemu};
use crate::{
    place::{self, Cache, target_dir},
    privilege::is_root,
    step,
    test::Sum,
};

/// What is tested where nobody says: the oldest that is supported, the one that most have, and the newest.
pub const KERNELS: [&str; 3] = ["6.1", "6.12", "newest"];

/// The exit status where something cannot be had on this machine.
const CANNOT: u8 = 3;

/// What runs in one machine: programs, each with parts of the names of tests, all where there are none. It is what another
/// kernel may answer differently: the rest runs on one machine as well as on another, and emulated it takes ten times as long.
type Job = (&'static str, &'static [(&'static str, &'static [&'static str])]);
const JOBS: [Job; 2] = [
    (
        "packets",
        &[
            ("kernels", &[]),
            (
                "situations",
                &[
                    "chains::",
                    "firewall::",
                    "frames::odd_frames",
                    "interfaces::",
                    "lease::",
                    "modes::",
                    "neighbour::",
                    "no_file::",
                    "other_tc::",
                    "semantics::",
                    "tun::",
                ],
            ),
        ],
    ),
    (
        "decisions",
        &[
            ("fastpath", &[]),
            ("netfilter_program", &[]),
            ("wayfork", &["kernel::", "mirror::tests::real", "proof::differential", "proof::semantics", "scratch::"]),
        ],
    ),
];
/// How many machines run side by side: they wait a part of their time, so that three keep two processors busy.
const SIDE_BY_SIDE: usize = 3;

/// What the guests use of this machine, and what starts them; and the packages that have it.
const TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("wg", "wireguard-tools"), ("setpriv", "util-linux")];

/// `cargo xtask vm-test`.
pub fn command(names: &[String], filters: &[String]) -> Result<ExitCode> {
    let started = Instant::now();
    let (qemu, busybox, kernels, missing) = match prepare(names) {
        Ok(ready) => ready,
        Err(error) => {
            eprintln!("\nNO TEST ON OTHER KERNELS: {error:#}");
            return Ok(ExitCode::from(CANNOT));
        }
    };
    let programs = programs::build()?;
    eprintln!("ready after {:.0} s; {}", started.elapsed().as_secs_f32(), if qemu.kvm { "by KVM" } else { "emulated" });

    let home = target_dir().join("vm");
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    // The machines' folders are there once.
    let _lock = place::lock(&home)?;
    let booted = Instant::now();
    let jobs = jobs(&programs, filters)?;
    let outcomes = all(&qemu, &busybox, &kernels, &jobs)?;
    let failed = report(&kernels, &outcomes);
    println!("{:.0} s in machines, {:.0} s in all", booted.elapsed().as_secs_f32(), started.elapsed().as_secs_f32());
    for reason in &missing {
        println!("NOT TESTED: {reason}");
    }
    Ok(match (failed, missing.is_empty()) {
        (true, _) => ExitCode::FAILURE,
        (false, false) => ExitCode::from(CANNOT),
        (false, true) => ExitCode::SUCCESS,
    })
}

/// QEMU, busybox, the kernels that can be had, and why others cannot.
type Ready = (Qemu, PathBuf, Vec<Kernel>, Vec<String>);

fn prepare(names: &[String]) -> Result<Ready> {
    if env::consts::ARCH != "x86_64" {
        bail!("it boots Debian's kernels for x86-64 only, and this machine is {}", env::consts::ARCH);
    }
    tools()?;
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    // The lists are fetched once, and only where something is missing.
    let opened = OnceCell::new();
    let archive = || {
        let known = opened.get_or_init(|| Archive::open(&cache).map_err(|error| format!("{error:#}")));
        known.clone().map_err(|error| anyhow!(error))
    };
    let mut qemu = qemu::get(&cache, archive)?;
    let busybox = qemu::busybox(&cache, archive)?;
    let (mut kernels, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match kernels::get(&cache, name, &busybox, archive) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => missing.push(format!("Linux {name}: {error:#}")),
        }
    }
    let Some(first) = kernels.first() else {
        bail!("{}", missing.join("\n"));
    };
    kvm::take(&mut qemu, &cache, first, &busybox)?;
    Ok((qemu, busybox, kernels, missing))
}

/// Installs what the machines need, or says what to install.
fn tools() -> Result<()> {
    let missing: Vec<&str> = TOOLS.iter().filter(|(tool, _)| !on_path(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!("the tests need {}: install them", missing.join(" and "));
    }
    let cache = Cache::open()?;
    step::run(
        &format!("installing {}", missing.join(" and ")),
        Command::new("apt-get")
            .args(["-qq", "install", "--yes", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
        &cache.log("vm-tools"),
        "Where apt does not know them, run `apt-get update`.",
    )
}

fn on_path(program: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    // A user's path often lacks the folders of the administrator's programs; the guest's has them.
    let mut folders = env::split_paths(&folders).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.any(|folder| folder.join(program).is_file())
}

/// What is to run in one machine: its name, and the programs.
type Chosen<'a> = (&'static str, Vec<Choice<'a>>);

/// The jobs that have a test to run.
fn jobs<'a>(programs: &'a [Program], filters: &[String]) -> Result<Vec<Chosen<'a>>> {
    let mut jobs = Vec::new();
    for (name, parts) in JOBS {
        let choices = choose(parts, programs, filters)?;
        if !choices.is_empty() {
            jobs.push((name, choices));
        }
    }
    if jobs.is_empty() {
        bail!("no test that runs in virtual machines has `{}` in its name", filters.join("` or `"));
    }
    Ok(jobs)
}

/// Runs every job on every kernel, and gives the outcomes of each kernel in the kernels' order.
fn all(qemu: &Qemu, busybox: &std::path::Path, kernels: &[Kernel], jobs: &[Chosen<'_>]) -> Result<Vec<Vec<Outcome>>> {
    // The longer jobs first, so that the last ones to end are short.
    let queue: Mutex<VecDeque<(usize, &Chosen<'_>)>> =
        Mutex::new(jobs.iter().flat_map(|job| (0..kernels.len()).map(move |kernel| (kernel, job))).collect());
    let next = || queue.lock().ok()?.pop_front();
    let work = || -> Result<Vec<(usize, Outcome)>> {
        let mut done = Vec::new();
        while let Some((index, (name, choices))) = next() {
            let kernel = &kernels[index];
            let name = format!("{}-{name}", kernel.release);
            done.push((index, machine::run(qemu, busybox, kernel, &name, choices)?));
        }
        Ok(done)
    };
    let mut outcomes: Vec<Vec<Outcome>> = kernels.iter().map(|_| Vec::new()).collect();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let done = worker.join().map_err(|_| anyhow!("a thread that ran machines panicked"))?;
            for (index, outcome) in done.context("running the tests in virtual machines")? {
                outcomes[index].push(outcome);
            }
        }
        Ok(outcomes)
    })
}

/// The programs of a job that have a test to run.
fn choose<'a>(parts: &[(&str, &[&str])], programs: &'a [Program], filters: &[String]) -> Result<Vec<Choice<'a>>> {
    let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
    let mut choices = Vec::new();
    for (name, own) in parts {
        // A library and the binary beside it may share a name; the programs without tests were dropped.
        let program = programs.iter().find(|program| program.name == *name);
        let program = program.ok_or_else(|| anyhow!("cargo built no test program {name}"))?;
        let Some(filters) = filters_of(name, own, &names, filters) else { continue };
        let choice = Choice { program, filters };
        if program.has_tests(&choice.args())? {
            choices.push(choice);
        }
    }
    Ok(choices)
}

/// The filters for a program whose tests are filtered by its `own` where nobody says; None where it is not meant at all. One that was
/// asked for may be the name of a program, which stands for all of that.
fn filters_of(name: &str, own: &[&str], programs: &[&str], asked: &[String]) -> Option<Vec<String>> {
    let (named, of_tests): (Vec<&String>, Vec<&String>) =
        asked.iter().partition(|filter| programs.contains(&filter.as_str()));
    if asked.is_empty() || named.iter().any(|filter| *filter == name) {
        return Some(own.iter().map(|filter| (*filter).to_owned()).collect());
    }
    (!of_tests.is_empty()).then(|| of_tests.into_iter().cloned().collect())
}

/// Prints what failed, what was left out and the table; true where something failed.
fn report(kernels: &[Kernel], outcomes: &[Vec<Outcome>]) -> bool {
    let of = |index: usize| outcomes[index].iter();
    for (index, kernel) in kernels.iter().enumerate() {
        for outcome in of(index).filter(|outcome| !outcome.failures.is_empty()) {
            println!("\nFAILED on {}\n{}", kernel.release, outcome.failures);
        }
    }
    println!();
    for (index, kernel) in kernels.iter().enumerate() {
        let skips: BTreeSet<&String> = of(index).flat_map(|outcome| &outcome.skips).collect();
        for skip in skips {
            println!("{}: {skip}", kernel.release);
        }
    }
    println!("\n{:<28}{:>8}{:>8}{:>9}{:>9}", "kernel", "passed", "failed", "skipped", "seconds");
    let mut failed = false;
    for (index, kernel) in kernels.iter().enumerate() {
        let sum = of(index).fold(Sum::default(), |sum, outcome| Sum {
            passed: sum.passed + outcome.sum.passed,
            failed: sum.failed + outcome.sum.failed,
            skipped: sum.skipped + outcome.sum.skipped,
        });
        let time: Duration = of(index).map(|outcome| outcome.time).sum();
        // A machine in which no test ran at all proves nothing.
        failed |= sum.failed > 0 || sum.passed == 0;
        let release = &kernel.release;
        println!("{release:<28}{:>8}{:>8}{:>9}{:>9}", sum.passed, sum.failed, sum.skipped, time.as_secs());
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::filters_of;

    #[test]
    fn a_filter_is_a_part_of_a_tests_name_or_a_program() {
        let of = |name: &str, asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|filter| (*filter).to_owned()).collect();
            filters_of(name, &["own::"], &["kernels", "situations"], &asked)
        };
        let some = |filters: &[&str]| Some(filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("kernels", &[]), some(&["own::"]));
        assert_eq!(of("kernels", &["vrf::"]), some(&["vrf::"]));
        assert_eq!(of("kernels", &["kernels", "tun::"]), some(&["own::"]));
        assert_eq!(of("situations", &["kernels", "tun::"]), some(&["tun::"]));
        assert_eq!(of("situations", &["kernels"]), None);
    }
}
