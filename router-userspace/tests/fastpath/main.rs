//! The fast path in the kernel: questions to the probe, and real packets. Each test in an anonymous network namespace of its
//! own; without root or without the eBPF object they say that they left out everything.
#![allow(clippy::unwrap_used)]

mod packets;
mod plan;
mod raw;
mod support;

mod load;
mod probe;
mod samples;
mod stream;
mod traffic;
