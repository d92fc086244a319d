//! TOML as a person would lay it out: keys in a fixed order, their `=` below one another.

use std::fmt::Write;

/// One `[[rule]]` or `[[route]]`.
pub(super) struct Section {
    header: &'static str,
    /// What stands above it, a line each.
    comments: Vec<String>,
    /// Keys with their values as TOML.
    lines: Vec<(&'static str, String)>,
}

impl Section {
    pub fn new(header: &'static str) -> Self {
        Section { header, comments: Vec::new(), lines: Vec::new() }
    }

    pub fn comment(&mut self, text: impl Into<String>) {
        self.comments.push(text.into());
    }

    pub fn line(&mut self, key: &'static str, value: impl Into<String>) {
        self.lines.push((key, value.into()));
    }

    /// A key with one value or a list; no line at all for none.
    pub fn list(&mut self, key: &'static str, values: Vec<String>) {
        match values.as_slice() {
            [] => {}
            [one] => self.line(key, one.clone()),
            _ => self.line(key, format!("[{}]", values.join(", "))),
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for comment in &self.comments {
            writeln!(text, "# {}", one_line(comment)).ok();
        }
        writeln!(text, "[[{}]]", self.header).ok();
        let width = self.lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        for (key, value) in &self.lines {
            writeln!(text, "{key:width$} = {value}").ok();
        }
        text
    }

    /// The same as comments, for what the file cannot have.
    pub fn commented_out(&self) -> String {
        self.text().lines().map(|line| format!("# {line}\n")).collect()
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(c)).ok();
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A TOML key, quoted where it has to be.
pub(super) fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if bare { name.to_owned() } else { quoted(name) }
}

/// A text that cannot end its comment.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
