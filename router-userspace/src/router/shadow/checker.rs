//! The thread that reads the samples and asks the kernel, so that the loop never waits for an answer.

use super::judge::{Judge, Judged, watch};
use super::{Finding, Shared, Situation};
use crate::fastpath::Samples;
use crate::kernel::Netlink;
use crate::proof::{Explanation, Measure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use router_common::layout::Sample;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use tokio::sync::mpsc::UnboundedSender;

/// How many samples are read before the dropped ones are counted.
const BATCH: u32 = 256;

/// What the thread works with.
pub(super) struct Checker {
    pub shared: Arc<Shared>,
    /// A socket of its own, opened in the router's namespace.
    pub kernel: Netlink,
    /// Where a newly loaded program's samples come from.
    pub sources: mpsc::Receiver<Samples>,
    pub wake: Arc<EventFd>,
    pub findings: UnboundedSender<Finding>,
    /// An explanation as a person reads it.
    pub tell: fn(&Explanation) -> String,
}

/// The samples of the program in force.
#[derive(Default)]
struct Source {
    samples: Option<Samples>,
    /// Dropped by programs before it.
    dropped_before: u64,
}

impl Checker {
    /// Works until the router ends.
    pub fn run(mut self) {
        let mut source = Source::default();
        while !self.shared.ending.load(Relaxed) {
            let in_force = self.shared.in_force();
            match &in_force {
                None => self.follow(&mut source, None),
                Some(situation) => {
                    let measure = Measure::new(&situation.host, &situation.marks);
                    let judge = Judge { situation, measure: &measure, known: BTreeSet::new() };
                    self.follow(&mut source, Some((judge, situation)));
                }
            }
        }
    }

    /// Reads samples as long as the same situation is in force.
    fn follow(&mut self, source: &mut Source, mut judge: Option<(Judge<'_>, &Arc<Situation>)>) {
        let generation = judge.as_ref().map_or(0, |(_, situation)| situation.generation);
        let mut read = 0;
        while !self.shared.ending.load(Relaxed) && self.shared.generation() == generation {
            while let Ok(next) = self.sources.try_recv() {
                self.replace(source, next);
            }
            match source.samples.as_mut().and_then(Samples::next_waiting) {
                Some(sample) => {
                    self.check(&sample, judge.as_mut());
                    read += 1;
                    if read % BATCH == 0 {
                        self.count_dropped(source);
                    }
                }
                None => {
                    self.count_dropped(source);
                    self.sleep(source);
                }
            }
        }
    }

    fn check(&mut self, sample: &Sample, judge: Option<&mut (Judge<'_>, &Arc<Situation>)>) {
        let counts = &self.shared.counts;
        counts.received.fetch_add(1, Relaxed);
        let outdated = || counts.outdated.fetch_add(1, Relaxed);
        let Some((judge, situation)) = judge else {
            outdated();
            return;
        };
        let in_force = || self.shared.generation() == situation.generation;
        let asked = match judge.judge(sample, &mut self.kernel, &in_force, &watch) {
            Ok(Judged::Agrees { asked }) => {
                counts.agreed.fetch_add(1, Relaxed);
                asked
            }
            Ok(Judged::Outdated) => {
                outdated();
                return;
            }
            Ok(Judged::Differs { asked, rule_id, explanation }) => {
                counts.disagreed.fetch_add(1, Relaxed);
                if let Some(explanation) = explanation {
                    tracing::error!(
                        "shadow: the fast path has decided otherwise than the kernel.\n{}",
                        (self.tell)(&explanation)
                    );
                    let why = why(&explanation);
                    // Nobody listens any more where the router is ending.
                    drop(self.findings.send(Finding { rule_id, why, situation: Arc::clone(situation) }));
                }
                asked
            }
            // An interface that is gone, for one: the loop learns of it by itself.
            Err(error) => {
                tracing::debug!("shadow: {error}");
                outdated();
                return;
            }
        };
        if !asked {
            counts.unasked.fetch_add(1, Relaxed);
        }
    }

    /// Another program decides from now on: what the old one told is out of date.
    fn replace(&self, source: &mut Source, next: Samples) {
        if let Some(old) = &mut source.samples {
            while old.next_waiting().is_some() {
                self.shared.counts.received.fetch_add(1, Relaxed);
                self.shared.counts.outdated.fetch_add(1, Relaxed);
            }
        }
        self.count_dropped(source);
        source.dropped_before = self.shared.counts.dropped.load(Relaxed);
        source.samples = Some(next);
    }

    fn count_dropped(&self, source: &Source) {
        let Some(samples) = &source.samples else { return };
        match samples.dropped() {
            Ok(dropped) => self.shared.counts.dropped.store(source.dropped_before + dropped, Relaxed),
            Err(error) => tracing::debug!("shadow: {error}"),
        }
    }

    /// Until there is a sample, or something else to do.
    fn sleep(&self, source: &Source) {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(source.samples.as_ref().map(|samples| PollFd::new(samples.as_fd(), PollFlags::POLLIN)));
        if let Err(error) = poll(&mut fds, PollTimeout::NONE) {
            // A signal, most likely: the caller looks at everything again.
            tracing::debug!("shadow: {error}");
        }
        let woken = fds[0].any().unwrap_or(false);
        if woken && let Err(error) = self.wake.read() {
            tracing::debug!("shadow: {error}");
        }
    }
}

/// Both answers in one line.
fn why(explanation: &Explanation) -> String {
    let way = |verdict: &str, oif: Option<&String>, via: Option<std::net::IpAddr>| {
        let out = oif.map_or_else(String::new, |oif| format!(" by {oif}"));
        format!("{verdict}{out}{}", via.map_or_else(String::new, |via| format!(" via {via}")))
    };
    let packet = &explanation.packet;
    let from = packet.from.map_or_else(String::new, |from| format!(" from {from}"));
    let iif = packet.iif.as_deref().unwrap_or("an interface that is gone");
    let fast = explanation.ebpf.as_ref().map_or_else(String::new, |fast| {
        way(fast.verdict.as_deref().unwrap_or(&fast.action), fast.oif.as_ref(), fast.via)
    });
    let kernel = match &explanation.kernel {
        Some(kernel) => format!("the kernel {}", way(&kernel.verdict, kernel.oif.as_ref(), kernel.via)),
        None => "the reference something else".to_owned(),
    };
    let notes = explanation.notes.iter().fold(String::new(), |all, note| format!("{all}; {note}"));
    format!("a packet{from} to {}, in by {iif}: the fast path said {fast}, {kernel}{notes}", packet.to)
}
