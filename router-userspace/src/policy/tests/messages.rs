//! The messages, word for word: they are what a user sees of a mistake.

use super::*;

/// Each text with its errors.
fn golden(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(errors(text), format!("{expected}\n"), "{text}");
    }
}

#[test]
fn of_keys() {
    golden(&[
        (
            "[[rule]]\npriority = 5\niff = \"eth1\"\nlookup = \"main\"",
            "3:1: [[rule]] has no key `iff` (did you mean `iif`?)\n4:1: [[rule]] has no key `lookup` (did you mean `table`?)",
        ),
        (
            "[[rule]]\nprioritty = 5\ntable = 5\ncolour = 1",
            "2:1: [[rule]] has no key `prioritty` (did you mean `priority`?)\n4:1: [[rule]] has no key `colour` ([[rule]] knows name, priority, family, not, iif, oif, fwmark, from, to, tos, dscp, ipproto, sport, dport, flowlabel, uidrange, l3mdev, tun_id, table, action, goto, suppress_prefixlength, suppress_ifgroup)",
        ),
        ("[roter]\n", "1:2: a policy has no section `roter` (did you mean [router]?)"),
        (
            "x = 1\n[rules]\n",
            "1:1: a policy has no section `x` (a policy has [router], [tables], [sets], [[route]], [[mark]] and [[rule]])\n2:2: a policy has no section `rules` (did you mean [[rule]]?)",
        ),
        (
            "[rule]\npriority = 5",
            "1:2: `rule` is a list: double brackets (write [[rule]] on a line of its own, its keys below, once for each rule)",
        ),
        ("[[router]]\n", "1:3: `router` is there once (write [router], single brackets)"),
        ("[[rule]]\npriority = 5\npriority = 6\ntable = 5", "3:1: `priority` is there twice (take one of them away)"),
    ]);
}

#[test]
fn of_syntax() {
    golden(&[
        ("[router]\nmode = auto", "2:8: `auto` is text without quotes (write \"auto\")"),
        (
            "[[rule]]\nfrom = 10.0.0.0/8\nto = [fd00::/8, \"x\"]",
            "2:8: `10.0.0.0/8` is text without quotes (write \"10.0.0.0/8\")\n3:7: `fd00::/8` is text without quotes (write \"fd00::/8\")",
        ),
        ("[router]\nmode =\n", "2:7: the value is missing (such as key = \"value\")"),
        ("[router", "1:8: the table has no end (close it with `]`)"),
        ("a = [", "1:6: the array has no end (close it with `]`)"),
        ("a = \"b\nc = 1", "1:7: the text has no end (close it with a quotation mark on the same line)"),
        ("priority 5", "1:10: a line is a key, `=` and a value (such as priority = 1000; comments begin with #)"),
        (
            "[[rule]] priority = 5",
            "1:10: something follows the header on its line (a header has a line of its own, its keys below)",
        ),
    ]);
}

#[test]
fn of_sections_without_a_slip_of_syntax_are_still_noted() {
    golden(&[(
        "[[rule]]\npriority = 1\ntable = main\nfrom = 7\n\n[[rule]]\nfrom = 7\npriority = 2\ntable = \"nowhere\"",
        "3:9: `main` is text without quotes (write \"main\")\n7:8: `from` takes a string, not an integer (put it in quotes: from = \"7\")",
    )]);
}

#[test]
fn of_types() {
    golden(&[
        (
            "[[rule]]\npriority = \"5\"\nnot = \"yes\"\niif = 5\ntable = 1.5",
            "2:12: `priority` takes a number, not a string (without quotes: priority = 5)\n\
             3:7: `not` takes true or false, not a string (write not = true or not = false, without quotes)\n\
             4:7: `iif` takes a string, not an integer (put it in quotes: iif = \"5\")\n\
             5:9: `table` takes a table, not a fraction (such as table = \"isp2\" or 111)",
        ),
        (
            "[[rule]]\npriority = [1]\ntable = {}\niif = []\nfrom = [[\"10.0.0.0/8\"]]",
            "2:12: `priority` takes one value, not a list\n3:9: `table` takes one value, not a table\n\
             4:7: `iif` is an empty list, so it could never match (give a value, or leave `iif` out to match all)\n\
             5:9: a list inside the list of `from` (give single values)",
        ),
        ("[[rule]]\npriority = -5\ntable = 1", "2:12: `priority` cannot be `-5` (it goes from 0 to 4294967295)"),
        (
            "[[rule]]\npriority = 4294967296\ntable = 1",
            "2:12: `priority` cannot be `4294967296` (it goes from 0 to 4294967295)",
        ),
    ]);
}

