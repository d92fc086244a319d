//! Sets, by real packets and as nft lists them.

use super::*;
use crate::model::{AddressSet, PrefixSet};
use std::net::IpAddr;
use std::sync::Arc;

const BIT: u32 = 0x8000_0000;

fn set(prefixes: &[&str]) -> AddressSet {
    let members = PrefixSet::new(prefixes.iter().map(|text| text.parse().expect("a prefix")));
    AddressSet { name: "guests".into(), members: Arc::new(members) }
}

/// What a policy makes of a set: the bit taken away, then set for members, but not for the whole mark 0x77.
fn of_set(set: &AddressSet, to: bool) -> Vec<MarkRule> {
    let rule = |family, statement, selectors, value, mask| MarkRule {
        membership: true,
        ..mark(family, statement, selectors, value, mask)
    };
    let mut marks = Vec::new();
    for family in Family::BOTH {
        let whole = MarkSelectors { fwmark: Some((0x77, u32::MAX)), ..MarkSelectors::default() };
        let member = match to {
            true => MarkSelectors { to_set: Some(set.clone()), ..MarkSelectors::default() },
            false => MarkSelectors { from_set: Some(set.clone()), ..MarkSelectors::default() },
        };
        marks.push(rule(family, 1, MarkSelectors::default(), 0, BIT));
        marks.push(rule(family, 2, whole, 0, 0));
        marks.push(rule(family, 2, member, BIT, BIT));
    }
    marks
}

fn packet(from: &str, to: &str) -> Packet {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Packet { from: address(from), to: address(to), ..Packet::default() }
}

/// Notes the marks that packets leave prerouting with. Of the hooks of one priority the one that came first is asked last
/// (`nf_hook_entries_grow`), so this comes before ours.
fn watch() -> Tun {
    nft("add table inet seen");
    nft("add set inet seen marks { type mark; }");
    nft("add chain inet seen before { type filter hook prerouting priority -300; }");
    nft("add chain inet seen after { type filter hook prerouting priority 2147483647; }");
    nft("add rule inet seen after iifname tun0 ip daddr 224.0.0.0/4 accept");
    nft("add rule inet seen after iifname tun0 ip6 daddr ff00::/8 accept");
    nft("add rule inet seen after iifname tun0 add @marks { meta mark }");
    Tun::open("tun0")
}

/// Sends each packet and says which mark it leaves prerouting with.
fn bits_of(tun: &mut Tun, before: u32, packets: &[Packet]) -> Vec<u32> {
    nft("flush chain inet seen before");
    nft(&format!("add rule inet seen before meta mark set {before}"));
    packets.iter().map(|packet| seen(tun, packet)).collect()
}

#[test]
fn the_bit_says_who_is_in_the_set() {
    let guests = set(&["10.1.0.0/16", "10.3.0.7/32", "0.0.0.1/32", "255.255.255.0/24", "fd01::/16", "ffff::/16"]);
    testing::in_namespace(move || {
        let mut tun = watch();
        set_marks(&of_set(&guests, false), 7).expect("set");
        assert_eq!(mark_chain().expect("read"), Some(7));
        let cases = [
            ("10.0.255.255", 0),
            ("10.1.0.0", BIT),
            ("10.1.255.255", BIT),
            ("10.2.0.0", 0),
            ("10.3.0.6", 0),
            ("10.3.0.7", BIT),
            ("10.3.0.8", 0),
        ];
        for (from, bit) in cases {
            assert_eq!(bits_of(&mut tun, 0x5, &[packet(from, "10.9.9.9")]), [0x5 | bit], "{from}");
        }
        for (from, bit) in
            [("fd00:ffff::1", 0), ("fd01::", BIT), ("fd01:ffff:ffff:ffff:ffff:ffff:ffff:ffff", BIT), ("fd02::", 0)]
        {
            assert_eq!(bits_of(&mut tun, 0x5, &[packet(from, "fd09::9")]), [0x5 | bit], "{from}");
        }
        // What others wrote into the bit is no membership, and who carries the whole mark of another is left alone.
        assert_eq!(bits_of(&mut tun, 0x5 | BIT, &[packet("10.2.0.0", "10.9.9.9")]), [0x5]);
        assert_eq!(bits_of(&mut tun, 0x77, &[packet("10.1.0.0", "10.9.9.9")]), [0x77]);
        assert_eq!(bits_of(&mut tun, 0x78, &[packet("10.1.0.0", "10.9.9.9")]), [0x78 | BIT]);
        // To the very end of the addresses.
        set_marks(&of_set(&guests, true), 8).expect("replace");
        assert_eq!(bits_of(&mut tun, 0, &[packet("10.1.0.0", "10.9.9.9"), packet("10.9.9.9", "10.1.0.0")]), [0, BIT]);
        assert_eq!(bits_of(&mut tun, 0, &[packet("fd01::1", "fd09::9"), packet("fd09::9", "fd01::9")]), [0, BIT]);
    });
}

