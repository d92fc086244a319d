//! Look-ups alone: what a set of prefixes costs in one structure or another. Each program looks up a run of addresses and adds up
//! what it found, so that all of them can be held against each other.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, lpm_trie::Key};
use aya_ebpf::programs::TcContext;
use core::ffi::c_void;
use router_common::bench::lookups::{Found, Lookups, mask};
use router_common::interval::{Line, Lines, NOTHING, find32, find128};

#[map]
static LOOKUPS: Array<Lookups> = Array::with_max_entries(1, 0);
#[map]
static FOUND: Array<Found> = Array::with_max_entries(1, 0);
// The loader sets the sizes of what follows.
/// Can be mapped: the kernel lets other arrays begin in the middle of a cache line.
#[map]
static LINES: Array<Line> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Addresses in network byte order.
#[map]
static TRIE4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static TRIE6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
/// By length and prefix.
#[map]
static HASHES: HashMap<[u32; 2], u32> = HashMap::with_max_entries(1, 0);

struct MapLines;

impl Lines for MapLines {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        LINES.get(index)
    }
}

/// A program and its round: `$find` is the value of address `$number`.
macro_rules! lookups {
    ($($name:ident, $round:ident: |$lookups:ident, $number:ident| $find:expr;)*) => { $(
        #[classifier]
        pub fn $name(_ctx: TcContext) -> i32 {
            run($round)
        }

        unsafe extern "C" fn $round(_round: u64, found: *mut Found) -> i64 {
            let Some($lookups) = LOOKUPS.get(0) else { return 1 };
            // SAFETY: `run` passes a pointer to its own.
            let found = unsafe { &mut *found };
            let $number = found.next as u32;
            let value: u32 = $find;
            found.next += u64::from(1 + (value & $lookups.waits_for));
            found.sum = found.sum.wrapping_add(u64::from(value));
            0
        }
    )* };
}

lookups! {
    lookup_none4, none4: |lookups, number| lookups.address4(number);
    lookup_none6, none6: |lookups, number| lookups.address6(number).into_iter().fold(0, u32::wrapping_add);
    lookup_tree4, tree4: |lookups, number| find32(&MapLines, lookups.tree, lookups.address4(number));
    lookup_tree6, tree6: |lookups, number| find128(&MapLines, lookups.tree, &lookups.address6(number));
    lookup_trie4, trie4: |lookups, number| {
        TRIE4.get(Key::new(32, lookups.address4(number).to_be())).map_or(NOTHING, |value| *value)
    };
    lookup_trie6, trie6: |lookups, number| {
        TRIE6.get(Key::new(128, lookups.address6(number).map(u32::to_be))).map_or(NOTHING, |value| *value)
    };
    lookup_hashes4, hashes4: |lookups, number| hashes(lookups, lookups.address4(number));
}

/// One hash for each length that occurs, the longest first.
#[inline(always)]
fn hashes(lookups: &Lookups, address: u32) -> u32 {
    for length in lookups.occurring {
        // SAFETY: nothing is written while the program runs.
        if let Some(value) = unsafe { HASHES.get([length, address & mask(length)]) } {
            return *value;
        }
    }
    NOTHING
}

#[inline(always)]
fn run(round: unsafe extern "C" fn(u64, *mut Found) -> i64) -> i32 {
    let (Some(lookups), Some(place)) = (LOOKUPS.get(0), FOUND.get_ptr_mut(0)) else { return TC_ACT_UNSPEC };
    // SAFETY: an entry of the map, which one program at a time uses.
    let mut found = unsafe { *place };
    // SAFETY: the callback has the signature that bpf_loop calls, and takes what it is given here.
    unsafe { bpf_loop(lookups.count, round as *mut c_void, (&raw mut found).cast(), 0) };
    // SAFETY: as above.
    unsafe { *place = found };
    TC_ACT_UNSPEC
}
