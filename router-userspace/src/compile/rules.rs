//! Rule lists, one per ingress interface: what is known of the interface beforehand is decided here, once.

use super::below::has_tunnel_key;
use super::selectors::{PortWords, flow_words};
use super::slots::CounterSlots;
use super::{Input, words};
use crate::model::{Family, Host, Link, PRIORITY_MAIN, Rule, RuleAction, TABLE_LOCAL, TABLE_MAIN};
use router_common::layout::{
    ACT_BLACKHOLE, ACT_GOTO, ACT_NOP, ACT_PROHIBIT, ACT_TABLE, ACT_UNREACHABLE, ACT_UNSEEN, NO_GROUP, NO_RULE,
    RULE_FALLBACK, RULE_FLOW, RULE_FROM, RULE_IPPROTO, RULE_MARK, RULE_NOT, RULE_TO, RULE_UNSEEN, RuleEntry,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// All lists, concatenated; equal lists are stored once.
#[derive(Default)]
pub(super) struct RuleLists {
    pub entries: Vec<RuleEntry>,
    known: HashMap<Vec<u8>, [u32; 2]>,
}

impl RuleLists {
    /// Stores a list and says where: first entry and length.
    pub fn add(&mut self, list: Vec<RuleEntry>) -> [u32; 2] {
        let key = bytemuck::cast_slice::<RuleEntry, u8>(&list).to_vec();
        *self.known.entry(key).or_insert_with(|| {
            let place = [self.entries.len() as u32, list.len() as u32];
            self.entries.extend(list);
            place
        })
    }
}

/// What the compiler knows of the rules of one family apart from the ingress interface.
pub(super) struct RuleContext<'a> {
    pub host: &'a Host,
    pub family: Family,
    pub rules: Vec<&'a Rule>,
    /// The counter of each rule, and whether the stack is to carry out what it decides.
    pub counters: Vec<(u32, bool)>,
    /// Tables that hold a route the program looks up. A rule to any other table never gives one.
    pub tables: &'a BTreeSet<u32>,
    /// Table to mark class.
    pub classes: &'a BTreeMap<u32, u32>,
}

impl<'a> RuleContext<'a> {
    /// The rules of one family, in the kernel's order, with a counter each.
    pub fn new(
        host: &'a Host,
        family: Family,
        tables: &'a BTreeSet<u32>,
        input: &'a Input,
        slots: &mut CounterSlots,
    ) -> Self {
        let rules: Vec<&Rule> = host.rules_of(family).collect();
        let owned: Vec<Rule> = rules.iter().map(|rule| (*rule).clone()).collect();
        let counters = crate::model::rule_ids(&owned)
            .into_iter()
            .map(|id| {
                let fallback = input.fallback.contains(&id);
                (slots.slot(id), fallback)
            })
            .collect();
        RuleContext { host, family, rules, counters, tables, classes: &input.mark_classes }
    }

    /// Whether the kernel may look into `local` and `main` whatever the list says: IPv6 does until a rule is added
    /// (`fib6_rule_lookup`, net/ipv6/fib6_rules.c), and taking one of its own two away is not that.
    fn may_be_skipped(&self) -> bool {
        let is_own = |rule: &&Rule| {
            let own = |priority, table| Rule { protocol: rule.protocol, ..Rule::lookup(Family::Ipv6, priority, table) };
            **rule == own(0, TABLE_LOCAL) || **rule == own(PRIORITY_MAIN, TABLE_MAIN)
        };
        self.family == Family::Ipv6 && self.rules.len() < 2 && self.rules.iter().all(is_own)
    }

    /// The list that a packet from `link` meets.
    pub fn list(&self, link: &Link) -> Vec<RuleEntry> {
        if self.may_be_skipped() {
            let mut entry: RuleEntry = bytemuck::Zeroable::zeroed();
            (entry.action, entry.suppress_prefixlength, entry.suppress_ifgroup) = (ACT_UNSEEN, -1, NO_GROUP);
            entry.counter = NO_RULE;
            return vec![entry];
        }
        let mut list = Vec::new();
        // Where each rule, or the next one that is left, stands in the list.
        let mut place = Vec::with_capacity(self.rules.len());
        let mut gotos = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            place.push(list.len() as u32);
            let Some(mut entry) = residual(rule, link, self.host) else { continue };
            match rule.action {
                RuleAction::Table(0) | RuleAction::Unknown(_) => entry.action = ACT_UNSEEN,
                RuleAction::Table(table) => {
                    if !self.tables.contains(&table) {
                        continue;
                    }
                    entry.action = ACT_TABLE;
                    entry.target = table;
                    entry.mark_class = self.classes.get(&table).copied().unwrap_or(0);
                }
                RuleAction::Goto(target) => {
                    // An unresolved goto goes on with the next rule (`fib_rules_lookup`).
                    let Some(found) = self.rules.iter().position(|other| other.priority == target) else { continue };
                    entry.action = ACT_GOTO;
                    gotos.push((list.len(), found));
                    debug_assert!(found > index, "the kernel refuses a goto backwards");
                }
                RuleAction::Nop => continue,
                RuleAction::Blackhole => entry.action = ACT_BLACKHOLE,
                RuleAction::Unreachable => entry.action = ACT_UNREACHABLE,
                RuleAction::Prohibit => entry.action = ACT_PROHIBIT,
            }
            entry.suppress_ifgroup = rule.suppress_ifgroup.unwrap_or(NO_GROUP);
            entry.suppress_prefixlength = rule.suppress_prefixlength.map_or(-1, |len| len.min(i32::MAX as u32) as i32);
            let (counter, fallback) = self.counters[index];
            entry.counter = counter;
            if fallback {
                entry.flags |= RULE_FALLBACK;
            }
            list.push(entry);
        }
        for (at, target) in gotos {
            list[at].target = place[target];
        }
        list
    }
}

