#![allow(clippy::unwrap_used)]

mod between;
mod interfaces;
mod marks;
mod redirects;
mod sets;

use super::*;
use crate::model::{MarkSelectors, Selectors};

const ETH0: u32 = 2;
const ETH1: u32 = 3;

fn link(index: u32, name: &str) -> Link {
    let mut link = Link { index, name: name.into(), arphrd: 1, up: true, ..Link::default() };
    link.v4.forwarding = true;
    link
}

/// Two Ethernet interfaces that forward, and the rules that every namespace has.
fn host() -> Host {
    let mut host = Host::default();
    for link in [link(1, "lo"), link(ETH0, "eth0"), link(ETH1, "eth1")] {
        host.links.insert(link.index, link);
    }
    host.links.get_mut(&1).unwrap().arphrd = 772;
    for family in Family::BOTH {
        for (priority, table) in [(0, TABLE_LOCAL), (32766, TABLE_MAIN)] {
            host.rules.push(Rule { protocol: 2, ..Rule::lookup(family, priority, table) });
        }
    }
    host
}

fn eth0(host: &mut Host) -> &mut Link {
    host.links.get_mut(&ETH0).unwrap()
}

/// A rule of somebody else's with a mark.
fn rule_with_mark(value: u32, mask: u32) -> Rule {
    let selectors = Selectors { fwmark: Some((value, mask)), ..Selectors::default() };
    Rule { selectors, protocol: 3, ..Rule::lookup(Family::Ipv6, 100, 51) }
}

fn judge_with(host: &Host, facts: &Facts, settings: &RouterSettings) -> Judgement {
    judge(host, facts, &Wanted { settings, marks: &[] })
}

/// The judgement of `eth0` with the default settings.
fn judged(host: &Host, facts: &Facts) -> (May, String) {
    let interface = judge_with(host, facts, &RouterSettings::default()).interfaces[&ETH0].clone();
    (interface.may, interface.why)
}

fn chain(family: ChainFamily, hook: HookPoint) -> Chain {
    let base = Base { hook, priority: 0, kind: "filter".into(), devices: Vec::new() };
    Chain { family, table: "t".into(), name: "c".into(), base: Some(base), expressions: Vec::new() }
}

fn with_chain(chain: Chain) -> Facts {
    Facts { chains: vec![chain], ..Facts::default() }
}

fn expression(name: &str) -> Expression {
    Expression { name: name.into(), ..Expression::default() }
}

fn key(name: &str, key: u32, writes: bool) -> Expression {
    Expression { key: Some(key), writes, ..expression(name) }
}

fn hook(family: ChainFamily, point: HookPoint, function: &str) -> Hook {
    Hook { family, hook: point, device: None, function: function.into(), chain: None, flowtable: false }
}
