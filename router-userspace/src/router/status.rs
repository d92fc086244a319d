//! What the running router says about itself (contract: `status --json`).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the document.
    pub schema: u32,
    /// The running process.
    pub pid: i32,
    /// Seconds since it was ready.
    pub uptime_s: u64,
    /// `auto`, `ebpf` or `netlink`: what was asked for.
    pub mode: String,
    /// The policy file, where there is one.
    pub file: Option<String>,
    /// `active`: the fast path decides; `suspended`: it passes every packet while it is brought up to date; `off`: not loaded.
    pub fast_path: String,
    /// Why the fast path is off, where it is.
    pub why_off: Option<String>,
    /// How often the maps were brought up to date.
    pub generation: u64,
    /// Interfaces, in the order of their index.
    pub interfaces: Vec<Interface>,
    /// The one model: all rules in the kernel's order, IPv4 first.
    pub rules: Vec<Rule>,
    /// Packets that the fast path left to the stack, by reason.
    pub pass_reasons: BTreeMap<String, u64>,
    /// What waits for an interface or a gateway.
    pub waiting: Vec<String>,
    /// The shadow mode; null where it is off.
    pub shadow: Option<Shadow>,
}

/// What `run --shadow` has found. `sampled` is the sum of `checked`, `outdated`, `dropped` and what still waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shadow {
    /// As it was given: `1/1000`, `0.1%`.
    pub rate: String,
    /// Samples taken, of packets that the fast path decided itself.
    pub sampled: u64,
    /// Decisions held against the kernel.
    pub checked: u64,
    /// Of these the ones about which both agree.
    pub agreed: u64,
    /// The others.
    pub disagreed: u64,
    /// Samples left out because something changed between the decision and the answer.
    pub outdated: u64,
    /// Samples lost because they came faster than they could be checked.
    pub dropped: u64,
    /// Of the checked ones those that the kernel cannot be asked about; they were held against the reference.
    pub unasked: u64,
    /// Rules whose decisions are left to the stack because one of them was wrong.
    pub fallback: Vec<Fallback>,
}

/// A rule that has fallen back to the stack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fallback {
    /// The rule.
    pub rule_id: String,
    /// What was wrong.
    pub why: String,
}

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// `tcx`, `clsact`, or null where the program is not attached.
    pub attached: Option<String>,
    /// `redirect`, `mark` or `pass`: the most that happens to a packet that comes in here.
    pub may: String,
    /// Why not more.
    pub why: String,
}

/// One rule and what happened to packets that it decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// Stable, unique.
    pub rule_id: String,
    /// Its priority.
    pub priority: u32,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// The name in the file.
    pub name: Option<String>,
    /// Who installed it, by rt_protos.
    pub owner: String,
    /// Where it stands in the file.
    pub at: Option<String>,
    /// As iproute2 writes it.
    pub text: String,
    /// Packets that it decided on the fast path.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// The same by action.
    pub actions: BTreeMap<String, Count>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}
