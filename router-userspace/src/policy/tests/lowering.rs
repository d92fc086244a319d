//! What the statements of the file become in the kernel.

use super::*;
use crate::model::{OWN_PROTOCOL, Ports};

#[test]
fn the_sample_of_the_contract() {
    let text = r#"
[router]
mode       = "auto"
interfaces = ["lan*", "eth1"]
fast_path  = "auto"
bypass     = []
mark_bits  = "0xff000000"
[tables]
isp2 = 111
vpn  = { id = 5324, strict = true }
[[route]]
table = "isp2"
to    = "default"
via   = "10.0.0.1"
dev   = "eth1"
[[mark]]
iif     = ["lan", "guest"]
ipproto = "tcp"
dport   = [80, "443-444"]
set     = "0x20/0xff"
[[rule]]
name     = "guests"
priority = 1000
iif      = "eth1"
table    = "isp2"
[[rule]]
priority = 1010
not      = true
fwmark   = 5324
table    = "vpn"
[[rule]]
priority = 1020
from     = ["192.168.8.0/24", "fd00:8::/64"]
table    = "isp2"
"#;
    let policy = policy(text);
    assert_eq!(
        rules(text),
        "ipv4 priority 1000 from all iif eth1 lookup 111\n\
         ipv6 priority 1000 from all iif eth1 lookup 111\n\
         ipv4 priority 1010 not from all fwmark 0x14cc lookup 5324\n\
         ipv6 priority 1010 not from all fwmark 0x14cc lookup 5324\n\
         ipv4 priority 1020 from 192.168.8.0/24 lookup 111\n\
         ipv6 priority 1020 from fd00:8::/64 lookup 111\n"
    );
    assert!(policy.rpdb().all(|rule| rule.protocol == OWN_PROTOCOL));
    assert_eq!(policy.rules[0].name.as_deref(), Some("guests"));
    assert_eq!(policy.rules[5].at, "p.toml:31");
    assert_eq!(policy.router.interfaces, Some(vec!["lan*".to_owned(), "eth1".to_owned()]));
    assert_eq!(policy.router.mark_bits, Some(0xff00_0000));
    assert_eq!(policy.strict_tables(), BTreeSet::from([5324]));
    assert_eq!(policy.table_name(111), Some("isp2"));
    assert_eq!(policy.table_name(254), Some("main"));
    assert_eq!(policy.table_name(112), None);
    let [route] = policy.routes.as_slice() else { panic!("{:?}", policy.routes) };
    assert_eq!((route.family, route.table, route.at.as_str()), (Family::Ipv4, 111, "p.toml:11"));
    assert_eq!(policy.marks.len(), 2 * 2 * 2, "two families, two interfaces, two ranges");
    assert!(policy.marks.iter().all(|mark| mark.rule.statement == 0 && mark.at == "p.toml:16"));
    assert_eq!(policy.marks[1].rule.selectors.dport, Some(Ports::Range { start: 443, end: 444 }));
    assert_eq!((policy.marks[0].rule.value, policy.marks[0].rule.mask), (0x20, 0xff));
}

#[test]
fn an_empty_file_is_the_default_policy() {
    for text in ["", "# nothing\n", "[router]\n[tables]\n"] {
        assert_eq!(Policy { file: String::new(), ..policy(text) }, Policy::default());
    }
}

#[test]
fn origins_are_found_whoever_owns_the_rule() {
    let policy = policy("[[rule]]\nname = \"n\"\npriority = 5\ntable = 7\n[[rule]]\npriority = 6\ntable = 8");
    let origins = policy.origins(&Host::default());
    let mut foreign = Rule::lookup(Family::Ipv6, 5, 7);
    foreign.protocol = 3;
    assert_eq!(origins.of(&foreign).unwrap().name.as_deref(), Some("n"));
    assert_eq!(origins.of(&Rule::lookup(Family::Ipv4, 6, 8)).unwrap().at, "p.toml:5");
    assert_eq!(origins.of(&foreign_at(&foreign, 6)), None);
    // Wayfork's own may have got another place.
    assert_eq!(origins.of(&Rule::lookup(Family::Ipv4, 6, 7)).unwrap().at, "p.toml:1");
    assert_eq!(origins.of(&Rule::lookup(Family::Ipv4, 6, 9)), None);
}

