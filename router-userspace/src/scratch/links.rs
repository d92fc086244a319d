//! Interfaces, their addresses and settings.

use super::Notes;
use crate::kernel::admin::{NewLink, TunKind, read_setting, tun_at, write_setting};
use crate::kernel::{Admin, Kernel, Netns, Result};
use crate::model::{DeviceConf, Family, Host, Link};
use ipnet::IpNet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;
/// ARPHRD_NONE: no link-layer header.
const NO_HEADER: u16 = 65534;
/// The loopback device is in every namespace.
const LOOPBACK: u32 = 1;
/// The kernel notices a carrier within a second (net/core/link_watch.c).
const CARRIER_WITHIN: Duration = Duration::from_secs(3);

/// Makes the links of `host` in the calling thread's namespace, their far ends in `far`.
pub fn copy(host: &Host, far: &Netns, notes: &mut Notes) -> Result<Vec<OwnedFd>> {
    let mut admin = Admin::open()?;
    // Addresses are the host's and no others, and usable at once.
    for setting in ["accept_dad", "accept_ra", "autoconf"] {
        notes.attempt(write_setting(&format!("net.ipv6.conf.default.{setting}"), "0"));
    }
    notes.attempt(write_setting("net.ipv6.conf.default.addr_gen_mode", "1"));
    let mut tuns = Vec::new();
    for link in host.links.values().filter(|link| link.index != LOOPBACK) {
        let made = make(&mut admin, link, far);
        tuns.extend(notes.attempt(made).flatten());
    }
    settings_of_all(host, notes);
    for link in host.links.values() {
        settings_of(link, notes);
    }
    for address in &host.addresses {
        let Some(link) = host.links.get(&address.index) else { continue };
        if link.index == LOOPBACK && address.addr.is_loopback() {
            continue;
        }
        if let Ok(net) = IpNet::new(address.addr, address.prefix_len) {
            notes.attempt(admin.add_address(&link.name, net));
        }
    }
    for link in host.links.values() {
        for altname in &link.altnames {
            notes.attempt(admin.add_altname(&link.name, altname));
        }
        if link.group != 0 {
            notes.attempt(admin.set_group(&link.name, link.group));
        }
        if link.lower_up && link.index != LOOPBACK && link.arphrd == ETHERNET {
            notes.attempt(far.run(|| Admin::open()?.up(&link.name)).and_then(|up| up));
        }
        notes.attempt(if link.up { admin.up(&link.name) } else { admin.down(&link.name) });
    }
    Ok(tuns)
}

/// Makes one link; the descriptor of a TUN device.
fn make(admin: &mut Admin, link: &Link, far: &Netns) -> Result<Option<OwnedFd>> {
    if link.arphrd == ETHERNET {
        let end = NewLink { mac: link.mac, ..NewLink::named(&link.name).index(link.index).mtu(link.mtu) };
        admin.veth(end, NewLink::named(&link.name).mtu(link.mtu).inside(far.fd()))?;
        return Ok(None);
    }
    let tun = tun_at(&link.name, TunKind::Tun, false, Some(link.index))?;
    admin.set_mtu(&link.name, link.mtu)?;
    Ok(Some(tun))
}

/// Waits until the copies have a carrier where the originals have one: the kernel looks routes up accordingly.
pub fn wait_for_carriers(host: &Host, kernel: &mut dyn Kernel, notes: &mut Notes) -> Result<()> {
    let started = Instant::now();
    loop {
        let links = kernel.links()?;
        let wrong: Vec<&str> = host
            .links
            .values()
            .filter(|link| links.get(&link.index).is_some_and(|copy| copy.lower_up != link.lower_up))
            .map(|link| link.name.as_str())
            .collect();
        if wrong.is_empty() {
            break;
        }
        if started.elapsed() > CARRIER_WITHIN {
            notes.add(format!("not copied: whether there is a carrier on {}", wrong.join(", ")));
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for link in
        host.links.values().filter(|link| ![ETHERNET, NO_HEADER].contains(&link.arphrd) && link.index != LOOPBACK)
    {
        notes.add(format!("{} (hardware type {}) is copied as a TUN device", link.name, link.arphrd));
    }
    if host.links.values().any(|link| link.kind == "vrf") {
        notes.add("VRFs are copied as plain devices: the kernel of the copy looks nothing up in their tables");
    }
    Ok(())
}

/// The settings of `all` first: writing `forwarding` there writes it to every device.
fn settings_of_all(host: &Host, notes: &mut Notes) {
    let settings = &host.settings;
    write_family(Family::Ipv4, "all", &settings.all_v4, notes);
    write_family(Family::Ipv6, "all", &settings.all_v6, notes);
    for (name, value) in [
        ("net.ipv4.ip_forward_use_pmtu", u8::from(settings.forward_use_pmtu)),
        ("net.ipv4.ip_forward_update_priority", u8::from(!settings.keep_priority)),
        ("net.ipv4.fib_multipath_hash_policy", settings.hash_policy_v4),
        ("net.ipv6.fib_multipath_hash_policy", settings.hash_policy_v6),
    ] {
        write(name, &value.to_string(), notes);
    }
}

fn settings_of(link: &Link, notes: &mut Notes) {
    // In a setting's name a slash stands for a dot of the device's.
    let name = link.name.replace('.', "/");
    write_family(Family::Ipv4, &name, &link.v4, notes);
    write_family(Family::Ipv6, &name, &link.v6, notes);
    if link.v6.mtu != 0 && link.v6.mtu != link.mtu {
        write(&format!("net.ipv6.conf.{name}.mtu"), &link.v6.mtu.to_string(), notes);
    }
}

fn write_family(family: Family, device: &str, conf: &DeviceConf, notes: &mut Notes) {
    let flag = |on: bool| u8::from(on);
    let common = [
        ("forwarding", flag(conf.forwarding)),
        ("ignore_routes_with_linkdown", flag(conf.ignore_linkdown)),
        ("accept_redirects", flag(conf.accept_redirects)),
    ];
    let own: &[(&str, u8)] = match family {
        Family::Ipv4 => &[
            ("rp_filter", conf.rp_filter),
            ("send_redirects", flag(conf.send_redirects)),
            ("accept_local", flag(conf.accept_local)),
            ("src_valid_mark", flag(conf.src_valid_mark)),
            ("route_localnet", flag(conf.route_localnet)),
        ],
        Family::Ipv6 => &[("force_forwarding", flag(conf.force_forwarding)), ("disable_ipv6", flag(conf.disabled))],
    };
    for (setting, value) in common.iter().chain(own) {
        write(&format!("net.{family}.conf.{device}.{setting}"), &value.to_string(), notes);
    }
}

/// Writes a setting where it is not so already. One that this kernel does not have has no effect on the original either.
fn write(name: &str, value: &str, notes: &mut Notes) {
    match notes.attempt(read_setting(name)).flatten() {
        Some(now) if now != value => {
            notes.attempt(write_setting(name, value));
        }
        _ => {}
    }
}
