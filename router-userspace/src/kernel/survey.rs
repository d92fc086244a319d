//! Everything that could act on a redirected or marked packet, read at once.

use super::{Event, Monitor, Result, dissector, far_ends, hooks, nft_list, tc, wireguard, xfrm};
use crate::safety::Facts;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_XFRM};
use std::collections::BTreeMap;

/// BPF programs of others, which are not asked for by netlink: the caller, who has the means, lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignPrograms {
    /// TCX programs on ingress by interface index: their names.
    pub tcx: BTreeMap<u32, Vec<String>>,
    /// TCX programs on egress.
    pub tcx_egress: BTreeMap<u32, Vec<String>>,
    /// Netfilter programs, on whatever hook and in whatever namespace, as messages call them. They count where the kernel
    /// does not list its hooks.
    pub netfilter: Vec<String>,
    /// What could not be listed, a sentence each.
    pub doubts: Vec<String>,
}

/// Surveys the calling thread's network namespace. What cannot be read becomes a doubt: there are no errors.
pub fn survey(programs: ForeignPrograms) -> Facts {
    let mut facts =
        Facts { doubts: programs.doubts, tcx: programs.tcx, tcx_egress: programs.tcx_egress, ..Facts::default() };
    let mut doubts = Vec::new();
    let rules = or_doubt("nftables", nft_list::ruleset(), &mut doubts);
    (facts.chains, facts.flowtables, facts.marks) = rules;
    facts.marks.extend(or_doubt("the marks of WireGuard devices", wireguard::marks(), &mut doubts));
    facts.hooks = or_doubt("the list of netfilter hooks", hooks::list(), &mut doubts);
    facts.legacy_tables = or_doubt("the tables of the old iptables", hooks::legacy_tables(), &mut doubts);
    facts.other_hooks = or_doubt("signs of netfilter hooks", hooks::other_hooks(), &mut doubts);
    facts.other_hooks.extend(programs.netfilter);
    (facts.xfrm_policies, facts.xfrm_refuses) = or_doubt("xfrm policies", xfrm::policies(), &mut doubts);
    facts.fwmark_reflect = or_doubt("fwmark_reflect", hooks::fwmark_reflect(), &mut doubts);
    facts.filters = or_doubt("traffic control", tc::filters(), &mut doubts);
    facts.generic_xdp = or_doubt("XDP programs behind virtual devices", far_ends::generic_xdp(), &mut doubts);
    facts.flow_dissector = or_doubt("BPF flow dissectors", dissector::attached(), &mut doubts);
    facts.doubts.append(&mut doubts);
    facts
}

/// Whether a survey would find these TCX programs and the legacy tables as `facts` has them: the part that costs so little
/// that it can be asked at every tick.
pub fn cheap_facts_hold(facts: &Facts, tcx: &ForeignPrograms) -> Result<bool> {
    let known = tcx.doubts.iter().all(|doubt| facts.doubts.contains(doubt));
    let programs = known && tcx.tcx == facts.tcx && tcx.tcx_egress == facts.tcx_egress;
    Ok(programs && hooks::legacy_tables()? == facts.legacy_tables)
}

fn or_doubt<T: Default>(what: &str, answer: Result<T>, doubts: &mut Vec<String>) -> T {
    answer.unwrap_or_else(|error| {
        doubts.push(format!("{what} cannot be read ({error})"));
        T::default()
    })
}

/// NFNLGRP_NFTABLES and XFRMNLGRP_POLICY: each transaction of nf_tables, Wayfork's own too; each change of a policy.
const NFTABLES_GROUP: u32 = 7;
const XFRM_POLICY_GROUP: u32 = 4;

/// Has a monitor watch what a survey reads, as far as the kernel has it and tells of it. It tells of no legacy table, no
/// other hook and no TCX program: these a survey has to find.
pub(super) fn watch(monitor: &mut Monitor) -> Result<()> {
    let nftables = monitor.also("watch nftables", NETLINK_NETFILTER, &[NFTABLES_GROUP], |_, _| Some(Event::Nftables));
    unless_missing(nftables)?;
    let xfrm = monitor.also("watch xfrm policies", NETLINK_XFRM, &[XFRM_POLICY_GROUP], |_, _| Some(Event::Xfrm));
    unless_missing(xfrm)
}

fn unless_missing(watched: Result<()>) -> Result<()> {
    match watched {
        Err(error) if error.errno() == libc::EPROTONOSUPPORT => Ok(()),
        watched => watched,
    }
}

/// Removes the clsact qdisc that Wayfork made for its filter, unless others hung theirs on it meanwhile; true where it is
/// removed.
pub fn remove_empty_clsact(ifindex: u32) -> super::Result<bool> {
    tc::remove_empty_clsact(ifindex)
}
