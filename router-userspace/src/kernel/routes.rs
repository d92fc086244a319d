//! The FIB over netlink: RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE (net/ipv4/fib_frontend.c, net/ipv6/route.c).

use super::attributes::{Attribute, Attributes, Decode, Malformed, decode, family_number, family_of};
use super::socket::{Request, Socket, bytes_of};
use super::{Error, Result};
use super::{links, nexthops};
use crate::model::{Family, NextHop, Route, RouteKind};
use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute as Attr, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Length of `struct rtmsg`.
const HEADER: usize = 12;
/// Length of `struct rtnexthop`.
const NEXTHOP_HEADER: usize = 8;
/// RTA_EXPIRES: seconds.
const RTA_EXPIRES: u16 = 23;
/// RTA_NH_ID (include/uapi/linux/rtnetlink.h).
const RTA_NH_ID: u16 = 30;
/// RTAX_LOCK, RTAX_MTU: metrics inside RTA_METRICS.
const RTAX_LOCK: u16 = 1;
const RTAX_MTU: u16 = 2;
/// RTNH_F_*: flags of a next hop, also in the low bits of `rtm_flags`.
const RTNH_F_DEAD: u32 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTNH_F_LINKDOWN: u32 = 16;
/// The metric that IPv6 gives a route that names none (IP6_RT_PRIO_USER).
const IPV6_METRIC: u32 = 1024;

/// The routes of both families, all tables, without cached ones.
pub(super) fn dump(socket: &mut Socket) -> Result<Vec<Route>> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        all.extend(dump_where(socket, family, |_| (), false)?);
    }
    // With net.ipv4.nexthop_compat_mode = 0 a route of a next-hop object reports the object's number alone.
    let bare = |route: &Route| route.nhid != 0 && route.nexthops.is_empty() && has_ways(route.kind);
    if all.iter().any(bare) {
        let objects = nexthops::dump(socket)?;
        for route in all.iter_mut().filter(|route| bare(route)) {
            route.nexthops = objects.get(&route.nhid).cloned().unwrap_or_default();
        }
    }
    Ok(all)
}

/// The routes of a family that the kernel finds to agree with what `filter` puts into the request.
fn dump_where(
    socket: &mut Socket,
    family: Family,
    filter: impl Fn(&mut RouteMessage),
    cloned: bool,
) -> Result<Vec<Route>> {
    let what = format!("read the {family} routes");
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::from(family_number(family));
    filter(&mut request);
    // A kernel without IPv6 answers for all the families it has.
    let read = |bytes: &[u8]| Ok(decode(&what, || read(bytes, cloned))?.filter(|route| route.family == family));
    let routes = socket.dump(&what, libc::RTM_GETROUTE, &request, read);
    match routes {
        // No such table yet, or no such family.
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::EAFNOSUPPORT) => Ok(Vec::new()),
        other => other,
    }
}

/// The destinations of the stack's own exceptions to routes (RTM_F_CLONED; 5.3 and later, `fib_dump_info_fnhe`,
/// `rt6_nh_dump_exceptions`). An IPv4 exception is listed once a packet has used it.
pub(super) fn exceptions(socket: &mut Socket) -> Result<BTreeSet<IpAddr>> {
    let mut all = BTreeSet::new();
    for family in Family::BOTH {
        let cloned = |request: &mut RouteMessage| request.header.flags = RouteFlags::Cloned;
        all.extend(dump_where(socket, family, cloned, true)?.into_iter().map(|route| route.dst.addr()));
    }
    Ok(all)
}

/// What one RTM_NEWROUTE says, before it becomes a [`Route`]; an answer to RTM_GETROUTE has the same form.
pub(super) struct Message {
    pub header: RouteHeader,
    pub route: Route,
    /// RTA_OIF of the message itself, 0 where it has none.
    pub oif: u32,
    /// Its RTA_GATEWAY or RTA_VIA.
    pub via: Option<IpAddr>,
}

/// One route; None for what is no route of IPv4 or IPv6. Either the stack's own copies alone, or all but these.
fn read(bytes: &[u8], cloned: bool) -> Decode<Option<Route>> {
    let Some(message) = read_message(bytes)? else {
        return Ok(None);
    };
    let is_cloned = message.header.flags.contains(RouteFlags::Cloned);
    Ok((is_cloned == cloned).then_some(message.route))
}

