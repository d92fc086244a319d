//! The paths: what a router has to do the same job by.
//!
//! A new path is an entry of [`ALL`], and a [`Kind`] where none of these builds it.

use super::loading::{self, Loading, Rise};
use super::rules::Way;
use super::topology::{Bed, EXITS, ROUTER, gateway, index, limit, out};
use super::{Error, Result, rules};
use crate::fastpath::Workload;
use crate::kernel::Kernel;
use crate::lab::process::{self, Daemon};
use crate::model::Rule;
use router_common::bench::{MAX_PREFIXES, Plan};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path as FilePath;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One way to route.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// As `--path` takes it.
    pub name: &'static str,
    /// What it is, for a person.
    pub about: &'static str,
    /// With more rules it takes too long to install or to measure.
    pub most: u32,
    /// How many exits the rules lead to.
    pub exits: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// No router: what generator and sink cost by themselves.
    Harness,
    /// The stack with these rules.
    Stack(fn(&Plan) -> Vec<Rule>),
    /// The stack with an interval map of nftables that marks, and a rule for each mark.
    Nft,
    /// `wayfork run` with a policy file.
    Wayfork { mode: &'static str, settings: &'static str, form: Form },
    /// `wayfork run` with the rules in the kernel already, as another program's.
    Foreign { settings: &'static str },
    /// The bare TC program.
    Limit,
    /// XDP with the kernel's look-up, on the flat list.
    XdpFib,
    /// The same by the program of xdp-tools.
    XdpForward,
}

/// How a policy file says which prefix leads where.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// A rule for each prefix.
    Rules,
    /// A set for each exit, and a rule for each set.
    Sets,
}

/// The path that the others are compared with.
pub const KERNEL: &str = "stack-flat";
/// The path that is no router.
pub const HARNESS: &str = "harness";
/// The path that decides nothing.
pub const LIMIT: &str = "tc-limit";
/// The path, and its program.
const XDP_FORWARD: &str = "xdp-forward";

const fn path(name: &'static str, about: &'static str, most: u32, kind: Kind) -> Path {
    let exits = if matches!(kind, Kind::Harness | Kind::Limit) { 1 } else { EXITS };
    Path { name, about, most, exits, kind }
}

const fn wayfork(mode: &'static str, settings: &'static str, form: Form) -> Kind {
    Kind::Wayfork { mode, settings, form }
}

/// A rule for each: the kernel keeps them in one list.
const RULES: u32 = 100_000;
/// As many members as the sets of a policy file may have.
const PREFIXES: u32 = 1_000_000;
/// Nothing grows.
const ANY: u32 = MAX_PREFIXES;
const MARK: &str = "fast_path = \"mark\"";

/// Every path, in the order of measurement.
pub const ALL: &[Path] = &[
    path(HARNESS, "generator and sink without a router", ANY, Kind::Harness),
    path(KERNEL, "the stack, `ip rule` list", RULES, Kind::Stack(rules::flat)),
    path("stack-grouped", "the stack, groups of 32 behind goto", RULES, Kind::Stack(rules::grouped)),
    path("stack-nft", "the stack, nftables interval map → mark → fwmark rules", PREFIXES, Kind::Nft),
    path("wayfork-netlink", "wayfork run --mode netlink", RULES, wayfork("netlink", "", Form::Rules)),
    path("wayfork-mark", "wayfork run, fast_path = mark", RULES, wayfork("ebpf", MARK, Form::Rules)),
    path("wayfork-redirect", "wayfork run, all it may", RULES, wayfork("ebpf", "", Form::Rules)),
    path("sets-netlink", "wayfork run --mode netlink, two [sets]", PREFIXES, wayfork("netlink", "", Form::Sets)),
    path("sets-redirect", "wayfork run, all it may, two [sets]", PREFIXES, wayfork("ebpf", "", Form::Sets)),
    path(
        "foreign-mark",
        "wayfork run, fast_path = mark, on another's `ip rule` list",
        RULES,
        Kind::Foreign { settings: MARK },
    ),
    path("foreign-redirect", "wayfork run on another's `ip rule` list", RULES, Kind::Foreign { settings: "" }),
    path("xdp-fib", "an XDP program with bpf_fib_lookup on the `ip rule` list", RULES, Kind::XdpFib),
    path(XDP_FORWARD, "xdp-forward of xdp-tools on the `ip rule` list", RULES, Kind::XdpForward),
    path(LIMIT, "a bare TC program: fixed next hop", ANY, Kind::Limit),
];

