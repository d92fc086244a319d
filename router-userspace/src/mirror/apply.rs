//! Taking the steps, and taking them back.

use super::desired::{Desired, Wanted};
use super::diff::{Changes, Own, Step, between};
use super::rules::Limits;
use crate::kernel::{Error, Kernel};
use crate::model::{Route, Rule};
use std::fmt;
use std::ops::ControlFlow;

/// So many rules are handed to the kernel at once.
const BATCH: usize = 256;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps taken.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rules added.
    pub rules_added: usize,
    /// Rules deleted.
    pub rules_deleted: usize,
    /// Routes added.
    pub routes_added: usize,
    /// Routes deleted.
    pub routes_deleted: usize,
    /// The table of marks was replaced or removed.
    pub marks_set: bool,
}

/// What became of the steps that were taken before one failed.
#[derive(Debug)]
pub enum Undo {
    /// All is as it was, which was looked up.
    Whole,
    /// This is not as it was.
    Incomplete(Vec<String>),
}

/// A change that failed midway.
#[derive(Debug, thiserror::Error)]
#[error("{}; {undo}", cause.as_ref().map_or_else(|| "interrupted".to_owned(), ToString::to_string))]
pub struct ApplyError {
    /// Why the step failed; None where the caller broke it off.
    pub cause: Option<Error>,
    /// The step that failed; None where none did.
    pub step: Option<Box<Step>>,
    /// What became of the others.
    pub undo: Undo,
}

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("not all could be taken back: {}", failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct RemoveError {
    /// The steps that failed; the others were taken all the same.
    pub failed: Vec<Error>,
}

/// Takes the steps, new before old. `progress` is called now and then and may break it off. Where a step fails, or it is broken
/// off, everything is put back as it was before the first step.
pub fn apply<K: Kernel + ?Sized>(
    kernel: &mut K,
    changes: &Changes,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Applied, ApplyError> {
    let mut walk = Walk { kernel, applied: Applied::default() };
    let mut done = 0;
    let (cause, step) = loop {
        let rest = changes.steps.get(done..).unwrap_or_default();
        if progress(Progress { done, total: changes.steps.len() }).is_break() && !rest.is_empty() {
            break (None, None);
        }
        if rest.is_empty() {
            return Ok(walk.applied);
        }
        let taken = walk.take_some(rest, BATCH);
        done += taken.tried;
        if let Some((place, error)) = taken.failed.into_iter().next() {
            break (Some(error), rest.get(place).cloned());
        }
        if taken.tried == 0 {
            // A kernel that neither does nor refuses would keep this going for ever.
            break (Some(Error::from_errno("change rules", libc::ECANCELED)), None);
        }
    };
    let undo = go_back(walk.kernel, &changes.before);
    Err(ApplyError { cause, step: step.map(Box::new), undo })
}

impl ApplyError {
    /// The error with the place in the file that asked for what failed.
    #[must_use]
    pub fn told_of(mut self, desired: &Desired) -> Self {
        let at = match self.step.as_deref() {
            Some(Step::AddRule(rule)) => place(&desired.rules, rule),
            // It may be a stand-in, which has another metric.
            Some(Step::AddRoute(route)) => place(&desired.routes, route).or_else(|| {
                desired
                    .routes
                    .iter()
                    .find(|wanted| Route { metric: route.metric, ..wanted.item.clone() } == *route)?
                    .origin
                    .at()
            }),
            Some(Step::SetMarks { .. }) => desired.marks_at.first().map(String::as_str),
            _ => None,
        };
        if let (Some(at), Some(cause)) = (at, &mut self.cause) {
            cause.what = format!("{at}: {}", cause.what);
        }
        self
    }
}

/// Where the file asks for it.
fn place<'a, T: PartialEq>(all: &'a [Wanted<T>], item: &T) -> Option<&'a str> {
    all.iter().find(|wanted| wanted.item == *item)?.origin.at()
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undo::Whole => f.write_str("all is as it was before"),
            Undo::Incomplete(left) => write!(f, "not all could be undone: {}", left.join("; ")),
        }
    }
}

