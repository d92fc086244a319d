//! `wayfork run` and `wayfork reload`.

use super::args::{FileArg, ModeArg, RunArgs};
use super::{Exit, Failure, Global, Outcome, output, policy_file, render, unasked};
use crate::policy::Mode;
use crate::proof::Explanation;
use crate::router::control::{self, Request, Response};
use crate::router::{Options, RouterError, ShadowOptions};
use std::io::Write;

/// Routes by the policy until a signal ends it.
pub fn run(args: &RunArgs) -> Outcome {
    let path = args.file.path();
    let policy = policy_file::load_to_run(path)?;
    let file = path.map(|path| policy_file::file(path)).transpose()?.flatten();
    let mode = args.mode.map(|mode| match mode {
        ModeArg::Auto => Mode::Auto,
        ModeArg::Ebpf => Mode::Ebpf,
        ModeArg::Netlink => Mode::Netlink,
    });
    let shadow = args.shadow.clone().map(|rate| ShadowOptions { rate, tell: told });
    let options = Options { file, policy, mode, keep: args.keep, shadow };
    crate::router::run(options, || {
        // Scripts wait for this line, whatever the log level is. Standard error may be closed; routing goes on all the same.
        drop(writeln!(std::io::stderr(), "wayfork: ready"));
    })
    .map_err(failure)?;
    Ok(Exit::Done)
}

/// An explanation as the log has it.
fn told(explanation: &Explanation) -> String {
    // Writing to a String does not fail.
    render::explain::text(explanation, false).unwrap_or_default()
}

/// Gives the running router a new policy.
pub fn reload(global: &Global, args: &FileArg) -> Outcome {
    let policy = match args.path() {
        // Checked here first: messages for people come from the file at hand.
        Some(path) => Some(policy_file::text(path)?),
        None => None,
    };
    match control::ask(&Request::Reload { policy }).map_err(unasked)? {
        Response::Done(document) if global.json => output::print_json(&document)?,
        Response::Done(_) => {}
        Response::Failed { exit, message } => {
            return Err(Failure::new(Exit::of(exit), anyhow::anyhow!("reload refused: {message}")).into());
        }
    }
    Ok(Exit::Done)
}

fn failure(error: RouterError) -> anyhow::Error {
    Failure::new(Exit::of(error.exit()), error).into()
}
