//! Against the running kernel, in anonymous network namespaces.

use super::*;
use crate::kernel::admin::NewLink;
use crate::kernel::netns::Netns;
use crate::kernel::{Admin, Netlink};
use crate::mirror::{MarkClasses, Undo, after, desired, diff, remove_all};
use crate::model::{Family, NextHop, RuleAction};
use crate::policy::{self, Policy, TableNames};
use proptest::prelude::*;
use std::io::Write;

/// Runs `test` in a namespace with `eth0` (10.0.0.2/24, fd00::2/64, and somebody's default routes) and `eth1` (10.0.1.2/24,
/// fd00:1::2/64), both up.
pub(super) fn in_namespace(test: impl FnOnce(&mut Admin, &mut Netlink) + Send) {
    if !nix::unistd::geteuid().is_root() {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        // Past the harness's capture: a test that did not run must not look like one that did.
        let line = format!("\nSKIPPED {name}: needs root to make network namespaces\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    let namespace = Netns::new().unwrap();
    let work = || {
        let mut admin = Admin::open().unwrap();
        for (name, peer, nets) in
            [("eth0", "far0", ["10.0.0.2/24", "fd00::2/64"]), ("eth1", "far1", ["10.0.1.2/24", "fd00:1::2/64"])]
        {
            admin.veth(NewLink::named(name), NewLink::named(peer)).unwrap();
            admin.up(name).unwrap();
            admin.up(peer).unwrap();
            nets.iter().for_each(|net| admin.add_address(name, net.parse().unwrap()).unwrap());
        }
        let mut kernel = Netlink::open().unwrap();
        for (family, via) in [(Family::Ipv4, "10.0.0.1"), (Family::Ipv6, "fd00::1")] {
            let text = format!("to = \"default\"\nvia = \"{via}\"\ndev = \"eth0\"\nmetric = 100");
            let policy = read(&format!("[[route]]\n{text}"));
            let wish = desired(&policy, &kernel.host().unwrap(), &MarkClasses::default());
            let mut route = wish.routes[0].item.clone();
            assert_eq!(route.family, family);
            route.protocol = 16;
            kernel.add_route(&route).unwrap();
        }
        test(&mut admin, &mut kernel);
    };
    namespace.run(work).unwrap();
}

pub(super) fn read(text: &str) -> Policy {
    policy::parse("test.toml", text, &TableNames::default()).unwrap_or_else(|error| panic!("{error}")).policy
}

fn install(kernel: &mut Netlink, policy: &Policy, classes: &MarkClasses) -> Desired {
    let host = kernel.host().unwrap();
    let wish = desired(policy, &host, classes);
    wish.check().unwrap();
    let way = diff(&wish, &host, kernel.mark_chain().unwrap());
    apply(kernel, &way, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"));
    wish
}

/// All that others have, but for the routes that the kernel itself makes, at times of its own.
pub(super) fn foreign(kernel: &mut Netlink) -> (Vec<Rule>, Vec<Route>) {
    let host = kernel.host().unwrap();
    let routes = host.routes.iter().filter(|route| ![OWN_PROTOCOL, 2].contains(&route.protocol)).cloned();
    (foreign_rules(&host), sorted(routes))
}

pub(super) fn own(kernel: &mut Netlink) -> (Vec<Rule>, Vec<Route>) {
    let host = kernel.host().unwrap();
    let routes = host.routes.iter().filter(|route| route.protocol == OWN_PROTOCOL).cloned();
    (own_rules(&host), sorted(routes))
}

fn assert_nothing_to_do(kernel: &mut Netlink, policy: &Policy, classes: &MarkClasses) {
    let host = kernel.host().unwrap();
    let digest = kernel.mark_chain().unwrap();
    let again = diff(&desired(policy, &host, classes), &host, digest);
    assert!(again.is_empty(), "a second time it would do {:#?}", again.steps);
}

/// A bit of everything that the file can say.
const ALL_OF_IT: &str = r#"
[tables]
isp2 = 111
vpn = { id = 5324, strict = true }

[[route]]
table = "isp2"
to = "default"
via = "10.0.1.1"
dev = "eth1"

[[route]]
table = "isp2"
to = "default"
via = "fd00:1::1"
dev = "eth1"
mtu = 1400

[[route]]
table = 112
to = "default"
via = "learned"
dev = "eth0"

[[route]]
table = 113
to = "10.9.0.0/24"
dev = "eth1"

[[route]]
table = 113
to = "default"
via = "10.9.0.1"
dev = "eth1"
metric = 7
src = "10.0.1.2"

[[route]]
table = 114
to = "default"
nexthops = [{ via = "10.0.0.1", dev = "eth0", weight = 3 }, { via = "10.0.1.1", dev = "eth1" }]

[[route]]
table = 114
to = "default"
nexthops = [{ via = "fd00::1", dev = "eth0", weight = 3 }, { via = "fd00:1::1", dev = "eth1" }]

[[route]]
table = 115
to = "192.168.0.0/16"
type = "blackhole"

[[route]]
table = 115
to = "fd00:99::/32"
type = "prohibit"

[[route]]
table = 115
to = "default"
type = "throw"

[[route]]
table = 116
to = "default"
via = "172.16.0.1"
dev = "eth1"
onlink = true

[[route]]
table = 117
to = "default"
via = "fe80::1"
dev = "eth1"

[[mark]]
iif = ["eth0", "eth1"]
ipproto = "tcp"
dport = [80, "443-444"]
set = "0x20/0xff"

[[rule]]
name = "by interface"
priority = 1000
iif = ["eth1", "not-there"]
table = "isp2"

[[rule]]
priority = 1010
not = true
fwmark = 5324
table = "vpn"

[[rule]]
priority = 1020
not = true
from = ["192.168.8.0/24", "192.168.9.0/24", "fd00:8::/64"]
table = 112

[[rule]]
priority = 1030
from = ["192.168.8.0/24", "0.0.0.0/0"]
to = ["10.0.0.0/8", "fd00::/8"]
fwmark = ["0x0/0xf", "0x1/0xf"]
action = "prohibit"

[[rule]]
priority = 1040
iif = "eth0"
goto = 1060

[[rule]]
priority = 1050
action = "blackhole"
iif = "eth1"
ipproto = "udp"
dport = "1000-2000"

[[rule]]
priority = 1060
table = "main"
suppress_prefixlength = 0
"#;

#[test]
fn installed_once_and_taken_back_whole() {
    in_namespace(|_, kernel| {
        let untouched = foreign(kernel);
        let policy = read(ALL_OF_IT);
        let classes = MarkClasses { bits: 0xf000_0000, tables: [(111, 0x1000_0000), (254, 0x2000_0000)].into() };
        let wish = install(kernel, &policy, &classes);
        let (rules, routes) = own(kernel);
        assert_eq!(rules.len(), wish.rules.len());
        assert!(rules.len() > 24 && routes.len() > 12, "{} rules, {} routes", rules.len(), routes.len());
        assert_eq!(kernel.mark_chain().unwrap(), Some(wish.digest));
        assert_eq!(wish.waiting, []);
        // What the guard is shown beforehand is what there is then.
        let host = kernel.host().unwrap();
        assert_eq!(after(&wish, &host).rules, host.rules);
        assert_eq!(foreign(kernel), untouched);
        assert_nothing_to_do(kernel, &policy, &classes);
        remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(own(kernel), (vec![], vec![]));
        assert_eq!(kernel.mark_chain().unwrap(), None);
        assert_eq!(foreign(kernel), untouched);
    });
}

/// As after a SIGKILL at any point: half of the steps, some of them again, in any state.
#[test]
fn leftovers_are_put_right() {
    in_namespace(|_, kernel| {
        let untouched = foreign(kernel);
        let policy = read(ALL_OF_IT);
        let other = read(
            "[[route]]\ntable = 111\nto = \"default\"\nvia = \"10.0.0.1\"\ndev = \"eth0\"\n\
             [[rule]]\npriority = 1020\nnot = true\nfrom = [\"192.168.9.0/24\", \"192.168.7.0/24\"]\ntable = 112\n",
        );
        let host = kernel.host().unwrap();
        let way = diff(&desired(&policy, &host, &MarkClasses::default()), &host, None);
        for done in (0..way.steps.len()).step_by(5) {
            let killed = Changes { steps: way.steps[..done].to_vec(), ..way.clone() };
            apply(kernel, &killed, &mut |_| ControlFlow::Continue(())).unwrap();
            for policy in [&policy, &other, &policy] {
                install(kernel, policy, &MarkClasses::default());
                assert_nothing_to_do(kernel, policy, &MarkClasses::default());
            }
            assert_eq!(foreign(kernel), untouched);
            remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(own(kernel), (vec![], vec![]));
        }
    });
}

#[test]
fn a_refusal_by_the_kernel_undoes_all() {
    in_namespace(|_, kernel| {
        let policy = read(ALL_OF_IT);
        install(kernel, &policy, &MarkClasses::default());
        let before = (own(kernel), foreign(kernel), kernel.mark_chain().unwrap());
        let host = kernel.host().unwrap();
        let mut wish = desired(&read("[[rule]]\npriority = 5\ntable = 5\n"), &host, &MarkClasses::default());
        // A jump backwards: the kernel refuses it.
        let backwards = Rule { action: RuleAction::Goto(6), ..Rule::lookup(Family::Ipv6, 7, 0) };
        wish.rules.extend(wanted([backwards]));
        let way = diff(&wish, &host, kernel.mark_chain().unwrap()).with_installed_marks(&policy.mark_rules());
        let error = apply(kernel, &way, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error.undo, Undo::Whole), "{error}");
        assert_eq!(error.cause.unwrap().errno(), libc::EINVAL);
        assert_eq!((own(kernel), foreign(kernel), kernel.mark_chain().unwrap()), before);
    });
}

/// Who reads it finds the line of the file, and the interface by its name.
#[test]
fn a_refusal_names_the_place_and_the_interface() {
    in_namespace(|_, kernel| {
        let host = kernel.host().unwrap();
        for (text, place) in [
            // No address of a host: nothing but the kernel knows.
            (
                "\n[[route]]\ntable = 7\nto = \"default\"\nvia = \"224.0.0.1\"\ndev = \"eth1\"\nonlink = true\n",
                "test.toml:2: add route: ipv4 unicast 0.0.0.0/0 table 7 via 224.0.0.1 dev eth1 metric 0: ",
            ),
            (
                "[[rule]]\npriority = 5\nfamily = \"ipv4\"\ntable = 5\n\n[[rule]]\npriority = 7\nfamily = \"ipv4\"\ngoto = 900\n",
                "test.toml:6: add ipv4 rule: ",
            ),
        ] {
            let mut wish = desired(&read(text), &host, &MarkClasses::default());
            // A jump backwards: the kernel refuses it.
            for wanted in wish.rules.iter_mut().filter(|wanted| wanted.item.priority == 7) {
                wanted.item.action = RuleAction::Goto(6);
            }
            let way = diff(&wish, &host, kernel.mark_chain().unwrap());
            let error = apply(kernel, &way, &mut |_| ControlFlow::Continue(())).unwrap_err().told_of(&wish);
            assert!(error.to_string().starts_with(place), "{error}");
            assert!(matches!(error.undo, Undo::Whole), "{error}");
        }
        // What cannot be taken back is named too.
        let own = read("[[route]]\ntable = 7\nto = \"192.0.2.0/24\"\ndev = \"eth1\"\n");
        let gone = desired(&own, &host, &MarkClasses::default()).routes[0].item.clone();
        let error = kernel.delete_route(&gone).unwrap_err().to_string();
        assert!(error.contains("192.0.2.0/24") && error.contains("dev eth1"), "{error}");
    });
}

/// What the resolver says of a gateway is what the kernel says.
#[test]
fn gateways_that_the_kernel_refuses_are_waited_for() {
    in_namespace(|admin, kernel| {
        admin.add_address("eth1", "198.18.7.2/24".parse().unwrap()).unwrap();
        admin.add_address("eth1", "fd00:77::2/64".parse().unwrap()).unwrap();
        // IPv6 makes the routes of an address a moment later (`addrconf_dad_work`).
        let own = "fd00:77::2/128".parse().unwrap();
        let host = std::iter::repeat_with(|| kernel.host().unwrap())
            .take(10_000)
            .find(|host| host.routes.iter().any(|route| route.dst == own))
            .unwrap();
        let index = host.link("eth1").unwrap().index;
        let cases = [
            ("198.18.7.1", false, true),
            ("198.18.7.1", true, true),
            // IPv4 takes the host's own where it looks it up.
            ("198.18.7.2", false, true),
            ("198.18.7.2", true, false),
            ("198.18.7.255", false, false),
            ("198.18.7.255", true, false),
            ("fd00:77::1", false, true),
            ("fd00:77::2", false, false),
            ("fd00:77::2", true, false),
        ];
        for (via, onlink, taken) in cases {
            let text = |to: &str, via: &str| format!("[[route]]\ntable = 7\nto = \"{to}\"\ndev = \"eth1\"\n{via}");
            let with_via = text("default", &format!("via = \"{via}\"\nonlink = {onlink}\n"));
            let wish = desired(&read(&with_via), &host, &MarkClasses::default());
            assert_eq!((wish.routes.len(), wish.waiting.len()), if taken { (1, 0) } else { (0, 1) }, "{via}, {onlink}");
            let hop = NextHop { via: via.parse().ok(), dev: index, weight: 1, onlink, ..NextHop::default() };
            let prefix = Family::of(via.parse().unwrap()).default_prefix().to_string();
            let plain = desired(&read(&text(&prefix, "")), &host, &MarkClasses::default()).routes[0].item.clone();
            let route = Route { nexthops: vec![hop], scope: 0, ..plain };
            assert_eq!(kernel.add_route(&route).is_ok(), taken, "the kernel: {via}, onlink {onlink}");
            if taken {
                kernel.delete_route(&route).unwrap();
            }
        }
    });
}

#[test]
fn a_lost_interface_is_waited_for() {
    in_namespace(|admin, kernel| {
        let policy = read(ALL_OF_IT);
        let all = install(kernel, &policy, &MarkClasses::default());
        admin.down("eth1").unwrap();
        let some = install(kernel, &policy, &MarkClasses::default());
        assert!(some.routes.len() < all.routes.len());
        assert!(some.waiting.iter().any(|waiting| waiting.to_string().contains("eth1 is down")), "{:#?}", some.waiting);
        assert!(some.waiting.iter().any(|waiting| waiting.partly), "the multipath route goes on with the other");
        assert_nothing_to_do(kernel, &policy, &MarkClasses::default());
        admin.up("eth1").unwrap();
        // Taking an interface down takes its IPv6 addresses.
        admin.add_address("eth1", "fd00:1::2/64".parse().unwrap()).unwrap();
        let again = install(kernel, &policy, &MarkClasses::default());
        assert_eq!(again.routes, all.routes);
        assert_nothing_to_do(kernel, &policy, &MarkClasses::default());
    });
}

/// The in-memory kernel and the real one do the same with the same rules.
#[test]
fn the_fake_deletes_what_the_kernel_deletes() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    in_namespace(|_, kernel| {
        let mut fake = FakeKernel::with_host(Host { rules: kernel.rules().unwrap(), ..Host::default() });
        let mut runner = TestRunner::deterministic();
        let step = (super::changes::any_rule(OWN_PROTOCOL), 0u32..3);
        let (mut deleted, mut missed) = (0, 0);
        for _ in 0..1500 {
            let (rule, what) = step.new_tree(&mut runner).unwrap().current();
            let (real, faked) = match what {
                0 => (kernel.add_rule(&rule), fake.add_rule(&rule)),
                _ => (kernel.delete_rule(&rule), fake.delete_rule(&rule)),
            };
            deleted += usize::from(what > 0 && real.is_ok());
            missed += usize::from(real.is_err());
            let errno = |result: Result<(), crate::kernel::Error>| result.map_err(|error| error.errno());
            assert_eq!(errno(real), errno(faked), "{rule}");
            assert_eq!(own_rules(&Host { rules: kernel.rules().unwrap(), ..Host::default() }), own_rules(fake.state()));
        }
        assert!(deleted > 200 && missed > 50, "{deleted} deleted, {missed} missed");
    });
}

#[test]
fn the_whole_language_of_rules_and_routes_is_there_once_and_goes_again() {
    in_namespace(|_, kernel| {
        let before = kernel.host().unwrap();
        // What this kernel does not have is refused by `desired`, which has a test of its own.
        let newer = if before.lacks.is_empty() {
            "[[rule]]\npriority = 30\nsport = \"0x1000/0xf000\"\ndscp = \"8/0x38\"\ntable = 7\n\
             [[rule]]\npriority = 31\nflowlabel = \"0x12000/0xff000\"\ntable = 7\n"
        } else {
            ""
        };
        let text = format!(
            "{newer}[[rule]]\npriority = 32\nuidrange = \"0-1000\"\ntun_id = 5\noif = \"eth1\"\nsuppress_ifgroup = 3\ntable = 7\n\
            [[route]]\nto = \"10.9.0.0/16\"\ntype = \"local\"\ndev = \"lo\"\n\
            [[route]]\nto = \"fd09::/64\"\ntype = \"local\"\ndev = \"lo\"\n\
            [[route]]\nto = \"10.8.0.255\"\ntype = \"broadcast\"\ndev = \"eth0\"\n\
            [[route]]\nto = \"fd00::9\"\ntype = \"anycast\"\ndev = \"eth0\"\n\
            [[route]]\nto = \"239.0.0.0/8\"\ntype = \"multicast\"\ndev = \"eth0\"\ntable = 9\n\
            [[route]]\nto = \"default\"\ntos = 0x10\nvia = \"10.0.0.1\"\ntable = 9\n\
            [[route]]\nto = \"default\"\nvia = \"10.0.0.1\"\ntable = 9\n"
        );
        let policy = read(&text);
        install(kernel, &policy, &MarkClasses::default());
        assert_nothing_to_do(kernel, &policy, &MarkClasses::default());
        // What is there is written back as the same file.
        let host = kernel.host().unwrap();
        let imported = crate::import::kernel::import(&host, &TableNames::default(), &Default::default());
        let again = read(&imported.text);
        let routes = |policy: &Policy| {
            let mut all: Vec<_> =
                policy.routes.iter().map(|r| (r.family, r.table, r.to, r.kind, r.tos, r.nexthops.len())).collect();
            all.sort();
            all
        };
        let said = routes(&again);
        for route in routes(&policy) {
            assert!(said.contains(&route), "{route:?} is missing:\n{}", imported.text);
        }
        assert_eq!(again.rpdb().cloned().collect::<Vec<_>>(), policy.rpdb().cloned().collect::<Vec<_>>());
        remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(own(kernel), (Vec::new(), Vec::new()));
        assert_eq!(kernel.rules().unwrap(), before.rules);
    });
}

/// What stands for sets in the kernel is told by name, and no bit of theirs comes into an imported file.
#[test]
fn the_bits_of_sets_are_not_imported() {
    in_namespace(|_, kernel| {
        let text = "[sets]\nstreaming = [\"10.9.0.0/16\", \"fd09::/64\"]\n\
            [[rule]]\npriority = 50\nto = \"@streaming\"\ntable = 7\n\
            [[rule]]\npriority = 60\nfwmark = \"0x20/0xff\"\ntable = 7\n\
            [[rule]]\npriority = 70\nfrom = \"@streaming\"\nfwmark = \"0x20/0xff\"\nfamily = \"ipv4\"\ntable = 7\n";
        let policy = read(text);
        assert_eq!(kernel.set_uses().unwrap(), [].into());
        let facts = crate::safety::Facts::default();
        let policy =
            crate::safety::with_set_bits(&policy, &kernel.host().unwrap(), &facts, &Default::default()).unwrap();
        install(kernel, &policy, &MarkClasses::default());
        let uses = kernel.set_uses().unwrap();
        let named: Vec<(u32, String)> =
            policy.set_bits.iter().map(|(used, bit)| (*bit, format!("{} @{}", used.side.name(), used.set))).collect();
        assert_eq!(uses.clone().into_iter().collect::<std::collections::BTreeSet<_>>(), named.into_iter().collect());
        let imported = crate::import::kernel::import(&kernel.host().unwrap(), &TableNames::default(), &uses);
        let again: Vec<String> = read(&imported.text).rpdb().map(ToString::to_string).collect();
        assert_eq!(again, ["priority 60 from all fwmark 0x20/0xff lookup 7"; 2], "{}", imported.text);
        let left: Vec<&str> = imported.left_out.iter().map(|left| left.why.as_str()).collect();
        assert_eq!(left.iter().filter(|why| why.contains("to @streaming")).count(), 2, "{left:?}");
        assert_eq!(left.iter().filter(|why| why.contains("from @streaming")).count(), 1, "{left:?}");
        remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(kernel.set_uses().unwrap(), [].into());
    });
}
