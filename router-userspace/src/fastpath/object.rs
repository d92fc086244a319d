//! The eBPF objects that this binary carries.

/// The object that `cargo xtask build` compiled from the `router-ebpf` crate, aligned as an ELF reader needs it.
///
/// Empty where this crate was built by plain `cargo build` in a checkout that has no object yet: whoever loads it has
/// to say that to people, with `cargo xtask build` as the remedy.
pub const EBPF_OBJECT: &[u8] = aya::include_bytes_aligned!(env!("WAYFORK_EBPF_OBJECT"));

/// The object with the programs of the benchmark, of the same crate.
pub(super) const BENCH_OBJECT: &[u8] = aya::include_bytes_aligned!(env!("WAYFORK_BENCH_OBJECT"));
