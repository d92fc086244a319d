//! Real packets through anonymous network namespaces, with the real binary. One file per situation.

mod bench;
mod chains;
mod doubts;
mod exceptions;
mod firewall;
mod foreign;
mod frames;
mod interfaces;
mod lab;
mod lease;
mod memory;
mod modes;
mod neighbour;
mod no_file;
mod other_tc;
mod own;
mod privilege;
mod random;
mod reload;
mod run;
mod segments;
mod semantics;
mod sets;
mod shadow;
mod the_bed;
mod tun;

/// The binary under test, built with these tests.
const EXE: &str = env!("CARGO_BIN_EXE_wayfork-under-test");

/// The bed for a test, which returns at once where there is no privilege.
macro_rules! bed {
    () => {
        match wayfork_tests::Bed::new(crate::EXE)? {
            Some(bed) => bed,
            None => return Ok(()),
        }
    };
}
pub(crate) use bed;

/// The twins for a test, which returns at once where there is no privilege; with the names of the interfaces whose cables' far
/// ends are apart.
macro_rules! twins {
    ($($apart:literal),*) => {
        match wayfork_tests::twins::Twins::new(crate::EXE, &[$($apart),*])? {
            Some(twins) => twins,
            None => return Ok(()),
        }
    };
}
pub(crate) use twins;
