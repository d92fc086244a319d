//! `[sets]`: named sets of addresses, from files of their own or in place.

use super::cursor::{Field, Findings, Item, Section, Wrong, nearest, quote, type_name};
use super::diagnostic::{Diagnostic, Source, Span};
use super::values::{Net, prefix};
use super::{Policy, PolicyMark, Set, SetUse};
use crate::model::{AddressSet, Family, MarkRule, MarkSelectors, PrefixSet, Side};
use ipnet::IpNet;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most members that all sets of a file have together.
pub(super) const MOST_MEMBERS: usize = 1_000_000;
/// So many wrong lines of one file are told, the rest is counted.
const WRONG_LINES: usize = 100;

/// Gives the bytes of a file that a set names, with what messages call it; or why it cannot be read.
pub(super) type ReadFile<'a> = dyn Fn(&str) -> Result<(String, Vec<u8>), Wrong> + 'a;

/// The sets of a file, to be found by name.
#[derive(Default)]
pub(super) struct Sets {
    entries: Vec<Entry>,
    by_name: BTreeMap<String, usize>,
    /// A syntax error stands in the file, so that a set that seems unknown may only be unread.
    pub incomplete: bool,
}

struct Entry {
    set: Set,
    span: Span,
    /// Not all of its members could be read.
    wrong: bool,
    used: Cell<bool>,
}

impl Sets {
    /// The set that a selector names by `@name`, with `name`.
    pub fn resolve(&self, findings: &mut Findings<'_>, item: &Item<'_>, name: &str) -> Option<Net> {
        let Some(index) = self.by_name.get(name).copied() else {
            if !self.incomplete {
                let known: Vec<&str> = self.by_name.keys().take(500).map(String::as_str).collect();
                let near = if findings.is_full() { None } else { nearest(name, &known) };
                let help = match near {
                    Some(known) => format!("did you mean \"@{known}\"?"),
                    None => format!("declare it: [sets] {name} = {{ file = \"prefixes.txt\" }}, or a list of prefixes"),
                };
                let name = format!("@{name}");
                findings.error(item.span.clone(), format!("no set is called {}", quote(&name)), help);
            }
            return None;
        };
        let entry = self.entries.get(index)?;
        entry.used.set(true);
        let members = &entry.set.members;
        // What could not be read may be of any family.
        let any = entry.wrong || members.is_empty();
        let has = |family| any || members.ranges(family) > 0;
        Some(Net::Set {
            index,
            v4: has(Family::Ipv4),
            v6: has(Family::Ipv6),
            empty: members.is_empty() && !entry.wrong,
        })
    }

    /// The set of an index that [`Sets::resolve`] gave.
    pub fn get(&self, index: usize) -> Option<AddressSet> {
        let set = &self.entries.get(index)?.set;
        Some(AddressSet { name: set.name.clone(), members: set.members.clone() })
    }

    /// Warns of those that nothing names, and gives them all.
    pub fn finish(self, findings: &mut Findings<'_>) -> Vec<Set> {
        for entry in self.entries.iter().filter(|entry| !entry.used.get()) {
            let message = format!("no rule and no mark names the set `{}`", entry.set.name);
            findings.warn(
                entry.span.clone(),
                message,
                format!("write from = \"@{}\", or take it away", entry.set.name),
            );
        }
        self.entries.into_iter().map(|entry| entry.set).collect()
    }
}

/// Reads `[sets]`.
pub(super) fn read<'d>(findings: &mut Findings<'_>, table: &'d DeTable<'d>, files: &ReadFile<'_>) -> Sets {
    let mut sets = Sets::default();
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut room = MOST_MEMBERS;
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if !(1..=32).contains(&name.len()) || !name.chars().all(good) {
            let help = "1 to 32 letters and digits of ASCII, `_` and `-`";
            findings.error(key.span(), format!("{} cannot be the name of a set", quote(name)), help);
            continue;
        }
        let (prefixes, wrong) = read_one(findings, value, files, &mut room);
        let (count, members) = (prefixes.len(), Arc::new(PrefixSet::new(prefixes)));
        let set = Set { name: name.into(), members, count, at: findings.text.at(key.span().start) };
        sets.by_name.insert(name.to_owned(), sets.entries.len());
        sets.entries.push(Entry { set, span: key.span(), wrong, used: Cell::new(false) });
    }
    sets
}

