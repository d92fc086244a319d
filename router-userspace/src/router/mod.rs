//! The running router: what the kernel tells and what the file says, kept true on both paths.

pub mod control;
mod counters;
mod engine;
mod expiry;
mod guard;
mod live;
mod memory;
mod news;
mod pass;
mod report;
mod run_loop;
mod sentry;
mod server;
mod shadow;
pub mod status;
mod watch;

pub use memory::{TooLittle, room};
pub use run_loop::run;
pub use shadow::{BadRate, Rate, ShadowOptions};

use crate::policy::{Mode, Policy};
use std::io;
use std::path::PathBuf;

/// A policy file that can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// As the user named it: what messages and `at` call it.
    pub name: String,
    /// Absolute: where it is.
    pub path: PathBuf,
}

/// What `run` is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The policy file, to be read again at SIGHUP; None for none or standard input.
    pub file: Option<PolicyFile>,
    /// The policy.
    pub policy: Policy,
    /// Overrides the policy's mode, also after a reload.
    pub mode: Option<Mode>,
    /// Leave the mirror installed at the end.
    pub keep: bool,
    /// Hold the decisions about sampled packets against the kernel.
    pub shadow: Option<ShadowOptions>,
}

/// Why the router did not start, stop or reload.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// Something of the process itself: runtime, signals.
    #[error("start: {0}")]
    Start(io::Error),
    /// Another one runs, or the control socket failed.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// The policy would not fit in memory.
    #[error(transparent)]
    Memory(#[from] memory::TooLittle),
    /// The kernel could not be read or watched.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
    /// What the policy wants and what is there do not go together.
    #[error(transparent)]
    Conflict(#[from] crate::mirror::Conflicts),
    /// Somebody else uses the bits of the mark.
    #[error(transparent)]
    NoBits(#[from] crate::safety::NoBits),
    /// The mirror failed midway.
    #[error(transparent)]
    Apply(#[from] crate::mirror::ApplyError),
    /// The fast path failed after it was loaded.
    #[error(transparent)]
    FastPath(#[from] crate::fastpath::Error),
    /// Not all could be taken back.
    #[error(transparent)]
    Remove(#[from] crate::mirror::RemoveError),
    /// `mode = "ebpf"`, and the fast path cannot carry the traffic.
    #[error("mode ebpf: {0}")]
    NoFastPath(String),
}

impl RouterError {
    /// The exit status that belongs to it (contract): 3 this host can't, 4 failed midway and undone.
    pub fn exit(&self) -> u8 {
        match self {
            RouterError::Apply(_) => 4,
            _ => 3,
        }
    }
}
