//! `compare` itself: that it finds what differs, makes it small, and is not misled by a kernel that moves.
#![allow(clippy::unwrap_used)]

use super::testing::{World, have_object, randomize, world};
use super::*;
use crate::kernel::admin::{read_setting, write_setting};
use crate::kernel::{Kernel, Netlink};
use crate::model::{Family, Host, Link, MarkRule, NextHop, Route, RouteKind, Rule, RuleAction, Selectors};
use crate::policy::Policy;
use router_common::verdict::{Action, Verdict};

/// A default route by up0 in `main`, one by up1 in table 111, for packets marked 0x20.
fn two_ways(kernel: &mut Netlink) -> Host {
    let host = kernel.host().unwrap();
    for (table, name, via) in [(254, "up0", "10.3.0.2"), (111, "up1", "10.4.0.2")] {
        kernel.add_route(&default_route(&host, table, name, Some(via), 0)).unwrap();
    }
    kernel.add_rule(&marked(100, 0x20, RuleAction::Table(111))).unwrap();
    kernel.host().unwrap()
}

/// IPv6 without a gateway.
fn default_route(host: &Host, table: u32, name: &str, via: Option<&str>, metric: u32) -> Route {
    let via: Option<std::net::IpAddr> = via.map(|via| via.parse().unwrap());
    let family = via.map_or(Family::Ipv6, Family::of);
    let hop = NextHop { via, dev: host.link(name).unwrap().index, weight: 1, ..NextHop::default() };
    Route { metric, protocol: 3, nexthops: vec![hop], ..Route::to(table, family.default_prefix(), RouteKind::Unicast) }
}

fn marked(priority: u32, mark: u32, action: RuleAction) -> Rule {
    let selectors = Selectors { fwmark: Some((mark, 0xff)), ..Selectors::default() };
    Rule { selectors, action, protocol: 3, ..Rule::lookup(Family::Ipv4, priority, 0) }
}

/// A program that answers wrongly about some packets.
struct Lying<F>(Program, F);

impl<F: FnMut(&Packet, &mut Fast)> Decider for Lying<F> {
    fn decide(&mut self, packet: &Packet, link: &Link) -> Result<Fast, DeciderError> {
        let mut fast = self.0.decide(packet, link)?;
        (self.1)(packet, &mut fast);
        Ok(fast)
    }
}

impl<F: FnMut(&Packet, &mut Fast)> Refresh for Lying<F> {
    fn refresh(&mut self, host: &Host, marks: &[MarkRule]) -> Result<(), DeciderError> {
        self.0.refresh(host, marks)
    }
}

/// A world and the object, or a loud word about what is missing.
fn ready() -> Option<World> {
    if have_object() { world() } else { None }
}

fn run(world: &World, lie: impl FnMut(&Packet, &mut Fast) + Send) -> Report {
    world.run(|kernel| {
        let host = two_ways(kernel);
        let packets = &mut generated(&host, &[], 3, 2000);
        let mut lying = Lying(Program::load(&host, &Policy::default(), None).unwrap(), lie);
        let mut subject = Subject { kernel, decider: &mut lying, policy: None, scratch: None, throw_away: true };
        compare(&mut subject, host, packets, &mut |_| {}).unwrap()
    })
}

#[test]
fn a_wrong_interface_is_found_and_its_packet_made_small() {
    let Some(world) = ready() else { return };
    let report = run(&world, |packet, fast| {
        if fast.action == Action::Redirect && fast.table == 111 && packet.dport > 100 {
            fast.oif += 1;
        }
    });
    assert_eq!((report.disagree, report.agree), (1, report.packets - 1));
    let example = report.counterexample.unwrap();
    assert_eq!(example.differs, Side::FastPath);
    let packet = &example.explanation.packet;
    assert_eq!((packet.mark, packet.sport, packet.dscp), (0x20, 0, 0), "only what the lie looks at is left");
    assert_eq!(packet.dport, 101);
    assert!(!example.explanation.agree);
    assert!(
        example
            .commands
            .iter()
            .any(|line| line.starts_with("ip -4 rule add priority 100 from all fwmark 0x20/0xff lookup 111"))
    );
    assert!(example.commands.contains(&"ip -4 route add default via 10.4.0.2 dev up1 table 111".to_owned()));
}

