//! Rules: every shape there and back.

use super::{ip, namespace, netlink};
use crate::kernel::{Kernel, rule_matches_deletion};
use crate::lab::needs;
use crate::model::{Family, Ports, Rule, RuleAction, Selectors, display_rules};

fn rule(family: Family, priority: u32, selectors: Selectors, action: RuleAction) -> Rule {
    Rule { selectors, action, ..Rule::lookup(family, priority, 0) }
}

/// Every selector by itself and all together, every action, in one family.
fn shapes(family: Family) -> Vec<Rule> {
    let (net, host) = match family {
        Family::Ipv4 => ("192.168.8.0/24", "8.8.8.8/32"),
        Family::Ipv6 => ("fd00:8::/64", "2001:db8::8/128"),
    };
    let (net, host) = (Some(net.parse().unwrap()), Some(host.parse().unwrap()));
    let name = |name: &str| Some(name.to_owned());
    let ports = |start, end| Some(Ports::Range { start, end });
    let base = Selectors::default;
    let mut selectors = vec![
        base(),
        Selectors { not: true, ..base() },
        Selectors { iif: name("eth1"), ..base() },
        Selectors { iif: name("lo"), ..base() },
        Selectors { oif: name("fifteen-letters"), ..base() },
        Selectors { fwmark: Some((5324, u32::MAX)), ..base() },
        Selectors { fwmark: Some((0x100, 0xff00)), ..base() },
        Selectors { fwmark: Some((0, 0xff)), ..base() },
        Selectors { not: true, fwmark: Some((5324, u32::MAX)), ..base() },
        Selectors { from: net, ..base() },
        Selectors { to: host, ..base() },
        Selectors { tos: 0x10, ..base() },
        Selectors { ipproto: Some(17), ..base() },
        Selectors { ipproto: Some(if family == Family::Ipv4 { 1 } else { 58 }), ..base() },
        Selectors { ipproto: Some(6), sport: ports(1, 65534), ..base() },
        Selectors { ipproto: Some(6), dport: ports(443, 443), ..base() },
        Selectors { uidrange: Some((0, 0)), ..base() },
        Selectors { uidrange: Some((1000, 2000)), ..base() },
        Selectors { tun_id: Some(0x1_0000_0002), ..base() },
    ];
    selectors.push(Selectors {
        not: true,
        iif: name("eth1"),
        oif: name("eth2"),
        fwmark: Some((1, 3)),
        from: net,
        to: host,
        tos: 0x08,
        ipproto: Some(17),
        sport: ports(10, 20),
        dport: ports(53, 53),
        uidrange: Some((1, 2)),
        ..base()
    });
    let mut rules: Vec<Rule> =
        selectors.into_iter().zip(1000..).map(|(one, at)| rule(family, at, one, RuleAction::Table(111))).collect();
    let actions = [
        RuleAction::Table(254),
        RuleAction::Table(256),
        RuleAction::Table(u32::MAX),
        RuleAction::Goto(32766),
        RuleAction::Goto(5000),
        RuleAction::Nop,
        RuleAction::Blackhole,
        RuleAction::Unreachable,
        RuleAction::Prohibit,
    ];
    rules.extend(actions.into_iter().zip(2000..).map(|(action, at)| rule(family, at, base(), action)));
    let l3mdev = Selectors { l3mdev: true, ..base() };
    rules.push(rule(family, 3000, l3mdev, RuleAction::Table(0)));
    rules.push(Rule { suppress_prefixlength: Some(0), ..Rule::lookup(family, 3001, 254) });
    rules.push(Rule { suppress_prefixlength: Some(24), suppress_ifgroup: Some(7), ..Rule::lookup(family, 3002, 254) });
    rules.push(Rule { protocol: 0, ..Rule::lookup(family, 3003, 254) });
    rules.push(Rule { protocol: 255, ..Rule::lookup(family, 3004, 254) });
    rules.push(Rule::lookup(family, 0, 5));
    rules.push(Rule::lookup(family, u32::MAX, 5));
    rules
}

#[test]
fn every_shape_there_and_back() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    let before = kernel.rules().unwrap();
    assert_eq!(before.len(), 5, "local, main, default; local, main: {}", display_rules(&before));
    for family in Family::BOTH {
        for rule in shapes(family) {
            match kernel.add_rule(&rule) {
                // A selector that this kernel was built without (l3mdev).
                Err(error) if rule.selectors.l3mdev && error.errno() == libc::EINVAL => {
                    eprintln!("left out: {error}");
                    continue;
                }
                other => other.unwrap(),
            }
            let after = kernel.rules().unwrap();
            let new: Vec<&Rule> = after.iter().filter(|one| !before.contains(one)).collect();
            assert_eq!(new, [&rule], "as dumped against as added");
            assert_eq!(after.len(), before.len() + 1);
            kernel.delete_rule(&rule).unwrap();
            assert_eq!(kernel.rules().unwrap(), before, "after deleting {rule}");
            let again = kernel.delete_rule(&rule).unwrap_err();
            assert_eq!(again.errno(), libc::ENOENT, "{again}");
        }
    }
}

