//! The file as a whole: syntax, sections, `[router]` and `[tables]`.

use super::cursor::{Field, Findings, Section, nearest, parse_number, quote, type_name};
use super::diagnostic::{Diagnostic, Rejected, Source, Span};
use super::memory::{self, Room};
use super::names::{STANDARD, TableNames, Tables, table_number};
use super::values::{choice, mark};
use super::{Bypass, Counts, FastPathCap, Loaded, LoweredRule, Mode, Policy, PolicyRoute, RouterSettings, Table};
use super::{marks, reach, routes, rules, sets, syntax};
use crate::model::{TABLE_LOCAL, TABLE_MAIN};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const SECTIONS: [&str; 6] = ["router", "tables", "sets", "route", "mark", "rule"];

/// Parses and validates a text. `room` is asked whether there is memory for the rules that it comes to.
pub(super) fn parse(
    text: Source,
    names: &TableNames,
    files: &sets::ReadFile<'_>,
    room: &Room<'_>,
) -> Result<Loaded, Rejected> {
    let ((policy, counts), errors, warnings) = {
        let mut findings = Findings::new(&text);
        let read = read(&mut findings, &text, names, files);
        if !room(memory::of_rules(&read.statements)) {
            findings.error(0..0, "it would not fit in memory", "");
            return Err(Rejected { errors: findings.errors, warnings: Vec::new(), text: text.clone() });
        }
        let policy = put_together(&mut findings, &text, read);
        findings.finish();
        (policy, findings.errors, findings.warnings)
    };
    if errors.is_empty() {
        Ok(Loaded { policy, warnings, text, counts })
    } else {
        Err(Rejected { errors, warnings, text })
    }
}

/// The sections of a file, each for itself. The document that they were read from is gone by then: it takes more memory than
/// all that comes of it.
struct Read {
    router: Router,
    tables: BTreeMap<String, Table>,
    sets: sets::Sets,
    routes: Vec<PolicyRoute>,
    marks: Vec<marks::Statement>,
    statements: Vec<rules::Statement>,
    counts: Counts,
}

fn read(findings: &mut Findings<'_>, text: &Source, names: &TableNames, files: &sets::ReadFile<'_>) -> Read {
    let (root, syntax) = syntax::parse(text);
    let root = root.get_ref();
    let sections: BTreeMap<&str, (Span, &Spanned<DeValue<'_>>)> =
        root.iter().map(|(key, value)| (&**key.get_ref(), (key.span(), value))).collect();
    syntax::note(findings, &syntax);
    for (key, (span, _)) in &sections {
        if !SECTIONS.contains(key) {
            let help = match nearest(key, &SECTIONS) {
                Some(name) => format!("did you mean {}?", header(name)),
                None => "a policy has [router], [tables], [sets], [[route]], [[mark]] and [[rule]]".to_owned(),
            };
            findings.error(span.clone(), format!("a policy has no section {}", quote(key)), help);
        }
    }

    let router = match single(findings, &sections, "router") {
        Some((span, table)) => read_router(findings, span, table),
        None => Router::default(),
    };
    let mut tables = Tables { own: BTreeMap::new(), host: names, incomplete: false };
    if let Some((_, table)) = single(findings, &sections, "tables") {
        read_tables(findings, table, &mut tables.own);
    }
    tables.incomplete = !syntax.is_empty();
    let mut sets = match single(findings, &sections, "sets") {
        Some((_, table)) => sets::read(findings, table, files),
        None => sets::Sets::default(),
    };
    sets.incomplete = tables.incomplete;

    let route_sections = list(findings, &sections, "route");
    let routes = routes::read(findings, &tables, &route_sections);
    let mark_sections = list(findings, &sections, "mark");
    let marks = marks::read(findings, &sets, &mark_sections);
    let rule_sections = list(findings, &sections, "rule");
    let statements = rules::read(findings, &tables, &sets, &rule_sections);
    let counts = Counts { rules: rule_sections.len(), routes: route_sections.len(), marks: mark_sections.len() };
    Read { router, tables: tables.own, sets, routes, marks, statements, counts }
}

/// What belongs together, and the rules of the kernel that it comes to.
fn put_together(findings: &mut Findings<'_>, text: &Source, read: Read) -> (Policy, Counts) {
    let Read { router, tables, sets, routes, marks, statements, counts } = read;
    rules::check_together(findings, &statements);
    rules::check_whole_marks(findings, &statements);
    if let Some((bits, span)) = &router.mark_bits {
        check_mark_bits(findings, (*bits, span), &marks, &statements);
    }
    let mark_bits = router.mark_bits.map(|(bits, _)| bits);
    let lowered = rules::lower(findings, &sets, &statements);
    let sources: Vec<usize> = lowered.iter().map(|(_, statement)| *statement).collect();
    // In the place of the list that it is made from.
    let mut rules: Vec<LoweredRule> = lowered.into_iter().map(|(rule, _)| rule).collect();
    rules.shrink_to_fit();
    let policy = Policy {
        file: text.name.to_string(),
        router: RouterSettings { mark_bits, ..router.settings },
        tables,
        routes,
        marks: marks::expand(findings, &sets, &marks),
        sets: sets.finish(findings),
        set_bits: BTreeMap::new(),
        rules,
    };
    // Whether a rule can be reached is a question to a whole list.
    if findings.errors.is_empty() {
        reach::warn(findings, &policy, &statements, &sources);
    }
    (policy, counts)
}

/// `[router]` or `[[rule]]`: a section as it is written.
fn header(name: &str) -> String {
    if matches!(name, "router" | "tables" | "sets") { format!("[{name}]") } else { format!("[[{name}]]") }
}

/// A section that is there once.
fn single<'d>(
    findings: &mut Findings<'_>,
    sections: &BTreeMap<&str, (Span, &'d Spanned<DeValue<'d>>)>,
    name: &str,
) -> Option<(Span, &'d DeTable<'d>)> {
    let (key, value) = sections.get(name)?;
    match value.get_ref() {
        DeValue::Table(table) => Some((value.span(), table)),
        DeValue::Array(_) => {
            findings.error(key.clone(), format!("`{name}` is there once"), format!("write [{name}], single brackets"));
            None
        }
        other => {
            let message = format!("`{name}` is a section, not {}", type_name(other));
            findings.error(key.clone(), message, format!("write [{name}] on a line of its own, its keys below"));
            None
        }
    }
}

