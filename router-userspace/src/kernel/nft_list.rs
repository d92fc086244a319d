//! What other programs have in nftables: chains and what their rules touch, flowtables.

use super::nft::*;
use super::wire::{self, Message, Wire, be32, find, string};
use crate::safety::{Base, Chain, ChainFamily, Expression, Flowtable, HookPoint};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::collections::HashMap;
use std::io;

/// How often the listing is begun anew when the rules change under it.
const TRIES: u32 = 5;
/// NFTA_GEN_ID.
const NFTA_GEN_ID: u16 = 1;

/// Chains and flowtables, Wayfork's own table left out. Nothing where the kernel has no nf_tables.
pub(super) fn ruleset() -> io::Result<(Vec<Chain>, Vec<Flowtable>)> {
    let mut wire = match Wire::open(NETLINK_NETFILTER) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Default::default()),
        opened => opened?,
    };
    for _ in 0..TRIES {
        // Each transaction raises the generation: three lists of one generation belong together.
        let before = match generation(&mut wire) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Default::default()),
            answer => answer?,
        };
        let chains = wire.dump(message_type(NFT_MSG_GETCHAIN), &nfgenmsg(0, 0))?;
        let rules = wire.dump(message_type(NFT_MSG_GETRULE), &nfgenmsg(0, 0))?;
        let flowtables = wire.dump(message_type(NFT_MSG_GETFLOWTABLE), &nfgenmsg(0, 0))?;
        if before == generation(&mut wire)? {
            let flowtables = flowtables.iter().map(read_flowtable).collect::<io::Result<_>>()?;
            return Ok((read_chains(&chains, &rules)?, flowtables));
        }
    }
    Err(io::Error::other("the rules change faster than they can be read"))
}

fn generation(wire: &mut Wire) -> io::Result<u32> {
    let answer = wire.get(message_type(NFT_MSG_GETGEN), &nfgenmsg(0, 0))?;
    let body = answer.map(|message| message.body).unwrap_or_default();
    find(&wire::attributes_after(NFGENMSG, &body)?, NFTA_GEN_ID).and_then(be32).ok_or_else(|| missing("generation"))
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer has no {what}"))
}

/// The family that a message of nf_tables is about.
pub(super) fn family(number: u8) -> ChainFamily {
    match number {
        NFPROTO_IPV4 => ChainFamily::Ip,
        NFPROTO_IPV6 => ChainFamily::Ip6,
        NFPROTO_INET => ChainFamily::Inet,
        NFPROTO_NETDEV => ChainFamily::Netdev,
        NFPROTO_BRIDGE => ChainFamily::Bridge,
        NFPROTO_ARP => ChainFamily::Arp,
        other => ChainFamily::Other(other),
    }
}

fn family_of(message: &Message) -> ChainFamily {
    family(message.body.first().copied().unwrap_or(0))
}

/// The hook of a number, which means something else in each family (include/uapi/linux/netfilter.h, netfilter_arp.h).
pub(super) fn hook_point(family: ChainFamily, number: u32) -> HookPoint {
    use HookPoint as H;
    let ip = [H::Prerouting, H::Input, H::Forward, H::Output, H::Postrouting];
    let names: &[HookPoint] = match family {
        ChainFamily::Netdev => &[H::Ingress, H::Egress],
        ChainFamily::Arp => &[H::Input, H::Output, H::Forward],
        // NF_INET_INGRESS comes after the five.
        ChainFamily::Inet if number == 5 => return H::Ingress,
        ChainFamily::Other(_) => &[],
        ChainFamily::Ip | ChainFamily::Ip6 | ChainFamily::Inet | ChainFamily::Bridge => &ip,
    };
    usize::try_from(number).ok().and_then(|number| names.get(number)).copied().unwrap_or(H::Other(number))
}

/// Whether it is Wayfork's own.
pub(super) fn is_own(family: ChainFamily, table: &str) -> bool {
    family == ChainFamily::Inet && table == OWN_TABLE
}

