//! The routes of a host as `[[route]]`.

use super::super::write::{Section, quoted};
use super::Import;
use crate::model::{
    Family, NextHop, OWN_PROTOCOL, Route, RouteKind, SCOPE_HOST, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, protocol_name,
};
use crate::policy::{Policy, PolicyRoute, Via};
use std::collections::HashSet;
use std::fmt::Write;

/// RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC (include/uapi/linux/rtnetlink.h).
const KERNEL: u8 = 2;
const BOOT: u8 = 3;
const STATIC: u8 = 4;

impl Import<'_> {
    /// The routes of all tables but the kernel's own; of `main` and `default` those that were set by hand.
    pub(super) fn routes(&mut self) {
        let host = self.host;
        let mut slots = HashSet::new();
        for route in &host.routes {
            let wanted = match route.table {
                0 => false,
                TABLE_LOCAL | TABLE_MAIN | TABLE_DEFAULT => matches!(route.protocol, BOOT | STATIC | OWN_PROTOCOL),
                _ => route.protocol != KERNEL,
            };
            if !wanted {
                continue;
            }
            let what = self.describe(route);
            let checked = self.route(route).and_then(|section| {
                let same = |policy: &Policy| match policy.routes.as_slice() {
                    [one] => self.is_same(route, one),
                    _ => false,
                };
                self.verify(&section, same)?;
                if slots.insert((route.family, route.table, route.dst, route.tos, route.metric)) {
                    Ok(section)
                } else {
                    Err("another route has the same destination and metric".to_owned())
                }
            });
            match checked {
                Ok(section) => self.body += &(section.text() + "\n"),
                Err(why) => self.leave_out(what, &why, None, Some(route.clone())),
            }
        }
    }

    fn route(&self, route: &Route) -> Result<Section, String> {
        let unsaid = [
            (route.src.is_some_and(|src| src.prefix_len() > 0), "it is for some sources only"),
            (route.mtu_locked, "its mtu is locked"),
            (route.pref != 0, "it has a router preference"),
            (route.nexthops.iter().any(|hop| hop.encap), "it wraps the packet"),
            (route.nexthops.iter().any(|hop| hop.realms != 0), "it has realms"),
            (route.expires.is_some(), "it is there for some time only"),
            (route.kind == RouteKind::Unicast && route.scope >= SCOPE_HOST, "its scope is that of a host"),
        ];
        if let Some((_, why)) = unsaid.iter().find(|(is, _)| *is) {
            return Err((*why).to_owned());
        }
        let mut section = Section::new("route");
        section.comment(format!("owner: {}", protocol_name(route.protocol)));
        if route.nhid != 0 {
            let ways: Vec<String> = route.nexthops.iter().map(|hop| self.way(hop)).collect();
            section.comment(format!("next-hop object {}:{}", route.nhid, ways.join(",")));
        }
        let learned = matches!(protocol_name(route.protocol).as_str(), "dhcp" | "ra");
        if learned && route.nexthops.iter().any(|hop| hop.via.is_some()) {
            section.comment("via = \"learned\" would follow the gateway that is announced");
        }
        let of_this_host = matches!(route.kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast);
        if route.table != if of_this_host { TABLE_LOCAL } else { TABLE_MAIN } {
            section.line("table", self.tables.value(route.table));
        }
        let default = route.dst.prefix_len() == 0;
        section.line("to", quoted(&if default { "default".to_owned() } else { route.dst.to_string() }));
        let evident = |family| match family {
            Family::Ipv4 => route.nexthops.iter().all(|hop| hop.via.is_none_or(|via| via.is_ipv4())),
            Family::Ipv6 => true,
        };
        let addressed =
            !default || route.tos != 0 || route.prefsrc.is_some() || route.nexthops.iter().any(|hop| hop.via.is_some());
        if !addressed || !evident(route.family) {
            section.line("family", quoted(&route.family.to_string()));
        }
        if route.kind != RouteKind::Unicast {
            section.line("type", quoted(route.kind.name()));
        }
        if route.tos != 0 {
            section.line("tos", format!("{:#04x}", route.tos));
        }
        if matches!(route.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
        {
            // No way out to tell of.
        } else if route.nhid != 0 {
            section.line("nhid", route.nhid.to_string());
        } else if let [hop] = route.nexthops.as_slice() {
            for (key, value) in self.hop(hop)? {
                section.line(key, value);
            }
        } else {
            let mut hops = Vec::new();
            for hop in &route.nexthops {
                let mut fields = self.hop(hop)?;
                fields.push(("weight", hop.weight.to_string()));
                let fields: Vec<String> = fields.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
                hops.push(format!("{{ {} }}", fields.join(", ")));
            }
            section.line("nexthops", format!("[{}]", hops.join(", ")));
        }
        if route.metric != default_metric(route.family) {
            section.line("metric", route.metric.to_string());
        }
        if let Some(src) = route.prefsrc {
            section.line("src", quoted(&src.to_string()));
        }
        if let Some(mtu) = route.mtu {
            section.line("mtu", mtu.to_string());
        }
        Ok(section)
    }

    fn hop(&self, hop: &NextHop) -> Result<Vec<(&'static str, String)>, String> {
        let mut fields = Vec::new();
        if let Some(via) = hop.via {
            fields.push(("via", quoted(&via.to_string())));
        }
        let link = self.host.links.get(&hop.dev).ok_or("its interface is not here")?;
        fields.push(("dev", quoted(&link.name)));
        if hop.onlink {
            fields.push(("onlink", "true".to_owned()));
        }
        Ok(fields)
    }

    fn is_same(&self, route: &Route, said: &PolicyRoute) -> bool {
        let hops = said.nexthops.iter().zip(&route.nexthops).all(|(said, hop)| {
            said.via == hop.via.map(Via::Address)
                && said.dev.as_deref() == self.host.links.get(&hop.dev).map(|link| link.name.as_str())
                && (said.weight == hop.weight || route.nexthops.len() == 1)
                && said.onlink == hop.onlink
        });
        let nowhere =
            matches!(said.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw);
        let out = nowhere || said.nhid.is_some() || said.nexthops.len() == route.nexthops.len() && hops;
        out && said.family == route.family
            && said.table == route.table
            && said.to == route.dst
            && said.kind == route.kind
            && said.tos == route.tos
            && said.nhid.unwrap_or(0) == route.nhid
            && said.metric.unwrap_or(default_metric(route.family)) == route.metric
            && said.src == route.prefsrc
            && said.mtu == route.mtu
    }

    /// A next hop in words.
    fn way(&self, hop: &NextHop) -> String {
        let via = hop.via.map(|via| format!(" via {via}")).unwrap_or_default();
        format!("{via} dev {}", self.host.link_name(hop.dev))
    }

    fn describe(&self, route: &Route) -> String {
        let mut text = format!("{} route {} {}", route.family, route.kind.name(), route.dst);
        for hop in &route.nexthops {
            if let Some(via) = hop.via {
                write!(text, " via {via}").ok();
            }
            if hop.dev != 0 {
                write!(text, " dev {}", self.host.link_name(hop.dev)).ok();
            }
        }
        write!(text, " table {} metric {}", route.table, route.metric).ok();
        text
    }
}

/// What the kernel takes a missing metric for.
fn default_metric(family: Family) -> u32 {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1024,
    }
}