#[test]
fn dscp_and_its_mask() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    let before = kernel.rules().unwrap();
    for family in Family::BOTH {
        for dscp in [(46, 0x3f), (8, 0x38)] {
            let rule = rule(family, 100, Selectors { dscp: Some(dscp), ..Selectors::default() }, RuleAction::Table(5));
            if !needs::holds(&kernel.lacks().unwrap(), &rule).unwrap() {
                continue;
            }
            kernel.add_rule(&rule).unwrap();
            assert!(kernel.rules().unwrap().contains(&rule), "{}", display_rules(&kernel.rules().unwrap()));
            kernel.delete_rule(&rule).unwrap();
            assert_eq!(kernel.rules().unwrap(), before);
        }
    }
}

/// Before 6.15 the IPv6 rule compares no class that is 0 (`fib6_rule_match`), and the kernel tells no mask.
#[test]
fn an_ipv6_rule_for_dscp_0_is_read_as_the_kernel_matches_it() {
    let Some(namespace) = namespace() else { return };
    if needs::release() < (6, 12) {
        needs::left_out("a rule's dscp", needs::Since::Version(6, 12)).unwrap();
        return;
    }
    let mut kernel = netlink(&namespace);
    for family in Family::BOTH {
        let selectors = Selectors { dscp: Some((0, 0x3f)), ..Selectors::default() };
        kernel.add_rule(&rule(family, 100, selectors, RuleAction::Table(5))).unwrap();
        let read = kernel.rules().unwrap().into_iter().find(|rule| rule.family == family && rule.priority == 100);
        let mask = if family == Family::Ipv6 && needs::release() < (6, 15) { 0 } else { 0x3f };
        assert_eq!(read.unwrap().selectors.dscp, Some((0, mask)), "{family}");
    }
}

#[test]
fn twins_are_told_apart_in_the_list_but_not_by_a_deletion() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    let marked = Selectors { fwmark: Some((5, u32::MAX)), ..Selectors::default() };
    let plain = rule(Family::Ipv4, 700, marked.clone(), RuleAction::Table(5));
    let inverted = rule(Family::Ipv4, 700, Selectors { not: true, ..marked }, RuleAction::Table(5));
    let at_700 = |kernel: &mut super::Netlink| -> Vec<Rule> {
        kernel.rules().unwrap().into_iter().filter(|rule| rule.priority == 700).collect()
    };
    kernel.add_rule(&plain).unwrap();
    kernel.add_rule(&inverted).unwrap();
    assert_eq!(at_700(&mut kernel), [plain.clone(), inverted.clone()]);
    assert!(rule_matches_deletion(&inverted, &plain));
    kernel.delete_rule(&inverted).unwrap();
    assert_eq!(at_700(&mut kernel), std::slice::from_ref(&inverted), "the first of the two goes, whichever was named");
    kernel.delete_rule(&plain).unwrap();
    assert_eq!(at_700(&mut kernel), []);
    // Another owner's twin is safe: the protocol is compared.
    let foreign = Rule { protocol: 4, ..plain.clone() };
    kernel.add_rule(&foreign).unwrap();
    kernel.add_rule(&inverted).unwrap();
    kernel.delete_rule(&inverted).unwrap();
    assert_eq!(at_700(&mut kernel), [foreign]);
}

/// The predicate against the kernel: with two rules at one priority, deleting the second hits the first exactly where it says so.
#[test]
fn what_a_deletion_hits() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    for family in Family::BOTH {
        let mut rules: Vec<Rule> = shapes(family)
            .into_iter()
            .map(|rule| Rule { priority: 900, ..rule })
            .filter(|r| !r.selectors.l3mdev)
            .collect();
        // Forward only, from 900.
        rules.retain(|rule| !matches!(rule.action, RuleAction::Goto(target) if target <= 900));
        let pairs = rules.iter().flat_map(|a| rules.iter().map(move |b| (a, b))).filter(|(a, b)| a != b);
        let mut hits = 0;
        for (first, second) in pairs {
            kernel.add_rule(first).unwrap();
            kernel.add_rule(second).unwrap();
            kernel.delete_rule(second).unwrap();
            let left: Vec<Rule> = kernel.rules().unwrap().into_iter().filter(|rule| rule.priority == 900).collect();
            let hit_first = left == [second.clone()];
            assert_eq!(rule_matches_deletion(second, first), hit_first, "first {first}\nsecond {second}");
            hits += usize::from(hit_first);
            kernel.delete_rule(&left[0]).unwrap();
        }
        assert!(hits > 40, "{hits}");
    }
}

