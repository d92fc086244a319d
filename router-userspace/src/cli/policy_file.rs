//! Reading a policy file for a command that needs a right one.

use super::{Exit, Failure};
use crate::policy::{self, Loaded, Policy, Refused, TableNames};
use crate::router::control::NewPolicy;
use crate::router::{self, PolicyFile};
use std::path::{Path, PathBuf};

/// The policy of a file, or the empty one without a file. Table names of this host are known.
pub fn load(path: Option<&PathBuf>) -> anyhow::Result<Policy> {
    let Some(path) = path else { return Ok(Policy::default()) };
    accept(policy::load(path, &TableNames::of_host()))
}

/// The same for `run`, which refuses what would not fit in memory before it is read.
pub fn load_to_run(path: Option<&PathBuf>) -> anyhow::Result<Policy> {
    let Some(path) = path else { return Ok(Policy::default()) };
    accept(fitting(path)?)
}

/// What would not fit in memory is another kind of failure than a wrong file.
fn fitting(path: &Path) -> anyhow::Result<Result<Loaded, policy::Rejected>> {
    match policy::load_within(path, &TableNames::of_host(), &router::room) {
        Ok(loaded) => Ok(Ok(loaded)),
        Err(Refused::Rejected(rejected)) => Ok(Err(rejected)),
        Err(Refused::Room(error)) => Err(Failure::new(Exit::Cannot, error).into()),
    }
}

/// The text of a file that is right, for the running router.
pub fn text(path: &Path) -> anyhow::Result<NewPolicy> {
    let loaded = fitting(path)?;
    let (name, text) =
        loaded.as_ref().map(|loaded| (loaded.text.name.to_string(), loaded.text.text.to_string())).unwrap_or_default();
    accept(loaded)?;
    let folder = if path == Path::new("-") { Path::new("") } else { path.parent().unwrap_or(Path::new("")) };
    // `absolute` refuses an empty path, and a dot is the same folder.
    let folder = std::path::absolute(Path::new(".").join(folder))?;
    Ok(NewPolicy { name, path: file(path)?.map(|file| file.path), folder, text })
}

/// The file that can be read again; None for standard input.
pub fn file(path: &Path) -> anyhow::Result<Option<PolicyFile>> {
    if path == Path::new("-") {
        return Ok(None);
    }
    Ok(Some(PolicyFile { name: path.display().to_string(), path: std::path::absolute(path)? }))
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
