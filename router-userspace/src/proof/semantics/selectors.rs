//! What a rule looks at.

use super::*;
use crate::kernel::Netns;
use crate::lab::needs::holds;
use crate::model::Ports;
use crate::proof::packet::{Extension, Shape};
use crate::proof::testing::world_in;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// A table of packets and where they go, under one rule to table 112.
fn under(selectors: &Selectors, family: Family, cases: &[(Packet, &str)]) {
    let rule = rule(family, 100, selectors.clone());
    let mut lacks = BTreeSet::new();
    bench(|bench| {
        lacks = bench.kernel.lacks().unwrap();
        if lacks.iter().any(|feature| rule.needs(*feature)) {
            return;
        }
        bench.add([rule.clone()]);
        cases.iter().for_each(|(packet, expected)| bench.all(packet, expected));
    });
    // Not inside: the thread that is there has not the test's name.
    holds(&lacks, &rule).unwrap();
}

#[test]
fn a_mark_without_a_mask_is_compared_whole_and_mark_0_with_a_mask_is_a_selector() {
    for family in Family::BOTH {
        let marked = |mark| Packet { mark, ..packet(family) };
        let whole = Selectors { fwmark: Some((0x10, u32::MAX)), ..any() };
        under(&whole, family, &[(marked(0x10), "up1"), (marked(0x110), "up0"), (marked(0), "up0")]);
        let zero = Selectors { fwmark: Some((0, 0xff)), ..any() };
        under(&zero, family, &[(marked(0), "up1"), (marked(0x100), "up1"), (marked(1), "up0")]);
        let none = Selectors { fwmark: Some((0, u32::MAX)), ..any() };
        under(&none, family, &[(marked(0), "up1"), (marked(0x100), "up0")]);
    }
}

#[test]
fn tos_is_three_bits_in_ipv4_and_dscp_six_in_both() {
    for family in Family::BOTH {
        let with = |dscp| Packet { dscp, ..packet(family) };
        let tos = Selectors { tos: 0x10, ..any() };
        let upper = if family == Family::Ipv4 { "up1" } else { "up0" };
        under(&tos, family, &[(with(4), "up1"), (with(0x24), upper), (with(0), "up0")]);
        let dscp = Selectors { dscp: Some((46, 0x3f)), ..any() };
        under(&dscp, family, &[(with(46), "up1"), (with(14), "up0"), (with(0), "up0")]);
        let masked = Selectors { dscp: Some((0x28, 0x38)), ..any() };
        under(&masked, family, &[(with(46), "up1"), (with(40), "up1"), (with(0x30), "up0")]);
        let zero = Selectors { dscp: Some((0, 0x3f)), ..any() };
        under(&zero, family, &[(with(0), "up1"), (with(1), "up0")]);
    }
}

#[test]
fn a_flow_label_is_compared_under_its_mask() {
    let with = |flowlabel| Packet { flowlabel, dscp: 46, ..packet(Family::Ipv6) };
    let whole = Selectors { flowlabel: Some((0x12345, 0xf_ffff)), ..any() };
    under(&whole, Family::Ipv6, &[(with(0x12345), "up1"), (with(0x12344), "up0"), (with(0x92345), "up0")]);
    let masked = Selectors { flowlabel: Some((0x12000, 0xf_f000)), ..any() };
    under(&masked, Family::Ipv6, &[(with(0x12345), "up1"), (with(0x13345), "up0"), (with(0), "up0")]);
    let both = Selectors { flowlabel: Some((0x12345, 0xf_ffff)), dscp: Some((46, 0x3f)), ..any() };
    under(&both, Family::Ipv6, &[(with(0x12345), "up1"), (Packet { dscp: 0, ..with(0x12345) }, "up0")]);
}

#[test]
fn ports_are_ranges_or_values_under_a_mask() {
    for family in Family::BOTH {
        let to = |dport| Packet { dport, ..packet(family) };
        let range = Selectors { dport: Some(Ports::Range { start: 80, end: 443 }), ..any() };
        under(
            &range,
            family,
            &[(to(79), "up0"), (to(80), "up1"), (to(443), "up1"), (to(444), "up0"), (to(65535), "up0")],
        );
        let masked = Selectors { dport: Some(Ports::Masked { value: 0x1000, mask: 0xf000 }), ..any() };
        under(&masked, family, &[(to(0x1fff), "up1"), (to(0x1000), "up1"), (to(0x2000), "up0"), (to(0xffff), "up0")]);
        let from = |sport| Packet { sport, ..packet(family) };
        let sides = Selectors {
            sport: Some(Ports::Masked { value: 0x10, mask: 0xf0 }),
            dport: Some(Ports::one(53)),
            ipproto: Some(17),
            ..any()
        };
        let cases = [(from(0x1017), "up1"), (from(0x1027), "up0"), (Packet { dport: 54, ..from(0x1017) }, "up0")];
        under(&sides, family, &cases);
        under(&sides, family, &[(Packet { ipproto: 6, ..from(0x1017) }, "up0")]);
    }
}

#[test]
fn every_fragment_has_ports_0_the_first_included_and_keeps_its_protocol() {
    let fragment = Packet { fragment: true, ..packet(Family::Ipv4) };
    let ports = Selectors { dport: Some(Ports::one(53)), ..any() };
    under(&ports, Family::Ipv4, &[(packet(Family::Ipv4), "up1"), (fragment, "up0")]);
    let not = Selectors { not: true, ..ports };
    under(&not, Family::Ipv4, &[(packet(Family::Ipv4), "up0"), (fragment, "up1")]);
    let masked = Selectors { dport: Some(Ports::Masked { value: 0x10, mask: 0x10 }), not: true, ..any() };
    under(&masked, Family::Ipv4, &[(fragment, "up1")]);
    let protocol = Selectors { ipproto: Some(17), ..any() };
    under(&protocol, Family::Ipv4, &[(fragment, "up1"), (Packet { ipproto: 6, ..fragment }, "up0")]);
}

