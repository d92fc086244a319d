//! `wayfork plan` end to end, in a network namespace of its own.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use wayfork::kernel::admin::NewLink;
use wayfork::kernel::netns::Netns;
use wayfork::kernel::{Admin, Kernel, Netlink};
use wayfork::model::{Family, Rule, Selectors};

const POLICY: &str = r#"
[router]
mode = "netlink"

[tables]
isp2 = { id = 111, strict = true }

[[route]]
table = "isp2"
to = "default"
via = "10.0.0.1"
dev = "eth1"

[[route]]
table = "isp2"
to = "192.0.2.0/24"
dev = "wg0"

[[mark]]
iif = "eth1"
family = "ipv4"
set = "0x20/0xff"

[[rule]]
name = "guests"
priority = 1000
iif = "eth1"
family = "ipv4"
table = "isp2"
"#;

/// A namespace with `eth1` up; None, said loudly, where this process may not make one.
fn namespace() -> Option<Netns> {
    if !nix::unistd::geteuid().is_root() {
        // Past the harness's capture.
        std::io::stderr().write_all(b"\nSKIPPED plan end to end: needs root to make network namespaces\n").unwrap();
        return None;
    }
    let namespace = Netns::new().unwrap();
    let links = || {
        let mut admin = Admin::open().unwrap();
        admin.veth(NewLink::named("eth1"), NewLink::named("far1")).unwrap();
        admin.up("eth1").unwrap();
        admin.up("far1").unwrap();
        admin.add_address("eth1", "10.0.0.2/24".parse().unwrap()).unwrap();
    };
    namespace.run(links).unwrap();
    Some(namespace)
}

/// `wayfork ARGS` inside, with the policy on standard input: exit status and standard output.
fn wayfork(namespace: &Netns, arguments: &[&str]) -> (i32, String) {
    wayfork_with(namespace, arguments, POLICY)
}

fn wayfork_with(namespace: &Netns, arguments: &[&str], policy: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfork"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = namespace.spawn(command).unwrap();
    child.stdin.take().unwrap().write_all(policy.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn tells_what_would_change_and_changes_nothing() {
    let Some(namespace) = namespace() else { return };
    let mut kernel = namespace.run(Netlink::open).unwrap().unwrap();
    let rules = kernel.rules().unwrap();

    let (status, json) = wayfork(&namespace, &["plan", "-", "--json", "--exit-code"]);
    assert_eq!(status, 1, "{json}");
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["schema"], 1);
    let told: Vec<(&str, &str, &str, &str)> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let word = |key: &str| item[key].as_str().unwrap();
            (word("op"), word("kind"), word("text"), word("at"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("add", "rule", "1000: from all iif eth1 lookup isp2", "standard input:24"),
            ("add", "route", "default via 10.0.0.1 dev eth1 table isp2", "standard input:8"),
            ("add", "route", "unreachable default table isp2 metric 4294967295", "standard input:6"),
            ("add", "route", "unreachable default table isp2 metric 4294967295", "standard input:6"),
            ("add", "chain", "mark-0: from all iif eth1 set 0x20/0xff", "standard input:19"),
        ]
    );
    assert_eq!(plan["waiting"][0]["reason"], "there is no interface wg0");
    assert!(plan["interfaces"].as_array().unwrap().iter().all(|interface| interface["may"] == "pass"));
    let against = plan["against"].to_string();
    assert!(against.contains("IPv4 packets from eth1 are not forwarded"), "{against}");

    let (status, text) = wayfork(&namespace, &["plan", "-"]);
    assert_eq!(status, 0, "without --exit-code a change is no failure");
    assert!(text.contains("+ ipv4 1000: from all iif eth1 lookup isp2"), "{text}");
    assert!(text.contains("# guests  standard input:24"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours into a pipe");

    let routes = kernel.routes().unwrap();
    assert_eq!(kernel.rules().unwrap(), rules);
    assert!(routes.iter().all(|route| route.table != 111), "{routes:?}");
    assert_eq!(namespace.run(|| Netlink::open().unwrap().mark_chain().unwrap()).unwrap(), None);
}

const WITH_SETS: &str = r#"
[router]
mode = "netlink"

[sets]
guests = ["10.0.0.0/25", "10.0.0.128/26", "10.9.0.1"]

[[rule]]
priority = 1000
from = "@guests"
iif = "eth1"
table = 111
"#;

/// The rule of a set is one with a bit that nobody else uses, and the set has its size.
#[test]
fn tells_of_sets_and_of_their_bits() {
    let Some(namespace) = namespace() else { return };
    let told = |policy: &str| -> (i32, Vec<String>, String) {
        let (status, json) = wayfork_with(&namespace, &["plan", "-", "--json"], policy);
        let plan: Value = serde_json::from_str(&json).unwrap();
        let changes = plan["changes"].as_array().into_iter().flatten();
        let texts = changes.map(|item| format!("{} {}", item["op"].as_str().unwrap(), item["text"].as_str().unwrap()));
        (status, texts.collect(), plan["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let with_bit = |bit: &str| {
        [
            format!("add 1000: from all fwmark {bit}/{bit} iif eth1 lookup 111"),
            format!("add mark-0: from all set 0x0/{bit}"),
            format!("add mark-0: from all set 0x0/{bit}"),
            format!("add mark-1: from @guests (2 ranges) set {bit}/{bit}"),
        ]
    };
    assert_eq!(told(WITH_SETS), (0, with_bit("0x80000000").to_vec(), String::new()));

    // A rule of somebody's takes the highest bit.
    let selectors = Selectors { fwmark: Some((0x8000_0000, 0xc000_0000)), ..Selectors::default() };
    let foreign = Rule { selectors, protocol: 3, ..Rule::lookup(Family::Ipv4, 77, 51) };
    namespace.run(|| Netlink::open().unwrap().add_rule(&foreign).unwrap()).unwrap();
    assert_eq!(told(WITH_SETS), (0, with_bit("0x20000000").to_vec(), String::new()));

    let own = WITH_SETS.replace("mode =", "mark_bits = \"0xc0000000\"\nmode =");
    let (status, _, why) = told(&own);
    let named = "mark_bits 0xc0000000 shares 0xc0000000 with the ipv4 rule `priority 77 from all fwmark 0x80000000/0xc0000000 lookup 51` (owner: boot)";
    assert!(status == 3 && why.starts_with(named), "{status} {why}");
    // So says `run`, and installs nothing.
    let (status, _) = wayfork_with(&namespace, &["run", "-"], &own);
    assert_eq!(status, 3);
    let left = namespace.run(|| Netlink::open().unwrap().rules().unwrap()).unwrap();
    assert!(left.iter().all(|rule| rule.protocol != wayfork::model::OWN_PROTOCOL), "{left:?}");
}
