//! A BPF program on a netfilter hook is seen. A test program of its own: while it runs, every survey on the machine sees it too.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use wayfork::fastpath::netfilter_programs;
use wayfork::kernel::Netns;

/// bpf(2) with the first words of its attribute union.
fn bpf(command: i64, attributes: &[u32; 32]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the attributes, which live until it returns, and gives a descriptor that is nobody's yet.
    unsafe {
        match libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd as i32)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Attaches a program that accepts everything to `ip forward` of the calling thread's namespace.
fn attach() -> io::Result<OwnedFd> {
    const NETFILTER: u32 = 32; // BPF_PROG_TYPE_NETFILTER
    const ATTACH: u32 = 45; // BPF_NETFILTER
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x95]; // r0 = 1; exit
    let license = c"GPL";
    let halves = |address: usize| [address as u32, (address >> 32) as u32];
    let mut load = [0; 32];
    load[..2].copy_from_slice(&[NETFILTER, 2]);
    load[2..4].copy_from_slice(&halves(program.as_ptr().addr()));
    load[4..6].copy_from_slice(&halves(license.as_ptr().addr()));
    load[17] = ATTACH; // expected_attach_type, after log, kern_version, prog_flags, prog_name and prog_ifindex
    let program = bpf(5, &load)?;
    let mut link = [0; 32];
    // prog_fd, target_fd, attach_type, flags; then pf (NFPROTO_IPV4), hooknum (forward), priority, flags.
    let fd = program.as_raw_fd();
    link[..7].copy_from_slice(&[fd as u32, 0, ATTACH, 0, 2, 2, 10]);
    bpf(28, &link)
}

#[test]
fn a_netfilter_program_is_found() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: needs root");
        return;
    }
    let namespace = Netns::new().expect("a namespace");
    let before = netfilter_programs();
    let link = match namespace.run(attach).expect("enter it") {
        Ok(link) => link,
        Err(error) => {
            eprintln!(
                "left out: this kernel takes no netfilter programs ({error}); 6.4 with CONFIG_NETFILTER_BPF_LINK does"
            );
            assert_eq!(before, [""; 0]);
            return;
        }
    };
    let during = netfilter_programs();
    assert_eq!(during.len(), before.len() + 1, "{during:?}");
    assert!(during.iter().any(|name| name.starts_with("BPF program ")), "{during:?}");
    drop(link);
}