fn read_chains(chains: &[Message], rules: &[Message]) -> io::Result<Vec<Chain>> {
    let mut read = Vec::new();
    let mut places = HashMap::new();
    for message in chains {
        let attributes = wire::attributes_after(NFGENMSG, &message.body)?;
        let family = family_of(message);
        let table = find(&attributes, NFTA_CHAIN_TABLE).map(string).ok_or_else(|| missing("table of a chain"))?;
        let name = find(&attributes, NFTA_CHAIN_NAME).map(string).ok_or_else(|| missing("name of a chain"))?;
        let base = match find(&attributes, NFTA_CHAIN_HOOK) {
            Some(hook) => Some(read_base(family, hook, find(&attributes, NFTA_CHAIN_TYPE))?),
            None => None,
        };
        if !is_own(family, &table) {
            places.insert((family, table.clone(), name.clone()), read.len());
            read.push(Chain { family, table, name, base, expressions: Vec::new() });
        }
    }
    for message in rules {
        let attributes = wire::attributes_after(NFGENMSG, &message.body)?;
        let family = family_of(message);
        let table = find(&attributes, NFTA_RULE_TABLE).map(string).unwrap_or_default();
        let name = find(&attributes, NFTA_RULE_CHAIN).map(string).unwrap_or_default();
        if is_own(family, &table) {
            continue;
        }
        let place = places.get(&(family, table, name)).ok_or_else(|| missing("chain of a rule"))?;
        if let Some(list) = find(&attributes, NFTA_RULE_EXPRESSIONS) {
            for (_, element) in wire::attributes(list)? {
                let expression = read_expression(element)?;
                read[*place].expressions.push(expression);
            }
        }
    }
    Ok(read)
}

fn read_base(family: ChainFamily, hook: &[u8], kind: Option<&[u8]>) -> io::Result<Base> {
    let attributes = wire::attributes(hook)?;
    let number = find(&attributes, NFTA_HOOK_HOOKNUM).and_then(be32).ok_or_else(|| missing("hook of a chain"))?;
    let priority = find(&attributes, NFTA_HOOK_PRIORITY).and_then(be32).unwrap_or(0).cast_signed();
    let mut devices: Vec<String> = find(&attributes, NFTA_HOOK_DEV).map(string).into_iter().collect();
    if let Some(list) = find(&attributes, NFTA_HOOK_DEVS) {
        devices.extend(read_devices(list)?);
    }
    devices.sort();
    devices.dedup();
    Ok(Base { hook: hook_point(family, number), priority, kind: kind.map(string).unwrap_or_default(), devices })
}

fn read_devices(list: &[u8]) -> io::Result<Vec<String>> {
    let name = |(kind, value): (u16, &[u8])| match kind {
        NFTA_DEVICE_NAME => string(value),
        NFTA_DEVICE_PREFIX => format!("{}*", string(value)),
        // Whatever it is, it may mean every device.
        _ => "*".to_owned(),
    };
    Ok(wire::attributes(list)?.into_iter().map(name).collect())
}

fn read_flowtable(message: &Message) -> io::Result<Flowtable> {
    let attributes = wire::attributes_after(NFGENMSG, &message.body)?;
    let hook = find(&attributes, NFTA_FLOWTABLE_HOOK).map(wire::attributes).transpose()?.unwrap_or_default();
    let devices = find(&hook, NFTA_FLOWTABLE_HOOK_DEVS).map(read_devices).transpose()?.unwrap_or_default();
    Ok(Flowtable {
        family: family_of(message),
        table: find(&attributes, NFTA_FLOWTABLE_TABLE).map(string).unwrap_or_default(),
        name: find(&attributes, NFTA_FLOWTABLE_NAME).map(string).unwrap_or_default(),
        devices,
    })
}

