//! `wayfork lab`.

use super::args::{Global, LabArgs};
use super::render::lab as render;
use super::{Exit, Failure, Outcome, output};
use crate::lab::scenario::{ALL, Scenario};
use crate::lab::{Error, phases};
use std::io::IsTerminal;
use std::path::Path;

/// Runs one scenario or all, shows each flow and whether both paths agree.
pub fn run(global: &Global, args: &LabArgs) -> Outcome {
    if args.list {
        output::print(&if global.json { render::list_json(&ALL) } else { render::list(&ALL) })?;
        return Ok(Exit::Done);
    }
    let scenarios = match &args.scenario {
        Some(name) => vec![Scenario::named(name).map_err(|error| Failure::new(Exit::Usage, error))?],
        None => ALL.to_vec(),
    };
    let color = output::colored(global);
    let mut total = render::Total::default();
    for scenario in &scenarios {
        if !global.json {
            output::print(&render::heading(scenario, color))?;
        }
        let progress = Progress::new(scenario.name, global.quiet);
        let rows = phases::run(scenario, Path::new("/proc/self/exe"), &mut |step| progress.step(step));
        progress.done();
        let rows = rows.map_err(|error| failure(scenario.name, error))?;
        rows.iter().for_each(|row| total.count(row));
        output::print(&match global.json {
            true => rows.iter().map(|row| render::row_json(scenario, row)).collect(),
            false => render::table(&rows, color),
        })?;
    }
    output::print(&if global.json { total.json() } else { total.line(color) })?;
    Ok(if total.differ == 0 { Exit::Done } else { Exit::No })
}

fn failure(scenario: &str, error: Error) -> Failure {
    let exit = match error {
        Error::NoSuchScenario { .. } => Exit::Usage,
        _ => Exit::Cannot,
    };
    Failure::new(exit, anyhow::Error::from(error).context(format!("lab scenario {scenario}")))
}

/// What the lab is doing, on a terminal only.
struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    fn new(scenario: &'static str, quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = indicatif::ProgressBar::new_spinner().with_prefix(scenario);
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Progress(Some(bar))
    }

    fn step(&self, step: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(step.to_owned());
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
