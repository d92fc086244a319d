//! What one network namespace holds: the snapshot that every decision is compiled from.

use super::{Family, Route, Rule, RuleFeature};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index: any value up to 2^31 - 1.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its other names (`ip link property add altname`).
    pub altnames: Vec<String>,
    /// ARPHRD_*: 1 Ethernet, 772 loopback, 65534 no link-layer header (TUN, WireGuard).
    pub arphrd: u16,
    /// IFLA_INFO_KIND: `veth`, `wireguard`, `vrf`, …; empty for hardware.
    pub kind: String,
    /// Hardware address; None where the device has none or one that is not 6 bytes long.
    pub mac: Option<[u8; 6]>,
    /// Device MTU.
    pub mtu: u32,
    /// IFF_UP.
    pub up: bool,
    /// IFF_LOWER_UP: has carrier.
    pub lower_up: bool,
    /// The device that takes its frames: bridge, bond, team, VRF.
    pub master: Option<u32>,
    /// The device below (macvlan, VLAN, veth peer in this namespace); None for none or one elsewhere.
    pub lower: Option<u32>,
    /// The device below is in another namespace.
    pub lower_elsewhere: bool,
    /// Interface group.
    pub group: u32,
    /// Per-device settings of IPv4.
    pub v4: DeviceConf,
    /// Per-device settings of IPv6.
    pub v6: DeviceConf,
}

/// The settings of one interface in one family (`net.ipv4.conf.DEV`, `net.ipv6.conf.DEV`), of the interface alone: the
/// kernel combines some of them with `all`, see [`Host`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceConf {
    /// `forwarding`.
    pub forwarding: bool,
    /// IPv6 `force_forwarding` (6.17 and later).
    pub force_forwarding: bool,
    /// IPv4 `rp_filter`: 0, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// `accept_redirects`.
    pub accept_redirects: bool,
    /// IPv4 `send_redirects`.
    pub send_redirects: bool,
    /// IPv4 `accept_local`.
    pub accept_local: bool,
    /// IPv4 `src_valid_mark`.
    pub src_valid_mark: bool,
    /// IPv4 `route_localnet`.
    pub route_localnet: bool,
    /// `ignore_routes_with_linkdown`.
    pub ignore_linkdown: bool,
    /// IPv6 `mtu` of the interface; 0 in IPv4.
    pub mtu: u32,
    /// IPv6 `disable_ipv6`.
    pub disabled: bool,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Interface index.
    pub index: u32,
    /// The address.
    pub addr: IpAddr,
    /// Prefix length of its network.
    pub prefix_len: u8,
}

/// NUD_* (include/uapi/linux/neighbour.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Being resolved.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Not confirmed lately; the stack revalidates it when it is used.
    Stale,
    /// In use and soon to be probed: the kernel's timer is running.
    Delay,
    /// Being probed by unicast: the kernel's timer is running.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    Noarp,
    /// Set by hand, never expires.
    Permanent,
    /// NUD_NONE or a combination this version does not know.
    Other(u16),
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface index.
    pub index: u32,
    /// Its network address.
    pub addr: IpAddr,
    /// Its hardware address where known and 6 bytes long.
    pub mac: Option<[u8; 6]>,
    /// Its state.
    pub state: NeighbourState,
}

/// Settings of the whole namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.conf.all`.
    pub all_v4: DeviceConf,
    /// `net.ipv6.conf.all`.
    pub all_v6: DeviceConf,
    /// `net.ipv4.ip_forward_use_pmtu`.
    pub forward_use_pmtu: bool,
    /// `net.ipv4.ip_forward_update_priority` is off: forwarding leaves a packet's priority alone.
    pub keep_priority: bool,
    /// `net.ipv4.fib_multipath_hash_policy`.
    pub hash_policy_v4: u8,
    /// `net.ipv6.fib_multipath_hash_policy`.
    pub hash_policy_v6: u8,
    /// The namespace belongs to another user namespace than this process: user 0 of its forwarded packets has a number here that
    /// is not known.
    pub of_other_users: bool,
}

