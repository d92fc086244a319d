//! What is wrong with a policy file, where, and how to mend it.

use serde::Serialize;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A range of bytes in the text.
pub type Span = Range<usize>;

/// The text that places point into.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file's name as messages show it; `standard input` for `-`.
    pub name: Arc<str>,
    /// Its text; empty where it could not be read.
    pub text: Arc<str>,
    /// The byte offset of each line's first byte.
    lines: Arc<[usize]>,
    /// How many lines of the file come before the text, which is only a part of it then.
    before: usize,
    /// The number of characters before each block of [`BLOCK`] bytes, so that a place in a very long line costs no walk through it.
    characters: Arc<[usize]>,
}

/// Bytes between two counts of characters.
const BLOCK: usize = 4096;

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file's name.
    pub file: String,
    /// Line, from 1; None where the whole file is meant (it is missing, say).
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// The mend; empty where there is none to give.
    pub help: String,
    /// The offending bytes of the text.
    #[serde(skip)]
    pub span: Option<Span>,
    /// How many more it stands for that are not listed; 0 where it is one itself.
    #[serde(skip)]
    pub unlisted: usize,
    /// The part of another file than the policy's that `span` points into.
    #[serde(skip)]
    pub excerpt: Option<Source>,
}

/// How many errors or warnings a list tells of, those that it does not list included.
pub fn count(list: &[Diagnostic]) -> usize {
    list.iter().map(|diagnostic| diagnostic.unlisted.max(1)).sum()
}

/// A file that was refused. Nothing is installed from it.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Rejected {
    /// All that is wrong, in the order of the file; never empty.
    pub errors: Vec<Diagnostic>,
    /// What else is odd.
    pub warnings: Vec<Diagnostic>,
    /// What the places point into.
    pub text: Source,
}

impl Source {
    /// Takes a text in.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        let mut count = 0;
        let blocks = text.as_bytes().chunks(BLOCK).map(|block| {
            let before = count;
            count += block.iter().filter(|byte| starts_character(**byte)).count();
            before
        });
        let characters = blocks.collect();
        Source { name: name.into(), text, lines, before: 0, characters }
    }

    /// A part of a file that begins after so many of its lines.
    pub fn excerpt(name: Arc<str>, text: &str, before: usize) -> Self {
        Source { before, ..Source::new(name, text) }
    }

    /// Line and column, both from 1, of a byte offset; the column counts characters. An offset past the end is the end.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        (self.before + line, self.characters_before(offset) - self.characters_before(start) + 1)
    }

    /// Characters that start before a byte offset.
    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / BLOCK;
        let bytes = self.text.as_bytes();
        let rest = bytes.get(block * BLOCK..offset).unwrap_or_default();
        let before = match self.characters.get(block) {
            Some(before) => *before,
            // The end of a text whose length is a multiple of the block's.
            None => bytes.iter().filter(|byte| starts_character(**byte)).count(),
        };
        before + rest.iter().filter(|byte| starts_character(**byte)).count()
    }

    /// `policy.toml:12`, the place of a byte offset as `at` shows it.
    pub fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.name, self.place(offset).0)
    }

    /// A diagnostic at a place.
    pub fn diagnostic(&self, span: Span, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        let (line, column) = self.place(span.start);
        Diagnostic {
            file: self.name.to_string(),
            line: Some(line),
            column: Some(column),
            message: message.into(),
            help: help.into(),
            span: Some(span),
            unlisted: 0,
            excerpt: None,
        }
    }

    /// A diagnostic of the file as a whole.
    pub fn of_file(&self, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        Diagnostic {
            file: self.name.to_string(),
            line: None,
            column: None,
            message: message.into(),
            help: help.into(),
            span: None,
            unlisted: 0,
            excerpt: None,
        }
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.text, self.before) == (&other.name, &other.text, other.before)
    }
}

impl Eq for Source {}

/// Whether a byte of UTF-8 is the first of its character.
fn starts_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

impl fmt::Display for Diagnostic {
    /// `policy.toml:12:5: message (help)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?
        }
        write!(f, ": {}", self.message)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, " ({})", self.help) }
    }
}

impl fmt::Display for Rejected {
    /// A line per error; the command line draws them better.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?
            }
            write!(f, "{error}")?
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_survive_any_offset() {
        let source = Source::new("p", "a\nπρ = 1\n\nend");
        assert_eq!(source.place(0), (1, 1));
        assert_eq!(source.place(1), (1, 2), "the line feed belongs to its line");
        assert_eq!(source.place(2), (2, 1));
        assert_eq!(source.place(4), (2, 2), "two bytes, one character");
        assert_eq!(source.place(5), (2, 2), "inside a character is that character");
        assert_eq!(source.place(11), (3, 1));
        assert_eq!(source.place(usize::MAX), (4, 4));
        assert_eq!(Source::new("p", "").place(7), (1, 1));
        assert_eq!(Source::default().place(7), (1, 1));
        let long = "π".repeat(3 * BLOCK);
        let source = Source::new("p", format!("\n{long}"));
        for characters in [0, 1, BLOCK / 2, BLOCK, 3 * BLOCK] {
            assert_eq!(source.place(1 + 2 * characters), (2, characters + 1));
        }
        assert_eq!(Source::new("p", long).place(usize::MAX), (1, 3 * BLOCK + 1));
    }
}
