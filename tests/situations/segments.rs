//! TCP packets of many segments, as GRO and segmentation offload make them, against the MTUs of devices and routes.

use crate::twins;
use anyhow::{Result, ensure};
use wayfork_tests::frames::{Packet, payload, tcp};
use wayfork_tests::twins::{Arrival, Twins, acted, all_by, of_stack, text};

/// TCP packets of many segments, each of which is an IP packet of `lengths` bytes in the families.
fn segments(name: &str, lengths: [u16; 2], whole: bool) -> Result<Vec<Arrival>> {
    let pairs = ["10.1.0.7", "fd01::7"].into_iter().zip(Twins::FAR).zip(lengths).zip([40, 60]);
    pairs
        .map(|(((from, to), length), headers)| {
            let size = length - headers;
            let name = format!("{name}-{length}-{to}");
            let data: Vec<u8> = payload(&name).into_iter().cycle().take(usize::from(size) * 4 + 100).collect();
            let mut packet = Packet::between(from.parse()?, to.parse()?);
            packet.protocol = 6;
            packet.fragment = if whole { 0x4000 } else { 0 };
            packet.body = tcp(packet.from, packet.to, 4000, 9000, &data, true);
            Ok(Arrival { segments: size, ..Arrival::new(&name, "n1", packet) })
        })
        .collect()
}

/// Segments that fit leave as they came, uncut; those that do not are the stack's, which says how much would fit.
fn fit(twins: &Twins, limit: u16) -> Result<()> {
    let daemon = twins.run("ebpf", "")?;
    let before = acted(&twins.with, "redirect")?;
    let arrivals = segments("fits", [limit; 2], true)?;
    let all = twins.compare(&arrivals)?;
    all_by(&all, &arrivals, "n2")?;
    for (arrival, seen) in arrivals.iter().zip(of_stack(&all, &arrivals)) {
        assert_eq!(seen[0].caught.gso_size, arrival.segments, "whole");
    }
    assert_eq!(acted(&twins.with, "redirect")? - before, 2);
    let arrivals = segments("too-long", [limit + 1; 2], true)?;
    let all = twins.compare(&arrivals)?;
    for (arrival, seen) in arrivals.iter().zip(of_stack(&all, &arrivals)) {
        let v6 = arrival.packet.to.is_ipv6();
        ensure!(!seen.is_empty(), "{} drew no error", arrival.name);
        for seen in seen {
            assert_eq!((&*seen.dev, seen.icmp()), ("n1", Some(if v6 { [2, 0] } else { [3, 4] })));
            let mtu = if v6 { &seen.ip()[46..48] } else { &seen.ip()[26..28] };
            assert_eq!(mtu, limit.to_be_bytes(), "what fits");
        }
    }
    assert_eq!(acted(&twins.with, "redirect")? - before, 2);
    // IPv4 may cut what does not forbid it, each segment into fragments; the last of each is too short for a tag.
    let arrivals: Vec<Arrival> = segments("cut", [limit + 1; 2], false)?.into_iter().take(1).collect();
    let all = twins.compare(&arrivals)?;
    ensure!(of_stack(&all, &arrivals)[0].len() == 5, "{}", text(&all));
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn segments_are_measured_by_the_mtu_of_the_device() -> Result<()> {
    let twins = twins!();
    twins.ip("link set n2 mtu 1400")?;
    fit(&twins, 1400)
}

#[test]
fn segments_are_measured_by_the_mtu_of_the_route() -> Result<()> {
    let twins = twins!();
    twins.ip("-4 route add 111.11.1.1/32 via 10.2.0.2 mtu 1340
              -6 route add 2001:db8:111::1/128 via fd02::2 dev n2 mtu 1340")?;
    fit(&twins, 1340)
}

#[test]
fn a_locked_mtu_of_an_ipv6_route_counts_whatever_the_device_says() -> Result<()> {
    let twins = twins!();
    twins.ip("link set n2 mtu 1400
              -6 route add 2001:db8:111::1/128 via fd02::2 dev n2 mtu lock 1450")?;
    // IPv4 has the device's alone, and 1400 fits there.
    let daemon = twins.run("ebpf", "")?;
    for (length, dev) in [(1450, "n2"), (1451, "n1")] {
        let arrivals: Vec<Arrival> = segments("locked", [1400, length], true)?.split_off(1);
        all_by(&twins.compare(&arrivals)?, &arrivals, dev)?;
    }
    assert_eq!(acted(&twins.with, "redirect")?, 1);
    ensure!(daemon.stop()?.success());
    Ok(())
}
