use crate::compile::tests::{host, link, run};
use crate::compile::{CounterSlots, Input, compile};
use crate::model::{DeviceConf, Family, Host, Link, MarkRule, MarkSelectors};
use router_common::layout::{LINK_EGRESS, LINK_FORWARDS4, LINK_FORWARDS6, LINK_REDIRECTS4, LINK_SRC_VALID_MARK};

/// Both settings, of eth0 and of eth1.
fn flags(change: impl FnOnce(&mut Host)) -> [u32; 2] {
    let mut host = host(vec![], vec![]);
    change(&mut host);
    let links = run(&host).links;
    [0, 1].map(|link: usize| links[link].flags & (LINK_REDIRECTS4 | LINK_SRC_VALID_MARK))
}

#[test]
fn what_is_set_for_all_interfaces_counts_for_each() {
    assert_eq!(flags(|_| {}), [0, 0]);
    assert_eq!(flags(|host| host.settings.all_v4.src_valid_mark = true), [LINK_SRC_VALID_MARK; 2]);
    assert_eq!(flags(|host| host.settings.all_v4.send_redirects = true), [LINK_REDIRECTS4; 2]);
    let own = DeviceConf { src_valid_mark: true, send_redirects: true, ..DeviceConf::default() };
    let of_eth1 = flags(|host| host.links.values_mut().filter(|link| link.index == 2).for_each(|link| link.v4 = own));
    assert_eq!(of_eth1, [0, LINK_REDIRECTS4 | LINK_SRC_VALID_MARK]);
}

#[test]
fn a_mark_for_an_interface_that_is_not_there_matches_nothing() {
    let mark = |iif: &str| {
        let selectors = MarkSelectors { iif: Some(iif.into()), ..MarkSelectors::default() };
        MarkRule { family: Family::Ipv4, statement: 0, selectors, value: 1, mask: 1, membership: false }
    };
    let input = Input { marks: vec![mark("ppp0"), mark("eth1")], ..Input::default() };
    let generation = compile(&host(vec![], vec![]), &input, &mut CounterSlots::default()).expect("fits");
    assert_eq!(generation.marks.iter().map(|mark| mark.iif).collect::<Vec<_>>(), [2]);
}

#[test]
fn what_the_settings_forbid_an_interface() {
    let mut host = host(vec![], vec![]);
    host.settings.all_v6.forwarding = true;
    host.settings.keep_priority = true;
    if let Some(link) = host.links.get_mut(&2) {
        link.v4.forwarding = true;
        link.v6.disabled = true;
    }
    let generation = run(&host);
    assert_eq!(generation.links[0].flags & (LINK_FORWARDS4 | LINK_FORWARDS6), LINK_FORWARDS6);
    assert_eq!(generation.links[1].flags & (LINK_FORWARDS4 | LINK_FORWARDS6), LINK_FORWARDS4, "no IPv6 comes in there");
    assert_eq!(generation.links[1].mtu6, 0, "and none goes out");
    assert_eq!(generation.config.keep_priority, 1);
}

#[test]
fn no_redirect_towards_what_tells_it_from_the_stacks_packets() {
    let mut host = host(vec![], vec![]);
    for (kind, expected) in [("", true), ("veth", true), ("gretap", false), ("ip6erspan", false), ("ifb", false)] {
        host.links.insert(2, Link { kind: kind.into(), ..link(2, "out") });
        assert_eq!(run(&host).links[1].flags & LINK_EGRESS != 0, expected, "{kind}");
    }
}
