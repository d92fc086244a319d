//! Chains of nftables that RTM_GETROUTE cannot see, and what checks sources: the packets go where the stack alone sends them, and
//! the guard allows no more than that leaves true.

use crate::twins;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wayfork_tests::frames::{Packet, payload, tcp, udp};
use wayfork_tests::nft;
use wayfork_tests::rig::{Rig, Seen};
use wayfork_tests::twins::{Arrival, Twins, acted};

/// Marks of mwan3's kind: 0x100 goes by n2, 0x200 by n3.
const RULES: &str = "
    -4 rule add priority 100 fwmark 0x100/0x3f00 table 102
    -6 rule add priority 100 fwmark 0x100/0x3f00 table 102
    -4 rule add priority 101 fwmark 0x200/0x3f00 table 103
    -6 rule add priority 101 fwmark 0x200/0x3f00 table 103
    -4 rule add priority 200 from 10.1.0.0/24 iif n1 dport 443 table 103 ipproto udp
    -6 rule add priority 200 from fd01::/64 iif n1 dport 443 table 103 ipproto udp";

/// Connections in both directions and single packets, with marks and without.
fn arrivals() -> Result<Vec<Arrival>> {
    let mut all = Vec::new();
    for (family, [host, far, inside]) in
        [("v4", ["10.1.0.7", Twins::FAR[0], "10.3.0.7"]), ("v6", ["fd01::7", Twins::FAR[1], "fd03::7"])]
    {
        let (host, far, inside) = (host.parse()?, far.parse()?, inside.parse()?);
        let mut add = |name: &str, dev: &str, from, to, ports: (u16, u16), mark, tcp_: bool| {
            let name = format!("{name}-{family}");
            let mut packet = Packet::between(from, to);
            let data = payload(&name);
            (packet.protocol, packet.body) = if tcp_ {
                (6, tcp(from, to, ports.0, ports.1, &data, false))
            } else {
                (17, udp(from, to, ports.0, ports.1, &data))
            };
            all.push(Arrival::new(&name, dev, packet).marked(mark));
        };
        add("plain", "n1", host, far, (4000, 9000), 0, false);
        add("marked", "n1", host, far, (4001, 9000), 0x200, false);
        add("by-port", "n1", host, far, (4002, 443), 0, false);
        add("web", "n1", host, far, (4003, 80), 0, false);
        // A connection from outside by n3, and its answer; then the answer to the first packet.
        add("outside", "n3", far, host, (5000, 22), 0, false);
        add("answer", "n1", host, far, (22, 5000), 0, false);
        add("answer-again", "n1", host, far, (22, 5000), 0, false);
        add("back", "n2", far, host, (9000, 4000), 0, false);
        add("plain-again", "n1", host, far, (4000, 9000), 0, false);
        // The answers to what was translated, from where it was sent to.
        add("web-answer", "n3", inside, host, (8080, 4003), 0, false);
        add("stray-tcp", "n1", host, far, (4009, 9000), 0, true);
    }
    Ok(all)
}

/// Compares under a rule set; asserts what n1 may do. Returns how many packets left by n3 from the stack alone.
fn under(twins: &Twins, script: &str, may: &str) -> Result<usize> {
    under_with(twins, script, may, &arrivals()?)
}

fn under_with(twins: &Twins, script: &str, may: &str, arrivals: &[Arrival]) -> Result<usize> {
    twins.ip(RULES)?;
    twins.each(|rig| nft::load(&rig.lab, Rig::HOST, script))?;
    let daemon = twins.run("auto", "")?;
    let status = twins.with.status()?;
    let n1 = status["interfaces"].as_array().into_iter().flatten().find(|one| one["name"] == "n1");
    let n1 = n1.context("status does not show n1")?;
    ensure!(n1["may"] == may, "{n1}");
    let all = twins.compare(arrivals)?;
    // Once more, now that connections are known.
    twins.compare(arrivals)?;
    match may {
        "mark" => ensure!(acted(&twins.with, "mark")? > 0, "{}", twins.with.status()?),
        "redirect" => ensure!(acted(&twins.with, "redirect")? > 0, "{}", twins.with.status()?),
        _ => {}
    }
    let any = status["interfaces"].as_array().into_iter().flatten().any(|one| one["may"] == "redirect");
    ensure!(any || acted(&twins.with, "redirect")? == 0, "{}", twins.with.status()?);
    ensure!(daemon.stop()?.success());
    Ok(all.values().flat_map(|[alone, _]| alone).filter(|seen| seen.dev == "n3").count())
}

#[test]
fn without_chains_all_of_it_is_redirected() -> Result<()> {
    let twins = twins!();
    // The marked one and the one by its port, in both families.
    assert_eq!(under(&twins, "", "redirect")?, 4);
    Ok(())
}

