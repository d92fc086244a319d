//! Reading the attributes of a netlink message.
//!
//! What the kernel reports is read attribute by attribute, and only what Wayfork needs: one attribute of some driver or
//! encapsulation that a full decoder does not know must not make the whole host unreadable.

use super::{Error, Result};
use crate::model::Family;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nlattr`.
const HEADER: usize = 4;
/// The bits of the type that are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const FLAGS: u16 = 0xc000;

/// One attribute: its type without flags, and its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

/// A message that is not shaped as the kernel's headers say.
#[derive(Debug, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub &'static str);

/// Shorthand for decoding.
pub(crate) type Decode<T> = std::result::Result<T, Malformed>;

impl Malformed {
    /// The error to report, with what was being read.
    pub fn during(self, what: &str) -> Error {
        Error::new(what, std::io::Error::new(std::io::ErrorKind::InvalidData, self))
    }
}

/// Walks a run of attributes.
#[derive(Clone)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`, e.g. the payload of a nested one.
    pub fn new(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }

    /// The attributes after a fixed header of `header` bytes.
    pub fn after(message: &'a [u8], header: usize) -> Decode<Self> {
        let aligned = header.next_multiple_of(4);
        if message.len() < header {
            return Err(Malformed("message header"));
        }
        Ok(Attributes(message.get(aligned..).unwrap_or_default()))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Decode<Attribute<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let Some(([l0, l1, k0, k1], _)) = rest.split_first_chunk::<HEADER>() else {
            return Some(Err(Malformed("attribute header")));
        };
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let kind = u16::from_ne_bytes([*k0, *k1]) & !FLAGS;
        let Some(value) = rest.get(HEADER..length) else {
            return Some(Err(Malformed("attribute length")));
        };
        // The padding of the last attribute may be left out.
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Attribute { kind, value }))
    }
}

impl<'a> Attribute<'a> {
    fn fixed<const N: usize>(&self, what: &'static str) -> Decode<[u8; N]> {
        self.value.try_into().map_err(|_| Malformed(what))
    }

    pub fn u8(&self) -> Decode<u8> {
        Ok(u8::from_ne_bytes(self.fixed("8-bit attribute")?))
    }

    pub fn u16(&self) -> Decode<u16> {
        Ok(u16::from_ne_bytes(self.fixed("16-bit attribute")?))
    }

    pub fn u32(&self) -> Decode<u32> {
        Ok(u32::from_ne_bytes(self.fixed("32-bit attribute")?))
    }

    pub fn u32_be(&self) -> Decode<u32> {
        Ok(u32::from_be_bytes(self.fixed("32-bit attribute")?))
    }

    pub fn u64_be(&self) -> Decode<u64> {
        Ok(u64::from_be_bytes(self.fixed("64-bit attribute")?))
    }

    /// A NUL-terminated string. Bytes that are no UTF-8 are replaced: they occur in no name that a policy can hold.
    pub fn text(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(&self.value[..end]).into_owned()
    }

    /// An address, by its length.
    pub fn addr(&self) -> Decode<IpAddr> {
        addr(self.value)
    }

    /// A prefix: an address of this attribute, its length from the message's header.
    pub fn prefix(&self, len: u8) -> Decode<IpNet> {
        IpNet::new(self.addr()?, len).map_err(|_| Malformed("prefix length"))
    }

    /// RTA_VIA: a family, then an address of it. None for a family that is not IP.
    pub fn via(&self) -> Decode<Option<IpAddr>> {
        let ([f0, f1], rest) = self.value.split_first_chunk::<2>().ok_or(Malformed("RTA_VIA"))?;
        match i32::from(u16::from_ne_bytes([*f0, *f1])) {
            libc::AF_INET | libc::AF_INET6 => addr(rest).map(Some),
            _ => Ok(None),
        }
    }

    /// A hardware address of 6 bytes; None for another length.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.value.try_into().ok()
    }

    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }

    /// Element `index` of an array of 32-bit numbers; None where this kernel's array is shorter.
    pub fn element(&self, index: usize) -> Option<u32> {
        self.value.get(index * 4..index * 4 + 4)?.try_into().ok().map(u32::from_ne_bytes)
    }
}

fn addr(bytes: &[u8]) -> Decode<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(Ipv6Addr::from(v6).into());
    }
    Err(Malformed("address"))
}

/// The address family's number.
pub(crate) fn family_number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => libc::AF_INET as u8,
        Family::Ipv6 => libc::AF_INET6 as u8,
    }
}

/// The family of a number; None for other families.
pub(crate) fn family_of(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::AF_INET => Some(Family::Ipv4),
        libc::AF_INET6 => Some(Family::Ipv6),
        _ => None,
    }
}

/// Decodes with `read`, naming `what` in the error.
pub(crate) fn decode<T>(what: &str, read: impl FnOnce() -> Decode<T>) -> Result<T> {
    read().map_err(|malformed| malformed.during(what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_padding_flags_and_nesting() {
        // type 1: three bytes and one of padding; type 2 with NLA_F_NESTED, inside it type 3: one 32-bit number.
        let bytes = [7, 0, 1, 0, b'a', b'b', 0, 0, 12, 0, 2, 0x80, 8, 0, 3, 0, 1, 2, 3, 4];
        let all: Vec<_> = Attributes::new(&bytes).map(|attribute| attribute.unwrap()).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].text()), (1, "ab".to_owned()));
        assert_eq!(all[1].kind, 2);
        let inner = all[1].nested().next().unwrap().unwrap();
        assert_eq!((inner.kind, inner.u32().unwrap()), (3, u32::from_ne_bytes([1, 2, 3, 4])));
        assert!(inner.u16().is_err());
    }

    #[test]
    fn refuses_lengths_that_point_outside() {
        for bytes in [&[9u8, 0, 1, 0, 0][..], &[3, 0, 1, 0], &[4, 0], &[0, 0, 1, 0]] {
            assert!(Attributes::new(bytes).next().unwrap().is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            for attribute in Attributes::new(&bytes).flatten() {
                drop((attribute.addr(), attribute.via(), attribute.prefix(200), attribute.text(), attribute.element(7)));
            }
        }
    }
}
