//! Netfilter's hooks: all of them where the kernel can list them (CONFIG_NETFILTER_NETLINK_HOOK, 5.14 and later), and the signs
//! of those that nf_tables does not know of.

use super::attributes::Decode;
use super::nft::{NFGENMSG, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV, is_ours, nfgenmsg, open};
use super::nft_list::{family, family_of, has_own_name, hook_point};
use super::socket::Socket;
use super::wire::{Attrs, Found};
use super::{Error, Result};
use crate::safety::{ChainFamily, Hook};

/// NFNL_MSG_HOOK_GET of NFNL_SUBSYS_HOOK (include/uapi/linux/netfilter/nfnetlink_hook.h).
const HOOK_GET: u16 = 12 << 8;
const NFNLA_HOOK_HOOKNUM: u16 = 1;
const NFNLA_HOOK_DEV: u16 = 3;
const NFNLA_HOOK_FUNCTION_NAME: u16 = 4;
const NFNLA_HOOK_CHAIN_INFO: u16 = 6;
const NFNLA_HOOK_INFO_DESC: u16 = 1;
const NFNLA_HOOK_INFO_TYPE: u16 = 2;
const NFNL_HOOK_TYPE_NFTABLES: u32 = 1;
const NFNL_HOOK_TYPE_FLOWTABLE: u32 = 3;
const NFNLA_CHAIN_TABLE: u16 = 1;
const NFNLA_CHAIN_FAMILY: u16 = 2;
const NFNLA_CHAIN_NAME: u16 = 3;

const WHAT: &str = "list netfilter hooks";

/// The hooks of IPv4, IPv6 and the devices, but for Wayfork's own. None where the kernel cannot list them.
pub(super) fn list() -> Result<Option<Vec<Hook>>> {
    let Some(mut socket) = open()? else { return Ok(None) };
    let own = is_ours(&mut socket)?;
    let mut hooks = Vec::new();
    for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
        for point in 0..5 {
            match dump(&mut socket, own, family, point, None) {
                // The kernel knows no such message (`nfnetlink_rcv_msg`).
                Err(error) if error.errno() == libc::EINVAL => return Ok(None),
                answer => hooks.extend(answer?),
            }
        }
    }
    let devices = nix::net::if_::if_nameindex().map_err(|errno| Error::new("list interfaces", errno.into()))?;
    for device in devices.iter() {
        let device = device.name().to_string_lossy().into_owned();
        for point in 0..2 {
            match dump(&mut socket, own, NFPROTO_NETDEV, point, Some(&device)) {
                // Egress hooks were not listed at first, a kernel may have neither, and a device may be gone by now.
                Err(error) if matches!(error.errno(), libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENODEV) => {}
                answer => hooks.extend(answer?),
            }
        }
    }
    Ok(Some(hooks))
}

/// The hooks at one place, but for those of the table of Wayfork's name where it is its `own`.
fn dump(socket: &mut Socket, own: bool, family: u8, point: u32, device: Option<&str>) -> Result<Vec<Hook>> {
    let mut question = Attrs::after(&nfgenmsg(family, 0)).be32(NFNLA_HOOK_HOOKNUM, point);
    if let Some(device) = device {
        question = question.string(NFNLA_HOOK_DEV, device);
    }
    socket.dump(WHAT, HOOK_GET, &question, |body| {
        let hook = read(body, point, device).map_err(|malformed| malformed.during(WHAT))?;
        let left_out = own && hook.chain.as_ref().is_some_and(|(family, table, _)| has_own_name(*family, table));
        Ok((!left_out).then_some(hook))
    })
}

fn read(body: &[u8], point: u32, device: Option<&str>) -> Decode<Hook> {
    let found = Found::after(NFGENMSG, body)?;
    let of = family_of(body);
    let info = found.nested(NFNLA_HOOK_CHAIN_INFO)?;
    let kind = info.be32(NFNLA_HOOK_INFO_TYPE)?;
    let description = info.nested(NFNLA_HOOK_INFO_DESC)?;
    let chain = (kind == Some(NFNL_HOOK_TYPE_NFTABLES)).then(|| {
        let number = description.get(NFNLA_CHAIN_FAMILY).and_then(|attribute| attribute.value.first().copied());
        let text = |kind| description.text(kind).unwrap_or_default();
        (family(number.unwrap_or(0)), text(NFNLA_CHAIN_TABLE), text(NFNLA_CHAIN_NAME))
    });
    Ok(Hook {
        family: of,
        hook: hook_point(of, point),
        device: (of == ChainFamily::Netdev).then(|| device.unwrap_or_default().to_owned()),
        function: found.text(NFNLA_HOOK_FUNCTION_NAME).unwrap_or_default(),
        chain,
        flowtable: kind == Some(NFNL_HOOK_TYPE_FLOWTABLE),
    })
}

