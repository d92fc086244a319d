//! Warnings: what is odd but possible.

use super::*;

/// The warnings about rules: `priority action` for each, and lines.
fn of_rules(rules: &[&str]) -> String {
    warnings(&rules.iter().map(|rule| format!("[[rule]]\n{rule}\n")).collect::<String>())
}

#[test]
fn rules_behind_one_that_takes_all() {
    let behind = |first: &str, second: &str| {
        let found = of_rules(&[&format!("priority = 10\n{first}"), &format!("priority = 20\n{second}\ntable = 9")]);
        found.contains("no packet reaches this rule")
    };
    for (first, second) in [
        ("action = \"blackhole\"", "iif = \"a\""),
        ("action = \"unreachable\"", "not = true\niif = \"a\""),
        ("action = \"prohibit\"\niif = [\"a\", \"b\"]", "iif = [\"b\", \"a\"]\nfwmark = 5"),
        ("action = \"blackhole\"\nfrom = \"10.0.0.0/8\"", "from = [\"10.1.0.0/16\", \"10.0.0.0/8\"]"),
        ("action = \"blackhole\"\nfrom = [\"10.0.0.0/8\", \"fd00::/8\"]", "from = [\"10.1.0.0/16\", \"fd00:1::/32\"]"),
        ("action = \"blackhole\"\nfwmark = \"0x10/0xf0\"", "fwmark = \"0x13/0xff\""),
        ("action = \"blackhole\"\nfwmark = \"0x10/0xf0\"", "fwmark = 0x10"),
        ("action = \"blackhole\"\ndport = \"80-90\"", "ipproto = \"tcp\"\ndport = 80"),
        ("action = \"blackhole\"\nnot = true\niif = \"a\"", "not = true\niif = \"a\""),
        ("action = \"blackhole\"\nuidrange = \"0-99\"", "uidrange = 5\niif = \"a\""),
    ] {
        assert!(behind(first, second), "{first}\n{second}");
    }
    for (first, second) in [
        ("action = \"blackhole\"\niif = \"a\"", "fwmark = 5"),
        ("action = \"blackhole\"\niif = \"a\"", "iif = [\"a\", \"b\"]"),
        ("action = \"blackhole\"\niif = \"a\"", "not = true\niif = \"a\""),
        ("action = \"blackhole\"\nnot = true\niif = \"a\"", "iif = \"b\""),
        ("action = \"blackhole\"\nfrom = \"10.0.0.0/8\"", "from = [\"10.1.0.0/16\", \"fd00::/8\"]"),
        ("action = \"blackhole\"\nfrom = \"10.1.0.0/16\"", "from = \"10.0.0.0/8\""),
        ("action = \"blackhole\"\nfwmark = \"0x13/0xff\"", "fwmark = \"0x10/0xf0\""),
        ("action = \"blackhole\"\nfwmark = \"0x10/0xf0\"", "fwmark = 0x20"),
        ("action = \"blackhole\"\nfamily = \"ipv4\"", "iif = \"a\""),
        ("action = \"blackhole\"\ndport = \"80-90\"", "dport = \"80-91\""),
        ("action = \"nop\"", "iif = \"a\""),
        ("table = 7", "iif = \"a\""),
    ] {
        assert!(!behind(first, second), "{first}\n{second}");
    }
}

#[test]
fn the_warning_names_the_other_rule() {
    assert_eq!(
        of_rules(&["name = \"drop\"\npriority = 10\naction = \"blackhole\"", "priority = 20\niif = \"a\"\ntable = 9"]),
        "6:12: no packet reaches this rule: the rule on line 1 (drop) takes them all (give it a lower priority than theirs, or take it away)\n"
    );
    assert_eq!(
        of_rules(&[
            "priority = 10\naction = \"blackhole\"\nfamily = \"ipv4\"",
            "priority = 11\naction = \"prohibit\"\nfamily = \"ipv6\"",
            "priority = 20\niif = \"a\"\ntable = 9"
        ]),
        "10:12: no packet reaches this rule: the rules on line 1 and line 5 take them all (give it a lower priority than theirs, or take it away)\n"
    );
}

#[test]
fn tables_end_the_walk_only_where_they_always_answer() {
    let with = |sections: &str, extra: &str| {
        let text = format!(
            "{sections}\n[[rule]]\npriority = 10\ntable = 7\n{extra}\n[[rule]]\npriority = 20\niif = \"a\"\ntable = 9"
        );
        warnings(&text).contains("no packet reaches")
    };
    let strict = "[tables]\nvpn = { id = 7, strict = true }";
    assert!(with(strict, ""));
    assert!(with("[[route]]\ntable = 7\nto = \"default\"\ntype = \"prohibit\"", ""));
    assert!(
        !with(strict, "suppress_prefixlength = 0"),
        "what a default route answers is dropped, and the walk goes on"
    );
    assert!(!with("[tables]\nvpn = 7", ""));
    assert!(!with("[[route]]\ntable = 7\nto = \"default\"\ndev = \"a\"", ""), "the route goes away with its device");
    assert!(!with("[[route]]\ntable = 7\nto = \"default\"\ntype = \"prohibit\"\nfamily = \"ipv4\"", ""));
    assert!(!with(&format!("{strict}\n[[route]]\ntable = 7\nto = \"10.0.0.0/8\"\ntype = \"throw\""), ""));
}

