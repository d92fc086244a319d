//! The traffic of the benchmark, known to the program that makes it, to the one that counts it and to whoever writes the rules
//! that it is to meet.
//!
//! `rules` source prefixes that do not overlap lie in 16.0.0.0/4 or 2001:db8::/32: in blocks of 32 neighbours, the blocks
//! scattered, the lengths mixed. A flow is a number; all of a packet follows from it. Flow 0 belongs to the last rule, so that a
//! walk over the rules passes all of them, and the flows together to all rules alike.

pub mod lookups;

use crate::packet::{IPV4, IPV6};
use bytemuck::{Pod, Zeroable};

/// The most rules.
pub const MAX_PREFIXES: u32 = 1 << 20;
/// Neighbouring prefixes of a block.
pub const BLOCK: u32 = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 5;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// TTL or hop limit of what is sent.
pub const SENT_TTL: u8 = 64;
/// First word of the payload, network byte order.
pub const MAGIC: u32 = 0x5761_7966;
/// Bytes of the payload that carry something: the magic word, the exit, the time.
pub const PAYLOAD: usize = 16;

/// What the generator sends. The one entry of its `GENERATOR` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Generator {
    /// The rules that the traffic is for.
    pub plan: Plan,
    /// Bytes of a frame, the Ethernet header included, the check sequence not.
    pub length: u32,
    /// Interface index that the frames are put into.
    pub oif: u32,
    /// The flow of packet `n` is `n & flows`: 0 for one flow, all ones for flows that do not come again.
    pub flows: u32,
    /// The interface of the sink that the first rule's packets are to arrive at.
    pub first_exit: u32,
    /// Destination and source address of the frames.
    pub macs: [[u8; 6]; 2],
}

/// The rules.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Plan {
    /// [`IPV4`] or [`IPV6`].
    pub family: u32,
    /// How many rules, 1 to [`MAX_PREFIXES`].
    pub rules: u32,
    /// Rules take turns at this many exits.
    pub exits: u32,
    /// Bits that number the prefixes.
    pub bits: u32,
}

/// What the sink takes for right. The one entry of its `SINK` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sink {
    /// TTL or hop limit on arrival.
    pub ttl: u32,
    /// 1: keep the time that each packet took, in `TIMES`.
    pub sample: u32,
    /// The clock is read at packets whose number has none of these bits: it costs time.
    pub stamp: u32,
}

/// When packets were on their way, by CLOCK_MONOTONIC in nanoseconds; 0 is not yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Span {
    /// The first one was sent.
    pub first: u64,
    /// The last one whose number `Sink::stamp` names arrived.
    pub last: u64,
}

/// The one entry of the map of the bare TC program: where every packet goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Limit {
    /// Interface index.
    pub oif: u32,
    /// Destination and source address, as the frame's first words.
    pub macs: [u32; 3],
}

/// Times kept at most; a power of two.
pub const SAMPLES: u32 = 1 << 16;

/// What the sink counts, by index in `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Arrived as it should.
    Right = 0,
    /// By the wrong interface.
    WrongExit = 1,
    /// Not addressed to this interface.
    WrongMac = 2,
    /// TTL or hop limit is not one less.
    WrongTtl = 3,
    /// The IPv4 header's checksum is wrong.
    WrongChecksum = 4,
    /// Not of the benchmark.
    Foreign = 5,
}

/// How many counters there are.
pub const COUNTS: usize = 6;

/// The hardware address of the sink's interface of that index.
pub const fn sink_mac(ifindex: u32) -> [u8; 6] {
    [0x02, 0x57, 0x46, 0x53, 0x00, ifindex as u8]
}

