//! Any rule against any packet, beside a reading of the selectors one by one.

mod world;

use proptest::prelude::*;
use router_common::layout::*;
use router_common::packet::Packet;
use router_common::verdict::{Action, PassReason, Verdict};
use world::*;

/// What a rule says of a packet, one selector after the other.
fn matches(rule: &RuleEntry, packet: &Packet) -> bool {
    let on = |flag| rule.flags & flag != 0;
    let masked =
        |addr: &AddrWords, value: &AddrWords, mask: &AddrWords| (0..4).all(|i| addr[i] & mask[i] == value[i] & mask[i]);
    let all = (!on(RULE_MARK) || packet.mark & rule.mark_mask == rule.mark & rule.mark_mask)
        && (!on(RULE_FROM) || masked(&packet.src, &rule.from, &rule.from_mask))
        && (!on(RULE_TO) || masked(&packet.dst, &rule.to, &rule.to_mask))
        && (!on(RULE_IPPROTO) || packet.ipproto == rule.ipproto)
        && (!on(RULE_SPORT) || (rule.sport[0]..=rule.sport[1]).contains(&packet.sport))
        && (!on(RULE_DPORT) || (rule.dport[0]..=rule.dport[1]).contains(&packet.dport))
        && (!on(RULE_PORTS) || ports(packet.sport, packet.dport) & rule.ports_mask == rule.ports & rule.ports_mask)
        && (!on(RULE_FLOW) || packet.flow & rule.flow_mask == rule.flow & rule.flow_mask);
    all != on(RULE_NOT)
}

prop_compose! {
    /// A rule whose values lie close to those of [`some_packet`]; what does not count is 0, as the layout demands.
    fn some_rule()(
        flags in (0u32..512).prop_map(|bits| if bits & 256 == 0 { bits } else { bits & !RULE_UNSEEN | RULE_PORTS }),
        (mark, mark_mask) in (0u32..4, 0u32..4),
        from in 0u32..4, to in 0u32..4, (from_word, to_word) in (0usize..4, 0usize..4),
        (from_mask, to_mask) in (0u32..4, 0u32..4),
        sport in prop::array::uniform2(prop_oneof![0u16..4, 65533u16..]),
        dport in prop::array::uniform2(prop_oneof![0u16..4, 65533u16..]),
        ipproto in 0u8..3, (flow, flow_mask) in (0u32..4, 0u32..4),
        (masked, ports_mask) in (0u32..4, prop::sample::select(vec![0u32, 1, 2, 3 << 16, 1 << 17])),
    ) -> RuleEntry {
        let on = |flag: u32| u32::from(flags & flag != 0);
        let at = |index: usize, value: u32| { let mut words = [0; 4]; words[index] = value; words };
        RuleEntry {
            flags,
            action: ACT_PROHIBIT,
            suppress_prefixlength: -1,
            mark: mark * on(RULE_MARK), mark_mask: mark_mask * on(RULE_MARK),
            from: at(from_word, from * on(RULE_FROM)), from_mask: at(from_word, from_mask * on(RULE_FROM)),
            to: at(to_word, to * on(RULE_TO)), to_mask: at(to_word, to_mask * on(RULE_TO)),
            sport, dport, ipproto,
            ports: masked << 16 | masked, ports_mask: ports_mask * on(RULE_PORTS),
            flow, flow_mask: flow_mask * on(RULE_FLOW),
            ..zeroed()
        }
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
        let matched = outcome.decision.verdict == Verdict::Prohibit as u8;
        prop_assert_eq!(matched, matches(&rule, &packet));
    }

    #[test]
    fn any_list_ends(
        steps in prop::collection::vec((0u32..9, 0u32..12, any::<bool>()), 0..10),
        packet in some_packet(),
    ) {
        let rules: Vec<RuleEntry> = steps
            .iter()
            .map(|&(action, target, not)| RuleEntry { flags: if not { RULE_NOT } else { 0 }, ..rule(action, target) })
            .collect();
        let outcome = world().rules(&rules).decide(packet);
        prop_assert!(Action::from_u8(outcome.decision.action).is_some());
        prop_assert!(PassReason::from_u8(outcome.decision.reason).is_some());
        prop_assert!(Verdict::from_u8(outcome.decision.verdict).is_some());
        prop_assert_ne!(outcome.decision.reason, PassReason::RuleLimit as u8);
    }
}
