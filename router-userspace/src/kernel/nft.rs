//! Wayfork's own nftables table: `[[mark]]` and `[sets]` on the stack's way.
//!
//! Table `inet wayfork` has, for every statement, a chain `mark-N` with a rule per alternative; an alternative that matches
//! returns, so that it is the only one of its statement. The base chain `marks` (prerouting, priority -150) jumps to those of
//! `[[mark]]`. The base chains `members` (prerouting) and `members-out` (output), which come last before routing and so behind
//! destination NAT, jump to those that set a bit for an address that is in a set. A set has its members in a set of intervals
//! for each family.
//!
//! All is changed in one transaction. A base chain's user data carry the digest of what all of it was made from; those of the
//! table say that it is Wayfork's. Sets that are known to be there are changed, not replaced.

use super::attributes::{Decode, Malformed};
use super::socket::{Request, Socket};
use super::wire::{Attrs, Found};
use super::{Error, Result};
use crate::model::MarkRule;
use libc::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::collections::BTreeMap;

mod rules;
mod sets;
mod uapi;

use rules::{comment, read_comment, rules_of, verdict};
use sets::Sets;

pub(super) use uapi::*;

/// The table's name, in family inet.
pub const OWN_TABLE: &str = "wayfork";
/// What to do where another program has a table of that name.
pub const NAME_TAKEN: &str =
    "[[mark]] needs that name: give the table another one, or remove it with `nft delete table inet wayfork`";
/// A base chain.
struct Base {
    /// Not `mark`: that is a keyword of nft, and a saved rule set with such a chain cannot be loaded again.
    name: &'static str,
    hook: u32,
    priority: i32,
    kind: &'static str,
    /// The statements that it jumps to: those that tell of sets, or the others.
    membership: bool,
}

/// The base chains. `route` makes the stack route a packet of its own again where the mark has changed.
const BASES: [Base; 3] = [
    // NF_IP_PRI_MANGLE: after conntrack, before destination NAT.
    Base { name: "marks", hook: NF_INET_PRE_ROUTING, priority: -150, kind: "filter", membership: false },
    Base { name: "members", hook: NF_INET_PRE_ROUTING, priority: i32::MAX, kind: "filter", membership: true },
    Base { name: "members-out", hook: NF_INET_LOCAL_OUT, priority: i32::MAX, kind: "route", membership: true },
];

/// User data are a list of (type, length, value), a byte each for the first two: libnftnl's form, which nft must be able to
/// read past. The type is one that nft does not use.
const USERDATA: u8 = 0x57;
/// The value for the table: whose it is.
const OWNER: &[u8] = b"wayfork";

/// NFTNL_UDATA_RULE_COMMENT (libnftnl/udata.h).
const COMMENT: u8 = 0;

/// The user data of the table.
fn owner() -> Vec<u8> {
    [&[USERDATA, OWNER.len() as u8][..], OWNER].concat()
}

/// A table of our name, whoever made it.
struct Table {
    /// What tells it from one that was made later under the same name.
    handle: u64,
    dormant: bool,
    /// Its user data are Wayfork's.
    ours: bool,
}

/// What one transaction made: the user data of the first base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Made {
    digest: u64,
    /// The handle of its first chain, and how many chains and rules there are: chains and rules take their handles from one counter
    /// of the table (`nf_tables_alloc_handle`), so those of one transaction have them in a row, and no others do.
    first: u64,
    objects: u64,
}

impl Made {
    /// What is in force is exactly what it made.
    fn is_whole(&self, handles: &[u64]) -> bool {
        handles.iter().copied().eq(self.first..self.first.saturating_add(self.objects))
    }

    fn userdata(self) -> Vec<u8> {
        let value = [self.digest, self.first, self.objects].map(u64::to_be_bytes).concat();
        [&[USERDATA, value.len() as u8][..], &value].concat()
    }

    fn read(userdata: &[u8]) -> Option<Made> {
        let (digest, rest) = userdata.strip_prefix(&[USERDATA, 24])?.split_first_chunk()?;
        let (first, objects) = rest.split_first_chunk()?;
        let objects = u64::from_be_bytes(objects.try_into().ok()?);
        Some(Made { digest: u64::from_be_bytes(*digest), first: u64::from_be_bytes(*first), objects })
    }
}

