//! Wayfork's own nftables table: `[[mark]]` on the stack's way.
//!
//! Table `inet wayfork` has the base chain `marks` (prerouting, priority -150) and, for every statement, a chain `mark-N` with
//! a rule per alternative; an alternative that matches returns, so that it is the only one of its statement. The whole table
//! is replaced in one transaction. Its user data carry the digest of what it was made from.

use super::attributes::{Decode, Malformed};
use super::socket::{Request, Socket};
use super::wire::{Attrs, Found};
use super::{Error, Result};
use crate::model::{Family, MarkRule, MarkSelectors, Ports};
use ipnet::IpNet;
use libc::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::collections::BTreeMap;

mod uapi;

pub(super) use uapi::*;

/// The table's name, in family inet.
pub const OWN_TABLE: &str = "wayfork";
/// What to do where another program has a table of that name.
pub const NAME_TAKEN: &str =
    "[[mark]] needs that name: give the table another one, or remove it with `nft delete table inet wayfork`";
/// Not `mark`: that is a keyword of nft, and a saved rule set with such a chain cannot be loaded again.
const OWN_CHAIN: &str = "marks";
/// NF_IP_PRI_MANGLE: after conntrack, before destination NAT.
const OWN_PRIORITY: i32 = -150;

/// User data are a list of (type, length, value), a byte each for the first two: libnftnl's form, which nft must be able to
/// read past. The type is one that nft does not use. The value: the digest, and how many chains and rules there are, 8 bytes each.
const USERDATA: [u8; 2] = [0x57, 16];

/// A table of our name, whoever made it.
struct Table {
    /// What tells it from one that was made later under the same name.
    handle: u64,
    dormant: bool,
    /// The digest and the number of chains and rules of its user data; None where these are not Wayfork's.
    made: Option<(u64, u64)>,
}

/// The digest that the installed table was made from; None where there is no table of Wayfork's (or no nf_tables in the
/// kernel). Some(0) where there is one that is not as it was made: changed by hand, or dormant.
///
/// Chains and rules take their handles from one counter of the table (`nf_tables_alloc_handle`), so a table that is as it was
/// made has exactly the handles 1 to N.
pub(super) fn mark_chain() -> Result<Option<u64>> {
    let Some(mut socket) = open()? else { return Ok(None) };
    let Some(Table { dormant, made: Some((digest, objects)), .. }) = find(&mut socket)? else { return Ok(None) };
    let what = what_is_read();
    let mut handles = Vec::new();
    for (get, handle) in [(NFT_MSG_GETCHAIN, NFTA_CHAIN_HANDLE), (NFT_MSG_GETRULE, NFTA_RULE_HANDLE)] {
        // The rules can be limited to a table, the chains cannot.
        let question = table_of(NFTA_RULE_TABLE);
        handles.extend(socket.dump(&what, message_type(get), &question, |body| {
            read_handle(body, handle).map_err(|malformed| malformed.during(&what))
        })?);
    }
    handles.sort_unstable();
    Ok(Some(if !dormant && handles.into_iter().eq(1..=objects) { digest } else { 0 }))
}

/// Whether another program has a table of our name: one without Wayfork's user data.
pub(super) fn name_is_taken() -> Result<bool> {
    let Some(mut socket) = open()? else { return Ok(false) };
    Ok(find(&mut socket)?.is_some_and(|table| table.made.is_none()))
}

/// Whether the table of our name is there and is Wayfork's.
pub(super) fn is_ours(socket: &mut Socket) -> Result<bool> {
    Ok(find(socket)?.is_some_and(|table| table.made.is_some()))
}

/// The table of our name; None where there is none.
fn find(socket: &mut Socket) -> Result<Option<Table>> {
    let what = what_is_read();
    let get = Request::new(what.as_str(), message_type(NFT_MSG_GETTABLE), 0, &table());
    match socket.ask(get, |body| read_table(body).map_err(|malformed| malformed.during(&what))) {
        // EINVAL: not the table but the whole subsystem is missing (`nfnetlink_rcv_msg`).
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::EINVAL) => Ok(None),
        answer => answer.map(Some),
    }
}

