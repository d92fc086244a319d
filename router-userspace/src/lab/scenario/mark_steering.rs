//! Hosts behind one interface, steered to three uplinks by marks and prefixes.

use super::{Both, Case, FAR, MAIN, Scenario, case};
use crate::lab::Result;
use crate::lab::topology::Lab;
use crate::lab::traffic::{Ports, Proto};
use crate::model::Family;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "mark-steering",
    about: "Hosts behind one interface, steered to three uplinks by marks (who sends, which port) and by prefixes.",
    drawing: r"
  desk   .10  ── lan0 ┌────────┐ wan1 ── 10.1.0.1 isp1, has 111.11.1.1   main's default
  office .70          │ router │ wan2 ── 10.2.0.1 isp2, has 111.11.1.1   tcp 80 and 443 (mark 0x20), office's prefix
  guest  .200         └────────┘ wan3 ── 10.3.0.1 isp3, has 111.11.1.1   guests (mark 0x30), to 198.51.100.0/24
  of 192.168.8.0/24",
    policy: include_str!("../../../../examples/mark-steering.toml"),
    router: "router",
    build,
    flows,
};

const DESK: Both = Both("192.168.8.10", "fd00:8::a");
const OFFICE: Both = Both("192.168.8.70", "fd00:8::46");
const GUEST: Both = Both("192.168.8.200", "fd00:8::c8");
/// A destination that a rule names, at every isp.
const BACKUP: Both = Both("198.51.100.7", "2001:db8:5100::7");
const EXITS: &[(&str, &str)] = &[("isp1", "wan1"), ("isp2", "wan2"), ("isp3", "wan3")];

/// An isp: its name, the router's interface to it, and on this link the router's and its own address in both families.
type Isp = (&'static str, &'static str, [&'static str; 2], [&'static str; 2]);
const ISPS: [Isp; 3] = [
    ("isp1", "wan1", ["10.1.0.2/24", "2001:db8:1::2/64"], ["10.1.0.1/24", "2001:db8:1::1/64"]),
    ("isp2", "wan2", ["10.2.0.2/24", "2001:db8:2::2/64"], ["10.2.0.1/24", "2001:db8:2::1/64"]),
    ("isp3", "wan3", ["10.3.0.2/24", "2001:db8:3::2/64"], ["10.3.0.1/24", "2001:db8:3::1/64"]),
];

fn build(lab: &mut Lab) -> Result<()> {
    lab.router("router")?;
    lab.host("hosts")?;
    let hosts =
        ["192.168.8.10/24", "192.168.8.70/24", "192.168.8.200/24", "fd00:8::a/64", "fd00:8::46/64", "fd00:8::c8/64"];
    lab.wire(("router", "lan0", &["192.168.8.1/24", "fd00:8::1/64"]), ("hosts", "eth0", &hosts))?;
    lab.route("hosts", "default", &["192.168.8.1", "fd00:8::1"])?;
    for (isp, dev, near, far) in ISPS {
        lab.host(isp)?;
        lab.wire(("router", dev, &near), (isp, "to-router", &far))?;
        lab.hold(isp, &["111.11.1.1/32", "2001:db8:111::1/128", "198.51.100.7/32", "2001:db8:5100::7/128"])?;
        lab.receive(isp, &Ports { udp: vec![443, 9000], tcp: vec![443, 9000] })?;
        lab.route(
            isp,
            "default",
            &near.map(|address| address.split_once('/').map_or(address, |(address, _)| address)),
        )?;
    }
    lab.route("router", "default", &["10.1.0.1", "2001:db8:1::1"])
}

fn flows() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in Family::BOTH {
        let plan = [
            ("desk", DESK, Proto::Icmp, 0, FAR, MAIN, "wan1"),
            ("desk", DESK, Proto::Tcp, 443, FAR, (1000, "web"), "wan2"),
            ("desk", DESK, Proto::Udp, 443, FAR, MAIN, "wan1"),
            ("desk", DESK, Proto::Udp, 9000, BACKUP, (1030, "backup"), "wan3"),
            ("office", OFFICE, Proto::Icmp, 0, FAR, (1020, "office"), "wan2"),
            ("office", OFFICE, Proto::Tcp, 9000, FAR, (1020, "office"), "wan2"),
            ("guest", GUEST, Proto::Udp, 9000, FAR, (1010, "guests"), "wan3"),
            ("guest", GUEST, Proto::Tcp, 443, FAR, (1010, "guests"), "wan3"),
        ];
        for (who, from, proto, dport, to, rule, oif) in plan {
            let case = case("hosts", family, proto, from, to, dport);
            let name = case.name.replacen("hosts", who, 1);
            cases.push(Case { name, rule, exits: EXITS, oif, unruled: Some("wan1"), ..case });
        }
    }
    cases
}
