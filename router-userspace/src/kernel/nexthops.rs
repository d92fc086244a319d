//! Next-hop objects: RTM_GETNEXTHOP (net/ipv4/nexthop.c, include/uapi/linux/nexthop.h).

use super::Result;
use super::attributes::family_number;
use super::attributes::{Attributes, Decode, decode};
use super::socket::{Request, Socket};
use super::wire::Attrs;
use crate::model::{Family, NextHop};
use netlink_packet_core::Emitable;
use std::collections::HashMap;
use std::net::IpAddr;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
/// Length of `struct nhmsg`.
const HEADER: usize = 8;
const RTPROT_STATIC: u8 = 4;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
const NHA_ENCAP: u16 = 8;
/// RTNH_F_*, here in `nh_flags`.
const RTNH_F_DEAD: u32 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTNH_F_LINKDOWN: u32 = 16;

/// `struct nhmsg` with everything 0: all objects of all families.
struct Everything;

impl Emitable for Everything {
    fn buffer_len(&self) -> usize {
        HEADER
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

enum Object {
    Single(NextHop),
    /// Members and their weights.
    Group(Vec<(u32, u16)>),
}

/// The ways out of every object by its number; a group's are its members'.
pub(super) fn dump(socket: &mut Socket) -> Result<HashMap<u32, Vec<NextHop>>> {
    let what = "read the next-hop objects";
    let objects = socket.dump(what, RTM_GETNEXTHOP, &Everything, |bytes| decode(what, || read(bytes).map(Some)))?;
    let objects: HashMap<u32, Object> = objects.into_iter().collect();
    let ways = objects.iter().map(|(id, object)| {
        let ways = match object {
            Object::Single(hop) => vec![hop.clone()],
            Object::Group(members) => members
                .iter()
                .filter_map(|(member, weight)| match objects.get(member) {
                    Some(Object::Single(hop)) => Some(NextHop { weight: *weight, ..hop.clone() }),
                    _ => None,
                })
                .collect(),
        };
        (*id, ways)
    });
    Ok(ways.collect())
}

/// Makes an object: one way out, which serves routes of `family`.
pub(super) fn add(socket: &mut Socket, id: u32, family: Family, hop: &NextHop) -> Result<()> {
    let family = hop.via.map_or(family, Family::of);
    let mut attributes =
        Attrs::after(&header(family_number(family), if hop.onlink { RTNH_F_ONLINK } else { 0 })).u32(NHA_ID, id);
    attributes = attributes.u32(NHA_OIF, hop.dev);
    attributes = match hop.via {
        Some(IpAddr::V4(via)) => attributes.bytes(NHA_GATEWAY, &via.octets()),
        Some(IpAddr::V6(via)) => attributes.bytes(NHA_GATEWAY, &via.octets()),
        None => attributes,
    };
    create(socket, format!("add next-hop object {id}"), &attributes)
}

/// Makes an object of other objects: their numbers and weights (1 to 256).
pub(super) fn add_group(socket: &mut Socket, id: u32, members: &[(u32, u16)]) -> Result<()> {
    let entry = |(member, weight): &(u32, u16)| {
        let [a, b, c, d] = member.to_ne_bytes();
        [a, b, c, d, u8::try_from(weight.saturating_sub(1)).unwrap_or(u8::MAX), 0, 0, 0]
    };
    let group: Vec<u8> = members.iter().flat_map(entry).collect();
    let attributes = Attrs::after(&header(0, 0)).u32(NHA_ID, id).bytes(NHA_GROUP, &group);
    create(socket, format!("add next-hop group {id}"), &attributes)
}

/// Deletes an object, and with it every route and group that has no other.
pub(super) fn delete(socket: &mut Socket, id: u32) -> Result<()> {
    let attributes = Attrs::after(&header(0, 0)).u32(NHA_ID, id);
    socket.request(Request::new(format!("delete next-hop object {id}"), RTM_DELNEXTHOP, 0, &attributes))
}

fn create(socket: &mut Socket, what: String, attributes: &Attrs) -> Result<()> {
    socket.request(Request::new(what, RTM_NEWNEXTHOP, libc::NLM_F_CREATE | libc::NLM_F_EXCL, attributes))
}

/// `struct nhmsg`.
fn header(family: u8, flags: u32) -> [u8; HEADER] {
    let [a, b, c, d] = flags.to_ne_bytes();
    [family, 0, RTPROT_STATIC, 0, a, b, c, d]
}

fn read(bytes: &[u8]) -> Decode<(u32, Object)> {
    let attributes = Attributes::after(bytes, HEADER)?;
    let flags = bytes.get(4..8).and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let (mut id, mut group) = (0, None);
    let mut hop = NextHop {
        weight: 1,
        onlink: flags & RTNH_F_ONLINK != 0,
        dead: flags & RTNH_F_DEAD != 0,
        linkdown: flags & RTNH_F_LINKDOWN != 0,
        ..Default::default()
    };
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            NHA_ID => id = attribute.u32()?,
            NHA_GROUP => group = Some(members(attribute.value)),
            NHA_OIF => hop.dev = attribute.u32()?,
            NHA_GATEWAY => hop.via = Some(attribute.addr()?),
            NHA_ENCAP | NHA_ENCAP_TYPE => hop.encap = true,
            _ => {}
        }
    }
    Ok((id, group.map_or(Object::Single(hop), Object::Group)))
}

/// `struct nexthop_grp`: number, weight - 1 in a low and (6.12 and later) a high byte, reserved.
fn members(bytes: &[u8]) -> Vec<(u32, u16)> {
    let member = |entry: &[u8]| match *entry {
        [a, b, c, d, low, high, _, _] => {
            Some((u32::from_ne_bytes([a, b, c, d]), u16::from_le_bytes([low, high]).saturating_add(1)))
        }
        _ => None,
    };
    bytes.chunks(8).filter_map(member).collect()
}
