//! The grace period: when has every program ended that was running?

use super::{Error, Result};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// Returns when every program that was running has ended: they run in RCU read-side sections, and MEMBARRIER_CMD_GLOBAL waits
/// for these (`synchronize_rcu()` in kernel/sched/membarrier.c). Kernels with nohz_full CPUs, or without membarrier, refuse it.
pub(super) fn wait_for_running_programs() -> Result<()> {
    // SAFETY: a system call without pointers.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if status == 0 { Ok(()) } else { wait_by_map() }
}

/// The same by writing to a map of maps, which user space may rely on to wait for every running program
/// (`maybe_wait_bpf_programs()` in kernel/bpf/syscall.c). The maps are nobody's else, and gone afterwards.
fn wait_by_map() -> Result<()> {
    let create = |kind, value_size, inner_map_fd| {
        bpf(BPF_MAP_CREATE, &Create { kind, key_size: 4, value_size, max_entries: 1, map_flags: 0, inner_map_fd })
    };
    let wait = || -> io::Result<()> {
        // SAFETY: the command returns a new descriptor, which nobody else owns.
        let open = |fd: libc::c_long| unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
        let inner = open(create(BPF_MAP_TYPE_ARRAY, 4, 0)?);
        let number = inner.as_raw_fd() as u32;
        let outer = open(create(BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, number)?);
        let key = 0u32;
        let update = Update {
            map_fd: outer.as_raw_fd() as u32,
            pad: 0,
            key: &raw const key as u64,
            value: &raw const number as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update).map(drop)
    };
    wait().map_err(|cause| Error::from_os("wait for the programs that still run", cause))
}

/// The beginning of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// The beginning of `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct Update {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the beginning of `union bpf_attr` for the command, its length is given, and what it points to lives
    // until the call returns.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_work_where_maps_may_be_made() {
        match wait_by_map() {
            Err(Error::Privilege { .. }) => eprintln!("LEFT OUT: not allowed to make maps"),
            waited => waited.expect("a map of maps is written"),
        }
        if !matches!(wait_by_map(), Err(Error::Privilege { .. })) {
            wait_for_running_programs().expect("one of the ways works");
        }
    }
}
