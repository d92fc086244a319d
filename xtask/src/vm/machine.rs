//! One job in one virtual machine, from boot to what it left behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    guest::{self, Choice},
    kernels::Kernel,
    qemu::Qemu,
};
use crate::{place::target_dir, test::Sum};

/// A guest that takes longer than this hangs, on however busy a machine.
const LIMIT: Duration = Duration::from_secs(1500);
/// How often people hear that a guest still runs.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// What tests that leave themselves out begin a line with, and why stands behind it.
const SKIPS: [&str; 2] = ["SKIPPED: ", "LEFT OUT: "];

/// What a job came to.
#[derive(Default)]
pub struct Outcome {
    /// The tests, added up.
    pub sum: Sum,
    /// From the start of the machine to its end.
    pub time: Duration,
    /// Lines that say which tests were left out and why.
    pub skips: Vec<String>,
    /// What people have to read: the failures with their messages, or how the machine ended.
    pub failures: String,
}

/// Runs the tests of `choices` on `kernel`. `name` is the job's, and its folder's below `target/vm`.
pub fn run(qemu: &Qemu, busybox: &Path, kernel: &Kernel, name: &str, choices: &[Choice]) -> Result<Outcome> {
    let folder = target_dir().join("vm").join(name);
    guest::initrd(kernel, busybox, &folder, guest::INIT)?;
    // The machine may write to this folder and to no other.
    let shared = folder.join("job");
    fs::create_dir_all(&shared).with_context(|| format!("cannot make {}", shared.display()))?;
    fs::write(shared.join("job.sh"), guest::job(choices))?;

    let mut command = guest::boot(qemu, kernel, &folder);
    command.args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"]);
    command.arg("-virtfs").arg(format!("local,path={},mount_tag=job,security_model=none", comma(&shared)));
    let log = fs::File::create(folder.join("qemu.log")).context("cannot write qemu.log")?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start QEMU by setpriv (package util-linux)")?;
    eprintln!("{name} …");
    let status = wait(&mut child, name, &shared.join("output"), started)?;
    let ended = fs::read_to_string(shared.join("status")).ok();
    let output = fs::read(shared.join("output")).unwrap_or_default();
    let mut outcome = read(&String::from_utf8_lossy(&output));
    outcome.time = started.elapsed();
    let died = match (ended.as_deref().map(str::trim), status) {
        (Some("0"), _) => None,
        (Some(_), _) if outcome.sum.failed > 0 => None,
        (Some(_), _) => Some("a test program ended without its sum".to_owned()),
        (None, None) => Some(format!("gave no result in {} s and was ended", LIMIT.as_secs())),
        (None, Some(status)) => Some(format!("ended before its tests did ({status})")),
    };
    if let Some(died) = died {
        outcome.sum.failed += 1;
        let console = tail(&folder.join("console.log"));
        outcome.failures += &format!("{name} {died}; see {}. The end of its console:\n{console}", folder.display());
    }
    let word = if outcome.sum.failed == 0 { "done" } else { "FAILED" };
    eprintln!("{name}: {word} in {:.0} s, {}", outcome.time.as_secs_f32(), outcome.sum.line());
    Ok(outcome)
}

/// Waits for the machine to end; none where it had to be ended.
fn wait(child: &mut Child, name: &str, output: &Path, started: Instant) -> Result<Option<ExitStatus>> {
    let mut heard = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("lost QEMU")? {
            return Ok(Some(status));
        }
        if started.elapsed() > LIMIT {
            child.kill().context("cannot end QEMU")?;
            child.wait().context("lost QEMU")?;
            return Ok(None);
        }
        if heard.elapsed() > HEARTBEAT {
            heard = Instant::now();
            let text = fs::read(output).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let last = text.lines().rev().find(|line| line.starts_with("test ")).unwrap_or("booting");
            eprintln!("{name}: {} s so far: {last}", started.elapsed().as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A comma in a value of one of QEMU's options is written twice.
fn comma(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn tail(path: &PathBuf) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("    {line}\n")).collect()
}

/// Reads what the test programs printed. A test that left itself out has passed as far as its program knows.
fn read(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut program, mut in_failures) = ("", false);
    for line in output.lines() {
        outcome.sum.add(line);
        if let Some(name) = line.strip_prefix(guest::HEADING) {
            program = name;
        }
        if let Some(skip) = SKIPS.iter().find_map(|word| Some(&line[line.find(word)?..])) {
            outcome.skips.push(skip.to_owned());
        }
        // libtest shows the messages under such a heading, and the names alone under a second one.
        if line == "failures:" && !in_failures {
            in_failures = true;
            outcome.failures += &format!("{program}:\n");
        } else if line.starts_with("test result: ") {
            in_failures = false;
        }
        if in_failures {
            outcome.failures += &format!("    {line}\n");
        }
    }
    // A test may say it several times, once for each thing that is missing.
    let tests: BTreeSet<&str> = outcome.skips.iter().filter_map(|skip| skip.split(": ").nth(1)).collect();
    let skipped = tests.len() as u64;
    outcome.sum.passed = outcome.sum.passed.saturating_sub(skipped);
    outcome.sum.skipped += skipped;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_has_not_passed() {
        let outcome = read(
            "wayfork-vm: situations\nrunning 3 tests\ntest a ... ok\nSKIPPED: b: needs Linux 6.6\ntest b ... ok\n\
            test c ... FAILED\n\nfailures:\n\n---- c stdout ----\nno\n\nfailures:\n    c\n\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\nrest\n",
        );
        assert_eq!(outcome.sum, Sum { passed: 1, failed: 1, skipped: 1 });
        assert_eq!(outcome.skips, ["SKIPPED: b: needs Linux 6.6"]);
        assert!(outcome.failures.starts_with("situations:\n    failures:\n"), "{}", outcome.failures);
        assert!(outcome.failures.contains("---- c stdout") && !outcome.failures.contains("rest"));
    }
}