/// What was installed last, for the next time: with it a set's members are changed and not replaced.
#[derive(Debug, Default)]
pub(super) struct Installed {
    digest: u64,
    sets: Sets,
}

/// The digest that the installed table was made from; None where there is no table of Wayfork's (or no nf_tables in the
/// kernel). Some(0) where there is one that is not as it was made: changed by hand, or dormant. The members of sets are not looked at.
pub(super) fn mark_chain() -> Result<Option<u64>> {
    let Some(mut socket) = open()? else { return Ok(None) };
    let Some(Table { dormant, ours: true, .. }) = find(&mut socket)? else { return Ok(None) };
    let content = content(&mut socket)?;
    Ok(Some(content.made.filter(|made| !dormant && made.is_whole(&content.handles)).map_or(0, |made| made.digest)))
}

/// What the table of our name holds.
#[derive(Default)]
struct Content {
    made: Option<Made>,
    /// Of chains and rules, in order.
    handles: Vec<u64>,
    chains: Vec<String>,
}

fn content(socket: &mut Socket) -> Result<Content> {
    let what = what_is_read();
    let mut content = Content::default();
    // The rules can be limited to a table, the chains cannot.
    let question = table_of(NFTA_RULE_TABLE);
    let chains = socket.dump(&what, message_type(NFT_MSG_GETCHAIN), &question, |body| {
        read_chain(body).map_err(|malformed| malformed.during(&what))
    })?;
    for (handle, name, made) in chains {
        content.handles.push(handle);
        content.chains.push(name);
        content.made = content.made.or(made);
    }
    content.handles.extend(socket.dump(&what, message_type(NFT_MSG_GETRULE), &question, |body| {
        read_handle(body, NFTA_RULE_HANDLE).map_err(|malformed| malformed.during(&what))
    })?);
    content.handles.sort_unstable();
    Ok(content)
}

/// The bits of the mark that the installed table sets for members of sets, each with the use of the set: `to @streaming`.
pub(super) fn set_uses() -> Result<BTreeMap<u32, String>> {
    let Some(mut socket) = open()? else { return Ok(BTreeMap::new()) };
    if !is_ours(&mut socket)? {
        return Ok(BTreeMap::new());
    }
    let what = what_is_read();
    let question = table_of(NFTA_RULE_TABLE);
    let uses = socket.dump(&what, message_type(NFT_MSG_GETRULE), &question, |body| {
        read_use(body).map_err(|malformed| malformed.during(&what))
    })?;
    Ok(uses.into_iter().collect())
}

/// What the comment of a rule says, if it is one of our table about a set.
fn read_use(body: &[u8]) -> Decode<Option<(u32, String)>> {
    let rule = Found::after(NFGENMSG, body)?;
    let ours = rule.text(NFTA_RULE_TABLE).as_deref() == Some(OWN_TABLE);
    let text = rule.get(NFTA_RULE_USERDATA).filter(|_| ours).and_then(|attribute| match attribute.value {
        [COMMENT, length, text @ ..] if text.len() == usize::from(*length) => std::str::from_utf8(text).ok(),
        _ => None,
    });
    Ok(text.and_then(|text| read_comment(text.trim_end_matches('\0'))))
}

/// User data of a rule that nft shows as its comment: libnftnl's type, length, text and a zero.
fn commented(comment: &str) -> Vec<u8> {
    [&[COMMENT, comment.len() as u8 + 1], comment.as_bytes(), &[0]].concat()
}

/// Whether another program has a table of our name: one without Wayfork's user data.
pub(super) fn name_is_taken() -> Result<bool> {
    let Some(mut socket) = open()? else { return Ok(false) };
    Ok(find(&mut socket)?.is_some_and(|table| !table.ours))
}

/// Whether the table of our name is there and is Wayfork's.
pub(super) fn is_ours(socket: &mut Socket) -> Result<bool> {
    Ok(find(socket)?.is_some_and(|table| table.ours))
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
        ours: table.get(NFTA_TABLE_USERDATA).is_some_and(|attribute| attribute.value == owner()),
    })
}

