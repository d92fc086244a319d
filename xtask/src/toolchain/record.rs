//! What was found last time, so that a build need not look again.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{Compiler, Toolchain, Way};
use crate::place::Cache;

/// The file for builds that leave the way open, and one beside it for each way that a build asks for: a single build
/// with another compiler changes nothing for the rest.
fn file(cache: &Cache, wanted: Option<Way>) -> PathBuf {
    match wanted {
        None => cache.join("toolchain"),
        Some(way) => cache.join(format!("toolchain-{}", way.name())),
    }
}

/// Notes down what was `found` for builds that want this way, in one step.
pub fn save(cache: &Cache, wanted: Option<Way>, found: &Toolchain) -> Result<()> {
    let text = render(found);
    let (draft, file) = (cache.join("tmp/toolchain"), file(cache, wanted));
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, &file).with_context(|| format!("cannot write {}", file.display()))
}

fn render(found: &Toolchain) -> String {
    format!(
        "{}\n{}\n{}\n{}\n",
        found.way.name(),
        found.compiler.rustc.display(),
        found.linker.display(),
        found.compiler.identity().replace('\n', " "),
    )
}

/// What was noted down, if the compiler is still that one and the linker is there.
pub fn load(cache: &Cache, wanted: Option<Way>) -> Option<Toolchain> {
    let text = fs::read_to_string(file(cache, wanted)).ok()?;
    let mut lines = text.lines();
    let way = Way::from_name(lines.next()?)?;
    let (rustc, linker) = (PathBuf::from(lines.next()?), PathBuf::from(lines.next()?));
    if !linker.is_file() {
        return None;
    }
    let known = Toolchain { way, compiler: Compiler::probe(&rustc).ok()?, linker };
    // The whole text and not a version: a compiler updated in place is another compiler.
    (render(&known) == text).then_some(known)
}
