//! `wayfork check`.

use super::args::CheckArgs;
use super::render::diagnostics;
use super::{Exit, Failure, Global, Outcome, output};
use crate::policy::{self, Loaded, TableNames};

/// Parses and validates a policy file, alone: without the host's names of tables, so that the answer is the same everywhere.
pub fn run(global: &Global, args: &CheckArgs) -> Outcome {
    let path = args.file.as_ref().or(args.config.as_ref());
    let path =
        path.ok_or_else(|| Failure::new(Exit::Usage, anyhow::anyhow!("give a policy file; `-` is standard input")))?;
    match policy::load(path, &TableNames::default()) {
        Ok(loaded) => {
            if global.json {
                output::print_json(&diagnostics::document(&[], &loaded.warnings))?;
            } else if !global.quiet {
                output::print_error(&diagnostics::warnings(&loaded, global.color))?;
                output::print(&format!("{}: right: {}\n", loaded.text.name, summary(&loaded)))?;
            }
            Ok(Exit::Done)
        }
        Err(rejected) => Err(Failure::new(Exit::Usage, rejected).into()),
    }
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
    let sets = &loaded.policy.sets;
    if !sets.is_empty() {
        let members = sets.iter().map(|set| set.count).sum();
        parts.push(format!(
            "{} of {}",
            some(sets.len(), "set"),
            some(members, "prefix").replace("prefixs", "prefixes")
        ));
    }
    parts.join(", ")
}
