//! Rules of the RPDB, and the rewriting of marks that goes before them.

use super::{AddressSet, Family};
use ipnet::IpNet;
use std::collections::HashMap;
use std::fmt;

/// Which ports a selector takes, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Ports {
    /// An inclusive range.
    Range {
        /// First port of the range.
        start: u16,
        /// Last port of the range.
        end: u16,
    },
    /// `(port ^ value) & mask == 0` (6.15 and later).
    Masked {
        /// Never 0: the kernel keeps "none" so.
        value: u16,
        /// Neither 0 nor full.
        mask: u16,
    },
}

/// What a rule looks at. All of it must match (then `not` turns the answer round): `fib_rule_match()` in net/core/fib_rules.c.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selectors {
    /// Inverts the whole conjunction (FIB_RULE_INVERT).
    pub not: bool,
    /// Ingress interface by name; `lo` means made on this host.
    pub iif: Option<String>,
    /// Egress interface by name: of sockets bound to it; a forwarded packet never matches.
    pub oif: Option<String>,
    /// Mark value and mask, `(mark ^ value) & mask == 0`; without a mask in the source the mask is 0xffff_ffff.
    pub fwmark: Option<(u32, u32)>,
    /// Source prefix. None is every source.
    pub from: Option<IpNet>,
    /// Destination prefix. None is every destination.
    pub to: Option<IpNet>,
    /// The old TOS selector (the whole octet as `ip rule` shows it). 0 is none.
    pub tos: u8,
    /// DSCP value and mask, 6 bits each (6.12 and later).
    pub dscp: Option<(u8, u8)>,
    /// IP protocol number.
    pub ipproto: Option<u8>,
    /// Source ports.
    pub sport: Option<Ports>,
    /// Destination ports.
    pub dport: Option<Ports>,
    /// IPv6 flow label and mask, 20 bits each (6.14 and later).
    pub flowlabel: Option<(u32, u32)>,
    /// Inclusive range of user ids.
    pub uidrange: Option<(u32, u32)>,
    /// The packet belongs to a VRF (FRA_L3MDEV).
    pub l3mdev: bool,
    /// Tunnel key of light-weight tunnels, host byte order.
    pub tun_id: Option<u64>,
    /// Selectors the kernel reported that this version does not know, by name or attribute number.
    /// A rule that has any cannot be decided outside the kernel.
    pub unknown: Vec<String>,
}

/// A flow label has 20 bits.
pub const FLOWLABEL_MASK: u32 = 0x000f_ffff;

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleAction {
    /// Look the destination up in this table (FR_ACT_TO_TBL). 0 is the table of the VRF for `l3mdev`.
    Table(u32),
    /// Go on at the first rule of this priority (FR_ACT_GOTO).
    Goto(u32),
    /// Do nothing (FR_ACT_NOP).
    Nop,
    /// Drop silently (FR_ACT_BLACKHOLE).
    Blackhole,
    /// Answer "network unreachable" (FR_ACT_UNREACHABLE).
    Unreachable,
    /// Answer "administratively prohibited" (FR_ACT_PROHIBIT).
    Prohibit,
    /// An action this version does not know.
    Unknown(u8),
}

/// One rule of one family, as `ip rule` shows it. The order in a list is the kernel's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// The family whose list holds it.
    pub family: Family,
    /// Lower goes first; equal priorities keep the order in which they were added.
    pub priority: u32,
    /// What it matches.
    pub selectors: Selectors,
    /// What it does.
    pub action: RuleAction,
    /// Drop a found route whose prefix length is at most this.
    pub suppress_prefixlength: Option<u32>,
    /// Drop a found route whose device is in this interface group.
    pub suppress_ifgroup: Option<u32>,
    /// IPv4: the realms that a packet gets which takes a route by this rule (FRA_FLOW). They select nothing.
    pub realms: Option<u32>,
    /// FRA_PROTOCOL: who installed it (rt_protos). [`super::OWN_PROTOCOL`] is Wayfork's.
    pub protocol: u8,
    /// What the kernel made of its interface names.
    pub attached: Attached,
}

/// Whether the kernel knows an interface by the names of a rule. It looks an added rule's names up among all names, alternative
/// ones too; later only an interface that appears or is renamed is attached, by its own name (`attach_rules()`, `detach_rules()`).
///
/// A state, and no part of what a rule says: equal to every other.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    /// There is an interface for `iif`; without it a rule that has one never matches (FIB_RULE_IIF_DETACHED).
    pub iif: bool,
    /// There is an interface for `oif` (FIB_RULE_OIF_DETACHED).
    pub oif: bool,
}

