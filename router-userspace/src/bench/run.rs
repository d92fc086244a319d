//! One benchmark from beginning to end.

use super::machine::Machine;
use super::measure::{Driver, Pace, Shot};
use super::paths::{HARNESS, KERNEL, LIMIT, Path, Ready};
use super::report::{LeftOut, LoadingRow, METHOD, Method, Report, Row};
use super::updates::{self, Of};
use super::{Error, Flows, Options, Result, Traffic, host_traffic, latency, lookups, programs, reload, rules, stats};
use crate::model::Family;
use router_common::bench::{BLOCK, Plan};

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Steps done.
    pub done: usize,
    /// All steps.
    pub total: usize,
    /// What is being done.
    pub text: &'a str,
}

/// Measures. `progress` hears of every step.
pub fn run(options: &Options, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report> {
    let mut paths = options.paths.iter().map(|name| Path::named(name)).collect::<Result<Vec<_>>>()?;
    let left_out = left_out(&mut paths, &options.sizes);
    let driver = Driver::new(options.cpu)?;
    let method = Method {
        text: METHOD,
        cpu: driver.cpu(),
        rounds: options.rounds,
        slice_ms: options.slice.as_millis() as u64,
        group: BLOCK,
    };
    let report = Report {
        schema: 1,
        machine: Machine::here(),
        method,
        results: Vec::new(),
        left_out,
        loading: Vec::new(),
        latency: Vec::new(),
        host_traffic: Vec::new(),
        programs: Vec::new(),
        lookups: Vec::new(),
        updates: Vec::new(),
    };
    let setups = setups(options);
    let steps_of = |setup: &Setup| 1 + setup.traffic.len() * options.rounds as usize + usize::from(setup.first);
    let fitting = |setup: &Setup| paths.iter().filter(|path| setup.size <= path.most).count();
    let steps: usize = setups.iter().map(|setup| fitting(setup) * steps_of(setup)).sum();
    let updates = updates(options);
    let steps = steps + options.lookups.len() * Family::BOTH.len() + updates.len();
    let mut bench = Bench { options, paths, driver, report, steps, done: 0, progress };
    for setup in &setups {
        bench.measure(setup)?;
    }
    bench.lookups()?;
    for (update, family, size) in updates {
        bench.update(update, family, size)?;
    }
    bench.report.programs.extend(programs::verified()?);
    Ok(bench.report)
}

/// What is known beforehand not to be measured: what this machine has not got, which is taken away from `paths`, and what would
/// take too long.
fn left_out(paths: &mut Vec<&'static Path>, sizes: &[u32]) -> Vec<LeftOut> {
    let mut all = Vec::new();
    let mut leave = |path: &Path, rules, why| all.push(LeftOut { path: path.name, rules, family: None, why });
    paths.retain(|path| match path.missing() {
        Some(why) => {
            leave(path, None, why);
            false
        }
        None => true,
    });
    for path in paths {
        for &size in sizes.iter().filter(|size| **size > path.most) {
            leave(path, Some(size), format!("not tried: it is bearable, or possible, up to {}", path.most));
        }
    }
    all
}

/// What is updated.
#[derive(Clone, Copy)]
enum Update {
    /// The fast path by itself.
    Alone(Of),
    /// The running router.
    Reload(reload::Of),
}

/// The updates to measure, for each family of the traffic.
fn updates(options: &Options) -> Vec<(Update, Family, u32)> {
    let has = |family: &Family| options.traffic.iter().any(|traffic| traffic.family == *family);
    let mut all = Vec::new();
    for family in Family::BOTH.into_iter().filter(has) {
        for &size in &options.updates {
            if size <= updates::MOST_RULES {
                all.extend(
                    [Update::Alone(Of::Rules), Update::Reload(reload::Of::Rules)].map(|update| (update, family, size)),
                );
            }
            all.extend(
                [Update::Alone(Of::Routes), Update::Reload(reload::Of::Prefixes)].map(|update| (update, family, size)),
            );
        }
    }
    all
}

/// Traffic that the same networks serve.
struct Setup {
    family: Family,
    rp_filter: u32,
    size: u32,
    traffic: Vec<Traffic>,
    /// The first one of its family and size.
    first: bool,
}

/// In the order of the options: the traffic's first, then the sizes.
fn setups(options: &Options) -> Vec<Setup> {
    let mut kinds: Vec<(Family, u32)> = Vec::new();
    for traffic in &options.traffic {
        let kind = (traffic.family, traffic.rp_filter);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let first = |kind: (Family, u32)| kinds.iter().find(|other| other.0 == kind.0) == Some(&kind);
    let of = |kind: (Family, u32)| {
        let ((family, rp_filter), first) = (kind, first(kind));
        let fits = |traffic: &&Traffic| traffic.family == family && traffic.rp_filter == rp_filter;
        let traffic: Vec<Traffic> = options.traffic.iter().filter(fits).copied().collect();
        options.sizes.iter().map(move |&size| Setup { family, rp_filter, size, traffic: traffic.clone(), first })
    };
    kinds.iter().copied().flat_map(of).collect()
}

struct Bench<'a> {
    options: &'a Options,
    paths: Vec<&'static Path>,
    driver: Driver,
    report: Report,
    steps: usize,
    done: usize,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Bench<'_> {
    fn step(&mut self, text: &str) {
        (self.progress)(Progress { done: self.done, total: self.steps, text });
        self.done += 1;
    }

    fn measure(&mut self, setup: &Setup) -> Result<()> {
        let mut beds = Vec::new();
        for path in self.paths.clone().into_iter().filter(|path| setup.size <= path.most) {
            self.step(&format!("{}: {} {} rules", path.name, setup.size, setup.family));
            match self.build(path, setup) {
                Ok(ready) => beds.push(ready),
                Err(error) => self.leave_out(path, setup.family, setup.size, error)?,
            }
        }
        for traffic in &setup.traffic {
            self.rounds(&beds, *traffic)?;
        }
        self.further(setup, &beds)?;
        beds.into_iter().try_for_each(Ready::stop)
    }

    fn build(&mut self, path: &'static Path, setup: &Setup) -> Result<Ready> {
        let wrong = |what: String| Error::Path { path: path.name, rules: setup.size, what };
        let plan = Plan::new(rules::family_number(setup.family), setup.size, path.exits);
        let plan = plan.ok_or_else(|| wrong("there can be 1 to 1,048,576 rules".to_owned()))?;
        let workload = &mut self.driver.workload;
        let ready = Ready::build(path, plan, setup.rp_filter, workload, self.options.patience)?;
        self.driver.check(&ready, Traffic { packet: 64, flows: Flows::Random, ..setup.traffic[0] })?;
        if let Some(time) = ready.loading.time {
            self.report.loading.push(LoadingRow {
                path: path.name,
                rules: setup.size,
                family: setup.family,
                ms: time.as_secs_f64() * 1e3,
                peak_bytes: ready.loading.peak,
                map_bytes: ready.loading.maps,
                kernel_bytes: ready.loading.kernel,
            });
        }
        Ok(ready)
    }

    /// What belongs to one path alone is noted and the others go on; anything else ends the benchmark.
    fn leave_out(&mut self, path: &'static Path, family: Family, size: u32, error: Error) -> Result<()> {
        let why = match error {
            Error::Path { what, .. } => what,
            Error::Lab(error @ crate::lab::Error::Daemon { .. }) => error.to_string(),
            other => return Err(other),
        };
        let left = LeftOut { path: path.name, rules: Some(size), family: Some(family), why };
        // For each kind of traffic that needs a network of its own, it would be told again.
        let told = |other: &LeftOut| (other.path, other.rules, other.family) == (left.path, left.rules, left.family);
        if !self.report.left_out.iter().any(told) {
            self.report.left_out.push(left);
        }
        Ok(())
    }

    fn rounds(&mut self, beds: &[Ready], traffic: Traffic) -> Result<()> {
        let mut shots: Vec<Vec<Shot>> = vec![Vec::new(); beds.len()];
        let mut paces: Vec<Option<Pace>> = vec![None; beds.len()];
        let mut frames = vec![0; beds.len()];
        for round in 0..self.options.rounds as usize {
            for turn in 0..beds.len() {
                // Nobody is always the one after the slowest.
                let place = (turn + round) % beds.len();
                let ready = &beds[place];
                self.step(&format!("{}: {} rules, {}", ready.path.name, ready.plan.rules, traffic.text()));
                frames[place] = self.driver.aim(ready, traffic, false)?;
                let pace = match paces[place] {
                    Some(pace) => pace,
                    None => *paces[place].insert(self.driver.pace(ready, self.options.slice)?),
                };
                shots[place].push(self.driver.shoot(ready, pace)?);
            }
        }
        let pps: Vec<Vec<f64>> = shots.iter().map(|shots| shots.iter().map(Shot::pps).collect()).collect();
        let of = |name| beds.iter().position(|ready| ready.path.name == name).map(|place| &pps[place][..]);
        let harness = of(HARNESS).and_then(stats::median);
        for (place, ready) in beds.iter().enumerate() {
            let Some(spread) = stats::spread(&pps[place]) else { continue };
            let ns = |pps: f64| 1e9 / pps.max(1e-9);
            let routes = (!ready.path.is_direct()).then_some(());
            let right: u64 = shots[place].iter().map(Shot::right).sum();
            let arrived: u64 = shots[place].iter().map(Shot::arrived).sum();
            let cpu: f64 = shots[place].iter().map(|shot| shot.cpu.as_secs_f64()).sum();
            self.report.results.push(Row {
                path: ready.path.name,
                rules: ready.plan.rules,
                traffic,
                frame: frames[place],
                pps: spread.median,
                ns_per_packet: ns(spread.median),
                ratio_to_kernel: routes.and(of(KERNEL)).and_then(|kernel| stats::ratio(&pps[place], kernel)),
                ratio_to_limit: routes.and(of(LIMIT)).and_then(|limit| stats::ratio(&pps[place], limit)),
                net_ns_per_packet: harness.map(|harness| ns(spread.median) - ns(harness)),
                cpu_ns_per_packet: (right > 0).then(|| cpu * 1e9 / right as f64),
                spread,
                round_pps: pps[place].clone(),
                sent: shots[place].iter().map(|shot| shot.sent).sum(),
                arrived: right,
                wrong: arrived - right,
                actions: ready.actions()?,
            });
        }
        Ok(())
    }

    fn lookups(&mut self) -> Result<()> {
        let Options { rounds, slice, .. } = *self.options;
        let pace = lookups::Pace { rounds, slice, cpu: self.driver.cpu() };
        for family in Family::BOTH {
            for &prefixes in &self.options.lookups {
                self.step(&format!("look-ups among {prefixes} {family} prefixes"));
                self.report.lookups.extend(lookups::measure(family, prefixes, pace)?);
            }
        }
        Ok(())
    }

    fn update(&mut self, update: Update, family: Family, size: u32) -> Result<()> {
        let rows = match update {
            Update::Alone(of) => {
                self.step(&format!("updates of {size} {family} {}", of.name()));
                updates::measure(&mut self.driver.workload, of, family, size, self.options.rounds)?
            }
            Update::Reload(of) => {
                self.step(&format!("reload of {size} {family} {}", of.name()));
                match reload::measure(&mut self.driver, of, family, size, self.options) {
                    Ok(rows) => rows,
                    Err(error) => return self.leave_out(of.path()?, family, size, error),
                }
            }
        };
        self.report.updates.extend(rows);
        Ok(())
    }

    /// What is measured once for every network.
    fn further(&mut self, setup: &Setup, beds: &[Ready]) -> Result<()> {
        let Some(traffic) = setup.traffic.first().filter(|_| setup.first) else { return Ok(()) };
        for ready in beds {
            self.step(&format!("{}: {} rules, latency and the host's own traffic", ready.path.name, ready.plan.rules));
            let slice = self.options.slice;
            self.report.latency.extend(latency::measure(&mut self.driver, ready, *traffic, slice)?);
            self.report.host_traffic.extend(host_traffic::measure(&self.driver, ready, slice)?);
            self.report.programs.extend(programs::alone(&mut self.driver, ready)?);
        }
        Ok(())
    }
}
