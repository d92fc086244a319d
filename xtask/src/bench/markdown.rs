//! The figures as a page of Markdown.

use indicatif::HumanCount;

use super::document::{Report, Row, once};

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = format!("# Measured\n\n{}\n\n{}\n", machine(report), report.method.text);
    page += &format!(
        "\n{} rounds of {} ms for every path; spread: quarters of the rounds.\n",
        report.method.rounds, report.method.slice_ms
    );
    for traffic in report.traffic() {
        let rows: Vec<&Row> = report.results.iter().filter(|row| row.traffic == traffic).collect();
        page += &format!(
            "\n## {}\n\nThousand packets a second, and against the stack with the flat list:\n\n",
            traffic.text()
        );
        page += &by_size(&rows, |row| {
            let ratio = row.ratio_to_kernel.map_or(String::new(), |ratio| format!(" ({ratio:.2}×)"));
            row.pps.map_or(String::new(), |pps| format!("{:.1}{ratio}", pps / 1e3))
        });
        page += "\nEvery figure:\n\n";
        page += &details(&rows);
    }
    page += &further(report);
    if !report.left_out.is_empty() {
        page += "\n## Left out\n\n";
        for left in &report.left_out {
            let rules = left.rules.map(|rules| format!(", {} rules", number(rules))).unwrap_or_default();
            page += &format!("- {}{rules}: {}\n", left.path, left.why.replace('\n', " "));
        }
    }
    page
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let memory = machine.memory.map_or(String::new(), |bytes| format!(", {} GiB", bytes >> 30));
    let load = machine.load.map_or(String::new(), |load| format!(", load {load} at the beginning"));
    format!(
        "{}, {} CPUs{memory}{}, Linux {} {}{load}; wayfork {}.",
        machine.processor.as_deref().unwrap_or("An unnamed processor"),
        machine.cpus,
        if machine.virtual_machine { ", a virtual machine" } else { "" },
        machine.kernel,
        machine.architecture,
        machine.wayfork
    )
}

/// A line per path, a column per number of rules.
fn by_size(rows: &[&Row], cell: impl Fn(&Row) -> String) -> String {
    let sizes = once(rows.iter().map(|row| row.rules));
    let paths = once(rows.iter().map(|row| row.path.as_str()));
    let mut header = vec!["path".to_owned()];
    header.extend(sizes.iter().map(|size| number(*size)));
    let lines = paths.iter().map(|path| {
        let mut line = vec![(*path).to_owned()];
        line.extend(sizes.iter().map(|size| {
            let row = rows.iter().find(|row| row.path == *path && row.rules == *size);
            row.map_or("–".to_owned(), |row| cell(row))
        }));
        line
    });
    table(&header, lines)
}

fn details(rows: &[&Row]) -> String {
    let header = ["path", "rules", "kpps", "spread", "ns", "net ns", "CPU ns", "× kernel", "× limit", "arrived", "did"];
    let lines = rows.iter().map(|row| {
        let did = row.actions.iter().flatten().max_by_key(|(_, packets)| **packets);
        vec![
            row.path.clone(),
            number(row.rules),
            decimals(row.pps.map(|pps| pps / 1e3), 1),
            format!("{:.1}–{:.1}", row.spread.q1 / 1e3, row.spread.q3 / 1e3),
            decimals(row.ns_per_packet, 0),
            decimals(row.net_ns_per_packet, 0),
            decimals(row.cpu_ns_per_packet, 0),
            decimals(row.ratio_to_kernel, 2),
            decimals(row.ratio_to_limit, 2),
            format!("{:.2} %", 100.0 * row.arrived as f64 / row.sent.max(1) as f64),
            did.map_or(String::new(), |(action, _)| action.clone()),
        ]
    });
    table(&header.map(str::to_owned), lines)
}

fn further(report: &Report) -> String {
    let mib = |bytes: Option<u64>| decimals(bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)), 1);
    let mut page = String::new();
    let mut part = |heading: &str, header: &[&str], lines: Vec<Vec<String>>| {
        if !lines.is_empty() {
            let header: Vec<String> = header.iter().map(|word| (*word).to_owned()).collect();
            page += &format!("\n## {heading}\n\n{}", table(&header, lines.into_iter()));
        }
    };
    let rows = report.loading.iter().map(|row| {
        let (rules, ms) = (number(row.rules), decimals(Some(row.ms), 1));
        vec![row.path.clone(), rules, row.family.clone(), ms, mib(row.peak_bytes), mib(row.map_bytes)]
    });
    part("Installing the rules", &["path", "rules", "family", "ms", "peak MiB", "maps MiB"], rows.collect());
    let rows = report.latency.iter().map(|row| {
        let us = |ns: f64| decimals(Some(ns / 1e3), 1);
        vec![row.path.clone(), number(row.rules), row.family.clone(), us(row.p50_ns), us(row.p99_ns)]
    });
    part("One packet at a time", &["path", "rules", "family", "p50 µs", "p99 µs"], rows.collect());
    let rows = report.host_traffic.iter().map(|row| {
        let kilo = |rate: f64| decimals(Some(rate / 1e3), 1);
        vec![row.path.clone(), number(row.rules), row.family.clone(), kilo(row.udp_sends), kilo(row.tcp_connects)]
    });
    let header = ["path", "rules", "family", "thousand datagrams/s", "thousand connect()/s"];
    part("What the host itself sends", &header, rows.collect());
    let rows = report.programs.iter().map(|row| {
        let count = |value: Option<u32>| value.map_or(String::new(), number);
        let family = row.family.clone().unwrap_or_default();
        let (verified, stack) = (count(row.verified_instructions), count(row.stack_bytes));
        vec![row.program.clone(), count(row.rules), family, decimals(row.ns, 0), verified, stack]
    });
    let header = ["program", "rules", "family", "ns", "verified instructions", "stack bytes"];
    part("The programs by themselves", &header, rows.collect());
    page
}

/// With commas between thousands.
fn number(number: u32) -> String {
    HumanCount(number.into()).to_string()
}

fn decimals(value: Option<f64>, places: usize) -> String {
    value.map_or(String::new(), |value| format!("{value:.places$}"))
}

fn table(header: &[String], lines: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule: String = header.iter().enumerate().map(|(place, _)| if place == 0 { "|---" } else { "|--:" }).collect();
    let mut text = line(header) + &rule + "|\n";
    lines.for_each(|cells| text += &line(&cells));
    text
}
