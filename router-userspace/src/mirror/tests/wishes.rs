//! What a policy comes to on a host, and what a plan says of it.

use super::*;
use crate::mirror::{Kind, MarkClasses, Op, Reason, Words, after, against, desired, diff, items};
use crate::model::{Address, DeviceConf, Family, Link, NextHop, RouteKind, RuleAction};
use crate::policy::{self, Policy, TableNames};
use std::net::IpAddr;

fn read(text: &str) -> Policy {
    policy::parse("p.toml", text, &TableNames::default()).unwrap_or_else(|error| panic!("{error}")).policy
}

fn route(family: Family, dst: &str, via: Option<&str>, dev: u32, protocol: u8, metric: u32) -> Route {
    let via = via.map(|via| via.parse().unwrap());
    let nexthops = vec![NextHop { via, dev, weight: 1, ..NextHop::default() }];
    let scope = if via.is_none() && family == Family::Ipv4 { 253 } else { 0 };
    Route { metric, protocol, nexthops, scope, ..Route::to(254, dst.parse().unwrap(), RouteKind::Unicast) }
}

/// `eth0` and `eth1` up with a network each; a default route from DHCP on `eth1`, one from router advertisements on `eth0`.
fn host() -> Host {
    let mut host = FakeKernel::new().state().clone();
    for (index, name, net) in [(2, "eth0", "10.0.0.0/24"), (3, "eth1", "10.0.1.0/24")] {
        let forwards = DeviceConf { forwarding: true, ..DeviceConf::default() };
        host.links.insert(index, Link { index, name: name.into(), up: true, v4: forwards, ..Link::default() });
        host.routes.push(route(Family::Ipv4, net, None, index, 2, 0));
    }
    host.settings.all_v6.forwarding = true;
    host.routes.push(route(Family::Ipv4, "0.0.0.0/0", Some("10.0.1.1"), 3, 16, 100));
    host.routes.push(route(Family::Ipv6, "::/0", Some("fe80::1"), 2, 9, 1024));
    host.addresses.push(Address { index: 3, addr: "10.0.1.2".parse().unwrap(), prefix_len: 24 });
    host
}

fn wish(text: &str, host: &Host) -> Desired {
    desired(&read(text), host, &MarkClasses::default())
}

fn reasons(desired: &Desired) -> Vec<Reason> {
    desired.waiting.iter().map(|waiting| waiting.reason.clone()).collect()
}

#[test]
fn learned_follows_the_default_route_of_the_interface() {
    let text = "[[route]]\ntable = 7\nto = \"default\"\nvia = \"learned\"\ndev = \"eth1\"\n";
    let mut host = host();
    let there = wish(text, &host);
    let [only] = there.routes.as_slice() else { panic!("{:?}", there.routes) };
    assert_eq!(only.item.nexthops[0].via, Some("10.0.1.1".parse::<IpAddr>().unwrap()));
    assert_eq!(reasons(&there), [Reason::NothingLearned("eth1".into(), Family::Ipv6)]);
    // A new lease.
    host.routes.iter_mut().filter(|route| route.protocol == 16).for_each(|route| {
        route.nexthops[0].via = Some("10.0.1.254".parse().unwrap());
    });
    assert_eq!(wish(text, &host).routes[0].item.nexthops[0].via, Some("10.0.1.254".parse().unwrap()));
    // Its own route is no source of what it is to follow.
    host.routes.retain(|route| route.protocol != 16);
    host.routes.push(Route { protocol: OWN_PROTOCOL, ..route(Family::Ipv4, "0.0.0.0/0", Some("10.0.1.9"), 3, 16, 5) });
    let gone = wish(text, &host);
    assert!(gone.routes.is_empty() && gone.waiting.len() == 2, "{gone:?}");
}

