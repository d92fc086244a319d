//! What stands between: hooks of netfilter that the kernel lists, flowtables, and the two ways of attaching.

use crate::tools::{made, tool, tools};
use crate::{bed, made};
use anyhow::{Result, ensure};
use std::time::Duration;
use wayfork::kernel::{ForeignPrograms, survey};
use wayfork::lab::needs::{self, Since};
use wayfork::safety::{Facts, HookPoint};
use wayfork_tests::{Bed, POLICY, eventually};

/// TCX came with this kernel.
const TCX: (u32, u32) = (6, 6);

fn facts(bed: &Bed) -> Result<Facts> {
    Ok(bed.lab.inside("router", || Ok(survey(ForeignPrograms::default())))?)
}

fn why(bed: &Bed, device: &str) -> Result<(String, String)> {
    let interface = bed.interface(device)?;
    let text = |key: &str| interface[key].as_str().unwrap_or_default().to_owned();
    Ok((text("may"), text("why")))
}

#[test]
fn the_kernel_lists_the_hooks_of_devices_and_families() -> Result<()> {
    let bed = bed!();
    let Some(before) = facts(&bed)?.hooks else {
        return Ok(needs::left_out(
            "the dump of netfilter hooks (CONFIG_NETFILTER_NETLINK_HOOK)",
            Since::Configured(6, 12),
        )?);
    };
    // AppArmor has hooks in every namespace.
    let others = before.iter().find(|hook| !hook.function.starts_with("apparmor"));
    ensure!(others.is_none(), "a fresh namespace has no hooks: {before:?}");
    tool(&bed, "router", "nft add table netdev fence")?;
    tool(
        &bed,
        "router",
        "nft add chain netdev fence in { type filter hook ingress device \"lan0\" priority 0 ; policy accept ; }",
    )?;
    // What conntrack registers belongs to no chain, and only this list shows it: it does so as soon as any rule asks for a connection,
    // in a chain that no packet comes to as well.
    tools(
        &bed,
        "router",
        &[
            "nft add table ip track",
            "nft add chain ip track apart",
            "nft add rule ip track apart ct state established accept",
        ],
    )?;
    let facts = facts(&bed)?;
    ensure!(facts.doubts.is_empty(), "{:?}", facts.doubts);
    let hooks = facts.hooks.unwrap_or_default();
    let ingress = hooks.iter().find(|hook| hook.hook == HookPoint::Ingress);
    ensure!(ingress.is_some_and(|hook| hook.device.as_deref() == Some("lan0")), "{hooks:?}");
    ensure!(hooks.iter().any(|hook| hook.function == "ipv4_conntrack_in" && hook.chain.is_none()), "{hooks:?}");

    let daemon = bed.run("auto", POLICY)?;
    for (device, part) in [("lan0", "chain netdev fence/in"), ("eth1", "the netfilter hook ipv4_")] {
        let (may, reason) = why(&bed, device)?;
        ensure!(may != "redirect" && reason.contains(part), "{device} {may}: {reason}");
    }
    tool(&bed, "router", "nft delete table ip track")?;
    eventually(Duration::from_secs(10), "eth1 may redirect again", || Ok(why(&bed, "eth1")?.0 == "redirect"))?;
    ensure!(why(&bed, "lan0")?.0 != "redirect", "the fence still stands at lan0");
    tool(&bed, "router", "nft delete table netdev fence")?;
    eventually(Duration::from_secs(10), "lan0 may redirect again", || Ok(why(&bed, "lan0")?.0 == "redirect"))?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn a_flowtable_forbids_redirects_and_traffic_goes_on() -> Result<()> {
    let mut bed = bed!();
    tool(&bed, "router", "nft add table inet fast")?;
    made!(
        bed,
        "flowtables",
        "router",
        "nft add flowtable inet fast f { hook ingress priority 0 ; devices = { lan0 , eth1 } ; }"
    );
    let daemon = bed.run("auto", POLICY)?;
    // Nothing but the flowtable stands against a redirect, nor against a mark.
    let (may, reason) = why(&bed, "lan0")?;
    let parts = ["flowtable inet fast/f would not see a redirected packet", "flowtable inet fast/f routes by itself"];
    ensure!(may == "pass" && parts.iter().all(|part| reason.contains(part)), "{may}: {reason}");
    tools(
        &bed,
        "router",
        &[
            "nft add chain inet fast forward { type filter hook forward priority 0 ; policy accept ; }",
            "nft add rule inet fast forward meta l4proto { tcp , udp } flow add @f",
        ],
    )?;
    for _ in 0..2 {
        // The second time the connections' packets may go around the rules by the flowtable.
        bed.expect("isp2")?;
    }
    tool(&bed, "router", "nft delete table inet fast")?;
    eventually(Duration::from_secs(10), "lan0 may redirect", || Ok(why(&bed, "lan0")?.0 == "redirect"))?;
    bed.warm()?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

#[test]
fn attached_by_what_the_kernel_has_and_gone_afterwards() -> Result<()> {
    let mut bed = bed!();
    let wanted = if needs::release() >= TCX { "tcx" } else { "clsact" };
    let daemon = bed.run("ebpf", POLICY)?;
    for device in ["lan0", "eth0", "eth1"] {
        let interface = bed.interface(device)?;
        ensure!(interface["attached"] == wanted && interface["may"] == "redirect", "{interface}");
    }
    bed.warm()?;
    bed.expect("isp2")?;
    ensure!(daemon.stop()?.success());
    let qdiscs = tool(&bed, "router", "tc qdisc show")?;
    ensure!(!qdiscs.contains("clsact"), "{qdiscs}");
    bed.expect("isp1")?;
    if wanted == "clsact" {
        // A qdisc that was there stays, and so does one that was made for it where somebody else's filter has come meanwhile.
        tool(&bed, "router", "tc qdisc add dev lan0 clsact")?;
        let daemon = bed.run("ebpf", POLICY)?;
        tool(&bed, "router", "tc filter add dev eth0 egress matchall action pass")?;
        ensure!(daemon.stop()?.success());
        let filters = tool(&bed, "router", "tc filter show dev eth0 egress")?;
        let qdiscs = tool(&bed, "router", "tc qdisc show")?;
        ensure!(filters.contains("matchall") && qdiscs.matches("clsact").count() == 2, "{filters}{qdiscs}");
    }
    Ok(())
}

#[test]
fn a_filter_of_another_program_beside_clsact() -> Result<()> {
    let mut bed = bed!();
    // A filter that lets nothing through but what it knows: a redirect may not go around it.
    tool(&bed, "router", "tc qdisc add dev lan0 clsact")?;
    if !made(&bed, "router", "tc filter add dev lan0 ingress matchall action drop")? {
        return Ok(needs::left_out("tc's matchall and its action drop", Since::Configured(6, 1))?);
    }
    let daemon = bed.run("auto", POLICY)?;
    for mode in ["first", "second"] {
        let way = bed.flow("192.168.8.10", wayfork::lab::traffic::Proto::Udp, 9000, 5)?;
        ensure!(way.packets == 0, "{mode}: {way:?} went around a filter that drops everything");
    }
    let (may, reason) = why(&bed, "lan0")?;
    ensure!(may != "redirect", "{may}: {reason}");
    ensure!(daemon.stop()?.success());
    let filters = tool(&bed, "router", "tc filter show dev lan0 ingress")?;
    ensure!(filters.contains("matchall"), "another's filter stays: {filters}");
    Ok(())
}