/// The prefixes of one set, and whether some are wrong.
fn read_one<'d>(
    findings: &mut Findings<'_>,
    value: &'d Spanned<DeValue<'d>>,
    files: &ReadFile<'_>,
    room: &mut usize,
) -> (Vec<IpNet>, bool) {
    let table = match value.get_ref() {
        DeValue::Table(table) => table,
        DeValue::Array(_) => return in_place(findings, value, room),
        other => {
            let message = format!("a set is a file or a list, not {}", type_name(other));
            findings.error(
                value.span(),
                message,
                "such as { file = \"prefixes.txt\" } or [\"10.0.0.0/8\", \"fd00::/8\"]",
            );
            return (Vec::new(), true);
        }
    };
    let section = Section::open(findings, "a set", value.span(), table, &["file"]);
    let Some(field) = section.get("file") else {
        section.missing(findings, &["file"], "the set has no members", "such as { file = \"prefixes.txt\" }");
        return (Vec::new(), true);
    };
    let Some(item) = field.one(findings) else { return (Vec::new(), true) };
    let Some(path) = item.text(findings, "prefixes.txt") else { return (Vec::new(), true) };
    match files(path) {
        Ok((name, bytes)) => of_file(findings, &item.span, name, bytes, room),
        Err(Wrong { message, help }) => {
            findings.error(item.span, message, help);
            (Vec::new(), true)
        }
    }
}

fn in_place<'d>(findings: &mut Findings<'_>, value: &'d Spanned<DeValue<'d>>, room: &mut usize) -> (Vec<IpNet>, bool) {
    let items = Field { key: "sets", key_span: value.span(), value }.items(findings, true);
    if items.len() > *room {
        too_many(findings, value.span());
        return (Vec::new(), true);
    }
    *room -= items.len();
    let mut wrong = false;
    let mut one = |item: &Item<'_>| {
        let net = item.text(findings, "10.0.0.0/8").map(prefix).and_then(|net| findings.take(&item.span, net));
        wrong |= net.is_none();
        net
    };
    let prefixes = items.iter().filter_map(&mut one).collect();
    (prefixes, wrong)
}

fn too_many(findings: &mut Findings<'_>, span: Span) {
    let message = format!("with this set the file has more than {MOST_MEMBERS} members of sets");
    findings.error(span, message, "use wider prefixes");
}

/// The prefixes of a set's own file: one a line, with comments and blank lines between.
fn of_file(
    findings: &mut Findings<'_>,
    span: &Span,
    name: String,
    bytes: Vec<u8>,
    room: &mut usize,
) -> (Vec<IpNet>, bool) {
    let name: Arc<str> = name.into();
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            findings.error_elsewhere(not_text(name, &bytes, error.valid_up_to()));
            return (Vec::new(), true);
        }
    };
    // What some editors put in front of UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut prefixes = Vec::new();
    let mut wrong = 0;
    for (number, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        if prefixes.len() == *room {
            too_many(findings, span.clone());
            return (Vec::new(), true);
        }
        match prefix(word) {
            Ok(net) => prefixes.push(net),
            Err(error) => {
                wrong += 1;
                if wrong <= WRONG_LINES {
                    let start = line.len() - line.trim_start().len();
                    let excerpt = Source::excerpt(name.clone(), line, number);
                    let help = match word.contains([' ', '\t', ',', ';']) {
                        true => "one prefix or address a line".to_owned(),
                        false => error.help,
                    };
                    let found = excerpt.diagnostic(start..start + word.len(), error.message, help);
                    findings.error_elsewhere(Diagnostic { excerpt: Some(excerpt), ..found });
                }
            }
        }
    }
    if wrong > WRONG_LINES {
        let unlisted = wrong - WRONG_LINES;
        let rest = Source::new(name, "").of_file(format!("{unlisted} more lines are wrong"), "mend those first");
        findings.error_elsewhere(Diagnostic { unlisted, ..rest });
    }
    *room -= prefixes.len();
    (prefixes, wrong > 0)
}

/// Points at the first byte that is no UTF-8.
fn not_text(name: Arc<str>, bytes: &[u8], at: usize) -> Diagnostic {
    let before = bytes.get(..at).unwrap_or_default();
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |feed| feed + 1);
    let line = bytes.get(start..).unwrap_or_default().split(|byte| *byte == b'\n').next().unwrap_or_default();
    let excerpt = Source::excerpt(name, &String::from_utf8_lossy(line), lines);
    let byte = bytes.get(at).copied().unwrap_or_default();
    let message = format!("the file is not UTF-8: byte {byte:#04x} at offset {at}");
    let span = at - start..at - start + char::REPLACEMENT_CHARACTER.len_utf8();
    let found = excerpt.diagnostic(span, message, "save it as UTF-8; is it the right file?");
    Diagnostic { excerpt: Some(excerpt), ..found }
}

