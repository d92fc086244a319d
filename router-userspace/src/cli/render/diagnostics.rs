//! What is wrong with a policy file: drawn for people, as JSON for scripts.

use crate::cli::{Color, Exit, output};
use crate::policy::{self, Diagnostic, Loaded, Rejected, Source};
use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, Severity, SourceCode,
    SourceSpan, SpanContents,
};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;
use std::io::IsTerminal;

/// How many errors, and how many warnings, a person is shown. JSON has all that are kept.
const SHOWN: usize = 30;

/// A line longer than this, in bytes, is shown in part.
const LONG_LINE: usize = 400;

/// Errors and warnings with the lines that they are about, the mend below each.
fn draw(errors: &[Diagnostic], warnings: &[Diagnostic], text: &Source, color: bool, width: usize) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(width).with_links(false).with_context_lines(1);
    let whole = shown(&text.text);
    let text = Text { source: text, shown: &whole };
    let mut drawn = String::new();
    for (list, severity, word) in [(errors, Severity::Error, "errors"), (warnings, Severity::Warning, "warnings")] {
        for diagnostic in list.iter().take(SHOWN) {
            let excerpt = diagnostic.excerpt.as_ref().map(|excerpt| (excerpt, shown(&excerpt.text)));
            let text = excerpt.as_ref().map_or(text, |(source, shown)| Text { source, shown });
            let report = Report { diagnostic, severity, text };
            if handler.render_report(&mut drawn, &report).is_err() {
                // Nothing of a diagnostic may get lost.
                drawn += &format!("{diagnostic}\n");
            }
            drawn.push('\n');
        }
        if list.len() > SHOWN {
            let listed = match list.last().filter(|last| last.unlisted > 0) {
                Some(_) => format!("the first {}", list.len() - 1),
                None => "them".to_owned(),
            };
            drawn += &format!("… and {} more {word}; --json lists {listed}\n", policy::count(list) - SHOWN);
        }
    }
    drawn
}

/// A refused file for standard error: drawings, and how many they are.
pub fn rejected(rejected: &Rejected, color: Color) -> String {
    let Rejected { errors, warnings, text } = rejected;
    draw_on_error(errors, warnings, text, color)
        + &format!("{}: {}\n", text.name, count(policy::count(errors), policy::count(warnings)))
}

/// What is odd about an accepted file, for standard error.
pub fn warnings(loaded: &Loaded, color: Color) -> String {
    draw_on_error(&[], &loaded.warnings, &loaded.text, color)
}

/// For standard error. Only on a terminal are long messages wrapped, so that scripts find them whole.
fn draw_on_error(errors: &[Diagnostic], warnings: &[Diagnostic], text: &Source, color: Color) -> String {
    let terminal = std::io::stderr().is_terminal();
    let color = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none(),
    };
    draw(errors, warnings, text, color, if terminal { 100 } else { 10_000 })
}

/// `2 errors, 1 warning`.
fn count(errors: usize, warnings: usize) -> String {
    let some = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    };
    let parts: Vec<String> = [some(errors, "error"), some(warnings, "warning")].into_iter().flatten().collect();
    if parts.is_empty() { "nothing to say".to_owned() } else { parts.join(", ") }
}

/// The document of `check --json` (contract).
pub fn document(errors: &[Diagnostic], warnings: &[Diagnostic]) -> Value {
    let mut document = json!({ "schema": 1, "ok": errors.is_empty(), "errors": errors, "warnings": warnings });
    if let Some(first) = errors.first() {
        // As every command says that it failed.
        document["error"] = json!({ "message": first.to_string(), "exit": Exit::Usage as u8 });
    }
    document
}

#[derive(Debug)]
struct Report<'a> {
    diagnostic: &'a Diagnostic,
    severity: Severity,
    text: Text<'a>,
}

