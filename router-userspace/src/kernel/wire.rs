//! Netlink below the typed messages: what the protocols without a crate of types (nf_tables, netfilter hooks, xfrm, traffic
//! control) have in common. Attributes are built and read as bytes; who calls knows the byte order.

use netlink_packet_core::{
    NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
    NetlinkBuffer, NlasIterator,
};
use netlink_sys::Socket;
use std::io;
use std::os::fd::AsRawFd;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// How often a dump that the kernel calls inconsistent is asked for again.
const DUMP_TRIES: u32 = 5;

/// A request socket of one netlink protocol, in the network namespace of the thread that opened it.
pub(super) struct Wire {
    socket: Socket,
    sequence: u32,
}

/// One message: its type, and what follows the netlink header.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub kind: u16,
    pub body: Vec<u8>,
}

/// A message to send.
pub(super) struct Request {
    pub kind: u16,
    /// NLM_F_* besides NLM_F_REQUEST.
    pub flags: u16,
    pub body: Vec<u8>,
}

impl Wire {
    /// Opens a socket of `protocol` (NETLINK_*).
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Errors then carry the header of the refused message only, not the whole of it.
        socket.set_cap_ack(true)?;
        Ok(Wire { socket, sequence: 0 })
    }

    /// Asks for a list. A list that changed while it was read (NLM_F_DUMP_INTR) is read again.
    pub fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        for _ in 0..DUMP_TRIES {
            let sequence = self.send(&[Request { kind, flags: NLM_F_DUMP, body: body.to_vec() }])?;
            let mut messages = Vec::new();
            if self.read_dump(sequence, &mut messages)? {
                return Ok(messages);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR))
    }

    /// Reads the answer to a dump; false where the kernel says that it is inconsistent.
    fn read_dump(&mut self, sequence: u32, messages: &mut Vec<Message>) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            for reply in self.receive()?.iter().filter(|reply| reply.sequence == sequence) {
                consistent &= reply.flags & NLM_F_DUMP_INTR == 0;
                match reply.message.kind {
                    NLMSG_DONE => {
                        reply.check_code()?;
                        return Ok(consistent);
                    }
                    NLMSG_ERROR => {
                        reply.check_code()?;
                        return Ok(consistent);
                    }
                    _ => messages.push(reply.message.clone()),
                }
            }
        }
    }

    /// Asks for one thing; None where the kernel has no such thing (ENOENT).
    pub fn get(&mut self, kind: u16, body: &[u8]) -> io::Result<Option<Message>> {
        let sequence = self.send(&[Request { kind, flags: 0, body: body.to_vec() }])?;
        loop {
            for reply in self.receive()?.iter().filter(|reply| reply.sequence == sequence) {
                if reply.message.kind != NLMSG_ERROR {
                    return Ok(Some(reply.message.clone()));
                }
                return match reply.check_code() {
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                    Err(error) => Err(error),
                    Ok(()) => Ok(None),
                };
            }
        }
    }

    /// Sends all of `requests` in one write and waits until the one at `acknowledged` (which must ask for it: see
    /// [`NLM_F_ACK`]) is confirmed. On a refusal: the index of the refused request and why.
    pub fn batch(&mut self, requests: &[Request], acknowledged: usize) -> Result<(), (usize, io::Error)> {
        debug_assert!(requests.get(acknowledged).is_some_and(|request| request.flags & NLM_F_ACK != 0));
        let first = self.send(requests).map_err(|error| (0, error))?;
        let last = first.wrapping_add(acknowledged as u32);
        loop {
            for reply in self.receive().map_err(|error| (acknowledged, error))? {
                let index = reply.sequence.wrapping_sub(first) as usize;
                if reply.message.kind != NLMSG_ERROR || index >= requests.len() {
                    continue;
                }
                reply.check_code().map_err(|error| (index, error))?;
                if reply.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// Sends requests with consecutive sequence numbers; the number of the first.
    fn send(&mut self, requests: &[Request]) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let start = bytes.len();
            bytes.resize(start + HEADER, 0);
            bytes.extend_from_slice(&request.body);
            let length = bytes.len() - start;
            bytes.resize(start + length.next_multiple_of(4), 0);
            let mut header = NetlinkBuffer::new(&mut bytes[start..]);
            header.set_length(u32::try_from(length).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?);
            header.set_message_type(request.kind);
            header.set_flags(NLM_F_REQUEST | request.flags);
            header.set_sequence_number(self.sequence);
        }
        self.make_room(bytes.len())?;
        self.socket.send(&bytes, 0)?;
        Ok(first)
    }

    /// A message larger than the send buffer is refused with EMSGSIZE (`netlink_sendmsg`): the buffer is made to fit.
    fn make_room(&self, bytes: usize) -> io::Result<()> {
        const DEFAULT: usize = 64 * 1024;
        if bytes <= DEFAULT {
            return Ok(());
        }
        let size = i32::try_from(bytes.saturating_mul(2)).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let value = (&raw const size).cast::<libc::c_void>();
        // SAFETY: the option takes an int, and `value` points to one that lives until the call returns.
        let answer = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                value,
                size_of::<i32>() as u32,
            )
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// One datagram from the kernel, taken apart.
    fn receive(&self) -> io::Result<Vec<Reply>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut replies = Vec::new();
        let mut rest = bytes.as_slice();
        while rest.len() >= HEADER {
            let buffer = NetlinkBuffer::new_checked(rest).map_err(garbled)?;
            if buffer.message_type() == NLMSG_OVERRUN {
                return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
            }
            let message = Message { kind: buffer.message_type(), body: buffer.payload().to_vec() };
            replies.push(Reply { sequence: buffer.sequence_number(), flags: buffer.flags(), message });
            let length = (buffer.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(replies)
    }
}

struct Reply {
    sequence: u32,
    flags: u16,
    message: Message,
}

impl Reply {
    /// The code that an NLMSG_ERROR or NLMSG_DONE starts with.
    fn check_code(&self) -> io::Result<()> {
        match self.message.body.first_chunk().copied().map(i32::from_ne_bytes) {
            Some(code) if code < 0 => Err(io::Error::from_raw_os_error(-code)),
            _ => Ok(()),
        }
    }
}

fn garbled(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer cannot be read: {error}"))
}

/// Attributes being written.
#[derive(Default)]
pub(super) struct Attrs(Vec<u8>);

impl Attrs {
    /// After a fixed header.
    pub fn after(header: &[u8]) -> Self {
        Attrs(header.to_vec())
    }

    /// Any bytes. Longer values than an attribute can hold (64 KiB) do not occur: all that is written here is short.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A string with its terminating zero.
    pub fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number in network byte order, as netfilter's protocols want it.
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes inside an attribute.
    pub fn nested(self, kind: u16, inner: Attrs) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    /// All that was written.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The attributes in `bytes`, as (type, value).
pub(super) fn attributes(bytes: &[u8]) -> io::Result<Vec<(u16, &[u8])>> {
    NlasIterator::new(bytes)
        .map(|attribute| {
            let attribute = attribute.map_err(garbled)?;
            let length = usize::from(attribute.length());
            Ok((attribute.kind(), attribute.into_inner().get(4..length).unwrap_or_default()))
        })
        .collect()
}

/// The attributes after a fixed header of `header` bytes.
pub(super) fn attributes_after(header: usize, bytes: &[u8]) -> io::Result<Vec<(u16, &[u8])>> {
    attributes(bytes.get(header..).ok_or_else(|| garbled("too short"))?)
}

/// The value of the first attribute of a type.
pub(super) fn find<'a>(attributes: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value)
}

/// A number in network byte order.
pub(super) fn be32(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_be_bytes)
}

/// A number in host byte order.
pub(super) fn ne32(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

/// A string up to its terminating zero. Names that are not UTF-8 keep what can be shown of them.
pub(super) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}
