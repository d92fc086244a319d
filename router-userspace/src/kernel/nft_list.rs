//! What other programs have in nftables: chains and what their rules touch, flowtables, marks.

use super::Result;
use super::attributes::{Attribute, Decode, Malformed};
use super::nft::*;
use super::nft_marks::{Uses, read_elements, read_rule};
use super::socket::{Request, Socket};
use super::wire::{Attrs, Found};
use crate::safety::{Base, Chain, ChainFamily, Expression, Flowtable, HookPoint, MarkUse, Marks};
use std::collections::{BTreeMap, HashMap};

/// How often the listing is begun anew when the rules change under it.
const TRIES: u32 = 5;
/// NFTA_GEN_ID.
const NFTA_GEN_ID: u16 = 1;

const WHAT: &str = "list nftables";

/// Chains, flowtables and what the rules have to do with marks, Wayfork's own table left out. Nothing where the kernel has no
/// nf_tables.
pub(super) fn ruleset() -> Result<(Vec<Chain>, Vec<Flowtable>, Vec<MarkUse>)> {
    let Some(mut socket) = open()? else { return Ok(Default::default()) };
    for _ in 0..TRIES {
        // Each transaction raises the generation: three lists of one generation belong together.
        let before = match generation(&mut socket) {
            Err(error) if error.errno() == libc::EINVAL => return Ok(Default::default()),
            answer => answer?,
        };
        let own = is_ours(&mut socket)?;
        let chains = dump(&mut socket, NFT_MSG_GETCHAIN)?;
        let rules = dump(&mut socket, NFT_MSG_GETRULE)?;
        let flowtables = dump(&mut socket, NFT_MSG_GETFLOWTABLE)?;
        let read = read_all(own, &chains, &rules, &flowtables).map_err(|malformed| malformed.during(WHAT))?;
        let (chains, flowtables, uses) = read;
        let marks = marks_of(&mut socket, &uses);
        if before == generation(&mut socket)? {
            return Ok((chains, flowtables, marks?));
        }
    }
    Err(Malformed("list: the rules change faster than they can be read").during(WHAT))
}

/// `own`: the table of Wayfork's name is Wayfork's.
fn read_all(
    own: bool,
    chains: &[Vec<u8>],
    rules: &[Vec<u8>],
    flowtables: &[Vec<u8>],
) -> Decode<(Vec<Chain>, Vec<Flowtable>, ChainUses)> {
    let mut ruleset = Ruleset { own, ..Ruleset::default() };
    chains.iter().try_for_each(|body| ruleset.add_chain(body))?;
    rules.iter().try_for_each(|body| ruleset.add_rule(body))?;
    let flowtables = flowtables.iter().map(|body| read_flowtable(body)).collect::<Decode<_>>()?;
    Ok((ruleset.chains, flowtables, ruleset.uses))
}

/// What the rules of each chain have to do with marks, by the family's number, the table and the chain.
type ChainUses = BTreeMap<(u8, String, String), Uses>;

/// The marks that chains compare and write, those of their sets and maps included.
fn marks_of(socket: &mut Socket, uses: &ChainUses) -> Result<Vec<MarkUse>> {
    let mut all = Vec::new();
    for ((number, table, chain), uses) in uses {
        let mut marks = uses.marks.clone();
        for (names, of_keys) in [(&uses.keys, true), (&uses.values, false)] {
            for name in names {
                let question = Attrs::after(&nfgenmsg(*number, 0))
                    .string(NFTA_SET_ELEM_LIST_TABLE, table)
                    .string(NFTA_SET_ELEM_LIST_SET, name);
                let messages = socket.dump(WHAT, message_type(NFT_MSG_GETSETELEM), &question, |body| {
                    read_elements(body).map(Some).map_err(|malformed| malformed.during(WHAT))
                })?;
                let numbers = messages.into_iter().flatten().map(|(key, value)| if of_keys { key } else { value });
                marks.extend(numbers.map(|number| number.map_or(Marks::Unknown, Marks::Whole)));
            }
        }
        let who = format!("nftables chain {} {table}/{chain}", family(*number).name());
        all.extend(marks.into_iter().map(|what| MarkUse { who: who.clone(), what }));
    }
    Ok(all)
}

