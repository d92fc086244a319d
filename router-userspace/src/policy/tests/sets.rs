//! `[sets]`.

use super::*;
use crate::model::PrefixSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// A policy whose sets' files are in `folder`, with one rule for the set `a`.
fn load_in(folder: &Path, text: &str) -> Result<Loaded, Rejected> {
    fs::write(folder.join("policy.toml"), text).unwrap();
    load(&folder.join("policy.toml"), &TableNames::default())
}

/// What is said of it, the folder's name left out.
fn said(folder: &Path, text: &str) -> String {
    let (list, prefix) = match load_in(folder, text) {
        Ok(loaded) => (loaded.warnings, "ok\n"),
        Err(rejected) => (rejected.errors, ""),
    };
    let path = format!("{}/", folder.display());
    let said = list.iter().map(|one| one.to_string().replace(&path, "").replace("policy.toml:", "") + "\n");
    prefix.to_owned() + &said.collect::<String>()
}

fn members(prefixes: &[&str]) -> PrefixSet {
    PrefixSet::new(prefixes.iter().map(|text| text.parse().unwrap()))
}

const RULE: &str = "[[rule]]\npriority = 10\nfrom = \"@a\"\ntable = 100\n";
const OF_FILE: &str = "[sets]\na = { file = \"a.txt\" }\n[[rule]]\npriority = 10\nfrom = \"@a\"\ntable = 100\n";

