//! What was measured, as `bench --json` gives it.

use super::machine::Machine;
use super::stats::Spread;
use super::{Flows, Traffic};
use crate::model::Family;
use serde::Serialize;
use std::collections::BTreeMap;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the document.
    pub schema: u32,
    /// What was measured on.
    pub machine: Machine,
    /// How.
    pub method: Method,
    /// The measurements.
    pub results: Vec<Row>,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
    /// The cost of installing rules.
    pub loading: Vec<LoadingRow>,
    /// The time that a packet takes where there are few.
    pub latency: Vec<LatencyRow>,
    /// What the host itself can send while it has the rules.
    pub host_traffic: Vec<HostRow>,
    /// The programs by themselves.
    pub programs: Vec<ProgramRow>,
    /// Look-ups among many prefixes by themselves.
    pub lookups: Vec<LookupRow>,
    /// What it takes to bring rules and routes, and a change of one, into the fast path.
    pub updates: Vec<UpdateRow>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    /// In words.
    pub text: &'static str,
    /// The CPU that sent, routed and counted.
    pub cpu: usize,
    /// Rounds; every path is measured once in each.
    pub rounds: u32,
    /// Length of a measurement.
    pub slice_ms: u64,
    /// Prefixes of a block that a rule of `stack-grouped` skips.
    pub group: u32,
}

/// The method, in words.
pub const METHOD: &str = "One pinned CPU sends, routes and counts: an XDP program run by BPF_PROG_TEST_RUN with live frames writes \
each packet anew into a veth pair, an XDP program behind the router's egress counts and drops. Counted are only packets that \
arrive by the right interface, with the right destination address, a TTL one less and a right checksum. Paths take turns, in \
another order in each round; pps is the median over the rounds, ratio_to_kernel the median of the ratios of the same round \
(stack-flat, same rules and traffic). `harness` is the cost of generator and sink alone, which all figures include but \
net_ns_per_packet. One flow belongs to the last rule; other traffic is spread evenly over all rules.";

/// A path under a kind of traffic.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub path: &'static str,
    /// How many rules or prefixes it had.
    pub rules: u32,
    /// The traffic.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Bytes of a frame, the check sequence not included.
    pub frame: u32,
    /// Packets a second that arrived right, the median.
    pub pps: f64,
    /// The CPU's time for each.
    pub ns_per_packet: f64,
    /// `pps` against that of the stack with the flat list, round by round.
    pub ratio_to_kernel: Option<f64>,
    /// The same against the bare TC program.
    pub ratio_to_limit: Option<f64>,
    /// `ns_per_packet` without generator and sink.
    pub net_ns_per_packet: Option<f64>,
    /// Time that the sending thread and the CPU's ksoftirqd had for each packet, the making of the generator's pages included.
    pub cpu_ns_per_packet: Option<f64>,
    /// `pps` over the rounds.
    pub spread: Spread,
    /// `pps` of each round.
    pub round_pps: Vec<f64>,
    /// Packets sent, in all rounds.
    pub sent: u64,
    /// Of these, how many arrived right.
    pub arrived: u64,
    /// Packets that arrived and were wrong.
    pub wrong: u64,
    /// What Wayfork's fast path did, by action, over all of a path's measurements so far.
    pub actions: Option<BTreeMap<String, u64>>,
}

/// What was not measured, and why.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// The path.
    pub path: &'static str,
    /// How many rules or prefixes; None for all.
    pub rules: Option<u32>,
    /// The family; None for both.
    pub family: Option<Family>,
    /// Why.
    pub why: String,
}

/// The cost of installing rules.
#[derive(Clone, Debug, Serialize)]
pub struct LoadingRow {
    /// The path.
    pub path: &'static str,
    /// How many rules or prefixes.
    pub rules: u32,
    /// Their family.
    pub family: Family,
    /// Until packets are decided by them.
    pub ms: f64,
    /// The most memory that the process had, in bytes; None where none stays.
    pub peak_bytes: Option<u64>,
    /// The memory of its eBPF maps, in bytes.
    pub map_bytes: Option<u64>,
    /// What the kernel's memory rose by, the maps included, in bytes: of the whole machine.
    pub kernel_bytes: Option<u64>,
}

/// The time of single packets.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyRow {
    /// The path.
    pub path: &'static str,
    /// How many rules or prefixes.
    pub rules: u32,
    /// The family.
    pub family: Family,
    /// Packets.
    pub packets: usize,
    /// Half of them took at most this long, from generator to sink.
    pub p50_ns: f64,
    /// 99 of 100.
    pub p99_ns: f64,
}

