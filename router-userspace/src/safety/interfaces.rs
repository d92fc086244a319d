//! Which interfaces the program belongs on, and what an interface is.

use crate::model::{Family, Host, Link};

/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;
/// ARPHRD_NONE: no link-layer header, as TUN and WireGuard are.
const NO_HEADER: u16 = 0xfffe;
/// ARPHRD_LOOPBACK.
const LOOPBACK: u16 = 772;
/// Kinds of links that take frames from the device below them before the stack sees them there (`rx_handler`).
const TAKING: [&str; 5] = ["macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];

/// The interfaces to attach to: those that a glob names, or without globs every one that forwards.
pub fn wanted<'a>(host: &'a Host, globs: Option<&[String]>) -> Vec<&'a Link> {
    let matchers: Option<Vec<_>> = globs.map(|globs| {
        // A glob that cannot be read names nothing; `check` has refused it.
        globs.iter().filter_map(|glob| globset::Glob::new(glob).ok()).map(|glob| glob.compile_matcher()).collect()
    });
    let chosen = |link: &&Link| match &matchers {
        Some(matchers) => matchers.iter().any(|matcher| matcher.is_match(&link.name)),
        None => {
            !is_loopback(link)
                && taken_by(host, link).is_none()
                && Family::BOTH.iter().any(|family| host.forwards(link, *family))
        }
    };
    host.links.values().filter(chosen).collect()
}

/// Whether it is the loopback device.
pub fn is_loopback(link: &Link) -> bool {
    link.arphrd == LOOPBACK
}

/// The device that takes this one's frames before routing, in words.
pub fn taken_by(host: &Host, link: &Link) -> Option<String> {
    if let Some(master) = link.master {
        return Some(match host.links.get(&master) {
            Some(master) if !master.kind.is_empty() => format!("{} {} takes its packets", master.kind, master.name),
            Some(master) => format!("{} takes its packets", master.name),
            None => "a device that is not in this namespace takes its packets".to_owned(),
        });
    }
    let upper = host.links.values().find(|upper| {
        upper.lower == Some(link.index) && upper.index != link.index && TAKING.contains(&upper.kind.as_str())
    })?;
    Some(format!("{} {} takes some of its packets", upper.kind, upper.name))
}

/// Why the program cannot work on this kind of device, in words.
pub fn unfit(link: &Link) -> Option<String> {
    match link.arphrd {
        LOOPBACK => Some("it is the loopback interface".to_owned()),
        ETHERNET | NO_HEADER if link.kind == "vrf" => {
            Some("it is a VRF, which the stack routes into by itself".to_owned())
        }
        ETHERNET | NO_HEADER => None,
        other => Some(format!("its link layer (ARPHRD {other}) is neither Ethernet nor plain IP")),
    }
}
