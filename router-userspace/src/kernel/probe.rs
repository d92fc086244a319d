//! What this kernel has rules for, found out by asking for rules that it refuses in any case.

use super::attributes::family_number;
use super::socket::{Request, Socket};
use crate::model::{Family, RuleFeature};
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAttribute as Attr, RuleMessage};
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// FRA_DSCP, FRA_FLOWLABEL, FRA_SPORT_MASK, FRA_DSCP_MASK (include/uapi/linux/fib_rules.h).
fn attribute(feature: RuleFeature) -> u16 {
    match feature {
        RuleFeature::Dscp => 25,
        RuleFeature::Flowlabel => 26,
        RuleFeature::PortMask => 28,
        RuleFeature::DscpMask => 30,
    }
}

/// FR_ACT_GOTO.
const ACT_GOTO: u8 = 2;

/// What this kernel has no rules for. Nothing is added: a `goto` backwards is refused whatever else the rule says (`fib_nl2rule`,
/// net/core/fib_rules.c). But before that the kernel looks at the form of every attribute that it knows, and skips the others: an
/// attribute without a value gets another refusal where it is known. Where no rule may be added at all the answers are alike and
/// tell nothing.
pub(super) fn lacks(socket: &mut Socket) -> BTreeSet<RuleFeature> {
    static FOUND: OnceLock<BTreeSet<RuleFeature>> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return found.clone();
    }
    let mut refusal = |attribute: Option<u16>| {
        let answer = socket.request(question(attribute));
        answer.err().map(|error| (error.errno(), error.said))
    };
    let plain = refusal(None);
    // EINVAL is the backward goto's; anything else (no privilege, no IPv6) came before the attributes were looked at.
    if !matches!(plain, Some((libc::EINVAL, _))) {
        return BTreeSet::new();
    }
    let found = RuleFeature::ALL.into_iter().filter(|feature| refusal(Some(attribute(*feature))) == plain).collect();
    FOUND.get_or_init(|| found).clone()
}

fn question(attribute: Option<u16>) -> Request {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::from(family_number(Family::Ipv6));
    message.header.action = ACT_GOTO.into();
    message.attributes = vec![Attr::Priority(2), Attr::Goto(1)];
    message.attributes.extend(attribute.map(|kind| Attr::Other(DefaultNla::new(kind, Vec::new()))));
    Request::new("ask which selectors rules have", libc::RTM_NEWRULE, libc::NLM_F_CREATE, &message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{namespace, netlink};
    use super::*;
    use crate::kernel::Kernel;

    /// Whether the kernel keeps a rule with the attribute as what it is, which is what the probe is to find out beforehand.
    #[test]
    fn what_is_lacking_is_what_a_rule_loses() {
        use crate::model::{Ports, Rule, Selectors};
        let Some(namespace) = namespace() else { return };
        let mut kernel = netlink(&namespace);
        let lacks = kernel.lacks().unwrap();
        let base = Selectors::default;
        for (feature, selectors) in [
            (RuleFeature::Dscp, Selectors { dscp: Some((46, 0x3f)), ..base() }),
            (RuleFeature::Flowlabel, Selectors { flowlabel: Some((5, 0xf_ffff)), ..base() }),
            (RuleFeature::PortMask, Selectors { sport: Some(Ports::Masked { value: 16, mask: 0xfff0 }), ..base() }),
            (RuleFeature::DscpMask, Selectors { dscp: Some((8, 0x38)), ..base() }),
            (RuleFeature::DscpMask, Selectors { dscp: Some((0, 0x3f)), ..base() }),
        ] {
            let rule = Rule { selectors, ..Rule::lookup(Family::Ipv6, 900, 5) };
            assert!(rule.needs(feature));
            let kept = kernel.add_rule(&rule).is_ok() && kernel.rules().unwrap().contains(&rule);
            assert_eq!(kept, !lacks.contains(&feature), "{feature:?}");
            let left: Vec<Rule> = kernel.rules().unwrap().into_iter().filter(|rule| rule.priority == 900).collect();
            left.iter().for_each(|rule| kernel.delete_rule(rule).unwrap());
        }
        let before = kernel.rules().unwrap();
        assert!(!before.iter().any(|rule| rule.priority == 2), "asking adds nothing");
    }

    /// An attribute beyond all that there are is one that every kernel skips: the probe must call it lacking.
    #[test]
    fn an_attribute_that_no_kernel_has_is_found_lacking() {
        let Some(namespace) = namespace() else { return };
        let answer = |attribute| {
            let ask = move || {
                let mut socket = Socket::open(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
                let error = socket.request(question(attribute)).unwrap_err();
                (error.errno(), error.said)
            };
            namespace.run(ask).unwrap()
        };
        assert_eq!(answer(Some(200)), answer(None));
        // FRA_FWMARK, which all have.
        assert_ne!(answer(Some(10)), answer(None));
    }
}
