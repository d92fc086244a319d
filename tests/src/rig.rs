//! A router whose other cable ends the test holds. They are in the router's namespace, so that a packet keeps its mark on the
//! cable: what comes in can carry any mark, and what comes out is seen with its own. But towards such a cable Wayfork writes no
//! mark, as the packet would come back in with it. Where marks are to be written, the far ends are apart ([`Rig::apart`]).

use crate::bed;
use crate::frames::{Caught, Segments, Tap, ethernet, readable, tag};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wayfork::kernel::admin::{self, Admin, NewLink, TunKind, write_setting};
use wayfork::kernel::{Kernel, Netlink};
use wayfork::lab::process::{self, Daemon};
use wayfork::lab::topology::Lab;
use wayfork::model::{Route, TABLE_MAIN};

/// What an interface of the router is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The end of a cable.
    Veth,
    /// A bridge whose one port is the end of a cable.
    Bridge,
    /// A macvlan on the end of a cable.
    Macvlan,
    /// Without a link-layer header.
    Tun,
}

/// The router.
pub struct Rig {
    /// It has the host [`Rig::HOST`], and another one where far ends are apart.
    pub lab: Lab,
    exe: PathBuf,
    ends: BTreeMap<String, End>,
    /// The interfaces whose cables' far ends are apart.
    apart: Vec<String>,
}

enum End {
    /// A cable, and the hardware address of the router's interface.
    Cable(Tap, [u8; 6]),
    Tun(File),
}

/// A packet that came out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// The interface of the router.
    pub dev: String,
    /// What came out of it; of a TUN device a packet without a mark.
    pub caught: Caught,
}

impl Rig {
    /// The host's name in the lab.
    pub const HOST: &str = "router";
    /// The host that has the far ends that are apart.
    const FAR_HOST: &str = "far";

    /// A router without interfaces, for a test of the binary `exe`. None without privilege, which is said on standard error.
    pub fn new(exe: &str) -> Result<Option<Rig>> {
        let Some(lab) = bed::router()? else { return Ok(None) };
        // ICMP errors are part of what is compared: all of them, at once.
        lab.settings(
            Self::HOST,
            &[
                ("net.ipv4.icmp_ratelimit", "0"),
                ("net.ipv4.icmp_msgs_per_sec", "100000"),
                ("net.ipv4.icmp_msgs_burst", "100000"),
                ("net.ipv6.icmp.ratelimit", "0"),
            ],
        )?;
        Ok(Some(Rig { lab, exe: exe.into(), ends: BTreeMap::new(), apart: Vec::new() }))
    }

    /// Has the far ends of these interfaces' cables, which are not made yet, in a namespace of their own. On such a cable a packet
    /// loses its mark in both directions (`skb_scrub_packet()`): what came out is caught with mark 0.
    pub fn apart(&mut self, devs: &[&str]) -> Result<()> {
        self.lab.host(Self::FAR_HOST)?;
        self.apart = devs.iter().map(ToString::to_string).collect();
        Ok(())
    }

