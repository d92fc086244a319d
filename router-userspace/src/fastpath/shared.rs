//! Array maps whose memory this process shares with the program (BPF_F_MMAPABLE): a million entries are written in the time that
//! copying them takes, without a system call for each.

use super::{Error, Result};
use aya::maps::{Array, Map, MapData};
use router_common::layout::Count;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// The entries of one array map, mapped.
pub(super) struct Shared<T> {
    start: NonNull<u8>,
    bytes: usize,
    entries: usize,
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
        Ok(Shared { start, bytes, entries, _map: map, values: PhantomData })
    }

    /// Writes the first entries. The program must not look at them meanwhile; those behind stay, and nothing refers to them.
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        if values.len() > self.entries {
            return Err(Error::Full);
        }
        for (index, value) in values.iter().enumerate() {
            // SAFETY: within the mapping, which is aligned to a page, and entries are aligned to eight bytes. Nobody else in this
            // process has a reference to them.
            unsafe { self.start.add(index * Self::STRIDE).cast::<T>().write(*value) };
        }
        Ok(())
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
