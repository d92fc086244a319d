//! Driving a path: packets from one pinned thread, and what came of them.

use super::paths::{Path, Ready};
use super::topology::{index, macs};
use super::{Error, Flows, Result, Traffic};
use crate::fastpath::Workload;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use router_common::bench::{COUNTS, Count, Generator, Plan, SENT_TTL, Sink, sink_mac};
use std::fs;
use std::time::{Duration, Instant};

/// Packets of a burst. The ring of a veth device holds 256.
const BATCH: u32 = 64;
/// Packets by which a path is checked before it is measured.
const CHECKED: u32 = 256;

/// When nothing has arrived for so long, no more comes: a burst on 100,000 rules takes a third of it.
const QUIET: Duration = Duration::from_millis(500);

/// What came of some packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shot {
    /// Sent.
    pub sent: u64,
    /// Arrived, by [`Count`].
    pub counts: [u64; COUNTS],
    /// Until the last one arrived.
    pub time: Duration,
    /// The CPU was not idle, in clock ticks.
    pub busy: u64,
}

impl Shot {
    /// Packets that arrived as they should.
    pub fn right(&self) -> u64 {
        self.counts[Count::Right as usize]
    }

    /// Packets a second that arrived as they should.
    pub fn pps(&self) -> f64 {
        self.right() as f64 / self.time.as_secs_f64().max(1e-9)
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

/// Drives paths from one CPU.
#[derive(Debug)]
pub struct Driver {
    /// The programs.
    pub workload: Workload,
    cpu: usize,
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
        Ok(Driver { workload: Workload::load()?, cpu })
    }

    /// The CPU that sends, routes and counts.
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// Prepares the programs for a kind of traffic on a path. Returns the length of its frames.
    pub fn aim(&mut self, ready: &Ready, traffic: Traffic, sample: bool) -> Result<u32> {
        let (generator, sink) = aim(ready.path, ready.plan, traffic);
        self.workload.set_generator(&generator)?;
        self.workload.set_sink(&Sink { sample: u32::from(sample), ..sink })?;
        Ok(generator.length)
    }

    /// Sends packets and waits for them.
    pub fn shoot(&self, ready: &Ready, pace: Pace) -> Result<Shot> {
        self.within(ready, || self.burst(pace))
    }

    /// Works on the pinned CPU, in the namespace of generator and sink.
    pub fn within<T: Send>(&self, ready: &Ready, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        ready.bed.outside()?.run(|| {
            pin(self.cpu)?;
            work()
        })?
    }

    fn burst(&self, pace: Pace) -> Result<Shot> {
        let before = self.workload.counts()?;
        let busy = busy_ticks(self.cpu);
        let start = Instant::now();
        self.workload.send(pace.packets, pace.batch)?;
        let (counts, end) = self.settled(before, u64::from(pace.packets))?;
        let time = end.duration_since(start);
        Ok(Shot { sent: pace.packets.into(), counts, time, busy: busy_ticks(self.cpu).saturating_sub(busy) })
    }

    /// What arrived since `before`, once all has arrived or no more comes, and when that was. The CPU is this thread's: while it
    /// waits, what is left to do is done.
    fn settled(&self, before: [u64; COUNTS], sent: u64) -> Result<([u64; COUNTS], Instant)> {
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
            if counts.iter().sum::<u64>() >= sent || changed.elapsed() > QUIET {
                return Ok((counts, changed));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Checks that all of a few packets arrive right, of all rules alike.
    pub fn check(&mut self, ready: &Ready, traffic: Traffic) -> Result<()> {
        self.aim(ready, Traffic { flows: Flows::Random, ..traffic }, false)?;
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
    pub fn pace(&self, ready: &Ready, slice: Duration) -> Result<Pace> {
        let mut packets = 8;
        loop {
            let pace = Pace { packets, batch: packets.min(BATCH) };
            let shot = self.shoot(ready, pace)?;
            let share = slice.as_secs_f64() / shot.time.as_secs_f64().max(1e-6);
            if share <= 8.0 || packets > 1 << 27 {
                let packets = (f64::from(packets) * share).clamp(1.0, f64::from(1u32 << 30)) as u32;
                // A burst should not be the whole of a slice.
                return Ok(Pace { packets, batch: (packets / 4).clamp(1, BATCH) });
            }
            packets = packets.saturating_mul(4);
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
        return (generator, Sink { ttl: ttl - 1, sample: 0 });
    }
    let macs = [sink_mac(index::DIRECT_SINK), generator.macs[1]];
    (Generator { oif: index::DIRECT, first_exit: index::DIRECT_SINK, macs, ..generator }, Sink { ttl, sample: 0 })
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    let pinned = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    pinned.map_err(|errno| Error::new(format!("use CPU {cpu}"), errno.into()))
}

/// Clock ticks that a CPU was not idle for; 0 where the kernel does not say.
fn busy_ticks(cpu: usize) -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{cpu} ");
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix(&name)) else { return 0 };
    // user nice system idle iowait irq softirq steal …
    let numbers = line.split_whitespace().take(8).enumerate();
    numbers.filter(|(place, _)| !matches!(place, 3 | 4)).filter_map(|(_, text)| text.parse::<u64>().ok()).sum()
}