#[test]
fn the_policy_is_made_small_too_and_the_commands_repeat_what_the_kernel_says() {
    if !have_object() {
        return;
    }
    let mut tried = 0;
    for seed in 0..30 {
        let Some(world) = world() else { return };
        let report = world.run(|kernel| {
            let host = randomize(kernel, &mut fastrand::Rng::with_seed(seed), true);
            // About every packet that takes a route of table 111 or 112.
            let lie = |_: &Packet, fast: &mut Fast| {
                if fast.action == Action::Redirect && [111, 112].contains(&fast.table) {
                    fast.oif += 1;
                }
            };
            let packets = &mut generated(&host, &[], seed, 500);
            let mut lying = Lying(Program::load(&host, &Policy::default(), None).unwrap(), lie);
            let mut subject = Subject { kernel, decider: &mut lying, policy: None, scratch: None, throw_away: true };
            compare(&mut subject, host, packets, &mut |_| {}).unwrap()
        });
        let Some(example) = report.counterexample else { continue };
        tried += 1;
        let adds = |what: &str| example.commands.iter().filter(|line| line.contains(what)).count();
        assert_eq!((adds(" rule add "), adds(" route add ")), (1, 1), "seed {seed}: {:#?}", example.commands);
        let on = |line: &&String| line.starts_with("sysctl ") && !line.ends_with("=0") && !line.contains("forward");
        assert_eq!(example.commands.iter().find(on), None, "seed {seed}: a setting that the lie does not look at");
        let said = example.explanation.kernel.as_ref().unwrap();
        let Some(told) = paste(&example.commands) else { continue };
        let dev = format!("dev {}", said.oif.as_ref().unwrap());
        assert!(told.contains(&dev), "seed {seed}: {dev:?} is not in {told:?}");
        assert!(said.via.is_none_or(|via| told.contains(&format!("{via} dev"))), "seed {seed}: {told:?}");
    }
    assert!(tried >= 5, "only {tried} of the random policies use these tables");
}

/// Several statements, of which one is needed.
const MARKS: &str = r#"
[[mark]]
iif  = "guest"
set  = "0x40/0xff"

[[mark]]
from    = ["10.1.0.0/16", "203.0.112.0/20", "fd01::/64"]
ipproto = "udp"
sport   = "1-65000"
set     = "0x20/0xff"

[[mark]]
dscp    = "0x20/0x38"
set     = "0x1/0x1"
"#;

