//! Rules: every shape there and back.

use super::{namespace, netlink};
use crate::kernel::Kernel;
use crate::model::{Family, PortRange, Rule, RuleAction, Selectors, display_rules};

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
    let ports = |start, end| Some(PortRange { start, end });
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
            match kernel.add_rule(&rule) {
                Err(error) if matches!(error.errno(), libc::EINVAL | libc::EOPNOTSUPP) => {
                    eprintln!("left out, kernel without the selector: {error}");
                    continue;
                }
                other => other.unwrap(),
            }
            assert!(kernel.rules().unwrap().contains(&rule), "{}", display_rules(&kernel.rules().unwrap()));
            kernel.delete_rule(&rule).unwrap();
            assert_eq!(kernel.rules().unwrap(), before);
        }
    }
}
