//! What is installed, and how it is kept true: one reading of the kernel, one judgement, one mirror, one generation.

use super::counters::Counters;
use super::shadow::Shadow;
use super::watch::Watch;
use super::{Options, PolicyFile, RouterError, expiry, news};
use crate::compile::{self, CounterSlots, Generation, Input};
use crate::fastpath::{Capacity, FastPath};
use crate::kernel::{Event, Kernel, Monitor, Netlink, cheap_facts_hold, remove_empty_clsact};
use crate::mirror;
use crate::model::Host;
use crate::policy::{Bypass, Mode, Policy};
use crate::safety::{self, Facts, Judgement, May};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long the program may decide after the loader was last seen alive. A dead loader's decisions end within 2 seconds.
const LEASE: Duration = Duration::from_millis(1500);
/// How often all that nobody announces is surveyed again: hooks, programs, filters. What is cheap of it, at every tick.
const SURVEY_EVERY: Duration = Duration::from_secs(1);

/// From so many ranges of sets on, their change is not listened to: the kernel would tell of each.
const MANY_MEMBERS: usize = 10_000;

/// How many passes follow each other at once while the kernel goes on changing.
const PASSES: u32 = 8;

/// The running router, without its loop.
pub(super) struct Engine {
    pub(super) kernel: Netlink,
    pub(super) policy: Policy,
    /// The policy of the mirror as it is, with the bits of its sets.
    pub(super) in_force: Policy,
    file: Option<PolicyFile>,
    forced_mode: Option<Mode>,
    pub(super) fast: Option<FastPath>,
    pub(super) why_off: Option<String>,
    pub(super) host: Host,
    pub(super) facts: Facts,
    pub(super) judgement: Judgement,
    pub(super) generation: Generation,
    slots: CounterSlots,
    pub(super) counters: Counters,
    pub(super) waiting: Vec<mirror::Waiting>,
    /// Interfaces with the program.
    pub(super) attached: BTreeSet<u32>,
    pub(super) updates: u64,
    pub(super) active: bool,
    pub(super) since: Instant,
    /// The first policy is in force.
    started: bool,
    pub(super) surveyed: Instant,
    /// Runs while there is a fast path.
    watch: Option<Watch>,
    /// The last attempt failed; every tick tries again.
    behind: bool,
    /// Opened before the first reading, so that nothing that happens in between is missed.
    monitor: Monitor,
    /// Set by a signal that ends the router: a long change is broken off, and undone.
    ending: Arc<AtomicBool>,
    /// The last pass was out of date before it was done: there has to be another.
    outdated: bool,
    pub(super) shadow: Option<Shadow>,
}

impl Engine {
    /// Opens the kernel; installs nothing.
    pub fn open(options: Options) -> Result<Self, RouterError> {
        let now = Instant::now();
        let monitor = Monitor::open()?;
        Ok(Engine {
            kernel: Netlink::open()?,
            policy: options.policy,
            in_force: Policy::default(),
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
            started: false,
            surveyed: now,
            watch: None,
            behind: false,
            monitor,
            outdated: false,
            shadow: options.shadow.as_ref().map(Shadow::start).transpose()?,
            ending: Arc::default(),
        })
    }

    /// The descriptor that is readable while the kernel has announced something: see [`Engine::follow`].
    pub fn announcements(&self) -> std::io::Result<OwnedFd> {
        self.monitor.as_fd().try_clone_to_owned()
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
        let policy = self.policy.clone();
        let host = self.kernel.host()?;
        self.afford(&policy, &host)?;
        self.settle(&policy)?;
        self.behind = self.outdated;
        self.since = Instant::now();
        self.started = true;
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

    /// Reads what the kernel has announced. Neighbours are followed at once; true where all is to be read again.
    fn note_announced(&mut self) -> bool {
        let events = self.monitor.next_events().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            vec![Event::Overrun]
        });
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

