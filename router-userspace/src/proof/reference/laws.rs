//! Laws that any walk of rules obeys, whatever the kernel does: two ways to write one policy decide alike.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::model::{Attached, DeviceConf, Link, Selectors};
use crate::proof::generate::Generator;
use crate::proof::testing::{INTERFACES, route, rule};
use fastrand::Rng;
use ipnet::IpNet;
use std::ops::Range;

/// A random host of the whole language, as far as no kernel is needed for it.
fn random(rng: &mut Rng) -> Host {
    random_with(rng, 2..14)
}

/// The same, with so many rules of each family.
pub fn random_with(rng: &mut Rng, rules: Range<usize>) -> Host {
    let mut host = Host::default();
    for (index, name) in (1..).zip(["lo"].into_iter().chain(INTERFACES)) {
        let v4 = DeviceConf { forwarding: true, rp_filter: rng.u8(..3), ..DeviceConf::default() };
        let link = Link { index, name: name.to_owned(), v4, up: true, lower_up: true, ..Link::default() };
        host.links.insert(index, link);
    }
    host.settings.all_v6.forwarding = true;
    for family in Family::BOTH {
        host.rules.push(Rule::lookup(family, 0, TABLE_LOCAL));
        let mut added: Vec<Rule> = (0..rng.usize(rules.clone())).map(|_| rule(rng, family)).collect();
        added.push(Rule::lookup(family, 32766, TABLE_MAIN));
        added.sort_by_key(|rule| rule.priority);
        let there = |name: &String| host.links.values().any(|link| link.name == *name);
        for rule in &mut added {
            rule.attached.iif = rule.selectors.iif.as_ref().is_none_or(there);
        }
        host.rules.extend(added);
        for _ in 0..rng.usize(4..24) {
            let route = route(rng, &host, family);
            // Objects are the kernel's to resolve, and of several equal routes it would have taken one.
            let taken = host.routes.iter().any(|other| other.same_slot(&route));
            if route.nhid == 0 && !taken {
                host.routes.push(route);
            }
        }
    }
    host
}

/// What becomes of a packet, without the rules' places in the list.
fn ways(walker: &Walker<'_>, packet: &Packet) -> Vec<(Verdict, u32, Option<IpAddr>, u32)> {
    walker.decide(packet).ways.iter().map(|way| (way.verdict, way.oif, way.via, way.table)).collect()
}

/// Many random hosts, each written in two ways by `law` (None where it says nothing about it), decide alike.
fn same(law: impl Fn(&mut Rng, Host) -> Option<(Host, Host)>) {
    let mut compared = 0;
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let host = random(&mut rng);
        let mut generator = Generator::new(&host, &[], (2..8).collect(), seed);
        let Some((host, rewritten)) = law(&mut rng, host) else { continue };
        assert_ne!(host.rules, rewritten.rules, "seed {seed}: nothing was rewritten");
        let walkers = (Walker::new(&host), Walker::new(&rewritten));
        for _ in 0..40 {
            let packet = generator.next_packet().unwrap();
            let (one, two) = (ways(&walkers.0, &packet), ways(&walkers.1, &packet));
            assert_eq!(one, two, "seed {seed}: {packet:?}\n{}", crate::model::display_rules(&host.rules));
            compared += 1;
        }
    }
    assert!(compared > 2000, "only {compared} packets were compared");
}

/// The place of a rule for which `fits` holds.
fn any_rule(rng: &mut Rng, host: &Host, fits: impl Fn(usize, &Rule) -> bool) -> Option<usize> {
    let all: Vec<usize> =
        host.rules.iter().enumerate().filter(|(at, rule)| fits(*at, rule)).map(|(at, _)| at).collect();
    if all.is_empty() { None } else { Some(all[rng.usize(..all.len())]) }
}

#[test]
fn a_rule_that_cannot_match_changes_nothing() {
    same(|rng, host| {
        let place = any_rule(rng, &host, |_, _| true)?;
        let (family, priority) = (host.rules[place].family, host.rules[place].priority);
        let selectors = match rng.u8(..3) {
            0 => Selectors { iif: Some("gone".into()), ..Selectors::default() },
            1 => Selectors { oif: Some("lan".into()), ..Selectors::default() },
            _ => Selectors { not: true, ..Selectors::default() },
        };
        // Behind a rule of its priority no goto leads to it.
        let mut other = host.clone();
        let attached = Attached { iif: selectors.iif.is_none(), ..Attached::default() };
        let never = Rule { selectors, attached, action: RuleAction::Blackhole, ..Rule::lookup(family, priority, 0) };
        other.rules.insert(place + 1, never);
        Some((host, other))
    });
}

