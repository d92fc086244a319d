//! What it takes to install rules: time, the process's memory, the kernel's.
//!
//! Nobody counts what rules, routes and nftables sets take of the kernel's memory, so all of the kernel's memory that is not freed on
//! demand is read before and after: of the whole machine, which should have nothing else to do.

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
    /// What [`kernel`] rose by, in bytes.
    pub kernel: Option<u64>,
}

/// Memory of the kernel of this machine, in bytes: slabs that are not freed on demand (SUnreclaim: rules, routes, elements of
/// nftables sets), what is mapped (VmallocUsed: eBPF maps) and what every CPU has (Percpu). None where one is not told.
pub fn kernel() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).and_then(number);
    Some((field("SUnreclaim:")? + field("VmallocUsed:")? + field("Percpu:")?) * 1024)
}

/// The most that [`kernel`] has risen by.
#[derive(Clone, Copy, Debug)]
pub struct Rise {
    before: Option<u64>,
    most: u64,
}

impl Rise {
    /// From now on.
    pub fn begin() -> Self {
        Rise { before: kernel(), most: 0 }
    }

    /// Looks, and gives the most so far, in bytes; None where it cannot be told.
    pub fn look(&mut self) -> Option<u64> {
        self.most = self.most.max(kernel()?.saturating_sub(self.before?));
        Some(self.most)
    }
}

/// The memory of a running process. What cannot be read is None.
pub fn memory(pid: u32) -> Loading {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(number).map(|kib| kib * 1024);
    let maps = maps(pid);
    Loading { peak, maps: (!maps.is_empty()).then(|| maps.values().sum()), ..Loading::default() }
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
