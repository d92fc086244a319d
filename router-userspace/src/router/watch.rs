//! Looks, beside the running loop, for what the kernel changed without telling anybody.
//!
//! The stack's own exceptions to routes are never announced. Rules and routes are, or are flushed by something that is (see
//! [`Kernel::wait_for_changes`]); they are compared too, rarely, in case a kernel does otherwise. Reading either walks all
//! routes, which may be very many: a thread of its own does it, so that the loop is always ready to suspend the fast path.

use crate::kernel::{Kernel, Netlink, Result};
use crate::model::{Host, Route, Rule};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often exceptions are read, and how often rules and routes.
const EXCEPTIONS_EVERY: Duration = Duration::from_millis(500);
const TABLES_EVERY: Duration = Duration::from_secs(10);
/// A pause is at least this many times as long as the reading before it: what is read is a small part of a CPU's time.
const EXCEPTIONS_PAUSE: u32 = 20;
const TABLES_PAUSE: u32 = 50;

/// The watching thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ending: bool,
    /// Counts what was to be expected so far: what was read before the last of it says nothing.
    turn: u64,
    expected: Option<Expected>,
    changed: bool,
}

#[derive(Debug)]
struct Expected {
    tables: u64,
    exceptions: BTreeSet<IpAddr>,
}

impl Shared {
    /// A thread that panicked left nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Watches the namespace of the calling thread.
    pub fn start() -> Result<Self> {
        Ok(Self::over(Netlink::open()?, TABLES_EVERY))
    }

    fn over(kernel: impl Kernel + Send + 'static, tables_every: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || watch(kernel, &of_thread, tables_every));
        Watch(shared)
    }

    /// From now on this is what the kernel should have.
    pub fn expect(&self, host: &Host) {
        let expected = Expected { tables: digest(&host.rules, &host.routes), exceptions: host.exceptions.clone() };
        let mut state = self.0.state();
        state.turn += 1;
        state.expected = Some(expected);
        state.changed = false;
    }

    /// What is expected is about to change: nothing is, until the next word.
    pub fn expect_change(&self) {
        let mut state = self.0.state();
        state.turn += 1;
        state.expected = None;
        state.changed = false;
    }

    /// Whether the kernel was found to have something else, or could not be read.
    pub fn has_changed(&self) -> bool {
        self.0.state().changed
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.state().ending = true;
        self.0.ended.notify_all();
    }
}

fn watch(mut kernel: impl Kernel, shared: &Shared, tables_every: Duration) {
    let mut pause = EXCEPTIONS_EVERY;
    let mut tables_due = Instant::now() + tables_every;
    loop {
        let state = shared.ended.wait_timeout_while(shared.state(), pause, |state| !state.ending);
        let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
        if state.ending {
            return;
        }
        let turn = state.turn;
        drop(state);

        let started = Instant::now();
        let exceptions = kernel.exceptions();
        pause = EXCEPTIONS_EVERY.max(started.elapsed() * EXCEPTIONS_PAUSE);
        let tables = (started >= tables_due).then(|| {
            let started = Instant::now();
            let tables = kernel.rules().and_then(|rules| Ok(digest(&rules, &kernel.routes()?)));
            tables_due = Instant::now() + tables_every.max(started.elapsed() * TABLES_PAUSE);
            tables
        });

        let mut state = shared.state();
        if let Some(expected) = state.expected.as_ref().filter(|_| state.turn == turn) {
            let as_expected = exceptions.is_ok_and(|found| found == expected.exceptions)
                && tables.is_none_or(|found| found.is_ok_and(|found| found == expected.tables));
            state.changed |= !as_expected;
        }
    }
}

/// Of all rules and routes in their order.
fn digest(rules: &[Rule], routes: &[Route]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (rules, routes).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fake::FakeKernel;
    use crate::model::Family;

    /// Whether a kernel that holds `now` is found to hold something else than `expected`.
    fn differs(now: &Host, expected: &Host) -> bool {
        let watch = Watch::over(FakeKernel::with_host(now.clone()), Duration::ZERO);
        watch.expect(expected);
        // Two rounds and a half.
        std::thread::sleep(EXCEPTIONS_EVERY * 5 / 2);
        watch.has_changed()
    }

    #[test]
    fn any_difference_is_found_and_nothing_else() {
        let host = FakeKernel::new().state().clone();
        let with = |change: fn(&mut Host)| {
            let mut changed = host.clone();
            change(&mut changed);
            changed
        };
        assert!(!differs(&host, &host));
        assert!(differs(&with(|host| host.exceptions = ["10.0.0.7".parse().expect("an address")].into()), &host));
        assert!(differs(&with(|host| host.rules.push(Rule::lookup(Family::Ipv6, 7, 7))), &host));
        assert!(differs(&host, &with(|host| host.rules.reverse())), "the order counts");
        assert!(!differs(&with(|host| host.settings.keep_priority = true), &host), "others look at that");
    }

    #[test]
    fn what_is_expected_now_counts() {
        let host = FakeKernel::new().state().clone();
        let watch = Watch::over(FakeKernel::with_host(host.clone()), Duration::ZERO);
        watch.expect(&Host::default());
        std::thread::sleep(EXCEPTIONS_EVERY * 2);
        assert!(watch.has_changed());
        watch.expect(&host);
        assert!(!watch.has_changed());
        std::thread::sleep(EXCEPTIONS_EVERY * 2);
        assert!(!watch.has_changed());
    }
}
