//! What is to be reached, held against what was measured.

use super::document::{Report, Row};

/// What a figure has to be.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing is asked of it but that it is told.
    Stated,
}

/// A figure and how far it was scattered.
struct Figure {
    value: f64,
    /// The least and the greatest; None where it was measured once.
    spread: Option<(f64, f64)>,
    /// What it was made of, for a person.
    of: Option<String>,
}

/// A measure by its name, and how it is found for a family.
struct Goal {
    measure: &'static str,
    bound: Bound,
    unit: &'static str,
    find: fn(&Report, &str) -> Option<Figure>,
}

const fn times(measure: &'static str, bound: Bound, find: fn(&Report, &str) -> Option<Figure>) -> Goal {
    Goal { measure, bound, unit: "×", find }
}

use Bound::{AtLeast, AtMost, Stated};

const FLAT: &str = "stack-flat";
const NFT: &str = "stack-nft";
const REDIRECT: &str = "wayfork-redirect";
const SETS: &str = "sets-redirect";
const ONE: &str = "one";
const RANDOM: &str = "random";

/// Where nothing else is said: 64 bytes, one flow, rp_filter 0.
const GOALS: &[Goal] = &[
    times("`redirect`, 1 rule, against the stack with 1 rule", AtLeast(1.5), |all, family| {
        faster(all, family, REDIRECT, FLAT, 1, ONE)
    }),
    times("`redirect`, 1 rule, against the bare TC limit", AtLeast(0.85), |all, family| {
        faster(all, family, REDIRECT, "tc-limit", 1, ONE)
    }),
    times("`redirect`, 1,000 rules, against the stack with the same flat list", AtLeast(25.0), |all, family| {
        faster(all, family, REDIRECT, FLAT, 1_000, ONE)
    }),
    times("`redirect`, 10,000 rules, against the stack with the same flat list", AtLeast(350.0), |all, family| {
        faster(all, family, REDIRECT, FLAT, 10_000, ONE)
    }),
    times("`redirect`, 1,000 rules, against the list grouped by hand", AtLeast(1.8), |all, family| {
        faster(all, family, REDIRECT, "stack-grouped", 1_000, ONE)
    }),
    times(
        "`redirect`, 100,000 rules, never repeating, against the nftables interval map",
        AtLeast(2.0),
        |all, family| faster(all, family, REDIRECT, NFT, 100_000, RANDOM),
    ),
    times(
        "`redirect`, 100,000 prefixes of sets, never repeating, against the nftables interval map",
        AtLeast(2.0),
        |all, family| faster(all, family, SETS, NFT, 100_000, RANDOM),
    ),
    times(
        "`redirect`, 1,000,000 prefixes of sets, never repeating, against the nftables interval map",
        Stated,
        |all, family| faster(all, family, SETS, NFT, 1_000_000, RANDOM),
    ),
    times("`redirect`, cost at 100,000 rules against 1 rule", AtMost(1.25), |all, family| {
        cost(all, family, REDIRECT, 100_000, ONE)
    }),
    times("`redirect`, cost at 100,000 prefixes of sets against 1 rule", AtMost(1.25), |all, family| {
        cost(all, family, SETS, 100_000, ONE)
    }),
    times("`redirect`, cost at 100,000 rules against 1 rule, never repeating", AtMost(1.5), |all, family| {
        cost(all, family, REDIRECT, 100_000, RANDOM)
    }),
    times(
        "`redirect`, cost at 100,000 prefixes of sets against 1 rule, never repeating",
        AtMost(1.5),
        |all, family| cost(all, family, SETS, 100_000, RANDOM),
    ),
    times("`redirect`, cost at 1,000,000 prefixes of sets against 1 rule, never repeating", Stated, |all, family| {
        cost(all, family, SETS, 1_000_000, RANDOM)
    }),
    times("`netlink`, 1,000 rules of the policy file, against the flat list", AtLeast(12.0), |all, family| {
        faster(all, family, "wayfork-netlink", FLAT, 1_000, ONE)
    }),
    times("`mark`, 1,000 rules of the policy file, against the flat list", AtLeast(12.0), |all, family| {
        faster(all, family, "wayfork-mark", FLAT, 1_000, ONE)
    }),
    times("`mark` on 1,000 foreign rules, against the flat list", Stated, |all, family| {
        faster(all, family, "foreign-mark", FLAT, 1_000, ONE)
    }),
    times("classifying a random address among 1,000,000 prefixes, against one LPM_TRIE look-up", AtLeast(4.0), look_up),
    Goal { measure: "loading 100,000 rules into the fast path", bound: AtMost(1.0), unit: " s", find: load },
];