/// The source as miette reads it: only the lines asked for, and only part of a very long one.
#[derive(Clone, Copy, Debug)]
struct Text<'a> {
    source: &'a Source,
    /// Its text as it is shown: [`shown`].
    shown: &'a str,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.diagnostic.span.is_none() {
            write!(f, "{}: ", self.diagnostic.file)?
        }
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = &self.diagnostic.help;
        (!help.is_empty()).then(|| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.diagnostic.span.as_ref().map(|_| &self.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let text = &self.text.source.text;
        let span = self.diagnostic.span.as_ref()?;
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end).max(start);
        // What goes over several lines is underlined in the first.
        let line = text.get(start..end).unwrap_or_default().split('\n').next().unwrap_or_default();
        let length = line.floor_char_boundary(LONG_LINE / 4);
        Some(Box::new(std::iter::once(LabeledSpan::underline((start, length)))))
    }
}

impl SourceCode for Text<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text: &str = &self.source.text;
        let from = text.floor_char_boundary(span.offset());
        let to = text.floor_char_boundary(span.offset().saturating_add(span.len())).max(from);
        let mut start = from;
        // Without lines before it, what is wanted begins at the place itself.
        if before > 0 {
            start = line_start(text, from);
            for _ in 0..before {
                start = line_start(text, start.saturating_sub(1));
            }
        }
        let mut end = line_end(text, to);
        for _ in 0..after {
            end = line_end(text, (end + 1).min(text.len()));
        }
        if end - start > LONG_LINE * (before + after + 1) {
            start = start.max(text.floor_char_boundary(from.saturating_sub(LONG_LINE / 4)));
            end = end.min(text.ceil_char_boundary((to + LONG_LINE / 4).min(text.len())));
        }
        let (line, column) = self.source.place(start);
        let data = self.shown.get(start..end).unwrap_or_default();
        let lines = data.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let place = SourceSpan::from((start, data.len()));
        let name = self.source.name.to_string();
        Ok(Box::new(MietteSpanContents::new_named(name, data.as_bytes(), place, line - 1, column - 1, lines)))
    }
}

/// The file without what a terminal would obey. Places are counted in bytes, so a character of as many takes the
/// place of each.
fn shown(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| output::is_obeyed(c) && c != '\n' && c != '\t';
    if !text.contains(obeyed) {
        return text.into();
    }
    let replaced = text.chars().map(|c| match c.len_utf8() {
        _ if !obeyed(c) => c,
        1 if c == '\r' => ' ',
        1 => '?',
        2 => '¿',
        _ => char::REPLACEMENT_CHARACTER,
    });
    replaced.collect::<String>().into()
}

/// The first byte of the line that an offset stands in.
fn line_start(text: &str, offset: usize) -> usize {
    text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1)
}

