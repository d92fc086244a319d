//! `wayfork import`.

use super::args::{ImportArgs, ImportFrom};
use super::{Exit, Global, Outcome, output};
use crate::import::kernel::import;
use crate::kernel::{Kernel, Netlink};
use crate::policy::TableNames;

/// Prints a policy file made from what is there.
pub fn run(global: &Global, args: &ImportArgs) -> Outcome {
    match args.from {
        ImportFrom::Kernel => {
            let mut kernel = Netlink::open()?;
            let imported = import(&kernel.host()?, &TableNames::of_host(), &kernel.set_uses()?);
            if global.json {
                let left_out: Vec<_> = imported
                    .left_out
                    .iter()
                    .map(|left| serde_json::json!({ "what": left.what, "why": left.why }))
                    .collect();
                let document = serde_json::json!({ "schema": 1, "policy": imported.text, "left_out": left_out });
                output::print_json(&document)?;
            } else {
                for left in &imported.left_out {
                    tracing::warn!("not taken over: {} ({})", left.what, left.why);
                }
                output::print_exactly(&imported.text)?;
            }
            Ok(Exit::Done)
        }
    }
}
