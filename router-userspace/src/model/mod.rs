//! The one model: what the kernel holds, and what a policy wants it to hold, in the same types.
//!
//! Pure data. Knows nothing of netlink, eBPF, async or the command line.

mod feature;
mod host;
mod identity;
mod route;
mod rule;
mod scaffold;
mod set;

pub use feature::RuleFeature;
pub use host::{Address, DeviceConf, Host, Link, Neighbour, NeighbourState, Settings};
pub use identity::{OWN_PROTOCOL, protocol_name, rule_id, rule_ids};
pub use route::{NextHop, Route, RouteKind, SCOPE_HOST};
pub use rule::{Attached, FLOWLABEL_MASK, MarkRule, MarkSelectors, Ports, Rule, RuleAction, Selectors, display_rules};
pub(crate) use scaffold::STAYING;
pub use set::{AddressSet, PrefixSet, Ranges, Side, difference};

use std::net::IpAddr;

/// One of the two address families. Rules, tables and routes of the two never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AF_INET.
    Ipv4,
    /// AF_INET6.
    Ipv6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// Address length in bits: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }

    /// The prefix that holds every address: `0.0.0.0/0` or `::/0`.
    pub fn default_prefix(self) -> ipnet::IpNet {
        match self {
            Family::Ipv4 => ipnet::IpNet::V4(ipnet::Ipv4Net::default()),
            Family::Ipv6 => ipnet::IpNet::V6(ipnet::Ipv6Net::default()),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        })
    }
}

/// RT_TABLE_LOCAL: the kernel's table of this host's own addresses.
pub const TABLE_LOCAL: u32 = 255;
/// RT_TABLE_MAIN.
pub const TABLE_MAIN: u32 = 254;
/// RT_TABLE_DEFAULT.
pub const TABLE_DEFAULT: u32 = 253;
/// Priorities of the kernel's own rules for `main` and `default` (`fib_default_rules_init`, net/ipv4/fib_rules.c).
pub const PRIORITY_MAIN: u32 = 32766;
/// See [`PRIORITY_MAIN`]; IPv6 has none.
pub const PRIORITY_DEFAULT: u32 = 32767;
