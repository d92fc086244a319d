//! Questions to the program in the kernel: every action and every reason to pass, with ifindex and mark in the context.

use crate::packets::{Ip, TCP, both, ipv4, ipv6};
use crate::plan::{Plan, Rule, rule};
use crate::support::*;
use router_common::layout::*;
use router_common::packet::FLOW_CLASS_SHIFT;
use router_common::verdict::{PassReason, Verdict};
use std::time::Duration;
use wayfork::fastpath::{Context, ethernet_frame};

impl Router {
    fn ask(&mut self, packet: &Ip) -> Told {
        self.decision(packet, 0).into()
    }

    fn decision(&mut self, packet: &Ip, mark: u32) -> Decision {
        self.ask_bytes(&packet.bytes(), Context { ifindex: self.lan, mark, gso_size: 0 })
    }

    fn ask_bytes(&mut self, packet: &[u8], context: Context) -> Decision {
        self.fast.probe(packet, context).expect("an answer of the probe")
    }

    /// The answer about both families.
    fn all(&mut self, told: &Told) {
        for packet in both() {
            assert_eq!(&self.ask(&packet), told, "{packet:?}");
        }
    }
}

#[test]
fn redirect_tells_everything_about_the_way() {
    in_a_namespace(|| {
        let mut router = Router::new();
        for (packet, gateway) in [(ipv4(), "10.0.0.1"), (ipv6(), "fe80::1")] {
            let decision = router.decision(&packet, 0x77);
            assert_eq!(Told::from(decision), Told::Redirect(router.wan));
            assert_eq!(decision.verdict, Verdict::Forward as u8);
            assert_eq!((decision.table, decision.rule, decision.mark), (TABLE, 0, 0x77));
            assert_eq!(decision.via, wayfork::compile::words::addr(addr(gateway)));
        }
    });
}

#[test]
fn the_probe_counts_nothing() {
    in_a_namespace(|| {
        let mut router = Router::new();
        router.all(&Told::Redirect(router.wan));
        assert_eq!(router.ask(&ipv4().ttl(1)), Told::Pass(PassReason::Ttl));
        assert_eq!(router.fast.rule_counters(), vec![wayfork::fastpath::Counter::default()]);
        assert!(router.fast.pass_counters().unwrap().iter().all(|(_, counter)| counter.packets == 0));
    });
}

#[test]
fn it_decides_only_while_active_and_leased() {
    in_a_namespace(|| {
        let mut router = Router::new();
        // The first question has the probe verified, which on a slow machine takes longer than the lease.
        router.all(&Told::Redirect(router.wan));
        router.fast.renew_lease(Duration::from_millis(300)).unwrap();
        router.all(&Told::Redirect(router.wan));
        std::thread::sleep(Duration::from_millis(320));
        router.all(&Told::Pass(PassReason::LeaseExpired));
        router.fast.renew_lease(Duration::from_secs(60)).unwrap();
        router.all(&Told::Redirect(router.wan));
        router.fast.renew_lease(Duration::ZERO).unwrap();
        router.all(&Told::Pass(PassReason::LeaseExpired));
        router.fast.renew_lease(Duration::from_secs(60)).unwrap();
        router.fast.suspend().unwrap();
        assert!(!router.fast.is_active());
        router.all(&Told::Pass(PassReason::Resync));
        router.change(|_| ());
        router.all(&Told::Redirect(router.wan));
    });
}

#[test]
fn interfaces() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let (lan, wan) = (router.lan, router.wan);
        let unknown = router.admin.index("lan0").unwrap();
        let context = Context { ifindex: unknown, mark: 0, gso_size: 0 };
        let told = router.ask_bytes(&ipv4().bytes(), context).into();
        assert_eq!(Told::Pass(PassReason::UnknownInterface), told);
        router.change_link(lan, |link| link.may = MAY_PASS);
        router.all(&Told::Pass(PassReason::InterfacePass));
        router.change_link(lan, |link| link.may = MAY_REDIRECT);
        router.change_link(lan, |link| link.flags &= !LINK_FORWARDS4);
        assert_eq!(router.ask(&ipv4()), Told::Pass(PassReason::ForwardingOff));
        assert_eq!(router.ask(&ipv6()), Told::Redirect(wan));
        router.change_link(lan, |link| link.flags ^= LINK_FORWARDS4 | LINK_FORWARDS6);
        assert_eq!(router.ask(&ipv4()), Told::Redirect(wan));
        assert_eq!(router.ask(&ipv6()), Told::Pass(PassReason::ForwardingOff));
        router.change_link(lan, |link| link.flags |= LINK_FORWARDS6);
        router.change_link(wan, |link| link.flags &= !LINK_EGRESS);
        router.all(&Told::Pass(PassReason::EgressInterface));
    });
}