/// What is no learned gateway is not followed: another owner's, and a policy's in a table of its own.
#[test]
fn learned_is_what_was_learned() {
    let text = "[[route]]\ntable = 7\nto = \"0.0.0.0/0\"\nvia = \"learned\"\ndev = \"eth1\"\n";
    let mut host = host();
    let default = |via: &str, table, protocol, metric| Route {
        table,
        ..route(Family::Ipv4, "0.0.0.0/0", Some(via), 3, protocol, metric)
    };
    let gateway = |host: &Host| {
        let wish = wish(text, host);
        wish.routes.first().map(|wanted| wanted.item.nexthops[0].via.unwrap().to_string())
    };
    host.routes.retain(|route| route.protocol != 16);
    // RTPROT_STATIC and RTPROT_BOOT in a table of its own; RTPROT_KERNEL, bird's and bgp's in main.
    host.routes.extend([default("10.0.1.66", 66, 4, 1), default("10.0.1.67", 67, 3, 1)]);
    host.routes.extend([2, 12, 186].map(|protocol| default("10.0.1.68", 254, protocol, u32::from(protocol))));
    assert_eq!(gateway(&host), None);
    // What a script of a DHCP client puts into main.
    for protocol in [3, 4] {
        let mut host = host.clone();
        host.routes.push(default("10.0.1.5", 254, protocol, 50));
        assert_eq!(gateway(&host).as_deref(), Some("10.0.1.5"));
        // One that says whence it is goes before it, even from a table of its own, and main's before that.
        host.routes.push(default("10.0.1.6", 77, 16, 900));
        assert_eq!(gateway(&host).as_deref(), Some("10.0.1.6"));
        host.routes.push(default("10.0.1.7", 254, 9, 1000));
        assert_eq!(gateway(&host).as_deref(), Some("10.0.1.7"));
    }
}

#[test]
fn what_is_not_there_is_waited_for() {
    let all = |what: &str| format!("[[route]]\nto = \"192.0.2.0/24\"\n{what}\n");
    let mut host = host();
    host.links.insert(4, Link { index: 4, name: "down0".into(), ..Link::default() });
    for (dst, kind) in [("10.0.1.2/32", RouteKind::Local), ("10.0.1.255/32", RouteKind::Broadcast)] {
        host.routes.push(Route { kind, table: 255, ..route(Family::Ipv4, dst, None, 3, 2, 0) });
    }
    for (text, reason) in [
        ("dev = \"eth9\"", Reason::NoDevice("eth9".into())),
        ("dev = \"down0\"", Reason::DeviceDown("down0".into())),
        ("via = \"10.9.0.1\"\ndev = \"eth1\"", Reason::OffLink("10.9.0.1".parse().unwrap(), "eth1".into())),
        ("via = \"10.0.0.1\"\ndev = \"eth1\"", Reason::OffLink("10.0.0.1".parse().unwrap(), "eth1".into())),
        ("via = \"10.9.0.1\"", Reason::NoWayTo("10.9.0.1".parse().unwrap())),
        ("dev = \"eth1\"\nsrc = \"10.0.1.3\"", Reason::NoSource("10.0.1.3".parse().unwrap())),
        (
            "via = \"10.0.1.2\"\ndev = \"eth1\"\nonlink = true",
            Reason::OwnAddress("10.0.1.2".parse().unwrap(), "eth1".into()),
        ),
        ("via = \"10.0.1.255\"\ndev = \"eth1\"\nonlink = true", Reason::Broadcast("10.0.1.255".parse().unwrap())),
    ] {
        let waiting = wish(&all(text), &host);
        assert_eq!(reasons(&waiting), [reason], "{text}");
        assert!(waiting.routes.is_empty(), "{text}");
        assert_eq!(waiting.waiting[0].at, "p.toml:1");
    }
    for text in [
        "via = \"10.0.1.7\"",
        "via = \"10.9.0.1\"\ndev = \"eth1\"\nonlink = true",
        "dev = \"eth1\"\nsrc = \"10.0.1.2\"",
    ] {
        let there = wish(&all(text), &host);
        assert_eq!((there.routes.len(), there.waiting.len()), (1, 0), "{text}");
        assert_eq!(there.routes[0].item.nexthops[0].dev, 3, "{text}");
    }
}

#[test]
fn a_multipath_route_goes_on_with_what_is_there() {
    let text = "[[route]]\nto = \"192.0.2.0/24\"\nnexthops = [{ via = \"10.0.0.1\", dev = \"eth0\", weight = 5 }, { dev = \"eth9\" }]\n";
    let partly = wish(text, &host());
    assert_eq!(partly.routes[0].item.nexthops.len(), 1);
    assert_eq!(partly.routes[0].item.nexthops[0].weight, 1, "a weight means nothing to a single one");
    assert!(partly.waiting[0].partly);
}

