//! The policy file: from TOML with places to a validated [`Policy`], whose rules are already the kernel's.
//!
//! Pure but for [`load`], which reads the file, and [`TableNames::of_host`], which reads the host's rt_tables.

mod cursor;
mod diagnostic;
mod document;
mod load;
mod marks;
mod memory;
mod names;
mod reach;
mod routes;
mod rules;
mod selectors;
mod sets;
mod syntax;
mod values;

pub use diagnostic::{Diagnostic, Rejected, Source, Span, count};
pub use load::{LARGEST, LARGEST_SET, load, load_file_within, load_within, parse, parse_in, parse_within};
pub use memory::Refused;
pub use names::TableNames;
pub use values::{ipproto_name, ipproto_number};

use crate::model::{
    Family, Host, MarkRule, OWN_PROTOCOL, PrefixSet, RouteKind, Rule, Side, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A validated policy. The default one is that of `wayfork run` without a file: no routes, no marks, no rules of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The file's name as every `at` shows it; empty where there is no file.
    pub file: String,
    /// `[router]`.
    pub router: RouterSettings,
    /// `[tables]`, by name. The standard names and the host's are not in it.
    pub tables: BTreeMap<String, Table>,
    /// `[sets]`, in the file's order.
    pub sets: Vec<Set>,
    /// The bit of the mark that stands for each use of a set by a rule, once they are chosen ([`Policy::with_set_bits`]): `marks`
    /// sets it then, and the rules look for it.
    pub set_bits: BTreeMap<SetUse, u32>,
    /// `[[route]]`, in the file's order; one that names both families is two.
    pub routes: Vec<PolicyRoute>,
    /// `[[mark]]`, in the file's order, expanded to alternatives.
    pub marks: Vec<PolicyMark>,
    /// `[[rule]]`, lowered to rules of the RPDB, in the kernel's order (by priority; IPv4 before IPv6 where that is equal).
    pub rules: Vec<LoweredRule>,
}

/// `[router]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterSettings {
    /// Which paths carry the traffic.
    pub mode: Mode,
    /// Globs of the interfaces that the TC program attaches to; None is every interface that forwards IP.
    pub interfaces: Option<Vec<String>>,
    /// The most that a match may do on the hot path.
    pub fast_path: FastPathCap,
    /// What a redirect may skip although the stack would not.
    pub bypass: BTreeSet<Bypass>,
    /// The bits of the mark that Wayfork may use for itself, never 0; None is "choose from the free ones".
    pub mark_bits: Option<u32>,
}

/// Which paths carry the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The fast path where it can run and is proven safe, the stack otherwise.
    #[default]
    Auto,
    /// The fast path or an error.
    Ebpf,
    /// The mirror alone.
    Netlink,
}

/// The most that a match may do on the hot path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FastPathCap {
    /// Redirect where the guard allows it, else mark, else pass.
    #[default]
    Auto,
    /// The same: it is the most that may be done, and less where the guard allows no more.
    Redirect,
    /// Mark or pass.
    Mark,
}

/// What a redirect may skip although the stack would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bypass {
    /// Hooks of nftables and iptables.
    Netfilter,
    /// IPsec policies.
    Xfrm,
    /// The reverse-path filter.
    RpFilter,
}

/// A table that the file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Table number, never 0.
    pub id: u32,
    /// A last-resort unreachable default in both families.
    pub strict: bool,
    /// Where the file says so: `policy.toml:12`.
    pub at: String,
}

/// A set of `[sets]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name, without `@`.
    pub name: Arc<str>,
    /// The addresses in it.
    pub members: Arc<PrefixSet>,
    /// How many prefixes and addresses the file or the list has.
    pub count: usize,
    /// Where the policy file says so: `policy.toml:12`.
    pub at: String,
}

/// A set in a selector of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetUse {
    /// The address that is looked for in it.
    pub side: Side,
    /// Its name, without `@`.
    pub set: Arc<str>,
}

/// The gateway of a route in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// This one.
    Address(IpAddr),
    /// The one that DHCP or router advertisements give on the device. There always is a device then.
    Learned,
}

/// One way out of a route in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyNextHop {
    /// The gateway; None is "on the link". IPv6 in an IPv4 route is possible, the reverse is not.
    pub via: Option<Via>,
    /// The device by name; None only where the gateway is an address whose device the kernel finds itself.
    pub dev: Option<String>,
    /// 1 to 256.
    pub weight: u16,
    /// The gateway is on the link although no prefix says so.
    pub onlink: bool,
}