fn what_is_read() -> String {
    format!("read nftables table inet {OWN_TABLE}")
}

/// A socket to netfilter; None where the kernel has none.
pub(super) fn open() -> Result<Option<Socket>> {
    match Socket::open(NETLINK_NETFILTER) {
        Err(error) if error.errno() == libc::EPROTONOSUPPORT => Ok(None),
        opened => opened.map(Some),
    }
}

fn read_table(body: &[u8]) -> Decode<Table> {
    let table = Found::after(NFGENMSG, body)?;
    let handle = table.get(NFTA_TABLE_HANDLE).ok_or(Malformed("table: no handle"))?;
    Ok(Table {
        handle: handle.u64_be()?,
        dormant: table.be32(NFTA_TABLE_FLAGS)?.unwrap_or(0) & NFT_TABLE_F_DORMANT != 0,
        made: table.get(NFTA_TABLE_USERDATA).and_then(|attribute| split_userdata(attribute.value)),
    })
}

/// The handle of a chain or rule, if it is of our table: the first attribute of both is the table's name.
fn read_handle(body: &[u8], handle: u16) -> Decode<Option<u64>> {
    let object = Found::after(NFGENMSG, body)?;
    let ours = object.text(NFTA_RULE_TABLE).as_deref() == Some(OWN_TABLE);
    object.get(handle).filter(|_| ours).map(|attribute| attribute.u64_be()).transpose()
}

fn split_userdata(value: &[u8]) -> Option<(u64, u64)> {
    let (digest, objects) = value.strip_prefix(&USERDATA)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*digest), u64::from_be_bytes(objects.try_into().ok()?)))
}

/// Replaces the table in one transaction; an empty list removes it.
pub(super) fn set_mark_chain(marks: &[MarkRule], digest: u64) -> Result<()> {
    if marks.is_empty() {
        return remove();
    }
    let mut socket = Socket::open(NETLINK_NETFILTER).map_err(with_help)?;
    let mut batch = Batch::new("install");
    match find(&mut socket)? {
        // By its handle, so that it is this one and no other.
        Some(Table { handle, made: Some(_), .. }) => batch.push("the old table", NFT_MSG_DELTABLE, 0, table_by(handle)),
        Some(_) => return Err(taken()),
        None => {}
    }

    let mut statements: BTreeMap<u32, Vec<&MarkRule>> = BTreeMap::new();
    for mark in marks {
        statements.entry(mark.statement).or_default().push(mark);
    }
    let mut rules = Vec::new();
    for (statement, alternatives) in &statements {
        let chain = statement_chain(*statement);
        rules.push((OWN_CHAIN.to_owned(), Attrs::default().nested(NFTA_LIST_ELEM, verdict(NFT_JUMP, Some(&chain)))));
        for mark in alternatives {
            rules.extend(rules_of(mark).into_iter().map(|rule| (chain.clone(), rule)));
        }
    }
    let objects = (1 + statements.len() + rules.len()) as u64;
    let userdata = [&USERDATA[..], &digest.to_be_bytes(), &objects.to_be_bytes()].concat();
    // One that came meanwhile is another's.
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    batch.push("the table", NFT_MSG_NEWTABLE, flags, table().bytes(NFTA_TABLE_USERDATA, &userdata));
    batch.push("chain marks", NFT_MSG_NEWCHAIN, NLM_F_CREATE, base_chain());
    for statement in statements.keys() {
        let name = statement_chain(*statement);
        let body = table_of(NFTA_CHAIN_TABLE).string(NFTA_CHAIN_NAME, &name);
        batch.push(&format!("chain {name}"), NFT_MSG_NEWCHAIN, NLM_F_CREATE, body);
    }
    for (chain, expressions) in rules {
        let body = table_of(NFTA_RULE_TABLE).string(NFTA_RULE_CHAIN, &chain).nested(NFTA_RULE_EXPRESSIONS, expressions);
        batch.push(&format!("a rule of chain {chain}"), NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body);
    }
    batch.commit(&mut socket).map_err(with_help)
}

