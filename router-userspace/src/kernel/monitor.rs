//! What changes in the kernel, as it tells it.

use super::attributes::{Attributes, Decode, Malformed, family_of};
use super::socket::{Message, Messages, set_receive_buffer};
use super::{Error, Event, Result, neighbours};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// Receive buffer asked for: a burst of some ten thousand changes.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The longest notification that is taken; a longer one counts as lost.
const DATAGRAM: usize = 1 << 16;
/// Datagrams read before the events are handed out, so that a flood of changes does not hold the first one back.
const BATCH: usize = 64;
/// Batches that are forgotten at once: more than the receive buffer holds.
const FORGOTTEN: usize = 4096;

/// What next-hop objects' notifications are called (include/uapi/linux/rtnetlink.h).
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_NEWCHAIN: u16 = 100;
const RTM_DELCHAIN: u16 = 101;
/// IFLA_WIRELESS: a wireless event, carried by a link message that changes nothing of the link.
const IFLA_WIRELESS: u16 = 11;

/// The groups of NETLINK_ROUTE that concern routing.
///
/// The settings whose change no group tells of are few: `accept_local`, `src_valid_mark`, `route_localnet`,
/// `send_redirects` and the namespace-wide ones (`devinet_conf_proc` notifies of the others).
const GROUPS: [u32; 13] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    // The IPv6 MTU of an interface.
    libc::RTNLGRP_IPV6_IFINFO,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_IPV6_NETCONF,
    libc::RTNLGRP_NEXTHOP,
];

/// Turns a notification (its type, what follows the netlink header) into an event; None where it concerns nobody here.
pub(crate) type Translate = fn(u16, &[u8]) -> Option<Event>;

/// Sockets that the kernel tells of changes, in the network namespace of the thread that opened them.
///
/// Its one descriptor ([`AsFd`], [`Monitor::fds`]) is readable while there is something to read on any of them, and is made
/// readable anew, for edge-triggered reactors such as tokio's `AsyncFd`, when [`Monitor::next_events`] leaves something.
pub struct Monitor {
    epoll: Epoll,
    sources: Vec<Source>,
    buffer: Vec<u8>,
    /// Whose changes of rules and routes are not told.
    untold: Option<u32>,
}

struct Source {
    socket: netlink_sys::Socket,
    protocol: isize,
    groups: Vec<u32>,
    translate: Translate,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

impl Monitor {
    /// Watches rules, routes, next-hop objects, links, addresses, per-device settings, neighbours and traffic control of both
    /// families, nftables and xfrm policies.
    pub fn open() -> Result<Self> {
        let mut monitor = Monitor::with_receive_buffer(RECEIVE_BUFFER)?;
        super::survey::watch(&mut monitor)?;
        Ok(monitor)
    }

    /// The same with a receive buffer of that many bytes (the kernel doubles it and has a least size).
    pub(super) fn with_receive_buffer(bytes: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Error::new("watch the kernel's changes", errno.into()))?;
        let mut monitor = Monitor { epoll, sources: Vec::new(), buffer: vec![0; DATAGRAM], untold: None };
        monitor.watch("watch rules, routes and links", NETLINK_ROUTE, &GROUPS, translate, bytes)?;
        Ok(monitor)
    }

    /// Watches groups of another netlink family as well.
    pub(super) fn also(&mut self, what: &str, protocol: isize, groups: &[u32], translate: Translate) -> Result<()> {
        self.watch(what, protocol, groups, translate, RECEIVE_BUFFER)
    }

    fn watch(&mut self, what: &str, protocol: isize, groups: &[u32], translate: Translate, bytes: usize) -> Result<()> {
        let open = || -> io::Result<netlink_sys::Socket> {
            let mut socket = netlink_sys::Socket::new(protocol)?;
            socket.set_non_blocking(true)?;
            set_receive_buffer(&socket, bytes)?;
            socket.bind_auto()?;
            for group in groups {
                socket.add_membership(*group)?;
            }
            wait_for(&self.epoll, &socket)?;
            Ok(socket)
        };
        let socket = open().map_err(|cause| Error::new(what, cause))?;
        self.sources.push(Source { socket, protocol, groups: groups.to_vec(), translate });
        Ok(())
    }

    /// Stops listening to nftables, or listens again. While somebody listens, the kernel makes a message of every element of a set
    /// that comes or goes (`nf_tables_setelem_notify`). What changes meanwhile has to be looked for.
    pub fn hear_nftables(&mut self, hear: bool) -> Result<()> {
        for source in self.sources.iter_mut().filter(|source| source.protocol == NETLINK_NETFILTER) {
            for group in &source.groups {
                let done = match hear {
                    true => source.socket.add_membership(*group),
                    false => source.socket.drop_membership(*group),
                };
                done.map_err(|cause| Error::new("watch nftables", cause))?;
            }
        }
        Ok(())
    }

