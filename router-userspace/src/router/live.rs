//! `explain` through the running router: the live maps answer.

use super::control::Response;
use super::engine::Engine;
use crate::kernel::{ForeignPrograms, survey};
use crate::proof::{FastSide, Live, Question, explain};

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
}
