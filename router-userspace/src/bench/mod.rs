//! The measured comparison of the ways a packet can take through this machine: the stack with different lists of rules, Wayfork in
//! its modes, and the limits of what could be gained.
//!
//! [`topology`] builds a router between a generator and a sink for every path, [`rules`] writes the same rules for each,
//! [`paths`] has the paths, [`measure`] drives them by turns. Only packets that arrive right are counted.
//!
//! Everything happens in network namespaces of its own; the host's own network is never touched.

mod host_traffic;
mod latency;
mod loading;
mod lookups;
pub mod machine;
pub mod measure;
pub mod paths;
mod programs;
mod reload;
pub mod report;
pub mod rules;
mod run;
pub mod stats;
pub mod topology;
mod updates;

pub use run::{Progress, run};

use crate::model::Family;
use std::io;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of [`paths::ALL`]; the stack's flat list is what the others are compared with.
    pub paths: Vec<String>,
    /// Numbers of rules.
    pub sizes: Vec<u32>,
    /// Numbers of prefixes for the look-ups by themselves.
    pub lookups: Vec<u32>,
    /// Numbers of rules, and of routes, whose updates are measured.
    pub updates: Vec<u32>,
    /// The kinds of traffic.
    pub traffic: Vec<Traffic>,
    /// How often each is measured.
    pub rounds: u32,
    /// How long each time.
    pub slice: Duration,
    /// How long to wait for a path to be ready.
    pub patience: Duration,
    /// The CPU that sends, routes and counts; None is the last one that this process may use.
    pub cpu: Option<usize>,
}

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Traffic {
    /// Its address family, and that of the rules.
    pub family: Family,
    /// Bytes of a frame, the check sequence not included; more where the headers need more.
    pub packet: u32,
    /// How many flows there are.
    pub flows: Flows,
    /// rp_filter of all interfaces of the router.
    pub rp_filter: u32,
}

/// How many flows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flows {
    /// One, which belongs to the last rule.
    One,
    /// 8, of different rules.
    Few,
    /// 4,096, spread over the rules.
    Many,
    /// Sources and destinations never come again, spread over the rules.
    Random,
}

impl Flows {
    /// The generator's mask of flow numbers.
    pub fn mask(self) -> u32 {
        match self {
            Flows::One => 0,
            Flows::Few => 7,
            Flows::Many => 4095,
            Flows::Random => u32::MAX,
        }
    }

    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Flows::One => "one flow",
            Flows::Few => "8 flows",
            Flows::Many => "4,096 flows",
            Flows::Random => "never repeating",
        }
    }
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Building the network, or `wayfork` in it.
    #[error(transparent)]
    Lab(#[from] crate::lab::Error),
    /// A request to the kernel.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
    /// The programs that send and count.
    #[error(transparent)]
    FastPath(#[from] crate::fastpath::Error),
    /// A program or file.
    #[error("{what}: {cause}")]
    Io {
        /// What was being done.
        what: String,
        /// The answer.
        cause: io::Error,
    },
    /// No path has that name.
    #[error("there is no path `{name}`; the paths are {names}")]
    NoSuchPath {
        /// The name asked for.
        name: String,
        /// The names there are.
        names: String,
    },
    /// A path does not do what it is measured for.
    #[error("{path} with {rules} rules: {what}")]
    Path {
        /// Its name.
        path: &'static str,
        /// How many rules it has.
        rules: u32,
        /// What it does instead.
        what: String,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error with what was being done.
    pub fn new(what: impl Into<String>, cause: io::Error) -> Self {
        Error::Io { what: what.into(), cause }
    }

    /// Something that is no number, address or the like.
    pub fn invalid(what: impl Into<String>) -> Self {
        Error::new(what, io::ErrorKind::InvalidInput.into())
    }
}
