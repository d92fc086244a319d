//! What the tests share.

/// Whether the tests can run at all; says on standard error what is left out where not.
pub fn privileged() -> bool {
    let missing = if wayfork::fastpath::EBPF_OBJECT.is_empty() {
        "the eBPF object is not built (`cargo xtask build --ebpf-only`)"
    } else if !nix::unistd::geteuid().is_root() {
        "not root"
    } else {
        return true;
    };
    eprintln!("LEFT OUT: a test of the fast path in the kernel: {missing}");
    false
}
