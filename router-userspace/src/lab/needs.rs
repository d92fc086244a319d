//! What a test needs of the kernel: leaving it out loudly where that is missing, and failing where it should be there.

use crate::model::{Rule, RuleFeature};
use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::time::Duration;

/// Set where every feature of a full kernel has to be there, as in a virtual machine with a distribution's kernel.
const FULL: &str = "WAYFORK_FULL_KERNEL";
/// How many times longer everything may take, as on an emulated processor.
const PATIENCE: &str = "WAYFORK_PATIENCE";

/// From which version on a kernel has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Every kernel from this one on.
    Version(u32, u32),
    /// Full kernels from this one on: it is a matter of configuration.
    Configured(u32, u32),
}

/// The running kernel's version, as (6, 12).
pub fn release() -> (u32, u32) {
    let name = nix::sys::utsname::uname();
    parse(&name.as_ref().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default())
}

fn parse(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// How long to wait on this machine for what takes no longer than `time` on an ordinary one. It is over as soon as it is there.
pub fn patience(time: Duration) -> Duration {
    let times = std::env::var(PATIENCE).ok().and_then(|times| times.parse().ok());
    time * times.unwrap_or(1)
}

/// Says that the running test is left out, at least in part, where the kernel `lacks` what a rule needs; true where it does
/// not lack it.
///
/// # Errors
/// As [`left_out`].
pub fn holds(lacks: &BTreeSet<RuleFeature>, rule: &Rule) -> io::Result<bool> {
    let Some(feature) = lacks.iter().find(|feature| rule.needs(**feature)) else { return Ok(true) };
    let (major, minor) = parse(feature.since());
    left_out(&format!("rules with {}", feature.name()), Since::Version(major, minor))?;
    Ok(false)
}

/// Says on standard error that the running test is left out, since the kernel lacks `what`.
///
/// # Errors
/// Where the kernel is one that has it; for what is a matter of configuration, only where `WAYFORK_FULL_KERNEL` is set.
pub fn left_out(what: &str, since: Since) -> io::Result<()> {
    let running = release();
    let (wrong, (major, minor)) = match since {
        Since::Version(major, minor) => (running >= (major, minor), (major, minor)),
        Since::Configured(major, minor) => {
            (running >= (major, minor) && std::env::var_os(FULL).is_some(), (major, minor))
        }
    };
    if wrong {
        let message =
            format!("Linux {}.{} should have {what} (since {major}.{minor}), and has not", running.0, running.1);
        return Err(io::Error::other(message));
    }
    let thread = std::thread::current();
    // Not by eprintln, which the test harness swallows.
    let line =
        format!("SKIPPED: {}: this kernel lacks {what} (Linux {major}.{minor})\n", thread.name().unwrap_or("a test"));
    io::stderr().write_all(line.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(parse("6.12.118+deb13-amd64"), (6, 12));
        assert_eq!(parse("7.3.4"), (7, 3));
        assert_eq!(parse(""), (0, 0));
    }

    #[test]
    fn nothing_is_left_out_that_should_be_there() {
        assert!(left_out("the first kernel's features", Since::Version(1, 0)).is_err());
        assert!(release() >= (6, 1), "the oldest that is supported: {:?}", release());
    }
}
