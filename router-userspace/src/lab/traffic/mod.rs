//! Traffic that Wayfork makes itself: ICMP echo, UDP and TCP of both families, and receivers that count it.
//!
//! Every unit of traffic (an echo request, a datagram, a piece of a TCP stream) carries the number of its flow and its own
//! number in the flow, so that a receiver knows what it got, what is missing and what came twice, without asking anyone.

mod receive;
mod send;

pub use receive::{Ports, Receiver, Sockets, Watch};
pub use send::Sender;

use crate::model::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What a flow is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// ICMP or ICMPv6 echo requests.
    Icmp,
    /// Datagrams.
    Udp,
    /// One connection, its bytes in pieces of [`UNIT`].
    Tcp,
}

impl Proto {
    /// All of them.
    pub const ALL: [Proto; 3] = [Proto::Icmp, Proto::Udp, Proto::Tcp];

    /// The name that `ip rule … ipproto` takes.
    pub fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Proto::Icmp, Family::Ipv4) => "icmp",
            (Proto::Icmp, Family::Ipv6) => "ipv6-icmp",
            (Proto::Udp, _) => "udp",
            (Proto::Tcp, _) => "tcp",
        }
    }
}

/// A flow: who sends how much of what to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its number, unique in its lab.
    pub id: u32,
    /// What it is made of.
    pub proto: Proto,
    /// Source address; the sending host must have it.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Destination port; not used by ICMP.
    pub dport: u16,
    /// SO_MARK of the sending socket; 0 for none.
    pub mark: u32,
    /// How many units.
    pub units: u32,
}

impl Flow {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.to)
    }
}

/// Bytes of one unit: `MAGIC`, flow, number, and padding. Small enough for every MTU that IPv6 allows.
pub const UNIT: usize = 512;
const MAGIC: [u8; 4] = *b"wayf";

/// One unit of a flow.
fn unit(flow: u32, number: u32) -> [u8; UNIT] {
    let mut bytes = [0u8; UNIT];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = index as u8 ^ number as u8;
    }
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&flow.to_be_bytes());
    bytes[8..12].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Flow and number of a unit; None for anything else, a damaged unit included.
fn read_unit(bytes: &[u8]) -> Option<(u32, u32)> {
    let flow = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    let number = u32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    (bytes == unit(flow, number)).then_some((flow, number))
}

/// What of one flow came to one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// The numbers of the units that came.
    pub numbers: BTreeSet<u32>,
    /// Units that came again.
    pub duplicates: u32,
    /// The TTLs or hop limits they came with; empty for TCP.
    pub ttls: BTreeSet<u8>,
}

impl Arrived {
    /// How many different units came.
    pub fn units(&self) -> u32 {
        self.numbers.len() as u32
    }
}

/// What came where, counted by the receivers of one lab. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<(Mutex<Counts>, Condvar)>);

/// By flow and place.
type Counts = BTreeMap<u32, BTreeMap<String, Arrived>>;

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one unit.
    pub fn record(&self, place: &str, flow: u32, number: u32, ttl: Option<u8>) {
        let mut count = self.lock();
        let arrived = count.entry(flow).or_default().entry(place.to_owned()).or_default();
        if !arrived.numbers.insert(number) {
            arrived.duplicates += 1;
        }
        arrived.ttls.extend(ttl);
        self.0.1.notify_all();
    }

    /// What came of a flow, by place.
    pub fn of(&self, flow: u32) -> BTreeMap<String, Arrived> {
        self.lock().get(&flow).cloned().unwrap_or_default()
    }

    /// Waits until `units` of a flow came to the places together, or the time is over; true when they came.
    pub fn wait(&self, flow: u32, places: &[&str], units: u32, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut count = self.lock();
        loop {
            let came = |place: &&str| count.get(&flow)?.get(*place).map(Arrived::units);
            let came: u32 = places.iter().filter_map(came).sum();
            if came >= units {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            count = match self.0.1.wait_timeout(count, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Every change is one whole entry, so a receiver that panicked elsewhere left nothing half-counted.
        self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_reads_back_and_a_damaged_one_does_not() {
        let mut bytes = unit(7, 300);
        assert_eq!(read_unit(&bytes), Some((7, 300)));
        assert_eq!(read_unit(&bytes[..UNIT - 1]), None);
        bytes[400] ^= 1;
        assert_eq!(read_unit(&bytes), None);
    }

    #[test]
    fn the_tally_tells_places_numbers_and_duplicates_apart() {
        let tally = Tally::new();
        tally.record("isp1", 1, 0, Some(63));
        tally.record("isp1", 1, 0, Some(63));
        tally.record("isp2", 1, 1, Some(62));
        let count = tally.of(1);
        assert_eq!((count["isp1"].units(), count["isp1"].duplicates), (1, 1));
        assert_eq!(count["isp2"].ttls, BTreeSet::from([62]));
        assert!(tally.wait(1, &["isp1", "isp2"], 2, Duration::ZERO));
        assert!(!tally.wait(1, &["isp1", "isp2"], 3, Duration::from_millis(1)));
        assert!(tally.of(2).is_empty());
    }
}
