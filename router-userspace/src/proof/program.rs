//! The TC program, loaded for questions: never attached, so that no packet and no counter ever sees it.

use super::decide::{Decider, DeciderError, Fast, Refresh};
use super::packet::Packet;
use crate::compile::{CounterSlots, Generation, compile};
use crate::fastpath::{self, Capacity, Context, FastPath};
use crate::kernel::survey;
use crate::model::{Host, Link, MarkRule};
use crate::policy::Policy;
use crate::safety::{Facts, Judgement, Wanted, judge};
use std::time::Duration;

/// Nobody renews the lease of a program that serves no traffic.
const LEASE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A program of our own for one question or many.
pub struct Program {
    fast: FastPath,
    slots: CounterSlots,
    generation: Generation,
    policy: Policy,
    facts: Option<Facts>,
    judgement: Judgement,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be loaded or written.
    #[error(transparent)]
    FastPath(#[from] fastpath::Error),
    /// The rules do not fit it.
    #[error(transparent)]
    TooLarge(#[from] crate::compile::TooLarge),
}

impl Program {
    /// Loads the program for what the host has now, as `run` would with `policy`: the guard of this host decides how far it
    /// goes on each interface. Acts on the network namespace of the calling thread, which must stay the same. `facts` are what
    /// the guard judges by where that is not this namespace's own state.
    pub fn load(host: &Host, policy: &Policy, facts: Option<Facts>) -> Result<Self, ProgramError> {
        let mut program = Program {
            fast: FastPath::load(Capacity::of(&Generation::default()))?,
            slots: CounterSlots::default(),
            generation: Generation::default(),
            policy: policy.clone(),
            facts,
            judgement: Judgement::default(),
        };
        program.write(host, policy.mark_rules())?;
        Ok(program)
    }

    /// What the guard allows on each interface.
    pub fn judgement(&self) -> &Judgement {
        &self.judgement
    }

    /// The mean time of a decision about this Ethernet frame.
    pub fn time(&mut self, frame: &[u8], context: Context, repeat: u32) -> Result<Duration, fastpath::Error> {
        self.fast.probe_repeated(frame, context, repeat).map(|(_, time)| time)
    }

    fn write(&mut self, host: &Host, marks: Vec<MarkRule>) -> Result<(), ProgramError> {
        let fresh;
        let facts = match &self.facts {
            Some(facts) => facts,
            None => {
                fresh = survey_with(&mut self.fast, host);
                &fresh
            }
        };
        self.judgement = judge(host, facts, &Wanted { settings: &self.policy.router, marks: &marks });
        let input = self.judgement.input(&self.policy.router, marks);
        self.generation = compile(host, &input, &mut self.slots)?;
        if !self.fast.fits(&self.generation) {
            self.fast = FastPath::load(Capacity::of(&self.generation))?;
        }
        self.fast.apply(&self.generation)?;
        self.fast.renew_lease(LEASE)?;
        Ok(())
    }
}

/// What in the calling thread's namespace could act on a packet besides routing.
pub fn facts_here(host: &Host) -> Result<Facts, ProgramError> {
    let mut fast = FastPath::load(Capacity::of(&Generation::default()))?;
    Ok(survey_with(&mut fast, host))
}

fn survey_with(fast: &mut FastPath, host: &Host) -> Facts {
    survey(fast.foreign(host.links.keys().copied()))
}

impl Decider for Program {
    fn decide(&mut self, packet: &Packet, link: &Link) -> Result<Fast, DeciderError> {
        Live { fast: &mut self.fast, counters: &self.generation.counters }.decide(packet, link)
    }
}

impl Refresh for Program {
    fn refresh(&mut self, host: &Host, marks: &[MarkRule]) -> Result<(), DeciderError> {
        self.write(host, marks.to_vec()).map_err(|error| DeciderError(error.to_string()))
    }
}

/// Which packet of a flow is spared the walk, the first two being the same: as such the program is asked about every second packet, by
/// its parity, so that both ways to a decision are compared.
const LATER: u32 = 3;

/// A program that serves traffic, asked with its live maps.
pub struct Live<'a> {
    /// The running fast path.
    pub fast: &'a mut FastPath,
    /// The rule behind each counter: [`Generation::counters`] of the generation in force.
    pub counters: &'a [Option<String>],
}

impl Decider for Live<'_> {
    fn decide(&mut self, packet: &Packet, link: &Link) -> Result<Fast, DeciderError> {
        let context = Context { ifindex: link.index, mark: packet.mark, ..Context::default() };
        let frame = packet.frame(link);
        let later = frame.iter().fold(0, |parity, byte| parity ^ byte).count_ones() % 2 == 1;
        let (decision, _) = self
            .fast
            .probe_repeated(&frame, context, if later { LATER } else { 1 })
            .map_err(|error| DeciderError(error.to_string()))?;
        Fast::new(&decision, self.counters)
    }
}
