//! Does this kernel take the program, and does it end when it is told to?

use crate::packets::ipv4;
use crate::support::{Router, Told, in_a_namespace, privileged};
use router_common::verdict::PassReason;
use wayfork::compile::Generation;
use wayfork::fastpath::{Capacity, Context, Error, FastPath};

#[test]
fn the_kernel_takes_the_program() {
    if !privileged() {
        return;
    }
    let mut fast = FastPath::load(Capacity::of(&Generation::default())).expect("load the fast path");
    let verified = fast.verified().expect("program information");
    eprintln!("what the verifier found: {verified:?}");
    for found in verified {
        // The limit is a million; a jump towards it says that ways have begun to multiply.
        assert!(found.instructions.is_none_or(|count| count < 100_000), "{verified:?}");
        // The limit is 512 in all.
        assert!(found.stack.is_some_and(|bytes| (1..=512).contains(&bytes)), "{verified:?}");
    }
}

#[test]
fn without_privilege_it_says_what_is_needed() {
    if !privileged() {
        return;
    }
    // aya asks once per process what the kernel can do: that has to be asked with privilege, for the other tests.
    drop(FastPath::load(Capacity::of(&Generation::default())).expect("load the fast path"));
    let refusal = std::thread::spawn(|| {
        // Of this thread alone: the system call, not the library's function, which moves all threads.
        // SAFETY: a system call without pointers.
        let status = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(status, 0, "become nobody");
        FastPath::load(Capacity::of(&Generation::default())).map(|_| ())
    });
    match refusal.join().expect("the thread") {
        Err(error @ Error::Privilege { .. }) => assert!(error.to_string().contains("CAP_BPF"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_another_thread_has_stopped_goes_on_with_the_next_generation() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let ask = |router: &mut Router| -> Told {
            let context = Context { ifindex: router.lan, mark: 0, gso_size: 0 };
            router.fast.probe(&ipv4().bytes(), context).expect("an answer of the probe").into()
        };
        let mut stopper = router.fast.stopper().unwrap();
        for _ in 0..2 {
            assert_eq!(ask(&mut router), Told::Redirect(router.wan));
            std::thread::scope(|scope| scope.spawn(|| stopper.stop().unwrap()).join().unwrap());
            assert!(!router.fast.is_active());
            assert_eq!(ask(&mut router), Told::Pass(PassReason::Resync));
            // Nothing is other than it was, but that it does not decide.
            router.change(|_| ());
            assert_eq!(ask(&mut router), Told::Redirect(router.wan));
        }
    });
}
