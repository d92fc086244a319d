//! The plan, as a person and as a script reads it.

use crate::mirror::{Item, Kind, Op, Waiting};
use crate::model::Family;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use owo_colors::OwoColorize;
use serde::Serialize;
use std::fmt::Write;

/// So many things that stay are shown one by one; more are counted.
const SHOWN: usize = 40;

/// What `plan` says.
#[derive(Debug, Serialize)]
pub struct Document {
    /// Version of this document.
    pub schema: u32,
    /// The file; None without one.
    pub file: Option<String>,
    /// The mode that `run` would take.
    pub mode: &'static str,
    /// What comes, goes and stays.
    pub changes: Vec<Item>,
    /// What cannot be installed yet.
    pub waiting: Vec<Wait>,
    /// What the fast path may do with packets from each interface.
    pub interfaces: Vec<Interface>,
    /// What on this host stands against the policy.
    pub against: Vec<String>,
    /// What could not be seen, so that there may be more to change: a sentence each.
    pub unseen: Vec<String>,
}

/// Something that waits.
#[derive(Debug, Serialize)]
pub struct Wait {
    /// Its family.
    pub family: Family,
    /// The route.
    pub text: String,
    /// For what.
    pub reason: String,
    /// Where the file asks for it.
    pub at: String,
    /// Whether it is installed all the same, without one of its next hops.
    pub partly: bool,
}

/// An interface.
#[derive(Debug, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `redirect`, `mark` or `pass`.
    pub may: &'static str,
    /// Why not more.
    pub why: String,
}

impl From<&Waiting> for Wait {
    fn from(waiting: &Waiting) -> Self {
        Wait {
            family: waiting.family,
            text: waiting.what.clone(),
            reason: waiting.reason.to_string(),
            at: waiting.at.clone(),
            partly: waiting.partly,
        }
    }
}

impl Document {
    /// Whether `run` would change anything.
    pub fn changes_something(&self) -> bool {
        self.changes.iter().any(|item| item.op != Op::Keep)
    }

    fn count(&self, op: Op) -> usize {
        self.changes.iter().filter(|item| item.op == op).count()
    }
}

/// The plan for a person.
pub fn text(plan: &Document, color: bool) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let bold = |text: &str| if color { text.bold().to_string() } else { text.to_owned() };
    let file = plan.file.as_deref().unwrap_or("no file: the rules that are already there");
    writeln!(out, "{} ({}, mode {}); nothing is changed now", bold("what `wayfork run` would do"), file, plan.mode)?;
    let shows_kept = plan.count(Op::Keep) <= SHOWN;
    for (kind, title) in [
        (Kind::Rule, "rules"),
        (Kind::Route, "routes"),
        (Kind::Chain, "marks (nftables table inet wayfork)"),
        (Kind::Attachment, "fast path"),
    ] {
        let shown = |item: &&Item| item.kind == kind && (shows_kept || item.op != Op::Keep);
        let items: Vec<&Item> = plan.changes.iter().filter(shown).collect();
        if !items.is_empty() {
            writeln!(out, "\n{}", bold(title))?;
            lines(&mut out, &items, color)?;
        }
    }
    let (add, remove, keep) = (plan.count(Op::Add), plan.count(Op::Remove), plan.count(Op::Keep));
    let total = match (add, remove, keep) {
        (0, 0, 0) if !plan.unseen.is_empty() => "nothing to install of what could be seen".to_owned(),
        (0, 0, keep) if !plan.unseen.is_empty() => format!("all {keep} that could be seen are as they should be"),
        (0, 0, 0) => "nothing to install".to_owned(),
        (0, 0, keep) => format!("all {keep} as they should be: nothing to change"),
        (add, remove, keep) => format!("{add} to add, {remove} to remove, {keep} stay"),
    };
    writeln!(out, "\n{}", bold(&total))?;
    if !plan.unseen.is_empty() {
        writeln!(out, "\n{}", bold("what could not be seen: there may be more to change"))?;
        for sentence in &plan.unseen {
            writeln!(out, "  {} {sentence}", paint("!", "against", color))?;
        }
    }
    if !plan.waiting.is_empty() {
        writeln!(out, "\n{}", bold("waiting"))?;
        for wait in &plan.waiting {
            let how = if wait.partly { " (without this next hop meanwhile)" } else { "" };
            writeln!(
                out,
                "  {} {}{how}\n      {} ({})",
                wait.family,
                wait.text,
                paint(&wait.reason, "wait", color),
                wait.at
            )?;
        }
    }
    if !plan.interfaces.is_empty() {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for interface in &plan.interfaces {
            let may = match interface.may {
                "redirect" => Cell::new(interface.may).fg(Color::Green),
                "mark" => Cell::new(interface.may).fg(Color::Cyan),
                _ => Cell::new(interface.may).fg(Color::DarkYellow),
            };
            table.add_row([Cell::new(format!(" {}", interface.name)), may, Cell::new(&interface.why)]);
        }
        writeln!(out, "\n{}\n{}", bold("interfaces"), table.to_string().trim_end())?;
    }
    if !plan.against.is_empty() {
        writeln!(out, "\n{}", bold("what stands against it on this host"))?;
        for sentence in &plan.against {
            writeln!(out, "  {} {sentence}", paint("!", "against", color))?;
        }
    }
    Ok(out)
}

