//! What forbids marks, and which bits they use.

use super::*;
use crate::model::{MarkRule, RuleAction};
use ChainFamily as F;
use HookPoint as H;

/// A host where redirect is out of the question, for a reason that leaves marks alone.
fn strict() -> Host {
    let mut host = host();
    host.settings.all_v4.rp_filter = 1;
    host
}

#[track_caller]
fn no_mark_because(host: &Host, facts: &Facts, because: &str) {
    let (may, why) = judged(host, facts);
    assert_eq!(may, May::Pass, "{why}");
    assert!(why.ends_with(because), "{why}");
    let judgement = judge_with(host, facts, &RouterSettings::default());
    let elsewhere = judgement.interfaces[&ETH1].may == May::Mark;
    assert_eq!(judgement.mark_bits.is_some(), elsewhere, "no bits where nothing marks");
}

fn chain_with(family: F, hook: H, expressions: Vec<Expression>) -> Facts {
    with_chain(Chain { expressions, ..chain(family, hook) })
}

#[test]
fn rules_before_routing_that_may_change_the_packet() {
    let because = |what: &str| format!("nftables chain inet t/c may change the packet before routing ({what})");
    let changing = [
        (key("meta", 2, true), "meta … set"),
        (key("ct", 17, true), "ct … set"),
        (Expression { writes: true, ..expression("payload") }, "payload … set"),
        (Expression { writes: true, ..expression("exthdr") }, "exthdr … set"),
        (expression("nat"), "nat"),
        (expression("objref"), "objref"),
        (key("objref", 3, false), "objref"),
        (Expression { extension: Some("tcp".into()), ..expression("match") }, "xtables tcp"),
    ];
    for (expression, what) in changing {
        for hook in [H::Prerouting, H::Ingress, H::Other(7)] {
            no_mark_because(&host(), &chain_with(F::Inet, hook, vec![expression.clone()]), &because(what));
        }
        let later = chain_with(F::Inet, H::Postrouting, vec![expression]);
        assert_eq!(judged(&host(), &later).0, May::Mark, "{what} after routing");
    }
    for unknown in ["tproxy", "dup", "fwd", "queue", "socket", "something new"] {
        assert_eq!(
            judged(&host(), &chain_with(F::Ip, H::Prerouting, vec![expression(unknown)])).0,
            May::Pass,
            "{unknown}"
        );
    }
}

#[test]
fn rules_before_routing_that_only_look() {
    let harmless = [
        key("meta", 15, false),
        key("meta", 12, true),
        key("ct", 0, false),
        expression("payload"),
        expression("exthdr"),
        key("fib", 1, false),
        expression("cmp"),
        expression("lookup"),
        expression("immediate"),
        expression("counter"),
        expression("log"),
        expression("limit"),
        key("objref", 1, false),
    ];
    let facts = chain_with(F::Inet, H::Prerouting, harmless.to_vec());
    let (may, why) = judged(&host(), &facts);
    assert_eq!(
        (may, why.as_str()),
        (May::Mark, "nftables chain inet t/c (hook prerouting) would not see a redirected packet")
    );
}

#[test]
fn chains_that_a_base_chain_jumps_to() {
    let writes = Expression { writes: true, ..expression("payload") };
    let regular = |name: &str, table: &str, expressions| Chain {
        base: None,
        name: name.into(),
        table: table.into(),
        expressions,
        ..chain(F::Ip, H::Prerouting)
    };
    let jump = |to: &str| Expression { jump: Some(to.into()), ..expression("immediate") };
    let by_map = Expression { jumps_by_map: true, ..expression("lookup") };
    for (first, second, may) in [
        (jump("a"), jump("b"), May::Pass),
        (jump("a"), expression("counter"), May::Mark),
        (jump("nosuch"), jump("b"), May::Mark),
        (by_map, expression("counter"), May::Pass),
    ] {
        let base = Chain { expressions: vec![first.clone()], ..chain(F::Ip, H::Prerouting) };
        let chains = vec![base, regular("a", "t", vec![second]), regular("b", "t", vec![writes.clone()])];
        assert_eq!(judged(&host(), &Facts { chains, ..Facts::default() }).0, may, "{first:?}");
    }
    // Another table's chain of that name is another chain; a loop ends.
    let base = Chain { expressions: vec![jump("b"), jump("b")], ..chain(F::Ip, H::Prerouting) };
    let chains = vec![base, regular("b", "t", vec![jump("b")]), regular("b", "other", vec![writes])];
    assert_eq!(judged(&host(), &Facts { chains, ..Facts::default() }).0, May::Mark);
}