/// A line for each measure and family that was measured: measure, goal, family, figure, spread, whether it is reached.
pub fn lines(report: &Report) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for goal in GOALS {
            let Some(figure) = (goal.find)(report, family) else { continue };
            let unit = goal.unit;
            let (asked, reached) = match goal.bound {
                AtLeast(least) => (format!("≥ {least}{unit}"), yes(figure.value >= least)),
                AtMost(most) => (format!("≤ {most}{unit}"), yes(figure.value <= most)),
                Stated => ("stated".to_owned(), ""),
            };
            let of = figure.of.map_or(String::new(), |of| format!(" ({of})"));
            let spread =
                figure.spread.map_or(String::new(), |(least, most)| format!("{}–{}", short(least), short(most)));
            let measured = format!("{}{unit}{of}", short(figure.value));
            lines.push([goal.measure, &asked, family, &measured, &spread, reached].map(str::to_owned).to_vec());
        }
    }
    lines
}

fn yes(reached: bool) -> &'static str {
    if reached { "yes" } else { "no" }
}

/// Three digits or so.
fn short(value: f64) -> String {
    let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.places$}")
}

/// What a path did with so many rules.
fn result<'a>(report: &'a Report, family: &str, path: &str, rules: u64, flows: &str) -> Option<Row<'a>> {
    report.rows("results").find(|row| {
        let words = [("path", path), ("family", family), ("flows", flows)];
        words.iter().all(|(name, word)| row.text(name) == *word)
            && row.rules() == rules
            && row.number("packet") == Some(64.0)
            && row.number("rp_filter") == Some(0.0)
    })
}

/// The one's packets a second against the other's, round by round.
fn ratio(one: Row<'_>, other: Row<'_>) -> Option<Figure> {
    let rounds = |row: Row<'_>| row.numbers("round_pps");
    let mut ratios: Vec<f64> = rounds(one)
        .into_iter()
        .zip(rounds(other))
        .filter(|pair| pair.1 > 0.0)
        .map(|(one, other)| one / other)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (*ratios.first()?, *ratios.last()?);
    let middle = ratios.len() / 2;
    let value = if ratios.len() % 2 == 1 { ratios[middle] } else { (ratios[middle - 1] + ratios[middle]) / 2.0 };
    Some(Figure { value, spread: Some((least, most)), of: None })
}

fn faster(report: &Report, family: &str, path: &str, other: &str, rules: u64, flows: &str) -> Option<Figure> {
    let find = |path| result(report, family, path, rules, flows);
    ratio(find(path)?, find(other)?)
}

/// The time of a packet with so many rules or prefixes against that with one rule. These were not the same rounds.
fn cost(report: &Report, family: &str, path: &str, rules: u64, flows: &str) -> Option<Figure> {
    let (one, many) = (result(report, family, REDIRECT, 1, flows)?, result(report, family, path, rules, flows)?);
    let ns = |row: Row<'_>| row.number("ns_per_packet");
    let of = format!("{:.0} → {:.0} ns", ns(one)?, ns(many)?);
    Some(Figure { of: Some(of), ..ratio(one, many)? })
}

fn look_up(report: &Report, family: &str) -> Option<Figure> {
    let find = |structure: &str| {
        report.rows("lookups").find(|row| {
            let words = [("structure", structure), ("family", family), ("addresses", RANDOM)];
            words.iter().all(|(name, word)| row.text(name) == *word) && row.number("prefixes") == Some(1e6)
        })
    };
    let (tree, trie) = (find("tree")?, find("LPM_TRIE")?);
    let quarter = |row: Row<'_>, name: &str| row.value("spread")[name].as_f64();
    // By the quarters of both.
    let bound = |trie_by, tree_by| Some(quarter(trie, trie_by)? / quarter(tree, tree_by)?);
    Some(Figure {
        value: tree.number("faster_than_trie")?,
        spread: bound("q1", "q3").zip(bound("q3", "q1")),
        of: Some(format!("{:.0} → {:.0} ns", trie.number("ns")?, tree.number("ns")?)),
    })
}

