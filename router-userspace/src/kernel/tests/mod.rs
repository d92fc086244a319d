//! Against the running kernel, inside anonymous network namespaces; iproute2 is the second opinion where it is installed.
#![allow(clippy::unwrap_used)]

mod links;
mod monitor;
mod netns;
mod route_get;
mod routes;
mod rules;
mod survey;

use super::{Admin, Netlink, Netns, admin::NewLink};
use std::io::Write;
use std::process::{Command, Stdio};

/// A namespace to test in; None, said loudly, where this process may not make one.
pub(super) fn namespace() -> Option<Netns> {
    if nix::unistd::geteuid().is_root() {
        return Some(Netns::new().expect("an anonymous network namespace"));
    }
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // Past the test harness's capture: a test that did not run must not look like one that did.
    let line = format!("\nSKIPPED {test}: needs root to make network namespaces\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// Two devices, `a0` (10.0.0.1/24, fd00::1/64) and `a1` (10.0.1.1/24), up, with their peers `b0` and `b1`.
fn two_links(namespace: &Netns) {
    namespace
        .run(|| {
            let mut admin = Admin::open().unwrap();
            for (a, b) in [("a0", "b0"), ("a1", "b1")] {
                admin.veth(NewLink::named(a), NewLink::named(b)).unwrap();
                admin.up(a).unwrap();
                admin.up(b).unwrap();
            }
            admin.add_address("a0", "10.0.0.1/24".parse().unwrap()).unwrap();
            admin.add_address("a0", "fd00::1/64".parse().unwrap()).unwrap();
            admin.add_address("a1", "10.0.1.1/24".parse().unwrap()).unwrap();
        })
        .unwrap();
}

fn netlink(namespace: &Netns) -> Netlink {
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