#[test]
fn a_file_has_a_prefix_a_line() {
    let text = "\u{feff}# a comment\r\n\n10.0.0.0/8 # private\r\n  192.0.2.1\t\n2001:db8::/32\nfd00::1#one\n10.0.0.0/9\n10.0.0.0/8";
    let folder = folder(&[("a.txt", text.as_bytes())]);
    let loaded = load_in(folder.path(), OF_FILE).unwrap();
    assert_eq!(lines(&loaded.warnings), "");
    let [set] = &loaded.policy.sets[..] else { panic!("{:?}", loaded.policy.sets) };
    assert_eq!(*set.members, members(&["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "fd00::1/128"]));
    assert_eq!((&*set.name, set.count), ("a", 6));
    assert!(set.at.ends_with("policy.toml:2"), "{}", set.at);
    // A path from the root is that path.
    let elsewhere = OF_FILE.replace("a.txt", folder.path().join("a.txt").to_str().unwrap());
    assert_eq!(load_in(TempDir::new().unwrap().path(), &elsewhere).unwrap().policy.sets[0].members, set.members);
}

#[test]
fn every_wrong_line_is_named() {
    let text = "10.0.0.0/8\n10.0.0.1/24\n  nonsense # why\n\n10.0.0.0/33\n1.2.3.4, 1.2.3.5\nfe80::1%eth0";
    let folder = folder(&[("a.txt", text.as_bytes())]);
    assert_eq!(
        said(folder.path(), OF_FILE),
        "a.txt:2:1: `10.0.0.1/24` has bits set beyond its length (the network is \"10.0.0.0/24\", the address alone \"10.0.0.1\")
a.txt:3:3: `nonsense` is no address and no prefix (such as \"10.0.0.0/8\", \"fd00::/8\" or one address)
a.txt:5:1: `10.0.0.0/33` is no address and no prefix (the length of an IPv4 prefix goes from 0 to 32)
a.txt:6:1: `1.2.3.4, 1.2.3.5` is no address and no prefix (one prefix or address a line)
a.txt:7:1: `fe80::1%eth0` is no address and no prefix (such as \"10.0.0.0/8\", \"fd00::/8\" or one address)
"
    );
    // What the policy itself has comes first, and a file of wrong lines is cut.
    let wrong = "x\n".repeat(250) + "10.0.0.0/8\n";
    fs::write(folder.path().join("a.txt"), wrong).unwrap();
    let said = said(folder.path(), &format!("{OF_FILE}nothing = 1\n"));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("7:1: [[rule]] has no key"), "{said}");
    assert!(lines[1].starts_with("a.txt:1:1: ") && lines[100].starts_with("a.txt:100:1: "), "{said}");
    assert_eq!(lines[101..], ["a.txt: 150 more lines are wrong (mend those first)"]);
    let Err(rejected) = load_in(folder.path(), OF_FILE) else { panic!("accepted") };
    assert_eq!(count(&rejected.errors), 250);
}

/// Nothing that could keep `check` waiting is opened.
#[test]
fn what_is_no_text_file_is_refused() {
    let folder = folder(&[("a.txt", b"10.0.0.0/8\nok \xff\n"), ("zero", b"10.0.0.0/8\n\0\0")]);
    let of = |file: &str| said(folder.path(), &OF_FILE.replace("a.txt", file));
    assert_eq!(
        of("a.txt"),
        "a.txt:2:4: the file is not UTF-8: byte 0xff at offset 14 (save it as UTF-8; is it the right file?)\n"
    );
    assert!(of("zero").starts_with("zero:2:1: `\\0\\0` is no address"), "{}", of("zero"));
    assert_eq!(of("gone.txt"), "2:14: cannot read `gone.txt`: no such file or directory (check the path)\n");
    assert_eq!(of("."), "2:14: cannot read `.`: is a directory (give the file in it)\n");
    assert_eq!(of("/dev/zero"), "2:14: `/dev/zero` is no plain file (give a file with a prefix a line)\n");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(of("fifo"), "2:14: `fifo` is no plain file (give a file with a prefix a line)\n");
    let huge = fs::File::create(folder.path().join("huge")).unwrap();
    huge.set_len(LARGEST_SET + 1).unwrap();
    assert!(of("huge").starts_with("2:14: `huge` is larger than 64 MiB"), "{}", of("huge"));
}

#[test]
fn a_million_members_and_no_more() {
    let line = |number: u32| format!("{}\n", std::net::Ipv4Addr::from(number * 2));
    let text: String = (0..500_000).map(line).collect();
    let folder = folder(&[("a.txt", text.as_bytes()), ("b.txt", text.as_bytes()), ("c.txt", b"# nothing\nfd00::1\n")]);
    let two = "[sets]\na = { file = \"a.txt\" }\nb = { file = \"b.txt\" }\n[[rule]]\npriority = 10\nfrom = [\"@a\", \"@b\"]\ntable = 100\n";
    let loaded = load_in(folder.path(), two).unwrap();
    assert_eq!(loaded.policy.sets.iter().map(|set| set.count).sum::<usize>(), 1_000_000);
    assert_eq!(loaded.policy.sets[0].members.ranges(Family::Ipv4), 500_000);
    let three = two.replace("[[rule]]", "c = { file = \"c.txt\" }\n[[rule]]");
    assert!(
        said(folder.path(), &three).starts_with("4:14: with this set the file has more than 1000000 members of sets"),
        "{}",
        said(folder.path(), &three)
    );
}

#[test]
fn the_messages_of_sets() {
    for (text, expected) in [
        (
            "[sets]\na = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 1\nfrom = \"@b\"\ntable = 5",
            "5:8: no set is called `@b` (did you mean \"@a\"?)",
        ),
        (
            "[[rule]]\npriority = 1\nfrom = \"@guests\"\ntable = 5",
            "3:8: no set is called `@guests` (declare it: [sets] guests = { file = \"prefixes.txt\" }, or a list of prefixes)",
        ),
        (
            "[sets]\n\"a b\" = []\n",
            "2:1: `a b` cannot be the name of a set (1 to 32 letters and digits of ASCII, `_` and `-`)",
        ),
        (
            "[sets]\na = \"x.txt\"\n",
            "2:5: a set is a file or a list, not a string (such as { file = \"prefixes.txt\" } or [\"10.0.0.0/8\", \"fd00::/8\"])",
        ),
        ("[sets]\na = { fil = \"x\" }\n", "2:7: a set has no key `fil` (did you mean `file`?)"),
        (
            "[sets]\na = [\"10.0.0.1/8\", 5]\n",
            "2:6: `10.0.0.1/8` has bits set beyond its length (the network is \"10.0.0.0/8\", the address alone \"10.0.0.1\")\n2:20: `sets` takes a string, not an integer (put it in quotes: sets = \"5\")",
        ),
        (
            "[sets]\na = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 1\nfrom = \"@a\"\nfamily = \"ipv6\"\ntable = 5",
            "5:8: this set has no IPv6 address, and the family is \"ipv6\" (take it away, or the line with `family`)",
        ),
        (
            "[sets]\na = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 1\nfrom = \"@a\"\nto = \"fd00::/8\"\ntable = 5",
            "6:6: `from` and `to` share no family: no packet has an IPv4 and an IPv6 address (give both addresses of one family)",
        ),
        (
            "[sets]\na = []\n[[rule]]\npriority = 1\nnot = true\nfrom = \"@a\"\ntable = 5",
            "6:8: this set is empty (`not` of it takes every packet: leave the rule out until the set has members)",
        ),
        (
            "[sets]\na = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 1\nfrom = \"@a\"\nfwmark = 5\ntable = 5",
            "6:10: `fwmark` compares the whole mark here, and a set is told by one of the mark's bits (compare the bits that are meant: fwmark = \"0x5/0xffff\", say)",
        ),
        (
            "[sets]\na = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 1\nfrom = \"@a\"\ntable = 5\n[[rule]]\npriority = 2\nfwmark = 0\ntable = 5",
            "9:10: `fwmark` 0 without a mask takes packets whose whole mark is 0, which no packet of a set has (line 3) (compare the bits that are meant: fwmark = \"0/0xffff\", say)",
        ),
        (
            "[sets]\na = [\"10.0.0.0/8\"]\n[[route]]\nto = \"@a\"\ndev = \"eth0\"",
            "4:6: `@a` is no address and no prefix (such as \"10.0.0.0/8\", \"fd00::/8\" or one address)",
        ),
        (
            "[router]\nmark_bits = 0x3\n[sets]\na = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 1\nfrom = \"@a\"\nfwmark = \"1/1\"\ntable = 5",
            "8:10: the mask 0x1 of `fwmark` (line 8) shares bits 0x1 with mark_bits 0x3 (line 2) (change mark_bits on line 2, or this)",
        ),
    ] {
        assert_eq!(errors(text), format!("{expected}\n"), "{text}");
    }
    let warned = "[sets]\nunused = [\"10.0.0.0/8\"]\na = []\nb = [\"10.0.0.0/8\"]\n[[rule]]\npriority = 1\nfrom = \"@a\"\nto = \"@b\"\ntable = 5\n[[rule]]\npriority = 2\nfwmark = 7\ntable = 5";
    assert_eq!(
        warnings(warned),
        "2:1: no rule and no mark names the set `unused` (write from = \"@unused\", or take it away)
7:8: this set is empty: no packet has an address in it
12:10: packets whose whole mark is 0x7 are in no set (line 5): they keep that mark (if that is not meant, compare bits: fwmark = \"0x7/0xffff\", say)
"
    );
}

/// The rules of a policy once each use of a set has a bit: the highest for the first.
fn bound(text: &str) -> Policy {
    let policy = accepted(text).policy;
    let bits = policy.set_uses().into_iter().zip((0..32).rev().map(|bit| 1 << bit)).collect();
    policy.with_set_bits(&bits, &[7].into())
}

fn bound_rules(text: &str) -> String {
    crate::model::display_rules(&bound(text).rpdb().cloned().collect::<Vec<_>>())
}

const SETS: &str = "[sets]\na = [\"10.0.0.0/8\", \"fd00::/8\"]\nb = [\"192.0.2.0/24\"]\n";

#[test]
fn a_set_becomes_a_bit_beside_the_other_selectors() {
    let rule = |text: &str| bound_rules(&format!("{SETS}[[rule]]\npriority = 10\ntable = 100\n{text}"));
    assert_eq!(
        rule("from = \"@a\""),
        "ipv4 priority 10 from all fwmark 0x80000000/0x80000000 lookup 100\nipv6 priority 10 from all fwmark 0x80000000/0x80000000 lookup 100\n"
    );
    assert_eq!(
        rule("from = \"@a\"\nto = \"@b\"\niif = \"eth1\"\nfwmark = \"0x10/0xf0\"\nnot = true"),
        "ipv4 priority 10 not from all fwmark 0xc0000010/0xc00000f0 iif eth1 lookup 100\n"
    );
    assert_eq!(
        rule("from = [\"@a\", \"172.16.0.0/12\"]"),
        "ipv4 priority 10 from all fwmark 0x80000000/0x80000000 lookup 100\nipv4 priority 10 from 172.16.0.0/12 lookup 100\nipv6 priority 10 from all fwmark 0x80000000/0x80000000 lookup 100\n"
    );
    assert_eq!(
        rule("to = [\"@b\", \"172.16.0.0/12\"]\nnot = true"),
        "ipv4 priority 10 from all fwmark 0x80000000/0x80000000 goto 11\nipv4 priority 10 from all to 172.16.0.0/12 goto 11\nipv4 priority 10 from all lookup 100\nipv4 priority 11 from all nop\n"
    );
}

#[test]
fn marks_of_sets_come_behind_all_others() {
    let text = format!(
        "{SETS}[[mark]]\nfrom = \"@a\"\nset = \"1/0xf\"\nfamily = \"ipv4\"\n[[rule]]\npriority = 10\nto = \"@b\"\ntable = 100\n"
    );
    let policy = bound(&text);
    let marks: Vec<String> = policy
        .marks
        .iter()
        .map(|mark| {
            let MarkRule { family, statement, selectors, value, mask, membership } = &mark.rule;
            let names =
                |set: &Option<crate::model::AddressSet>| set.as_ref().map_or("-".to_owned(), ToString::to_string);
            let (from, to) = (names(&selectors.from_set), names(&selectors.to_set));
            format!("{family} {statement} {from} {to} {:?} {value:#x}/{mask:#x} {membership}", selectors.fwmark)
        })
        .collect();
    assert_eq!(
        marks,
        [
            "ipv4 0 @a - None 0x1/0xf false",
            "ipv4 1 - - None 0x0/0x80000000 true",
            "ipv6 1 - - None 0x0/0x80000000 true",
            "ipv4 2 - - Some((7, 4294967295)) 0x0/0x0 true",
            "ipv4 2 - @b None 0x80000000/0x80000000 true",
        ]
    );
    // Without a rule that names one, there is nothing to set.
    assert_eq!(accepted(&text.replace("@b", "10.0.0.0/8")).policy.set_uses(), [].into());
}

/// A set hides nothing and is hidden like any other selector.
#[test]
fn reach_does_not_take_a_set_for_everything() {
    let sets = "[sets]\na = [\"10.0.0.0/8\"]\n[tables]\nx = { id = 100, strict = true }\n";
    let rule = |priority: u32, from: &str| {
        format!("[[rule]]\npriority = {priority}\n{from}\nfamily = \"ipv4\"\ntable = \"x\"\n")
    };
    let two = |first: &str, second: &str| warnings(&format!("{sets}{}{}", rule(10, first), rule(20, second)));
    assert_eq!(two("from = \"@a\"", "to = \"10.0.0.0/8\""), "");
    assert_eq!(two("from = \"@a\"", "to = \"@a\""), "");
    assert!(two("from = \"@a\"", "from = \"@a\"").contains("no packet reaches this rule"));
    assert!(two("iif = \"eth1\"", "iif = \"eth1\"\nfrom = \"@a\"").contains("no packet reaches this rule"));
}

/// A rule of the file reads as it is written, whatever the folder.
#[test]
fn standard_input_names_files_from_the_working_directory() {
    let folder = folder(&[("a.txt", b"10.0.0.0/8\n")]);
    let text = format!("[sets]\na = {{ file = \"{}/a.txt\" }}\n{RULE}", folder.path().display());
    assert_eq!(accepted(&text).policy.sets[0].count, 1);
    let relative = format!("[sets]\na = {{ file = \"Cargo.toml\" }}\n{RULE}");
    assert!(errors(&relative).contains("Cargo.toml:1:1: "), "the tests' working directory is that of the crate");
    let Err(rejected) = parse_in(folder.path(), "p", &relative, &TableNames::default()) else { panic!("accepted") };
    assert!(rejected.to_string().contains("no such file"), "{rejected}");
}
