//! Import and parsing are each other's inverse.
#![allow(clippy::unwrap_used)]

mod properties;
mod running;

use super::kernel::{Imported, import};
use crate::model::{
    Family, Host, Link, NextHop, Ports, Route, RouteKind, Rule, RuleAction, Selectors, TABLE_DEFAULT, TABLE_LOCAL,
    TABLE_MAIN, display_rules,
};
use crate::policy::{Loaded, TableNames, parse};

/// A namespace as it begins, with three interfaces.
fn host() -> Host {
    let kernels = |family, priority, table| Rule { protocol: 2, ..Rule::lookup(family, priority, table) };
    let mut host = Host::default();
    host.rules.push(kernels(Family::Ipv4, 0, TABLE_LOCAL));
    host.rules.push(kernels(Family::Ipv4, 32766, TABLE_MAIN));
    host.rules.push(kernels(Family::Ipv4, 32767, TABLE_DEFAULT));
    host.rules.push(kernels(Family::Ipv6, 0, TABLE_LOCAL));
    host.rules.push(kernels(Family::Ipv6, 32766, TABLE_MAIN));
    for (index, name) in [(1, "lo"), (2, "eth0"), (3, "eth1")] {
        host.links.insert(index, Link { index, name: name.to_owned(), ..Link::default() });
    }
    host
}

/// Adds a rule at its place in the kernel's order.
fn add(host: &mut Host, rule: Rule) {
    let at = host.rules.iter().position(|other| other.family == rule.family && other.priority > rule.priority);
    let end = host.rules.iter().rposition(|other| other.family == rule.family).map_or(0, |at| at + 1);
    host.rules.insert(at.unwrap_or(end), rule);
}

fn route(table: u32, dst: &str, via: Option<&str>, dev: u32) -> Route {
    let dst: ipnet::IpNet = dst.parse().unwrap();
    Route {
        metric: if dst.addr().is_ipv4() { 0 } else { 1024 },
        protocol: 3,
        nexthops: vec![NextHop { via: via.map(|via| via.parse().unwrap()), dev, weight: 1, ..NextHop::default() }],
        ..Route::to(table, dst, RouteKind::Unicast)
    }
}

fn accepted(imported: &Imported) -> Loaded {
    parse("p.toml", &imported.text, &TableNames::default())
        .unwrap_or_else(|rejected| panic!("{}\n{rejected}", imported.text))
}