fn foreign_at(rule: &Rule, priority: u32) -> Rule {
    Rule { priority, ..rule.clone() }
}

#[test]
fn every_selector_takes_one_value_or_a_list() {
    let text = "[[rule]]\npriority = 1\ntable = 9\nfamily = \"ipv6\"\niif = [\"a\", \"b\"]\nfwmark = [1, \"0x2/0x2\"]\ndscp = [\"ef\", \"0x8/0x38\"]";
    assert_eq!(
        rules(text),
        "ipv6 priority 1 from all fwmark 0x1 iif a dscp 46 lookup 9\n\
         ipv6 priority 1 from all fwmark 0x1 iif a dscp 8/0x38 lookup 9\n\
         ipv6 priority 1 from all fwmark 0x2/0x2 iif a dscp 46 lookup 9\n\
         ipv6 priority 1 from all fwmark 0x2/0x2 iif a dscp 8/0x38 lookup 9\n\
         ipv6 priority 1 from all fwmark 0x1 iif b dscp 46 lookup 9\n\
         ipv6 priority 1 from all fwmark 0x1 iif b dscp 8/0x38 lookup 9\n\
         ipv6 priority 1 from all fwmark 0x2/0x2 iif b dscp 46 lookup 9\n\
         ipv6 priority 1 from all fwmark 0x2/0x2 iif b dscp 8/0x38 lookup 9\n"
    );
    let each = "[[rule]]\npriority = 1\ntable = 9\nfamily = \"ipv4\"\noif = \"o\"\ntos = 0x10\nipproto = \"udp\"\nsport = \"5-6\"\ndport = 7\nuidrange = \"8-9\"\ntun_id = 10\nsuppress_prefixlength = 11\nsuppress_ifgroup = 12";
    assert_eq!(
        rules(each),
        "ipv4 priority 1 from all tos 0x10 oif o uidrange 8-9 ipproto 17 sport 5-6 dport 7 tun_id 10 lookup 9 suppress_prefixlength 11 suppress_ifgroup 12\n"
    );
    assert_eq!(
        rules("[[rule]]\npriority = 1\nl3mdev = true\nfamily = \"ipv4\""),
        "ipv4 priority 1 from all l3mdev lookup 0\n"
    );
}

#[test]
fn families_follow_from_the_addresses() {
    let with = |lines: &str| rules(&format!("[[rule]]\npriority = 1\ntable = 9\n{lines}"));
    assert_eq!(with("to = \"10.0.0.0/8\""), "ipv4 priority 1 from all to 10.0.0.0/8 lookup 9\n");
    assert_eq!(with("from = \"all\""), "ipv4 priority 1 from all lookup 9\nipv6 priority 1 from all lookup 9\n");
    assert_eq!(with("from = \"all\"\nto = \"fd00::1\""), "ipv6 priority 1 from all to fd00::1/128 lookup 9\n");
    // A length of 0 is no selector to the kernel, but it names the family.
    assert_eq!(with("from = \"::/0\""), "ipv6 priority 1 from all lookup 9\n");
    assert_eq!(with("from = \"0.0.0.0/0\""), "ipv4 priority 1 from all lookup 9\n");
}

#[test]
fn a_mark_without_a_mask_is_a_whole_mark() {
    let text = "[[rule]]\npriority = 1\nfamily = \"ipv4\"\nfwmark = 0\ntable = 9";
    assert_eq!(policy(text).rules[0].rule.selectors.fwmark, Some((0, u32::MAX)));
    assert_eq!(policy(&text.replace("= 0", "= \"0x5/7\"")).rules[0].rule.selectors.fwmark, Some((5, 7)));
}

