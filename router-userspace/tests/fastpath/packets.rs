//! IP packets, by hand.

use std::net::IpAddr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// A packet with a transport header that begins with its ports; every byte as it goes onto the wire.
#[derive(Clone, Debug)]
pub struct Ip {
    pub from: IpAddr,
    pub to: IpAddr,
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
    pub ttl: u8,
    pub dsfield: u8,
    /// The flags and offset word of IPv4.
    pub fragment: u16,
    /// Bytes after the IP header; 8 at least.
    pub payload: usize,
}

/// UDP from a host to the far side, 20 bytes of payload, TTL 64.
pub fn ipv4() -> Ip {
    Ip {
        from: crate::support::addr("192.168.8.5"),
        to: crate::support::addr("8.8.8.8"),
        proto: UDP,
        sport: 1000,
        dport: 53,
        ttl: 64,
        dsfield: 0,
        fragment: 0,
        payload: 20,
    }
}

pub fn ipv6() -> Ip {
    Ip { from: crate::support::addr("2001:db8::5"), to: crate::support::addr("2001:db8:ffff::1"), ..ipv4() }
}

pub fn both() -> [Ip; 2] {
    [ipv4(), ipv6()]
}

/// The ones' complement sum of the bytes, as a checksum.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Ip {
    pub fn to(mut self, to: &str) -> Self {
        self.to = crate::support::addr(to);
        self
    }

    pub fn from(mut self, from: &str) -> Self {
        self.from = crate::support::addr(from);
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn dsfield(mut self, dsfield: u8) -> Self {
        self.dsfield = dsfield;
        self
    }

    pub fn proto(mut self, proto: u8) -> Self {
        self.proto = proto;
        self
    }

    /// So that the whole packet is that long.
    pub fn length(mut self, length: usize) -> Self {
        self.payload = length - if self.to.is_ipv4() { 20 } else { 40 };
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut payload = vec![0u8; self.payload.max(8)];
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte = index as u8;
        }
        payload[0..2].copy_from_slice(&self.sport.to_be_bytes());
        payload[2..4].copy_from_slice(&self.dport.to_be_bytes());
        let length = payload.len() as u16;
        if self.proto == UDP {
            payload[4..6].copy_from_slice(&length.to_be_bytes());
            payload[6..8].fill(0);
            let sum = self.transport_checksum(&payload);
            payload[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        if self.proto == TCP && payload.len() > 12 {
            payload[12] = 5 << 4;
        }
        let mut packet;
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet = vec![0u8; 20];
                packet[0] = 0x45;
                packet[1] = self.dsfield;
                packet[2..4].copy_from_slice(&(20 + length).to_be_bytes());
                packet[4..6].copy_from_slice(&0xbeefu16.to_be_bytes());
                packet[6..8].copy_from_slice(&self.fragment.to_be_bytes());
                packet[8] = self.ttl;
                packet[9] = self.proto;
                packet[12..16].copy_from_slice(&from.octets());
                packet[16..20].copy_from_slice(&to.octets());
                let sum = checksum(&[&packet]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet = vec![0u8; 40];
                packet[0] = 0x60 | self.dsfield >> 4;
                packet[1] = self.dsfield << 4 | 0xb;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
                packet[6] = self.proto;
                packet[7] = self.ttl;
                packet[8..24].copy_from_slice(&from.octets());
                packet[24..40].copy_from_slice(&to.octets());
            }
            _ => panic!("addresses of two families"),
        }
        packet.extend(payload);
        packet
    }

    /// The checksum over pseudo header and payload.
    pub fn transport_checksum(&self, payload: &[u8]) -> u16 {
        let bytes = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        let length = (payload.len() as u32).to_be_bytes();
        checksum(&[&bytes(self.from), &bytes(self.to), &length, &[0, self.proto], payload])
    }

    /// As it looks one hop further.
    pub fn forwarded(&self) -> Vec<u8> {
        self.clone().ttl(self.ttl - 1).bytes()
    }
}