/// Reads the payload of RTM_NEWROUTE.
pub(super) fn read_message(bytes: &[u8]) -> Decode<Option<Message>> {
    let header = RouteHeader::parse(bytes).map_err(|_| Malformed("route header"))?;
    let Some(family) = family_of(header.address_family.into()) else {
        return Ok(None);
    };
    let kind = kind_of(header.kind.into());
    let flags = header.flags.bits();
    let mut route = Route {
        tos: header.tos,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        ..Route::to(u32::from(header.table), family.default_prefix(), kind)
    };
    let mut hop = hop(flags);
    let mut has_hop = false;
    for attribute in Attributes::after(bytes, HEADER)? {
        let attribute = attribute?;
        match attribute.kind {
            libc::RTA_DST => route.dst = attribute.prefix(header.destination_prefix_length)?,
            libc::RTA_SRC => {
                route.src = Some(attribute.prefix(header.source_prefix_length)?).filter(|net| net.prefix_len() > 0)
            }
            libc::RTA_TABLE => route.table = attribute.u32()?,
            libc::RTA_PRIORITY => route.metric = attribute.u32()?,
            libc::RTA_PREFSRC => route.prefsrc = Some(attribute.addr()?),
            libc::RTA_METRICS => read_metrics(&attribute, &mut route)?,
            libc::RTA_PREF => route.pref = attribute.u8()?,
            RTA_NH_ID => route.nhid = attribute.u32()?,
            libc::RTA_CACHEINFO if family == Family::Ipv6 => route.expires = expiry(&attribute)?,
            libc::RTA_MULTIPATH => route.nexthops = multipath(&attribute)?,
            _ => has_hop |= hop_attribute(&mut hop, &attribute)?,
        }
    }
    let (oif, via) = (hop.dev, hop.via);
    if has_hop && route.nexthops.is_empty() && has_ways(kind) {
        route.nexthops = vec![hop];
    }
    if !has_ways(kind) {
        // IPv6 reports the loopback device, IPv4 nothing.
        route.nexthops.clear();
    }
    Ok(Some(Message { header, route, oif, via }))
}

/// Whether routes of this kind lead anywhere.
fn has_ways(kind: RouteKind) -> bool {
    !matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw)
}

fn hop(flags: u32) -> NextHop {
    NextHop {
        weight: 1,
        onlink: flags & RTNH_F_ONLINK != 0,
        dead: flags & RTNH_F_DEAD != 0,
        linkdown: flags & RTNH_F_LINKDOWN != 0,
        ..Default::default()
    }
}

/// Takes what a next hop is made of; false for other attributes.
fn hop_attribute(hop: &mut NextHop, attribute: &Attribute<'_>) -> Decode<bool> {
    match attribute.kind {
        libc::RTA_OIF => hop.dev = attribute.u32()?,
        libc::RTA_GATEWAY => hop.via = Some(attribute.addr()?),
        libc::RTA_VIA => match attribute.via()? {
            Some(via) => hop.via = Some(via),
            // A gateway that is no IP address: nothing that could be sent to from here.
            None => hop.encap = true,
        },
        libc::RTA_FLOW => hop.realms = attribute.u32()?,
        libc::RTA_ENCAP | libc::RTA_ENCAP_TYPE => hop.encap = true,
        _ => return Ok(false),
    }
    Ok(true)
}

/// RTA_MULTIPATH: a run of `struct rtnexthop`, each with attributes of its own.
fn multipath(attribute: &Attribute<'_>) -> Decode<Vec<NextHop>> {
    let mut hops = Vec::new();
    let mut rest = attribute.value;
    while let Some(header) = rest.first_chunk::<NEXTHOP_HEADER>() {
        let [l0, l1, flags, weight, i0, i1, i2, i3] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let inside = rest.get(NEXTHOP_HEADER..length).ok_or(Malformed("next hop length"))?;
        let mut hop = hop(u32::from(flags));
        hop.dev = u32::from_ne_bytes([i0, i1, i2, i3]);
        hop.weight = u16::from(weight) + 1;
        for attribute in Attributes::new(inside) {
            hop_attribute(&mut hop, &attribute?)?;
        }
        hops.push(hop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}

/// `rta_expires` of `struct rta_cacheinfo`, its third word: how long the kernel uses the route yet, in 1/100 s; 0 is for ever, and
/// less that its time is over (`rtnl_put_cacheinfo`, net/core/rtnetlink.c).
fn expiry(attribute: &Attribute<'_>) -> Decode<Option<u32>> {
    const TICKS: i64 = 100;
    let left = attribute.element(2).ok_or(Malformed("cache information"))?.cast_signed();
    if left == 0 {
        return Ok(None);
    }
    // Whole seconds, and never too late.
    let end = now() + i64::from(left).div_euclid(TICKS);
    Ok(Some(u32::try_from(end).unwrap_or(1).max(1)))
}

/// CLOCK_MONOTONIC, whole seconds.
fn now() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec())
}

