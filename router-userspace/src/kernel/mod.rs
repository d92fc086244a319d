//! The only sockets to the kernel: rules, routes, links, addresses, neighbours, settings, route look-ups, nftables.
//!
//! Everything acts on the network namespace of the calling thread at the time the socket was opened. Netlink's types stop here.

pub mod admin;
mod attributes;
mod dissector;
mod error;
pub mod fake;
mod far_ends;
#[cfg(test)]
mod guard_testing;
mod hooks;
mod links;
mod monitor;
mod neighbours;
mod netlink;
pub mod netns;
mod nexthops;
mod nft;
mod nft_list;
mod nft_marks;
mod probe;
mod put_off;
mod route_get;
mod routes;
mod rules;
mod settings;
mod socket;
mod survey;
mod tc;
mod wire;
mod wireguard;
mod xfrm;

pub use admin::Admin;
pub use error::{Error, Result};
pub use monitor::Monitor;
pub use netlink::Netlink;
pub use netns::Netns;
pub use nft::NAME_TAKEN;
pub use put_off::wait_for_what_was_put_off;
pub use rules::rule_matches_deletion;
pub use survey::{ForeignPrograms, cheap_facts_hold, remove_empty_clsact, survey};

use crate::model::{Address, Family, Host, Link, MarkRule, Neighbour, Route, Rule, RuleFeature, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A question to RTM_GETROUTE: where would this packet go?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteQuery {
    /// Destination.
    pub to: IpAddr,
    /// Source; the kernel needs one for a packet that comes in.
    pub from: Option<IpAddr>,
    /// Ingress interface index; None asks for a packet made on this host.
    pub iif: Option<u32>,
    /// fwmark.
    pub mark: u32,
    /// IP protocol; the kernel takes TCP, UDP and ICMP only.
    pub ipproto: Option<u8>,
    /// Source port, host byte order.
    pub sport: Option<u16>,
    /// Destination port, host byte order.
    pub dport: Option<u16>,
    /// DSCP, 6 bits.
    pub dscp: u8,
    /// IPv6 flow label; asked for where it is not 0, which kernels before 6.14 refuse (and have no rule for).
    pub flowlabel: u32,
}

impl RouteQuery {
    /// A packet made on this host that carries nothing but its destination.
    pub fn to(to: IpAddr) -> Self {
        RouteQuery {
            to,
            from: None,
            iif: None,
            mark: 0,
            ipproto: None,
            sport: None,
            dport: None,
            dscp: 0,
            flowlabel: 0,
        }
    }
}

/// What the kernel answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAnswer {
    /// The verdict. EINVAL is reported as Martian, ENETUNREACH as NoRoute; see [`RouteAnswer::allows`].
    pub verdict: router_common::verdict::Verdict,
    /// The error number (positive), 0 where there was a route.
    pub errno: i32,
    /// Outgoing interface index, 0 where there is none.
    pub oif: u32,
    /// Gateway; None where the destination is on the link.
    pub via: Option<IpAddr>,
    /// The table that gave the route, 0 where none did.
    pub table: u32,
    /// Preferred source, for a packet made here.
    pub prefsrc: Option<IpAddr>,
}

/// What Wayfork asks of the kernel. Implemented over netlink and in memory for tests.
pub trait Kernel {
    /// The RPDB of both families, each in the kernel's order.
    fn rules(&mut self) -> Result<Vec<Rule>>;
    /// The FIB of both families, all tables, without cloned routes.
    fn routes(&mut self) -> Result<Vec<Route>>;
    /// All interfaces, with their settings of both families.
    fn links(&mut self) -> Result<BTreeMap<u32, Link>>;
    /// Writes a setting of the namespace ([`admin::write_setting`]). For throw-away namespaces alone.
    fn write_setting(&mut self, name: &str, value: &str) -> Result<()>;
    /// All addresses.
    fn addresses(&mut self) -> Result<Vec<Address>>;
    /// The neighbour tables of both families.
    fn neighbours(&mut self) -> Result<Vec<Neighbour>>;
    /// The numbers of the next-hop objects.
    fn nexthop_objects(&mut self) -> Result<BTreeSet<u32>>;
    /// What this kernel has no rules for, as far as it can be found out.
    fn lacks(&mut self) -> Result<BTreeSet<RuleFeature>>;
    /// Settings of the namespace.
    fn settings(&mut self) -> Result<Settings>;

