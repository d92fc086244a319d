//! Wayfork: an eBPF-accelerated policy router for Linux.
//!
//! The way of a rule: [`policy`] (file) → [`model`] (one ordered list) → [`mirror`] → kernel, and `model` → [`compile`] →
//! [`fastpath`] (maps). ARCHITECTURE.md has the invariants.

pub mod bench;
pub mod cli;
pub mod compile;
pub mod fastpath;
pub mod import;
pub mod kernel;
pub mod lab;
pub mod mirror;
pub mod model;
pub mod policy;
pub mod proof;
pub mod router;
pub mod safety;
pub mod scratch;
