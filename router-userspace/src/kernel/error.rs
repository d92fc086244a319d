//! What can go wrong between Wayfork and the kernel.

/// A request that the kernel refused, or that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}{}{}", said.as_ref().map(|said| format!(": {said}")).unwrap_or_default(), help.map(|help| format!(" ({help})")).unwrap_or_default())]
pub struct Error {
    /// What was being done, e.g. `add rule: priority 1000 from all iif eth1 lookup 111`.
    pub what: String,
    /// The kernel's answer.
    pub cause: std::io::Error,
    /// The kernel's own sentence about it (extended acknowledgement), where it gave one.
    pub said: Option<String>,
    /// What to do about it, where that is known.
    pub help: Option<&'static str>,
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a known mend.
    pub fn new(what: impl Into<String>, cause: std::io::Error) -> Self {
        let help = match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Some("needs root, or the capability CAP_NET_ADMIN"),
            _ => None,
        };
        Error { what: what.into(), cause, said: None, help }
    }

    /// An error by its number.
    pub fn from_errno(what: impl Into<String>, errno: i32) -> Self {
        Error::new(what, std::io::Error::from_raw_os_error(errno))
    }

    /// Adds the kernel's own sentence.
    #[must_use]
    pub fn saying(mut self, said: Option<String>) -> Self {
        self.said = said;
        self
    }

    /// The error number, 0 where there is none.
    pub fn errno(&self) -> i32 {
        self.cause.raw_os_error().unwrap_or(0)
    }
}
