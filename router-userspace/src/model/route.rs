//! Routes of the FIB.

use super::Family;
use ipnet::IpNet;
use std::net::IpAddr;

/// RT_SCOPE_HOST: nothing beyond this host, so no gateway. Routes to this host have it, and unicast ones that somebody gives it.
pub const SCOPE_HOST: u8 = 254;

/// What a route says (RTN_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Send to the next hop.
    Unicast,
    /// This host.
    Local,
    /// A broadcast address of a network of this host.
    Broadcast,
    /// IPv6 anycast: this host among others.
    Anycast,
    /// A multicast group.
    Multicast,
    /// Drop silently.
    Blackhole,
    /// Answer "host unreachable".
    Unreachable,
    /// Answer "administratively prohibited".
    Prohibit,
    /// As if this table had no route: go on with the next rule.
    Throw,
    /// A type this version does not know.
    Unknown(u8),
}

/// One way out of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NextHop {
    /// The gateway; None is "on the link". An IPv4 route may have an IPv6 gateway (RTA_VIA).
    pub via: Option<IpAddr>,
    /// Interface index; 0 is none.
    pub dev: u32,
    /// iproute2's weight, 1 to 256; 1 where there is one next hop.
    pub weight: u16,
    /// RTNH_F_ONLINK.
    pub onlink: bool,
    /// RTNH_F_DEAD: the kernel does not use it.
    pub dead: bool,
    /// RTNH_F_LINKDOWN: no carrier; unused where `ignore_routes_with_linkdown` is set.
    pub linkdown: bool,
    /// IPv4: the realms that a packet gets which takes it (RTA_FLOW), 0 for none. They choose nothing, but make the kernel look at
    /// every source (`fib_num_tclassid_users`).
    pub realms: u32,
    /// It wraps the packet (RTA_ENCAP: MPLS, SEG6, …).
    pub encap: bool,
}

/// One route as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The family whose table holds it.
    pub family: Family,
    /// Table number.
    pub table: u32,
    /// Destination prefix.
    pub dst: IpNet,
    /// What it says.
    pub kind: RouteKind,
    /// IPv6 source-specific route (`from`); its length is 0 where there is none.
    pub src: Option<IpNet>,
    /// IPv4: only packets of this TOS. 0 is any.
    pub tos: u8,
    /// RTA_PRIORITY; lower wins. IPv6 shows 1024 where none was given.
    pub metric: u32,
    /// RTPROT_*: who installed it.
    pub protocol: u8,
    /// RT_SCOPE_*: 0 universe, 253 link, 254 host.
    pub scope: u8,
    /// Preferred source address for this host's own packets.
    pub prefsrc: Option<IpAddr>,
    /// RTAX_MTU; None where the route has none.
    pub mtu: Option<u32>,
    /// RTAX_LOCK covers the mtu.
    pub mtu_locked: bool,
    /// IPv6 router preference (RTA_PREF): 0 medium, 1 high, 3 low.
    pub pref: u8,
    /// IPv6: from this second of CLOCK_MONOTONIC on the kernel may not use it any more; 1 where that has come. It may be given more
    /// time, or less, without a word (a router advertisement does).
    pub expires: Option<u32>,
    /// Next-hop object id, 0 where there is none.
    pub nhid: u32,
    /// The ways out. More than one: multipath. Empty for the types without one.
    pub nexthops: Vec<NextHop>,
}

impl Route {
    /// A route that says no more than that: of nobody's, without a next hop.
    pub fn to(table: u32, dst: IpNet, kind: RouteKind) -> Route {
        Route {
            family: Family::of(dst.addr()),
            table,
            dst,
            kind,
            src: None,
            tos: 0,
            metric: 0,
            protocol: 0,
            scope: 0,
            prefsrc: None,
            mtu: None,
            mtu_locked: false,
            pref: 0,
            expires: None,
            nhid: 0,
            nexthops: Vec::new(),
        }
    }

    /// Whether two routes are the same entry of the FIB: the kernel tells routes apart by table, prefix, tos and metric
    /// (and, in IPv6, lets several share these).
    pub fn same_slot(&self, other: &Route) -> bool {
        self.family == other.family
            && self.table == other.table
            && self.dst == other.dst
            && self.src == other.src
            && self.tos == other.tos
            && self.metric == other.metric
    }
}

impl RouteKind {
    /// iproute2's word.
    pub fn name(self) -> &'static str {
        match self {
            RouteKind::Unicast => "unicast",
            RouteKind::Local => "local",
            RouteKind::Broadcast => "broadcast",
            RouteKind::Anycast => "anycast",
            RouteKind::Multicast => "multicast",
            RouteKind::Blackhole => "blackhole",
            RouteKind::Unreachable => "unreachable",
            RouteKind::Prohibit => "prohibit",
            RouteKind::Throw => "throw",
            RouteKind::Unknown(_) => "unknown",
        }
    }
}