#[test]
fn protocol_and_ports_are_found_behind_an_ipv6_extension_header_but_for_hop_by_hop_options() {
    let with = |extension, dport| {
        let packet = packet(Family::Ipv6);
        Packet { dport, shape: Shape { extension: Some(extension), ..packet.shape }, ..packet }
    };
    let ports = Selectors { ipproto: Some(17), dport: Some(Ports::one(53)), ..any() };
    for extension in [Extension::Routing, Extension::Destination] {
        let tcp = Packet { ipproto: 6, ..with(extension, 53) };
        let cases = [(with(extension, 53), "up1"), (with(extension, 54), "up0"), (tcp, "up0")];
        under(&ports, Family::Ipv6, &cases);
    }
    // A fragment has none, whatever its number.
    let protocol = Selectors { ipproto: Some(17), ..any() };
    under(&ports, Family::Ipv6, &[(with(Extension::Fragment, 53), "up0")]);
    under(&protocol, Family::Ipv6, &[(with(Extension::Fragment, 53), "up1")]);
    bench(|bench| {
        bench.add([rule(Family::Ipv6, 100, protocol)]);
        bench.ask(&with(Extension::HopByHop, 53), "up1", Fast::Pass("extension-header"));
        // Behind each of these: nothing that is one.
        for header in [0, 43, 44, 60] {
            bench.ask(&Packet { ipproto: header, ..packet(Family::Ipv6) }, "up0", Fast::Pass("extension-header"));
        }
    });
}

#[test]
fn a_forwarded_packet_is_uid_0s_and_has_no_egress_interface_yet() {
    for family in Family::BOTH {
        for (uidrange, expected) in [((0, 0), "up1"), ((0, 1000), "up1"), ((1, 1000), "up0")] {
            under(&Selectors { uidrange: Some(uidrange), ..any() }, family, &[(packet(family), expected)]);
        }
        for (not, expected) in [(false, "up0"), (true, "up1")] {
            let oif = Selectors { not, oif: Some("up1".into()), ..any() };
            under(&oif, family, &[(packet(family), expected)]);
        }
    }
}

#[test]
fn prefixes_and_interfaces() {
    for family in Family::BOTH {
        let other = if family == Family::Ipv4 { "10.1.1.7" } else { "fd01:0:0:1::7" }.parse().ok();
        let net = if family == Family::Ipv4 { "10.1.0.0/24" } else { "fd01::/64" }.parse().ok();
        let from = Selectors { from: net, ..any() };
        under(&from, family, &[(packet(family), "up1"), (Packet { from: other, ..packet(family) }, "up0")]);
        let iif = Selectors { iif: Some("lan".into()), ..any() };
        under(&iif, family, &[(packet(family), "up1"), (Packet { iif: Some(11), ..packet(family) }, "up0")]);
        under(&Selectors { iif: Some("lo".into()), ..any() }, family, &[(packet(family), "up0")]);
        under(&Selectors { tun_id: Some(7), ..any() }, family, &[(packet(family), "up0")]);
    }
}

#[test]
fn a_forwarded_packet_belongs_to_the_root_of_those_who_own_the_namespace() {
    use std::process::{Command, Stdio};
    if !nix::unistd::geteuid().is_root() {
        return bench(|_| {});
    }
    let mut unshare = Command::new("unshare");
    // Says that it is there, and stays until its input ends.
    unshare.args(["--user", "--net", "sh", "-c", "echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = unshare.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said.is_empty() {
        // The kernel refuses them to who was put under another root, for one (`create_user_ns`).
        eprintln!("SKIPPED: uidrange of other users: no user namespace can be made here: {:?}", child.wait().unwrap());
        return;
    }
    let pid = child.id().to_string();
    let proc = Path::new("/proc").join(&pid);
    for map in ["uid_map", "gid_map"] {
        std::fs::write(proc.join(map), "0 100000 10").unwrap();
    }
    let netns = Netns::of(std::fs::File::open(proc.join("ns/net")).unwrap().into());
    bench_in(Some(world_in(netns)), |bench| {
        // Rules by users are only taken from within.
        let ip = |what: &str, range: &str| {
            let mut ip = Command::new("nsenter");
            ip.args(["--target", &pid, "--user", "--setuid", "0", "--setgid", "0"]);
            let ip = ip.args(["ip", "rule", what, "priority", "100", "table", "112", "uidrange", range]);
            assert!(ip.status().unwrap().success());
        };
        for (range, by) in [("0-0", "up1"), ("1-9", "up0")] {
            ip("add", range);
            let host = bench.kernel.host().unwrap();
            let here = host.rules.iter().find_map(|rule| rule.selectors.uidrange).unwrap();
            assert!(here.0 >= 100_000, "{here:?}: the numbers of this process, as the kernel shows them");
            // With an interface RTM_GETROUTE asks what is asked for a packet that comes in (`ip_route_input_rcu`).
            let answer = ask(bench.kernel, &host, &packet(Family::Ipv4), 0).unwrap().unwrap();
            assert_eq!(host.link_name(answer.oif), by, "{range}");
            bench.ask(&packet(Family::Ipv4), "undecided", Fast::Pass("rule-selector"));
            ip("del", range);
        }
    });
    drop(child.stdin.take());
    child.wait().unwrap();
}
