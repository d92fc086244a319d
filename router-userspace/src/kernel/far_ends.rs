//! XDP programs where a packet comes out that was sent into a virtual device.
//!
//! A program in generic mode does not see a packet that traffic control has redirected (`netif_receive_generic_xdp`); one in a
//! driver's own mode does, and that is what a veth device offers.

use super::Result;
use super::attributes::{Decode, Malformed, decode};
use super::socket::{Request, Socket};
use super::wire::{Attrs, Found};
use netlink_sys::protocols::NETLINK_ROUTE;

/// Length of `struct ifinfomsg`, and where it has the interface.
const IFINFOMSG: usize = 16;
const IFINDEX: usize = 4;
const IFLA_XDP_ATTACHED: u16 = 2;
/// XDP_ATTACHED_SKB, and XDP_ATTACHED_MULTI: one in each of several modes.
const ATTACHED_SKB: u8 = 2;
const ATTACHED_MULTI: u8 = 4;
/// RTEXT_FILTER_SKIP_STATS.
const SKIP_STATS: u32 = 1 << 3;
/// Kinds of devices whose frames are received by another device of this machine, the one that IFLA_LINK names.
const PAIRED: [&str; 6] = ["veth", "netkit", "macvlan", "macvtap", "ipvlan", "ipvtap"];

const WHAT: &str = "look for XDP programs behind virtual devices";

/// A virtual device and where its frames come out.
struct Pair {
    name: String,
    /// Interface index of the far end, in its own namespace.
    far: u32,
    /// The far end's namespace, as this one numbers it; None for this one.
    elsewhere: Option<u32>,
}

/// The devices whose far end, in whatever namespace, runs a generic XDP program: their names.
pub(super) fn generic_xdp() -> Result<Vec<String>> {
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let pairs = socket.dump(WHAT, libc::RTM_GETLINK, &question(0, None), |body| decode(WHAT, || pair(body)))?;
    let mut found = Vec::new();
    for Pair { name, far, elsewhere } in pairs {
        let request = Request::new(WHAT, libc::RTM_GETLINK, 0, &question(far, elsewhere));
        match socket.ask(request, |body| decode(WHAT, || is_generic(body))) {
            Ok(true) => found.push(name),
            Ok(false) => {}
            // It went meanwhile, or its namespace did.
            Err(error) if matches!(error.errno(), libc::ENODEV | libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn question(ifindex: u32, namespace: Option<u32>) -> Attrs {
    let mut header = [0; IFINFOMSG];
    header[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let attributes = Attrs::after(&header).bytes(libc::IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    match namespace {
        Some(namespace) => attributes.bytes(libc::IFLA_TARGET_NETNSID, &namespace.to_ne_bytes()),
        None => attributes,
    }
}

/// A device with a far end; None for others.
fn pair(body: &[u8]) -> Decode<Option<Pair>> {
    let found = Found::after(IFINFOMSG, body)?;
    let kind = found.nested(libc::IFLA_LINKINFO)?.text(libc::IFLA_INFO_KIND).unwrap_or_default();
    if !PAIRED.contains(&kind.as_str()) {
        return Ok(None);
    }
    let number = |kind| found.get(kind).map(|attribute| attribute.u32()).transpose();
    // 0: the far end is gone.
    let Some(far) = number(libc::IFLA_LINK)?.filter(|index| *index != 0) else { return Ok(None) };
    let name = found.name(libc::IFLA_IFNAME, "link: no name")?;
    Ok(Some(Pair { name, far, elsewhere: number(libc::IFLA_LINK_NETNSID)? }))
}

fn is_generic(body: &[u8]) -> Decode<bool> {
    let xdp = Found::after(IFINFOMSG, body)?.nested(libc::IFLA_XDP)?;
    let Some(attached) = xdp.get(IFLA_XDP_ATTACHED) else { return Ok(false) };
    let mode = attached.value.first().ok_or(Malformed("link: XDP without a mode"))?;
    Ok([ATTACHED_SKB, ATTACHED_MULTI].contains(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn never_panics(body: Vec<u8>) {
            drop((pair(&body), is_generic(&body)));
        }
    }
}