    /// Adds a rule exactly as given, `protocol` included, after rules of equal priority. Without NLM_F_EXCL: the kernel's
    /// comparison ignores `not` and the goto target.
    fn add_rule(&mut self, rule: &Rule) -> Result<()>;
    /// Deletes the first rule that the kernel takes for equal (its protocol included).
    fn delete_rule(&mut self, rule: &Rule) -> Result<()>;
    /// Adds many rules in the order given; one result for each. After a refusal no more are begun: those not tried fail with
    /// ECANCELED, but a few behind the refused one may have been added already. Each result is true of its own rule.
    fn add_rules(&mut self, rules: &[Rule]) -> Vec<Result<()>> {
        until_refused(rules, |rule| self.add_rule(rule))
    }
    /// Deletes many rules, as [`Kernel::add_rules`] adds them.
    fn delete_rules(&mut self, rules: &[Rule]) -> Vec<Result<()>> {
        until_refused(rules, |rule| self.delete_rule(rule))
    }
    /// Adds a route; EEXIST where its slot (table, prefix, tos, metric) is taken. Never replaces.
    fn add_route(&mut self, route: &Route) -> Result<()>;
    /// Deletes exactly this route, its protocol included.
    fn delete_route(&mut self, route: &Route) -> Result<()>;

    /// The digest that the installed table of Wayfork's marks was made from; None where Wayfork has no table.
    fn mark_chain(&mut self) -> Result<Option<u64>>;
    /// Whether the name of Wayfork's nftables table is that of another program's, so that no marks can be installed.
    fn marks_are_anothers(&mut self) -> Result<bool>;
    /// The bits of the mark that stand for sets in Wayfork's own nftables table, each with the use of the set: `to @streaming`.
    fn set_uses(&mut self) -> Result<BTreeMap<u32, String>>;
    /// Replaces Wayfork's own nftables table in one transaction; an empty list removes it. `digest` is stored with it. Another
    /// program's table of that name stays as it is: EEXIST where there are marks to install.
    fn set_mark_chain(&mut self, marks: &[MarkRule], digest: u64) -> Result<()>;

    /// Where would this packet go? A refusal by the routing decision is an answer, not an error.
    fn route_get(&mut self, query: &RouteQuery) -> Result<RouteAnswer>;
    /// Asks the kernel to revalidate a neighbour as if a packet had used it (NTF_USE).
    fn use_neighbour(&mut self, index: u32, addr: IpAddr) -> Result<()>;

    /// Destinations for which the stack has learned something of its own: a gateway from an ICMP redirect, a path MTU. It tells
    /// nobody of these.
    fn exceptions(&mut self) -> Result<BTreeSet<IpAddr>> {
        Ok(BTreeSet::new())
    }
    /// Returns when every change is complete that had begun before.
    fn wait_for_changes(&mut self) -> Result<()> {
        Ok(())
    }

    /// Everything at once, with every change complete that was announced before. What a change does without announcing it
    /// (routes that go with their next-hop object, device or address) is done by then.
    fn host(&mut self) -> Result<Host> {
        self.wait_for_changes()?;
        Ok(Host {
            rules: self.rules()?,
            routes: self.routes()?,
            links: self.links()?,
            addresses: self.addresses()?,
            neighbours: self.neighbours()?,
            settings: self.settings()?,
            exceptions: self.exceptions()?,
            nexthop_objects: self.nexthop_objects()?,
            lacks: self.lacks()?,
        })
    }
}

fn until_refused(rules: &[Rule], mut apply: impl FnMut(&Rule) -> Result<()>) -> Vec<Result<()>> {
    let mut refused = false;
    let mut one = |rule: &Rule| {
        let result = if refused { Err(Error::from_errno(rule.to_string(), libc::ECANCELED)) } else { apply(rule) };
        refused |= result.is_err();
        result
    };
    rules.iter().map(&mut one).collect()
}

impl RouteAnswer {
    /// Whether the answer can stand for `verdict`: EINVAL is a martian or a blackhole, ENETUNREACH no route or a rule's
    /// `unreachable`; the kernel does not say which.
    pub fn allows(&self, verdict: router_common::verdict::Verdict) -> bool {
        use router_common::verdict::Verdict as V;
        match self.errno {
            libc::EINVAL => matches!(verdict, V::Martian | V::Blackhole),
            libc::ENETUNREACH => matches!(verdict, V::NoRoute | V::Unreachable),
            _ => verdict == self.verdict,
        }
    }
}

/// What changed in the kernel, as the monitor tells it: enough to know what to read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A rule came or went.
    Rules(Family),
    /// A route came or went.
    Routes,
    /// An interface or its settings changed.
    Links,
    /// An address of this host came, went or changed.
    Addresses,
    /// A neighbour changed its state or address.
    Neighbour(Neighbour),
    /// A neighbour went away.
    NeighbourGone(u32, IpAddr),
    /// nftables' rules changed.
    Nftables,
    /// xfrm policies changed.
    Xfrm,
    /// A traffic-control qdisc or filter changed.
    TrafficControl,
    /// The socket lost messages: nothing that was known can be trusted until all is read again.
    Overrun,
}

#[cfg(test)]
mod tests;
