//! Which interfaces, and which of them are left alone whatever else.

use super::*;

fn names(host: &Host, globs: Option<&[&str]>) -> Vec<String> {
    let interfaces = globs.map(|globs| globs.iter().map(|glob| (*glob).to_owned()).collect());
    let settings = RouterSettings { interfaces, ..RouterSettings::default() };
    judge_with(host, &Facts::default(), &settings).interfaces.keys().map(|index| host.link_name(*index)).collect()
}

/// A bridge with a port, a bond with a slave, a macvlan on a lower device, a VLAN on another, a veth pair.
fn crowded() -> Host {
    let mut host = host();
    let mut add = |index: u32, name: &str, kind: &str, master: Option<u32>, lower: Option<u32>| {
        host.links.insert(index, Link { kind: kind.into(), master, lower, ..link(index, name) });
    };
    add(10, "br0", "bridge", None, None);
    add(11, "port", "", Some(10), None);
    add(12, "bond0", "bond", None, None);
    add(13, "slave", "", Some(12), None);
    add(14, "below", "", None, None);
    add(15, "mac0", "macvlan", None, Some(14));
    add(16, "trunk", "", None, None);
    add(17, "trunk.5", "vlan", None, Some(16));
    add(18, "ve0", "veth", None, Some(19));
    add(19, "ve1", "veth", None, Some(18));
    add(20, "off", "", None, None);
    host.links.get_mut(&20).unwrap().v4.forwarding = false;
    host
}

#[test]
fn by_default_all_that_forward_and_have_their_packets_to_themselves() {
    let all = ["eth0", "eth1", "br0", "bond0", "mac0", "trunk", "trunk.5", "ve0", "ve1"];
    assert_eq!(names(&crowded(), None), all);
    let mut v6 = host();
    for link in v6.links.values_mut() {
        link.v4.forwarding = false;
    }
    assert_eq!(names(&v6, None), [""; 0]);
    eth0(&mut v6).v6.force_forwarding = true;
    assert_eq!(names(&v6, None), ["eth0"]);
    v6.settings.all_v6.forwarding = true;
    assert_eq!(names(&v6, None), ["eth0", "eth1"]);
}

#[test]
fn globs_name_them_whatever_they_are() {
    assert_eq!(names(&crowded(), Some(&["eth1", "b*", "nosuch", "off"])), ["eth1", "br0", "bond0", "below", "off"]);
    assert_eq!(names(&crowded(), Some(&[])), [""; 0]);
    assert_eq!(names(&crowded(), Some(&["ve?"])), ["ve0", "ve1"]);
}

#[test]
fn what_an_upper_device_takes_is_left_alone() {
    let host = crowded();
    let settings = RouterSettings { interfaces: Some(vec!["*".into()]), ..RouterSettings::default() };
    let judgement = judge_with(&host, &Facts::default(), &settings);
    for (index, because) in [
        (11, "bridge br0 takes its packets"),
        (13, "bond bond0 takes its packets"),
        (14, "macvlan mac0 takes some of its packets"),
        (1, "it is the loopback interface"),
    ] {
        let interface = &judgement.interfaces[&index];
        assert_eq!((interface.may, interface.why.as_str()), (May::Pass, because));
    }
    assert!(
        judgement
            .interfaces
            .iter()
            .all(|(index, judged)| judged.may == May::Redirect || [1, 11, 13, 14].contains(index))
    );
}

#[test]
fn vrf_and_its_members() {
    let mut host = host();
    host.links.insert(30, Link { kind: "vrf".into(), ..link(30, "red") });
    eth0(&mut host).master = Some(30);
    let settings = RouterSettings { interfaces: Some(vec!["*".into()]), ..RouterSettings::default() };
    let judgement = judge_with(&host, &Facts::default(), &settings);
    assert_eq!(judgement.interfaces[&ETH0].why, "vrf red takes its packets");
    assert_eq!(judgement.interfaces[&30].why, "it is a VRF, which the stack routes into by itself");
    assert_eq!((judgement.interfaces[&ETH0].may, judgement.interfaces[&30].may), (May::Pass, May::Pass));
    eth0(&mut host).master = Some(77);
    let judgement = judge_with(&host, &Facts::default(), &settings);
    assert_eq!(judgement.interfaces[&ETH0].may, May::Pass, "a master that is not known");
}

#[test]
fn other_link_layers() {
    for (arphrd, may) in
        [(1, May::Redirect), (0xfffe, May::Redirect), (512, May::Pass), (519, May::Pass), (32, May::Pass)]
    {
        let mut host = host();
        eth0(&mut host).arphrd = arphrd;
        assert_eq!(judged(&host, &Facts::default()).0, may, "ARPHRD {arphrd}");
    }
}
