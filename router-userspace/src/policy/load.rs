//! From a file, or standard input, to a policy.

use super::document::{self, unreadable};
use super::selectors::MOST;
use super::{Loaded, Rejected, Source, TableNames};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest file that is read, in bytes. A policy of 100,000 rules has about half of it; reading costs up to some 60 times
/// as much memory.
pub const LARGEST: u64 = 16 << 20;

/// Parses and validates a text. `name` is what messages and `at` call it. The names of tables are the text's own, the
/// standard ones and those given: none for an answer that is the same on every host, [`TableNames::of_host`] for this host.
pub fn parse(name: &str, text: &str, names: &TableNames) -> Result<Loaded, Rejected> {
    if tables_in(text) > MOST {
        return Err(unreadable(name, |text| {
            text.of_file(format!("the file has more than {MOST} sections"), "use lists of values and wider prefixes")
        }));
    }
    document::parse(Source::new(name, text), names)
}

/// About how many tables a text has: headers and braces. Each costs the parser a kilobyte, however short it is written.
fn tables_in(text: &str) -> usize {
    let mut last = b'\n';
    let opens = |byte: &u8| {
        let before = std::mem::replace(&mut last, *byte);
        *byte == b'{' || *byte == b'[' && before == b'\n'
    };
    text.bytes().filter(opens).count()
}

/// Reads, parses and validates a file; `-` is standard input. Messages and `at` call it by the path.
pub fn load(path: &Path, names: &TableNames) -> Result<Loaded, Rejected> {
    if path == Path::new("-") {
        return read_all("standard input", read(std::io::stdin().lock()), names);
    }
    load_file(&path.display().to_string(), path, names)
}

/// Reads, parses and validates a file, never standard input. `name` is what messages and `at` call it.
pub fn load_file(name: &str, path: &Path, names: &TableNames) -> Result<Loaded, Rejected> {
    read_all(name, File::open(path).and_then(read), names)
}

fn read_all(name: &str, bytes: std::io::Result<Vec<u8>>, names: &TableNames) -> Result<Loaded, Rejected> {
    let bytes = bytes.map_err(|error| {
        unreadable(name, |text| text.of_file(format!("cannot read it: {}", describe(&error)), mend(&error)))
    })?;
    parse_bytes(name, bytes, names)
}

/// All of it, or one byte more than is allowed: enough to know.
fn read(input: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_bytes(name: &str, bytes: Vec<u8>, names: &TableNames) -> Result<Loaded, Rejected> {
    if bytes.len() as u64 > LARGEST {
        return Err(unreadable(name, |text| {
            let message = format!("the file is larger than {} MiB, the most that is read", LARGEST >> 20);
            text.of_file(
                message,
                "is it a policy? Lists and wider prefixes make one shorter; [[mark]] keeps many addresses cheap",
            )
        }));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(name, &text, names),
        Err(error) => Err(not_text(name, &error)),
    }
}

/// Points at the first byte that is no UTF-8.
fn not_text(name: &str, error: &std::string::FromUtf8Error) -> Rejected {
    let at = error.utf8_error().valid_up_to();
    let byte = error.as_bytes().get(at).copied().unwrap_or_default();
    let text = Source::new(name, String::from_utf8_lossy(error.as_bytes()).as_ref());
    let message = format!("the file is not UTF-8: byte {byte:#04x} at offset {at}");
    let help = match error.as_bytes() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it looks like UTF-16; save it as UTF-8",
        bytes if bytes.contains(&0) => "it looks like no text at all; is it the right file?",
        _ => "save it as UTF-8 (iconv -f LATIN1 -t UTF-8 converts from the most likely encoding)",
    };
    // What comes before is UTF-8 and so the same in the lossy text: one replacement character stands at the place.
    let errors = vec![text.diagnostic(at..at + char::REPLACEMENT_CHARACTER.len_utf8(), message, help)];
    Rejected { errors, warnings: Vec::new(), text }
}

/// The system's sentence without its number.
fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn mend(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "check the path; `-` is standard input",
        std::io::ErrorKind::PermissionDenied => "its permissions keep this user out",
        std::io::ErrorKind::IsADirectory => "give the file in it",
        _ => "",
    }
}
