//! The lab's drawing and table, and its JSON.

use crate::lab::phases::{Row, Seen};
use crate::lab::scenario::Scenario;
use comfy_table::{Attribute, Cell, CellAlignment, Color};
use owo_colors::OwoColorize;
use router_common::verdict::Action;
use serde_json::{Value, json};
use std::fmt::Write;

/// How many flows there were, and how many agreed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    /// All flows.
    pub flows: usize,
    /// Both paths agree.
    pub agree: usize,
    /// They do not.
    pub differ: usize,
    /// Flows that the router makes itself.
    stack_only: usize,
}

impl Total {
    /// Counts one flow.
    pub fn count(&mut self, row: &Row) {
        self.flows += 1;
        *(if row.agree() { &mut self.agree } else { &mut self.differ }) += 1;
        self.stack_only += usize::from(row.did.is_none());
    }

    /// What the numbers are, and the last line, for a person.
    pub fn line(&self, color: bool) -> String {
        let mut line = if self.differ == 0 {
            let line = format!("✓ {} flows: stack and fast path agree on all", self.flows);
            if color { line.green().bold().to_string() } else { line }
        } else {
            let line = format!("✗ {} of {} flows differ", self.differ, self.flows);
            if color { line.red().bold().to_string() } else { line }
        };
        match self.stack_only {
            0 => {}
            count => line += &format!(" ({count} made by the router itself: stack only)"),
        }
        let legend = "Numbers: what the far hosts received, of 20 echo requests, datagrams or pieces of a TCP stream.";
        format!("{legend}\n{line}\n")
    }

    /// The last line for a script.
    pub fn json(&self) -> String {
        json!({ "schema": 1, "flows": self.flows, "agree": self.agree, "differ": self.differ }).to_string() + "\n"
    }
}

/// The scenarios, one a line.
pub fn list(scenarios: &[Scenario]) -> String {
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    scenarios.iter().map(|scenario| format!("{:width$}  {}\n", scenario.name, scenario.about)).collect()
}

/// The scenarios as one document.
pub fn list_json(scenarios: &[Scenario]) -> String {
    let scenarios: Vec<Value> =
        scenarios.iter().map(|scenario| json!({ "name": scenario.name, "about": scenario.about })).collect();
    json!({ "schema": 1, "scenarios": scenarios }).to_string() + "\n"
}

/// Name, sentence and drawing of a scenario.
pub fn heading(scenario: &Scenario, color: bool) -> String {
    let name = if color { scenario.name.bold().to_string() } else { scenario.name.to_owned() };
    format!("{name}\n{}\n\n{}\n\n", scenario.about, scenario.drawing.trim_matches('\n'))
}

/// The flows of a scenario, and below them what is wrong with those that differ.
pub fn table(rows: &[Row], color: bool) -> String {
    let mut table = super::table(color);
    table.set_header(["", "flow", "rule", "no policy", "stack", "fast path", "agree"]);
    let mut family = None;
    for row in rows {
        // Named once where it begins.
        let new = family.replace(row.case.flow.family()) != Some(row.case.flow.family());
        let mark = |cell: Cell, color| cell.fg(color).add_attribute(Attribute::Bold);
        table.add_row([
            Cell::new(if new { row.case.flow.family().to_string() } else { String::new() }),
            Cell::new(&row.case.name),
            Cell::new(row.rule()),
            unruled(row),
            Cell::new(format!("{} {}", where_to(&row.stack), row.stack.packets)),
            fast_path(row),
            match row.agree() {
                true => mark(Cell::new("✓"), Color::Green),
                false => mark(Cell::new("✗"), Color::Red),
            }
            .set_alignment(CellAlignment::Center),
        ]);
    }
    let mut text = format!("{table}\n");
    for row in rows.iter().filter(|row| !row.agree()) {
        // Writing to a String does not fail.
        writeln!(text, "✗ {}: {}", row.case.name, row.faults.join("; ")).ok();
    }
    text.push('\n');
    text
}

fn where_to(seen: &Seen) -> String {
    format!("→ {}", seen.oif.unwrap_or("nowhere"))
}

fn unruled(row: &Row) -> Cell {
    match row.unruled.oif {
        Some(oif) if oif == row.case.oif => Cell::new(where_to(&row.unruled)),
        // Without the policy the router makes no such packets.
        None if row.case.router_made => Cell::new("none"),
        _ => Cell::new(format!("{}, wrong", where_to(&row.unruled))).fg(Color::DarkYellow),
    }
}

fn fast_path(row: &Row) -> Cell {
    let Some(did) = &row.did else { return Cell::new("stack only").fg(Color::DarkGrey) };
    let reason = row.reason().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let text = format!("{}{reason} {} {}", did.action.name(), where_to(&row.fast), row.fast.packets);
    Cell::new(text).fg(match did.action {
        Action::Redirect => Color::Green,
        Action::Mark => Color::Cyan,
        Action::Pass => Color::DarkYellow,
        Action::Drop => Color::Red,
    })
}

/// A flow as one line of JSON (contract: `lab --json`).
pub fn row_json(scenario: &Scenario, row: &Row) -> String {
    let seen = |seen: &Seen| json!({ "oif": seen.oif, "packets": seen.packets });
    let fast_path = match &row.did {
        None => json!("stack only"),
        Some(did) => {
            json!({ "action": did.action.name(), "oif": row.fast.oif, "packets": row.fast.packets, "reason": row.reason() })
        }
    };
    let line = json!({
        "schema": 1,
        "scenario": scenario.name,
        "family": row.case.flow.family(),
        "flow": row.case.name,
        "rule": row.rule(),
        "no_policy": seen(&row.unruled),
        "stack": seen(&row.stack),
        "fast_path": fast_path,
        "agree": row.agree(),
        "faults": row.faults,
    });
    line.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::phases::Did;
    use crate::lab::scenario::ALL;

    fn row(faults: Vec<String>) -> Row {
        let case = (ALL[0].flows)().remove(0);
        let seen = |oif| Seen { oif: Some(oif), packets: 20, ..Seen::default() };
        let did = Some(Did { action: Action::Redirect, reason: None, counted: 20, passed: 0 });
        Row { case, unruled: seen("eth0"), stack: seen("eth1"), fast: seen("eth1"), did, faults }
    }

    #[test]
    fn a_line_has_what_scripts_rely_on() {
        let line: Value = serde_json::from_str(&row_json(&ALL[0], &row(vec![]))).expect("JSON");
        assert_eq!(line["scenario"], "dual-uplink");
        assert_eq!(line["family"], "ipv4");
        assert_eq!(line["stack"], json!({ "oif": "eth1", "packets": 20 }));
        assert_eq!(line["fast_path"]["action"], "redirect");
        assert_eq!(line["agree"], true);
        let own = Row { did: None, ..row(vec![]) };
        let line: Value = serde_json::from_str(&row_json(&ALL[0], &own)).expect("JSON");
        assert_eq!(line["fast_path"], "stack only");
    }

    #[test]
    fn a_fault_is_shown_and_counted() {
        let mut total = Total::default();
        total.count(&row(vec![]));
        total.count(&row(vec!["stack: 3 of 20 arrived".to_owned()]));
        assert_eq!((total.flows, total.agree, total.differ), (2, 1, 1));
        assert!(total.line(false).contains("✗ 1 of 2"));
        let text = table(&[row(vec!["stack: 3 of 20 arrived".to_owned()])], false);
        assert!(text.contains("3 of 20") && text.contains('✗') && !text.contains('\u{1b}'), "{text}");
    }
}