fn read_metrics(attribute: &Attribute<'_>, route: &mut Route) -> Decode<()> {
    for metric in attribute.nested() {
        let metric = metric?;
        match metric.kind {
            RTAX_MTU => route.mtu = Some(metric.u32()?),
            RTAX_LOCK => route.mtu_locked = metric.u32()? & (1 << RTAX_MTU) != 0,
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn kind_of(number: u8) -> RouteKind {
    match number {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_LOCAL => RouteKind::Local,
        libc::RTN_BROADCAST => RouteKind::Broadcast,
        libc::RTN_ANYCAST => RouteKind::Anycast,
        libc::RTN_MULTICAST => RouteKind::Multicast,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        libc::RTN_PROHIBIT => RouteKind::Prohibit,
        libc::RTN_THROW => RouteKind::Throw,
        other => RouteKind::Unknown(other),
    }
}

fn number_of(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Unicast => libc::RTN_UNICAST,
        RouteKind::Local => libc::RTN_LOCAL,
        RouteKind::Broadcast => libc::RTN_BROADCAST,
        RouteKind::Anycast => libc::RTN_ANYCAST,
        RouteKind::Multicast => libc::RTN_MULTICAST,
        RouteKind::Blackhole => libc::RTN_BLACKHOLE,
        RouteKind::Unreachable => libc::RTN_UNREACHABLE,
        RouteKind::Prohibit => libc::RTN_PROHIBIT,
        RouteKind::Throw => libc::RTN_THROW,
        RouteKind::Unknown(other) => other,
    }
}

/// A route as messages name it: `ipv4 blackhole 10.0.0.0/8 table 111 metric 0`. Only for errors: it asks for the names of
/// interfaces.
fn describe(socket: &mut Socket, route: &Route) -> String {
    let names = links::dump(socket).unwrap_or_default();
    let name = |index| names.get(&index).map_or_else(|| format!("if{index}"), |link| link.name.clone());
    let mut text = format!("{} {} {} table {}", route.family, route.kind.name(), route.dst, route.table);
    for hop in &route.nexthops {
        if let Some(via) = hop.via {
            text += &format!(" via {via}");
        }
        if hop.dev != 0 {
            text += &format!(" dev {}", name(hop.dev));
        }
    }
    text + &format!(" metric {}", route.metric)
}

fn message(what: &str, route: &Route) -> Result<RouteMessage> {
    let no = |said: String| Err(Error::from_errno(what, libc::EOPNOTSUPP).saying(Some(said)));
    if let Some(hop) = route.nexthops.iter().find(|hop| hop.encap) {
        return no(format!("this version cannot write the encapsulation of the next hop on if{}", hop.dev));
    }
    if let Some(wrong) =
        [Some(route.dst), route.src].into_iter().flatten().find(|net| Family::of(net.addr()) != route.family)
    {
        return no(format!("{wrong} is no {} prefix", route.family));
    }
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = AddressFamily::from(family_number(route.family));
    header.destination_prefix_length = route.dst.prefix_len();
    header.source_prefix_length = route.src.map_or(0, |net| net.prefix_len());
    header.tos = route.tos;
    header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.protocol = route.protocol.into();
    header.scope = route.scope.into();
    header.kind = number_of(route.kind).into();
    let attributes = &mut message.attributes;
    if route.dst.prefix_len() > 0 {
        attributes.push(Attr::Destination(route.dst.addr().into()));
    }
    attributes.extend(route.src.map(|net: IpNet| Attr::Source(net.addr().into())));
    attributes.push(Attr::Table(route.table));
    let metric = match route.family {
        Family::Ipv6 if route.metric == 0 => IPV6_METRIC,
        _ => route.metric,
    };
    if metric != 0 {
        attributes.push(Attr::Priority(metric));
    }
    attributes.extend(route.prefsrc.map(|addr| Attr::PrefSource(addr.into())));
    if let Some(mtu) = route.mtu {
        let lock = route.mtu_locked.then_some(RouteMetric::Lock(1 << RTAX_MTU));
        attributes.push(Attr::Metrics(lock.into_iter().chain([RouteMetric::Mtu(mtu)]).collect()));
    }
    if let Some(left) = route.expires.filter(|_| route.family == Family::Ipv6) {
        let left = i64::from(left).saturating_sub(now()).max(1);
        attributes.push(Attr::Other(DefaultNla::new(RTA_EXPIRES, (left as u32).to_ne_bytes().to_vec())));
    }
    if route.family == Family::Ipv6 && route.pref != 0 {
        attributes.push(Attr::Preference(route.pref.into()));
    }
    match route.nexthops.as_slice() {
        _ if route.nhid != 0 => attributes.push(Attr::NhId(route.nhid)),
        [] => {}
        [hop] => {
            header.flags.set(RouteFlags::Onlink, hop.onlink);
            attributes.extend(hop_attributes(route.family, hop));
            attributes.extend((hop.dev != 0).then_some(Attr::Oif(hop.dev)));
        }
        hops => {
            let mut all = Vec::new();
            for hop in hops {
                let Ok(weight) = u8::try_from(hop.weight.saturating_sub(1)) else {
                    return no(format!("weight {} is not within 1 to 256", hop.weight));
                };
                let mut one = RouteNextHop::default();
                one.flags.set(RouteNextHopFlags::Onlink, hop.onlink);
                one.hops = weight;
                one.interface_index = hop.dev;
                one.attributes = hop_attributes(route.family, hop);
                all.push(one);
            }
            attributes.push(Attr::MultiPath(all));
        }
    }
    Ok(message)
}

/// The gateway: RTA_GATEWAY in the route's own family, RTA_VIA in the other.
fn hop_attributes(family: Family, hop: &NextHop) -> Vec<Attr> {
    let gateway =
        hop.via.map(|via| if Family::of(via) == family { Attr::Gateway(via.into()) } else { Attr::Via(via.into()) });
    gateway.into_iter().collect()
}

/// Adds a route. NLM_F_EXCL: a slot that is taken is EEXIST, whoever has it.
pub(super) fn add(socket: &mut Socket, route: &Route) -> Result<()> {
    const WHAT: &str = "add route";
    let added = message(WHAT, route).and_then(|message| {
        socket.request(Request::new(WHAT, libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &message))
    });
    added.map_err(|error| naming(socket, WHAT, route, error))
}

/// Deletes a route.
///
/// An IPv4 request with metric 0 means "any metric" (`fib_nh_match`), and the kind is not compared in IPv6
/// (`ip6_route_del`): so it is looked whether exactly this route is there before the kernel is asked.
pub(super) fn delete(socket: &mut Socket, route: &Route) -> Result<()> {
    const WHAT: &str = "delete route";
    delete_exactly(socket, WHAT, route).map_err(|error| naming(socket, WHAT, route, error))
}

/// The error with the route that it is about.
fn naming(socket: &mut Socket, what: &str, route: &Route, error: Error) -> Error {
    Error { what: format!("{what}: {}", describe(socket, route)), ..error }
}

fn delete_exactly(socket: &mut Socket, what: &str, route: &Route) -> Result<()> {
    let message = message(what, route)?;
    let header = &message.header;
    let filter = |request: &mut RouteMessage| {
        request.header.table = header.table;
        request.header.protocol = header.protocol;
        request.attributes.push(Attr::Table(route.table));
    };
    let there = dump_where(socket, route.family, filter, false)?;
    let mut wanted = route.clone();
    if wanted.family == Family::Ipv6 && wanted.metric == 0 {
        wanted.metric = IPV6_METRIC;
    }
    if !there.iter().any(|one| one.same_slot(&wanted) && one.kind == wanted.kind && one.protocol == wanted.protocol) {
        return Err(Error::from_errno(what, libc::ESRCH));
    }
    let what = what.to_owned();
    socket.request(Request { what, kind: libc::RTM_DELROUTE, flags: 0, ack: true, body: bytes_of(&message) })
}
