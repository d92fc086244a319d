//! Long lists in the running kernel: what it answers with jumps over groups and without, and that all of a list is there.

use super::real::{foreign, in_namespace, own, read};
use super::*;
use crate::kernel::admin::write_setting;
use crate::kernel::{Admin, Netlink, RouteQuery};
use crate::mirror::desired::shorten;
use crate::mirror::skips::Shape;
use crate::mirror::spread::spread;
use crate::mirror::{MarkClasses, desired, diff, remove_all};
use crate::model::{Family, RuleAction};
use fastrand::Rng;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Groups of a few rules.
const SMALL: Shape = Shape { run: 4, leaf: 2, largest_leaf: 4, walked: 648, fan: 2, least: 2 };
/// No groups at all.
const FLAT: Shape = Shape { run: usize::MAX, leaf: 0, largest_leaf: 0, walked: 0, fan: 0, least: 0 };
/// Tables with a default route; 114 has none.
const TABLES: [u32; 3] = [111, 112, 113];

/// Makes the namespace of [`in_namespace`] a router that knows [`TABLES`] in both families, and gives the index of `eth0`.
fn router(admin: &mut Admin, kernel: &mut Netlink) -> u32 {
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.eth0.rp_filter", "0"),
    ] {
        write_setting(key, value).unwrap();
    }
    for table in TABLES {
        let policy = read(&format!("[[route]]\ntable = {table}\nto = \"default\"\ndev = \"eth1\"\n"));
        let wish = desired(&policy, &kernel.host().unwrap(), &MarkClasses::default());
        assert_eq!(wish.routes.len(), 2);
        for wanted in wish.routes {
            kernel.add_route(&Route { protocol: 3, ..wanted.item }).unwrap();
        }
    }
    admin.index("eth0").unwrap()
}

fn address(family: Family, offset: u32) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from(0x0a08_0000 + offset).into(),
        Family::Ipv6 => Ipv6Addr::from((0xfd08_u128 << 112) + u128::from(offset)).into(),
    }
}

fn prefix(family: Family, offset: u32, below: u8) -> IpNet {
    let whole = if family == Family::Ipv4 { 32 } else { 128 };
    IpNet::new(address(family, offset), whole - below).unwrap().trunc()
}

/// What a rule of a random list selects by.
#[derive(Clone, Copy, Debug)]
enum By {
    From,
    To,
    Mark,
}

fn select(rule: &mut Rule, by: By, offset: u32, below: u8) {
    match by {
        By::From => rule.selectors.from = Some(prefix(rule.family, offset, below)),
        By::To => rule.selectors.to = Some(prefix(rule.family, offset, below)),
        By::Mark => rule.selectors.fwmark = Some((offset, 0xff)),
    }
}

fn put(kernel: &mut Netlink, rules: &[Rule], shape: &Shape) -> usize {
    let host = kernel.host().unwrap();
    let mut wish = wanting(rules.to_vec(), vec![], vec![]);
    spread(&mut wish.rules, &host, shape);
    shorten(&mut wish.rules, &host, shape);
    let made = wish.rules.iter().filter(|wanted| wanted.item.is_scaffold()).count();
    let way = diff(&wish, &host, None);
    apply(kernel, &way, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"));
    let again = diff(&wish, &kernel.host().unwrap(), None);
    assert!(again.is_empty(), "{:#?}", again.steps);
    made
}

/// What the kernel says of packets that come in: the table that gave a route, and the error.
fn answers(kernel: &mut Netlink, iif: u32, by: By, offsets: &[u32]) -> Vec<(Family, u32, u32, i32)> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let (to, from) = match family {
            Family::Ipv4 => ("198.51.100.9", "10.0.0.7"),
            Family::Ipv6 => ("2001:db8::9", "fd00::7"),
        };
        for offset in offsets {
            let mut query = RouteQuery::to(to.parse().unwrap());
            (query.from, query.iif) = (Some(from.parse().unwrap()), Some(iif));
            match by {
                By::From => query.from = Some(address(family, *offset)),
                By::To => query.to = address(family, *offset),
                By::Mark => query.mark = *offset,
            }
            let answer = kernel.route_get(&query).unwrap();
            all.push((family, *offset, answer.table, answer.errno));
        }
    }
    all
}

