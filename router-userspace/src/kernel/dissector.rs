//! Whether a BPF program takes packets apart for the stack in place of its own flow dissector.

use super::{Error, Netns, Result};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

/// BPF_PROG_QUERY and BPF_FLOW_DISSECTOR (include/uapi/linux/bpf.h).
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_FLOW_DISSECTOR: u32 = 17;

/// Whether the calling thread's network namespace has one, or the first one, whose program is everybody's
/// (`__skb_flow_dissect`, net/core/flow_dissector.c). The first one is taken to be that of process 1.
pub(super) fn attached() -> Result<bool> {
    if is_attached(Netns::current()?.fd())? {
        return Ok(true);
    }
    match File::open("/proc/1/ns/net") {
        Ok(first) => is_attached(first.as_fd()),
        // Without /proc of the first processes, or without the right to look: what is there is the namespace's own.
        Err(_) => Ok(false),
    }
}

fn is_attached(netns: impl AsRawFd) -> Result<bool> {
    /// The beginning of `query` in `union bpf_attr`.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        padding: u32,
    }
    let target_fd = netns.as_raw_fd() as u32;
    let mut query = Query { target_fd, attach_type: BPF_FLOW_DISSECTOR, ..Query::default() };
    // SAFETY: `query` is the beginning of `union bpf_attr` for the command, and its length is given; the kernel writes
    // `attach_flags` and `prog_cnt` into it before it returns.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if answer == 0 {
        return Ok(query.prog_cnt > 0);
    }
    let cause = std::io::Error::last_os_error();
    match cause.raw_os_error() {
        // A kernel without such programs; and without the right to ask there is none to load a program, for which this matters.
        Some(libc::EINVAL | libc::ENOSYS | libc::EPERM) => Ok(false),
        _ => Err(Error::new("ask for BPF flow dissectors", cause)),
    }
}
