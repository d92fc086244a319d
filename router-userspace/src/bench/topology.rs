//! The network of one path: a router between the generator and the sink, in namespaces without a name.
//!
//! ```text
//! outside: gen0 ── in0 router out0 ── sink0 :outside
//!                             out1 ── sink1
//! ```
//!
//! Neighbours are permanent: generator and sink answer nothing. Return routes to the sources are in `main`, so that the
//! source check of rp_filter finds them; the rule for `main` stands behind all others. Indexes and addresses are the same in every bed: what sends and counts needs to be told
//! nothing of which one it drives.

use super::rules::MAIN;
use super::{Error, Result};
use crate::fastpath::Workload;
use crate::kernel::admin::{Admin, NewLink};
use crate::kernel::netns::Netns;
use crate::kernel::{Kernel, Netlink};
use crate::lab::topology::Lab;
use crate::model::{Family, PRIORITY_MAIN, Rule, TABLE_MAIN};
use router_common::bench::{Limit, sink_mac};

/// The router, a host of the lab.
pub const ROUTER: &str = "router";
/// Generator and sink.
pub const OUTSIDE: &str = "outside";

/// Interface indexes.
pub mod index {
    /// The router's ingress.
    pub const IN: u32 = 51;
    /// The router's first egress; the next has the next.
    pub const OUT: u32 = 61;
    /// The generator's.
    pub const GENERATOR: u32 = 71;
    /// The sink's first; the next has the next.
    pub const SINK: u32 = 81;
    /// The generator's end of a cable without a router.
    pub const DIRECT: u32 = 91;
    /// The sink's end of it.
    pub const DIRECT_SINK: u32 = 92;
}

/// The most exits.
pub const EXITS: u32 = 2;
/// Where the host's own traffic goes, by the main table.
pub const FAR: [&str; 2] = ["198.18.0.1", "2001:db8:ffff::1"];
const GENERATOR_MAC: [u8; 6] = [0x02, 0x57, 0x46, 0x47, 0, 1];
/// Of the router's ingress.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0x57, 0x46, 0x52, 0, 1];

/// A router's egress.
pub fn out(exit: u32) -> &'static str {
    ["out0", "out1"][exit as usize % 2]
}

/// The gateway behind an egress.
pub fn gateway(family: Family, exit: u32) -> String {
    match family {
        Family::Ipv4 => format!("10.20.{exit}.2"),
        Family::Ipv6 => format!("fd00:20:{exit}::2"),
    }
}

/// Source and destination hardware address of what the generator sends.
pub fn macs() -> [[u8; 6]; 2] {
    [ROUTER_MAC, GENERATOR_MAC]
}

fn egress_mac(exit: u32) -> [u8; 6] {
    [0x02, 0x57, 0x46, 0x4f, 0, exit as u8]
}

/// What the bare TC program does: everything goes to the first exit.
pub fn limit() -> Limit {
    let [a, b, c, d, e, f] = sink_mac(index::SINK);
    let [g, h, i, j, k, l] = egress_mac(0);
    let macs = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
    Limit { oif: index::OUT, macs }
}

/// A network under test. Dropping it takes it away.
#[derive(Debug)]
pub struct Bed {
    /// The hosts.
    pub lab: Lab,
}

