//! The order of rules: priorities, `not`, `goto`, interfaces that come and go.

use super::*;
use crate::kernel::Admin;

#[test]
fn equal_priorities_go_in_the_order_of_adding() {
    in_both(|bench, family| {
        bench.add([acting(family, 100, RuleAction::Prohibit), rule(family, 100, any())]);
        bench.all(&packet(family), "prohibit");
        bench.delete(&acting(family, 100, RuleAction::Prohibit));
        bench.all(&packet(family), "up1");
    });
}

#[test]
fn not_turns_the_whole_conjunction_round() {
    in_both(|bench, family| {
        let selectors =
            Selectors { not: true, iif: Some("lan".into()), fwmark: Some((5, u32::MAX)), ipproto: Some(17), ..any() };
        bench.add([rule(family, 100, selectors)]);
        bench.all(&Packet { mark: 5, ..packet(family) }, "up0");
        bench.all(&Packet { mark: 6, ..packet(family) }, "up1");
        bench.all(&Packet { mark: 5, ipproto: 6, ..packet(family) }, "up1");
    });
}

#[test]
fn an_interface_that_is_not_there_matches_nothing_and_with_not_everything() {
    in_both(|bench, family| {
        let gone = |not| Selectors { not, iif: Some("gone".into()), ..any() };
        bench.add([rule(family, 100, gone(false))]);
        bench.all(&packet(family), "up0");
        bench.add([rule(family, 110, gone(true))]);
        bench.all(&packet(family), "up1");
    });
}

#[test]
fn another_name_of_an_interface_counts_when_the_rule_is_added_and_not_when_it_comes_later() {
    in_both(|bench, family| {
        let named = |name: &str| rule(family, 100, Selectors { iif: Some(name.into()), ..any() });
        let mut admin = Admin::open().unwrap();
        bench.add([named("lan-other")]);
        admin.add_altname("lan", "lan-other").unwrap();
        bench.all(&packet(family), "up0");
        // Attached for good, to an interface that may have lost the name meanwhile: only the kernel knows to which.
        bench.delete(&named("lan-other"));
        bench.add([named("lan-other")]);
        bench.ask(&packet(family), "undecided", Fast::Pass("rule-selector"));
        admin.delete_altname("lan", "lan-other").unwrap();
        bench.ask(&packet(family), "undecided", Fast::Pass("rule-selector"));
        admin.add_altname("guest", "lan-other").unwrap();
        bench.ask(&packet(family), "undecided", Fast::Pass("rule-selector"));
    });
}

#[test]
fn a_renamed_interface_leaves_its_rules_and_takes_those_of_its_new_name() {
    in_both(|bench, family| {
        let named = |priority, name: &str| rule(family, priority, Selectors { iif: Some(name.into()), ..any() });
        let mut admin = Admin::open().unwrap();
        let rename = |admin: &mut Admin, from: &str, to: &str| {
            admin.down(from).unwrap();
            admin.rename(from, to).unwrap();
        };
        // The old name stays as another name of it, and the rule is detached all the same.
        bench.add([named(100, "bare")]);
        rename(&mut admin, "bare", "bald");
        admin.add_altname("bald", "bare").unwrap();
        admin.up("bald").unwrap();
        let from_bare = Packet { iif: Some(14), ..packet(family) };
        bench.all(&from_bare, "up0");
        bench.add([named(110, "bald")]);
        bench.all(&from_bare, "up1");
    });
}

#[test]
fn goto_goes_on_while_its_target_is_not_there() {
    in_both(|bench, family| {
        bench.add([goto(family, 100, 300), rule(family, 200, any())]);
        bench.all(&packet(family), "up1");
        let target = acting(family, 300, RuleAction::Nop);
        bench.add([target.clone()]);
        bench.all(&packet(family), "up0");
        // The second of equal priority takes the place of the first.
        bench.add([acting(family, 300, RuleAction::Prohibit)]);
        bench.delete(&target);
        bench.all(&packet(family), "prohibit");
        bench.delete(&acting(family, 300, RuleAction::Prohibit));
        bench.all(&packet(family), "up1");
    });
}

#[test]
fn realms_select_nothing() {
    bench(|bench| {
        bench.add([Rule { realms: Some(0x1_0002), ..rule(Family::Ipv4, 100, any()) }]);
        bench.all(&packet(Family::Ipv4), "up1");
    });
}