/// Whatever rules of others stand among them, the kernel answers with the jumps as without; and so it does after a change.
#[test]
fn the_kernel_answers_as_without_groups() {
    in_namespace(|admin, kernel| {
        let iif = router(admin, kernel);
        let mut rng = Rng::with_seed(7);
        let (mut made, mut moved, mut kinds) = (0, 0, std::collections::BTreeMap::new());
        for round in 0..60 {
            let by = [By::From, By::To, By::Mark][round % 3];
            let mut foreign = Vec::new();
            for _ in 0..rng.u32(0..3) {
                let family = if rng.bool() { Family::Ipv4 } else { Family::Ipv6 };
                let mut rule = Rule { protocol: 3, ..Rule::lookup(family, rng.u32(10..60), TABLES[rng.usize(0..3)]) };
                if rng.bool() {
                    select(&mut rule, by, rng.u32(0..64), rng.u8(0..4));
                }
                rule.action = if rng.u8(0..4) == 0 { RuleAction::Prohibit } else { rule.action };
                kernel.add_rule(&rule).unwrap();
                foreign.push(rule);
            }
            let sorted = rng.bool();
            for _ in 0..2 {
                let mut rules = Vec::new();
                for family in Family::BOTH {
                    let mut offsets: Vec<u32> = (0..40).map(|_| rng.u32(0..64)).collect();
                    if sorted {
                        offsets.sort_unstable();
                    }
                    for (priority, offset) in (10..).zip(offsets) {
                        let table = if rng.u8(0..6) == 0 { 114 } else { TABLES[rng.usize(0..3)] };
                        let mut rule = Rule::lookup(family, priority, table);
                        select(&mut rule, by, offset, rng.u8(0..4));
                        rule.action = if rng.u8(0..9) == 0 { RuleAction::Blackhole } else { rule.action };
                        rules.push(rule);
                    }
                }
                let offsets: Vec<u32> = (0..66).chain([4000]).collect();
                made += put(kernel, &rules, &SMALL);
                let own = own(kernel).0;
                moved += usize::from(rules.iter().any(|rule| !own.contains(rule)));
                let grouped = answers(kernel, iif, by, &offsets);
                assert_eq!(put(kernel, &rules, &FLAT), 0);
                let flat = answers(kernel, iif, by, &offsets);
                assert_eq!(grouped, flat, "round {round}: {}", crate::model::display_rules(&rules));
                for (_, _, table, errno) in flat {
                    *kinds.entry((table, errno)).or_insert(0) += 1;
                }
                // The next list comes to one with jumps.
                put(kernel, &rules, &SMALL);
            }
            remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
            foreign.iter().for_each(|rule| kernel.delete_rule(rule).unwrap());
        }
        assert!(made > 1000 && kinds.len() > 5, "{made} jumps, {kinds:?}");
        assert!(moved > 40, "{moved} lists of 120 got another order");
    });
}

/// A list of one `[[rule]]` in pieces, by the file: the kernel answers for each of its prefixes, and for what is beside them.
#[test]
fn a_list_in_pieces_is_answered_as_the_file_says() {
    in_namespace(|admin, kernel| {
        let iif = router(admin, kernel);
        let untouched = foreign(kernel);
        let offsets: Vec<u32> = (0..200).map(|n| n * 3).collect();
        for left_out in [None, Some(66)] {
            let nets = Family::BOTH.into_iter().flat_map(|family| {
                let there = offsets.iter().filter(|offset| Some(**offset) != left_out);
                there.map(move |offset| format!("\"{}\"", address(family, *offset)))
            });
            let text = format!(
                "[[rule]]\nname = \"many\"\npriority = 1000\nfrom = [{}]\ntable = 112\n[[rule]]\npriority = 1100\ntable = 113\n",
                nets.collect::<Vec<_>>().join(", ")
            );
            let policy = read(&text);
            let host = kernel.host().unwrap();
            let wish = desired(&policy, &host, &MarkClasses::default());
            let way = diff(&wish, &host, None);
            apply(kernel, &way, &mut |_| ControlFlow::Continue(())).unwrap();
            let all: Vec<u32> = (0..601).collect();
            for (family, offset, table, errno) in answers(kernel, iif, By::From, &all) {
                let listed = offset % 3 == 0 && offset < 600 && Some(offset) != left_out;
                assert_eq!((table, errno), (if listed { 112 } else { 113 }, 0), "{family} {offset}");
            }
            let host = kernel.host().unwrap();
            assert!(diff(&desired(&policy, &host, &MarkClasses::default()), &host, None).is_empty());
            // Each piece is known as the file's.
            let (origins, mut priorities) = (policy.origins(&host), std::collections::BTreeSet::new());
            for rule in host.rules.iter().filter(|rule| rule.protocol == OWN_PROTOCOL && !rule.is_scaffold()) {
                let origin = origins.of(rule).unwrap();
                assert_eq!(origin.name.is_some(), rule.action == RuleAction::Table(112), "{rule}");
                priorities.insert(rule.priority);
            }
            assert!(priorities.len() > 10 && priorities.range(..1000).next().is_none(), "{priorities:?}");
        }
        remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((foreign(kernel), own(kernel)), (untouched, (vec![], vec![])));
    });
}

