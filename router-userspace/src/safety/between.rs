//! Everything besides routing that a packet meets on its way, from an interface or from this host: for people who ask about one packet.

use super::expressions::reachable;
use super::facts::{Base, ChainFamily, Facts, Hook, HookPoint};
use super::netfilter::{hook_meets, is_tracking, meets};
use crate::model::Link;

/// Something that a packet meets besides routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// What it is: `nftables chain inet mangle/pre (hook prerouting)`.
    pub what: String,
    /// What it may do to the packet, in a few words.
    pub effect: String,
    /// It may change what routing looks at before routing does: neither the TC program nor `ip route get` sees that.
    pub rewrites: bool,
}

/// What a packet meets that comes in by `link`, or without one a packet made on this host, in the order of its way as far as that
/// is known: traffic control on the way in, netfilter before routing, then what follows. Doubts come first.
pub fn between(facts: &Facts, link: Option<&Link>) -> Vec<Between> {
    let unknown = |doubt: &String| Between {
        what: doubt.clone(),
        effect: "what it does cannot be told".to_owned(),
        rewrites: true,
    };
    let mut all: Vec<Between> = facts.doubts.iter().map(unknown).collect();
    all.extend(link.into_iter().flat_map(|link| traffic_control(facts, link)));
    let (before, after): (Vec<_>, Vec<_>) = netfilter(facts, link).into_iter().partition(|(before, _)| *before);
    all.extend(before.into_iter().chain(after).map(|(_, one)| one));
    if facts.xfrm_policies > 0 || facts.xfrm_refuses {
        let what = match facts.xfrm_policies {
            0 => "the default xfrm policy".to_owned(),
            1 => "an xfrm policy (IPsec)".to_owned(),
            many => format!("{many} xfrm policies (IPsec)"),
        };
        all.push(Between { what, effect: "may refuse the packet, or wrap it".to_owned(), rewrites: false });
    }
    all
}

fn traffic_control(facts: &Facts, link: &Link) -> Vec<Between> {
    let programs = facts.tcx.get(&link.index).into_iter().flatten().map(|name| format!("TC program {name}"));
    let filters = facts.filters.get(&link.index).into_iter().flatten().filter(|filter| filter.ingress);
    let filters = filters.map(|filter| match filter.name.as_str() {
        "" => format!("TC filter ({})", filter.kind),
        name => format!("TC filter {name} ({})", filter.kind),
    });
    let effect = "may drop, change or redirect the packet at TC ingress";
    programs.chain(filters).map(|what| Between { what, effect: effect.to_owned(), rewrites: true }).collect()
}

/// What hangs in netfilter, each with whether it comes before routing, or has the packet routed again.
fn netfilter(facts: &Facts, link: Option<&Link>) -> Vec<(bool, Between)> {
    let mut all = Vec::new();
    let of_ip = |family| !matches!(family, ChainFamily::Bridge | ChainFamily::Arp);
    let on_the_way = |family, base: &Base| match link {
        Some(link) => meets(family, base, &link.name),
        None => from_here(base.hook),
    };
    for chain in facts.chains.iter().filter(|chain| of_ip(chain.family)) {
        let Some(base) = chain.base.as_ref().filter(|base| on_the_way(chain.family, base)) else { continue };
        let what = format!("{} (hook {})", chain.title(), base.hook.name());
        let mut expressions = reachable(&facts.chains, chain).into_iter().flat_map(|chain| &chain.expressions);
        let changing = expressions.find(|expression| expression.may_change_routing());
        let nat = base.kind == "nat";
        let before = match link {
            Some(_) => base.hook.before_routing(),
            // `nf_route_table_hook`, `nf_nat_ipv4_local_fn`: after a change the packet is routed anew. No other kind does that.
            None => base.hook == HookPoint::Output && (nat || base.kind == "route"),
        };
        let effect = match changing {
            _ if nat => "translates addresses or ports of new connections".to_owned(),
            Some(expression) if before && link.is_none() => {
                format!("may rewrite the packet and have it routed again ({})", expression.title())
            }
            Some(expression) if before => format!("may rewrite the packet before routing ({})", expression.title()),
            Some(expression) => format!("may rewrite the packet after routing ({})", expression.title()),
            None => "may drop the packet".to_owned(),
        };
        let rewrites = before && (changing.is_some() || nat);
        all.push((before, Between { what, effect, rewrites }));
    }
    let opaque = |what: String, effect: &str| (true, Between { what, effect: effect.to_owned(), rewrites: true });
    if link.is_some() {
        all.extend(facts.flowtables.iter().map(|table| opaque(table.title(), "routes established flows by itself")));
    }
    all.extend(facts.legacy_tables.iter().map(|table| opaque(format!("table {table}"), "what it does cannot be seen")));
    let hooks = facts.hooks.iter().flatten().filter(|hook| hook.chain.is_none() && !is_tracking(hook));
    let met = |hook: &&Hook| match link {
        Some(link) => hook_meets(hook, &link.name),
        None => from_here(hook.hook),
    };
    for hook in hooks.filter(met) {
        let before = if link.is_some() { hook.hook.before_routing() } else { hook.hook == HookPoint::Output };
        let effect = "may drop or change the packet".to_owned();
        all.push((before, Between { what: hook.title(), effect, rewrites: before }));
    }
    if facts.hooks.is_none() {
        let others = facts.other_hooks.iter().map(|other| format!("the netfilter hooks of {other}"));
        all.extend(others.map(|what| opaque(what, "may drop or change the packet")));
    }
    all
}

/// Whether a packet made on this host meets a hook before it leaves.
fn from_here(hook: HookPoint) -> bool {
    matches!(hook, HookPoint::Output | HookPoint::Postrouting | HookPoint::Other(_))
}