fn read_expression(element: &[u8]) -> io::Result<Expression> {
    let attributes = wire::attributes(element)?;
    let name = find(&attributes, NFTA_EXPR_NAME).map(string).ok_or_else(|| missing("name of an expression"))?;
    let data = find(&attributes, NFTA_EXPR_DATA).map(wire::attributes).transpose()?.unwrap_or_default();
    let number = |kind| find(&data, kind).and_then(be32);
    let has = |kind| find(&data, kind).is_some();
    let mut expression = Expression::default();
    match name.as_str() {
        "meta" => (expression.key, expression.writes) = (number(NFTA_META_KEY), has(NFTA_META_SREG)),
        "ct" => (expression.key, expression.writes) = (number(NFTA_CT_KEY), has(NFTA_CT_SREG)),
        "payload" => expression.writes = has(NFTA_PAYLOAD_SREG),
        // `reset tcp option` has neither register: what writes is anything that loads nothing.
        "exthdr" => expression.writes = !has(NFTA_EXTHDR_DREG),
        "objref" => expression.key = number(NFTA_OBJREF_IMM_TYPE),
        "fib" => expression.key = number(NFTA_FIB_FLAGS),
        "match" | "target" => expression.extension = find(&data, NFTA_EXTENSION_NAME).map(string),
        "lookup" => expression.jumps_by_map = number(NFTA_LOOKUP_DREG) == Some(NFT_REG_VERDICT),
        "immediate" => {
            let value = find(&data, NFTA_IMMEDIATE_DATA).map(wire::attributes).transpose()?.unwrap_or_default();
            let verdict = find(&value, NFTA_DATA_VERDICT).map(wire::attributes).transpose()?.unwrap_or_default();
            expression.jump = find(&verdict, NFTA_VERDICT_CHAIN).map(string);
            let code = find(&verdict, NFTA_VERDICT_CODE).and_then(be32).map(u32::cast_signed);
            // A jump to a chain without a name: to whichever.
            expression.jumps_by_map = matches!(code, Some(NFT_JUMP | NFT_GOTO)) && expression.jump.is_none();
        }
        _ => {}
    }
    expression.name = name;
    Ok(expression)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::Attrs;

    fn message(family: u8, attributes: Attrs) -> Message {
        Message { kind: 0, body: [&nfgenmsg(family, 0)[..], &attributes.done()].concat() }
    }

    /// As `nf_tables_fill_flowtable_info()` writes it; the test kernel may have no flowtables.
    #[test]
    fn a_flowtable() {
        let devices = Attrs::default().string(NFTA_DEVICE_NAME, "eth0").string(NFTA_DEVICE_PREFIX, "wg").bytes(9, &[0]);
        let hook = Attrs::default().be32(1, 0).be32(2, 0).nested(NFTA_FLOWTABLE_HOOK_DEVS, devices);
        let flowtable = Attrs::default()
            .string(NFTA_FLOWTABLE_TABLE, "t")
            .string(NFTA_FLOWTABLE_NAME, "ft")
            .nested(NFTA_FLOWTABLE_HOOK, hook);
        assert_eq!(
            read_flowtable(&message(NFPROTO_INET, flowtable)).expect("read"),
            Flowtable {
                family: ChainFamily::Inet,
                table: "t".into(),
                name: "ft".into(),
                devices: vec!["eth0".into(), "wg*".into(), "*".into()]
            }
        );
    }

    #[test]
    fn hooks_have_their_meaning_by_family() {
        use ChainFamily as F;
        use HookPoint as H;
        for (family, number, hook) in [
            (F::Ip, 0, H::Prerouting),
            (F::Ip6, 2, H::Forward),
            (F::Inet, 4, H::Postrouting),
            (F::Inet, 5, H::Ingress),
            (F::Bridge, 5, H::Other(5)),
            (F::Netdev, 0, H::Ingress),
            (F::Netdev, 1, H::Egress),
            (F::Arp, 1, H::Output),
            (F::Other(12), 0, H::Other(0)),
        ] {
            assert_eq!(hook_point(family, number), hook, "{family:?} {number}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for body in [vec![], vec![2, 0], vec![2, 0, 0, 0, 9], vec![2, 0, 0, 0, 3, 0, 1, 0]] {
            assert!(read_chains(&[Message { kind: 0, body }], &[]).is_err());
        }
        let rule = Attrs::default().string(NFTA_RULE_TABLE, "t").string(NFTA_RULE_CHAIN, "c");
        assert!(read_chains(&[], &[message(NFPROTO_IPV4, rule)]).is_err(), "a rule of a chain that is not there");
    }
}