fn remove() -> Result<()> {
    let Some(mut socket) = open()? else { return Ok(()) };
    let Some(Table { handle, made: Some(_), .. }) = find(&mut socket)? else { return Ok(()) };
    let mut batch = Batch::new("remove");
    batch.push("the table", NFT_MSG_DELTABLE, 0, table_by(handle));
    match batch.commit(&mut socket) {
        // Gone by now.
        Err(error) if error.errno() == libc::ENOENT => Ok(()),
        answer => answer,
    }
}

fn taken() -> Error {
    let mut error = Error::from_errno(format!("install nftables table inet {OWN_TABLE}"), libc::EEXIST);
    error.said = Some("the table of that name is another program's".to_owned());
    error.help = Some(NAME_TAKEN);
    error
}

fn with_help(mut error: Error) -> Error {
    if matches!(error.errno(), libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOENT | libc::EAFNOSUPPORT) {
        error.help = Some(
            "[[mark]] needs nftables in the kernel: CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET, or the module nf_tables; \
             without it, take the [[mark]] sections out of the file",
        );
    }
    error
}

/// A transaction of nf_tables: all of it or nothing.
struct Batch {
    verb: &'static str,
    requests: Vec<Request>,
}

impl Batch {
    fn new(verb: &'static str) -> Self {
        let mut batch = Batch { verb, requests: Vec::new() };
        batch.frame(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// Adds a message; `part` names it in an error. Only the last one asks for an answer: that of the whole.
    fn push(&mut self, part: &str, message: u16, flags: i32, body: Attrs) {
        for before in &mut self.requests {
            before.ack = false;
        }
        let what = format!("{} nftables table inet {OWN_TABLE}: {part}", self.verb);
        self.requests.push(Request::new(what, message_type(message), flags, &body));
    }

    fn frame(&mut self, kind: u16) {
        let what = format!("{} nftables table inet {OWN_TABLE}", self.verb);
        let body = Attrs::after(&nfgenmsg(0, NFNL_SUBSYS_NFTABLES));
        self.requests.push(Request { ack: false, ..Request::new(what, kind, 0, &body) });
    }

    fn commit(mut self, socket: &mut Socket) -> Result<()> {
        self.frame(NFNL_MSG_BATCH_END);
        socket.all_or_nothing(&self.requests)
    }
}

fn statement_chain(statement: u32) -> String {
    format!("mark-{statement}")
}

fn table() -> Attrs {
    table_of(NFTA_TABLE_NAME)
}

fn table_of(attribute: u16) -> Attrs {
    Attrs::after(&nfgenmsg(NFPROTO_INET, 0)).string(attribute, OWN_TABLE)
}

/// The table with this handle: `nf_tables_deltable` goes by the handle where it is given one.
fn table_by(handle: u64) -> Attrs {
    table().bytes(NFTA_TABLE_HANDLE, &handle.to_be_bytes())
}

fn base_chain() -> Attrs {
    let hook = Attrs::default()
        .be32(NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING)
        .be32(NFTA_HOOK_PRIORITY, OWN_PRIORITY.cast_unsigned());
    table_of(NFTA_CHAIN_TABLE)
        .string(NFTA_CHAIN_NAME, OWN_CHAIN)
        .nested(NFTA_CHAIN_HOOK, hook)
        .string(NFTA_CHAIN_TYPE, "filter")
        .be32(NFTA_CHAIN_POLICY, NF_ACCEPT)
}

/// Where the ports of a protocol stand, in bytes after the IP header: the protocols that have ports in `proto_ports_offset()`
/// (include/linux/ip.h), which the rules of the RPDB go by. Any other protocol has none, whatever stands there.
fn ports_offset(protocol: u8) -> Option<u32> {
    match i32::from(protocol) {
        libc::IPPROTO_TCP
        | libc::IPPROTO_UDP
        | libc::IPPROTO_DCCP
        | libc::IPPROTO_ESP
        | libc::IPPROTO_SCTP
        | libc::IPPROTO_UDPLITE => Some(0),
        libc::IPPROTO_AH => Some(4),
        _ => None,
    }
}

/// The rules of one alternative: one, but where it names ports one for each protocol that has ports and that it may mean.
fn rules_of(mark: &MarkRule) -> Vec<Attrs> {
    let MarkSelectors { ipproto, sport, dport, .. } = &mark.selectors;
    if sport.is_none() && dport.is_none() {
        return vec![rule(mark, *ipproto, 0)];
    }
    let meant = ipproto.map_or(0..=u8::MAX, |protocol| protocol..=protocol);
    meant.filter_map(|protocol| Some(rule(mark, Some(protocol), ports_offset(protocol)?))).collect()
}

/// The expressions of one alternative.
fn rule(mark: &MarkRule, protocol: Option<u8>, ports: u32) -> Attrs {
    let MarkSelectors { iif, fwmark, from, to, ipproto: _, sport, dport, dscp, flowlabel } = &mark.selectors;
    let mut list = Expressions::default();
    let nfproto = match mark.family {
        Family::Ipv4 => NFPROTO_IPV4,
        Family::Ipv6 => NFPROTO_IPV6,
    };
    list.meta(NFT_META_NFPROTO).equal(&[nfproto]);
    if let Some(name) = iif {
        // All 16 bytes, so that `eth1` is not taken for the start of `eth10`.
        let mut padded = [0; libc::IFNAMSIZ];
        let length = name.len().min(libc::IFNAMSIZ - 1);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        list.meta(NFT_META_IIFNAME).equal(&padded);
    }
    if let Some((value, mask)) = fwmark {
        list.meta(NFT_META_MARK).masked(&mask.to_ne_bytes()).equal(&(value & mask).to_ne_bytes());
    }
    let (source, destination) = match mark.family {
        Family::Ipv4 => (12, 16),
        Family::Ipv6 => (8, 24),
    };
    for (net, offset) in [(from, source), (to, destination)] {
        if let Some(net) = net {
            list.prefix(*net, offset);
        }
    }
    if let Some((dscp, mask)) = dscp {
        // IPv4: the upper 6 bits of the second octet. IPv6: the upper 6 bits of the traffic class, which starts at bit 4.
        match mark.family {
            Family::Ipv4 => {
                list.payload(NFT_PAYLOAD_NETWORK_HEADER, 1, 1).masked(&[mask << 2]).equal(&[(dscp & mask) << 2])
            }
            Family::Ipv6 => list
                .payload(NFT_PAYLOAD_NETWORK_HEADER, 0, 2)
                .masked(&(u16::from(*mask) << 6).to_be_bytes())
                .equal(&(u16::from(dscp & mask) << 6).to_be_bytes()),
        };
    }
    if let Some((label, mask)) = flowlabel {
        list.payload(NFT_PAYLOAD_NETWORK_HEADER, 0, 4).masked(&mask.to_be_bytes()).equal(&(label & mask).to_be_bytes());
    }
    if let Some(protocol) = protocol {
        list.meta(NFT_META_L4PROTO).equal(&[protocol]);
    }
    for (range, offset) in [(sport, ports), (dport, ports + 2)] {
        if let Some(range) = range {
            list.payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2).ports(*range);
        }
    }
    list.set_mark(mark.value, mark.mask);
    list.push(verdict(NFT_RETURN, None));
    list.0
}

/// Expressions of one rule; all of them work on register 1.
#[derive(Default)]
struct Expressions(Attrs);

impl Expressions {
    fn push(&mut self, expression: Attrs) -> &mut Self {
        self.0 = std::mem::take(&mut self.0).nested(NFTA_LIST_ELEM, expression);
        self
    }

