//! The devices below an interface: what else touches a packet that goes out by it, or comes in.

use crate::model::{Host, Link};
use std::collections::BTreeSet;

/// An interface, its members and ports, and what it stands on, all the way down.
pub(super) fn stack<'a>(host: &'a Host, link: &'a Link) -> Vec<&'a Link> {
    let mut seen = BTreeSet::from([link.index]);
    let mut all = vec![link];
    let mut at = 0;
    while let Some(upper) = all.get(at).copied() {
        at += 1;
        let members = host.links.values().filter(|member| member.master == Some(upper.index));
        let lower = upper.lower.and_then(|index| host.links.get(&index));
        all.extend(members.chain(lower).filter(|below| seen.insert(below.index)));
    }
    all
}

/// Kinds of devices whose transmit is known not to look at the mark, nor to hand the packet with its mark to another look-up.
/// Tunnels take the packet's mark into their own look-up (vxlan, geneve; ip_tunnel and ip6_tunnel where they are told so, net/ipv4/ip_tunnel.c,
/// net/ipv6/ip6_tunnel.c), ipvlan and vrf look the packet up once more, openvswitch and netkit hand it to programs of others;
/// WireGuard marks by its own number. The empty kind is hardware.
const BLIND_TO_MARKS: [&str; 11] =
    ["", "bridge", "bond", "team", "vlan", "macvlan", "macvtap", "dummy", "tun", "veth", "wireguard"];

/// Whether the mark of a packet that leaves by an interface may still decide something; `below` is its [`stack`].
pub(super) fn reads_mark(below: &[&Link]) -> bool {
    below.iter().any(|link| {
        let blind = BLIND_TO_MARKS.contains(&link.kind.as_str());
        // A pair with both ends here: the packet comes in again, and keeps its mark.
        let returns = link.kind == "veth" && link.lower.is_some();
        let hidden = link.lower_elsewhere && link.kind != "veth";
        !blind || returns || hidden
    })
}

/// Kinds of devices whose transmit looks at the route that a packet goes by, which one that was redirected does not carry. What is too
/// large for the way of the outer packet they tell that route, so that the stack answers the next one with an ICMP error
/// (`skb_tunnel_check_pmtu`, net/ipv4/ip_tunnel_core.c; `tnl_update_pmtu`, net/ipv4/ip_tunnel.c; net/ipv6/ip6_tunnel.c), and one without a
/// remote address finds its other end by the route's gateway (`ip_tunnel_xmit`). Tunnels of other link layers are not given anything at all.
const ASKING_THE_ROUTE: [&str; 6] = ["vxlan", "geneve", "gretap", "erspan", "ip6gretap", "ip6erspan"];

/// Whether what leaves by an interface may be asked for its route; `below` is its [`stack`].
pub(super) fn asks_route(below: &[&Link]) -> bool {
    below.iter().any(|link| ASKING_THE_ROUTE.contains(&link.kind.as_str()))
}

/// Kinds of devices that deliver a packet with the key of the tunnel it came by (`skb_tunnel_info()`).
const WITH_TUNNEL_KEY: [&str; 14] = [
    "vxlan",
    "geneve",
    "bareudp",
    "gre",
    "gretap",
    "erspan",
    "ip6gre",
    "ip6gretap",
    "ip6erspan",
    "ipip",
    "sit",
    "ip6tnl",
    "xfrm",
    "openvswitch",
];

/// Whether a packet that comes in by `link` may have a tunnel key.
pub(super) fn has_tunnel_key(host: &Host, link: &Link) -> bool {
    stack(host, link).into_iter().any(|link| WITH_TUNNEL_KEY.contains(&link.kind.as_str()))
}