#[test]
fn equal_priorities_keep_their_order() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    for family in Family::BOTH {
        let rules: Vec<Rule> = (0..300).map(|n| Rule::lookup(family, 500, 1000 + (n * 7919) % 300)).collect();
        for (rule, result) in rules.iter().zip(kernel.add_rules(&rules)) {
            result.unwrap_or_else(|error| panic!("{rule}: {error}"));
        }
        let dumped: Vec<Rule> =
            kernel.rules().unwrap().into_iter().filter(|r| r.family == family && r.priority == 500).collect();
        assert_eq!(dumped, rules);
        assert!(kernel.delete_rules(&rules).iter().all(Result::is_ok));
    }
    assert_eq!(kernel.rules().unwrap().len(), 5);
}

#[test]
fn a_batch_says_which_was_refused() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    let mut rules: Vec<Rule> = (0..400).map(|n| Rule::lookup(Family::Ipv4, 2000 - n, 5)).collect();
    rules[130] = rule(Family::Ipv4, 1870, Selectors::default(), RuleAction::Goto(1)); // backwards
    let results = kernel.add_rules(&rules);
    assert_eq!(results.len(), rules.len());
    let dumped = kernel.rules().unwrap();
    for (at, (rule, result)) in rules.iter().zip(&results).enumerate() {
        assert_eq!(dumped.contains(rule), result.is_ok(), "{at}: {result:?}");
    }
    let refused = results[130].as_ref().unwrap_err();
    assert_eq!(refused.errno(), libc::EINVAL, "{refused}");
    assert!(refused.to_string().contains("goto 1"), "{refused}");
    assert_eq!(results[399].as_ref().unwrap_err().errno(), libc::ECANCELED);
    assert!(results[..130].iter().all(Result::is_ok));
}

#[test]
fn ten_thousand_rules() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    let host = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n);
    let rules: Vec<Rule> = (0..10_000u32)
        .map(|n| {
            let from = Some(ipnet::Ipv4Net::new(host(n), 32).unwrap().into());
            rule(Family::Ipv4, 1000 + n, Selectors { from, ..Selectors::default() }, RuleAction::Table(5))
        })
        .collect();
    let descending: Vec<Rule> = rules.iter().rev().cloned().collect();
    let start = std::time::Instant::now();
    assert!(kernel.add_rules(&descending).iter().all(Result::is_ok));
    let added = start.elapsed();
    let dumped = kernel.rules().unwrap();
    println!("added in {added:?}, read in {:?}", start.elapsed() - added);
    assert_eq!(dumped.len(), 10_005);
    assert_eq!(dumped.iter().filter(|rule| rule.protocol == 87).cloned().collect::<Vec<_>>(), rules);
}

#[test]
fn what_cannot_be_written_is_refused_before_it_is_sent() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    let unknown = Selectors { unknown: vec!["flowlabel 0x1/0xfffff".to_owned()], ..Selectors::default() };
    let wrong_family = Selectors { from: Some("fd00::/8".parse().unwrap()), ..Selectors::default() };
    for wrong in [
        rule(Family::Ipv4, 1, unknown, RuleAction::Table(5)),
        rule(Family::Ipv4, 1, wrong_family, RuleAction::Table(5)),
        rule(Family::Ipv4, 1, Selectors::default(), RuleAction::Unknown(9)),
    ] {
        let fine = Rule::lookup(Family::Ipv4, 2, 5);
        assert_eq!(kernel.add_rule(&wrong).unwrap_err().errno(), libc::EOPNOTSUPP);
        assert!(kernel.add_rules(&[fine, wrong]).iter().all(Result::is_err));
    }
    assert_eq!(kernel.rules().unwrap().len(), 5);
}

/// Selectors that this version does not decide are shown, not dropped.
#[test]
fn selectors_of_newer_kernels_and_realms_there_and_back() {
    let Some(namespace) = namespace() else { return };
    let base = Selectors::default;
    let masked = Some(Ports::Masked { value: 0x1000, mask: 0xf000 });
    let mut rules = Vec::new();
    for family in Family::BOTH {
        rules.push(rule(family, 70, Selectors { ipproto: Some(17), sport: masked, ..base() }, RuleAction::Table(5)));
        rules.push(rule(family, 71, Selectors { dport: masked, ..base() }, RuleAction::Table(5)));
        rules.push(rule(family, 72, Selectors { dport: Some(Ports::one(0x1000)), ..base() }, RuleAction::Table(5)));
    }
    for label in [(0x12345, 0xf_ffff), (0x12000, 0xf_f000), (0, 1)] {
        let selectors = Selectors { flowlabel: Some(label), ..base() };
        rules.push(rule(Family::Ipv6, 73, selectors, RuleAction::Table(5)));
    }
    rules.push(Rule { realms: Some(0x1_0002), ..Rule::lookup(Family::Ipv4, 74, 5) });
    let mut kernel = netlink(&namespace);
    let before = kernel.rules().unwrap();
    let lacks = kernel.lacks().unwrap();
    for rule in rules {
        if !needs::holds(&lacks, &rule).unwrap() {
            continue;
        }
        kernel.add_rule(&rule).unwrap();
        let new: Vec<Rule> = kernel.rules().unwrap().into_iter().filter(|one| !before.contains(one)).collect();
        assert_eq!(new, std::slice::from_ref(&rule), "as dumped against as added");
        kernel.delete_rule(&rule).unwrap();
        assert_eq!(kernel.rules().unwrap(), before, "after deleting {rule}");
    }
}