/// The tables of a section that may be there many times.
fn list<'d>(
    findings: &mut Findings<'_>,
    sections: &BTreeMap<&str, (Span, &'d Spanned<DeValue<'d>>)>,
    name: &str,
) -> Vec<(Span, &'d DeTable<'d>)> {
    let Some((key, value)) = sections.get(name) else { return Vec::new() };
    let help = format!("write [[{name}]] on a line of its own, its keys below, once for each {name}");
    let DeValue::Array(array) = value.get_ref() else {
        let message = match value.get_ref() {
            DeValue::Table(_) => format!("`{name}` is a list: double brackets"),
            other => format!("`{name}` is a list of sections, not {}", type_name(other)),
        };
        findings.error(key.clone(), message, help);
        return Vec::new();
    };
    let mut tables = Vec::with_capacity(array.len());
    for value in array.iter() {
        match value.get_ref() {
            DeValue::Table(table) => tables.push((value.span(), table)),
            other => {
                let message = format!("a {name} is a section, not {}", type_name(other));
                findings.error(value.span(), message, help.clone());
            }
        }
    }
    tables
}

#[derive(Default)]
struct Router {
    settings: RouterSettings,
    mark_bits: Option<(u32, Span)>,
}

fn read_router<'d>(findings: &mut Findings<'_>, span: Span, table: &'d DeTable<'d>) -> Router {
    let known = ["mode", "interfaces", "fast_path", "bypass", "mark_bits"];
    let section = Section::open(findings, "[router]", span, table, &known);
    let mut router = Router::default();
    let one = |findings: &mut Findings<'_>, key| section.get(key).and_then(|field: Field<'d>| field.one(findings));
    if let Some(item) = one(findings, "mode") {
        let words = [("auto", Mode::Auto), ("ebpf", Mode::Ebpf), ("netlink", Mode::Netlink)];
        router.settings.mode = choice(findings, &item, &words).unwrap_or_default();
    }
    if let Some(item) = one(findings, "fast_path") {
        let words = [("auto", FastPathCap::Auto), ("redirect", FastPathCap::Redirect), ("mark", FastPathCap::Mark)];
        router.settings.fast_path = choice(findings, &item, &words).unwrap_or_default();
    }
    if let Some(field) = section.get("interfaces") {
        router.settings.interfaces = Some(read_globs(findings, &field));
    }
    if let Some(field) = section.get("bypass") {
        let words = [("netfilter", Bypass::Netfilter), ("xfrm", Bypass::Xfrm), ("rp_filter", Bypass::RpFilter)];
        for item in field.items(findings, true) {
            router.settings.bypass.extend(choice(findings, &item, &words));
        }
    }
    if let Some(item) = one(findings, "mark_bits") {
        match mark(findings, &item) {
            Some((0, None)) => findings.error(item.span, "no bit is set in `mark_bits`", "such as \"0xff000000\""),
            Some((bits, None)) => router.mark_bits = Some((bits, item.span)),
            Some((_, Some(_))) => {
                findings.error(item.span, "`mark_bits` is a set of bits, without a mask", "such as \"0xff000000\"")
            }
            None => {}
        }
    }
    router
}

fn read_globs(findings: &mut Findings<'_>, field: &Field<'_>) -> Vec<String> {
    let mut globs = Vec::new();
    for item in field.items(findings, true) {
        let Some(text) = item.text(findings, "lan*") else { continue };
        match globset::Glob::new(text) {
            Ok(_) if text.is_empty() => {
                findings.error(item.span, "an empty name matches no interface", "such as \"lan*\"")
            }
            Ok(_) => globs.push(text.to_owned()),
            Err(error) => findings.error(
                item.span,
                format!("{} is no pattern: {}", quote(text), error.kind()),
                "`*` stands for any characters, `?` for one, `[ab]` for one of these",
            ),
        }
    }
    globs
}

