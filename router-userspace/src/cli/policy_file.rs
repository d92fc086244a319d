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
    let loaded = policy::load(path, &TableNames::of_host());
    let text = loaded.as_ref().map(|loaded| loaded.text.text.to_string()).unwrap_or_default();
    accept(loaded)?;
    let absolute = if path == Path::new("-") { PathBuf::from("-") } else { std::path::absolute(path)? };
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
