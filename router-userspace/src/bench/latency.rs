//! The time that a packet takes from generator to sink where there are few: the programs write and read the clock.

use super::measure::Driver;
use super::paths::Ready;
use super::report::LatencyRow;
use super::stats::quantile;
use super::{Error, Result, Traffic, rules};
use router_common::bench::{Count, SAMPLES};
use std::time::{Duration, Instant};

/// Between two packets at least.
const PAUSE: Duration = Duration::from_micros(100);
/// Packets at most.
const PACKETS: u32 = 5_000;

/// Sends packets one by one for `time`; None where none arrived.
pub fn measure(driver: &mut Driver, ready: &Ready, traffic: Traffic, time: Duration) -> Result<Option<LatencyRow>> {
    const { assert!(PACKETS <= SAMPLES) };
    driver.aim(ready, traffic, true)?;
    let workload = &driver.workload;
    let right = || Ok::<u64, Error>(workload.counts()?[Count::Right as usize]);
    let before = right()?;
    driver.within(ready, || {
        let end = Instant::now() + time;
        for _ in 0..PACKETS {
            workload.send(1, 1)?;
            std::thread::sleep(PAUSE);
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    })?;
    let times = workload.times(before..right()?)?;
    let mut ns: Vec<f64> = times.iter().map(|time| time.as_nanos() as f64).collect();
    ns.sort_by(f64::total_cmp);
    Ok((!ns.is_empty()).then(|| LatencyRow {
        path: ready.path.name,
        rules: ready.plan.rules,
        family: rules::family(&ready.plan),
        packets: ns.len(),
        p50_ns: quantile(&ns, 0.5),
        p99_ns: quantile(&ns, 0.99),
    }))
}