/// Whether a packet from `link` meets the rule's `iif`; None where that is uncertain.
///
/// The kernel looks the name up when the rule is added, and says of a rule only whether it has an interface, not which. An alternative
/// name may have gone to another interface since, or away; one's own name never leaves a rule behind (`detach_rules`).
fn comes_in_by(rule: &Rule, iif: &str, link: &Link, host: &Host) -> Option<bool> {
    if !rule.attached.iif {
        return Some(false);
    }
    let named = host.link(iif)?;
    // A packet from a port of a VRF counts as one from the VRF (`l3mdev_fib_rule_iif_match`).
    match vrf_of(link, host) {
        Some(vrf) if vrf == named.index || named.index == link.index => None,
        _ => Some(named.index == link.index),
    }
}

/// The VRF that an interface is or belongs to (`l3mdev_master_ifindex_rcu`, net/l3mdev/l3mdev.c).
fn vrf_of(link: &Link, host: &Host) -> Option<u32> {
    let is_vrf = |link: &&Link| link.kind == "vrf";
    let master = || link.master.and_then(|master| host.links.get(&master));
    Some(link).filter(is_vrf).or_else(|| master().filter(is_vrf)).map(|vrf| vrf.index)
}

/// What is left of a rule for packets from `link`; None where it can never match there. The action is not filled in.
///
/// Follows `fib_rule_match()` (net/core/fib_rules.c) for a forwarded packet: no outgoing interface yet, user id 0, no
/// tunnel key unless a light-weight tunnel delivered it.
fn residual(rule: &Rule, link: &Link, host: &Host) -> Option<RuleEntry> {
    let selectors = &rule.selectors;
    let mut entry: RuleEntry = bytemuck::Zeroable::zeroed();
    let mut known = true;
    let mut unseen = !selectors.unknown.is_empty();

    if let Some(iif) = &selectors.iif {
        match comes_in_by(rule, iif, link, host) {
            Some(comes) => known &= comes,
            None => unseen = true,
        }
    }
    known &= selectors.oif.is_none();
    match selectors.uidrange {
        // `sock_net_uid`: the user is the root of the namespace's owners, by the number that it has here.
        Some(_) if host.settings.of_other_users => unseen = true,
        Some((first, _)) => known &= first == 0,
        None => {}
    }
    if selectors.l3mdev {
        match vrf_of(link, host) {
            Some(_) => unseen = true,
            None => known = false,
        }
    }
    if selectors.tun_id.is_some_and(|id| id != 0) {
        if has_tunnel_key(host, link) {
            unseen = true;
        } else {
            known = false;
        }
    }
    if !known {
        // One selector fails for certain: the conjunction is false, and `not` makes it true, always.
        return selectors.not.then_some(entry);
    }

    if let Some((value, mask)) = selectors.fwmark
        && (value, mask) != (0, 0)
    {
        entry.flags |= RULE_MARK;
        entry.mark = value;
        entry.mark_mask = mask;
    }
    if let Some(net) = selectors.from
        && net.prefix_len() > 0
    {
        entry.flags |= RULE_FROM;
        (entry.from, entry.from_mask) = words::prefix(net);
    }
    if let Some(net) = selectors.to
        && net.prefix_len() > 0
    {
        entry.flags |= RULE_TO;
        (entry.to, entry.to_mask) = words::prefix(net);
    }
    if let Some(proto) = selectors.ipproto
        && proto != 0
    {
        entry.flags |= RULE_IPPROTO;
        entry.ipproto = proto;
    }
    let PortWords { flags, ports, ports_mask, sport, dport } = PortWords::new(selectors.sport, selectors.dport);
    entry.flags |= flags;
    (entry.ports, entry.ports_mask, entry.sport, entry.dport) = (ports, ports_mask, sport, dport);
    // `fib4_rule_match` compares tos after masking the packet's octet with INET_DSCP_LEGACY_TOS_MASK (0x1c);
    // `fib6_rule_match` compares the whole DSCP.
    let tos_mask = match rule.family {
        Family::Ipv4 => 0x1c,
        Family::Ipv6 => 0xfc,
    };
    let tos = (selectors.tos != 0).then_some((selectors.tos, tos_mask));
    let class = selectors.dscp.map(|(value, mask)| (value << 2, mask << 2)).or(tos);
    (entry.flow, entry.flow_mask) = flow_words(class, selectors.flowlabel);
    if entry.flow_mask != 0 {
        entry.flags |= RULE_FLOW;
    }
    if unseen {
        entry.flags |= RULE_UNSEEN;
    }
    if selectors.not {
        if entry.flags == 0 {
            return None;
        }
        entry.flags |= RULE_NOT;
    }
    entry.action = ACT_NOP;
    Some(entry)
}
