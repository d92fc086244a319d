//! Does this kernel take the program?

use crate::support::privileged;
use wayfork::compile::Generation;
use wayfork::fastpath::{Capacity, FastPath};

#[test]
fn the_kernel_takes_the_program() {
    if !privileged() {
        return;
    }
    let mut fast = FastPath::load(Capacity::of(&Generation::default())).expect("load the fast path");
    let counts = fast.verified_instructions().expect("program information");
    eprintln!("instructions looked at by the verifier: {counts:?}");
    // The limit is a million; a jump towards it says that ways have begun to multiply.
    assert!(counts.iter().flatten().all(|&count| count < 100_000), "{counts:?}");
}