#[test]
fn ingress_rules_of_another_device() {
    let mut facts = chain_with(F::Netdev, H::Ingress, vec![Expression { writes: true, ..expression("payload") }]);
    facts.chains[0].base.as_mut().unwrap().devices = vec!["eth1".into()];
    assert_eq!(judged(&strict(), &facts).0, May::Mark);
    assert_eq!(judge_with(&strict(), &facts, &RouterSettings::default()).interfaces[&ETH1].may, May::Pass);
}

#[test]
fn address_translation_in_any_hook() {
    for hook in [H::Prerouting, H::Input, H::Output, H::Postrouting] {
        let mut facts = with_chain(chain(F::Ip, hook));
        facts.chains[0].base.as_mut().unwrap().kind = "nat".into();
        no_mark_because(&strict(), &facts, "nftables chain ip t/c translates addresses");
    }
}

#[test]
fn flowtables_legacy_tables_and_hooks() {
    let flowtable = Flowtable { family: F::Ip, table: "t".into(), name: "f".into(), devices: Vec::new() };
    let facts = Facts { flowtables: vec![flowtable], ..Facts::default() };
    no_mark_because(&strict(), &facts, "nftables flowtable ip t/f routes by itself");
    let facts = Facts { legacy_tables: vec!["ip6tables raw".into()], ..Facts::default() };
    no_mark_because(&strict(), &facts, "what table ip6tables raw does cannot be seen");
    let facts = Facts { other_hooks: vec!["IPVS".into()], ..Facts::default() };
    no_mark_because(&strict(), &facts, "the netfilter hooks of IPVS may change the packet before routing");

    let with = |hook| Facts { hooks: Some(vec![hook]), ..Facts::default() };
    let because = "the netfilter hook ila_nf_input (ip6 prerouting) may change the packet before routing";
    no_mark_because(&strict(), &with(hook(F::Ip6, H::Prerouting, "ila_nf_input")), because);
    no_mark_because(
        &strict(),
        &with(hook(F::Ip, H::Prerouting, "")),
        "a netfilter hook (ip prerouting) may change the packet before routing",
    );
    let on_device = Hook { device: Some("eth0".into()), flowtable: true, ..hook(F::Netdev, H::Ingress, "f") };
    no_mark_because(
        &strict(),
        &with(on_device.clone()),
        "a flowtable of nftables (netdev ingress of eth0) may change the packet before routing",
    );
    let chain =
        Hook { chain: Some((F::Ip, "t".into(), "c".into())), ..hook(F::Ip, H::Prerouting, "nft_do_chain_ipv4") };
    for harmless in [
        hook(F::Ip, H::Prerouting, "ipv4_conntrack_in"),
        hook(F::Ip, H::Prerouting, "ipv4_conntrack_defrag"),
        hook(F::Ip6, H::Prerouting, "ipv6_conntrack_in"),
        hook(F::Ip6, H::Prerouting, "ipv6_defrag"),
        hook(F::Ip, H::Forward, "anything"),
        hook(F::Ip, H::Postrouting, "anything"),
        Hook { device: Some("eth1".into()), ..on_device },
        // Its rules are judged where they are listed.
        chain,
    ] {
        assert_eq!(judged(&strict(), &with(harmless.clone())).0, May::Mark, "{harmless:?}");
    }
}