/// Everything that routing looks at in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The RPDB of both families, each in the kernel's order.
    pub rules: Vec<Rule>,
    /// The FIB of both families, all tables, as dumped. Cached and cloned routes are not in it.
    pub routes: Vec<Route>,
    /// Interfaces by index.
    pub links: BTreeMap<u32, Link>,
    /// This host's addresses.
    pub addresses: Vec<Address>,
    /// The neighbour tables of both families.
    pub neighbours: Vec<Neighbour>,
    /// Settings.
    pub settings: Settings,
    /// Destinations for which the stack has a gateway or a path MTU of its own, which no route shows.
    pub exceptions: BTreeSet<IpAddr>,
    /// The numbers of the next-hop objects.
    pub nexthop_objects: BTreeSet<u32>,
    /// What its kernel has no rules for.
    pub lacks: BTreeSet<RuleFeature>,
}

impl Host {
    /// The rules of one family, in order.
    pub fn rules_of(&self, family: Family) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.family == family)
    }

    /// The interface of that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The interface that the kernel finds by a name, its own or another (`__dev_get_by_name`, net/core/dev.c): no two share one.
    pub fn link_by_any_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name || link.altnames.iter().any(|other| other == name))
    }

    /// The interfaces' own names by their other names.
    pub fn own_names(&self) -> HashMap<&str, &str> {
        let mut names = HashMap::new();
        for link in self.links.values() {
            names.extend(link.altnames.iter().map(|other| (other.as_str(), link.name.as_str())));
        }
        names
    }

    /// The name of an interface, or `if7` where it is gone.
    pub fn link_name(&self, index: u32) -> String {
        self.links.get(&index).map_or_else(|| format!("if{index}"), |link| link.name.clone())
    }

    /// Reverse-path filter in force on an interface: the larger of the device's and of `all` (`IN_DEV_RPFILTER`, include/linux/inetdevice.h).
    pub fn rp_filter(&self, link: &Link) -> u8 {
        link.v4.rp_filter.max(self.settings.all_v4.rp_filter)
    }

    /// Whether packets from this interface are forwarded. IPv4: the device's own switch (`IN_DEV_FORWARD` in `ip_route_input_slow`);
    /// IPv6: `all.forwarding` or the device's `force_forwarding` (`ip6_forward`).
    pub fn forwards(&self, link: &Link, family: Family) -> bool {
        match family {
            Family::Ipv4 => link.v4.forwarding,
            Family::Ipv6 => self.settings.all_v6.forwarding || link.v6.force_forwarding,
        }
    }

    /// Whether an ICMP redirect that comes in here makes the stack change a gateway. IPv4: `IN_DEV_RX_REDIRECTS`, both switches
    /// where the interface forwards and either where it does not; IPv6: not where it forwards (`rt6_do_redirect`).
    pub fn accepts_redirects(&self, link: &Link, family: Family) -> bool {
        let (all, own) = (self.settings.all_v4.accept_redirects, link.v4.accept_redirects);
        match family {
            Family::Ipv4 if link.v4.forwarding => all && own,
            Family::Ipv4 => all || own,
            Family::Ipv6 => link.v6.accept_redirects && !link.v6.forwarding && !link.v6.disabled,
        }
    }

    /// Whether ICMP redirects are sent on an interface: the device's or `all` (`IN_DEV_TX_REDIRECTS` is an OR).
    pub fn send_redirects(&self, link: &Link) -> bool {
        link.v4.send_redirects || self.settings.all_v4.send_redirects
    }
}

impl NeighbourState {
    /// Whether the stack sends to the entry's address now and the kernel itself keeps it true: confirmed, needing no
    /// confirmation, or with the kernel's own revalidation timer running (`__neigh_event_send`, `neigh_timer_handler`).
    /// A stale entry is not: only a packet through the stack (or NTF_USE) starts its timer.
    pub fn is_usable(self) -> bool {
        matches!(
            self,
            NeighbourState::Reachable
                | NeighbourState::Permanent
                | NeighbourState::Noarp
                | NeighbourState::Delay
                | NeighbourState::Probe
        )
    }
}
