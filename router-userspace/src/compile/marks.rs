//! The `[[mark]]` statements, and the bits for members of sets.

use super::interval::{self, Range, flatten, tree32, tree128};
use super::selectors::Looks;
use crate::model::{AddressSet, Family, Host, MarkRule, PrefixSet};
use router_common::interval::{Line, Tree};
use router_common::layout::{MARK_FROM_SET, MARK_TO_SET, MarkEntry};
use std::collections::HashMap;

/// The trees of sets, each laid out once however many statements look at it.
#[derive(Default)]
pub(super) struct Sets(HashMap<(*const PrefixSet, Family), Tree>);

impl Sets {
    fn tree(&mut self, set: &AddressSet, family: Family, lines: &mut Vec<Line>) -> Result<Tree, interval::Error> {
        // The set lives as long as the statements that are being compiled, so that its place tells it from others.
        let key = (std::sync::Arc::as_ptr(&set.members), family);
        if let Some(tree) = self.0.get(&key) {
            return Ok(*tree);
        }
        let members = &set.members;
        let tree = match family {
            Family::Ipv4 => tree32(lines, &flatten(members.v4().iter().map(member).collect()))?,
            Family::Ipv6 => tree128(lines, &flatten(members.v6().iter().map(member).collect()))?,
        };
        self.0.insert(key, tree);
        Ok(tree)
    }
}

fn member<K: Copy>(range: &(K, K)) -> Range<K> {
    Range { first: range.0, last: range.1, value: 0 }
}

/// One alternative of a `[[mark]]`; None where its interface is not there, so that it matches nothing.
pub(super) fn entry(
    host: &Host,
    mark: &MarkRule,
    sets: &mut Sets,
    lines: &mut Vec<Line>,
) -> Result<Option<MarkEntry>, interval::Error> {
    let selectors = &mark.selectors;
    let mut entry: MarkEntry = bytemuck::Zeroable::zeroed();
    entry.family = match mark.family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 6,
    };
    if let Some(name) = &selectors.iif {
        let Some(link) = host.link(name) else { return Ok(None) };
        entry.iif = link.index;
    }
    entry.statement = mark.statement;
    entry.set_value = mark.value;
    entry.set_mask = mark.mask;
    entry.selectors = Looks {
        fwmark: selectors.fwmark,
        from: selectors.from,
        to: selectors.to,
        ipproto: selectors.ipproto,
        sport: selectors.sport,
        dport: selectors.dport,
        class: selectors.dscp.map(|(value, mask)| (value << 2, mask << 2)),
        flowlabel: selectors.flowlabel,
    }
    .words();
    if let Some(set) = &selectors.from_set {
        entry.sets |= MARK_FROM_SET;
        entry.from_set = sets.tree(set, mark.family, lines)?;
    }
    if let Some(set) = &selectors.to_set {
        entry.sets |= MARK_TO_SET;
        entry.to_set = sets.tree(set, mark.family, lines)?;
    }
    Ok(Some(entry))
}
