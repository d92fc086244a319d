//! Flows: what a walk has found, kept for the next packet that looks the same.
//!
//! It spares the packets of a flow the walk, not those that never repeat. So that these cost little here and push nothing out, a place
//! keeps a flow only when it is met twice without the kept one in between, which two bytes of tags beside the place tell: packets that
//! never come again touch these and no entry, and two flows of one place do not push each other out in turns.

use crate::layout::{FLOWS_PER_CPU, Flow, Flow6, ports};
use crate::packet::{IPV4, Packet};
use crate::steps::{Walk, end};

/// What is known of earlier packets like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// What the walk would find.
    Found,
    /// Nothing, and what the walk finds is to be kept.
    Keep,
    /// Nothing, and nothing is to be kept.
    Unknown,
}

/// Looks for a packet's tag among the two of its place, and notes it: the lower byte is the tag of the flow that the place keeps, the
/// upper one that of the last other packet since the kept flow's own. Another flow may have the same tag: what is found by it is still
/// to be compared ([`Flow::recall`]).
#[inline(always)]
pub fn look(tags: &mut u16, own: u16) -> Recall {
    let seen = *tags;
    if seen & 0xff == own {
        if seen >> 8 != 0 {
            *tags = own;
        }
        return Recall::Found;
    }
    if seen >> 8 == own {
        *tags = own;
        return Recall::Keep;
    }
    *tags = seen & 0xff | own << 8;
    Recall::Unknown
}

impl Flow {
    /// Family, protocol and fragment in one word, never 0.
    #[inline(always)]
    fn kind_of(packet: &Packet) -> u32 {
        packet.family << 16 | u32::from(packet.ipproto) << 8 | u32::from(packet.fragment)
    }

    /// Which of a CPU's entries packets like this one, which came with this mark, share with a few others, and their tag.
    #[inline(always)]
    pub fn place(packet: &Packet, mark: u32) -> (u32, u16) {
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let addrs = u64::from(packet.src[0]) << 32 | u64::from(packet.dst[0]);
        let mut mixed = addrs ^ u64::from(ports(packet.sport, packet.dport)).wrapping_mul(MULTIPLIER);
        if packet.family != IPV4 {
            mixed ^= u64::from(packet.src[3]) << 32 | u64::from(packet.dst[3]);
            mixed ^= u64::from(packet.src[1]) << 16 | u64::from(packet.dst[1]);
        }
        mixed ^= u64::from(mark ^ packet.iif << 16 ^ u32::from(packet.ipproto));
        mixed = mixed.wrapping_mul(MULTIPLIER);
        ((mixed >> 32) as u32 & (FLOWS_PER_CPU - 1), (mixed >> 56) as u16)
    }

    /// Whether this is what was found for such packets in this epoch.
    #[inline(always)]
    fn is_of(&self, rest: &Flow6, epoch: u32, packet: &Packet) -> bool {
        let first = (self.epoch ^ epoch)
            | (self.iif ^ packet.iif)
            | (self.addrs[0] ^ packet.src[0])
            | (self.addrs[1] ^ packet.dst[0])
            | (self.ports ^ ports(packet.sport, packet.dport))
            | (self.mark ^ packet.mark)
            | (self.flow ^ packet.flow)
            | (self.kind ^ Flow::kind_of(packet));
        if first != 0 || packet.family == IPV4 {
            return first == 0;
        }
        let Flow6([src, dst]) = rest;
        let differs =
            |words: &[u32; 3], addr: &[u32; 4]| (words[0] ^ addr[1]) | (words[1] ^ addr[2]) | (words[2] ^ addr[3]);
        differs(src, &packet.src) | differs(dst, &packet.dst) == 0
    }

    /// Brings the walk to where one like it ended, if this is what was found then.
    #[inline(always)]
    pub fn recall(&self, rest: &Flow6, epoch: u32, walk: &mut Walk) -> bool {
        if !self.is_of(rest, epoch, &walk.packet) {
            return false;
        }
        walk.route = self.route;
        walk.end = self.end & 0xff;
        walk.reason = self.end >> 8 & 0xff;
        walk.verdict = self.end >> 8 & 0xff;
        walk.source = self.end >> 16;
        walk.rule = self.rule;
        walk.table = self.table;
        walk.class = self.class;
        walk.packet.mark = self.mark_after;
        true
    }

    /// Keeps what a walk has found for a packet that came with this mark, unless it may be otherwise for the next one. Field by field:
    /// a structure that is written whole becomes a loop over its bytes in BPF.
    #[inline(always)]
    pub fn keep(&mut self, rest: &mut Flow6, epoch: u32, mark: u32, walk: &Walk) {
        let packet = &walk.packet;
        let detail = if walk.end == end::REFUSED { walk.verdict } else { walk.reason };
        if walk.timed != 0 {
            return;
        }
        self.epoch = epoch;
        self.iif = packet.iif;
        self.addrs[0] = packet.src[0];
        self.addrs[1] = packet.dst[0];
        self.ports = ports(packet.sport, packet.dport);
        self.mark = mark;
        self.flow = packet.flow;
        self.kind = Flow::kind_of(packet);
        self.route = walk.route;
        self.end = walk.end | (detail & 0xff) << 8 | walk.source << 16;
        self.rule = walk.rule;
        self.table = walk.table;
        self.class = walk.class;
        self.mark_after = packet.mark;
        if packet.family != IPV4 {
            for word in 0..3 {
                rest.0[0][word] = packet.src[word + 1];
                rest.0[1][word] = packet.dst[word + 1];
            }
        }
    }
}
