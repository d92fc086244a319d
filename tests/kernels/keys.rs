//! VXLAN and GENEVE beside the router's own packets: what is marked on the way into them, what comes out with a key, and what does
//! not fit the path of the outer packets.

use crate::tools::made_on_both;
use crate::twins;
use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::time::Duration;
use wayfork::lab::needs::patience;
use wayfork::lab::process::Daemon;
use wayfork_tests::frames::{Packet, ethernet, payload, udp};
use wayfork_tests::rig::{Rig, Seen};
use wayfork_tests::twins::{Arrival, Twins, acted, passed};

/// The hardware address of the tunnel device, of the neighbour behind it, and of whoever sends through it.
const OWN_MAC: [u8; 6] = [2, 0x57, 0, 0, 0, 9];
const OTHER_MAC: [u8; 6] = [2, 0x57, 1, 0, 9, 1];

/// Time in which a packet is through.
const QUIET: Duration = Duration::from_millis(100);

/// Adds `tun0` to both routers; false where the kernel has no such device, which is said.
fn tunnel(twins: &Twins, kind: &str) -> Result<bool> {
    made_on_both(twins, kind, &format!("link add tun0 address 02:57:00:00:00:09 type {kind}"))
}

/// Wayfork on the interfaces of the twins and on the tunnel.
fn run(twins: &Twins) -> Result<Daemon> {
    let policy = "[router]\ninterfaces = [\"n?\", \"tun0\"]\n";
    let netns = twins.with.lab.netns(Rig::HOST)?;
    Ok(Daemon::ready(netns, Path::new(crate::EXE), &["-", "--mode", "ebpf"], Some(policy))?)
}

/// What came out of a router: the interface, and the kind of ICMP error where it is one. The outer packets differ in their
/// identification.
fn ways(rig: &Rig, quiet: Duration) -> Result<Vec<(String, Option<[u8; 2]>)>> {
    let way = |seen: Seen| {
        let icmp = seen.icmp();
        (seen.dev, icmp)
    };
    Ok(rig.catch(quiet)?.into_iter().map(way).collect())
}

