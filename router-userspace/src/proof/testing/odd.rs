//! What random routers have besides, in the words of ip(8): what the model cannot ask for, and what is changed after rules and
//! routes were added.

use super::{one_in, pick};
use crate::kernel::admin::{read_setting, write_setting};
use crate::kernel::{Admin, Kernel, Netlink};
use fastrand::Rng;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Prefixes, gateways and interfaces of [`super::routes`] and [`super::rules`].
const V4: ([&str; 6], [&str; 3]) = (
    ["0.0.0.0/0", "8.8.8.0/24", "8.8.8.8/32", "203.0.112.0/20", "10.1.0.128/25", "10.3.0.0/24"],
    ["10.3.0.2", "10.4.0.3", "10.1.0.2"],
);
const V6: ([&str; 6], [&str; 3]) = (
    ["::/0", "2001:db8::/32", "2001:db8:0:8000::/49", "2a00::/16", "fd77:0:0:1::/64", "fd03::/64"],
    ["fd03::2", "fd04::3", "fd01::2"],
);

/// Rules and routes that only ip(8) can ask for here. What the kernel refuses is left out.
pub fn additions(rng: &mut Rng) {
    for (family, (nets, gateways), objects) in [("-4", V4, [41, 42]), ("-6", V6, [61, 62])] {
        let mut lines = String::new();
        let mut line = |text: String| writeln!(lines, "{text}").unwrap();
        for _ in 0..rng.usize(3..10) {
            let (net, via) = (pick(rng, &nets), pick(rng, &gateways));
            let table = pick(rng, &[111, 112, 113, 253, 253, 254, 255]);
            let metric = pick(rng, &[0, 10, 30]);
            let route = format!("{net} via {via} table {table} metric {metric}");
            line(match rng.u8(..12) {
                0 => format!("route add {route} mtu {}", pick(rng, &[68, 1280, 1400, 9000])),
                1 => format!("route add {route} mtu lock {} hoplimit 3 advmss 500", pick(rng, &[1280, 1400])),
                2 => format!("route add {net} nhid {} table {table} metric {metric} mtu 1300", pick(rng, &objects)),
                3 => format!("route add {route} expires {}", pick(rng, &[1000, 100_000])),
                4 => format!("route add {route} realms {}", pick(rng, &["5", "3/9"])),
                5 => format!("route append {route}"),
                6 => format!("route prepend {route}"),
                7 => format!("route add {net} encap ip id 7 dst {via} dev up0 table {table}"),
                8 => format!("route add {net} encap mpls 100 via {via} table {table}"),
                9 => {
                    format!("route add {} {net} table {}", pick(rng, &["throw", "unreachable"]), pick(rng, &[253, 255]))
                }
                _ => format!("route add {route}"),
            });
        }
        // As transparent proxies have them, and narrower ones.
        if one_in(rng, 3) {
            let net = if one_in(rng, 3) { nets[0] } else { pick(rng, &nets) };
            let table = pick(rng, &[100, 100, 111]);
            line(format!("route add local {net} dev lo table {table}"));
            let selector = pick(rng, &["fwmark 0x1/0xff", "fwmark 0x80000000/0x80000000", "ipproto tcp dport 80-443"]);
            line(format!("rule add protocol boot priority {} {selector} table {table}", pick(rng, &[9, 35, 70])));
        }
        for _ in 0..rng.usize(0..4) {
            line(format!(
                "rule add protocol boot priority {} {}",
                pick(rng, &[0, 5, 30, 45, 32770]),
                match rng.u8(..9) {
                    0 => "not table 112".to_owned(),
                    1 => format!("fwmark {} table 112", pick(rng, &["0x120/0xff", "0xffffffff/0x1", "0x0/0x0"])),
                    2 => format!("table 254 suppress_prefixlength {}", pick(rng, &[1, 16, 20, 31, 32, 49, 128, 200])),
                    3 => format!("table {} suppress_ifgroup {}", pick(rng, &[112, 254]), pick(rng, &[0, 7])),
                    4 => format!("ipproto {} table 113", pick(rng, &["gre", "41", "255", "esp", "132"])),
                    5 => "table 253".to_owned(),
                    6 => format!("to {} table 253", pick(rng, &nets)),
                    7 => format!("from {} sport 1000-60000 blackhole", pick(rng, &nets)),
                    _ => format!("not to {} iif lan ipproto udp table 111", pick(rng, &nets)),
                }
            ));
        }
        ip(family, &lines);
    }
}

