//! The maps, and the decision's tables over them. What the entries mean is written in `router_common::layout`.
//!
//! The sizes here are placeholders: the loader sets them from what it has to write.

use crate::ingress::State;
use crate::skb::Skb;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use core::ffi::c_void;
use core::ptr;
use router_common::classify::Tables;
use router_common::flow::{Recall, look};
use router_common::interval::{self, Line, Lines, Tree};
use router_common::layout::*;
use router_common::packet::IPV4;
use router_common::steps::{Lists, Walk, filter_step, mark_step, rule_step};

/// Written by the loader through a mapping of its memory.
const MMAPABLE: u32 = BPF_F_MMAPABLE;

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub static LEASE: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static LINKS: Array<LinkEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static LISTS: Array<ListEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static RULES: Array<RuleEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static STEPS: Array<StepEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ACTIONS: Array<ActionEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SELECTORS: Array<Selectors> = Array::with_max_entries(1, MMAPABLE);
#[map]
static CHAINS: Array<u32> = Array::with_max_entries(1, MMAPABLE);
#[map]
static TABLES: Array<TableEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ROUTES: Array<RouteEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static GATEWAYS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
/// The lines of all interval trees.
#[map]
static LINES: Array<Line> = Array::with_max_entries(1, MMAPABLE);
#[map]
static NEIGHBOURS: HashMap<NeighbourKey, NeighbourEntry> = HashMap::with_max_entries(1, 0);
#[map]
static MARKS: Array<MarkEntry> = Array::with_max_entries(MAX_MARKS, MMAPABLE);
#[map]
static MARKS_IN_USE: Array<u32> = Array::with_max_entries(MAX_MARKS_IN_USE, MMAPABLE);
/// A block of [`FLOWS_PER_CPU`] for the probe, and one for each CPU.
#[map]
static FLOWS: Array<Flow> = Array::with_max_entries(1, MMAPABLE);
#[map]
static FLOWS6: Array<Flow6> = Array::with_max_entries(1, MMAPABLE);
#[map]
static TAGS: Array<Tags> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static RULE_COUNTERS: Array<Count> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub static PASS_COUNTERS: PerCpuArray<Count> = PerCpuArray::with_max_entries(64, 0);
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

/// The maps that the steps of a walk look at.
pub struct MapLists;

impl Lines for MapLists {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        LINES.get(index)
    }
}

impl Lists for MapLists {
    #[inline(always)]
    fn list(&self, index: u32) -> Option<&ListEntry> {
        LISTS.get(index)
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&RuleEntry> {
        RULES.get(index)
    }

    #[inline(always)]
    fn step(&self, index: u32) -> Option<&StepEntry> {
        STEPS.get(index)
    }

    #[inline(always)]
    fn action(&self, index: u32) -> Option<&ActionEntry> {
        ACTIONS.get(index)
    }

    #[inline(always)]
    fn selectors(&self, index: u32) -> Option<&Selectors> {
        SELECTORS.get(index)
    }

    #[inline(always)]
    fn chain(&self, index: u32) -> Option<&u32> {
        CHAINS.get(index)
    }

    #[inline(always)]
    fn table(&self, index: u32) -> Option<&TableEntry> {
        TABLES.get(index)
    }

    #[inline(always)]
    fn route(&self, index: u32) -> Option<&RouteEntry> {
        ROUTES.get(index)
    }

    #[inline(always)]
    fn mark_entry(&self, index: u32) -> Option<&MarkEntry> {
        MARKS.get(index)
    }

    #[inline(always)]
    fn find32(&self, tree: Tree, key: u32) -> u32 {
        interval::find32(self, tree, key)
    }

    #[inline(always)]
    fn find128(&self, tree: Tree, key: &[u32; 4]) -> u32 {
        interval::find128(self, tree, key)
    }

    #[inline(always)]
    fn seconds(&self) -> u32 {
        // SAFETY: a plain clock.
        (unsafe { bpf_ktime_get_ns() } / 1_000_000_000) as u32
    }
}

/// All the maps, for one packet.
pub struct Maps<'a> {
    pub skb: &'a Skb,
    /// Number of this CPU's block of `FLOWS`, or the probe's.
    pub block: u32,
}

impl Maps<'_> {
    /// What was found for packets like this one is kept in an entry that these share with others.
    #[inline(always)]
    fn flow(&self, place: u32) -> Option<(*mut Flow, *mut Flow6)> {
        let index = self.block * FLOWS_PER_CPU + place;
        Some((FLOWS.get_ptr_mut(index)?, FLOWS6.get_ptr_mut(index)?))
    }
}

