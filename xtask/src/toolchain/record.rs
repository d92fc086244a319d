//! What was found last time, so that a build need not look again.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{Compiler, Toolchain, Way};
use crate::place::Cache;

const FILE: &str = "toolchain";

/// Notes down `found`, in one step.
pub fn save(cache: &Cache, found: &Toolchain) -> Result<()> {
    let text = render(found);
    let (draft, file) = (cache.join("tmp/toolchain"), cache.join(FILE));
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

/// What was noted down, if the compiler is still that one, the linker is there, and no other way is `wanted`.
pub fn load(cache: &Cache, wanted: Option<Way>) -> Option<Toolchain> {
    let text = fs::read_to_string(cache.join(FILE)).ok()?;
    let mut lines = text.lines();
    let way = Way::from_name(lines.next()?)?;
    let (rustc, linker) = (PathBuf::from(lines.next()?), PathBuf::from(lines.next()?));
    if wanted.is_some_and(|wanted| wanted != way) || !linker.is_file() {
        return None;
    }
    let known = Toolchain {
        way,
        compiler: Compiler::probe(&rustc).ok()?,
        linker,
    };
    // The whole text and not a version: a compiler updated in place is another compiler.
    (render(&known) == text).then_some(known)
}
