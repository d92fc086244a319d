//! What forbids a redirect.

use super::*;
use crate::model::DeviceConf;
use ChainFamily as F;
use HookPoint as H;

#[test]
fn a_bare_host_redirects() {
    let (may, why) = judged(&host(), &Facts::default());
    assert_eq!((may, why.as_str()), (May::Redirect, "a redirect skips nothing that would act on the packet"));
}

/// Without anything else in the way, what forbids redirect leaves the mark.
#[track_caller]
fn marks_because(host: &Host, facts: &Facts, because: &str) {
    let (may, why) = judged(host, facts);
    assert_eq!((may, why.as_str()), (May::Mark, because));
}

#[test]
fn base_chains_on_the_way_of_a_forwarded_packet() {
    let say = |family: &str, hook: &str| {
        format!("nftables chain {family} t/c (hook {hook}) would not see a redirected packet")
    };
    for (family, hook, name) in [
        (F::Ip, H::Prerouting, "prerouting"),
        (F::Ip6, H::Forward, "forward"),
        (F::Inet, H::Postrouting, "postrouting"),
        (F::Inet, H::Ingress, "ingress"),
        (F::Netdev, H::Egress, "egress"),
        (F::Other(99), H::Other(9), "(unknown)"),
    ] {
        marks_because(&host(), &with_chain(chain(family, hook)), &say(family.name(), name));
    }
}

#[test]
fn base_chains_off_the_way() {
    for (family, hook) in [
        (F::Ip, H::Input),
        (F::Inet, H::Output),
        (F::Bridge, H::Forward),
        (F::Bridge, H::Prerouting),
        (F::Arp, H::Forward),
    ] {
        assert_eq!(judged(&host(), &with_chain(chain(family, hook))).0, May::Redirect, "{family:?} {hook:?}");
    }
    let mut jumped_to = chain(F::Inet, H::Forward);
    jumped_to.base = None;
    assert_eq!(judged(&host(), &with_chain(jumped_to)).0, May::Redirect);
}

#[test]
fn ingress_chains_concern_their_devices() {
    for (devices, may) in [
        (vec!["eth1"], May::Redirect),
        (vec!["eth1", "eth0"], May::Mark),
        (vec!["eth*"], May::Mark),
        (vec!["wg*"], May::Redirect),
        (vec![], May::Mark),
    ] {
        let mut ingress = chain(F::Netdev, H::Ingress);
        ingress.base.as_mut().unwrap().devices = devices.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(judged(&host(), &with_chain(ingress)).0, may, "{devices:?}");
    }
    // The device that a packet leaves by is not known beforehand.
    let mut egress = chain(F::Netdev, H::Egress);
    egress.base.as_mut().unwrap().devices = vec!["eth1".into()];
    assert_eq!(judged(&host(), &with_chain(egress)).0, May::Mark);
}

#[test]
fn connection_tracking_behind_a_chain_that_is_off_the_way() {
    let because = "connection tracking, which nftables chain inet t/c uses, would not see a redirected packet";
    for tracking in [
        key("ct", 0, false),
        expression("connlimit"),
        key("objref", 3, false),
        key("objref", 5, false),
        expression("objref"),
    ] {
        let mut input = chain(F::Inet, H::Input);
        input.expressions.push(tracking);
        marks_because(&host(), &with_chain(input), because);
    }
    let mut input = chain(F::Inet, H::Input);
    input.expressions = vec![expression("counter"), key("objref", 1, false)];
    assert_eq!(judged(&host(), &with_chain(input.clone())).0, May::Redirect);
    // A bridge's connection tracking is its own.
    input.family = F::Bridge;
    input.expressions = vec![key("ct", 0, false)];
    assert_eq!(judged(&host(), &with_chain(input)).0, May::Redirect);
}

#[test]
fn flowtables() {
    let table = Flowtable { family: F::Inet, table: "t".into(), name: "ft".into(), devices: vec!["eth1".into()] };
    let facts = Facts { flowtables: vec![table], ..Facts::default() };
    let (may, why) = judged(&host(), &facts);
    assert_eq!(may, May::Pass);
    assert!(why.starts_with("nftables flowtable inet t/ft would not see a redirected packet; no mark either"), "{why}");
}

#[test]
fn legacy_tables() {
    let facts = Facts { legacy_tables: vec!["iptables filter".into()], ..Facts::default() };
    let (may, why) = judged(&host(), &facts);
    assert_eq!(may, May::Pass);
    assert!(why.starts_with("table iptables filter would not see a redirected packet"), "{why}");
}

