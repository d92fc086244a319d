//! The default route into a tunnel, without a loop: what the tunnel itself sends is marked and keeps to the real uplink.

use super::{Both, Case, FAR, MAIN, Scenario, case};
use crate::lab::Result;
use crate::lab::topology::{Lab, TunnelEnd};
use crate::lab::traffic::{Ports, Proto, Watch};
use crate::model::Family;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "tunnel-default",
    about: "A default route into a tunnel without a loop: all but the tunnel's own packets (mark 5324) goes by wg0; main first, but not by its default.",
    drawing: r"
  lan ────────── lan0 ┌────────┐ eth0 ── 192.0.2.1 isp, has 111.11.1.1 ──── vpn 203.0.113.9
  192.168.8.10        │ router │ wg0 ═════ tunnel, UDP marked 5324 ════════ wg0, has 111.11.1.1
                      └────────┘
  main without its default first      not fwmark 5324 → table 5324: default dev wg0",
    policy: include_str!("../../../../examples/tunnel-default.toml"),
    router: "router",
    build,
    flows,
};

const LAN: Both = Both("192.168.8.10", "fd00:8::10");
const UPLINK: Both = Both("192.0.2.2", "2001:db8:a::2");
const INSIDE: Both = Both("10.99.0.2", "fd00:99::2");
const PEER: Both = Both("203.0.113.9", "2001:db8:c::9");
const EXITS: &[(&str, &str)] = &[("isp", "eth0"), ("vpn", "wg0"), ("lan", "lan0")];
/// The mark of the tunnel's own packets, as wg-quick gives WireGuard's.
const MARK: u32 = 5324;
/// WireGuard's usual port.
const PORT: u16 = 51820;
/// Under this place the isp counts the tunnel's outer packets.
const OUTER: &str = "isp/outer";

fn build(lab: &mut Lab) -> Result<()> {
    lab.router("router")?;
    lab.host("lan")?;
    lab.router("isp")?;
    lab.host("vpn")?;
    lab.wire(
        ("router", "lan0", &["192.168.8.1/24", "fd00:8::1/64"]),
        ("lan", "eth0", &["192.168.8.10/24", "fd00:8::10/64"]),
    )?;
    lab.wire(
        ("router", "eth0", &["192.0.2.2/24", "2001:db8:a::2/64"]),
        ("isp", "to-router", &["192.0.2.1/24", "2001:db8:a::1/64"]),
    )?;
    lab.wire(
        ("isp", "to-vpn", &["203.0.113.1/24", "2001:db8:c::1/64"]),
        ("vpn", "eth0", &["203.0.113.9/24", "2001:db8:c::9/64"]),
    )?;
    lab.tunnel(
        TunnelEnd {
            host: "router",
            dev: "wg0",
            addresses: &["10.99.0.2/24", "fd00:99::2/64"],
            outer: [UPLINK.0, UPLINK.1],
            port: PORT,
            mark: MARK,
        },
        TunnelEnd {
            host: "vpn",
            dev: "wg0",
            addresses: &["10.99.0.1/24", "fd00:99::1/64"],
            outer: [PEER.0, PEER.1],
            port: PORT,
            mark: 0,
        },
    )?;
    for far in ["isp", "vpn"] {
        lab.hold(far, &["111.11.1.1/32", "2001:db8:111::1/128"])?;
    }
    let ports = Ports { udp: vec![9000], tcp: vec![9000] };
    lab.receive("vpn", &ports)?;
    lab.receive("lan", &ports)?;
    lab.receive("isp", &ports)?;
    lab.watch("isp", OUTER, Watch { dev: "to-router".to_owned(), dport: PORT })?;
    lab.route("lan", "default", &["192.168.8.1", "fd00:8::1"])?;
    lab.route("router", "default", &["192.0.2.1", "2001:db8:a::1"])?;
    lab.route("isp", "default", &["192.0.2.2", "2001:db8:a::2"])?;
    lab.route("vpn", "default", &["203.0.113.1", "2001:db8:c::1"])?;
    lab.route("vpn", "192.168.8.0/24", &["10.99.0.2"])?;
    lab.route("vpn", "fd00:8::/64", &["fd00:99::2"])
}

fn flows() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in Family::BOTH {
        for proto in Proto::ALL {
            let out = case("lan", family, proto, LAN, FAR, 9000);
            cases.push(Case {
                rule: (1010, "into-the-tunnel"),
                exits: EXITS,
                oif: "wg0",
                unruled: Some("eth0"),
                ..out
            });
        }
        for proto in Proto::ALL {
            let back = case("vpn", family, proto, FAR, LAN, 9000);
            // Without the policy the answers to a connection go by eth0, and it never comes about.
            let unruled = (proto != Proto::Tcp).then_some("lan0");
            cases.push(Case { rule: (1000, "own-networks"), exits: EXITS, oif: "lan0", unruled, ..back });
        }
        let own = case("router", family, Proto::Udp, INSIDE, FAR, 9000);
        cases.push(Case {
            rule: (1010, "into-the-tunnel"),
            exits: EXITS,
            oif: "wg0",
            unruled: Some("eth0"),
            router_made: true,
            ..own
        });
        // What the tunnel makes of a flow from the LAN, counted where the real uplink ends.
        let mut outer = case("lan", family, Proto::Udp, LAN, FAR, 9000);
        outer.name = format!("wg0's outer udp {PORT} → {}", PEER.of(family));
        cases.push(Case {
            rule: MAIN,
            exits: &[(OUTER, "eth0")],
            oif: "eth0",
            unruled: None,
            router_made: true,
            ..outer
        });
    }
    cases
}