#[test]
fn not_with_one_value_of_each_is_the_kernels_own_not() {
    let text = "[[rule]]\npriority = 10\nnot = true\niif = \"a\"\nfrom = [\"10.0.0.0/8\", \"fd00::/8\"]\ntable = 9";
    assert_eq!(
        rules(text),
        "ipv4 priority 10 not from 10.0.0.0/8 iif a lookup 9\nipv6 priority 10 not from fd00::/8 iif a lookup 9\n"
    );
}

#[test]
fn not_with_a_list_jumps_over_the_rule() {
    let text = "[[rule]]\nname = \"n\"\npriority = 10\nnot = true\niif = [\"a\", \"b\"]\nfrom = [\"10.0.0.0/8\", \"fd00::/8\"]\ntable = 9\nsuppress_prefixlength = 0";
    assert_eq!(
        rules(text),
        "ipv4 priority 10 from 10.0.0.0/8 iif a goto 11\n\
         ipv4 priority 10 from 10.0.0.0/8 iif b goto 11\n\
         ipv4 priority 10 from all lookup 9 suppress_prefixlength 0\n\
         ipv6 priority 10 from fd00::/8 iif a goto 11\n\
         ipv6 priority 10 from fd00::/8 iif b goto 11\n\
         ipv6 priority 10 from all lookup 9 suppress_prefixlength 0\n\
         ipv4 priority 11 from all nop\n\
         ipv6 priority 11 from all nop\n"
    );
    // A rule of the file at the next priority is where they land, in its families.
    let next = format!("{text}\n[[rule]]\npriority = 11\nfrom = \"fd00::/8\"\ntable = 8");
    assert_eq!(
        rules(&next).lines().skip(6).collect::<Vec<_>>(),
        ["ipv4 priority 11 from all nop", "ipv6 priority 11 from fd00::/8 lookup 8"]
    );
}

#[test]
fn priorities_order_the_rules_not_the_file() {
    let text =
        "[[rule]]\npriority = 20\ntable = 2\nfamily = \"ipv4\"\n[[rule]]\npriority = 10\ntable = 1\nfamily = \"ipv4\"";
    assert_eq!(rules(text), "ipv4 priority 10 from all lookup 1\nipv4 priority 20 from all lookup 2\n");
}

#[test]
fn routes_have_the_families_of_their_addresses() {
    let text = |lines: &str| format!("[[route]]\n{lines}");
    let families =
        |lines: &str| -> Vec<Family> { policy(&text(lines)).routes.iter().map(|route| route.family).collect() };
    assert_eq!(families("to = \"default\"\ndev = \"a\""), Family::BOTH);
    assert_eq!(families("to = \"default\"\ntype = \"unreachable\""), Family::BOTH);
    assert_eq!(families("to = \"default\"\nvia = \"learned\"\ndev = \"a\""), Family::BOTH);
    assert_eq!(families("to = \"default\"\nvia = \"fe80::1\"\ndev = \"a\""), [Family::Ipv6]);
    assert_eq!(families("to = \"default\"\ndev = \"a\"\nsrc = \"10.0.0.1\""), [Family::Ipv4]);
    assert_eq!(families("to = \"default\"\ndev = \"a\"\nfamily = \"ipv6\""), [Family::Ipv6]);
    let over_v6 =
        policy(&text("to = \"10.0.0.0/8\"\nvia = \"fe80::1\"\ndev = \"a\"\nfamily = \"ipv4\"\nonlink = true"));
    assert_eq!(over_v6.routes[0].family, Family::Ipv4);
    assert!(over_v6.routes[0].nexthops[0].onlink);
    let many = policy(&text(
        "to = \"default\"\nmetric = 5\nmtu = 1400\nnexthops = [{ via = \"10.0.0.1\", weight = 2 }, { via = \"learned\", dev = \"b\" }]",
    ));
    assert_eq!((many.routes[0].metric, many.routes[0].mtu, many.routes[0].table), (Some(5), Some(1400), TABLE_MAIN));
    let hop = |via, dev: Option<&str>, weight| PolicyNextHop {
        via: Some(via),
        dev: dev.map(str::to_owned),
        weight,
        onlink: false,
    };
    let gateway = Via::Address("10.0.0.1".parse().unwrap());
    assert_eq!(many.routes[0].nexthops, [hop(gateway, None, 2), hop(Via::Learned, Some("b"), 1)]);
    assert_eq!(many.routes[0].family, Family::Ipv4);
}

