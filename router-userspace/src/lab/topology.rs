//! Hosts and routers of a lab, joined by veth pairs and tunnels.
//!
//! Every setting that could make two runs differ is set: no duplicate address detection, no autoconfiguration, no router
//! solicitations, rp_filter 0, no ICMP redirects (a hairpin may be meant). Checksum and segmentation offload stay as veth has
//! them, so that the packets that a router sees are like those of real devices.

use super::traffic::{Flow, Ports, Receiver, Sender, Sockets, Tally, Watch};
use super::tunnel;
use super::{Error, Result};
use crate::kernel::admin::{self, Admin, NewLink, TunKind};
use crate::kernel::netns::Netns;
use crate::kernel::{Kernel, Netlink};
use crate::model::{Family, NextHop, Route, RouteKind, Rule, RuleAction, Selectors, TABLE_LOCAL, TABLE_MAIN};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A lab under construction and in use. Dropping it takes everything away.
#[derive(Debug, Default)]
pub struct Lab {
    tally: Tally,
    // Dropped in this order: threads that use a namespace end before it.
    tunnels: Vec<tunnel::Endpoint>,
    receivers: Vec<Receiver>,
    cables: Vec<(String, String)>,
    hosts: BTreeMap<String, Netns>,
}

/// One end of a cable: host, interface name, addresses.
pub type End<'a> = (&'a str, &'a str, &'a [&'a str]);

/// One end of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelEnd<'a> {
    /// The host.
    pub host: &'a str,
    /// The TUN device that is made there.
    pub dev: &'a str,
    /// Its addresses.
    pub addresses: &'a [&'a str],
    /// The host's addresses from which outer packets are sent, IPv4 and IPv6.
    pub outer: [&'a str; 2],
    /// UDP port of the outer packets, the same at both ends.
    pub port: u16,
    /// Mark of the outer packets; 0 for none.
    pub mark: u32,
}

/// Settings of every host, before it has any interface but `lo`.
const SETTINGS: &[(&str, &str)] = &[
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.default.autoconf", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
];

/// WireGuard's usual MTU.
const MTU: u32 = 1420;

