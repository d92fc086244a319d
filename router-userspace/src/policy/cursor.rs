//! Reading a parsed document: sections with known keys, fields of one value or a list, and the collection of all that is wrong.

use super::diagnostic::{Diagnostic, Source, Span};
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// How many errors (and how many warnings) are kept; the rest is only counted.
const KEPT: usize = 1000;

/// Why a value is wrong, and the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub message: String,
    pub help: String,
}

impl Wrong {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Wrong { message: message.into(), help: help.into() }
    }
}

/// Collects what is wrong.
pub(super) struct Findings<'a> {
    pub text: &'a Source,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    /// The ranges of text that a syntax error spoiled, in order and apart: what seems wrong there is only its echo.
    pub spoiled: Vec<Span>,
    dropped_errors: usize,
    dropped_warnings: usize,
}

impl<'a> Findings<'a> {
    pub fn new(text: &'a Source) -> Self {
        Findings {
            text,
            errors: Vec::new(),
            warnings: Vec::new(),
            spoiled: Vec::new(),
            dropped_errors: 0,
            dropped_warnings: 0,
        }
    }

    pub fn error(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        if self.is_spoiled(&span) {
            return;
        }
        if self.errors.len() < KEPT {
            self.errors.push(self.text.diagnostic(span, message, help));
        } else {
            self.dropped_errors += 1;
        }
    }

    pub fn warn(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        if self.is_spoiled(&span) {
            return;
        }
        if self.warnings.len() < KEPT {
            self.warnings.push(self.text.diagnostic(span, message, help));
        } else {
            self.dropped_warnings += 1;
        }
    }

    /// What is wrong in another file that the policy names.
    pub fn error_elsewhere(&mut self, diagnostic: Diagnostic) {
        if self.errors.len() < KEPT {
            self.errors.push(diagnostic);
        } else {
            self.dropped_errors += diagnostic.unlisted.max(1);
        }
    }

    /// Whether errors are only counted by now, so that nobody needs to find out how to mend them.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= KEPT
    }

    /// The value, or its error noted.
    pub fn take<T>(&mut self, span: &Span, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|wrong| self.error(span.clone(), wrong.message, wrong.help)).ok()
    }

    /// Brings everything into the file's order, what is wrong in other files behind it, and says how much was left out.
    pub fn finish(&mut self) {
        for (list, dropped, what) in
            [(&mut self.errors, self.dropped_errors, "errors"), (&mut self.warnings, self.dropped_warnings, "warnings")]
        {
            let own = self.text.name.clone();
            let place = |diagnostic: &Diagnostic| match diagnostic.file == *own {
                true => (None, diagnostic.span.as_ref().map(|span| span.start)),
                false if diagnostic.unlisted > 0 => (Some(diagnostic.file.clone()), Some(usize::MAX)),
                false => (Some(diagnostic.file.clone()), diagnostic.line),
            };
            list.sort_by_cached_key(place);
            // What goes wrong in both families is said once.
            list.dedup();
            if dropped > 0 {
                let message = format!("{dropped} more {what} are not listed");
                let rest = self.text.of_file(message, "mend these first");
                list.push(Diagnostic { unlisted: dropped, ..rest });
            }
        }
    }

    fn is_spoiled(&self, span: &Span) -> bool {
        let after = self.spoiled.partition_point(|spoiled| spoiled.start <= span.start);
        after > 0 && self.spoiled.get(after - 1).is_some_and(|spoiled| spoiled.contains(&span.start))
    }
}

/// A table of the file: `[router]`, one `[[rule]]`, one of `nexthops`.
pub(super) struct Section<'d> {
    /// Its header, or all of it where it is written inline.
    pub span: Span,
    table: &'d DeTable<'d>,
    /// Keys that unknown ones were probably meant for: these are not missing too.
    meant: Vec<&'static str>,
}

/// A key with its value.
pub(super) struct Field<'d> {
    pub key: &'static str,
    pub key_span: Span,
    pub value: &'d Spanned<DeValue<'d>>,
}

/// One scalar: the value of a key, or an element of its list.
#[derive(Clone)]
pub(super) struct Item<'d> {
    pub key: &'static str,
    pub span: Span,
    pub value: &'d DeValue<'d>,
}

