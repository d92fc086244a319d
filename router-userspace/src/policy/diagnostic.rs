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
}

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
        Source { name: name.into(), text, lines }
    }

    /// Line and column, both from 1, of a byte offset; the column counts characters. An offset past the end is the end.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        (line, self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1))
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
        }
    }
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
    }
}
