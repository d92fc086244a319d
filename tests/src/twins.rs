//! Two routers that are built alike, one alone with its stack, the other with `wayfork run`: whatever comes in comes out the same.

use crate::frames::Packet;
use crate::rig::{Kind, Rig, Seen};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use wayfork::kernel::Kernel;
use wayfork::lab::needs::patience;
use wayfork::lab::process::Daemon;
use wayfork::model::{OWN_PROTOCOL, Rule};

/// A packet that comes in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The name in its tag.
    pub name: String,
    /// The interface.
    pub dev: String,
    /// Its mark.
    pub mark: u32,
    /// What it is.
    pub packet: Packet,
    /// Bytes of payload of each segment; 0 where it is one.
    pub segments: u16,
}

/// What came out of the stack alone and of the one with Wayfork, by the name of what came in.
pub type Departures = BTreeMap<String, [Vec<Seen>; 2]>;

/// The two routers.
pub struct Twins {
    /// The stack alone.
    pub alone: Rig,
    /// The one that Wayfork runs on.
    pub with: Rig,
}

/// Time in which a packet is through, and the same on a busy machine.
const QUIET: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(400)];

impl Arrival {
    /// A packet without a mark.
    pub fn new(name: &str, dev: &str, packet: Packet) -> Self {
        Arrival { name: name.to_owned(), dev: dev.to_owned(), mark: 0, packet, segments: 0 }
    }

    /// UDP from port 4000 to port 9000.
    pub fn udp(name: &str, dev: &str, from: &str, to: &str) -> Result<Self> {
        Ok(Self::new(name, dev, Packet::udp(from, to, name)?))
    }

    /// With that mark.
    #[must_use]
    pub fn marked(self, mark: u32) -> Self {
        Arrival { mark, ..self }
    }

    /// With a packet that is different.
    #[must_use]
    pub fn but(mut self, change: impl FnOnce(&mut Packet)) -> Self {
        change(&mut self.packet);
        self
    }

    /// Lets it come in.
    pub fn send(&self, rig: &Rig) -> Result<()> {
        match self.segments {
            0 => rig.send(&self.dev, &self.packet.bytes(), self.mark),
            size => rig.send_segments(&self.dev, &self.packet.bytes(), self.mark, size),
        }
        .with_context(|| self.to_string())
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.packet.bytes();
        let head = &bytes[..bytes.len().min(80)];
        write!(f, "{} in by {} mark {:#x} segments of {} bytes, ", self.name, self.dev, self.mark, self.segments)?;
        write!(f, "{} bytes in all: {head:02x?}", bytes.len())
    }
}

impl Twins {
    /// Destinations behind the router: by n2, unless something else is said.
    pub const FAR: [&str; 2] = ["111.11.1.1", "2001:db8:111::1"];

    /// Routers with interfaces n1, n2 and n3, addresses 10.N.0.1/24 and fd0N::1/64, defaults by n2's gateway, and tables 102
    /// and 103 with defaults by n2's and n3's. On each link are 10.N.0.2 and fd0N::2 (the gateways), 10.N.0.7 and fd0N::7, and
    /// fe80::N:9, the first to fifth neighbour; [`Twins::FAR`] are the last two. None without privilege.
    ///
    /// The far ends of the cables of the interfaces in `apart` are apart ([`Rig::apart`]): what goes there may be marked. As it is
    /// caught without its mark, [`acted`] has to say how much was.
    pub fn new(exe: &str, apart: &[&str]) -> Result<Option<Twins>> {
        let (Some(alone), Some(with)) = (basic(exe, apart)?, basic(exe, apart)?) else { return Ok(None) };
        Ok(Some(Twins { alone, with }))
    }

    /// Does the same to both.
    pub fn each(&self, mut work: impl FnMut(&Rig) -> Result<()>) -> Result<()> {
        work(&self.alone)?;
        work(&self.with)
    }

    /// Runs lines of commands of `ip` on both.
    pub fn ip(&self, commands: &str) -> Result<()> {
        self.each(|rig| rig.ip(commands))
    }

    /// Writes settings of both.
    pub fn settings(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.each(|rig| Ok(rig.lab.settings(Rig::HOST, settings)?))
    }

