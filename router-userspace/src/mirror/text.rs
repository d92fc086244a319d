//! Rules and routes in iproute2's words, with the names of this host and of the file.

use crate::model::{AddressSet, FLOWLABEL_MASK, Family, Host, MarkRule, Route, RouteKind, Rule, RuleAction};
use crate::policy::{Policy, PolicyRoute, Via};
use std::fmt::Write;

/// Where names come from.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// Names of interfaces.
    pub host: &'a Host,
    /// Names of tables.
    pub policy: &'a Policy,
}

impl Words<'_> {
    /// The name of a table, else its number.
    pub fn table(&self, table: u32) -> String {
        self.policy.table_name(table).map_or_else(|| table.to_string(), str::to_owned)
    }

    /// `1000: from all iif eth1 lookup isp2`.
    pub fn rule(&self, rule: &Rule) -> String {
        let mut text = format!("{}: {} ", rule.priority, rule.selectors);
        match rule.action {
            RuleAction::Table(table) => text += &format!("lookup {}", self.table(table)),
            action => text += &action.to_string(),
        }
        if let Some(length) = rule.suppress_prefixlength {
            text += &format!(" suppress_prefixlength {length}");
        }
        if let Some(group) = rule.suppress_ifgroup {
            text += &format!(" suppress_ifgroup {group}");
        }
        text
    }

    /// `default via 10.0.0.1 dev eth1 table isp2`.
    pub fn route(&self, route: &Route) -> String {
        let mut text = self.start(route.kind, route.dst, route.tos);
        if route.nhid != 0 {
            text += &format!(" nhid {}", route.nhid);
        }
        let dev = |index: u32| if index == 0 { String::new() } else { format!(" dev {}", self.host.link_name(index)) };
        for hop in &route.nexthops {
            let via = hop.via.map(|via| format!(" via {via}")).unwrap_or_default();
            let onlink = if hop.onlink { " onlink" } else { "" };
            text += &match route.nexthops.len() {
                1 => format!("{via}{}{onlink}", dev(hop.dev)),
                _ => format!(" nexthop{via}{} weight {}{onlink}", dev(hop.dev), hop.weight),
            };
        }
        let default = if route.family == Family::Ipv6 { 1024 } else { 0 };
        let metric = Some(route.metric).filter(|metric| *metric != default);
        self.end(text, route.table, metric, route.prefsrc, route.mtu)
    }

    /// A route of the file as it stands there.
    pub fn policy_route(&self, route: &PolicyRoute) -> String {
        let mut text = self.start(route.kind, route.to, route.tos);
        if let Some(id) = route.nhid {
            text += &format!(" nhid {id}");
        }
        for hop in &route.nexthops {
            let via = match hop.via {
                Some(Via::Address(via)) => format!(" via {via}"),
                Some(Via::Learned) => " via learned".to_owned(),
                None => String::new(),
            };
            let dev = hop.dev.as_ref().map(|dev| format!(" dev {dev}")).unwrap_or_default();
            let onlink = if hop.onlink { " onlink" } else { "" };
            text += &match route.nexthops.len() {
                1 => format!("{via}{dev}{onlink}"),
                _ => format!(" nexthop{via}{dev} weight {}{onlink}", hop.weight),
            };
        }
        self.end(text, route.table, route.metric, route.src, route.mtu)
    }

    fn start(&self, kind: RouteKind, to: ipnet::IpNet, tos: u8) -> String {
        let mut to = if to.prefix_len() == 0 { "default".to_owned() } else { to.to_string() };
        if tos != 0 {
            to += &format!(" tos {tos:#x}");
        }
        if kind == RouteKind::Unicast { to } else { format!("{} {to}", kind.name()) }
    }

    fn end(
        &self,
        mut text: String,
        table: u32,
        metric: Option<u32>,
        src: Option<std::net::IpAddr>,
        mtu: Option<u32>,
    ) -> String {
        text += &format!(" table {}", self.table(table));
        for (word, value) in [
            ("metric", metric.map(|metric| metric.to_string())),
            ("src", src.map(|src| src.to_string())),
            ("mtu", mtu.map(|mtu| mtu.to_string())),
        ] {
            text += &value.map(|value| format!(" {word} {value}")).unwrap_or_default();
        }
        text
    }
}

/// `from 192.168.8.0/24 iif lan ipproto 6 dport 80 set 0x20/0xff`.
pub(super) fn mark(mark: &MarkRule) -> String {
    let selectors = &mark.selectors;
    let mut text = match (selectors.from, &selectors.from_set) {
        (Some(net), _) => format!("from {net}"),
        (None, Some(set)) => format!("from {}", members(set, mark.family)),
        (None, None) => "from all".to_owned(),
    };
    let number = |value: u32, mask: u32| {
        if mask == u32::MAX { format!("{value:#x}") } else { format!("{value:#x}/{mask:#x}") }
    };
    let words = [
        ("to", selectors.to.map(|net| net.to_string())),
        ("to", selectors.to_set.as_ref().map(|set| members(set, mark.family))),
        ("fwmark", selectors.fwmark.map(|(value, mask)| number(value, mask))),
        ("iif", selectors.iif.clone()),
        ("ipproto", selectors.ipproto.map(|number| number.to_string())),
        ("sport", selectors.sport.map(|ports| ports.to_string())),
        ("dport", selectors.dport.map(|ports| ports.to_string())),
        (
            "dscp",
            selectors
                .dscp
                .map(|(dscp, mask)| if mask == 0x3f { dscp.to_string() } else { number(dscp.into(), mask.into()) }),
        ),
        (
            "flowlabel",
            selectors
                .flowlabel
                .map(|(label, mask)| if mask == FLOWLABEL_MASK { format!("{label:#x}") } else { number(label, mask) }),
        ),
        ("set", (mark.mask != 0).then(|| number(mark.value, mark.mask))),
        ("", (mark.mask == 0).then(|| "left as it is".to_owned())),
    ];
    for (word, value) in words {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let gap = if word.is_empty() { "" } else { " " };
            write!(text, "{gap}{word} {value}").unwrap_or_default();
        }
    }
    text
}

/// `@streaming (12 ranges)`.
fn members(set: &AddressSet, family: Family) -> String {
    match set.members.ranges(family) {
        1 => format!("{set} (1 range)"),
        ranges => format!("{set} ({ranges} ranges)"),
    }
}
