//! Which jumps go and which stay. (That nothing is decided otherwise for it, long lists and random hosts show: `proof::compiled`.)

use crate::compile::tests::{host, list, route, run, with};
use crate::model::{Rule, RuleAction, Selectors};
use router_common::layout::ACT_GOTO;

fn from(net: &str) -> Selectors {
    Selectors { from: net.parse().ok(), ..Selectors::default() }
}

fn marked(mark: u32, mask: u32) -> Selectors {
    Selectors { fwmark: Some((mark, mask)), ..Selectors::default() }
}

/// `not` of these goes on at 1000.
fn jump(priority: u32, selectors: Selectors) -> Rule {
    let selectors = Selectors { not: true, ..selectors };
    Rule { action: RuleAction::Goto(1000), ..with(priority, 0, selectors) }
}

/// Where the jumps are that stay, of a list that ends with a rule of priority 1000, and where they lead.
fn staying(rules: Vec<Rule>) -> Vec<(usize, u32)> {
    let mut rules = rules;
    rules.push(with(1000, 254, Selectors::default()));
    let tables = [111, 254].map(|table| route(table, "0.0.0.0/0", Some("10.0.0.1"), 2));
    let generation = run(&host(rules, tables.to_vec()));
    let all = list(&generation, 1);
    let jumps = all.iter().enumerate().filter(|(_, rule)| rule.action == ACT_GOTO);
    jumps.map(|(place, rule)| (place, rule.target)).collect()
}

#[test]
fn a_jump_over_rules_that_look_within_its_own_selector_goes() {
    let inside = |priority| with(priority, 111, from("10.1.2.0/24"));
    assert_eq!(staying(vec![jump(10, from("10.1.0.0/16")), inside(20), inside(30)]), []);
    assert_eq!(staying(vec![jump(10, from("10.1.2.0/24")), inside(20)]), [], "the same");
    let to = |net: &str| Selectors { to: net.parse().ok(), ..Selectors::default() };
    assert_eq!(staying(vec![jump(10, to("10.1.0.0/16")), with(20, 111, to("10.1.2.3/32"))]), []);
    assert_eq!(staying(vec![jump(10, marked(0x10, 0xf0)), with(20, 111, marked(0x15, 0xff))]), []);
    // Whatever else a rule looks at: it takes less for it.
    let narrower = Selectors { ipproto: Some(6), ..from("10.1.2.0/24") };
    assert_eq!(staying(vec![jump(10, from("10.1.0.0/16")), with(20, 111, narrower)]), []);
}

#[test]
fn a_jump_over_a_rule_that_takes_what_jumps_stays() {
    let within = from("10.1.0.0/16");
    for other in [
        Selectors::default(),
        from("10.2.0.0/16"),
        from("10.0.0.0/8"),
        // Another field says nothing of the source.
        marked(1, 1),
        Selectors { not: true, ..from("10.1.2.0/24") },
    ] {
        let rules = vec![jump(10, within.clone()), with(20, 111, other.clone())];
        assert_eq!(staying(rules), [(0, 2)], "{other:?}");
    }
    assert_eq!(
        staying(vec![jump(10, marked(0x10, 0xf0)), with(20, 111, marked(0x15, 0x0f))]),
        [(0, 2)],
        "half of the bits"
    );
    assert_eq!(
        staying(vec![jump(10, marked(0x10, 0xf0)), with(20, 111, marked(0x25, 0xff))]),
        [(0, 2)],
        "another value"
    );
}

#[test]
fn a_jump_by_more_than_one_selector_or_without_not_stays() {
    let inside = || with(20, 111, from("10.1.2.0/24"));
    let both = Selectors { fwmark: Some((1, 1)), ..from("10.1.0.0/16") };
    assert_eq!(staying(vec![jump(10, both), inside()]), [(0, 2)]);
    let plain = Rule { selectors: from("10.1.0.0/16"), ..jump(10, Selectors::default()) };
    assert_eq!(staying(vec![plain, inside()]), [(0, 2)]);
}

#[test]
fn jumps_within_the_stretch_are_no_reason_and_those_out_of_it_are() {
    let inside = |priority| with(priority, 111, from("10.1.2.0/24"));
    let inner = || Rule { action: RuleAction::Goto(50), ..with(20, 0, Selectors { not: true, ..from("10.1.2.0/24") }) };
    // The inner one jumps over what is within it as well.
    assert_eq!(staying(vec![jump(10, from("10.1.0.0/16")), inner(), inside(30), inside(50)]), []);
    // Over more than that it stays, and the outer one goes all the same.
    let wider = with(40, 111, from("10.1.3.0/24"));
    assert_eq!(staying(vec![jump(10, from("10.1.0.0/16")), inner(), wider, inside(50)]), [(0, 2)]);
    // Out of the stretch.
    let out =
        Rule { action: RuleAction::Goto(1000), ..with(20, 0, Selectors { ipproto: Some(6), ..Selectors::default() }) };
    let short = Rule { action: RuleAction::Goto(40), ..jump(10, from("10.1.0.0/16")) };
    let rules = vec![short, out, inside(30), with(40, 111, Selectors { ipproto: Some(17), ..Selectors::default() })];
    assert_eq!(staying(rules), [(0, 3), (1, 4)]);
}

#[test]
fn what_jumps_lead_to_is_where_it_was() {
    let group = |priority: u32, net: &str, behind: u32| {
        let jump = Rule { action: RuleAction::Goto(behind), ..jump(priority, from(net)) };
        [jump, with(priority + 1, 111, from(net)), with(priority + 2, 111, from(net))]
    };
    let mut rules = group(10, "10.1.0.0/16", 20).to_vec();
    rules.extend(group(20, "10.2.0.0/16", 1000));
    // One that stays, before them all, into the second group.
    let stays =
        Rule { action: RuleAction::Goto(20), ..with(1, 0, Selectors { ipproto: Some(6), ..Selectors::default() }) };
    rules.insert(0, stays);
    assert_eq!(staying(rules), [(0, 3)], "at the first rule behind the jump that was its target");
}