#[test]
fn a_fresh_namespace_has_nothing_to_say() {
    let imported = import(&host(), &TableNames::default(), &Default::default());
    assert_eq!(imported.left_out, []);
    assert!(imported.text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{}", imported.text);
}

#[test]
fn it_reads_as_a_person_would_write_it() {
    let mut host = host();
    for family in Family::BOTH {
        let selectors = Selectors { iif: Some("eth1".to_owned()), ..Selectors::default() };
        add(&mut host, Rule { protocol: 4, selectors, ..Rule::lookup(family, 1000, 111) });
        let selectors = Selectors { not: true, fwmark: Some((0x14cc, u32::MAX)), ..Selectors::default() };
        add(&mut host, Rule { protocol: 3, selectors, ..Rule::lookup(family, 1010, 5324) });
        let main = Rule { protocol: 3, suppress_prefixlength: Some(0), ..Rule::lookup(family, 1005, TABLE_MAIN) };
        add(&mut host, main);
    }
    for net in ["192.168.8.0/24", "fd00:8::/64"] {
        let net: ipnet::IpNet = net.parse().unwrap();
        let selectors = Selectors { from: Some(net), ..Selectors::default() };
        add(&mut host, Rule { protocol: 16, selectors, ..Rule::lookup(Family::of(net.addr()), 1020, 111) });
    }
    add(&mut host, Rule { action: RuleAction::Prohibit, protocol: 3, ..Rule::lookup(Family::Ipv6, 1030, 0) });
    host.routes.push(route(111, "0.0.0.0/0", Some("10.0.0.1"), 3));
    host.routes.push(route(5324, "::/0", None, 2));
    host.routes.push(Route { protocol: 2, ..route(TABLE_MAIN, "10.0.0.0/24", None, 3) });
    host.routes.push(Route { protocol: 16, ..route(TABLE_MAIN, "0.0.0.0/0", Some("10.0.0.1"), 3) });
    let mut names = TableNames::default();
    names.add("111 isp2\n99 unused\n");
    let imported = import(&host, &names, &Default::default());
    assert_eq!(
        imported.text,
        r#"# What this host's kernel has now, as a policy file.
# `wayfork plan FILE` shows what running it would change: nothing, while all of this is still there.

[tables]
isp2 = 111

# owner: boot
[[route]]
table = "isp2"
to    = "default"
via   = "10.0.0.1"
dev   = "eth1"

# owner: boot
[[route]]
table  = 5324
to     = "default"
family = "ipv6"
dev    = "eth0"

# owner: static
[[rule]]
priority = 1000
iif      = "eth1"
table    = "isp2"

# owner: boot
[[rule]]
priority              = 1005
table                 = "main"
suppress_prefixlength = 0

# owner: boot
[[rule]]
priority = 1010
not      = true
fwmark   = 0x14cc
table    = 5324

# owner: dhcp
[[rule]]
priority = 1020
from     = ["192.168.8.0/24", "fd00:8::/64"]
table    = "isp2"

# owner: boot
[[rule]]
priority = 1030
family   = "ipv6"
action   = "prohibit"

"#
    );
    assert_eq!(imported.left_out, []);
    assert_eq!(accepted(&imported).warnings, []);
}

#[test]
fn what_cannot_be_said_is_said_loudly() {
    let mut host = host();
    let from = |net: &str| Selectors { from: Some(net.parse().unwrap()), ..Selectors::default() };
    add(&mut host, Rule { protocol: 3, selectors: from("10.0.0.1/32"), ..Rule::lookup(Family::Ipv4, 100, 7) });
    add(&mut host, Rule { protocol: 3, selectors: from("10.0.1.1/32"), ..Rule::lookup(Family::Ipv4, 100, 8) });
    let unknown = Selectors { unknown: vec!["flow 0x5".to_owned()], ..Selectors::default() };
    add(&mut host, Rule { selectors: unknown, ..Rule::lookup(Family::Ipv4, 200, 7) });
    host.rules.retain(|rule| !(rule.family == Family::Ipv6 && rule.priority == 32766));
    host.routes.push(Route { mtu: Some(1400), mtu_locked: true, ..route(7, "0.0.0.0/0", Some("10.0.0.1"), 3) });
    add(&mut host, Rule { realms: Some(2), ..Rule::lookup(Family::Ipv4, 300, 7) });
    host.routes.push(route(7, "10.0.0.0/8", None, 77));
    host.routes.push(Route { scope: 254, ..route(7, "10.9.0.1/32", None, 3) });
    let imported = import(&host, &TableNames::default(), &Default::default());
    for said in [
        "# NOT TAKEN OVER: 7 of the kernel's rules and routes have no words in a policy file",
        "# NOT TAKEN OVER: ipv4 route unicast 0.0.0.0/0 via 10.0.0.1 dev eth1 table 7 metric 0 (its mtu is locked)",
        "# NOT TAKEN OVER: ipv4 priority 300 from all lookup 7 realms 2 (a policy file has no realms)",
        "# NOT TAKEN OVER: ipv4 route unicast 10.0.0.0/8 dev if77 table 7 metric 0 (its interface is not here)",
        "# NOT TAKEN OVER: ipv4 route unicast 10.9.0.1/32 dev eth1 table 7 metric 0 (its scope is that of a host)",
        "# NOT TAKEN OVER: ipv6 priority 32766 from all lookup main was deleted (a policy file takes nothing away)",
        "# NOT TAKEN OVER: ipv4 priority 100 from 10.0.1.1/32 lookup 8 (a priority is there once in a policy file; give it one of its own to take it over)\n# # owner: boot\n# [[rule]]\n# priority = 100\n# from     = \"10.0.1.1/32\"\n# table    = 8\n",
        "# NOT TAKEN OVER: ipv4 priority 200 from all flow 0x5 lookup 7 (its selector flow 0x5 is not known to Wayfork)",
        "from     = \"10.0.0.1/32\"\ntable    = 7\n",
    ] {
        assert!(imported.text.contains(said), "{said}\n---\n{}", imported.text);
    }
    assert_eq!(imported.left_out.len(), 7);
    accepted(&imported);
}

#[test]
fn rules_of_one_priority_become_a_list_where_they_agree() {
    let mut host = host();
    for (net, iif) in [("10.0.0.0/8", "a"), ("10.0.0.0/8", "b"), ("fd00::/8", "a"), ("fd00::/8", "b")] {
        let net: ipnet::IpNet = net.parse().unwrap();
        let selectors = Selectors { from: Some(net), iif: Some(iif.to_owned()), ..Selectors::default() };
        add(&mut host, Rule { selectors, ..Rule::lookup(Family::of(net.addr()), 10, 9) });
    }
    let imported = import(&host, &TableNames::default(), &Default::default());
    assert!(
        imported.text.contains("iif      = [\"a\", \"b\"]\nfrom     = [\"10.0.0.0/8\", \"fd00::/8\"]\n"),
        "{}",
        imported.text
    );
    assert_eq!(imported.left_out, []);
}

#[test]
fn what_a_policy_was_lowered_to_comes_back_as_it_was() {
    let text = "[[rule]]\npriority = 10\nnot = true\niif = [\"a\", \"b\"]\nfrom = [\"10.0.0.0/8\", \"fd00::/8\"]\ntable = 9\n\
        [[rule]]\npriority = 20\nnot = true\nfwmark = [1, 2]\naction = \"prohibit\"\n\
        [[rule]]\npriority = 21\nfamily = \"ipv4\"\naction = \"nop\"\n";
    let policy = parse("p.toml", text, &TableNames::default()).unwrap().policy;
    let mut host = host();
    policy.rpdb().for_each(|rule| add(&mut host, rule.clone()));
    // The router's own reading of its marks is no part of a policy.
    add(&mut host, crate::safety::class_rule(Family::Ipv4, 0x0100_0000, 0xff00_0000, 9));
    let imported = import(&host, &TableNames::default(), &Default::default());
    assert_eq!(imported.left_out, [], "{}", imported.text);
    let again: Vec<Rule> = accepted(&imported).policy.rpdb().cloned().collect();
    let first: Vec<Rule> = policy.rpdb().cloned().collect();
    assert_eq!(display_rules(&again), display_rules(&first), "{}", imported.text);
    // The `nop` of the third is where the second lands anyway.
    assert_eq!(imported.text.matches("[[rule]]").count(), 2);
}

#[test]
fn hostile_names_stay_inside_their_quotes() {
    let mut host = host();
    let selectors = Selectors { iif: Some("a\"\n[x]#\\".to_owned()), ..Selectors::default() };
    add(&mut host, Rule { selectors, ..Rule::lookup(Family::Ipv4, 10, 9) });
    let selectors = Selectors { iif: Some("q\"\\".to_owned()), ..Selectors::default() };
    add(&mut host, Rule { selectors, ..Rule::lookup(Family::Ipv4, 20, 9) });
    let mut names = TableNames::default();
    names.add("9 a\"=\\ \n");
    let imported = import(&host, &names, &Default::default());
    let rules: Vec<Rule> = accepted(&imported).policy.rpdb().cloned().collect();
    assert_eq!(rules.len(), 1, "{}", imported.text);
    assert_eq!(rules[0].selectors.iif.as_deref(), Some("q\"\\"));
    assert_eq!(imported.left_out.len(), 1);
}

#[test]
fn routes_of_every_kind_come_back() {
    let mut host = host();
    let hop = |via: Option<&str>, dev, weight| NextHop {
        via: via.map(|via| via.parse().unwrap()),
        dev,
        weight,
        ..NextHop::default()
    };
    let kind = |kind, mut route: Route| {
        route.kind = kind;
        route.nexthops.clear();
        route
    };
    host.routes = vec![
        route(7, "0.0.0.0/0", Some("10.0.0.1"), 3),
        route(7, "::/0", Some("fe80::1"), 3),
        Route {
            metric: 5,
            mtu: Some(1400),
            prefsrc: Some("10.0.0.2".parse().unwrap()),
            ..route(7, "10.0.0.0/8", None, 3)
        },
        Route { nexthops: vec![hop(Some("fe80::1"), 2, 1)], ..route(7, "10.1.0.0/16", None, 2) },
        Route {
            nexthops: vec![hop(Some("10.0.0.1"), 3, 2), hop(Some("10.0.9.1"), 2, 1)],
            ..route(8, "0.0.0.0/0", None, 0)
        },
        Route {
            nexthops: vec![NextHop { onlink: true, ..hop(Some("10.9.9.9"), 2, 1) }],
            ..route(9, "0.0.0.0/0", None, 0)
        },
        kind(RouteKind::Blackhole, route(7, "10.2.0.0/16", None, 0)),
        kind(RouteKind::Prohibit, route(7, "fd00::/8", None, 0)),
        kind(RouteKind::Throw, route(7, "10.3.0.0/16", None, 0)),
        Route { metric: u32::MAX, ..kind(RouteKind::Unreachable, route(9, "::/0", None, 0)) },
        Route { protocol: 4, ..route(TABLE_MAIN, "10.4.0.0/16", Some("10.0.0.1"), 3) },
    ];
    let imported = import(&host, &TableNames::default(), &Default::default());
    assert_eq!(imported.left_out, [], "{}", imported.text);
    assert_eq!(accepted(&imported).policy.routes.len(), host.routes.len(), "{}", imported.text);
    // Each alone is compared by the importer itself; a route that it must refuse:
    let twin = Route { nexthops: vec![hop(Some("10.0.0.7"), 3, 1)], ..host.routes[0].clone() };
    host.routes.push(twin);
    let imported = import(&host, &TableNames::default(), &Default::default());
    assert_eq!(imported.left_out.len(), 1);
    accepted(&imported);
}
