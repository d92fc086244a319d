//! What asks the running router about its decisions: `explain`, answered by the live maps, and the shadow mode.

use super::control::Response;
use super::engine::Engine;
use super::shadow::{Finding, Shadow};
use crate::kernel::{ForeignPrograms, Kernel, Netlink, survey};
use crate::model::Link;
use crate::policy::{Mode, Policy};
use crate::proof::{Decider, DeciderError, Fast, FastSide, Live, Packet, Question, explain};
use crate::safety::Judgement;
use tokio::sync::mpsc::UnboundedReceiver;

impl Engine {
    /// Decides one packet with the live maps. What is left to do, to ask the kernel and to follow every rule, may take seconds
    /// where there are many: it is given back, to be done on a thread of the same namespace, and never holds up the loop.
    pub fn explain(&mut self, question: &Question) -> Result<Explaining, Response> {
        let failed = |exit, message: String| Response::Failed { exit, message };
        let (packet, _) = question.packet(&self.host).map_err(|error| failed(2, error.to_string()))?;
        let link = packet.iif.and_then(|iif| self.host.links.get(&iif));
        let (programs, decided) = match (&mut self.fast, link) {
            (Some(fast), Some(link)) => {
                let programs = fast.foreign(self.host.links.keys().copied());
                let mut live = Live { fast, counters: &self.generation.counters };
                let decision = live.decide(&packet, link).map_err(|error| failed(3, error.to_string()))?;
                (programs, Ok(decision))
            }
            // A packet made here has no fast path's side, and no reason is looked at.
            (Some(_), None) => (ForeignPrograms::default(), Err(String::new())),
            (None, _) => {
                let why = self.why_off.clone().unwrap_or_else(|| "mode netlink: no program is loaded".into());
                (ForeignPrograms::default(), Err(why))
            }
        };
        let (question, policy, judgement) = (question.clone(), self.in_force.clone(), self.judgement.clone());
        Ok(Box::new(move || finish(&question, &policy, &judgement, programs, decided)))
    }

    /// What the shadow mode finds, where it is on: to be handed to [`Engine::found`].
    pub fn findings(&mut self) -> Option<UnboundedReceiver<Finding>> {
        self.shadow.as_mut().and_then(Shadow::findings)
    }

    /// A rule has decided otherwise than the kernel. In mode `auto` it does so no more.
    pub fn found(&mut self, finding: Finding) {
        if self.mode(&self.policy) == Mode::Auto
            && let Some(shadow) = &mut self.shadow
            && shadow.fall_back(finding, &self.host.rules)
        {
            self.resync();
        }
    }
}

/// The rest of an explanation: blocks while the kernel is read.
pub(super) type Explaining = Box<dyn FnOnce() -> Response + Send>;

fn finish(
    question: &Question,
    policy: &Policy,
    judgement: &Judgement,
    programs: ForeignPrograms,
    decided: Result<Fast, String>,
) -> Response {
    let failed = |exit, error: &dyn std::fmt::Display| Response::Failed { exit, message: error.to_string() };
    let read = || {
        let mut kernel = Netlink::open()?;
        let host = kernel.host()?;
        Ok::<_, crate::kernel::Error>((kernel, host))
    };
    let (mut kernel, host) = match read() {
        Ok(read) => read,
        Err(error) => return failed(3, &error),
    };
    let mut decided = decided.map(Decided);
    let side = match &mut decided {
        Ok(decided) => FastSide::Program(decided),
        Err(why) => FastSide::None(why.clone()),
    };
    match explain(question, &host, &survey(programs), Some(policy), &mut kernel, side) {
        Ok(mut explanation) => {
            explanation.note_guard(judgement, &host);
            serde_json::to_value(explanation).map_or_else(|error| failed(3, &error), Response::Done)
        }
        Err(error @ crate::proof::ExplainError::Question(_)) => failed(2, &error),
        Err(error) => failed(3, &error),
    }
}

/// What the live maps said, before the rest was asked.
struct Decided(Fast);

impl Decider for Decided {
    fn decide(&mut self, _: &Packet, _: &Link) -> Result<Fast, DeciderError> {
        Ok(self.0.clone())
    }
}