/// `+ ipv4  1000: from all iif eth1 lookup isp2   guests  policy.toml:12`.
fn lines(out: &mut String, items: &[&Item], color: bool) -> std::fmt::Result {
    let width = items.iter().map(|item| item.text.chars().count()).max().unwrap_or(0).min(72);
    for item in items {
        let (sign, paint_as) = match item.op {
            Op::Add => ("+", "add"),
            Op::Remove => ("-", "remove"),
            Op::Keep => ("=", "keep"),
        };
        let family = item.family.map(|family| format!("{family} ")).unwrap_or_default();
        let origin = [&item.name, &item.at].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("  ");
        let line = if origin.is_empty() {
            format!("{sign} {family}{}", item.text)
        } else {
            format!("{sign} {family}{:width$}  # {origin}", item.text)
        };
        writeln!(out, "  {}", paint(&line, paint_as, color))?;
    }
    Ok(())
}

fn paint(text: &str, what: &str, color: bool) -> String {
    match what {
        _ if !color => text.to_owned(),
        "add" => text.green().to_string(),
        "remove" | "against" => text.red().to_string(),
        "keep" => text.dimmed().to_string(),
        "wait" => text.yellow().to_string(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mirror::Told;

    fn document(changes: Vec<Item>) -> Document {
        Document {
            schema: 1,
            file: Some("policy.toml".into()),
            mode: "auto",
            changes,
            waiting: vec![],
            interfaces: vec![Interface { name: "eth1".into(), may: "mark", why: "a firewall is there".into() }],
            against: vec!["there is no interface eth7".into()],
            unseen: vec![],
        }
    }

    fn item(op: Op) -> Item {
        let text = "1000: from all iif eth1 lookup isp2".to_owned();
        let (name, at) = (Some("guests".to_owned()), Some("policy.toml:12".to_owned()));
        let rule = Told { rule_id: "v4-1000-0".to_owned(), priority: 1000, owner: "wayfork".to_owned() };
        Item { op, kind: Kind::Rule, family: Some(Family::Ipv4), text, name, at, rule: Some(rule) }
    }

    #[test]
    fn a_person_sees_what_comes_from_where() {
        let text = text(&document(vec![item(Op::Add), item(Op::Keep)]), false).unwrap();
        assert!(text.contains("+ ipv4 1000: from all iif eth1 lookup isp2  # guests  policy.toml:12\n"), "{text}");
        assert!(text.contains("= ipv4 1000:"), "{text}");
        assert!(text.contains("1 to add, 0 to remove, 1 stay"), "{text}");
        assert!(
            text.contains("eth1") && text.contains("a firewall is there") && text.contains("! there is no"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "no colours where none are wanted");
    }

    #[test]
    fn what_stays_is_counted_where_it_is_much() {
        let text = text(&document(vec![item(Op::Keep); SHOWN + 1]), true).unwrap();
        assert!(!text.contains("1000:") && text.contains("all 41 as they should be"), "{text}");
        assert!(!document(vec![item(Op::Keep)]).changes_something());
        assert!(document(vec![item(Op::Remove)]).changes_something());
    }

    #[test]
    fn what_could_not_be_seen_is_said() {
        let unseen = vec!["the fast path".to_owned()];
        let text = text(&Document { unseen, ..document(vec![]) }, false).unwrap();
        assert!(text.contains("nothing to install of what could be seen\n"), "{text}");
        assert!(text.contains("there may be more to change\n  ! the fast path\n"), "{text}");
    }

    #[test]
    fn a_script_reads_words() {
        let json = serde_json::to_value(document(vec![item(Op::Add)])).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["changes"][0]["op"], "add");
        assert_eq!(json["changes"][0]["kind"], "rule");
        assert_eq!(json["changes"][0]["family"], "ipv4");
        assert_eq!(json["changes"][0]["at"], "policy.toml:12");
        assert_eq!(json["changes"][0]["rule_id"], "v4-1000-0");
        assert_eq!(json["changes"][0]["priority"], 1000);
        assert_eq!(json["changes"][0]["owner"], "wayfork");
        assert_eq!(json["interfaces"][0]["may"], "mark");
    }
}
