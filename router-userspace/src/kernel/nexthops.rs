//! Next-hop objects: RTM_GETNEXTHOP (net/ipv4/nexthop.c, include/uapi/linux/nexthop.h).

use super::Result;
use super::attributes::{Attributes, Decode, decode};
use super::socket::Socket;
use crate::model::NextHop;
use netlink_packet_core::Emitable;
use std::collections::HashMap;

const RTM_GETNEXTHOP: u16 = 106;
/// Length of `struct nhmsg`.
const HEADER: usize = 8;
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
