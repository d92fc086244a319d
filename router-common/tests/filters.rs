//! Rules that a filter finds decide as rules that are tried in their turn.

mod world;

use proptest::prelude::*;
use router_common::layout::*;
use router_common::packet::Packet;
use world::*;

/// A prefix of a few wide ones that hold one another.
fn prefixes() -> impl Strategy<Value = (u8, u8, u32)> {
    (0u8..4, 0u8..4, prop::sample::select(vec![0u32, 6, 8, 14, 16, 32]))
}

prop_compose! {
    /// A rule, its action and what of its selectors may find it.
    fn some_rule()(
        action in prop::sample::select(vec![ACT_TABLE, ACT_TABLE, ACT_TABLE, ACT_GOTO, ACT_GOTO, ACT_NOP, ACT_PROHIBIT]),
        id in 1u32..4, ahead in 1u32..6, suppress in prop::sample::select(vec![-1i16, -1, 0, 16]),
        from in prefixes(), to in prefixes(), mark in (0u32..4, prop::sample::select(vec![1u32, 3])),
        sport in (0u16..4, 0u16..4), dport in (0u16..4, 0u16..4),
        which in prop::sample::select(vec![0u32, 1, 1, 2, 2, 4, 8, 16, 3, 6, 31]),
        not in prop::sample::select(vec![false, false, false, true]),
        found_by in prop::option::of(1u32..=5),
    ) -> (Rule, u32) {
        let on = |bit: u32| which & 1 << bit != 0;
        let addr = |(a, b, _): (u8, u8, u32)| [a << 2, b, 0, 0];
        let mut rule = rule(action, if action == ACT_TABLE { id } else { 0 }).suppress(suppress);
        if on(0) && from.2 > 0 { rule = rule.from4(addr(from), from.2) }
        if on(1) && to.2 > 0 { rule = rule.to4(addr(to), to.2) }
        if on(2) { rule = rule.mark(mark.0 & mark.1, mark.1) }
        let range = |(one, other): (u16, u16)| [one.min(other), one.max(other)];
        if on(3) { rule = rule.select(|all| { all.flags |= SELECT_SPORT; all.sport = range(sport) }) }
        if on(4) { rule = rule.select(|all| { all.flags |= SELECT_DPORT; all.dport = range(dport) }) }
        let able = match found_by {
            Some(FILTER_FROM) => on(0) && from.2 > 0,
            Some(FILTER_TO) => on(1) && to.2 > 0,
            // One mask for the list: a fifth filter would be one too many.
            Some(FILTER_MARK) => on(2) && mark.1 == 3,
            Some(FILTER_SPORT) => on(3),
            Some(FILTER_DPORT) => on(4),
            _ => false,
        };
        if not && rule.entry.flags & RULE_SELECTS != 0 {
            rule = rule.flags(RULE_NOT);
        } else if able && let Some(by) = found_by {
            rule = rule.found_by(by, if by == FILTER_MARK { 3 } else { 0 });
        }
        (rule, ahead)
    }
}

prop_compose! {
    fn some_rules()(rules in prop::collection::vec(some_rule(), 1..24), without in 1u32..=5) -> Vec<Rule> {
        let count = rules.len() as u32;
        let place = |(position, (mut rule, ahead)): (u32, (Rule, u32))| {
            rule.entry.counter = position;
            if rule.entry.action == ACT_GOTO {
                rule.entry.target = (position + ahead).min(count);
            }
            // Four of the five filters.
            rule.filter = rule.filter.filter(|(by, _)| *by != without);
            rule
        };
        (0..).zip(rules).map(place).collect()
    }
}

prop_compose! {
    fn some_packet()(
        src in (0u8..14, 0u8..4, 0u8..2), dst in (0u8..14, 0u8..4, 0u8..2), mark in 0u32..4, sport in 0u16..4, dport in 0u16..4,
    ) -> Packet {
        let addr = |(a, b, last): (u8, u8, u8)| v4([a, b, 0, last]);
        Packet { src: addr(src), dst: addr(dst), mark, sport, dport, ..packet4() }
    }
}

