//! The benchmark's tables.

use crate::bench::Traffic;
use crate::bench::paths::Path;
use crate::bench::report::{Report, Row};
use comfy_table::{Cell, CellAlignment, Table};
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::fmt::Write;

/// The paths, one a line.
pub fn list(paths: &[Path]) -> String {
    let width = paths.iter().map(|path| path.name.len()).max().unwrap_or(0);
    paths.iter().map(|path| format!("{:width$}  {}\n", path.name, path.about)).collect()
}

/// The paths as one document.
pub fn list_json(paths: &[Path]) -> String {
    let paths: Vec<Value> = paths.iter().map(|path| json!({ "path": path.name, "about": path.about })).collect();
    json!({ "schema": 1, "paths": paths }).to_string() + "\n"
}

/// All of it, for a person.
pub fn text(report: &Report, color: bool) -> String {
    let mut text = String::new();
    let mut kinds: Vec<Traffic> = Vec::new();
    for row in &report.results {
        if !kinds.contains(&row.traffic) {
            kinds.push(row.traffic);
        }
    }
    for traffic in kinds {
        let rows = report.results.iter().filter(|row| row.traffic == traffic);
        // Writing to a String does not fail.
        writeln!(text, "{}\n{}\n", traffic.text(), results(rows, color)).ok();
    }
    let parts = [
        loading(report, color),
        latency(report, color),
        host_traffic(report, color),
        programs(report, color),
        lookups(report, color),
        updates(report, color),
    ];
    for (heading, table) in parts.into_iter().flatten() {
        writeln!(text, "{heading}\n{table}\n").ok();
    }
    for left in &report.left_out {
        let rules = left.rules.map(|rules| format!(" with {}", number(rules))).unwrap_or_default();
        writeln!(text, "left out: {}{rules}: {}", left.path, left.why).ok();
    }
    let machine = &report.machine;
    let processor = machine.processor.as_deref().unwrap_or("an unnamed processor");
    writeln!(text, "{}, {} CPUs, Linux {} {}", processor, machine.cpus, machine.kernel, machine.architecture).ok();
    writeln!(text, "{}", report.method.text).ok();
    text
}

fn results<'a>(rows: impl Iterator<Item = &'a Row>, color: bool) -> Table {
    let mut table = super::table(color);
    table.set_header(["path", "rules", "kpps", "quarters", "ns", "net ns", "× kernel", "× limit", "arrived", "did"]);
    let ratio = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    for row in rows {
        let spread = format!("{:.1}–{:.1}", row.spread.q1 / 1e3, row.spread.q3 / 1e3);
        let net = row.net_ns_per_packet.map_or(String::new(), |ns| format!("{ns:.0}"));
        let arrived = format!("{:.2} %", 100.0 * row.arrived as f64 / row.sent.max(1) as f64);
        table.add_row(
            [Cell::new(row.path)]
                .into_iter()
                .chain(
                    [
                        number(row.rules),
                        format!("{:.1}", row.pps / 1e3),
                        spread,
                        format!("{:.0}", row.ns_per_packet),
                        net,
                        ratio(row.ratio_to_kernel),
                        ratio(row.ratio_to_limit),
                        arrived,
                    ]
                    .map(right),
                )
                .chain([Cell::new(did(row))]),
        );
    }
    table
}

/// What the fast path did most.
fn did(row: &Row) -> String {
    let most = row.actions.iter().flatten().max_by_key(|(_, packets)| **packets);
    most.map_or(String::new(), |(action, _)| action.clone())
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// A table with left-aligned first columns and numbers.
fn numbers(header: &[&str], rows: Vec<(String, Vec<String>)>, color: bool) -> Option<Table> {
    if rows.is_empty() {
        return None;
    }
    let mut table = super::table(color);
    table.set_header(header);
    for (name, cells) in rows {
        table.add_row([Cell::new(name)].into_iter().chain(cells.into_iter().map(right)));
    }
    Some(table)
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or(String::new(), |bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)))
}

fn loading(report: &Report, color: bool) -> Option<(&'static str, Table)> {
    let rows = report.loading.iter().map(|row| {
        let cells = vec![
            number(row.rules),
            row.family.to_string(),
            format!("{:.1}", row.ms),
            mib(row.peak_bytes),
            mib(row.map_bytes),
            mib(row.kernel_bytes),
        ];
        (row.path.to_owned(), cells)
    });
    let header = ["path", "rules", "family", "ms", "peak MiB", "maps MiB", "kernel MiB"];
    Some(("Installing the rules", numbers(&header, rows.collect(), color)?))
}