#[test]
fn marks_that_a_balancer_sets_in_prerouting_decide() -> Result<()> {
    let twins = twins!();
    let script = "table inet balancer {
        chain pre {
            type filter hook prerouting priority mangle;
            meta mark & 0x3f00 == 0 meta mark set ct mark
            iifname n1 meta mark & 0x3f00 == 0 udp sport 4000 meta mark set meta mark & 0xffffc0ff | 0x200
            iifname n1 meta mark & 0x3f00 == 0 meta mark set meta mark & 0xffffc0ff | 0x100
            ct mark set meta mark
        }
    }";
    let by_n3 = under(&twins, script, "pass")?;
    ensure!(by_n3 > 4, "the marks sent nothing more by n3: {by_n3}");
    Ok(())
}

#[test]
fn the_mark_of_a_connection_is_restored() -> Result<()> {
    let twins = twins!();
    let script = "table inet uplinks {
        chain pre {
            type filter hook prerouting priority mangle;
            iifname n3 ct state new ct mark set 0x200
            iifname n1 meta mark set ct mark
        }
    }";
    let by_n3 = under(&twins, script, "pass")?;
    // The two answers in both families.
    ensure!(by_n3 >= 4, "the answers did not go back by n3: {by_n3}");
    Ok(())
}

#[test]
fn marks_that_only_others_hooks_see_leave_no_room_for_a_mark() -> Result<()> {
    let twins = twins!();
    let script = "table inet later {
        chain post {
            type filter hook postrouting priority mangle;
            ct mark set meta mark;
        }
    }";
    under(&twins, script, "pass").map(drop)
}

#[test]
fn translated_destinations_go_where_they_are_translated_to() -> Result<()> {
    let twins = twins!();
    let script = "table inet nat {
        chain pre {
            type nat hook prerouting priority dstnat;
            iifname n1 udp dport 80 dnat ip to 10.3.0.7:8080
            iifname n1 udp dport 80 dnat ip6 to [fd03::7]:8080
        }
        chain post { type nat hook postrouting priority srcnat; oifname n2 masquerade; }
    }";
    // What comes back to the address that was put in for the host's. To the host itself it would be a connection of its own,
    // for which the kernel makes up a port.
    let mut arrivals = arrivals()?;
    arrivals.retain(|arrival| !arrival.name.starts_with("back"));
    for (from, to) in Twins::FAR.into_iter().zip(["10.2.0.1", "fd02::1"]) {
        let name = format!("back-{to}");
        let back = Arrival::udp(&name, "n2", from, to)?;
        arrivals.push(back.but(|packet| packet.body = udp(packet.from, packet.to, 9000, 4000, &payload(&name))));
    }
    let by_n3 = under_with(&twins, script, "pass", &arrivals)?;
    ensure!(by_n3 >= 4, "nothing was translated: {by_n3}");
    Ok(())
}

#[test]
fn where_connections_are_only_tracked_a_mark_is_allowed() -> Result<()> {
    let twins = twins!("n2", "n3");
    let script = "table inet wall {
        chain forward { type filter hook forward priority filter; policy drop; ct state established,related accept; iifname n1 udp dport != 80 accept; }
    }";
    under(&twins, script, "mark").map(drop)
}

#[test]
fn a_chain_on_the_device_sees_packets_after_the_program() -> Result<()> {
    let twins = twins!();
    let script = "table netdev early {
        chain in { type filter hook ingress device n1 priority 0; udp sport 4000 meta mark set 0x200; }
    }";
    let by_n3 = under(&twins, script, "pass")?;
    ensure!(by_n3 > 4, "the chain on the device marked nothing: {by_n3}");
    Ok(())
}

#[test]
fn a_dscp_that_prerouting_writes_is_what_rules_look_at() -> Result<()> {
    let twins = twins!();
    twins.ip("-4 rule add priority 90 tos 0x10 table 103")?;
    let script = "table inet classes {
        chain pre { type filter hook prerouting priority mangle; udp sport 4000 ip dscp set 4; }
    }";
    let by_n3 = under(&twins, script, "pass")?;
    ensure!(by_n3 > 4, "the field was not rewritten: {by_n3}");
    Ok(())
}

