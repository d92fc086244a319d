//! The figures as a page of Markdown.

use super::document::{Report, Row, count, once};
use super::goals;

/// How the goals' figures are made.
const GOALS: &str = "64 bytes, one flow, rp_filter 0 where nothing else is said. Medians, and as spread the least and the greatest round; \
of look-ups what the quarters allow. Ratios are of the same round, but for costs with different numbers of rules.";

/// A column: its heading, and what stands in it.
type Column = (&'static str, fn(Row<'_>) -> String);

/// The whole page.
pub fn page(report: &Report) -> String {
    let method = |name| report.field("method", name);
    let mut page = format!(
        "# Measured\n\n{}\n\n{}\n\n{} rounds of {} ms for every path; quarters: those of the rounds.\n",
        machine(report),
        method("text").as_str().unwrap_or_default(),
        method("rounds"),
        method("slice_ms")
    );
    let goals = goals::lines(report);
    if !goals.is_empty() {
        page += &format!("\n## To reach\n\n{GOALS}\n\n");
        let header = ["measure", "goal", "family", "measured", "spread", "reached"].map(str::to_owned);
        page += &write(&header, goals.into_iter());
    }
    for (traffic, rows) in report.by_traffic() {
        page += &format!("\n## {traffic}\n\nThousand packets a second, and against the stack with the flat list:\n\n");
        page += &by_size(&rows);
        page += "\nEvery figure:\n\n";
        page += &table(RESULTS, rows.into_iter());
    }
    for (part, heading, columns) in [
        ("loading", "Installing the rules", LOADING),
        ("latency", "One packet at a time", LATENCY),
        ("host_traffic", "What the host itself sends", HOST_TRAFFIC),
        ("programs", "The programs by themselves", PROGRAMS),
        ("lookups", "Look-ups by themselves", LOOKUPS),
        ("updates", "Updates", UPDATES),
        ("left_out", "Left out", LEFT_OUT),
    ] {
        let mut rows = report.rows(part).peekable();
        if rows.peek().is_some() {
            page += &format!("\n## {heading}\n\n{}", table(columns, rows));
        }
    }
    page
}

fn machine(report: &Report) -> String {
    let text = |name| report.field("machine", name).as_str().unwrap_or("unknown");
    let number = |name| report.field("machine", name).as_f64().unwrap_or_default();
    let guest = report.field("machine", "virtual_machine") == true;
    format!(
        "{}, {} CPUs, {:.0} GiB{}, Linux {} {}, load {} at the beginning; wayfork {}.",
        text("processor"),
        number("cpus"),
        number("memory") / f64::from(1 << 30),
        if guest { ", a virtual machine" } else { "" },
        text("kernel"),
        text("architecture"),
        number("load"),
        text("wayfork")
    )
}

/// A line per path, a column per number of rules.
fn by_size(rows: &[Row<'_>]) -> String {
    let sizes = once(rows.iter().map(|row| row.rules()));
    let mut header = vec!["path".to_owned()];
    header.extend(sizes.iter().map(|size| count(*size)));
    let cell = |row: &Row<'_>| {
        let ratio = row.number("ratio_to_kernel").map_or(String::new(), |ratio| format!(" ({ratio:.2}×)"));
        format!("{}{ratio}", decimals(row.number("pps"), 1e3, 1))
    };
    let lines = once(rows.iter().map(|row| row.text("path"))).into_iter().map(|path| {
        let of = |size: &u64| rows.iter().find(|row| row.text("path") == path && row.rules() == *size);
        let cells = sizes.iter().map(|size| of(size).map_or("–".to_owned(), cell));
        [path.to_owned()].into_iter().chain(cells).collect()
    });
    write(&header, lines)
}

const PATH: Column = ("path", |row| row.text("path").to_owned());
const RULES: Column = ("rules or prefixes", |row| row.number("rules").map_or(String::new(), |_| count(row.rules())));
const FAMILY: Column = ("family", |row| row.text("family").to_owned());

