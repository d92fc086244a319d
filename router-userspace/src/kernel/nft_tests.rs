use super::*;
use crate::kernel::guard_testing::{self as testing, Packet, Tun, nft};
use crate::model::{Family, MarkSelectors, Ports};
use ipnet::IpNet;
use serde_json::Value;

/// As a process does that knows nothing of what is installed.
fn set_marks(marks: &[MarkRule], digest: u64) -> Result<()> {
    set_mark_chain(marks, digest, &mut Installed::default())
}

fn mark(family: Family, statement: u32, selectors: MarkSelectors, value: u32, mask: u32) -> MarkRule {
    MarkRule { family, statement, selectors, value, mask, membership: false }
}

fn net(text: &str) -> Option<IpNet> {
    Some(text.parse().expect("a prefix"))
}

#[path = "nft_tests/members.rs"]
mod members;

/// Sends each packet into `tun0` and says with which mark it came out of the chain `marks`.
fn marks_of(tun: &mut Tun, before: u32, packets: &[Packet]) -> Vec<u32> {
    nft("add table inet seen");
    nft("add set inet seen marks { type mark; }");
    nft("add chain inet seen before { type filter hook prerouting priority -300; }");
    nft(&format!("add rule inet seen before meta mark set {before}"));
    nft("add chain inet seen after { type filter hook prerouting priority 0; }");
    nft("add rule inet seen after iifname tun0 ip daddr 224.0.0.0/4 accept");
    nft("add rule inet seen after iifname tun0 ip6 daddr ff00::/8 accept");
    nft("add rule inet seen after add @marks { meta mark }");
    let found = packets.iter().map(|packet| seen(tun, packet)).collect();
    nft("delete table inet seen");
    found
}

/// Sends a packet, and the one mark that the set `marks` of the table `seen` notes of it.
fn seen(tun: &mut Tun, packet: &Packet) -> u32 {
    nft("flush set inet seen marks");
    tun.send(packet);
    let seen: Value = serde_json::from_str(&nft("-j list set inet seen marks")).expect("JSON");
    let elements = seen["nftables"][1]["set"]["elem"].as_array().cloned().unwrap_or_default();
    assert_eq!(elements.len(), 1, "one packet, one mark: {packet:?} {seen}");
    u32::try_from(elements[0].as_u64().expect("a mark")).expect("32 bits")
}

/// What nft prints it takes again.
fn takes_again(whole: &str) {
    nft("flush ruleset");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), whole).expect("write");
    nft(&format!("-f {}", file.path().display()));
    assert_eq!(nft("list ruleset"), whole);
}