#[test]
fn frames() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let context = Context { ifindex: router.lan, mark: 0, gso_size: 0 };
        for packet in both() {
            let good = ethernet_frame(LAN_MAC, &packet.bytes());
            let mut told = |change: fn(&mut Vec<u8>)| {
                let mut frame = good.clone();
                change(&mut frame);
                Told::from(router.fast.probe_frame(&frame, context).unwrap())
            };
            assert_eq!(told(|frame| frame[5] ^= 0x40), Told::Pass(PassReason::NotForThisHost));
            assert_eq!(told(|frame| frame[..6].fill(0xff)), Told::Pass(PassReason::NotForThisHost));
            assert_eq!(told(|frame| frame[0] |= 1), Told::Pass(PassReason::NotForThisHost));
            assert_eq!(told(|frame| drop(frame.splice(12..12, [0x81, 0, 0, 5]))), Told::Pass(PassReason::Vlan));
            assert_eq!(told(|frame| drop(frame.splice(12..12, [0x88, 0xa8, 0, 5]))), Told::Pass(PassReason::Vlan));
            assert_eq!(told(|frame| frame[12..14].copy_from_slice(&[8, 6])), Told::Pass(PassReason::NotIp));
            assert_eq!(told(|frame| frame[12..14].copy_from_slice(&[0, 9])), Told::Pass(PassReason::NotIp));
            assert_eq!(told(|frame| frame.truncate(frame.len() - 1)), Told::Pass(PassReason::BadHeader));
            assert_eq!(told(|frame| frame.resize(100, 0)), Told::Redirect(router.wan));
            assert_eq!(told(|frame| frame[14] ^= 0xf0), Told::Pass(PassReason::BadHeader));
        }
    });
}

#[test]
fn headers() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let context = Context { ifindex: router.lan, mark: 0, gso_size: 0 };
        let mut bytes = ipv4().bytes();
        bytes[10] ^= 1;
        assert_eq!(Told::from(router.ask_bytes(&bytes, context)), Told::Pass(PassReason::BadHeader));
        let mut bytes = ipv4().bytes();
        bytes[0] = 0x46;
        assert_eq!(Told::from(router.ask_bytes(&bytes, context)), Told::Pass(PassReason::IpOptions));
        for extension in [0, 51, 135] {
            assert_eq!(router.ask(&ipv6().proto(extension)), Told::Pass(PassReason::ExtensionHeader));
        }
        for packet in both() {
            assert_eq!(router.ask(&packet.clone().ttl(1)), Told::Pass(PassReason::Ttl));
            assert_eq!(router.ask(&packet.ttl(2)), Told::Redirect(router.wan));
        }
        for to in ["127.0.0.1", "224.0.0.5", "255.255.255.255", "0.0.0.0"] {
            assert_eq!(router.ask(&ipv4().to(to)), Told::Pass(PassReason::LocalDestination), "{to}");
            assert_eq!(router.ask(&ipv4().from(to)), Told::Pass(PassReason::Source), "{to}");
        }
        for to in ["ff02::1", "fe80::9", "::1", "::"] {
            assert_eq!(router.ask(&ipv6().to(to)), Told::Pass(PassReason::LocalDestination), "{to}");
            assert_eq!(router.ask(&ipv6().from(to)), Told::Pass(PassReason::Source), "{to}");
        }
    });
}

