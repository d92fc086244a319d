//! The maps of a running router, read and written behind its back.

use crate::bpf;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The beginning of `union bpf_attr` for BPF_MAP_GET_FD_BY_ID.
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The beginning of `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}

/// The beginning of `union bpf_attr` for a look-up and an update.
#[repr(C)]
struct Element {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A map of another process.
pub struct ForeignMap {
    fd: OwnedFd,
    info: Info,
}

impl ForeignMap {
    /// The map of that name that a process holds open.
    pub fn of(pid: u32, name: &str) -> Result<Self> {
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let Some(id) = text.lines().find_map(|line| line.strip_prefix("map_id:")) else { continue };
            let by_id = ById { id: id.trim().parse()?, next_id: 0, open_flags: 0 };
            let fd = bpf::open(BPF_MAP_GET_FD_BY_ID, &by_id).context("open a map by its id")?;
            let mut info = Info::default();
            let length = size_of::<Info>() as u32;
            let get = GetInfo { fd: fd.as_raw_fd() as u32, length, info: (&raw mut info) as u64 };
            bpf::call(BPF_OBJ_GET_INFO_BY_FD, &get).context("read a map's information")?;
            if info.name.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                return Ok(ForeignMap { fd, info });
            }
        }
        anyhow::bail!("process {pid} has no map {name}")
    }

    /// Calls `change` for every value of an array, and writes those back for which it says so. `value` is any value.
    pub fn change_array<V: Copy>(&self, mut value: V, mut change: impl FnMut(&mut V) -> bool) -> Result<()> {
        let sizes = (self.info.key_size as usize, self.info.value_size as usize);
        ensure!(sizes == (size_of::<u32>(), size_of::<V>()), "the map's entries have other sizes: {sizes:?}");
        let fd = self.fd.as_raw_fd() as u32;
        for key in 0..self.info.max_entries {
            let (key, value) = (&raw const key, &raw mut value);
            let element = Element { fd, pad: 0, key: key as u64, value: value as u64, flags: 0 };
            bpf::call(BPF_MAP_LOOKUP_ELEM, &element).context("look an entry up")?;
            // SAFETY: the kernel has written a value of that size, and any bytes are one.
            if change(unsafe { &mut *value }) {
                bpf::call(BPF_MAP_UPDATE_ELEM, &element).context("write an entry")?;
            }
        }
        Ok(())
    }
}