fn read_tables<'d>(findings: &mut Findings<'_>, table: &'d DeTable<'d>, own: &mut BTreeMap<String, Table>) {
    let mut by_id: BTreeMap<u32, &str> = BTreeMap::new();
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let at = findings.text.at(key.span().start);
        let Some((id, strict, id_span)) = read_table(findings, value) else { continue };
        if let Some(span) = &strict {
            check_strict(findings, id, span);
        }
        let strict = strict.is_some();
        let standard = STANDARD.iter().find(|(other, _)| *other == name).map(|(_, id)| *id);
        if name.is_empty() || parse_number(name).is_some() || name.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            let message = format!("{} cannot be the name of a table", quote(name));
            findings.error(key.span(), message, "a name is no number and has no blanks");
        } else if standard.is_some_and(|standard| standard != id) || name == "unspec" {
            let message = format!("`{name}` is another table on every host");
            findings.error(key.span(), message, "choose another name");
        } else {
            if let Some(other) = by_id.insert(id, name) {
                findings.warn(id_span, format!("`{other}` is table {id} too"), "one name per table reads better");
            }
            own.insert(name.to_owned(), Table { id, strict, at });
        }
    }
}

/// A last resort is meant for a table of one's own: in those that every packet is looked up in, it keeps packets from all
/// that comes behind.
fn check_strict(findings: &mut Findings<'_>, id: u32, span: &Span) {
    match id {
        TABLE_LOCAL => findings.error(
            span.clone(),
            "every packet is looked up in table `local` first: a last resort there lets this host forward nothing",
            "take `strict` away here, and give it to the table that the policy's rules look up",
        ),
        TABLE_MAIN => findings.warn(
            span.clone(),
            "`strict` in table `main` ends the way of every packet that `main` has no route for: no rule behind the first \
             look-up of `main` gets it, not even behind one with suppress_prefixlength",
            "if that is not meant, give `strict` to a table of the policy's own",
        ),
        _ => {}
    }
}

/// Number, where it says `strict = true`, and where the number is.
fn read_table<'d>(findings: &mut Findings<'_>, value: &'d Spanned<DeValue<'d>>) -> Option<(u32, Option<Span>, Span)> {
    let number = |findings: &mut Findings<'_>, item: &super::cursor::Item<'d>| {
        let number = item.number(findings, 0..=u64::from(u32::MAX))?;
        findings.take(&item.span, table_number(number))
    };
    let DeValue::Table(table) = value.get_ref() else {
        let field = Field { key: "id", key_span: value.span(), value };
        let item = field.one(findings)?;
        return Some((number(findings, &item)?, None, item.span));
    };
    let section = Section::open(findings, "a table", value.span(), table, &["id", "strict"]);
    let strict = section.get("strict").and_then(|field| field.one(findings));
    let strict = strict.filter(|item| item.boolean(findings) == Some(true)).map(|item| item.span);
    let Some(field) = section.get("id") else {
        findings.error(value.span(), "the table has no number", "such as { id = 111, strict = true }");
        return None;
    };
    let item = field.one(findings)?;
    Some((number(findings, &item)?, strict, item.span))
}

/// Wayfork's bits may not be looked at or written by anybody else in the file. A rule that compares the whole mark with a
/// value that leaves the bits clear is no conflict: packets come in with these bits clear, and those on which Wayfork has
/// set them are decided by its own rule, ahead of all others.
fn check_mark_bits(
    findings: &mut Findings<'_>,
    (bits, span): (u32, &Span),
    marks: &[marks::Statement],
    rules: &[rules::Statement],
) {
    let line = findings.text.place(span.start).0;
    let say = |findings: &mut Findings<'_>, other: &Span, key: &str, value: u32, mask: u32| {
        let there = findings.text.place(other.start).0;
        let mend = match value & bits {
            0 => format!("write \"{value:#x}/{:#x}\", or change mark_bits on line {line}", mask & !bits),
            _ => format!("change mark_bits on line {line}, or this"),
        };
        let message = format!(
            "the mask {mask:#x} of `{key}` (line {there}) shares bits {:#x} with mark_bits {bits:#x} (line {line})",
            mask & bits
        );
        findings.error(other.clone(), message, mend);
    };
    for statement in rules {
        for (value, mask, other) in &statement.fwmark {
            if mask & bits != 0 && (*mask != u32::MAX || value & bits != 0) {
                say(findings, other, "fwmark", *value, *mask);
            }
        }
    }
    for statement in marks {
        for (value, mask, other) in &statement.fwmark {
            if mask & bits != 0 {
                say(findings, other, "fwmark", *value, *mask);
            }
        }
        if let Some((value, mask, other)) = &statement.set
            && mask & bits != 0
        {
            say(findings, other, "set", *value, *mask);
        }
    }
}

/// A file that could not be read at all.
pub(super) fn unreadable(name: &str, diagnostic: impl FnOnce(&Source) -> Diagnostic) -> Rejected {
    let text = Source::new(name, "");
    Rejected { errors: vec![diagnostic(&text)], warnings: Vec::new(), text }
}
