//! A blocking netlink socket: requests with acknowledgements, batches, dumps.

use super::attributes::Attributes;
use super::{Error, Result};
use netlink_packet_core::{Emitable, NetlinkHeader};
use netlink_sys::SocketAddr;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// NLMSG_ERROR: the answer to one request; error number 0 is an acknowledgement.
const ERROR: u16 = libc::NLMSG_ERROR as u16;
/// NLMSG_DONE: the end of a dump.
const DONE: u16 = libc::NLMSG_DONE as u16;
/// NLMSGERR_ATTR_MSG: the kernel's sentence in an extended acknowledgement (include/uapi/linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump that other writers keep interrupting is tried this often.
const DUMP_TRIES: u32 = 50;
/// Requests sent in one go. Each one's acknowledgement waits in the receive buffer meanwhile.
const WINDOW: usize = 128;
/// Receive buffer asked for: holds the acknowledgements of a window with room to spare.
const RECEIVE_BUFFER: usize = 1 << 20;

/// One request.
pub(crate) struct Request {
    /// What it does, for the error.
    pub what: String,
    /// Message type, e.g. RTM_NEWRULE.
    pub kind: u16,
    /// NLM_F_* beyond NLM_F_REQUEST and NLM_F_ACK.
    pub flags: u16,
    /// Whether the kernel is to acknowledge it. Without, only a refusal is seen, and that only while a later request is waited for.
    pub ack: bool,
    /// What follows the netlink header.
    pub body: Vec<u8>,
}

impl Request {
    /// A request that is acknowledged.
    pub fn new(what: impl Into<String>, kind: u16, flags: i32, body: &impl Emitable) -> Self {
        Request { what: what.into(), kind, flags: flags as u16, ack: true, body: bytes_of(body) }
    }
}

/// The bytes of a message.
pub(crate) fn bytes_of(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// A message as received.
pub(crate) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Of a notification: the socket that asked for the change; 0 where it was the kernel's own doing.
    pub port: u32,
    pub payload: &'a [u8],
}

/// Walks the messages of a datagram. What is too short to be one ends it.
pub(crate) struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let rest = std::mem::take(&mut self.0);
        let header: &[u8; HEADER] = rest.first_chunk()?;
        let number = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(number(0)).ok()?;
        let payload = rest.get(HEADER..length)?;
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let [k0, k1, f0, f1] = number(4).to_ne_bytes();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: number(8),
            port: number(12),
            payload,
        })
    }
}

/// A refusal or acknowledgement: the error number (positive, 0 is none) and the kernel's sentence.
fn refusal(message: &Message<'_>) -> (i32, Option<String>) {
    let Some((code, rest)) = message.payload.split_first_chunk::<4>() else {
        return (0, None);
    };
    let code = i32::from_ne_bytes(*code).wrapping_neg();
    if i32::from(message.flags) & libc::NLM_F_ACK_TLVS == 0 {
        return (code, None);
    }
    // NLMSG_ERROR carries the request's header, and the rest of the request too unless the answer is capped; NLMSG_DONE neither.
    let skip = match message.kind {
        ERROR if i32::from(message.flags) & libc::NLM_F_CAPPED != 0 => HEADER,
        ERROR => rest
            .first_chunk::<4>()
            .and_then(|length| usize::try_from(u32::from_ne_bytes(*length)).ok())
            .map_or(HEADER, |length| length.next_multiple_of(4)),
        _ => 0,
    };
    let said = Attributes::new(rest.get(skip..).unwrap_or_default())
        .flatten()
        .find(|attribute| attribute.kind == NLMSGERR_ATTR_MSG)
        .map(|attribute| attribute.text());
    (code, said)
}