#[test]
fn a_gateway_may_be_on_the_link_by_another_route_of_the_file() {
    let text = "[[route]]\ntable = 9\nto = \"default\"\nvia = \"10.9.0.1\"\ndev = \"eth1\"\n\
                [[route]]\ntable = 9\nto = \"10.9.0.0/24\"\ndev = \"eth1\"\n";
    let wish = wish(text, &host());
    assert_eq!((wish.routes.len(), wish.waiting.len()), (2, 0));
    let way = diff(&wish, &host(), None);
    let order: Vec<u8> = way
        .steps
        .iter()
        .map(|step| if let super::super::Step::AddRoute(route) = step { route.dst.prefix_len() } else { 99 })
        .collect();
    assert_eq!(order, [24, 0], "what the gateway is reached by comes first");
}

#[test]
fn a_strict_table_has_a_last_resort_in_both_families() {
    let wish = wish("[tables]\nvpn = { id = 7, strict = true }\n", &host());
    assert_eq!(wish.routes.len(), 2);
    for (wanted, family) in wish.routes.iter().zip(Family::BOTH) {
        assert_eq!(
            (wanted.item.family, wanted.item.metric, wanted.item.kind),
            (family, u32::MAX, RouteKind::Unreachable)
        );
        assert_eq!(wanted.origin.at(), Some("p.toml:2"));
    }
}

#[test]
fn what_others_have_is_left_to_them() {
    let text = "[[rule]]\nname = \"mine\"\npriority = 50\nfrom = \"10.0.0.0/8\"\ntable = 7\n\
                [[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.1.1\"\ndev = \"eth1\"\nmetric = 100\n";
    let mut host = host();
    let mut theirs = read(text).rules[0].rule.clone();
    theirs.protocol = 3;
    host.rules.insert(1, theirs);
    let wish = wish(text, &host);
    assert!(wish.rules.is_empty() && wish.routes.is_empty() && wish.conflicts.is_empty());
    assert_eq!((wish.left_rules[0].1, wish.left_routes[0].1), (3, 16));
    let changes = diff(&wish, &host, None);
    assert!(changes.is_empty());
    let policy = read(text);
    let items = items(&wish, &host, &changes, &Words { host: &host, policy: &policy });
    assert!(items.iter().all(|item| item.op == Op::Keep));
    assert!(items[0].text.ends_with("(owner: boot)") && items[1].text.ends_with("(owner: dhcp)"), "{items:?}");
    assert_eq!((items[0].name.as_deref(), items[0].at.as_deref()), (Some("mine"), Some("p.toml:1")));
    // Told as `status` will tell it: the owner's.
    let told = items[0].rule.as_ref().unwrap();
    assert_eq!((told.owner.as_str(), told.priority), ("boot", 50));
    assert_eq!(told.rule_id, crate::model::rule_ids(&host.rules)[1]);
    assert!(items[1].rule.is_none(), "a route");
}

#[test]
fn a_taken_place_is_an_error_that_names_the_holder() {
    let text = "[[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.1\"\ndev = \"eth0\"\nmetric = 100\n";
    let wish = wish(text, &host());
    let error = wish.check().unwrap_err().to_string();
    assert!(error.contains("default via 10.0.1.1 dev eth1 table main metric 100 (owner: dhcp)"), "{error}");
    assert!(error.contains("p.toml:1") && error.contains("another metric"), "{error}");
    assert!(wish.routes.is_empty());
}

#[test]
fn early_rules_for_the_marks_of_the_fast_path() {
    let classes = MarkClasses { bits: 0xf000_0000, tables: [(7, 0x1000_0000)].into() };
    let policy = read("[[rule]]\npriority = 50\niif = \"eth1\"\ntable = 7\n");
    let wish = desired(&policy, &host(), &classes);
    let early: Vec<&Rule> = wish.rules.iter().map(|wanted| &wanted.item).filter(|rule| rule.priority < 50).collect();
    let classes = || early.iter().filter(|rule| !rule.is_scaffold());
    assert_eq!(classes().map(|rule| rule.family).collect::<Vec<_>>(), Family::BOTH);
    assert!(classes().all(|rule| rule.selectors.fwmark == Some((0x1000_0000, 0xf000_0000))));
    let there = after(&wish, &host());
    let list: Vec<String> =
        there.rules_of(Family::Ipv4).map(|rule| format!("{} {}", rule.priority, rule.selectors)).collect();
    assert_eq!(
        list,
        [
            "0 from all",
            "1 from all fwmark 0x0/0xf0000000",
            "1 from all iif lo",
            "2 from all fwmark 0x10000000/0xf0000000",
            "3 from all",
            "50 from all iif eth1",
            "32766 from all",
            "32767 from all"
        ]
    );
    assert_eq!(there.rules[0].action, RuleAction::Table(255), "local stays first");
    // The guard is asked once more with those that are there.
    let without = desired(&policy, &there, &MarkClasses::default());
    let real = |host: Host| Host { rules: host.rules.into_iter().filter(|rule| !rule.is_scaffold()).collect(), ..host };
    assert_eq!(after(&without, &there), real(there));
}

