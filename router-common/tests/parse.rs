//! Headers, from bytes.

use proptest::prelude::*;
use router_common::packet::*;
use router_common::parse::parse;
use router_common::verdict::PassReason;

/// A received frame: what lies behind the Ethernet header.
#[derive(Clone, Debug)]
struct Received {
    bytes: Vec<u8>,
    protocol: u16,
    vlan: bool,
    for_this_host: bool,
    gso_size: u32,
}

impl Received {
    fn new(bytes: Vec<u8>) -> Self {
        let protocol = if bytes.first().is_some_and(|byte| byte >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        Received { bytes, protocol, vlan: false, for_this_host: true, gso_size: 0 }
    }

    fn parse(&self) -> Result<Packet, PassReason> {
        let mut packet = Packet::EMPTY;
        parse(self, &mut packet).map(|()| packet)
    }

    /// The IPv4 checksum put right.
    fn summed(mut self) -> Self {
        self.bytes[10..12].fill(0);
        let mut sum: u32 =
            self.bytes[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        self.bytes[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        self
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn summed_with(self, at: usize, bytes: &[u8]) -> Self {
        self.with(at, bytes).summed()
    }
}

impl Frame for Received {
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let bytes = self.bytes.get(offset..offset + N * 4)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        Some(words)
    }
    fn received_len(&self) -> u32 {
        self.bytes.len() as u32
    }
    fn protocol(&self) -> u16 {
        self.protocol
    }
    fn vlan_present(&self) -> bool {
        self.vlan
    }
    fn for_this_host(&self) -> bool {
        self.for_this_host
    }
    fn gso_size(&self) -> u32 {
        self.gso_size
    }
    fn iif(&self) -> u32 {
        7
    }
    fn mark(&self) -> u32 {
        0x55
    }
}

/// UDP from 10.1.2.3:4660 to 192.0.2.1:80, 8 bytes of payload, TTL 64.
fn ipv4() -> Received {
    let mut bytes = vec![0; 36];
    bytes[0] = 0x45;
    bytes[1] = 0xb9;
    bytes[3] = 36;
    bytes[8] = 64;
    bytes[9] = UDP;
    bytes[12..16].copy_from_slice(&[10, 1, 2, 3]);
    bytes[16..20].copy_from_slice(&[192, 0, 2, 1]);
    bytes[20..24].copy_from_slice(&[0x12, 0x34, 0, 80]);
    Received::new(bytes).summed()
}

/// The same from 2001:db8::1 to 2001:db8:1::2.
fn ipv6() -> Received {
    let mut bytes = vec![0; 56];
    bytes[0] = 0x6b;
    bytes[1] = 0x90;
    bytes[5] = 16;
    bytes[6] = UDP;
    bytes[7] = 64;
    bytes[8..12].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    bytes[23] = 1;
    bytes[24..30].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 1]);
    bytes[39] = 2;
    bytes[40..44].copy_from_slice(&[0x12, 0x34, 0, 80]);
    Received::new(bytes)
}

fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

#[test]
fn every_field_of_ipv4() {
    let expected = Packet {
        family: IPV4,
        iif: 7,
        mark: 0x55,
        len: 36,
        segment: 36,
        src: [word([10, 1, 2, 3]), 0, 0, 0],
        dst: [word([192, 0, 2, 1]), 0, 0, 0],
        sport: 0x1234,
        dport: 80,
        ipproto: UDP,
        flow: 0xb9 << FLOW_CLASS_SHIFT,
        fragment: 0,
        ttl: 64,
    };
    assert_eq!(ipv4().parse(), Ok(expected));
}

#[test]
fn neighbour_discovery_is_the_stacks() {
    for (kind, expected) in [
        (132, None),
        (133, Some(PassReason::NeighbourDiscovery)),
        (135, Some(PassReason::NeighbourDiscovery)),
        (137, Some(PassReason::NeighbourDiscovery)),
        (138, None),
        (128, None),
    ] {
        let mut frame = ipv6();
        frame.bytes[6] = 58;
        frame.bytes[40] = kind;
        assert_eq!(frame.parse().err(), expected, "type {kind}");
    }
}

#[test]
fn the_flow_label_is_read() {
    let mut frame = ipv6();
    frame.bytes[..4].copy_from_slice(&0x6b91_2345u32.to_be_bytes());
    assert_eq!(frame.parse().map(|packet| packet.flow), Ok(0x0b91_2345));
}

#[test]
fn every_field_of_ipv6() {
    let expected = Packet {
        family: IPV6,
        iif: 7,
        mark: 0x55,
        len: 56,
        segment: 56,
        src: [word([0x20, 1, 0xd, 0xb8]), 0, 0, word([0, 0, 0, 1])],
        dst: [word([0x20, 1, 0xd, 0xb8]), word([0, 1, 0, 0]), 0, word([0, 0, 0, 2])],
        sport: 0x1234,
        dport: 80,
        ipproto: UDP,
        flow: 0xb9 << FLOW_CLASS_SHIFT,
        fragment: 0,
        ttl: 64,
    };
    assert_eq!(ipv6().parse(), Ok(expected));
}

#[test]
fn what_the_link_layer_says_comes_first() {
    let frame = |change: fn(&mut Received)| {
        let mut frame = ipv4();
        change(&mut frame);
        frame.parse().map(|packet| packet.len)
    };
    assert_eq!(frame(|f| f.vlan = true), Err(PassReason::Vlan));
    assert_eq!(frame(|f| f.protocol = ETHERTYPE_8021Q), Err(PassReason::Vlan));
    assert_eq!(frame(|f| f.protocol = ETHERTYPE_8021AD), Err(PassReason::Vlan));
    assert_eq!(frame(|f| f.protocol = 0x0806), Err(PassReason::NotIp));
    assert_eq!(frame(|f| f.for_this_host = false), Err(PassReason::NotForThisHost));
    assert_eq!(frame(|f| f.protocol = ETHERTYPE_IPV6), Err(PassReason::BadHeader));
    assert_eq!(frame(|f| f.bytes.truncate(19)), Err(PassReason::BadHeader));
    assert_eq!(frame(|f| f.bytes.clear()), Err(PassReason::BadHeader));
}

#[test]
fn ipv4_headers_that_the_kernel_refuses() {
    let reason = |frame: Received| frame.parse().map(|packet| packet.len);
    assert_eq!(reason(ipv4().summed_with(0, &[0x55])), Err(PassReason::BadHeader), "version");
    assert_eq!(reason(ipv4().summed_with(0, &[0x44])), Err(PassReason::BadHeader), "header length");
    assert_eq!(reason(ipv4().summed_with(0, &[0x46])), Err(PassReason::IpOptions));
    assert_eq!(reason(ipv4().with(10, &[0, 0])), Err(PassReason::BadHeader), "checksum");
    assert_eq!(reason(ipv4().summed_with(2, &[0, 19])), Err(PassReason::BadHeader), "shorter than its header");
    assert_eq!(reason(ipv4().summed_with(2, &[0, 37])), Err(PassReason::BadHeader), "longer than the frame");
    assert_eq!(reason(ipv4().summed_with(2, &[0, 30])), Ok(30), "padding");
    assert_eq!(reason(ipv4().summed_with(8, &[1])), Err(PassReason::Ttl));
    assert_eq!(reason(ipv4().summed_with(8, &[0])), Err(PassReason::Ttl));
    assert_eq!(reason(ipv4().summed_with(8, &[2])), Ok(36));
}

#[test]
fn ipv6_headers_that_the_kernel_refuses() {
    let reason = |frame: Received| frame.parse().map(|packet| packet.len);
    assert_eq!(reason(ipv6().with(0, &[0x4b])), Err(PassReason::BadHeader), "version");
    assert_eq!(reason(ipv6().with(4, &[0, 17])), Err(PassReason::BadHeader), "longer than the frame");
    assert_eq!(reason(ipv6().with(4, &[0, 10])), Ok(50), "padding");
    assert_eq!(reason(ipv6().with(4, &[0, 0])), Ok(40), "no payload");
    assert_eq!(reason(ipv6().with(7, &[1])), Err(PassReason::Ttl));
    for extension in [0, 51, 135, 139, 140] {
        assert_eq!(reason(ipv6().with(6, &[extension])), Err(PassReason::ExtensionHeader), "{extension}");
    }
    for transport in [TCP, UDP, ESP, SCTP, 58, 59, 4, 41, 47, 112] {
        assert_eq!(reason(ipv6().with(6, &[transport])), Ok(56), "{transport}");
    }
}

/// `ipv6()` with 16 bytes more in front of its UDP header.
fn behind(extension: u8, header: [u8; 2]) -> Received {
    let frame = ipv6().bytes;
    let mut longer = [&frame[..40], &header, &[0; 14], &frame[40..]].concat();
    (longer[5], longer[6]) = (32, extension);
    Received::new(longer)
}

#[test]
fn transport_behind_an_ipv6_extension_header() {
    for extension in [ROUTING, DESTINATION_OPTIONS] {
        let packet = behind(extension, [UDP, 1]).parse().expect("it is decided");
        assert_eq!((packet.ipproto, packet.sport, packet.dport, packet.fragment), (UDP, 0x1234, 80, 0));
        assert_eq!((packet.len, packet.segment), (72, 72));
        let reason = |header| behind(extension, header).parse().map(|packet| packet.ipproto);
        assert_eq!(reason([UDP, 3]), Ok(UDP), "up to the end, without ports");
        assert_eq!(reason([UDP, 4]), Err(PassReason::ExtensionHeader), "longer than the packet");
        for second in [0, 43, 44, 51, 60, 135, 139, 140] {
            assert_eq!(reason([second, 1]), Err(PassReason::ExtensionHeader), "{second}");
        }
        assert_eq!(reason([58, 1]), Ok(58), "type 0x12");
        let solicitation = behind(extension, [58, 1]).with(56, &[135]);
        assert_eq!(solicitation.parse().err(), Some(PassReason::NeighbourDiscovery));
    }
    // Its length is not where the others have theirs.
    let fragment = behind(FRAGMENT, [UDP, 99]).parse().expect("it is decided");
    assert_eq!((fragment.ipproto, fragment.sport, fragment.dport, fragment.fragment), (UDP, 0, 0, 1));
    let short = ipv6().with(4, &[0, 3]).with(6, &[ROUTING]);
    assert_eq!(short.parse().err(), Some(PassReason::ExtensionHeader), "cut short");
}

#[test]
fn ipv4_addresses_that_are_not_looked_up() {
    let to = |addr: [u8; 4]| ipv4().summed_with(16, &addr).parse().map(|packet| packet.dst[0]);
    let from = |addr: [u8; 4]| ipv4().summed_with(12, &addr).parse().map(|packet| packet.src[0]);
    for addr in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [239, 255, 255, 255], [255, 255, 255, 255]] {
        assert_eq!(to(addr), Err(PassReason::LocalDestination), "{addr:?}");
        assert_eq!(from(addr), Err(PassReason::Source), "{addr:?}");
    }
    // Since 5.3 the rest of 0.0.0.0/8 is like any other address (`ipv4_is_zeronet()`).
    for addr in [
        [0, 0, 0, 1],
        [0, 1, 2, 3],
        [1, 0, 0, 0],
        [126, 255, 255, 255],
        [128, 0, 0, 0],
        [169, 254, 1, 1],
        [223, 255, 255, 255],
        [240, 0, 0, 1],
    ] {
        assert_eq!(to(addr), Ok(word(addr)), "{addr:?}");
        assert_eq!(from(addr), Ok(word(addr)), "{addr:?}");
    }
    let both = ipv4().with(12, &[0; 4]).summed_with(16, &[255; 4]);
    assert_eq!(both.parse().map(|p| p.len), Err(PassReason::LocalDestination), "DHCP");
}