/// The handle of a chain or rule, if it is of our table: the first attribute of both is the table's name.
fn read_handle(body: &[u8], handle: u16) -> Decode<Option<u64>> {
    let object = Found::after(NFGENMSG, body)?;
    let ours = object.text(NFTA_RULE_TABLE).as_deref() == Some(OWN_TABLE);
    object.get(handle).filter(|_| ours).map(|attribute| attribute.u64_be()).transpose()
}

/// Handle, name and user data of a chain, if it is of our table.
fn read_chain(body: &[u8]) -> Decode<Option<(u64, String, Option<Made>)>> {
    let Some(handle) = read_handle(body, NFTA_CHAIN_HANDLE)? else { return Ok(None) };
    let chain = Found::after(NFGENMSG, body)?;
    let made = chain.get(NFTA_CHAIN_USERDATA).and_then(|attribute| Made::read(attribute.value));
    Ok(Some((handle, chain.name(NFTA_CHAIN_NAME, "chain: no name")?, made)))
}

/// Makes the table what `marks` say, in one transaction; an empty list removes it. `installed` is what this function left there.
pub(super) fn set_mark_chain(marks: &[MarkRule], digest: u64, installed: &mut Installed) -> Result<()> {
    let before = std::mem::take(installed);
    if marks.is_empty() {
        return remove();
    }
    let mut socket = Socket::open(NETLINK_NETFILTER).map_err(with_help)?;
    let mut batch = Batch::new("install");
    let wanted = sets::sets_of(marks);
    let mut next_handle = 1;
    match find(&mut socket)? {
        Some(table) if !table.ours => return Err(taken()),
        Some(table) => {
            let content = content(&mut socket)?;
            let whole = |made: &Made| !table.dormant && made.is_whole(&content.handles) && made.digest == before.digest;
            if !before.sets.is_empty() && content.made.as_ref().is_some_and(whole) {
                next_handle = content.handles.last().copied().unwrap_or(0) + 1;
                next_handle += batch.change_sets(&content, &before.sets, &wanted);
            } else {
                // By its handle, so that it is this one and no other.
                batch.push("the old table", NFT_MSG_DELTABLE, 0, table_by(table.handle));
            }
        }
        None => {}
    }
    let changes = next_handle > 1;
    if !changes {
        next_handle += batch.new_table(&wanted);
    }
    batch.new_chains(marks, digest, next_handle);
    match batch.commit(&mut socket) {
        // Members that are not what was left there: what cannot be changed is replaced.
        Err(_) if changes => return set_mark_chain(marks, digest, installed),
        result => result.map_err(with_help)?,
    }
    *installed = Installed { digest, sets: wanted };
    Ok(())
}

