//! Everything that could act on a redirected or marked packet, read at once.

use super::{hooks, nft_list, tc, xfrm};
use crate::safety::Facts;
use std::collections::BTreeMap;
use std::io;

/// BPF programs of others, which are not asked for by netlink: the caller, who has the means, lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignPrograms {
    /// TCX programs on ingress by interface index: their names.
    pub tcx: BTreeMap<u32, Vec<String>>,
    /// Netfilter programs, on whatever hook and in whatever namespace: their names.
    pub netfilter: Vec<String>,
    /// What could not be listed, a sentence each.
    pub doubts: Vec<String>,
}

/// Surveys the calling thread's network namespace. What cannot be read becomes a doubt: there are no errors.
pub fn survey(programs: ForeignPrograms) -> Facts {
    let mut facts = Facts { doubts: programs.doubts, tcx: programs.tcx, ..Facts::default() };
    let mut doubts = Vec::new();
    let rules = or_doubt("nftables", nft_list::ruleset(), &mut doubts);
    (facts.chains, facts.flowtables) = rules;
    facts.hooks = or_doubt("the list of netfilter hooks", hooks::list(), &mut doubts);
    facts.legacy_tables = or_doubt("the tables of the old iptables", hooks::legacy_tables(), &mut doubts);
    facts.other_hooks = or_doubt("signs of netfilter hooks", hooks::other_hooks(), &mut doubts);
    facts.other_hooks.extend(programs.netfilter.iter().map(|name| format!("the BPF program {name}")));
    (facts.xfrm_policies, facts.xfrm_refuses) = or_doubt("xfrm policies", xfrm::policies(), &mut doubts);
    facts.fwmark_reflect = or_doubt("fwmark_reflect", hooks::fwmark_reflect(), &mut doubts);
    facts.filters = or_doubt("traffic control", tc::filters(), &mut doubts);
    facts.doubts.append(&mut doubts);
    facts
}

fn or_doubt<T: Default>(what: &str, answer: io::Result<T>, doubts: &mut Vec<String>) -> T {
    answer.unwrap_or_else(|error| {
        doubts.push(format!("{what} cannot be read ({error})"));
        T::default()
    })
}
