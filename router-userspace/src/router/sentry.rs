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
        let announced = held(&monitor).as_fd().try_clone_to_owned().map_err(RouterError::Start)?;
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

/// What the kernel tells, for one listener at a time. A thread that panicked left nothing half done.
pub(super) fn held(monitor: &Mutex<Monitor>) -> std::sync::MutexGuard<'_, Monitor> {
    monitor.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(monitor: &Mutex<Monitor>, announced: &OwnedFd, end: &EventFd, mut guarded: Option<Guarded>) -> Heard {
    let mut heard = Heard::default();
    loop {
        let wait = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut both = [wait(announced.as_fd()), wait(end.as_fd())];
        let waited = match poll(&mut both, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            waited => waited,
        };
        // Before the last look it is the sentry's, after it the loop's.
        let ending = waited.is_err() || both[1].any() == Some(true);
        let events = held(monitor).next_events().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            vec![Event::Overrun]
        });
        let stop = heard.note(events, guarded.as_ref().map(|guarded| &guarded.neighbours));
        if let Err(error) = waited {
            tracing::warn!("wait for the kernel's announcements: {error}");
            heard.again = true;
        }
        if (stop || waited.is_err())
            && let Some(Guarded { mut stop, .. }) = guarded.take()
        {
            stop();
        }
        if ending {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kernel::admin::{Admin, NewLink};
    use crate::kernel::{Kernel, Netlink, Netns};
    use crate::model::{Family, Rule};
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A namespace with the device `a`, a monitor that leaves out what `own` does, and a sentry that counts what it stops.
    struct Post {
        namespace: Netns,
        own: Netlink,
        other: Netlink,
        monitor: Arc<Mutex<Monitor>>,
        stops: Arc<AtomicU32>,
    }

    impl Post {
        /// None, said loudly, where no namespace can be made.
        fn new() -> Option<Self> {
            let namespace = match Netns::new() {
                Err(error) if error.errno() == nix::libc::EPERM => {
                    eprintln!("SKIPPED: not allowed to make network namespaces");
                    return None;
                }
                made => made.unwrap(),
            };
            let open = || {
                let mut admin = Admin::open().unwrap();
                admin.veth(NewLink::named("a"), NewLink::named("b")).unwrap();
                let (own, other) = (Netlink::open().unwrap(), Netlink::open().unwrap());
                let mut monitor = Monitor::open().unwrap();
                monitor.leave_out(own.port());
                (own, other, monitor)
            };
            let (own, other, monitor) = namespace.run(open).unwrap();
            let monitor = Arc::new(Mutex::new(monitor));
            Some(Post { namespace, own, other, monitor, stops: Arc::default() })
        }

        fn guard(&self, neighbours: BTreeMap<NeighbourKey, NeighbourEntry>) -> Sentry {
            held(&self.monitor).forget().unwrap();
            let stops = Arc::clone(&self.stops);
            let stop = Box::new(move || {
                stops.fetch_add(1, Ordering::Relaxed);
            });
            Sentry::post(Arc::clone(&self.monitor), Some(Guarded { stop, neighbours })).unwrap()
        }

        fn stopped(&self) -> u32 {
            self.stops.swap(0, Ordering::Relaxed)
        }

        fn set_neighbour(&self, addr: IpAddr, mac: [u8; 6]) {
            self.namespace.run(|| Admin::open().unwrap().set_neighbour("a", addr, mac).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_change_of_anybody_else_stops_the_fast_path_and_one_of_its_own_does_not() {
        let Some(mut post) = Post::new() else { return };
        let rule = Rule::lookup(Family::Ipv4, 100, 5);
        let sentry = post.guard(BTreeMap::new());
        post.own.add_rule(&rule).unwrap();
        assert!(!sentry.relieve().again);
        assert_eq!(post.stopped(), 0);
        let sentry = post.guard(BTreeMap::new());
        post.other.delete_rule(&rule).unwrap();
        post.other.add_rule(&rule).unwrap();
        assert!(sentry.relieve().again);
        assert_eq!(post.stopped(), 1, "once");
    }

    #[test]
    fn a_neighbour_that_is_news_stops_the_fast_path_and_is_handed_on() {
        let Some(post) = Post::new() else { return };
        let (addr, mac) = ("10.0.0.9".parse::<IpAddr>().unwrap(), [2, 0, 0, 0, 0, 9]);
        let index = post.namespace.run(|| Admin::open().unwrap().index("a").unwrap()).unwrap();
        let entry = NeighbourEntry { mac: bytemuck::cast(mac), usable: 1 };
        let known = BTreeMap::from([(neighbour_key(index, addr), entry)]);
        for (known, stops) in [(known, 0), (BTreeMap::new(), 1)] {
            let sentry = post.guard(known);
            post.set_neighbour(addr, mac);
            let heard = sentry.relieve();
            assert!(!heard.again, "neighbours are followed");
            assert_eq!(heard.neighbours.len(), 1, "{heard:?}");
            assert_eq!(post.stopped(), stops);
            post.namespace.run(|| Admin::open().unwrap().delete_neighbour("a", addr).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_is_told_before_the_relief_is_heard_without_anybody_to_stop() {
        let Some(mut post) = Post::new() else { return };
        let sentry = Sentry::post(Arc::clone(&post.monitor), None).unwrap();
        post.other.add_rule(&Rule::lookup(Family::Ipv4, 100, 5)).unwrap();
        assert!(sentry.relieve().again);
    }
}
