//! The compiled decision against the reference, on the host: what the program does with the maps, for random hosts of the whole
//! language and for long lists of one shape.
//!
//! The kernel has its say in [`super::differential`]; here are the policies for which asking it would take too long.
#![allow(clippy::unwrap_used)]

mod large;
mod policies;

use super::Packet;
use super::generate::Generator;
use super::reference::{Reference, Walker, laws};
use crate::compile::testing::{Maps, without_filters};
use crate::compile::{CounterSlots, Generation, Input, compile};
use crate::model::{Family, Host, display_rules, rule_ids};
use router_common::classify::Outcome;
use router_common::layout::MAY_REDIRECT;
use router_common::packet::{Frame, Packet as Parsed};
use router_common::parse::parse;
use router_common::verdict::{PassReason, Verdict};
use std::collections::BTreeMap;

/// The bytes of a packet as they come in.
struct Bytes<'a> {
    ip: &'a [u8],
    protocol: u16,
    iif: u32,
    mark: u32,
}

impl Frame for Bytes<'_> {
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let bytes = self.ip.get(offset..offset + 4 * N)?;
        let mut words = [0; N];
        words
            .iter_mut()
            .zip(bytes.chunks(4))
            .for_each(|(word, bytes)| *word = u32::from_ne_bytes(bytes.try_into().unwrap()));
        Some(words)
    }
    fn received_len(&self) -> u32 {
        self.ip.len() as u32
    }
    fn protocol(&self) -> u16 {
        self.protocol
    }
    fn vlan_present(&self) -> bool {
        false
    }
    fn for_this_host(&self) -> bool {
        true
    }
    fn gso_size(&self) -> u32 {
        0
    }
    fn iif(&self) -> u32 {
        self.iif
    }
    fn mark(&self) -> u32 {
        self.mark
    }
}

/// A packet as the program reads it; None where it is the stack's before any rule.
fn parsed(packet: &Packet, host: &Host) -> Option<Parsed> {
    let iif = packet.iif?;
    let frame = packet.frame(&host.links[&iif]);
    let protocol = u16::from_be_bytes([frame[12], frame[13]]);
    let mut parsed = Parsed::EMPTY;
    parse(&Bytes { ip: &frame[14..], protocol, iif, mark: packet.mark }, &mut parsed).ok()?;
    Some(parsed)
}

/// A host, compiled, and its reference.
struct Subject<'a> {
    host: &'a Host,
    generation: Generation,
    walker: Walker<'a>,
    /// The id of each rule of the host.
    ids: Vec<String>,
}

/// What came of the packets.
#[derive(Debug, Default)]
struct Tally {
    /// Decided, or left to the stack for a reason that a snapshot confirms.
    decided: u32,
    passed: BTreeMap<&'static str, u32>,
}

impl<'a> Subject<'a> {
    fn new(host: &'a Host, input: &Input) -> Self {
        let generation = compile(host, input, &mut CounterSlots::default()).unwrap();
        let mut ids = vec![String::new(); host.rules.len()];
        for family in Family::BOTH {
            let own: Vec<usize> = (0..host.rules.len()).filter(|index| host.rules[*index].family == family).collect();
            let rules: Vec<_> = own.iter().map(|index| host.rules[*index].clone()).collect();
            own.into_iter().zip(rule_ids(&rules)).for_each(|(index, id)| ids[index] = id);
        }
        Subject { host, generation, walker: Walker::new(host), ids }
    }

    /// Holds the compiled decision about a packet against the reference's.
    fn check(&self, packet: &Packet, tally: &mut Tally) {
        let Some(parsed) = parsed(packet, self.host) else {
            *tally.passed.entry("before any rule").or_default() += 1;
            return;
        };
        let maps = Maps::new(&self.generation);
        let outcome = maps.decide(&parsed).expect("an interface that is known");
        let reference = self.walker.decide(packet);
        if let Err(what) = self.agrees(&maps, &outcome, &reference, tally) {
            let rules = if self.host.rules.len() < 100 { display_rules(&self.host.rules) } else { String::new() };
            panic!("{what}: {packet:?}\n{outcome:?}\n{:?}\nsource: {:?}\n{rules}", reference.ways, reference.source);
        }
    }

    fn agrees(
        &self,
        maps: &Maps<'_>,
        outcome: &Outcome,
        reference: &Reference,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let decision = outcome.decision(maps);
        // What has no verdict claims nothing but its reason.
        let verdict = Verdict::from_u8(decision.verdict).unwrap();
        if verdict == Verdict::Undecided {
            let reason = PassReason::from_u8(decision.reason).unwrap();
            let one_of = |verdicts: &[Verdict]| {
                let all = [verdicts, &[Verdict::Undecided]].concat();
                reference.ways.iter().any(|way| all.contains(&way.verdict))
            };
            // Whether it is delivered hangs on its source.
            let local = one_of(&[Verdict::Local, Verdict::Martian]);
            return match reason {
                PassReason::LocalDestination if !local => Err("not for this host".to_owned()),
                PassReason::LocalDestination => {
                    tally.decided += 1;
                    Ok(())
                }
                PassReason::Source if one_of(&[Verdict::Martian]) => {
                    tally.decided += 1;
                    Ok(())
                }
                // What the way back does not follow, and anything else: a doubt is a pass.
                _ => {
                    *tally.passed.entry(reason.name()).or_default() += 1;
                    Ok(())
                }
            };
        }
        tally.decided += 1;
        let via = crate::compile::words::to_addr(decision.via_family, decision.via);
        let rule = self.generation.counters.get(decision.rule as usize).cloned().flatten();
        let same = |way: &super::reference::Way| match way.verdict {
            Verdict::Undecided => true,
            Verdict::Forward => {
                (verdict, decision.oif, via, decision.table) == (Verdict::Forward, way.oif, way.via, way.table)
                    && rule == way.rule.map(|index| self.ids[index].clone())
            }
            other => other == verdict && rule == way.rule.map(|index| self.ids[index].clone()),
        };
        if reference.ways.iter().any(same) { Ok(()) } else { Err("decided otherwise".to_owned()) }
    }
}

#[test]
fn random_hosts_are_decided_as_the_reference_says() {
    let mut tally = Tally::default();
    let mut filters = 0;
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut host = laws::random_with(&mut rng, if seed % 2 == 0 { 2..14 } else { 14..90 });
        for link in host.links.values_mut() {
            // Where it is on the guard forbids redirecting, and nothing here looks at it.
            link.v4.rp_filter = 0;
            link.v4.src_valid_mark = rng.u8(..4) == 0;
            link.mtu = 1500;
        }
        let input = Input { may: (2..8).map(|index| (index, MAY_REDIRECT)).collect(), ..Input::default() };
        let subject = Subject::new(&host, &input);
        filters += subject.generation.lists.iter().filter(|list| list.filters > 0).count();
        let linear = without_filters(&subject.generation);
        let mut generator = Generator::new(&host, &[], (2..8).collect(), seed);
        for _ in 0..100 {
            let packet = generator.next_packet().unwrap();
            subject.check(&packet, &mut tally);
            if let Some(parsed) = parsed(&packet, &host) {
                let (found, tried) =
                    (Maps::new(&subject.generation).decide(&parsed), Maps::new(&linear).decide(&parsed));
                assert_eq!(found, tried, "seed {seed}: {packet:?}");
            }
        }
    }
    eprintln!("{tally:?}, {filters} lists with filters");
    assert!(tally.decided > 10_000 && filters > 100, "hardly anything was compared: {tally:?}, {filters}");
}
