//! The command line: arguments here, one file per verb, rendering apart. The only place for `anyhow` and for exit statuses.

mod args;
mod bench;
mod check;
mod compare;
mod explain;
mod import;
mod lab;
pub mod output;
mod plan;
mod policy_file;
mod render;
mod run;
mod status;

pub use args::{Cli, Color, Command, Global};

use crate::router::control::ControlError;
use std::process::ExitCode;

/// How a command ended (contract: exit status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The answer is no: a disagreement, a failed check.
    No = 1,
    /// Wrong usage or a wrong file.
    Usage = 2,
    /// This host can't: kernel or privilege.
    Cannot = 3,
    /// Failed midway, and undone.
    Undone = 4,
}

impl Exit {
    /// The status of that number; what is none means that this host can't.
    fn of(number: u8) -> Exit {
        let known = [Exit::Done, Exit::No, Exit::Usage, Exit::Cannot, Exit::Undone];
        known.into_iter().find(|known| *known as u8 == number).unwrap_or(Exit::Cannot)
    }
}

/// An error with the exit status that belongs to it. Attach it as context: `.map_err(|e| Failure::new(Exit::Usage, e))`.
#[derive(Debug, thiserror::Error)]
#[error("{}", output::with_causes(error))]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// What went wrong.
    pub error: anyhow::Error,
}

impl Failure {
    /// Wraps an error.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Failure { exit, error: error.into() }
    }
}

/// What a verb returns. An error that is no [`Failure`] ends with status 3.
pub type Outcome = anyhow::Result<Exit>;

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why the running router gave no answer.
fn unasked(error: ControlError) -> Failure {
    Failure::new(Exit::of(error.exit()), error)
}

/// Carries a command out.
pub fn dispatch(cli: Cli) -> Outcome {
    log(&cli.global);
    if let Some(name) = &cli.global.netns {
        // Before anything else, while this is the only thread: a namespace belongs to a thread.
        crate::kernel::netns::enter_named(name).map_err(|error| {
            let refused = matches!(error.errno(), nix::libc::EPERM | nix::libc::EACCES);
            Failure::new(if refused { Exit::Cannot } else { Exit::Usage }, error)
        })?;
    }
    let global = &cli.global;
    match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Reload(args) => run::reload(global, args),
        Command::Check(args) => check::run(global, args),
        Command::Plan(args) => plan::run(global, args),
        Command::Explain(args) => explain::run(global, args),
        Command::Compare(args) => compare::run(global, args),
        Command::Status => status::run(global),
        Command::Import(args) => import::run(global, args),
        Command::Lab(args) => lab::run(global, args),
        Command::Bench(args) => bench::run(global, args),
    }
}

/// Logs go to standard error; `RUST_LOG` has the last word.
fn log(global: &Global) {
    use std::io::IsTerminal;
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "info",
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("error,wayfork={level},router_ebpf={level}")));
    let color = match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let built = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
    // A second subscriber in one process (tests) is refused; the first goes on.
    drop(built.without_time().with_target(false).try_init());
}
