//! What reading a policy takes in memory, so that whoever has little of it can refuse one that would not fit before it is read.
//!
//! Estimates, by what a text has much of, and a fifth more than was measured with texts of one kind of section or list alone.

use super::Rejected;
use super::rules::Statement;
use super::selectors::combinations;
use std::cell::RefCell;

/// What a byte of a text takes, once as it is and once as it is sent or decoded.
const PER_BYTE: u64 = 3;
/// What a table takes while it is parsed: a section, or what stands in braces.
const PER_TABLE: u64 = 1_500;
/// What a value takes: one of a list, or that of a key.
const PER_VALUE: u64 = 300;
/// What a rule of the kernel takes that the file comes to: its selectors, itself twice while lists are put together, and the search
/// for rules that no packet reaches.
const PER_RULE: u64 = 800;
/// What a byte of a set's file takes.
const PER_SET_BYTE: u64 = 4;

/// Asked before so many bytes are used: whether there is room for them.
pub(super) type Room<'a> = dyn Fn(u64) -> bool + 'a;

/// Why there is no policy.
#[derive(Debug)]
pub enum Refused<E> {
    /// The file is wrong.
    Rejected(Rejected),
    /// It would not fit in memory: what the caller said to that.
    Room(E),
}

impl<E> From<Rejected> for Refused<E> {
    fn from(rejected: Rejected) -> Self {
        Refused::Rejected(rejected)
    }
}

/// Reads where `room` has nothing against it. Once it has, all else that is found is of no account.
pub(super) fn within<E, T>(
    room: &dyn Fn(u64) -> Result<(), E>,
    read: impl FnOnce(&Room<'_>) -> Result<T, Rejected>,
) -> Result<T, Refused<E>> {
    let refusal = RefCell::new(None);
    let read = read(&|bytes| room(bytes).map_err(|error| refusal.replace(Some(error))).is_ok());
    match refusal.into_inner() {
        Some(error) => Err(Refused::Room(error)),
        None => Ok(read?),
    }
}

/// About how many tables a text has: headers and braces.
pub(super) fn tables_in(text: &str) -> usize {
    let mut last = b'\n';
    let opens = |byte: &u8| {
        let before = std::mem::replace(&mut last, *byte);
        *byte == b'{' || *byte == b'[' && before == b'\n'
    };
    text.bytes().filter(opens).count()
}

/// What it takes to parse a text, the rules aside that it comes to.
pub(super) fn of_text(text: &str) -> u64 {
    let values = text.bytes().filter(|byte| matches!(byte, b',' | b'=')).count() as u64;
    text.len() as u64 * PER_BYTE + tables_in(text) as u64 * PER_TABLE + values * PER_VALUE
}

/// What the rules take that these statements come to.
pub(super) fn of_rules(statements: &[Statement]) -> u64 {
    let rules = |statement: &Statement| {
        (combinations(&statement.selector_lengths()) as u64).saturating_mul(statement.families.len() as u64)
    };
    statements.iter().map(rules).fold(0, u64::saturating_add).saturating_mul(PER_RULE)
}

/// What a set's file of so many bytes takes.
pub(super) fn of_set(bytes: u64) -> u64 {
    bytes.saturating_mul(PER_SET_BYTE)
}