#[test]
fn two_halves_are_the_whole_prefix() {
    let splits = |net: Option<IpNet>| net.is_some_and(|net| (1..net.max_prefix_len()).contains(&net.prefix_len()));
    same(|rng, host| {
        let divisible =
            |_, rule: &Rule| !rule.selectors.not && (splits(rule.selectors.from) || splits(rule.selectors.to));
        let place = any_rule(rng, &host, divisible)?;
        let whole = host.rules[place].clone();
        let by_source = splits(whole.selectors.from);
        let net = if by_source { whole.selectors.from } else { whole.selectors.to }?;
        let halves = net.subnets(net.prefix_len() + 1).unwrap().map(|half| {
            let mut rule = whole.clone();
            *(if by_source { &mut rule.selectors.from } else { &mut rule.selectors.to }) = Some(half);
            rule
        });
        let mut other = host.clone();
        other.rules.splice(place..=place, halves);
        Some((host, other))
    });
}

#[test]
fn selectors_and_their_opposite_cover_everything() {
    same(|rng, mut host| {
        let place = any_rule(rng, &host, |_, rule| rule.selectors != Selectors::default())?;
        let one = host.rules[place].clone();
        let mut opposite = one.clone();
        opposite.selectors.not ^= true;
        host.rules[place].selectors = Selectors::default();
        let mut other = host.clone();
        other.rules.splice(place..=place, [one, opposite]);
        Some((host, other))
    });
}

#[test]
fn a_goto_to_the_next_rule_is_a_nop() {
    same(|rng, mut host| {
        let next_is_first = |at: usize, rule: &Rule| {
            host.rules.get(at + 1).is_some_and(|next| next.family == rule.family && next.priority > rule.priority)
        };
        let place = any_rule(rng, &host, next_is_first)?;
        let next = host.rules[place + 1].priority;
        host.rules[place].action = RuleAction::Nop;
        (host.rules[place].suppress_prefixlength, host.rules[place].suppress_ifgroup) = (None, None);
        let mut other = host.clone();
        other.rules[place].action = RuleAction::Goto(next);
        Some((host, other))
    });
}

#[test]
fn only_the_order_of_priorities_counts() {
    same(|_, host| {
        let mut other = host.clone();
        for rule in &mut other.rules {
            rule.priority = rule.priority * 2 + 1;
            if let RuleAction::Goto(target) = &mut rule.action {
                *target = *target * 2 + 1;
            }
        }
        // IPv4 takes its short cut where the list is the one that every namespace begins with.
        (!is_untouched(&host.rules_of(Family::Ipv4).collect::<Vec<_>>())).then_some((host, other))
    });
}

#[test]
fn a_rule_that_did_not_match_could_as_well_not_be_there() {
    let (mut dropped, mut rng) = (0, Rng::with_seed(1));
    for _ in 0..300 {
        let host = random(&mut rng);
        let walker = Walker::new(&host);
        let mut generator = Generator::new(&host, &[], (2..8).collect(), rng.u64(..));
        for _ in 0..20 {
            let packet = generator.next_packet().unwrap();
            let decided = walker.decide(&packet);
            // The way back meets the rules once more.
            let back = decided.source.iter().flat_map(|source| &source.trail);
            let idle = |at: usize| {
                let mut steps = decided.trail.iter().chain(back.clone()).filter(|step| step.rule == at);
                let rule = &host.rules[at];
                steps.all(|step| step.why_not.is_some())
                    && !host.rules_of(rule.family).any(|other| other.action == RuleAction::Goto(rule.priority))
            };
            let Some(at) = any_rule(&mut rng, &host, |at, _| idle(at)) else { continue };
            // Several ways were looked at, and the trail tells of the first.
            if decided.ways.len() > 1 {
                continue;
            }
            let mut fewer = host.clone();
            fewer.rules.remove(at);
            assert_eq!(
                ways(&Walker::new(&fewer), &packet),
                ways(&walker, &packet),
                "{packet:?} without {}",
                host.rules[at]
            );
            dropped += 1;
        }
    }
    assert!(dropped > 1500, "only {dropped} rules were left out");
}

#[test]
fn ipv6_routes_by_one_object_may_answer_for_each_other() {
    let mut host = random(&mut Rng::with_seed(1));
    (host.rules, host.routes) = (Vec::new(), Vec::new());
    let by_object = |table: u32, dst: &str| {
        let hop = NextHop { via: "fd03::2".parse().ok(), dev: 4, weight: 1, ..NextHop::default() };
        let plain = crate::proof::testing::plain(&mut Rng::with_seed(1), &host, Family::Ipv6);
        let dst = dst.parse().unwrap();
        crate::model::Route { table, dst, nhid: 7, nexthops: vec![hop], ..plain }
    };
    host.routes = vec![by_object(111, "::/0"), by_object(112, "2001:db8::/32")];
    host.rules.push(Rule { suppress_prefixlength: Some(0), ..Rule::lookup(Family::Ipv6, 10, 111) });
    let packet = Packet::new(Some(2), "fd01::9".parse().ok(), "2a00::1".parse().unwrap());
    let all: Vec<(Verdict, u32)> = decide(&host, &packet).ways.iter().map(|way| (way.verdict, way.table)).collect();
    assert_eq!(all, [(Verdict::Forward, 111), (Verdict::Forward, 112), (Verdict::NoRoute, 0)]);
    host.routes.iter_mut().for_each(|route| route.nhid = 0);
    assert_eq!(decide(&host, &packet).way().verdict, Verdict::NoRoute);
}