#[test]
fn addresses_of_this_host() {
    in_a_namespace(|| {
        let mut router = Router::new();
        router.change(|generation| {
            let local = |kind| RouteEntry { kind, reason: PassReason::LocalDestination as u8, ..zeroed() };
            // By a rule of its own, before the other; and laid over the other's table.
            generation.rules.insert(0, rule(ACT_TABLE, 255));
            for (prefix, table) in
                [("9.9.9.9/32", 255), ("9.9.8.0/24", TABLE), ("2001:db8:9::/64", 255), ("2001:db8:77::1/128", TABLE)]
            {
                let kind = if table == TABLE { ROUTE_LOCAL_FIRST } else { ROUTE_UNSEEN };
                generation.add_route(table, prefix, local(kind));
            }
            for prefix in ["9.9.9.9/32", "9.9.8.0/24", "9.9.7.0/24"] {
                generation.sources.insert(prefix.parse().unwrap(), SOURCE_DOUBTFUL);
            }
        });
        for (of, inside, outside) in [
            (ipv4(), ["9.9.9.9", "9.9.8.77"], ["9.9.9.8", "9.9.7.1"]),
            (ipv6(), ["2001:db8:9::1", "2001:db8:77::1"], ["2001:db8:9:1::1", "2001:db8:77::2"]),
        ] {
            for addr in inside {
                let told = router.decision(&of.clone().to(addr), 0);
                assert_eq!(Told::from(told), Told::Pass(PassReason::LocalDestination), "{addr}");
                // IPv6 forwards whatever the source.
                let from = if addr.contains(':') { Told::Redirect(router.wan) } else { Told::Pass(PassReason::Source) };
                assert_eq!(router.ask(&of.clone().from(addr)), from, "{addr}");
            }
            for addr in outside {
                assert_eq!(router.ask(&of.clone().to(addr)), Told::Redirect(router.wan), "{addr}");
                assert_eq!(router.ask(&of.clone().from(addr)), Told::Redirect(router.wan), "{addr}");
            }
        }
    });
}

#[test]
fn rules_and_routes() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let set = |router: &mut Router, rules: &[Rule]| router.change(|generation| generation.rules = rules.to_vec());
        let table = |number| rule(ACT_TABLE, number);
        let far = Told::Redirect(router.wan);
        router.change(|generation| {
            let wan = *generation.links.keys().last().unwrap();
            for prefix in ["8.0.0.0/8", "2001:db8::/32"] {
                let kind = |kind, reason: PassReason| RouteEntry { kind, reason: reason as u8, ..zeroed() };
                generation.add_route(1, prefix, kind(ROUTE_BLACKHOLE, PassReason::Resync));
                generation.add_route(2, prefix, kind(ROUTE_UNREACHABLE, PassReason::Resync));
                generation.add_route(3, prefix, kind(ROUTE_PROHIBIT, PassReason::Resync));
                generation.add_route(4, prefix, kind(ROUTE_THROW, PassReason::Resync));
                generation.add_route(5, prefix, kind(ROUTE_UNSEEN, PassReason::Multipath));
                generation.add_route(6, prefix, kind(ROUTE_UNSEEN, PassReason::RouteKind));
                // 0x0100_0006 must not be mistaken for 6, or the other way round.
                generation.add_route(0x0100_0006, prefix, route(wan, None));
            }
        });
        set(&mut router, &[table(77), table(4), table(TABLE)]);
        router.all(&far);
        set(&mut router, &[table(77), table(4)]);
        router.all(&Told::Pass(PassReason::IcmpError));
        set(&mut router, &[]);
        router.all(&Told::Pass(PassReason::IcmpError));
        set(&mut router, &[table(1), table(TABLE)]);
        router.all(&Told::Drop);
        set(&mut router, &[rule(ACT_BLACKHOLE, 0), table(TABLE)]);
        router.all(&Told::Drop);
        for refusing in [table(2), table(3), rule(ACT_UNREACHABLE, 0), rule(ACT_PROHIBIT, 0)] {
            set(&mut router, &[refusing, table(TABLE)]);
            router.all(&Told::Pass(PassReason::IcmpError));
        }
        set(&mut router, &[table(5), table(TABLE)]);
        router.all(&Told::Pass(PassReason::Multipath));
        set(&mut router, &[table(6), table(TABLE)]);
        router.all(&Told::Pass(PassReason::RouteKind));
        set(&mut router, &[table(0x0100_0006), table(TABLE)]);
        router.all(&Told::Pass(PassReason::Neighbour));
        let mut suppressing = table(TABLE);
        suppressing.action.suppress_prefixlength = 0;
        set(&mut router, &[suppressing, table(1)]);
        router.all(&Told::Drop);
        set(&mut router, &[table(TABLE).flags(RULE_UNSEEN)]);
        router.all(&Told::Pass(PassReason::RuleSelector));
        set(&mut router, &[rule(ACT_GOTO, 2), table(1), table(TABLE)]);
        router.all(&far);
        // What no compiler writes: a rule behind which the same rule comes.
        let mut endless = Plan { rules: vec![rule(ACT_NOP, 0)], ..router.generation.clone() }.lay();
        endless.steps.iter_mut().for_each(|step| step.next = 0);
        endless.lists.iter_mut().for_each(|list| list.count = MAX_RULES + 1);
        router.fast.apply(&endless).unwrap();
        router.all(&Told::Pass(PassReason::RuleLimit));
    });
}