/// Says what naming a set without members means.
pub(super) fn check_empty(findings: &mut Findings<'_>, nets: &[(Net, Span)], not: bool) {
    for (_, span) in nets.iter().filter(|(net, _)| matches!(net, Net::Set { empty: true, .. })) {
        if not {
            let help = "`not` of it takes every packet: leave the rule out until the set has members";
            findings.error(span.clone(), "this set is empty", help);
        } else {
            findings.warn(span.clone(), "this set is empty: no packet has an address in it", "");
        }
    }
}

impl Policy {
    /// Each use of a set by a rule, in order: what needs a bit of the mark of its own.
    pub fn set_uses(&self) -> BTreeSet<SetUse> {
        let of_rule = |lowered: &super::LoweredRule| {
            let from = lowered.from_set.clone().map(|set| SetUse { side: Side::From, set });
            from.into_iter().chain(lowered.to_set.clone().map(|set| SetUse { side: Side::To, set }))
        };
        self.rules.iter().flat_map(of_rule).collect()
    }

    /// Whether it matters to this policy who else uses which bits of the mark, apart from the fast path.
    pub fn wants_mark_bits(&self) -> bool {
        self.router.mark_bits.is_some() || !self.set_uses().is_empty()
    }

    /// The policy with a bit of the mark for each use of a set: its rules look for these bits, and behind the `[[mark]]` come
    /// statements that set them. A packet that carries exactly one of the `whole` marks keeps it, and so is in no set.
    #[must_use]
    pub fn with_set_bits(&self, bits: &BTreeMap<SetUse, u32>, whole: &BTreeSet<u32>) -> Policy {
        let mut policy = Policy { set_bits: bits.clone(), ..self.clone() };
        let bit = |side, set: &Option<Arc<str>>| {
            let set = set.clone()?;
            bits.get(&SetUse { side, set }).copied()
        };
        for lowered in &mut policy.rules {
            let of_sets = bit(Side::From, &lowered.from_set).unwrap_or(0) | bit(Side::To, &lowered.to_set).unwrap_or(0);
            if of_sets != 0 {
                let (value, mask) = lowered.rule.selectors.fwmark.unwrap_or((0, 0));
                lowered.rule.selectors.fwmark = Some((value & mask | of_sets, mask | of_sets));
            }
        }
        if !bits.is_empty() {
            let statement = self.marks.iter().map(|mark| mark.rule.statement + 1).max().unwrap_or(0);
            policy.marks.extend(memberships(self, bits, whole, statement));
        }
        policy
    }
}

/// The statements that set the bits, from number `statement` on. The first takes away what others have left in them.
fn memberships(
    policy: &Policy,
    bits: &BTreeMap<SetUse, u32>,
    whole: &BTreeSet<u32>,
    mut statement: u32,
) -> Vec<PolicyMark> {
    let all = bits.values().fold(0, |all, bit| all | bit);
    let mark = |at: &str, family, statement, selectors, value, mask| PolicyMark {
        rule: MarkRule { family, statement, selectors, value, mask, membership: true },
        at: at.to_owned(),
    };
    let first = policy.sets.first().map_or("", |set| set.at.as_str());
    let mut marks: Vec<PolicyMark> = Family::BOTH
        .map(|family| mark(first, family, statement, MarkSelectors::default(), 0, all))
        .into_iter()
        .collect();
    for (SetUse { side, set: name }, bit) in bits {
        let Some(set) = policy.sets.iter().find(|set| set.name == *name) else { continue };
        statement += 1;
        for family in Family::BOTH.into_iter().filter(|family| set.members.ranges(*family) > 0) {
            for value in whole {
                let exactly = MarkSelectors { fwmark: Some((*value, u32::MAX)), ..MarkSelectors::default() };
                marks.push(mark(&set.at, family, statement, exactly, 0, 0));
            }
            let members = Some(AddressSet { name: set.name.clone(), members: set.members.clone() });
            let selectors = match side {
                Side::From => MarkSelectors { from_set: members, ..MarkSelectors::default() },
                Side::To => MarkSelectors { to_set: members, ..MarkSelectors::default() },
            };
            marks.push(mark(&set.at, family, statement, selectors, *bit, *bit));
        }
    }
    marks
}
