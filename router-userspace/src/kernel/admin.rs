//! Making devices, addresses and neighbours: what the lab, the scratch namespace and the tests build their networks with.
//!
//! Wayfork's router never uses this: it changes rules, routes and its own nftables table only.

use super::socket::{Request, Socket};
use super::wire::Attrs;
use super::{Error, Result, attributes, links, neighbours, nexthops, settings};
use crate::model::{Family, NextHop};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourState};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::ffi::c_char;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// RTM_NEWLINKPROP, RTM_DELLINKPROP (include/uapi/linux/rtnetlink.h).
const RTM_NEWLINKPROP: u16 = 108;
const RTM_DELLINKPROP: u16 = 109;

/// Changes devices in the network namespace of the thread that opened it. Devices are named by their names.
pub struct Admin {
    socket: Socket,
}

/// A device to make. What is None is left to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewLink<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// Its interface index, 1 to 2^31 - 1.
    pub index: Option<u32>,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Where it is made; None is the namespace of the [`Admin`].
    pub netns: Option<BorrowedFd<'a>>,
}

impl<'a> NewLink<'a> {
    /// A device of that name.
    pub fn named(name: &'a str) -> Self {
        NewLink { name, ..Default::default() }
    }

    /// With that hardware address.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// With that MTU.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// With that interface index.
    #[must_use]
    pub fn index(mut self, index: u32) -> Self {
        self.index = Some(index);
        self
    }

    /// In another namespace.
    #[must_use]
    pub fn inside(mut self, netns: BorrowedFd<'a>) -> Self {
        self.netns = Some(netns);
        self
    }

    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = self.index.unwrap_or(0);
        let attributes = &mut message.attributes;
        attributes.push(LinkAttribute::IfName(self.name.to_owned()));
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
        message
    }
}

impl Admin {
    /// Opens a request socket.
    pub fn open() -> Result<Self> {
        Ok(Admin { socket: Socket::open(NETLINK_ROUTE)? })
    }

