//! What the guard reads of the host, with real objects made by the programs that users have.

use super::{ip, namespace, two_links};
use crate::kernel::guard_testing::{Packet, Tun, nft, run};
use crate::kernel::netns::Netns;
use crate::kernel::{Event, ForeignPrograms, Kernel, Monitor, Netlink, survey};
use crate::model::{Family, MarkRule, MarkSelectors};
use crate::policy::RouterSettings;
use crate::safety::{
    Base, Chain, ChainFamily as F, Facts, Filter, Flowtable, HookPoint as H, Judgement, May, Wanted, judge,
};
use std::process::Command;

/// A namespace with two devices that forward.
fn routing_namespace() -> Option<Netns> {
    let namespace = namespace()?;
    two_links(&namespace);
    namespace.run(|| crate::kernel::admin::write_setting("net.ipv4.ip_forward", "1").unwrap()).unwrap();
    Some(namespace)
}

fn facts() -> Facts {
    let facts = survey(ForeignPrograms::default());
    assert_eq!(facts.doubts, [""; 0]);
    facts
}

/// What the guard says of `a0`.
fn judgement() -> (May, String) {
    let host = Netlink::open().unwrap().host().unwrap();
    let settings = RouterSettings::default();
    let Judgement { interfaces, .. } = judge(&host, &facts(), &Wanted { settings: &settings, marks: &[] });
    let judged = &interfaces[&host.link("a0").unwrap().index];
    (judged.may, judged.why.clone())
}

#[track_caller]
fn judged(may: May, because: &str) {
    let (found, why) = judgement();
    assert_eq!(found, may, "{why}");
    assert!(why.contains(because), "{why}");
}

#[test]
fn nothing_is_in_the_way_in_a_new_namespace() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            let found = facts();
            assert_eq!(Facts { hooks: None, ..found.clone() }, Facts::default());
            // AppArmor's hooks are in every namespace.
            let hooks = found.hooks.unwrap_or_default();
            assert!(hooks.iter().all(|hook| hook.function.starts_with("apparmor_")), "{hooks:?}");
            judged(May::Redirect, "");
        })
        .unwrap();
}

#[test]
fn chains_of_every_family_are_listed() {
    let Some(namespace) = routing_namespace() else { return };
    let script = "
        table inet filter {
            set blocked { type ipv4_addr; }
            map verdicts { type ipv4_addr : verdict; }
            counter hits { }
            chain forward {
                type filter hook forward priority filter + 5; policy drop;
                ip saddr @blocked drop
                ip daddr vmap @verdicts
                jump more
                counter name hits
            }
            chain more { meta mark 1 tcp flags syn tcp option maxseg size set 1200; }
        }
        table ip nat {
            chain post {
                type nat hook postrouting priority srcnat;
                masquerade;
            }
        }
        table ip6 raw {
            chain pre {
                type filter hook prerouting priority raw;
                counter ct mark set 2 accept;
            }
        }
        table netdev dev {
            chain in {
                type filter hook ingress devices = { a0, b0 } priority 0;
                fib saddr . mark oif missing drop;
            }
        }
        table bridge br {
            chain bridged { type filter hook forward priority 0; }
        }
    ";
    namespace
        .run(|| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), script).unwrap();
            nft(&format!("-f {}", file.path().display()));
            let chains = facts().chains;
            let of = |family: F, table: &str, name: &str| -> &Chain {
                chains.iter().find(|c| (c.family, c.table.as_str(), c.name.as_str()) == (family, table, name)).unwrap()
            };
            let base = |hook, priority, kind: &str, devices: &[&str]| {
                let devices = devices.iter().map(|name| (*name).to_owned()).collect();
                Some(Base { hook, priority, kind: kind.into(), devices })
            };
            let forward = of(F::Inet, "filter", "forward");
            assert_eq!(forward.base, base(H::Forward, 5, "filter", &[]));
            assert!(forward.expressions.iter().any(|e| e.name == "lookup" && e.jumps_by_map));
            assert!(forward.expressions.iter().any(|e| e.name == "lookup" && !e.jumps_by_map));
            assert!(forward.expressions.iter().any(|e| e.jump.as_deref() == Some("more")));
            assert!(forward.expressions.iter().any(|e| e.name == "objref" && e.key == Some(1)));
            let more = of(F::Inet, "filter", "more");
            assert_eq!(more.base, None);
            assert!(more.expressions.iter().any(|e| e.name == "exthdr" && e.writes));
            assert!(more.expressions.iter().any(|e| e.name == "meta" && e.key == Some(3) && !e.writes));
            assert_eq!(of(F::Ip, "nat", "post").base, base(H::Postrouting, 100, "nat", &[]));
            assert!(of(F::Ip, "nat", "post").expressions.iter().any(|e| e.name == "masq"));
            let raw = of(F::Ip6, "raw", "pre");
            assert_eq!(raw.base, base(H::Prerouting, -300, "filter", &[]));
            assert!(raw.expressions.iter().any(|e| e.name == "ct" && e.key == Some(3) && e.writes));
            let dev = of(F::Netdev, "dev", "in");
            assert_eq!(dev.base, base(H::Ingress, 0, "filter", &["a0", "b0"]));
            assert!(dev.expressions.iter().any(|e| e.name == "fib" && e.may_touch_mark()));
            assert_eq!(of(F::Bridge, "br", "bridged").base, base(H::Forward, 0, "filter", &[]));
            assert_eq!(chains.len(), 6);
            judged(
                May::Pass,
                "would not see a redirected packet; no mark either: nftables chain ip nat/post translates addresses",
            );
            if let Some(hooks) = facts().hooks {
                assert!(hooks.iter().any(|hook| hook.chain == Some((F::Inet, "filter".into(), "forward".into()))));
                assert!(hooks.iter().any(|hook| hook.function == "ipv4_conntrack_in"));
            }
        })
        .unwrap();
}