/// What is sent from here is routed again by its bit.
#[test]
fn a_packet_of_this_host_is_routed_by_its_bit() {
    let guests = set(&["10.1.0.0/16", "fd01::/16"]);
    testing::in_namespace(move || {
        testing::run("ip", &["link", "set", "lo", "up"]);
        for family in ["-4", "-6"] {
            testing::run("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", "local"]);
            testing::run("ip", &[family, "route", "add", "blackhole", "default", "table", "100"]);
            testing::run(
                "ip",
                &[family, "rule", "add", "priority", "5", "fwmark", "0x80000000/0x80000000", "lookup", "100"],
            );
            testing::run("ip", &[family, "rule", "add", "priority", "10", "lookup", "local"]);
            testing::run("ip", &[family, "rule", "del", "priority", "0"]);
        }
        let sends = |to: &str| {
            let bind = if to.contains('.') { "0.0.0.0:0" } else { "[::]:0" };
            let socket = std::net::UdpSocket::bind(bind).expect("a socket");
            let to: IpAddr = to.parse().expect("an address");
            socket.send_to(b"x", (to, 9)).is_ok()
        };
        for to in ["10.1.2.3", "fd01::3", "10.2.2.3", "fd02::3"] {
            assert!(sends(to), "{to} before");
        }
        set_marks(&of_set(&guests, true), 7).expect("set");
        assert_eq!(["10.1.2.3", "10.2.2.3", "fd02::3"].map(sends), [false, true, true]);
        assert!(!sends("fd01::3"));
    });
}

/// Ranges up to the last address and ranges side by side stay what they are, in nft's own words.
#[test]
fn nft_lists_the_members() {
    let all = set(&["0.0.0.0/1", "128.0.0.0/2", "255.255.255.255/32", "::/0"]);
    testing::in_namespace(move || {
        set_marks(&of_set(&all, false), 7).expect("set");
        let listed = nft("list set inet wayfork ipv4-guests");
        assert!(listed.contains("elements = { 0.0.0.0-191.255.255.255, 255.255.255.255 }"), "{listed}");
        let listed = nft("list set inet wayfork ipv6-guests");
        assert!(listed.contains("elements = { ::/0 }") || listed.contains("elements = { ::-ffff:"), "{listed}");
        let whole = nft("list ruleset");
        for part in [
            "type route hook output priority 2147483647",
            "hook prerouting priority 2147483647",
            "ip saddr @ipv4-guests",
        ] {
            assert!(whole.contains(part), "{part} in {whole}");
        }
        assert!(!whole.contains("chain marks"), "no [[mark]], no chain of theirs: {whole}");
        takes_again(&whole);
    });
}

/// Who knows what is there changes the members; who does not, or finds it changed, replaces everything.
#[test]
fn a_known_set_is_changed_and_not_replaced() {
    let ways = [
        set(&["10.0.0.0/24", "10.0.2.0/24", "fd01::/16"]),
        set(&["10.0.0.0/24", "10.0.3.0/24", "fd01::/16"]),
        set(&["10.0.0.0/23", "fd02::/16", "0.0.0.0/8"]),
        set(&["10.0.0.0/8"]),
        set(&["fd02::/16"]),
    ];
    testing::in_namespace(move || {
        let mut installed = Installed::default();
        let handle = || find(&mut open().expect("open").expect("netfilter")).expect("read").expect("there").handle;
        for (digest, way) in (1..).zip(ways.iter().chain(ways.iter().rev())) {
            let known = digest > 1;
            let before = known.then(handle);
            set_mark_chain(&of_set(way, false), digest, &mut installed).expect("change");
            assert_eq!(mark_chain().expect("read"), Some(digest), "{digest}");
            assert!(before.is_none_or(|before| before == handle()), "the table is the same: {digest}");
            let changed = nft("list ruleset");
            set_marks(&of_set(way, false), digest).expect("set");
            assert!(before.is_none_or(|before| before != handle()), "nothing is known of the old one: {digest}");
            assert_eq!(changed, nft("list ruleset"), "changed or made anew, it is the same: {digest}");
        }
        let before = handle();
        nft("add rule inet wayfork members counter");
        set_mark_chain(&of_set(&ways[0], false), 0x101, &mut installed).expect("replace");
        assert_ne!(handle(), before, "what was changed by hand is replaced");
        assert_eq!(mark_chain().expect("read"), Some(0x101));
        // So is a set that another hand took a member from, which nothing tells beforehand.
        nft("delete element inet wayfork ipv4-guests { 10.0.2.0/24 }");
        set_mark_chain(&of_set(&ways[1], false), 0x102, &mut installed).expect("replace");
        assert_eq!(mark_chain().expect("read"), Some(0x102));
        assert!(nft("list set inet wayfork ipv4-guests").contains("10.0.0.0/24, 10.0.3.0/24"));
    });
}

#[test]
fn a_hundred_thousand_prefixes_fit() {
    let prefixes = (0..100_000_u32).map(|number| {
        let start = std::net::Ipv4Addr::from(0x0a00_0000 + number * 512);
        IpNet::from(ipnet::Ipv4Net::new(start, 24).expect("a prefix"))
    });
    let prefixes: Vec<IpNet> = prefixes.collect();
    let named = |prefixes: &[IpNet]| AddressSet {
        name: "guests".into(),
        members: Arc::new(PrefixSet::new(prefixes.iter().copied())),
    };
    testing::in_namespace(move || {
        let mut tun = watch();
        let mut installed = Installed::default();
        set_mark_chain(&of_set(&named(&prefixes), false), 7, &mut installed).expect("set");
        let from = |number: u32| packet(&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(), "10.9.9.9");
        let packets = [from(0), from(255), from(256), from(512 * 99_999 + 255), from(512 * 99_999 + 256)];
        assert_eq!(bits_of(&mut tun, 0, &packets), [BIT, BIT, 0, BIT, 0]);
        // One less.
        set_mark_chain(&of_set(&named(&prefixes[1..]), false), 8, &mut installed).expect("change");
        assert_eq!(bits_of(&mut tun, 0, &packets), [0, 0, 0, BIT, 0]);
        assert_eq!(mark_chain().expect("read"), Some(8));
    });
}
