//! The benchmark's plan of rules and flows.

use router_common::bench::*;
use router_common::packet::{IPV4, IPV6};
use std::collections::{BTreeMap, BTreeSet};

/// Prefixes as (first, last) address, IPv6's upper 64 bits.
fn range(plan: &Plan, ([first, second], length): ([u32; 2], u32)) -> (u64, u64) {
    let (start, bits) =
        if plan.family == IPV4 { (u64::from(first), 32) } else { (u64::from(first) << 32 | u64::from(second), 64) };
    assert!(length <= bits, "{length}");
    let size = 1u64 << (bits - length);
    assert_eq!(start % size, 0, "{start:x}/{length} has host bits");
    (start, start + (size - 1))
}

#[test]
fn prefixes_never_overlap_and_lie_in_their_block() {
    for family in [IPV4, IPV6] {
        for rules in [1, 2, 31, 33, 1000, 4097, MAX_PREFIXES] {
            let plan = Plan::new(family, rules, 2).expect("a plan");
            let mut ranges: Vec<_> = (0..rules).map(|rule| range(&plan, plan.prefix(rule))).collect();
            for (rule, (first, last)) in (0..).zip(&ranges) {
                let (start, end) = range(&plan, plan.block(rule));
                assert!(start <= *first && *last <= end, "rule {rule} of {rules}");
            }
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{rules} rules of family {family}");
        }
    }
}

#[test]
fn blocks_are_scattered_and_lengths_mixed() {
    let plan = Plan::new(IPV4, 100_000, 2).expect("a plan");
    let starts: Vec<u64> = (0..100_000).step_by(32).map(|rule| range(&plan, plan.block(rule)).0).collect();
    let neighbours = starts.windows(2).filter(|pair| pair[1].abs_diff(pair[0]) == 1 << (28 - 12)).count();
    assert!(neighbours < starts.len() / 10, "{neighbours} of {} blocks follow each other", starts.len());
    let lengths: BTreeSet<u32> = (0..100).map(|rule| plan.prefix(rule).1).collect();
    assert_eq!(lengths.len(), 8);
}

#[test]
fn a_flow_is_from_its_rule_and_none_comes_again() {
    for family in [IPV4, IPV6] {
        for rules in [1, 7, 1000, MAX_PREFIXES] {
            let plan = Plan::new(family, rules, 2).expect("a plan");
            let mut seen = BTreeSet::new();
            for flow in 0..20_000 {
                let (from, to) = plan.addresses(flow);
                let rule = plan.rule_of(flow);
                let (first, last) = range(&plan, plan.prefix(rule));
                let from_64 =
                    if family == IPV4 { u64::from(from[0]) } else { u64::from(from[0]) << 32 | u64::from(from[1]) };
                assert!((first..=last).contains(&from_64), "flow {flow} of {rules} rules");
                assert!(seen.insert(to), "destination of flow {flow} was there before");
            }
        }
    }
}

#[test]
fn flow_0_is_the_last_rules_and_the_flows_are_everybodys() {
    let plan = Plan::new(IPV4, 100, 2).expect("a plan");
    assert_eq!(plan.rule_of(0), 99);
    let mut flows: BTreeMap<u32, u32> = BTreeMap::new();
    (0..10_000).for_each(|flow| *flows.entry(plan.rule_of(flow)).or_default() += 1);
    assert_eq!(flows.len(), 100);
    assert!(flows.values().all(|count| (50..200).contains(count)), "{flows:?}");
}

#[test]
fn rules_take_turns_at_the_exits() {
    let plan = Plan::new(IPV4, 100_000, 2).expect("a plan");
    assert_eq!((plan.exit(0), plan.exit(1), plan.exit(10), plan.exit(99_999)), (0, 1, 0, 1));
    let one = Plan::new(IPV4, 1000, 1).expect("a plan");
    assert!((0..1000).all(|rule| one.exit(rule) == 0));
    assert!(Plan::new(IPV4, 0, 2).is_none() && Plan::new(IPV4, MAX_PREFIXES + 1, 2).is_none());
    assert!(Plan::new(5, 1, 2).is_none() && Plan::new(IPV4, 1, 0).is_none());
}

#[test]
fn ports_are_none_that_rules_cannot_name() {
    for flow in 0..100_000 {
        let ports = Plan::ports(flow);
        for port in [ports >> 16, ports & 0xffff] {
            assert!((1..0xffff).contains(&port));
        }
    }
}

#[test]
fn headers_are_right() {
    let words = header4(0x1000_0001, 0x3000_0002, 50);
    let sum: u32 = words.iter().map(|word| (word >> 16) + (word & 0xffff)).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum");
    assert_eq!((words[0] >> 24, words[0] & 0xffff, words[2] >> 24, words[2] >> 16 & 0xff), (0x45, 50, 64, 17));
    let words = header6([1, 2, 3, 4], [5, 6, 7, 8], 64);
    assert_eq!((words[0] >> 28, words[1] >> 16, words[1] >> 8 & 0xff, words[1] & 0xff), (6, 24, 17, 64));
    assert_eq!(words[2..], [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn sizes_are_the_abi() {
    assert_eq!((size_of::<Generator>(), size_of::<Plan>(), size_of::<Sink>()), (44, 16, 12));
    assert_eq!((size_of::<Limit>(), size_of::<Span>()), (16, 16));
}