    fn meta(&mut self, key: u32) -> &mut Self {
        let data = Attrs::default().be32(NFTA_META_DREG, NFT_REG_1).be32(NFTA_META_KEY, key);
        self.push(expression("meta", data))
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) -> &mut Self {
        let data = Attrs::default()
            .be32(NFTA_PAYLOAD_DREG, NFT_REG_1)
            .be32(NFTA_PAYLOAD_BASE, base)
            .be32(NFTA_PAYLOAD_OFFSET, offset)
            .be32(NFTA_PAYLOAD_LEN, length);
        self.push(expression("payload", data))
    }

    /// Keeps the bits of `mask`; nothing is written for a full one.
    fn masked(&mut self, mask: &[u8]) -> &mut Self {
        if mask.iter().all(|byte| *byte == u8::MAX) {
            return self;
        }
        self.bitwise(mask, &vec![0; mask.len()])
    }

    /// Register & mask ^ xor.
    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) -> &mut Self {
        let data = Attrs::default()
            .be32(NFTA_BITWISE_SREG, NFT_REG_1)
            .be32(NFTA_BITWISE_DREG, NFT_REG_1)
            .be32(NFTA_BITWISE_LEN, mask.len() as u32)
            .nested(NFTA_BITWISE_MASK, value(mask))
            .nested(NFTA_BITWISE_XOR, value(xor));
        self.push(expression("bitwise", data))
    }

