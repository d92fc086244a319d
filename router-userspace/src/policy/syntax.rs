//! Errors of TOML itself, in words that help those who do not know it by heart.

use super::cursor::{Findings, Wrong, quote};
use super::diagnostic::{Source, Span};
use toml::Spanned;
use toml::de::DeTable;

/// Up to this size of the text all syntax errors are found. Beyond, only the first: keeping them all can cost a hundred times the
/// memory of the text.
const ALL_ERRORS: usize = 1 << 20;

/// The document as far as it can be understood, and what is wrong with its syntax.
pub(super) fn parse(text: &Source) -> (Spanned<DeTable<'_>>, Vec<toml::de::Error>) {
    if text.text.len() <= ALL_ERRORS {
        return DeTable::parse_recoverable(&text.text);
    }
    match DeTable::parse(&text.text) {
        Ok(root) => (root, Vec::new()),
        Err(error) => (Spanned::new(0..0, DeTable::new()), vec![error]),
    }
}

/// Notes all syntax errors; from then on nothing else is noted about the sections that they stand in.
pub(super) fn note(findings: &mut Findings<'_>, errors: &[toml::de::Error]) {
    let end = findings.text.text.len();
    let spans: Vec<Span> = errors.iter().map(|error| error.span().unwrap_or(end..end)).collect();
    for (error, span) in errors.iter().zip(&spans) {
        let (span, wrong) = match bare_value(findings.text, span) {
            Some((span, wrong)) => (span, wrong),
            None => (span.clone(), explain(findings.text, error.message(), span)),
        };
        findings.error(span, wrong.message, wrong.help);
    }
    findings.spoiled = spoiled(findings.text, &spans);
}

/// A piece of the text; a window, since a line may be as long as the file.
fn window(text: &Source, from: usize, to: usize) -> &str {
    let (from, to) = (text.text.floor_char_boundary(from), text.text.floor_char_boundary(to));
    text.text.get(from..to).unwrap_or_default()
}

/// The line of an error: what stands before it and what from it on, both cut where they are long.
fn line<'t>(text: &'t Source, span: &Span) -> (&'t str, &'t str) {
    let before = window(text, span.start.saturating_sub(200), span.start);
    let behind = window(text, span.start, span.start.saturating_add(200));
    (before.rsplit('\n').next().unwrap_or_default(), behind.split('\n').next().unwrap_or_default().trim_end())
}

/// A value that should stand in quotes and does not, with its whole place: `isp2`, `10.0.0.0/8`.
fn bare_value(text: &Source, span: &Span) -> Option<(Span, Wrong)> {
    let (before, behind) = line(text, span);
    let start = before.rfind(['=', '[', ',']).filter(|_| before.contains('='))? + 1;
    let head = before.get(start..)?;
    let tail = behind.split([',', ']', '#', '}', '"', '\'']).next().unwrap_or_default();
    let word = format!("{head}{tail}");
    let word = word.trim();
    let like_text = word.starts_with(|c: char| c.is_alphabetic() || matches!(c, '*' | '/' | ':'))
        || word.starts_with(|c: char| c.is_ascii_digit())
            && (word.contains(['/', ':']) || word.matches('.').count() > 1);
    // Quotes in it, and this is about something else.
    if !like_text || word.contains(['"', '\'', '=', '{']) {
        return None;
    }
    let from = span.start - head.len() + (head.len() - head.trim_start().len());
    let wrong =
        Wrong::new(format!("{} is text without quotes", quote(word)), format!("write \"{}\"", word.escape_debug()));
    Some((from..from + word.len(), wrong))
}

/// The parser's message in better words where the slip is a common one.
fn explain(text: &Source, message: &str, span: &Span) -> Wrong {
    let (before, behind) = line(text, span);
    if message.starts_with("duplicate key") {
        let key = quote(window(text, span.start, span.end));
        return Wrong::new(format!("{key} is there twice"), "take one of them away");
    }
    if before.trim_end().ends_with('=') && (behind.is_empty() || behind.starts_with('#')) {
        return Wrong::new("the value is missing", "such as key = \"value\"");
    }
    if message.contains(" string, expected `") {
        return Wrong::new("the text has no end", "close it with a quotation mark on the same line");
    }
    if message.starts_with("key with no value") {
        return Wrong::new("a line is a key, `=` and a value", "such as priority = 1000; comments begin with #");
    }
    if let Some((what, mend)) = message.strip_prefix("unclosed ").and_then(|rest| rest.split_once(", expected ")) {
        return Wrong::new(format!("the {what} has no end"), format!("close it with {mend}"));
    }
    if message.starts_with("unexpected key or value") && before.trim_end().ends_with(']') {
        return Wrong::new(
            "something follows the header on its line",
            "a header has a line of its own, its keys below",
        );
    }
    Wrong::new(message.trim_end_matches(", expected nothing"), "")
}

/// From the header before each syntax error to the one behind it: ranges in order and apart.
fn spoiled(text: &Source, errors: &[Span]) -> Vec<Span> {
    let mut starts: Vec<usize> = errors.iter().map(|span| span.start.min(text.text.len())).collect();
    starts.sort_unstable();
    let mut ranges: Vec<Span> = Vec::new();
    for start in starts {
        if ranges.last().is_some_and(|range| range.contains(&start)) {
            continue;
        }
        let before = text.text.get(..start).unwrap_or_default();
        let behind = text.text.get(start..).unwrap_or_default();
        let from = before.rfind("\n[").map_or(0, |at| at + 1);
        // One past the end, so that an error at the very end stands inside.
        let to = behind.find("\n[").map_or(text.text.len() + 1, |at| start + at + 1);
        ranges.push(from..to);
    }
    ranges
}