impl Path {
    /// The path of that name.
    pub fn named(name: &str) -> Result<&'static Path> {
        ALL.iter().find(|path| path.name == name).ok_or_else(|| Error::NoSuchPath {
            name: name.to_owned(),
            names: ALL.iter().map(|path| path.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Why this machine has not got the path at all; None where it has.
    pub fn missing(&self) -> Option<String> {
        let (program, package) = match self.kind {
            Kind::Nft => ("nft", "nftables"),
            Kind::XdpForward => (XDP_FORWARD, "xdp-tools, from 1.5 on"),
            _ => return None,
        };
        let tried = Command::new(program).arg("--help").stdin(Stdio::null()).output();
        let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        tried
            .is_err_and(|error| absent(&error))
            .then(|| format!("there is no program `{program}` (it is of {package})"))
    }

    /// Whether packets go past the router.
    pub fn is_direct(&self) -> bool {
        matches!(self.kind, Kind::Harness)
    }

    fn error(&self, plan: &Plan, what: impl Into<String>) -> Error {
        Error::Path { path: self.name, rules: plan.rules, what: what.into() }
    }
}

/// A path that is ready to be driven.
#[derive(Debug)]
pub struct Ready {
    /// Which.
    pub path: &'static Path,
    /// Its rules.
    pub plan: Plan,
    /// How long it took to install, and what that needed.
    pub loading: Loading,
    // Ended before its network is taken away.
    daemon: Option<Daemon>,
    /// Where the files of its sets are.
    folder: Option<TempDir>,
    /// Its network.
    pub bed: Bed,
}

impl Ready {
    /// Builds the network and installs the rules.
    pub fn build(
        path: &'static Path,
        plan: Plan,
        rp_filter: u32,
        workload: &mut Workload,
        patience: Duration,
    ) -> Result<Self> {
        let mut ready = Ready::bare(path, plan, rp_filter, workload)?;
        let mut rise = Rise::begin();
        ready.install(workload, patience)?;
        ready.loading.kernel = rise.look();
        Ok(ready)
    }

    /// Builds the network, and runs Wayfork in it with these rules alone, behind the place of the others.
    pub fn build_with(
        path: &'static Path,
        plan: Plan,
        ways: &[Way],
        workload: &mut Workload,
        patience: Duration,
    ) -> Result<Self> {
        let mut ready = Ready::bare(path, plan, 0, workload)?;
        let Kind::Wayfork { mode, .. } = path.kind else { return Err(path.error(&plan, "has no policy")) };
        let policy = ready.policy(ways, rules::FIRST_OF_FEW)?;
        ready.start(mode, &policy, patience)?;
        Ok(ready)
    }

    /// The network without rules.
    fn bare(path: &'static Path, plan: Plan, rp_filter: u32, workload: &mut Workload) -> Result<Self> {
        let bed = Bed::new(workload, rp_filter)?;
        match path.kind {
            Kind::Harness => bed.wire_directly(workload)?,
            Kind::XdpFib => bed.router()?.run(|| workload.attach_fib(index::IN))??,
            // It attaches a program of its own there.
            Kind::XdpForward => {}
            _ => bed.router()?.run(|| workload.attach_pass(index::IN))??,
        }
        Ok(Ready { path, plan, loading: Loading::default(), daemon: None, folder: None, bed })
    }

    fn install(&mut self, workload: &mut Workload, patience: Duration) -> Result<()> {
        let Ready { path, plan, bed, .. } = self;
        match path.kind {
            Kind::Harness => {}
            Kind::Stack(write) => {
                bed.add_tables(rules::FIRST_TABLE)?;
                self.loading = add(bed, write(plan))?;
            }
            Kind::XdpFib => {
                bed.add_tables(rules::FIRST_TABLE)?;
                add(bed, rules::flat(plan))?;
            }
            Kind::XdpForward => {
                bed.add_tables(rules::FIRST_TABLE)?;
                add(bed, rules::flat(plan))?;
                xdp_forward(bed).map_err(|what| path.error(plan, what))?;
            }
            Kind::Nft => {
                bed.add_tables(rules::FIRST_TABLE)?;
                let script = rules::nft(plan);
                let start = Instant::now();
                add(bed, rules::by_mark(plan))?;
                nft(bed, &script).map_err(|what| path.error(plan, what))?;
                self.loading = Loading { time: Some(start.elapsed()), ..Loading::default() };
            }
            Kind::Wayfork { mode, .. } => {
                let policy = self.policy(&rules::ways(&self.plan, &[]), rules::FIRST)?;
                self.start(mode, &policy, patience)?;
            }
            Kind::Foreign { settings } => {
                bed.add_tables(rules::FIRST_TABLE)?;
                add(bed, rules::flat(plan))?;
                self.start("ebpf", &format!("[router]\n{settings}\n"), patience)?;
            }
            Kind::Limit => bed.router()?.run(|| workload.attach_limit(index::IN, limit()))??,
        }
        Ok(())
    }

    fn start(&mut self, mode: &str, policy: &str, patience: Duration) -> Result<()> {
        let start = Instant::now();
        let exe = FilePath::new("/proc/self/exe");
        // Quiet: of many rules it would warn one by one that they stand behind the usual place of `main`.
        let mut daemon = Daemon::start(self.bed.router()?, exe, &["-", "--mode", mode, "--quiet"], Some(policy))?;
        daemon.wait_ready(patience)?;
        self.loading = Loading { time: Some(start.elapsed()), ..loading::memory(daemon.pid()) };
        self.daemon = Some(daemon);
        Ok(())
    }

    /// The process of Wayfork, where there is one.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Wayfork's policy file with these rules from the priority `first` on; the files of its sets, where it has some instead, are
    /// written anew.
    pub fn policy(&mut self, ways: &[Way], first: u32) -> Result<String> {
        let plan = &self.plan;
        let Kind::Wayfork { settings, form, .. } = self.path.kind else {
            return Err(self.path.error(plan, "has no policy"));
        };
        let family = rules::family(plan);
        let exits: Vec<_> = (0..plan.exits).map(|exit| (gateway(family, exit), out(exit))).collect();
        if matches!(form, Form::Rules) {
            return Ok(rules::policy(plan, settings, &exits, ways, first));
        }
        let failed = |error| Error::new("write the files of the sets", error);
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => tempfile::Builder::new().prefix("wayfork-bench-").tempdir().map_err(failed)?,
        };
        let folder = self.folder.insert(folder);
        rules::sets(plan, settings, &exits, ways, folder.path()).map_err(failed)
    }

    /// Gives the running Wayfork a new policy, as a user would; returns how long that took. `meanwhile` is called again and again.
    pub fn reload(&self, policy: &str, meanwhile: &mut dyn FnMut()) -> Result<Duration> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["reload", "-", "--quiet"]);
        let failed = |error| Error::new("run `wayfork reload`", error);
        let start = Instant::now();
        let child = feed(&self.bed, command, policy).map_err(failed)?;
        // In a thread, so that what it says is read while it runs.
        let child = thread::spawn(move || (child.wait_with_output(), start.elapsed()));
        while !child.is_finished() {
            meanwhile();
            thread::sleep(Duration::from_millis(1));
        }
        let (output, took) = child.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match said(&output.map_err(failed)?) {
            None => Ok(took),
            Some(said) => Err(self.path.error(&self.plan, format!("wayfork reload {said}"))),
        }
    }