#[test]
fn marks_do_not_follow_a_packet_into_a_tunnel() -> Result<()> {
    for kind in ["vxlan id 7 remote 10.2.0.2 dstport 4789 local 10.2.0.1", "geneve id 7 remote 10.2.0.2"] {
        let twins = twins!("n3");
        if !tunnel(&twins, kind)? {
            continue;
        }
        // Only tables that are looked up have a class.
        twins.ip("link set tun0 up
                  addr add 10.9.0.1/24 dev tun0
                  neigh add 10.9.0.2 dev tun0 lladdr 02:57:01:00:09:01 nud permanent
                  -4 rule add priority 100 from 10.1.0.7 table 104
                  -4 route add default via 10.9.0.2 table 104
                  -4 rule add priority 200 from 10.1.0.8 table 103")?;
        // Sources are checked: a mark is the most.
        twins.settings(&[("net.ipv4.conf.n1.rp_filter", "1")])?;
        let daemon = twins.run("ebpf", "")?;
        let arrivals = [
            Arrival::udp("into", "n1", "10.1.0.7", Twins::FAR[0])?,
            Arrival::udp("beside", "n1", "10.1.0.8", Twins::FAR[0])?,
        ];
        // A mark would send the outer packet into the tunnel again. On n3's cable it is lost, and only counted.
        let expected = [("n2", (0, 1)), ("n3", (1, 1))];
        for (arrival, (dev, counts)) in arrivals.iter().zip(expected) {
            for rig in [&twins.alone, &twins.with] {
                arrival.send(rig)?;
                let ways: Vec<_> =
                    rig.catch(patience(QUIET))?.into_iter().map(|Seen { dev, caught }| (dev, caught.mark)).collect();
                assert_eq!(ways, [(dev.to_owned(), 0)], "{kind}: {arrival}");
            }
            let counted = (acted(&twins.with, "mark")?, passed(&twins.with, "egress-interface")?);
            assert_eq!(counted, counts, "{kind}: marked, and left for the interface, after {arrival}");
        }
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

/// The packet in the tunnel of that key, as it comes in by n3 for the router.
fn in_tunnel(port: u16, key: u8, packet: &Packet) -> Arrival {
    // The flag that there is a key; or the length of options and the protocol inside, Ethernet.
    let header = if port == 4789 { [8, 0, 0, 0] } else { [0, 0, 0x65, 0x58] };
    let frame = ethernet(OWN_MAC, OTHER_MAC, packet.ethertype(), &packet.bytes());
    let data = [&header[..], &[0, 0, key, 0], &frame].concat();
    let (from, to) = ([10, 3, 0, 7].into(), [10, 3, 0, 1].into());
    let mut outer = Packet::between(from, to);
    (outer.protocol, outer.body) = (17, udp(from, to, 50000, port, &data));
    let name = format!("{port}-{key}-{}", packet.to);
    Arrival::new(&name, "n3", outer)
}

#[test]
fn rules_by_the_key_of_a_tunnel_are_the_stacks() -> Result<()> {
    for (kind, port) in [("vxlan external dstport 4789", 4789), ("geneve external", 6081)] {
        let twins = twins!();
        if !tunnel(&twins, kind)? {
            continue;
        }
        twins.ip("link set tun0 up
                  addr add 10.9.0.1/24 dev tun0
                  addr add fd09::1/64 dev tun0 nodad
                  -4 rule add priority 100 tun_id 7 table 103
                  -6 rule add priority 100 tun_id 7 table 103")?;
        let daemon = run(&twins)?;
        let inner = |key: u8| {
            ["10.9.0.7", "fd09::7"].into_iter().zip(Twins::FAR).map(move |(from, to)| {
                let name = format!("{port}-{key}-{to}");
                Ok::<_, anyhow::Error>((in_tunnel(port, key, &Packet::udp(from, to, &name)?), key))
            })
        };
        for one in inner(7).chain(inner(8)) {
            let (arrival, key) = one?;
            let all = twins.compare(std::slice::from_ref(&arrival))?;
            let [alone, _] = all.get(&arrival.name).with_context(|| format!("{arrival}"))?;
            let devices: Vec<&str> = alone.iter().map(|seen| &*seen.dev).collect();
            assert_eq!(devices, [if key == 7 { "n3" } else { "n2" }], "{kind}: the stack's way for {arrival}");
        }
        let redirected = acted(&twins.with, "redirect")?;
        assert_eq!(redirected, 0, "{kind}: the key is not to be seen");
        ensure!(passed(&twins.with, "rule-selector")? >= 4, "{kind}: {}", twins.with.status()?);
        // What comes out of no tunnel has no key.
        for (from, to) in ["10.1.0.7", "fd01::7"].into_iter().zip(Twins::FAR) {
            twins.compare(&[Arrival::udp(&format!("plain-{to}"), "n1", from, to)?])?;
        }
        assert_eq!(acted(&twins.with, "redirect")?, 2, "{kind}");
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

#[test]
fn what_does_not_fit_the_path_of_a_tunnel() -> Result<()> {
    for kind in [
        "vxlan id 7 remote 10.2.0.2 dstport 4789 local 10.2.0.1 df unset",
        "vxlan id 7 remote 10.2.0.2 dstport 4789 local 10.2.0.1 df set",
        "geneve id 7 remote 10.2.0.2 df unset",
        "geneve id 7 remote 10.2.0.2 df set",
    ] {
        let twins = twins!();
        if !tunnel(&twins, kind)? {
            continue;
        }
        // As large as the device below: with the outer headers it does not fit that.
        twins.ip("link set tun0 mtu 1500 up
                  addr add 10.9.0.1/24 dev tun0
                  addr add fd09::1/64 dev tun0 nodad
                  neigh add 10.9.0.2 dev tun0 lladdr 02:57:01:00:09:01 nud permanent
                  neigh add fd09::2 dev tun0 lladdr 02:57:01:00:09:01 nud permanent
                  -4 route add 203.0.113.0/24 via 10.9.0.2
                  -6 route add 2001:db8:203::/48 via fd09::2")?;
        let daemon = run(&twins)?;
        for (from, to) in [("10.1.0.7", "203.0.113.9"), ("fd01::7", "2001:db8:203::9")] {
            for number in 0..2 {
                let name = format!("large-{to}-{number}");
                let large = Arrival::udp(&name, "n1", from, to)?.but(|packet| {
                    let mut data = payload(&name);
                    data.resize(if packet.to.is_ipv6() { 1452 } else { 1472 }, b'.');
                    packet.body = udp(packet.from, packet.to, 4000, 9000, &data);
                });
                let mut both = Vec::new();
                for rig in [&twins.alone, &twins.with] {
                    large.send(rig)?;
                    both.push(ways(rig, patience(QUIET))?);
                }
                ensure!(both[0] == both[1], "{kind}: {large}: {:?}, with Wayfork {:?}", both[0], both[1]);
            }
        }
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}