impl Default for Attached {
    /// As if every name were there, which is what can be said of a rule that the kernel does not hold yet.
    fn default() -> Self {
        Attached { iif: true, oif: true }
    }
}

impl PartialEq for Attached {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Attached {}

impl std::hash::Hash for Attached {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl PartialOrd for Attached {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Attached {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Rule {
    /// A rule that matches everything and looks `table` up, owned by Wayfork.
    pub fn lookup(family: Family, priority: u32, table: u32) -> Self {
        Rule {
            family,
            priority,
            selectors: Selectors::default(),
            action: RuleAction::Table(table),
            suppress_prefixlength: None,
            suppress_ifgroup: None,
            realms: None,
            protocol: super::OWN_PROTOCOL,
            attached: Attached::default(),
        }
    }

    /// All but its place, in iproute2's words: `from all iif eth1 lookup 111`.
    pub fn without_priority(&self) -> String {
        let mut text = format!("{} {}", self.selectors, self.action);
        if let Some(len) = self.suppress_prefixlength {
            text += &format!(" suppress_prefixlength {len}");
        }
        if let Some(group) = self.suppress_ifgroup {
            text += &format!(" suppress_ifgroup {group}");
        }
        if let Some(realms) = self.realms {
            text += " realms ";
            if realms >> 16 != 0 {
                text += &format!("{}/", realms >> 16);
            }
            text += &format!("{}", realms & 0xffff);
        }
        text
    }

    /// The same rule by the interfaces' own names ([`super::Host::own_names`]): to which interface the kernel has attached a rule by
    /// another name, it does not tell.
    #[must_use]
    pub fn by_own_names(mut self, own_names: &HashMap<&str, &str>) -> Self {
        for name in [&mut self.selectors.iif, &mut self.selectors.oif] {
            if let Some(own) = name.as_deref().and_then(|name| own_names.get(name)) {
                *name = Some((*own).to_owned());
            }
        }
        self
    }

    /// The same rule wherever it stands: without its priority.
    #[must_use]
    pub fn anywhere(&self) -> Self {
        Rule { priority: 0, ..self.clone() }
    }

    /// What comes of it where it matches: among neighbours of one outcome the order does not matter.
    pub fn outcome(&self) -> impl PartialEq + use<> {
        (self.action, self.suppress_prefixlength, self.suppress_ifgroup, self.realms)
    }

    /// Whether two rules decide alike wherever they stand: everything but the owner is equal.
    pub fn same_rule(&self, other: &Rule) -> bool {
        self.family == other.family
            && self.priority == other.priority
            && self.selectors == other.selectors
            && self.action == other.action
            && self.suppress_prefixlength == other.suppress_prefixlength
            && self.suppress_ifgroup == other.suppress_ifgroup
            && self.realms == other.realms
    }
}

impl Ports {
    /// Whether a port is one of these. A packet without ports has 0, which no range holds and some masks do.
    pub fn contains(self, port: u16) -> bool {
        match self {
            Ports::Range { start, end } => (start..=end).contains(&port),
            Ports::Masked { value, mask } => (port ^ value) & mask == 0,
        }
    }