    /// What Wayfork's fast path did with packets so far, by action; None where there is no Wayfork.
    pub fn actions(&self) -> Result<Option<BTreeMap<String, u64>>> {
        if self.daemon.is_none() {
            return Ok(None);
        }
        let exe = FilePath::new("/proc/self/exe");
        let status = process::json(self.bed.lab.netns(ROUTER)?, exe, &["--json", "status"])?;
        let mut actions = BTreeMap::new();
        let mut count = |name: &str, packets: Option<u64>| {
            *actions.entry(name.to_owned()).or_default() += packets.unwrap_or(0);
        };
        for rule in status["rules"].as_array().into_iter().flatten() {
            for (action, packets) in rule["actions"].as_object().into_iter().flatten() {
                count(action, packets["packets"].as_u64());
            }
        }
        for (reason, packets) in status["pass_reasons"].as_object().into_iter().flatten() {
            count(&format!("pass: {reason}"), packets.as_u64());
        }
        actions.retain(|_, packets| *packets > 0);
        Ok(Some(actions))
    }

    /// Ends what runs.
    pub fn stop(self) -> Result<()> {
        if let Some(daemon) = self.daemon {
            // Its network goes anyway: there is nothing that it would have to take back.
            daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
        }
        Ok(())
    }
}

/// Adds rules, the last ones first: each is put in its place by a walk from the front (`fib_newrule`).
pub(super) fn add(bed: &Bed, mut rules: Vec<Rule>) -> Result<Loading> {
    rules.sort_by_key(|rule| Reverse(rule.priority));
    let start = Instant::now();
    let results = bed.kernel(|kernel| Ok(kernel.add_rules(&rules)))?;
    for result in results {
        result?;
    }
    Ok(Loading { time: Some(start.elapsed()), ..Loading::default() })
}

