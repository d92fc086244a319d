//! What only real packets show, a test for each: where the stack has its own say, it gets the packet, and what it says is seen.

use crate::twins;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::time::Duration;
use wayfork_tests::frames::{Packet, echo, payload, udp};
use wayfork_tests::rig::{Rig, Seen};
use wayfork_tests::twins::{Arrival, Departures, Twins, acted, all_by, devices, of_stack, passed, text};

/// Hosts on n1's link, then on n3's.
const HOSTS: [[&str; 2]; 2] = [["10.1.0.7", "fd01::7"], ["10.3.0.7", "fd03::7"]];

/// UDP from n1's host to the far one, in each family.
pub(crate) fn both(name: &str, change: impl Fn(&mut Packet)) -> Result<Vec<Arrival>> {
    let pairs = HOSTS[0].into_iter().zip(Twins::FAR);
    pairs.map(|(from, to)| Ok(Arrival::udp(&format!("{name}-{to}"), "n1", from, to)?.but(&change))).collect()
}

/// Asserts that nothing came out but an ICMP error to n1 for each arrival: type and code in IPv4, and in IPv6.
fn errors(all: &Departures, arrivals: &[Arrival], expected: [[u8; 2]; 2]) -> Result<()> {
    for (arrival, seen) in arrivals.iter().zip(of_stack(all, arrivals)) {
        let expected = expected[usize::from(arrival.packet.to.is_ipv6())];
        let answers: Vec<_> = seen.iter().map(|seen| (&*seen.dev, seen.icmp())).collect();
        ensure!(answers == [("n1", Some(expected))], "{}: {answers:?}, not {expected:?}", arrival.name);
    }
    Ok(())
}

