//! `cargo xtask`: builds, runs, tests and checks Wayfork, and gets by itself what that needs.

mod apt;
mod bench;
mod build;
mod elf;
mod lint;
mod place;
mod privilege;
mod run;
mod soak;
mod step;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs, tests and checks Wayfork.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or get a compiler for BPF and a bpf-linker that fits it, and say which way was taken
    Toolchain {
        /// Try this way alone
        #[arg(long, value_enum)]
        way: Option<toolchain::Way>,
    },
    /// Build target/release/wayfork, the eBPF object inside
    Build {
        /// Build target/debug/wayfork instead; the eBPF object is optimised either way
        #[arg(long)]
        debug: bool,
        /// Stop after the eBPF object, target/ebpf/router-ebpf
        #[arg(long)]
        ebpf_only: bool,
    },
    /// Build, then run `wayfork ARGS`, or `wayfork lab` where there are none
    Run {
        /// What `wayfork` is given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Build, then measure every path: JSON, Markdown and plots in target/bench/
    Bench {
        /// Measure nothing: show what this file of `wayfork bench --json` holds
        #[arg(long, conflicts_with = "args")]
        from: Option<std::path::PathBuf>,
        /// What `wayfork bench` is given; by default all traffic, 1 to 100,000 rules and up to 1,000,000 prefixes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Build, then run every test, the privileged ones included
    Test {
        /// What each test binary is given: a part of a test's name, --nocapture …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Compare program, kernel and reference on random policies with fresh seeds, until the time is up or they disagree
    Soak {
        /// For how long; the round that is begun is ended, and one is always run
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// The first round; a failure names the round that shows it again
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run the tests that need a kernel on Debian's kernels, each in a virtual machine
    ///
    /// The exit status is 3 where QEMU or a kernel cannot be had here.
    VmTest {
        /// The kernels, by the beginning of their version, or `newest`
        #[arg(long = "kernel", value_name = "VERSION", default_values = vm::KERNELS)]
        kernels: Vec<String>,
        /// Only the tests whose names have one of these in them, or those of a test program of this name
        filters: Vec<String>,
    },
    /// Check formatting, clippy's warnings and the architecture
    Lint,
    /// Check what a program can check of the architecture
    Tidy,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Toolchain { way } => toolchain::command(way),
        Task::Build { debug, ebpf_only } => build::command(debug, ebpf_only),
        Task::Run { args } => run::command(&args),
        Task::Bench { from, args } => bench::command(from.as_deref(), &args),
        Task::Test { args } => test::command(&args),
        Task::Soak { minutes, seed } => soak::command(minutes, seed),
        Task::VmTest { kernels, filters } => vm::command(&kernels, &filters),
        Task::Lint => lint::command(),
        Task::Tidy => tidy::command(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
