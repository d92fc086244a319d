//! Tests of the policy file as a whole.
#![allow(clippy::unwrap_used)]

mod lowering;
mod messages;
mod properties;
mod sets;
mod warnings;

use super::*;

/// A text that must be accepted.
fn accepted(text: &str) -> Loaded {
    parse("p.toml", text, &TableNames::default()).unwrap_or_else(|rejected| panic!("{text}\n{rejected}"))
}

/// The policy of a text that must be accepted without a warning.
fn policy(text: &str) -> Policy {
    let loaded = accepted(text);
    assert_eq!(lines(&loaded.warnings), "", "{text}");
    loaded.policy
}

/// The warnings of a text that must be accepted, `line:column: message (help)`.
fn warnings(text: &str) -> String {
    lines(&accepted(text).warnings)
}

/// The errors of a text that must be refused.
fn errors(text: &str) -> String {
    let result = parse("p.toml", text, &TableNames::default());
    lines(&result.expect_err(text).errors)
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    let lines = diagnostics.iter().map(|diagnostic| diagnostic.to_string().replace("p.toml:", "") + "\n");
    lines.collect()
}

/// The rules of a text as `ip rule` would show them.
fn rules(text: &str) -> String {
    let rules: Vec<Rule> = accepted(text).policy.rpdb().cloned().collect();
    crate::model::display_rules(&rules)
}