#[test]
fn a_goto_that_leads_over_the_ending_rule_saves_those_behind() {
    let rules = |first: &str| {
        of_rules(&[
            first,
            "priority = 10\naction = \"blackhole\"",
            "priority = 20\ntable = 9",
            "priority = 30\ntable = 8",
        ])
    };
    let unreached = |text: String| text.matches("no packet reaches").count();
    assert_eq!(unreached(rules("priority = 5\niif = \"a\"\ntable = 7")), 2);
    assert_eq!(unreached(rules("priority = 5\niif = \"a\"\ngoto = 20")), 0, "from 20 they go on to 30");
    assert_eq!(unreached(rules("priority = 5\niif = \"a\"\ngoto = 30")), 1, "20 is still behind");
    // A goto for all skips what stands between.
    assert_eq!(
        of_rules(&["priority = 5\ngoto = 30", "priority = 20\ntable = 9", "priority = 30\naction = \"nop\""]),
        "5:12: no packet reaches this rule: the rule on line 1 takes them all (give it a lower priority than theirs, or take it away)\n"
    );
}

#[test]
fn not_with_a_list_is_no_dead_end() {
    let not = "priority = 10\nnot = true\niif = [\"a\", \"b\"]\naction = \"blackhole\"";
    assert_eq!(of_rules(&[not, "priority = 20\niif = \"a\"\ntable = 9"]), "");
    // And is itself noticed behind one.
    assert!(of_rules(&["priority = 5\naction = \"prohibit\"", not]).contains("5:12: no packet reaches this rule"));
}

#[test]
fn equal_rules() {
    assert_eq!(
        of_rules(&["priority = 10\niif = \"a\"\ntable = 9", "priority = 20\niif = \"a\"\ntable = 9"]),
        "6:12: this rule is the same as the one on line 1 (take one away)\n"
    );
    assert_eq!(of_rules(&["priority = 10\niif = \"a\"\ntable = 9", "priority = 20\niif = \"a\"\ntable = 8"]), "");
    assert_eq!(of_rules(&["priority = 10\naction = \"nop\"", "priority = 20\naction = \"nop\""]), "");
}

#[test]
fn priorities_behind_main() {
    assert_eq!(of_rules(&["priority = 32766\ntable = 9"]), "");
    assert_eq!(
        of_rules(&["priority = 32767\ntable = 9"]),
        "2:12: priority 32767 comes after the rule for `main` (32766) (it is asked only where main has no route; give it a lower number to go before)\n"
    );
    let three = ["priority = 40000\ntable = 9", "priority = 50000\ntable = 9", "priority = 7\ntable = 9\niif = \"a\""];
    assert!(
        of_rules(&three)
            .starts_with("2:12: priority 40000 comes after the rule for `main` (32766), and so does one other (it")
    );
}

#[test]
fn targets_of_goto() {
    let none = "a goto without its target does nothing; action = \"nop\" makes a target";
    assert_eq!(of_rules(&["priority = 1\ngoto = 7"]), format!("3:8: no rule of this file has priority 7 ({none})\n"));
    assert_eq!(of_rules(&["priority = 1\ngoto = 32766"]), "");
    assert_eq!(of_rules(&["priority = 1\ngoto = 32767\nfamily = \"ipv4\""]), "");
    assert_eq!(
        of_rules(&["priority = 1\ngoto = 7", "priority = 7\ntable = 9\nfrom = \"10.0.0.0/8\""]),
        format!("3:8: the rule of priority 7 is not there in ipv6 ({none})\n")
    );
}

#[test]
fn values_without_effect() {
    let rule = |lines: &str| of_rules(&[&format!("priority = 1\ntable = 9\n{lines}")]);
    assert_eq!(
        rule("fwmark = \"0x1ff/0xff\""),
        "4:10: 0x1ff has bits outside of its mask 0xff; they are not compared (write \"0xff/0xff\")\n"
    );
    assert_eq!(rule("iif = [\"a\", \"b\", \"a\"]"), "4:18: `iif` has this value twice (take one away)\n");
    assert_eq!(
        rule("from = [\"10.0.0.0/8\", \"fd00::/8\"]\nto = \"10.0.0.0/8\""),
        "4:23: this IPv6 address has no effect: `to` has none of that family (take it away, or give `to` one too)\n"
    );
    assert_eq!(rule("not = true"), "4:7: `not` of everything matches no packet (give what the packet shall not be)\n");
    assert_eq!(warnings("[tables]\na = 7\nb = 7\n"), "3:5: `a` is table 7 too (one name per table reads better)\n");
    assert_eq!(
        warnings("[[route]]\ntable = \"local\"\nto = \"default\"\ndev = \"a\""),
        "2:9: table `local` is the kernel's own list of this host's addresses (a route for other packets belongs into another table)\n"
    );
}

#[test]
fn a_last_resort_in_main_is_warned_of() {
    let told = warnings("[tables]\nmain = { id = 254, strict = true }\n");
    assert!(told.starts_with("2:29: `strict` in table `main` ends the way"), "{told}");
    assert_eq!(warnings("[tables]\nmain = { id = 254, strict = false }\nvpn = { id = 7, strict = true }\n"), "");
}

/// The samples that users start from have nothing to warn of.
#[test]
fn the_examples_are_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let loaded = load(&path, &TableNames::default()).unwrap_or_else(|rejected| panic!("{rejected}"));
        assert_eq!(lines(&loaded.warnings), "", "{}", path.display());
        count += 1;
    }
    assert!(count >= 3);
}
