//! Whatever rules a host has: the file says exactly those that are not left out.

use super::*;
use crate::mirror::{MarkClasses, desired};
use crate::model::Attached;
use proptest::prelude::*;

fn selectors(family: Family) -> impl Strategy<Value = Selectors> {
    let nets = match family {
        Family::Ipv4 => ["10.0.0.0/8", "10.1.2.3/32", "192.168.8.0/24"],
        Family::Ipv6 => ["fd00::/8", "fd00::1/128", "2001:db8::/32"],
    };
    let net = move || {
        proptest::option::weighted(0.3, proptest::sample::select(nets.to_vec()).prop_map(|net| net.parse().unwrap()))
    };
    let name =
        || proptest::option::weighted(0.3, proptest::sample::select(vec!["a", "eth1", "wg*"]).prop_map(str::to_owned));
    let mark = proptest::option::weighted(0.3, (0u32..4, proptest::sample::select(vec![3, 0xff, u32::MAX, 0])));
    let ports = || {
        proptest::option::weighted(
            0.2,
            prop_oneof![
                (1u16..5, 0u16..3).prop_map(|(start, more)| Ports::Range { start, end: start + more }),
                Just(Ports::Masked { value: 0x100, mask: 0xff00 }),
            ],
        )
    };
    let tos = proptest::sample::select(match family {
        Family::Ipv4 => vec![0, 0, 0, 0x10],
        Family::Ipv6 => vec![0, 0, 0, 0xb8],
    });
    let dscp = proptest::option::weighted(0.1, proptest::sample::select(vec![(46, 0x3f), (8, 0x38)]));
    let proto = proptest::option::weighted(0.2, proptest::sample::select(vec![6u8, 17, 99]));
    let uids = proptest::option::weighted(0.1, (0u32..3, 0u32..2).prop_map(|(start, more)| (start, start + more)));
    let unknown = proptest::sample::select(vec![vec![], vec![], vec![], vec![], vec![], vec!["flow".to_owned()]]);
    let label =
        proptest::option::weighted(0.1, proptest::sample::select(vec![(0x12345, 0xf_ffff), (0x12000, 0xf_f000)]));
    let label = label.prop_map(move |label| label.filter(|_| family == Family::Ipv6));
    let first = (any::<bool>(), name(), name(), mark, net(), net(), tos);
    (first, dscp, proto, ports(), ports(), uids, unknown, label).prop_map(
        |((not, iif, oif, fwmark, from, to, tos), dscp, ipproto, sport, dport, uidrange, unknown, flowlabel)| {
            Selectors {
                not,
                iif,
                oif,
                fwmark,
                from,
                to,
                tos,
                dscp,
                ipproto,
                sport,
                dport,
                flowlabel,
                uidrange,
                l3mdev: false,
                tun_id: None,
                unknown,
            }
        },
    )
}

fn rule(family: Family) -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        4 => (1u32..4).prop_map(RuleAction::Table),
        1 => Just(RuleAction::Table(TABLE_MAIN)),
        1 => (1u32..80).prop_map(RuleAction::Goto),
        1 => proptest::sample::select(vec![RuleAction::Nop, RuleAction::Blackhole, RuleAction::Unreachable, RuleAction::Prohibit, RuleAction::Unknown(9)]),
    ];
    let suppress = proptest::option::weighted(0.2, 0u32..200);
    (selectors(family), action, suppress, 1u32..60, 0u8..20).prop_map(
        move |(selectors, action, suppress, priority, protocol)| Rule {
            family,
            priority,
            selectors,
            action,
            suppress_prefixlength: suppress,
            suppress_ifgroup: None,
            realms: None,
            protocol,
            attached: Attached::default(),
        },
    )
}

/// Rules that come in both families alike, as most programs install them.
fn twins() -> impl Strategy<Value = Vec<Rule>> {
    rule(Family::Ipv4).prop_map(|mut rule| {
        let selectors = &mut rule.selectors;
        (selectors.from, selectors.to, selectors.tos) = (None, None, 0);
        vec![rule.clone(), Rule { family: Family::Ipv6, ..rule }]
    })
}