#[test]
fn of_addresses() {
    golden(&[
        (
            "[[rule]]\npriority = 1\ntable = 1\nfrom = [\"10.0.0.1/24\", \"fd00::1/64\"]",
            "4:9: `10.0.0.1/24` has bits set beyond its length (the network is \"10.0.0.0/24\", the address alone \"10.0.0.1\")\n\
             4:24: `fd00::1/64` has bits set beyond its length (the network is \"fd00::/64\", the address alone \"fd00::1\")",
        ),
        (
            "[[rule]]\npriority = 1\ntable = 1\nfrom = \"10.0.0.0/8\"\nto = \"fd00::/8\"",
            "5:6: `from` and `to` share no family: no packet has an IPv4 and an IPv6 address (give both addresses of one family)",
        ),
        (
            "[[rule]]\npriority = 1\ntable = 1\nfamily = \"ipv4\"\nfrom = [\"10.0.0.0/8\", \"fd00::/8\"]",
            "5:23: this is no IPv4 address, and the family is \"ipv4\" (take it away, or the line with `family`)",
        ),
        (
            "[[rule]]\npriority = 1\ntable = 1\niif = [\"eth*\", \"sixteencharacter\", \"\", \"a b\"]",
            "4:8: `eth*` cannot be the name of an interface (rules match one name each; give a list of names)\n\
             4:16: `sixteencharacter` cannot be the name of an interface (a name has at most 15 bytes)\n\
             4:36: an empty text cannot be the name of an interface (1 to 15 bytes without blanks, `/` and `:`)\n\
             4:40: `a b` cannot be the name of an interface (1 to 15 bytes without blanks, `/` and `:`)",
        ),
    ]);
}

#[test]
fn of_actions() {
    golden(&[
        (
            "[[rule]]\npriority = 1",
            "1:1: the rule does nothing (add table = \"main\", or action = \"unreachable\", or goto = PRIORITY)",
        ),
        ("[[rule]]\ntable = 1", "1:1: the rule has no priority (add priority = 1000; lower goes first)"),
        (
            "[[rule]]\npriority = 1\ntable = 1\naction = \"prohibit\"",
            "4:1: a rule has one of `table`, `action` and `goto`; this has `table` too (take `table` or `action` away)",
        ),
        (
            "[[rule]]\npriority = 1\naction = \"drop\"",
            "3:10: `action` cannot be `drop` (one of \"blackhole\", \"unreachable\", \"prohibit\", \"nop\")",
        ),
        (
            "[[rule]]\npriority = 1\naction = \"prohibit\"\nsuppress_prefixlength = 0",
            "4:1: `suppress_prefixlength` drops what a table answers, and this rule looks none up (take it away, or give a table)",
        ),
        (
            "[[rule]]\npriority = 9\ngoto = 9",
            "3:8: goto 9 leads back: this rule's own priority is 9 (goto leads forward only, to a higher number)",
        ),
        (
            "[[rule]]\npriority = 9\ntable = 9\n[[rule]]\npriority = 9\ntable = 9\n[[rule]]\npriority = 10\ntable = 9",
            "5:12: the rule on line 1 has priority 9 already (each rule needs its own; 11 is free)",
        ),
        (
            "[[rule]]\npriority = 4294967295\nnot = true\niif = [\"a\", \"b\"]\ntable = 9",
            "2:12: no priority is left behind this rule for `not` with a list (give it a lower number)",
        ),
    ]);
}

#[test]
fn of_tables() {
    golden(&[
        (
            "[tables]\nisp2 = 111\n[[rule]]\npriority = 1\ntable = \"ips2\"",
            "5:9: no table is called `ips2` (did you mean \"isp2\"? Else declare it: [tables] ips2 = NUMBER)",
        ),
        (
            "[[rule]]\npriority = 1\ntable = \"uplink\"\n[[rule]]\npriority = 2\ntable = 0\n[[rule]]\npriority = 3\ntable = \"4294967296\"",
            "3:9: no table is called `uplink` (declare it: [tables] uplink = NUMBER; `check` knows no names of a host's own rt_tables)\n\
             6:9: 0 is no table (tables go from 1 to 4294967295)\n9:9: 4294967296 is no table (tables go from 1 to 4294967295)",
        ),
        (
            "[tables]\nmain = 5\n\"5\" = 6\ne = {}\nf = { id = 7, stric = true }\ng = \"8\"\nh = 0",
            "2:1: `main` is another table on every host (choose another name)\n\
             3:1: `5` cannot be the name of a table (a name is no number and has no blanks)\n\
             4:5: the table has no number (such as { id = 111, strict = true })\n\
             5:15: a table has no key `stric` (did you mean `strict`?)\n\
             6:5: `id` takes a number, not a string (without quotes: id = 8)\n\
             7:5: 0 is no table (tables go from 1 to 4294967295)",
        ),
    ]);
}

