//! The way to a new state: one reading of the kernel, one judgement, one mirror, one generation.
//!
//! After somebody else's change the fast path is suspended first. A change of Wayfork's own is begun with the fast path deciding by
//! what was true until then, and ends with one switch to what is true from then on: see ARCHITECTURE.md, "Who
//! decides during a reload".

use super::engine::Engine;
use super::guard;
use super::sentry::{Guarded, Sentry};
use super::watch::Watch;
use super::{RouterError, news};
use crate::compile::{self, Generation, Input};
use crate::fastpath::{Capacity, FastPath};
use crate::kernel::{Kernel, remove_empty_clsact};
use crate::mirror::{self, Changes, Desired, Step};
use crate::policy::{Mode, Policy};
use crate::safety::{self, Judgement, May};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// From so many ranges of sets on, their change is not listened to: the kernel would tell of each.
const MANY_MEMBERS: usize = 10_000;

/// What is to be done in the kernel, and what comes of it.
struct Plan {
    /// The policy with the bits of its sets.
    policy: Arc<Policy>,
    judgement: Judgement,
    desired: Desired,
    changes: Changes,
}

impl Engine {
    /// One pass: read, judge, mirror, compile, write, activate. With a policy that is news the fast path goes on meanwhile, where
    /// it may.
    pub(super) fn update(&mut self, policy: &Arc<Policy>, is_news: bool) -> Result<(), RouterError> {
        let guarding = if is_news { self.go_on(policy) } else { None };
        if guarding.is_none() {
            self.suspend();
            self.monitor().forget()?;
        }
        // Without a thread to listen the loop hears it all in the end.
        let sentry = guarding.or_else(|| Sentry::post(Arc::clone(&self.monitor), None).ok());
        let done = self.pass(policy, is_news);
        let heard = sentry.map(Sentry::relieve).unwrap_or_default();
        let again = self.take_in(heard.neighbours) | heard.again | self.note_announced();
        // Only a neighbour's change may have stopped it, which is in the maps now; but the pass is over.
        let stopped = self.active && self.fast.as_ref().is_some_and(|fast| !fast.is_active());
        let doubted = std::mem::take(&mut self.doubted);
        self.outdated = again | stopped | doubted | matches!(done, Ok(true));
        if self.outdated {
            self.suspend();
        }
        if self.active {
            self.renew_lease();
        }
        done.map(drop)
    }

    /// Lets the fast path go on during a change of Wayfork's own, with somebody who listens. None where it may not.
    fn go_on(&mut self, policy: &Policy) -> Option<Sentry> {
        // What it writes marks for is the mirror's, which is about to change.
        if !self.active || self.judgement.mark_bits.is_some() || self.mode(policy) == Mode::Netlink {
            return None;
        }
        // It is left as it is: so it must be true now.
        if self.note_announced() || !matches!(self.unannounced(), Ok(false)) {
            return None;
        }
        let mut stopper = self.fast.as_ref()?.stopper().inspect_err(|error| tracing::debug!("{error}")).ok()?;
        let stop = Box::new(move || {
            if let Err(error) = stopper.stop() {
                // The lease, which nobody renews then, ends it.
                tracing::error!("{error}");
            }
        });
        let neighbours = self.generation.neighbours.clone();
        let sentry = Sentry::post(Arc::clone(&self.monitor), Some(Guarded { stop, neighbours }));
        self.renew_lease();
        sentry.inspect_err(|error| tracing::debug!("{error}")).ok()
    }

    /// Between the parts of a pass during which the fast path goes on: as at a tick, what nobody announces is looked for, and the lease
    /// renewed. Where a part takes longer than the lease, the fast path stops by itself.
    fn keep(&mut self) {
        if !self.active {
            return;
        }
        match self.cheap_changed() {
            Ok(false) => self.renew_lease(),
            _ => {
                self.suspend();
                self.doubted = true;
            }
        }
    }

    /// A pass but for what is announced meanwhile; true where another has to follow. Where it fails while the fast path decides,
    /// nothing was touched.
    fn pass(&mut self, policy: &Arc<Policy>, is_news: bool) -> Result<bool, RouterError> {
        let mode = self.mode(policy);
        if self.active {
            // What the generation in force was made from is still true, but that neighbours were followed in the maps.
            self.host.neighbours = self.kernel.neighbours()?;
        } else {
            self.read(policy)?;
        }
        if mode == Mode::Netlink {
            self.drop_fast_path();
        } else if self.fast.is_none() {
            self.load(mode)?;
        }
        let plan = self.plan(policy)?;
        self.keep();
        self.carry_out(plan, policy, mode, is_news).inspect_err(|_| self.suspend())
    }

