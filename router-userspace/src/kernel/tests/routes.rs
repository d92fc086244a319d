//! Routes: every shape there and back.

use crate::model::{Family, NextHop, OWN_PROTOCOL, Route, RouteKind};
use std::net::IpAddr;

/// A default route of Wayfork's: out of device `dev`, or of the loopback device where that is 0.
pub(super) fn unicast(family: Family, table: u32, via: Option<IpAddr>, dev: u32) -> Route {
    let link_scope = family == Family::Ipv4 && via.is_none();
    Route {
        family,
        table,
        dst: family.default_prefix(),
        kind: RouteKind::Unicast,
        src: None,
        tos: 0,
        metric: if family == Family::Ipv6 { 1024 } else { 0 },
        protocol: OWN_PROTOCOL,
        scope: if link_scope { 253 } else { 0 },
        prefsrc: None,
        mtu: None,
        mtu_locked: false,
        pref: 0,
        nhid: 0,
        nexthops: vec![NextHop { via, dev: dev.max(1), weight: 1, ..Default::default() }],
    }
}
