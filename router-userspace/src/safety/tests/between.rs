//! What `explain` says lies between.

use super::*;

fn met(facts: &Facts) -> Vec<(String, bool)> {
    between(facts, host().links.get(&ETH0)).into_iter().map(|one| (one.what, one.rewrites)).collect()
}

#[test]
fn nothing_lies_between_on_a_bare_host() {
    assert_eq!(met(&Facts::default()), []);
}

#[test]
fn chains_are_told_in_the_order_of_the_packets_way_and_only_those_that_rewrite_before_routing_do_so() {
    let mut forward = chain(ChainFamily::Inet, HookPoint::Forward);
    forward.expressions.push(key("meta", 3, true));
    let mut marking = chain(ChainFamily::Inet, HookPoint::Prerouting);
    marking.expressions.push(key("meta", 3, true));
    let reading = Chain { name: "reading".into(), expressions: vec![key("meta", 3, false)], ..marking.clone() };
    let output = chain(ChainFamily::Inet, HookPoint::Output);
    let bridge = chain(ChainFamily::Bridge, HookPoint::Prerouting);
    let facts = Facts { chains: vec![forward, marking, reading, output, bridge], ..Facts::default() };
    assert_eq!(
        met(&facts),
        [
            ("nftables chain inet t/c (hook prerouting)".to_owned(), true),
            ("nftables chain inet t/reading (hook prerouting)".to_owned(), false),
            ("nftables chain inet t/c (hook forward)".to_owned(), false),
        ]
    );
}

#[test]
fn a_rewriting_rule_in_a_chain_that_is_jumped_to_counts() {
    let mut base = chain(ChainFamily::Ip, HookPoint::Prerouting);
    base.expressions.push(Expression { jump: Some("marks".into()), ..expression("immediate") });
    let mut marks = Chain { name: "marks".into(), base: None, ..base.clone() };
    marks.expressions = vec![key("meta", 3, true)];
    let facts = Facts { chains: vec![base, marks], ..Facts::default() };
    let all = between(&facts, host().links.get(&ETH0));
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].effect, "may rewrite the packet before routing (meta mark set)");
}

#[test]
fn another_devices_chain_does_not_lie_between() {
    let mut ingress = chain(ChainFamily::Netdev, HookPoint::Ingress);
    ingress.base.as_mut().unwrap().devices = vec!["eth1".into()];
    assert_eq!(met(&with_chain(ingress)), []);
}

#[test]
fn what_cannot_be_seen_may_do_anything() {
    let facts = Facts {
        doubts: vec!["nftables cannot be read".into()],
        legacy_tables: vec!["iptables mangle".into()],
        other_hooks: vec!["SELinux".into()],
        xfrm_policies: 2,
        tcx: [(ETH0, vec!["shaper".to_owned()])].into(),
        ..Facts::default()
    };
    let all = met(&facts);
    let rewriting: Vec<&str> = all.iter().filter(|(_, rewrites)| *rewrites).map(|(what, _)| what.as_str()).collect();
    let expected =
        ["nftables cannot be read", "TC program shaper", "table iptables mangle", "the netfilter hooks of SELinux"];
    assert_eq!(rewriting, expected);
    assert_eq!(all.last().unwrap().0, "2 xfrm policies (IPsec)");
}

#[test]
fn a_packet_made_here_meets_the_output_hooks_and_only_chains_that_route_anew_change_its_way() {
    let marking = |hook, kind: &str, name: &str| {
        let mut chain = Chain { name: name.into(), ..chain(ChainFamily::Inet, hook) };
        chain.base.as_mut().unwrap().kind = kind.to_owned();
        chain.expressions.push(key("meta", 3, true));
        chain
    };
    let chains = vec![
        marking(HookPoint::Prerouting, "filter", "pre"),
        marking(HookPoint::Forward, "filter", "forward"),
        marking(HookPoint::Output, "filter", "filter"),
        marking(HookPoint::Output, "route", "route"),
        Chain { expressions: Vec::new(), ..marking(HookPoint::Output, "nat", "nat") },
        Chain { expressions: Vec::new(), ..marking(HookPoint::Output, "route", "idle") },
        marking(HookPoint::Postrouting, "filter", "post"),
    ];
    let tcx = [(ETH0, vec!["shaper".to_owned()])].into();
    let all = between(&Facts { chains, tcx, ..Facts::default() }, None);
    let all: Vec<(&str, &str, bool)> = all.iter().map(|one| (&*one.what, &*one.effect, one.rewrites)).collect();
    assert_eq!(
        all,
        [
            (
                "nftables chain inet t/route (hook output)",
                "may rewrite the packet and have it routed again (meta mark set)",
                true
            ),
            ("nftables chain inet t/nat (hook output)", "translates addresses or ports of new connections", true),
            ("nftables chain inet t/idle (hook output)", "may drop the packet", false),
            (
                "nftables chain inet t/filter (hook output)",
                "may rewrite the packet after routing (meta mark set)",
                false
            ),
            (
                "nftables chain inet t/post (hook postrouting)",
                "may rewrite the packet after routing (meta mark set)",
                false
            ),
        ]
    );
}
