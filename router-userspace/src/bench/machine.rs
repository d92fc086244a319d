//! What was measured on.

use std::fs;

/// The machine, as far as it tells.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// Model name of the first CPU.
    pub processor: Option<String>,
    /// CPUs that the kernel runs on.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Runs under a hypervisor.
    pub virtual_machine: bool,
    /// What has run on it in the last minute when the measurement began, in CPUs.
    pub load: Option<f64>,
    /// Version of wayfork.
    pub wayfork: &'static str,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Self {
        let name = nix::sys::utsname::uname();
        let word = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            name.as_ref().map(|name| get(name).to_string_lossy().into_owned()).unwrap_or_default()
        };
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |wanted: &str| {
            let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            lines.into_iter().find(|(name, _)| name.trim() == wanted).map(|(_, value)| value.trim().to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|value| value.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let flags = field("flags").unwrap_or_default();
        Machine {
            kernel: word(|name| name.release()),
            architecture: word(|name| name.machine()),
            processor: field("model name"),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory: kib.map(|kib| kib * 1024),
            virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
            load: load.split(' ').next().and_then(|number| number.parse().ok()),
            wayfork: env!("CARGO_PKG_VERSION"),
        }
    }
}