#[test]
fn ipv6_addresses_that_are_not_looked_up() {
    let addr = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    for text in ["::", "::1", "fe80::1", "febf:ffff::1", "ff02::1", "ff0e::1"] {
        assert_eq!(ipv6().with(24, &addr(text)).parse().map(|p| p.len), Err(PassReason::LocalDestination), "{text}");
        assert_eq!(ipv6().with(8, &addr(text)).parse().map(|p| p.len), Err(PassReason::Source), "{text}");
    }
    // 6.x forwards mapped and site-local addresses.
    for text in ["::2", "::1:0:0", "::ffff:192.0.2.1", "fec0::1", "fe7f::1", "fd00::1", "2001:db8::1", "1::"] {
        assert_eq!(ipv6().with(24, &addr(text)).parse().map(|p| p.len), Ok(56), "{text}");
        assert_eq!(ipv6().with(8, &addr(text)).parse().map(|p| p.len), Ok(56), "{text}");
    }
}

#[test]
fn ports_as_the_flow_dissector_sees_them() {
    let ports = |proto: u8| ipv4().summed_with(9, &[proto]).parse().map(|packet| (packet.sport, packet.dport));
    for proto in [TCP, UDP, DCCP, ESP, SCTP, UDPLITE] {
        assert_eq!(ports(proto), Ok((0x1234, 80)), "{proto}");
    }
    for proto in [1, 2, 4, 41, 47, 58] {
        assert_eq!(ports(proto), Ok((0, 0)), "{proto}");
    }
    let ah = ipv4().with(24, &[0, 9, 0, 8]).summed_with(9, &[AH]);
    assert_eq!(ah.parse().map(|p| (p.sport, p.dport)), Ok((9, 8)));
    for fragment in [[0x20, 0], [0, 1], [0x20, 1], [0x1f, 0xff]] {
        let parsed = ipv4().summed_with(6, &fragment).parse().expect("a fragment is a packet");
        assert_eq!((parsed.fragment, parsed.sport, parsed.dport), (1, 0, 0), "{fragment:?}");
    }
    for whole in [[0x40, 0], [0x80, 0], [0xc0, 0]] {
        let parsed = ipv4().summed_with(6, &whole).parse().expect("a packet");
        assert_eq!((parsed.fragment, parsed.sport), (0, 0x1234), "{whole:?}");
    }
    let short = ipv4().summed_with(2, &[0, 23]).parse().expect("a packet with padding where its ports would be");
    assert_eq!((short.sport, short.dport), (0, 0));
    let short = ipv6().with(4, &[0, 3]).parse().expect("a packet with padding where its ports would be");
    assert_eq!((short.sport, short.dport), (0, 0));
}

