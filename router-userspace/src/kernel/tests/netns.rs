//! Namespaces: what is inside stays inside and goes with them.

use super::{namespace, netlink};
use crate::kernel::admin::{NewLink, read_setting, write_setting};
use crate::kernel::{Admin, Kernel, Netns};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_namespace_vanishes_with_its_last_holder() {
    let Some(namespace) = namespace() else { return };
    let here = Netns::current().unwrap().id().unwrap();
    assert_ne!(namespace.id().unwrap(), here);
    assert_eq!(namespace.run(|| Netns::current().unwrap().id().unwrap()).unwrap(), namespace.id().unwrap());
    assert_eq!(Netns::current().unwrap().id().unwrap(), here, "this thread has not moved");
    let outer = Netns::new().unwrap();
    namespace
        .run(|| Admin::open().unwrap().veth(NewLink::named("in"), NewLink::named("out").inside(outer.fd())).unwrap())
        .unwrap();
    let mut kernel = netlink(&outer);
    let there = |kernel: &mut super::Netlink| kernel.links().unwrap().values().any(|link| link.name == "out");
    assert!(there(&mut kernel));
    drop(namespace);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while there(&mut kernel) {
        assert!(std::time::Instant::now() < deadline, "the other end outlived its namespace");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_missing_name_says_so() {
    let error = Netns::named("there-is-no-such-namespace").unwrap_err();
    assert!(error.to_string().contains("ip netns list"), "{error}");
    for name in ["", "..", "a/b"] {
        assert_eq!(Netns::named(name).unwrap_err().errno(), libc::EINVAL);
    }
}

#[test]
fn a_named_one_is_found_where_iproute2_puts_it() {
    let Some(namespace) = namespace() else { return };
    let wanted = namespace.id().unwrap();
    let work = || {
        // A /run of this thread's own: the host's names are neither seen nor touched.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::create_dir("/run/netns").unwrap();
        std::fs::write("/run/netns/blue", "").unwrap();
        let bind = MsFlags::MS_BIND;
        mount(Some("/proc/thread-self/ns/net"), "/run/netns/blue", None::<&str>, bind, None::<&str>).unwrap();
        std::fs::write("/run/netns/no-mount", "").unwrap();
        let error = crate::kernel::netns::enter_named("no-mount").unwrap_err();
        assert!(error.to_string().starts_with("enter network namespace \"no-mount\""), "{error}");
        Netns::new().unwrap().enter().unwrap();
        assert_ne!(Netns::current().unwrap().id().unwrap(), wanted);
        crate::kernel::netns::enter_named("blue").unwrap();
        Netns::current().unwrap().id().unwrap()
    };
    assert_eq!(namespace.run(work).unwrap(), wanted);
}

#[test]
fn a_child_runs_inside_and_dies_with_the_thread_that_started_it() {
    let Some(namespace) = namespace() else { return };
    let start = || {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        let child = namespace.spawn(command).unwrap();
        let inside = std::fs::metadata(format!("/proc/{}/ns/net", child.id())).unwrap();
        assert_eq!((inside.dev(), inside.ino()), namespace.id().unwrap());
        child
    };
    let mut child = std::thread::scope(|scope| scope.spawn(start).join()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
            return;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the child outlived the thread that started it");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_panic_inside_comes_out() {
    let Some(namespace) = namespace() else { return };
    let panic = std::panic::catch_unwind(|| namespace.run(|| panic!("from inside"))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"from inside"));
    assert_eq!(namespace.run(|| 7).unwrap(), 7, "and it can still be used");
}

#[test]
fn a_device_with_a_dot_in_its_name_has_settings_too() {
    let Some(namespace) = namespace() else { return };
    let work = || {
        Admin::open().unwrap().veth(NewLink::named("eth0.1"), NewLink::named("peer")).unwrap();
        write_setting("net.ipv4.conf.eth0/1.rp_filter", "2").unwrap();
        assert_eq!(read_setting("net.ipv4.conf.eth0/1.rp_filter").unwrap().as_deref(), Some("2"));
        assert_eq!(read_setting("net.ipv4.conf.eth0.1.rp_filter").unwrap(), None);
    };
    namespace.run(work).unwrap();
    let link = netlink(&namespace).links().unwrap().into_values().find(|link| link.name == "eth0.1").unwrap();
    assert_eq!(link.v4.rp_filter, 2);
}
