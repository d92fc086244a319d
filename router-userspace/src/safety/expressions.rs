//! What the expressions of nftables' rules touch. A name that is not listed here is not known to be harmless.

use super::facts::{Chain, Expression};
use std::collections::BTreeMap;

/// NFT_META_MARK and NFT_CT_MARK (include/uapi/linux/netfilter/nf_tables.h).
const KEY_MARK: u32 = 3;
/// NFT_META_NFTRACE: setting it only makes the kernel report the packet's way.
const META_NFTRACE: u32 = 12;
/// NFTA_FIB_F_MARK: the look-up of `fib … . mark` uses the packet's mark.
const FIB_MARK: u32 = 1 << 2;
/// NFT_OBJECT_COUNTER, _QUOTA, _LIMIT and _CONNLIMIT: objects that count and compare.
const COUNTING_OBJECTS: [u32; 4] = [1, 2, 4, 5];

/// Expressions that look, compare, count, log or give a verdict, whatever their attributes.
const READING: [&str; 22] = [
    "bitwise",
    "byteorder",
    "cmp",
    "connlimit",
    "counter",
    "dynset",
    "fib",
    "hash",
    "immediate",
    "last",
    "limit",
    "log",
    "lookup",
    "notrack",
    "numgen",
    "osf",
    "quota",
    "range",
    "reject",
    "rt",
    "tunnel",
    "xfrm",
];
/// Expressions that look, or, with a source register, write what they name.
const READING_OR_WRITING: [&str; 4] = ["ct", "exthdr", "meta", "payload"];
/// Expressions that change packets or connections and neither read nor write a mark.
const CHANGING_WITHOUT_MARK: [&str; 6] = ["flow_offload", "masq", "nat", "objref", "redir", "synproxy"];
/// Extensions of xtables that neither read nor write a mark.
const EXTENSIONS_WITHOUT_MARK: [&str; 34] = [
    "addrtype",
    "ah",
    "CHECKSUM",
    "comment",
    "connbytes",
    "connlimit",
    "conntrack",
    "dccp",
    "DNAT",
    "dscp",
    "esp",
    "hashlimit",
    "icmp",
    "icmp6",
    "iprange",
    "length",
    "limit",
    "LOG",
    "mac",
    "MASQUERADE",
    "multiport",
    "physdev",
    "pkttype",
    "recent",
    "REDIRECT",
    "REJECT",
    "sctp",
    "SNAT",
    "state",
    "statistic",
    "tcp",
    "TCPMSS",
    "tcpmss",
    "udp",
];

impl Expression {
    /// Whether it reads or writes the mark of the packet or of its connection, or may.
    pub fn may_touch_mark(&self) -> bool {
        match self.name.as_str() {
            // A key that cannot be read may be the mark.
            "meta" | "ct" => self.key.is_none_or(|key| key == KEY_MARK),
            "fib" => self.key.is_none_or(|flags| flags & FIB_MARK != 0),
            "match" | "target" => {
                !self.extension.as_deref().is_some_and(|name| EXTENSIONS_WITHOUT_MARK.contains(&name))
            }
            name => {
                !READING.contains(&name)
                    && !READING_OR_WRITING.contains(&name)
                    && !CHANGING_WITHOUT_MARK.contains(&name)
            }
        }
    }

    /// Whether it can change what routing looks at: addresses, ports, DSCP, mark, device. A verdict does not: a dropped
    /// packet is dropped with a mark as without.
    pub fn may_change_routing(&self) -> bool {
        match self.name.as_str() {
            "meta" => self.writes && self.key != Some(META_NFTRACE),
            "ct" | "exthdr" | "payload" => self.writes,
            "objref" => !self.key.is_some_and(|object| COUNTING_OBJECTS.contains(&object)),
            name => !READING.contains(&name),
        }
    }

    /// Whether it makes the kernel track connections (`nf_ct_netns_get`): conntrack then hangs in prerouting and postrouting.
    pub fn tracks_connections(&self) -> bool {
        matches!(self.name.as_str(), "ct" | "connlimit" | "masq" | "nat" | "redir" | "flow_offload" | "synproxy")
            // Extensions do so on their own account.
            || matches!(self.name.as_str(), "match" | "target")
            // A ct helper, timeout or expectation; or an object that only its map knows.
            || self.name == "objref" && !self.key.is_some_and(|object| COUNTING_OBJECTS[..3].contains(&object))
    }

    /// What messages call it.
    pub fn title(&self) -> String {
        match (self.name.as_str(), self.key, &self.extension) {
            ("meta", Some(KEY_MARK), _) if self.writes => "meta mark set".to_owned(),
            ("meta", Some(KEY_MARK), _) => "meta mark".to_owned(),
            ("ct", Some(KEY_MARK), _) if self.writes => "ct mark set".to_owned(),
            ("ct", Some(KEY_MARK), _) => "ct mark".to_owned(),
            (name, _, _) if self.writes => format!("{name} … set"),
            (_, _, Some(extension)) => format!("xtables {extension}"),
            (name, _, None) => name.to_owned(),
        }
    }
}

/// A base chain and every chain that its packets can come to.
pub fn reachable<'a>(chains: &'a [Chain], base: &'a Chain) -> Vec<&'a Chain> {
    let mut waiting: BTreeMap<&str, &Chain> = chains
        .iter()
        .filter(|chain| chain.base.is_none() && chain.family == base.family && chain.table == base.table)
        .map(|chain| (chain.name.as_str(), chain))
        .collect();
    let mut found = vec![base];
    let mut next = 0;
    while let Some(chain) = found.get(next).copied() {
        next += 1;
        for expression in &chain.expressions {
            if expression.jumps_by_map {
                // The elements of a verdict map are not read: it may lead to any chain of the table.
                found.extend(std::mem::take(&mut waiting).into_values());
            } else if let Some(name) = &expression.jump {
                found.extend(waiting.remove(name.as_str()));
            }
        }
    }
    found
}
