//! Rules that Wayfork adds of its own accord, beside those of the file: they decide nothing and only shorten the walk, or hold
//! a place while the list changes.

use super::{Family, OWN_PROTOCOL, Rule, RuleAction, Selectors};

/// The interface groups that mark them: without a table the kernel keeps the number and never looks at it, but shows it, and
/// compares it when asked to delete. That of what is there for a moment, and that of what stays.
const PASSING: u32 = 0x5746_0057;
pub(crate) const STAYING: u32 = 0x5746_0058;

fn made(family: Family, priority: u32, action: RuleAction, mark: u32) -> Rule {
    Rule { action, suppress_ifgroup: Some(mark), ..Rule::lookup(family, priority, 0) }
}

impl Rule {
    /// A rule that does nothing, for jumps to lead to while the rules are changed.
    pub fn scaffold_nop(family: Family, priority: u32) -> Rule {
        made(family, priority, RuleAction::Nop, PASSING)
    }

    /// A rule that leads every packet from `priority` to `target` while the rules between are added.
    pub fn gate(family: Family, priority: u32, target: u32) -> Rule {
        made(family, priority, RuleAction::Goto(target), PASSING)
    }

    /// A rule that leads the packets of `selectors`, which none of the rules before `target` matches, past them.
    pub fn skip(family: Family, priority: u32, selectors: Selectors, target: u32) -> Rule {
        Rule { selectors, ..made(family, priority, RuleAction::Goto(target), STAYING) }
    }

    /// A rule that does nothing, for a [`Rule::skip`] to lead to.
    pub fn landing(family: Family, priority: u32) -> Rule {
        made(family, priority, RuleAction::Nop, STAYING)
    }

    fn is_made(&self, mark: u32) -> bool {
        self.protocol == OWN_PROTOCOL
            && self.suppress_ifgroup == Some(mark)
            && matches!(self.action, RuleAction::Nop | RuleAction::Goto(_))
    }

    /// Whether it is one of those that are there for a moment: left where a change was cut off.
    pub fn is_passing(&self) -> bool {
        self.is_made(PASSING)
    }

    /// Whether it is a [`Rule::skip`].
    pub fn is_skip(&self) -> bool {
        self.is_made(STAYING) && matches!(self.action, RuleAction::Goto(_))
    }

    /// Whether it is any of these: no rule of a policy.
    pub fn is_scaffold(&self) -> bool {
        self.is_made(PASSING) || self.is_made(STAYING)
    }
}
