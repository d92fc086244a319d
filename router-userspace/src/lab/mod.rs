//! The throw-away lab: hosts and routers as network namespaces without a name, real traffic between them, and Wayfork on one
//! of them. Nothing of it touches the host's own network, and all of it is gone with the process.
//!
//! [`topology`] builds, [`traffic`] sends and counts, [`process`] runs the binary, [`scenario`] has the situations and
//! [`phases`] sends every flow without policy, through the stack and through the fast path.

pub mod needs;
pub mod phases;
pub mod process;
pub mod scenario;
pub mod topology;
pub mod traffic;
mod tunnel;

/// What can go wrong in a lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the kernel.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
    /// This process may not make network namespaces.
    #[error(
        "a lab is made of network namespaces and needs root: run it with sudo (it never touches the host's own network)"
    )]
    Privilege,
    /// A program or socket.
    #[error("{what}: {cause}")]
    Io {
        /// What was being done.
        what: String,
        /// The answer.
        cause: std::io::Error,
    },
    /// `wayfork` in the lab did not do what it should.
    #[error("wayfork in the lab {how}{}{log}", if log.is_empty() { "" } else { "; it said:\n" })]
    Daemon {
        /// What happened instead.
        how: String,
        /// Its standard error.
        log: String,
    },
    /// No scenario has that name.
    #[error("there is no scenario `{name}`; the scenarios are {names}")]
    NoSuchScenario {
        /// The name asked for.
        name: String,
        /// The names there are.
        names: String,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error with what was being done.
    pub fn new(what: impl Into<String>, cause: std::io::Error) -> Self {
        Error::Io { what: what.into(), cause }
    }
}
