//! A router with a LAN and two uplinks.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use wayfork::kernel::{Kernel, Netlink};
use wayfork::lab::needs::patience;
use wayfork::lab::process::{self, Daemon};
use wayfork::lab::topology::Lab;
use wayfork::lab::traffic::{Flow, Ports, Proto};
use wayfork::model::{Family, Route, RouteKind, Rule};

/// The far destination, which both isps have: who receives tells which uplink was taken.
pub const FAR: [&str; 2] = ["111.11.1.1", "2001:db8:111::1"];

/// A policy for the bed: the LAN goes by eth1. Without it, everything goes by eth0.
pub const POLICY: &str = r#"
[tables]
isp2 = 111

[[route]]
table = "isp2"
to    = "default"
via   = "10.0.0.1"
dev   = "eth1"

[[route]]
table = "isp2"
to    = "default"
via   = "2001:db8:b::1"
dev   = "eth1"

[[rule]]
name     = "own-networks"
priority = 900
table    = "main"
suppress_prefixlength = 0

[[rule]]
name     = "lan"
priority = 1000
from     = ["192.168.8.0/24", "fd00:8::/64"]
table    = "isp2"
"#;

/// The network:
///
/// ```text
/// lan 192.168.8.10 ── lan0 router eth0 ── 192.0.2.1 isp1, has 111.11.1.1   main: default
///                                 eth1 ── 10.0.0.1  isp2, has 111.11.1.1
/// ```
///
/// and the same in IPv6: fd00:8::10, 2001:db8:a::1, 2001:db8:b::1, 2001:db8:111::1.
pub struct Bed {
    /// The hosts: `lan`, `router`, `isp1`, `isp2`.
    pub lab: Lab,
    exe: PathBuf,
    next_flow: u32,
}

/// Which way a flow went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// `isp1`, `isp2`, both with a plus, or `nowhere`.
    pub place: String,
    /// Units that arrived, over all places.
    pub packets: u32,
}

/// Longest wait for a step of a TCP connection: one lost packet is sent again within it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What Wayfork may change in a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The RPDB.
    pub rules: Vec<Rule>,
    /// The FIB without the kernel's own local, broadcast and multicast routes.
    pub routes: Vec<Route>,
    /// Digest of the nftables table of Wayfork's marks.
    pub marks: Option<u64>,
}

impl Bed {
    /// Builds it for a test of the binary `exe`. None without privilege, which is said on standard error: the test is left out.
    pub fn new(exe: &str) -> Result<Option<Bed>> {
        let Some(mut lab) = router()? else { return Ok(None) };
        lab.host("lan")?;
        lab.host("isp1")?;
        lab.host("isp2")?;
        lab.wire(
            ("router", "lan0", &["192.168.8.1/24", "fd00:8::1/64"]),
            ("lan", "eth0", &["192.168.8.10/24", "192.168.8.77/24", "fd00:8::10/64", "fd00:8::77/64"]),
        )?;
        lab.wire(
            ("router", "eth0", &["192.0.2.2/24", "2001:db8:a::2/64"]),
            ("isp1", "eth0", &["192.0.2.1/24", "2001:db8:a::1/64"]),
        )?;
        lab.wire(
            ("router", "eth1", &["10.0.0.2/24", "2001:db8:b::2/64"]),
            ("isp2", "eth0", &["10.0.0.1/24", "2001:db8:b::1/64"]),
        )?;
        for isp in ["isp1", "isp2"] {
            lab.hold(isp, &["111.11.1.1/32", "2001:db8:111::1/128"])?;
            lab.receive(isp, &Ports { udp: vec![443, 9000], tcp: vec![443, 9000] })?;
        }
        lab.route("lan", "default", &["192.168.8.1", "fd00:8::1"])?;
        lab.route("router", "default", &["192.0.2.1", "2001:db8:a::1"])?;
        lab.route("isp1", "default", &["192.0.2.2", "2001:db8:a::2"])?;
        lab.route("isp2", "default", &["10.0.0.2", "2001:db8:b::2"])?;
        lab.settle()?;
        Ok(Some(Bed { lab, exe: exe.into(), next_flow: 1 }))
    }

    /// The binary under test.
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// Starts `wayfork run` on the router with a policy, and waits until it is ready.
    pub fn run(&self, mode: &str, policy: &str) -> Result<Daemon> {
        Ok(Daemon::ready(self.lab.netns("router")?, &self.exe, &["-", "--mode", mode], Some(policy))?)
    }

    /// Starts `wayfork run ARGS` on the router, without standard input, and waits until it is ready.
    pub fn run_with(&self, args: &[&str]) -> Result<Daemon> {
        Ok(Daemon::ready(self.lab.netns("router")?, &self.exe, args, None)?)
    }

    /// Runs `wayfork ARGS` on the router to its end.
    pub fn wayfork(&self, args: &[&str]) -> Result<std::process::Output> {
        Ok(process::output(self.lab.netns("router")?, &self.exe, args)?)
    }

