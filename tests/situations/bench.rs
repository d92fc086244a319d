//! `wayfork bench`: every path runs, forwards and counts right. How fast is nobody's business here.

use crate::EXE;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;
use wayfork_tests::Bed;

fn json(args: &[&str]) -> Result<Value> {
    let output = Command::new(EXE).args(["--json", "bench"]).args(args).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}{}", output.status, String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).with_context(|| errors.into_owned())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn every_path_forwards_and_is_counted() -> Result<()> {
    if Bed::new(EXE)?.is_none() {
        return Ok(());
    }
    let paths = json(&["--list"])?;
    let report = json(&["--quick", "--size", "40", "--family", "both", "--flows", "one,random"])?;
    // Two paths need programs that not every machine has.
    let absent = |path: &Value| {
        let program = [("stack-nft", "nft"), ("xdp-forward", "xdp-forward")].into_iter().find(|(name, _)| path == name);
        program.filter(|(_, program)| Command::new(program).arg("--help").output().is_err())
    };
    let left_out = list(&report["left_out"]);
    ensure!(left_out.iter().all(|left| absent(&left["path"]).is_some() && left["rules"].is_null()), "{left_out:?}");
    let results = list(&report["results"]);
    for path in list(&paths["paths"]) {
        let path = &path["path"];
        if let Some((path, program)) = absent(path) {
            eprintln!("LEFT OUT: {path}: there is no program {program}");
            ensure!(left_out.iter().any(|left| left["path"] == path), "not told: {path} is left out");
            continue;
        }
        for family in ["ipv4", "ipv6"] {
            for flows in ["one", "random"] {
                let is_it = |row: &&Value| row["path"] == *path && row["family"] == family && row["flows"] == flows;
                let row = results.iter().find(is_it);
                check(row.with_context(|| format!("{path}, {family}, {flows}: no result"))?)?;
            }
        }
    }
    for (part, numbers) in [
        ("loading", &["ms"][..]),
        ("latency", &["p50_ns", "p99_ns", "packets"]),
        ("host_traffic", &["udp_sends", "tcp_connects"]),
    ] {
        ensure!(!list(&report[part]).is_empty(), "nothing of {part}");
        for row in list(&report[part]) {
            ensure!(numbers.iter().all(|name| row[name].as_f64().is_some_and(|number| number > 0.0)), "{part}: {row}");
        }
    }
    Ok(())
}

/// Packets arrived, none of them wrong, and Wayfork did what the path is named after.
fn check(row: &Value) -> Result<()> {
    ensure!(row["arrived"].as_u64().is_some_and(|arrived| arrived > 0) && row["wrong"] == 0, "{row}");
    for number in ["pps", "ns_per_packet", "ratio_to_kernel"] {
        // What has no router is not compared with one.
        let none = row["path"] == "harness" && number == "ratio_to_kernel";
        ensure!(row[number].as_f64().map_or(none, |number| number > 0.0), "{number}: {row}");
    }
    let did = |action: &str| row["actions"][action].as_u64().unwrap_or(0);
    match row["path"].as_str().unwrap_or_default() {
        "wayfork-redirect" | "sets-redirect" | "foreign-redirect" => {
            ensure!(did("redirect") > 0 && did("mark") == 0, "{row}")
        }
        "wayfork-mark" | "foreign-mark" => ensure!(did("mark") > 0 && did("redirect") == 0, "{row}"),
        _ => ensure!(did("redirect") == 0 && did("mark") == 0, "{row}"),
    }
    Ok(())
}

/// That they find the same, the benchmark itself makes sure of.
#[test]
fn look_ups_are_measured_in_every_structure() -> Result<()> {
    if Bed::new(EXE)?.is_none() {
        return Ok(());
    }
    let report = json(&["--quick", "--lookups", "10,1000"])?;
    ensure!(list(&report["results"]).is_empty(), "{}", report["results"]);
    let rows = list(&report["lookups"]);
    for (family, structures) in [("ipv4", &["tree", "LPM_TRIE", "hashes"][..]), ("ipv6", &["tree", "LPM_TRIE"])] {
        for structure in structures {
            for (prefixes, addresses) in [(10, "one"), (10, "random"), (1000, "one"), (1000, "random")] {
                let is_it = |row: &&Value| {
                    [&row["family"], &row["structure"], &row["addresses"]] == [family, structure, addresses]
                        && row["prefixes"] == prefixes
                };
                let row =
                    rows.iter().find(is_it).with_context(|| format!("{family} {structure} {prefixes} {addresses}"))?;
                // Less than nothing where the program without look-ups was held up: the time is nobody's business here.
                ensure!(row["ns"].is_number(), "{row}");
            }
        }
    }
    let output = Command::new(EXE).args(["bench", "--lookups", "0"]).output()?;
    let text = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && text.contains("1048576"), "{:?}: {text}", output.status);
    Ok(())
}

