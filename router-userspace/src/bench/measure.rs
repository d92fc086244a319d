//! Driving a path: packets from one pinned thread, and what came of them.

use super::paths::{Path, Ready};
use super::topology::{index, macs};
use super::{Error, Result, Traffic};
use crate::fastpath::Workload;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use router_common::bench::{COUNTS, Count, Generator, Plan, SENT_TTL, Sink, sink_mac};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Packets of a burst. The ring of a veth device holds 256.
const BATCH: u32 = 64;
/// Packets by which a path is checked before it is measured.
const CHECKED: u32 = 256;

/// When nothing has arrived for so long, no more comes: a burst on 100,000 rules takes half of it.
const QUIET: Duration = Duration::from_millis(500);

/// What came of some packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shot {
    /// Sent.
    pub sent: u64,
    /// Arrived, by [`Count`].
    pub counts: [u64; COUNTS],
    /// From the first one's sending to the last one's arrival.
    pub time: Duration,
    /// Time that the sending thread and the CPU's ksoftirqd had.
    pub cpu: Duration,
}

impl Shot {
    /// Packets that arrived as they should.
    pub fn right(&self) -> u64 {
        self.counts[Count::Right as usize]
    }

    /// Packets of the benchmark that arrived, right or wrong.
    pub fn arrived(&self) -> u64 {
        arrived(&self.counts)
    }

    /// Packets a second that arrived as they should.
    pub fn pps(&self) -> f64 {
        if self.time.is_zero() { 0.0 } else { self.right() as f64 / self.time.as_secs_f64() }
    }
}

/// Without what is not of the benchmark: IPv6 announces itself now and then.
fn arrived(counts: &[u64; COUNTS]) -> u64 {
    counts.iter().sum::<u64>() - counts[Count::Foreign as usize]
}

/// A few packets, each of which has arrived before the next burst is sent, or is lost.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Sent.
    pub sent: u64,
    /// Arrived, by [`Count`].
    pub counts: [u64; COUNTS],
}

impl Burst {
    /// Packets of each. The ring of a veth device holds more, so that none is lost for want of room.
    pub const PACKETS: u32 = 128;

    /// Packets that arrived, right or wrong.
    pub fn arrived(&self) -> u64 {
        arrived(&self.counts)
    }
}

/// How a path is driven, so that a shot takes as long as it should.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Packets of a shot.
    pub packets: u32,
    /// Packets of a burst.
    pub batch: u32,
}

impl Pace {
    /// Of many packets the clock is read at few.
    fn stamp(self) -> u32 {
        if self.packets >= 1 << 16 { 63 } else { 0 }
    }
}

/// Drives paths from one CPU.
#[derive(Debug)]
pub struct Driver {
    /// The programs.
    pub workload: Workload,
    cpu: usize,
    /// What the sink is told, but for the pace.
    sink: Sink,
    softirqs: Option<u32>,
}

impl Driver {
    /// Loads the programs. `cpu` is the one to send from: None is the last that this process may use. The calling thread, and
    /// what it starts, keeps away from it.
    pub fn new(cpu: Option<usize>) -> Result<Self> {
        let own = Pid::from_raw(0);
        let failed = |errno: nix::errno::Errno| Error::new("choose a CPU", errno.into());
        let mut others = sched_getaffinity(own).map_err(failed)?;
        let allowed: Vec<usize> = (0..CpuSet::count()).filter(|cpu| others.is_set(*cpu).unwrap_or(false)).collect();
        let cpu = cpu.or(allowed.last().copied()).unwrap_or(0);
        if !allowed.contains(&cpu) {
            return Err(Error::invalid(format!("CPU {cpu} (this process may use {allowed:?})")));
        }
        if allowed.len() > 1 {
            others.unset(cpu).map_err(failed)?;
            sched_setaffinity(own, &others).map_err(failed)?;
        }
        let sink = Sink { ttl: 0, sample: 0, stamp: 0 };
        Ok(Driver { workload: Workload::load()?, cpu, sink, softirqs: softirq_thread(cpu) })
    }

    /// The CPU that sends, routes and counts.
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// Prepares the programs for a kind of traffic on a path. Returns the length of its frames.
    pub fn aim(&mut self, ready: &Ready, traffic: Traffic, sample: bool) -> Result<u32> {
        let (generator, sink) = aim(ready.path, ready.plan, traffic);
        self.workload.set_generator(&generator)?;
        self.sink = Sink { sample: u32::from(sample), ..sink };
        self.workload.set_sink(&self.sink)?;
        Ok(generator.length)
    }

    /// Sends packets and waits for them.
    pub fn shoot(&mut self, ready: &Ready, pace: Pace) -> Result<Shot> {
        self.workload.set_sink(&Sink { stamp: pace.stamp(), ..self.sink })?;
        self.within(ready, || self.burst(pace))
    }

    /// Works on the pinned CPU, in the namespace of generator and sink.
    pub fn within<T: Send>(&self, ready: &Ready, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        ready.bed.outside()?.run(|| {
            pin(self.cpu)?;
            work()
        })?
    }