    /// Reads again what may have changed without an announcement; true where it has.
    fn unannounced(&mut self) -> Result<bool, RouterError> {
        let Some(fast) = &mut self.fast else { return Ok(false) };
        let tcx = fast.foreign_tcx(self.host.links.keys().copied());
        if self.watch.as_ref().is_some_and(Watch::has_changed) || !cheap_facts_hold(&self.facts, &tcx)? {
            return Ok(true);
        }
        if self.kernel.settings()? != self.host.settings || self.kernel.links()? != self.host.links {
            return Ok(true);
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

    fn renew_lease(&mut self) {
        if let Some(fast) = &mut self.fast
            && let Err(error) = fast.renew_lease(LEASE)
        {
            tracing::warn!("{error}: the program stops deciding");
        }
    }

    /// Every packet is the stack's from here on, until the next generation.
    fn suspend(&mut self) {
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
        let policy = self.policy.clone();
        match self.settle(&policy) {
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
        match self.settle(&policy) {
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
                self.resync();
                Err(error)
            }
        }
    }

    /// Passes until one was still up to date when it was done, or until it is somebody else's turn.
    fn settle(&mut self, policy: &Policy) -> Result<(), RouterError> {
        for _ in 0..PASSES {
            self.update(policy)?;
            if !self.outdated {
                break;
            }
        }
        Ok(())
    }

    /// One pass: suspend, read, judge, mirror, compile, write, activate.
    fn update(&mut self, policy: &Policy) -> Result<(), RouterError> {
        self.suspend();
        self.monitor.forget()?;
        let mode = self.mode(policy);
        let host = self.kernel.host()?;
        news::interfaces(&self.host, &host, &self.attached, policy);
        self.host = host;
        if mode == Mode::Netlink {
            self.drop_fast_path();
        } else if self.fast.is_none() {
            self.load(mode)?;
        }
        self.survey(policy);
        let bound = safety::with_set_bits(policy, &self.host, &self.facts, &self.in_force.set_bits)?;
        let (source, policy) = (policy, &bound);
        self.judgement = self.judge(policy);
        let desired = mirror::desired(policy, &self.host, &(&self.judgement).into())
            .with_marks_taken(self.kernel.marks_are_anothers()?);
        desired.check()?;
        let changes = mirror::diff(&desired, &self.host, self.kernel.mark_chain()?);
        let mut unheard = false;
        if !changes.is_empty() {
            // Their marks are installed: a failure puts them back.
            let changes = changes.with_installed_marks(&self.in_force.mark_rules());
            unheard = changes.members() > MANY_MEMBERS;
            self.monitor.hear_nftables(!unheard)?;
            let applied = mirror::apply(&mut self.kernel, &changes, &mut news::progress(&self.ending));
            self.monitor.hear_nftables(true)?;
            let applied = applied.map_err(|error| error.told_of(&desired))?;
            news::applied(&applied, !self.started || *source != self.policy);
            self.host = self.kernel.host()?;
        }
        self.in_force.clone_from(policy);
        news::waiting(&self.waiting, &desired.waiting);
        self.waiting = desired.waiting;
        self.outdated = false;
        if self.fast.is_some() {
            self.activate(mode, policy)?;
        }
        // What happened to nftables meanwhile has to be looked for.
        self.outdated |= unheard;
        Ok(())
    }

    /// Loads the program, where the host can.
    fn load(&mut self, mode: Mode) -> Result<(), RouterError> {
        let links: Vec<u32> = self.host.links.keys().copied().collect();
        let loaded = FastPath::remove_leftovers(&links).and_then(|cleaned| {
            for ifindex in cleaned {
                tracing::info!("removed the filter that an earlier run left on {}", self.host.link_name(ifindex));
            }
            FastPath::load(Capacity::of(&self.generation))
        });
        match loaded {
            Ok(fast) => {
                self.fast = Some(fast);
                self.why_off = None;
                Ok(())
            }
            Err(error) if mode == Mode::Ebpf => Err(RouterError::NoFastPath(error.to_string())),
            Err(error) => {
                let why = error.to_string();
                if self.why_off.as_ref() != Some(&why) {
                    tracing::warn!("no fast path, the stack alone carries the traffic: {why}");
                    self.why_off = Some(why);
                }
                Ok(())
            }
        }
    }

    /// Takes the program off every interface.
    fn drop_fast_path(&mut self) {
        self.suspend();
        self.watch = None;
        let Some(mut fast) = self.fast.take() else { return };
        for ifindex in std::mem::take(&mut self.attached) {
            if let Err(error) = detach(&mut fast, ifindex) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Compiles, attaches where the guard has interfaces, writes and activates.
    fn activate(&mut self, mode: Mode, policy: &Policy) -> Result<(), RouterError> {
        let input = Input {
            may: self.judgement.interfaces.iter().map(|(index, judged)| (*index, judged.may.number())).collect(),
            marks: policy.mark_rules(),
            mark_bits: self.judgement.mark_bits.unwrap_or(0),
            mark_classes: self.judgement.mark_classes.clone(),
            marks_in_use: self.judgement.marks_in_use.clone(),
            fallback: self.shadow.as_mut().map(|shadow| shadow.fallen(&self.host.rules)).unwrap_or_default(),
            bypasses_netfilter: policy.router.bypass.contains(&Bypass::Netfilter),
        };
        let generation = match compile::compile(&self.host, &input, &mut self.slots) {
            Ok(generation) => generation,
            Err(error) => return self.give_up(mode, error.to_string()),
        };
        if mode == Mode::Ebpf && self.updates == 0 {
            self.demand_fast_path()?;
        }
        let Some(fast) = &mut self.fast else { return Ok(()) };
        if fast.fits(&generation) {
            self.counters.assign(&generation.counters, &fast.rule_counters());
        } else {
            // Larger maps are other maps, and so another program. The old one passes everything meanwhile.
            let larger = FastPath::load(Capacity::of(&generation))?;
            self.counters.carry_over(&fast.rule_counters());
            self.counters.reassign(&generation.counters);
            for ifindex in std::mem::take(&mut self.attached) {
                detach(fast, ifindex)?;
            }
            *fast = larger;
        }
        // Where every packet passes anyway, the program would only cost time.
        let wanted: BTreeSet<u32> =
            input.may.iter().filter(|(_, may)| **may != May::Pass.number()).map(|(index, _)| *index).collect();
        for ifindex in self.attached.difference(&wanted) {
            detach(fast, *ifindex)?;
        }
        self.attached.retain(|index| wanted.contains(index));
        for ifindex in wanted {
            fast.attach(ifindex)?;
            self.attached.insert(ifindex);
        }
        // Without a lease nothing is decided yet by what is written here: it may be out of date when it is complete.
        fast.renew_lease(Duration::ZERO)?;
        if let Some(shadow) = &mut self.shadow {
            shadow.begin(fast, &self.host, policy, &generation.counters)?;
        }
        fast.apply(&generation)?;
        self.generation = generation;
        let watch = self.watch.take().map_or_else(Watch::start, Ok)?;
        self.watch.insert(watch).expect(&self.host);
        self.updates += 1;
        self.active = true;
        self.outdated = self.note_announced();
        if self.outdated {
            self.suspend();
        }
        self.renew_lease();
        Ok(())
    }

    /// The fast path cannot hold what is there.
    fn give_up(&mut self, mode: Mode, why: String) -> Result<(), RouterError> {
        self.drop_fast_path();
        if mode == Mode::Ebpf {
            return Err(RouterError::NoFastPath(why));
        }
        tracing::warn!("no fast path, the stack alone carries the traffic: {why}");
        self.why_off = Some(why);
        Ok(())
    }

    /// In mode `ebpf` at least one interface must get more than pass, unless none is there yet.
    fn demand_fast_path(&self) -> Result<(), RouterError> {
        let interfaces = &self.judgement.interfaces;
        if interfaces.is_empty() || interfaces.values().any(|judged| judged.may != May::Pass) {
            return Ok(());
        }
        let reasons =
            interfaces.iter().map(|(index, judged)| format!("{}: {}", self.host.link_name(*index), judged.why));
        Err(RouterError::NoFastPath(format!(
            "no interface may be taken off the stack; use mode auto to leave them to it. {}",
            reasons.collect::<Vec<_>>().join("; ")
        )))
    }
}

/// Takes the program off an interface, and the qdisc with it that was made for it.
fn detach(fast: &mut FastPath, ifindex: u32) -> Result<(), RouterError> {
    if fast.detach(ifindex)? {
        remove_empty_clsact(ifindex)?;
    }
    Ok(())
}