    /// The host that has the far end of an interface's cable.
    fn far_host(&self, dev: &str) -> &'static str {
        if self.apart.iter().any(|apart| apart == dev) { Self::FAR_HOST } else { Self::HOST }
    }

    /// Adds an interface, up and with these addresses. Its index is `10 + number`, its hardware address [`Rig::mac`].
    /// Addresses that the device cannot have (IPv6 with an MTU below 1280) are left out.
    pub fn interface(&mut self, dev: &str, number: u8, kind: Kind, mtu: u32, addresses: &[&str]) -> Result<()> {
        let index = 10 + u32::from(number);
        let mac = Self::mac(number);
        let link = NewLink::named(dev).index(index).mac(mac);
        let (port, far) = (format!("{dev}p"), format!("{dev}x"));
        let far_host = self.far_host(dev);
        let far_netns = self.lab.netns(far_host)?.fd();
        let end = self.lab.inside(Self::HOST, || {
            let mut admin = Admin::open()?;
            if kind == Kind::Tun {
                let tun = admin::tun_at(dev, TunKind::Tun, false, Some(index))?;
                admin.set_mtu(dev, mtu)?;
                if mtu >= 1280 {
                    // The kernel would make up another link-local address each time.
                    write_setting(&format!("net.ipv6.conf.{dev}.addr_gen_mode"), "1")?;
                }
                admin.up(dev)?;
                if mtu >= 1280 {
                    admin.add_address(dev, format!("fe80::a:{number}/64").parse().expect("an address"))?;
                }
                return Ok(Some(tun));
            }
            let far_link = NewLink::named(&far).index(index + 200).inside(far_netns);
            match kind {
                Kind::Veth => admin.veth(link.mtu(mtu), far_link)?,
                Kind::Bridge => {
                    admin.bridge(link)?;
                    admin.veth(NewLink::named(&port).index(index + 100).mtu(mtu), far_link)?;
                    admin.set_master(&port, Some(dev))?;
                    admin.set_mtu(dev, mtu)?;
                }
                _ => {
                    admin.veth(NewLink::named(&port).index(index + 100).mtu(1500), far_link)?;
                    admin.macvlan(link.mtu(mtu), &port)?;
                }
            }
            if matches!(kind, Kind::Bridge | Kind::Macvlan) {
                quiet(&mut admin, &port)?;
            }
            admin.up(dev)?;
            Ok(None)
        })?;
        if end.is_none() {
            self.lab.inside(far_host, || {
                let mut admin = Admin::open()?;
                admin.set_mtu(&far, 9000)?;
                quiet(&mut admin, &far)
            })?;
        }
        self.lab.inside(Self::HOST, || {
            let mut admin = Admin::open()?;
            for address in addresses {
                let address: ipnet::IpNet = address.parse().expect("an address");
                if address.addr().is_ipv4() || mtu >= 1280 {
                    admin.add_address(dev, address)?;
                }
            }
            Ok(())
        })?;
        let end = match end {
            Some(tun) => {
                nix::fcntl::fcntl(&tun, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
                End::Tun(tun.into())
            }
            None => End::Cable(Tap::open(&self.lab, far_host, &far)?, mac),
        };
        self.ends.insert(dev.to_owned(), end);
        Ok(())
    }

    /// The hardware address of the interface of that number.
    pub fn mac(number: u8) -> [u8; 6] {
        [2, 0x57, 0, 0, 0, number]
    }

    /// The hardware address of the host's neighbour of that number on an interface.
    pub fn neighbour_mac(number: u8, neighbour: u8) -> [u8; 6] {
        [2, 0x57, 1, 0, number, neighbour]
    }

    /// Gives an interface permanent neighbours; the place in the list is the number in the hardware address.
    pub fn neighbours(&self, dev: &str, number: u8, addresses: &[IpAddr]) -> Result<()> {
        let result = self.lab.inside(Self::HOST, || {
            let mut admin = Admin::open()?;
            for (place, address) in (1u8..).zip(addresses) {
                match admin.set_neighbour(dev, *address, Self::neighbour_mac(number, place)) {
                    // No IPv6 on this interface.
                    Err(_) if address.is_ipv6() => {}
                    other => other?,
                }
            }
            Ok(())
        });
        Ok(result?)
    }

    /// Waits until the carriers are known and IPv6 has its link-local routes.
    pub fn settle(&self) -> Result<()> {
        bed::eventually(Duration::from_secs(10), "the interfaces are ready", || {
            self.kernel(|kernel| {
                let (links, routes) = (kernel.links()?, kernel.routes()?);
                let ready = |name: &String| {
                    let Some(link) = links.values().find(|link| link.name == *name) else { return false };
                    let link_local = |route: &Route| {
                        route.table == TABLE_MAIN
                            && route.dst.to_string() == "fe80::/64"
                            && route.nexthops.iter().any(|hop| hop.dev == link.index)
                    };
                    link.lower_up && (link.mtu < 1280 || link.v6.disabled || routes.iter().any(link_local))
                };
                Ok(self.ends.keys().all(ready))
            })
        })
    }

    /// Takes the carrier of an interface away, and waits until the kernel has noticed. Nothing comes in or out there any more.
    pub fn unplug(&mut self, dev: &str) -> Result<()> {
        let far = format!("{dev}x");
        self.ends.remove(dev);
        self.lab.inside(self.far_host(dev), || Admin::open()?.down(&far))?;
        bed::eventually(Duration::from_secs(10), "no carrier", || {
            let links = self.kernel(|kernel| kernel.links())?;
            Ok(links.values().any(|link| link.name == dev && !link.lower_up))
        })
    }

    /// Works with the router's kernel.
    pub fn kernel<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> wayfork::kernel::Result<T> + Send) -> Result<T> {
        Ok(self.lab.inside(Self::HOST, || work(&mut Netlink::open()?))?)
    }

    /// Runs the program `ip` with a line of its commands for each.
    pub fn ip(&self, commands: &str) -> Result<()> {
        for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut command = std::process::Command::new("ip");
            command.args(line.split_whitespace()).stderr(std::process::Stdio::piped());
            let child = self.lab.netns(Self::HOST)?.spawn(command).context("ip (Debian: iproute2)")?;
            let output = child.wait_with_output()?;
            if !output.status.success() {
                bail!("ip {line}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(())
    }

    /// Starts `wayfork run - ARGS` on the router with its own interfaces and the rest of a policy, and waits until it is ready.
    pub fn run(&self, mode: &str, policy: &str) -> Result<Daemon> {
        let names: Vec<String> = self.ends.keys().map(|name| format!("{name:?}")).collect();
        let policy = format!("[router]\ninterfaces = [{}]\n{policy}", names.join(", "));
        Ok(Daemon::ready(self.lab.netns(Self::HOST)?, &self.exe, &["-", "--mode", mode], Some(&policy))?)
    }

    /// `wayfork status --json`.
    pub fn status(&self) -> Result<Value> {
        Ok(process::json(self.lab.netns(Self::HOST)?, &self.exe, &["--json", "status"])?)
    }

    /// Lets an IP packet come in by an interface with a mark; by a TUN device or a cable whose end is apart always without.
    pub fn send(&self, dev: &str, packet: &[u8], mark: u32) -> Result<()> {
        match self.end(dev)? {
            End::Cable(tap, mac) => match tap.send_marked(&to_router(*mac, packet), mark) {
                // Larger than the interface takes (`is_skb_forwardable()`): lost, as on a real cable.
                Err(error)
                    if error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error)
                        == Some(libc::ENOBUFS) =>
                {
                    Ok(())
                }
                sent => sent,
            },
            End::Tun(tun) => match (&*tun).write(packet) {
                // What is not IP at all is refused.
                Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
                written => written.map(drop).context("write to a TUN device"),
            },
        }
    }

    /// The same for a TCP packet of many segments of `size` bytes of payload, made by [`crate::frames::tcp`] as partial.
    pub fn send_segments(&self, dev: &str, packet: &[u8], mark: u32, size: u16) -> Result<()> {
        let End::Cable(tap, mac) = self.end(dev)? else { bail!("{dev} is no cable") };
        let v6 = packet[0] >> 4 == 6;
        let start = 14 + if v6 { 40 } else { u16::from(packet[0] & 15) * 4 };
        tap.send_segments(&to_router(*mac, packet), mark, Segments { size, start, v6 })
    }

    /// Every tagged packet that has come out until nothing more comes for a while, in order.
    pub fn catch(&self, quiet: Duration) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        for (dev, end) in &self.ends {
            let caught = match end {
                End::Cable(tap, _) => tap.catch_all(if all.is_empty() { quiet } else { Duration::ZERO })?,
                End::Tun(tun) => read_all(tun)?,
            };
            all.extend(caught.into_iter().map(|caught| Seen { dev: dev.clone(), caught }));
        }
        all.sort();
        Ok(all)
    }

    fn end(&self, dev: &str) -> Result<&End> {
        self.ends.get(dev).with_context(|| format!("the router has no {dev}"))
    }
}

/// Brings a device up that has a part in nothing but carrying frames.
fn quiet(admin: &mut Admin, dev: &str) -> wayfork::kernel::Result<()> {
    // One with a small MTU has no IPv6 at all.
    match write_setting(&format!("net.ipv6.conf.{dev}.disable_ipv6"), "1") {
        Err(error) if error.errno() == libc::ENOENT => {}
        other => other?,
    }
    write_setting(&format!("net.ipv4.conf.{dev}.forwarding"), "0")?;
    write_setting(&format!("net.ipv4.conf.{dev}.arp_ignore"), "8")?;
    admin.up(dev)
}

fn to_router(mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    ethernet(mac, [2, 0x57, 2, 0, 0, mac[5]], ethertype, packet)
}

fn read_all(mut tun: &File) -> Result<Vec<Caught>> {
    let mut packets = Vec::new();
    let mut buffer = vec![0u8; 65536];
    while readable(tun.as_fd(), Instant::now())? {
        let length = tun.read(&mut buffer)?;
        let frame = buffer[..length].to_vec();
        packets.extend(tag(&frame).map(|name| Caught { name, mark: 0, gso_size: 0, frame }));
    }
    Ok(packets)
}
