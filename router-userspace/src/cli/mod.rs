//! The command line: arguments here, one file per verb, rendering apart. The only place for `anyhow` and for exit statuses.

mod args;

pub use args::{Cli, Color, Command, Global};

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

/// An error with the exit status that belongs to it. Attach it as context: `.map_err(|e| Failure::new(Exit::Usage, e))`.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
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
