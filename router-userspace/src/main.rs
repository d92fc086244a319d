//! The binary `wayfork`: exit statuses and broken pipes, nothing else.

use clap::Parser;
use std::process::ExitCode;
use wayfork::cli::{Cli, Color, Exit, dispatch, output};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args().any(|arg| arg == "--json") => {
            let text = error.render().to_string();
            let failure = wayfork::cli::Failure::new(Exit::Usage, anyhow::anyhow!("{}", text.trim()));
            return output::failed(true, Color::Never, &failure.into()).into();
        }
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // A closed pipe is no error, and there is nobody to tell of any other.
            drop(error.print());
            return exit.into();
        }
    };
    let (json, color) = (cli.global.json, cli.global.color);
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(error) if output::ended_quietly(&error) => Exit::Done.into(),
        Err(error) => output::failed(json, color, &error).into(),
    }
}
