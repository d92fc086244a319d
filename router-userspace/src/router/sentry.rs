//! Hears what the kernel announces while the loop is busy with a pass, which may take seconds.
//!
//! During a pass that follows somebody else's change the fast path is suspended, and all that matters of what is announced meanwhile is
//! that it was. During one that makes a change of Wayfork's own the fast path goes on by what it has; then this thread stops it at the
//! first word of anything else, within the same time as the loop would.

use super::RouterError;
use crate::compile::{neighbour, neighbour_key};
use crate::kernel::{Event, Monitor};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use router_common::layout::{NeighbourEntry, NeighbourKey};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// So many changes of neighbours are kept for the loop; beyond them, all is read again.
const MOST_NEIGHBOURS: usize = 1 << 16;

/// The listening thread.
pub(super) struct Sentry {
    end: Arc<EventFd>,
    thread: Option<JoinHandle<Heard>>,
}

/// What was announced meanwhile.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// What became of neighbours, in order.
    pub neighbours: Vec<Event>,
    /// Something else has changed, or was lost: all is to be read again.
    pub again: bool,
}

/// What stops the fast path, and the neighbours that it goes on by.
pub(super) struct Guarded {
    pub stop: Box<dyn FnMut() + Send>,
    pub neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
}

impl Sentry {
    /// Listens in the loop's stead. With `guarded`, a fast path that goes on deciding is stopped where something is told.
    pub fn post(monitor: Arc<Mutex<Monitor>>, guarded: Option<Guarded>) -> Result<Self, RouterError> {
        let end = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|error| RouterError::Start(error.into()))?;
        let end = Arc::new(end);
        let ended = Arc::clone(&end);
        let announced = lock(&monitor).as_fd().try_clone_to_owned().map_err(RouterError::Start)?;
        let listen = move || listen(&monitor, &announced, &ended, guarded);
        let thread = std::thread::Builder::new().name("sentry".into()).spawn(listen).map_err(RouterError::Start)?;
        Ok(Sentry { end, thread: Some(thread) })
    }

    /// The loop listens again itself.
    pub fn relieve(mut self) -> Heard {
        self.ended()
    }

    fn ended(&mut self) -> Heard {
        let lost = || Heard { again: true, ..Heard::default() };
        let Some(thread) = self.thread.take() else { return Heard::default() };
        // It fails only where the number has no room for one more; then there is something to read all the same.
        if let Err(error) = self.end.write(1) {
            tracing::debug!("sentry: {error}");
        }
        thread.join().unwrap_or_else(|_| lost())
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.ended();
    }
}

fn lock(monitor: &Mutex<Monitor>) -> std::sync::MutexGuard<'_, Monitor> {
    monitor.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(monitor: &Mutex<Monitor>, announced: &OwnedFd, end: &EventFd, mut guarded: Option<Guarded>) -> Heard {
    let mut heard = Heard::default();
    loop {
        let wait = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut both = [wait(announced.as_fd()), wait(end.as_fd())];
        match poll(&mut both, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => {
                tracing::warn!("sentry: {error}");
                heard.again = true;
            }
        }
        let ending = both[1].any() != Some(false);
        let events = lock(monitor).next_events().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            vec![Event::Overrun]
        });
        if heard.note(events, guarded.as_ref().map(|guarded| &guarded.neighbours))
            && let Some(Guarded { mut stop, .. }) = guarded.take()
        {
            stop();
        }
        if ending || heard.again && both[0].any().is_none() {
            return heard;
        }
    }
}

impl Heard {
    /// Notes events; true where a fast path with these neighbours may not go on.
    fn note(&mut self, events: Vec<Event>, known: Option<&BTreeMap<NeighbourKey, NeighbourEntry>>) -> bool {
        let mut stop = false;
        for event in events {
            let (key, entry) = match &event {
                Event::Neighbour(changed) => {
                    (neighbour_key(changed.index, changed.addr), neighbour(changed).map(|(_, entry)| entry))
                }
                Event::NeighbourGone(index, addr) => (neighbour_key(*index, *addr), None),
                _ => {
                    (self.again, stop) = (true, true);
                    continue;
                }
            };
            // What is news to the maps is for the loop to write.
            stop |= known.is_some_and(|known| known.get(&key) != entry.as_ref());
            if self.neighbours.len() < MOST_NEIGHBOURS {
                self.neighbours.push(event);
            } else {
                (self.again, stop) = (true, true);
            }
        }
        stop
    }
}