    /// Makes a pair of veth devices: what goes into one comes out of the other. The kernel heeds the second's index only
    /// where the first has one too (`veth_newlink`); else this refuses.
    pub fn veth(&mut self, one: NewLink<'_>, other: NewLink<'_>) -> Result<()> {
        let what = format!("make veth {} and {}", one.name, other.name);
        if one.index.is_none() && other.index.is_some() {
            let said = format!("an index for {} needs one for {} too", other.name, one.name);
            return Err(Error::from_errno(what, libc::EINVAL).saying(Some(said)));
        }
        let data = InfoData::Veth(InfoVeth::Peer(other.message()));
        let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)];
        self.create(one, info, &what)
    }

    /// Makes a bridge.
    pub fn bridge(&mut self, bridge: NewLink<'_>) -> Result<()> {
        self.create(bridge, vec![LinkInfo::Kind(InfoKind::Bridge)], &format!("make bridge {}", bridge.name))
    }

    /// Makes a device of a kind that needs no more than its name: `dummy`, `ifb`, …
    pub fn simple(&mut self, link: NewLink<'_>, kind: &str) -> Result<()> {
        let info = vec![LinkInfo::Kind(InfoKind::Other(kind.to_owned()))];
        self.create(link, info, &format!("make {kind} {}", link.name))
    }

    /// Makes a VXLAN device of that network identifier, which takes what comes in on a UDP port (0: 8472, the kernel's own).
    pub fn vxlan(&mut self, link: NewLink<'_>, id: u32, port: u16) -> Result<()> {
        let mut data = vec![InfoVxlan::Id(id)];
        data.extend((port != 0).then_some(InfoVxlan::Port(port)));
        let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))];
        self.create(link, info, &format!("make vxlan {}", link.name))
    }

    /// Makes a macvlan device in mode bridge on top of `lower`: it takes the frames for its own hardware address.
    pub fn macvlan(&mut self, link: NewLink<'_>, lower: &str) -> Result<()> {
        let index = self.index(lower)?;
        let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
        let mut message = link.message();
        message.attributes.push(LinkAttribute::Link(index));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan), LinkInfo::Data(data)]));
        let what = format!("make macvlan {} on {lower}", link.name);
        self.socket.request(Request::new(what, libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &message))
    }

    fn create(&mut self, link: NewLink<'_>, info: Vec<LinkInfo>, what: &str) -> Result<()> {
        let mut message = link.message();
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.socket.request(Request::new(what, libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &message))
    }

    /// Deletes a device.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let message = NewLink::named(name).message();
        self.socket.request(Request::new(format!("delete link {name}"), libc::RTM_DELLINK, 0, &message))
    }

    /// The interface index of a device.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        let what = format!("look up interface {name}");
        let request = Request::new(what.as_str(), libc::RTM_GETLINK, 0, &NewLink::named(name).message());
        self.socket.ask(request, |bytes| attributes::decode(&what, || links::read(bytes).map(|link| link.index)))
    }

    /// Brings a device up.
    pub fn up(&mut self, name: &str) -> Result<()> {
        self.set_flag(name, true)
    }

    /// Takes a device down.
    pub fn down(&mut self, name: &str) -> Result<()> {
        self.set_flag(name, false)
    }

    fn set_flag(&mut self, name: &str, up: bool) -> Result<()> {
        let mut message = NewLink::named(name).message();
        message.header.change_mask = LinkFlags::Up;
        message.header.flags.set(LinkFlags::Up, up);
        let what = format!("set {name} {}", if up { "up" } else { "down" });
        self.socket.request(Request::new(what, libc::RTM_SETLINK, 0, &message))
    }

    fn set(&mut self, name: &str, attribute: LinkAttribute, what: String) -> Result<()> {
        let mut message = NewLink::named(name).message();
        message.attributes.push(attribute);
        self.socket.request(Request::new(what, libc::RTM_SETLINK, 0, &message))
    }

    /// Changes a device's hardware address.
    pub fn set_mac(&mut self, name: &str, mac: [u8; 6]) -> Result<()> {
        self.set(name, LinkAttribute::Address(mac.to_vec()), format!("set the hardware address of {name}"))
    }

    /// Changes a device's MTU.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<()> {
        self.set(name, LinkAttribute::Mtu(mtu), format!("set the MTU of {name} to {mtu}"))
    }

    /// Gives a device another name besides its own.
    pub fn add_altname(&mut self, name: &str, altname: &str) -> Result<()> {
        self.altname(RTM_NEWLINKPROP, libc::NLM_F_CREATE | libc::NLM_F_EXCL, name, altname)
    }

    /// Takes such a name away.
    pub fn delete_altname(&mut self, name: &str, altname: &str) -> Result<()> {
        self.altname(RTM_DELLINKPROP, 0, name, altname)
    }

    fn altname(&mut self, kind: u16, flags: i32, name: &str, altname: &str) -> Result<()> {
        // `struct ifinfomsg` with the index alone.
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&self.index(name)?.to_ne_bytes());
        let names = Attrs::default().string(links::IFLA_ALT_IFNAME, altname);
        let message = Attrs::after(&header).nested(links::IFLA_PROP_LIST, names);
        self.socket.request(Request::new(format!("change the other name {altname} of {name}"), kind, flags, &message))
    }

    /// Changes a device's own name.
    pub fn rename(&mut self, name: &str, new: &str) -> Result<()> {
        let mut message = NewLink::named(new).message();
        message.header.index = self.index(name)?;
        self.socket.request(Request::new(format!("rename {name} to {new}"), libc::RTM_SETLINK, 0, &message))
    }

    /// Changes a device's group.
    pub fn set_group(&mut self, name: &str, group: u32) -> Result<()> {
        self.set(name, LinkAttribute::Group(group), format!("set the group of {name} to {group}"))
    }

    /// Makes a device a port of `master` (a bridge), or of none.
    pub fn set_master(&mut self, name: &str, master: Option<&str>) -> Result<()> {
        let index = master.map(|master| self.index(master)).transpose()?.unwrap_or(0);
        let what = format!("set the master of {name} to {}", master.unwrap_or("none"));
        self.set(name, LinkAttribute::Controller(index), what)
    }

    /// Moves a device to another namespace.
    pub fn move_to(&mut self, name: &str, netns: BorrowedFd<'_>) -> Result<()> {
        let attribute = LinkAttribute::NetNsFd(netns.as_raw_fd());
        self.set(name, attribute, format!("move {name} to another network namespace"))
    }

    /// Adds an address with its network. IPv6: usable at once, without duplicate address detection.
    pub fn add_address(&mut self, name: &str, net: IpNet) -> Result<()> {
        let mut message = self.address(name, net)?;
        if Family::of(net.addr()) == Family::Ipv6 {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let what = format!("add address {net} to {name}");
        self.socket.request(Request::new(what, libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &message))
    }

    /// Deletes an address.
    pub fn delete_address(&mut self, name: &str, net: IpNet) -> Result<()> {
        let message = self.address(name, net)?;
        self.socket.request(Request::new(format!("delete address {net} of {name}"), libc::RTM_DELADDR, 0, &message))
    }

    fn address(&mut self, name: &str, net: IpNet) -> Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::from(attributes::family_number(Family::of(net.addr())));
        message.header.prefix_len = net.prefix_len();
        message.header.index = self.index(name)?;
        message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
        Ok(message)
    }

    /// Makes a next-hop object for routes of `family`.
    pub fn add_nexthop(&mut self, id: u32, family: Family, hop: &NextHop) -> Result<()> {
        nexthops::add(&mut self.socket, id, family, hop)
    }

    /// Makes a next-hop object of others: their numbers and weights, 1 to 256.
    pub fn add_nexthop_group(&mut self, id: u32, members: &[(u32, u16)]) -> Result<()> {
        nexthops::add_group(&mut self.socket, id, members)
    }

    /// Deletes a next-hop object with its routes.
    pub fn delete_nexthop(&mut self, id: u32) -> Result<()> {
        nexthops::delete(&mut self.socket, id)
    }

    /// Sets a permanent neighbour entry, adding or changing it.
    pub fn set_neighbour(&mut self, name: &str, addr: IpAddr, mac: [u8; 6]) -> Result<()> {
        let mut message = neighbours::message(self.index(name)?, addr);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let what = format!("set neighbour {addr} on {name}");
        self.socket.request(Request::new(what, libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &message))
    }

    /// Deletes a neighbour entry.
    pub fn delete_neighbour(&mut self, name: &str, addr: IpAddr) -> Result<()> {
        let message = neighbours::message(self.index(name)?, addr);
        self.socket.request(Request::new(format!("delete neighbour {addr} on {name}"), libc::RTM_DELNEIGH, 0, &message))
    }
}

