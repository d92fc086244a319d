//! One rule, a thousand, a hundred thousand: for each shape of list, packets at its boundaries.

use super::policies::{INGRESS, SHAPES, host};
use super::{Subject, Tally, parsed};
use crate::compile::Input;
use crate::compile::testing::{Maps, without_filters};
use crate::model::{Family, Host};
use crate::proof::generate::Generator;
use router_common::layout::MAY_REDIRECT;
use std::time::Instant;

/// Decides so many packets of the family at the host's boundaries, and tells of it.
fn decide(host: &Host, what: &str, family: Family, packets: usize, tally: &mut Tally) {
    let started = Instant::now();
    let ingress: Vec<u32> = INGRESS.iter().map(|(index, _)| *index).collect();
    let input = Input { may: ingress.iter().map(|index| (*index, MAY_REDIRECT)).collect(), ..Input::default() };
    let subject = Subject::new(host, &input);
    let compiled = started.elapsed();
    let linear = without_filters(&subject.generation);
    let mut generator = Generator::new(host, &[], ingress, 1);
    let all = std::iter::from_fn(|| generator.next_packet()).filter(|packet| packet.family() == family);
    for packet in all.take(packets) {
        subject.check(&packet, tally);
        if let Some(parsed) = parsed(&packet, host) {
            let (found, tried) = (Maps::new(&subject.generation).decide(&parsed), Maps::new(&linear).decide(&parsed));
            assert_eq!(found, tried, "{what}: {packet:?}");
        }
    }
    let list = subject.generation.lists.iter().max_by_key(|list| list.count).expect("a list");
    eprintln!(
        "{what}: {} rules in the list, {} filters; compiled in {compiled:?}, {packets} packets in {:?}",
        list.count,
        list.filters,
        started.elapsed() - compiled
    );
}

fn all_shapes(count: u32, packets: usize) {
    let mut tally = Tally::default();
    for shape in SHAPES {
        for family in Family::BOTH {
            let host = host(shape, family, count, u64::from(count));
            decide(&host, &format!("{shape:?} {family:?}"), family, packets, &mut tally);
        }
    }
    eprintln!("{tally:?}");
    assert!(tally.decided as usize > packets * SHAPES.len(), "hardly anything was decided: {tally:?}");
}

#[test]
fn one_rule() {
    all_shapes(1, 1000);
}

#[test]
fn a_thousand_rules() {
    all_shapes(1000, 1000);
}

#[test]
fn a_hundred_thousand_rules() {
    let mut tally = Tally::default();
    for (shape, family) in SHAPES.into_iter().zip(Family::BOTH.into_iter().cycle()) {
        let host = host(shape, family, 100_000, 1);
        decide(&host, &format!("{shape:?} {family:?}"), family, 300, &mut tally);
    }
    eprintln!("{tally:?}");
    assert!(tally.decided > 2000, "hardly anything was decided: {tally:?}");
}
