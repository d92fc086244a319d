//! `cargo xtask test`: every test, and one line with the sum.

use std::{
    env,
    ffi::OsString,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    place::in_ci,
    privilege::{self, Privilege},
};

/// The package whose tests need the kernel's networking.
const PRIVILEGED: &str = "wayfork-tests";

/// `cargo xtask test [-- ARGS]`.
pub fn command(args: &[OsString]) -> Result<ExitCode> {
    build::object()?;
    let mut sum = Sum::default();

    // The eBPF crate has nothing that runs on the host.
    let all = ["--workspace", "--exclude", "router-ebpf"];
    let of_host = ["--workspace", "--exclude", "router-ebpf", "--exclude", PRIVILEGED];
    let of_kernel = ["--package", PRIVILEGED];
    let privilege = privilege::find();
    match privilege {
        // Two rounds would build what they share twice: which packages are tested decides which features are on.
        Privilege::Own => run(&all, &[], args, &mut sum)?,
        Privilege::Sudo => {
            run(&of_host, &[], args, &mut sum)?;
            run(&of_kernel, &through_sudo(&[]), args, &mut sum)?;
        }
        Privilege::None(why) => {
            run(&of_host, &[], args, &mut sum)?;
            let left_out = count(&of_kernel)?;
            sum.skipped += left_out;
            eprintln!("\nLEFT OUT: all {left_out} tests of {PRIVILEGED}, since {why}.");
            eprintln!(
                "They run packets through network namespaces. Run `cargo xtask test` as root, or where sudo works.\n"
            );
        }
    }

    println!("{}", sum.line());
    // What nobody reads may not pass with the half that matters left out.
    let hollow = in_ci() && matches!(privilege, Privilege::None(_));
    Ok(if sum.failed > 0 || hollow { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run(packages: &[&str], runner: &[String], args: &[OsString], sum: &mut Sum) -> Result<()> {
    let mut cargo = cargo_test(packages, runner);
    cargo.arg("--").args(args);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut here = Sum::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("cannot read what cargo test prints")?).into_owned();
        println!("{line}");
        here.add(&line);
    }
    let status = child.wait().context("lost cargo test")?;
    if !status.success() && here.failed == 0 {
        // A test that does not compile, or a test program that died, prints no result; it has failed all the same.
        eprintln!("cargo test failed ({status}) without a failed test: see above what did not build or died");
        here.failed = 1;
    }
    sum.passed += here.passed;
    sum.failed += here.failed;
    sum.skipped += here.skipped;
    Ok(())
}

fn cargo_test(packages: &[&str], runner: &[String]) -> Command {
    let mut cargo = build::cargo("test");
    cargo.args(packages).arg("--no-fail-fast");
    run_through(&mut cargo, runner);
    cargo
}

/// Only the test programs run through it: cargo and what it writes stay the user's.
pub fn run_through(cargo: &mut Command, runner: &[String]) {
    if !runner.is_empty() {
        let words: Vec<_> = runner.iter().map(|word| format!("'{word}'")).collect();
        cargo.args(["--config", &format!("target.'cfg(all())'.runner = [{}]", words.join(", "))]);
    }
}

/// What starts a test program as root. sudo drops the environment, and often may not keep it: what test programs
/// listen to is set anew behind it, `more` last.
pub fn through_sudo(more: &[(&str, String)]) -> Vec<String> {
    let heard = |name: &str| {
        ["RUST_", "WAYFORK_", "PROPTEST_"].iter().any(|prefix| name.starts_with(prefix))
            || matches!(name, "CI" | "NO_COLOR")
    };
    let variables =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    // A quote or a line break would end the word in the configuration that carries it.
    let plain = variables.filter(|(name, value)| heard(name) && !value.contains(['\'', '\n']));
    ["sudo".to_owned(), "env".to_owned()]
        .into_iter()
        .chain(plain.map(|(name, value)| format!("{name}={value}")))
        .chain(more.iter().map(|(name, value)| format!("{name}={value}")))
        .collect()
}

/// How many tests there are, without running one.
fn count(packages: &[&str]) -> Result<u64> {
    let mut cargo = cargo_test(packages, &[]);
    let output = cargo.args(["--", "--list"]).stderr(Stdio::inherit()).output().context("cannot start cargo test")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.ends_with(": test")).count() as u64)
}

/// What test programs say of themselves, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and test programs that died.
    pub failed: u64,
    /// Tests that were left out.
    pub skipped: u64,
}

impl Sum {
    /// Adds a line like `test result: ok. 5 passed; 0 failed; 1 ignored; …`; other lines count nothing.
    pub fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.1.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// `N passed, N failed`, and how many were skipped where any was.
    pub fn line(&self) -> String {
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_what_test_programs_print() {
        let mut sum = Sum::default();
        sum.add("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        sum.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s");
        sum.add("test parse::ok ... ok");
        assert_eq!(sum, Sum { passed: 7, failed: 3, skipped: 1 });
        assert_eq!(sum.line(), "7 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn says_nothing_of_skipped_tests_where_there_are_none() {
        assert_eq!(Sum { passed: 1, failed: 0, skipped: 0 }.line(), "1 passed, 0 failed");
    }
}