/// Takes back everything of Wayfork's own: rules first, then marks, routes last. What fails does not keep the rest.
pub fn remove_all<K: Kernel + ?Sized>(
    kernel: &mut K,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Applied, RemoveError> {
    let nothing = Own { marks: Some(Vec::new()), ..Own::default() };
    let steps = steps_to(kernel, &nothing).map_err(|error| RemoveError { failed: vec![error] })?;
    let mut walk = Walk { kernel, applied: Applied::default() };
    let failed = walk.take_all(&steps, progress);
    if failed.is_empty() { Ok(walk.applied) } else { Err(RemoveError { failed }) }
}

/// The steps from what the kernel holds now to `want`.
fn steps_to<K: Kernel + ?Sized>(kernel: &mut K, want: &Own) -> Result<Vec<Step>, Error> {
    let (rules, routes, digest) = (kernel.rules()?, kernel.routes()?, kernel.mark_chain()?);
    Ok(between(&rules, &routes, digest, want, Limits::default()))
}

/// Back to `before`, from whatever there is now: the same way as forth, so that it is as safe, and where the kernel did more or
/// less than it said that does not matter.
fn go_back<K: Kernel + ?Sized>(kernel: &mut K, before: &Own) -> Undo {
    let steps = match steps_to(kernel, before) {
        Ok(steps) => steps,
        Err(error) => return Undo::Incomplete(vec![format!("nothing was undone: {error}")]),
    };
    let mut walk = Walk { kernel, applied: Applied::default() };
    let failed = walk.take_all(&steps, &mut |_| ControlFlow::Continue(()));
    let mut left: Vec<String> = failed.iter().map(ToString::to_string).collect();
    match steps_to(walk.kernel, before) {
        Ok(steps) if !steps.is_empty() && left.is_empty() => left.extend(steps.iter().map(describe)),
        Ok(_) => {}
        Err(error) => left.push(format!("it could not be looked whether all is as before: {error}")),
    }
    match walk.kernel.mark_chain() {
        Ok(digest) if digest == before.digest => {}
        Ok(_) => left.push("the marks that were installed before are not known; the new ones stay".to_owned()),
        Err(error) => left.push(error.to_string()),
    }
    if left.is_empty() { Undo::Whole } else { Undo::Incomplete(left) }
}

fn describe(step: &Step) -> String {
    match step {
        Step::AddRule(rule) => format!("{} rule {rule} is missing", rule.family),
        Step::DeleteRule(rule) => format!("{} rule {rule} is still there", rule.family),
        Step::AddRoute(route) => format!("{} route {} of table {} is missing", route.family, route.dst, route.table),
        Step::DeleteRoute(route) => {
            format!("{} route {} of table {} is still there", route.family, route.dst, route.table)
        }
        Step::SetMarks { .. } => "the marks are not those of before".to_owned(),
    }
}

/// Takes steps and counts them.
struct Walk<'a, K: ?Sized> {
    kernel: &'a mut K,
    applied: Applied,
}

/// What became of the leading steps.
#[derive(Default)]
struct Taken {
    /// So many were tried.
    tried: usize,
    /// Those that failed, each with its place among them.
    failed: Vec<(usize, Error)>,
}

impl Taken {
    fn one(result: Result<(), Error>) -> Self {
        Taken { tried: 1, failed: result.err().map(|error| (0, error)).into_iter().collect() }
    }
}

