//! Names of routing tables: the file's, the standard ones, the host's.

use super::Table;
use super::cursor::{Findings, Item, NumberOrText, Wrong, nearest, parse_number, quote};
use crate::model::{TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The names that every host knows.
pub(super) const STANDARD: [(&str, u32); 3] =
    [("local", TABLE_LOCAL), ("main", TABLE_MAIN), ("default", TABLE_DEFAULT)];

/// The names of tables that a host's rt_tables give. Empty by default, so that `check` answers alike on every host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableNames(BTreeMap<String, u32>);

impl TableNames {
    /// The names that iproute2 knows on this host: /etc/iproute2/rt_tables (or, without it, /usr/share/iproute2/rt_tables)
    /// and `*.conf` of rt_tables.d in both, /etc first. What cannot be read gives no names.
    pub fn of_host() -> Self {
        Self::under(Path::new("/etc/iproute2"), Path::new("/usr/share/iproute2"))
    }

    fn under(etc: &Path, usr: &Path) -> Self {
        let mut names = TableNames::default();
        let read = |path: &Path| std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if let Some(text) = read(&etc.join("rt_tables")).or_else(|| read(&usr.join("rt_tables"))) {
            names.add(&text);
        }
        for folder in [etc, usr] {
            let entries = std::fs::read_dir(folder.join("rt_tables.d")).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            files.sort();
            for text in files.iter().filter_map(|path| read(path)) {
                names.add(&text);
            }
        }
        names
    }

    /// Adds the names of a text in the format of rt_tables: a number, a name, `#` for comments. The first to use a name has it.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(number), Some(name)) = (words.next(), words.next()) else { continue };
            if let Some(id) = parse_number(number).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0) {
                self.0.entry(name.to_owned()).or_insert(id);
            }
        }
    }

    /// The number behind a name.
    pub fn get(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }

    /// The name of a number, the first in the alphabet where there are several.
    pub fn name_of(&self, id: u32) -> Option<&str> {
        self.0.iter().find(|(_, other)| **other == id).map(|(name, _)| name.as_str())
    }
}

/// All that a table may be called by in one file.
pub(super) struct Tables<'a> {
    /// `[tables]`.
    pub own: BTreeMap<String, Table>,
    /// The host's names.
    pub host: &'a TableNames,
    /// A syntax error stands in `[tables]`, so that a name which seems unknown may only be unread.
    pub incomplete: bool,
}

impl Tables<'_> {
    /// The number of a table given by name or number.
    pub fn resolve(&self, findings: &mut Findings<'_>, item: &Item<'_>) -> Option<u32> {
        let value = match item.number_or_text(findings, "a table", "\"isp2\" or 111")? {
            NumberOrText::Number(number) => table_number(number),
            NumberOrText::Text(text) => match self.by_name(text) {
                Some(id) => Ok(id),
                None if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
                    table_number(parse_number(text).unwrap_or(u64::MAX))
                }
                None if self.incomplete => return None,
                None => Err(self.unknown(text, !findings.is_full())),
            },
        };
        findings.take(&item.span, value)
    }

    fn by_name(&self, name: &str) -> Option<u32> {
        let own = self.own.get(name).map(|table| table.id);
        own.or_else(|| STANDARD.iter().find(|(other, _)| *other == name).map(|(_, id)| *id))
            .or_else(|| self.host.get(name))
    }

    fn unknown(&self, name: &str, search: bool) -> Wrong {
        // Comparing with thousands of names for each of a thousand errors takes long and finds anything.
        let own = self.own.keys().map(String::as_str).take(if search { 500 } else { 0 });
        let known: Vec<&str> = own.chain(STANDARD.iter().map(|(name, _)| *name)).collect();
        let declare = match name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') && !name.is_empty()
        {
            true => format!("declare it: [tables] {name} = NUMBER"),
            false => "declare it under [tables]".to_owned(),
        };
        let help = match nearest(name, &known) {
            Some(known) => format!("did you mean \"{known}\"? Else {declare}"),
            None if self.host.0.is_empty() => format!("{declare}; `check` knows no names of a host's own rt_tables"),
            None => format!("{declare}; this host's rt_tables do not know it either"),
        };
        Wrong::new(format!("no table is called {}", quote(name)), help)
    }
}

/// A table number: 1 to 2^32 - 1.
pub(super) fn table_number(number: u64) -> Result<u32, Wrong> {
    match u32::try_from(number) {
        Ok(0) | Err(_) => Err(Wrong::new(format!("{number} is no table"), "tables go from 1 to 4294967295")),
        Ok(id) => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_iproute2_reads() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (etc, usr) = (dir.path().join("etc"), dir.path().join("usr"));
        for folder in [&etc, &usr] {
            std::fs::create_dir_all(folder.join("rt_tables.d")).expect("folder");
        }
        let write = |path: PathBuf, text: &str| std::fs::write(path, text).expect("write");
        write(usr.join("rt_tables"), "77 unseen\n");
        write(
            etc.join("rt_tables"),
            "# local names\n255\tlocal\n\n0x6f isp2 # second uplink\nnonsense\n0 unspec\n9 twice\n",
        );
        write(usr.join("rt_tables.d/a.conf"), "200 vendor\n10 twice\n");
        write(usr.join("rt_tables.d/b.txt"), "201 ignored\n");
        write(etc.join("rt_tables.d/z.conf"), "202 mine");
        let names = TableNames::under(&etc, &usr);
        let all: Vec<(&str, u32)> = names.0.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        assert_eq!(all, [("isp2", 111), ("local", 255), ("mine", 202), ("twice", 9), ("vendor", 200)]);
        assert_eq!(TableNames::under(&dir.path().join("no"), &usr).get("unseen"), Some(77));
        assert_eq!(TableNames::under(&dir.path().join("no"), &dir.path().join("no")), TableNames::default());
    }
}