/// Rules in no order, wide ones among them: the kernel answers by the order of the file, whatever place each has got, with another
/// program's rule amid the list too; and each is known as the file's.
#[test]
fn a_list_in_no_order_is_answered_as_the_file_says() {
    in_namespace(|admin, kernel| {
        let iif = router(admin, kernel);
        let untouched = foreign(kernel);
        // Offset, bits below the prefix, table.
        let list: Vec<(u32, u8, u32)> = (0..300u32)
            .map(|place| match place % 50 {
                49 => ((place * 4 % 1024) & !63, 6, 113),
                _ => (place * 77 % 300 * 4, 2, TABLES[place as usize % 2]),
            })
            .collect();
        let rule = |(place, (offset, below, table)): (usize, &(u32, u8, u32))| {
            let nets = Family::BOTH.map(|family| format!("\"{}\"", prefix(family, *offset, *below))).join(", ");
            format!(
                "[[rule]]\nname = \"r{place}\"\npriority = {}\nfrom = [{nets}]\ntable = {table}\n",
                1000 + 2 * place
            )
        };
        let policy = read(&list.iter().enumerate().map(rule).collect::<String>());
        let theirs = Rule { protocol: 3, ..Rule::lookup(Family::Ipv4, 1301, 112) };
        let mut offsets: Vec<u32> = list.iter().flat_map(|(offset, ..)| [*offset, *offset + 3]).chain([5000]).collect();
        offsets.sort_unstable();
        offsets.dedup();
        for cut in [false, true] {
            if cut {
                kernel.add_rule(&theirs).unwrap();
            }
            let host = kernel.host().unwrap();
            let wish = desired(&policy, &host, &MarkClasses::default());
            apply(kernel, &diff(&wish, &host, None), &mut |_| ControlFlow::Continue(())).unwrap();
            for (family, offset, table, errno) in answers(kernel, iif, By::From, &offsets) {
                let before = if cut && family == Family::Ipv4 { 151 } else { list.len() };
                let holds = |(start, below, _): &&(u32, u8, u32)| offset >> below == start >> below;
                let expected = match list[..before].iter().find(holds) {
                    Some((_, _, table)) => *table,
                    None if before < list.len() => 112,
                    None => 254,
                };
                assert_eq!((table, errno), (expected, 0), "{family} {offset}, {cut}");
            }
            let host = kernel.host().unwrap();
            assert!(diff(&desired(&policy, &host, &MarkClasses::default()), &host, None).is_empty());
            let origins = policy.origins(&host);
            let mut moved = 0;
            for rule in host.rules.iter().filter(|rule| rule.protocol == OWN_PROTOCOL && !rule.is_scaffold()) {
                let lowered = origins.of(rule).unwrap();
                assert_eq!(lowered.rule.selectors, rule.selectors);
                assert!(
                    !cut || rule.family == Family::Ipv6 || (rule.priority < 1301) == (lowered.rule.priority < 1301)
                );
                moved += usize::from(lowered.rule.priority != rule.priority);
            }
            assert!(moved > 400, "{moved}");
        }
        remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        kernel.delete_rule(&theirs).unwrap();
        assert_eq!((foreign(kernel), own(kernel)), (untouched, (vec![], vec![])));
    });
}