#[test]
fn selectors() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let nets = [("192.168.0.0/16", "8.8.8.0/24"), ("2001:db8::/48", "2001:db8:ffff::/48")];
        for (packet, (from, to)) in both().into_iter().zip(nets) {
            let packet = packet.dsfield(0xb8);
            let (from, from_mask) = words_of(from);
            let (to, to_mask) = words_of(to);
            let full = rule(ACT_BLACKHOLE, 0).select(|all| {
                *all = Selectors {
                    flags: SELECT_IPPROTO | SELECT_SPORT | SELECT_DPORT,
                    mark: 0x0500,
                    mark_mask: 0xff00,
                    from,
                    from_mask,
                    to,
                    to_mask,
                    sport: [999, 1000],
                    dport: [53, 53],
                    flow: 0xb8 << FLOW_CLASS_SHIFT,
                    flow_mask: 0xfc << FLOW_CLASS_SHIFT,
                    ipproto: 17,
                    ..zeroed()
                }
            });
            router.change(|generation| generation.rules = vec![full]);
            let mut told = |packet: &Ip, mark| Told::from(router.decision(packet, mark));
            assert_eq!(told(&packet, 0x0512), Told::Drop);
            let refused = Told::Pass(PassReason::IcmpError);
            assert_eq!(told(&packet, 0x0612), refused);
            assert_eq!(told(&packet.clone().dsfield(0), 0x0500), refused);
            assert_eq!(told(&packet.clone().proto(TCP), 0x0500), refused);
            let mut other = packet.clone();
            other.sport = 998;
            assert_eq!(told(&other, 0x0500), refused);
            other.sport = 999;
            assert_eq!(told(&other, 0x0500), Told::Drop);
            other.dport = 54;
            assert_eq!(told(&other, 0x0500), refused);
            let (from, to) =
                if packet.to.is_ipv4() { ("192.169.0.1", "8.8.9.8") } else { ("2001:db8:1::1", "2001:db8:fffe::1") };
            assert_eq!(told(&packet.clone().from(from), 0x0500), refused);
            assert_eq!(told(&packet.clone().to(to), 0x0500), refused);
            router.change(|generation| generation.rules[0].action.flags |= RULE_NOT);
            assert_eq!(Told::from(router.decision(&packet, 0x0500)), refused);
            assert_eq!(Told::from(router.decision(&packet, 0x0600)), Told::Drop);
        }
    });
}

fn words_of(net: &str) -> (AddrWords, AddrWords) {
    wayfork::compile::words::prefix(net.parse().expect("a prefix"))
}

#[test]
fn fragments() {
    in_a_namespace(|| {
        let mut router = Router::new();
        for fragment in [0x2000, 0x0010, 0x2010] {
            let packet = Ip { fragment, ..ipv4() };
            router.change(|generation| generation.fragments = FRAGMENTS_DECIDE);
            assert_eq!(router.ask(&packet), Told::Redirect(router.wan));
            router.change(|generation| generation.fragments = FRAGMENTS_PASS);
            assert_eq!(router.ask(&packet), Told::Pass(PassReason::Fragment));
            assert_eq!(router.ask(&Ip { fragment: 0x4000, ..packet }), Told::Redirect(router.wan));
        }
    });
}