#[test]
fn a_firewall_takes_the_redirect_and_its_removal_gives_it_back() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            for (chain, rule, may, because) in [
                ("inet hook forward", "ip saddr 10.1.1.1 drop", May::Mark, "nftables chain inet t/c (hook forward)"),
                (
                    "inet hook forward",
                    "ct state established accept",
                    May::Mark,
                    "nftables chain inet t/c (hook forward)",
                ),
                ("inet hook input", "ct state established accept", May::Mark, "track"),
                ("inet hook input", "tcp dport 22 accept", May::Redirect, ""),
                ("inet hook forward", "meta mark 7 drop", May::Pass, "has to do with marks (meta mark)"),
                ("ip hook prerouting", "meta l4proto udp meta mark set ct mark", May::Pass, "(meta mark set)"),
                ("ip hook prerouting", "ip dscp set af11", May::Pass, "(payload … set)"),
                ("ip hook prerouting", "fib saddr . iif oif missing drop", May::Mark, "(hook prerouting)"),
                (
                    "ip hook prerouting",
                    "fib saddr . mark . iif oif missing drop",
                    May::Pass,
                    "has to do with marks (fib)",
                ),
                ("ip hook prerouting", "tcp dport 80 tproxy to :8080", May::Pass, "(tproxy)"),
                ("ip6 hook postrouting", "counter", May::Mark, "nftables chain ip6 t/c (hook postrouting)"),
                ("netdev hook ingress device a0", "counter", May::Mark, "nftables chain netdev t/c (hook ingress)"),
                ("netdev hook ingress device a1", "counter", May::Redirect, ""),
                ("netdev hook egress device a1", "counter", May::Mark, "nftables chain netdev t/c (hook egress)"),
                ("inet hook ingress device a0", "counter", May::Mark, "nftables chain inet t/c (hook ingress)"),
                ("bridge hook prerouting", "meta mark set 1", May::Redirect, ""),
            ] {
                let (family, hook) = chain.split_once(' ').unwrap();
                nft(&format!("add table {family} t"));
                nft(&format!("add chain {family} t c {{ type filter {hook} priority 0; }}"));
                nft(&format!("add rule {family} t c {rule}"));
                judged(may, because);
                nft(&format!("delete table {family} t"));
                // Connection tracking ends some time after the rule that needed it (`nf_tables_trans_destroy_work`).
                let gone = (0..100).any(|_| {
                    let redirects = judgement().0 == May::Redirect;
                    if !redirects {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    redirects
                });
                assert!(gone, "after {chain} {rule}: {}", judgement().1);
            }
        })
        .unwrap();
}

#[test]
fn flowtables() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            nft("add table inet t");
            let command = "add flowtable inet t ft { hook ingress priority 0; devices = { a0 }; }";
            if !Command::new("nft").arg(command).output().unwrap().status.success() {
                eprintln!("left out: this kernel has no flowtables (CONFIG_NF_FLOW_TABLE)");
                return;
            }
            let found = facts();
            let table = Flowtable { family: F::Inet, table: "t".into(), name: "ft".into(), devices: vec!["a0".into()] };
            assert_eq!(found.flowtables, [table]);
            judged(May::Pass, "nftables flowtable inet t/ft would not see a redirected packet; no mark either");
            let hook =
                found.hooks.map(|hooks| hooks.into_iter().find(|hook| hook.device.as_deref() == Some("a0")).unwrap());
            assert!(hook.is_none_or(|hook| hook.hook == H::Ingress));
        })
        .unwrap();
}