/// The line feed of the line that an offset stands in, or the end.
fn line_end(text: &str, offset: usize) -> usize {
    text.get(offset..).and_then(|behind| behind.find('\n')).map_or(text.len(), |at| offset + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{TableNames, parse};

    fn drawn(text: &str) -> String {
        match parse("policy.toml", text, &TableNames::default()) {
            Ok(loaded) => draw(&[], &loaded.warnings, &loaded.text, false, 100),
            Err(rejected) => draw(&rejected.errors, &rejected.warnings, &rejected.text, false, 100),
        }
    }

    #[test]
    fn an_error_shows_its_line_and_the_mend() {
        let text = "[[rule]]\npriority = 1000\niif = \"ætħ1\"   \nfrom = \"10.0.0.1/24\"\ntable = 7\n";
        assert_eq!(
            drawn(text),
            "  × `10.0.0.1/24` has bits set beyond its length
   ╭─[policy.toml:4:8]
 3 │ iif = \"ætħ1\"   
 4 │ from = \"10.0.0.1/24\"
   ·        ─────────────
 5 │ table = 7
   ╰────
  help: the network is \"10.0.0.0/24\", the address alone \"10.0.0.1\"

"
        );
    }

    #[test]
    fn a_warning_looks_different() {
        assert!(drawn("[[rule]]\npriority = 40000\ntable = 7").starts_with("  ⚠ priority 40000 comes after"));
    }

    #[test]
    fn places_at_the_edges_are_drawn() {
        for text in ["a = [", "[", "\u{feff}x", "x", "\n\n=", "a = \"", "π = π", "x = '''\n\n\n", "rule = [{\n\n\n}]"]
        {
            assert!(drawn(text).contains("×"), "{text:?}");
        }
    }

    #[test]
    fn a_very_long_line_is_cut() {
        let list = "\"10.0.0.0/8\", ".repeat(5000);
        let text = format!("[[rule]]\npriority = 1\ntable = 1\nfrom = [{list} \"10.0.0.1/8\", {list}]\n");
        let Err(rejected) = parse("policy.toml", &text, &TableNames::default()) else { panic!("accepted") };
        let drawn = draw(&rejected.errors, &[], &rejected.text, false, 100);
        assert!(drawn.contains("[policy.toml:4:70010]"), "{drawn}");
        assert!(drawn.contains("\"10.0.0.1/8\"") && drawn.len() < 2000, "{drawn}");
    }

    #[test]
    fn long_lists_are_cut_for_people_only() {
        let text = "x\n".repeat(100);
        let Err(rejected) = parse("policy.toml", &text, &TableNames::default()) else { panic!("accepted") };
        assert!(draw(&rejected.errors, &[], &rejected.text, false, 100).contains("… and 70 more errors"));
        assert_eq!(document(&rejected.errors, &[])["errors"].as_array().map(Vec::len), Some(100));
    }

    /// More than are kept: neither for people nor for scripts is it said that all are listed.
    #[test]
    fn what_is_not_listed_anywhere_is_counted() {
        let text = "x\n".repeat(5000);
        let Err(rejected) = parse("policy.toml", &text, &TableNames::default()) else { panic!("accepted") };
        let listed = document(&rejected.errors, &[])["errors"].as_array().map(Vec::len).unwrap_or_default();
        let drawn = draw(&rejected.errors, &[], &rejected.text, false, 100);
        let said = format!("… and 4970 more errors; --json lists the first {}\n", listed - 1);
        assert!(listed < 5000 && drawn.ends_with(&said), "{listed}: {drawn}");
        assert!(super::rejected(&rejected, Color::Never).ends_with("policy.toml: 5000 errors\n"));
    }

    #[test]
    fn the_document_has_what_scripts_rely_on() {
        let Err(rejected) = parse("p.toml", "[router]\nmode = 5", &TableNames::default()) else { panic!("accepted") };
        assert_eq!(
            document(&rejected.errors, &rejected.warnings),
            json!({
                "schema": 1,
                "ok": false,
                "errors": [{ "file": "p.toml", "line": 2, "column": 8, "message": "`mode` takes a string, not an integer",
                    "help": "put it in quotes: mode = \"5\"" }],
                "warnings": [],
                "error": { "message": "p.toml:2:8: `mode` takes a string, not an integer (put it in quotes: mode = \"5\")", "exit": 2 },
            })
        );
        assert_eq!(document(&[], &[]), json!({ "schema": 1, "ok": true, "errors": [], "warnings": [] }));
        assert_eq!(count(2, 1), "2 errors, 1 warning");
    }

    /// A file cannot make the terminal do anything, and places stay what they are.
    #[test]
    fn control_characters_of_a_file_are_not_drawn() {
        let drawn = drawn("# a\u{1b}]0;title\u{7}\u{9b}2J\u{202e} x\r\nxyz = 1\r\n");
        assert!(!drawn.contains(|c| output::is_obeyed(c) && c != '\n'), "{drawn:?}");
        assert!(drawn.contains("# a?]0;title?¿2J\u{fffd} x") && drawn.contains("xyz = 1"), "{drawn}");
    }

    /// Colours are only where they are asked for.
    #[test]
    fn colours() {
        let Err(rejected) = parse("p.toml", "x", &TableNames::default()) else { panic!("accepted") };
        assert!(!draw(&rejected.errors, &[], &rejected.text, false, 100).contains('\u{1b}'));
        assert!(draw(&rejected.errors, &[], &rejected.text, true, 100).contains('\u{1b}'));
    }
}
