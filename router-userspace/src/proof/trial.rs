//! Trying a policy: on this host as it is, or in a scratch namespace made like it with the policy installed.

use super::compare::{Subject, compare};
use super::counterexample::Counterexample;
use super::decide::Refresh;
use super::program::{Program, ProgramError, facts_here};
use crate::kernel::{self, Kernel, Netlink};
use crate::mirror::{self, MarkClasses};
use crate::model::Host;
use crate::policy::{Mode, Policy};
use crate::safety::{Facts, NoBits, Wanted, judge, with_set_bits};
use crate::scratch::Scratch;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// A kernel and a program to ask.
pub struct Trial<'a> {
    /// The kernel.
    pub kernel: &'a mut Netlink,
    /// What it holds.
    pub host: Host,
    /// The policy that is tried, with the bits of its sets; the default one where the host is asked as it is.
    pub policy: Policy,
    /// What else acts on packets on this host, as far as it could be read.
    pub facts: Facts,
    /// The program for that, or why there is none.
    pub program: Result<Program, NoProgram>,
    /// Where it is tried in a scratch namespace: with the policy's mirror, the rules for Wayfork's mark bits included.
    pub scratch: Option<&'a Scratch>,
}

/// Why there is no program to ask.
#[derive(Debug, thiserror::Error)]
pub enum NoProgram {
    /// The policy wants none.
    #[error("mode netlink: no program is loaded")]
    ByMode,
    /// Nobody asked for one.
    #[error("no program is loaded for this question")]
    Unwanted,
    /// It could not be loaded.
    #[error(transparent)]
    Failed(#[from] ProgramError),
}

/// Why a policy could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// What the policy wants and what is there do not go together.
    #[error(transparent)]
    Conflict(#[from] mirror::Conflicts),
    /// Somebody else uses the bits of the mark.
    #[error(transparent)]
    NoBits(#[from] NoBits),
    /// The mirror could not be installed in the scratch namespace.
    #[error("install the policy in the scratch namespace: {0}")]
    Apply(#[from] mirror::ApplyError),
}

/// Tries `work` on this host as it is. Changes nothing. Without `program` none is loaded, which needs privilege.
pub fn here<T>(program: bool, work: impl FnOnce(&mut Trial<'_>) -> T) -> Result<T, TrialError> {
    let mut kernel = Netlink::open()?;
    let host = kernel.host()?;
    let (facts, program) = match program {
        true => match facts_here(&host) {
            Ok(facts) => (facts, Program::load(&host, &Policy::default(), None).map_err(NoProgram::from)),
            Err(error) => (without_programs(), Err(error.into())),
        },
        false => (without_programs(), Err(NoProgram::Unwanted)),
    };
    Ok(work(&mut Trial { kernel: &mut kernel, host, policy: Policy::default(), facts, program, scratch: None }))
}

/// What can be read without loading a program to list those of others.
fn without_programs() -> Facts {
    kernel::survey(kernel::ForeignPrograms::default())
}

/// Tries `work` with `policy` in a scratch namespace made like this host, and tells what of the host could not be copied.
pub fn in_scratch<T: Send>(
    policy: &Policy,
    work: impl FnOnce(&mut Trial<'_>) -> T + Send,
) -> Result<(T, Vec<String>), TrialError> {
    let original = Netlink::open()?.host()?;
    // What acts on packets besides routing is not copied, but the guard is to judge as it would here.
    let facts = facts_here(&original);
    let policy = &match &facts {
        Ok(facts) => with_set_bits(policy, &original, facts, &BTreeMap::new())?,
        Err(_) => with_set_bits(policy, &original, &without_programs(), &BTreeMap::new())?,
    };
    let scratch = Scratch::like(&original)?;
    let mut notes = scratch.notes().to_vec();
    let (answer, waiting) = scratch.run(|| {
        let mut kernel = Netlink::open()?;
        let (host, waiting) = install(&scratch, &mut kernel, policy, facts.as_ref().ok())?;
        let (facts, program) = match facts {
            Err(error) => (Facts::default(), Err(error.into())),
            Ok(facts) if policy.router.mode == Mode::Netlink => (facts, Err(NoProgram::ByMode)),
            Ok(facts) => (facts.clone(), Program::load(&host, policy, Some(facts)).map_err(NoProgram::from)),
        };
        let answer = work(&mut Trial {
            kernel: &mut kernel,
            host,
            policy: policy.clone(),
            facts,
            program,
            scratch: Some(&scratch),
        });
        Ok::<_, TrialError>((answer, waiting))
    })??;
    notes.extend(waiting);
    Ok((answer, notes))
}

/// The same counter-example with the fewest rules and routes, found in a copy of this host; or why it was not. `wrap` lets the
/// copy be asked through something else than its program.
pub fn shrink_in_copy(
    example: Counterexample,
    wrap: impl FnOnce(Program) -> Box<dyn Refresh> + Send,
) -> Counterexample {
    let Some(packet) = example.packet else { return example };
    let shrunk = in_scratch(&Policy::default(), |trial| {
        let mut decider = match std::mem::replace(&mut trial.program, Err(NoProgram::Unwanted)) {
            Ok(program) => wrap(program),
            Err(error) => return Err(error.to_string()),
        };
        let scratch = trial.scratch;
        let mut subject =
            Subject { kernel: trial.kernel, decider: decider.as_mut(), policy: None, scratch, throw_away: true };
        let host = std::mem::take(&mut trial.host);
        let report = compare(&mut subject, host, &mut std::iter::once(packet), &mut |_| {});
        report.map(|report| report.counterexample).map_err(|error| error.to_string())
    });
    let why = match shrunk {
        Ok((Ok(Some(mut smaller)), _)) => {
            smaller.explanation.scratch = true;
            return smaller;
        }
        Ok((Ok(None), _)) => "in a copy of this host all sides agree about the packet".to_owned(),
        Ok((Err(why), _)) => format!("no copy of this host could be compared: {why}"),
        Err(error) => format!("no copy of this host could be made: {error}"),
    };
    Counterexample { not_shrunk: Some(why), ..example }
}

/// Installs the mirror as `run` would. Gives what is there then, and what of the policy waits for something.
fn install(
    scratch: &Scratch,
    kernel: &mut Netlink,
    policy: &Policy,
    facts: Option<&Facts>,
) -> Result<(Host, Vec<String>), TrialError> {
    let host = scratch.host(kernel)?;
    let classes = match facts {
        Some(facts) if policy.router.mode != Mode::Netlink => {
            let then = mirror::after(&mirror::desired(policy, &host, &MarkClasses::default()), &host);
            let wanted = Wanted { settings: &policy.router, marks: &policy.mark_rules() };
            (&judge(&then, facts, &wanted)).into()
        }
        _ => MarkClasses::default(),
    };
    let desired = mirror::desired(policy, &host, &classes);
    desired.check()?;
    let changes = mirror::diff(&desired, &host, kernel.mark_chain()?);
    mirror::apply(kernel, &changes, &mut |_| ControlFlow::Continue(()))?;
    Ok((scratch.host(kernel)?, desired.waiting.iter().map(ToString::to_string).collect()))
}
