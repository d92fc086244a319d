//! Programs of somebody else: two instructions, attached by TCX or as generic XDP.

use crate::bpf;
use anyhow::{Context, Result};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use wayfork::lab::topology::Lab;

/// TC_ACT_SHOT: drop.
pub const DROP: i32 = 2;
/// TCX_NEXT: on to the next program.
pub const NEXT: i32 = -1;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// Where a TC program is attached.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Side {
    /// BPF_TCX_INGRESS.
    Ingress = 46,
    /// BPF_TCX_EGRESS.
    Egress = 47,
}

const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_PROG_TYPE_FLOW_DISSECTOR: u32 = 22;
const BPF_FLOW_DISSECTOR: u32 = 17;
const XDP_FLAGS_SKB_MODE: u32 = 2;
/// XDP_DROP.
const XDP_DROP: i32 = 1;

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct Link {
    prog_fd: u32,
    /// Or the descriptor of a network namespace.
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u64,
    expected_revision: u64,
}

/// A program that answers every packet with one verdict, last on one side of an interface for as long as this lives.
/// None where the kernel has no TCX (before 6.6).
pub fn attach(lab: &Lab, host: &str, dev: &str, side: Side, verdict: i32) -> Result<Option<OwnedFd>> {
    match link(lab, host, dev, (BPF_PROG_TYPE_SCHED_CLS, verdict), side as u32, 0)? {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        link => Ok(Some(link.with_context(|| format!("attach a program to {dev} of {host}"))?)),
    }
}

/// A generic XDP program that drops all that comes in by an interface, for as long as this lives.
pub fn drop_by_generic_xdp(lab: &Lab, host: &str, dev: &str) -> Result<OwnedFd> {
    let link = link(lab, host, dev, (BPF_PROG_TYPE_XDP, XDP_DROP), BPF_XDP, XDP_FLAGS_SKB_MODE)?;
    link.with_context(|| format!("attach an XDP program to {dev} of {host}"))
}

/// A flow dissector that finds neither protocol nor ports in any packet of a host, for as long as this lives.
pub fn dissect_nothing(lab: &Lab, host: &str) -> Result<OwnedFd> {
    let netns = lab.netns(host)?;
    // BPF_OK: it is done, and has found nothing.
    let program = load(BPF_PROG_TYPE_FLOW_DISSECTOR, 0)?;
    let link = Link {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: netns.fd().as_raw_fd() as u32,
        attach_type: BPF_FLOW_DISSECTOR,
        flags: 0,
        relative_fd: 0,
        expected_revision: 0,
    };
    bpf::open(BPF_LINK_CREATE, &link).with_context(|| format!("attach a flow dissector to {host}"))
}

fn link(
    lab: &Lab,
    host: &str,
    dev: &str,
    (kind, verdict): (u32, i32),
    attach_type: u32,
    flags: u32,
) -> Result<io::Result<OwnedFd>> {
    Ok(lab.netns(host)?.run(|| -> io::Result<OwnedFd> {
        let target_ifindex = nix::net::if_::if_nametoindex(dev)?;
        let program = load(kind, verdict)?;
        let prog_fd = program.as_raw_fd() as u32;
        bpf::open(
            BPF_LINK_CREATE,
            &Link { prog_fd, target_ifindex, attach_type, flags, relative_fd: 0, expected_revision: 0 },
        )
    })?)
}

fn load(prog_type: u32, verdict: i32) -> io::Result<OwnedFd> {
    // r0 = verdict; exit
    let mut instructions = [0u8; 16];
    instructions[0] = 0xb7;
    instructions[4..8].copy_from_slice(&verdict.to_ne_bytes());
    instructions[8] = 0x95;
    let mut prog_name = [0u8; 16];
    prog_name[..7].copy_from_slice(b"foreign");
    let attr = Load {
        prog_type,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
    };
    bpf::open(BPF_PROG_LOAD, &attr)
}