    fn equal(&mut self, wanted: &[u8]) -> &mut Self {
        let data = Attrs::default()
            .be32(NFTA_CMP_SREG, NFT_REG_1)
            .be32(NFTA_CMP_OP, NFT_CMP_EQ)
            .nested(NFTA_CMP_DATA, value(wanted));
        self.push(expression("cmp", data))
    }

    fn ports(&mut self, ports: Ports) -> &mut Self {
        match ports {
            Ports::Range { start, end } if start == end => self.equal(&start.to_be_bytes()),
            Ports::Range { start, end } => {
                let data = Attrs::default()
                    .be32(NFTA_RANGE_SREG, NFT_REG_1)
                    .be32(NFTA_RANGE_OP, NFT_RANGE_EQ)
                    .nested(NFTA_RANGE_FROM_DATA, value(&start.to_be_bytes()))
                    .nested(NFTA_RANGE_TO_DATA, value(&end.to_be_bytes()));
                self.push(expression("range", data))
            }
            Ports::Masked { value, mask } => self.masked(&mask.to_be_bytes()).equal(&(value & mask).to_be_bytes()),
        }
    }

    fn prefix(&mut self, net: IpNet, offset: u32) -> &mut Self {
        let octets = |addr: std::net::IpAddr| match addr {
            std::net::IpAddr::V4(addr) => addr.octets().to_vec(),
            std::net::IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        if net.prefix_len() == 0 {
            return self;
        }
        let network = octets(net.network());
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, network.len() as u32)
            .masked(&octets(net.netmask()))
            .equal(&network)
    }

    fn set_mark(&mut self, set: u32, mask: u32) -> &mut Self {
        if mask == u32::MAX {
            let data = Attrs::default()
                .be32(NFTA_IMMEDIATE_DREG, NFT_REG_1)
                .nested(NFTA_IMMEDIATE_DATA, value(&set.to_ne_bytes()));
            self.push(expression("immediate", data));
        } else {
            self.meta(NFT_META_MARK).bitwise(&(!mask).to_ne_bytes(), &(set & mask).to_ne_bytes());
        }
        let data = Attrs::default().be32(NFTA_META_KEY, NFT_META_MARK).be32(NFTA_META_SREG, NFT_REG_1);
        self.push(expression("meta", data))
    }
}

fn expression(name: &str, data: Attrs) -> Attrs {
    Attrs::default().string(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data)
}

fn value(bytes: &[u8]) -> Attrs {
    Attrs::default().bytes(NFTA_DATA_VALUE, bytes)
}

fn verdict(code: i32, chain: Option<&str>) -> Attrs {
    let mut verdict = Attrs::default().be32(NFTA_VERDICT_CODE, code.cast_unsigned());
    if let Some(chain) = chain {
        verdict = verdict.string(NFTA_VERDICT_CHAIN, chain);
    }
    let data = Attrs::default()
        .be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
        .nested(NFTA_IMMEDIATE_DATA, Attrs::default().nested(NFTA_DATA_VERDICT, verdict));
    expression("immediate", data)
}

#[cfg(test)]
#[path = "nft_tests.rs"]
mod tests;
