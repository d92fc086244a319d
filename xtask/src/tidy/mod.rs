//! `cargo xtask tidy`: what a program can check of the architecture.

mod layers;
mod scan;
mod text;

use std::{
    fmt, fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::place::workspace;

/// A tracked text file.
struct Source {
    /// The path below the workspace.
    path: String,
    /// All of it.
    text: String,
    /// For Rust: the same lines without comments and without what stands in strings.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { scan::code(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// True where the file is `place` as a module: `place.rs`, or a file in the folder `place`.
    fn within(&self, place: &str) -> bool {
        self.path.strip_prefix(place).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }
}

/// One thing to mend.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    fn at(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// `cargo xtask tidy`.
pub fn command() -> Result<ExitCode> {
    check()?;
    println!("tidy: nothing to mend");
    Ok(ExitCode::SUCCESS)
}

/// Checks every tracked and every new file; an error that lists what is to be mended.
pub fn check() -> Result<()> {
    let sources = sources()?;
    let findings = findings(&sources);
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    bail!("tidy: {} to mend", findings.len());
}

fn findings(sources: &[Source]) -> Vec<Finding> {
    let mut findings = layers::check(sources);
    findings.extend(text::check(sources));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    findings
}

fn sources() -> Result<Vec<Source>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(workspace());
    let output = git.output().context("cannot start git, which tells what belongs to the project")?;
    if !output.status.success() {
        bail!("git cannot list the project's files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("a file name is no UTF-8")?;
    let mut sources = Vec::new();
    for name in names.split_terminator('\0') {
        // A file deleted but not yet committed has nothing to check, and a binary one no text.
        let Ok(bytes) = fs::read(workspace().join(name)) else {
            continue;
        };
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        sources.push(Source::new(name, &text));
    }
    if sources.is_empty() {
        bail!("git lists no file in {}", workspace().display());
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_its_file_and_its_folder_and_no_namesake() {
        let within = |path: &str| Source::new(path, "").within("a/src/kernel");
        assert!(within("a/src/kernel.rs") && within("a/src/kernel/mod.rs") && within("a/src/kernel/nft/set.rs"));
        assert!(!within("a/src/kernels.rs") && !within("a/src/other.rs") && !within("b/a/src/kernel.rs"));
    }

    #[test]
    fn findings_name_file_and_line_in_order() {
        let sources = [
            Source::new("router-userspace/src/z.rs", "\nuse aya::Ebpf;"),
            Source::new("router-userspace/src/a.rs", "use aya::Ebpf;"),
        ];
        let shown: Vec<_> = findings(&sources).iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 2);
        assert!(shown[0].starts_with("router-userspace/src/a.rs:1: "), "{shown:?}");
        assert!(shown[1].starts_with("router-userspace/src/z.rs:2: "), "{shown:?}");
    }

    #[test]
    fn the_project_can_be_read() {
        let sources = sources().expect("the tests run in a checkout");
        assert!(sources.iter().any(|source| source.path == "Cargo.toml"));
    }
}
