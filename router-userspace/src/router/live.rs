//! What asks the running router about its decisions: `explain`, answered by the live maps, and the shadow mode.

use super::control::Response;
use super::engine::Engine;
use super::shadow::{Finding, Shadow};
use crate::kernel::{ForeignPrograms, survey};
use crate::policy::Mode;
use crate::proof::{FastSide, Live, Question, explain};
use tokio::sync::mpsc::UnboundedReceiver;

impl Engine {
    /// Decides one packet with the live maps and the kernel as it is.
    pub fn explain(&mut self, question: &Question) -> Response {
        let host = match crate::kernel::Kernel::host(&mut self.kernel) {
            Ok(host) => host,
            Err(error) => return Response::Failed { exit: 3, message: error.to_string() },
        };
        let mut live;
        let (facts, side) = match &mut self.fast {
            Some(fast) => {
                let facts = survey(fast.foreign(host.links.keys().copied()));
                live = Live { fast, counters: &self.generation.counters };
                (facts, FastSide::Program(&mut live))
            }
            None => {
                let why = self.why_off.clone().unwrap_or_else(|| "mode netlink: no program is loaded".into());
                (survey(ForeignPrograms::default()), FastSide::None(why))
            }
        };
        match explain(question, &host, &facts, Some(&self.policy), &mut self.kernel, side) {
            Ok(mut explanation) => {
                explanation.note_guard(&self.judgement, &host);
                match serde_json::to_value(explanation) {
                    Ok(document) => Response::Done(document),
                    Err(error) => Response::Failed { exit: 3, message: error.to_string() },
                }
            }
            Err(error @ crate::proof::ExplainError::Question(_)) => {
                Response::Failed { exit: 2, message: error.to_string() }
            }
            Err(error) => Response::Failed { exit: 3, message: error.to_string() },
        }
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
