//! The guard: from what is known of this host, what the fast path may do with packets from each interface, and why.
//!
//! `redirect` only where nothing is skipped that the stack would have passed the packet through; else `mark` only where
//! nothing between traffic control and routing can change what routing looks at, and with bits that nobody else reads; else
//! `pass`. Doubt always means less. Pure: no kernel.

mod between;
mod bits;
mod expressions;
mod facts;
mod interfaces;
mod netfilter;
mod sets;
#[cfg(test)]
mod tests;

pub use between::{Between, between};
pub use bits::{CLASS_PRIORITY, as_class_rule, class_rule};
pub use facts::{Base, Chain, ChainFamily, Expression, Facts, Filter, Flowtable, Hook, HookPoint, MarkUse, Marks};
pub use sets::{NoBits, bound, with_set_bits};

use crate::compile::Input;
use crate::model::{
    Family, Host, Link, MarkRule, PRIORITY_DEFAULT, PRIORITY_MAIN, Route, RouteKind, Rule, TABLE_DEFAULT, TABLE_LOCAL,
    TABLE_MAIN,
};
use crate::policy::{Bypass, FastPathCap, RouterSettings};
use router_common::layout::{MAX_MARKS_IN_USE, MAY_MARK, MAY_PASS, MAY_REDIRECT};
use std::collections::BTreeMap;

/// The most that may be done with packets from an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum May {
    /// Leave them to the stack.
    Pass,
    /// Write the mark that makes the stack look up the right table at once.
    Mark,
    /// Send them out.
    Redirect,
}

/// What the file asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// `[router]`.
    pub settings: &'a RouterSettings,
    /// `[[mark]]`.
    pub marks: &'a [MarkRule],
}

/// The judgement of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The most that may be done.
    pub may: May,
    /// Why not more, in one sentence; with redirect, that nothing stands against it.
    pub why: String,
}

/// What the fast path may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// By interface index: the interfaces to attach to. One that the file names and that is not there is not in it.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The bits of the mark for Wayfork's classes. None where no interface marks.
    pub mark_bits: Option<u32>,
    /// The class of each table, a value within `mark_bits`, for which the mirror holds a [`class_rule`] in both families.
    pub mark_classes: BTreeMap<u32, u32>,
    /// Whole marks that rules look for.
    pub marks_in_use: Vec<u32>,
}

impl Judgement {
    /// What the compiler is to make of a host under this judgement, with these settings and `[[mark]]` alternatives.
    pub fn input(&self, settings: &RouterSettings, marks: Vec<MarkRule>) -> Input {
        Input {
            may: self.interfaces.iter().map(|(index, judged)| (*index, judged.may.number())).collect(),
            marks,
            mark_bits: self.mark_bits.unwrap_or(0),
            mark_classes: self.mark_classes.clone(),
            marks_in_use: self.marks_in_use.clone(),
            bypasses_netfilter: settings.bypass.contains(&Bypass::Netfilter),
            ..Input::default()
        }
    }
}

impl May {
    /// The contract's word.
    pub fn name(self) -> &'static str {
        match self {
            May::Pass => "pass",
            May::Mark => "mark",
            May::Redirect => "redirect",
        }
    }

    /// The number in the maps.
    pub fn number(self) -> u8 {
        match self {
            May::Pass => MAY_PASS,
            May::Mark => MAY_MARK,
            May::Redirect => MAY_REDIRECT,
        }
    }
}

/// Judges every interface that the program belongs on. `host` is the state that traffic would meet: with the file's rules.
pub fn judge(host: &Host, facts: &Facts, wanted: &Wanted<'_>) -> Judgement {
    let used = bits::used(host, facts, wanted.marks);
    let marking = choose_bits(host, facts, wanted, &used);
    let mut judgement = Judgement { marks_in_use: used.whole.into_iter().collect(), ..Judgement::default() };
    for link in interfaces::wanted(host, wanted.settings.interfaces.as_deref()) {
        let interface = judge_link(host, facts, wanted, link, marking.as_ref().err());
        judgement.interfaces.insert(link.index, interface);
    }
    if judgement.interfaces.values().any(|interface| interface.may == May::Mark)
        && let Ok(bits) = marking
    {
        judgement.mark_bits = Some(bits);
        judgement.mark_classes = bits::classes(host, bits, &bits::tables(host));
    }
    judgement
}