#[test]
fn listed_hooks() {
    let with = |hook| Facts { hooks: Some(vec![hook]), ..Facts::default() };
    let because = "the netfilter hook selinux_ip_forward (ip forward) would not see a redirected packet";
    marks_because(&host(), &with(hook(F::Ip, H::Forward, "selinux_ip_forward")), because);
    let because = "a netfilter hook (ip6 postrouting) would not see a redirected packet";
    marks_because(&host(), &with(hook(F::Ip6, H::Postrouting, "")), because);
    let because = "the netfilter hook ipv4_conntrack_in (ip prerouting) would not see a redirected packet";
    marks_because(&host(), &with(hook(F::Ip, H::Prerouting, "ipv4_conntrack_in")), because);
    let mut chain = hook(F::Ip, H::Prerouting, "nft_do_chain_inet");
    chain.chain = Some((F::Inet, "filter".into(), "pre".into()));
    let because = "nftables chain inet filter/pre (ip prerouting) would not see a redirected packet";
    marks_because(&host(), &with(chain), because);
    assert_eq!(judged(&host(), &with(hook(F::Ip, H::Input, "ip_vs_in_hook"))).0, May::Redirect);
    for idle in ["apparmor_ip_postroute", "apparmor_ipv4_postroute", "apparmor_ipv6_postroute"] {
        assert_eq!(judged(&host(), &with(hook(F::Ip, H::Postrouting, idle))).0, May::Redirect, "{idle}");
    }

    for (device, may) in [("eth0", May::Pass), ("eth1", May::Redirect)] {
        let on_device = Hook { device: Some(device.into()), flowtable: true, ..hook(F::Netdev, H::Ingress, "f") };
        assert_eq!(judged(&host(), &with(on_device)).0, may, "{device}");
    }
    let egress = Hook { device: Some("eth1".into()), ..hook(F::Netdev, H::Egress, "f") };
    assert_eq!(judged(&host(), &with(egress)).0, May::Mark);
}

#[test]
fn signs_of_hooks_count_where_the_kernel_lists_none() {
    let mut facts = Facts { other_hooks: vec!["SELinux".into()], ..Facts::default() };
    let (may, why) = judged(&host(), &facts);
    assert_eq!(may, May::Pass);
    assert!(why.starts_with("the netfilter hooks of SELinux would not see a redirected packet"), "{why}");
    facts.hooks = Some(Vec::new());
    assert_eq!(judged(&host(), &facts).0, May::Redirect, "the list shows every hook that there is");
}

#[test]
fn xfrm() {
    for (facts, because) in [
        (Facts { xfrm_policies: 1, ..Facts::default() }, "an xfrm policy (IPsec) would not see"),
        (Facts { xfrm_policies: 3, ..Facts::default() }, "3 xfrm policies (IPsec) would not see"),
        (Facts { xfrm_refuses: true, ..Facts::default() }, "the default xfrm policy, which refuses, would not see"),
    ] {
        let (may, why) = judged(&host(), &facts);
        assert!(may < May::Redirect && why.starts_with(because), "{may:?} {why}");
    }
}

#[test]
fn reverse_path_filter() {
    let mut strict = host();
    eth0(&mut strict).v4.rp_filter = 1;
    marks_because(&strict, &Facts::default(), "rp_filter is 1: only the stack checks sources");
    let judgement = judge_with(&strict, &Facts::default(), &RouterSettings::default());
    assert_eq!(judgement.interfaces[&ETH1].may, May::Redirect, "it is of that interface");
    let mut all = host();
    all.settings.all_v4.rp_filter = 2;
    marks_because(&all, &Facts::default(), "rp_filter is 2: only the stack checks sources");
}

#[test]
fn learned_path_mtus() {
    let mut host = host();
    host.settings.forward_use_pmtu = true;
    marks_because(
        &host,
        &Facts::default(),
        "ip_forward_use_pmtu is on: only the stack knows the path MTUs it has learned",
    );
}