/// Compiling and writing; reading the kernel is not of the fast path.
fn load(report: &Report, family: &str) -> Option<Figure> {
    let row = report.rows("updates").find(|row| {
        let words = [("update", "first load"), ("of", "rules"), ("family", family)];
        words.iter().all(|(name, word)| row.text(name) == *word) && row.rules() == 100_000
    })?;
    let (compile, write) = (row.number("compile_ms")?, row.number("write_ms")?);
    let of = format!("compile {compile:.0} ms, write {write:.0} ms");
    Some(Figure { value: (compile + write) / 1e3, spread: None, of: Some(of) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(path: &str, rules: u64, flows: &str, rounds: [f64; 3]) -> Value {
        json!({ "path": path, "rules": rules, "family": "ipv4", "packet": 64, "flows": flows, "rp_filter": 0,
                "round_pps": rounds, "ns_per_packet": 1e9 / rounds[1] })
    }

    fn found(results: &[Value], lookups: &[Value], updates: &[Value]) -> Vec<String> {
        let document = json!({ "results": results, "lookups": lookups, "updates": updates });
        lines(&Report::read(&document.to_string()).expect("a document")).iter().map(|line| line.join(" | ")).collect()
    }

    #[test]
    fn goals_are_ratios_of_the_same_round() {
        // The last round was slow for all.
        let results = [
            row(REDIRECT, 1, ONE, [3e6, 3.2e6, 1.6e6]),
            row(FLAT, 1, ONE, [2e6, 2e6, 1e6]),
            row("tc-limit", 1, ONE, [4e6, 4e6, 2e6]),
            // Other traffic and other sizes are not these.
            row(REDIRECT, 1, RANDOM, [9e6, 9e6, 9e6]),
            row(FLAT, 10, ONE, [9e6, 9e6, 9e6]),
        ];
        assert_eq!(
            found(&results, &[], &[]),
            [
                "`redirect`, 1 rule, against the stack with 1 rule | ≥ 1.5× | ipv4 | 1.60× | 1.50–1.60 | yes",
                "`redirect`, 1 rule, against the bare TC limit | ≥ 0.85× | ipv4 | 0.80× | 0.75–0.80 | no",
            ]
        );
    }

    #[test]
    fn costs_are_bound_from_above() {
        let results = [
            row(REDIRECT, 1, RANDOM, [4e6, 4e6, 4e6]),
            row(REDIRECT, 100_000, RANDOM, [2e6, 2.5e6, 2.5e6]),
            row(SETS, 100_000, RANDOM, [4e6, 4e6, 3e6]),
        ];
        assert_eq!(
            found(&results, &[], &[]),
            [
                "`redirect`, cost at 100,000 rules against 1 rule, never repeating | ≤ 1.5× | ipv4 | 1.60× (250 → 400 ns) | \
                 1.60–2.00 | no",
                "`redirect`, cost at 100,000 prefixes of sets against 1 rule, never repeating | ≤ 1.5× | ipv4 | 1.00× (250 → 250 ns) | \
                 1.00–1.33 | yes",
            ]
        );
    }

    #[test]
    fn look_ups_and_loading_are_held_against_their_goals() {
        let look_up = |structure: &str, ns: f64, faster: Option<f64>| {
            json!({ "structure": structure, "family": "ipv6", "addresses": "random", "prefixes": 1_000_000, "ns": ns,
                    "faster_than_trie": faster, "spread": { "q1": ns - 100.0, "q3": ns + 100.0 } })
        };
        let load = json!({ "update": "first load", "of": "rules", "family": "ipv4", "rules": 100_000, "compile_ms": 900.0,
                           "write_ms": 200.0 });
        let other = json!({ "update": "first load", "of": "routes", "family": "ipv6", "rules": 100_000, "compile_ms": 1.0,
                            "write_ms": 1.0 });
        let lookups = [look_up("LPM_TRIE", 1500.0, Some(1.0)), look_up("tree", 300.0, Some(5.1))];
        assert_eq!(
            found(&[], &lookups, &[other, load]),
            [
                "loading 100,000 rules into the fast path | ≤ 1 s | ipv4 | 1.10 s (compile 900 ms, write 200 ms) |  | no",
                "classifying a random address among 1,000,000 prefixes, against one LPM_TRIE look-up | ≥ 4× | ipv6 | 5.10× \
                 (1500 → 300 ns) | 3.50–8.00 | yes",
            ]
        );
    }

    #[test]
    fn what_was_not_measured_is_no_line() {
        assert!(found(&[], &[], &[]).is_empty());
    }
}