#[test]
fn of_selectors() {
    let rule = |line: &str| format!("[[rule]]\npriority = 1\ntable = 1\n{line}");
    for (line, expected) in [
        (
            "dport = [0, 65535, \"9-8\", 70000, \"x\"]",
            "4:10: port 0 and 65535 cannot be matched (ports go from 1 to 65534; a range is \"443-444\", ports under a mask \"0x1000/0xf000\")\n\
             4:13: port 0 and 65535 cannot be matched (ports go from 1 to 65534; a range is \"443-444\", ports under a mask \"0x1000/0xf000\")\n\
             4:20: the range of ports ends before it starts: 9-8 (write \"8-9\")\n\
             4:27: a port has 16 bits (ports go from 1 to 65534; a range is \"443-444\", ports under a mask \"0x1000/0xf000\")\n\
             4:34: `x` is no port and no range (ports go from 1 to 65534; a range is \"443-444\", ports under a mask \"0x1000/0xf000\")",
        ),
        ("ipproto = \"tpc\"", "4:11: `tpc` is no protocol (did you mean \"tcp\"?)"),
        ("ipproto = 0", "4:11: 0 cannot be matched as a protocol (it goes from 1 to 255)"),
        (
            "fwmark = \"0x1g\"",
            "4:10: `0x1g` is no mark (a number of 32 bits, alone or as \"value/mask\", decimal or with 0x: 5324 or \"0x100/0xff00\")",
        ),
        (
            "fwmark = \"5/0\"",
            "4:10: a mask of 0 compares no bit, so every mark matches (leave `fwmark` out to match all)",
        ),
        ("tos = 0x10\ndscp = 4", "5:8: a rule has `tos` or `dscp`, not both (keep `dscp`)"),
        (
            "tos = 0xb8",
            "4:7: IPv4 compares only the bits 0x1c of `tos`, and 0xb8 has others (use dscp = 46, or family = \"ipv6\")",
        ),
        ("tos = 0x11", "4:7: 0x11 has ECN bits set, which are no part of the TOS (without them it is 0x10)"),
        ("dscp = 64", "4:8: no such DSCP (0 to 63, a name such as \"ef\", or \"value/mask\")"),
        (
            "uidrange = \"9-8\"",
            "4:12: 9-8 is no range of user ids (user ids go from 0 to 4294967294; a range is \"1000-1999\")",
        ),
        ("l3mdev = true", "3:1: with `l3mdev` the VRF names the table (take `table` away)"),
        ("name = \"\"", "4:8: an empty text cannot be a name (1 to 64 characters on one line)"),
    ] {
        assert_eq!(errors(&rule(line)), format!("{expected}\n"), "{line}");
    }
}

#[test]
fn of_marks() {
    golden(&[
        (
            "[[mark]]\ndport = 80\nset = \"0x100/0xff\"",
            "2:9: ports need a protocol (add ipproto = \"tcp\", or [\"tcp\", \"udp\"])\n\
             3:7: 0x100 has bits outside of its mask 0xff (write \"0x100/0x1ff\" to set them, or \"0x0/0xff\")",
        ),
        (
            "[[mark]]\nipproto = [\"tcp\", \"icmp\"]\nsport = 5",
            "1:1: this [[mark]] sets nothing (add set = \"0x20/0xff\" (value/mask))\n\
             2:19: protocol icmp has no ports (tcp, udp, sctp, dccp and udplite have; take the protocol or the ports away)",
        ),
        ("[[mark]]\nset = \"1/0\"", "2:7: a mask of 0 replaces no bit (such as set = \"0x20/0xff\")"),
    ]);
}

