//! Array maps whose memory this process shares with the program (BPF_F_MMAPABLE): a million entries are written in the time that
//! copying them takes, without a system call for each.

use super::{Error, Result};
use aya::maps::{Array, Map, MapData};
use router_common::layout::Count;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// The entries of one array map, mapped.
pub(super) struct Shared<T> {
    start: NonNull<u8>,
    bytes: usize,
    entries: usize,
    /// Where the entries are others than those that [`Shared::compare`] was given.
    differing: Vec<Range<usize>>,
    _map: MapData,
    values: PhantomData<T>,
}

// SAFETY: the mapping belongs to the value alone, and is not bound to a thread.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: aya::Pod> Shared<T> {
    /// How far apart entries lie: `elem_size` in `array_map_alloc()`, kernel/bpf/arraymap.c.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps the whole of an array map whose values are of this type.
    pub fn new(map: Map, name: &'static str) -> Result<Self> {
        let typed = Array::<_, T>::try_from(&map);
        let entries = typed.map_err(|error| Error::from_any(format!("open the map {name}"), error))?.len() as usize;
        let Map::Array(map) = map else { return Err(Error::Object(name)) };
        let bytes = entries * Self::STRIDE;
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::from_os(format!("map the memory of {name}"), std::io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).ok_or(Error::Object(name))?;
        Ok(Shared { start, bytes, entries, differing: Vec::new(), _map: map, values: PhantomData })
    }

    /// Looks where the first entries are others than `values`, for [`Shared::write`]; true where they are the same. The program
    /// may look at them meanwhile: nothing is written.
    pub fn compare(&mut self, values: &[T]) -> Result<bool>
    where
        T: PartialEq,
    {
        if values.len() > self.entries {
            return Err(Error::Full);
        }
        self.differing.clear();
        for (index, value) in values.iter().enumerate() {
            // SAFETY: within the mapping and aligned as in `write`; whatever bytes there are make a value of the type. Nobody but
            // this process writes entries of these maps.
            if unsafe { self.entry(index).read() } == *value {
                continue;
            }
            match self.differing.last_mut().filter(|range| range.end == index) {
                Some(range) => range.end += 1,
                None => self.differing.push(index..index + 1),
            }
        }
        Ok(self.differing.is_empty())
    }

    /// Writes those of `values` that differ: what the last [`Shared::compare`] was given. The program must not look at the entries
    /// meanwhile; those behind stay, and nothing refers to them.
    pub fn write(&mut self, values: &[T]) {
        for range in std::mem::take(&mut self.differing) {
            for (index, value) in range.clone().zip(values.get(range).unwrap_or_default()) {
                // SAFETY: within the mapping, as `compare` has seen. Nobody else in this process has a reference to it.
                unsafe { self.entry(index).write(*value) };
            }
        }
    }

    /// The place of an entry, which there is; the mapping is aligned to a page, and entries to eight bytes.
    unsafe fn entry(&self, index: usize) -> NonNull<T> {
        // SAFETY: the caller's word.
        unsafe { self.start.add(index * Self::STRIDE).cast() }
    }
}

impl Shared<Count> {
    /// One entry as it is now, while the program counts in it.
    pub fn read(&self, index: u32) -> Count {
        if index as usize >= self.entries {
            return Count::default();
        }
        // SAFETY: within the mapping and aligned; each number is read whole.
        unsafe { self.start.add(index as usize * Self::STRIDE).cast::<Count>().as_ptr().read_volatile() }
    }
}

impl Shared<u64> {
    /// Writes one entry in one piece, whether or not the program looks at it. Nothing where there is no such entry.
    pub fn store(&mut self, index: u32, value: u64) {
        if (index as usize) < self.entries {
            // SAFETY: within the mapping and aligned; the kernel's side is not Rust's.
            let entry = unsafe { self.start.add(index as usize * Self::STRIDE).cast::<AtomicU64>().as_ref() };
            entry.store(value, Ordering::Relaxed);
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no reference into it outlives the value. It cannot fail on such a range.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
