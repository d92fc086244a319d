//! Asking the kernel where a packet would go: RTM_GETROUTE (`inet_rtm_getroute`, `inet6_rtm_getroute`).

use super::attributes::{Malformed, decode, family_number};
use super::routes;
use super::socket::{Request, Socket};
use super::{Result, RouteAnswer, RouteQuery};
use crate::model::{Family, RouteKind};
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute as Attr, RouteFlags, RouteMessage};
use router_common::verdict::Verdict;

/// RTA_FLOWLABEL (include/uapi/linux/rtnetlink.h).
const RTA_FLOWLABEL: u16 = 31;

/// Where would this packet go?
pub(super) fn ask(socket: &mut Socket, query: &RouteQuery) -> Result<RouteAnswer> {
    let family = Family::of(query.to);
    let what = format!("ask the kernel for the route to {}", query.to);
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = AddressFamily::from(family_number(family));
    header.destination_prefix_length = family.bits();
    header.tos = query.dscp << 2;
    // IPv4 names the table only where it is asked for; IPv6 always does, and refuses the flag.
    if family == Family::Ipv4 {
        header.flags = RouteFlags::LookupTable;
    }
    let attributes = &mut message.attributes;
    attributes.push(Attr::Destination(query.to.into()));
    if let Some(from) = query.from {
        header.source_prefix_length = family.bits();
        attributes.push(Attr::Source(from.into()));
    }
    if let Some(iif) = query.iif {
        attributes.push(Attr::Iif(iif));
        // A packet that comes in belongs to uid 0. IPv6 takes it for nobody's where the question does not say so, and would
        // not match `uidrange 0-0`, which real packets do.
        attributes.push(Attr::Uid(0));
    }
    if query.mark != 0 {
        attributes.push(Attr::Mark(query.mark));
    }
    attributes.extend(query.ipproto.map(Attr::IpProto));
    attributes.extend(query.sport.map(Attr::Sport));
    attributes.extend(query.dport.map(Attr::Dport));
    if query.flowlabel != 0 {
        attributes.push(Attr::Other(DefaultNla::new(RTA_FLOWLABEL, query.flowlabel.to_be_bytes().to_vec())));
    }
    let request = Request::new(what.as_str(), libc::RTM_GETROUTE, 0, &message);
    let answer = socket.ask(request, |bytes| {
        decode(&what, || {
            let answer = routes::read_message(bytes)?.ok_or(Malformed("answer"))?;
            Ok(RouteAnswer {
                verdict: verdict_of(answer.route.kind),
                errno: 0,
                oif: answer.oif,
                via: answer.via,
                table: answer.route.table,
                prefsrc: answer.route.prefsrc,
            })
        })
    });
    match answer {
        // A sentence from the kernel is about the question; a refusal by the routing decision has none.
        Err(error) if error.said.is_none() && refused(error.errno()).is_some() => Ok(RouteAnswer {
            verdict: refused(error.errno()).unwrap_or(Verdict::Undecided),
            errno: error.errno(),
            oif: 0,
            via: None,
            table: 0,
            prefsrc: None,
        }),
        other => other,
    }
}

/// The verdict behind a refusal; None for an error that is none.
///
/// The numbers are `fib_props` (net/ipv4/fib_semantics.c) and `ip6_rt_type_to_error`; a source that is refused is EINVAL or,
/// by rp_filter, EXDEV.
fn refused(errno: i32) -> Option<Verdict> {
    match errno {
        libc::EINVAL | libc::EXDEV => Some(Verdict::Martian),
        libc::ENETUNREACH => Some(Verdict::NoRoute),
        libc::EHOSTUNREACH => Some(Verdict::Unreachable),
        libc::EACCES => Some(Verdict::Prohibit),
        _ => None,
    }
}

fn verdict_of(kind: RouteKind) -> Verdict {
    match kind {
        RouteKind::Unicast => Verdict::Forward,
        RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast => Verdict::Local,
        RouteKind::Blackhole => Verdict::Blackhole,
        RouteKind::Unreachable => Verdict::Unreachable,
        RouteKind::Prohibit => Verdict::Prohibit,
        RouteKind::Throw | RouteKind::Unknown(_) => Verdict::Undecided,
    }
}
