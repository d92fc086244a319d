//! What it takes to install rules: time, the process's memory, the kernel's.

use super::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// The cost of installing rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loading {
    /// Until packets are decided by them; None where there is nothing to install.
    pub time: Option<Duration>,
    /// The most memory that the process had, in bytes (VmHWM).
    pub peak: Option<u64>,
    /// The memory of its eBPF maps, in bytes, as the kernel counts it.
    pub maps: Option<u64>,
}

/// The memory of a running process. What cannot be read is None.
pub fn memory(pid: u32) -> Loading {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(number).map(|kib| kib * 1024);
    let maps = maps(pid);
    Loading { time: None, peak, maps: (!maps.is_empty()).then(|| maps.values().sum()) }
}

/// Lets the most memory that a process had begin anew with what it has now.
pub fn forget_peak(pid: u32) -> Result<()> {
    let file = format!("/proc/{pid}/clear_refs");
    fs::write(&file, "5").map_err(|error| Error::new(format!("write to {file}"), error))
}

/// The memory of a process's maps by their ids: every map once, however many descriptors it has.
pub fn maps(pid: u32) -> BTreeMap<u32, u64> {
    let mut maps = BTreeMap::new();
    // A descriptor may be closed meanwhile, and the process may have ended.
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).and_then(number);
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id as u32, bytes);
        }
    }
    maps
}

fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}
