//! From a file, or standard input, to a policy.

use super::cursor::{Wrong, quote};
use super::document::{self, unreadable};
use super::memory::{self, Refused, Room, tables_in, within};
use super::selectors::MOST;
use super::{Loaded, Rejected, Source, TableNames};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest file that is read, in bytes. A policy of 100,000 rules has about half of it.
pub const LARGEST: u64 = 16 << 20;

/// The largest file of a set that is read, in bytes: a million IPv6 prefixes with a remark each.
pub const LARGEST_SET: u64 = 64 << 20;

/// Parses and validates a text whose sets' files are named from the working directory. `name` is what messages and `at` call it. The names of tables are the text's own, the
/// standard ones and those given: none for an answer that is the same on every host, [`TableNames::of_host`] for this host.
pub fn parse(name: &str, text: &str, names: &TableNames) -> Result<Loaded, Rejected> {
    parse_in(Path::new(""), name, text, names)
}

/// The same for a text whose sets' files are named from `folder`.
pub fn parse_in(folder: &Path, name: &str, text: &str, names: &TableNames) -> Result<Loaded, Rejected> {
    parse_text(folder, name, text, names, &|_| true)
}

/// The same where `room`, which is asked before so many bytes of memory are used, has nothing against it.
pub fn parse_within<E>(
    folder: &Path,
    name: &str,
    text: &str,
    names: &TableNames,
    room: &dyn Fn(u64) -> Result<(), E>,
) -> Result<Loaded, Refused<E>> {
    within(room, |room| parse_text(folder, name, text, names, room))
}

fn parse_text(folder: &Path, name: &str, text: &str, names: &TableNames, room: &Room<'_>) -> Result<Loaded, Rejected> {
    if tables_in(text) > MOST {
        return Err(unreadable(name, |text| {
            text.of_file(format!("the file has more than {MOST} sections"), "use lists of values and wider prefixes")
        }));
    }
    if !room(memory::of_text(text)) {
        return Err(no_room(name));
    }
    document::parse(Source::new(name, text), names, &|path| read_set(&folder.join(path), room), room)
}

/// Reads, parses and validates a file; `-` is standard input. Messages and `at` call it by the path.
pub fn load(path: &Path, names: &TableNames) -> Result<Loaded, Rejected> {
    load_where(path, names, &|_| true)
}

/// The same where `room`, which is asked before so many bytes of memory are used, has nothing against it.
pub fn load_within<E>(
    path: &Path,
    names: &TableNames,
    room: &dyn Fn(u64) -> Result<(), E>,
) -> Result<Loaded, Refused<E>> {
    within(room, |room| load_where(path, names, room))
}

fn load_where(path: &Path, names: &TableNames, room: &Room<'_>) -> Result<Loaded, Rejected> {
    if path == Path::new("-") {
        return read_all(Path::new(""), "standard input", read(std::io::stdin().lock(), LARGEST), names, room);
    }
    load_file_where(&path.display().to_string(), path, names, room)
}

/// Reads, parses and validates a file, never standard input. `name` is what messages and `at` call it. `room` as in [`load_within`].
pub fn load_file_within<E>(
    name: &str,
    path: &Path,
    names: &TableNames,
    room: &dyn Fn(u64) -> Result<(), E>,
) -> Result<Loaded, Refused<E>> {
    within(room, |room| load_file_where(name, path, names, room))
}

fn load_file_where(name: &str, path: &Path, names: &TableNames, room: &Room<'_>) -> Result<Loaded, Rejected> {
    let folder = path.parent().unwrap_or(Path::new(""));
    read_all(folder, name, File::open(path).and_then(|file| read(file, LARGEST)), names, room)
}

/// What nobody gets to see: the refusal of the memory stands before it.
fn no_room(name: &str) -> Rejected {
    unreadable(name, |text| text.of_file("it would not fit in memory", ""))
}

/// The file of a set, by the name that messages have for it. What is no plain file is not opened: it may never end, or never begin.
fn read_set(path: &Path, room: &Room<'_>) -> Result<(String, Vec<u8>), Wrong> {
    let name = path.display().to_string();
    let failed = |error: std::io::Error| {
        let help = if error.kind() == std::io::ErrorKind::NotFound { "check the path" } else { mend(&error) };
        Wrong::new(format!("cannot read {}: {}", quote(&name), describe(&error)), help)
    };
    let kind = std::fs::metadata(path).map_err(failed)?;
    if kind.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    let no_file = || Wrong::new(format!("{} is no plain file", quote(&name)), "give a file with a prefix a line");
    if !kind.is_file() {
        return Err(no_file());
    }
    // It may have become something else by now.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(no_file());
    }
    if !room(memory::of_set(metadata.len().min(LARGEST_SET))) {
        return Err(Wrong::new("it would not fit in memory", ""));
    }
    let bytes = read(file, LARGEST_SET).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_SET {
        let message =
            format!("{} is larger than {} MiB, the most that is read of a set", quote(&name), LARGEST_SET >> 20);
        return Err(Wrong::new(message, "use wider prefixes; is it the right file?"));
    }
    Ok((name, bytes))
}

fn read_all(
    folder: &Path,
    name: &str,
    bytes: std::io::Result<Vec<u8>>,
    names: &TableNames,
    room: &Room<'_>,
) -> Result<Loaded, Rejected> {
    // The system has none, so that nobody has to be asked.
    if matches!(&bytes, Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory) {
        room(u64::MAX);
    }
    let bytes = bytes.map_err(|error| {
        unreadable(name, |text| text.of_file(format!("cannot read it: {}", describe(&error)), mend(&error)))
    })?;
    parse_bytes(folder, name, bytes, names, room)
}

/// All of it, or one byte more than is allowed: enough to know.
fn read(input: impl Read, largest: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(largest + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_bytes(
    folder: &Path,
    name: &str,
    bytes: Vec<u8>,
    names: &TableNames,
    room: &Room<'_>,
) -> Result<Loaded, Rejected> {
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
        Ok(text) => parse_text(folder, name, &text, names, room),
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
