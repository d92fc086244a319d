//! The kernel's own WireGuard as the default route: encrypted packets, marked outer packets, no loop.

use crate::tools::{tool, tools};
use crate::{bed, made};
use anyhow::{Result, ensure};
use std::fs;
use std::process::Command;
use wayfork::lab::needs::{self, Since};
use wayfork::lab::traffic::{Ports, Proto, Watch};
use wayfork_tests::{Bed, Way};

const POLICY: &str = include_str!("../../examples/tunnel-default.toml");
const PORT: u16 = 51820;

fn all_by_the_tunnel(bed: &mut Bed) -> Result<()> {
    for from in ["192.168.8.10", "fd00:8::10"] {
        for proto in Proto::ALL {
            let way = bed.flow(from, proto, 9000, 20)?;
            // The units inside the outer packets cannot be read where those are counted: they are encrypted.
            ensure!(way == Way { place: "vpn".to_owned(), packets: 20 }, "{from} {proto:?}: {way:?}");
        }
    }
    Ok(())
}

/// Behind isp1: a host that is the other end, and the far destination.
fn far_end(bed: &mut Bed) -> Result<()> {
    bed.lab.host("vpn")?;
    bed.lab.wire(("isp1", "to-vpn", &["203.0.113.1/24"]), ("vpn", "eth0", &["203.0.113.9/24"]))?;
    tool(bed, "isp1", "sysctl -qw net.ipv4.ip_forward=1")?;
    bed.lab.hold("vpn", &["111.11.1.1/32", "2001:db8:111::1/128"])?;
    bed.lab.receive("vpn", &Ports { udp: vec![9000], tcp: vec![9000] })?;
    bed.lab.route("vpn", "default", &["203.0.113.1"])?;
    // What arrives here in the clear has missed the tunnel.
    bed.lab.watch("isp1", "outer", Watch { dev: "eth0".to_owned(), dport: PORT })?;
    Ok(bed.lab.settle()?)
}

/// What a device marks its packets with is nobody else's.
#[test]
fn the_mark_of_a_device_is_kept_clear_of() -> Result<()> {
    if Command::new("wg").arg("--version").output().is_err() {
        return Ok(needs::left_out("the program wg (Debian: wireguard-tools)", Since::Configured(6, 1))?);
    }
    let bed = bed!();
    made!(bed, "WireGuard", "router", "ip link add wg0 type wireguard");
    tools(&bed, "router", &["ip link add wg1 type wireguard", "wg set wg0 fwmark 0xc0000000"])?;
    let sets = "[sets]\na = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 9\nfrom = \"@a\"\ntable = 111\n";
    let output = bed.wayfork_with(&["plan", "-", "--json"], &format!("[router]\nmode = \"netlink\"\n{sets}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["fwmark 0x20000000/0x20000000", "from all fwmark 0xc0000000 left as it is"] {
        ensure!(output.status.success() && said.contains(part), "{part}: {said}");
    }
    let own = format!("[router]\nmark_bits = 0x60000000\n{sets}");
    let output = bed.wayfork_with(&["plan", "-"], &own)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(3) && said.contains("shares 0x40000000 with the WireGuard device wg0"),
        "{said}"
    );
    Ok(())
}

#[test]
fn the_default_route_is_wireguard() -> Result<()> {
    if Command::new("wg").arg("--version").output().is_err() {
        return Ok(needs::left_out("the program wg (Debian: wireguard-tools)", Since::Configured(6, 1))?);
    }
    let mut bed = bed!();
    made!(bed, "WireGuard", "router", "ip link add wg0 type wireguard");
    far_end(&mut bed)?;
    tool(&bed, "vpn", "ip link add wg0 type wireguard")?;
    let keys = tempfile::tempdir()?;
    let mut public = Vec::new();
    for host in ["router", "vpn"] {
        let file = keys.path().join(host);
        fs::write(&file, tool(&bed, host, "wg genkey")?)?;
        tool(&bed, host, &format!("wg set wg0 listen-port {PORT} private-key {}", file.display()))?;
        public.push(tool(&bed, host, "wg show wg0 public-key")?.trim().to_owned());
    }
    let peer =
        format!("wg set wg0 fwmark 5324 peer {} endpoint 203.0.113.9:{PORT} allowed-ips 0.0.0.0/0,::/0", public[1]);
    tools(
        &bed,
        "router",
        &[&peer, "ip address add 10.99.0.2/24 dev wg0", "ip address add fd00:99::2/64 dev wg0", "ip link set wg0 up"],
    )?;
    let peer = format!("wg set wg0 peer {} allowed-ips 192.168.8.0/24,fd00:8::/64,10.99.0.2/32", public[0]);
    tools(
        &bed,
        "vpn",
        &[
            &peer,
            "ip address add 10.99.0.1/24 dev wg0",
            "ip address add fd00:99::1/64 dev wg0",
            "ip link set wg0 up",
            "ip -4 route add 192.168.8.0/24 dev wg0",
            "ip -6 route add fd00:8::/64 dev wg0",
        ],
    )?;
    for mode in ["netlink", "ebpf"] {
        let daemon = bed.run(mode, POLICY)?;
        all_by_the_tunnel(&mut bed)?;
        if mode == "ebpf" {
            for device in ["lan0", "wg0"] {
                ensure!(bed.interface(device)?["may"] == "redirect", "{}", bed.interface(device)?);
            }
            let before = bed.redirected()?;
            all_by_the_tunnel(&mut bed)?;
            let fast = bed.redirected()? - before;
            // 20 echo requests and 20 datagrams in each family; what a connection comes to depends on how its pieces are
            // joined.
            ensure!(fast > 80, "the fast path took {fast}");
        }
        ensure!(daemon.stop()?.success());
    }
    Ok(())
}