/// A permutation of the words (the last steps of MurmurHash3); 0 stays 0.
#[inline(always)]
pub const fn mix(word: u32) -> u32 {
    let mut word = word;
    word ^= word >> 16;
    word = word.wrapping_mul(0x85eb_ca6b);
    word ^= word >> 13;
    word = word.wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

/// A permutation of 28 bits.
#[inline(always)]
const fn mix28(word: u32) -> u32 {
    const MASK: u32 = (1 << 28) - 1;
    let mut word = word & MASK;
    word ^= word >> 14;
    word = word.wrapping_mul(0x0b5a_d4cd) & MASK;
    word ^= word >> 13;
    word = word.wrapping_mul(0x02d5_1e3b) & MASK;
    word ^ (word >> 14)
}

impl Plan {
    /// `rules` rules of a family that take turns at `exits` exits. None where there are no such.
    pub fn new(family: u32, rules: u32, exits: u32) -> Option<Plan> {
        if rules == 0 || rules > MAX_PREFIXES || exits == 0 || !matches!(family, IPV4 | IPV6) {
            return None;
        }
        let bits = (rules - 1).checked_ilog2().map_or(0, |log| log + 1);
        Some(Plan { family, rules, exits, bits })
    }

    /// The exit of a rule, from 0.
    #[inline(always)]
    pub fn exit(&self, rule: u32) -> u32 {
        // `exits` is never 0, which BPF programs cannot know.
        rule.checked_rem(self.exits).unwrap_or(0)
    }

    /// Where the prefix of a rule stands among all: blocks of neighbours, scattered.
    #[inline(always)]
    fn slot(&self, rule: u32) -> u32 {
        if self.bits <= BLOCK_BITS {
            return rule;
        }
        let blocks = (1 << (self.bits - BLOCK_BITS)) - 1;
        let block = (rule >> BLOCK_BITS).wrapping_mul(0x9e37_79b1) & blocks;
        (block << BLOCK_BITS) | (rule & (BLOCK - 1))
    }

    /// Bits of a prefix beyond those that tell it from the others.
    #[inline(always)]
    fn further_bits(rule: u32) -> u32 {
        mix(rule.wrapping_add(1)) & 7
    }

    /// The first two words of a rule's prefix, host byte order (IPv4: one), and its length.
    #[inline(always)]
    pub fn prefix(&self, rule: u32) -> ([u32; 2], u32) {
        let slot = self.slot(rule);
        let length = self.bits + Self::further_bits(rule);
        // A shift by 32 is none in BPF and a panic elsewhere.
        match self.family {
            IPV4 => ([0x1000_0000 | (slot << (28 - self.bits)), 0], 4 + length),
            _ => ([0x2001_0db8, ((u64::from(slot) << 32) >> self.bits) as u32], 32 + length),
        }
    }

    /// The smallest prefix that holds all of the block that a rule belongs to.
    pub fn block(&self, rule: u32) -> ([u32; 2], u32) {
        let (words, _) = self.prefix(rule & !(BLOCK - 1));
        let fixed = self.bits.saturating_sub(BLOCK_BITS);
        (words, if self.family == IPV4 { 4 + fixed } else { 32 + fixed })
    }

    /// The rule that a flow belongs to.
    #[inline(always)]
    pub fn rule_of(&self, flow: u32) -> u32 {
        self.rules - 1 - ((u64::from(mix(flow)) * u64::from(self.rules)) >> 32) as u32
    }

    /// Source and destination of a flow, host byte order (IPv4: the first words).
    #[inline(always)]
    pub fn addresses(&self, flow: u32) -> ([u32; 4], [u32; 4]) {
        let ([first, second], length) = self.prefix(self.rule_of(flow));
        let any = mix(flow ^ 0x9e37_79b9);
        let other = mix28(flow);
        if self.family == IPV4 {
            ([first | (any >> length), 0, 0, 0], [0x3000_0000 | other, 0, 0, 0])
        } else {
            let host = any >> (length - 32);
            ([first, second | host, any, 1], [0x2001_0db9, 0, other, 1])
        }
    }

    /// Source and destination port of a flow, as one word in host byte order.
    #[inline(always)]
    pub fn ports(flow: u32) -> u32 {
        // Neither is 0 or 65535, which rules cannot name.
        (mix(flow ^ 0x5bd1_e995) & 0x3fff_3fff) | 0x4000_4000
    }
}

impl Generator {
    /// Bytes of the headers and of the payload that carries something: no frame is shorter.
    pub const fn least_length(family: u32) -> u32 {
        let ip = if family == IPV4 { 20 } else { 40 };
        ETHERNET as u32 + ip + 8 + PAYLOAD as u32
    }
}

/// The sum of 16-bit words that IPv4's checksum is the complement of, folded.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The IPv4 header of a flow, as words in host byte order.
#[inline(always)]
pub fn header4(from: u32, to: u32, length: u32) -> [u32; 5] {
    let mut words = [0x4500_0000 | length, 0x4000, (SENT_TTL as u32) << 24 | 17 << 16, from, to];
    let sum = words.iter().fold(0u64, |sum, word| sum + u64::from(*word));
    words[2] |= u32::from(!fold(sum));
    words
}

/// The IPv6 header of a flow, as words in host byte order; `length` is that of the whole packet.
#[inline(always)]
pub fn header6(from: [u32; 4], to: [u32; 4], length: u32) -> [u32; 10] {
    let next = (length - 40) << 16 | 17 << 8 | SENT_TTL as u32;
    [0x6000_0000, next, from[0], from[1], from[2], from[3], to[0], to[1], to[2], to[3]]
}
