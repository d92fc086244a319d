//! IPv4's look at a packet's source: `fib_validate_source` (net/ipv4/fib_frontend.c), reverse-path filter included.

use super::rules::requires_dissection;
use super::walk::{End, Step, Walker};
use super::{Flow, LOOPBACK, Reference};
use crate::model::{DeviceConf, Family, RouteKind};
use crate::proof::packet::Packet;
use router_common::verdict::Verdict;
use std::net::IpAddr;

/// How the source was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceCheck {
    /// Whether it is accepted.
    pub valid: bool,
    /// Whether the opposite may be true as well: it hangs on what a snapshot does not tell.
    pub doubtful: bool,
    /// Why, in a sentence.
    pub why: &'static str,
    /// `rp_filter` in force on the ingress interface.
    pub rp_filter: u8,
    /// The rules tried on the way back; empty where none had to be.
    pub trail: Vec<Step>,
}

impl SourceCheck {
    /// What becomes of a packet whose verdict is `verdict` if its source is accepted; the likelier first.
    pub(super) fn verdicts(&self, verdict: Verdict) -> Vec<Verdict> {
        match (self.valid, self.doubtful) {
            (true, false) => vec![verdict],
            (true, true) => vec![verdict, Verdict::Martian],
            (false, true) => vec![Verdict::Martian, verdict],
            (false, false) => vec![Verdict::Martian],
        }
    }
}

impl Walker<'_> {
    /// Whether the source of a packet that would leave by `oif` (None: is for this host) is accepted. The first check of a
    /// packet is kept for `explain`.
    pub(super) fn source_is_valid(
        &self,
        packet: &Packet,
        flow: &Flow,
        oif: Option<u32>,
        reference: &mut Reference,
    ) -> SourceCheck {
        let check = self.validate_source(packet, flow, oif);
        if reference.source.is_none() {
            reference.source = Some(check.clone());
        }
        check
    }

    fn validate_source(&self, packet: &Packet, flow: &Flow, oif: Option<u32>) -> SourceCheck {
        let iif = packet.iif.unwrap_or(LOOPBACK);
        let rp_filter = self.host.links.get(&iif).map_or(0, |link| self.host.rp_filter(link));
        let answer = |valid, why| SourceCheck { valid, doubtful: false, why, rp_filter, trail: Vec::new() };
        let redirects = self.host.links.get(&iif).is_some_and(|link| self.host.send_redirects(link));
        // With realms anywhere the kernel looks every source up, for theirs (`fib_num_tclassid_users`).
        let realms = self.list(Family::Ipv4).iter().any(|index| self.host.rules[*index].realms.is_some())
            || self.host.routes.iter().flat_map(|route| &route.nexthops).any(|hop| hop.realms != 0);
        if rp_filter == 0 && !realms && (oif != Some(iif) || !redirects) {
            if self.v4_switch(iif, |conf| conf.accept_local) {
                return answer(true, "accept_local is on and rp_filter off: no source is looked at");
            }
            if self.untouched() {
                // While no rule and no local route was ever added the kernel only looks for its own addresses. Whether one
                // was, a snapshot does not tell; where it matters, both answers are right.
                let own = self.host.addresses.iter().any(|address| address.addr == packet.source());
                let full = self.check_fully(iif, rp_filter, flow, oif);
                let why = match own {
                    true => "the source is an address of this host",
                    false => "the source is no address of this host, and rp_filter is off",
                };
                return SourceCheck { doubtful: full.doubtful || full.valid == own, ..answer(!own, why) };
            }
        }
        self.check_fully(iif, rp_filter, flow, oif)
    }

    /// `__fib_validate_source`: a look-up of the way back, which meets the rules with the interfaces swapped.
    fn check_fully(&self, iif: u32, rp_filter: u8, flow: &Flow, oif: Option<u32>) -> SourceCheck {
        let mut trail = Vec::new();
        let dissected = self.list(Family::Ipv4).iter().any(|index| requires_dissection(&self.host.rules[*index]));
        let back = Flow {
            iif: oif.unwrap_or(LOOPBACK),
            saddr: flow.daddr,
            daddr: flow.saddr,
            mark: if self.v4_switch(iif, |conf| conf.src_valid_mark) { flow.mark } else { 0 },
            ipproto: if dissected { flow.ipproto } else { 0 },
            sport: if dissected { flow.dport } else { 0 },
            dport: if dissected { flow.sport } else { 0 },
            ..flow.clone()
        };
        // Only the first end counts: next hops are all looked at together (fib_info_nh_uses_dev).
        let end = self.walk(&back, &mut trail).into_iter().next().unwrap_or(End::Nothing);
        let (valid, why) = self.judge_source(iif, rp_filter, end);
        let short_cut = || self.judge_source(iif, rp_filter, self.lookup_without_rules(&back)).0;
        let doubtful = self.untouched() && short_cut() != valid;
        SourceCheck { valid, doubtful, why, rp_filter, trail }
    }

    fn judge_source(&self, iif: u32, rp_filter: u8, end: End) -> (bool, &'static str) {
        let End::Route { route, .. } = end else {
            return match rp_filter {
                0 => (true, "there is no way back, and rp_filter is off"),
                _ => (false, "there is no way back to the source (rp_filter)"),
            };
        };
        let route = &self.host.routes[route];
        let local = route.kind == RouteKind::Local;
        if route.kind != RouteKind::Unicast && !(local && self.v4_switch(iif, |conf| conf.accept_local)) {
            return (false, "the source is this host's own, or a broadcast address");
        }
        if route.nexthops.iter().any(|hop| hop.dev == iif) || (local && iif == LOOPBACK) {
            return (true, "the way back is by the ingress interface");
        }
        let addressed = self.host.addresses.iter().any(|a| a.index == iif && matches!(a.addr, IpAddr::V4(_)));
        match rp_filter {
            0 => (true, "the way back is by another interface, and rp_filter is off"),
            _ if !addressed => {
                (false, "the way back is by another interface, and this one has no IPv4 address (rp_filter)")
            }
            1 => (false, "the way back is by another interface (rp_filter is strict)"),
            _ => (true, "the way back is by another interface, and rp_filter is loose"),
        }
    }

    /// A switch that is on for an interface where its own or that of `all` is (IN_DEV_ORCONF, include/linux/inetdevice.h).
    pub(super) fn v4_switch(&self, iif: u32, get: impl Fn(&DeviceConf) -> bool) -> bool {
        get(&self.host.settings.all_v4) || self.host.links.get(&iif).is_some_and(|link| get(&link.v4))
    }
}