/// What rp_filter checks is checked: strictly, loosely, and with the packet's mark.
#[test]
fn sources_are_checked_as_rp_filter_says() -> Result<()> {
    for (level, valid_mark, may) in [("1", "0", "mark"), ("2", "0", "mark"), ("1", "1", "pass"), ("2", "1", "pass")] {
        let twins = twins!("n2", "n3");
        // Without a default route a source that is behind no interface is refused loosely, too.
        twins.ip("-4 route del default
             -4 route add 111.11.0.0/16 via 10.2.0.2
             -4 rule add priority 50 fwmark 0x200 to 10.1.0.0/24 table 103")?;
        for name in ["n1", "n2", "n3"] {
            twins.settings(&[
                (&format!("net.ipv4.conf.{name}.rp_filter"), level),
                (&format!("net.ipv4.conf.{name}.src_valid_mark"), valid_mark),
            ])?;
        }
        under(&twins, "", may)?;
        let daemon = twins.run("auto", "")?;
        let sources = ["10.1.0.7", "10.3.0.7", "111.11.1.1", "203.0.113.9"];
        let arrivals: Vec<Arrival> = sources
            .iter()
            .flat_map(|from| [0, 0x100, 0x200].map(|mark| (from, mark)))
            .map(|(from, mark)| Ok(Arrival::udp(&format!("{from}-{mark}"), "n1", from, Twins::FAR[0])?.marked(mark)))
            .collect::<Result<_>>()?;
        let all = twins.compare(&arrivals)?;
        let came = |from: &str| !all[&format!("{from}-0")][0].is_empty();
        let expected = [true, level == "2", level == "2", false];
        ensure!(sources.map(came) == expected, "rp_filter {level}: {:?}", sources.map(came));
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}

#[test]
fn a_transparent_proxy_gets_its_packets() -> Result<()> {
    let twins = twins!();
    twins.ip("-4 rule add priority 80 fwmark 1/1 table 100
         -4 route add local default dev lo table 100")?;
    let script = "table ip proxy {
        chain pre { type filter hook prerouting priority mangle; iifname n1 udp dport 9000 tproxy to 127.0.0.1:3129 meta mark set 1 accept; }
    }";
    let mut sockets = Vec::new();
    for rig in [&twins.alone, &twins.with] {
        sockets.push(rig.lab.netns(Rig::HOST)?.run(|| -> std::io::Result<socket2::Socket> {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
            socket.set_ip_transparent_v4(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 3129)).into())?;
            Ok(socket)
        })??);
    }
    under(&twins, script, "pass")?;
    let received = sockets.iter_mut().map(|socket| {
        let mut buffer = [0u8; 2048];
        std::iter::from_fn(|| std::io::Read::read(socket, &mut buffer).ok()).count()
    });
    let received: Vec<usize> = received.collect();
    ensure!(received[0] > 0 && received[0] == received[1], "{received:?} datagrams for the proxy");
    Ok(())
}

/// What comes out until so many different packets have, however slow the machine is, and no more come.
fn come(rig: &Rig, packets: usize) -> Result<Vec<Seen>> {
    let patience = Instant::now() + Duration::from_secs(20);
    let (mut all, mut names) = (Vec::new(), BTreeSet::new());
    loop {
        let more = rig.catch(Duration::from_millis(60))?;
        names.extend(more.iter().map(|seen| seen.caught.name.clone()));
        let done = more.is_empty() && names.len() >= packets || Instant::now() >= patience;
        all.extend(more);
        if done {
            return Ok(all);
        }
    }
}

/// While a balancer's chain comes and goes, every packet goes one of the two ways, once; and when the change is known, the one way.
#[test]
fn chains_that_come_and_go_are_heeded_at_once() -> Result<()> {
    let twins = twins!();
    let rig = &twins.with;
    rig.ip(RULES)?;
    let daemon = rig.run("auto", "")?;
    let script = "table inet balancer {
        chain pre {
            type filter hook prerouting priority mangle;
            iifname n1 meta mark set 0x200;
        }
    }";
    let netns = rig.lab.netns(Rig::HOST)?.try_clone()?;
    let (stop, steady) = (AtomicBool::new(false), 40);
    for round in 0..6 {
        for (change, place) in [(script, "n3"), ("delete table inet balancer", "n2")] {
            stop.store(false, Relaxed);
            let sent = std::thread::scope(|scope| -> Result<usize> {
                let traffic = scope.spawn(|| -> Result<usize> {
                    let mut sent = 0;
                    while !stop.load(Relaxed) || sent < 20 {
                        let [from, to] = [["10.1.0.7", Twins::FAR[0]], ["fd01::7", Twins::FAR[1]]][sent % 2];
                        Arrival::udp(&format!("during{sent}"), "n1", from, to)?.send(rig)?;
                        sent += 1;
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    Ok(sent)
                });
                std::thread::sleep(Duration::from_millis(5));
                let changed = nft::load_in(&netns, change);
                std::thread::sleep(Duration::from_millis(5));
                stop.store(true, Relaxed);
                changed?;
                traffic.join().expect("no panic")
            })?;
            // The loop hears of changes before it is asked anything: with the answer, the change is known.
            rig.status()?;
            let mut during = come(rig, sent)?;
            ensure!(during.iter().all(|seen| ["n2", "n3"].contains(&&*seen.dev)), "round {round}: somewhere else");
            during.sort_by(|one, other| one.caught.name.cmp(&other.caught.name));
            during.dedup_by(|one, other| one.caught.name == other.caught.name);
            ensure!(during.len() == sent, "round {round}: {} of {sent} came out", during.len());
            // Whether or not there was time to compile anew.
            for number in 0..steady {
                let [from, to] = [["10.1.0.7", Twins::FAR[0]], ["fd01::7", Twins::FAR[1]]][number % 2];
                Arrival::udp(&format!("after{number}"), "n1", from, to)?.send(rig)?;
            }
            let after = come(rig, steady)?;
            let right = after.iter().filter(|seen| seen.dev == place).count();
            ensure!((after.len(), right) == (steady, steady), "round {round}: {right} of {} by {place}", after.len());
        }
    }
    ensure!(acted(rig, "redirect")? > 0, "never redirected: {}", rig.status()?);
    ensure!(daemon.stop()?.success());
    Ok(())
}
