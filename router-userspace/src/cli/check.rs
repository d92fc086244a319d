//! `wayfork check`.

use super::args::CheckArgs;
use super::render::diagnostics;
use super::{Color, Exit, Failure, Global, Outcome, output};
use crate::policy::{self, Diagnostic, Loaded, Source, TableNames};
use std::io::{IsTerminal, Write};

/// Parses and validates a policy file, alone: without the host's names of tables, so that the answer is the same everywhere.
pub fn run(global: &Global, args: &CheckArgs) -> Outcome {
    let path = args.file.as_ref().or(args.config.as_ref());
    let path =
        path.ok_or_else(|| Failure::new(Exit::Usage, anyhow::anyhow!("give a policy file; `-` is standard input")))?;
    match policy::load(path, &TableNames::default()) {
        Ok(loaded) => {
            report(global, &[], &loaded.warnings, &loaded.text)?;
            if !global.json && !global.quiet {
                output::print(&format!("{}: right: {}\n", loaded.text.name, summary(&loaded)))?;
            }
            Ok(Exit::Done)
        }
        Err(rejected) => {
            report(global, &rejected.errors, &rejected.warnings, &rejected.text)?;
            Ok(Exit::Usage)
        }
    }
}

/// Says what is wrong and what is odd: JSON on standard output, drawings on standard error.
fn report(global: &Global, errors: &[Diagnostic], warnings: &[Diagnostic], text: &Source) -> anyhow::Result<()> {
    if global.json {
        return output::print_json(&diagnostics::document(errors, warnings));
    }
    let warnings = if global.quiet { &[] } else { warnings };
    let mut drawn = draw(global, errors, warnings, text);
    if !errors.is_empty() {
        drawn += &format!("{}: {}\n", text.name, diagnostics::count(errors.len(), warnings.len()));
    }
    std::io::stderr().lock().write_all(drawn.as_bytes())?;
    Ok(())
}

/// Errors and warnings for standard error. Only on a terminal are long messages wrapped, so that scripts find them whole.
pub(super) fn draw(global: &Global, errors: &[Diagnostic], warnings: &[Diagnostic], text: &Source) -> String {
    let terminal = std::io::stderr().is_terminal();
    let color = match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none(),
    };
    diagnostics::draw(errors, warnings, text, color, if terminal { 100 } else { 10_000 })
}

/// `3 rules (6 in the kernel), 1 route, 1 mark, 2 tables`.
fn summary(loaded: &Loaded) -> String {
    let some = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    let counts = loaded.counts;
    let mut parts = vec![some(counts.rules, "rule")];
    if loaded.policy.rules.len() != counts.rules {
        parts[0] += &format!(" ({} in the kernel)", loaded.policy.rules.len());
    }
    for (count, word) in [(counts.routes, "route"), (counts.marks, "mark"), (loaded.policy.tables.len(), "table")] {
        if count > 0 {
            parts.push(some(count, word));
        }
    }
    parts.join(", ")
}