#[test]
fn marks_and_settings_are_made_fewer_too_and_the_commands_repeat_it() {
    const NEEDED: &str = "net.ipv4.conf.lan.route_localnet";
    let Some(world) = ready() else { return };
    let load = |host: &Host, text: &str| {
        let policy = crate::policy::parse("marks.toml", text, &crate::policy::TableNames::default()).unwrap().policy;
        (Program::load(host, &policy, None).unwrap(), policy)
    };
    // About what comes in by lan and gets the mark 0x20 by a `[[mark]]`, with one setting on.
    let lie = |packet: &Packet, fast: &mut Fast| {
        let came_in_by_lan =
            packet.iif.is_some_and(|iif| nix::net::if_::if_nametoindex("lan").is_ok_and(|lan| lan == iif));
        let marked = came_in_by_lan && fast.action == Action::Redirect && packet.mark != 0x20 && fast.mark == 0x20;
        if marked && read_setting(NEEDED).unwrap().as_deref() == Some("1") {
            fast.oif += 1;
        }
    };
    let example = world.run(|kernel| {
        for (setting, value) in [
            ("ipv4.conf.all.src_valid_mark", 1),
            ("ipv4.conf.lan.route_localnet", 1),
            ("ipv4.conf.guest.route_localnet", 1),
            ("ipv4.conf.guest.rp_filter", 1),
            ("ipv4.conf.up0.accept_local", 1),
            ("ipv4.conf.guest.forwarding", 0),
            ("ipv4.fib_multipath_hash_policy", 2),
            ("ipv6.conf.all.forwarding", 0),
        ] {
            write_setting(&format!("net.{setting}"), &value.to_string()).unwrap();
        }
        let host = two_ways(kernel);
        let (program, policy) = load(&host, MARKS);
        let packets = &mut generated(&host, &policy.mark_rules(), 3, 5000);
        let mut lying = Lying(program, lie);
        let policy = Some(&policy);
        let mut subject = Subject { kernel, decider: &mut lying, policy, scratch: None, throw_away: true };
        compare(&mut subject, host, packets, &mut |_| {}).unwrap().counterexample.expect("the lie is found")
    });
    let wanted =
        "[[mark]]\nfamily = \"ipv4\"\nfrom = \"10.1.0.0/16\"\nipproto = 17\nsport = \"1-65000\"\nset = \"0x20/0xff\"\n";
    let other = wanted.replace("10.1.0.0/16", "203.0.112.0/20");
    let policy = example.policy.clone().expect("it needs a mark");
    assert!(policy == wanted || policy == other, "{policy}");
    let commands = &example.commands;
    let odd = |line: &&String| line.starts_with("sysctl ") && line.ends_with("=0") == line.contains("forward");
    assert_eq!(commands.iter().filter(odd).collect::<Vec<_>>(), [&format!("sysctl -w {NEEDED}=1")], "{commands:#?}");

    // The same in an empty namespace.
    let namespace = crate::kernel::Netns::new().unwrap();
    let told = paste_in(&namespace, commands).expect("ip(8) knows these words");
    let said = example.explanation.kernel.as_ref().unwrap();
    assert!(told.contains(&format!("dev {}", said.oif.as_ref().unwrap())), "{told}");
    let again = namespace.run(|| {
        let kernel = &mut Netlink::open().unwrap();
        let host = kernel.host().unwrap();
        let (program, policy) = load(&host, &policy);
        let iif = host.link(example.explanation.packet.iif.as_ref().unwrap()).map(|link| link.index);
        let packet = Packet { iif, ..example.packet.unwrap() };
        let mut lying = Lying(program, lie);
        let policy = Some(&policy);
        let mut subject = Subject { kernel, decider: &mut lying, policy, scratch: None, throw_away: true };
        compare(&mut subject, host, &mut std::iter::once(packet), &mut |_| {}).unwrap().counterexample
    });
    assert_eq!(again.unwrap().expect("it differs there too").policy.unwrap(), policy);
}

#[test]
fn a_mark_that_is_not_needed_and_one_that_no_file_can_say_are_no_part_of_it() {
    use super::counterexample::marks_file;
    let mark = |text: &str| {
        let policy = crate::policy::parse("marks.toml", text, &crate::policy::TableNames::default()).unwrap().policy;
        policy.mark_rules()
    };
    let text = "[[mark]]\nfamily = \"ipv6\"\niif = \"a.b\"\nfwmark = \"0x20/0xff\"\nfrom = \"fd00::/8\"\nto = \"::/0\"\n\
                ipproto = 6\nsport = \"5\"\ndport = \"0x100/0xff00\"\ndscp = \"0x2e/0x3f\"\nflowlabel = \"0x7/0xf\"\n\
                set = \"0x1/0xffffffff\"\n";
    let marks = mark(text);
    let written = marks_file(&marks).unwrap();
    assert_eq!(mark(&written), marks, "{written}");
    assert_eq!(marks_file(&[MarkRule { membership: true, ..marks[0].clone() }]), None);
}

