//! How long a file may be, and what no file may say.

use super::{Finding, Source};

/// The most lines of a source file: what a reader can hold in mind.
const MOST_LINES: usize = 500;
/// Files that may be longer, each with the reason.
const LONG: &[(&str, &str)] = &[];

/// Folders that exist on one person's or one machine's disk only. In parts, so that this file does not name them.
const FOLDERS: &[&str] = &[concat!("/", "root/"), concat!("/", "home/"), concat!("/", "Users/"), concat!("/", "work/")];

/// Hosts of package registries: which one is used is the user's configuration. In parts for the same reason.
const HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("static.rust-lang", ".org"),
    concat!("deb.", "debian.org"),
    concat!("security.", "debian.org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("proxy.golang", ".org"),
];

/// The lock file: cargo writes it, and writes its registry's address into it.
const LOCK: &str = "Cargo.lock";

/// Every file that is too long, and every line that names a private folder or a registry's host.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = too_long(sources, LONG);
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            findings.extend(private_folder(line).map(|folder| {
                let message = format!("names {folder}…, a folder of one machine; use a path that holds everywhere");
                Finding::at(source, index + 1, message)
            }));
            if source.path != LOCK {
                findings.extend(HOSTS.iter().find(|host| line.contains(**host)).map(|host| {
                    let message = format!("names the host {host}; which registry is used is the user's to configure");
                    Finding::at(source, index + 1, message)
                }));
            }
        }
    }
    findings
}

fn too_long(sources: &[Source], exceptions: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().count();
        let reason = exceptions.iter().find(|(path, _)| *path == source.path);
        match (lines > MOST_LINES, reason) {
            (true, None) => {
                let message = format!("{lines} lines, at most {MOST_LINES}; split it by what it does");
                findings.push(Finding::at(source, MOST_LINES + 1, message));
            }
            (false, Some(_)) => {
                findings.push(Finding::at(source, 1, "is listed as too long and is not; take it off tidy's list"));
            }
            _ => {}
        }
    }
    findings
}

/// A private folder that `line` names as the beginning of an absolute path, and not in the middle of another path.
fn private_folder(line: &str) -> Option<&'static str> {
    FOLDERS.iter().copied().find(|folder| {
        line.match_indices(folder).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + folder.len()..].chars().next();
            let begins =
                !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '~' | '}' | ')' | '/'));
            begins && after.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '$' | '<' | '{'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&[Source::new(path, text)]).len()
    }

    #[test]
    fn a_source_file_has_its_length() {
        assert_eq!(found("xtask/src/a.rs", &"\n".repeat(MOST_LINES)), 0);
        assert_eq!(found("xtask/src/a.rs", &"\n".repeat(MOST_LINES + 1)), 1);
        assert_eq!(found("docs/a.md", &"\n".repeat(MOST_LINES + 1)), 0);
    }

    #[test]
    fn an_exception_excuses_a_long_file_and_only_that() {
        let exceptions = [("xtask/src/a.rs", "a table")];
        assert!(too_long(&[Source::new("xtask/src/a.rs", &"\n".repeat(501))], &exceptions).is_empty());
        assert_eq!(too_long(&[Source::new("xtask/src/a.rs", "short")], &exceptions).len(), 1);
    }

    #[test]
    fn every_private_folder_is_found() {
        for folder in FOLDERS {
            assert_eq!(found("README.md", &format!("see {folder}someone/notes")), 1, "{folder}");
            assert_eq!(found("a.sh", &format!("cd \"{folder}x\"")), 1, "{folder}");
        }
    }

    #[test]
    fn relative_paths_are_not_private() {
        for folder in FOLDERS {
            assert_eq!(found("README.md", &format!("target{folder}x and ~{folder}x and .{folder}x")), 0, "{folder}");
        }
    }

    #[test]
    fn every_registry_host_is_found() {
        for host in HOSTS {
            assert_eq!(found("README.md", &format!("get it from https://{host}/x")), 1, "{host}");
            assert_eq!(found("Cargo.lock", &format!("source = \"{host}\"")), 0, "{host}");
        }
    }
}