/// Routes of short prefixes, so that rules fall through, refuse and are suppressed.
fn routes() -> World {
    let gateway = || via([10, 0, 0, 1]);
    world()
        .route4(1, [0, 0, 0, 0], 6, gateway())
        .route4(1, [4, 0, 0, 0], 16, gateway())
        .route4(2, [4, 0, 0, 0], 6, RouteEntry { kind: ROUTE_THROW, ..gateway() })
        .route4(2, [4, 1, 0, 0], 16, gateway())
        .route4(3, [8, 0, 0, 0], 5, gateway())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn filtered_rules_decide_as_linear_ones(rules in some_rules(), packets in prop::collection::vec(some_packet(), 16)) {
        let linear: Vec<Rule> = rules.iter().map(|rule| Rule { filter: None, ..*rule }).collect();
        let (filtered, linear) = (Laid::new(&routes().rules(&rules)), Laid::new(&routes().rules(&linear)));
        for packet in packets {
            prop_assert_eq!(filtered.decide(packet), linear.decide(packet));
        }
    }
}

/// Rules with their positions as counters, of which these are found by the source.
fn by_source(rules: &[(Rule, bool)]) -> World {
    let found = |(counter, (rule, filtered)): (u32, &(Rule, bool))| {
        let rule = rule.counter(counter);
        if *filtered { rule.found_by(FILTER_FROM, 0) } else { rule }
    };
    let rules: Vec<Rule> = (0..).zip(rules).map(found).collect();
    world().rules(&rules)
}

fn from(addr: [u8; 4], len: u32) -> Rule {
    table(111).from4(addr, len)
}

#[test]
fn the_first_of_filtered_and_linear_rules_decides() {
    let own = |len| from([192, 168, 8, 5], len);
    let decides = |rules: &[(Rule, bool)]| by_source(rules).decide(packet4()).rule;
    assert_eq!(decides(&[(own(32), true), (table(111), false)]), 0);
    assert_eq!(decides(&[(table(111), false), (own(32), true)]), 0);
    assert_eq!(decides(&[(from([9; 4], 32), true), (table(111), false), (own(32), true)]), 1);
    // Several candidates: the list's order counts, not the length of prefixes.
    assert_eq!(decides(&[(own(16), true), (own(32), true)]), 0);
    // A candidate that falls through, or that something else speaks against, leaves it to the next one.
    let empty = Rule { entry: table(5).entry, ..own(8) };
    assert_eq!(decides(&[(empty, true), (own(16), true)]), 1);
    assert_eq!(decides(&[(own(16).mark(1, 1), true), (own(32), true)]), 1);
    assert_eq!(decides(&[(own(16).mark(1, 1), true), (own(32).mark(1, 1), true), (table(111), false)]), 2);
    assert_eq!(decides(&[(own(16).mark(1, 1), true), (from([9; 4], 32), true)]), NO_RULE);
}

#[test]
fn a_jump_leads_over_filtered_rules_and_lands_on_them() {
    let own = |len| from([192, 168, 8, 5], len);
    let jump = |target| rule(ACT_GOTO, target);
    let decides = |rules: &[(Rule, bool)]| by_source(rules).decide(packet4()).rule;
    assert_eq!(decides(&[(jump(2), false), (own(32), true), (own(16), true)]), 2);
    assert_eq!(decides(&[(jump(3), false), (own(32), true), (own(16), true), (table(111), false)]), 3);
    assert_eq!(decides(&[(jump(3), false), (own(32), true), (own(16), true)]), NO_RULE);
    // The jump is a candidate itself.
    let filtered = Rule { entry: jump(3).entry, ..own(24) };
    assert_eq!(decides(&[(filtered, true), (own(32), true), (table(111), false), (own(8), true)]), 3);
    // A jump to a linear rule, behind which filtered ones follow.
    assert_eq!(decides(&[(jump(2), false), (own(32), true), (rule(ACT_NOP, 0), false), (own(8), true)]), 3);
}

