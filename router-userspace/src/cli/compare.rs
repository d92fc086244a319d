//! `wayfork compare`.

use super::args::{CompareArgs, Global};
use super::explain::trial_failure;
use super::render::compare as render;
use super::{Exit, Failure, Outcome, output, policy_file};
use crate::policy::Policy;
use crate::proof::{self, Capture, Report, Subject, Trial, compare, generated, ingress};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

/// How many packets are generated where nobody says.
const PACKETS: u64 = 20_000;

/// Decides many packets on both sides. Status 1 at the first that differs.
pub fn run(global: &Global, args: &CompareArgs) -> Outcome {
    let policy = args.config.as_ref().map(|path| policy_file::load(Some(path))).transpose()?;
    let work = |trial: &mut Trial<'_>| compare_all(global, args, trial);
    let report = match &policy {
        None => {
            let mut report = proof::here(true, work).map_err(trial_failure)??;
            report.counterexample =
                report.counterexample.map(|example| proof::shrink_in_copy(example, |program| Box::new(program)));
            report
        }
        Some(policy) => {
            let (report, notes) = proof::in_scratch(policy, work).map_err(trial_failure)?;
            notes.iter().for_each(|note| tracing::warn!("scratch namespace: {note}"));
            Report { scratch: true, ..report? }
        }
    };
    if global.json {
        output::print_json(&report)?;
    } else {
        output::print(&render::text(&report, output::colored(global))?)?;
    }
    Ok(if report.disagree == 0 { Exit::Done } else { Exit::No })
}

fn compare_all(global: &Global, args: &CompareArgs, trial: &mut Trial<'_>) -> anyhow::Result<Report> {
    let policy = trial.scratch.map(|_| trial.policy.clone());
    let policy = policy.as_ref();
    let program = match &mut trial.program {
        Ok(program) => program,
        Err(error) => return Err(Failure::new(Exit::Cannot, anyhow::anyhow!(error.to_string())).into()),
    };
    let limit = args.packets.unwrap_or(if args.pcap.is_some() { u64::MAX } else { PACKETS });
    let host = trial.host.clone();
    let ways_in = ingress(&host);
    if ways_in.is_empty() {
        let none = "no interface but loopback is up here: there is nothing that packets could come in by";
        return Err(Failure::new(Exit::Cannot, anyhow::anyhow!(none)).into());
    }
    let mut subject = Subject {
        kernel: trial.kernel,
        decider: program,
        policy,
        scratch: trial.scratch,
        throw_away: trial.scratch.is_some(),
    };
    let bar = progress(global, (limit != u64::MAX).then_some(limit));
    let mut tell = |done| bar.iter().for_each(|bar| bar.set_position(done));
    let compared = match &args.pcap {
        None => {
            let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
            let marks = policy.map(Policy::mark_rules).unwrap_or_default();
            let mut packets = generated(&host, &marks, seed, limit);
            compare(&mut subject, host, &mut packets, &mut tell).map(|report| Report { seed: Some(seed), ..report })
        }
        Some(path) => {
            let not_usable = |error: &dyn std::fmt::Display| {
                Failure::new(Exit::Usage, anyhow::anyhow!("{}: {error}", path.display()))
            };
            let file = open(path).map_err(|error| not_usable(&error))?;
            let mut capture = Capture::new(file, &host, ways_in).map_err(|error| not_usable(&error))?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let compared = compare(&mut subject, host.clone(), &mut capture.by_ref().take(limit), &mut tell);
            if let Some(error) = &capture.error {
                return Err(not_usable(error).into());
            }
            compared.map(|report| Report { skipped: std::mem::take(&mut capture.skipped), ..report })
        }
    };
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    Ok(compared.map_err(|error| Failure::new(Exit::Cannot, error))?)
}

fn open(path: &Path) -> std::io::Result<Box<dyn Read + Send>> {
    match path.to_str() {
        Some("-") => Ok(Box::new(std::io::stdin())),
        _ => Ok(Box::new(File::open(path)?)),
    }
}

/// How far it is, on a terminal.
fn progress(global: &Global, packets: Option<u64>) -> Option<indicatif::ProgressBar> {
    if global.quiet || !std::io::stderr().is_terminal() {
        return None;
    }
    let style = match packets {
        Some(_) => "{bar:40} {human_pos} of {human_len} packets, {per_sec}, {eta} left",
        None => "{spinner} {human_pos} packets, {per_sec}",
    };
    let bar = packets.map_or_else(indicatif::ProgressBar::new_spinner, indicatif::ProgressBar::new);
    bar.set_style(indicatif::ProgressStyle::with_template(style).ok()?);
    Some(bar)
}
