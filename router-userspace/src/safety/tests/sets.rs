//! The bits that tell of sets.

use super::*;
use crate::policy::{Policy, SetUse, TableNames, parse};
use std::collections::BTreeMap;

const POLICY: &str = "[sets]\na = [\"10.0.0.0/8\"]\nb = [\"192.0.2.0/24\", \"fd00::/8\"]\n[[rule]]\npriority = 100\nfrom = \"@a\"\nto = \"@b\"\ntable = 7\n[[rule]]\npriority = 101\nfrom = \"@b\"\ntable = 8\n";

fn read(text: &str) -> Policy {
    parse("p.toml", text, &TableNames::default()).unwrap_or_else(|error| panic!("{error}")).policy
}

fn with(router: &str) -> Policy {
    read(&format!("{router}{POLICY}"))
}

fn nft(what: Marks) -> Facts {
    Facts { marks: vec![MarkUse { who: "nftables chain inet t/c".into(), what }], ..Facts::default() }
}

/// The bits of `from @a`, `from @b` and `to @b`.
fn bits(policy: &Policy, host: &Host, facts: &Facts) -> Result<Vec<u32>, String> {
    let bound = with_set_bits(policy, host, facts, &BTreeMap::new()).map_err(|error| error.to_string())?;
    Ok(bound.set_bits.values().copied().collect())
}

#[test]
fn bits_are_those_that_nobody_else_uses() {
    let policy = read(POLICY);
    let all = |host: &Host, facts: &Facts| bits(&policy, host, facts).unwrap();
    assert_eq!(all(&host(), &Facts::default()), [1 << 31, 1 << 30, 1 << 29]);
    // A mask's bits, and of a whole mark those of its value.
    let mut foreign = host();
    foreign.rules.push(rule_with_mark(0, 0x4000_0000));
    foreign.rules.push(rule_with_mark(0x2000_0001, u32::MAX));
    assert_eq!(all(&foreign, &Facts::default()), [1 << 31, 1 << 28, 1 << 27]);
    // Rules that Wayfork itself has there are of another time.
    let mut own = host();
    own.rules.push(Rule { protocol: crate::model::OWN_PROTOCOL, ..rule_with_mark(0, u32::MAX - 1) });
    assert_eq!(all(&own, &Facts::default()), [1 << 31, 1 << 30, 1 << 29]);
    // nftables and WireGuard.
    assert_eq!(all(&host(), &nft(Marks::Bits(0xc000_0000))), [1 << 29, 1 << 28, 1 << 27]);
    assert_eq!(all(&host(), &nft(Marks::Whole(0x8000_0000))), [1 << 30, 1 << 29, 1 << 28]);
    // The file's own.
    let marks = "[[mark]]\nset = \"0x80000000/0xc0000000\"\n[[mark]]\niif = \"eth0\"\nset = 0x10000000\n";
    assert_eq!(bits(&with(marks), &host(), &Facts::default()).unwrap(), [1 << 29, 1 << 27, 1 << 26]);
    let rule = "[[rule]]\npriority = 1\nfwmark = \"0/0x80000000\"\ntable = 9\n";
    assert_eq!(bits(&with(rule), &host(), &Facts::default()).unwrap(), [1 << 30, 1 << 29, 1 << 28]);
    assert_eq!(bits(&with("[router]\nmark_bits = 0x70\n"), &host(), &Facts::default()).unwrap(), [0x40, 0x20, 0x10]);
}

/// Who carries a whole mark of another keeps it, on every way to a bit.
#[test]
fn whole_marks_of_others_get_no_bit() {
    let mut host = host();
    host.rules.push(rule_with_mark(0x51, u32::MAX));
    let bound = with_set_bits(&read(POLICY), &host, &nft(Marks::Whole(0xca6c)), &BTreeMap::new()).unwrap();
    let left = |value: u32| {
        let exactly = |mark: &&MarkRule| mark.selectors.fwmark == Some((value, u32::MAX)) && mark.mask == 0;
        bound.mark_rules().iter().filter(exactly).count()
    };
    // One for each use and family with members: a in IPv4, b in both, twice.
    assert_eq!((left(0x51), left(0xca6c), left(1)), (5, 5, 0));
}

