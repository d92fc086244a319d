//! Rule lists, one per ingress interface and one per way back: what is known of the interface beforehand is decided here, once.

use super::below::has_tunnel_key;
use super::filters::{self, Place};
use super::jumps::drop_needless;
use super::routes::Tables;
use super::selectors::{Looks, selects_nothing};
use super::slots::CounterSlots;
use super::{Generation, Input, TooLarge};
use crate::model::{Family, Host, Link, PRIORITY_MAIN, Rule, RuleAction, TABLE_LOCAL, TABLE_MAIN};
use bytemuck::Zeroable;
use router_common::layout::{
    ACT_BLACKHOLE, ACT_GOTO, ACT_PROHIBIT, ACT_TABLE, ACT_UNREACHABLE, ACT_UNSEEN, ActionEntry, ListEntry, MAX_FILTERS,
    MAX_RULES, NO_GROUP, NO_RULE, RULE_FALLBACK, RULE_NOT, RULE_SELECTS, RULE_UNSEEN, RuleEntry, Selectors, StepEntry,
};
use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};

/// A rule that can match in some list, before its place there is known.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Its table is the number of it, until the table is laid out.
    pub action: ActionEntry,
    /// Number of the rule's counter.
    pub counter: u32,
    pub selectors: Selectors,
    /// Where a jump leads: an index among the candidates.
    pub jump: Option<usize>,
}

/// Whether a packet meets what a rule says of interfaces and tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Meets {
    No,
    Yes,
    /// It cannot be seen here.
    Unseen,
}

/// What the compiler knows of the rules of one family apart from the interface.
pub(super) struct RuleLists<'a> {
    host: &'a Host,
    family: Family,
    /// There is a VRF on this host.
    has_vrfs: bool,
    rules: Vec<&'a Rule>,
    /// The counter of each rule, and whether the stack is to carry out what it decides.
    counters: Vec<(u32, bool)>,
    /// The index of the first rule of each priority.
    first_of: HashMap<u32, usize>,
    /// A rule to a table that is not there never gives a route.
    tables: Tables,
    /// Table to mark class.
    classes: &'a BTreeMap<u32, u32>,
    /// Indexes of the rules that look at the interface or the tunnel.
    dependent: Vec<usize>,
    /// The list for each answer of these.
    known: HashMap<Vec<Meets>, u32>,
}

impl<'a> RuleLists<'a> {
    /// The rules of one family, in the kernel's order, with a counter each.
    pub fn new(host: &'a Host, family: Family, tables: Tables, input: &'a Input, slots: &mut CounterSlots) -> Self {
        let rules: Vec<&Rule> = host.rules_of(family).collect();
        let counter = |id: String| {
            let fallback = input.fallback.contains(&id);
            (slots.slot(id), fallback)
        };
        let counters = crate::model::rule_ids(rules.iter().copied()).into_iter().map(counter).collect();
        let mut first_of = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            first_of.entry(rule.priority).or_insert(index);
        }
        let looks = |rule: &Rule| {
            let selectors = &rule.selectors;
            selectors.iif.is_some() || selectors.l3mdev || selectors.tun_id.is_some_and(|id| id != 0)
        };
        let dependent = (0..rules.len()).filter(|index| looks(rules[*index])).collect();
        let has_vrfs = host.links.values().any(is_vrf);
        let (known, classes) = (HashMap::new(), &input.mark_classes);
        RuleLists { host, family, has_vrfs, rules, counters, first_of, tables, classes, dependent, known }
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

    /// The list that a packet from `link` meets: its entry in `LISTS`.
    pub fn forward(&mut self, link: &Link, generation: &mut Generation) -> Result<u32, TooLarge> {
        let host = self.host;
        let vrf = vrf_of(link, host);
        // Looked for where a rule asks: it takes a look at all interfaces.
        let tunnel = LazyCell::new(|| if has_tunnel_key(host, link) { Meets::Unseen } else { Meets::No });
        self.list(generation, |rule| {
            all_of([
                rule.selectors.iif.as_ref().map(|iif| comes_in_by(rule, iif, link, host)),
                rule.selectors.l3mdev.then_some(if vrf.is_some() { Meets::Unseen } else { Meets::No }),
                rule.selectors.tun_id.filter(|id| *id != 0).map(|_| *tunnel),
            ])
        })
    }

