//! Two uplinks: what comes in by `eth1` leaves by `eth1`'s gateway.

use super::{Both, Case, FAR, MAIN, Scenario, case};
use crate::lab::Result;
use crate::lab::topology::Lab;
use crate::lab::traffic::{Ports, Proto};
use crate::model::Family;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "dual-uplink",
    about: "A router with two uplinks: what comes in by eth1 must leave by eth1's gateway, not by the main default route.",
    drawing: r"
  lan ────────── lan0 ┌────────┐ eth0 ── 192.0.2.1 isp1, has 111.11.1.1
  192.168.8.10        │ router │
                      └────────┘ eth1 ── 10.0.0.1  isp2, has 111.11.1.1 ──── branch
                                                                    172.20.0.10
  main: default via 192.0.2.1 dev eth0      iif eth1 → table 111: default via 10.0.0.1 dev eth1",
    policy: include_str!("../../../../examples/dual-uplink.toml"),
    router: "router",
    build,
    flows,
};

const LAN: Both = Both("192.168.8.10", "fd00:8::10");
const BRANCH: Both = Both("172.20.0.10", "2001:db8:20::10");
const EXITS: &[(&str, &str)] = &[("isp1", "eth0"), ("isp2", "eth1")];

fn build(lab: &mut Lab) -> Result<()> {
    lab.router("router")?;
    lab.host("lan")?;
    lab.host("isp1")?;
    lab.router("isp2")?;
    lab.host("branch")?;
    lab.wire(
        ("router", "lan0", &["192.168.8.1/24", "fd00:8::1/64"]),
        ("lan", "eth0", &["192.168.8.10/24", "fd00:8::10/64"]),
    )?;
    lab.wire(
        ("router", "eth0", &["192.0.2.2/24", "2001:db8:a::2/64"]),
        ("isp1", "to-router", &["192.0.2.1/24", "2001:db8:a::1/64"]),
    )?;
    lab.wire(
        ("router", "eth1", &["10.0.0.2/24", "2001:db8:b::2/64"]),
        ("isp2", "to-router", &["10.0.0.1/24", "2001:db8:b::1/64"]),
    )?;
    lab.wire(
        ("isp2", "to-branch", &["172.20.0.1/24", "2001:db8:20::1/64"]),
        ("branch", "eth0", &["172.20.0.10/24", "2001:db8:20::10/64"]),
    )?;
    for isp in ["isp1", "isp2"] {
        lab.hold(isp, &["111.11.1.1/32", "2001:db8:111::1/128"])?;
        lab.receive(isp, &Ports { udp: vec![9000], tcp: vec![9000] })?;
    }
    lab.route("lan", "default", &["192.168.8.1", "fd00:8::1"])?;
    lab.route("branch", "default", &["172.20.0.1", "2001:db8:20::1"])?;
    lab.route("isp1", "default", &["192.0.2.2", "2001:db8:a::2"])?;
    lab.route("isp2", "default", &["10.0.0.2", "2001:db8:b::2"])?;
    lab.route("router", "default", &["192.0.2.1", "2001:db8:a::1"])?;
    lab.route("router", "172.20.0.0/24", &["10.0.0.1"])?;
    lab.route("router", "2001:db8:20::/64", &["2001:db8:b::1"])?;
    // What the branch sends to the far address is the router's to route, although this gateway has that address too.
    lab.detour("isp2", "to-branch", &[("111.11.1.1", "10.0.0.2"), ("2001:db8:111::1", "2001:db8:b::2")])
}

fn flows() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in Family::BOTH {
        for proto in Proto::ALL {
            let branch = case("branch", family, proto, BRANCH, FAR, 9000);
            cases.push(Case { rule: (1000, "from-eth1"), exits: EXITS, oif: "eth1", unruled: Some("eth0"), ..branch });
        }
        for proto in Proto::ALL {
            let lan = case("lan", family, proto, LAN, FAR, 9000);
            cases.push(Case { rule: MAIN, exits: EXITS, oif: "eth0", unruled: Some("eth0"), ..lan });
        }
    }
    cases
}