#[test]
fn rules_of_any_hook_that_have_to_do_with_marks() {
    let xtables = |kind: &str, name: &str| Expression { extension: Some(name.into()), ..expression(kind) };
    for (expression, what) in [
        (key("meta", 3, false), "meta mark"),
        (key("meta", 3, true), "meta mark set"),
        (expression("meta"), "meta"),
        (key("ct", 3, false), "ct mark"),
        (key("ct", 3, true), "ct mark set"),
        (key("fib", 1 | 4, false), "fib"),
        (xtables("match", "mark"), "xtables mark"),
        (xtables("target", "CONNMARK"), "xtables CONNMARK"),
        (expression("target"), "target"),
        (expression("queue"), "queue"),
    ] {
        for (family, hook) in
            [(F::Inet, H::Forward), (F::Ip, H::Input), (F::Bridge, H::Postrouting), (F::Netdev, H::Egress)]
        {
            let facts = chain_with(family, hook, vec![expression.clone()]);
            no_mark_because(
                &strict(),
                &facts,
                &format!("nftables chain {} t/c has to do with marks ({what})", family.name()),
            );
        }
    }
    for expression in [
        key("meta", 2, true),
        key("ct", 13, true),
        Expression { writes: true, ..expression("payload") },
        expression("masq"),
        key("fib", 1 | 8, false),
        xtables("match", "conntrack"),
        xtables("target", "TCPMSS"),
    ] {
        assert_eq!(
            judged(&strict(), &chain_with(F::Inet, H::Forward, vec![expression.clone()])).0,
            May::Mark,
            "{expression:?}"
        );
    }
}

#[test]
fn other_readers_of_marks() {
    let facts = Facts { xfrm_policies: 1, ..Facts::default() };
    no_mark_because(&strict(), &facts, "xfrm (IPsec) looks at marks, and takes them on to the outer packet");
    let facts = Facts { fwmark_reflect: true, ..Facts::default() };
    no_mark_because(&strict(), &facts, "fwmark_reflect is on: the stack's answers would carry the mark");

    let with = |filter| Facts { filters: [(ETH1, vec![filter])].into(), ..Facts::default() };
    let fw = Filter { kind: "fw".into(), matches_mark: true, ..Filter::default() };
    no_mark_because(&strict(), &with(fw), "TC on eth1 (fw) may look at marks");
    let u32_filter = |action: &str| Filter {
        kind: "u32".into(),
        actions: vec!["police".into(), action.into()],
        ..Filter::default()
    };
    no_mark_because(&strict(), &with(u32_filter("skbedit")), "TC on eth1 (u32) may look at marks");
    assert_eq!(judged(&strict(), &with(u32_filter("gact"))).0, May::Mark);
}

#[test]
fn src_valid_mark() {
    let because = "src_valid_mark is on: the mark would decide about the source too";
    let mut of_link = strict();
    eth0(&mut of_link).v4.src_valid_mark = true;
    assert!(judged(&of_link, &Facts::default()).1.ends_with(because));
    assert_eq!(judge_with(&of_link, &Facts::default(), &RouterSettings::default()).interfaces[&ETH1].may, May::Mark);
    let mut of_all = strict();
    of_all.settings.all_v4.src_valid_mark = true;
    no_mark_because(&of_all, &Facts::default(), because);
}

#[test]
fn foreign_programs_on_the_ingress() {
    let facts = Facts { tcx: [(ETH0, vec!["p".into()])].into(), ..Facts::default() };
    no_mark_because(&strict(), &facts, "no mark either: the TC program p on its ingress may change the packet");
}

#[test]
fn foreign_programs_elsewhere_may_read_marks() {
    let egress = Facts { tcx_egress: [(ETH1, vec!["p".into()])].into(), ..Facts::default() };
    let ingress = Facts { tcx: [(ETH1, vec!["p".into()])].into(), ..Facts::default() };
    for facts in [egress, ingress] {
        no_mark_because(&strict(), &facts, "the TC program p on eth1 may look at marks");
    }
    let egress = Facts { tcx_egress: [(ETH0, vec!["p".into()])].into(), ..Facts::default() };
    assert_eq!(judged(&host(), &egress).0, May::Redirect, "a redirected packet passes it");
}

/// The bits chosen on a host with these rules, `[[mark]]`s and `mark_bits`.
fn bits(rules: &[Rule], marks: &[MarkRule], allowed: Option<u32>) -> (Option<u32>, Vec<u32>) {
    let mut host = strict();
    host.rules.extend_from_slice(rules);
    let settings = RouterSettings { mark_bits: allowed, ..RouterSettings::default() };
    let judgement = judge(&host, &Facts::default(), &Wanted { settings: &settings, marks });
    let all_mark = judgement.interfaces.values().all(|interface| interface.may == May::Mark);
    assert_eq!(all_mark, judgement.mark_bits.is_some());
    (judgement.mark_bits, judgement.marks_in_use)
}

