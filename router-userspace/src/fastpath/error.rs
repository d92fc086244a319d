//! What can go wrong between Wayfork and its program in the kernel, for people.

use aya::maps::MapError;
use aya::programs::ProgramError;
use std::io;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the fast path could not be loaded, attached, written or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Built without the eBPF object.
    #[error("this wayfork was built without its eBPF program: build it with `cargo xtask build`")]
    NoObject,
    /// Not allowed.
    #[error(
        "{what}: not permitted: run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON ({cause})"
    )]
    Privilege {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The kernel lacks something.
    #[error("this kernel ({release}) has no {feature}, which the fast path needs; {remedy}")]
    Kernel {
        /// `uname -r`.
        release: String,
        /// What it lacks.
        feature: &'static str,
        /// Where it is to be had.
        remedy: &'static str,
    },
    /// The verifier refused the program.
    #[error("this kernel ({release}) refuses the eBPF program: {cause}\n{log}")]
    Refused {
        /// `uname -r`.
        release: String,
        /// The kernel's answer.
        cause: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// The embedded object does not fit this loader.
    #[error("the eBPF object lacks {0}: it was not built with this wayfork; build both with `cargo xtask build`")]
    Object(&'static str),
    /// The maps are too small for what was to be written: load the fast path anew.
    #[error("the fast path's tables are full")]
    Full,
    /// No such interface (any more).
    #[error("there is no interface with index {0}")]
    NoInterface(u32),
    /// Anything else the kernel refused.
    #[error("{what}: {cause}")]
    Refusal {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// Anything else aya refused.
    #[error("{what}: {cause}")]
    Loader {
        /// What was being done.
        what: String,
        /// The loader's answer.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error's place among the causes of another: the operating system's error where there is one.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

impl Error {
    /// The operating system's error number, where one is behind it.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Privilege { cause, .. } | Error::Refused { cause, .. } | Error::Refusal { cause, .. } => {
                cause.raw_os_error()
            }
            _ => None,
        }
    }

    pub(super) fn from_os(what: impl Into<String>, cause: io::Error) -> Self {
        let what = what.into();
        match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Privilege { what, cause },
            _ => Error::Refusal { what, cause },
        }
    }

    pub(super) fn from_any(what: impl Into<String>, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        match os_error(&error) {
            Some(number) => Self::from_os(what, io::Error::from_raw_os_error(number)),
            None => Error::Loader { what: what.into(), cause: Box::new(error) },
        }
    }

    pub(super) fn from_map(what: impl Into<String>, error: MapError) -> Self {
        match os_error(&error) {
            Some(libc::E2BIG | libc::ENOSPC) => Error::Full,
            _ => Self::from_any(what, error),
        }
    }

    /// The verifier's refusal, with the end of its log: the whole of it can be megabytes.
    pub(super) fn from_load(error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => match io_error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) if verifier_log.to_string().trim().is_empty() => {
                    Self::from_os("load the eBPF program", io_error)
                }
                _ => {
                    let log = verifier_log.to_string();
                    let lines: Vec<&str> = log.lines().collect();
                    let tail = &lines[lines.len().saturating_sub(30)..];
                    Error::Refused { release: release(), cause: io_error, log: tail.join("\n") }
                }
            },
            other => Self::from_any("load the eBPF program", other),
        }
    }
}

/// `uname -r`.
pub(super) fn release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}
