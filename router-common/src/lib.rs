//! What the TC program and its loader share: the layout of the maps, the words for what happened to a packet, and the
//! decision itself, over a trait of tables, so that it runs in the kernel and under host tests alike.
//!
//! `no_std`, no allocation, no knowledge of aya's loader. The reference walk of the rules lives in the userspace crate and
//! shares nothing with [`classify`].
#![cfg_attr(not(test), no_std)]

pub mod bench;
pub mod classify;
pub mod flow;
pub mod interval;
pub mod layout;
pub mod packet;
pub mod parse;
pub mod steps;
pub mod verdict;
