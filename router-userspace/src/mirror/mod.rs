//! The mirror: the policy's rules, routes and marks as the kernel holds them, and the way there and back.
//!
//! [`desired`] says what the kernel is to hold, [`diff`] the steps from what it holds now, [`apply`] takes them and undoes them
//! where one fails, [`remove_all`] takes everything back. What is Wayfork's own is told by [`crate::model::OWN_PROTOCOL`] on
//! rules and routes and by the name of the nftables table; nothing else is ever changed, and there is no other memory: after a
//! crash the next [`diff`] starts from what is there.

mod apply;
mod arrange;
mod cover;
mod desired;
mod diff;
mod group;
mod handover;
mod jumps;
mod labels;
mod plan;
mod resolve;
mod routes;
mod rules;
mod skips;
mod spread;
#[cfg(test)]
mod tests;
mod text;
mod twins;

pub use apply::{Applied, ApplyError, Progress, RemoveError, Undo, apply, remove_all};
pub use desired::{Conflict, Conflicts, Desired, MarkClasses, Origin, Wanted, after, desired};
pub use diff::{Changes, Step, diff, mark_digest};
pub use plan::{Item, Kind, Op, Told, against, items};
pub use resolve::{Reason, Waiting};
pub use text::Words;