impl Bed {
    /// Builds it with that rp_filter everywhere on the router, the sinks attached.
    pub fn new(workload: &mut Workload, rp_filter: u32) -> Result<Self> {
        let mut lab = Lab::new();
        lab.router(ROUTER)?;
        lab.host(OUTSIDE)?;
        let value = rp_filter.to_string();
        for which in ["all", "default"] {
            lab.settings(ROUTER, &[(&format!("net.ipv4.conf.{which}.rp_filter"), &value)])?;
        }
        // The far side has no addresses of its own, and says nothing by itself.
        lab.settings(OUTSIDE, &[("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv6.conf.default.disable_ipv6", "1")])?;
        let bed = Bed { lab };
        bed.kernel(|kernel| {
            for family in Family::BOTH {
                kernel
                    .add_rule(&Rule { protocol: nix::libc::RTPROT_STATIC, ..Rule::lookup(family, MAIN, TABLE_MAIN) })?;
                let usual =
                    kernel.rules()?.into_iter().find(|rule| rule.family == family && rule.priority == PRIORITY_MAIN);
                usual.map_or(Ok(()), |usual| kernel.delete_rule(&usual))?;
            }
            Ok(())
        })?;
        bed.wire(("in0", index::IN, ROUTER_MAC), ("gen0", index::GENERATOR, GENERATOR_MAC))?;
        for exit in 0..EXITS {
            let sink = index::SINK + exit;
            let name = format!("sink{exit}");
            bed.wire((out(exit), index::OUT + exit, egress_mac(exit)), (&name, sink, sink_mac(sink)))?;
            bed.outside()?.run(|| workload.attach_sink(sink))??;
        }
        bed.address("in0", ["10.10.0.1/24", "fd00:10::1/64"])?;
        bed.neighbour("in0", ["10.10.0.2", "fd00:10::2"], GENERATOR_MAC)?;
        for exit in 0..EXITS {
            let networks = [format!("10.20.{exit}.1/24"), format!("fd00:20:{exit}::1/64")];
            bed.address(out(exit), networks.each_ref().map(String::as_str))?;
            let gateways = Family::BOTH.map(|family| gateway(family, exit));
            bed.neighbour(out(exit), gateways.each_ref().map(String::as_str), sink_mac(index::SINK + exit))?;
        }
        for (to, via) in [("16.0.0.0/4", "10.10.0.2"), ("2001:db8::/32", "fd00:10::2")] {
            bed.lab.route(ROUTER, to, &[via])?;
        }
        for (family, to) in Family::BOTH.into_iter().zip(["198.18.0.0/24", "2001:db8:ffff::/64"]) {
            bed.lab.route(ROUTER, to, &[&gateway(family, 0)])?;
        }
        Ok(bed)
    }

    /// A cable from generator to sink, past the router.
    pub fn wire_directly(&self, workload: &mut Workload) -> Result<()> {
        self.lab.inside(OUTSIDE, || {
            let mut admin = Admin::open()?;
            let one = NewLink::named("direct0").index(index::DIRECT).mac(GENERATOR_MAC);
            let other = NewLink::named("direct1").index(index::DIRECT_SINK).mac(sink_mac(index::DIRECT_SINK));
            admin.veth(one, other)?;
            admin.up("direct0")?;
            admin.up("direct1")
        })?;
        Ok(self.outside()?.run(|| workload.attach_sink(index::DIRECT_SINK))??)
    }

    /// Default routes of the tables of all exits.
    pub fn add_tables(&self, first_table: u32) -> Result<()> {
        for family in Family::BOTH {
            for exit in 0..EXITS {
                self.lab.route_in(ROUTER, first_table + exit, &[&gateway(family, exit)])?;
            }
        }
        Ok(())
    }

    /// The namespace of the router.
    pub fn router(&self) -> Result<&Netns> {
        Ok(self.lab.netns(ROUTER)?)
    }

    /// The namespace of generator and sink.
    pub fn outside(&self) -> Result<&Netns> {
        Ok(self.lab.netns(OUTSIDE)?)
    }

    /// Works with the router's kernel.
    pub fn kernel<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> crate::kernel::Result<T> + Send) -> Result<T> {
        Ok(self.lab.inside(ROUTER, || work(&mut Netlink::open()?))?)
    }

    fn wire(&self, inner: (&str, u32, [u8; 6]), outer: (&str, u32, [u8; 6])) -> Result<()> {
        let outside = self.outside()?.fd();
        let link = |(name, index, mac)| NewLink::named(name).index(index).mac(mac);
        self.lab.inside(ROUTER, || Admin::open()?.veth(link(inner), link(outer).inside(outside)))?;
        // What has a carrier at once needs no waiting for it.
        self.lab.inside(OUTSIDE, || Admin::open()?.up(outer.0))?;
        Ok(self.lab.inside(ROUTER, || Admin::open()?.up(inner.0))?)
    }

    fn address(&self, dev: &str, addresses: [&str; 2]) -> Result<()> {
        Ok(self.lab.address(ROUTER, dev, &addresses)?)
    }

    fn neighbour(&self, dev: &str, addresses: [&str; 2], mac: [u8; 6]) -> Result<()> {
        for address in addresses {
            let address = address.parse().map_err(|_| Error::invalid(format!("address `{address}`")))?;
            self.lab.inside(ROUTER, || Admin::open()?.set_neighbour(dev, address, mac))?;
        }
        Ok(())
    }
}
