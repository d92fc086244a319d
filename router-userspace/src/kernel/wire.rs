//! Attributes of the protocols without a crate of types (nf_tables, netfilter hooks, xfrm, traffic control): written as
//! bytes, and picked by number from what was read.

use super::attributes::{Attribute, Attributes, Decode, Malformed};
use netlink_packet_core::{Emitable, NLA_F_NESTED};

/// Attributes being written, after a fixed header.
#[derive(Clone, Default)]
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

    /// A number in the machine's byte order, as rtnetlink wants it.
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as netfilter's protocols want it.
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes inside an attribute.
    pub fn nested(self, kind: u16, inner: Attrs) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    /// What was written.
    #[cfg(test)]
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

impl Emitable for Attrs {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer[..self.0.len()].copy_from_slice(&self.0);
    }
}

/// The attributes of a message or of one attribute. Of several of a type the first is found.
#[derive(Default)]
pub(super) struct Found<'a>(Vec<Attribute<'a>>);

impl<'a> Found<'a> {
    /// Those in `bytes`.
    pub fn within(bytes: &'a [u8]) -> Decode<Self> {
        Attributes::new(bytes).collect::<Decode<_>>().map(Found)
    }

    /// Those after a fixed header of `header` bytes.
    pub fn after(header: usize, bytes: &'a [u8]) -> Decode<Self> {
        Attributes::after(bytes, header)?.collect::<Decode<_>>().map(Found)
    }

    /// All of them, in their order.
    pub fn all(&self) -> &[Attribute<'a>] {
        &self.0
    }

    /// One.
    pub fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        self.0.iter().find(|attribute| attribute.kind == kind).copied()
    }

    /// Whether there is one.
    pub fn has(&self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    /// A number in network byte order.
    pub fn be32(&self, kind: u16) -> Decode<Option<u32>> {
        self.get(kind).map(|attribute| attribute.u32_be()).transpose()
    }

    /// A string.
    pub fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(|attribute| attribute.text())
    }

    /// A string that has to be there.
    pub fn name(&self, kind: u16, what: &'static str) -> Decode<String> {
        self.text(kind).ok_or(Malformed(what))
    }

    /// What is inside one; nothing where there is none.
    pub fn nested(&self, kind: u16) -> Decode<Found<'a>> {
        self.get(kind).map_or_else(|| Ok(Found::default()), |attribute| Found::within(attribute.value))
    }
}