fn latency(report: &Report, color: bool) -> Option<(&'static str, Table)> {
    let rows = report.latency.iter().map(|row| {
        let us = |ns: f64| format!("{:.1}", ns / 1e3);
        (row.path.to_owned(), vec![number(row.rules), row.family.to_string(), us(row.p50_ns), us(row.p99_ns)])
    });
    Some(("One packet at a time", numbers(&["path", "rules", "family", "p50 µs", "p99 µs"], rows.collect(), color)?))
}

fn host_traffic(report: &Report, color: bool) -> Option<(&'static str, Table)> {
    let rows = report.host_traffic.iter().map(|row| {
        let kilo = |rate: f64| format!("{:.1}", rate / 1e3);
        let cells = vec![number(row.rules), row.family.to_string(), kilo(row.udp_sends), kilo(row.tcp_connects)];
        (row.path.to_owned(), cells)
    });
    let header = ["path", "rules", "family", "thousand datagrams/s", "thousand connect()/s"];
    Some(("What the host itself sends", numbers(&header, rows.collect(), color)?))
}

fn lookups(report: &Report, color: bool) -> Option<(&'static str, Table)> {
    let rows = report.lookups.iter().map(|row| {
        let cells = vec![
            row.family.to_string(),
            number(row.prefixes),
            row.addresses.to_owned(),
            format!("{:.1}", row.ns),
            format!("{:.1}–{:.1}", row.spread.q1, row.spread.q3),
            row.faster_than_trie.map_or(String::new(), |ratio| format!("{ratio:.2}")),
            row.fill_ms.map_or(String::new(), |ms| format!("{ms:.0}")),
            row.bytes.map_or(String::new(), |bytes| format!("{:.2}", bytes as f64 / f64::from(1 << 20))),
        ];
        (row.structure.to_owned(), cells)
    });
    let header = ["structure", "family", "prefixes", "addresses", "ns", "quarters", "× faster", "fill ms", "MiB"];
    Some(("Look-ups by themselves", numbers(&header, rows.collect(), color)?))
}

fn updates(report: &Report, color: bool) -> Option<(&'static str, Table)> {
    let rows = report.updates.iter().map(|row| {
        let ms = |ms: Option<f64>| ms.map_or(String::new(), |ms| format!("{ms:.1}"));
        let count = |count: Option<u64>| count.map_or(String::new(), |count| HumanCount(count).to_string());
        let cells = vec![
            format!("{} {}", number(row.rules), row.of),
            row.family.to_string(),
            ms(row.ms),
            ms(row.read_ms),
            ms(row.compile_ms),
            ms(row.write_ms),
            count(row.sent),
            count(row.lost),
            count(row.wrong),
            count(row.mixed_bursts),
            count(row.by_stack),
            ms(row.off_ms),
            mib(row.peak_bytes),
            mib(row.map_bytes),
            mib(row.kernel_bytes),
        ];
        (row.update.to_owned(), cells)
    });
    let header = [
        "update",
        "of",
        "family",
        "ms",
        "read",
        "compile",
        "write",
        "sent",
        "lost",
        "wrong",
        "mixed",
        "by stack",
        "off ms",
        "peak MiB",
        "maps MiB",
        "kernel MiB",
    ];
    Some(("Updates", numbers(&header, rows.collect(), color)?))
}

fn programs(report: &Report, color: bool) -> Option<(&'static str, Table)> {
    let rows = report.programs.iter().map(|row| {
        let count = |value: Option<u32>| value.map_or(String::new(), number);
        let cells = vec![
            count(row.rules),
            row.family.map_or(String::new(), |family| family.to_string()),
            row.ns.map_or(String::new(), |ns| format!("{ns:.0}")),
            count(row.verified_instructions),
            count(row.stack_bytes),
        ];
        (row.program.clone(), cells)
    });
    let header = ["program", "rules", "family", "ns", "verified instructions", "stack bytes"];
    Some(("The programs by themselves", numbers(&header, rows.collect(), color)?))
}

/// With commas between thousands.
fn number(number: u32) -> String {
    HumanCount(number.into()).to_string()
}
