//! The proof that the fast path decides as the kernel does: a reference of the kernel's decision, one packet explained, many
//! packets compared.

mod compare;
#[cfg(test)]
mod compare_test;
#[cfg(test)]
mod compiled;
mod counterexample;
mod decide;
#[cfg(test)]
mod decide_test;
#[cfg(test)]
mod decided;
#[cfg(test)]
mod differential;
mod explain;
pub mod generate;
#[cfg(test)]
mod kernel_test;
pub mod packet;
mod pcap;
mod program;
mod question;
mod reduce;
pub mod reference;
mod route_get;
#[cfg(test)]
mod semantics;
mod shrink;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod trial;

pub use compare::{CompareError, Report, Subject, compare, generated, ingress, same_routing};
pub use counterexample::{Counterexample, Side};
pub use decide::{Decider, DeciderError, Fast, Measure, Refresh, agree, ask, askable};
pub use explain::{
    BetweenView, ExplainError, Explanation, FastSide, FastView, KernelView, PacketView, RuleView, SourceView, StepView,
    explain, explain_packet,
};
pub use packet::Packet;
pub use pcap::{Capture, CaptureError};
pub use program::{Live, Program, ProgramError};
pub use question::{BadQuestion, Question};
pub use route_get::RouteGet;
pub use text::{route_command, route_text, rule_command};
pub use trial::{NoProgram, Trial, TrialError, here, in_scratch, shrink_in_copy};
