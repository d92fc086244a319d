//! Any rule against any packet, beside a reading of the selectors one by one.

mod world;

use proptest::prelude::*;
use router_common::layout::*;
use router_common::packet::Packet;
use router_common::verdict::{Action, PassReason, Verdict};
use world::*;

/// What a rule says of a packet, one selector after the other.
fn matches(rule: &Rule, packet: &Packet) -> bool {
    let selectors = &rule.selectors;
    let on = |flag| selectors.flags & flag != 0;
    let masked =
        |addr: &AddrWords, value: &AddrWords, mask: &AddrWords| (0..4).all(|i| addr[i] & mask[i] == value[i] & mask[i]);
    let all = packet.mark & selectors.mark_mask == selectors.mark & selectors.mark_mask
        && masked(&packet.src, &selectors.from, &selectors.from_mask)
        && masked(&packet.dst, &selectors.to, &selectors.to_mask)
        && (!on(SELECT_IPPROTO) || u32::from(packet.ipproto) == selectors.ipproto)
        && (!on(SELECT_SPORT) || (selectors.sport[0]..=selectors.sport[1]).contains(&packet.sport))
        && (!on(SELECT_DPORT) || (selectors.dport[0]..=selectors.dport[1]).contains(&packet.dport))
        && (!on(SELECT_PORTS)
            || ports(packet.sport, packet.dport) & selectors.ports_mask == selectors.ports & selectors.ports_mask)
        && packet.flow & selectors.flow_mask == selectors.flow & selectors.flow_mask;
    all != (rule.entry.flags & RULE_NOT != 0)
}

prop_compose! {
    /// A rule whose values lie close to those of [`some_packet`]; what does not count is 0, as the layout demands.
    fn some_rule()(
        counts in prop::array::uniform4(any::<bool>()), not in any::<bool>(),
        flags in (0u32..16).prop_map(|flags| if flags & 8 == 0 { flags } else { flags | SELECT_PORTS }),
        (mark, mark_mask) in (0u32..4, 0u32..4),
        from in 0u32..4, to in 0u32..4, (from_word, to_word) in (0usize..4, 0usize..4),
        (from_mask, to_mask) in (0u32..4, 0u32..4),
        sport in prop::array::uniform2(prop_oneof![0u16..4, 65533u16..]),
        dport in prop::array::uniform2(prop_oneof![0u16..4, 65533u16..]),
        ipproto in 0u32..3, (flow, flow_mask) in (0u32..4, 0u32..4),
        (masked, ports_mask) in (0u32..4, prop::sample::select(vec![0u32, 1, 2, 3 << 16, 1 << 17])),
    ) -> Rule {
        let [by_mark, by_from, by_to, by_flow] = counts.map(u32::from);
        let ports_mask = if flags & SELECT_PORTS != 0 { ports_mask } else { 0 };
        let at = |index: usize, value: u32| { let mut words = [0; 4]; words[index] = value; words };
        let selectors = Selectors {
            flags,
            mark: mark * by_mark, mark_mask: mark_mask * by_mark,
            from: at(from_word, from * by_from), from_mask: at(from_word, from_mask * by_from),
            to: at(to_word, to * by_to), to_mask: at(to_word, to_mask * by_to),
            sport, dport, ipproto,
            ports: masked << 16 | masked, ports_mask,
            flow: flow * by_flow, flow_mask: flow_mask * by_flow,
        };
        rule(ACT_PROHIBIT, 0).select(|all| *all = selectors).flags(if not { RULE_NOT } else { 0 })
    }
}

prop_compose! {
    fn some_packet()(
        mark in 0u32..4, src in prop::array::uniform4(0u32..4), dst in prop::array::uniform4(0u32..4),
        sport in prop_oneof![0u16..4, 65533u16..], dport in prop_oneof![0u16..4, 65533u16..],
        ipproto in 0u8..3, flow in 0u32..4,
    ) -> Packet {
        Packet { mark, src, dst, sport, dport, ipproto, flow, ..packet6() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_rule_matches_as_its_selectors_say(rule in some_rule(), packet in some_packet()) {
        let outcome = world().rules(&[rule]).decide(packet);
        let matched = outcome.verdict == Verdict::Prohibit as u8;
        prop_assert_eq!(matched, matches(&rule, &packet));
    }

    #[test]
    fn an_ipv4_packet_is_told_by_the_first_word_of_its_addresses(rule in some_rule(), packet in some_packet()) {
        let first = |words: AddrWords| [words[0], 0, 0, 0];
        let rule = rule.select(|all| {
            for words in [&mut all.from, &mut all.from_mask, &mut all.to, &mut all.to_mask] {
                *words = first(*words);
            }
        });
        // What the other words of its addresses are means nothing.
        let outcome = world().rules(&[rule]).decide(Packet { family: 4, ..packet });
        prop_assert_eq!(outcome.verdict == Verdict::Prohibit as u8, matches(&rule, &packet));
    }

    #[test]
    fn any_list_ends(
        steps in prop::collection::vec((0u16..9, 0u32..12, any::<bool>(), any::<bool>()), 0..10),
        packet in some_packet(),
    ) {
        let rules: Vec<Rule> = steps
            .iter()
            .map(|&(action, target, not, filtered)| {
                let rule = rule(action, target);
                if filtered { rule.mark(target & 3, 3).found_by(FILTER_MARK, 3) }
                else { rule.flags(if not { RULE_NOT } else { 0 }) }
            })
            .collect();
        let outcome = world().rules(&rules).decide(packet);
        prop_assert!(Action::from_u8(outcome.action).is_some());
        prop_assert!(PassReason::from_u8(outcome.reason).is_some());
        prop_assert!(Verdict::from_u8(outcome.verdict).is_some());
        prop_assert_ne!(outcome.reason, PassReason::RuleLimit as u8);
    }
}
