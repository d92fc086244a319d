//! `run --shadow RATE`: the decisions about sampled packets are held against the kernel while the router runs.
//!
//! The TC program tells of a sample by a ring buffer. A thread reads it, asks the kernel (RTM_GETROUTE) and compares. A sample
//! counts only where the state of the maps that decided it is still in force when the answer is there. Where the two differ, in
//! mode `auto`, the rule that decided falls back: what it decides is the stack's.

mod checker;
mod fallen;
mod judge;
#[cfg(test)]
mod judge_test;
mod rate;

pub use rate::{BadRate, Rate};

use super::RouterError;
use super::status;
use crate::fastpath::{self, FastPath, Samples};
use crate::kernel::Netlink;
use crate::model::{Host, MarkRule, Rule};
use crate::policy::Policy;
use crate::proof::Explanation;
use checker::Checker;
use fallen::Fallen;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::BTreeSet;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What `run --shadow` is asked to do.
#[derive(Clone, Debug)]
pub struct ShadowOptions {
    /// How many packets are sampled.
    pub rate: Rate,
    /// Writes an explanation for a person: what is logged of a disagreement.
    pub tell: fn(&Explanation) -> String,
}

/// What decides: one state of the maps, and what it was compiled from.
#[derive(Debug)]
pub(super) struct Situation {
    /// The number that its samples carry; never 0.
    generation: u32,
    host: Host,
    policy: Policy,
    marks: Vec<MarkRule>,
    /// The rule behind each counter.
    counters: Vec<Option<String>>,
}

/// A rule that has decided otherwise than the kernel.
pub(super) struct Finding {
    rule_id: Option<String>,
    why: String,
    situation: Arc<Situation>,
}

/// What loop and thread share.
#[derive(Default)]
struct Shared {
    /// The generation in force, 0 for none: what the mutex holds, to be looked at without it.
    generation: AtomicU32,
    in_force: Mutex<Option<Arc<Situation>>>,
    counts: Counts,
    ending: AtomicBool,
}

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    agreed: AtomicU64,
    disagreed: AtomicU64,
    outdated: AtomicU64,
    unasked: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }

    fn in_force(&self) -> Option<Arc<Situation>> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, situation: Option<Arc<Situation>>) {
        let generation = situation.as_ref().map_or(0, |situation| situation.generation);
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force = situation;
        self.generation.store(generation, Release);
    }
}

/// The shadow mode as the loop has it. Dropping it ends the thread.
pub(super) struct Shadow {
    rate: Rate,
    shared: Arc<Shared>,
    /// The last situation's number.
    generation: u32,
    sources: mpsc::Sender<Samples>,
    wake: Arc<EventFd>,
    fallen: Fallen,
    findings: Option<UnboundedReceiver<Finding>>,
    thread: Option<JoinHandle<()>>,
}

impl Shadow {
    /// Starts the thread, in the calling thread's network namespace.
    pub fn start(options: &ShadowOptions) -> Result<Self, RouterError> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = Arc::new(wake.map_err(|error| RouterError::Start(error.into()))?);
        let shared = Arc::<Shared>::default();
        let (sources, receiver) = mpsc::channel();
        let (sender, findings) = unbounded_channel();
        let checker = Checker {
            shared: Arc::clone(&shared),
            kernel: Netlink::open()?,
            sources: receiver,
            wake: Arc::clone(&wake),
            findings: sender,
            tell: options.tell,
        };
        let thread = std::thread::Builder::new().name("shadow".into()).spawn(|| checker.run());
        let thread = Some(thread.map_err(RouterError::Start)?);
        let rate = options.rate.clone();
        let (fallen, findings) = (Fallen::default(), Some(findings));
        Ok(Shadow { rate, shared, generation: 0, sources, wake, fallen, findings, thread })
    }

    /// What the thread finds, to be handed to [`Shadow::fall_back`]; None where it has been handed out before.
    pub fn findings(&mut self) -> Option<UnboundedReceiver<Finding>> {
        self.findings.take()
    }

    /// Nothing decides any more.
    pub fn suspend(&self) {
        self.shared.put(None);
        self.wake();
    }

    /// `fast` is about to decide by what was compiled from this.
    pub fn begin(
        &mut self,
        fast: &mut FastPath,
        host: &Host,
        policy: &Policy,
        counters: &[Option<String>],
    ) -> fastpath::Result<()> {
        if let Some(samples) = fast.take_samples()? {
            // The thread lives as long as this does.
            drop(self.sources.send(samples));
            self.wake();
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        fast.sample(self.rate.threshold(), self.generation);
        self.shared.put(Some(Arc::new(Situation {
            generation: self.generation,
            host: host.clone(),
            policy: policy.clone(),
            marks: policy.mark_rules(),
            counters: counters.to_vec(),
        })));
        Ok(())
    }

    /// The rule falls back to the stack, where it is still there. True where that is news.
    pub fn fall_back(&mut self, finding: Finding, rules: &[Rule]) -> bool {
        let Finding { rule_id, why, situation } = finding;
        let Some(rule_id) = rule_id else { return false };
        let fell = self.fallen.add(&rule_id, why, &situation.host.rules, rules);
        if fell {
            tracing::warn!(
                "shadow: what rule {rule_id} decides is left to the stack until the rules change or are reloaded"
            );
        }
        fell
    }

    /// The ids of the rules that have fallen back, of this list.
    pub fn fallen(&mut self, rules: &[Rule]) -> BTreeSet<String> {
        self.fallen.of(rules)
    }

    /// No rule has fallen back any more. Gives what was, for [`Shadow::restore`].
    pub fn forgive(&mut self) -> Forgiven {
        Forgiven(std::mem::take(&mut self.fallen))
    }

    /// Takes [`Shadow::forgive`] back.
    pub fn restore(&mut self, Forgiven(fallen): Forgiven) {
        self.fallen = fallen;
    }

    /// What `status` shows.
    pub fn status(&self) -> status::Shadow {
        let counts = &self.shared.counts;
        let (agreed, disagreed) = (counts.agreed.load(Relaxed), counts.disagreed.load(Relaxed));
        let dropped = counts.dropped.load(Relaxed);
        let fallen = self.fallen.why();
        status::Shadow {
            rate: self.rate.to_string(),
            sampled: counts.received.load(Relaxed) + dropped,
            checked: agreed + disagreed,
            agreed,
            disagreed,
            outdated: counts.outdated.load(Relaxed),
            dropped,
            unasked: counts.unasked.load(Relaxed),
            fallback: fallen
                .map(|(id, why)| status::Fallback { rule_id: id.to_owned(), why: why.to_owned() })
                .collect(),
        }
    }

    fn wake(&self) {
        // It fails only where the thread has not looked at 2^64 earlier calls.
        if let Err(error) = self.wake.write(1) {
            tracing::debug!("shadow: {error}");
        }
    }
}

/// Rules that had fallen back.
pub(super) struct Forgiven(Fallen);

impl Drop for Shadow {
    fn drop(&mut self) {
        self.shared.ending.store(true, Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("shadow: the thread that checks samples has panicked");
        }
    }
}