/// What a `not` with lists comes to: jumps, or a rule with `not` in a family of which the lists have one value. Now and then
/// somebody took one of its rules away.
fn none_of(losses: bool) -> impl Strategy<Value = Vec<Rule>> {
    let nets = proptest::sample::subsequence(vec!["10.0.0.0/8", "192.168.8.0/24", "fd00::/8", "2001:db8::/32"], 1..=4);
    let names = proptest::sample::subsequence(vec!["a", "b"], 0..=2);
    let action = proptest::sample::select(vec!["table = 7", "action = \"prohibit\"", "goto = 70"]);
    let lost = proptest::option::weighted(0.3, any::<proptest::sample::Index>());
    (1u32..60, nets, names, action, lost).prop_map(move |(priority, nets, names, action, lost)| {
        let iif = if names.is_empty() { String::new() } else { format!("iif = {names:?}\n") };
        let text = format!("[[rule]]\npriority = {priority}\nnot = true\nfrom = {nets:?}\n{iif}{action}\n");
        let policy = parse("p.toml", &text, &TableNames::default()).unwrap().policy;
        let mut rules: Vec<Rule> = policy.rpdb().map(|rule| Rule { protocol: 3, ..rule.clone() }).collect();
        if let Some(lost) = lost.filter(|_| losses) {
            rules.remove(lost.index(rules.len()));
        }
        rules
    })
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let one = prop_oneof![
        rule(Family::Ipv4).prop_map(|rule| vec![rule]),
        rule(Family::Ipv6).prop_map(|rule| vec![rule]),
        twins(),
        none_of(true),
    ];
    proptest::collection::vec(one, 0..12).prop_map(|rules| rules.concat())
}

fn sorted(rules: &[Rule], family: Family) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        rules.iter().filter(|rule| rule.family == family).map(|rule| Rule { protocol: 0, ..rule.clone() }).collect();
    rules.sort_by_key(|rule| rule.priority);
    rules
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_file_says_what_the_kernel_has(rules in any_rules()) {
        let mut host = host();
        rules.iter().for_each(|rule| add(&mut host, rule.clone()));
        let imported = import(&host, &TableNames::default(), &Default::default());
        let policy = accepted(&imported).policy;
        let said: Vec<Rule> = policy.rpdb().cloned().collect();
        let more = desired(&policy, &host, &MarkClasses::default()).rules;
        prop_assert!(more.is_empty(), "the mirror would add {:?} by\n{}", more, &imported.text);
        let left_out: Vec<Rule> = imported.left_out.iter().filter_map(|left| left.rule.clone()).collect();
        for left in imported.left_out.iter().filter(|left| left.why.contains("there once")) {
            let priority = left.rule.as_ref().map(|rule| rule.priority);
            prop_assert!(said.iter().any(|rule| Some(rule.priority) == priority), "{} is free:\n{}", left.what, imported.text);
        }
        for family in Family::BOTH {
            let mut wanted = sorted(&rules, family);
            for left in sorted(&left_out, family) {
                let at = wanted.iter().rposition(|rule| *rule == left);
                wanted.remove(at.expect("left out what was there"));
            }
            let said = sorted(&said, family);
            prop_assert_eq!(display_rules(&said), display_rules(&wanted), "{}", &imported.text);
            prop_assert_eq!(said, wanted);
        }
    }

    /// What one statement was lowered to is one statement again, whatever the lists have in each family.
    #[test]
    fn a_not_with_lists_comes_back_whole(rules in none_of(false)) {
        let mut host = host();
        rules.iter().for_each(|rule| add(&mut host, rule.clone()));
        let imported = import(&host, &TableNames::default(), &Default::default());
        prop_assert_eq!(&imported.left_out, &[], "{}", imported.text);
        prop_assert_eq!(imported.text.matches("[[rule]]").count(), 1, "{}", imported.text);
    }

    /// What has a priority of its own and only words of the file is never left out.
    #[test]
    fn nothing_that_can_be_said_is_left_out(mut rules in any_rules()) {
        let mut host = host();
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.priority = 100 + index as u32;
            rule.selectors.unknown.clear();
            if matches!(rule.action, RuleAction::Unknown(_)) {
                rule.action = RuleAction::Nop;
            }
            if let RuleAction::Goto(target) = &mut rule.action {
                *target += 200;
            }
            if matches!(rule.action, RuleAction::Table(_)) {
                rule.suppress_prefixlength = rule.suppress_prefixlength.map(|length| length % 129);
            } else {
                rule.suppress_prefixlength = None;
            }
            rule.selectors.fwmark = rule.selectors.fwmark.filter(|(_, mask)| *mask != 0);
            if rule.selectors.tos != 0 {
                rule.selectors.dscp = None;
            }
            for name in [&mut rule.selectors.iif, &mut rule.selectors.oif] {
                *name = name.take().map(|name| name.replace('*', "0"));
            }
            add(&mut host, rule.clone());
        }
        let imported = import(&host, &TableNames::default(), &Default::default());
        prop_assert_eq!(&imported.left_out, &[], "{}", imported.text);
    }
}