    /// Starts Wayfork on the one.
    pub fn run(&self, mode: &str, policy: &str) -> Result<Daemon> {
        self.with.run(mode, policy)
    }

    /// What came out of both. Of the marks without Wayfork's own bits: those of its class rules and of its rules for sets, which the
    /// stack alone has no rules for.
    fn send(&self, arrivals: &[&Arrival], quiet: Duration) -> Result<Departures> {
        let rules = self.with.kernel(|kernel| kernel.rules())?;
        let classes = rules.iter().filter_map(wayfork::safety::as_class_rule);
        let class_bits = classes.fold(0, |all, (bits, _, _)| all | bits);
        let masks = |rules: &[Rule], own: bool| {
            let of_owner = rules.iter().filter(|rule| !own || rule.protocol == OWN_PROTOCOL);
            of_owner.filter_map(|rule| rule.selectors.fwmark).fold(0, |all, (_, mask)| all | mask)
        };
        let own_bits = class_bits | masks(&rules, true) & !masks(&self.alone.kernel(|kernel| kernel.rules())?, false);
        let mut all: Departures = arrivals.iter().map(|arrival| (arrival.name.clone(), Default::default())).collect();
        for (place, rig) in [&self.alone, &self.with].into_iter().enumerate() {
            for arrival in arrivals {
                arrival.send(rig)?;
            }
            for one in comparable(rig.catch(quiet)?, own_bits) {
                all.entry(one.caught.name.clone()).or_default()[place].push(one);
            }
        }
        Ok(all)
    }

    /// Lets everything come in at both, and says what came out; an error where that is not the same.
    ///
    /// A busy machine delivers late, and IPv4 sends a host one error a second once it has sent five (`ip_error()`): what
    /// differed is sent once more, by itself, with more patience and after a second.
    pub fn compare(&self, arrivals: &[Arrival]) -> Result<Departures> {
        let mut all = self.send(&arrivals.iter().collect::<Vec<_>>(), QUIET[0])?;
        for arrival in arrivals {
            if all.get(&arrival.name).is_some_and(|[one, other]| one != other) {
                std::thread::sleep(Duration::from_millis(1100));
                let again = self.send(&[arrival], patience(QUIET[1]))?;
                let same = again.values().all(|[one, other]| one == other);
                ensure!(same, "{arrival}\n{}{}", text(&again), self.with.status()?);
                all.extend(again);
            }
        }
        Ok(all)
    }
}

fn basic(exe: &str, apart: &[&str]) -> Result<Option<Rig>> {
    let Some(mut rig) = Rig::new(exe)? else { return Ok(None) };
    rig.apart(apart)?;
    for number in 1..=3 {
        let (dev, v4, v6) = (format!("n{number}"), format!("10.{number}.0.1/24"), format!("fd0{number}::1/64"));
        rig.interface(&dev, number, Kind::Veth, 1500, &[&v4, &v6])?;
    }
    rig.settle()?;
    for number in 1..=3 {
        let mut all: Vec<IpAddr> = Vec::new();
        for text in [
            format!("10.{number}.0.2"),
            format!("fd0{number}::2"),
            format!("10.{number}.0.7"),
            format!("fd0{number}::7"),
            format!("fe80::{number}:9"),
        ]
        .iter()
        .map(String::as_str)
        .chain(Twins::FAR)
        {
            all.push(text.parse()?);
        }
        rig.neighbours(&format!("n{number}"), number, &all)?;
    }
    for (table, number) in [("main", 2), ("102", 2), ("103", 3)] {
        rig.ip(&format!(
            "-4 route add default via 10.{number}.0.2 table {table}
             -6 route add default via fd0{number}::2 dev n{number} table {table}"
        ))?;
    }
    Ok(Some(rig))
}