/// Has xdp-forward forward between all interfaces of the router. Without libxdp's dispatcher, which would be pinned to a file system
/// that is the machine's: nothing else wants to be attached there.
fn xdp_forward(bed: &Bed) -> Result<(), String> {
    let mut command = Command::new(XDP_FORWARD);
    // By its own choice it looks up with the rules; the option for that has changed its name.
    command.args(["load", "--xdp-mode", "native", "in0"]).args((0..EXITS).map(out));
    command.env("LIBXDP_SKIP_DISPATCHER", "1");
    let failed = |error: std::io::Error| format!("{XDP_FORWARD}: {error}");
    let output = feed(bed, command, "").and_then(Child::wait_with_output).map_err(failed)?;
    said(&output).map_or(Ok(()), |said| Err(format!("{XDP_FORWARD} {said}")))
}

/// Loads a rule set by the program `nft`, as a user would.
fn nft(bed: &Bed, script: &str) -> Result<(), String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    let output =
        feed(bed, command, script).and_then(Child::wait_with_output).map_err(|error| format!("nft: {error}"))?;
    said(&output).map_or(Ok(()), |said| Err(format!("nft {said}")))
}

/// Starts a program on the router and gives it its input.
fn feed(bed: &Bed, mut command: Command, input: &str) -> std::io::Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let netns = bed.lab.netns(ROUTER).map_err(std::io::Error::other)?;
    let mut child = netns.spawn(command).map_err(std::io::Error::other)?;
    if let Some(mut pipe) = child.stdin.take() {
        // What the program says when it stops reading is better than the pipe's error.
        pipe.write_all(input.as_bytes()).ok();
    }
    Ok(child)
}

/// How a program ended and the first line that it said; None where it succeeded.
fn said(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    (!output.status.success())
        .then(|| format!("ended with {}: {}", output.status, said.lines().next().unwrap_or_default()))
}