/// Everything of a kind, of every family.
fn dump(socket: &mut Socket, message: u16) -> Result<Vec<Vec<u8>>> {
    socket.dump(WHAT, message_type(message), &Attrs::after(&nfgenmsg(0, 0)), |body| Ok(Some(body.to_vec())))
}

fn generation(socket: &mut Socket) -> Result<u32> {
    let question = Request::new(WHAT, message_type(NFT_MSG_GETGEN), 0, &Attrs::after(&nfgenmsg(0, 0)));
    socket.ask(question, |body| {
        let number = Found::after(NFGENMSG, body).and_then(|found| found.be32(NFTA_GEN_ID));
        number.and_then(|number| number.ok_or(Malformed("generation"))).map_err(|malformed| malformed.during(WHAT))
    })
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

/// The family that a message's header names.
pub(super) fn family_of(body: &[u8]) -> ChainFamily {
    family(body.first().copied().unwrap_or(0))
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

/// Whether it has the name of Wayfork's own.
pub(super) fn has_own_name(family: ChainFamily, table: &str) -> bool {
    family == ChainFamily::Inet && table == OWN_TABLE
}

/// The chains so far, and where each is.
#[derive(Default)]
struct Ruleset {
    /// The table of Wayfork's name is Wayfork's, and left out.
    own: bool,
    chains: Vec<Chain>,
    places: HashMap<(ChainFamily, String, String), usize>,
    uses: ChainUses,
}

impl Ruleset {
    fn add_chain(&mut self, body: &[u8]) -> Decode<()> {
        let found = Found::after(NFGENMSG, body)?;
        let family = family_of(body);
        let table = found.name(NFTA_CHAIN_TABLE, "chain: no table")?;
        let name = found.name(NFTA_CHAIN_NAME, "chain: no name")?;
        let kind = found.text(NFTA_CHAIN_TYPE).unwrap_or_default();
        let hook = found.get(NFTA_CHAIN_HOOK);
        let base = hook.map(|hook| read_base(family, Found::within(hook.value)?, kind)).transpose()?;
        if !(self.own && has_own_name(family, &table)) {
            self.places.insert((family, table.clone(), name.clone()), self.chains.len());
            self.chains.push(Chain { family, table, name, base, expressions: Vec::new() });
        }
        Ok(())
    }

    fn add_rule(&mut self, body: &[u8]) -> Decode<()> {
        let found = Found::after(NFGENMSG, body)?;
        let family = family_of(body);
        let table = found.name(NFTA_RULE_TABLE, "rule: no table")?;
        let chain = found.name(NFTA_RULE_CHAIN, "rule: no chain")?;
        if self.own && has_own_name(family, &table) {
            return Ok(());
        }
        let key = (body.first().copied().unwrap_or(0), table.clone(), chain.clone());
        let place = self.places.get(&(family, table, chain)).ok_or(Malformed("rule: its chain is not there"))?;
        let expressions = found.nested(NFTA_RULE_EXPRESSIONS)?;
        let mut uses = self.uses.remove(&key).unwrap_or_default();
        read_rule(&expressions, &mut uses)?;
        if uses != Uses::default() {
            self.uses.insert(key, uses);
        }
        for element in expressions.all() {
            self.chains[*place].expressions.push(read_expression(element.value)?);
        }
        Ok(())
    }
}

fn read_base(family: ChainFamily, hook: Found<'_>, kind: String) -> Decode<Base> {
    let number = hook.be32(NFTA_HOOK_HOOKNUM)?.ok_or(Malformed("chain: no hook"))?;
    let priority = hook.be32(NFTA_HOOK_PRIORITY)?.unwrap_or(0).cast_signed();
    let mut devices: Vec<String> = hook.text(NFTA_HOOK_DEV).into_iter().collect();
    devices.extend(read_devices(&hook.nested(NFTA_HOOK_DEVS)?));
    devices.sort();
    devices.dedup();
    Ok(Base { hook: hook_point(family, number), priority, kind, devices })
}

fn read_devices(list: &Found<'_>) -> Vec<String> {
    let name = |device: &Attribute<'_>| match device.kind {
        NFTA_DEVICE_NAME => device.text(),
        NFTA_DEVICE_PREFIX => format!("{}*", device.text()),
        // Whatever it is, it may mean every device.
        _ => "*".to_owned(),
    };
    list.all().iter().map(name).collect()
}

fn read_flowtable(body: &[u8]) -> Decode<Flowtable> {
    let found = Found::after(NFGENMSG, body)?;
    let devices = found.nested(NFTA_FLOWTABLE_HOOK)?.nested(NFTA_FLOWTABLE_HOOK_DEVS)?;
    Ok(Flowtable {
        family: family_of(body),
        table: found.name(NFTA_FLOWTABLE_TABLE, "flowtable: no table")?,
        name: found.name(NFTA_FLOWTABLE_NAME, "flowtable: no name")?,
        devices: read_devices(&devices),
    })
}

fn read_expression(element: &[u8]) -> Decode<Expression> {
    let found = Found::within(element)?;
    let name = found.name(NFTA_EXPR_NAME, "expression: no name")?;
    let data = found.nested(NFTA_EXPR_DATA)?;
    let mut expression = Expression::default();
    match name.as_str() {
        "meta" => (expression.key, expression.writes) = (data.be32(NFTA_META_KEY)?, data.has(NFTA_META_SREG)),
        "ct" => (expression.key, expression.writes) = (data.be32(NFTA_CT_KEY)?, data.has(NFTA_CT_SREG)),
        "payload" => expression.writes = data.has(NFTA_PAYLOAD_SREG),
        // `reset tcp option` has neither register: what writes is anything that loads nothing.
        "exthdr" => expression.writes = !data.has(NFTA_EXTHDR_DREG),
        "objref" => expression.key = data.be32(NFTA_OBJREF_IMM_TYPE)?,
        "fib" => expression.key = data.be32(NFTA_FIB_FLAGS)?,
        "match" | "target" => expression.extension = data.text(NFTA_EXTENSION_NAME),
        "lookup" => expression.jumps_by_map = data.be32(NFTA_LOOKUP_DREG)? == Some(NFT_REG_VERDICT),
        "immediate" => {
            let verdict = data.nested(NFTA_IMMEDIATE_DATA)?.nested(NFTA_DATA_VERDICT)?;
            expression.jump = verdict.text(NFTA_VERDICT_CHAIN);
            let code = verdict.be32(NFTA_VERDICT_CODE)?.map(u32::cast_signed);
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

    fn message(family: u8, attributes: Attrs) -> Vec<u8> {
        [&nfgenmsg(family, 0)[..], &attributes.done()].concat()
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
            assert!(Ruleset::default().add_chain(&body).is_err(), "{body:?}");
        }
        let rule = Attrs::default().string(NFTA_RULE_TABLE, "t").string(NFTA_RULE_CHAIN, "c");
        assert!(
            Ruleset::default().add_rule(&message(NFPROTO_IPV4, rule)).is_err(),
            "a rule of a chain that is not there"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(chains: Vec<Vec<u8>>, rules: Vec<Vec<u8>>, flowtables: Vec<Vec<u8>>) {
            if let Ok((chains, _, _)) = read_all(true, &chains, &rules, &flowtables) {
                proptest::prop_assert!(chains.len() <= 100);
            }
        }

        /// Past the header and the first attributes, so that the inner readers get something to read.
        #[test]
        fn never_panics_further_in(hook: Vec<u8>, expressions: Vec<u8>, devices: Vec<u8>) {
            let chain = Attrs::default().string(NFTA_CHAIN_TABLE, "t").string(NFTA_CHAIN_NAME, "c").bytes(NFTA_CHAIN_HOOK, &hook);
            let rule = Attrs::default()
                .string(NFTA_RULE_TABLE, "t")
                .string(NFTA_RULE_CHAIN, "c")
                .bytes(NFTA_RULE_EXPRESSIONS, &expressions);
            let hook = Attrs::default().bytes(NFTA_FLOWTABLE_HOOK_DEVS, &devices);
            let flowtable = Attrs::default()
                .string(NFTA_FLOWTABLE_TABLE, "t")
                .string(NFTA_FLOWTABLE_NAME, "f")
                .nested(NFTA_FLOWTABLE_HOOK, hook);
            let [chain, rule, flowtable] = [chain, rule, flowtable].map(|attributes| message(NFPROTO_INET, attributes));
            if let Ok((chains, flowtables, _)) = read_all(true, &[chain], &[rule], &[flowtable]) {
                proptest::prop_assert_eq!((chains.len(), flowtables.len()), (1, 1));
            }
        }
    }
}
