//! The programs of the benchmark: what makes packets, what counts them, and the least that a TC program can do to forward them.
//! An object of its own, which `wayfork bench` alone loads, into namespaces that it made.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod fib;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod generate;
#[cfg(target_arch = "bpf")]
mod limit;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
mod sink;

#[cfg(target_arch = "bpf")]
mod bpf {
    use aya_ebpf::bindings::xdp_action::XDP_PASS;
    use aya_ebpf::macros::{classifier, xdp};
    use aya_ebpf::programs::{TcContext, XdpContext};

    /// Run by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES: writes the next packet and sends it.
    #[xdp]
    pub fn generate(ctx: XdpContext) -> u32 {
        crate::generate::run(&ctx)
    }

    /// At the far end: counts and drops.
    #[xdp]
    pub fn sink(ctx: XdpContext) -> u32 {
        crate::sink::run(&ctx)
    }

    /// On the router's ingress: a veth device takes XDP frames only where a program is attached (`veth_xdp_xmit`).
    #[xdp]
    pub fn pass(_ctx: XdpContext) -> u32 {
        XDP_PASS
    }

    /// Forwards as the kernel's own look-up says.
    #[xdp]
    pub fn fib(ctx: XdpContext) -> u32 {
        crate::fib::run(&ctx)
    }

    /// Forwards every packet to one next hop, without looking anything up.
    #[classifier]
    pub fn limit(ctx: TcContext) -> i32 {
        crate::limit::run(&ctx)
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
