//! `cargo xtask soak`: the differential test with fresh seeds, for as long as asked.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    privilege::{self, Privilege},
    test::{run_through, through_sudo},
};

/// The test that runs round after round where WAYFORK_SOAK_MINUTES says for how long.
const TEST: &str = "proof::differential::the_program_the_kernel_and_the_reference_agree_on_random_policies";

/// `cargo xtask soak`. Status 1 with the counter-example at the first disagreement.
pub fn command(minutes: u64, seed: Option<u64>) -> Result<ExitCode> {
    build::object()?;
    let mut heard = vec![("WAYFORK_SOAK_MINUTES", minutes.to_string())];
    heard.extend(seed.map(|seed| ("WAYFORK_SEED", seed.to_string())));
    let mut cargo = build::cargo("test");
    cargo.args(["--release", "--package", "router-userspace", "--lib"]).envs(heard.iter().map(|(n, v)| (n, v)));
    match privilege::find() {
        Privilege::Own => {}
        Privilege::Sudo => run_through(&mut cargo, &through_sudo(&heard)),
        Privilege::None(why) => {
            bail!("{why}; the packets go through network namespaces: run it as root, or where sudo works")
        }
    }
    cargo.args(["--", "--exact", TEST, "--nocapture"]);
    let status = cargo.status().context("cannot start cargo test")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