const RESULTS: &[Column] = &[
    PATH,
    RULES,
    ("kpps", |row| decimals(row.number("pps"), 1e3, 1)),
    ("quarters", |row| {
        let quarter = |name| decimals(row.value("spread")[name].as_f64(), 1e3, 1);
        format!("{}–{}", quarter("q1"), quarter("q3"))
    }),
    ("ns", |row| decimals(row.number("ns_per_packet"), 1.0, 0)),
    ("net ns", |row| decimals(row.number("net_ns_per_packet"), 1.0, 0)),
    ("CPU ns", |row| decimals(row.number("cpu_ns_per_packet"), 1.0, 0)),
    ("× kernel", |row| decimals(row.number("ratio_to_kernel"), 1.0, 2)),
    ("× limit", |row| decimals(row.number("ratio_to_limit"), 1.0, 2)),
    ("arrived %", |row| {
        decimals(row.number("arrived").zip(row.number("sent")).map(|(arrived, sent)| 100.0 * arrived / sent), 1.0, 2)
    }),
    ("did", |row| {
        let actions = row.value("actions").as_object().into_iter().flatten();
        actions.max_by_key(|(_, packets)| packets.as_u64()).map_or(String::new(), |(action, _)| action.clone())
    }),
];
const LOADING: &[Column] = &[
    PATH,
    RULES,
    FAMILY,
    ("ms", |row| decimals(row.number("ms"), 1.0, 1)),
    ("peak MiB", |row| decimals(row.number("peak_bytes"), f64::from(1 << 20), 1)),
    ("maps MiB", |row| decimals(row.number("map_bytes"), f64::from(1 << 20), 1)),
    ("kernel MiB", |row| decimals(row.number("kernel_bytes"), f64::from(1 << 20), 1)),
];
const LATENCY: &[Column] = &[
    PATH,
    RULES,
    FAMILY,
    ("p50 µs", |row| decimals(row.number("p50_ns"), 1e3, 1)),
    ("p99 µs", |row| decimals(row.number("p99_ns"), 1e3, 1)),
];
const HOST_TRAFFIC: &[Column] = &[
    PATH,
    RULES,
    FAMILY,
    ("thousand datagrams/s", |row| decimals(row.number("udp_sends"), 1e3, 1)),
    ("thousand connect()/s", |row| decimals(row.number("tcp_connects"), 1e3, 1)),
];
const PROGRAMS: &[Column] = &[
    ("program", |row| row.text("program").to_owned()),
    RULES,
    FAMILY,
    ("ns", |row| decimals(row.number("ns"), 1.0, 0)),
    ("verified instructions", |row| decimals(row.number("verified_instructions"), 1.0, 0)),
    ("stack bytes", |row| decimals(row.number("stack_bytes"), 1.0, 0)),
];
const LOOKUPS: &[Column] = &[
    ("structure", |row| row.text("structure").to_owned()),
    FAMILY,
    ("prefixes", |row| row.number("prefixes").map_or(String::new(), |prefixes| count(prefixes as u64))),
    ("addresses", |row| row.text("addresses").to_owned()),
    ("ns", |row| decimals(row.number("ns"), 1.0, 1)),
    ("quarters", |row| {
        let quarter = |name| decimals(row.value("spread")[name].as_f64(), 1.0, 1);
        format!("{}–{}", quarter("q1"), quarter("q3"))
    }),
    ("× faster than LPM_TRIE", |row| decimals(row.number("faster_than_trie"), 1.0, 2)),
    ("fill ms", |row| decimals(row.number("fill_ms"), 1.0, 1)),
    ("MiB", |row| decimals(row.number("bytes"), f64::from(1 << 20), 2)),
];
const UPDATES: &[Column] = &[
    ("update", |row| row.text("update").to_owned()),
    ("of", |row| format!("{} {}", count(row.rules()), row.text("of"))),
    FAMILY,
    ("ms", |row| decimals(row.number("ms"), 1.0, 1)),
    ("read", |row| decimals(row.number("read_ms"), 1.0, 1)),
    ("compile", |row| decimals(row.number("compile_ms"), 1.0, 1)),
    ("write", |row| decimals(row.number("write_ms"), 1.0, 1)),
    ("packets", |row| decimals(row.number("sent"), 1.0, 0)),
    ("lost", |row| decimals(row.number("lost"), 1.0, 0)),
    ("wrong", |row| decimals(row.number("wrong"), 1.0, 0)),
    ("mixed bursts", |row| decimals(row.number("mixed_bursts"), 1.0, 0)),
    ("by the stack", |row| decimals(row.number("by_stack"), 1.0, 0)),
    ("off ms", |row| decimals(row.number("off_ms"), 1.0, 1)),
    ("peak MiB", |row| decimals(row.number("peak_bytes"), f64::from(1 << 20), 1)),
    ("maps MiB", |row| decimals(row.number("map_bytes"), f64::from(1 << 20), 1)),
    ("kernel MiB", |row| decimals(row.number("kernel_bytes"), f64::from(1 << 20), 1)),
];
const LEFT_OUT: &[Column] = &[PATH, RULES, FAMILY, ("why", |row| row.text("why").replace(['\n', '|'], " "))];

fn decimals(value: Option<f64>, unit: f64, places: usize) -> String {
    value.map_or(String::new(), |value| format!("{:.places$}", value / unit))
}

fn table<'a>(columns: &[Column], rows: impl Iterator<Item = Row<'a>>) -> String {
    let header: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    write(&header, rows.map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()))
}

fn write(header: &[String], lines: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule: String = header.iter().enumerate().map(|(place, _)| if place == 0 { "|---" } else { "|--:" }).collect();
    let mut text = line(header) + &rule + "|\n";
    lines.for_each(|cells| text += &line(&cells));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::SAMPLE;

    #[test]
    fn the_page_has_what_was_measured_and_what_was_not() {
        let page = page(&Report::read(SAMPLE).expect("a document"));
        assert!(page.contains("## ipv4, 64 bytes, one flow, rp_filter 0"), "{page}");
        assert!(page.contains("| path | 1,000 |") && page.contains("| wayfork-redirect | 2500.0 (25.00×) |"), "{page}");
        assert!(
            page.contains("| `redirect`, 1,000 rules, against the stack with the same flat list | ≥ 25× | ipv4 | 25.0× | 25.0–25.0 | yes |"),
            "{page}"
        );
        assert!(page.contains("99.0–101.0") && page.contains("| 99.50 |") && page.contains("| redirect |"), "{page}");
        assert!(page.contains("| stack-nft |  |  | no nft |") && !page.contains("Installing"), "{page}");
        assert!(
            page.contains(
                "| change | 1,000 rules | ipv4 | 21.5 |  |  |  | 5000 | 0 | 0 | 1 | 7 | 12.0 | 9.0 | 3.0 | 4.0 |"
            ),
            "{page}"
        );
        assert!(
            page.contains("| tree | ipv4 | 1,000,000 | random | 150.3 | 149.4–150.6 | 8.76 |  | 14.30 |"),
            "{page}"
        );
    }

    #[test]
    fn what_is_no_document_of_the_benchmark_is_told() {
        assert!(Report::read("{}").is_err() && Report::read("nonsense").is_err());
    }
}
