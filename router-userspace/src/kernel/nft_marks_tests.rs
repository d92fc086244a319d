use super::super::guard_testing::{in_namespace, nft, run};
use super::super::nft_list::ruleset;
use super::*;

/// What is found of a table `t` with these lines.
fn found(lines: &str) -> Vec<Marks> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("table inet t {{\n{lines}\n}}\n")).expect("write");
    nft(&format!("-f {}", file.path().display()));
    let (_, _, mut marks) = ruleset().expect("read");
    nft("delete table inet t");
    assert!(marks.iter().all(|one| one.who.starts_with("nftables chain inet t/")), "{marks:?}");
    marks.sort_by_key(|one| one.what);
    marks.into_iter().map(|one| one.what).collect()
}

fn in_chain(rules: &str) -> Vec<Marks> {
    found(&format!("chain c {{\n{rules}\n}}"))
}

#[test]
fn what_rules_do_with_marks_is_followed() {
    use Marks::{Bits, Unknown, Whole};
    in_namespace(|| {
        for (rule, expected) in [
            ("counter accept", &[][..]),
            ("meta mark 0x10", &[Whole(0x10)]),
            ("meta mark != 0x10 drop", &[Whole(0x10)]),
            ("meta mark & 0xff == 0x10", &[Bits(0xff)]),
            ("meta mark & 0xff00 != 0", &[Bits(0xff00)]),
            ("ct mark 7", &[Whole(7)]),
            ("ct mark & 0xf0 == 0x10", &[Bits(0xf0)]),
            ("meta mark > 5", &[Bits(u32::MAX)]),
            ("meta mark 5-9", &[Bits(u32::MAX)]),
            ("meta mark & 0xf0 > 0x10", &[Bits(0xf0)]),
            ("meta mark { 1, 2, 0x30 }", &[Whole(1), Whole(2), Whole(0x30)]),
            ("meta mark vmap { 1 : accept, 8 : drop }", &[Whole(1), Whole(8)]),
            ("meta mark & 0xf0 vmap { 0x10 : accept }", &[Bits(0xf0)]),
            ("meta mark set 0x20", &[Whole(0x20)]),
            ("meta mark set meta mark & 0xffffff00 | 0x20", &[Bits(0xff)]),
            ("meta mark set meta mark | 0x100", &[Bits(0x100)]),
            ("meta mark set meta mark ^ 0x100", &[Bits(0x100)]),
            // A whole mark that is put by and taken back is nobody's.
            ("meta mark set ct mark", &[]),
            ("ct mark set meta mark", &[]),
            ("meta l4proto udp meta mark 0xca6c ct mark set meta mark", &[Whole(0xca6c)]),
            ("ct mark set meta mark & 0xff00", &[Bits(0xff00)]),
            ("meta mark set ct mark & 0xff", &[Bits(0xff)]),
            ("ct mark set meta mark | 0x100", &[Bits(0x100)]),
            ("meta mark set udp dport map { 53 : 0x5, 80 : 0x6 }", &[Whole(5), Whole(6)]),
            ("meta mark set numgen inc mod 2", &[Unknown]),
            ("meta mark set jhash ip saddr mod 2", &[Unknown]),
        ] {
            assert_eq!(in_chain(rule), expected, "{rule}");
        }
        // One after the other, each by itself; and sets with names.
        assert_eq!(in_chain("meta mark 1 accept\nmeta mark & 0x6 == 2 accept"), [Bits(6), Whole(1)]);
        assert_eq!(
            found("set s { type mark; elements = { 3, 4 }; }\nchain c { meta mark @s accept; }"),
            [Whole(3), Whole(4)]
        );
        assert_eq!(found("set s { type mark; }\nchain c { meta mark @s accept; }"), []);
    });
}

/// Those of iptables that are translated, and those that are not.
#[test]
fn extensions_of_xtables_are_read() {
    use Marks::{Bits, Whole};
    if run_is_missing("iptables-nft") {
        return;
    }
    in_namespace(|| {
        for (rule, expected) in [
            ("-m mark --mark 0x40000/0xff0000", &[Bits(0xff_0000)][..]),
            ("-m mark --mark 0x5", &[Whole(5)]),
            ("-m connmark --mark 0x10/0xf0", &[Bits(0xf0)]),
            ("-j MARK --set-xmark 0x20/0xff", &[Bits(0xff)]),
            ("-j MARK --set-mark 0x20", &[Whole(0x20)]),
            ("-j MARK --or-mark 0x4000", &[Bits(0x4000)]),
            ("-j CONNMARK --save-mark", &[]),
            ("-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", &[Bits(0xff)]),
            ("-j CONNMARK --set-mark 0x7", &[Whole(7)]),
        ] {
            let mut arguments = vec!["-t", "mangle", "-A", "PREROUTING"];
            arguments.extend(rule.split(' '));
            run("iptables-nft", &arguments);
            let (_, _, marks) = ruleset().expect("read");
            assert_eq!(marks.into_iter().map(|one| one.what).collect::<Vec<_>>(), expected, "{rule}");
            run("iptables-nft", &["-t", "mangle", "-F"]);
        }
    });
}

fn run_is_missing(program: &str) -> bool {
    std::process::Command::new(program).arg("--version").output().is_err()
}

proptest::proptest! {
    #[test]
    fn never_panics(expressions: Vec<u8>, elements: Vec<u8>, info: Vec<u8>) {
        if let Ok(found) = Found::within(&expressions) {
            drop(read_rule(&found, &mut Uses::default()));
        }
        drop(read_elements(&elements));
        for name in ["mark", "MARK", "CONNMARK", "connmark", "tcp"] {
            for revision in 0..3 {
                Uses::default().extension(("match", name, revision), &info);
                Uses::default().extension(("target", name, revision), &info);
            }
        }
    }
}
