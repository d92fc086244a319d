//! What not every kernel has, with real packets and the real binary. A test asks first, and says loudly where it leaves
//! itself out; where the kernel should have the feature, it fails.

mod hooks;
mod keys;
mod tools;
mod tunnels;
mod upper;
mod vrf;

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

/// Goes on where a request to make something works; leaves the test out where the kernel lacks it.
macro_rules! made {
    ($bed:expr, $what:expr, $host:expr, $command:expr) => {
        if !crate::tools::made(&$bed, $host, $command)? {
            return Ok(wayfork::lab::needs::left_out($what, wayfork::lab::needs::Since::Configured(6, 1))?);
        }
    };
}

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
pub(crate) use {bed, made, twins};
