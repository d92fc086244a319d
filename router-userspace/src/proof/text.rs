//! Rules and routes as the commands that would make them: for people, and for a counter-example that anyone can paste.

use crate::model::{Family, Host, NextHop, Route, RouteKind, Rule};
use std::fmt::Write;

/// A route as `ip route` shows it: `default via 10.0.0.1 dev eth1 table 111`.
pub fn route_text(host: &Host, route: &Route) -> String {
    let mut text = String::new();
    if !matches!(route.kind, RouteKind::Unicast) {
        text.push_str(route.kind.name());
        text.push(' ');
    }
    match route.dst.prefix_len() {
        0 => text.push_str("default"),
        length if length == route.family.bits() => text.push_str(&route.dst.addr().to_string()),
        _ => text.push_str(&route.dst.to_string()),
    }
    // Writing to a String does not fail.
    let mut add = |piece: std::fmt::Arguments<'_>| text.write_fmt(piece).unwrap_or_default();
    if let Some(src) = route.src.filter(|src| src.prefix_len() != 0) {
        add(format_args!(" from {src}"));
    }
    if route.tos != 0 {
        add(format_args!(" tos {:#x}", route.tos));
    }
    match route.nexthops.as_slice() {
        _ if route.nhid != 0 => add(format_args!(" nhid {}", route.nhid)),
        [] => {}
        [hop] if !is_loopback_refusal(route) => add(format_args!("{}", hop_text(host, hop, route.family))),
        [_] => {}
        hops => {
            for hop in hops {
                add(format_args!(" nexthop{} weight {}", hop_text(host, hop, route.family), hop.weight.max(1)));
            }
        }
    }
    add(format_args!(" table {}", route.table));
    if route.metric != 0 {
        add(format_args!(" metric {}", route.metric));
    }
    if route.pref != 0 && route.family == Family::Ipv6 {
        add(format_args!(" pref {}", if route.pref == 1 { "high" } else { "low" }));
    }
    if let Some(mtu) = route.mtu {
        add(format_args!(" mtu {}{mtu}", if route.mtu_locked { "lock " } else { "" }));
    }
    text
}

/// IPv6 hangs its refusing routes on the loopback device; no command names it.
fn is_loopback_refusal(route: &Route) -> bool {
    matches!(route.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
}

fn hop_text(host: &Host, hop: &NextHop, family: Family) -> String {
    let mut text = String::new();
    if let Some(via) = hop.via {
        let other = if Family::of(via) == family { "" } else { "inet6 " };
        text.push_str(&format!(" via {other}{via}"));
    }
    text.push_str(&format!(" dev {}", host.link_name(hop.dev)));
    if hop.onlink {
        text.push_str(" onlink");
    }
    text
}

/// The command that adds a route.
pub fn route_command(host: &Host, route: &Route) -> String {
    format!("ip {} route add {}", family_flag(route.family), route_text(host, route))
}

/// The commands that add a route and the next-hop objects that it goes by. An object's members get numbers made of its own.
pub fn route_commands(host: &Host, route: &Route) -> Vec<String> {
    let mut lines = Vec::new();
    let object = |id: u64, hop: &NextHop| format!("ip nexthop add id {id}{}", hop_text(host, hop, route.family));
    match (route.nhid, route.nexthops.as_slice()) {
        (0, _) => {}
        (id, [hop]) => lines.push(object(id.into(), hop)),
        (id, hops) => {
            let members: Vec<(u64, &NextHop)> = (1..).map(|n| u64::from(id) * 100 + n).zip(hops).collect();
            lines.extend(members.iter().map(|(member, hop)| object(*member, hop)));
            let group: Vec<String> =
                members.iter().map(|(member, hop)| format!("{member},{}", hop.weight.max(1))).collect();
            lines.push(format!("ip nexthop add id {id} group {}", group.join("/")));
        }
    }
    lines.push(route_command(host, route));
    lines
}

/// The command that adds a rule.
pub fn rule_command(rule: &Rule) -> String {
    format!("ip {} rule add {rule}", family_flag(rule.family))
}

fn family_flag(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "-4",
        Family::Ipv6 => "-6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Link;

    #[test]
    fn routes_read_as_ip_route_takes_them() {
        let mut host = Host::default();
        host.links.insert(3, Link { index: 3, name: "eth1".into(), ..Link::default() });
        let mut route = Route {
            protocol: 3,
            nexthops: vec![NextHop { via: "10.0.0.1".parse().ok(), dev: 3, weight: 1, ..NextHop::default() }],
            ..Route::to(111, Family::Ipv4.default_prefix(), RouteKind::Unicast)
        };
        assert_eq!(route_command(&host, &route), "ip -4 route add default via 10.0.0.1 dev eth1 table 111");
        route.nexthops.push(NextHop { via: "fe80::1".parse().ok(), dev: 3, weight: 2, ..NextHop::default() });
        route.metric = 7;
        assert_eq!(
            route_text(&host, &route),
            "default nexthop via 10.0.0.1 dev eth1 weight 1 nexthop via inet6 fe80::1 dev eth1 weight 2 table 111 metric 7"
        );
        let refusing =
            Route { kind: RouteKind::Throw, nexthops: vec![NextHop { dev: 1, ..NextHop::default() }], ..route };
        assert_eq!(route_text(&host, &refusing), "throw default table 111 metric 7");
        let rule = Rule::lookup(Family::Ipv6, 1000, 111);
        assert_eq!(rule_command(&rule), "ip -6 rule add priority 1000 from all lookup 111");
    }
}