const FORWARDING: &[(&str, &str)] = &[
    ("net.ipv4.conf.all.forwarding", "1"),
    ("net.ipv4.conf.default.forwarding", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.forwarding", "1"),
];

impl Lab {
    /// An empty lab.
    pub fn new() -> Self {
        Self::default()
    }

    /// The count of all receivers.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A host's namespace.
    pub fn netns(&self, host: &str) -> Result<&Netns> {
        let missing = || Error::new(format!("lab host `{host}`"), io::Error::from(io::ErrorKind::NotFound));
        self.hosts.get(host).ok_or_else(missing)
    }

    /// Adds a host that does not forward.
    pub fn host(&mut self, name: &str) -> Result<()> {
        let netns = Netns::new().map_err(|error| match error.errno() {
            libc::EPERM => Error::Privilege,
            _ => Error::Kernel(error),
        })?;
        self.hosts.insert(name.to_owned(), netns);
        self.settings(name, SETTINGS)
    }

    /// Adds a host that forwards both families.
    pub fn router(&mut self, name: &str) -> Result<()> {
        self.host(name)?;
        self.settings(name, FORWARDING)
    }

    /// Writes settings of a host: `net.ipv4.ip_forward`.
    pub fn settings(&self, host: &str, settings: &[(&str, &str)]) -> Result<()> {
        self.inside(host, || settings.iter().try_for_each(|(name, value)| admin::write_setting(name, value)))
    }

    /// Joins two hosts by a veth pair.
    pub fn wire(&mut self, one: End<'_>, other: End<'_>) -> Result<()> {
        let far = self.netns(other.0)?.fd();
        let near = NewLink::named(one.1);
        self.inside(one.0, || Admin::open()?.veth(near, NewLink::named(other.1).inside(far)))?;
        for (host, dev, addresses) in [one, other] {
            self.address(host, dev, addresses)?;
            self.inside(host, || Admin::open()?.up(dev))?;
            self.cables.push((host.to_owned(), dev.to_owned()));
        }
        Ok(())
    }

    /// Waits until every cable carries packets and nothing more follows from its making. A device gets its link-local address
    /// when it has a carrier and a queue (`addrconf_notify()`); before that, the kernel drops what is sent by it.
    pub fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + super::needs::patience(Duration::from_secs(10));
        for (host, dev) in &self.cables {
            let ready = || {
                let mut kernel = Netlink::open()?;
                let Some(link) = kernel.links()?.into_values().find(|link| link.name == *dev) else { return Ok(true) };
                let own = |address: &crate::model::Address| address.index == link.index && is_link_local(address.addr);
                Ok(kernel.addresses()?.iter().any(own))
            };
            while !self.inside(host, ready)? {
                if Instant::now() > deadline {
                    return Err(Error::new(format!("{dev} of {host} has no carrier"), io::ErrorKind::TimedOut.into()));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Gives an interface addresses, with their prefix lengths.
    pub fn address(&self, host: &str, dev: &str, addresses: &[&str]) -> Result<()> {
        let addresses = addresses.iter().map(|text| parse(text)).collect::<Result<Vec<IpNet>>>()?;
        self.inside(host, || {
            let mut admin = Admin::open()?;
            addresses.iter().try_for_each(|address| admin.add_address(dev, *address))
        })
    }

    /// Gives a host addresses of its own, on `lo`.
    pub fn hold(&self, host: &str, addresses: &[&str]) -> Result<()> {
        self.address(host, "lo", addresses)
    }

    /// Adds routes of the main table to one destination (`default`: in the family of each gateway) by gateways on the links.
    pub fn route(&self, host: &str, to: &str, gateways: &[&str]) -> Result<()> {
        for gateway in gateways {
            let via: IpAddr = parse(gateway)?;
            let dst = if to == "default" { Family::of(via).default_prefix() } else { parse(to)? };
            self.add_route(host, TABLE_MAIN, dst, via)?;
        }
        Ok(())
    }

    /// Adds default routes of another table, one for each gateway.
    pub fn route_in(&self, host: &str, table: u32, gateways: &[&str]) -> Result<()> {
        for gateway in gateways {
            let via: IpAddr = parse(gateway)?;
            self.add_route(host, table, Family::of(via).default_prefix(), via)?;
        }
        Ok(())
    }

    /// What comes to `host` by `iif` for one of these addresses is sent on by way of a gateway even if the host has the
    /// address itself: the rule for local addresses moves behind these.
    pub fn detour(&self, host: &str, iif: &str, ways: &[(&str, &str)]) -> Result<()> {
        const TABLE: u32 = 100;
        // A connection to the host itself must not claim the packets that it is to send on: ip_forward() drops what a socket
        // was found for. The setting is for both families.
        self.settings(host, &[("net.ipv4.ip_early_demux", "0")])?;
        let mut rules = Vec::new();
        for (to, via) in ways {
            let (to, via): (IpAddr, IpAddr) = (parse(to)?, parse(via)?);
            self.add_route(host, TABLE, IpNet::from(to), via)?;
            rules.push(Rule {
                selectors: Selectors { iif: Some(iif.to_owned()), to: Some(IpNet::from(to)), ..Selectors::default() },
                protocol: libc::RTPROT_STATIC,
                ..Rule::lookup(Family::of(to), 5, TABLE)
            });
        }
        self.inside(host, || {
            let mut kernel = Netlink::open()?;
            for rule in &rules {
                kernel.add_rule(rule)?;
            }
            for local in kernel.rules()?.into_iter().filter(|rule| rule.action == RuleAction::Table(TABLE_LOCAL)) {
                kernel.add_rule(&Rule { priority: 10, ..local.clone() })?;
                kernel.delete_rule(&local)?;
            }
            Ok(())
        })
    }

    /// Joins two hosts by a tunnel that each end carries in UDP.
    pub fn tunnel(&mut self, one: TunnelEnd<'_>, other: TunnelEnd<'_>) -> Result<()> {
        for (end, peer) in [(one, other), (other, one)] {
            let at = [parse(end.outer[0])?, parse(end.outer[1])?];
            let peer = [parse(peer.outer[0])?, parse(peer.outer[1])?];
            let tun = self.inside(end.host, || {
                let tun = admin::tun(end.dev, TunKind::Tun, false)?;
                Admin::open()?.set_mtu(end.dev, MTU)?;
                Ok(tun)
            })?;
            self.address(end.host, end.dev, end.addresses)?;
            self.inside(end.host, || Admin::open()?.up(end.dev))?;
            let sockets = self
                .netns(end.host)?
                .run(|| tunnel::Sockets::open(tun, at, peer, end.port, end.mark))?
                .map_err(|error| Error::new(format!("tunnel {} of {}", end.dev, end.host), error))?;
            self.tunnels.push(tunnel::Endpoint::start(sockets)?);
        }
        Ok(())
    }

    /// Starts counting echo requests and what comes to these ports of a host, under the host's name.
    pub fn receive(&mut self, host: &str, ports: &Ports) -> Result<()> {
        self.start_receiver(host, host, || Sockets::open(ports))
    }

    /// Starts counting units in outer UDP packets that arrive at a host, under the name of a place.
    pub fn watch(&mut self, host: &str, place: &str, watch: Watch) -> Result<()> {
        self.start_receiver(host, place, || {
            let mut sockets = Sockets::default();
            sockets.watch(watch)?;
            Ok(sockets)
        })
    }

    /// Sends a flow from a host, with at most `patience` for each step of a TCP connection. The inner result is the flow's
    /// own: what the stack said to it.
    pub fn send(&self, host: &str, flow: Flow, patience: Duration) -> Result<io::Result<()>> {
        let sender = self.netns(host)?.run(|| Sender::open(flow))?;
        let sender = sender.map_err(|error| Error::new(format!("open a socket on {host}"), error))?;
        Ok(sender.send(patience))
    }

    /// Runs kernel requests inside a host.
    pub fn inside<T, F>(&self, host: &str, requests: F) -> Result<T>
    where
        F: FnOnce() -> crate::kernel::Result<T> + Send,
        T: Send,
    {
        Ok(self.netns(host)?.run(requests)??)
    }

    fn start_receiver<F>(&mut self, host: &str, place: &str, open: F) -> Result<()>
    where
        F: FnOnce() -> io::Result<Sockets> + Send,
    {
        let wrong = |error| Error::new(format!("receiver on {host}"), error);
        let sockets = self.netns(host)?.run(open)?.map_err(wrong)?;
        self.receivers.push(Receiver::start(place, sockets, self.tally.clone()).map_err(wrong)?);
        Ok(())
    }

    fn add_route(&self, host: &str, table: u32, dst: IpNet, via: IpAddr) -> Result<()> {
        let mut route = plain_route(table, dst);
        self.inside(host, || {
            let mut kernel = Netlink::open()?;
            // The gateway is on the link whose network holds it.
            let on_link =
                |net: &crate::model::Address| IpNet::new(net.addr, net.prefix_len).is_ok_and(|net| net.contains(&via));
            let dev = kernel.addresses()?.into_iter().find(on_link).map_or(0, |address| address.index);
            route.nexthops.push(NextHop { via: Some(via), dev, weight: 1, ..NextHop::default() });
            kernel.add_route(&route)
        })
    }
}

/// A unicast route without a next hop yet, as an administrator would add it.
pub(super) fn plain_route(table: u32, dst: IpNet) -> Route {
    Route { protocol: libc::RTPROT_STATIC, ..Route::to(table, dst, RouteKind::Unicast) }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::new(format!("address `{text}`"), io::Error::from(io::ErrorKind::InvalidInput)))
}