#[test]
fn of_mark_bits() {
    golden(&[
        (
            "[router]\nmark_bits = \"0xff00\"\n[[rule]]\npriority = 1\nfwmark = \"0x1/0x1ff\"\ntable = 1",
            "5:10: the mask 0x1ff of `fwmark` (line 5) shares bits 0x100 with mark_bits 0xff00 (line 2) (write \"0x1/0xff\", or change mark_bits on line 2)",
        ),
        (
            "[router]\nmark_bits = \"0xff00\"\n[[rule]]\npriority = 1\nfwmark = 0x100\ntable = 1",
            "5:10: the mask 0xffffffff of `fwmark` (line 5) shares bits 0xff00 with mark_bits 0xff00 (line 2) (change mark_bits on line 2, or this)",
        ),
        (
            "[router]\nmark_bits = 0xff00\n[[mark]]\nset = 5\nfwmark = 0x100",
            "4:7: the mask 0xffffffff of `set` (line 4) shares bits 0xff00 with mark_bits 0xff00 (line 2) (write \"0x5/0xffff00ff\", or change mark_bits on line 2)\n\
             5:10: the mask 0xffffffff of `fwmark` (line 5) shares bits 0xff00 with mark_bits 0xff00 (line 2) (change mark_bits on line 2, or this)",
        ),
        ("[router]\nmark_bits = 0", "2:13: no bit is set in `mark_bits` (such as \"0xff000000\")"),
        (
            "[router]\nmark_bits = \"1/1\"",
            "2:13: `mark_bits` is a set of bits, without a mask (such as \"0xff000000\")",
        ),
    ]);
    // A whole mark that leaves the bits clear is no conflict.
    policy("[router]\nmark_bits = \"0xff000000\"\n[[rule]]\npriority = 1\nfwmark = 5324\ntable = 1");
}

#[test]
fn of_routes() {
    golden(&[
        ("[[route]]\ndev = \"a\"", "1:1: the route goes nowhere (add to = \"default\", or a prefix)"),
        (
            "[[route]]\nto = \"default\"",
            "1:1: the route has no way out (add via = \"10.0.0.1\", or dev = \"eth1\", or type = \"unreachable\")",
        ),
        (
            "[[route]]\nto = \"default\"\nvia = \"fe80::1\"",
            "3:7: `fe80::1` is a link-local address, there on every link (add dev = \"eth1\")",
        ),
        (
            "[[route]]\nto = \"default\"\nvia = \"learned\"",
            "3:7: a learned gateway needs its device (add dev = \"eth1\": the gateway that DHCP or router advertisements give there)",
        ),
        (
            "[[route]]\nto = \"10.0.0.0/8\"\nvia = \"fd00::1\"",
            "3:7: `via` is IPv6, but `to` is IPv4 (give an IPv4 gateway; if IPv4 by an IPv6 gateway is meant, say family = \"ipv4\")",
        ),
        (
            "[[route]]\nto = \"fd00::/8\"\nvia = \"10.0.0.1\"\nfamily = \"ipv6\"",
            "3:7: `via` is IPv4, but `family` is IPv6 (all addresses of a route are of one family; write one [[route]] for each)",
        ),
        (
            "[[route]]\nto = \"default\"\ntype = \"blackhole\"\ndev = \"x\"\nvia = \"10.0.0.1\"",
            "4:1: a route of type blackhole sends nothing out, so it has no `dev` (take `dev` or `type` away)\n\
             5:1: a route of type blackhole sends nothing out, so it has no `via` (take `via` or `type` away)",
        ),
        (
            "[[route]]\nto = \"default\"\ndev = \"x\"\nnexthops = [{ dev = \"y\" }]",
            "3:1: a route has `nexthops` or `dev`, not both (put `dev` into the next hops)",
        ),
        (
            "[[route]]\nto = \"default\"\nnexthops = [{ weight = 300, dev = \"y\" }, 5, { weigth = 5 }]",
            "3:24: `weight` cannot be `300` (it goes from 1 to 256)\n\
             3:42: a next hop is a table (nexthops = [{ via = \"10.0.0.1\", dev = \"eth1\", weight = 2 }, …])\n\
             3:45: the route has no way out (add via = \"10.0.0.1\", or dev = \"eth1\", or type = \"unreachable\")\n\
             3:47: a next hop has no key `weigth` (did you mean `weight`?)",
        ),
        (
            "[[route]]\nto = \"default\"\ndev = \"x\"\n[[route]]\nto = \"::/0\"\ndev = \"y\"\nmetric = 1024",
            "4:1: line 1 has a route to ::/0 in the same table, of the same metric (give one of them another metric, or one route with nexthops = [{ via, dev, weight }])",
        ),
        (
            "[[route]]\nto = \"default\"\nvia = \"10.0.0.1\"\nonlink = true",
            "4:10: `onlink` is about a gateway on a device: `via` and `dev` (give both, or take `onlink` away)",
        ),
    ]);
}

