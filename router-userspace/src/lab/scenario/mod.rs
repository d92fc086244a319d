//! The situations that Wayfork was made for: a lab each, with an embedded policy and the flows that show what it does.

mod dual_uplink;
mod mark_steering;
mod tunnel_default;

use super::topology::Lab;
use super::traffic::{Flow, Proto};
use super::{Error, Result};
use crate::model::Family;
use std::net::IpAddr;

/// One situation.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, as `--scenario` takes it.
    pub name: &'static str,
    /// One sentence: what it shows.
    pub about: &'static str,
    /// The lab, drawn in a few lines.
    pub drawing: &'static str,
    /// The policy of the router, a file of `examples/`.
    pub policy: &'static str,
    /// The host on which Wayfork runs.
    pub router: &'static str,
    /// Builds hosts, links, addresses and the router's own routes; no policy.
    pub build: fn(&mut Lab) -> Result<()>,
    /// The flows.
    pub flows: fn() -> Vec<Case>,
}

/// One flow of a scenario, and what is meant to become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The host that sends it.
    pub sender: &'static str,
    /// For a person: `branch udp → 111.11.1.1`.
    pub name: String,
    /// What is sent; `id` is given per phase.
    pub flow: Flow,
    /// Priority and name of the rule that is meant to decide it.
    pub rule: (u32, &'static str),
    /// Where it can arrive, and the interface of the router that it took there.
    pub exits: &'static [(&'static str, &'static str)],
    /// The interface it is meant to leave by with the policy.
    pub oif: &'static str,
    /// The interface it leaves by without the policy; None where it arrives nowhere.
    pub unruled: Option<&'static str>,
    /// Made by the router itself: it never passes TC ingress.
    pub router_made: bool,
}

impl Case {
    /// The fewest packets that the flow can be: a connection has fewer segments than pieces.
    pub fn least_packets(&self) -> u64 {
        if self.flow.proto == Proto::Tcp { 1 } else { u64::from(self.flow.units) }
    }
}

/// The kernel's own rule for the main table.
const MAIN: (u32, &str) = (32766, "main");
/// Units of a flow.
pub const UNITS: u32 = 20;

/// All scenarios, in the order they are shown.
pub const ALL: [Scenario; 3] = [dual_uplink::SCENARIO, tunnel_default::SCENARIO, mark_steering::SCENARIO];

impl Scenario {
    /// The scenario of that name.
    pub fn named(name: &str) -> Result<Scenario> {
        ALL.into_iter().find(|scenario| scenario.name == name).ok_or_else(|| Error::NoSuchScenario {
            name: name.to_owned(),
            names: ALL.map(|scenario| scenario.name).join(", "),
        })
    }
}

/// A destination or source in both families.
#[derive(Clone, Copy, Debug)]
struct Both(&'static str, &'static str);

impl Both {
    fn of(self, family: Family) -> IpAddr {
        let text = match family {
            Family::Ipv4 => self.0,
            Family::Ipv6 => self.1,
        };
        // Constants of this module, which a test parses.
        text.parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }
}

/// The far destination, which every uplink's far side has: who receives tells which uplink was taken.
const FAR: Both = Both("111.11.1.1", "2001:db8:111::1");

/// A flow in one family.
fn case(sender: &'static str, family: Family, proto: Proto, from: Both, to: Both, dport: u16) -> Case {
    let (from, to) = (from.of(family), to.of(family));
    let port = match (proto, dport) {
        (Proto::Icmp, _) => String::new(),
        (_, port) => format!(" {port}"),
    };
    let name = format!("{sender} {}{port} → {to}", proto.name(Family::Ipv4));
    Case {
        sender,
        name,
        flow: Flow { id: 0, proto, from, to, dport, mark: 0, units: UNITS },
        rule: MAIN,
        exits: &[],
        oif: "",
        unruled: None,
        router_made: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_can_be_told_by_its_receivers_and_its_rule() {
        for scenario in ALL {
            let cases = (scenario.flows)();
            assert!(Scenario::named(scenario.name).is_ok());
            for family in Family::BOTH {
                assert!(cases.iter().any(|case| case.flow.family() == family), "{} {family}", scenario.name);
            }
            let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(names.len(), cases.len(), "{}: two flows with one name", scenario.name);
            for case in cases {
                assert!(case.exits.iter().any(|(_, oif)| *oif == case.oif), "{}", case.name);
                assert!(!case.flow.from.is_unspecified() && !case.flow.to.is_unspecified(), "{}", case.name);
                assert_eq!(case.flow.from.is_ipv4(), case.flow.to.is_ipv4(), "{}", case.name);
                let named = format!("\"{}\"", case.rule.1);
                assert!(case.rule == MAIN || scenario.policy.contains(&named), "{} has no rule {named}", scenario.name);
            }
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Scenario::named("nope").expect_err("no such scenario").to_string();
        assert!(error.contains("dual-uplink") && error.contains("mark-steering"), "{error}");
    }
}