/// Two rules move from one exit to the other at once while packets of both, and of others, flow.
#[test]
fn a_reload_loses_no_packet_and_sends_none_where_neither_policy_does() -> Result<()> {
    if Bed::new(EXE)?.is_none() {
        return Ok(());
    }
    let report = json(&["--quick", "--updates", "40", "--family", "both"])?;
    ensure!(list(&report["results"]).is_empty() && list(&report["left_out"]).is_empty(), "{report}");
    let rows = list(&report["updates"]);
    for family in ["ipv4", "ipv6"] {
        let of = |update: &str, of: &str| {
            rows.iter()
                .filter(|row| [&row["update"], &row["of"], &row["family"]] == [update, of, family])
                .collect::<Vec<_>>()
        };
        for subject in ["rules", "routes"] {
            for update in ["first load", "one changed"] {
                let [row] = of(update, subject)[..] else { anyhow::bail!("{update} of {subject}: {rows:?}") };
                ensure!(row["compile_ms"].is_number() && row["write_ms"].is_number(), "{row}");
            }
        }
        for subject in ["rules", "prefixes"] {
            let (loads, changes) = (of("load", subject), of("change", subject));
            // Two move there, and back.
            ensure!(loads.len() == 1 && changes.len() == 2, "{subject}: {rows:?}");
            for row in loads.into_iter().chain(changes) {
                ensure!(row["sent"].as_u64().is_some_and(|sent| sent > 0) && row["arrived"] == row["sent"], "{row}");
                ensure!(row["lost"] == 0 && row["wrong"] == 0, "{row}");
                let memory = ["peak_bytes", "map_bytes", "kernel_bytes"];
                ensure!(memory.iter().all(|name| row[name].is_number()) && row["off_ms"].is_number(), "{row}");
            }
        }
    }
    let output = Command::new(EXE).args(["bench", "--updates", "0"]).output()?;
    ensure!(!output.status.success(), "{:?}", output.status);
    Ok(())
}

#[test]
fn with_rp_filter_the_action_taken_is_named() -> Result<()> {
    if Bed::new(EXE)?.is_none() {
        return Ok(());
    }
    let args = ["--quick", "--size", "4", "--rp-filter", "2", "--path", "stack-flat,wayfork-redirect"];
    let report = json(&args)?;
    ensure!(list(&report["left_out"]).is_empty(), "{}", report["left_out"]);
    let row = list(&report["results"]).iter().find(|row| row["path"] == "wayfork-redirect");
    let row = row.context("no result")?;
    ensure!(row["rp_filter"] == 2 && row["arrived"].as_u64().is_some_and(|arrived| arrived > 0), "{row}");
    ensure!(row["actions"]["redirect"].is_null(), "rp_filter is skipped: {row}");
    ensure!(row["actions"].as_object().is_some_and(|actions| !actions.is_empty()), "{row}");
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_and_what_is_unbearable_left_out() -> Result<()> {
    let output = Command::new(EXE).args(["bench", "--path", "nope"]).output()?;
    let text = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2) && text.contains("stack-flat"), "{:?}: {text}", output.status);
    let output = Command::new(EXE).args(["bench", "--packet", "9000"]).output()?;
    ensure!(output.status.code() == Some(2), "{:?}", output.status);
    if Bed::new(EXE)?.is_none() {
        return Ok(());
    }
    let report = json(&["--quick", "--size", "1000000", "--path", "stack-flat"])?;
    ensure!(list(&report["results"]).is_empty(), "{}", report["results"]);
    let left = &list(&report["left_out"])[0];
    ensure!(left["rules"] == 1_000_000 && left["why"].as_str().is_some_and(|why| why.contains("bearable")), "{left}");
    Ok(())
}