#[test]
fn unknown_selectors_are_kept_in_sight() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    // FIB_RULE_FIND_SADDR stands for all that may come: what is not known must not be taken for nothing.
    let rule = Rule::lookup(Family::Ipv6, 70, 5);
    kernel.add_find_saddr(&rule).unwrap();
    let rules = kernel.rules().unwrap();
    let read = rules.iter().find(|rule| rule.priority == 70).unwrap();
    assert_eq!(read.selectors.unknown, ["find_saddr"]);
}

/// Every rule of [`shapes`] as `ip rule` and as Wayfork list it.
#[test]
fn the_list_is_the_one_that_iproute2_shows() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = netlink(&namespace);
    for family in Family::BOTH {
        for rule in shapes(family).iter().filter(|rule| !rule.selectors.l3mdev) {
            kernel.add_rule(rule).unwrap();
        }
        let flag = if family == Family::Ipv4 { "-4" } else { "-6" };
        let Some(text) = ip(&namespace, &format!("{flag} -N rule show")) else { return };
        let ours: Vec<Rule> = kernel.rules().unwrap().into_iter().filter(|rule| rule.family == family).collect();
        assert_eq!(text.lines().count(), ours.len());
        for (line, rule) in text.lines().zip(&ours) {
            // `-N` writes protocol numbers as `ipproto-17`.
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ").replace("ipproto-", "");
            assert_eq!(as_iproute2(rule), line);
        }
    }
}

/// A rule as `ip -N rule show` of iproute2 6.1 prints it.
fn as_iproute2(rule: &Rule) -> String {
    let s = &rule.selectors;
    let mut words = vec![format!("{}:", rule.priority)];
    let mut say = |word: Option<String>| words.extend(word);
    let net = |net: ipnet::IpNet| {
        if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
    };
    say(s.not.then(|| "not".to_owned()));
    say(Some(s.from.map_or("from all".to_owned(), |from| format!("from {}", net(from)))));
    say(s.to.map(|to| format!("to {}", net(to))));
    say((s.tos != 0).then(|| format!("tos 0x{:02x}", s.tos)));
    say(s.fwmark.map(|(value, mask)| match (value, mask) {
        (value, u32::MAX) => format!("fwmark {value:#x}"),
        (0, mask) => format!("fwmark 0/{mask:#x}"),
        (value, mask) => format!("fwmark {value:#x}/{mask:#x}"),
    }));
    // iproute2 shows that the device is not there.
    say(s.iif.as_ref().map(|iif| format!("iif {iif}{}", if iif == "lo" { "" } else { " [detached]" })));
    say(s.oif.as_ref().map(|oif| format!("oif {oif} [detached]")));
    say(s.uidrange.map(|(start, end)| format!("uidrange {start}-{end}")));
    say(s.ipproto.map(|protocol| format!("ipproto {protocol}")));
    say(s.sport.map(|ports| format!("sport {ports}")));
    say(s.dport.map(|ports| format!("dport {ports}")));
    say(s.tun_id.map(|id| format!("tun_id {id}")));
    match rule.action {
        RuleAction::Table(table) => {
            say(Some(format!("lookup {table}")));
            say(rule.suppress_prefixlength.map(|len| format!("suppress_prefixlength {len}")));
            say(rule.suppress_ifgroup.map(|group| format!("suppress_ifgroup {group}")));
        }
        RuleAction::Goto(target) => {
            let resolved = target == 32766;
            say(Some(format!("goto {target}{}", if resolved { "" } else { " [unresolved]" })));
        }
        RuleAction::Nop => say(Some("nop".to_owned())),
        // `-N` writes these as numbers too.
        RuleAction::Blackhole => say(Some("6".to_owned())),
        RuleAction::Unreachable => say(Some("7".to_owned())),
        RuleAction::Prohibit => say(Some("8".to_owned())),
        RuleAction::Unknown(_) => unreachable!(),
    }
    // 2 is the kernel's own; 0 is not shown.
    say((rule.protocol != 2 && rule.protocol != 0).then(|| format!("proto {}", rule.protocol)));
    words.join(" ")
}
