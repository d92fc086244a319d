//! Whether a policy would fit in memory, before anything of it is touched.
//!
//! An estimate, by the number of rules, routes and ranges: what the process keeps of each, what its maps do, and what the kernel does
//! for the mirror. The figures are measured.

use super::RouterError;
use super::engine::Engine;
use crate::model::{Family, Host, OWN_PROTOCOL};
use crate::policy::{Mode, Policy};
use router_common::interval::Line;
use router_common::layout::{ACTIONS_COUNTED, Count, RuleEntry, Selectors, StepEntry};
use std::fmt;
use std::fs;
use std::path::Path;

/// What the process keeps of a rule of the file besides its maps, at most at one time: in the policy, in the kernel's list as read
/// and as wanted, in what is being compiled. Measured with 100,000: 1,850 at the start, 1,800 more at a reload.
const PROCESS_PER_RULE: u64 = 2_200;
/// The same of a rule of another program's. Measured: 1,500.
const PROCESS_PER_FOREIGN: u64 = 1_600;
/// The same of a route. Measured with 1,000,000 that are read and compiled: 600.
const PROCESS_PER_ROUTE: u64 = 800;
/// The same of a range of a set.
const PROCESS_PER_RANGE: u64 = 150;
/// A rule of the kernel (`struct fib4_rule`, `struct fib6_rule`), and a range of an nftables set, which the kernel has twice
/// while a set changes.
const KERNEL_PER_RULE: u64 = 256;
const KERNEL_PER_RANGE: u64 = 400;
/// Bytes in the trees of intervals for each prefix: two ends, rarely shared; IPv6 has a tree for each word.
const LINES_PER_PREFIX: [u64; 2] = [2 * size_of::<Line>() as u64 / 8, 6 * size_of::<Line>() as u64 / 8];

/// How much memory something needs, in bytes, beyond what is used already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// The process.
    pub process: u64,
    /// Its maps.
    pub maps: u64,
    /// The mirror, in the kernel.
    pub mirror: u64,
}

/// A bound on memory: in whose words, how much is left in bytes, and whether the kernel's side counts towards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub what: String,
    pub bytes: u64,
    pub of_process: bool,
}

/// A policy that would not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy would not fit in memory: it needs about {need}, and there are {} ({}); nothing was touched", Bytes(left.bytes), left.what)]
pub struct TooLittle {
    need: Need,
    left: Left,
}

/// Whether there are so many bytes of memory for reading a policy: to be asked before it is read, for [`crate::policy::load_within`].
pub fn room(bytes: u64) -> Result<(), TooLittle> {
    Need { process: bytes, ..Need::default() }.check(left())
}

impl Engine {
    /// Refuses what would not fit in memory.
    pub(super) fn afford(&self, policy: &Policy, host: &Host) -> Result<(), RouterError> {
        let cpus = if self.mode(policy) == Mode::Netlink { 0 } else { crate::fastpath::cpus()? };
        Ok(Need::of(policy, host, cpus.into()).check(left())?)
    }
}

impl Need {
    /// What a policy needs beside what the host has already; `cpus` is how many there can be, 0 without a fast path.
    pub fn of(policy: &Policy, host: &Host, cpus: u64) -> Self {
        let own = policy.rules.len() as u64;
        let foreign = host.rules.iter().filter(|rule| rule.protocol != OWN_PROTOCOL).count() as u64;
        let routes = (policy.routes.len() + host.routes.len()) as u64;
        let ranges = |family| policy.sets.iter().map(|set| set.members.ranges(family) as u64).sum::<u64>();
        let ranges = Family::BOTH.map(ranges);
        let mut need = Need {
            process: own * PROCESS_PER_RULE
                + foreign * PROCESS_PER_FOREIGN
                + routes * PROCESS_PER_ROUTE
                + ranges.iter().sum::<u64>() * PROCESS_PER_RANGE,
            maps: 0,
            mirror: own * KERNEL_PER_RULE + ranges.iter().sum::<u64>() * KERNEL_PER_RANGE,
        };
        if cpus > 0 {
            let entry = size_of::<RuleEntry>() + size_of::<StepEntry>() + size_of::<Selectors>();
            let counter = u64::from(ACTIONS_COUNTED) * cpus * size_of::<Count>() as u64;
            // Maps have room for twice as much, up to a bound.
            let foreign = host.rules.iter().filter(|rule| rule.protocol != OWN_PROTOCOL);
            let all: Vec<Family> = policy.rpdb().chain(foreign).map(|rule| rule.family).collect();
            let rules = |family| all.iter().filter(|other| **other == family).count() as u64;
            for (family, ranges) in Family::BOTH.into_iter().zip(ranges) {
                let rules = rules(family);
                let prefixes = rules + ranges + routes;
                need.maps += 2 * rules * (entry as u64 + counter)
                    + 2 * prefixes * LINES_PER_PREFIX[usize::from(family == Family::Ipv6)];
            }
        }
        need
    }