fn judge_link(host: &Host, facts: &Facts, wanted: &Wanted<'_>, link: &Link, no_bits: Option<&String>) -> Interface {
    let pass = |why: String| Interface { may: May::Pass, why };
    if let Some(doubt) = facts.doubts.first() {
        return pass(format!("what would act on a packet could not be found out: {doubt}"));
    }
    if let Some(why) = interfaces::unfit(link).or_else(|| interfaces::taken_by(host, link)) {
        return pass(why);
    }
    if let Some(why) = merged_tables(host) {
        return pass(why);
    }
    if let Some(rule) = host.rules.iter().find(|rule| facts.flow_dissector && looks_into(rule)) {
        return pass(format!(
            "a BPF flow dissector tells the rules what protocol and ports a packet has, and the {} rule of priority {} looks at them",
            rule.family, rule.priority
        ));
    }
    let no_redirect = match wanted.settings.fast_path {
        FastPathCap::Mark => Some("fast_path = \"mark\" in the file".to_owned()),
        FastPathCap::Auto | FastPathCap::Redirect => against_redirect(host, facts, wanted, link),
    };
    let Some(no_redirect) = no_redirect else {
        return Interface {
            may: May::Redirect,
            why: "a redirect skips nothing that would act on the packet".to_owned(),
        };
    };
    match against_mark(host, facts, link).or_else(|| no_bits.cloned()) {
        None => Interface { may: May::Mark, why: no_redirect },
        Some(no_mark) if no_mark == no_redirect => pass(no_redirect),
        Some(no_mark) => pass(format!("{no_redirect}; no mark either: {no_mark}")),
    }
}

/// Why nothing can be said of IPv4 while nobody has touched its rules: until the first one is added the kernel looks the tables
/// `local` and `main` up as one (`fib_trie_unmerge`, net/ipv4/fib_frontend.c), so that the longer prefix of the two wins, and a
/// rule of Wayfork's own would change that for good. It matters where `local` holds more than this host's own addresses.
fn merged_tables(host: &Host) -> Option<String> {
    let untouched = [(0, TABLE_LOCAL), (PRIORITY_MAIN, TABLE_MAIN), (PRIORITY_DEFAULT, TABLE_DEFAULT)];
    let mut rules = host.rules_of(Family::Ipv4);
    let plain = |rule: &Rule, (priority, table)| {
        *rule
            == Rule { protocol: rule.protocol, attached: rule.attached, ..Rule::lookup(Family::Ipv4, priority, table) }
    };
    if !untouched.into_iter().all(|place| rules.next().is_some_and(|rule| plain(rule, place))) || rules.next().is_some()
    {
        return None;
    }
    let own =
        |kind| matches!(kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast);
    let foreign = |route: &&Route| route.family == Family::Ipv4 && route.table == TABLE_LOCAL && !own(route.kind);
    let route = host.routes.iter().find(foreign)?;
    Some(format!(
        "table local has a route to {}, and as long as no IPv4 rule was ever added the kernel looks local and main up as one",
        route.dst
    ))
}

/// Whether a rule has packets taken apart (`fib_rule_requires_fldissect`, include/net/fib_rules.h).
fn looks_into(rule: &Rule) -> bool {
    let selectors = &rule.selectors;
    selectors.ipproto.is_some() || selectors.sport.is_some() || selectors.dport.is_some()
}

/// The first thing that a redirect from `link` would skip.
fn against_redirect(host: &Host, facts: &Facts, wanted: &Wanted<'_>, link: &Link) -> Option<String> {
    let unless = |bypass| !wanted.settings.bypass.contains(&bypass);
    let netfilter = || netfilter::skipped_by_redirect(facts, &link.name).filter(|_| unless(Bypass::Netfilter));
    let xfrm = || {
        let why = match (facts.xfrm_policies, facts.xfrm_refuses) {
            (0, false) => return None,
            (0, true) => "the default xfrm policy, which refuses, would not see a redirected packet".to_owned(),
            (1, _) => "an xfrm policy (IPsec) would not see a redirected packet".to_owned(),
            (many, _) => format!("{many} xfrm policies (IPsec) would not see a redirected packet"),
        };
        Some(why).filter(|_| unless(Bypass::Xfrm))
    };
    let rp_filter = || {
        let level = host.rp_filter(link);
        (level != 0 && unless(Bypass::RpFilter)).then(|| format!("rp_filter is {level}: only the stack checks sources"))
    };
    // `ip_dst_mtu_maybe_forward`: learned path MTUs are in no list of routes.
    let pmtu = || {
        let on = host.settings.forward_use_pmtu;
        on.then(|| "ip_forward_use_pmtu is on: only the stack knows the path MTUs it has learned".to_owned())
    };
    // `netif_receive_generic_xdp` leaves alone what traffic control has redirected.
    let generic_xdp = || {
        let device = facts.generic_xdp.first()?;
        Some(format!("a generic XDP program behind {device} would not see a redirected packet"))
    };
    foreign_ingress(facts, link)
        .map(|program| format!("{program} on its ingress would not see a redirected packet"))
        .or_else(netfilter)
        .or_else(xfrm)
        .or_else(rp_filter)
        .or_else(pmtu)
        .or_else(|| learned_gateways(host, link))
        .or_else(|| egress_reads_route(host, facts))
        .or_else(generic_xdp)
}

