//! The bed itself, without Wayfork: a test that passes on a bed that tells nothing would prove nothing.

use crate::bed;
use anyhow::{Result, ensure};
use std::time::Duration;
use wayfork::kernel::Kernel;
use wayfork::lab::traffic::Proto;
use wayfork::model::{Family, Rule, Selectors};
use wayfork_tests::frames::{Packet, Tap};
use wayfork_tests::nft;

#[test]
fn receivers_tell_the_uplink_that_the_stack_took() -> Result<()> {
    let mut bed = bed!();
    bed.expect("isp1")?;
    bed.lab.route_in("router", 111, &["10.0.0.1", "2001:db8:b::1"])?;
    let rule = |family, from: &str| -> Result<Rule> {
        let selectors = Selectors { from: Some(from.parse()?), ..Selectors::default() };
        Ok(Rule { selectors, protocol: 4, ..Rule::lookup(family, 1000, 111) })
    };
    let rules = [rule(Family::Ipv4, "192.168.8.0/24")?, rule(Family::Ipv6, "fd00:8::/64")?];
    let before = bed.snapshot()?;
    bed.kernel(|kernel| rules.iter().try_for_each(|rule| kernel.add_rule(rule)))?;
    ensure!(bed.snapshot()? != before);
    bed.expect("isp2")?;
    Ok(())
}

#[test]
fn the_firewall_drops_what_the_stack_forwards() -> Result<()> {
    let mut bed = bed!();
    bed.expect("isp1")?;
    nft::drop_all_forwarded(&bed.lab, "router")?;
    for family in Family::BOTH {
        assert_eq!(bed.send(family, Proto::Udp, 20)?.packets, 0, "{family}");
    }
    nft::remove(&bed.lab, "router")?;
    bed.expect("isp1")
}

#[test]
fn a_frame_from_a_tap_comes_out_of_another() -> Result<()> {
    let mut bed = bed!();
    bed.expect("isp1")?;
    let (lan, isp) = (Tap::open(&bed.lab, "lan", "eth0")?, Tap::open(&bed.lab, "isp1", "eth0")?);
    let packet = Packet::udp("192.168.8.10", "111.11.1.1", "hello")?;
    let router = bed.lab.inside("router", || wayfork::kernel::Netlink::open()?.links())?;
    let router = router.values().find(|link| link.name == "lan0").and_then(|link| link.mac).unwrap_or_default();
    lan.send(&wayfork_tests::frames::ethernet(router, [2, 0, 0, 0, 0, 1], packet.ethertype(), &packet.bytes()))?;
    let caught = isp.catch(Duration::from_millis(200))?;
    ensure!(caught.len() == 1 && caught[0].0 == "hello", "{caught:?}");
    assert_eq!(caught[0].1[14 + 8], 63, "TTL");
    Ok(())
}
