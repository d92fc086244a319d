//! The maps, and the decision's tables over them. What the entries mean is written in `router_common::layout`.
//!
//! The sizes here are placeholders: the loader sets them from what it has to write.

use crate::ingress::State;
use crate::skb::Skb;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key};
use core::ffi::c_void;
use core::ptr;
use router_common::classify::{Lists, Tables, Walk, mark_step, rule_step};
use router_common::layout::*;
use router_common::packet::IPV4;

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub static LEASE: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static LINKS: HashMap<u32, LinkEntry> = HashMap::with_max_entries(1, 0);
#[map]
static RULES: Array<RuleEntry> = Array::with_max_entries(1, 0);
#[map]
static ROUTES4: LpmTrie<RouteKey4, RouteEntry> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static ROUTES6: LpmTrie<RouteKey6, RouteEntry> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static ADDRS4: LpmTrie<u32, AddrFlags> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static ADDRS6: LpmTrie<AddrWords, AddrFlags> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static NEIGHBOURS: HashMap<NeighbourKey, NeighbourEntry> = HashMap::with_max_entries(1, 0);
#[map]
static MARKS: Array<MarkEntry> = Array::with_max_entries(MAX_MARKS, 0);
#[map]
static MARKS_IN_USE: Array<u32> = Array::with_max_entries(MAX_MARKS_IN_USE, 0);
#[map]
pub static RULE_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static PASS_COUNTERS: PerCpuArray<PassCounter> = PerCpuArray::with_max_entries(64, 0);
/// Of the attached program, and of the probe.
#[map]
pub static STATES: PerCpuArray<State> = PerCpuArray::with_max_entries(2, 0);
#[map]
pub static DECISION: Array<Decision> = Array::with_max_entries(1, 0);

#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLES_BYTES, 0);
/// Samples for which `SAMPLES` had no room.
#[map]
pub static SAMPLES_DROPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The maps that the loops look at.
pub struct MapLists;

impl Lists for MapLists {
    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&RuleEntry> {
        RULES.get(index)
    }

    #[inline(always)]
    fn route(&self, family: u32, table: u32, addr: &AddrWords) -> Option<&RouteEntry> {
        if family == IPV4 {
            let key = RouteKey4 { table: table.to_be_bytes(), addr: addr[0].to_ne_bytes() };
            ROUTES4.get(Key::new(64, key))
        } else {
            let key = RouteKey6 { table: table.to_be_bytes(), addr: bytes(addr) };
            ROUTES6.get(Key::new(160, key))
        }
    }

    #[inline(always)]
    fn seconds(&self) -> u32 {
        // SAFETY: a plain clock.
        (unsafe { bpf_ktime_get_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn mark_entry(&self, index: u32) -> Option<&MarkEntry> {
        MARKS.get(index)
    }
}

/// All the maps, for one packet.
pub struct Maps<'a> {
    pub skb: &'a Skb,
}

impl Tables for Maps<'_> {
    #[inline(always)]
    fn addr_flags(&self, family: u32, addr: &AddrWords) -> AddrFlags {
        let flags = if family == IPV4 { ADDRS4.get(Key::new(32, addr[0])) } else { ADDRS6.get(Key::new(128, *addr)) };
        flags.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> Option<&LinkEntry> {
        link(ifindex)
    }

    #[inline(always)]
    fn neighbour(&self, key: &NeighbourKey) -> Option<&NeighbourEntry> {
        // SAFETY: the memory is always an entry. The kernel may give a replaced one to another neighbour while it is read
        // here: then one packet goes to that one's address, as if it had come a moment later by another route.
        unsafe { NEIGHBOURS.get(key) }
    }

    #[inline(always)]
    fn mark_in_use(&self, index: u32) -> Option<&u32> {
        MARKS_IN_USE.get(index)
    }

    #[inline(always)]
    fn segments_fit(&self, oif: u32, mtu: u32) -> bool {
        self.skb.segments_fit(oif, mtu)
    }

    #[inline(always)]
    fn rewrite_mark(&self, walk: &mut Walk, times: u32) {
        repeat(times, mark_callback, walk);
    }

    #[inline(always)]
    fn walk_rules(&self, walk: &mut Walk, times: u32) {
        repeat(times, rule_callback, walk);
    }
}

/// What is known of an interface.
#[inline(always)]
pub fn link(ifindex: u32) -> Option<&'static LinkEntry> {
    // SAFETY: links change only while the program is suspended.
    unsafe { LINKS.get(ifindex) }
}

/// `bpf_loop` (5.17): the verifier looks at the callback, not at the number of rounds. It hands on pointers into the stack
/// only, so the callback gets a pointer to the pointer.
#[inline(always)]
fn repeat(times: u32, callback: unsafe extern "C" fn(u64, *mut *mut Walk) -> i64, walk: &mut Walk) {
    let mut walk = ptr::from_mut(walk);
    // SAFETY: the callback has the signature that bpf_loop calls, and takes what it is given here.
    unsafe { bpf_loop(times, callback as *mut c_void, (&raw mut walk).cast(), 0) };
}

unsafe extern "C" fn rule_callback(_round: u64, walk: *mut *mut Walk) -> i64 {
    // SAFETY: `repeat` passes a pointer to a Walk.
    i64::from(!rule_step(&MapLists, unsafe { &mut **walk }))
}

unsafe extern "C" fn mark_callback(_round: u64, walk: *mut *mut Walk) -> i64 {
    // SAFETY: `repeat` passes a pointer to a Walk.
    i64::from(!mark_step(&MapLists, unsafe { &mut **walk }))
}

#[inline(always)]
fn bytes(addr: &AddrWords) -> [u8; 16] {
    // SAFETY: four words are sixteen bytes.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(*addr) }
}