/// What the host itself can send.
#[derive(Clone, Debug, Serialize)]
pub struct HostRow {
    /// The path.
    pub path: &'static str,
    /// How many rules or prefixes.
    pub rules: u32,
    /// The family.
    pub family: Family,
    /// Datagrams a second by `sendto` on one socket without a peer.
    pub udp_sends: f64,
    /// TCP connections begun a second.
    pub tcp_connects: f64,
}

/// A program by itself.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramRow {
    /// Its name.
    pub program: String,
    /// How many rules or prefixes it decided by; None where it has none.
    pub rules: Option<u32>,
    /// The family of the packet.
    pub family: Option<Family>,
    /// Time of one run over a packet, by BPF_PROG_TEST_RUN, with all it needs in the CPU's caches.
    pub ns: Option<f64>,
    /// Instructions that the verifier looked at.
    pub verified_instructions: Option<u32>,
    /// Bytes of stack, of all frames of the deepest call.
    pub stack_bytes: Option<u32>,
}

/// One look-up in one structure.
#[derive(Clone, Debug, Serialize)]
pub struct LookupRow {
    /// What holds the prefixes; `none` is the cost of making the addresses, which the others do not include.
    pub structure: &'static str,
    /// The family.
    pub family: Family,
    /// How many prefixes: those of `router_common::bench::lookups`.
    pub prefixes: u32,
    /// `one` address again and again, or `random` ones that do not come again.
    pub addresses: &'static str,
    /// Time of a look-up, the median over the rounds.
    pub ns: f64,
    /// The same over the rounds.
    pub spread: Spread,
    /// The time of a look-up in `LPM_TRIE` against this one, round by round.
    pub faster_than_trie: Option<f64>,
    /// Until all prefixes are in the map.
    pub fill_ms: Option<f64>,
    /// The size of the map's entries.
    pub bytes: Option<usize>,
}

/// An update of the fast path.
#[derive(Clone, Debug, Serialize)]
pub struct UpdateRow {
    /// `first load` and `one changed` of what the kernel holds, without a running router. `load` of all that is new to a running one
    /// and `change` of two, by `wayfork reload` under traffic.
    pub update: &'static str,
    /// What there is so much of: `rules`, `routes` of one table, or `prefixes` of two sets.
    pub of: &'static str,
    /// How much.
    pub rules: u32,
    /// The family.
    pub family: Family,
    /// All of it: until the kernel's state decides in the fast path, or until `wayfork reload` has ended.
    pub ms: Option<f64>,
    /// Of that, reading the kernel.
    pub read_ms: Option<f64>,
    /// Compiling.
    pub compile_ms: Option<f64>,
    /// Writing the maps; at a first load, loading the program too.
    pub write_ms: Option<f64>,
    /// Packets sent during a reload, and shortly before and after.
    pub sent: Option<u64>,
    /// Of these, how many arrived.
    pub arrived: Option<u64>,
    /// How many did not.
    pub lost: Option<u64>,
    /// How many arrived as neither the old nor the new policy has it.
    pub wrong: Option<u64>,
    /// Bursts of 128 packets of which some went by the old and some by the new policy.
    pub mixed_bursts: Option<u64>,
    /// Packets that the fast path passed to the stack, for whatever reason.
    pub by_stack: Option<u64>,
    /// Of these, those for the reason `resync`.
    pub by_resync: Option<u64>,
    /// How long the fast path did not decide.
    pub off_ms: Option<f64>,
    /// The most memory that the process had meanwhile, in bytes.
    pub peak_bytes: Option<u64>,
    /// The most memory that its maps had meanwhile, in bytes.
    pub map_bytes: Option<u64>,
    /// The most that the kernel's memory rose by meanwhile, the maps included, in bytes: of the whole machine.
    pub kernel_bytes: Option<u64>,
}

impl UpdateRow {
    /// One with its time.
    pub(super) fn new(update: &'static str, of: &'static str, rules: u32, family: Family, ms: Option<f64>) -> Self {
        UpdateRow {
            update,
            of,
            rules,
            family,
            ms,
            read_ms: None,
            compile_ms: None,
            write_ms: None,
            sent: None,
            arrived: None,
            lost: None,
            wrong: None,
            mixed_bursts: None,
            by_stack: None,
            by_resync: None,
            off_ms: None,
            peak_bytes: None,
            map_bytes: None,
            kernel_bytes: None,
        }
    }
}

impl Traffic {
    /// For a person.
    pub fn text(&self) -> String {
        let Traffic { family, packet, flows, rp_filter } = self;
        format!("{family}, {packet} bytes, {}, rp_filter {rp_filter}", flows.name())
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic { family: Family::Ipv4, packet: 64, flows: Flows::One, rp_filter: 0 }
    }
}