    /// The list that the look-up of the way back meets for a packet that leaves by `link`, which stands for the ingress
    /// interface there (`__fib_validate_source`, net/ipv4/fib_frontend.c): no tunnel, and the VRF that the packet came from.
    pub fn back(&mut self, link: &Link, generation: &mut Generation) -> Result<u32, TooLarge> {
        let host = self.host;
        let vrfs = self.has_vrfs;
        self.list(generation, |rule| {
            all_of([
                rule.selectors
                    .iif
                    .as_ref()
                    .map(|iif| if vrfs { Meets::Unseen } else { comes_in_by(rule, iif, link, host) }),
                rule.selectors.l3mdev.then_some(if vrfs { Meets::Unseen } else { Meets::No }),
                rule.selectors.tun_id.filter(|id| *id != 0).map(|_| Meets::No),
            ])
        })
    }

    fn list(&mut self, generation: &mut Generation, meets: impl Fn(&Rule) -> Meets) -> Result<u32, TooLarge> {
        let answers: Vec<Meets> = self.dependent.iter().map(|index| meets(self.rules[*index])).collect();
        if let Some(list) = self.known.get(&answers) {
            return Ok(*list);
        }
        let mut candidates =
            if self.may_be_skipped() { vec![unseen()] } else { drop_needless(self.candidates(&answers)) };
        let behind_local = self.leave_local_out(&mut candidates);
        for candidate in candidates.iter_mut().filter(|candidate| candidate.action.action == ACT_TABLE) {
            candidate.action.table = self.tables.lay(candidate.action.table, behind_local, generation)?;
        }
        let list = append(candidates, self.family, generation)?;
        self.known.insert(answers, list);
        Ok(list)
    }

    /// Takes the rule for the table `local` out where it stands before all others, as it nearly always does: then what that table
    /// holds is laid over the tables of the other rules, and one look-up takes the place of two. Not where a rule decides without a
    /// table, which the packets for this host must not meet.
    fn leave_local_out(&self, candidates: &mut Vec<Candidate>) -> bool {
        let is_local = |candidate: &Candidate| {
            let entry = &candidate.action;
            let plain = entry.flags == 0 && entry.suppress_prefixlength < 0 && entry.suppress_ifgroup == NO_GROUP;
            plain && entry.action == ACT_TABLE && entry.table == TABLE_LOCAL
        };
        let asks = |candidate: &Candidate| matches!(candidate.action.action, ACT_TABLE | ACT_GOTO | ACT_UNSEEN);
        // Nor where a walk may ask no table at all: the way back to a source of this host would find nothing wrong with it.
        let last = candidates.len().saturating_sub(1);
        let always_asks = |candidate: &Candidate| {
            candidate.action.action == ACT_TABLE && candidate.action.flags & !RULE_FALLBACK == 0
        };
        let may = self.tables.can_put_local_first()
            && candidates.first().is_some_and(is_local)
            && candidates.iter().all(asks)
            && last > 0
            && always_asks(&candidates[last])
            && candidates.iter().all(|candidate| candidate.jump.is_none_or(|target| target <= last));
        if may {
            candidates.remove(0);
            for candidate in candidates {
                candidate.jump = candidate.jump.map(|target| target - 1);
            }
        }
        may
    }

