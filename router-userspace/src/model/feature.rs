//! What rules may need that not every kernel has.

use super::{Family, Ports, Rule};

/// A selector that came with a later kernel than the oldest that Wayfork runs on. An older one takes no notice of it: the rule would
/// match what it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleFeature {
    /// `dscp`.
    Dscp,
    /// `flowlabel`.
    Flowlabel,
    /// `sport` and `dport` under a mask.
    PortMask,
    /// `dscp` under a mask, and `dscp` 0 in IPv6.
    DscpMask,
}

impl RuleFeature {
    /// All of them.
    pub const ALL: [RuleFeature; 4] =
        [RuleFeature::Dscp, RuleFeature::Flowlabel, RuleFeature::PortMask, RuleFeature::DscpMask];

    /// As a sentence names it.
    pub fn name(self) -> &'static str {
        match self {
            RuleFeature::Dscp => "`dscp`",
            RuleFeature::Flowlabel => "`flowlabel`",
            RuleFeature::PortMask => "ports under a mask",
            RuleFeature::DscpMask => "`dscp` under a mask, or `dscp 0` in IPv6",
        }
    }

    /// The first Linux that has it.
    pub fn since(self) -> &'static str {
        match self {
            RuleFeature::Dscp => "6.12",
            RuleFeature::Flowlabel => "6.14",
            RuleFeature::PortMask | RuleFeature::DscpMask => "6.15",
        }
    }
}

impl Rule {
    /// Whether the rule cannot be had without a feature.
    pub fn needs(&self, feature: RuleFeature) -> bool {
        let masked = |ports: Option<Ports>| matches!(ports, Some(Ports::Masked { .. }));
        match feature {
            RuleFeature::Dscp => self.selectors.dscp.is_some(),
            RuleFeature::Flowlabel => self.selectors.flowlabel.is_some(),
            RuleFeature::PortMask => masked(self.selectors.sport) || masked(self.selectors.dport),
            // A kernel without masks compares no IPv6 class that is 0: only a mask makes it one (fib6_rule_match).
            RuleFeature::DscpMask => self
                .selectors
                .dscp
                .is_some_and(|(value, mask)| mask != 0x3f || value == 0 && self.family == Family::Ipv6),
        }
    }
}