/// A socket of one netlink family, in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    /// Opens a socket. `protocol` is one of `netlink_sys::protocols`.
    pub fn open(protocol: isize) -> Result<Self> {
        let make = || -> io::Result<(netlink_sys::Socket, u32)> {
            let mut socket = netlink_sys::Socket::new(protocol)?;
            let port = socket.bind_auto()?.port_number();
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Strict checking makes the kernel honour (and not ignore) what a dump asks for: no cached routes, no other
            // family. Kernels before 4.20 do not have it; Wayfork needs a later one for everything else.
            if protocol == netlink_sys::protocols::NETLINK_ROUTE {
                socket.set_netlink_get_strict_chk(true)?;
            }
            Ok((socket, port))
        };
        let (socket, port) = make().map_err(|cause| Error::new("open a netlink socket", cause))?;
        set_receive_buffer(&socket, RECEIVE_BUFFER)
            .map_err(|cause| Error::new("size the receive buffer of a netlink socket", cause))?;
        Ok(Socket { socket, port, sequence: 0, buffer: vec![0; 1 << 16] })
    }

    /// The number by which notifications tell what this socket asked for; nobody else's while it is open.
    pub fn port(&self) -> u32 {
        self.port
    }

    fn next_sequence(&mut self) -> u32 {
        // 0 is what notifications carry.
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Receives one datagram into the buffer: its length.
    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(length) if length > self.buffer.len() => {
                    // It is lost; the next one of this size will fit.
                    self.buffer.resize(length.next_power_of_two(), 0);
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                other => return other.map_err(io::Error::from),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }

    /// One request, acknowledged.
    pub fn request(&mut self, request: Request) -> Result<()> {
        self.transact(vec![request]).pop().unwrap_or(Ok(()))
    }

    /// Many requests in order; one result each. They go out in windows, and after a refusal no further window: those not
    /// sent fail with ECANCELED. What follows the refused one in its own window has been tried all the same.
    pub fn batch(&mut self, requests: Vec<Request>) -> Vec<Result<()>> {
        let mut results: Vec<Result<()>> = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let window: Vec<Request> = requests.by_ref().take(WINDOW).collect();
            let outcome = self.transact(window);
            let failed = outcome.iter().any(Result::is_err);
            results.extend(outcome);
            if failed {
                results.extend(requests.map(|request| Err(Error::from_errno(request.what, libc::ECANCELED))));
                break;
            }
        }
        results
    }

    /// Sends all the requests as one datagram and reads one acknowledgement for each that asked for one. At most a few
    /// hundred: the acknowledgements must fit the receive buffer.
    pub fn transact(&mut self, requests: Vec<Request>) -> Vec<Result<()>> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1).max(1);
        for request in &requests {
            let ack = if request.ack { libc::NLM_F_ACK } else { 0 } as u16;
            let sequence = self.next_sequence();
            push_message(
                &mut bytes,
                request.kind,
                request.flags | libc::NLM_F_REQUEST as u16 | ack,
                sequence,
                &request.body,
            );
        }
        let mut answers: Vec<Option<(i32, Option<String>)>> =
            requests.iter().map(|request| (!request.ack).then_some((0, None))).collect();
        let mut failure = self.send(&bytes).err();
        while failure.is_none() && answers.iter().any(Option::is_none) {
            match self.receive() {
                Err(cause) => failure = Some(cause),
                Ok(length) => {
                    for message in Messages(&self.buffer[..length]) {
                        let index = message.sequence.wrapping_sub(first) as usize;
                        // Anything else is an answer to a request that was given up.
                        if let (ERROR, Some(answer)) = (message.kind, answers.get_mut(index)) {
                            *answer = Some(refusal(&message));
                        }
                    }
                }
            }
        }
        let outcome = requests.into_iter().zip(answers).map(|(request, answer)| match (answer, &failure) {
            (Some((0, _)), _) => Ok(()),
            (Some((errno, said)), _) => Err(Error::from_errno(request.what, errno).saying(said)),
            (None, Some(cause)) => Err(Error::new(request.what, copy_of(cause))),
            (None, None) => Err(Error::from_errno(request.what, libc::EPROTO)),
        });
        outcome.collect()
    }

    /// Sends all the requests as one datagram, which the kernel takes as a whole or not at all (nf_tables). One of them asks
    /// to be acknowledged, and comes last of those that can be refused: its answer ends it. The first refusal is the error.
    pub fn all_or_nothing(&mut self, requests: &[Request]) -> Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1).max(1);
        for request in requests {
            let ack = if request.ack { libc::NLM_F_ACK } else { 0 } as u16;
            let sequence = self.next_sequence();
            push_message(
                &mut bytes,
                request.kind,
                request.flags | libc::NLM_F_REQUEST as u16 | ack,
                sequence,
                &request.body,
            );
        }
        let whole = |cause| Error::new(requests.first().map_or("", |request| request.what.as_str()), cause);
        make_room(&self.socket, bytes.len()).map_err(whole)?;
        self.send(&bytes).map_err(whole)?;
        loop {
            let length = self.receive().map_err(whole)?;
            for message in Messages(&self.buffer[..length]).filter(|message| message.kind == ERROR) {
                let Some(request) = requests.get(message.sequence.wrapping_sub(first) as usize) else { continue };
                match refusal(&message) {
                    (0, _) if request.ack => return Ok(()),
                    (0, _) => {}
                    (errno, said) => return Err(Error::from_errno(request.what.as_str(), errno).saying(said)),
                }
            }
        }
    }

    /// A question with one answer: `read` gets the answer's payload. No acknowledgement is asked for: the kernel sends the
    /// answer or a refusal.
    pub fn ask<T>(&mut self, request: Request, read: impl Fn(&[u8]) -> Result<T>) -> Result<T> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        push_message(&mut bytes, request.kind, request.flags | libc::NLM_F_REQUEST as u16, sequence, &request.body);
        self.send(&bytes).map_err(|cause| Error::new(request.what.as_str(), cause))?;
        loop {
            let length = self.receive().map_err(|cause| Error::new(request.what.as_str(), cause))?;
            let Some(message) = Messages(&self.buffer[..length]).find(|message| message.sequence == sequence) else {
                continue;
            };
            if message.kind != ERROR {
                return read(message.payload);
            }
            let (errno, said) = refusal(&message);
            return Err(Error::from_errno(request.what, errno).saying(said));
        }
    }

    /// Everything of a kind. `read` turns one message into a value, or into None to leave it out. Repeated from the start
    /// where the kernel says that what it was listing changed meanwhile.
    pub fn dump<T>(
        &mut self,
        what: &str,
        kind: u16,
        body: &impl Emitable,
        mut read: impl FnMut(&[u8]) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        let body = bytes_of(body);
        for _ in 0..DUMP_TRIES {
            let mut all = Vec::new();
            if self.dump_once(what, kind, &body, |payload| {
                all.extend(read(payload)?);
                Ok(())
            })? {
                return Ok(all);
            }
        }
        let mut error = Error::from_errno(what, libc::EINTR);
        error.help = Some("other programs change it faster than it can be read; try again");
        Err(error)
    }

    /// One attempt; false where it has to be repeated.
    fn dump_once(
        &mut self,
        what: &str,
        kind: u16,
        body: &[u8],
        mut read: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        push_message(&mut bytes, kind, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, sequence, body);
        self.send(&bytes).map_err(|cause| Error::new(what, cause))?;
        let (mut whole, mut failure) = (true, None);
        loop {
            let length = match self.receive() {
                Ok(length) => length,
                // One datagram of the dump was too large and is gone: read on to its end, then repeat it.
                Err(cause) if cause.raw_os_error() == Some(libc::EMSGSIZE) => {
                    whole = false;
                    continue;
                }
                Err(cause) => return Err(Error::new(what, cause)),
            };
            for message in Messages(&self.buffer[..length]).filter(|message| message.sequence == sequence) {
                whole &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match message.kind {
                    DONE | ERROR => {
                        let (errno, said) = refusal(&message);
                        return match (failure, errno) {
                            (Some(error), _) => Err(error),
                            (None, 0) => Ok(whole),
                            (None, errno) => Err(Error::from_errno(what, errno).saying(said)),
                        };
                    }
                    // After a failure the rest of the dump is read and forgotten, so that the socket can be used again.
                    _ if failure.is_none() => failure = read(message.payload).err(),
                    _ => {}
                }
            }
        }
    }
}