    /// Reads the kernel.
    fn read(&mut self, policy: &Policy) -> Result<(), RouterError> {
        // Not twice in memory: there may be very many.
        (self.host.rules, self.host.routes) = Default::default();
        let host = self.kernel.host()?;
        news::interfaces(&self.host, &host, &self.attached, policy);
        self.host = host;
        Ok(())
    }

    /// Judges, and says what the mirror has to change.
    fn plan(&mut self, policy: &Arc<Policy>) -> Result<Plan, RouterError> {
        if self.survey(policy) {
            self.suspend();
        }
        let bound = safety::bound(policy, &self.host, &self.facts, &self.in_force.set_bits)?;
        let policy = bound.map_or_else(|| Arc::clone(policy), Arc::new);
        let (judgement, desired) = guard::judged(&policy, &self.host, &self.facts, self.fast.is_some());
        self.keep();
        let desired = desired.with_marks_taken(self.kernel.marks_are_anothers()?);
        desired.check()?;
        let changes = mirror::diff(&desired, &self.host, self.kernel.mark_chain()?);
        Ok(Plan { policy, judgement, desired, changes })
    }

    /// Changes the kernel, then the fast path. True where another pass has to follow.
    fn carry_out(&mut self, plan: Plan, source: &Arc<Policy>, mode: Mode, is_news: bool) -> Result<bool, RouterError> {
        let Plan { policy, judgement, desired, changes } = plan;
        let (mut unheard, changed) = (false, !changes.is_empty());
        if changed {
            unheard = self.change(&desired, changes, is_news)?;
        }
        // What was planned is not kept while all is read once more: either is large where there are many rules.
        let waiting = desired.waiting;
        drop((desired.rules, desired.routes, desired.marks, desired.left_rules));
        if changed {
            self.keep();
            self.read(source)?;
            self.keep();
        }
        self.judgement = judgement;
        self.in_force = policy;
        news::waiting(&self.waiting, &waiting);
        self.waiting = waiting;
        if self.fast.is_some() {
            self.activate(mode)?;
        }
        // What happened to nftables meanwhile has to be looked for.
        Ok(unheard)
    }

    /// Changes the mirror; true where nftables was not listened to meanwhile.
    fn change(&mut self, desired: &Desired, changes: Changes, is_news: bool) -> Result<bool, RouterError> {
        // Their marks are installed: a failure puts them back.
        let changes = changes.with_installed_marks(&self.in_force.mark_rules());
        let unheard = changes.members() > MANY_MEMBERS;
        if changes.steps.iter().any(|step| matches!(step, Step::SetMarks { .. })) {
            // Whether another has changed nftables meanwhile cannot be told from this.
            self.suspend();
        }
        // The rules are no longer those of the decisions, for both who watch these.
        if let Some(shadow) = &self.shadow {
            shadow.suspend();
        }
        if let Some(watch) = &self.watch {
            watch.expect_change();
        }
        self.monitor().hear_nftables(!unheard)?;
        let applied = mirror::apply(&mut self.kernel, &changes, &mut news::progress(&self.ending));
        self.monitor().hear_nftables(true)?;
        news::applied(&applied.map_err(|error| error.told_of(desired))?, is_news);
        Ok(unheard)
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
    pub(super) fn drop_fast_path(&mut self) {
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
    fn activate(&mut self, mode: Mode) -> Result<(), RouterError> {
        let policy = Arc::clone(&self.in_force);
        let input = Input {
            fallback: self.shadow.as_mut().map(|shadow| shadow.fallen(&self.host.rules)).unwrap_or_default(),
            ..self.judgement.input(&policy.router, policy.mark_rules())
        };
        let generation = match compile::compile(&self.host, &input, &mut self.slots) {
            Ok(generation) => generation,
            Err(error) => return self.give_up(mode, error.to_string()),
        };
        self.keep();
        if mode == Mode::Ebpf && self.updates == 0 {
            self.demand_fast_path()?;
        }
        let Some(fast) = &mut self.fast else { return Ok(()) };
        if fast.fits(&generation) {
            self.counters.assign(&generation.counters, &fast.rule_counters());
        } else {
            // Larger maps are other maps, and so another program. The old one passes everything meanwhile.
            let larger = FastPath::load(Capacity::of(&generation))?;
            fast.suspend()?;
            self.active = false;
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
        // Without a lease nothing is decided yet by what is written here: it may be out of date when it is complete. Whether it is, is
        // known once the sentry has told what it heard.
        fast.renew_lease(Duration::ZERO)?;
        if let Some(shadow) = &mut self.shadow {
            shadow.begin(fast, &self.host, &policy, &generation.counters)?;
        }
        fast.apply(&generation)?;
        let Generation { neighbours, counters, .. } = generation;
        self.generation = Generation { neighbours, counters, ..Generation::default() };
        let watch = self.watch.take().map_or_else(Watch::start, Ok)?;
        self.watch.insert(watch).expect(&self.host);
        self.updates += 1;
        self.active = true;
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