/// What befalls a router after its rules and routes were added.
pub fn changes(kernel: &mut Netlink, admin: &mut Admin, rng: &mut Rng) {
    let mut lines = String::new();
    let mut line = |text: String| writeln!(lines, "{text}").unwrap();
    for _ in 0..rng.usize(0..4) {
        match rng.u8(..8) {
            0 => line(format!("link set dev up1 mtu {}", pick(rng, &[1280, 1400, 1500]))),
            1 => line("link set dev bare down".to_owned()),
            2 => line("link set dev bare down\nlink set dev bare name gone\nlink set dev gone up".to_owned()),
            3 => line(format!("link set dev {} group {}", pick(rng, &["up0", "up1"]), pick(rng, &[0, 7]))),
            4 => line(format!(
                "nexthop replace id {}",
                pick(rng, &["41 via 10.1.0.3 dev lan", "42 dev up1", "61 via fd04::2 dev up1"])
            )),
            5 => line(format!("nexthop del id {}", pick(rng, &[41, 42, 43, 61, 62, 63]))),
            6 => line(format!(
                "neigh replace {} lladdr 02:00:00:00:09:09 nud permanent dev up0",
                pick(rng, &["10.3.0.2", "fd03::2"])
            )),
            _ => line(format!("link set dev {} arp off", pick(rng, &["up0", "bare"]))),
        }
    }
    ip("-4", &lines);
    if one_in(rng, 4) {
        let host = kernel.host().unwrap();
        super::settings::addresses(kernel, admin, rng, &host);
    }
    if one_in(rng, 6) {
        let name = kernel.host().unwrap().link_name(14);
        write_setting(&format!("net.ipv6.conf.{name}.disable_ipv6"), "1").unwrap();
    }
    if one_in(rng, 12) {
        write_setting(&format!("net.{}.conf.guest.accept_redirects", pick(rng, &["ipv4", "ipv6"])), "1").unwrap();
    }
}

/// Takes what [`changes`] did to interfaces back.
pub fn restore(kernel: &mut Netlink) {
    let host = kernel.host().unwrap();
    let bare = host.link_name(14);
    let mut lines = String::new();
    if bare != "bare" {
        write!(lines, "link set dev {bare} down\nlink set dev {bare} name bare\n").unwrap();
    }
    for name in ["up0", "bare"] {
        writeln!(lines, "link set dev {name} arp on").unwrap();
    }
    lines += "link set dev bare up\nlink set dev up0 group 0\nlink set dev up1 group 7 mtu 1500\n";
    for (gateway, number) in [("10.3.0.2", 3), ("fd03::2", 3)] {
        writeln!(lines, "neigh replace {gateway} lladdr 02:00:00:00:0{number}:01 nud permanent dev up0").unwrap();
    }
    ip("-4", &lines);
    for (setting, value) in [
        ("ipv6.conf.bare.disable_ipv6", "0"),
        ("ipv4.conf.guest.accept_redirects", "0"),
        ("ipv6.conf.guest.accept_redirects", "0"),
    ] {
        let setting = format!("net.{setting}");
        if read_setting(&setting).unwrap().is_some_and(|now| now != value) {
            write_setting(&setting, value).unwrap();
        }
    }
}

/// Takes all routes of protocol boot away, those too that a request from here does not name.
pub fn flush() {
    ["-4", "-6"].iter().for_each(|family| ip(family, "route flush table all protocol boot\n"));
}

/// Runs lines of commands of ip(8) for a family in this thread's namespace; those that fail are as if they were not there.
pub fn ip(family: &str, lines: &str) {
    let mut ip = Command::new("ip");
    ip.args([family, "-force", "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = ip.spawn().expect("ip (Debian: iproute2)");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if std::env::var_os("WAYFORK_SHOW_IP").is_some() {
        eprintln!("{lines}{}", String::from_utf8_lossy(&output.stderr));
    }
}
