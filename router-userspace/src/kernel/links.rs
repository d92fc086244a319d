//! Interfaces and their addresses over netlink: RTM_GETLINK, RTM_GETADDR (net/core/rtnetlink.c, net/ipv4/devinet.c,
//! net/ipv6/addrconf.c).

use super::Result;
use super::attributes::{Attribute, Attributes, Decode, Malformed, decode, family_number, family_of};
use super::socket::{Request, Socket};
use crate::model::{Address, DeviceConf, Family, Link};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use std::collections::BTreeMap;

/// Length of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// IFLA_INET_CONF, IFLA_INET6_CONF: arrays of 32-bit settings inside IFLA_AF_SPEC.
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;

/// Other names of an interface (include/uapi/linux/if_link.h).
pub(super) const IFLA_PROP_LIST: u16 = 52;
pub(super) const IFLA_ALT_IFNAME: u16 = 53;

/// IPV4_DEVCONF_* - 1: places in the array of IFLA_INET_CONF (include/uapi/linux/ip.h).
mod v4 {
    pub const FORWARDING: usize = 0;
    pub const ACCEPT_REDIRECTS: usize = 3;
    pub const SEND_REDIRECTS: usize = 5;
    pub const RP_FILTER: usize = 7;
    pub const ACCEPT_LOCAL: usize = 22;
    pub const SRC_VALID_MARK: usize = 23;
    pub const ROUTE_LOCALNET: usize = 25;
    pub const IGNORE_LINKDOWN: usize = 28;
}

/// DEVCONF_*: places in the array of IFLA_INET6_CONF (include/uapi/linux/ipv6.h).
mod v6 {
    pub const FORWARDING: usize = 0;
    pub const MTU: usize = 2;
    pub const ACCEPT_REDIRECTS: usize = 4;
    pub const DISABLE_IPV6: usize = 26;
    pub const IGNORE_LINKDOWN: usize = 39;
    pub const FORCE_FORWARDING: usize = 59;
}

/// All interfaces by index.
pub(super) fn dump(socket: &mut Socket) -> Result<BTreeMap<u32, Link>> {
    let what = "read the interfaces";
    let mut request = LinkMessage::default();
    // Counters are most of a message, and nothing here looks at them.
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let links = socket.dump(what, libc::RTM_GETLINK, &request, |bytes| decode(what, || read(bytes).map(Some)))?;
    Ok(links.into_iter().map(|link| (link.index, link)).collect())
}

/// The loopback device is asked for and nothing is learned: `rtnl_getlink` takes the RTNL lock, and so waits for its holder.
pub(super) fn ask_loopback(socket: &mut Socket) -> Result<()> {
    let what = "wait for changes under way";
    let mut request = LinkMessage::default();
    // LOOPBACK_IFINDEX, in every namespace.
    request.header.index = 1;
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    socket.ask(Request::new(what, libc::RTM_GETLINK, 0, &request), |_| Ok(()))
}

/// One interface from the payload of RTM_NEWLINK.
pub(super) fn read(bytes: &[u8]) -> Decode<Link> {
    let header: &[u8; LINK_HEADER] = bytes.first_chunk().ok_or(Malformed("link header"))?;
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let set = |flag: i32| flags & flag as u32 != 0;
    let mut link = Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        arphrd: u16::from_ne_bytes([t0, t1]),
        up: set(libc::IFF_UP),
        lower_up: set(libc::IFF_LOWER_UP),
        ..Default::default()
    };
    // A device that IPv6 has not been started on reports nothing of it.
    link.v6.disabled = true;
    for attribute in Attributes::after(bytes, LINK_HEADER)? {
        let attribute = attribute?;
        match attribute.kind {
            libc::IFLA_IFNAME => link.name = attribute.text(),
            libc::IFLA_MTU => link.mtu = attribute.u32()?,
            libc::IFLA_MASTER => link.master = Some(attribute.u32()?).filter(|index| *index != 0),
            libc::IFLA_LINK => link.lower = Some(attribute.u32()?).filter(|index| *index != 0 && *index != link.index),
            libc::IFLA_LINK_NETNSID => link.lower_elsewhere = true,
            IFLA_PROP_LIST => link.altnames = altnames(&attribute)?,
            libc::IFLA_GROUP => link.group = attribute.u32()?,
            libc::IFLA_ADDRESS => link.mac = attribute.mac(),
            libc::IFLA_LINKINFO => link.kind = kind(&attribute)?,
            libc::IFLA_AF_SPEC => settings(&attribute, &mut link)?,
            _ => {}
        }
    }
    if link.lower_elsewhere {
        link.lower = None;
    }
    Ok(link)
}

