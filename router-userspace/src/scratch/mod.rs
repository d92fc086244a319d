//! A scratch namespace: anonymous, made like a host, for trying a policy file without touching the host.
//!
//! Links have the host's names, indexes and hardware addresses but lead nowhere: Ethernet devices become one end of a veth
//! pair whose other end lies in a second namespace, devices without a link-layer header become TUN devices. All of it
//! vanishes with the [`Scratch`]. What cannot be copied is reported, not hidden.

mod links;
mod routing;
#[cfg(test)]
mod tests;

pub use routing::write_rules;

use crate::kernel::{Kernel, Netlink, Netns, Result};
use crate::model::Host;
use std::os::fd::OwnedFd;

/// A copy of a host.
pub struct Scratch {
    netns: Netns,
    /// The far ends of the veth pairs.
    _far: Netns,
    /// A TUN device has a carrier while its descriptor is open.
    _tuns: Vec<OwnedFd>,
    original: Host,
    notes: Vec<String>,
}

impl Scratch {
    /// Makes a copy of `host`. An error where not even the namespaces could be made.
    pub fn like(host: &Host) -> Result<Self> {
        let (netns, far) = (Netns::new()?, Netns::new()?);
        let copied = netns.run(|| {
            let mut notes = Notes::default();
            let tuns = links::copy(host, &far, &mut notes)?;
            let mut kernel = Netlink::open()?;
            links::wait_for_carriers(host, &mut kernel, &mut notes)?;
            routing::copy(host, &mut kernel, &mut notes)?;
            Ok((tuns, notes.0))
        })?;
        let (tuns, notes) = copied?;
        Ok(Scratch { netns, _far: far, _tuns: tuns, original: host.clone(), notes })
    }

    /// What could not be copied, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run(work)
    }

    /// What the copy holds now. The kinds of links, and which link takes whose frames, are the original's: the copies have
    /// neither, and a decision looks at both.
    pub fn host(&self, kernel: &mut dyn Kernel) -> Result<Host> {
        let mut host = kernel.host()?;
        for (index, link) in &mut host.links {
            if let Some(original) = self.original.links.get(index) {
                (link.kind, link.master, link.lower) = (original.kind.clone(), original.master, original.lower);
                link.arphrd = original.arphrd;
            }
        }
        Ok(host)
    }
}

/// What could not be copied.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, note: impl Into<String>) {
        self.0.push(note.into());
    }

    /// Keeps the reason of a step that failed, and goes on.
    fn attempt<T>(&mut self, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(format!("not copied: {error}"));
                None
            }
        }
    }
}