    /// One port.
    pub fn one(port: u16) -> Self {
        Ports::Range { start: port, end: port }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ports::Range { start, end } if start == end => write!(f, "{start}"),
            Ports::Range { start, end } => write!(f, "{start}-{end}"),
            Ports::Masked { value, mask } => write!(f, "{value:#x}/{mask:#x}"),
        }
    }
}

/// A mark or its mask as iproute2 writes it: hexadecimal, the mask only where it is not full.
fn write_mark(f: &mut fmt::Formatter<'_>, (value, mask): (u32, u32)) -> fmt::Result {
    write!(f, " fwmark {value:#x}")?;
    if mask != u32::MAX {
        write!(f, "/{mask:#x}")?
    }
    Ok(())
}

impl fmt::Display for Selectors {
    /// The selectors in iproute2's words, e.g. `not from 10.0.0.0/8 fwmark 0x14cc iif eth1`. `from all` when there is no source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.not {
            f.write_str("not ")?
        }
        match self.from {
            Some(net) => write!(f, "from {net}")?,
            None => f.write_str("from all")?,
        }
        if let Some(net) = self.to {
            write!(f, " to {net}")?
        }
        if self.tos != 0 {
            write!(f, " tos {:#x}", self.tos)?
        }
        if let Some(mark) = self.fwmark {
            write_mark(f, mark)?
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?
        }
        if let Some(oif) = &self.oif {
            write!(f, " oif {oif}")?
        }
        if self.l3mdev {
            f.write_str(" l3mdev")?
        }
        if let Some((lo, hi)) = self.uidrange {
            write!(f, " uidrange {lo}-{hi}")?
        }
        if let Some(proto) = self.ipproto {
            write!(f, " ipproto {proto}")?
        }
        if let Some(ports) = self.sport {
            write!(f, " sport {ports}")?
        }
        if let Some(ports) = self.dport {
            write!(f, " dport {ports}")?
        }
        if let Some(id) = self.tun_id {
            write!(f, " tun_id {id}")?
        }
        if let Some((value, mask)) = self.dscp {
            write!(f, " dscp {value}")?;
            if mask != 0x3f {
                write!(f, "/{mask:#x}")?
            }
        }
        if let Some((label, mask)) = self.flowlabel {
            write!(f, " flowlabel {label:#x}")?;
            if mask != FLOWLABEL_MASK {
                write!(f, "/{mask:#x}")?
            }
        }
        for unknown in &self.unknown {
            write!(f, " {unknown}")?
        }
        Ok(())
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleAction::Table(table) => match *table {
                super::TABLE_LOCAL => f.write_str("lookup local"),
                super::TABLE_MAIN => f.write_str("lookup main"),
                super::TABLE_DEFAULT => f.write_str("lookup default"),
                table => write!(f, "lookup {table}"),
            },
            RuleAction::Goto(target) => write!(f, "goto {target}"),
            RuleAction::Nop => f.write_str("nop"),
            RuleAction::Blackhole => f.write_str("blackhole"),
            RuleAction::Unreachable => f.write_str("unreachable"),
            RuleAction::Prohibit => f.write_str("prohibit"),
            RuleAction::Unknown(action) => write!(f, "action {action}"),
        }
    }
}

impl fmt::Display for Rule {
    /// As `ip rule add` takes it, without family and protocol: `priority 1000 from all iif eth1 lookup 111`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {} {}", self.priority, self.without_priority())
    }
}

/// The rules, a line each, as [`Rule`] displays them; for messages and tests.
pub fn display_rules(rules: &[Rule]) -> String {
    rules.iter().map(|rule| format!("{} {rule}\n", rule.family)).collect()
}

/// What one `[[mark]]` looks at: one value of each selector. All must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MarkSelectors {
    /// Ingress interface by name.
    pub iif: Option<String>,
    /// Mark before the rewrite: `(mark ^ value) & mask == 0`.
    pub fwmark: Option<(u32, u32)>,
    /// Source prefix.
    pub from: Option<IpNet>,
    /// Destination prefix.
    pub to: Option<IpNet>,
    /// IP protocol number.
    pub ipproto: Option<u8>,
    /// Source ports.
    pub sport: Option<Ports>,
    /// Destination ports.
    pub dport: Option<Ports>,
    /// DSCP value and mask, 6 bits each.
    pub dscp: Option<(u8, u8)>,
    /// IPv6 flow label and mask, 20 bits each.
    pub flowlabel: Option<(u32, u32)>,
    /// A set that holds the source.
    pub from_set: Option<AddressSet>,
    /// A set that holds the destination.
    pub to_set: Option<AddressSet>,
}

/// One alternative of a `[[mark]]`: `mark & !mask | value` where everything matches. Applied in order, each to what the one before left.
///
/// The alternatives of one `[[mark]]` share `statement`: the first that matches is the only one of them that is applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MarkRule {
    /// The family; a `[[mark]]` that names none becomes two.
    pub family: Family,
    /// Which `[[mark]]` of the file this belongs to, from 0.
    pub statement: u32,
    /// What it matches.
    pub selectors: MarkSelectors,
    /// The bits to set, within `mask`.
    pub value: u32,
    /// The bits to replace; 0 leaves the mark as it is and keeps the later alternatives of the statement from it.
    pub mask: u32,
    /// It is applied last before every routing decision, that of packets made on this host too: a bit that says that an address
    /// is in a set. A `[[mark]]` is applied to what comes in, ahead of destination NAT.
    pub membership: bool,
}

impl MarkSelectors {
    /// The sets that it looks at.
    pub fn sets(&self) -> impl Iterator<Item = &AddressSet> {
        self.from_set.iter().chain(&self.to_set)
    }
}