#[test]
fn what_routes_with_realms_leave_behind_for_a_moment_is_no_disagreement() {
    let Some(world) = ready() else { return };
    let moved: u64 = world.run(|kernel| {
        write_setting("net.ipv4.conf.guest.accept_local", "1").unwrap();
        let host = two_ways(kernel);
        let mut program = Program::load(&host, &Policy::default(), None).unwrap();
        // A broadcast address as the source: refused where sources are looked at.
        let iif = host.link("guest").map(|link| link.index);
        let packet = Packet::new(iif, "10.1.0.255".parse().ok(), "8.8.8.8".parse().unwrap());
        let mut round = |commands: &str| {
            let mut subject = Subject { kernel, decider: &mut program, policy: None, scratch: None, throw_away: true };
            super::testing::ip("-4", commands);
            let report = compare(&mut subject, host.clone(), &mut std::iter::once(packet), &mut |_| {}).unwrap();
            assert_eq!((report.agree, report.disagree), (1, 0), "{:#?}", report.counterexample);
            report.moved
        };
        let deleted = "route add 9.9.9.0/24 via 10.3.0.2 realms 5\nroute delete 9.9.9.0/24 realms 5\n";
        let refused = "route add 9.9.9.0/24 via 77.0.0.1 realms 5\n";
        (0..10).map(|_| round(deleted) + round(refused)).sum()
    });
    assert!(moved > 0, "the kernel never answered otherwise: this test shows nothing");
}

#[test]
fn on_a_host_in_use_the_policy_is_made_small_in_a_copy() {
    let Some(world) = ready() else { return };
    let lie = |_: &Packet, fast: &mut Fast| {
        if fast.action == Action::Redirect && fast.table == 111 {
            fast.oif += 1;
        }
    };
    let (before, after, example, smaller, honest) = world.run(|kernel| {
        kernel.add_rule(&marked(90, 0x40, RuleAction::Blackhole)).unwrap();
        let host = two_ways(kernel);
        let packets = &mut generated(&host, &[], 3, 2000);
        let mut lying = Lying(Program::load(&host, &Policy::default(), None).unwrap(), lie);
        let mut subject = Subject { kernel, decider: &mut lying, policy: None, scratch: None, throw_away: false };
        let example = compare(&mut subject, host.clone(), packets, &mut |_| {}).unwrap().counterexample.unwrap();
        let smaller = shrink_in_copy(example.clone(), |program| Box::new(Lying(program, lie)));
        let honest = shrink_in_copy(example.clone(), |program| Box::new(program));
        (host, kernel.host().unwrap(), example, smaller, honest)
    });
    assert_eq!((&before.rules, &before.routes), (&after.rules, &after.routes), "nothing was taken away here");
    assert!(example.not_shrunk.is_some());
    assert_eq!((smaller.not_shrunk.as_ref(), smaller.explanation.scratch), (None, true));
    let adds = |what: &str| smaller.commands.iter().filter(|line| line.contains(what)).count();
    assert_eq!((adds(" rule add "), adds(" route add ")), (1, 1), "{:#?}", smaller.commands);
    assert_eq!(honest.not_shrunk.as_deref(), Some("in a copy of this host all sides agree about the packet"));
}

/// What the last of the commands prints in an empty namespace; None where this host's ip(8) is too old for one of them.
fn paste(commands: &[String]) -> Option<String> {
    paste_in(&crate::kernel::Netns::new().unwrap(), commands)
}

fn paste_in(namespace: &crate::kernel::Netns, commands: &[String]) -> Option<String> {
    let script = format!("exec 2>&1\nset -e\n{}", commands.join("\n"));
    let shell = || std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let output = namespace.run(shell).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let newer = |line: &String| [" dscp ", " flowlabel ", "port 0x"].iter().any(|word| line.contains(word));
    if said.contains("Error: ") && commands.iter().any(newer) {
        return None;
    }
    assert!(output.status.success(), "{said}\n{script}");
    said.lines().rfind(|line| !line.starts_with(' ')).map(str::to_owned)
}