    /// Runs `wayfork ARGS` on the router to its end, with this on standard input.
    pub fn wayfork_with(&self, args: &[&str], input: &str) -> Result<std::process::Output> {
        let mut command = std::process::Command::new(&self.exe);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.lab.netns("router")?.spawn(command)?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// `wayfork status --json`.
    pub fn status(&self) -> Result<Value> {
        Ok(process::json(self.lab.netns("router")?, &self.exe, &["--json", "status"])?)
    }

    /// What `status` says of one interface.
    pub fn interface(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let all = status["interfaces"].as_array().context("status has no list of interfaces")?;
        Ok(all.iter().find(|interface| interface["name"] == name).cloned().unwrap_or(Value::Null))
    }

    /// Packets that the fast path redirected so far, over all rules.
    pub fn redirected(&self) -> Result<u64> {
        self.acted("redirect")
    }

    /// Packets of one action of the fast path so far, over all rules.
    pub fn acted(&self, action: &str) -> Result<u64> {
        let status = self.status()?;
        let rules = status["rules"].as_array().context("status has no list of rules")?;
        Ok(rules.iter().filter_map(|rule| rule["actions"][action]["packets"].as_u64()).sum())
    }

    /// Waits until the fast path redirects what the LAN sends to [`FAR`] in both families: neighbours are resolved and known.
    pub fn warm(&mut self) -> Result<()> {
        for family in Family::BOTH {
            eventually(Duration::from_secs(5), "the fast path redirects", || {
                let before = self.redirected()?;
                self.send(family, Proto::Udp, 1)?;
                Ok(self.redirected()? > before)
            })?;
        }
        Ok(())
    }

    /// Sends units from the LAN to [`FAR`] and says which way they went.
    pub fn send(&mut self, family: Family, proto: Proto, units: u32) -> Result<Way> {
        self.flow(["192.168.8.10", "fd00:8::10"][index(family)], proto, 9000, units)
    }

    /// Sends units from an address of the LAN to [`FAR`] and says which way they went.
    pub fn flow(&mut self, from: &str, proto: Proto, dport: u16, units: u32) -> Result<Way> {
        let from: IpAddr = from.parse()?;
        let id = self.next_flow;
        self.next_flow += 1;
        let to = FAR[index(Family::of(from))].parse()?;
        // What cannot be sent arrives nowhere, which is what this returns then.
        drop(self.lab.send("lan", Flow { id, proto, from, to, dport, mark: 0, units }, patience(PATIENCE))?);
        self.lab.tally().wait(id, &["isp1", "isp2"], units, patience(Duration::from_millis(500)));
        let places = self.lab.tally().of(id);
        let names: Vec<&str> = places.keys().map(String::as_str).collect();
        Ok(Way {
            place: if names.is_empty() { "nowhere".to_owned() } else { names.join("+") },
            packets: places.values().map(|arrived| arrived.units() + arrived.duplicates).sum(),
        })
    }

    /// Asserts that a flow of 20 units of each protocol from the LAN goes one way in both families, whole.
    pub fn expect(&mut self, place: &str) -> Result<()> {
        for family in Family::BOTH {
            for proto in Proto::ALL {
                let way = self.send(family, proto, 20)?;
                let wanted = Way { place: place.to_owned(), packets: 20 };
                ensure!(way == wanted, "{family} {proto:?}: {way:?}, not {wanted:?}");
            }
        }
        Ok(())
    }

    /// Waits up to 5 seconds until what [`Bed::expect`] asserts is true, and then asserts it.
    pub fn expect_soon(&mut self, place: &str) -> Result<()> {
        eventually(Duration::from_secs(5), &format!("all goes by {place}"), || Ok(self.expect(place).is_ok()))?;
        self.expect(place)
    }

    /// Works with the router's kernel.
    pub fn kernel<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> wayfork::kernel::Result<T> + Send) -> Result<T> {
        Ok(self.lab.inside("router", || work(&mut Netlink::open()?))?)
    }

    /// What Wayfork may change, as it is now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.kernel(|kernel| {
            let made = |route: &Route| {
                !matches!(
                    route.kind,
                    RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast | RouteKind::Anycast
                )
            };
            let mut routes: Vec<Route> = kernel.routes()?.into_iter().filter(made).collect();
            routes.sort();
            Ok(Snapshot { rules: kernel.rules()?, routes, marks: kernel.mark_chain()? })
        })
    }
}

/// A lab with the host `router`. None without privilege, which is said on standard error: the test is left out.
pub(crate) fn router() -> Result<Option<Lab>> {
    let mut lab = Lab::new();
    match lab.router("router") {
        Err(wayfork::lab::Error::Privilege) => {
            let thread = std::thread::current();
            // Not by eprintln, which the test harness swallows.
            let line = format!("LEFT OUT: {}: needs root\n", thread.name().unwrap_or("a test"));
            std::io::stderr().write_all(line.as_bytes())?;
            Ok(None)
        }
        other => {
            other?;
            Ok(Some(lab))
        }
    }
}

fn index(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

/// Waits until `condition` is true, asking again every 20 ms; an error that names `what` when the time ([`patience`]) is over.
pub fn eventually(time: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience(time);
    while !condition()? {
        ensure!(Instant::now() < deadline, "not within {time:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