#[test]
fn bits_are_free_ones_and_as_many_as_the_tables_need() {
    // Only main is looked up.
    assert_eq!(bits(&[], &[], None), (Some(0x8000_0000), vec![]));
    // Main and table 51 (twice): classes 1 and 2. The masked selector's bits are left out.
    assert_eq!(
        bits(&[rule_with_mark(0, 0xf000_0000), rule_with_mark(0, 0xf000_0000)], &[], None),
        (Some(0x0c00_0000), vec![])
    );
    // Of a whole mark only the bits of its value.
    assert_eq!(bits(&[rule_with_mark(0xc000_14cc, u32::MAX)], &[], None), (Some(0x3000_0000), vec![0xc000_14cc]));
    // A whole mark of 0 takes no bit, but is kept clear of.
    assert_eq!(bits(&[rule_with_mark(0, u32::MAX)], &[], None), (Some(0xc000_0000), vec![0]));
    // The table local and rules without a table need no class.
    let others = [RuleAction::Blackhole, RuleAction::Goto(32766), RuleAction::Table(TABLE_LOCAL), RuleAction::Table(0)]
        .map(|action| Rule { action, ..Rule::lookup(Family::Ipv4, 5, 1) });
    assert_eq!(bits(&others, &[], None).0, Some(0x8000_0000));
    let four: Vec<Rule> = (100..103).map(|table| Rule::lookup(Family::Ipv4, 5, table)).collect();
    assert_eq!(bits(&four, &[], None).0, Some(0xe000_0000), "three tables and main: values 1 to 4");
}

#[test]
fn mark_bits_of_the_file_restrict_them() {
    assert_eq!(bits(&[rule_with_mark(0, 0xf000)], &[], Some(0x7f000)).0, Some(0x6_0000));
    assert_eq!(bits(&[rule_with_mark(0, 0xf000)], &[], Some(0x1f000)).0, None, "one free bit for two tables");
    let mut host = strict();
    host.rules.push(rule_with_mark(0, u32::MAX - 1));
    no_mark_because(
        &host,
        &Facts::default(),
        "2 bits of the mark are needed for 2 tables, and only 1 (0x1) are used by no rule or [[mark]]",
    );
    host.rules.push(rule_with_mark(0, 1));
    no_mark_because(
        &host,
        &Facts::default(),
        "2 bits of the mark are needed for 2 tables, and none are used by no rule or [[mark]]",
    );
}

#[test]
fn the_files_marks_keep_their_bits() {
    let mark = |fwmark, mask| MarkRule {
        family: Family::Ipv4,
        statement: 0,
        selectors: MarkSelectors { fwmark, ..MarkSelectors::default() },
        value: 0,
        mask,
    };
    assert_eq!(bits(&[], &[mark(None, 0xff00_0000)], None).0, Some(0x0080_0000));
    assert_eq!(bits(&[], &[mark(Some((0, 0xf000_0000)), 1)], None).0, Some(0x0800_0000));
    assert_eq!(bits(&[], &[mark(Some((0x8000_0000, u32::MAX)), 1)], None), (Some(0x4000_0000), vec![0x8000_0000]));
    assert_eq!(bits(&[], &[mark(None, u32::MAX)], None).0, None, "it writes the whole mark");
}

#[test]
fn too_many_whole_marks() {
    let rules: Vec<Rule> = (0..=MAX_MARKS_IN_USE).map(|value| rule_with_mark(value, u32::MAX)).collect();
    assert_eq!(bits(&rules, &[], None).0, None);
    assert!(bits(&rules[1..], &[], None).0.is_some());
}

