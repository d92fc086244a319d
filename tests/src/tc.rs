//! A TC program of somebody else: two instructions, attached by TCX.

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
const BPF_TCX_INGRESS: u32 = 46;

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
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u64,
    expected_revision: u64,
}

/// A program that answers every packet with one verdict, last on the ingress of an interface for as long as this lives.
/// None where the kernel has no TCX (before 6.6).
pub fn attach(lab: &Lab, host: &str, dev: &str, verdict: i32) -> Result<Option<OwnedFd>> {
    let link = lab.netns(host)?.run(|| -> io::Result<OwnedFd> {
        let index = nix::net::if_::if_nametoindex(dev)?;
        let program = load(verdict)?;
        let link = Link {
            prog_fd: program.as_raw_fd() as u32,
            target_ifindex: index,
            attach_type: BPF_TCX_INGRESS,
            flags: 0,
            relative_fd: 0,
            expected_revision: 0,
        };
        bpf::open(BPF_LINK_CREATE, &link)
    })?;
    match link {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        link => Ok(Some(link.with_context(|| format!("attach a program to {dev} of {host}"))?)),
    }
}

fn load(verdict: i32) -> io::Result<OwnedFd> {
    // r0 = verdict; exit
    let mut instructions = [0u8; 16];
    instructions[0] = 0xb7;
    instructions[4..8].copy_from_slice(&verdict.to_ne_bytes());
    instructions[8] = 0x95;
    let mut prog_name = [0u8; 16];
    prog_name[..7].copy_from_slice(b"foreign");
    let attr = Load {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
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