    fn candidates(&self, answers: &[Meets]) -> Vec<Candidate> {
        let mut answers = self.dependent.iter().zip(answers).peekable();
        let mut list: Vec<Candidate> = Vec::new();
        // Where each rule, or the next one that is left, stands in the list.
        let mut place = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            place.push(list.len());
            let meets = answers.next_if(|(dependent, _)| **dependent == index).map_or(Meets::Yes, |(_, meets)| *meets);
            let Some((flags, selectors)) = residual(rule, meets, self.host) else { continue };
            let mut action =
                ActionEntry { flags, suppress_prefixlength: -1, suppress_ifgroup: NO_GROUP, ..Zeroable::zeroed() };
            let mut jump = None;
            match rule.action {
                RuleAction::Table(0) | RuleAction::Unknown(_) => action.action = ACT_UNSEEN,
                RuleAction::Table(table) => {
                    if !self.tables.contains(table) {
                        continue;
                    }
                    action.action = ACT_TABLE;
                    action.table = table;
                    action.mark_class = self.classes.get(&table).copied().unwrap_or(0);
                }
                RuleAction::Goto(target) => {
                    // An unresolved goto goes on with the next rule (`fib_rules_lookup`).
                    let Some(found) = self.first_of.get(&target) else { continue };
                    debug_assert!(*found > index, "the kernel refuses a goto backwards");
                    action.action = ACT_GOTO;
                    jump = Some(*found);
                }
                RuleAction::Nop => continue,
                RuleAction::Blackhole => action.action = ACT_BLACKHOLE,
                RuleAction::Unreachable => action.action = ACT_UNREACHABLE,
                RuleAction::Prohibit => action.action = ACT_PROHIBIT,
            }
            action.suppress_ifgroup = rule.suppress_ifgroup.unwrap_or(NO_GROUP);
            action.suppress_prefixlength = rule.suppress_prefixlength.map_or(-1, |len| len.min(i16::MAX as u32) as i16);
            let (counter, fallback) = self.counters[index];
            if fallback {
                action.flags |= RULE_FALLBACK;
            }
            list.push(Candidate { action, counter, selectors, jump });
        }
        for candidate in &mut list {
            candidate.jump = candidate.jump.map(|target| place[target]);
        }
        list
    }
}

/// All that has an answer, at once.
fn all_of(answers: [Option<Meets>; 3]) -> Meets {
    let mut all = Meets::Yes;
    for answer in answers.into_iter().flatten() {
        match (all, answer) {
            (Meets::No, _) | (_, Meets::No) => return Meets::No,
            (_, Meets::Unseen) => all = Meets::Unseen,
            (_, Meets::Yes) => {}
        }
    }
    all
}

/// A rule that leaves every packet to the stack.
fn unseen() -> Candidate {
    let action =
        ActionEntry { action: ACT_UNSEEN, suppress_prefixlength: -1, suppress_ifgroup: NO_GROUP, ..Zeroable::zeroed() };
    Candidate { action, counter: NO_RULE, selectors: Zeroable::zeroed(), jump: None }
}

/// Writes a list, and the filters that its rules are worth.
fn append(mut candidates: Vec<Candidate>, family: Family, generation: &mut Generation) -> Result<u32, TooLarge> {
    let mut known_actions = Actions(HashMap::new());
    if candidates.len() > MAX_RULES as usize {
        return Err(TooLarge::Rules(candidates.len()));
    }
    let count = candidates.len() as u32;
    let filters::Chosen { filters, places } =
        filters::choose(&candidates, family, &mut generation.lines, &mut generation.chains)?;
    for (candidate, place) in candidates.iter_mut().zip(&places) {
        if *place == (Place::Filter { proven: true }) {
            candidate.action.flags &= !RULE_SELECTS;
        }
    }
    // Of each position, the linear rule there or the next one behind.
    let mut linear = vec![count; candidates.len() + 1];
    for position in (0..candidates.len()).rev() {
        linear[position] = if places[position] == Place::Linear { position as u32 } else { linear[position + 1] };
    }
    let mut entry = ListEntry { first: generation.rules.len() as u32, count, linear: linear[0], ..Zeroable::zeroed() };
    entry.filters = filters.len().min(MAX_FILTERS) as u32;
    entry.filter.iter_mut().zip(filters).for_each(|(place, filter)| *place = filter);
    for (position, candidate) in candidates.iter().enumerate() {
        let action = known_actions.number(candidate.action, &mut generation.actions);
        generation.rules.push(RuleEntry { action, counter: candidate.counter });
        generation.selectors.push(candidate.selectors);
        let target = candidate.jump.unwrap_or(0);
        let target_linear = if candidate.jump.is_some() { linear[target] } else { 0 };
        generation.steps.push(StepEntry { next: linear[position + 1], target: target as u32, target_linear, pad: 0 });
    }
    generation.lists.push(entry);
    Ok(generation.lists.len() as u32 - 1)
}