#[test]
fn what_stands_against_bits_is_named() {
    let refused = |policy: &Policy, facts: &Facts, rules: &[Rule]| {
        let mut host = host();
        host.rules.extend_from_slice(rules);
        bits(policy, &host, facts).unwrap_err()
    };
    let (plain, none) = (read(POLICY), Facts::default());
    assert_eq!(
        refused(&plain, &none, &[rule_with_mark(0, u32::MAX)]),
        "the ipv6 rule `priority 100 from all fwmark 0x0 lookup 51` (owner: boot) takes packets whose whole mark is 0, which no packet of a set has; make it compare the bits that it means"
    );
    assert_eq!(
        refused(&plain, &nft(Marks::Unknown), &[]),
        "nftables chain inet t/c may have to do with marks, and which bits cannot be seen; name bits that it has no use for: [router] mark_bits = \"0xf0000000\", say"
    );
    assert!(refused(&plain, &nft(Marks::Whole(0)), &[]).contains("or name bits that it has no use for"));
    assert_eq!(
        refused(&plain, &nft(Marks::Bits(u32::MAX - 3)), &[]),
        "3 bits of the mark are needed, one for each set in `from` and in `to` of the rules, and 2 are free; use fewer sets: one [[mark]] can gather several under bits of your own"
    );
    // The file's bits are its own risk where it cannot be seen, and its fault where it can.
    let own = with("[router]\nmark_bits = 0x70\n");
    for unseen in [Marks::Unknown, Marks::Whole(0)] {
        assert_eq!(bits(&own, &host(), &nft(unseen)).unwrap(), [0x40, 0x20, 0x10]);
    }
    assert_eq!(
        refused(&own, &nft(Marks::Bits(0x30)), &[]),
        "mark_bits 0x70 shares 0x30 with nftables chain inet t/c; choose other bits, or let Wayfork choose: leave mark_bits out"
    );
    assert!(
        refused(&own, &none, &[rule_with_mark(0x11, u32::MAX)])
            .starts_with("mark_bits 0x70 shares 0x10 with the ipv6 rule")
    );
    let unseen = [
        Facts { doubts: vec!["nftables cannot be read".into()], ..Facts::default() },
        Facts { legacy_tables: vec!["iptables mangle".into()], ..Facts::default() },
        Facts {
            filters: [(ETH0, vec![Filter { kind: "fw".into(), matches_mark: true, ..Filter::default() }])].into(),
            ..Facts::default()
        },
        with_chain(Chain {
            expressions: vec![Expression {
                name: "target".into(),
                extension: Some("TPROXY".into()),
                ..Expression::default()
            }],
            ..chain(ChainFamily::Ip, HookPoint::Prerouting)
        }),
    ];
    for facts in unseen {
        assert!(refused(&plain, &facts, &[]).contains("which bits cannot be seen"), "{facts:?}");
        assert_eq!(bits(&own, &host(), &facts).unwrap(), [0x40, 0x20, 0x10], "{facts:?}");
    }
    let ingress = Filter { ingress: true, kind: "fw".into(), matches_mark: true, ..Filter::default() };
    let before = Facts { filters: [(ETH0, vec![ingress])].into(), ..Facts::default() };
    assert!(bits(&plain, &host(), &before).is_ok(), "it comes before any bit is set");
    // Without any set too.
    let bare = read("[router]\nmark_bits = 0x70\n");
    assert!(refused(&bare, &nft(Marks::Whole(0x40)), &[]).starts_with("mark_bits 0x70 shares 0x40"));
}

/// A bit that changed its meaning would send packets astray between one step of the mirror and the next.
#[test]
fn bits_stay_and_no_bit_is_taken_over() {
    let policy = read(POLICY);
    let first = with_set_bits(&policy, &host(), &Facts::default(), &BTreeMap::new()).unwrap().set_bits;
    let used = |side, set: &str| SetUse { side, set: set.into() };
    let (from_a, from_b, to_b) =
        (used(crate::model::Side::From, "a"), used(crate::model::Side::From, "b"), used(crate::model::Side::To, "b"));
    // `from @a` goes and `to @a` comes: it gets none of the three.
    let next = read(&POLICY.replace("from = \"@a\"\nto = \"@b\"", "to = \"@a\""));
    let then = with_set_bits(&next, &host(), &Facts::default(), &first).unwrap().set_bits;
    assert_eq!(then[&from_b], first[&from_b]);
    assert_eq!(then[&used(crate::model::Side::To, "a")], 1 << 28);
    // A bit that somebody else has come to use is given up.
    let moved = with_set_bits(&policy, &host(), &nft(Marks::Bits(first[&from_a])), &first).unwrap().set_bits;
    assert_eq!((moved[&from_a], moved[&to_b]), (1 << 28, first[&to_b]));
    // The classes of the fast path are in force too.
    let mut classes = host();
    classes.rules.push(class_rule(Family::Ipv4, 0x8000_0000, 0xe000_0000, 254));
    assert_eq!(bits(&policy, &classes, &Facts::default()).unwrap(), [1 << 28, 1 << 27, 1 << 26]);
}

/// The program looks addresses up in sets itself, and marks by other bits.
#[test]
fn sets_stand_against_nothing_and_keep_their_bits() {
    let bound = with_set_bits(&read(POLICY), &host(), &Facts::default(), &BTreeMap::new()).unwrap();
    let marks = bound.mark_rules();
    let judgement = judge(&host(), &Facts::default(), &Wanted { settings: &bound.router, marks: &marks });
    assert_eq!(judgement.interfaces[&ETH0].may, May::Redirect);
    let used = bits::used(&host(), &Facts::default(), &marks);
    assert_eq!(used.free & 0xe000_0000, 0, "{:#x}", used.free);
}
