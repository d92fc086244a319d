//! What the privileged tests share: a small network of anonymous namespaces, frames made by hand, a firewall that appears.
//!
//! The tests themselves are in `situations/`, one file per situation. Each builds its own network, so they run side by side.

mod bed;
mod bpf;
pub mod frames;
pub mod maps;
pub mod nft;
pub mod rig;
pub mod tc;
pub mod twins;

pub use bed::{Bed, FAR, POLICY, Snapshot, Way, eventually};
