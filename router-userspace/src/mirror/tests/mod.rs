//! The mirror against the in-memory kernel and, where there is privilege, against the real one.
#![allow(clippy::unwrap_used)]

mod changes;
mod grouped;
mod long;
mod meanwhile;
mod real;
mod wishes;

use super::diff::{Changes, diff_within};
use super::rules::Limits;
use super::{Applied, ApplyError, Desired, Origin, Wanted, apply, mark_digest};
use crate::kernel::Kernel;
use crate::kernel::fake::FakeKernel;
use crate::model::{Host, MarkRule, OWN_PROTOCOL, Route, Rule};
use std::ops::ControlFlow;

/// Gates even around short runs.
const EAGER: Limits = Limits { gated: 2, walked: u64::MAX };
/// Deletions from the front even of short lists.
const HASTY: Limits = Limits { gated: 2, walked: 0 };

fn wanted<T>(items: impl IntoIterator<Item = T>) -> Vec<Wanted<T>> {
    let origin = || Origin::File { name: None, at: "test.toml:1".to_owned() };
    items.into_iter().map(|item| Wanted { item, origin: origin() }).collect()
}

fn wanting(rules: Vec<Rule>, routes: Vec<Route>, marks: Vec<MarkRule>) -> Desired {
    let digest = mark_digest(&marks);
    Desired { rules: wanted(rules), routes: wanted(routes), marks, digest, ..Desired::default() }
}

fn changes(kernel: &mut FakeKernel, desired: &Desired, limits: Limits) -> Changes {
    let (host, digest) = (kernel.host().unwrap(), kernel.mark_chain().unwrap());
    diff_within(desired, &host, digest, limits)
}

fn go(kernel: &mut FakeKernel, changes: &Changes) -> Result<Applied, ApplyError> {
    apply(kernel, changes, &mut |_| ControlFlow::Continue(()))
}

fn own_rules(host: &Host) -> Vec<Rule> {
    host.rules.iter().filter(|rule| rule.protocol == OWN_PROTOCOL).cloned().collect()
}

fn foreign_rules(host: &Host) -> Vec<Rule> {
    host.rules.iter().filter(|rule| rule.protocol != OWN_PROTOCOL).cloned().collect()
}

/// Routes in an order of their own: the kernel's says nothing.
fn sorted(routes: impl IntoIterator<Item = Route>) -> Vec<Route> {
    let mut routes: Vec<Route> = routes.into_iter().collect();
    routes.sort();
    routes
}
