//! `wayfork status`.

use super::{Exit, Global, Outcome, output, render, unasked};
use crate::cli::Failure;
use crate::router::control::{self, Request, Response};
use crate::router::status::{Shadow, Status};
use comfy_table::{Cell, CellAlignment};
use owo_colors::OwoColorize;
use std::fmt::Write;

/// Asks the running router and shows its answer.
pub fn run(global: &Global) -> Outcome {
    let document = match control::ask(&Request::Status).map_err(unasked)? {
        Response::Done(document) => document,
        Response::Failed { message, .. } => return Err(Failure::new(Exit::Cannot, anyhow::anyhow!(message)).into()),
    };
    if global.json {
        output::print_json(&document)?;
    } else {
        output::print(&text(&serde_json::from_value(document)?, output::colored(global))?)?;
    }
    Ok(Exit::Done)
}

/// The status as a person reads it.
fn text(status: &Status, color: bool) -> Result<String, std::fmt::Error> {
    let paint = |text: &str| match (color, text) {
        (true, "redirect" | "active") => text.green().to_string(),
        (true, "mark" | "suspended") => text.yellow().to_string(),
        (true, "off") => text.red().to_string(),
        _ => text.to_owned(),
    };
    let mut out = String::new();
    write!(
        out,
        "wayfork {} (process {}), mode {}, ",
        status.file.as_deref().unwrap_or("without a file"),
        status.pid,
        status.mode
    )?;
    writeln!(out, "up {}, fast path {}", uptime(status.uptime_s), paint(&status.fast_path))?;
    if let Some(why) = &status.why_off {
        writeln!(out, "  {why}")?;
    }
    if let Some(shadow) = &status.shadow {
        out += &shadow_text(shadow)?;
    }
    for waiting in &status.waiting {
        writeln!(out, "  waiting: {waiting}")?;
    }
    if !status.interfaces.is_empty() {
        let mut table = render::table(color);
        table.set_header(["interface", "attached", "may", "why"]);
        for interface in &status.interfaces {
            let attached = interface.attached.as_deref().unwrap_or("-");
            table.add_row([interface.name.as_str(), attached, &paint(&interface.may), &interface.why]);
        }
        writeln!(out, "\n{table}")?;
    }
    let mut table = render::table(color);
    table.set_header(["priority", "family", "rule", "owner", "redirect", "mark", "drop", "pass", "bytes"]);
    for rule in &status.rules {
        let count = |action: &str| rule.actions.get(action).map_or(0, |count| count.packets).to_string();
        let name = rule.name.as_ref().map_or_else(String::new, |name| format!("{name}: "));
        let owner = rule.at.as_ref().map_or_else(|| rule.owner.clone(), |at| format!("{} ({at})", rule.owner));
        let mut row = vec![Cell::new(rule.priority).set_alignment(CellAlignment::Right)];
        // The priority has its own column.
        let shown =
            rule.text.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).map_or(&*rule.text, |(_, rest)| rest);
        row.extend([Cell::new(&rule.family), Cell::new(format!("{name}{shown}")), Cell::new(owner)]);
        let numbers = [count("redirect"), count("mark"), count("drop"), count("pass"), rule.bytes.to_string()];
        row.extend(numbers.map(|number| Cell::new(number).set_alignment(CellAlignment::Right)));
        table.add_row(row);
    }
    writeln!(out, "\n{table}")?;
    if !status.pass_reasons.is_empty() {
        writeln!(out, "\nleft to the stack:")?;
        for (reason, packets) in &status.pass_reasons {
            let sentence = router_common::verdict::PassReason::ALL.iter().find(|known| known.name() == reason);
            writeln!(out, "  {packets:>12}  {reason:<20} {}", sentence.map_or("", |known| known.sentence()))?;
        }
    }
    Ok(out)
}

fn shadow_text(shadow: &Shadow) -> Result<String, std::fmt::Error> {
    let Shadow { rate, sampled, checked, agreed, disagreed, outdated, dropped, unasked, fallback } = shadow;
    let mut out = String::new();
    writeln!(out, "  shadow {rate}: {sampled} sampled, {checked} checked: {agreed} agreed, {disagreed} disagreed")?;
    writeln!(out, "    ({outdated} outdated, {dropped} dropped; {unasked} checked against the reference alone)")?;
    for rule in fallback {
        writeln!(out, "    left to the stack: what rule {} decides: {}", rule.rule_id, rule.why)?;
    }
    Ok(out)
}

fn uptime(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}