#[test]
fn each_filter_looks_at_its_own_field() {
    let found = |rule: Rule, by, mask| {
        let world = world().rules(&[rule.counter(1).found_by(by, mask)]);
        // Where its filter has proven that it matches nothing else is looked at.
        move |packet: Packet| world.decide(packet).rule == 1
    };
    let source = found(table(111).from4([192, 168, 8, 0], 24), FILTER_FROM, 0);
    assert!(source(packet4()) && !source(Packet { src: packet4().dst, dst: packet4().src, ..packet4() }));
    let destination = found(table(111).to4([8, 8, 8, 0], 24), FILTER_TO, 0);
    assert!(destination(packet4()) && !destination(Packet { dst: v4([8, 8, 9, 8]), ..packet4() }));
    let mark = found(table(111).mark(0x20, 0xf0), FILTER_MARK, 0xf0);
    assert!(mark(Packet { mark: 0x8000_0127, ..packet4() }) && !mark(Packet { mark: 0x10, ..packet4() }));
    let range = |flag, change: fn(&mut Selectors)| {
        table(111).select(|all| {
            all.flags = flag;
            change(all);
        })
    };
    let sport = found(range(SELECT_SPORT, |all| all.sport = [1000, 1001]), FILTER_SPORT, 0);
    assert!(sport(packet4()) && !sport(Packet { sport: 53, dport: 1000, ..packet4() }));
    let dport = found(range(SELECT_DPORT, |all| all.dport = [50, 53]), FILTER_DPORT, 0);
    assert!(dport(packet4()) && !dport(Packet { sport: 53, dport: 1000, ..packet4() }));
}

#[test]
fn the_mark_that_a_filter_sees_is_the_one_after_the_statements() {
    let mut world = world().rules(&[table(111).counter(1).mark(5, 0xff).found_by(FILTER_MARK, 0xff)]);
    world.marks = vec![MarkEntry { family: 4, set_value: 5, set_mask: 0xff, ..zeroed() }];
    assert_eq!(world.decide(packet4()).rule, NO_RULE);
    world.config.marks = 1;
    assert_eq!(world.decide(packet4()).rule, 1);
}

#[test]
fn ipv6_addresses_are_found_by_all_of_their_words() {
    let long = |text: &str, len: u32| {
        let mask: AddrWords = bytemuck::cast((u128::MAX << (128 - len)).to_be_bytes());
        table(111).select(|all| (all.from, all.from_mask) = (v6(text), mask)).found_by(FILTER_FROM, 0)
    };
    let rules =
        [long("2001:db8:1::", 48).counter(1), long("2001:db8::5", 128).counter(2), long("2001:db8::", 32).counter(3)];
    let world = world().rules(&rules);
    let rule = |src| world.decide(Packet { src: v6(src), ..packet6() }).rule;
    assert_eq!(["2001:db8:1::5", "2001:db8::5", "2001:db8::6", "2001:db9::5"].map(rule), [1, 2, 3, NO_RULE]);
}

#[test]
fn a_mark_statement_looks_for_members() {
    let mut world = world();
    world.trees = vec![vec![(0xc0a8_0800, 0xc0a8_08ff, 0)], vec![(0x0808_0808, 0x0808_0808, 0)]];
    let tree = |root| router_common::interval::Tree { root, depth: 0 };
    let set = |sets, root, value| MarkEntry {
        family: 4,
        statement: value,
        set_value: value,
        set_mask: value,
        sets,
        from_set: tree(root),
        to_set: tree(root),
        ..zeroed()
    };
    let both = MarkEntry { to_set: tree(1), ..set(MARK_FROM_SET | MARK_TO_SET, 0, 16) };
    world.marks =
        vec![set(MARK_FROM_SET, 0, 1), set(MARK_TO_SET, 1, 2), set(MARK_FROM_SET, 1, 4), set(MARK_TO_SET, 0, 8), both];
    world.config.marks = 5;
    assert_eq!(world.decide(packet4()).mark, 1 | 2 | 16);
    let turned = Packet { src: packet4().dst, dst: packet4().src, ..packet4() };
    assert_eq!(world.decide(turned).mark, 12);
}
