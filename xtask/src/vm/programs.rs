//! The test programs, built once in the release profile: emulated, a debug build is twice as slow again.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build;

/// The packages whose tests ask a kernel.
const PACKAGES: [&str; 2] = ["router-userspace", "wayfork-tests"];

/// A built test program.
pub struct Program {
    /// The target's name, as `situations`.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// The folder that cargo would start it in.
    pub home: PathBuf,
}

impl Program {
    /// Whether it has a test that would run with these arguments.
    pub fn has_tests(&self, args: &[String]) -> Result<bool> {
        let output = Command::new(&self.path).arg("--list").args(args).current_dir(&self.home).output();
        let output = output.with_context(|| format!("cannot start {}", self.path.display()))?;
        if !output.status.success() {
            bail!(
                "{} does not list its tests: {}",
                self.path.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().any(|line| line.ends_with(": test")))
    }
}

/// Builds all of them, with the eBPF object inside.
pub fn build() -> Result<Vec<Program>> {
    build::object()?;
    let mut cargo = build::cargo("test");
    cargo.args(["--release", "--no-run", "--lib", "--test", "*", "--message-format", "json-render-diagnostics"]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo test")?;
    if !output.status.success() {
        bail!("building the test programs failed; what is wrong stands above");
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(program).collect())
}

/// Reads one of cargo's messages; nothing where it tells of no test program.
fn program(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let target = &message["target"];
    // The binary of the product's main function has the library's name and no tests.
    if target["kind"][0] == "bin" {
        return None;
    }
    Some(Program {
        name: target["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.into(),
        home: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn only_test_programs() {
        let message = |kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","executable":"/w/t/s-1",
                "target":{{"kind":["{kind}"],"name":"situations"}},"profile":{{"test":{test}}}}}"#
            )
        };
        let found = program(&message("test", true)).expect("a test program");
        assert_eq!((found.name.as_str(), found.home.to_str()), ("situations", Some("/w/tests")));
        assert!(program(&message("test", false)).is_none());
        assert!(program(&message("bin", true)).is_none());
        assert!(program(r#"{"reason":"build-finished","success":true}"#).is_none());
    }
}