#[test]
fn a_ttl_that_ends_here_draws_time_exceeded() -> Result<()> {
    let twins = twins!();
    let daemon = twins.run("ebpf", "")?;
    for ttl in [0, 1] {
        let arrivals = both(&format!("ttl{ttl}"), |packet| packet.ttl = ttl)?;
        errors(&twins.compare(&arrivals)?, &arrivals, [[11, 0], [3, 0]])?;
    }
    let arrivals = both("ttl2", |packet| packet.ttl = 2)?;
    let all = twins.compare(&arrivals)?;
    all_by(&all, &arrivals, "n2")?;
    for seen in of_stack(&all, &arrivals) {
        let ip = seen[0].ip();
        assert_eq!(if ip[0] == 0x45 { ip[8] } else { ip[7] }, 1, "the TTL that it leaves with");
    }
    assert_eq!((acted(&twins.with, "redirect")?, passed(&twins.with, "ttl")?), (2, 4));
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn towards_an_ifb_device_nothing_leaves_and_nothing_comes_in_again() -> Result<()> {
    let twins = twins!();
    twins.ip("link add ifb8 type ifb
              link set ifb8 up
              route add 111.11.1.1 dev ifb8
              neigh add 111.11.1.1 lladdr 02:00:00:00:00:08 dev ifb8 nud permanent")?;
    let daemon = twins.run("ebpf", "")?;
    // Its TTL would end if it were forwarded twice.
    let arrivals: Vec<Arrival> = both("ifb", |packet| packet.ttl = 2)?.into_iter().take(1).collect();
    let all = twins.compare(&arrivals)?;
    ensure!(of_stack(&all, &arrivals)[0].is_empty(), "{}", text(&all));
    assert_eq!((acted(&twins.with, "redirect")?, passed(&twins.with, "egress-interface")?), (0, 1));
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_gateway_behind_a_route_of_scope_host_counts_as_none() -> Result<()> {
    let twins = twins!();
    // The destination is a neighbour by an address of its own, which tells it from the gateway.
    twins.ip("route add 10.2.0.2/32 dev n2 scope host
              route add 111.11.1.1 via 10.2.0.2
              neigh replace 111.11.1.1 lladdr 02:00:00:00:00:08 dev n2 nud permanent")?;
    let daemon = twins.run("ebpf", "")?;
    let arrivals: Vec<Arrival> = both("gateway", |_| {})?.into_iter().take(1).collect();
    let all = twins.compare(&arrivals)?;
    all_by(&all, &arrivals, "n2")?;
    assert_eq!(of_stack(&all, &arrivals)[0][0].caught.frame[..6], [2, 0, 0, 0, 0, 8]);
    assert_eq!(passed(&twins.with, "route-kind")?, 1);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn ip_options_are_filled_in_by_the_stack() -> Result<()> {
    let twins = twins!();
    let daemon = twins.run("ebpf", "")?;
    // Record route with room for one address, and one byte of padding.
    let arrivals: Vec<Arrival> =
        both("options", |packet| packet.extra = vec![7, 7, 4, 0, 0, 0, 0, 0])?.into_iter().take(1).collect();
    let all = twins.compare(&arrivals)?;
    all_by(&all, &arrivals, "n2")?;
    let recorded = &of_stack(&all, &arrivals)[0][0].ip()[23..27];
    assert_eq!(recorded, [10, 2, 0, 1], "the router's address on the way out");
    assert_eq!(passed(&twins.with, "ip-options")?, 1);
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// Whether each router sent a redirect to n1 for the last packets.
fn redirects(twins: &Twins, arrivals: &[Arrival]) -> Result<[usize; 2]> {
    let mut counts = [0; 2];
    for (count, rig) in counts.iter_mut().zip([&twins.alone, &twins.with]) {
        for arrival in arrivals {
            arrival.send(rig)?;
        }
        let seen = rig.catch(Duration::from_millis(300))?;
        ensure!(seen.iter().all(|seen| seen.dev == "n1"), "{seen:?}");
        let icmp: BTreeSet<_> = seen.iter().filter_map(Seen::icmp).collect();
        *count = icmp.iter().filter(|[kind, _]| matches!(kind, 5 | 137)).count();
        let forwarded = seen.iter().filter(|seen| seen.icmp().is_none()).count();
        ensure!(forwarded == arrivals.len(), "{forwarded} of {} were forwarded back", arrivals.len());
    }
    Ok(counts)
}

#[test]
fn a_way_back_by_the_same_interface_is_the_stacks_only_where_a_redirect_is_due() -> Result<()> {
    let twins = twins!();
    twins.ip("-4 route add 203.0.113.0/24 via 10.1.0.2
              -6 route add 2001:db8:203::/48 via fd01::2 dev n1
              -6 route add 2001:db8:204::/48 via fe80::1:9 dev n1")?;
    let daemon = twins.run("ebpf", "")?;
    let v4 = |name: &str, from: &str| Arrival::udp(name, "n1", from, "203.0.113.9");
    let due = |count: usize, redirected: u64, arrivals: &[Arrival]| -> Result<()> {
        let before = acted(&twins.with, "redirect")?;
        let sent = redirects(&twins, arrivals)?;
        ensure!(sent == [count; 2], "{sent:?} redirects for {}", arrivals[0]);
        let redirected_now = acted(&twins.with, "redirect")? - before;
        ensure!(redirected_now == redirected, "{redirected_now} took the fast path of {}", arrivals[0]);
        Ok(())
    };
    // send_redirects is off on both `all` and the interface.
    due(0, 1, &[v4("off", "10.1.0.7")?])?;
    // IPv6 gives up where the next hop is neither link-local nor the destination.
    due(0, 1, &[Arrival::udp("v6-global", "n1", "fd01::7", "2001:db8:203::9")?])?;
    due(1, 0, &[Arrival::udp("v6-link-local", "n1", "fd01::7", "2001:db8:204::9")?])?;
    drop(daemon);
    twins.settings(&[("net.ipv4.conf.n1.send_redirects", "1")])?;
    let daemon = twins.run("ebpf", "")?;
    due(1, 0, &[v4("on", "10.1.0.7")?])?;
    // From behind another router: nobody on the link to tell.
    due(0, 1, &[v4("on-behind", "198.51.100.9")?])?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn of_several_next_hops_a_flow_takes_the_same_under_every_hash_policy() -> Result<()> {
    let twins = twins!();
    twins.ip("-4 route add 203.0.113.0/24 nexthop via 10.2.0.2 nexthop via 10.3.0.2
              -6 route add 2001:db8:203::/48 nexthop via fd02::2 dev n2 nexthop via fd03::2 dev n3")?;
    // One seed for both routers, where the kernel has it (6.11).
    let seed = "net.ipv4.fib_multipath_hash_seed";
    if twins.alone.lab.inside(Rig::HOST, || wayfork::kernel::admin::read_setting(seed))?.is_some() {
        twins.settings(&[(seed, "7")])?;
    }
    for policy in ["0", "1", "2", "3"] {
        twins.settings(&[
            ("net.ipv4.fib_multipath_hash_policy", policy),
            ("net.ipv6.fib_multipath_hash_policy", policy),
        ])?;
        let daemon = twins.run("ebpf", "")?;
        let mut arrivals = Vec::new();
        for number in 0..40u16 {
            for (from, to) in [
                (format!("10.1.0.{}", 10 + number), format!("203.0.113.{}", 10 + number)),
                (format!("fd01::{number}:7"), format!("2001:db8:203::{number}:9")),
            ] {
                let name = format!("many-{number}-{to}");
                arrivals.push(Arrival::udp(&name, "n1", &from, &to)?.but(|packet| {
                    packet.body = udp(packet.from, packet.to, 4000 + number, 9000, &payload(&name));
                }));
            }
        }
        let all = twins.compare(&arrivals)?;
        let taken: BTreeSet<&str> = all.values().flat_map(|[alone, _]| devices(alone)).collect();
        assert_eq!(taken, BTreeSet::from(["n2", "n3"]), "policy {policy} chooses among both");
        assert_eq!(passed(&twins.with, "multipath")?, 80, "policy {policy}");
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

#[test]
fn martian_sources_are_dropped_as_the_stack_drops_them() -> Result<()> {
    let twins = twins!();
    let daemon = twins.run("ebpf", "")?;
    let mut arrivals = Vec::new();
    for from in
        ["127.0.0.9", "0.1.2.3", "224.1.2.3", "255.255.255.255", "240.0.0.1", "10.1.0.1", "10.3.0.1", "10.1.0.255"]
    {
        arrivals.push(Arrival::udp(&format!("from-{from}"), "n1", from, Twins::FAR[0])?);
    }
    for from in ["::1", "::", "ff0e::9", "fe80::9"] {
        arrivals.push(Arrival::udp(&format!("from-{from}"), "n1", from, Twins::FAR[1])?);
    }
    let forwarded = || -> Result<Vec<String>> {
        let all = twins.compare(&arrivals)?;
        let forwarded = all.into_iter().filter(|(_, [alone, _])| devices(alone).contains(&"n2"));
        Ok(forwarded.map(|(name, _)| name).collect())
    };
    // The ranges 0.0.0.0/8 (but for 0.0.0.0) and 240.0.0.0/4 are sources like others. That a broadcast address is none only a
    // look into the tables shows, which IPv4 spares itself until a rule is added for the first time (`fib_validate_source()`).
    assert_eq!(forwarded()?, ["from-0.1.2.3", "from-10.1.0.255", "from-240.0.0.1"]);
    twins.ip("-4 rule add priority 10 from 198.51.100.1 table 102")?;
    assert_eq!(forwarded()?, ["from-0.1.2.3", "from-240.0.0.1"]);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn link_local_sources_are_forwarded_back_by_where_they_came_from_alone() -> Result<()> {
    let twins = twins!();
    twins.ip("-6 route add 2001:db8:203::/48 via fd01::2 dev n1")?;
    let daemon = twins.run("ebpf", "")?;
    let mut arrivals = Vec::new();
    for from in ["fe80::9", "::", "ff0e::9", "::1"] {
        for (way, to) in [("on", Twins::FAR[1]), ("back", "2001:db8:203::9")] {
            arrivals.push(Arrival::udp(&format!("{way}-{from}"), "n1", from, to)?);
        }
    }
    let all = twins.compare(&arrivals)?;
    // `ip6_forward` asks what kind of source it is only where it does not think of a redirect.
    let forwarded = all.iter().filter(|(_, [alone, _])| alone.iter().any(|seen| seen.icmp().is_none()));
    let names: Vec<&str> = forwarded.map(|(name, _)| &**name).collect();
    assert_eq!(names, ["back-::", "back-fe80::9"]);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn rules_before_the_moved_local_rule_take_even_the_hosts_own_addresses() -> Result<()> {
    let twins = twins!();
    twins.ip("-4 rule add priority 10 iif n1 to 10.3.0.1 table 102
              -6 rule add priority 10 iif n1 to fd03::1 table 102
              -4 rule add priority 20 table local
              -4 rule del priority 0
              -6 rule add priority 20 table local
              -6 rule del priority 0")?;
    let daemon = twins.run("ebpf", "")?;
    let mut arrivals = both("far", |_| {})?;
    for (number, to) in ["10.3.0.1", "fd03::1"].into_iter().enumerate() {
        arrivals.push(Arrival::udp(&format!("own-{to}"), "n1", HOSTS[0][number], to)?);
    }
    all_by(&twins.compare(&arrivals)?, &arrivals, "n2")?;
    // Limited broadcast and multicast come before all rules.
    let first = [
        Arrival::udp("broadcast", "n1", "10.1.0.7", "255.255.255.255")?,
        Arrival::udp("multicast", "n1", "10.1.0.7", "224.0.0.9")?,
    ];
    let all = twins.compare(&first)?;
    ensure!(of_stack(&all, &first).iter().all(|seen| seen.is_empty()), "{}", text(&all));
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_rule_that_negates_an_interface_that_is_gone_matches_everything() -> Result<()> {
    let twins = twins!();
    for family in ["-4", "-6"] {
        twins.ip(&format!(
            "{family} rule add priority 10 iif gone table 102
                           {family} rule add priority 20 not iif gone table 103"
        ))?;
    }
    let daemon = twins.run("ebpf", "")?;
    let arrivals = both("gone", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    assert_eq!(acted(&twins.with, "redirect")?, 2);
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_gateway_that_is_the_hosts_own_address_counts_as_none() -> Result<()> {
    let twins = twins!();
    twins.ip("-4 route add 111.11.0.0/16 via 10.2.0.1 dev n2")?;
    let daemon = twins.run("ebpf", "")?;
    let arrivals = [Arrival::udp("own-gateway", "n1", HOSTS[0][0], Twins::FAR[0])?];
    let all = twins.compare(&arrivals)?;
    all_by(&all, &arrivals, "n2")?;
    // To the destination itself, which is the sixth neighbour.
    assert_eq!(of_stack(&all, &arrivals)[0][0].caught.frame[..6], Rig::neighbour_mac(2, 6));
    assert_eq!(passed(&twins.with, "route-kind")?, 1);
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// Rules that send port 9000 by n3.
pub(crate) const BY_PORT: &str = "
    -4 rule add priority 10 ipproto udp dport 9000 table 103
    -6 rule add priority 10 ipproto udp dport 9000 table 103";

#[test]
fn every_fragment_is_without_ports_to_the_rules() -> Result<()> {
    let twins = twins!();
    twins.ip(BY_PORT)?;
    let daemon = twins.run("ebpf", "")?;
    let arrivals = both("whole", |_| {})?;
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    for (offset, more) in [(0, true), (72, true), (72, false)] {
        let arrivals = both(&format!("fragment-{offset}-{more}"), |packet| packet.fragment_as(offset, more))?;
        all_by(&twins.compare(&arrivals)?, &arrivals, "n2")?;
    }
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn ports_behind_ipv6_extension_headers_are_seen_by_the_rules() -> Result<()> {
    let twins = twins!();
    twins.ip(BY_PORT)?;
    let daemon = twins.run("ebpf", "")?;
    let arrival = |name: &str, header: u8, chain: &dyn Fn(u8) -> Vec<u8>| -> Result<Arrival> {
        Ok(Arrival::udp(name, "n1", HOSTS[0][1], Twins::FAR[1])?.but(|packet| {
            packet.extra = chain(packet.protocol);
            packet.protocol = header;
        }))
    };
    let padding = |next| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let arrivals = [
        arrival("hop-by-hop", 0, &padding)?,
        arrival("destination", 60, &padding)?,
        arrival("two", 0, &|next| [padding(60), padding(next)].concat())?,
        // A routing header with no segments left.
        arrival("routing", 43, &|next| vec![next, 0, 4, 0, 0, 0, 0, 0])?,
    ];
    all_by(&twins.compare(&arrivals)?, &arrivals, "n3")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn where_forwarding_is_off_nothing_is_forwarded() -> Result<()> {
    let twins = twins!();
    // IPv6: `all` decides, whatever the interface says; IPv4: the interface.
    twins.settings(&[
        ("net.ipv6.conf.all.forwarding", "0"),
        ("net.ipv6.conf.n1.forwarding", "1"),
        ("net.ipv4.conf.n1.forwarding", "0"),
    ])?;
    let daemon = twins.run("auto", "")?;
    let mut arrivals = both("off", |_| {})?;
    arrivals.push(Arrival::udp("off-n3-v6", "n3", HOSTS[1][1], Twins::FAR[1])?);
    let all = twins.compare(&arrivals)?;
    for seen in of_stack(&all, &arrivals) {
        ensure!(!devices(seen).contains(&"n2"), "{seen:?}");
    }
    let on = [Arrival::udp("on-n3-v4", "n3", HOSTS[1][0], Twins::FAR[0])?];
    all_by(&twins.compare(&on)?, &on, "n2")?;
    ensure!(daemon.stop()?.success());
    // As soon as it is allowed, it is forwarded; and the other way round.
    let daemon = twins.run("auto", "")?;
    for (value, came) in [("1", true), ("0", false)] {
        twins.settings(&[("net.ipv4.conf.n1.forwarding", value), ("net.ipv6.conf.all.forwarding", value)])?;
        // The kernel does not announce it: it is found at the next look, twice a second.
        std::thread::sleep(Duration::from_millis(700));
        let arrivals = both(&format!("now-{value}"), |_| {})?;
        let all = twins.compare(&arrivals)?;
        for seen in of_stack(&all, &arrivals) {
            ensure!(devices(seen).contains(&"n2") == came, "{value}: {seen:?}");
        }
    }
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn refusals_are_answered_by_the_stack_with_their_own_codes() -> Result<()> {
    let twins = twins!();
    // By rule and by route. IPv4: net unreachable for a rule, host unreachable for a route; filtered for both.
    let cases = [
        ("unreachable", "rule add priority 10 to DST unreachable", [[3, 0], [1, 0]]),
        ("prohibit", "rule add priority 10 to DST prohibit", [[3, 13], [1, 1]]),
        ("route-unreachable", "route add unreachable DST", [[3, 1], [1, 0]]),
        ("route-prohibit", "route add prohibit DST", [[3, 13], [1, 1]]),
    ];
    for (name, command, codes) in cases {
        let commands = |undo: bool| {
            let command = if undo { command.replace("add", "del") } else { command.to_owned() };
            format!(
                "-4 {}\n-6 {}",
                command.replace("DST", &format!("{}/32", Twins::FAR[0])),
                command.replace("DST", &format!("{}/128", Twins::FAR[1]))
            )
        };
        twins.ip(&commands(false))?;
        let daemon = twins.run("ebpf", "")?;
        let arrivals = both(name, |_| {})?;
        errors(&twins.compare(&arrivals)?, &arrivals, codes)?;
        assert_eq!(passed(&twins.with, "icmp-error")?, 2, "{name}");
        ensure!(daemon.stop()?.success());
        twins.ip(&commands(true))?;
    }
    // A blackhole says nothing.
    twins.ip("-4 rule add priority 10 to 111.11.1.1 blackhole
              -6 rule add priority 10 to 2001:db8:111::1 blackhole")?;
    let daemon = twins.run("ebpf", "")?;
    let arrivals = both("blackhole", |_| {})?;
    let all = twins.compare(&arrivals)?;
    ensure!(of_stack(&all, &arrivals).iter().all(|seen| seen.is_empty()), "{}", text(&all));
    assert_eq!(acted(&twins.with, "drop")?, 2);
    // And no route at all.
    ensure!(daemon.stop()?.success());
    twins.ip("-4 rule del priority 10
              -6 rule del priority 10
              -4 route del default
              -6 route del default")?;
    let daemon = twins.run("ebpf", "")?;
    let arrivals = both("no-route", |_| {})?;
    errors(&twins.compare(&arrivals)?, &arrivals, [[3, 0], [1, 0]])?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn echo_and_unknown_protocols_are_forwarded_by_the_fast_path() -> Result<()> {
    let twins = twins!();
    let daemon = twins.run("ebpf", "")?;
    let mut arrivals = both("other", |packet| packet.protocol = 253)?;
    arrivals.extend(both("echo", |packet| {
        packet.protocol = if packet.to.is_ipv4() { 1 } else { 58 };
        packet.body = echo(
            packet.from,
            packet.to,
            7,
            &payload(if packet.to.is_ipv4() { "echo-111.11.1.1" } else { "echo-2001:db8:111::1" }),
        );
    })?);
    all_by(&twins.compare(&arrivals)?, &arrivals, "n2")?;
    assert_eq!(acted(&twins.with, "redirect")?, 4);
    ensure!(daemon.stop()?.success());
    Ok(())
}
