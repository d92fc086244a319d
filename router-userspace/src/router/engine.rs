//! What is installed, and what keeps it true: what the kernel announces, what has to be looked for, the lease. The way to a new
//! state is that of [`super::pass`].

use super::counters::Counters;
use super::shadow::Shadow;
use super::watch::Watch;
use super::{Options, PolicyFile, RouterError, expiry, news, sentry};
use crate::compile::{self, CounterSlots, Generation};
use crate::fastpath::FastPath;
use crate::kernel::{Event, Kernel, Monitor, Netlink, cheap_facts_hold};
use crate::mirror;
use crate::model::Host;
use crate::policy::{Mode, Policy};
use crate::safety::{Facts, Judgement};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long the program may decide after the loader was last seen alive. A dead loader's decisions end within 2 seconds.
const LEASE: Duration = Duration::from_millis(1500);
/// How often all that nobody announces is surveyed again: hooks, programs, filters. What is cheap of it, at every tick.
const SURVEY_EVERY: Duration = Duration::from_secs(1);

/// How many passes follow each other at once while the kernel goes on changing.
const PASSES: u32 = 8;

/// The running router, without its loop.
pub(super) struct Engine {
    pub(super) kernel: Netlink,
    pub(super) policy: Arc<Policy>,
    /// The policy of the mirror as it is, with the bits of its sets.
    pub(super) in_force: Arc<Policy>,
    file: Option<PolicyFile>,
    forced_mode: Option<Mode>,
    pub(super) fast: Option<FastPath>,
    pub(super) why_off: Option<String>,
    pub(super) host: Host,
    pub(super) facts: Facts,
    pub(super) judgement: Judgement,
    /// Of what the maps hold, what is asked for again: neighbours, and the rule behind each counter. The rest is empty.
    pub(super) generation: Generation,
    pub(super) slots: CounterSlots,
    pub(super) counters: Counters,
    pub(super) waiting: Vec<mirror::Waiting>,
    /// Interfaces with the program.
    pub(super) attached: BTreeSet<u32>,
    pub(super) updates: u64,
    /// The fast path decides, as far as the lease goes.
    pub(super) active: bool,
    pub(super) since: Instant,
    pub(super) surveyed: Instant,
    /// Runs while there is a fast path.
    pub(super) watch: Option<Watch>,
    /// The last attempt failed; every tick tries again.
    behind: bool,
    /// Opened before the first reading, so that nothing that happens in between is missed.
    pub(super) monitor: Arc<Mutex<Monitor>>,
    /// Set by a signal that ends the router: a long change is broken off, and undone.
    pub(super) ending: Arc<AtomicBool>,
    /// The last pass was out of date before it was done: there has to be another.
    pub(super) outdated: bool,
    /// Something that nobody announces has changed during a pass.
    pub(super) doubted: bool,
    pub(super) shadow: Option<Shadow>,
}

impl Engine {
    /// Opens the kernel; installs nothing.
    pub fn open(options: Options) -> Result<Self, RouterError> {
        let now = Instant::now();
        let mut monitor = Monitor::open()?;
        let kernel = Netlink::open()?;
        // What is changed here is read again in the same pass.
        monitor.leave_out(kernel.port());
        Ok(Engine {
            kernel,
            policy: options.policy.into(),
            in_force: Arc::default(),
            file: options.file,
            forced_mode: options.mode,
            fast: None,
            why_off: None,
            host: Host::default(),
            facts: Facts::default(),
            judgement: Judgement::default(),
            generation: Generation::default(),
            slots: CounterSlots::default(),
            counters: Counters::default(),
            waiting: Vec::new(),
            attached: BTreeSet::new(),
            updates: 0,
            active: false,
            since: now,
            surveyed: now,
            watch: None,
            behind: false,
            monitor: Arc::new(Mutex::new(monitor)),
            outdated: false,
            doubted: false,
            shadow: options.shadow.as_ref().map(Shadow::start).transpose()?,
            ending: Arc::default(),
        })
    }