fn remove() -> Result<()> {
    let Some(mut socket) = open()? else { return Ok(()) };
    let Some(Table { handle, ours: true, .. }) = find(&mut socket)? else { return Ok(()) };
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
            "[[mark]] and sets need nftables in the kernel: CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET, or the module \
             nf_tables; without it, take the [[mark]] sections and the sets of rules out of the file",
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
        if let Some(before) = self.requests.last_mut() {
            before.ack = false;
        }
        let what = format!("{} nftables table inet {OWN_TABLE}: {part}", self.verb);
        self.requests.push(Request::new(what, message_type(message), flags, &body));
    }

    /// A table with its sets. Gives how many handles these take.
    fn new_table(&mut self, wanted: &Sets) -> u64 {
        // One that came meanwhile is another's.
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.push("the table", NFT_MSG_NEWTABLE, flags, table().bytes(NFTA_TABLE_USERDATA, &owner()));
        for (id, (name, set)) in (1..).zip(wanted) {
            self.new_set(name, id, set);
        }
        wanted.len() as u64
    }

    fn new_set(&mut self, name: &str, id: u32, set: &(crate::model::Family, std::sync::Arc<crate::model::PrefixSet>)) {
        let body = sets::new_set(table_of(NFTA_SET_TABLE), name, set.0, id);
        self.push(&format!("set {name}"), NFT_MSG_NEWSET, NLM_F_CREATE, body);
        self.elements(NFT_MSG_NEWSETELEM, name, sets::all(&table_of(NFTA_SET_ELEM_LIST_TABLE), name, set));
    }

    fn elements(&mut self, message: u16, name: &str, bodies: Vec<Attrs>) {
        for body in bodies {
            self.push(&format!("members of set {name}"), message, NLM_F_CREATE, body);
        }
    }

    /// Takes the chains of the table away and leads from the sets that it has to those wanted. Gives how many handles new ones take.
    fn change_sets(&mut self, content: &Content, held: &Sets, wanted: &Sets) -> u64 {
        self.push("the old rules", NFT_MSG_DELRULE, 0, table_of(NFTA_RULE_TABLE));
        for chain in &content.chains {
            let body = table_of(NFTA_CHAIN_TABLE).string(NFTA_CHAIN_NAME, chain);
            self.push(&format!("the old chain {chain}"), NFT_MSG_DELCHAIN, 0, body);
        }
        for name in held.keys().filter(|name| !wanted.contains_key(*name)) {
            let body = table_of(NFTA_SET_TABLE).string(NFTA_SET_NAME, name);
            self.push(&format!("the old set {name}"), NFT_MSG_DELSET, 0, body);
        }
        let mut new = 0;
        for (name, set) in wanted {
            match held.get(name) {
                None => {
                    new += 1;
                    self.new_set(name, new, set);
                }
                Some(old) => {
                    let (gone, come) = sets::between(&table_of(NFTA_SET_ELEM_LIST_TABLE), name, old, &set.1);
                    self.elements(NFT_MSG_DELSETELEM, name, gone);
                    self.elements(NFT_MSG_NEWSETELEM, name, come);
                }
            }
        }
        u64::from(new)
    }

    /// The chains and their rules; the first chain gets the handle `first`.
    fn new_chains(&mut self, marks: &[MarkRule], digest: u64, first: u64) {
        let mut statements: BTreeMap<u32, Vec<&MarkRule>> = BTreeMap::new();
        for mark in marks {
            statements.entry(mark.statement).or_default().push(mark);
        }
        let bases: Vec<&Base> =
            BASES.iter().filter(|base| marks.iter().any(|mark| mark.membership == base.membership)).collect();
        let mut rules = Vec::new();
        for (statement, alternatives) in &statements {
            let chain = statement_chain(*statement);
            let of_sets = alternatives.iter().any(|mark| mark.membership);
            for base in bases.iter().filter(|base| base.membership == of_sets) {
                let jump = Attrs::default().nested(NFTA_LIST_ELEM, verdict(NFT_JUMP, Some(&chain)));
                rules.push((base.name.to_owned(), jump, None));
            }
            for mark in alternatives {
                rules.extend(rules_of(mark).into_iter().map(|rule| (chain.clone(), rule, comment(mark))));
            }
        }
        let objects = (bases.len() + statements.len() + rules.len()) as u64;
        for (place, base) in bases.iter().enumerate() {
            let mut body = base_chain(base);
            if place == 0 {
                body = body.bytes(NFTA_CHAIN_USERDATA, &Made { digest, first, objects }.userdata());
            }
            self.push(&format!("chain {}", base.name), NFT_MSG_NEWCHAIN, NLM_F_CREATE, body);
        }
        for statement in statements.keys() {
            let name = statement_chain(*statement);
            let body = table_of(NFTA_CHAIN_TABLE).string(NFTA_CHAIN_NAME, &name);
            self.push(&format!("chain {name}"), NFT_MSG_NEWCHAIN, NLM_F_CREATE, body);
        }
        for (chain, expressions, comment) in rules {
            let mut body =
                table_of(NFTA_RULE_TABLE).string(NFTA_RULE_CHAIN, &chain).nested(NFTA_RULE_EXPRESSIONS, expressions);
            if let Some(comment) = comment {
                body = body.bytes(NFTA_RULE_USERDATA, &commented(&comment));
            }
            self.push(&format!("a rule of chain {chain}"), NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body);
        }
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

fn base_chain(base: &Base) -> Attrs {
    let hook =
        Attrs::default().be32(NFTA_HOOK_HOOKNUM, base.hook).be32(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
    table_of(NFTA_CHAIN_TABLE)
        .string(NFTA_CHAIN_NAME, base.name)
        .nested(NFTA_CHAIN_HOOK, hook)
        .string(NFTA_CHAIN_TYPE, base.kind)
        .be32(NFTA_CHAIN_POLICY, NF_ACCEPT)
}

#[cfg(test)]
#[path = "nft_tests.rs"]
mod tests;
