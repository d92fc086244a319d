//! Selectors that rules and marks have in common, as the maps hold them.

use crate::model::Ports;
use router_common::layout::{RULE_DPORT, RULE_PORTS, RULE_SPORT, ports};
use router_common::packet::FLOW_CLASS_SHIFT;

/// Source and destination ports.
#[derive(Default)]
pub(super) struct PortWords {
    /// `RULE_PORTS`, `RULE_SPORT`, `RULE_DPORT`.
    pub flags: u32,
    pub ports: u32,
    pub ports_mask: u32,
    pub sport: [u16; 2],
    pub dport: [u16; 2],
}

impl PortWords {
    /// One port and masked ones are compared in one word, both sides at once; ranges by themselves.
    pub fn new(source: Option<Ports>, destination: Option<Ports>) -> Self {
        let mut words = PortWords::default();
        let mut range = |flag, selected: Option<Ports>| match selected {
            Some(Ports::Range { start, end }) if start != end => {
                words.flags |= flag;
                [start, end]
            }
            _ => [0; 2],
        };
        (words.sport, words.dport) = (range(RULE_SPORT, source), range(RULE_DPORT, destination));
        let masked = |selected| match selected {
            Some(Ports::Range { start, end }) if start == end => (start, u16::MAX),
            Some(Ports::Masked { value, mask }) => (value, mask),
            _ => (0, 0),
        };
        let ((source, source_mask), (destination, destination_mask)) = (masked(source), masked(destination));
        words.ports_mask = ports(source_mask, destination_mask);
        words.ports = ports(source, destination);
        if words.ports_mask != 0 {
            words.flags |= RULE_PORTS;
        }
        words
    }
}

/// Value and mask of the word that holds the traffic class (its octet here) and the flow label.
pub(super) fn flow_words(class: Option<(u8, u8)>, label: Option<(u32, u32)>) -> (u32, u32) {
    let ((class, class_mask), (label, label_mask)) = (class.unwrap_or((0, 0)), label.unwrap_or((0, 0)));
    (u32::from(class) << FLOW_CLASS_SHIFT | label, u32::from(class_mask) << FLOW_CLASS_SHIFT | label_mask)
}