#[test]
fn a_drop_of_what_the_kernel_forwards_is_found() {
    let Some(world) = ready() else { return };
    let report = run(&world, |_, fast| {
        if fast.action == Action::Redirect {
            (fast.action, fast.verdict, fast.oif, fast.via, fast.table) =
                (Action::Drop, Verdict::Blackhole, 0, None, 0);
        }
    });
    assert_eq!(report.disagree, 1);
    assert_eq!(report.counterexample.unwrap().explanation.ebpf.unwrap().verdict.as_deref(), Some("blackhole"));
}

#[test]
fn an_honest_program_agrees_and_is_counted() {
    let Some(world) = ready() else { return };
    let report = run(&world, |_, _| {});
    assert_eq!((report.disagree, report.packets, &report.counterexample), (0, 2000, &None));
    assert_eq!(report.decided + report.passed.values().sum::<u64>(), 2000);
    assert_eq!(report.verdicts.values().sum::<u64>(), 2000);
    assert!(report.decided > 300, "{report:?}");
    assert_eq!(report.moved, 0);
}

#[test]
fn packets_are_asked_again_when_the_rules_move() {
    let Some(world) = ready() else { return };
    let report = world.run(|kernel| {
        let host = two_ways(kernel);
        let mut other = Netlink::open().unwrap();
        let mut packets = generated(&host, &[], 3, 2000).enumerate().map(|(number, packet)| {
            // What was sent up1 is refused from now on, and later sent again.
            if number == 500 {
                other.add_rule(&marked(50, 0x20, RuleAction::Blackhole)).unwrap();
            } else if number == 1200 {
                other.delete_rule(&marked(50, 0x20, RuleAction::Blackhole)).unwrap();
            }
            packet
        });
        let mut program = Program::load(&host, &Policy::default(), None).unwrap();
        let mut subject = Subject { kernel, decider: &mut program, policy: None, scratch: None, throw_away: true };
        compare(&mut subject, host.clone(), &mut packets, &mut |_| {}).unwrap()
    });
    assert_eq!((report.disagree, report.packets, report.moved), (0, 2000, 2));
}

#[test]
fn ipv6_metrics_do_not_count_where_the_lowest_has_no_carrier() {
    let Some(world) = ready() else { return };
    let report = world.run(|kernel| {
        let host = kernel.host().unwrap();
        write_setting("net.ipv6.conf.down.ignore_routes_with_linkdown", "1").unwrap();
        kernel.add_route(&default_route(&host, 254, "down", None, 10)).unwrap();
        for (name, via, metric) in [("guest", "fd02::3", 20), ("up0", "fd03::2", 50)] {
            kernel.add_route(&default_route(&host, 254, name, Some(via), metric)).unwrap();
        }
        let host = kernel.host().unwrap();
        let measure = Measure::new(&host, &[]);
        let from = |name: &str| {
            let iif = Some(host.link(name).unwrap().index);
            let packet = Packet::new(iif, "fd01::9".parse().ok(), "2001:db8:9::1".parse().unwrap());
            host.link_name(measure.reference(&packet).1.way().oif)
        };
        assert_eq!(from("up0"), "up0", "the ingress interface counts more than the metric");
        assert_eq!(from("lan"), "guest");
        let mut program = Program::load(&host, &Policy::default(), None).unwrap();
        let mut subject = Subject { kernel, decider: &mut program, policy: None, scratch: None, throw_away: true };
        compare(&mut subject, host.clone(), &mut generated(&host, &[], 5, 2000), &mut |_| {}).unwrap()
    });
    assert_eq!((report.disagree, report.packets), (0, 2000), "{:#?}", report.counterexample);
}
