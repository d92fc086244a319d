//! `cargo xtask bench`: builds, measures by `wayfork bench`, and leaves JSON, Markdown and plots in `target/bench/`.

mod document;
mod goals;
mod markdown;
mod plot;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, place::target_dir, run::starter};
use document::Report;

/// What is measured where nobody says otherwise: all of it, in a quarter of an hour or so on a machine with nothing else to do.
const DEFAULT: &[&str] = &["--all", "--size", "1,10,100,1000,10000,100000,1000000", "--rounds", "5", "--slice", "100"];

/// `cargo xtask bench [--from FILE] [-- ARGS]`.
pub fn command(from: Option<&Path>, args: &[OsString]) -> Result<ExitCode> {
    let folder = target_dir().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let text = match from {
        Some(file) => fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => {
            let text = measure(args)?;
            write(&folder, "bench.json", &text)?;
            text
        }
    };
    let report = Report::read(&text)?;
    write(&folder, "bench.md", &markdown::page(&report))?;
    for chart in plot::charts(&report) {
        for file in chart.draw(&folder)? {
            println!("{}", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &[OsString]) -> Result<String> {
    let wayfork = build::binary(false)?;
    let mut command = starter(&wayfork, true);
    command.args(["--json", "bench"]);
    if args.is_empty() {
        command.args(DEFAULT);
    } else {
        command.args(args);
    }
    eprintln!("measuring; this machine should have nothing else to do");
    let output = command.stderr(Stdio::inherit()).output().context("cannot start wayfork bench")?;
    let text = String::from_utf8(output.stdout).context("wayfork bench wrote no UTF-8")?;
    if !output.status.success() {
        bail!("wayfork bench failed ({}): {}", output.status, text.trim());
    }
    Ok(text)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(file)
}
