//! Netfilter: what a redirect would skip, what may come between a mark and the routing decision, who else looks at marks.

use super::expressions::reachable;
use super::facts::{Base, Chain, ChainFamily, Facts, Hook, HookPoint};

/// Hook functions of connection tracking (net/netfilter/nf_conntrack_proto.c, nf_defrag_ipv4.c, nf_defrag_ipv6_hooks.c). They
/// put fragments together and remember connections; a packet's mark and addresses stay as they are.
const TRACKING_HOOKS: [&str; 4] = ["ipv4_conntrack_in", "ipv6_conntrack_in", "ipv4_conntrack_defrag", "ipv6_defrag"];

/// Hook functions that let every forwarded packet through as it is: AppArmor's (security/apparmor/lsm.c) judge packets of
/// local sockets only.
const IDLE_HOOKS: [&str; 3] = ["apparmor_ip_postroute", "apparmor_ipv4_postroute", "apparmor_ipv6_postroute"];

/// The first thing of netfilter that would not see a packet redirected from `device`.
pub fn skipped_by_redirect(facts: &Facts, device: &str) -> Option<String> {
    let chain = facts.chains.iter().find_map(|chain| {
        let base = chain.base.as_ref()?;
        meets(chain.family, base, device)
            .then(|| format!("{} (hook {}) would not see a redirected packet", chain.title(), base.hook.name()))
    });
    let flowtable =
        || facts.flowtables.first().map(|table| format!("{} would not see a redirected packet", table.title()));
    let legacy = || facts.legacy_tables.first().map(|table| format!("table {table} would not see a redirected packet"));
    let hook = || {
        let hook = facts.hooks.iter().flatten().find(|hook| hook_meets(hook, device))?;
        Some(format!("{} would not see a redirected packet", hook.title()))
    };
    let other = || {
        let other = facts.other_hooks.first().filter(|_| facts.hooks.is_none())?;
        Some(format!("the netfilter hooks of {other} would not see a redirected packet"))
    };
    let tracking = || {
        let of_ip = |chain: &&Chain| matches!(chain.family, ChainFamily::Ip | ChainFamily::Ip6 | ChainFamily::Inet);
        let chain =
            facts.chains.iter().filter(of_ip).find(|chain| chain.expressions.iter().any(|e| e.tracks_connections()))?;
        Some(format!("connection tracking, which {} uses, would not see a redirected packet", chain.title()))
    };
    chain.or_else(flowtable).or_else(legacy).or_else(hook).or_else(other).or_else(tracking)
}

/// Whether a forwarded packet that came in by `device` can meet a base chain.
pub(super) fn meets(family: ChainFamily, base: &Base, device: &str) -> bool {
    match family {
        // Bridges and ARP act on frames of their ports, before TC ingress of the bridge or after its egress.
        ChainFamily::Bridge | ChainFamily::Arp => false,
        _ => match base.hook {
            HookPoint::Ingress => has_device(&base.devices, device),
            // Which device a packet leaves by is not known beforehand.
            hook => hook.concerns_forwarding(),
        },
    }
}

/// Whether a list of devices holds this one. An empty list says nothing, and so may mean it.
fn has_device(devices: &[String], device: &str) -> bool {
    devices.is_empty()
        || devices.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => device.starts_with(start),
            None => name == device,
        })
}

pub(super) fn hook_meets(hook: &Hook, device: &str) -> bool {
    match hook.hook {
        _ if IDLE_HOOKS.contains(&hook.function.as_str()) => false,
        HookPoint::Ingress => hook.device.as_deref().is_none_or(|name| name == device),
        point => point.concerns_forwarding(),
    }
}

/// Whether a hook only tracks connections.
pub(super) fn is_tracking(hook: &Hook) -> bool {
    TRACKING_HOOKS.contains(&hook.function.as_str())
}

/// The first thing of netfilter that may change what routing looks at after TC ingress of `device`.
pub fn changes_before_routing(facts: &Facts, device: &str) -> Option<String> {
    let of_ip = |chain: &&Chain| !matches!(chain.family, ChainFamily::Bridge | ChainFamily::Arp);
    let bases = || facts.chains.iter().filter(of_ip).filter_map(|chain| Some((chain, chain.base.as_ref()?)));
    // NAT set up in any hook is undone in prerouting for the packets of the other direction.
    let nat = || {
        let (chain, _) = bases().find(|(_, base)| base.kind == "nat")?;
        Some(format!("{} translates addresses", chain.title()))
    };
    let rule = || {
        let before = bases().filter(|(chain, base)| base.hook.before_routing() && meets(chain.family, base, device));
        before.flat_map(|(base, _)| reachable(&facts.chains, base)).find_map(|chain| {
            let expression = chain.expressions.iter().find(|expression| expression.may_change_routing())?;
            Some(format!("{} may change the packet before routing ({})", chain.title(), expression.title()))
        })
    };
    let flowtable = || facts.flowtables.first().map(|table| format!("{} routes by itself", table.title()));
    let legacy = || facts.legacy_tables.first().map(|table| format!("what table {table} does cannot be seen"));
    let hook = || {
        let foreign = |hook: &&Hook| hook.chain.is_none() && !is_tracking(hook);
        let before = |hook: &&Hook| hook.hook.before_routing() && hook_meets(hook, device);
        let hook = facts.hooks.iter().flatten().filter(foreign).find(before)?;
        Some(format!("{} may change the packet before routing", hook.title()))
    };
    let other = || {
        let other = facts.other_hooks.first().filter(|_| facts.hooks.is_none())?;
        Some(format!("the netfilter hooks of {other} may change the packet before routing"))
    };
    nat().or_else(rule).or_else(flowtable).or_else(legacy).or_else(hook).or_else(other)
}

/// The first chain whose rules read or write marks, or may. Bridges count: what leaves by one passes its chains.
pub fn touches_marks(facts: &Facts) -> Option<String> {
    facts.chains.iter().find_map(|chain| {
        let expression = chain.expressions.iter().find(|expression| expression.may_touch_mark())?;
        Some(format!("{} has to do with marks ({})", chain.title(), expression.title()))
    })
}

impl Hook {
    /// What messages call it.
    pub(super) fn title(&self) -> String {
        let what = match &self.chain {
            Some((family, table, chain)) => format!("nftables chain {} {table}/{chain}", family.name()),
            None if self.flowtable => "a flowtable of nftables".to_owned(),
            None if self.function.is_empty() => "a netfilter hook".to_owned(),
            None => format!("the netfilter hook {}", self.function),
        };
        let device = self.device.as_ref().map(|device| format!(" of {device}")).unwrap_or_default();
        format!("{what} ({} {}{device})", self.family.name(), self.hook.name())
    }
}
