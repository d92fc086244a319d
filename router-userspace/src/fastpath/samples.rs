//! Samples of what the attached program decides, by a ring buffer: see [`Sample`].

use super::{Error, FastPath, Result};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use router_common::layout::Sample;
use std::os::fd::{AsFd, BorrowedFd};

/// The reader's end. It may live on another thread, and outlive the [`FastPath`] that it came from.
pub struct Samples {
    ring: RingBuf<MapData>,
    dropped: PerCpuArray<MapData, u64>,
}

/// Readable while there is a sample.
impl AsFd for Samples {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Samples {
    /// The next sample that waits; None while there is none. Never blocks.
    pub fn next_waiting(&mut self) -> Option<Sample> {
        loop {
            let item = self.ring.next()?;
            // The program writes nothing else; a record of another size is skipped.
            if let Ok(sample) = bytemuck::try_pod_read_unaligned(&item) {
                return Some(sample);
            }
        }
    }

    /// How many samples the program dropped because nobody had read the others.
    pub fn dropped(&self) -> Result<u64> {
        let values = self.dropped.get(&0, 0).map_err(|error| Error::from_map("read the map SAMPLES_DROPPED", error))?;
        Ok(values.iter().sum())
    }
}

impl FastPath {
    /// The reader's end of the samples; None where it has been handed out before.
    pub fn take_samples(&mut self) -> Result<Option<Samples>> {
        let (Some(ring), Some(dropped)) = (self.ebpf.take_map("SAMPLES"), self.ebpf.take_map("SAMPLES_DROPPED")) else {
            return Ok(None);
        };
        let failed = |error| Error::from_any("open the ring buffer of samples", error);
        Ok(Some(Samples {
            ring: RingBuf::try_from(ring).map_err(failed)?,
            dropped: PerCpuArray::try_from(dropped).map_err(failed)?,
        }))
    }

    /// From the next [`FastPath::apply`] on, of the packets that the program decides itself, tells of those whose random
    /// number is at most `threshold` (0 tells of none), as decided by state number `generation` of the maps.
    pub fn sample(&mut self, threshold: u32, generation: u32) {
        self.tables.sample(threshold, generation);
    }
}
