//! Standard output and error, for people and for scripts.

use super::render::diagnostics;
use super::{Color, Exit, Failure, Global};
use crate::policy::Rejected;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// Writes a text for people to standard output. A reader that went away ends the program quietly: see [`ended_quietly`].
pub fn print(text: &str) -> io::Result<()> {
    print_exactly(&harmless(text))
}

/// Writes a text for programs to standard output, every byte of it.
pub fn print_exactly(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes one JSON document and a line end to standard output.
pub fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(document)?;
    text.push('\n');
    Ok(print_exactly(&text)?)
}

/// Whether a terminal obeys a character instead of showing it: it controls the terminal or turns the direction of writing.
pub fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text that holds names and pieces of files: what a terminal would obey is escaped. Line feeds and tabs stay, and colours,
/// which are this program's own.
fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| is_obeyed(c) && !matches!(c, '\n' | '\t')) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = colour(rest);
        let length = colour.unwrap_or(c.len_utf8());
        let (piece, behind) = rest.split_at(length);
        match c {
            '\n' | '\t' => out.push(c),
            _ if colour.is_some() || !is_obeyed(c) => out += piece,
            _ => out.extend(c.escape_unicode()),
        }
        rest = behind;
    }
    out.into()
}

/// The length of the colour that a text starts with: ESC [ numbers m.
fn colour(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\u{1b}[")?;
    let length = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    numbers[length..].starts_with('m').then_some(2 + length + 1)
}

/// Whether an error is only that the reader of our output has gone.
pub fn ended_quietly(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// Whether standard output gets colours.
pub fn colored(global: &Global) -> bool {
    match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => !global.json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    }
}

/// An error with its causes, `: ` between them. What says its cause in its own words does not say it twice.
pub(super) fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let said = cause.to_string();
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text += &format!(": {said}");
        }
    }
    text
}

/// Says how a command failed, as text on standard error or as JSON on standard output, and with which status it ends.
pub fn failed(json: bool, color: Color, error: &anyhow::Error) -> Exit {
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let exit = failure.map_or(Exit::Cannot, |failure| failure.exit);
    let written = match (json, failure.and_then(|failure| failure.error.downcast_ref::<Rejected>())) {
        // A policy file that was refused: all that is wrong with it, as `check` says it.
        (true, Some(rejected)) => print_json(&diagnostics::document(&rejected.errors, &rejected.warnings)),
        (false, Some(rejected)) => print_error(&diagnostics::rejected(rejected, color)),
        (true, None) => print_json(
            &serde_json::json!({ "schema": 1, "error": { "message": with_causes(error), "exit": exit as u8 } }),
        ),
        (false, None) => print_error(&format!("wayfork: {}\n", with_causes(error))),
    };
    if json && written.is_err_and(|unwritten| !ended_quietly(&unwritten)) {
        // Standard output takes nothing, and that is what a script's log should hold. Beyond this the status is all that is left.
        drop(print_error(&format!("wayfork: {}\n", with_causes(error))));
    }
    exit
}

/// Writes a text for people to standard error.
pub fn print_error(text: &str) -> anyhow::Result<()> {
    Ok(io::stderr().lock().write_all(harmless(text).as_bytes())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use anyhow::Context;

    #[test]
    fn nothing_of_a_name_is_obeyed() {
        let title = "a\u{1b}]0;title\u{7}b\u{9b}2J\r\u{202e}c\u{1b}[2J\u{1b}[";
        assert_eq!(harmless(title), "a\\u{1b}]0;title\\u{7}b\\u{9b}2J\\u{d}\\u{202e}c\\u{1b}[2J\\u{1b}[");
        let own = "\u{1b}[1;31mred\u{1b}[0m\tand ætħ1\n";
        assert_eq!(harmless(own), own);
    }

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("control socket: {0}")]
        struct Outer(#[from] io::Error);
        let outer = || Outer(io::Error::from_raw_os_error(104));
        let once = "control socket: Connection reset by peer (os error 104)";
        assert_eq!(with_causes(&outer().into()), once);
        assert_eq!(with_causes(&Failure::new(Exit::Cannot, outer()).into()), once);
        let plain = io::Error::from_raw_os_error(104);
        let within: anyhow::Error = Err::<(), _>(plain).context("ask").unwrap_err();
        assert_eq!(with_causes(&within), "ask: Connection reset by peer (os error 104)");
    }
}
