//! What `wayfork bench --json` writes, as far as it is shown here.

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Report {
    pub machine: Machine,
    pub method: Method,
    pub results: Vec<Row>,
    pub left_out: Vec<LeftOut>,
    pub loading: Vec<Loading>,
    pub latency: Vec<Latency>,
    pub host_traffic: Vec<Host>,
    pub programs: Vec<Program>,
}

#[derive(Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub architecture: String,
    pub processor: Option<String>,
    pub cpus: u32,
    pub memory: Option<u64>,
    pub virtual_machine: bool,
    pub load: Option<f64>,
    pub wayfork: String,
}

#[derive(Deserialize)]
pub struct Method {
    pub text: String,
    pub rounds: u32,
    pub slice_ms: u64,
}

/// A path under a kind of traffic. What is null in the document for want of a number is None here.
#[derive(Deserialize)]
pub struct Row {
    pub path: String,
    pub rules: u32,
    #[serde(flatten)]
    pub traffic: Traffic,
    pub pps: Option<f64>,
    pub ns_per_packet: Option<f64>,
    pub net_ns_per_packet: Option<f64>,
    pub cpu_ns_per_packet: Option<f64>,
    pub ratio_to_kernel: Option<f64>,
    pub ratio_to_limit: Option<f64>,
    pub spread: Spread,
    pub sent: u64,
    pub arrived: u64,
    pub actions: Option<std::collections::BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
pub struct Spread {
    pub q1: f64,
    pub q3: f64,
}

#[derive(Clone, Deserialize, PartialEq, Eq)]
pub struct Traffic {
    pub family: String,
    pub packet: u32,
    pub flows: String,
    pub rp_filter: u32,
}

#[derive(Deserialize)]
pub struct LeftOut {
    pub path: String,
    pub rules: Option<u32>,
    pub why: String,
}

#[derive(Deserialize)]
pub struct Loading {
    pub path: String,
    pub rules: u32,
    pub family: String,
    pub ms: f64,
    pub peak_bytes: Option<u64>,
    pub map_bytes: Option<u64>,
}

#[derive(Deserialize)]
pub struct Latency {
    pub path: String,
    pub rules: u32,
    pub family: String,
    pub p50_ns: f64,
    pub p99_ns: f64,
}

#[derive(Deserialize)]
pub struct Host {
    pub path: String,
    pub rules: u32,
    pub family: String,
    pub udp_sends: f64,
    pub tcp_connects: f64,
}

#[derive(Deserialize)]
pub struct Program {
    pub program: String,
    pub rules: Option<u32>,
    pub family: Option<String>,
    pub ns: Option<f64>,
    pub verified_instructions: Option<u32>,
    pub stack_bytes: Option<u32>,
}

impl Traffic {
    /// For a person.
    pub fn text(&self) -> String {
        let Traffic { family, packet, flows, rp_filter } = self;
        let flows = match flows.as_str() {
            "one" => "one flow",
            "many" => "4,096 flows",
            "random" => "never repeating addresses",
            other => other,
        };
        format!("{family}, {packet} bytes, {flows}, rp_filter {rp_filter}")
    }

    /// For a file name.
    pub fn slug(&self) -> String {
        format!("{}-{}-{}-rp{}", self.family, self.packet, self.flows, self.rp_filter)
    }
}

impl Report {
    /// The kinds of traffic, each once, in the order of the measurements.
    pub fn traffic(&self) -> Vec<Traffic> {
        let mut kinds: Vec<Traffic> = Vec::new();
        for row in &self.results {
            if !kinds.contains(&row.traffic) {
                kinds.push(row.traffic.clone());
            }
        }
        kinds
    }
}

/// Values of one kind, each once, in the order in which they come.
pub fn once<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}
