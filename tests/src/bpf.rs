//! The system call `bpf`, for what the tests do to programs and maps beside the product.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A command that answers with 0.
pub fn call<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the beginning of `union bpf_attr` for the command, its length is given, and what it points to lives
    // until the call returns.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A command that answers with a new descriptor.
pub fn open<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
