//! Settings under /proc/sys/net.
//!
//! That tree shows the network namespace of the calling thread (`net_ctl_header_lookup` in net/sysctl_net.c), whichever
//! process it belongs to; /proc/net would show the main thread's.

use super::{Error, Result};
use crate::model::{DeviceConf, Settings};
use std::path::PathBuf;

/// The settings of the calling thread's namespace.
pub(super) fn read_all() -> Result<Settings> {
    let number = |name: &str| Ok::<_, Error>(read(name)?.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0));
    let on = |name: &str| Ok::<_, Error>(number(name)? != 0);
    let small = |name: &str| Ok::<_, Error>(u8::try_from(number(name)?).unwrap_or(u8::MAX));
    Ok(Settings {
        all_v4: DeviceConf {
            forwarding: on("net.ipv4.conf.all.forwarding")?,
            rp_filter: small("net.ipv4.conf.all.rp_filter")?,
            accept_redirects: on("net.ipv4.conf.all.accept_redirects")?,
            send_redirects: on("net.ipv4.conf.all.send_redirects")?,
            accept_local: on("net.ipv4.conf.all.accept_local")?,
            src_valid_mark: on("net.ipv4.conf.all.src_valid_mark")?,
            route_localnet: on("net.ipv4.conf.all.route_localnet")?,
            ignore_linkdown: on("net.ipv4.conf.all.ignore_routes_with_linkdown")?,
            ..Default::default()
        },
        all_v6: DeviceConf {
            forwarding: on("net.ipv6.conf.all.forwarding")?,
            force_forwarding: on("net.ipv6.conf.all.force_forwarding")?,
            ignore_linkdown: on("net.ipv6.conf.all.ignore_routes_with_linkdown")?,
            mtu: number("net.ipv6.conf.all.mtu")?,
            // Without IPv6 in the kernel there is no such file.
            disabled: read("net.ipv6.conf.all.disable_ipv6")?.is_none_or(|value| value != "0"),
            ..Default::default()
        },
        forward_use_pmtu: on("net.ipv4.ip_forward_use_pmtu")?,
        // 4.19 and later; before, forwarding always set it.
        keep_priority: read("net.ipv4.ip_forward_update_priority")?.is_some_and(|value| value == "0"),
        hash_policy_v4: small("net.ipv4.fib_multipath_hash_policy")?,
        hash_policy_v6: small("net.ipv6.fib_multipath_hash_policy")?,
        of_other_users: super::Netns::current()?.is_of_other_users()?,
    })
}

/// The file of a setting: `net.ipv4.conf.eth0/1.forwarding` is interface `eth0.1`, as in sysctl(8).
pub(super) fn path(name: &str) -> PathBuf {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    PathBuf::from("/proc/sys").join(name.chars().map(swap).collect::<String>())
}

/// A setting's value without the line's end; None where this kernel does not have it.
pub(super) fn read(name: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::new(format!("read the setting {name}"), cause)),
    }
}
