//! What `wayfork bench --json` writes, read by the names of its fields: the product has the types.

use anyhow::{Context as _, Result};
use indicatif::HumanCount;
use serde_json::Value;

/// The whole document.
pub struct Report(Value);

impl Report {
    /// From its text.
    pub fn read(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("this is no JSON")?;
        value["results"].as_array().context("this is no document of `wayfork bench --json`: it has no results")?;
        Ok(Report(value))
    }

    /// A field of `machine` or `method`.
    pub fn field(&self, part: &str, name: &str) -> &Value {
        &self.0[part][name]
    }

    /// A part that is a list: `results`, `loading` …
    pub fn rows(&self, part: &str) -> impl Iterator<Item = Row<'_>> {
        self.0[part].as_array().into_iter().flatten().map(Row)
    }

    /// The kinds of traffic, in the order of the measurements: the name of each, and its results.
    pub fn by_traffic(&self) -> Vec<(String, Vec<Row<'_>>)> {
        let kinds = once(self.rows("results").map(|row| row.traffic()));
        let of = |kind: &String| self.rows("results").filter(|row| row.traffic() == *kind).collect();
        kinds.iter().map(|kind| (kind.clone(), of(kind))).collect()
    }
}

/// An entry of a list.
#[derive(Clone, Copy)]
pub struct Row<'a>(&'a Value);

impl<'a> Row<'a> {
    /// A number; None where it is null or missing.
    pub fn number(self, name: &str) -> Option<f64> {
        self.0[name].as_f64()
    }

    /// A list of numbers; empty where it is null or missing.
    pub fn numbers(self, name: &str) -> Vec<f64> {
        self.0[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    }

    /// A word; empty where it is null or missing.
    pub fn text(self, name: &str) -> &'a str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// A field as it is.
    pub fn value(self, name: &str) -> &'a Value {
        &self.0[name]
    }

    /// How many rules.
    pub fn rules(self) -> u64 {
        self.0["rules"].as_u64().unwrap_or_default()
    }

    /// What was sent: for a person, and for a file name once its spaces are gone.
    fn traffic(self) -> String {
        let [packet, rp_filter] = ["packet", "rp_filter"].map(|name| self.number(name).unwrap_or_default());
        let flows = match self.text("flows") {
            "one" => "one flow",
            "many" => "4096 flows",
            "random" => "never repeating",
            other => other,
        };
        format!("{}, {packet} bytes, {flows}, rp_filter {rp_filter}", self.text("family"))
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

/// With commas between thousands.
pub fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// A small document for tests.
#[cfg(test)]
pub const SAMPLE: &str = r#"{ "machine": { "processor": "P", "cpus": 2 }, "method": { "text": "How.", "rounds": 7, "slice_ms": 300 },
    "results": [
        { "path": "stack-flat", "rules": 1000, "family": "ipv4", "packet": 64, "flows": "one", "rp_filter": 0,
          "pps": 100000.0, "cpu_ns_per_packet": 9500.0, "round_pps": [100000.0], "ratio_to_kernel": 1.0, "spread": { "q1": 99000.0, "q3": 101000.0 }, "sent": 200, "arrived": 199 },
        { "path": "wayfork-redirect", "rules": 1000, "family": "ipv4", "packet": 64, "flows": "one", "rp_filter": 0,
          "pps": 2500000.0, "round_pps": [2500000.0], "ratio_to_kernel": 25.0, "spread": { "q1": 1.0, "q3": 2.0 }, "sent": 200, "arrived": 200,
          "actions": { "redirect": 9, "pass: no-neighbour": 1 } } ],
    "lookups": [ { "structure": "tree", "family": "ipv4", "prefixes": 1000000, "addresses": "random", "ns": 150.3,
        "spread": { "q1": 149.4, "q3": 150.6 }, "faster_than_trie": 8.76, "fill_ms": null, "bytes": 14994637 } ],
    "updates": [ { "update": "change", "of": "rules", "rules": 1000, "family": "ipv4", "ms": 21.5, "read_ms": null, "sent": 5000,
        "lost": 0, "wrong": 0, "mixed_bursts": 1, "by_stack": 7, "off_ms": 12.0, "peak_bytes": 9437184, "map_bytes": 3145728, "kernel_bytes": 4194304 } ],
    "left_out": [ { "path": "stack-nft", "rules": null, "why": "no nft" } ] }"#;
