//! Against the running kernel, inside anonymous network namespaces; iproute2 is the second opinion where it is installed.
#![allow(clippy::unwrap_used)]

mod links;
mod monitor;
mod netns;
mod route_get;
mod routes;
mod rules;
mod survey;
mod unannounced;

use super::admin::{self, NewLink};
use super::{Admin, Kernel, Monitor, Netlink, Netns};
use crate::model::RouteKind;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A namespace to test in; None, said loudly, where this process may not make one.
pub(super) fn namespace() -> Option<Netns> {
    match Netns::new() {
        Err(error) if error.errno() == libc::EPERM => {}
        made => return Some(made.expect("an anonymous network namespace")),
    }
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // Past the test harness's capture: a test that did not run must not look like one that did.
    let line = format!("\nSKIPPED {test}: not allowed to make network namespaces\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// Two devices, `a0` (10.0.0.1/24, fd00::1/64) and `a1` (10.0.1.1/24), up, with their peers `b0` and `b1`, ready for use.
fn two_links(namespace: &Netns) {
    let build = || {
        // Addresses are usable at once, and nothing changes a second later.
        admin::write_setting("net.ipv6.conf.default.accept_dad", "0").unwrap();
        admin::write_setting("net.ipv6.conf.default.dad_transmits", "0").unwrap();
        let mut admin = Admin::open().unwrap();
        for (a, b) in [("a0", "b0"), ("a1", "b1")] {
            admin.veth(NewLink::named(a), NewLink::named(b)).unwrap();
            admin.up(a).unwrap();
            admin.up(b).unwrap();
        }
        admin.add_address("a0", "10.0.0.1/24".parse().unwrap()).unwrap();
        admin.add_address("a0", "fd00::1/64".parse().unwrap()).unwrap();
        admin.add_address("a1", "10.0.1.1/24".parse().unwrap()).unwrap();
    };
    namespace.run(build).unwrap();
    settle(namespace);
}

/// Waits until the devices of [`two_links`] and the addresses added since are ready: the kernel does that from a work queue.
fn settle(namespace: &Netns) {
    let mut monitor = namespace.run(Monitor::open).unwrap().unwrap();
    let mut kernel = netlink(namespace);
    // Each device has a link-local address once it has a carrier, and each address is a route of the local table.
    let ready = |kernel: &mut Netlink| {
        let routes = kernel.routes().unwrap();
        let own: Vec<_> = kernel.addresses().unwrap().into_iter().filter(|one| one.addr.is_ipv6()).collect();
        let local = |addr| routes.iter().any(|one| one.kind == RouteKind::Local && one.dst.addr() == addr);
        own.len() >= 6 && own.iter().all(|one| local(one.addr))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready(&mut kernel) || !monitor.next_events().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "{:#?}", kernel.addresses());
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(super) fn netlink(namespace: &Netns) -> Netlink {
    namespace.run(Netlink::open).unwrap().unwrap()
}

/// What `ip ARGS` prints inside the namespace; None where iproute2 is not installed.
fn ip(namespace: &Netns, arguments: &str) -> Option<String> {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = match namespace.spawn(command) {
        Ok(child) => child,
        Err(error) if error.errno() == libc::ENOENT => {
            eprintln!("not compared with iproute2: it is not installed");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