/// What kind of frames a [`tun`] device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunKind {
    /// IP packets without a link-layer header, as WireGuard has them.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// Makes a TUN or TAP device in the namespace of the calling thread, without packet information (IFF_NO_PI). Reading and
/// writing the descriptor receives and sends one packet each. The device goes with the descriptor unless `persistent`.
pub fn tun(name: &str, kind: TunKind, persistent: bool) -> Result<OwnedFd> {
    tun_at(name, kind, persistent, None)
}

/// The same with an interface index of one's own choice (TUNSETIFINDEX).
pub fn tun_at(name: &str, kind: TunKind, persistent: bool, index: Option<u32>) -> Result<OwnedFd> {
    let what = format!("make TUN device {name}");
    let failed = |cause: io::Error| Error::new(what.as_str(), cause);
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(failed(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").map_err(failed)?;
    if let Some(index) = index {
        // SAFETY: the descriptor is open and TUNSETIFINDEX takes a pointer to an unsigned int.
        let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFINDEX, &raw const index) };
        nix::errno::Errno::result(outcome).map_err(|errno| failed(errno.into()))?;
    }
    // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    let flags = match kind {
        TunKind::Tun => libc::IFF_TUN,
        TunKind::Tap => libc::IFF_TAP,
    };
    request.ifr_ifru.ifru_flags = (flags | libc::IFF_NO_PI) as i16;
    // SAFETY: the descriptor is open and TUNSETIFF takes a pointer to an `ifreq`.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    nix::errno::Errno::result(outcome).map_err(|errno| failed(errno.into()))?;
    // SAFETY: TUNSETPERSIST takes a number.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(persistent)) };
    nix::errno::Errno::result(outcome).map_err(|errno| failed(errno.into()))?;
    Ok(file.into())
}

/// Writes a setting of the calling thread's namespace: `net.ipv4.ip_forward`. In a name, `/` stands for a dot of a device's.
pub fn write_setting(name: &str, value: &str) -> Result<()> {
    std::fs::write(settings::path(name), value)
        .map_err(|cause| Error::new(format!("write the setting {name} = {value}"), cause))
}

/// Reads a setting of the calling thread's namespace; None where this kernel does not have it.
pub fn read_setting(name: &str) -> Result<Option<String>> {
    settings::read(name)
}
