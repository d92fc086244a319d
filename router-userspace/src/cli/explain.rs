//! `wayfork explain`.

use super::args::{ExplainArgs, Global};
use super::render::explain as render;
use super::{Exit, Failure, Outcome, output, policy_file};
use crate::fastpath;
use crate::policy::Policy;
use crate::proof::{
    self, ExplainError, Explanation, FastSide, NoProgram, ProgramError, Question, Trial, TrialError, explain,
};
use crate::router::control::{self, ControlError, Request, Response};
use std::time::Duration;

/// Decides one packet on both sides and shows why. Status 1 where they differ.
pub fn run(global: &Global, args: &ExplainArgs) -> Outcome {
    let question = Question {
        to: args.to,
        iif: args.iif.clone(),
        from: args.from,
        mark: args.mark,
        ipproto: args.ipproto.clone(),
        sport: args.sport,
        dport: args.dport,
        dscp: args.dscp.unwrap_or(0),
        flowlabel: args.flowlabel.unwrap_or(0),
        fragment: args.fragment,
    };
    let explanation = match &args.config {
        Some(path) => in_scratch(&question, &policy_file::load(Some(path))?)?,
        None => match of_router(&question)? {
            Some(explanation) => explanation,
            None => here(&question)?,
        },
    };
    if global.json {
        output::print_json(&explanation)?;
    } else {
        output::print(&render::text(&explanation, output::colored(global))?)?;
    }
    Ok(if explanation.agree { Exit::Done } else { Exit::No })
}

/// How often the running router is asked where the two sides differ: the rules may have moved between its decision and the
/// kernel's.
const ASK_AGAIN: u32 = 3;

/// By the running router; None where there is none.
fn of_router(question: &Question) -> anyhow::Result<Option<Explanation>> {
    let mut asked = 0;
    loop {
        asked += 1;
        match control::ask(&Request::Explain { question: question.clone() }) {
            Ok(Response::Done(document)) => {
                let explanation: Explanation = serde_json::from_value(document)?;
                if explanation.agree || asked == ASK_AGAIN {
                    return Ok(Some(explanation));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(Response::Failed { exit, message }) => {
                let exit = if exit == Exit::Usage as u8 { Exit::Usage } else { Exit::Cannot };
                return Err(Failure::new(exit, anyhow::anyhow!(message)).into());
            }
            Err(ControlError::NotRunning) => return Ok(None),
            Err(error) => {
                tracing::warn!("{error}; this process answers by itself");
                return Ok(None);
            }
        }
    }
}

/// By this host's rules as they are and a program loaded for the question.
fn here(question: &Question) -> anyhow::Result<Explanation> {
    let answer = proof::here(question.iif.is_some(), |trial| ask(question, trial));
    answer.map_err(trial_failure)?
}

/// By the file's policy in a scratch namespace.
fn in_scratch(question: &Question, policy: &Policy) -> anyhow::Result<Explanation> {
    let (answer, notes) = proof::in_scratch(policy, |trial| ask(question, trial)).map_err(trial_failure)?;
    let mut explanation = answer?;
    explanation.scratch = true;
    explanation.notes.extend(notes);
    Ok(explanation)
}

fn ask(question: &Question, trial: &mut Trial<'_>) -> anyhow::Result<Explanation> {
    let side = match &mut trial.program {
        Ok(program) => FastSide::Program(program),
        Err(NoProgram::Failed(error)) if question.iif.is_some() && is_privilege(error) => {
            return Err(Failure::new(Exit::Cannot, anyhow::anyhow!(error.to_string())).into());
        }
        Err(error) => FastSide::None(error.to_string()),
    };
    let policy = trial.scratch.map(|_| &trial.policy);
    let answer = explain(question, &trial.host, &trial.facts, policy, trial.kernel, side);
    let mut explanation = answer.map_err(|error| {
        let exit = if matches!(error, ExplainError::Question(_)) { Exit::Usage } else { Exit::Cannot };
        Failure::new(exit, error)
    })?;
    if let Ok(program) = &trial.program {
        explanation.note_guard(program.judgement(), &trial.host);
    }
    Ok(explanation)
}

fn is_privilege(error: &ProgramError) -> bool {
    matches!(error, ProgramError::FastPath(fastpath::Error::Privilege { .. }))
}

/// What keeps a trial from being made: the host, or a file that goes against it.
pub(super) fn trial_failure(error: TrialError) -> Failure {
    Failure::new(Exit::Cannot, error)
}
