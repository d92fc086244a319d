//! `import kernel`: the policy file that says what the kernel's rules and routes say now.
//!
//! Every section is parsed again and compared before it is kept, so that the text means what the kernel has. What the file
//! has no words for stands in it as a comment, and in [`Imported::left_out`].

mod routes;
mod rules;

use super::write::{Section, key, one_line, quoted};
use crate::model::{Host, Route, Rule, RuleAction, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::policy::{Policy, TableNames, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A policy file made from a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The file.
    pub text: String,
    /// What it does not say.
    pub left_out: Vec<LeftOut>,
}

/// Something that the kernel has and the file does not say. It stays where it is: `run` touches nothing of other programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// As ip(8) would show it.
    pub what: String,
    /// Why the file cannot have it.
    pub why: String,
    /// The rule, where it is one.
    pub rule: Option<Rule>,
    /// The route, where it is one.
    pub route: Option<Route>,
}

/// What stands before everything that the file cannot say.
const LOUD: &str = "NOT TAKEN OVER";

/// Makes the policy file of a host. `names` are the host's own names of tables, `set_uses` the bits of the mark that stand for
/// sets of a Wayfork that runs here ([`crate::kernel::Kernel::set_uses`]).
pub fn import(host: &Host, names: &TableNames, set_uses: &BTreeMap<u32, String>) -> Imported {
    let mut import = Import { host, set_uses, tables: Tables::default(), body: String::new(), left_out: Vec::new() };
    import.name_tables(names);
    import.routes();
    import.rules();
    let text = import.heading() + &import.tables.text + &import.body;
    Imported { text, left_out: import.left_out }
}

/// `[tables]` of the new file.
#[derive(Default)]
struct Tables {
    names: BTreeMap<u32, String>,
    text: String,
}

impl Tables {
    /// A table as a value of the file.
    fn value(&self, id: u32) -> String {
        match id {
            TABLE_LOCAL => quoted("local"),
            TABLE_MAIN => quoted("main"),
            TABLE_DEFAULT => quoted("default"),
            id => self.names.get(&id).map_or_else(|| id.to_string(), |name| quoted(name)),
        }
    }
}

struct Import<'a> {
    host: &'a Host,
    set_uses: &'a BTreeMap<u32, String>,
    tables: Tables,
    body: String,
    left_out: Vec<LeftOut>,
}

impl Import<'_> {
    fn heading(&self) -> String {
        let mut text = String::from(
            "# What this host's kernel has now, as a policy file.\n\
             # `wayfork plan FILE` shows what running it would change: nothing, while all of this is still there.\n",
        );
        if !self.left_out.is_empty() {
            let count = self.left_out.len();
            writeln!(
                text,
                "#\n# {LOUD}: {count} of the kernel's rules and routes have no words in a policy file; they are"
            )
            .ok();
            text += "# comments below. They stay in force: Wayfork changes nothing that it did not install.\n";
        }
        text.push('\n');
        text
    }

    /// The host's names for the tables that the file speaks of.
    fn name_tables(&mut self, names: &TableNames) {
        let of_rules = self.host.rules.iter().filter_map(|rule| match rule.action {
            RuleAction::Table(table) => Some(table),
            _ => None,
        });
        let of_routes = self.host.routes.iter().map(|route| route.table);
        let used: BTreeSet<u32> = of_rules
            .chain(of_routes)
            .filter(|id| !matches!(*id, 0 | TABLE_LOCAL | TABLE_MAIN | TABLE_DEFAULT))
            .collect();
        for id in used {
            let Some(name) = names.name_of(id) else { continue };
            let line = format!("{} = {id}\n", key(name));
            // A name that the file would refuse leaves the number.
            if parse("", &format!("[tables]\n{line}"), &TableNames::default()).is_ok() {
                self.tables.names.insert(id, name.to_owned());
                self.tables.text += &line;
            }
        }
        if !self.tables.text.is_empty() {
            self.tables.text = format!("[tables]\n{}\n", self.tables.text);
        }
    }

    /// Whether a section means exactly what it is made from; else why not.
    fn verify(&self, section: &Section, same: impl FnOnce(&Policy) -> bool) -> Result<(), String> {
        match parse("", &(self.tables.text.clone() + &section.text()), &TableNames::default()) {
            Ok(loaded) if same(&loaded.policy) => Ok(()),
            Ok(_) => Err("a policy file has no words for it".to_owned()),
            Err(rejected) => Err(rejected.errors.first().map(|error| error.message.clone()).unwrap_or_default()),
        }
    }

    fn leave_out(&mut self, what: String, why: &str, rule: Option<Rule>, route: Option<Route>) {
        writeln!(self.body, "# {LOUD}: {} ({})\n", one_line(&what), one_line(why)).ok();
        self.left_out.push(LeftOut { what, why: why.to_owned(), rule, route });
    }
}