/// One route of one family that the file wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRoute {
    /// Table number.
    pub table: u32,
    /// The family whose table holds it.
    pub family: Family,
    /// Destination.
    pub to: IpNet,
    /// Any but Unknown.
    pub kind: RouteKind,
    /// IPv4: only packets of this TOS; 0 is any.
    pub tos: u8,
    /// The number of the next-hop object that has the ways out.
    pub nhid: Option<u32>,
    /// The ways out: one for `via` and `dev`, several for `nexthops`, none for `nhid` and the types without one.
    pub nexthops: Vec<PolicyNextHop>,
    /// RTA_PRIORITY; None leaves it to the kernel (0 in IPv4, 1024 in IPv6).
    pub metric: Option<u32>,
    /// Preferred source of this host's own packets, of the route's family.
    pub src: Option<IpAddr>,
    /// RTAX_MTU.
    pub mtu: Option<u32>,
    /// Where the file says so: `policy.toml:12`.
    pub at: String,
}

/// One alternative of a `[[mark]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyMark {
    /// What to match and to set.
    pub rule: MarkRule,
    /// Where the file says so: `policy.toml:12`.
    pub at: String,
}

/// One rule of the RPDB that the file wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoweredRule {
    /// The rule, owned by [`crate::model::OWN_PROTOCOL`].
    pub rule: Rule,
    /// The set that holds the source: besides its other selectors the rule looks for the set's bit of the mark, in
    /// [`Policy::with_set_bits`].
    pub from_set: Option<Arc<str>>,
    /// The set that holds the destination.
    pub to_set: Option<Arc<str>>,
    /// The name in the file.
    pub name: Option<String>,
    /// Where the file says so: `policy.toml:12`.
    pub at: String,
}

/// A policy that was accepted, with what is odd about its file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What is odd, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// What the places point into.
    pub text: Source,
    /// What the file is made of.
    pub counts: Counts,
}

/// How many sections of each kind a file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `[[rule]]`.
    pub rules: usize,
    /// `[[route]]`.
    pub routes: usize,
    /// `[[mark]]`.
    pub marks: usize,
}

impl Policy {
    /// The rules alone, in the kernel's order.
    pub fn rpdb(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|lowered| &lowered.rule)
    }

    /// The marks alone, in order.
    pub fn mark_rules(&self) -> Vec<MarkRule> {
        self.marks.iter().map(|mark| mark.rule.clone()).collect()
    }

    /// The numbers of the strict tables.
    pub fn strict_tables(&self) -> BTreeSet<u32> {
        self.tables.values().filter(|table| table.strict).map(|table| table.id).collect()
    }

    /// The name of a table: the file's (the first in the alphabet where it has several), or the standard one.
    pub fn table_name(&self, id: u32) -> Option<&str> {
        let own = self.tables.iter().find(|(_, table)| table.id == id).map(|(name, _)| name.as_str());
        own.or(match id {
            TABLE_LOCAL => Some("local"),
            TABLE_MAIN => Some("main"),
            TABLE_DEFAULT => Some("default"),
            _ => None,
        })
    }

    /// An index from rules of a host, whoever owns them, to where the file asks for them.
    pub fn origins(&self, host: &Host) -> Origins<'_> {
        let own_names = host.own_names();
        let mut by_rule: HashMap<Rule, Vec<&LoweredRule>> = HashMap::new();
        for lowered in &self.rules {
            by_rule.entry(of_nobody(&lowered.rule).by_own_names(&own_names)).or_default().push(lowered);
        }
        Origins { by_rule }
    }
}

/// Where the file asks for a rule.
#[derive(Clone, Debug, Default)]
pub struct Origins<'a> {
    /// By the rules without owner and priority, in the file's order: the owner is no part of the question, and the mirror gives the
    /// rules of long lists priorities by which they are found faster.
    by_rule: HashMap<Rule, Vec<&'a LoweredRule>>,
}

fn of_nobody(rule: &Rule) -> Rule {
    Rule { protocol: 0, ..rule.anywhere() }
}

impl<'a> Origins<'a> {
    /// What the file says of this rule; None where the file does not ask for it. One of Wayfork's own that stands at another priority
    /// than the file's is the nearest that says the same.
    pub fn of(&self, rule: &Rule) -> Option<&'a LoweredRule> {
        let same = self.by_rule.get(&of_nobody(rule))?;
        let apart = |lowered: &&&LoweredRule| lowered.rule.priority.abs_diff(rule.priority);
        let nearest = *same.iter().min_by_key(apart)?;
        (nearest.rule.priority == rule.priority || rule.protocol == OWN_PROTOCOL).then_some(nearest)
    }
}

#[cfg(test)]
mod tests;
