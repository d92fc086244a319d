//! A BPF program on a netfilter hook is seen. A test program of its own: while it runs, every survey on the machine sees it too.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Attaches a program that accepts everything to `ip forward` of the calling thread's namespace. Each needs a priority of its own.
fn attach(priority: u32) -> io::Result<OwnedFd> {
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
    link[..7].copy_from_slice(&[fd as u32, 0, ATTACH, 0, 2, 2, priority]);
    bpf(28, &link)
}

#[test]
fn a_netfilter_program_is_found_also_among_links_that_come_and_go() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: needs root");
        return;
    }
    let namespace = Netns::new().expect("a namespace");
    let before = netfilter_programs();
    let link = match namespace.run(|| attach(10)).expect("enter it") {
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
    let new: Vec<&String> = during.iter().filter(|name| !before.contains(name)).collect();
    assert!(matches!(*new, [name] if name.starts_with("BPF program ")), "{during:?}");
    found_among_links_that_come_and_go(&namespace, new[0]);
    drop(link);
}

/// Links that are just being made have no id yet, and are looked at as well (`bpf_link_by_id`: EAGAIN). None of them keeps a look from
/// telling what is there.
fn found_among_links_that_come_and_go(namespace: &Netns, there: &String) {
    /// How many of them come and go at a time: a thread each.
    const MAKERS: u32 = 16;
    let over = AtomicBool::new(false);
    let come_and_go = |priority| {
        while !over.load(Ordering::Relaxed) {
            match attach(priority) {
                // Whoever looks at the one before holds it for a moment.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                made => drop(made.expect("another link")),
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..MAKERS {
            let come_and_go = &come_and_go;
            scope.spawn(move || namespace.run(|| come_and_go(20 + number)).expect("enter it"));
        }
        let looks: Vec<Vec<String>> = (0..5000).map(|_| netfilter_programs()).collect();
        over.store(true, Ordering::Relaxed);
        for programs in looks {
            assert!(programs.iter().all(|name| name.starts_with("BPF program ")), "{programs:?}");
            assert!(programs.contains(there), "{there} is not in {programs:?}");
        }
    });
}