#[test]
fn every_selector_is_seen_on_real_packets() {
    let v4 = Packet { from: "10.1.2.3".parse().expect("v4"), to: "10.9.8.7".parse().expect("v4"), ..Packet::default() };
    let v6 =
        Packet { from: "fd00:1::3".parse().expect("v6"), to: "fd00:9::7".parse().expect("v6"), ..Packet::default() };
    let any = MarkSelectors::default();
    // (selectors for v4, selectors for v6, a change to the packet that must not match)
    type Case = (&'static str, MarkSelectors, MarkSelectors, fn(&mut Packet));
    let both = |selectors: MarkSelectors| (selectors.clone(), selectors);
    let case = |name, (a, b): (MarkSelectors, MarkSelectors), miss: fn(&mut Packet)| -> Case { (name, a, b, miss) };
    let cases = [
        case(
            "from",
            (
                MarkSelectors { from: net("10.1.0.0/17"), ..any.clone() },
                MarkSelectors { from: net("fd00:1::/31"), ..any.clone() },
            ),
            |p| {
                p.from =
                    if p.from.is_ipv4() { "10.1.128.3".parse().expect("v4") } else { "fd00:2::3".parse().expect("v6") }
            },
        ),
        case(
            "to",
            (
                MarkSelectors { to: net("10.9.8.7/32"), ..any.clone() },
                MarkSelectors { to: net("fd00:9::7/128"), ..any.clone() },
            ),
            |p| p.to = if p.to.is_ipv4() { "10.9.8.6".parse().expect("v4") } else { "fd00:9::6".parse().expect("v6") },
        ),
        case("ipproto", both(MarkSelectors { ipproto: Some(17), ..any.clone() }), |p| p.protocol = 6),
        case("dscp", both(MarkSelectors { dscp: Some((46, 0x3f)), ..any.clone() }), |p| p.dscp = 44),
        case(
            "sport",
            both(MarkSelectors {
                ipproto: Some(17),
                sport: Some(Ports::Range { start: 1000, end: 1000 }),
                ..any.clone()
            }),
            |p| p.sport = 1001,
        ),
        case("masked dscp", both(MarkSelectors { dscp: Some((0x28, 0x38)), ..any.clone() }), |p| p.dscp = 0x30),
        case(
            "masked sport",
            both(MarkSelectors {
                ipproto: Some(17),
                sport: Some(Ports::Masked { value: 0x3e0, mask: 0xfff0 }),
                ..any.clone()
            }),
            |p| p.sport = 1008,
        ),
        case(
            "dport range",
            both(MarkSelectors {
                ipproto: Some(17),
                dport: Some(Ports::Range { start: 1999, end: 2000 }),
                ..any.clone()
            }),
            |p| p.dport = 2001,
        ),
        case(
            "dport without protocol",
            both(MarkSelectors { dport: Some(Ports::Range { start: 1, end: 65534 }), ..any.clone() }),
            |p| p.protocol = 47,
        ),
        case("iif", both(MarkSelectors { iif: Some("tun0".into()), dscp: Some((46, 0x3f)), ..any.clone() }), |p| {
            p.dscp = 0
        }),
        case("fwmark", both(MarkSelectors { fwmark: Some((0x40, 0xf0)), dscp: Some((46, 0x3f)), ..any }), |p| {
            p.dscp = 0
        }),
    ];
    testing::in_namespace(move || {
        let mut tun = Tun::open("tun0");
        for (name, a, b, miss) in cases {
            for (family, selectors, packet) in [(Family::Ipv4, a, v4.clone()), (Family::Ipv6, b, v6.clone())] {
                let rule = mark(family, 0, selectors, 0x20, 0xff);
                set_marks(&[rule], 7).expect("set");
                let packet = Packet { dscp: 46, ..packet };
                let mut other = packet.clone();
                miss(&mut other);
                let found = marks_of(&mut tun, 0x1_0047, &[packet, other]);
                assert_eq!(found[0], 0x1_0020, "{name} {family}: matches, and keeps the bits outside the mask");
                assert_eq!(found[1], 0x1_0047, "{name} {family}: does not match");
            }
        }
        // What the packets above cannot miss by.
        let longer = MarkSelectors { iif: Some("tun00".into()), ..MarkSelectors::default() };
        let shorter = MarkSelectors { iif: Some("tun".into()), ..MarkSelectors::default() };
        let masked = MarkSelectors { fwmark: Some((0x40, 0xff)), ..MarkSelectors::default() };
        for selectors in [longer, shorter, masked] {
            set_marks(&[mark(Family::Ipv4, 0, selectors.clone(), 0x20, 0xff)], 7).expect("set");
            assert_eq!(marks_of(&mut tun, 0x47, std::slice::from_ref(&v4)), [0x47], "{selectors:?}");
        }
    });
}

/// The RPDB's rules see ports in these protocols and nowhere else, and so must the marks.
#[test]
fn ports_are_those_that_the_kernels_rules_see() {
    let dport = Some(Ports::Range { start: 2000, end: 2000 });
    let any = mark(Family::Ipv4, 0, MarkSelectors { dport, ..MarkSelectors::default() }, 1, 1);
    let icmp = mark(Family::Ipv4, 1, MarkSelectors { ipproto: Some(1), dport, ..MarkSelectors::default() }, 2, 2);
    testing::in_namespace(move || {
        let mut tun = Tun::open("tun0");
        set_marks(&[any, icmp], 7).expect("set");
        assert_eq!(mark_chain().expect("read"), Some(7));
        for (protocol, expected) in [(6, 1), (17, 1), (33, 1), (50, 1), (132, 1), (136, 1), (1, 0), (47, 0), (51, 0)] {
            let packet = Packet { protocol, ..Packet::default() };
            assert_eq!(marks_of(&mut tun, 0, &[packet]), [expected], "protocol {protocol}");
        }
        // AH has them four bytes further on, where this packet has 0 and 16.
        let ah = mark(
            Family::Ipv4,
            0,
            MarkSelectors { dport: Some(Ports::Range { start: 16, end: 16 }), ..MarkSelectors::default() },
            1,
            1,
        );
        set_marks(&[ah], 7).expect("set");
        assert_eq!(marks_of(&mut tun, 0, &[Packet { protocol: 51, ..Packet::default() }]), [1]);
    });
}

#[test]
fn statements_go_on_and_alternatives_do_not() {
    let any = MarkSelectors::default;
    let marks = [
        mark(Family::Ipv4, 0, MarkSelectors { ipproto: Some(17), ..any() }, 0x1, u32::MAX),
        mark(Family::Ipv4, 0, any(), 0x2, u32::MAX),
        mark(Family::Ipv4, 3, MarkSelectors { fwmark: Some((1, u32::MAX)), ..any() }, 0x100, 0xff00),
        mark(Family::Ipv6, 3, any(), 0x6, u32::MAX),
    ];
    testing::in_namespace(move || {
        let mut tun = Tun::open("tun0");
        set_marks(&marks, 7).expect("set");
        let udp = Packet::default();
        let tcp = Packet { protocol: 6, ..Packet::default() };
        let v6 =
            Packet { from: "fd00::1".parse().expect("v6"), to: "fd00::2".parse().expect("v6"), ..Packet::default() };
        assert_eq!(marks_of(&mut tun, 0, &[udp, tcp, v6]), [0x101, 0x2, 0x6]);
    });
}

#[test]
fn nft_lists_it_as_meant() {
    let selectors = MarkSelectors {
        iif: Some("eth1".into()),
        fwmark: Some((0x100, 0xff00)),
        from: net("10.0.0.0/8"),
        to: net("192.0.2.1/32"),
        ipproto: Some(6),
        sport: Some(Ports::Range { start: 1024, end: 65535 }),
        dport: Some(Ports::Range { start: 443, end: 443 }),
        dscp: Some((46, 0x3f)),
        ..MarkSelectors::default()
    };
    testing::in_namespace(move || {
        set_marks(&[mark(Family::Ipv4, 2, selectors, 0x20, 0xff)], 7).expect("set");
        let listed: Value = serde_json::from_str(&nft("-j list ruleset")).expect("JSON");
        let objects = listed["nftables"].as_array().expect("a list");
        let of = |kind: &str| objects.iter().filter_map(|object| object.get(kind)).cloned().collect::<Vec<_>>();
        let chains = of("chain");
        assert_eq!((of("table").len(), chains.len(), of("rule").len()), (1, 2, 2));
        let base = chains.iter().find(|chain| chain["name"] == "marks").expect("base chain");
        assert_eq!(
            (&base["hook"], &base["prio"], &base["policy"]),
            (&"prerouting".into(), &(-150).into(), &"accept".into())
        );
        assert_eq!(of("rule")[0]["expr"], serde_json::json!([{ "jump": { "target": "mark-2" } }]));
        let text = nft("list chain inet wayfork mark-2");
        let whole = nft("list ruleset");
        for part in [
            "iifname \"eth1\" meta mark & 0x0000ff00 == 0x00000100 ip saddr 10.0.0.0/8 ip daddr 192.0.2.1 ip dscp ef",
            "tcp sport 1024-65535 tcp dport 443",
            "0xffffff20 | 0x00000020",
            "return",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        takes_again(&whole);
    });
}

#[test]
fn the_digest_tells_whether_it_is_as_it_was_made() {
    let marks =
        [mark(Family::Ipv4, 0, MarkSelectors::default(), 1, 1), mark(Family::Ipv6, 1, MarkSelectors::default(), 1, 1)];
    testing::in_namespace(move || {
        assert_eq!(mark_chain().expect("read"), None);
        set_marks(&marks, 0x1234_5678_9abc_def0).expect("set");
        assert_eq!(mark_chain().expect("read"), Some(0x1234_5678_9abc_def0));
        // nft reads user data too.
        for digest in [u64::MAX, 0x0001_41ff_0001_41ff, 0x00ff_0000_0000_0000] {
            set_marks(&marks, digest).expect("set");
            assert_eq!(mark_chain().expect("read"), Some(digest));
            assert!(nft("list ruleset").contains("jump mark-1"));
        }
        nft("add table ip foreign");
        nft("add chain ip foreign c");
        nft("add rule ip foreign c counter");
        for tampered in [
            "add rule inet wayfork mark-0 counter",
            "flush chain inet wayfork marks",
            "add chain inet wayfork more",
            "add table inet wayfork { flags dormant; }",
        ] {
            set_marks(&marks, 9).expect("set");
            assert_eq!(mark_chain().expect("read"), Some(9));
            nft(tampered);
            assert_eq!(mark_chain().expect("read"), Some(0), "{tampered}");
        }
        set_marks(&marks[..1], 10).expect("replace");
        assert_eq!(mark_chain().expect("read"), Some(10));
        set_marks(&[], 0).expect("remove");
        assert_eq!(mark_chain().expect("read"), None);
        assert!(nft("list ruleset").contains("table ip foreign"), "another's table stays");
        nft("delete table ip foreign");
        assert_eq!(nft("list ruleset"), "", "nothing is left");
        set_marks(&[], 0).expect("removing nothing is no error");
    });
}

#[test]
fn another_programs_table_of_that_name_stays() {
    let marks = [mark(Family::Ipv4, 0, MarkSelectors::default(), 1, 1)];
    testing::in_namespace(move || {
        assert!(!name_is_taken().expect("read"));
        nft("add table inet wayfork");
        nft("add chain inet wayfork marks { type filter hook prerouting priority 0; }");
        let theirs = nft("list ruleset");
        assert_eq!(mark_chain().expect("read"), None, "it is not ours");
        assert!(name_is_taken().expect("read"));
        let error = set_marks(&marks, 7).expect_err("it is in the way");
        assert_eq!(error.errno(), libc::EEXIST);
        let said = error.to_string();
        assert!(said.contains("another program's") && said.contains("nft delete table inet wayfork"), "{said}");
        set_marks(&[], 0).expect("removing nothing is no error");
        assert_eq!(nft("list ruleset"), theirs);
        nft("delete table inet wayfork");
        set_marks(&marks, 7).expect("the name is free again");
        assert!(!name_is_taken().expect("read"), "our own does not take it from us");
        set_marks(&marks, 8).expect("replace");
        assert_eq!(mark_chain().expect("read"), Some(8));
    });
}

#[test]
fn a_long_list_fits_one_transaction() {
    let marks: Vec<_> = (0..4000_u16)
        .map(|port| {
            let ports = Some(Ports::Range { start: port + 1, end: port + 1 });
            mark(
                Family::Ipv4,
                u32::from(port) / 1000,
                MarkSelectors { ipproto: Some(17), dport: ports, ..MarkSelectors::default() },
                7,
                7,
            )
        })
        .collect();
    testing::in_namespace(move || {
        let mut tun = Tun::open("tun0");
        set_marks(&marks, 5).expect("set");
        assert_eq!(mark_chain().expect("read"), Some(5));
        assert_eq!(marks_of(&mut tun, 0, &[Packet { dport: 4000, ..Packet::default() }]), [7]);
    });
}

#[test]
fn a_refused_transaction_leaves_the_old_table() {
    let good = [mark(Family::Ipv4, 0, MarkSelectors::default(), 1, 1)];
    testing::in_namespace(move || {
        set_marks(&good, 5).expect("set");
        let mut batch = Batch::new("spoil");
        batch.push("the old table", NFT_MSG_DELTABLE, 0, table());
        batch.push("a chain", NFT_MSG_NEWCHAIN, NLM_F_CREATE, base_chain(&BASES[0]));
        let error = batch.commit(&mut open().expect("open").expect("netfilter")).expect_err("no such table any more");
        assert_eq!(
            error.to_string(),
            "spoil nftables table inet wayfork: a chain: No such file or directory (os error 2)"
        );
        assert_eq!(mark_chain().expect("read"), Some(5));
    });
}
