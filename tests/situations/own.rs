//! The router's own packets, which never pass the fast path, and the router once Wayfork has left it.

use crate::twins;
use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wayfork::kernel::Kernel;
use wayfork_tests::frames::payload;
use wayfork_tests::rig::Rig;
use wayfork_tests::twins::{Arrival, Twins, acted, all_by};

/// Rules by marks, sources and ports, one that no packet made here matches, and one that every such packet does.
const RULES: &str = "
    rule add priority 10 fwmark 0x5 table 103
    rule add priority 20 fwmark 0x100/0x100 table 103
    rule add priority 30 ipproto udp dport 9003 table 103
    rule add priority 40 iif n1 table 103
    rule add priority 50 iif lo ipproto udp dport 9004 prohibit";

/// Source, port and mark of a datagram, and the beginning of what becomes of it.
const KINDS: [(bool, u16, u32, &str); 7] = [
    (false, 9000, 0, "n2 "),
    (false, 9000, 5, "n3 "),
    (false, 9000, 0x100, "n3 "),
    (false, 9000, 6, "n2 "),
    (false, 9003, 0, "n3 "),
    (true, 9000, 0, "n2 "),
    (false, 9004, 0, "Permission denied"),
];

/// Where the datagrams that a router makes itself come out and to which neighbour, by name; or the error.
fn sent(rig: &Rig, when: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (to, on_n1) in Twins::FAR.into_iter().zip(["10.1.0.1", "fd01::1"]) {
        for (bound, port, mark, expected) in KINDS {
            let name = format!("{when}-{to}-{port}-{mark:x}-{bound}: {expected}");
            let to = SocketAddr::new(to.parse()?, port);
            let from: Option<IpAddr> = bound.then(|| on_n1.parse()).transpose()?;
            let send = || {
                let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
                socket.set_mark(mark)?;
                if let Some(from) = from {
                    socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
                }
                socket.send_to(&payload(&name), &to.into())
            };
            let answer = rig.lab.inside(Rig::HOST, || Ok(send()))?;
            all.insert(name, answer.err().map(|error| error.to_string()).unwrap_or_default());
        }
    }
    for seen in rig.catch(Duration::from_millis(300))? {
        let way = format!("{} {:02x?}; ", seen.dev, &seen.caught.frame[..6]);
        all.entry(seen.caught.name).or_default().push_str(&way);
    }
    Ok(all)
}

/// Asserts that what the routers make themselves goes the same ways, and those which the rules say.
fn own_packets_agree(twins: &Twins, when: &str) -> Result<()> {
    let (alone, with) = (sent(&twins.alone, when)?, sent(&twins.with, when)?);
    assert_eq!(alone, with);
    let strays = alone.iter().find(|(name, way)| !way.starts_with(name.rsplit(": ").next().unwrap_or_default()));
    ensure!(alone.len() == 2 * KINDS.len() && strays.is_none(), "{strays:?} of {alone:#?}");
    Ok(())
}

#[test]
fn packets_made_here_go_the_same_way_while_others_are_marked_and_after_wayfork_has_left() -> Result<()> {
    // Only what leaves for another namespace may be marked.
    let twins = twins!("n2", "n3");
    for line in RULES.lines().map(str::trim).filter(|line| !line.is_empty()) {
        twins.ip(&format!("-4 {line}\n-6 {line}"))?;
    }
    // Keeps the fast path of n1 from redirecting: it marks.
    twins.settings(&[("net.ipv4.conf.n1.rp_filter", "1")])?;
    let state = |rig: &Rig| rig.kernel(|kernel| Ok((kernel.rules()?, kernel.routes()?)));
    let before = state(&twins.with)?;
    let daemon = twins.run("ebpf", "")?;
    ensure!(twins.with.kernel(|kernel| kernel.rules())?.len() > before.0.len(), "there are rules for its marks");
    let forwarded = |name: &str| -> Result<Vec<Arrival>> {
        let pairs = [("10.1.0.7", Twins::FAR[0]), ("fd01::7", Twins::FAR[1])];
        pairs.into_iter().map(|(from, to)| Arrival::udp(&format!("{name}-{to}"), "n1", from, to)).collect()
    };
    let arrivals = forwarded("while")?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    ensure!(acted(&twins.with, "mark")? == 2, "{}", twins.with.status()?);
    own_packets_agree(&twins, "while")?;
    ensure!(daemon.stop()?.success());
    assert_eq!(state(&twins.with)?, before, "what it left behind");
    own_packets_agree(&twins, "after")?;
    let arrivals = forwarded("after")?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    Ok(())
}
