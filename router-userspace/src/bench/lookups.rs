//! What a look-up costs by itself: an address among many prefixes, in the trees of `router_common::interval`, in the kernel's own
//! map of prefixes, and in what else could have held them.

use super::measure::pin;
use super::report::LookupRow;
use super::{Error, Result, stats};
use crate::compile::interval::{self, Range, flatten};
use crate::fastpath::{LookupMaps, Structure};
use crate::model::Family;
use router_common::bench::MAX_PREFIXES;
use router_common::bench::lookups::{LENGTHS, LENGTHS4, LENGTHS6, Lookups};
use router_common::bench::mix;
use router_common::interval::{Line, Tree};
use std::thread;
use std::time::{Duration, Instant};

/// Look-ups of a run.
const RUN: u32 = 1 << 14;

/// One address again and again, or addresses that do not come again.
const ADDRESSES: [(&str, u32); 2] = [("one", 0), ("random", u32::MAX)];

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often each.
    pub rounds: u32,
    /// How long each time.
    pub slice: Duration,
    /// The CPU.
    pub cpu: usize,
}

/// Measures all structures with so many prefixes, by turns.
pub fn measure(family: Family, prefixes: u32, pace: Pace) -> Result<Vec<LookupRow>> {
    if prefixes == 0 || prefixes > MAX_PREFIXES {
        return Err(Error::invalid(format!("{prefixes} prefixes to look up in (1 to {MAX_PREFIXES})")));
    }
    let mut bed = Bed::fill(family, prefixes)?;
    let measure = || {
        pin(pace.cpu)?;
        let rows = ADDRESSES.map(|addresses| bed.measure(addresses, pace));
        rows.into_iter().try_fold(Vec::new(), |all, rows| Ok([all, rows?].concat()))
    };
    // A thread of its own: this one goes on as it was.
    thread::scope(|scope| scope.spawn(measure).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Filled maps.
struct Bed {
    maps: LookupMaps,
    family: Family,
    lookups: Lookups,
    /// How long it took to fill each structure.
    filled: Vec<(Structure, Duration)>,
    tree_lines: usize,
}

impl Bed {
    fn fill(family: Family, prefixes: u32) -> Result<Bed> {
        let lengths = if family == Family::Ipv4 { LENGTHS4 } else { LENGTHS6 };
        let lookups = Lookups {
            prefixes,
            mask: 0,
            count: RUN,
            waits_for: 0,
            pad: 0,
            tree: Tree::EMPTY,
            lengths,
            occurring: occurring(lengths),
        };
        let begun = Instant::now();
        let (tree, lines) = tree(family, &lookups).map_err(|error| Error::invalid(error.to_string()))?;
        let built = begun.elapsed();
        let mut maps = LookupMaps::load(family, prefixes, lines.len() as u32)?;
        let mut filled = Vec::new();
        let mut time = |structure, begun: Instant| filled.push((structure, begun.elapsed()));
        let begun = Instant::now();
        maps.set_lines(&lines)?;
        time(Structure::Tree, begun - built);
        let begun = Instant::now();
        match family {
            Family::Ipv4 => {
                let all = || (0..prefixes).map(|number| (number, lookups.prefix4(number)));
                maps.set_trie4(all().map(|(number, (address, length))| (address, length, number)))?;
                time(Structure::Trie, begun);
                let begun = Instant::now();
                maps.set_hashes4(all().map(|(number, (address, length))| (address, length, number)))?;
                time(Structure::Hashes, begun);
            }
            Family::Ipv6 => {
                let all = (0..prefixes).map(|number| (number, lookups.prefix6(number)));
                maps.set_trie6(all.map(|(number, (address, length))| (address, length, number)))?;
                time(Structure::Trie, begun);
            }
        }
        Ok(Bed { maps, family, lookups: Lookups { tree, ..lookups }, filled, tree_lines: lines.len() })
    }

    fn measure(&mut self, (addresses, mask): (&'static str, u32), pace: Pace) -> Result<Vec<LookupRow>> {
        self.lookups.mask = mask;
        let structures: Vec<Structure> = Structure::of(self.family).collect();
        self.check(&structures)?;
        let mut repeats = Vec::new();
        for structure in &structures {
            let (time, _) = self.maps.run(*structure, 1)?;
            repeats.push((pace.slice.as_nanos() / time.as_nanos().max(1)).clamp(1, 100_000) as u32);
        }
        let mut ns = vec![Vec::new(); structures.len()];
        for round in 0..pace.rounds as usize {
            for turn in 0..structures.len() {
                let place = (turn + round) % structures.len();
                self.maps.aim(&self.lookups, mix(round as u32 + 1))?;
                let (time, _) = self.maps.run(structures[place], repeats[place])?;
                ns[place].push(time.as_nanos() as f64 / f64::from(RUN));
            }
        }
        // The first structure is none.
        let net = |place: usize| -> Vec<f64> { ns[place].iter().zip(&ns[0]).map(|(ns, none)| ns - none).collect() };
        let trie = structures.iter().position(|structure| *structure == Structure::Trie).map(net);
        let row = |place: usize| {
            let structure = structures[place];
            let spread = stats::spread(&if place == 0 { ns[0].clone() } else { net(place) }).unwrap_or_default();
            let filled = self.filled.iter().find(|filled| filled.0 == structure);
            LookupRow {
                structure: structure.name(),
                family: self.family,
                prefixes: self.lookups.prefixes,
                addresses,
                ns: spread.median,
                spread,
                faster_than_trie: trie.as_ref().filter(|_| place > 0).and_then(|trie| stats::ratio(trie, &net(place))),
                fill_ms: filled.map(|(_, time)| time.as_secs_f64() * 1e3),
                bytes: (structure == Structure::Tree).then_some(self.tree_lines * size_of::<Line>()),
            }
        };
        Ok((0..structures.len()).map(row).collect())
    }

    /// All structures find the same.
    fn check(&mut self, structures: &[Structure]) -> Result<()> {
        let mut sums = Vec::new();
        for structure in structures.iter().filter(|structure| **structure != Structure::None) {
            self.maps.aim(&self.lookups, 0)?;
            sums.push((structure.name(), self.maps.run(*structure, 1)?.1));
        }
        match sums.windows(2).all(|pair| pair[0].1 == pair[1].1) {
            true => Ok(()),
            false => {
                Err(Error::invalid(format!("the look-ups of {} prefixes found different sums: {sums:?}", self.family)))
            }
        }
    }
}

fn tree(family: Family, lookups: &Lookups) -> std::result::Result<(Tree, Vec<Line>), interval::Error> {
    let mut lines = Vec::new();
    let tree = if family == Family::Ipv4 {
        let range = |number| {
            let (address, length) = lookups.prefix4(number);
            Range::prefix4(address.into(), length as u8, number)
        };
        interval::tree32(&mut lines, &flatten((0..lookups.prefixes).map(range).collect()))?
    } else {
        let range = |number| {
            let (words, length) = lookups.prefix6(number);
            let address = words.iter().fold(0, |bits: u128, word| bits << 32 | u128::from(*word));
            Range::prefix6(address.into(), length as u8, number)
        };
        interval::tree128(&mut lines, &flatten((0..lookups.prefixes).map(range).collect()))?
    };
    Ok((tree, lines))
}

/// The lengths that occur, the longest first.
fn occurring(lengths: [u8; 32]) -> [u32; LENGTHS] {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable();
    lengths.dedup();
    let mut occurring = [0; LENGTHS];
    occurring.iter_mut().zip(lengths.iter().rev()).for_each(|(place, length)| *place = (*length).into());
    occurring
}