impl<'d> Section<'d> {
    /// Opens a table; keys that are not in `known` are errors.
    pub fn open(
        findings: &mut Findings<'_>,
        what: &'static str,
        span: Span,
        table: &'d DeTable<'d>,
        known: &[&'static str],
    ) -> Self {
        let mut meant = Vec::new();
        for key in table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let near = if findings.is_full() { None } else { nearest(name, known) };
            let help = match near {
                Some(known) => {
                    meant.push(known);
                    format!("did you mean `{known}`?")
                }
                None => format!("{what} knows {}", known.join(", ")),
            };
            findings.error(key.span(), format!("{what} has no key {}", quote(name)), help);
        }
        Section { span, table, meant }
    }

    /// Notes that something is missing, unless a mistyped key was meant for one of `keys`.
    pub fn missing(&self, findings: &mut Findings<'_>, keys: &[&str], message: &str, help: &str) {
        if !keys.iter().any(|key| self.meant.contains(key)) {
            findings.error(self.span.clone(), message, help);
        }
    }

    /// The field of that name.
    pub fn get(&self, key: &'static str) -> Option<Field<'d>> {
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Field { key, key_span: name.span(), value })
    }
}

impl<'d> Field<'d> {
    /// The one value; a list is an error.
    pub fn one(&self, findings: &mut Findings<'_>) -> Option<Item<'d>> {
        let span = self.value.span();
        match self.value.get_ref() {
            DeValue::Array(_) | DeValue::Table(_) => {
                let message = format!("`{}` takes one value, not {}", self.key, type_name(self.value.get_ref()));
                findings.error(span, message, "");
                None
            }
            value => Some(Item { key: self.key, span, value }),
        }
    }

    /// One value or a list of them. An empty list is an error unless `may_be_empty`.
    pub fn items(&self, findings: &mut Findings<'_>, may_be_empty: bool) -> Vec<Item<'d>> {
        let DeValue::Array(list) = self.value.get_ref() else {
            return self.one(findings).into_iter().collect();
        };
        if list.is_empty() && !may_be_empty {
            let message = format!("`{}` is an empty list, so it could never match", self.key);
            findings.error(
                self.value.span(),
                message,
                format!("give a value, or leave `{}` out to match all", self.key),
            );
        }
        let mut items = Vec::with_capacity(list.len());
        for value in list.iter() {
            match value.get_ref() {
                DeValue::Array(_) | DeValue::Table(_) => {
                    let what = type_name(value.get_ref());
                    findings.error(
                        value.span(),
                        format!("{what} inside the list of `{}`", self.key),
                        "give single values",
                    );
                }
                inner => items.push(Item { key: self.key, span: value.span(), value: inner }),
            }
        }
        items
    }
}

impl<'d> Item<'d> {
    /// Its text; another type is an error.
    pub fn text(&self, findings: &mut Findings<'_>, example: &str) -> Option<&'d str> {
        match self.value {
            DeValue::String(text) => Some(text),
            other => {
                let help = match other {
                    DeValue::Integer(number) => format!("put it in quotes: {} = \"{number}\"", self.key),
                    _ => format!("such as {} = \"{example}\"", self.key),
                };
                findings.error(self.span.clone(), self.wants("a string"), help);
                None
            }
        }
    }

    /// Its truth value; another type is an error.
    pub fn boolean(&self, findings: &mut Findings<'_>) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                let help = format!("write {0} = true or {0} = false, without quotes", self.key);
                findings.error(self.span.clone(), self.wants("true or false"), help);
                None
            }
        }
    }

    /// A number in a range; another type is an error.
    pub fn number(&self, findings: &mut Findings<'_>, range: RangeInclusive<u64>) -> Option<u64> {
        let value = match self.value {
            DeValue::Integer(_) => self.as_integer(),
            other => {
                let help = match other {
                    DeValue::String(text) if parse_number(text).is_some() => {
                        format!("without quotes: {} = {text}", self.key)
                    }
                    _ => format!("a number from {} to {}", range.start(), range.end()),
                };
                findings.error(self.span.clone(), self.wants("a number"), help);
                return None;
            }
        };
        match value.and_then(|value| u64::try_from(value).ok()).filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => {
                let message = format!("`{}` cannot be {}", self.key, clip(findings.text, &self.span));
                findings.error(
                    self.span.clone(),
                    message,
                    format!("it goes from {} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    /// The integer that it is; None for other types and for numbers beyond 128 bits.
    pub fn as_integer(&self) -> Option<i128> {
        match self.value {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        }
    }

    /// A number from an integer, or the text of a string, for values that may be either.
    pub fn number_or_text(&self, findings: &mut Findings<'_>, wanted: &str, example: &str) -> Option<NumberOrText<'d>> {
        match self.value {
            DeValue::String(text) => Some(NumberOrText::Text(text)),
            DeValue::Integer(_) => {
                // What is negative or beyond 64 bits is beyond every range that is asked for.
                let number = self.as_integer().and_then(|number| u64::try_from(number).ok());
                if number.is_none() {
                    let message = format!("`{}` cannot be {}", self.key, clip(findings.text, &self.span));
                    findings.error(self.span.clone(), message, format!("such as {} = {example}", self.key));
                }
                number.map(NumberOrText::Number)
            }
            _ => {
                findings.error(self.span.clone(), self.wants(wanted), format!("such as {} = {example}", self.key));
                None
            }
        }
    }

    fn wants(&self, wanted: &str) -> String {
        format!("`{}` takes {wanted}, not {}", self.key, type_name(self.value))
    }
}

/// A value that may be written as an integer or as a string.
pub(super) enum NumberOrText<'d> {
    Number(u64),
    Text(&'d str),
}

/// A number, decimal or hexadecimal with `0x`.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // from_str_radix takes a sign; a policy file does not.
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// A piece of the file for a message: quoted, shortened, without control characters.
pub(super) fn quote(text: &str) -> String {
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    let mut shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// The text of a span, quoted for a message.
fn clip(text: &Source, span: &Span) -> String {
    quote(text.text.get(span.clone()).unwrap_or_default())
}

/// What TOML calls the type, with its article.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Words that people know from other programs.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("lookup", &["table"]),
    ("pref", &["priority"]),
    ("preference", &["priority"]),
    ("order", &["priority"]),
    ("source", &["from", "src"]),
    ("src", &["from"]),
    ("destination", &["to"]),
    ("dst", &["to"]),
    ("mark", &["fwmark"]),
    ("proto", &["ipproto"]),
    ("protocol", &["ipproto"]),
    ("in", &["iif"]),
    ("interface", &["iif", "dev"]),
    ("device", &["dev"]),
    ("oif", &["dev"]),
    ("gateway", &["via"]),
    ("gw", &["via"]),
    ("nexthop", &["nexthops"]),
    ("prefix", &["to"]),
    ("suppress_prefix", &["suppress_prefixlength"]),
    ("kind", &["type"]),
];

/// The known word that was probably meant.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let synonyms = SYNONYMS.iter().filter(|(other, _)| other.eq_ignore_ascii_case(word)).flat_map(|(_, words)| *words);
    let mut synonyms = synonyms.filter_map(|synonym| known.iter().find(|known| *known == synonym));
    if let Some(known) = synonyms.next() {
        return Some(known);
    }
    // A long word is near to nothing, and comparing it costs the square of its length.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let near = |known: &&&str| strsim::osa_distance(&lower, &known.to_lowercase());
    known.iter().min_by_key(near).filter(|best| near(best) <= 1.max(best.len().min(lower.len()) / 3)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_knows_slips_and_synonyms_and_keeps_silent_otherwise() {
        let known = ["priority", "table", "fwmark", "iif", "from"];
        assert_eq!(nearest("priorty", &known), Some("priority"));
        assert_eq!(nearest("Table", &known), Some("table"));
        assert_eq!(nearest("lookup", &known), Some("table"));
        assert_eq!(nearest("src", &known), Some("from"));
        assert_eq!(nearest("iff", &known), Some("iif"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), &known), None);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_nothing_else() {
        assert_eq!(parse_number("0x14cc"), Some(5324));
        assert_eq!(parse_number("5324"), Some(5324));
        for wrong in ["", "0x", "+1", "0x+1", "-1", " 1", "1 ", "1_0", "0b1", "99999999999999999999"] {
            assert_eq!(parse_number(wrong), None, "{wrong:?}");
        }
    }
}