    /// Sends bursts, one after the other, until it is to stop, and one more; `heard` is told of each.
    pub fn stream(&self, ready: &Ready, stop: &AtomicBool, heard: &mut (dyn FnMut(&Burst) + Send)) -> Result<()> {
        self.within(ready, || {
            let mut last = false;
            while !last {
                last = stop.load(Relaxed);
                let before = self.workload.counts()?;
                self.workload.send(Burst::PACKETS, BATCH)?;
                let sent = u64::from(Burst::PACKETS);
                heard(&Burst { sent, counts: self.settled(before, sent)? });
            }
            Ok(())
        })
    }

    fn burst(&self, pace: Pace) -> Result<Shot> {
        let before = self.workload.counts()?;
        let used = self.cpu_time();
        self.workload.send(pace.packets, pace.batch)?;
        let counts = self.settled(before, u64::from(pace.packets))?;
        let cpu = self.cpu_time().saturating_sub(used);
        let time = self.workload.span()?.unwrap_or_default();
        Ok(Shot { sent: pace.packets.into(), counts, time, cpu })
    }

    /// What the calling thread and the CPU's ksoftirqd have had so far. Interrupts are in it where the kernel does not keep
    /// their time apart (CONFIG_IRQ_TIME_ACCOUNTING).
    fn cpu_time(&self) -> Duration {
        let own = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
        let stat = self.softirqs.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/schedstat")).ok());
        let softirqs = stat.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0);
        own.map_or(Duration::ZERO, Duration::from) + Duration::from_nanos(softirqs)
    }

    /// What arrived since `before`, once all has arrived or no more comes. The CPU is this thread's: while it waits, what is
    /// left to do is done.
    fn settled(&self, before: [u64; COUNTS], sent: u64) -> Result<[u64; COUNTS]> {
        let (mut last, mut changed) = (None, Instant::now());
        loop {
            let now = self.workload.counts()?;
            let mut counts = [0; COUNTS];
            for (count, (now, before)) in counts.iter_mut().zip(now.iter().zip(before)) {
                *count = now - before;
            }
            if last != Some(counts) {
                (last, changed) = (Some(counts), Instant::now());
            }
            if arrived(&counts) >= sent || changed.elapsed() > QUIET {
                return Ok(counts);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Checks that all of a few packets arrive right.
    pub fn check(&mut self, ready: &Ready, traffic: Traffic) -> Result<()> {
        self.aim(ready, traffic, false)?;
        let shot = self.shoot(ready, Pace { packets: CHECKED, batch: 16 })?;
        if shot.right() == u64::from(CHECKED) {
            return Ok(());
        }
        let [right, exit, mac, ttl, checksum, foreign] = shot.counts;
        let what = format!(
            "of {CHECKED} packets {right} arrived right; {exit} by the wrong interface, {mac} with a wrong address, {ttl} with a \
             wrong TTL, {checksum} with a wrong checksum, {foreign} others"
        );
        Err(Error::Path { path: ready.path.name, rules: ready.plan.rules, what })
    }

    /// Finds how many packets take `slice`.
    pub fn pace(&mut self, ready: &Ready, slice: Duration) -> Result<Pace> {
        let mut packets = 8;
        loop {
            let shot = self.shoot(ready, Pace { packets, batch: packets.min(BATCH) })?;
            let share = slice.as_secs_f64() / shot.time.as_secs_f64().max(1e-6);
            let more = (f64::from(packets) * share.min(8.0)).clamp(1.0, f64::from(1u32 << 30)) as u32;
            if share <= 2.0 || more <= packets {
                // A burst should not be the whole of a slice.
                return Ok(Pace { packets: more, batch: (more / 4).clamp(1, BATCH) });
            }
            packets = more;
        }
    }
}

/// What is sent and what is right.
fn aim(path: &Path, plan: Plan, traffic: Traffic) -> (Generator, Sink) {
    let length = traffic.packet.max(Generator::least_length(plan.family));
    let generator = Generator {
        plan: Plan { exits: path.exits, ..plan },
        length,
        oif: index::GENERATOR,
        flows: traffic.flows.mask(),
        first_exit: index::SINK,
        macs: macs(),
    };
    let ttl = u32::from(SENT_TTL);
    if !path.is_direct() {
        return (generator, Sink { ttl: ttl - 1, sample: 0, stamp: 0 });
    }
    let macs = [sink_mac(index::DIRECT_SINK), generator.macs[1]];
    (
        Generator { oif: index::DIRECT, first_exit: index::DIRECT_SINK, macs, ..generator },
        Sink { ttl, sample: 0, stamp: 0 },
    )
}

/// Keeps the calling thread on one CPU, and other threads from interrupting it there: real-time priority, the lowest of it. Where
/// that is refused, it shares the CPU as others do.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    let pinned = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    pinned.map_err(|errno| Error::new(format!("use CPU {cpu}"), errno.into()))?;
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter is read only; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) } != 0 {
        tracing::debug!("no real-time priority: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// The thread that does a CPU's work of networking where there is too much of it for others' time.
fn softirq_thread(cpu: usize) -> Option<u32> {
    let name = format!("ksoftirqd/{cpu}");
    let is_it = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    let numbers = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.into_iter().find(is_it)
}
