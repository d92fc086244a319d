//! Selectors that rules and marks have in common, as the maps hold them.

use super::words;
use crate::model::Ports;
use bytemuck::Zeroable;
use ipnet::IpNet;
use router_common::layout::{SELECT_DPORT, SELECT_IPPROTO, SELECT_PORTS, SELECT_SPORT, Selectors, ports};
use router_common::packet::FLOW_CLASS_SHIFT;

/// What is looked for, each with None for whatever it is.
pub(super) struct Looks {
    pub fwmark: Option<(u32, u32)>,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    pub ipproto: Option<u8>,
    pub sport: Option<Ports>,
    pub dport: Option<Ports>,
    /// Value and mask of the octet that holds the DSCP.
    pub class: Option<(u8, u8)>,
    pub flowlabel: Option<(u32, u32)>,
}

impl Looks {
    /// As the maps hold it.
    pub fn words(self) -> Selectors {
        let mut words = Selectors::zeroed();
        (words.mark, words.mark_mask) = self.fwmark.unwrap_or((0, 0));
        if let Some(net) = self.from {
            (words.from, words.from_mask) = words::prefix(net);
        }
        if let Some(net) = self.to {
            (words.to, words.to_mask) = words::prefix(net);
        }
        if let Some(proto) = self.ipproto {
            words.flags |= SELECT_IPPROTO;
            words.ipproto = u32::from(proto);
        }
        select_ports(&mut words, self.sport, self.dport);
        (words.flow, words.flow_mask) = flow_words(self.class, self.flowlabel);
        words
    }
}

/// Whether nothing is looked for.
pub(super) fn selects_nothing(words: &Selectors) -> bool {
    let addresses = words.from_mask.iter().chain(&words.to_mask).fold(0, |all, mask| all | mask);
    words.flags | words.mark_mask | words.flow_mask | words.ports_mask | addresses == 0
}

/// Source and destination ports. One port and masked ones are compared in one word, both sides at once; ranges by themselves.
fn select_ports(words: &mut Selectors, source: Option<Ports>, destination: Option<Ports>) {
    let mut range = |flag, selected: Option<Ports>| match selected {
        Some(Ports::Range { start, end }) if start != end => {
            words.flags |= flag;
            [start, end]
        }
        _ => [0; 2],
    };
    (words.sport, words.dport) = (range(SELECT_SPORT, source), range(SELECT_DPORT, destination));
    let masked = |selected| match selected {
        Some(Ports::Range { start, end }) if start == end => (start, u16::MAX),
        Some(Ports::Masked { value, mask }) => (value, mask),
        _ => (0, 0),
    };
    let ((source, source_mask), (destination, destination_mask)) = (masked(source), masked(destination));
    words.ports_mask = ports(source_mask, destination_mask);
    words.ports = ports(source, destination);
    if words.ports_mask != 0 {
        words.flags |= SELECT_PORTS;
    }
}

/// Value and mask of the word that holds the traffic class (its octet here) and the flow label.
fn flow_words(class: Option<(u8, u8)>, label: Option<(u32, u32)>) -> (u32, u32) {
    let ((class, class_mask), (label, label_mask)) = (class.unwrap_or((0, 0)), label.unwrap_or((0, 0)));
    (u32::from(class) << FLOW_CLASS_SHIFT | label, u32::from(class_mask) << FLOW_CLASS_SHIFT | label_mask)
}