/// Appends one message, padded.
fn push_message(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let mut header = NetlinkHeader::default();
    header.length = (HEADER + body.len()) as u32;
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    bytes.extend_from_slice(&bytes_of(&header));
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A datagram that the send buffer cannot hold is refused with EMSGSIZE (`netlink_sendmsg`): the buffer is made to fit.
fn make_room(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    use nix::sys::socket::{getsockopt, setsockopt, sockopt};
    if getsockopt(socket, sockopt::SndBuf)? / 2 < bytes {
        setsockopt(socket, sockopt::SndBufForce, &bytes.saturating_mul(2))?;
    }
    Ok(())
}

/// SO_RCVBUFFORCE where that is allowed (it may exceed net.core.rmem_max), else SO_RCVBUF.
pub(crate) fn set_receive_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    match setsockopt(socket, sockopt::RcvBufForce, &bytes) {
        Err(nix::errno::Errno::EPERM) => Ok(setsockopt(socket, sockopt::RcvBuf, &bytes)?),
        other => Ok(other?),
    }
}

/// The same error once more: io::Error cannot be cloned.
fn copy_of(cause: &io::Error) -> io::Error {
    cause.raw_os_error().map_or_else(|| io::Error::new(cause.kind(), cause.to_string()), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(kind: u16, flags: i32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_message(&mut bytes, kind, flags as u16, 7, payload);
        bytes
    }

    #[test]
    fn a_refusal_is_read_with_its_sentence() {
        let sentence = [&[8u8, 0, 1, 0][..], b"why\0"].concat();
        let header = message(libc::RTM_NEWRULE, 0, &[0; 5]);
        let errno = (-libc::EINVAL).to_ne_bytes();
        let capped = [&errno[..], &header[..HEADER], &sentence].concat();
        let whole = [&errno[..], &header, &sentence].concat();
        let tlvs = libc::NLM_F_ACK_TLVS;
        for (flags, payload) in [(tlvs | libc::NLM_F_CAPPED, &capped), (tlvs, &whole)] {
            let bytes = message(ERROR, flags, payload);
            let all: Vec<_> = Messages(&bytes).map(|message| refusal(&message)).collect();
            assert_eq!(all, [(libc::EINVAL, Some("why".to_owned()))]);
        }
        let done = message(DONE, tlvs, &[&errno[..], &sentence].concat());
        assert_eq!(refusal(&Messages(&done).next().unwrap()), (libc::EINVAL, Some("why".to_owned())));
        let plain = message(ERROR, 0, &[&0i32.to_ne_bytes()[..], &header].concat());
        assert_eq!(refusal(&Messages(&plain).next().unwrap()), (0, None));
    }

    #[test]
    fn messages_are_walked_with_their_padding() {
        let bytes = [message(1, 0, b"a"), message(2, 0, b""), message(3, 0, b"abcd")].concat();
        let all: Vec<_> = Messages(&bytes).map(|message| (message.kind, message.payload.to_vec())).collect();
        assert_eq!(all, [(1, b"a".to_vec()), (2, Vec::new()), (3, b"abcd".to_vec())]);
        assert_eq!(Messages(&bytes[..bytes.len() - 1]).count(), 2, "a cut one is none");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, flags: u16, length: u32) {
            for message in Messages(&bytes) {
                drop(refusal(&message));
            }
            let payload = [&length.to_ne_bytes()[..], &length.to_ne_bytes(), &bytes].concat();
            drop(refusal(&Message { kind: ERROR, flags, sequence: 0, port: 0, payload: &payload }));
        }
    }
}