#[test]
fn segments_of_gso_packets() {
    let gso = |mut frame: Received, proto: u8, doff: u8| {
        frame.bytes.resize(4000, 0);
        frame.gso_size = 1400;
        let (at, length) = if frame.protocol == ETHERTYPE_IPV4 { (20, 4000u16) } else { (40, 3960) };
        frame = frame.with(at + 12, &[doff << 4]);
        let frame = if at == 20 {
            frame.with(2, &length.to_be_bytes()).summed_with(9, &[proto])
        } else {
            frame.with(4, &length.to_be_bytes()).with(6, &[proto])
        };
        frame.parse().map(|packet| packet.segment)
    };
    assert_eq!(gso(ipv4(), TCP, 5), Ok(20 + 20 + 1400));
    assert_eq!(gso(ipv4(), TCP, 8), Ok(20 + 32 + 1400));
    assert_eq!(gso(ipv6(), TCP, 8), Ok(40 + 32 + 1400));
    assert_eq!(gso(ipv4(), UDP, 0), Ok(SEGMENT_UNKNOWN));
    assert_eq!(gso(ipv6(), UDP, 0), Ok(SEGMENT_UNKNOWN));
    let mut padded = ipv4().summed_with(2, &[0, 30]);
    padded.gso_size = 8;
    assert_eq!(padded.parse().map(|p| p.len), Err(PassReason::BadHeader), "no link layer pads a GSO packet");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_what_passes_holds_what_it_promises(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        plausible in any::<bool>(),
        v6 in any::<bool>(),
        gso_size in prop_oneof![Just(0u32), any::<u32>()],
    ) {
        let protocol = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        if plausible && bytes.len() > 40 {
            bytes[0] = if v6 { 0x60 } else { 0x45 };
            bytes[2] = 0;
            bytes[4] = 0;
        }
        let mut frame = Received { bytes, protocol, vlan: false, for_this_host: true, gso_size };
        if plausible && !v6 && frame.bytes.len() > 20 {
            frame = frame.summed();
        }
        if let Ok(packet) = frame.parse() {
            prop_assert!(packet.ttl >= 2);
            prop_assert!(packet.len as usize <= frame.bytes.len());
            prop_assert_eq!(packet.family, if v6 { IPV6 } else { IPV4 });
            let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
            prop_assert!(packet.len >= header);
            if gso_size == 0 {
                prop_assert_eq!(packet.segment, packet.len);
            }
        }
    }

    #[test]
    fn one_wrong_bit_in_an_ipv4_header_is_seen(bit in 0usize..160) {
        let mut frame = ipv4();
        frame.bytes[bit / 8] ^= 0x80 >> (bit % 8);
        prop_assert!(frame.parse().is_err(), "bit {bit}");
    }
}
