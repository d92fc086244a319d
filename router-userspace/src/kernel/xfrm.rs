//! IPsec policies: whether there are any.

use super::Result;
use super::socket::{Request, Socket};
use super::wire::Attrs;
use netlink_sys::protocols::NETLINK_XFRM;

const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
/// XFRM_USERPOLICY_BLOCK.
const BLOCK: u8 = 1;

/// How many policies there are, and whether a default refuses what no policy matches (5.15 and later).
pub(super) fn policies() -> Result<(usize, bool)> {
    let mut socket = match Socket::open(NETLINK_XFRM) {
        Err(error) if error.errno() == libc::EPROTONOSUPPORT => return Ok((0, false)),
        opened => opened?,
    };
    // struct xfrm_userpolicy_id, of which a list needs nothing.
    let policies = socket.dump("list xfrm policies", XFRM_MSG_GETPOLICY, &Attrs::after(&[0; 64]), |_| Ok(Some(())))?;
    // struct xfrm_userpolicy_default: in, fwd, out; padded.
    let question = Request::new("read the default xfrm policy", XFRM_MSG_GETDEFAULT, 0, &Attrs::after(&[0; 4]));
    let refuses = match socket.ask(question, |body| Ok(body.iter().take(3).any(|value| *value == BLOCK))) {
        Err(error) if error.errno() == libc::EINVAL => false,
        answer => answer?,
    };
    Ok((policies.len(), refuses))
}
