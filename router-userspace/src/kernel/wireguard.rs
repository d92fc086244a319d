//! The marks that WireGuard devices put on the packets that they send (`wg set DEV fwmark`).

use super::Result;
use super::attributes::Decode;
use super::socket::Socket;
use super::wire::{Attrs, Found};
use crate::safety::{MarkUse, Marks};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};

/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY and their attributes (include/uapi/linux/genetlink.h).
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`, of `struct ifinfomsg`.
const GENLMSG: usize = 4;
const IFINFOMSG: usize = 16;
/// include/uapi/linux/wireguard.h.
const WG_CMD_GET_DEVICE: u8 = 0;
const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_FWMARK: u16 = 7;
const KIND: &str = "wireguard";

/// The marks of all devices of this namespace that have one. Those that a program runs over TUN are not the kernel's to tell.
pub(super) fn marks() -> Result<Vec<MarkUse>> {
    let mut generic = match Socket::open(NETLINK_GENERIC) {
        Err(error) if error.errno() == libc::EPROTONOSUPPORT => return Ok(Vec::new()),
        opened => opened?,
    };
    // All families are listed: to ask for one by its name would make the kernel load its module.
    let what = "list the families of generic netlink";
    let families = generic.dump(what, GENL_ID_CTRL, &Attrs::after(&[CTRL_CMD_GETFAMILY, 1, 0, 0]), |body| {
        read_family(body).map_err(|malformed| malformed.during(what))
    })?;
    let Some(family) = families.first().copied() else { return Ok(Vec::new()) };
    let mut marks = Vec::new();
    for name in devices()? {
        let what = format!("read the mark of the WireGuard device {name}");
        let question = Attrs::after(&[WG_CMD_GET_DEVICE, 1, 0, 0]).string(WGDEVICE_A_IFNAME, &name);
        let found =
            generic.dump(&what, family, &question, |body| read_mark(body).map_err(|malformed| malformed.during(&what)));
        let found = match found {
            // Gone by now.
            Err(error) if matches!(error.errno(), libc::ENODEV | libc::EOPNOTSUPP) => continue,
            found => found?,
        };
        // 0 is how the kernel keeps "none".
        for value in found.into_iter().filter(|value| *value != 0) {
            marks.push(MarkUse { who: format!("the WireGuard device {name}"), what: Marks::Whole(value) });
        }
    }
    Ok(marks)
}

fn read_family(body: &[u8]) -> Decode<Option<u16>> {
    let family = Found::after(GENLMSG, body)?;
    let ours = family.text(CTRL_ATTR_FAMILY_NAME).as_deref() == Some(KIND);
    let number = family.get(CTRL_ATTR_FAMILY_ID).and_then(|id| id.value.try_into().ok());
    Ok(number.map(u16::from_ne_bytes).filter(|_| ours))
}

fn read_mark(body: &[u8]) -> Decode<Option<u32>> {
    let mark = Found::after(GENLMSG, body)?.get(WGDEVICE_A_FWMARK);
    Ok(mark.and_then(|mark| mark.value.try_into().ok()).map(u32::from_ne_bytes))
}

/// The names of the devices. The kernel leaves other kinds out where it knows this one (`link_kind_filtered`).
fn devices() -> Result<Vec<String>> {
    let what = "list the WireGuard devices";
    let kind = Attrs::default().string(libc::IFLA_INFO_KIND, KIND);
    let question = Attrs::after(&[0; IFINFOMSG]).nested(libc::IFLA_LINKINFO, kind);
    Socket::open(NETLINK_ROUTE)?.dump(what, libc::RTM_GETLINK, &question, |body| {
        let read = || {
            let link = Found::after(IFINFOMSG, body)?;
            let kind = link.nested(libc::IFLA_LINKINFO)?.text(libc::IFLA_INFO_KIND);
            Ok(link.text(libc::IFLA_IFNAME).filter(|_| kind.as_deref() == Some(KIND)))
        };
        read().map_err(|malformed: super::attributes::Malformed| malformed.during(what))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(attributes: Attrs) -> Vec<u8> {
        [&[0; GENLMSG][..], &attributes.done()].concat()
    }

    /// As the kernel writes them; the test kernel may have no WireGuard.
    #[test]
    fn what_the_kernel_tells_is_read() {
        let family = |name: &str| {
            message(
                Attrs::default().string(CTRL_ATTR_FAMILY_NAME, name).bytes(CTRL_ATTR_FAMILY_ID, &31_u16.to_ne_bytes()),
            )
        };
        assert_eq!(read_family(&family("wireguard")).unwrap(), Some(31));
        assert_eq!(read_family(&family("nlctrl")).unwrap(), None);
        let device = Attrs::default().string(WGDEVICE_A_IFNAME, "wg0").u32(WGDEVICE_A_FWMARK, 0xca6c);
        assert_eq!(read_mark(&message(device)).unwrap(), Some(0xca6c));
        assert_eq!(read_mark(&message(Attrs::default())).unwrap(), None);
        assert!(read_mark(&[0; 3]).is_err());
    }

    #[test]
    fn asking_is_no_error_where_there_is_none() {
        marks().unwrap();
    }
}