/// The numbers of a list's actions.
struct Actions(HashMap<ActionEntry, u32>);

impl Actions {
    fn number(&mut self, action: ActionEntry, all: &mut Vec<ActionEntry>) -> u32 {
        *self.0.entry(action).or_insert_with(|| {
            all.push(action);
            all.len() as u32 - 1
        })
    }
}

/// Whether a packet from `link` meets the rule's `iif`.
///
/// The kernel looks the name up when the rule is added, and says of a rule only whether it has an interface, not which. An alternative
/// name may have gone to another interface since, or away; one's own name never leaves a rule behind (`detach_rules`).
fn comes_in_by(rule: &Rule, iif: &str, link: &Link, host: &Host) -> Meets {
    if !rule.attached.iif {
        return Meets::No;
    }
    let Some(named) = host.link(iif) else { return Meets::Unseen };
    // A packet from a port of a VRF counts as one from the VRF (`l3mdev_fib_rule_iif_match`).
    match vrf_of(link, host) {
        Some(vrf) if vrf == named.index || named.index == link.index => Meets::Unseen,
        _ if named.index == link.index => Meets::Yes,
        _ => Meets::No,
    }
}

/// The VRF that an interface is or belongs to (`l3mdev_master_ifindex_rcu`, net/l3mdev/l3mdev.c).
fn vrf_of(link: &Link, host: &Host) -> Option<u32> {
    let master = || link.master.and_then(|master| host.links.get(&master));
    Some(link).filter(|link| is_vrf(link)).or_else(|| master().filter(|link| is_vrf(link))).map(|vrf| vrf.index)
}

fn is_vrf(link: &Link) -> bool {
    link.kind == "vrf"
}

/// What is left of a rule for a packet that meets what it says of interfaces, or not: its flags and selectors. None where it can
/// never match.
///
/// Follows `fib_rule_match()` (net/core/fib_rules.c) for a forwarded packet: no outgoing interface yet, user id 0.
fn residual(rule: &Rule, meets: Meets, host: &Host) -> Option<(u32, Selectors)> {
    let selectors = &rule.selectors;
    let mut unseen = meets == Meets::Unseen || !selectors.unknown.is_empty();
    let mut known = meets != Meets::No && selectors.oif.is_none();
    match selectors.uidrange {
        // `sock_net_uid`: the user is the root of the namespace's owners, by the number that it has here.
        Some(_) if host.settings.of_other_users => unseen = true,
        Some((first, _)) => known &= first == 0,
        None => {}
    }
    if !known {
        // One selector fails for certain: the conjunction is false, and `not` makes it true, always.
        return selectors.not.then_some((0, Selectors::zeroed()));
    }
    // `fib4_rule_match` compares tos after masking the packet's octet with INET_DSCP_LEGACY_TOS_MASK (0x1c);
    // `fib6_rule_match` compares the whole DSCP.
    let tos_mask = match rule.family {
        Family::Ipv4 => 0x1c,
        Family::Ipv6 => 0xfc,
    };
    let tos = (selectors.tos != 0).then_some((selectors.tos, tos_mask));
    let class = selectors.dscp.map(|(value, mask)| (value << 2, mask << 2)).or(tos);
    let words = Looks {
        fwmark: selectors.fwmark,
        from: selectors.from,
        to: selectors.to,
        ipproto: selectors.ipproto.filter(|proto| *proto != 0),
        sport: selectors.sport,
        dport: selectors.dport,
        class,
        flowlabel: selectors.flowlabel,
    }
    .words();
    let mut flags = if selects_nothing(&words) { 0 } else { RULE_SELECTS };
    if unseen {
        flags |= RULE_UNSEEN;
    }
    if selectors.not {
        if flags == 0 {
            return None;
        }
        flags |= RULE_NOT;
    }
    Some((flags, words))
}

#[cfg(test)]
mod tests;
