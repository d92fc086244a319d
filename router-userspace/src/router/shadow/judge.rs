//! One sample held against the kernel.

use super::Situation;
use crate::compile::words;
use crate::kernel::{self, Event, Kernel, Monitor};
use crate::model::Link;
use crate::policy::Bypass;
use crate::proof::reference::Reference;
use crate::proof::{
    Decider, DeciderError, Explanation, Fast, FastSide, Measure, Packet, agree, ask, explain_packet, same_routing,
};
use router_common::layout::Sample;
use router_common::packet::{FLOW_CLASS_SHIFT, FLOW_LABEL};
use router_common::verdict::{Action, Verdict};
use std::collections::BTreeSet;

/// What came out.
#[derive(Debug)]
pub(super) enum Judged {
    /// The kernel decides alike. `asked`: it could be asked itself, not only the reference.
    Agrees {
        /// See above.
        asked: bool,
    },
    /// Something has changed since the packet was decided: the two cannot be compared.
    Outdated,
    /// The two differ.
    Differs {
        /// As with `Agrees`.
        asked: bool,
        /// The rule that decided.
        rule_id: Option<String>,
        /// Every rule tried. None where the rule is known to decide wrongly.
        explanation: Option<Box<Explanation>>,
    },
}

/// Tells whether anything that routing looks at has been announced since it was made.
pub(super) type Watch = Box<dyn FnMut() -> kernel::Result<bool>>;

/// Listens to the kernel.
pub(super) fn watch() -> kernel::Result<Watch> {
    let mut monitor = Monitor::open()?;
    Ok(Box::new(move || {
        let events = monitor.next_events()?;
        // Neighbours decide no verdict.
        Ok(events.iter().any(|event| !matches!(event, Event::Neighbour(_) | Event::NeighbourGone(..))))
    }))
}

/// Judges the samples of one situation.
pub(super) struct Judge<'a> {
    /// What decided.
    pub situation: &'a Situation,
    /// The same, with the reference.
    pub measure: &'a Measure<'a>,
    /// Rules whose decisions are known to be wrong in this situation: a difference of theirs is believed at once.
    pub known: BTreeSet<String>,
}

/// What one look said.
struct Look {
    asked: bool,
    agrees: bool,
    /// What differs beside the verdict.
    note: Option<String>,
}

impl Judge<'_> {
    /// Holds one sample against `kernel`. `in_force` says whether the situation is still the one that decides; `watch`
    /// begins to listen for changes.
    ///
    /// An answer that differs is not believed at once: the kernel may have changed a moment ago, and the loop not know it yet.
    /// It is asked once more, and then everything is read and compared with the situation, while all changes are listened to.
    pub fn judge(
        &mut self,
        sample: &Sample,
        kernel: &mut dyn Kernel,
        in_force: &dyn Fn() -> bool,
        watch: &dyn Fn() -> kernel::Result<Watch>,
    ) -> kernel::Result<Judged> {
        if sample.generation != self.situation.generation {
            return Ok(Judged::Outdated);
        }
        let Some((packet, fast)) = self.read(sample) else { return Ok(Judged::Outdated) };
        let Look { asked, agrees, .. } = self.look(kernel, &packet, &fast)?;
        if !in_force() {
            return Ok(Judged::Outdated);
        }
        if agrees {
            return Ok(Judged::Agrees { asked });
        }
        let rule_id = fast.rule_id.clone();
        if rule_id.as_ref().is_some_and(|id| self.known.contains(id)) {
            return Ok(Judged::Differs { asked, rule_id, explanation: None });
        }
        let mut changed = watch()?;
        let Look { asked, agrees, note } = self.look(kernel, &packet, &fast)?;
        if agrees {
            return Ok(Judged::Outdated);
        }
        let side = FastSide::Program(&mut Recorded(&fast));
        let explanation = explain_packet(&packet, self.measure, Some(&self.situation.policy), kernel, side);
        let mut explanation = explanation.map_err(|error| match error {
            crate::proof::ExplainError::Kernel(error) => error,
            other => kernel::Error::new("explain a sample", std::io::Error::other(other.to_string())),
        })?;
        explanation.agree = false;
        explanation.notes.extend(note);
        if !same_routing(&kernel.host()?, &self.situation.host) || changed()? || !in_force() {
            return Ok(Judged::Outdated);
        }
        self.known.extend(rule_id.clone());
        Ok(Judged::Differs { asked, rule_id, explanation: Some(Box::new(explanation)) })
    }

    /// The sample in the proof's words. None for one that makes no sense, which only a broken program writes.
    fn read(&self, sample: &Sample) -> Option<(Packet, Fast)> {
        let fast = Fast::new(&sample.decision, &self.situation.counters).ok()?;
        let family = u8::try_from(sample.family).ok()?;
        let packet = Packet {
            iif: Some(sample.iif),
            from: Some(words::to_addr(family, sample.src)?),
            to: words::to_addr(family, sample.dst)?,
            mark: sample.mark,
            ipproto: sample.ipproto,
            sport: sample.sport,
            dport: sample.dport,
            dscp: (sample.flow >> FLOW_CLASS_SHIFT) as u8 >> 2,
            flowlabel: sample.flow & FLOW_LABEL,
            fragment: sample.fragment != 0,
            shape: Default::default(),
        };
        Some((packet, fast))
    }

    fn look(&self, kernel: &mut dyn Kernel, packet: &Packet, fast: &Fast) -> kernel::Result<Look> {
        let host = self.measure.host;
        let (mark, reference) = self.measure.reference(packet);
        let answer = ask(kernel, host, packet, mark)?;
        let mut look = Look { asked: answer.is_some(), agrees: false, note: None };
        let right = |answer| agree(fast, answer, &reference) || self.bypasses_source(fast, answer, &reference);
        if !right(answer.as_ref()) {
            return Ok(look);
        }
        match fast.action {
            Action::Redirect if fast.mark != mark => {
                look.note = Some(format!("the packet left with the mark {:#x} instead of {mark:#x}", fast.mark));
                return Ok(look);
            }
            Action::Mark => {
                // What the stack does with the mark that it got.
                let marked = ask(kernel, host, packet, fast.mark)?;
                if marked.as_ref().is_some_and(|marked| !right(Some(marked))) {
                    look.note = Some(format!("with the mark {:#x} the packet goes another way", fast.mark));
                    return Ok(look);
                }
            }
            _ => {}
        }
        look.agrees = true;
        Ok(look)
    }

    /// Whether the kernel refuses the packet by rp_filter alone, which the file tells a redirect to skip.
    fn bypasses_source(&self, fast: &Fast, answer: Option<&kernel::RouteAnswer>, reference: &Reference) -> bool {
        fast.action == Action::Redirect
            && self.situation.policy.router.bypass.contains(&Bypass::RpFilter)
            && answer.is_some_and(|answer| answer.verdict == Verdict::Martian)
            && reference.refuses_source()
    }
}

/// The decision that was made, for the explanation.
struct Recorded<'a>(&'a Fast);

impl Decider for Recorded<'_> {
    fn decide(&mut self, _: &Packet, _: &Link) -> Result<Fast, DeciderError> {
        Ok(self.0.clone())
    }
}
