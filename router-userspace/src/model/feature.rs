//! What rules may need that not every kernel has.

use super::{Ports, Rule};

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
    /// `dscp` under a mask.
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
            RuleFeature::DscpMask => "`dscp` under a mask",
        }
    }

    /// The first Linux that has it.
    pub fn since(self) -> &'static str {
        match self {
            RuleFeature::Dscp => "6.13",
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
            RuleFeature::DscpMask => self.selectors.dscp.is_some_and(|(_, mask)| mask != 0x3f),
        }
    }
}
