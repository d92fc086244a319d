//! IPsec policies: whether there are any.

use super::wire::Wire;
use netlink_sys::protocols::NETLINK_XFRM;
use std::io;

const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
/// XFRM_USERPOLICY_BLOCK.
const BLOCK: u8 = 1;

/// How many policies there are, and whether a default refuses what no policy matches (5.15 and later).
pub(super) fn policies() -> io::Result<(usize, bool)> {
    let mut wire = match Wire::open(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok((0, false)),
        opened => opened?,
    };
    let policies = wire.dump(XFRM_MSG_GETPOLICY, &[0; 64])?;
    let count = policies.iter().filter(|message| message.kind == XFRM_MSG_NEWPOLICY).count();
    // struct xfrm_userpolicy_default: in, fwd, out.
    let default = match wire.get(XFRM_MSG_GETDEFAULT, &[0; 4]) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
        answer => answer?,
    };
    Ok((count, default.is_some_and(|message| message.body.iter().take(3).any(|value| *value == BLOCK))))
}
