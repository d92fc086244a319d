//! What a test needs of the kernel: leaving it out loudly where that is missing, and failing where it should be there.

use std::io::{self, Write as _};

/// Set where every feature of a full kernel has to be there, as in a virtual machine with a distribution's kernel.
const FULL: &str = "WAYFORK_FULL_KERNEL";

/// The running kernel's version, as (6, 12).
pub fn release() -> (u32, u32) {
    let name = nix::sys::utsname::uname();
    parse(&name.as_ref().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default())
}

fn parse(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Says on standard error that the running test is left out, since the kernel lacks `what`.
///
/// # Errors
/// Where the kernel is not older than `since`, the first that has it; with None, for what is a matter of the kernel's
/// configuration, where `WAYFORK_FULL_KERNEL` is set.
pub fn left_out(what: &str, since: Option<(u32, u32)>) -> io::Result<()> {
    let (major, minor) = release();
    let wrong = match since {
        Some(since) => (major, minor) >= since,
        None => std::env::var_os(FULL).is_some(),
    };
    let since = since.map(|(major, minor)| format!(" (Linux {major}.{minor})")).unwrap_or_default();
    if wrong {
        return Err(io::Error::other(format!("Linux {major}.{minor} should have {what}{since}, and does not")));
    }
    let thread = std::thread::current();
    // Not by eprintln, which the test harness swallows.
    let line = format!("SKIPPED: {}: this kernel lacks {what}{since}\n", thread.name().unwrap_or("a test"));
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
        assert!(left_out("the first kernel's features", Some((1, 0))).is_err());
        assert!(release() >= (6, 1), "the oldest that is supported: {:?}", release());
    }
}