/// IFLA_PROP_LIST: the interface's other names.
fn altnames(list: &Attribute<'_>) -> Decode<Vec<String>> {
    let mut names = Vec::new();
    for attribute in list.nested() {
        let attribute = attribute?;
        if attribute.kind == IFLA_ALT_IFNAME {
            names.push(attribute.text());
        }
    }
    Ok(names)
}

fn kind(info: &Attribute<'_>) -> Decode<String> {
    for attribute in info.nested() {
        let attribute = attribute?;
        if attribute.kind == libc::IFLA_INFO_KIND {
            return Ok(attribute.text());
        }
    }
    Ok(String::new())
}

/// IFLA_AF_SPEC: per family an attribute of attributes, one of them the array of settings.
fn settings(spec: &Attribute<'_>, link: &mut Link) -> Decode<()> {
    for family in spec.nested() {
        let family = family?;
        let conf = match i32::from(family.kind) {
            libc::AF_INET => IFLA_INET_CONF,
            libc::AF_INET6 => IFLA_INET6_CONF,
            _ => continue,
        };
        for attribute in family.nested() {
            let attribute = attribute?;
            if attribute.kind == conf && conf == IFLA_INET_CONF {
                link.v4 = read_v4(&attribute);
            } else if attribute.kind == conf {
                link.v6 = read_v6(&attribute);
            }
        }
    }
    Ok(())
}

fn read_v4(array: &Attribute<'_>) -> DeviceConf {
    let on = |place| array.element(place).unwrap_or(0) != 0;
    DeviceConf {
        forwarding: on(v4::FORWARDING),
        rp_filter: array.element(v4::RP_FILTER).and_then(|value| u8::try_from(value).ok()).unwrap_or(0),
        accept_redirects: on(v4::ACCEPT_REDIRECTS),
        send_redirects: on(v4::SEND_REDIRECTS),
        accept_local: on(v4::ACCEPT_LOCAL),
        src_valid_mark: on(v4::SRC_VALID_MARK),
        route_localnet: on(v4::ROUTE_LOCALNET),
        ignore_linkdown: on(v4::IGNORE_LINKDOWN),
        ..Default::default()
    }
}

fn read_v6(array: &Attribute<'_>) -> DeviceConf {
    let on = |place| array.element(place).unwrap_or(0) != 0;
    DeviceConf {
        forwarding: on(v6::FORWARDING),
        force_forwarding: on(v6::FORCE_FORWARDING),
        accept_redirects: on(v6::ACCEPT_REDIRECTS),
        ignore_linkdown: on(v6::IGNORE_LINKDOWN),
        mtu: array.element(v6::MTU).unwrap_or(0),
        disabled: on(v6::DISABLE_IPV6),
        ..Default::default()
    }
}

/// The addresses of both families.
pub(super) fn addresses(socket: &mut Socket) -> Result<Vec<Address>> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let what = format!("read the {family} addresses");
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::from(family_number(family));
        // A kernel without IPv6 answers for all the families it has.
        let read =
            |bytes: &[u8]| Ok(decode(&what, || read_address(bytes))?.filter(|one| Family::of(one.addr) == family));
        all.extend(socket.dump(&what, libc::RTM_GETADDR, &request, read)?);
    }
    Ok(all)
}

/// One address from the payload of RTM_NEWADDR; None for other families.
fn read_address(bytes: &[u8]) -> Decode<Option<Address>> {
    let header: &[u8; ADDRESS_HEADER] = bytes.first_chunk().ok_or(Malformed("address header"))?;
    let [family, prefix_len, _, _, i0, i1, i2, i3] = *header;
    if family_of(family).is_none() {
        return Ok(None);
    }
    let (mut local, mut address) = (None, None);
    for attribute in Attributes::after(bytes, ADDRESS_HEADER)? {
        let attribute = attribute?;
        match attribute.kind {
            libc::IFA_LOCAL => local = Some(attribute.addr()?),
            libc::IFA_ADDRESS => address = Some(attribute.addr()?),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end.
    let addr = local.or(address).ok_or(Malformed("address message without an address"))?;
    Ok(Some(Address { index: u32::from_ne_bytes([i0, i1, i2, i3]), addr, prefix_len }))
}