#[test]
fn classes_stay_with_their_tables() {
    let mut host = strict();
    host.rules.push(Rule::lookup(Family::Ipv4, 100, 51));
    let first = judge_with(&host, &Facts::default(), &RouterSettings::default());
    assert_eq!(first.mark_bits, Some(0xc000_0000));
    assert_eq!(first.mark_classes, [(51, 0x4000_0000), (254, 0x8000_0000)].into());
    // Installed, they change nothing: they are no use of the mark by others.
    for (table, class) in &first.mark_classes {
        for family in Family::BOTH {
            host.rules.push(class_rule(family, *class, 0xc000_0000, *table));
        }
    }
    assert_eq!(judge_with(&host, &Facts::default(), &RouterSettings::default()), first);
    // A table more, with a smaller number: the others keep their values.
    host.rules.push(Rule::lookup(Family::Ipv6, 101, 7));
    let more = judge_with(&host, &Facts::default(), &RouterSettings::default());
    assert_eq!(more.mark_classes, [(7, 0xc000_0000), (51, 0x4000_0000), (254, 0x8000_0000)].into());
    // Somebody else takes one of the bits.
    host.rules.push(rule_with_mark(0, 0x8000_0000));
    let moved = judge_with(&host, &Facts::default(), &RouterSettings::default());
    assert_eq!(moved.mark_bits, Some(0x6000_0000));
    assert_eq!(moved.mark_classes, [(7, 0x2000_0000), (51, 0x4000_0000), (254, 0x6000_0000)].into());
}

#[test]
fn bits_that_no_longer_hold_all_tables_are_given_up() {
    let mut host = strict();
    host.rules.push(class_rule(Family::Ipv4, 0x10, 0x10, TABLE_MAIN));
    let judgement = |host: &Host| judge_with(host, &Facts::default(), &RouterSettings::default());
    assert_eq!(judgement(&host).mark_bits, Some(0x10));
    host.rules.push(Rule::lookup(Family::Ipv4, 100, 51));
    assert_eq!(judgement(&host).mark_bits, Some(0xc000_0000));
    assert_eq!(judgement(&host).mark_classes, [(51, 0x4000_0000), (254, 0x8000_0000)].into());
}

#[test]
fn classes_are_of_the_tables_that_are_looked_up() {
    let judgement = |host: &Host| judge_with(host, &Facts::default(), &RouterSettings::default());
    let mut host = strict();
    host.rules.retain(|rule| rule.action == RuleAction::Table(TABLE_LOCAL));
    assert_eq!(judgement(&host).mark_bits, Some(0x8000_0000), "never no bit at all");
    assert_eq!(judgement(&host).mark_classes, [].into());
    // Left over: a table that nobody looks up any more, and a second class of one.
    host.rules.push(Rule::lookup(Family::Ipv4, 100, 51));
    for (class, table) in [(0x10, 7), (0x20, 51), (0x30, 51)] {
        host.rules.push(class_rule(Family::Ipv4, class, 0x30, table));
    }
    assert_eq!((judgement(&host).mark_bits, judgement(&host).mark_classes), (Some(0x30), [(51, 0x20)].into()));
    // One class for two tables: the first keeps it.
    host.rules.push(Rule::lookup(Family::Ipv4, 101, TABLE_MAIN));
    host.rules.push(class_rule(Family::Ipv6, 0x20, 0x30, TABLE_MAIN));
    assert_eq!(judgement(&host).mark_classes, [(51, 0x20), (TABLE_MAIN, 0x10)].into());
}

#[test]
fn only_our_own_class_rules_are_taken_for_such() {
    let own = class_rule(Family::Ipv4, 0x10, 0xf0, 51);
    assert_eq!(as_class_rule(&own), Some((0xf0, 0x10, 51)));
    for other in [
        Rule { protocol: 3, ..own.clone() },
        Rule { priority: 1, ..own.clone() },
        Rule { selectors: Selectors { iif: Some("eth0".into()), ..own.selectors.clone() }, ..own.clone() },
        Rule { suppress_prefixlength: Some(0), ..own.clone() },
        Rule { suppress_ifgroup: None, ..own.clone() },
        class_rule(Family::Ipv4, 0x10, u32::MAX, 51),
        class_rule(Family::Ipv4, 0, 0xf0, 51),
    ] {
        assert_eq!(as_class_rule(&other), None, "{other}");
    }
}

#[test]
fn bits_only_where_something_marks() {
    let judgement = judge_with(&host(), &Facts::default(), &RouterSettings::default());
    assert_eq!((judgement.mark_bits, judgement.mark_classes.len()), (None, 0));
}