    /// From now on, what the owner of this port ([`super::Netlink::port`]) changes of rules and routes is not told: it knows. The
    /// kernel says in each notification who asked for the change (`notify_rule_change()`, `rtmsg_fib()`, `inet6_rt_notify()`).
    pub fn leave_out(&mut self, port: u32) {
        self.untold = Some(port);
    }

    /// What to wait for: one descriptor for all sockets.
    pub fn fds(&self) -> Vec<RawFd> {
        vec![self.as_raw_fd()]
    }

    /// What has changed since the last call, without waiting; empty when nothing has. Equal events that follow each other
    /// are told once, but all neighbours in their order.
    pub fn next_events(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for source in &self.sources {
            let untold = self.untold.filter(|_| source.protocol == NETLINK_ROUTE);
            if !source.read(&mut self.buffer, untold, &mut events)? {
                // Taken out and put in again, it counts as newly readable (`ep_insert` wakes those who wait).
                let again = || self.epoll.delete(&source.socket).and_then(|()| wait_for(&self.epoll, &source.socket));
                again().map_err(|errno| Error::new("watch the kernel's changes", errno.into()))?;
            }
        }
        Ok(events)
    }

    /// Forgets what was told so far: all is about to be read again. Where more comes faster than it is forgotten, the rest is
    /// still told.
    pub fn forget(&mut self) -> Result<()> {
        for _ in 0..FORGOTTEN {
            if self.next_events()?.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

impl Source {
    /// Reads what is there; false where it stopped before the end.
    fn read(&self, buffer: &mut [u8], untold: Option<u32>, events: &mut Vec<Event>) -> Result<bool> {
        for _ in 0..BATCH {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT) {
                Ok(length) if length > buffer.len() => add(events, Event::Overrun),
                Ok(length) => {
                    let told =
                        |message: &Message<'_>| !(untold == Some(message.port) && is_rule_or_route(message.kind));
                    for message in Messages(&buffer[..length]).filter(told) {
                        if let Some(event) = (self.translate)(message.kind, message.payload) {
                            add(events, event);
                        }
                    }
                }
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => add(events, Event::Overrun),
                Err(errno) => return Err(Error::new("read the kernel's notifications", errno.into())),
            }
        }
        Ok(false)
    }
}

fn is_rule_or_route(kind: u16) -> bool {
    matches!(kind, libc::RTM_NEWRULE | libc::RTM_DELRULE | libc::RTM_NEWROUTE | libc::RTM_DELROUTE)
}

fn wait_for(epoll: &Epoll, socket: &netlink_sys::Socket) -> nix::Result<()> {
    epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))
}

/// Adds an event unless it says nothing new.
fn add(events: &mut Vec<Event>, event: Event) {
    let told_singly = matches!(event, Event::Neighbour(_) | Event::NeighbourGone(..));
    if told_singly || !events.contains(&event) {
        events.push(event);
    }
}

/// NETLINK_ROUTE's notifications.
fn translate(kind: u16, payload: &[u8]) -> Option<Event> {
    // What cannot be read cannot be trusted to be nothing.
    read(kind, payload).unwrap_or(Some(Event::Overrun))
}

fn read(kind: u16, payload: &[u8]) -> Decode<Option<Event>> {
    let family = *payload.first().ok_or(Malformed("notification"))?;
    Ok(match kind {
        // The families of multicast routing have rules of their own.
        libc::RTM_NEWRULE | libc::RTM_DELRULE => family_of(family).map(Event::Rules),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => family_of(family).map(|_| Event::Routes),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some(Event::Routes),
        libc::RTM_NEWLINK | libc::RTM_DELLINK => is_link_change(family, payload)?.then_some(Event::Links),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => family_of(family).map(|_| Event::Addresses),
        libc::RTM_NEWNETCONF | libc::RTM_DELNETCONF => family_of(family).map(|_| Event::Links),
        libc::RTM_NEWNEIGH => neighbours::read(payload)?.map(Event::Neighbour),
        libc::RTM_DELNEIGH => neighbours::read(payload)?.map(|entry| Event::NeighbourGone(entry.index, entry.addr)),
        libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => {
            Some(Event::TrafficControl)
        }
        RTM_NEWCHAIN | RTM_DELCHAIN => Some(Event::TrafficControl),
        _ => None,
    })
}

/// Whether a link message tells of a link: not of a bridge port's state or of a wireless event.
fn is_link_change(family: u8, payload: &[u8]) -> Decode<bool> {
    /// Length of `struct ifinfomsg`.
    const HEADER: usize = 16;
    if i32::from(family) == libc::AF_BRIDGE {
        return Ok(false);
    }
    for attribute in Attributes::after(payload, HEADER)? {
        if attribute?.kind == IFLA_WIRELESS {
            return Ok(false);
        }
    }
    Ok(true)
}