/// What is compared: everything but what the stack makes up anew for each packet of its own, and how often it sends redirects
/// (a clock and one budget for each neighbour decide that: `ip_rt_send_redirect()`, `ndisc_send_redirect()`).
fn comparable(seen: Vec<Seen>, own_bits: u32) -> Vec<Seen> {
    let mut all = Vec::new();
    for mut one in seen {
        one.caught.mark &= !own_bits;
        let packet = ip_of_mut(&mut one.caught.frame);
        // Errors, redirects and echo replies are the router's own. A later fragment may be one of those.
        let later = packet[0] >> 4 == 4 && (packet[6] & 0x1f, packet[7]) != (0, 0);
        let v4_own = packet[0] == 0x45 && packet[9] == 1 && (later || matches!(packet[20], 0 | 3 | 5 | 11 | 12));
        let v6_own = packet[0] >> 4 == 6 && packet[6] == 58 && (packet[40] < 128 || matches!(packet[40], 129 | 137));
        if v4_own && !later && packet[20] == 5 || v6_own && packet[40] == 137 {
            continue;
        }
        if v4_own {
            // Identification, and with it the checksum.
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        let v6_fragment = packet[0] >> 4 == 6 && (packet[6], packet[40]) == (44, 58);
        if v6_own || v6_fragment {
            // The flow label.
            packet[1] &= 0xf0;
            packet[2..4].fill(0);
        }
        if v6_fragment {
            // Identification: of a long echo reply it is the router's own.
            packet[44..48].fill(0);
        }
        all.push(one);
    }
    all.sort();
    all
}

/// Where the IP header begins: a TUN device gives none before it.
fn ip_start(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([8, 0] | [0x86, 0xdd]) => 14,
        _ => 0,
    }
}

fn ip_of_mut(frame: &mut [u8]) -> &mut [u8] {
    let start = ip_start(frame);
    &mut frame[start..]
}

impl Seen {
    /// The IP packet in it.
    pub fn ip(&self) -> &[u8] {
        &self.caught.frame[ip_start(&self.caught.frame)..]
    }

    /// Type and code, if it is ICMP or ICMPv6.
    pub fn icmp(&self) -> Option<[u8; 2]> {
        let ip = self.ip();
        let start = match (ip[0] >> 4, ip[9], ip[6]) {
            (4, 1, _) => usize::from(ip[0] & 15) * 4,
            (6, _, 58) => 40,
            _ => return None,
        };
        Some([ip[start], ip[start + 1]])
    }
}

/// What the stack alone let out for each arrival, in order; [`Twins::compare`] has found that it is the same with Wayfork.
pub fn of_stack<'a>(all: &'a Departures, arrivals: &[Arrival]) -> Vec<&'a [Seen]> {
    arrivals.iter().map(|arrival| &*all[&arrival.name][0]).collect()
}

/// The interfaces that they came out of.
pub fn devices(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| &*seen.dev).collect()
}

/// Asserts that one thing came out for each arrival, by a device.
pub fn all_by(all: &Departures, arrivals: &[Arrival], dev: &str) -> Result<()> {
    for seen in of_stack(all, arrivals) {
        ensure!(devices(seen) == [dev], "not by {dev}: {seen:?}");
    }
    Ok(())
}

/// What came out, in words.
pub fn text(all: &Departures) -> String {
    let mut text = String::new();
    for (name, seen) in all.values().flat_map(|sides| ["stack", "wayfork"].into_iter().zip(sides)) {
        if seen.is_empty() {
            text += &format!("{name}: nothing\n");
        }
        for Seen { dev, caught } in seen {
            let head = &caught.frame[..caught.frame.len().min(80)];
            text += &format!("{name}: {dev} mark {:#x} segments of {} bytes, ", caught.mark, caught.gso_size);
            text += &format!("{} bytes in all: {head:02x?}\n", caught.frame.len());
        }
    }
    text
}

/// Packets of one action of the fast path so far, over all rules.
pub fn acted(rig: &Rig, action: &str) -> Result<u64> {
    let status = rig.status()?;
    let rules = status["rules"].as_array().context("status has no list of rules")?;
    Ok(rules.iter().filter_map(|rule| rule["actions"][action]["packets"].as_u64()).sum())
}

/// Packets left to the stack so far for a reason.
pub fn passed(rig: &Rig, reason: &str) -> Result<u64> {
    Ok(rig.status()?["pass_reasons"][reason].as_u64().unwrap_or(0))
}