#[test]
fn neighbours_one_by_one() {
    in_a_namespace(|| {
        let mut router = Router::new();
        for (packet, gateway) in [(ipv4(), "10.0.0.1"), (ipv6(), "fe80::1")] {
            let key = wayfork::compile::neighbour_key(router.wan, addr(gateway));
            router.fast.set_neighbour(key, None).unwrap();
            assert_eq!(router.ask(&packet), Told::Pass(PassReason::Neighbour));
            router.fast.set_neighbour(key, Some(NeighbourEntry { mac: [0x0202; 3], usable: 1 })).unwrap();
            assert_eq!(router.ask(&packet), Told::Redirect(router.wan));
        }
        // What apply() writes is compared with what is there by then.
        router.change(|generation| generation.neighbours.clear());
        router.all(&Told::Pass(PassReason::Neighbour));
    });
}

#[test]
fn hairpins() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let lan = router.lan;
        router.change(|generation| {
            for prefix in ["0.0.0.0/0", "::/0"] {
                let gateway = if prefix == "::/0" { "2001:db8::99" } else { "192.168.8.1" };
                generation.add_route(TABLE, prefix, route(lan, Some(gateway)));
                generation.add_neighbour(lan, gateway, HOST_MAC);
            }
            generation.sources.insert("192.168.8.5/32".parse().unwrap(), SOURCE_ONLINK);
        });
        router.all(&Told::Redirect(lan));
        router.change_link(lan, |link| link.flags |= LINK_REDIRECTS4);
        assert_eq!(router.ask(&ipv4()), Told::Pass(PassReason::IcmpRedirect));
        assert_eq!(router.ask(&ipv4().from("10.7.7.7")), Told::Redirect(lan));
        router.change(|generation| generation.add_route(TABLE, "::/0", route(lan, Some("fe80::99"))));
        assert_eq!(router.ask(&ipv6()), Told::Pass(PassReason::IcmpRedirect));
        router.change(|generation| generation.add_route(TABLE, "::/0", route(lan, None)));
        assert_eq!(router.ask(&ipv6()), Told::Pass(PassReason::IcmpRedirect));
    });
}

#[test]
fn mtu_and_gso() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let (lan, wan) = (router.lan, router.wan);
        let far = Told::Redirect(wan);
        let large = Told::Pass(PassReason::Mtu);
        router.change_link(wan, |link| (link.mtu4, link.mtu6) = (1400, 1300));
        assert_eq!(router.ask(&ipv4().length(1400)), far);
        assert_eq!(router.ask(&ipv4().length(1401)), large);
        assert_eq!(router.ask(&ipv6().length(1300)), far);
        assert_eq!(router.ask(&ipv6().length(1301)), large);
        router.change_link(wan, |link| (link.mtu4, link.mtu6) = (1500, 1500));
        let gso = |router: &mut Router, packet: Ip, gso_size| {
            let packet = packet.length(3000).bytes();
            Told::from(router.ask_bytes(&packet, Context { ifindex: lan, mark: 0, gso_size }))
        };
        for (packet, header) in [(ipv4(), 40), (ipv6(), 60)] {
            let tcp = packet.clone().proto(TCP);
            assert_eq!(gso(&mut router, tcp.clone(), 0), large);
            assert_eq!(gso(&mut router, tcp.clone(), 1500 - header), far);
            assert_eq!(gso(&mut router, tcp.clone(), 1501 - header), large);
            let narrow =
                RouteEntry { mtu: 1200, ..route(wan, Some(if header == 40 { "10.0.0.1" } else { "fe80::1" })) };
            router.change(|generation| {
                generation.add_route(TABLE, if header == 40 { "8.8.8.8/32" } else { "2001:db8:ffff::1/128" }, narrow);
            });
            assert_eq!(gso(&mut router, tcp.clone(), 1200 - header), far);
            assert_eq!(gso(&mut router, tcp, 1201 - header), large);
            // What is not TCP the kernel looks at itself, for the device's own MTU.
            assert_eq!(gso(&mut router, packet, 1000), large);
        }
    });
}

