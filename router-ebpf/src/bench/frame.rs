//! Words of a frame, network byte order on the wire and host byte order here.
//!
//! Frames are linear, and words are read and written where they stand, aligned or not: the benchmark runs on machines that do
//! not care.

use router_common::bench::ETHERNET;

/// The bytes of a frame.
#[derive(Clone, Copy)]
pub struct Bytes {
    start: usize,
    end: usize,
}

impl Bytes {
    /// From `data` and `data_end` of a context.
    #[inline(always)]
    pub fn new(start: usize, end: usize) -> Self {
        Bytes { start, end }
    }

    /// The first `N` bytes; None where the frame is shorter.
    #[inline(always)]
    pub fn head<const N: usize>(self) -> Option<Head<N>> {
        if self.start + N > self.end { None } else { Some(Head { start: self.start }) }
    }
}

/// `N` bytes that are there.
#[derive(Clone, Copy)]
pub struct Head<const N: usize> {
    start: usize,
}

impl<const N: usize> Head<N> {
    /// The value at `offset`, as it lies in memory.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= N);
        // SAFETY: within the bytes that were checked.
        unsafe { *((self.start + offset) as *const T) }
    }

    /// Writes at `offset`, as it lies in memory.
    #[inline(always)]
    pub fn write<T: Copy>(self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= N);
        // SAFETY: within the bytes that were checked.
        unsafe { *((self.start + offset) as *mut T) = value }
    }

    /// Writes words of the packet behind the Ethernet header, from `offset` on.
    #[inline(always)]
    pub fn write_words<const M: usize>(self, offset: usize, words: [u32; M]) {
        self.write(ETHERNET + offset, words.map(u32::to_be));
    }
}
