//! What the log tells of a change, once: how far a long one is, what waits, which interfaces went or came, what was put right.

use crate::mirror::{Applied, Progress, Waiting};
use crate::model::Host;
use crate::policy::Policy;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What waits that did not, and what does no more.
pub(super) fn waiting(before: &[Waiting], now: &[Waiting]) {
    for waiting in now.iter().filter(|waiting| !before.contains(waiting)) {
        tracing::info!("{waiting}");
    }
    // What waits for something else now has been told above.
    let same = |a: &Waiting, b: &Waiting| a.family == b.family && a.what == b.what && a.at == b.at;
    for waiting in before.iter().filter(|waiting| !now.iter().any(|other| same(waiting, other))) {
        tracing::info!("{} {} waits no longer ({})", waiting.family, waiting.what, waiting.at);
    }
}

/// The interfaces that went or came, of those that the rules of the file name or the program is attached to. Routes that lose
/// theirs wait for it.
pub(super) fn interfaces(before: &Host, now: &Host, attached: &BTreeSet<u32>, policy: &Policy) {
    // At the start nothing has come: it was there.
    if before.links.is_empty() {
        return;
    }
    let selectors = policy.rpdb().map(|rule| &rule.selectors);
    let mut names: BTreeSet<String> = selectors.flat_map(|all| [&all.iif, &all.oif]).flatten().cloned().collect();
    names.extend(attached.iter().map(|index| before.link_name(*index)));
    for name in names {
        match (before.link(&name), now.link(&name)) {
            (Some(_), None) => tracing::info!("interface {name} is gone"),
            (None, Some(_)) => tracing::info!("interface {name} has come"),
            (Some(old), Some(new)) if old.index != new.index => tracing::info!("interface {name} is another one now"),
            _ => {}
        }
    }
}

/// What was changed in the kernel: for a new policy, or because the kernel's state was no longer what the policy wants.
pub(super) fn applied(applied: &Applied, new_policy: bool) {
    let Applied { rules_added, rules_deleted, routes_added, routes_deleted, marks_set } = *applied;
    let some = |count: usize, word: &str, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {word} {what}")),
        _ => Some(format!("{count} {word}s {what}")),
    };
    let mut parts: Vec<String> = [
        some(rules_added, "rule", "added"),
        some(rules_deleted, "rule", "deleted"),
        some(routes_added, "route", "added"),
        some(routes_deleted, "route", "deleted"),
    ]
    .into_iter()
    .flatten()
    .collect();
    parts.extend(marks_set.then(|| "the marks' chains replaced".to_owned()));
    let what = if new_policy { "installed" } else { "put right" };
    tracing::info!("{what}: {}", parts.join(", "));
}

/// Says how far a long change is, every second or so, and breaks it off when the router is to end.
pub(super) fn progress(ending: &AtomicBool) -> impl FnMut(Progress) -> ControlFlow<()> {
    let mut said = Instant::now();
    move |progress| {
        if said.elapsed() >= Duration::from_secs(1) {
            said = Instant::now();
            tracing::info!("{} of {} rules and routes", progress.done, progress.total);
        }
        if ending.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