/// Where somebody has rules among those for the marks, nothing leads past them; and nothing is added where a jump would find it.
#[test]
fn nothing_leads_past_rules_of_others() {
    let classes = MarkClasses { bits: 0xf000_0000, tables: [(7, 0x1000_0000)].into() };
    let made = |text: &str, foreign: Option<Rule>| {
        let mut host = host();
        host.rules.splice(1..1, foreign);
        let wish = desired(&read(text), &host, &classes);
        wish.rules.iter().filter(|wanted| wanted.item.is_scaffold() && wanted.item.family == Family::Ipv4).count()
    };
    let theirs = |priority| Some(Rule { protocol: 3, ..Rule::lookup(Family::Ipv4, priority, 7) });
    assert_eq!(made("", None), 3);
    assert_eq!(made("", theirs(0)), 3, "it comes before them");
    assert_eq!((made("", theirs(1)), made("", theirs(2))), (0, 0));
    assert_eq!(made("", theirs(3)), 2, "there is something to land on");
    assert_eq!(made("[[rule]]\npriority = 2\ntable = 7\n", None), 0);
    assert_eq!(made("[[rule]]\npriority = 3\ntable = 7\n", None), 2);
    let jump = Rule { action: RuleAction::Goto(3), ..theirs(0).unwrap() };
    assert_eq!(made("", Some(jump)), 0);
}

#[test]
fn a_plan_tells_what_comes_goes_and_stays() {
    let old = read(
        "[[rule]]\npriority = 50\niif = \"eth1\"\nfamily = \"ipv4\"\ntable = 7\n[[rule]]\npriority = 60\nfamily = \"ipv4\"\ntable = 8\n",
    );
    let new = read(
        "[tables]\nisp = 7\n[[rule]]\npriority = 50\niif = \"eth1\"\nfamily = \"ipv4\"\ntable = \"isp\"\n\
         [[rule]]\nname = \"more\"\npriority = 55\nfamily = \"ipv4\"\ntable = 9\n\
         [[mark]]\niif = \"eth1\"\nfamily = \"ipv4\"\nset = 1\n",
    );
    let host = after(&desired(&old, &host(), &MarkClasses::default()), &host());
    let wish = desired(&new, &host, &MarkClasses::default());
    let changes = diff(&wish, &host, Some(1));
    let items = items(&wish, &host, &changes, &Words { host: &host, policy: &new });
    let told: Vec<(Op, Kind, &str)> = items.iter().map(|item| (item.op, item.kind, item.text.as_str())).collect();
    assert_eq!(
        told,
        [
            (Op::Keep, Kind::Rule, "50: from all iif eth1 lookup isp"),
            (Op::Add, Kind::Rule, "55: from all lookup 9"),
            (Op::Remove, Kind::Rule, "60: from all lookup 8"),
            (Op::Remove, Kind::Chain, "table inet wayfork as it is now"),
            (Op::Add, Kind::Chain, "mark-0: from all iif eth1 set 0x1"),
        ]
    );
    assert_eq!(items[1].name.as_deref(), Some("more"));
    let then = after(&wish, &host).rules;
    for (item, list) in [(&items[0], &then), (&items[1], &then), (&items[2], &host.rules)] {
        let told = item.rule.as_ref().unwrap();
        assert_eq!(told.owner, "wayfork");
        let place = list.iter().position(|rule| rule.priority == told.priority).unwrap();
        assert_eq!(told.rule_id, crate::model::rule_ids(list)[place]);
    }
}