#[test]
fn of_files_that_are_no_text() {
    let rejected = parse("p.toml", "\u{feff}[router]\nmode = \"x\"", &TableNames::default()).unwrap_err();
    assert_eq!(lines(&rejected.errors), "2:8: `mode` cannot be `x` (one of \"auto\", \"ebpf\", \"netlink\")\n");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        load(&path, &TableNames::default()).unwrap_err().errors
    };
    let latin1 = file("latin1", b"[router]\n# ol\xe9\n");
    assert_eq!((latin1[0].line, latin1[0].column), (Some(2), Some(5)));
    assert_eq!(latin1[0].message, "the file is not UTF-8: byte 0xe9 at offset 13");
    let utf16 = file("utf16", b"\xff\xfe[\0r\0");
    assert_eq!(utf16[0].help, "it looks like UTF-16; save it as UTF-8");
    let large = file("large", &vec![b'#'; (LARGEST + 1) as usize]);
    assert_eq!(large[0].message, "the file is larger than 16 MiB, the most that is read");
    let many = parse("p.toml", &"[[rule]]\n".repeat(500_001), &TableNames::default()).unwrap_err().errors;
    assert_eq!(many[0].message, "the file has more than 500000 sections");
    let missing = load(&dir.path().join("missing"), &TableNames::default()).unwrap_err().errors;
    assert_eq!(missing[0].message, "cannot read it: no such file or directory");
    assert_eq!(missing[0].line, None);
    let folder = load(dir.path(), &TableNames::default()).unwrap_err().errors;
    assert_eq!(folder[0].message, "cannot read it: is a directory");
}

#[test]
fn of_masks_flow_labels_and_route_types() {
    golden(&[
        (
            "[[rule]]\npriority = 1\ndport = [\"0x1234/0xff00\", \"0/0xff\", \"5/0\"]\ntable = 5",
            "3:10: the port has bits outside of its mask (write \"0x1200/0xff00\")\n\
             3:27: port 0 cannot be matched, under a mask neither (ports go from 1 to 65534; a range is \"443-444\", ports under a mask \"0x1000/0xf000\")\n\
             3:37: a mask of 0 compares nothing (leave `dport` out to match all)",
        ),
        (
            "[[rule]]\npriority = 1\nfrom = \"10.0.0.0/8\"\nflowlabel = 5\ntable = 5",
            "4:13: `flowlabel` is a selector of IPv6, and this is about IPv4 alone (take it away, or the IPv4 addresses and the line with `family`)",
        ),
        (
            "[[rule]]\npriority = 1\nflowlabel = 0x100000\ntable = 5",
            "3:13: no such flow label (a flow label has 20 bits: 0x12345, or \"0x12000/0xff000\")",
        ),
        (
            "[[route]]\nto = \"10.0.0.0/8\"\ntype = \"local\"\nvia = \"10.0.0.1\"",
            "4:1: a route of type local stays on its device, so it has no `via` (take `via` or `type` away)",
        ),
        (
            "[[route]]\nto = \"10.0.0.0/8\"\ntype = \"anycast\"\ndev = \"eth0\"",
            "2:6: `type` is IPv6, but `to` is IPv4 (anycast is IPv6's)",
        ),
        (
            "[[route]]\nto = \"default\"\nnhid = 5",
            "3:8: a next-hop object is of one family, and the route does not say which (add family = \"ipv4\" or family = \"ipv6\")",
        ),
        (
            "[[route]]\nto = \"default\"\ntos = 0x20\ndev = \"eth0\"",
            "3:7: no packet has the TOS 0x20: three bits are compared (0x04 to 0x1c, in steps of 4)",
        ),
    ]);
}

#[test]
fn a_last_resort_in_the_local_table_is_refused() {
    let told = "every packet is looked up in table `local` first: a last resort there lets this host forward nothing \
                (take `strict` away here, and give it to the table that the policy's rules look up)\n";
    for name in ["local", "mine"] {
        let text = format!("[tables]\n{name} = {{ id = 255, strict = true }}\n");
        assert_eq!(errors(&text), format!("2:{}: {told}", name.len() + 25));
        accepted(&text.replace("true", "false"));
    }
}