/// The tables of the old iptables and ip6tables that are in use in this namespace.
pub(super) fn legacy_tables() -> Result<Vec<String>> {
    let mut tables = Vec::new();
    for (program, file) in [("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")] {
        let names = read_if_there(&format!("/proc/thread-self/net/{file}"))?;
        tables.extend(names.lines().map(|name| format!("{program} {name}")));
    }
    Ok(tables)
}

/// What has hooks that only the dump of hooks shows.
pub(super) fn other_hooks() -> Result<Vec<String>> {
    let mut found = Vec::new();
    // Three lines of heading, then a line per service and per server.
    if read_if_there("/proc/thread-self/net/ip_vs")?.lines().count() > 3 {
        found.push("IPVS".to_owned());
    }
    // SELinux looks at forwarded packets; its file system is known only while it is on.
    if read_if_there("/proc/filesystems")?.split_whitespace().any(|word| word == "selinuxfs") {
        found.push("SELinux".to_owned());
    }
    Ok(found)
}

/// Whether the stack's answers to a packet carry its mark, in either family.
pub(super) fn fwmark_reflect() -> Result<bool> {
    let on = |family: &str| -> Result<bool> {
        let value = read_if_there(&format!("/proc/sys/net/{family}/fwmark_reflect"))?;
        Ok(!matches!(value.trim(), "" | "0"))
    };
    Ok(on("ipv4")? || on("ipv6")?)
}

/// A file's text; empty where the kernel has no such file.
fn read_if_there(path: &str) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|cause| Error::new(format!("read {path}"), cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safety::HookPoint;

    /// As `nfnl_hook_dump_one()` writes it.
    fn message(family: u8, function: &str, chain: Option<(u8, &str, &str)>) -> Vec<u8> {
        let mut attributes = Attrs::after(&nfgenmsg(family, 0))
            .string(5, "some_module")
            .string(NFNLA_HOOK_FUNCTION_NAME, function)
            .be32(NFNLA_HOOK_HOOKNUM, 0)
            .be32(2, (-150_i32).cast_unsigned());
        if let Some((family, table, name)) = chain {
            let description = Attrs::default()
                .string(NFNLA_CHAIN_TABLE, table)
                .string(NFNLA_CHAIN_NAME, name)
                .bytes(NFNLA_CHAIN_FAMILY, &[family]);
            let info = Attrs::default()
                .be32(NFNLA_HOOK_INFO_TYPE, NFNL_HOOK_TYPE_NFTABLES)
                .nested(NFNLA_HOOK_INFO_DESC, description);
            attributes = attributes.nested(NFNLA_HOOK_CHAIN_INFO, info);
        }
        attributes.done()
    }

    #[test]
    fn hooks_are_read() {
        let plain = Hook {
            family: ChainFamily::Ip,
            hook: HookPoint::Prerouting,
            device: None,
            function: "ipv4_conntrack_in".into(),
            chain: None,
            flowtable: false,
        };
        assert_eq!(read(&message(2, "ipv4_conntrack_in", None), 0, None).expect("read"), plain);
        let chain = Some((ChainFamily::Inet, "t".to_owned(), "c".to_owned()));
        let of_chain = read(&message(2, "nft_do_chain_inet", Some((1, "t", "c"))), 0, None).expect("read");
        assert_eq!(of_chain, Hook { function: "nft_do_chain_inet".into(), chain, ..plain });
        let netdev = read(&message(5, "x", None), 1, Some("eth0")).expect("read");
        assert_eq!((netdev.hook, netdev.device.as_deref()), (HookPoint::Egress, Some("eth0")));
    }
}
