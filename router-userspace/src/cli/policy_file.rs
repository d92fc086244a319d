//! Reading a policy file for a command that needs a right one.

use super::{Exit, Failure};
use crate::policy::{self, Loaded, Policy, TableNames};
use std::path::{Path, PathBuf};

/// The policy of a file, or the empty one without a file. Table names of this host are known.
pub fn load(path: Option<&PathBuf>) -> anyhow::Result<Policy> {
    let Some(path) = path else { return Ok(Policy::default()) };
    accept(policy::load(path, &TableNames::of_host()))
}

/// Name and text of a file that is right.
pub fn text(path: &Path) -> anyhow::Result<(PathBuf, String)> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut bytes).map(drop),
        _ => std::fs::read(path).map(|read| bytes = read),
    };
    read.map_err(|error| Failure::new(Exit::Usage, anyhow::anyhow!("{}: {error}", path.display())))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| Failure::new(Exit::Usage, anyhow::anyhow!("{}: not UTF-8: {error}", path.display())))?;
    let name = path.display().to_string();
    accept(policy::parse(&name, &text, &TableNames::of_host()))?;
    let absolute = if name == "-" { PathBuf::from("-") } else { std::path::absolute(path)? };
    Ok((absolute, text))
}

fn accept(loaded: Result<Loaded, policy::Rejected>) -> anyhow::Result<Policy> {
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            Ok(loaded.policy)
        }
        Err(rejected) => Err(Failure::new(Exit::Usage, rejected).into()),
    }
}