#[test]
fn learned_gateways() {
    let because = |family: &str, device: &str| {
        format!("{family} accept_redirects is on at {device}: only the stack knows the gateways it learns")
    };
    // Where an interface forwards, both switches count.
    let mut one = host();
    one.links.get_mut(&ETH1).unwrap().v4.accept_redirects = true;
    assert_eq!(judged(&one, &Facts::default()).0, May::Redirect);
    one.settings.all_v4.accept_redirects = true;
    marks_because(&one, &Facts::default(), &because("ipv4", "eth1"));
    // Where it does not, either does.
    let mut other = host();
    other.links.get_mut(&ETH1).unwrap().v4 = DeviceConf { accept_redirects: true, ..DeviceConf::default() };
    marks_because(&other, &Facts::default(), &because("ipv4", "eth1"));
    other.links.get_mut(&ETH1).unwrap().up = false;
    assert_eq!(judged(&other, &Facts::default()).0, May::Redirect, "nothing comes in there");
    // IPv6: where the host forwards and the interface does not.
    let mut six = host();
    for link in six.links.values_mut() {
        link.v6 = DeviceConf { accept_redirects: true, forwarding: true, ..DeviceConf::default() };
    }
    six.settings.all_v6.forwarding = true;
    assert_eq!(judged(&six, &Facts::default()).0, May::Redirect);
    six.links.get_mut(&ETH1).unwrap().v6.forwarding = false;
    marks_because(&six, &Facts::default(), &because("ipv6", "eth1"));
    six.settings.all_v6.forwarding = false;
    assert_eq!(judged(&six, &Facts::default()).0, May::Redirect, "no IPv6 is forwarded");
}

#[test]
fn what_reads_the_route_of_a_packet_that_leaves() {
    for (kind, ingress, may) in [
        ("route", false, May::Mark),
        ("flow", false, May::Mark),
        ("basic", false, May::Mark),
        ("flower", false, May::Redirect),
        ("route", true, May::Redirect),
    ] {
        let filter = Filter { ingress, kind: kind.into(), ..Filter::default() };
        let facts = Facts { filters: [(ETH1, vec![filter])].into(), ..Facts::default() };
        let (found, why) = judged(&host(), &facts);
        assert_eq!(found, may, "{kind} {ingress}: {why}");
        if found != May::Redirect {
            let because = format!("a TC filter ({kind}) on eth1 looks at the route that a packet goes by");
            assert!(why.starts_with(&because), "{why}");
        }
    }
}

#[test]
fn generic_xdp_behind_a_device() {
    let facts = Facts { generic_xdp: vec!["veth7".into()], ..Facts::default() };
    marks_because(&host(), &facts, "a generic XDP program behind veth7 would not see a redirected packet");
}

#[test]
fn a_flow_dissector_matters_where_a_rule_looks_at_ports() {
    let facts = Facts { flow_dissector: true, ..Facts::default() };
    assert_eq!(judged(&host(), &facts).0, May::Redirect);
    for selectors in [
        Selectors { ipproto: Some(6), ..Selectors::default() },
        Selectors { sport: Some(crate::model::Ports::one(53)), ..Selectors::default() },
        Selectors { dport: Some(crate::model::Ports::one(53)), ..Selectors::default() },
    ] {
        let mut host = host();
        host.rules.push(Rule { selectors, ..Rule::lookup(Family::Ipv6, 100, 51) });
        let (may, why) = judged(&host, &facts);
        assert!(may == May::Pass && why.contains("the ipv6 rule of priority 100 looks at them"), "{may:?} {why}");
        assert_eq!(judged(&host, &Facts::default()).0, May::Redirect);
    }
}

#[test]
fn foreign_traffic_control() {
    let ingress = Filter { ingress: true, kind: "matchall".into(), ..Filter::default() };
    let named = Filter { kind: "bpf".into(), name: "cil_from_netdev".into(), ..ingress.clone() };
    for (facts, because) in [
        (
            Facts { filters: [(ETH0, vec![ingress.clone()])].into(), ..Facts::default() },
            "a TC filter (matchall) on its ingress",
        ),
        (
            Facts { filters: [(ETH0, vec![named])].into(), ..Facts::default() },
            "the TC filter cil_from_netdev (bpf) on its ingress",
        ),
        (Facts { tcx: [(ETH0, vec!["p".into()])].into(), ..Facts::default() }, "the TC program p on its ingress"),
    ] {
        let (may, why) = judged(&host(), &facts);
        assert!(may == May::Pass && why.starts_with(because), "{may:?} {why}");
    }
    let elsewhere = Facts {
        filters: [(ETH1, vec![ingress.clone()])].into(),
        tcx: [(ETH1, vec!["p".into()])].into(),
        ..Facts::default()
    };
    assert_eq!(judged(&host(), &elsewhere).0, May::Redirect);
    let egress = Filter { ingress: false, ..ingress };
    let facts = Facts { filters: [(ETH0, vec![egress])].into(), ..Facts::default() };
    assert_eq!(judged(&host(), &facts).0, May::Redirect, "a redirected packet passes the egress filters");
}