/// What only spares a walk is one line of a plan, however much it is, and no part of what is imported.
#[test]
fn jumps_are_one_line_of_a_plan() {
    let nets =
        |count: u32| (0..count).map(|n| format!("\"10.9.{}.{}\"", n / 256, n % 256)).collect::<Vec<_>>().join(", ");
    let text = |count| format!("[[rule]]\nname = \"many\"\npriority = 1000\nfrom = [{}]\ntable = 7\n", nets(count));
    let (few, many) = (read(&text(10)), read(&text(500)));
    let plan = |policy: &Policy, host: &Host| {
        let wish = desired(policy, host, &MarkClasses::default());
        let changes = diff(&wish, host, None);
        let items = items(&wish, host, &changes, &Words { host, policy });
        let jumps = items.into_iter().filter(|item| item.text.contains("that decide nothing"));
        let jumps: Vec<(Op, String)> = jumps.map(|item| (item.op, item.text)).collect();
        (jumps, after(&wish, host))
    };
    let start = host();
    let (none, host) = plan(&few, &start);
    assert_eq!(none, []);
    let (some, host) = plan(&many, &host);
    let [(Op::Add, line)] = some.as_slice() else { panic!("{some:?}") };
    let made = host.rules.iter().filter(|rule| rule.is_scaffold()).count();
    assert!(made > 30 && line.starts_with(&format!("{made} more that decide nothing")), "{line}");
    assert_eq!(plan(&many, &host).0[0].0, Op::Keep);
    assert_eq!(plan(&few, &host).0[0].0, Op::Remove);
    let imported = crate::import::kernel::import(&host, &TableNames::default(), &Default::default());
    assert!(!imported.text.contains("goto") && !imported.text.contains("nop") && imported.left_out.is_empty());
    let again = read(&imported.text);
    assert_eq!(again.rules.len(), 500);
    let ours = host.rules.iter().filter(|rule| rule.protocol == OWN_PROTOCOL && !rule.is_scaffold());
    assert!(again.rpdb().eq(ours), "{}", imported.text);
}

#[test]
fn what_stands_against_it_is_said() {
    let text = "[[rule]]\npriority = 50\niif = [\"eth1\", \"eth9\"]\ntable = 7\n\
                [[rule]]\npriority = 60\nnot = true\niif = \"eth8\"\nfwmark = \"0x100/0xff00\"\ntable = 7\n";
    let mut host = host();
    host.links.get_mut(&3).unwrap().v4.forwarding = false;
    host.settings.all_v6.forwarding = false;
    host.rules.insert(1, Rule { protocol: 3, ..Rule::lookup(Family::Ipv4, 50, 9) });
    let said = against(&wish(text, &host), &host, Some(0xff00_0f00)).join("\n");
    for part in [
        "there is no interface eth9: the rule of priority 50 (p.toml:1) matches nothing until it appears",
        "there is no interface eth8: the rule of priority 60 (p.toml:5) matches every packet until it appears",
        "IPv4 packets from eth1 are not forwarded",
        "this host does not forward IPv6",
        "another program's ipv4 rule `from all lookup 9` (owner: boot)",
        "mark_bits: 0xf00 of 0xff000f00 is used",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let text = "[[rule]]\npriority = 50\niif = \"eth0\"\nfamily = \"ipv4\"\ntable = 7\n";
    assert_eq!(
        against(&wish(text, &host), &host, None),
        vec![
            "the rule of priority 50 (p.toml:1) has the priority of another program's ipv4 rule `from all lookup 9` (owner: boot): \
         whichever was added first goes first; give it another priority"
        ]
    );
}

#[test]
fn what_the_kernel_would_take_no_notice_of_is_not_installed() {
    use crate::model::RuleFeature;
    let mut host = host();
    host.lacks.extend([RuleFeature::Flowlabel, RuleFeature::PortMask]);
    let text = "[[rule]]\npriority = 10\nflowlabel = 5\ntable = 7\n[[rule]]\npriority = 20\ndscp = 46\ntable = 7";
    let wish = wish(text, &host);
    assert_eq!(wish.rules.len(), 2, "dscp it has");
    assert_eq!(
        wish.check().unwrap_err().to_string(),
        "ipv6 priority 10 from all flowlabel 0x5 lookup 7 (p.toml:1): this kernel takes no notice of `flowlabel` in a rule; \
         Linux 6.14 and later do; take the rule out"
    );
}

#[test]
fn a_route_waits_for_its_next_hop_object() {
    let mut host = host();
    let text = "[[route]]\nto = \"10.7.0.0/16\"\nnhid = 5";
    assert_eq!(reasons(&wish(text, &host)), [Reason::NoObject(5)]);
    host.nexthop_objects.insert(5);
    let wish = wish(text, &host);
    assert_eq!((wish.routes[0].item.nhid, wish.waiting.len()), (5, 0));
}
