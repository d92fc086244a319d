//! Netfilter's hooks: all of them where the kernel can list them (CONFIG_NETFILTER_NETLINK_HOOK, 5.14 and later), and the signs
//! of those that nf_tables does not know of.

use super::nft::{NFGENMSG, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV, nfgenmsg};
use super::nft_list::{family, hook_point, is_own};
use super::wire::{self, Attrs, Message, Wire, be32, find, string};
use crate::safety::{ChainFamily, Hook};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::io;
use std::path::Path;

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

/// The hooks of IPv4, IPv6 and the devices, but for Wayfork's own. None where the kernel cannot list them.
pub(super) fn list() -> io::Result<Option<Vec<Hook>>> {
    let mut wire = match Wire::open(NETLINK_NETFILTER) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
        opened => opened?,
    };
    let mut hooks = Vec::new();
    for number in [NFPROTO_IPV4, NFPROTO_IPV6] {
        for point in 0..5 {
            match wire.dump(HOOK_GET, &question(number, point, None)) {
                // The kernel knows no such message (`nfnetlink_rcv_msg`).
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
                answer => collect(&answer?, point, None, &mut hooks)?,
            }
        }
    }
    for device in nix::net::if_::if_nameindex()?.iter() {
        let device = device.name().to_string_lossy().into_owned();
        for point in 0..2 {
            match wire.dump(HOOK_GET, &question(NFPROTO_NETDEV, point, Some(&device))) {
                // Egress hooks were not listed at first, a kernel may have neither, and a device may be gone by now.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENODEV)
                    ) => {}
                answer => collect(&answer?, point, Some(&device), &mut hooks)?,
            }
        }
    }
    Ok(Some(hooks))
}

fn question(family: u8, point: u32, device: Option<&str>) -> Vec<u8> {
    let mut attributes = Attrs::after(&nfgenmsg(family, 0)).be32(NFNLA_HOOK_HOOKNUM, point);
    if let Some(device) = device {
        attributes = attributes.string(NFNLA_HOOK_DEV, device);
    }
    attributes.done()
}

fn collect(messages: &[Message], point: u32, device: Option<&str>, hooks: &mut Vec<Hook>) -> io::Result<()> {
    for message in messages {
        let hook = read(message, point, device)?;
        if !hook.chain.as_ref().is_some_and(|(family, table, _)| is_own(*family, table)) {
            hooks.push(hook);
        }
    }
    Ok(())
}

fn read(message: &Message, point: u32, device: Option<&str>) -> io::Result<Hook> {
    let attributes = wire::attributes_after(NFGENMSG, &message.body)?;
    let of = family(message.body.first().copied().unwrap_or(0));
    let info = find(&attributes, NFNLA_HOOK_CHAIN_INFO).map(wire::attributes).transpose()?.unwrap_or_default();
    let kind = find(&info, NFNLA_HOOK_INFO_TYPE).and_then(be32);
    let description = find(&info, NFNLA_HOOK_INFO_DESC).map(wire::attributes).transpose()?.unwrap_or_default();
    let chain = (kind == Some(NFNL_HOOK_TYPE_NFTABLES)).then(|| {
        let number = find(&description, NFNLA_CHAIN_FAMILY).and_then(|value| value.first().copied()).unwrap_or(0);
        let text = |kind| find(&description, kind).map(string).unwrap_or_default();
        (family(number), text(NFNLA_CHAIN_TABLE), text(NFNLA_CHAIN_NAME))
    });
    Ok(Hook {
        family: of,
        hook: hook_point(of, point),
        device: (of == ChainFamily::Netdev).then(|| device.unwrap_or_default().to_owned()),
        function: find(&attributes, NFNLA_HOOK_FUNCTION_NAME).map(string).unwrap_or_default(),
        chain,
        flowtable: kind == Some(NFNL_HOOK_TYPE_FLOWTABLE),
    })
}

/// The tables of the old iptables and ip6tables that are in use in this namespace.
pub(super) fn legacy_tables() -> io::Result<Vec<String>> {
    let mut tables = Vec::new();
    for (program, file) in [("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")] {
        let names = read_if_there(Path::new("/proc/thread-self/net").join(file))?;
        tables.extend(names.lines().map(|name| format!("{program} {name}")));
    }
    Ok(tables)
}

/// What has hooks that only the dump of hooks shows.
pub(super) fn other_hooks() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    // Three lines of heading, then a line per service and per server.
    if read_if_there("/proc/thread-self/net/ip_vs".into())?.lines().count() > 3 {
        found.push("IPVS".to_owned());
    }
    // The two security modules that register netfilter hooks, each with a file system that is there only while it is on.
    let filesystems = read_if_there("/proc/filesystems".into())?;
    for (name, module) in [("selinuxfs", "SELinux"), ("smackfs", "Smack")] {
        if filesystems.split_whitespace().any(|word| word == name) {
            found.push(module.to_owned());
        }
    }
    Ok(found)
}

/// Whether the stack's answers to a packet carry its mark, in either family.
pub(super) fn fwmark_reflect() -> io::Result<bool> {
    let on = |family: &str| -> io::Result<bool> {
        let value = read_if_there(format!("/proc/sys/net/{family}/fwmark_reflect").into())?;
        Ok(!matches!(value.trim(), "" | "0"))
    };
    Ok(on("ipv4")? || on("ipv6")?)
}

/// A file's text; empty where the kernel has no such file.
fn read_if_there(path: std::path::PathBuf) -> io::Result<String> {
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safety::HookPoint;

    /// As `nfnl_hook_dump_one()` writes it.
    fn message(family: u8, function: &str, chain: Option<(u8, &str, &str)>) -> Message {
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
        Message { kind: HOOK_GET, body: attributes.done() }
    }

    #[test]
    fn hooks_are_read_and_our_own_is_left_out() {
        let messages = [
            message(2, "ipv4_conntrack_in", None),
            message(2, "nft_do_chain_inet", Some((1, "wayfork", "marks"))),
            message(2, "nft_do_chain_ipv4", Some((2, "wayfork", "theirs"))),
        ];
        let mut hooks = Vec::new();
        collect(&messages, 0, None, &mut hooks).expect("read");
        let plain = Hook {
            family: ChainFamily::Ip,
            hook: HookPoint::Prerouting,
            device: None,
            function: "ipv4_conntrack_in".into(),
            chain: None,
            flowtable: false,
        };
        let chain = Some((ChainFamily::Ip, "wayfork".to_owned(), "theirs".to_owned()));
        assert_eq!(hooks, [plain.clone(), Hook { function: "nft_do_chain_ipv4".into(), chain, ..plain }]);
        let netdev = read(&message(5, "x", None), 1, Some("eth0")).expect("read");
        assert_eq!((netdev.hook, netdev.device.as_deref()), (HookPoint::Egress, Some("eth0")));
    }
}
