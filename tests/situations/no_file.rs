//! `wayfork run` without a file: the namespace's own `ip rule` set, decided by the fast path as the stack decides it.

use crate::bed;
use anyhow::{Result, ensure};
use wayfork::kernel::Kernel;
use wayfork::lab::traffic::Proto;
use wayfork::model::{Family, Ports, Rule, RuleAction, Selectors};
use wayfork_tests::{Bed, Way};

const STATIC: u8 = 4;

/// A rule set with every kind of turn: goto, not, suppress, ports, a table without a route, prohibit.
fn rules(family: Family) -> Vec<Rule> {
    let [lan, second, far] = match family {
        Family::Ipv4 => ["192.168.8.0/24", "192.168.8.77/32", "111.11.1.1/32"],
        Family::Ipv6 => ["fd00:8::/64", "fd00:8::77/128", "2001:db8:111::1/128"],
    }
    .map(|net| net.parse().ok());
    let rule =
        |priority, selectors, action| Rule { selectors, action, protocol: STATIC, ..Rule::lookup(family, priority, 0) };
    let table = RuleAction::Table;
    let iif = || Some("lan0".to_owned());
    let any = Selectors::default;
    vec![
        Rule { suppress_prefixlength: Some(0), ..rule(100, any(), table(254)) },
        // A table that nobody fills: on to the next.
        rule(110, any(), table(999)),
        // What is not from the second host skips the two rules that follow.
        rule(200, Selectors { not: true, from: second, ..any() }, RuleAction::Goto(300)),
        rule(
            210,
            Selectors { ipproto: Some(6), dport: Some(Ports::Range { start: 443, end: 443 }), ..any() },
            table(254),
        ),
        rule(220, Selectors { iif: iif(), ..any() }, table(112)),
        rule(300, Selectors { fwmark: Some((0x10, 0xff)), ..any() }, RuleAction::Prohibit),
        rule(310, Selectors { from: lan, to: far, ipproto: Some(17), ..any() }, table(112)),
    ]
}

/// The same flows, and the way that each went.
fn ways(bed: &mut Bed) -> Result<Vec<(String, Way)>> {
    let mut ways = Vec::new();
    for source in ["192.168.8.10", "192.168.8.77", "fd00:8::10", "fd00:8::77"] {
        for (proto, dport) in
            [(Proto::Icmp, 0), (Proto::Udp, 443), (Proto::Udp, 9000), (Proto::Tcp, 443), (Proto::Tcp, 9000)]
        {
            ways.push((format!("{source} {proto:?} {dport}"), bed.flow(source, proto, dport, 20)?));
        }
    }
    Ok(ways)
}

#[test]
fn packets_leave_by_the_interfaces_that_the_stack_alone_would_choose() -> Result<()> {
    let mut bed = bed!();
    bed.lab.route_in("router", 112, &["10.0.0.1", "2001:db8:b::1"])?;
    bed.kernel(|kernel| {
        Family::BOTH.iter().flat_map(|family| rules(*family)).try_for_each(|rule| kernel.add_rule(&rule))
    })?;
    let before = bed.snapshot()?;
    let alone = ways(&mut bed)?;
    ensure!(alone.iter().all(|(_, way)| way.packets == 20), "the stack alone: {alone:?}");
    for place in ["isp1", "isp2"] {
        ensure!(alone.iter().any(|(_, way)| way.place == place), "the rules send nothing to {place}: {alone:?}");
    }
    let daemon = bed.run_with(&["--mode", "ebpf"])?;
    assert_eq!(bed.snapshot()?.rules, before.rules, "without a file there is nothing to install");
    // Once for the neighbours, and once on the fast path.
    assert_eq!(ways(&mut bed)?, alone);
    let redirected = bed.redirected()?;
    assert_eq!(ways(&mut bed)?, alone);
    let redirected = bed.redirected()? - redirected;
    // Of 20 flows 12 are ICMP or UDP, each of 20 packets; answers and TCP come on top.
    ensure!(redirected >= 240, "only {redirected} packets took the fast path: {}", bed.status()?);
    ensure!(daemon.stop()?.success());
    assert_eq!(bed.snapshot()?, before);
    Ok(())
}