    /// All of it.
    fn sum(self) -> u64 {
        self.process.saturating_add(self.maps).saturating_add(self.mirror)
    }

    /// Whether there is that much everywhere; else where not.
    pub fn check(self, all: Vec<Left>) -> Result<(), TooLittle> {
        let needed = |left: &Left| if left.of_process { self.process.saturating_add(self.maps) } else { self.sum() };
        let short = all.into_iter().filter(|left| needed(left) > left.bytes);
        short.min_by_key(|left| left.bytes).map_or(Ok(()), |left| Err(TooLittle { need: self, left }))
    }
}

/// Gives back to the system what is free: after a change of many rules that is more than is in use, in pieces that the allocator
/// keeps for another time.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no conditions.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// What bounds this process's memory now. What cannot be read bounds nothing.
pub(super) fn left() -> Vec<Left> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (limits, status) = (read("/proc/self/limits"), read("/proc/self/status"));
    let machine = field(&read("/proc/meminfo"), "MemAvailable:").map(|kib| Left {
        what: "MemAvailable of the machine".to_owned(),
        bytes: kib * 1024,
        of_process: false,
    });
    let space = field(&limits, "Max address space").zip(field(&status, "VmSize:")).map(|(limit, used)| Left {
        what: "left of the limit of the address space, RLIMIT_AS".to_owned(),
        bytes: limit.saturating_sub(used * 1024),
        of_process: true,
    });
    machine.into_iter().chain(space).chain(groups(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"))).collect()
}

/// The bounds of a process's cgroup and of those above it (version 2), below `root`.
fn groups(root: &Path, own: &str) -> Vec<Left> {
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    let group = |folder: &Path| {
        let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let (most, used) = (number(&read("memory.max"))?, number(&read("memory.current"))?);
        let stat = read("memory.stat");
        // Pages of files are given back where there is need of them.
        let files = ["inactive_file ", "active_file "].iter().filter_map(|name| field(&stat, name)).sum::<u64>();
        Some(Left {
            what: format!("left of memory.max of the cgroup {}", folder.display()),
            bytes: most.saturating_sub(used.saturating_sub(files)),
            of_process: false,
        })
    };
    let folder = root.join(own);
    folder.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(group).collect()
}

/// The number behind a name at the beginning of a line; None where there is none, as for `unlimited`.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [all, process, maps, mirror] = [self.sum(), self.process, self.maps, self.mirror].map(Bytes);
        if self.maps + self.mirror == 0 {
            return write!(f, "{all} by estimate to be read alone");
        }
        write!(
            f,
            "{all} by estimate ({process} for wayfork, {maps} for its maps, {mirror} for the kernel's rules and sets)"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn left(bytes: u64, of_process: bool) -> Left {
        Left { what: "left".to_owned(), bytes, of_process }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        let need = Need { process: 100 << 20, maps: 50 << 20, mirror: 20 << 20 };
        assert_eq!(need.check(vec![left(170 << 20, false), left(150 << 20, true)]), Ok(()));
        let refused =
            need.check(vec![left(1 << 40, false), left(169 << 20, false), left(149 << 20, true)]).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("needs about 170 MiB") && text.contains("there are 149 MiB (left)"), "{text}");
        assert!(text.contains("50 MiB for its maps"), "{text}");
    }

    #[test]
    fn every_cgroup_above_bounds_memory_and_files_can_be_given_back() {
        let root = tempfile::tempdir().unwrap();
        let write = |below: &str, name: &str, text: &str| {
            fs::create_dir_all(root.path().join(below)).unwrap();
            fs::write(root.path().join(below).join(name), text).unwrap();
        };
        for (below, most, used) in [("a", "1000\n", "400\n"), ("a/b", "max\n", "300\n"), ("a/b/c", "500\n", "300\n")] {
            write(below, "memory.max", most);
            write(below, "memory.current", used);
        }
        write("a/b/c", "memory.stat", "anon 200\ninactive_file 60\nactive_file 40\n");
        let found = groups(root.path(), "1:name=systemd:/x\n0::/a/b/c\n");
        assert_eq!(found.iter().map(|left| left.bytes).collect::<Vec<_>>(), [300, 600]);
        assert!(found[0].what.ends_with("a/b/c"), "{}", found[0].what);
        assert!(groups(root.path(), "").is_empty());
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(super::left().iter().any(|left| left.bytes > 0 && !left.of_process), "{:?}", super::left());
    }
}
