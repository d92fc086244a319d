//! Selectors that rules and marks have in common, as the maps hold them.

use crate::model::Ports;
use router_common::layout::{SELECT_DPORT, SELECT_PORTS, SELECT_SPORT, Selectors, ports};
use router_common::packet::FLOW_CLASS_SHIFT;

/// Source and destination ports. One port and masked ones are compared in one word, both sides at once; ranges by themselves.
pub(super) fn select_ports(words: &mut Selectors, source: Option<Ports>, destination: Option<Ports>) {
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
pub(super) fn flow_words(class: Option<(u8, u8)>, label: Option<(u32, u32)>) -> (u32, u32) {
    let ((class, class_mask), (label, label_mask)) = (class.unwrap_or((0, 0)), label.unwrap_or((0, 0)));
    (u32::from(class) << FLOW_CLASS_SHIFT | label, u32::from(class_mask) << FLOW_CLASS_SHIFT | label_mask)
}
