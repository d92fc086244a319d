//! The running kernel in between: what a policy is lowered to, the kernel takes, and the import gives back.

use super::*;
use crate::kernel::admin::{Admin, NewLink};
use crate::kernel::{Kernel, Netlink, Netns};
use std::io::Write;

const POLICY: &str = r#"
[[rule]]
priority = 90
table = "main"
suppress_prefixlength = 0
[[rule]]
priority = 100
iif = ["eth0", "lo"]
from = ["10.0.0.0/8", "fd00::/8"]
to = ["192.168.1.1", "2001:db8::/32"]
table = 111
[[rule]]
priority = 110
not = true
fwmark = 5324
table = 5324
[[rule]]
priority = 120
not = true
iif = ["eth0", "eth1"]
fwmark = "0x10/0xf0"
action = "unreachable"
[[rule]]
priority = 130
ipproto = ["tcp", "udp"]
sport = "1000-1999"
dport = [80, "443-444"]
table = 112
[[rule]]
priority = 140
family = "ipv4"
tos = 0x10
oif = "eth1"
uidrange = ["0", "1000-1999"]
goto = 160
[[rule]]
priority = 150
fwmark = 0
action = "blackhole"
[[rule]]
priority = 160
family = "ipv4"
action = "nop"
[[rule]]
priority = 170
family = "ipv6"
tos = 0xb8
action = "prohibit"
[[rule]]
priority = 40000
tun_id = 7
suppress_ifgroup = 3
table = "default"
"#;

#[test]
fn what_a_policy_asks_for_comes_back_from_the_running_kernel() {
    let namespace = match Netns::new() {
        Err(error) if error.errno() == libc::EPERM => {
            // Past the test harness's capture: a test that did not run must not look like one that did.
            let line = b"\nSKIPPED import from the running kernel: not allowed to make network namespaces\n";
            return std::io::stderr().write_all(line).unwrap();
        }
        made => made.unwrap(),
    };
    let policy = parse("p.toml", POLICY, &TableNames::default()).unwrap().policy;
    let wanted: Vec<Rule> = policy.rpdb().map(|rule| Rule { protocol: 4, ..rule.clone() }).collect();
    let host = namespace.run(|| {
        let mut admin = Admin::open().unwrap();
        admin.veth(NewLink::named("eth0"), NewLink::named("eth1")).unwrap();
        for name in ["eth0", "eth1"] {
            admin.up(name).unwrap();
        }
        admin.add_address("eth0", "10.0.0.2/24".parse().unwrap()).unwrap();
        let mut kernel = Netlink::open().unwrap();
        wanted.iter().for_each(|rule| kernel.add_rule(rule).unwrap_or_else(|error| panic!("{error}")));
        let dev = kernel.host().unwrap().link("eth0").unwrap().index;
        let mut routes = [
            route(111, "0.0.0.0/0", Some("10.0.0.1"), dev),
            route(111, "fd00:1::/64", Some("fe80::1"), dev),
            route(5324, "10.9.0.0/16", None, dev),
            Route {
                prefsrc: Some("10.0.0.2".parse().unwrap()),
                metric: 7,
                mtu: Some(1400),
                ..route(111, "10.8.0.0/16", None, dev)
            },
            Route { nexthops: vec![], kind: RouteKind::Prohibit, ..route(112, "0.0.0.0/0", None, 0) },
            Route { nexthops: vec![], kind: RouteKind::Unreachable, metric: 9, ..route(112, "::/0", None, 0) },
        ];
        // RT_SCOPE_LINK, as an IPv4 route to the link itself has.
        routes[2].scope = 253;
        routes[3].scope = 253;
        routes.iter().for_each(|route| kernel.add_route(route).unwrap_or_else(|error| panic!("{error}")));
        kernel.host().unwrap()
    });
    let imported = import(&host.unwrap(), &TableNames::default(), &Default::default());
    assert_eq!(imported.left_out, [], "{}", imported.text);
    let again = accepted(&imported).policy;
    let ownerless = |rules: &mut dyn Iterator<Item = Rule>| display_rules(&rules.collect::<Vec<_>>());
    assert_eq!(ownerless(&mut again.rpdb().cloned()), ownerless(&mut wanted.iter().cloned()), "{}", imported.text);
    assert_eq!(again.rules.len(), wanted.len());
    assert_eq!(again.routes.len(), 6, "{}", imported.text);
}