#[test]
fn bypass_names_what_may_be_skipped_and_nothing_else() {
    let mut strict = host();
    eth0(&mut strict).v4.rp_filter = 1;
    let netfilter = with_chain(chain(F::Inet, H::Forward));
    let xfrm = Facts { xfrm_policies: 1, ..Facts::default() };
    let program = Facts { tcx: [(ETH0, vec!["p".into()])].into(), ..Facts::default() };
    let cases = [
        (host(), netfilter, Some(Bypass::Netfilter)),
        (host(), xfrm, Some(Bypass::Xfrm)),
        (strict, Facts::default(), Some(Bypass::RpFilter)),
        (host(), program, None),
    ];
    for (host, facts, right) in cases {
        for bypass in [Bypass::Netfilter, Bypass::Xfrm, Bypass::RpFilter] {
            let settings = RouterSettings { bypass: [bypass].into(), ..RouterSettings::default() };
            let may = judge_with(&host, &facts, &settings).interfaces[&ETH0].may;
            assert_eq!(may == May::Redirect, Some(bypass) == right, "{bypass:?} for {right:?}");
        }
    }
    let all_of_netfilter = Facts {
        legacy_tables: vec!["iptables nat".into()],
        hooks: Some(vec![hook(F::Ip, H::Forward, "f")]),
        ..with_chain(chain(F::Inet, H::Forward))
    };
    let settings = RouterSettings { bypass: [Bypass::Netfilter].into(), ..RouterSettings::default() };
    assert_eq!(judge_with(&host(), &all_of_netfilter, &settings).interfaces[&ETH0].may, May::Redirect);
}

#[test]
fn the_files_cap() {
    for (cap, may) in
        [(FastPathCap::Auto, May::Redirect), (FastPathCap::Redirect, May::Redirect), (FastPathCap::Mark, May::Mark)]
    {
        let settings = RouterSettings { fast_path: cap, ..RouterSettings::default() };
        let judged = judge_with(&host(), &Facts::default(), &settings).interfaces[&ETH0].clone();
        assert_eq!(judged.may, may, "{cap:?}");
        if may == May::Mark {
            assert_eq!(judged.why, "fast_path = \"mark\" in the file");
        }
    }
}

#[test]
fn any_doubt_passes_everything() {
    let facts = Facts { doubts: vec!["nftables cannot be read (x)".into()], ..Facts::default() };
    let judgement = judge_with(&host(), &facts, &RouterSettings::default());
    assert!(judgement.interfaces.values().all(|interface| interface.may == May::Pass));
    assert!(judgement.interfaces[&ETH0].why.ends_with("nftables cannot be read (x)"));
    assert_eq!(judgement.mark_bits, None);
}

#[test]
fn local_and_main_looked_up_as_one() {
    let mut untouched = host();
    let default = Rule { protocol: 2, ..Rule::lookup(Family::Ipv4, 32767, TABLE_DEFAULT) };
    untouched.rules.insert(2, default);
    assert_eq!(judged(&untouched, &Facts::default()).0, May::Redirect, "this host's own addresses alone");
    let dst: ipnet::IpNet = "20.0.0.0/8".parse().unwrap();
    let route = Route { protocol: 3, ..Route::to(TABLE_LOCAL, dst, RouteKind::Blackhole) };
    untouched.routes = vec![Route { kind: RouteKind::Local, ..route.clone() }];
    assert_eq!(judged(&untouched, &Facts::default()).0, May::Redirect);
    untouched.routes.push(route);
    let (may, why) = judged(&untouched, &Facts::default());
    assert_eq!(may, May::Pass);
    assert!(why.contains("20.0.0.0/8") && why.contains("as one"), "{why}");
    let mut touched = untouched.clone();
    touched.rules.push(Rule { protocol: 3, ..Rule::lookup(Family::Ipv4, 40000, 7) });
    assert_eq!(judged(&touched, &Facts::default()).0, May::Redirect, "with a rule they are looked up one by one");
}