/// Lists as long as they come, in order and in none: each is all there, group by group, and goes again; one rule is changed.
#[test]
fn a_hundred_thousand_rules() {
    in_namespace(|admin, kernel| {
        let iif = router(admin, kernel);
        // The list goes on behind the rule for main, which is to answer nothing in IPv4.
        let routes = kernel.routes().unwrap();
        let default = |route: &&Route| (route.family, route.table, route.protocol) == (Family::Ipv4, 254, 16);
        kernel.delete_route(routes.iter().find(default).unwrap()).unwrap();
        let untouched = foreign(kernel);
        let list = |count: u32, scattered: bool, other: Option<u32>| -> Vec<Rule> {
            let one = |place: u32| {
                let number = if scattered { (u64::from(place) * 77_773 % u64::from(count)) as u32 } else { place };
                let table = TABLES[(number + u32::from(Some(number) == other)) as usize % 3];
                let mut rule = Rule::lookup(Family::Ipv4, 100 + place, table);
                select(&mut rule, By::From, number, 0);
                rule
            };
            (0..count).map(one).collect()
        };
        for (count, scattered) in [(1000, false), (1000, true), (100_000, false), (100_000, true)] {
            for other in [None, Some(count / 2)] {
                let rules = list(count, scattered, other);
                let mut wish = wanting(rules, vec![], vec![]);
                let host = kernel.host().unwrap();
                let start = std::time::Instant::now();
                spread(&mut wish.rules, &host, &Shape::default());
                shorten(&mut wish.rules, &host, &Shape::default());
                let way = diff(&wish, &host, None);
                let (planned, steps) = (start.elapsed(), way.steps.len());
                let mut calls = 0;
                apply(kernel, &way, &mut |_| {
                    calls += 1;
                    ControlFlow::Continue(())
                })
                .unwrap_or_else(|error| panic!("{error}"));
                eprintln!(
                    "{count} rules, scattered {scattered}: planned {planned:?}, applied {:?}, {steps} steps",
                    start.elapsed()
                );
                assert!(if other.is_some() { steps < 60 } else { calls > count / 300 }, "{steps} steps, {calls} calls");
                assert!(diff(&wish, &kernel.host().unwrap(), None).is_empty());
                // At the ends of all sizes of groups, and beyond the last.
                let ends =
                    (1..).map(|n| n * 16).take_while(|end| *end < count).filter(|end| end % 256 < 32 || count < 5000);
                let offsets: Vec<u32> =
                    ends.flat_map(|end| [end - 1, end]).chain([0, count / 2, count - 1, count]).collect();
                for (family, offset, table, errno) in answers(kernel, iif, By::From, &offsets) {
                    let moved = usize::from(Some(offset) == other);
                    let expected = match family {
                        Family::Ipv4 if offset < count => (TABLES[(offset as usize + moved) % 3], 0),
                        Family::Ipv4 => (0, libc::ENETUNREACH),
                        Family::Ipv6 => (254, 0),
                    };
                    assert_eq!((table, errno), expected, "{family} {offset} of {count}");
                }
            }
            let start = std::time::Instant::now();
            remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
            eprintln!("{count} rules: removed {:?}", start.elapsed());
            assert_eq!((foreign(kernel), own(kernel)), (untouched.clone(), (vec![], vec![])));
        }
    });
}

/// The fast path's marks lead to their tables what comes in with them, and nothing that is made here.
#[test]
fn a_socket_with_a_mark_of_ours_is_spared() {
    in_namespace(|admin, kernel| {
        let iif = router(admin, kernel);
        let untouched = foreign(kernel);
        let classes = MarkClasses { bits: 0xf000_0000, tables: [(111, 0x1000_0000), (112, 0x2000_0000)].into() };
        let policy = read("");
        // Another's rule where the jump is: then there is none.
        let theirs = |family| Rule { protocol: 3, action: RuleAction::Nop, ..Rule::lookup(family, 1, 0) };
        for spared in [true, false, true] {
            if !spared {
                Family::BOTH.iter().for_each(|family| kernel.add_rule(&theirs(*family)).unwrap());
            }
            let host = kernel.host().unwrap();
            let wish = desired(&policy, &host, &classes);
            apply(kernel, &diff(&wish, &host, None), &mut |_| ControlFlow::Continue(())).unwrap();
            let host = kernel.host().unwrap();
            assert!(diff(&desired(&policy, &host, &classes), &host, None).is_empty());
            assert_eq!(crate::mirror::after(&wish, &host).rules, host.rules);
            for family in Family::BOTH {
                let (to, from) = match family {
                    Family::Ipv4 => ("198.51.100.9", "10.0.0.7"),
                    Family::Ipv6 => ("2001:db8::9", "fd00::7"),
                };
                for (mark, table) in [(0x2000_0001, 112), (0x1000_0000, 111), (0x3000_0000, 254), (1, 254)] {
                    let mut query = RouteQuery { mark, ..RouteQuery::to(to.parse().unwrap()) };
                    let here = kernel.route_get(&query).unwrap().table;
                    assert_eq!(here, if spared { 254 } else { table }, "{family} {mark:#x} made here");
                    (query.from, query.iif) = (Some(from.parse().unwrap()), Some(iif));
                    assert_eq!(kernel.route_get(&query).unwrap().table, table, "{family} {mark:#x} from outside");
                }
            }
            if !spared {
                Family::BOTH.iter().for_each(|family| kernel.delete_rule(&theirs(*family)).unwrap());
            }
        }
        remove_all(kernel, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((foreign(kernel), own(kernel)), (untouched, (vec![], vec![])));
    });
}
