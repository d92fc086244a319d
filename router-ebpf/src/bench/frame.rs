//! Words of a frame, network byte order on the wire and host byte order here.
//!
//! Frames are linear, and words are read and written where they stand, aligned or not: the benchmark runs on machines that do
//! not care.

use router_common::bench::ETHERNET;
use router_common::packet::{ETHERTYPE_IPV4, IPV4_TTL_OFFSET, IPV6_HOP_LIMIT_OFFSET, forwarded_ttl_word};

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

    /// What forwarding changes: TTL or hop limit, IPv4's checksum, hardware addresses. The ethertype is that of one or the other.
    #[inline(always)]
    pub fn forward<T: Copy>(self, ethertype: u16, macs: T) {
        if ethertype == ETHERTYPE_IPV4 {
            let at = ETHERNET + IPV4_TTL_OFFSET as usize;
            self.write(at, forwarded_ttl_word(u32::from_be(self.read(at))).to_be());
        } else {
            let at = ETHERNET + IPV6_HOP_LIMIT_OFFSET as usize;
            self.write(at, u32::from_be(self.read(at)).wrapping_sub(1).to_be());
        }
        self.write(0, macs);
    }
}
