//! Who owns a rule, and the stable name of a rule.

use super::Rule;
use std::collections::HashMap;

/// The protocol number (rt_protos) under which Wayfork installs rules and routes. Not used by any program that registers
/// one in include/uapi/linux/rtnetlink.h or iproute2's rt_protos.
pub const OWN_PROTOCOL: u8 = 87;

/// The owner's name for a protocol number, as iproute2's rt_protos has it.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        OWN_PROTOCOL => "wayfork",
        0 => "unspec",
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        10 => "mrt",
        11 => "zebra",
        12 => "bird",
        13 => "dnrouted",
        14 => "xorp",
        15 => "ntk",
        16 => "dhcp",
        17 => "mrouted",
        18 => "keepalived",
        42 => "babel",
        84 => "ovn",
        99 => "openr",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    }
    .to_owned()
}

/// The id of a rule among rules of which no two are the same: `v4-1000-5c1f09aa`, from all that it is, its owner included: two
/// owners may have rules that are otherwise equal, and either may go.
pub fn rule_id(rule: &Rule) -> String {
    let family = match rule.family {
        super::Family::Ipv4 => "v4",
        super::Family::Ipv6 => "v6",
    };
    format!("{family}-{}-{:08x}", rule.priority, fnv1a(format!("{rule} protocol {}", rule.protocol).as_bytes()))
}

/// A stable, unique id for each rule of a list: its [`rule_id`]; the same rule again gets `.2`, `.3` … in their order.
pub fn rule_ids<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<String> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    rules
        .into_iter()
        .map(|rule| {
            let id = rule_id(rule);
            let count = seen.entry(id.clone()).or_default();
            *count += 1;
            if *count == 1 { id } else { format!("{id}.{count}") }
        })
        .collect()
}

/// FNV-1a, 32 bits: the standard library's hasher promises nothing about staying the same between versions.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    #[test]
    fn ids_are_stable_and_unique() {
        let own = Rule::lookup(Family::Ipv4, 1000, 111);
        let foreign = Rule { protocol: 50, ..own.clone() };
        let twin = Rule { protocol: 51, ..own.clone() };
        let ids = rule_ids(&[own.clone(), foreign.clone(), twin.clone(), Rule::lookup(Family::Ipv6, 1000, 111), own]);
        // Each keeps its own when another goes.
        assert_eq!(ids[2], rule_ids(std::slice::from_ref(&twin))[0]);
        assert_eq!(ids[1], rule_id(&foreign));
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len(), "{ids:?}");
        assert_eq!(ids[4], format!("{}.2", ids[0]), "the same rule, twice");
    }
}