/// A gateway learned from an ICMP redirect counts for forwarded packets too (`find_exception` in `__mkroute_input`,
/// `rt6_find_cached_rt` in `ip6_pol_route`). Nobody is told of one, and IPv4 does not even list it before a packet has used it.
fn learned_gateways(host: &Host, link: &Link) -> Option<String> {
    Family::BOTH.into_iter().filter(|family| host.forwards(link, *family)).find_map(|family| {
        let learner = host
            .links
            .values()
            .find(|other| other.up && !interfaces::is_loopback(other) && host.accepts_redirects(other, family));
        let name = &learner?.name;
        Some(format!("{family} accept_redirects is on at {name}: only the stack knows the gateways it learns"))
    })
}

/// A redirected packet carries no route (`skb_dst`). Egress BPF programs find a realm in it at most, and routes with realms
/// are the stack's.
fn egress_reads_route(host: &Host, facts: &Facts) -> Option<String> {
    facts.filters.iter().find_map(|(index, filters)| {
        let filter = filters.iter().find(|filter| filter.may_read_route())?;
        let (kind, device) = (&filter.kind, host.link_name(*index));
        Some(format!("a TC filter ({kind}) on {device} looks at the route that a packet goes by, which a redirected one does not carry"))
    })
}

/// The first thing that makes a mark written at TC ingress of `link` uncertain.
fn against_mark(host: &Host, facts: &Facts, link: &Link) -> Option<String> {
    let program = foreign_ingress(facts, link).map(|program| format!("{program} on its ingress may change the packet"));
    let valid_mark = || {
        let on = link.v4.src_valid_mark || host.settings.all_v4.src_valid_mark;
        on.then(|| "src_valid_mark is on: the mark would decide about the source too".to_owned())
    };
    program.or_else(|| netfilter::changes_before_routing(facts, &link.name)).or_else(valid_mark)
}

/// Traffic control of others on the way in.
fn foreign_ingress(facts: &Facts, link: &Link) -> Option<String> {
    let tcx = facts.tcx.get(&link.index).and_then(|names| names.first()).map(|name| format!("the TC program {name}"));
    let filter = || {
        let filter = facts.filters.get(&link.index)?.iter().find(|filter| filter.ingress)?;
        Some(if filter.name.is_empty() {
            format!("a TC filter ({})", filter.kind)
        } else {
            format!("the TC filter {} ({})", filter.name, filter.kind)
        })
    };
    tcx.or_else(filter)
}

/// The bits to mark with, or why there are none on the whole host.
fn choose_bits(host: &Host, facts: &Facts, wanted: &Wanted<'_>, used: &bits::Use) -> Result<u32, String> {
    if let Some(why) = netfilter::touches_marks(facts) {
        return Err(why);
    }
    if facts.xfrm_policies > 0 {
        return Err("xfrm (IPsec) looks at marks, and takes them on to the outer packet".to_owned());
    }
    if facts.fwmark_reflect {
        return Err("fwmark_reflect is on: the stack's answers would carry the mark".to_owned());
    }
    for (index, filters) in &facts.filters {
        if let Some(filter) = filters.iter().find(|filter| filter.may_touch_mark()) {
            return Err(format!("TC on {} ({}) may look at marks", host.link_name(*index), filter.kind));
        }
    }
    if let Some((index, names)) = facts.tcx_egress.iter().chain(&facts.tcx).next() {
        let (device, name) = (host.link_name(*index), names.first().map_or("", String::as_str));
        return Err(format!("the TC program {name} on {device} may look at marks"));
    }
    if used.whole.len() > MAX_MARKS_IN_USE as usize {
        let most = MAX_MARKS_IN_USE;
        return Err(format!(
            "rules look for {} whole marks; the fast path keeps clear of {most} at most",
            used.whole.len()
        ));
    }
    let tables = bits::tables(host).len();
    let needed = bits::bits_needed(tables);
    let allowed = wanted.settings.mark_bits.unwrap_or(u32::MAX);
    bits::choose(host, used.free & allowed, needed).ok_or_else(|| {
        let free = used.free & allowed;
        let of_file = if allowed == u32::MAX { "" } else { " of mark_bits" };
        format!(
            "{needed} bits of the mark are needed for {tables} tables, and {}{of_file} are used by no rule or [[mark]]",
            match free.count_ones() {
                0 => "none".to_owned(),
                count => format!("only {count} ({free:#x})"),
            }
        )
    })
}

impl Filter {
    /// Whether it looks, or may look, at the route that a packet leaves by: `route4_classify`, `flow_get_rtclassid`,
    /// `meta_int_rtclassid` of `basic`.
    fn may_read_route(&self) -> bool {
        !self.ingress && matches!(self.kind.as_str(), "route" | "flow" | "basic")
    }

    /// Whether it looks at the packet's mark or writes it, or may.
    fn may_touch_mark(&self) -> bool {
        const WITHOUT_MARK: [&str; 9] =
            ["gact", "police", "mirred", "csum", "pedit", "vlan", "sample", "tunnel_key", "mpls"];
        self.matches_mark || self.actions.iter().any(|action| !WITHOUT_MARK.contains(&action.as_str()))
    }
}
