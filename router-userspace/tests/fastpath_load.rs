//! Does the kernel take the program?
use wayfork::compile::Generation;
use wayfork::fastpath::{Capacity, FastPath};

#[test]
fn loads() {
    let mut fast = FastPath::load(Capacity::of(&Generation::default())).expect("load");
    eprintln!("verified: {:?}", fast.verified_instructions().expect("info"));
}
