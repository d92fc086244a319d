//! What could act on a packet besides routing, as plain data.

use std::collections::BTreeMap;

/// One reading of the host. Wayfork's own table, filters and programs are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What could not be read, a sentence each. With any of these nothing is certain.
    pub doubts: Vec<String>,
    /// All chains of nftables (iptables-nft's too), of all families.
    pub chains: Vec<Chain>,
    /// nftables' flowtables.
    pub flowtables: Vec<Flowtable>,
    /// Every netfilter hook, where the kernel can list them (nfnetlink_hook); None where it can't.
    pub hooks: Option<Vec<Hook>>,
    /// Tables of the old iptables and ip6tables that are in use, e.g. `iptables mangle`.
    pub legacy_tables: Vec<String>,
    /// Hooks that something is known to have although the kernel cannot list hooks, e.g. `SELinux`.
    pub other_hooks: Vec<String>,
    /// How many xfrm policies there are.
    pub xfrm_policies: usize,
    /// A default of xfrm refuses what no policy matches (`ip xfrm policy setdefault`).
    pub xfrm_refuses: bool,
    /// `fwmark_reflect` of either family: answers that the stack makes to a packet carry its mark.
    pub fwmark_reflect: bool,
    /// Filters of traffic control by interface index.
    pub filters: BTreeMap<u32, Vec<Filter>>,
    /// TCX programs on ingress by interface index: their names.
    pub tcx: BTreeMap<u32, Vec<String>>,
    /// TCX programs on egress by interface index: their names.
    pub tcx_egress: BTreeMap<u32, Vec<String>>,
    /// Who looks at marks of packets or connections, or writes them, besides rules of the RPDB.
    pub marks: Vec<MarkUse>,
    /// A BPF program tells the stack's rules the protocol and the ports of a packet, in place of the kernel's own flow dissector.
    pub flow_dissector: bool,
    /// Devices whose far end runs a generic XDP program on what it receives.
    pub generic_xdp: Vec<String>,
}

/// Somebody who has to do with marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkUse {
    /// Who, for a sentence: `nftables chain inet mangle/pre`, `the WireGuard device wg0`.
    pub who: String,
    /// Which marks.
    pub what: Marks,
}

/// Marks that somebody compares or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Marks {
    /// Some bits of any mark.
    Bits(u32),
    /// Marks that are exactly this.
    Whole(u32),
    /// That cannot be seen.
    Unknown,
}

/// A family of nftables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainFamily {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// A device's own.
    Netdev,
    /// Bridges.
    Bridge,
    /// ARP.
    Arp,
    /// A number that this version does not know.
    Other(u8),
}

/// Where a chain or a function hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookPoint {
    /// A device, before anything else of the stack.
    Ingress,
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
    /// A device, before its queue.
    Egress,
    /// A number that this version does not know.
    Other(u32),
}

/// A chain of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family of its table.
    pub family: ChainFamily,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it hangs; None for a chain that is only jumped to.
    pub base: Option<Base>,
    /// What its rules do, all of them one after the other.
    pub expressions: Vec<Expression>,
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where it hangs.
    pub hook: HookPoint,
    /// Lower goes first.
    pub priority: i32,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The devices of an ingress or egress chain; one that ends in `*` stands for all that start so.
    pub devices: Vec<String>,
}

/// A flowtable of nftables: established flows skip the stack at the ingress of its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flowtable {
    /// Family of its table.
    pub family: ChainFamily,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its devices.
    pub devices: Vec<String>,
}

/// One expression of a rule: as much of it as says what it touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expression {
    /// The kernel's name for it: `meta`, `cmp`, `match`, …
    pub name: String,
    /// `meta` and `ct`: which key (NFT_META_*, NFT_CT_*). `objref`: which type of object. `fib`: its flags.
    pub key: Option<u32>,
    /// It writes what it names, instead of reading it.
    pub writes: bool,
    /// The chain that it jumps or goes to.
    pub jump: Option<String>,
    /// It jumps to chains that only its set knows.
    pub jumps_by_map: bool,
    /// `match` and `target`: which extension of xtables.
    pub extension: Option<String>,
}

/// A function that netfilter calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Ip, Ip6 or Netdev.
    pub family: ChainFamily,
    /// Where it hangs.
    pub hook: HookPoint,
    /// Its device, of Netdev.
    pub device: Option<String>,
    /// The kernel function, e.g. `ipv4_conntrack_in`; empty where the kernel has no names.
    pub function: String,
    /// It runs this chain of nftables, which is in [`Facts::chains`] too: family, table, chain.
    pub chain: Option<(ChainFamily, String, String)>,
    /// It is a flowtable of nftables.
    pub flowtable: bool,
}

/// A filter of traffic control, or a qdisc that classifies by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// On the way in.
    pub ingress: bool,
    /// `bpf`, `u32`, `flower`, …
    pub kind: String,
    /// The name of a BPF filter; empty for others.
    pub name: String,
    /// The kinds of its actions.
    pub actions: Vec<String>,
    /// It looks, or may look, at the packet's mark.
    pub matches_mark: bool,
}

impl ChainFamily {
    /// nft's word.
    pub fn name(self) -> &'static str {
        match self {
            ChainFamily::Ip => "ip",
            ChainFamily::Ip6 => "ip6",
            ChainFamily::Inet => "inet",
            ChainFamily::Netdev => "netdev",
            ChainFamily::Bridge => "bridge",
            ChainFamily::Arp => "arp",
            ChainFamily::Other(_) => "(unknown family)",
        }
    }
}

impl HookPoint {
    /// nft's word.
    pub fn name(self) -> &'static str {
        match self {
            HookPoint::Ingress => "ingress",
            HookPoint::Prerouting => "prerouting",
            HookPoint::Input => "input",
            HookPoint::Forward => "forward",
            HookPoint::Output => "output",
            HookPoint::Postrouting => "postrouting",
            HookPoint::Egress => "egress",
            HookPoint::Other(_) => "(unknown)",
        }
    }

    /// Whether a forwarded packet can meet it.
    pub fn concerns_forwarding(self) -> bool {
        !matches!(self, HookPoint::Input | HookPoint::Output)
    }

    /// Whether a packet meets it between traffic control and routing.
    pub fn before_routing(self) -> bool {
        matches!(self, HookPoint::Ingress | HookPoint::Prerouting | HookPoint::Other(_))
    }
}

impl Chain {
    /// What messages call it: `nftables chain inet filter/forward`.
    pub fn title(&self) -> String {
        format!("nftables chain {} {}/{}", self.family.name(), self.table, self.name)
    }
}

impl Flowtable {
    /// What messages call it.
    pub fn title(&self) -> String {
        format!("nftables flowtable {} {}/{}", self.family.name(), self.table, self.name)
    }
}