    /// The descriptor that is readable while the kernel has announced something: see [`Engine::follow`].
    pub fn announcements(&self) -> std::io::Result<OwnedFd> {
        self.monitor().as_fd().try_clone_to_owned()
    }

    /// Set it to break off a change that takes long.
    pub fn ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ending)
    }

    /// The policy file, to be read again; None where the policy in force came from none.
    pub fn file(&self) -> Option<&PolicyFile> {
        self.file.as_ref()
    }

    pub(super) fn mode(&self, policy: &Policy) -> Mode {
        self.forced_mode.unwrap_or(policy.router.mode)
    }

    /// Puts right what an earlier run left, installs the mirror, loads and attaches the fast path.
    pub fn start(&mut self) -> Result<(), RouterError> {
        let policy = Arc::clone(&self.policy);
        let host = self.kernel.host()?;
        self.afford(&policy, &host)?;
        drop(host);
        self.settle(&policy, true)?;
        self.behind = self.outdated;
        self.since = Instant::now();
        Ok(())
    }

    /// Takes everything back: first what decides, then what the stack needs.
    pub fn stop(mut self, keep: bool) -> Result<(), RouterError> {
        self.drop_fast_path();
        if !keep {
            mirror::remove_all(&mut self.kernel, &mut news::progress(&AtomicBool::new(false)))?;
        }
        Ok(())
    }

    /// Something changed in the kernel.
    pub fn follow(&mut self) {
        if self.note_announced() {
            self.resync();
        }
    }

    /// What the kernel tells.
    pub(super) fn monitor(&self) -> MutexGuard<'_, Monitor> {
        sentry::held(&self.monitor)
    }

    /// Reads what the kernel has announced. Neighbours are followed at once; true where all is to be read again.
    pub(super) fn note_announced(&mut self) -> bool {
        let events = self.monitor().next_events().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            vec![Event::Overrun]
        });
        self.take_in(events)
    }

    /// Follows neighbours; true where something else has changed.
    pub(super) fn take_in(&mut self, events: Vec<Event>) -> bool {
        let mut again = false;
        for event in events {
            match event {
                Event::Neighbour(neighbour) => {
                    let key = compile::neighbour_key(neighbour.index, neighbour.addr);
                    self.set_neighbour(key, compile::neighbour(&neighbour).map(|(_, entry)| entry));
                }
                Event::NeighbourGone(index, addr) => self.set_neighbour(compile::neighbour_key(index, addr), None),
                Event::Overrun => {
                    tracing::warn!("the kernel's announcements overran: everything passes until all is read again");
                    again = true;
                }
                _ => again = true,
            }
        }
        again
    }

    /// What nobody announces, and the lease.
    pub fn tick(&mut self) {
        if self.behind {
            self.resync();
        }
        if let Some(fast) = &mut self.fast {
            fast.poll_log();
        }
        let changed = self.unannounced();
        match changed {
            Ok(false) => {}
            Ok(true) => self.resync(),
            Err(error) => {
                tracing::warn!("{error}");
                self.suspend();
                self.behind = true;
            }
        }
        self.renew_lease();
    }

    /// Whether what is cheap to look at has changed without an announcement.
    pub(super) fn cheap_changed(&mut self) -> Result<bool, RouterError> {
        let Some(fast) = &mut self.fast else { return Ok(false) };
        let tcx = fast.foreign_tcx(self.host.links.keys().copied());
        Ok(self.watch.as_ref().is_some_and(Watch::has_changed)
            || !cheap_facts_hold(&self.facts, &tcx)?
            || self.kernel.settings()? != self.host.settings
            || self.kernel.links()? != self.host.links)
    }

    /// Reads again what may have changed without an announcement; true where it has.
    pub(super) fn unannounced(&mut self) -> Result<bool, RouterError> {
        if self.fast.is_none() || self.cheap_changed()? {
            return Ok(self.fast.is_some());
        }
        let fresh: BTreeMap<_, _> = self.kernel.neighbours()?.iter().filter_map(compile::neighbour).collect();
        if fresh != self.generation.neighbours {
            let gone: Vec<_> =
                self.generation.neighbours.keys().filter(|key| !fresh.contains_key(key)).copied().collect();
            for key in gone {
                self.set_neighbour(key, None);
            }
            for (key, entry) in fresh {
                self.set_neighbour(key, Some(entry));
            }
        }
        if self.surveyed.elapsed() >= SURVEY_EVERY
            && let Some(fast) = &mut self.fast
        {
            self.surveyed = Instant::now();
            let facts = super::guard::facts(fast, &self.host);
            return Ok(facts != self.facts || expiry::moved(&mut self.kernel, &self.host.routes)?);
        }
        Ok(false)
    }

    fn set_neighbour(
        &mut self,
        key: router_common::layout::NeighbourKey,
        entry: Option<router_common::layout::NeighbourEntry>,
    ) {
        if self.generation.neighbours.get(&key) == entry.as_ref() {
            return;
        }
        match entry {
            Some(entry) => self.generation.neighbours.insert(key, entry),
            None => self.generation.neighbours.remove(&key),
        };
        if let Some(fast) = &mut self.fast
            && let Err(error) = fast.set_neighbour(key, entry)
        {
            tracing::warn!("{error}");
            self.suspend();
            self.behind = true;
        }
    }

    pub(super) fn renew_lease(&mut self) {
        if let Some(fast) = &mut self.fast
            && let Err(error) = fast.renew_lease(LEASE)
        {
            tracing::warn!("{error}: the program stops deciding");
        }
    }

    /// Every packet is the stack's from here on, until the next generation.
    pub(super) fn suspend(&mut self) {
        self.active = false;
        if let Some(shadow) = &self.shadow {
            shadow.suspend();
        }
        if let Some(fast) = &mut self.fast
            && let Err(error) = fast.suspend()
        {
            // It could not be told to pass. Taking it away does the same.
            tracing::error!("{error}: the fast path is taken off");
            self.fast = None;
            self.attached.clear();
        }
    }

    /// Brings both paths up to date after a change; keeps the fast path out of it where that fails.
    pub(super) fn resync(&mut self) {
        let policy = Arc::clone(&self.policy);
        match self.settle(&policy, false) {
            // Where changes follow each other without a pause, the next tick goes on.
            Ok(()) => self.behind = self.outdated,
            Err(error) => {
                if !self.behind {
                    tracing::error!("{error}; the stack alone decides until that is mended");
                }
                self.suspend();
                self.behind = true;
            }
        }
    }

    /// The new policy, whole or not at all; `file` is where it can be read again.
    pub fn reload(&mut self, policy: Policy, file: Option<PolicyFile>) -> Result<(), RouterError> {
        self.afford(&policy, &self.host)?;
        let fallen = self.shadow.as_mut().map(Shadow::forgive);
        let policy = Arc::new(policy);
        match self.settle(&policy, true) {
            Ok(()) => {
                self.behind = self.outdated;
                self.policy = policy;
                self.file = file;
                Ok(())
            }
            Err(error) => {
                if let (Some(shadow), Some(fallen)) = (&mut self.shadow, fallen) {
                    shadow.restore(fallen);
                }
                // Refused before anything was touched, the fast path still decides as it did.
                if !self.active {
                    self.resync();
                }
                Err(error)
            }
        }
    }

    /// Passes until one was still up to date when it was done, or until it is somebody else's turn. `is_news`: the policy is not
    /// the one that is in force.
    fn settle(&mut self, policy: &Arc<Policy>, is_news: bool) -> Result<(), RouterError> {
        for _ in 0..PASSES {
            self.update(policy, is_news)?;
            if !self.outdated {
                break;
            }
        }
        Ok(())
    }
}