impl Tables for Maps<'_> {
    type Lists = MapLists;

    #[inline(always)]
    fn lists(&self) -> &MapLists {
        &MapLists
    }

    #[inline(always)]
    fn link(&self, index: u32) -> Option<&LinkEntry> {
        LINKS.get(index)
    }

    #[inline(always)]
    fn gateway(&self, index: u32) -> Option<NeighbourEntry> {
        let entry = GATEWAYS.get_ptr(index)?;
        // SAFETY: a word of an array map, which the loader writes whole: its address and whether it may be used belong together.
        let word = unsafe { entry.read_volatile() };
        let part = |shift: u32| (word >> shift) as u16;
        // As `bytemuck` would cast it, without a detour over memory.
        let [a, b, c, usable] =
            if cfg!(target_endian = "little") { [0, 16, 32, 48] } else { [48, 32, 16, 0] }.map(part);
        Some(NeighbourEntry { mac: [a, b, c], usable })
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
    fn recall(&self, epoch: u32, walk: &mut Walk) -> Recall {
        let (place, tag) = Flow::place(&walk.packet, walk.packet.mark);
        let Some(tags) = TAGS.get_ptr_mut(self.block) else { return Recall::Unknown };
        // SAFETY: an entry of this CPU's own, whose state is in use (`State::take`), as that of `flow` is.
        let recall = look(unsafe { &mut (&mut *tags).0[place as usize] }, tag);
        if recall != Recall::Found {
            return recall;
        }
        // SAFETY: see above.
        let found = self.flow(place).is_some_and(|(flow, rest)| unsafe { (*flow).recall(&*rest, epoch, walk) });
        if found { Recall::Found } else { Recall::Keep }
    }

    #[inline(always)]
    fn keep(&self, epoch: u32, mark: u32, walk: &Walk) {
        if let Some((flow, rest)) = self.flow(Flow::place(&walk.packet, mark).0) {
            // SAFETY: as for `recall`.
            unsafe { (*flow).keep(&mut *rest, epoch, mark, walk) };
        }
    }

    #[inline(always)]
    fn rewrite_mark(&self, walk: &mut Walk, times: u32) {
        if walk.packet.family == IPV4 {
            repeat(times, mark_callback::<true>, walk);
        } else {
            repeat(times, mark_callback::<false>, walk);
        }
    }

    #[inline(always)]
    fn look_up_filters(&self, walk: &mut Walk, times: u32) {
        if walk.packet.family == IPV4 {
            repeat(times, filter_callback::<true>, walk);
        } else {
            repeat(times, filter_callback::<false>, walk);
        }
    }

    #[inline(always)]
    fn walk_rules(&self, walk: &mut Walk, times: u32) {
        if walk.packet.family == IPV4 {
            repeat(times, rule_callback::<true>, walk);
        } else {
            repeat(times, rule_callback::<false>, walk);
        }
    }
}

/// `bpf_loop` (5.17): the verifier looks at the callback, not at the number of rounds. It hands on pointers into the stack
/// only, so the callback gets a pointer to the pointer.
#[inline(always)]
fn repeat(times: u32, callback: unsafe extern "C" fn(u64, *mut *mut Walk) -> i64, walk: &mut Walk) {
    let mut walk = ptr::from_mut(walk);
    // SAFETY: the callback has the signature that bpf_loop calls, and takes what it is given here.
    unsafe { bpf_loop(times, callback as *mut c_void, (&raw mut walk).cast(), 0) };
}

unsafe extern "C" fn rule_callback<const V4: bool>(_round: u64, walk: *mut *mut Walk) -> i64 {
    // SAFETY: `repeat` passes a pointer to a Walk.
    i64::from(!rule_step::<V4>(&MapLists, unsafe { &mut **walk }))
}

unsafe extern "C" fn filter_callback<const V4: bool>(_round: u64, walk: *mut *mut Walk) -> i64 {
    // SAFETY: `repeat` passes a pointer to a Walk.
    i64::from(!filter_step::<V4>(&MapLists, unsafe { &mut **walk }))
}

unsafe extern "C" fn mark_callback<const V4: bool>(_round: u64, walk: *mut *mut Walk) -> i64 {
    // SAFETY: `repeat` passes a pointer to a Walk.
    i64::from(!mark_step::<V4>(&MapLists, unsafe { &mut **walk }))
}