#[test]
fn our_own_table_does_not_count() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            let marks = [MarkRule {
                membership: false,
                family: Family::Ipv4,
                statement: 0,
                selectors: MarkSelectors::default(),
                value: 1,
                mask: 1,
            }];
            Netlink::open().unwrap().set_mark_chain(&marks, 5).unwrap();
            assert_eq!(facts().chains, []);
            judged(May::Redirect, "");
            Netlink::open().unwrap().set_mark_chain(&[], 0).unwrap();
            // Of that name, but not ours.
            nft("add table inet wayfork");
            nft("add chain inet wayfork marks { type filter hook prerouting priority 0; }");
            judged(May::Mark, "nftables chain inet wayfork/marks");
            nft("delete table inet wayfork");
            Netlink::open().unwrap().set_mark_chain(&marks, 5).unwrap();
            judged(May::Redirect, "");
            nft("add table ip wayfork");
            nft("add chain ip wayfork marks { type filter hook prerouting priority 0; }");
            judged(May::Mark, "nftables chain ip wayfork/marks");
        })
        .unwrap();
}

#[test]
fn iptables_old_and_new() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            if installed("iptables-legacy") {
                run("iptables-legacy", &["-t", "mangle", "-A", "FORWARD", "-j", "ACCEPT"]);
                assert_eq!(facts().legacy_tables, ["iptables mangle"]);
                judged(May::Pass, "table iptables mangle would not see a redirected packet");
            }
        })
        .unwrap();
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            if installed("iptables-nft") {
                run("iptables-nft", &["-A", "FORWARD", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "ACCEPT"]);
                judged(May::Mark, "nftables chain ip filter/FORWARD (hook forward)");
                run("iptables-nft", &["-A", "FORWARD", "-m", "connmark", "--mark", "7", "-j", "ACCEPT"]);
                judged(May::Pass, "nftables chain ip filter/FORWARD has to do with marks (xtables connmark)");
            }
        })
        .unwrap();
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("left out: {program} is not installed");
    }
    found
}

#[test]
fn xfrm_policies() {
    let Some(namespace) = routing_namespace() else { return };
    if ip(&namespace, "xfrm policy add src 10.8.0.0/16 dst 10.9.0.0/16 dir fwd").is_none() {
        return;
    }
    namespace.run(|| assert_eq!((facts().xfrm_policies, facts().xfrm_refuses), (1, false))).unwrap();
    namespace.run(|| judged(May::Pass, "an xfrm policy (IPsec) would not see a redirected packet")).unwrap();
    ip(&namespace, "xfrm policy flush").unwrap();
    namespace.run(|| judged(May::Redirect, "")).unwrap();
    ip(&namespace, "xfrm policy setdefault fwd block").unwrap();
    namespace.run(|| assert_eq!((facts().xfrm_policies, facts().xfrm_refuses), (0, true))).unwrap();
    namespace.run(|| judged(May::Mark, "the default xfrm policy, which refuses")).unwrap();
}

#[test]
fn fwmark_reflect() {
    let Some(namespace) = routing_namespace() else { return };
    for setting in ["net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"] {
        namespace
            .run(|| {
                crate::kernel::admin::write_setting(setting, "1").unwrap();
                assert!(facts().fwmark_reflect, "{setting}");
                crate::kernel::admin::write_setting(setting, "0").unwrap();
                assert!(!facts().fwmark_reflect, "{setting}");
            })
            .unwrap();
    }
}

