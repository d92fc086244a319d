//! Firewalls of other programs: one table with one chain that drops, made without the program `nft`; or any rule set, with it.

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use wayfork::kernel::Netns;
use wayfork::lab::topology::Lab;

/// The table's name; family inet.
pub const TABLE: &str = "fence";

const NFPROTO_INET: u8 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_INET_FORWARD: u32 = 2;
const NF_DROP: u32 = 0;
const NLA_F_NESTED: u16 = 0x8000;

/// `table inet fence { chain forward { type filter hook forward priority 0; policy drop; } }` on a host.
pub fn drop_all_forwarded(lab: &Lab, host: &str) -> Result<()> {
    let hook = [attribute(NFTA_HOOK_HOOKNUM, &NF_INET_FORWARD.to_be_bytes()), attribute(NFTA_HOOK_PRIORITY, &[0; 4])];
    let chain = [
        attribute(NFTA_CHAIN_TABLE, b"fence\0"),
        attribute(NFTA_CHAIN_NAME, b"forward\0"),
        attribute(NFTA_CHAIN_HOOK | NLA_F_NESTED, &hook.concat()),
        attribute(NFTA_CHAIN_POLICY, &NF_DROP.to_be_bytes()),
        attribute(NFTA_CHAIN_TYPE, b"filter\0"),
    ];
    let create = libc::NLM_F_CREATE as u16;
    let table = attribute(NFTA_TABLE_NAME, b"fence\0");
    commit(lab, host, &[(NFT_MSG_NEWTABLE, create, table), (NFT_MSG_NEWCHAIN, create, chain.concat())])
}

/// Deletes the table again.
pub fn remove(lab: &Lab, host: &str) -> Result<()> {
    commit(lab, host, &[(NFT_MSG_DELTABLE, 0, attribute(NFTA_TABLE_NAME, b"fence\0"))])
}

/// Runs the program `nft` on a host with a script; all of it is done or nothing.
pub fn load(lab: &Lab, host: &str, script: &str) -> Result<()> {
    load_in(lab.netns(host)?, script)
}

/// The same in a namespace.
pub fn load_in(netns: &Netns, script: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = netns.spawn(command).context("nft (Debian: nftables) is what this test works with")?;
    child.stdin.take().context("nft has no input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}\n{script}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// One netlink attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// One netlink message with its nfgenmsg.
fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + 4 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// One transaction; the last message is acknowledged, and an earlier one's error comes before that.
fn commit(lab: &Lab, host: &str, messages: &[(u16, u16, Vec<u8>)]) -> Result<()> {
    let mut batch = message(NFNL_MSG_BATCH_BEGIN, 0, 0, 0, NFNL_SUBSYS_NFTABLES, &[]);
    for (index, (kind, flags, body)) in messages.iter().enumerate() {
        let ack = if index + 1 == messages.len() { libc::NLM_F_ACK as u16 } else { 0 };
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        batch.extend(message(kind, flags | ack, index as u32 + 1, NFPROTO_INET, 0, body));
    }
    batch.extend(message(NFNL_MSG_BATCH_END, 0, messages.len() as u32 + 1, 0, NFNL_SUBSYS_NFTABLES, &[]));
    let open = || Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)));
    let mut socket = lab.netns(host)?.run(open)?.context("open a netfilter socket")?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    socket.write_all(&batch).context("send an nftables transaction")?;
    let mut answer = [0u8; 4096];
    let length = socket.read(&mut answer).context("read the answer to an nftables transaction")?;
    let code = answer[..length].get(16..20).context("a short answer")?;
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        code => bail!("nftables transaction: {}", std::io::Error::from_raw_os_error(-code)),
    }
}
