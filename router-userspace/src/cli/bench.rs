//! `wayfork bench`.

use super::args::{BenchArgs, FamilyArg, FlowsArg, Global};
use super::render::bench as render;
use super::{Exit, Failure, Outcome, output};
use crate::bench::{Error, Flows, Options, Progress, Traffic, paths, run as measure};
use crate::model::Family;
use std::io::IsTerminal;
use std::time::Duration;

/// Measures, and shows a table or one JSON document.
pub fn run(global: &Global, args: &BenchArgs) -> Outcome {
    if args.list {
        output::print(&if global.json { render::list_json(paths::ALL) } else { render::list(paths::ALL) })?;
        return Ok(Exit::Done);
    }
    let options = options(args);
    let progress = Bar::new(global.quiet);
    let report = measure(&options, &mut |step| progress.step(step));
    progress.done();
    let report = report.map_err(failure)?;
    if global.json {
        output::print_json(&report)?;
    } else {
        output::print(&render::text(&report, output::colored(global)))?;
    }
    Ok(Exit::Done)
}

/// The arguments lifted into what the library takes.
fn options(args: &BenchArgs) -> Options {
    let by_themselves = !args.lookups.is_empty() || !args.updates.is_empty();
    let paths = if args.path.is_empty() && by_themselves && !args.all {
        Vec::new()
    } else if args.path.is_empty() {
        paths::ALL.iter().map(|path| path.name.to_owned()).collect()
    } else {
        args.path.clone()
    };
    let base = Traffic::default();
    let one_of = |given: &[u32], other: u32| if given.is_empty() { vec![other] } else { given.to_vec() };
    let packets = one_of(&args.packet, base.packet);
    let rp_filters = one_of(&args.rp_filter, base.rp_filter);
    let families: Vec<Family> = match args.family {
        FamilyArg::Ipv4 => vec![Family::Ipv4],
        FamilyArg::Ipv6 => vec![Family::Ipv6],
        FamilyArg::Both => Family::BOTH.to_vec(),
    };
    let flows: Vec<Flows> =
        if args.flows.is_empty() { vec![base.flows] } else { args.flows.iter().map(|flows| (*flows).into()).collect() };
    let mut traffic = Vec::new();
    for &family in &families {
        for &rp_filter in &rp_filters {
            for &packet in &packets {
                traffic.extend(flows.iter().map(|&flows| Traffic { family, packet, flows, rp_filter }));
            }
        }
    }
    let sizes = match (args.size.is_empty(), args.quick) {
        (false, _) => args.size.clone(),
        (true, true) => vec![1, 40],
        (true, false) => vec![1, 10, 100, 1_000],
    };
    if args.all {
        traffic = variations(base);
    }
    let lookups = match (args.lookups.is_empty(), args.all) {
        (true, true) => vec![10, 1_000, 100_000, 1_000_000],
        _ => args.lookups.clone(),
    };
    let updates = match (args.updates.is_empty(), args.all) {
        (true, true) => vec![1_000, 100_000, 1_000_000],
        _ => args.updates.clone(),
    };
    Options {
        paths,
        sizes,
        lookups,
        updates,
        traffic,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 7 }),
        slice: Duration::from_millis(args.slice.unwrap_or(if args.quick { 20 } else { 300 })),
        patience: Duration::from_secs(args.patience),
        cpu: args.cpu,
    }
}

/// The base, and one thing after the other changed.
fn variations(base: Traffic) -> Vec<Traffic> {
    vec![
        base,
        Traffic { flows: Flows::Many, ..base },
        Traffic { flows: Flows::Random, ..base },
        Traffic { packet: 1400, ..base },
        Traffic { rp_filter: 2, ..base },
        Traffic { family: Family::Ipv6, ..base },
        Traffic { family: Family::Ipv6, flows: Flows::Random, ..base },
    ]
}

impl From<FlowsArg> for Flows {
    fn from(flows: FlowsArg) -> Self {
        match flows {
            FlowsArg::One => Flows::One,
            FlowsArg::Many => Flows::Many,
            FlowsArg::Random => Flows::Random,
        }
    }
}

fn failure(error: Error) -> Failure {
    let exit = match error {
        Error::NoSuchPath { .. } => Exit::Usage,
        _ => Exit::Cannot,
    };
    Failure::new(exit, error)
}

/// How far it is: a bar on a terminal, a line now and then elsewhere.
struct Bar {
    bar: Option<indicatif::ProgressBar>,
}

impl Bar {
    fn new(quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Bar { bar: None };
        }
        let bar = indicatif::ProgressBar::new(0);
        // The template is a constant that parses.
        if let Ok(style) =
            indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} [{elapsed}, {eta} left] {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar: Some(bar) }
    }

    fn step(&self, step: Progress<'_>) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(step.total as u64);
                bar.set_position(step.done as u64);
                bar.set_message(step.text.to_owned());
            }
            None => tracing::debug!("{}/{} {}", step.done, step.total, step.text),
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