#[test]
fn filters_of_traffic_control() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            if !installed("tc") {
                return;
            }
            let tc = |command: &str| run("tc", &command.split(' ').collect::<Vec<_>>());
            let index =
                |name: &str| Netlink::open().unwrap().links().unwrap().values().find(|l| l.name == name).unwrap().index;
            let u32_filter = Filter { ingress: true, kind: "u32".into(), ..Filter::default() };
            let has = |name: &str, wanted: &Filter| {
                facts().filters.get(&index(name)).is_some_and(|list| list.contains(wanted))
            };

            tc("qdisc add dev a0 clsact");
            judged(May::Redirect, "");
            tc("filter add dev a0 egress protocol ip u32 match u32 0 0 classid 1:1");
            judged(May::Redirect, "");
            assert!(has("a0", &Filter { ingress: false, ..u32_filter.clone() }));
            tc("filter add dev a0 ingress protocol ip u32 match u32 0 0 classid 1:1");
            assert!(has("a0", &u32_filter));
            judged(May::Pass, "a TC filter (u32) on its ingress would not see a redirected packet");
            tc("qdisc del dev a0 clsact");
            judged(May::Redirect, "");

            tc("qdisc add dev a0 clsact");
            // A program of one instruction: return 0.
            run("tc", &["filter", "add", "dev", "a0", "ingress", "bpf", "bytecode", "1,6 0 0 0,"]);
            judged(May::Pass, "a TC filter (bpf) on its ingress");
            tc("qdisc del dev a0 clsact");

            // The qdisc from before clsact, with an action.
            tc("qdisc add dev a0 handle ffff: ingress");
            tc("filter add dev a0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev a1");
            assert!(has("a0", &Filter { actions: vec!["mirred".into()], ..u32_filter.clone() }));
            judged(May::Pass, "a TC filter (u32) on its ingress");
            tc("qdisc del dev a0 ingress");

            // Shaping, by a filter on a class of another interface.
            tc("qdisc add dev a1 root handle 1: htb default 1");
            tc("class add dev a1 parent 1: classid 1:1 htb rate 1gbit");
            tc("filter add dev a1 parent 1:1 protocol ip u32 match u32 0 0 classid 1:1");
            assert!(has("a1", &Filter { ingress: false, ..u32_filter }));
            crate::kernel::admin::write_setting("net.ipv4.conf.all.rp_filter", "1").unwrap();
            judged(May::Mark, "rp_filter");
            tc("qdisc del dev a1 root");
            judged(May::Mark, "rp_filter");
        })
        .unwrap();
}

#[test]
fn what_the_caller_cannot_list_is_a_doubt() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            let programs = ForeignPrograms { doubts: vec!["TC programs: no".into()], ..ForeignPrograms::default() };
            assert_eq!(survey(programs).doubts, ["TC programs: no"]);
            let programs = ForeignPrograms { netfilter: vec!["BPF program 7".into()], ..ForeignPrograms::default() };
            assert_eq!(survey(programs).other_hooks, ["BPF program 7"]);
        })
        .unwrap();
}

#[test]
fn changes_of_firewalls_and_policies_are_told() {
    let Some(namespace) = routing_namespace() else { return };
    namespace
        .run(|| {
            let mut monitor = Monitor::open().unwrap();
            assert_eq!(monitor.next_events().unwrap(), []);
            let marks = [MarkRule {
                membership: false,
                family: Family::Ipv4,
                statement: 0,
                selectors: MarkSelectors::default(),
                value: 1,
                mask: 1,
            }];
            Netlink::open().unwrap().set_mark_chain(&marks, 5).unwrap();
            assert_eq!(monitor.next_events().unwrap(), [Event::Nftables]);
            nft("add table ip t");
            assert_eq!(monitor.next_events().unwrap(), [Event::Nftables]);
            nft("flush ruleset");
            assert_eq!(monitor.next_events().unwrap(), [Event::Nftables]);
            if installed("ip") {
                run("ip", &["xfrm", "policy", "add", "src", "10.8.0.0/16", "dst", "10.9.0.0/16", "dir", "out"]);
                assert_eq!(monitor.next_events().unwrap(), [Event::Xfrm]);
                run("ip", &["xfrm", "policy", "flush"]);
                assert_eq!(monitor.next_events().unwrap(), [Event::Xfrm]);
            }
        })
        .unwrap();
}

/// The allowlist rests on this: conntrack and the like leave the mark that TC wrote as it is.
#[test]
fn tracking_connections_leaves_the_mark_alone() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            let mut tun = Tun::open("tun0");
            for (hook, rule) in [
                ("prerouting priority -400", "meta mark set 0x80000001"),
                ("prerouting priority -300", "ct state new counter"),
                ("prerouting priority -299", "fib saddr . iif oif missing log"),
            ] {
                nft("add table inet t");
                let name = hook.replace(' ', "_").replace('-', "m");
                nft(&format!("add chain inet t {name} {{ type filter hook {hook}; }}"));
                nft(&format!("add rule inet t {name} {rule}"));
            }
            nft("add chain inet t after { type filter hook prerouting priority 200; }");
            nft("add rule inet t after ip saddr 10.0.0.1 meta mark 0x80000001 ct state new counter");
            // A protocol that connection tracking knows nothing of: no packet of it is invalid.
            tun.send(&Packet { protocol: 253, ..Packet::default() });
            let listed = nft("list chain inet t after");
            assert!(listed.contains("packets 1 "), "{listed}");
        })
        .unwrap();
}