#[test]
fn marks() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let lan = router.lan;
        let set = |family, mark, set_value, set_mask| MarkEntry {
            family,
            iif: lan,
            statement: mark,
            selectors: Selectors { mark, mark_mask: u32::MAX, ..zeroed() },
            set_value,
            set_mask,
            ..zeroed()
        };
        router.change(|generation| {
            generation.marks = vec![set(4, 1, 2, 0xff), set(4, 2, 0x44, 0xff), set(6, 1, 6, 0xff)];
            generation.rules.push(rule(ACT_BLACKHOLE, 0));
            generation.rules[0] = generation.rules[0].mark(0, 0x40).flags(RULE_NOT);
        });
        let decision = router.decision(&ipv4(), 1);
        assert_eq!((Told::from(decision), decision.mark), (Told::Redirect(router.wan), 0x44));
        let decision = router.decision(&ipv6(), 1);
        assert_eq!((Told::from(decision), decision.mark), (Told::Drop, 6));

        router.change(|generation| {
            generation.rules[0] = rule(ACT_TABLE, TABLE);
            generation.rules[0].action.mark_class = 0x0500_0000;
            generation.link(lan).may = MAY_MARK;
            generation.mark_bits = 0x0f00_0000;
            generation.marks_in_use = vec![0x99, 0x44];
        });
        assert_eq!(Told::from(router.decision(&ipv6(), 0xff00_0008)), Told::Mark(0xf500_0008));
        assert_eq!(Told::from(router.decision(&ipv4(), 1)), Told::Pass(PassReason::MarkInUse));
        assert_eq!(Told::from(router.decision(&ipv4(), 0x99)), Told::Pass(PassReason::MarkInUse));
        router.change(|generation| generation.rules[0].action.mark_class = 0);
        router.all(&Told::Pass(PassReason::NothingToMark));
        router.change(|generation| generation.rules[0].action.action = ACT_BLACKHOLE);
        router.all(&Told::Pass(PassReason::NothingToMark));
    });
}

#[test]
fn devices_without_ethernet_are_asked_with_a_header_of_zeros() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let _tun = wayfork::kernel::admin::tun("tun", wayfork::kernel::admin::TunKind::Tun, false).unwrap();
        let tun = router.admin.index("tun").unwrap();
        router.change(|generation| {
            let lan = *generation.links.keys().next().unwrap();
            generation.add_link_like(lan, tun, LINK_ETHERNET);
            generation.link(tun).mac = [0; 3];
        });
        for packet in both() {
            let context = Context { ifindex: tun, mark: 0, gso_size: 0 };
            assert_eq!(Told::from(router.ask_bytes(&packet.bytes(), context)), Told::Redirect(router.wan));
        }
    });
}

#[test]
fn a_list_of_100_000_rules_is_followed_to_its_end() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let mut plan = router.generation.clone();
        plan.rules = vec![rule(ACT_BLACKHOLE, 0).mark(1, 1); 99_999];
        plan.rules.push(rule(ACT_TABLE, TABLE));
        let generation = plan.lay();
        assert!(!router.fast.fits(&generation));
        assert!(matches!(router.fast.apply(&generation), Err(wayfork::fastpath::Error::Full)));
        let capacity = wayfork::fastpath::Capacity::of(&generation);
        router.fast = wayfork::fastpath::FastPath::load(capacity).unwrap();
        router.generation = plan;
        router.change(|_| ());
        router.fast.renew_lease(Duration::from_secs(60)).unwrap();
        router.all(&Told::Redirect(router.wan));
        assert_eq!(Told::from(router.decision(&ipv4(), 1)), Told::Drop);
    });
}

#[test]
fn an_answer_takes_less_than_50_microseconds() {
    in_a_namespace(|| {
        let mut router = Router::new();
        let (packet, context) = (ipv4().bytes(), Context { ifindex: router.lan, mark: 0, gso_size: 0 });
        let start = std::time::Instant::now();
        for _ in 0..2000 {
            router.ask_bytes(&packet, context);
        }
        let each = start.elapsed() / 2000;
        let frame = ethernet_frame(LAN_MAC, &packet);
        let (_, run) = router.fast.probe_repeated(&frame, context, 1_000_000).unwrap();
        let frame6 = ethernet_frame(LAN_MAC, &ipv6().bytes());
        let (_, run6) = router.fast.probe_repeated(&frame6, context, 1_000_000).unwrap();
        eprintln!("a question takes {each:?}; the program runs for {run:?} (IPv4), {run6:?} (IPv6)");
        assert!(each < Duration::from_micros(50), "{each:?}");
    });
}