impl<K: Kernel + ?Sized> Walk<'_, K> {
    /// Takes the leading step, or up to `most` of one kind.
    fn take_some(&mut self, steps: &[Step], most: usize) -> Taken {
        match steps {
            [] => Taken::default(),
            [Step::AddRule(_), ..] => {
                let rules = leading(steps, most, |step| if let Step::AddRule(rule) = step { Some(rule) } else { None });
                let results = self.kernel.add_rules(&rules);
                settle(results, |_| false, &mut self.applied.rules_added)
            }
            [Step::DeleteRule(_), ..] => {
                let rules =
                    leading(steps, most, |step| if let Step::DeleteRule(rule) = step { Some(rule) } else { None });
                let results = self.kernel.delete_rules(&rules);
                // Gone already is as good as deleted.
                settle(results, |error| error.errno() == libc::ENOENT, &mut self.applied.rules_deleted)
            }
            [Step::AddRoute(route), ..] => {
                let result = add_route(self.kernel, route);
                self.applied.routes_added += usize::from(result.is_ok());
                Taken::one(result)
            }
            [Step::DeleteRoute(route), ..] => match self.kernel.delete_route(route) {
                // Routes go with their interface.
                Err(error) if matches!(error.errno(), libc::ESRCH | libc::ENODEV) => Taken::one(Ok(())),
                result => {
                    self.applied.routes_deleted += usize::from(result.is_ok());
                    Taken::one(result)
                }
            },
            [Step::SetMarks { marks, digest }, ..] => {
                let result = self.kernel.set_mark_chain(marks, *digest);
                self.applied.marks_set |= result.is_ok();
                Taken::one(result)
            }
        }
    }

    /// Takes all steps, whatever fails; gives back what failed.
    fn take_all(&mut self, steps: &[Step], progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Vec<Error> {
        let mut failed = Vec::new();
        let mut done = 0;
        while let Some(rest) = steps.get(done..).filter(|rest| !rest.is_empty()) {
            if progress(Progress { done, total: steps.len() }).is_break() {
                failed.push(Error::from_errno(format!("take back the last {} things", rest.len()), libc::EINTR));
                return failed;
            }
            let mut taken = self.take_some(rest, BATCH);
            if taken.tried == 0 {
                // Something in the batch cannot even be asked for: alone it keeps no other from being tried.
                taken = self.take_some(rest, 1);
            }
            failed.extend(taken.failed.into_iter().map(|(_, error)| error));
            done += taken.tried.max(1);
        }
        failed
    }
}

/// The results of a batch: it is tried up to the first that the kernel was not asked for.
fn settle(results: Vec<Result<(), Error>>, as_good: impl Fn(&Error) -> bool, counter: &mut usize) -> Taken {
    let mut taken = Taken::default();
    let mut cut = false;
    for (place, result) in results.into_iter().enumerate() {
        match result {
            Err(error) if error.errno() == libc::ECANCELED => cut = true,
            Err(error) if !as_good(&error) => taken.failed.push((place, error)),
            Err(_) => {}
            Ok(()) => *counter += 1,
        }
        taken.tried += usize::from(!cut);
    }
    taken
}

/// The rules of the leading steps of one kind.
fn leading<'a>(steps: &'a [Step], most: usize, rule: impl Fn(&'a Step) -> Option<&'a Rule>) -> Vec<Rule> {
    steps.iter().take(most).map_while(rule).cloned().collect()
}

/// Adds a route. The kernel looks its gateway up by the rules (`fib_check_nh_v4_gw`, `ip6_route_check_nh`), and a rule of the
/// policy itself can keep it from finding the network that the gateway is on. That it is on one of the interface was seen when
/// the route was resolved, so it is then added as on the link.
fn add_route<K: Kernel + ?Sized>(kernel: &mut K, route: &Route) -> Result<(), Error> {
    let refused = match kernel.add_route(route) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let unfound = matches!(refused.errno(), libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES);
    let mut on_link = route.clone();
    on_link.nexthops.iter_mut().for_each(|hop| hop.onlink |= hop.via.is_some());
    if unfound && on_link != *route && kernel.add_route(&on_link).is_ok() {
        return Ok(());
    }
    Err(explained(refused))
}

/// Adds what to do about the refusals of a route that have a usual cause.
fn explained(mut error: Error) -> Error {
    error.help = match error.errno() {
        libc::EEXIST => Some("another program has taken its place meanwhile; give the route another metric"),
        libc::ENETDOWN => Some("the interface went down meanwhile"),
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES => {
            Some("is the gateway on the interface's network, and the preferred source an address of this host?")
        }
        _ => error.help,
    };
    error
}