#[test]
fn names_of_the_host_count_only_where_they_are_asked_for() {
    let mut names = TableNames::default();
    names.add("42 uplink\n43 isp2\n");
    let text =
        "[tables]\nisp2 = 111\n[[rule]]\npriority = 1\ntable = \"uplink\"\n[[rule]]\npriority = 2\ntable = \"isp2\"";
    let policy = parse("p.toml", text, &names).unwrap().policy;
    assert_eq!(policy.rules[0].rule.action, crate::model::RuleAction::Table(42));
    assert_eq!(policy.rules[2].rule.action, crate::model::RuleAction::Table(111), "the file's own name goes first");
    assert!(parse("p.toml", text, &TableNames::default()).is_err());
}

#[test]
fn more_rules_than_the_kernel_can_bear_are_refused_at_once() {
    let list: Vec<String> = (0..1000).map(|n| format!("\"10.{}.{}.0/24\"", n / 256, n % 256)).collect();
    let list = list.join(", ");
    let text = format!("[[rule]]\npriority = 1\ntable = 9\nfrom = [{list}]\nto = [{list}]\nfwmark = [1, 2]");
    assert!(errors(&text).starts_with("1:1: with this rule the file comes to more than 500000 rules"));
    let text = format!("[[mark]]\nset = 1\nfrom = [{list}]\nto = [{list}]\nfwmark = [1, 2]");
    assert!(errors(&text).starts_with("1:1: with this [[mark]] the file comes to more than 500000 alternatives"));
}

#[test]
fn ports_and_flow_labels_under_masks() {
    let text = "[[rule]]\npriority = 10\nsport = [\"0x1000/0xf000\", \"443/0xffff\"]\ndport = \"80-90\"\ntable = 5\n\
        [[rule]]\npriority = 20\nflowlabel = [0x12345, \"0x12000/0xff000\"]\ntable = 5";
    assert_eq!(
        rules(text),
        "ipv4 priority 10 from all sport 0x1000/0xf000 dport 80-90 lookup 5\n\
         ipv4 priority 10 from all sport 443 dport 80-90 lookup 5\n\
         ipv6 priority 10 from all sport 0x1000/0xf000 dport 80-90 lookup 5\n\
         ipv6 priority 10 from all sport 443 dport 80-90 lookup 5\n\
         ipv6 priority 20 from all flowlabel 0x12345 lookup 5\n\
         ipv6 priority 20 from all flowlabel 0x12000/0xff000 lookup 5\n"
    );
}

#[test]
fn routes_of_every_type_by_tos_and_by_next_hop_object() {
    use crate::model::RouteKind;
    let text = "[[route]]\nto = \"10.9.0.0/16\"\ntype = \"local\"\ndev = \"lo\"\n\
        [[route]]\nto = \"10.8.0.255\"\ntype = \"broadcast\"\ndev = \"eth0\"\n\
        [[route]]\nto = \"fd00::9\"\ntype = \"anycast\"\ndev = \"eth0\"\n\
        [[route]]\nto = \"239.0.0.0/8\"\ntype = \"multicast\"\ndev = \"eth0\"\ntable = 9\n\
        [[route]]\nto = \"default\"\ntos = 0x10\nvia = \"10.0.0.1\"\ntable = 9\n\
        [[route]]\nto = \"10.7.0.0/16\"\nnhid = 5";
    let told: Vec<_> = policy(text).routes.iter().map(|r| (r.kind, r.table, r.tos, r.nhid)).collect();
    assert_eq!(
        told,
        [
            (RouteKind::Local, 255, 0, None),
            (RouteKind::Broadcast, 255, 0, None),
            (RouteKind::Anycast, 255, 0, None),
            (RouteKind::Multicast, 9, 0, None),
            (RouteKind::Unicast, 9, 0x10, None),
            (RouteKind::Unicast, 254, 0, Some(5)),
        ]
    );
}
