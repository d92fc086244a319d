//! Neighbour tables over netlink: RTM_GETNEIGH, RTM_NEWNEIGH (net/core/neighbour.c).

use super::Result;
use super::attributes::{Attributes, Decode, Malformed, decode, family_number, family_of};
use super::socket::{Request, Socket};
use crate::model::{Family, Neighbour, NeighbourState};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use std::net::IpAddr;

/// Length of `struct ndmsg`.
const HEADER: usize = 12;

/// The neighbour tables of both families.
pub(super) fn dump(socket: &mut Socket) -> Result<Vec<Neighbour>> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let what = format!("read the {family} neighbours");
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::from(family_number(family));
        let read = |bytes: &[u8]| Ok(decode(&what, || read(bytes))?.filter(|entry| Family::of(entry.addr) == family));
        let entries = socket.dump(&what, libc::RTM_GETNEIGH, &request, read);
        match entries {
            Ok(entries) => all.extend(entries),
            Err(error) if family == Family::Ipv6 && error.errno() == libc::EAFNOSUPPORT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// One entry from the payload of RTM_NEWNEIGH or RTM_DELNEIGH; None for bridge and proxy entries.
pub(super) fn read(bytes: &[u8]) -> Decode<Option<Neighbour>> {
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Malformed("neighbour header"))?;
    let [family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _] = *header;
    if family_of(family).is_none() || flags & libc::NTF_PROXY != 0 {
        return Ok(None);
    }
    let (mut addr, mut mac) = (None, None);
    for attribute in Attributes::after(bytes, HEADER)? {
        let attribute = attribute?;
        match attribute.kind {
            libc::NDA_DST => addr = Some(attribute.addr()?),
            libc::NDA_LLADDR => mac = attribute.mac(),
            _ => {}
        }
    }
    let addr = addr.ok_or(Malformed("neighbour without an address"))?;
    let state = state_of(u16::from_ne_bytes([s0, s1]));
    Ok(Some(Neighbour { index: u32::from_ne_bytes([i0, i1, i2, i3]), addr, mac, state }))
}

fn state_of(number: u16) -> NeighbourState {
    match number {
        libc::NUD_INCOMPLETE => NeighbourState::Incomplete,
        libc::NUD_REACHABLE => NeighbourState::Reachable,
        libc::NUD_STALE => NeighbourState::Stale,
        libc::NUD_DELAY => NeighbourState::Delay,
        libc::NUD_PROBE => NeighbourState::Probe,
        libc::NUD_FAILED => NeighbourState::Failed,
        libc::NUD_NOARP => NeighbourState::Noarp,
        libc::NUD_PERMANENT => NeighbourState::Permanent,
        other => NeighbourState::Other(other),
    }
}

/// The message that names one entry.
pub(super) fn message(index: u32, addr: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::from(family_number(Family::of(addr)));
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(match addr {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    message
}

/// What the kernel holds for one address; None for nothing.
pub(super) fn get(socket: &mut Socket, index: u32, addr: IpAddr) -> Result<Option<Neighbour>> {
    let what = format!("read neighbour {addr} on if{index}");
    let request = Request::new(what.as_str(), libc::RTM_GETNEIGH, 0, &message(index, addr));
    match socket.ask(request, |bytes| decode(&what, || read(bytes))) {
        Err(error) if error.errno() == libc::ENOENT => Ok(None),
        other => other,
    }
}

/// Asks the kernel to resolve or revalidate an entry as a packet to it would (NTF_USE), making it where there is none.
///
/// An entry that needs no revalidation is left alone: NTF_USE would take its permanence away (`__neigh_update`).
pub(super) fn use_entry(socket: &mut Socket, index: u32, addr: IpAddr) -> Result<()> {
    let fixed = [NeighbourState::Permanent, NeighbourState::Noarp];
    if get(socket, index, addr)?.is_some_and(|entry| fixed.contains(&entry.state)) {
        return Ok(());
    }
    let what = format!("revalidate neighbour {addr} on if{index}");
    let mut message = message(index, addr);
    message.header.flags = NeighbourFlags::Use;
    socket.request(Request::new(what, libc::RTM_NEWNEIGH, libc::NLM_F_CREATE, &message))
}
