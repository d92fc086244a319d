//! `wayfork explain` and `wayfork compare` as scripts use them, in a namespace with two uplinks.

mod compare;

use ipnet::IpNet;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use wayfork::kernel::admin::{NewLink, write_setting};
use wayfork::kernel::{Admin, Kernel, Netlink, Netns};
use wayfork::model::{Family, NextHop, Route, RouteKind, Rule, Selectors};

/// A router: `lan`, `eth0` with the default route, `eth1` with the one of table 111, which serves what comes in by `eth1`
/// and what is marked 0x20.
struct Router {
    netns: Netns,
    _far: Netns,
}

impl Router {
    /// None, said loudly, where that cannot be tested.
    fn new() -> Option<Self> {
        let why = match (nix::unistd::geteuid().is_root(), wayfork::fastpath::EBPF_OBJECT.is_empty()) {
            (false, _) => "needs root to make network namespaces",
            (_, true) => "built without the eBPF object; `cargo xtask test` builds it",
            _ => "",
        };
        if !why.is_empty() {
            let test = std::thread::current().name().unwrap_or("?").to_owned();
            let line = format!("\nSKIPPED {test}: {why}\n");
            std::io::stderr().write_all(line.as_bytes()).expect("standard error");
            return None;
        }
        let router = Router {
            netns: Netns::new().expect("a network namespace"),
            _far: Netns::new().expect("another network namespace"),
        };
        router.netns.run(|| router.build().expect("the router")).expect("a thread inside");
        Some(router)
    }

    fn build(&self) -> wayfork::kernel::Result<()> {
        let mut admin = Admin::open()?;
        write_setting("net.ipv6.conf.default.accept_dad", "0")?;
        // The far ends say nothing by themselves: no solicitations that the router would count.
        self._far.run(|| write_setting("net.ipv6.conf.default.disable_ipv6", "1"))??;
        for (name, addresses, index) in [
            ("lan", ["192.168.8.1/24", "fd08::1/64"], 11),
            ("eth0", ["192.0.2.2/24", "fd00::2/64"], 12),
            ("eth1", ["10.0.0.2/24", "fd01::2/64"], 13),
        ] {
            admin.veth(NewLink::named(name).index(index), NewLink::named(name).inside(self._far.fd()))?;
            for address in addresses {
                admin.add_address(name, address.parse().expect("an address"))?;
            }
            self._far.run(|| Admin::open()?.up(name))??;
            admin.up(name)?;
            write_setting(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
            write_setting(&format!("net.ipv4.conf.{name}.send_redirects"), "0")?;
        }
        for setting in ["rp_filter", "send_redirects"] {
            write_setting(&format!("net.ipv4.conf.all.{setting}"), "0")?;
        }
        write_setting("net.ipv4.ip_forward", "1")?;
        write_setting("net.ipv6.conf.all.forwarding", "1")?;
        for (name, gateway) in [("eth0", "192.0.2.1"), ("eth0", "fd00::1"), ("eth1", "10.0.0.1"), ("eth1", "fd01::1")] {
            admin.set_neighbour(name, gateway.parse().expect("an address"), [2, 0, 0, 0, 0, 1])?;
        }
        let mut kernel = Netlink::open()?;
        for (table, dev, gateway) in
            [(254, 12, "192.0.2.1"), (254, 12, "fd00::1"), (111, 13, "10.0.0.1"), (111, 13, "fd01::1")]
        {
            kernel.add_route(&default_route(table, dev, gateway))?;
        }
        for family in Family::BOTH {
            let from_eth1 = Selectors { iif: Some("eth1".to_owned()), ..Selectors::default() };
            let marked = Selectors { fwmark: Some((0x20, u32::MAX)), ..Selectors::default() };
            for (priority, selectors) in [(1000, from_eth1), (1010, marked)] {
                kernel.add_rule(&Rule { selectors, protocol: 3, ..Rule::lookup(family, priority, 111) })?;
            }
        }
        // The kernel makes link-local addresses, and the local routes of IPv6 addresses, a moment later.
        for _ in 0..500 {
            let host = kernel.host()?;
            let is_local = |addr| host.routes.iter().any(|route| route.table == 255 && route.dst == IpNet::from(addr));
            let own = host.addresses.iter().filter(|address| address.addr.is_ipv6() && address.index != 1);
            if own.clone().count() == 6 && own.clone().all(|address| is_local(address.addr)) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the router's own addresses never came to rest");
    }

    /// Runs `wayfork` inside.
    fn wayfork(&self, arguments: &[&str], input: &[u8]) -> Output {
        self.finish(command(arguments), input)
    }

    fn finish(&self, command: Command, input: &[u8]) -> Output {
        let mut child = self.netns.spawn(command).expect("wayfork starts");
        // It may have ended without reading.
        drop(child.stdin.take().expect("its input").write_all(input));
        child.wait_with_output().expect("wayfork ends")
    }

    /// Standard output as one JSON document, and the exit status.
    fn json(&self, arguments: &[&str], input: &[u8]) -> (Value, Option<i32>) {
        let output = self.wayfork(arguments, input);
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (document, output.status.code())
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfork"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn default_route(table: u32, dev: u32, gateway: &str) -> Route {
    let via: std::net::IpAddr = gateway.parse().expect("an address");
    let family = Family::of(via);
    Route {
        protocol: 3,
        nexthops: vec![NextHop { via: Some(via), dev, weight: 1, ..NextHop::default() }],
        ..Route::to(table, family.default_prefix(), RouteKind::Unicast)
    }
}

#[test]
fn explain_answers_as_the_contract_says_in_both_families() {
    let Some(router) = Router::new() else { return };
    for (to, from, via) in [("111.11.1.1", "10.0.0.8", "10.0.0.1"), ("2001:db8::1", "fd01::8", "fd01::1")] {
        let (document, status) = router.json(
            &[
                "explain",
                to,
                "--iif",
                "eth1",
                "--from",
                from,
                "--ipproto",
                "udp",
                "--sport",
                "1",
                "--dport",
                "2",
                "--json",
            ],
            b"",
        );
        assert_eq!(status, Some(0), "{document:#}");
        assert_eq!(
            (&document["schema"], &document["agree"], &document["scratch"]),
            (&json!(1), &json!(true), &json!(false))
        );
        assert_eq!(
            document["packet"],
            json!({ "iif": "eth1", "from": from, "to": to, "mark": 0, "ipproto": "udp", "sport": 1, "dport": 2, "dscp": 0 })
        );
        let ebpf = &document["ebpf"];
        for (field, value) in [("verdict", json!("forward")), ("action", json!("redirect")), ("oif", json!("eth1"))] {
            assert_eq!(ebpf[field], value, "{document:#}");
        }
        assert_eq!((&ebpf["via"], &ebpf["table"], &ebpf["reason"]), (&json!(via), &json!(111), &Value::Null));
        assert_eq!((&ebpf["rule"]["priority"], &ebpf["mark"]), (&json!(1000), &json!(0)));
        let kernel = &document["kernel"];
        assert_eq!((&kernel["verdict"], &kernel["oif"]), (&json!("forward"), &json!("eth1")));
        assert_eq!((&kernel["via"], &kernel["table"]), (&json!(via), &json!(111)));
        let trail = document["trail"].as_array().expect("a list");
        assert_eq!((&trail[0]["rule"]["priority"], &trail[0]["matched"]), (&json!(0), &json!(true)));
        assert_eq!((&trail[0]["why_not"], &trail[0]["outcome"]), (&Value::Null, &json!("no-route")));
        assert_eq!((&trail[1]["rule"], &trail[1]["outcome"]), (&ebpf["rule"], &json!("route")));
        assert_eq!(trail.len(), 2, "what comes after the route is not tried");
    }
}

#[test]
fn a_pass_has_a_reason_and_nothing_else() {
    let Some(router) = Router::new() else { return };
    // Nobody answers for a host of the LAN: its neighbour entry is not there.
    let (document, status) =
        router.json(&["explain", "192.168.8.9", "--iif", "eth0", "--from", "192.0.2.9", "--json"], b"");
    assert_eq!(status, Some(0));
    let ebpf = &document["ebpf"];
    assert_eq!((&ebpf["action"], &ebpf["reason"]), (&json!("pass"), &json!("neighbour")));
    for field in ["verdict", "oif", "via", "table"] {
        assert_eq!(ebpf[field], Value::Null, "{field}");
    }
    assert_eq!((&document["kernel"]["verdict"], &document["kernel"]["oif"]), (&json!("forward"), &json!("lan")));
    assert_eq!(document["agree"], true);
}

#[test]
fn a_packet_made_here_has_the_kernels_side_alone() {
    let Some(router) = Router::new() else { return };
    let (document, status) = router.json(&["explain", "8.8.8.8", "--mark", "0x20", "--json"], b"");
    assert_eq!(status, Some(0));
    assert_eq!((&document["ebpf"], &document["packet"]["iif"]), (&Value::Null, &Value::Null));
    assert_eq!(document["ebpf_reason"], "made on this host: never passes TC ingress");
    assert_eq!((&document["kernel"]["oif"], &document["kernel"]["table"]), (&json!("eth1"), &json!(111)));
    let text = router.wayfork(&["explain", "8.8.8.8"], b"");
    assert!(String::from_utf8_lossy(&text.stdout).contains("the kernel's side alone: made on this host"));
}

/// A chain of the hook output that marks 0x20, and a count of what leaves by `eth1`.
fn marking(kind: &str) -> String {
    format!(
        "table inet t {{
            counter by_eth1 {{}}
            chain c {{ type {kind} hook output priority mangle; ip daddr 8.8.8.8 meta mark set 0x20; }}
            chain p {{ type filter hook postrouting priority 0; oifname eth1 ip daddr 8.8.8.8 counter name by_eth1; }}
        }}
"
    )
}

#[test]
fn an_output_chain_lies_between_and_changes_the_way_only_where_it_routes_anew() {
    let Some(router) = Router::new() else { return };
    let nft = |arguments: &[&str], input: &[u8]| {
        let mut nft = Command::new("nft");
        nft.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = router.finish(nft, input);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    for (kind, rewrites) in [("route", true), ("filter", false)] {
        nft(&["-f", "-"], marking(kind).as_bytes());
        let (document, _) = router.json(&["explain", "8.8.8.8", "--json"], b"");
        let between = document["between"].as_array().expect("a list");
        let chain =
            between.iter().find(|met| met["what"] == "nftables chain inet t/c (hook output)").expect("the chain");
        assert_eq!(chain["rewrites"], rewrites, "{kind}");
        let asked = document["ip_route_get"].as_array().and_then(|all| all.last()).expect("a question");
        assert_eq!(asked["differs"].as_str().is_some_and(|why| why.contains("hook output")), rewrites, "{asked}");
        // What really becomes of a packet.
        let send = || std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"?", "8.8.8.8:9"));
        router.netns.run(send).expect("a thread inside").expect("sent");
        let counted = nft(&["list", "counter", "inet", "t", "by_eth1"], b"");
        assert_eq!(counted.contains("packets 1 "), rewrites, "{kind}: {counted}");
        nft(&["delete", "table", "inet", "t"], b"");
    }
}

#[test]
fn what_ipv6_refuses_after_the_look_up_is_the_verdict() {
    let Some(router) = Router::new() else { return };
    let ask = |from: &str, to: &str| {
        let question = ["--json", "explain", to, "--iif", "eth1", "--from", from];
        let (document, status) = router.json(&question, b"");
        assert_eq!((status, &document["agree"]), (Some(0), &json!(true)), "{document}");
        (document["kernel"].clone(), document["notes"].to_string())
    };
    let (kernel, notes) = ask("fe80::9", "fd00::7");
    assert_eq!(kernel["verdict"], "forward", "back by where it came from, table 111: {notes}");
    router
        .netns
        .run(|| -> wayfork::kernel::Result<()> {
            let mut kernel = Netlink::open()?;
            let marked = kernel.rules()?.into_iter().filter(|rule| rule.selectors.iif.is_some());
            marked.for_each(|rule| kernel.delete_rule(&rule).expect("deleted"));
            Ok(())
        })
        .expect("a thread inside")
        .expect("the rules are gone");
    for from in ["fe80::9", "::", "::1", "ff02::9"] {
        let (kernel, notes) = ask(from, "2001:db8::9");
        assert_eq!((&kernel["verdict"], &kernel["oif"]), (&json!("martian"), &Value::Null), "{from}");
        assert!(notes.contains("ip6_"), "{notes}");
    }
    // Neighbours speak from such sources.
    let (kernel, notes) = ask("fe80::9", "fd01::2");
    assert_eq!((kernel["verdict"].as_str(), notes.contains("ip6_")), (Some("local"), false), "{notes}");
    router.netns.run(|| write_setting("net.ipv6.conf.all.forwarding", "0")).expect("a thread inside").expect("set");
    let (kernel, notes) = ask("fd01::9", "2001:db8::9");
    assert_eq!(kernel["verdict"], "blackhole");
    assert!(notes.contains("IPv6 forwarding is off"), "{notes}");
}

#[test]
fn what_ip_route_get_leaves_out_and_what_lies_between_are_told() {
    let Some(router) = Router::new() else { return };
    let question = ["--json", "explain", "111.11.1.1", "--iif", "eth1", "--from", "10.0.0.8", "--dscp", "46"];
    let (before, _) = router.json(&question, b"");
    assert_eq!(before["between"], json!([]));
    let asked = &before["ip_route_get"];
    assert_eq!(asked[0]["command"], "ip route get 111.11.1.1");
    assert_eq!(asked[0]["shows"], "eth0 via 192.0.2.1 table 254");
    assert!(asked[0]["differs"].as_str().is_some_and(|why| why.contains("made on this host")), "{asked}");
    let command = "ip route get 111.11.1.1 from 10.0.0.8 iif eth1 tos 0xb8 ipproto udp";
    assert_eq!(asked[1], json!({"command": command, "shows": "eth1 via 10.0.0.1 table 111", "differs": null}));

    let ruleset = b"table inet t { chain c { type filter hook prerouting priority mangle; meta mark set 0x20; }; }\n";
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    assert!(router.finish(nft, ruleset).status.success());
    let (after, _) = router.json(&question, b"");
    let effect = "may rewrite the packet before routing (meta mark set)";
    let chain = json!({"what": "nftables chain inet t/c (hook prerouting)", "effect": effect, "rewrites": true});
    assert_eq!(after["between"], json!([chain]));
    let differs = after["ip_route_get"][1]["differs"].as_str().expect("a reason");
    assert!(differs.contains("nftables chain inet t/c"), "{differs}");
    let note = after["notes"][0].as_str().expect("a note");
    assert!(note.starts_with("eth1 is left to the stack: ") && note.contains("inet t/c"), "{note}");
    let text = String::from_utf8(router.wayfork(&question[1..], b"").stdout).expect("text");
    assert!(text.contains("what `ip route get` shows:") && text.contains("what else the packet meets:"), "{text}");
}

#[test]
fn wrong_questions_are_status_2_and_say_what_is_there() {
    let Some(router) = Router::new() else { return };
    let (document, status) = router.json(&["explain", "8.8.8.8", "--iif", "eth9", "--json"], b"");
    assert_eq!(status, Some(2));
    let message = document["error"]["message"].as_str().expect("a message");
    assert!(message.contains("\"eth9\"") && message.contains("lan, eth0, eth1"), "{message}");
    for wrong in [
        vec!["explain", "8.8.8.8", "--iif", "lan", "--from", "fd08::2"],
        vec!["explain", "8.8.8.8", "--iif", "lan", "--ipproto", "quic"],
        vec!["explain", "8.8.8.8", "--iif", "lan", "--ipproto", "icmp", "--dport", "1"],
        vec!["explain", "8.8.8.8", "--iif", "lan", "--config", "/nonexistent/policy.toml"],
        vec!["compare", "--pcap", "/nonexistent/capture.pcap"],
    ] {
        let output = router.wayfork(&wrong, b"");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

const POLICY: &[u8] = br#"
[[route]]
table = 112
to    = "default"
via   = "10.0.0.1"
dev   = "eth1"

[[mark]]
iif     = "lan"
ipproto = "tcp"
dport   = ["443-444"]
set     = "0x5/0xff"

[[rule]]
name     = "web"
priority = 900
fwmark   = "0x5/0xff"
table    = 112
"#;

#[test]
fn a_file_is_tried_in_a_scratch_namespace_and_this_one_stays_as_it_is() {
    let Some(router) = Router::new() else { return };
    let before = router.netns.run(|| Netlink::open()?.host()).expect("a thread").expect("the host");
    let question =
        ["explain", "8.8.8.8", "--iif", "lan", "--ipproto", "tcp", "--dport", "444", "--config", "-", "--json"];
    let (document, status) = router.json(&question, POLICY);
    assert_eq!(status, Some(0), "{document:#}");
    assert_eq!((&document["scratch"], &document["agree"]), (&json!(true), &json!(true)));
    let ebpf = &document["ebpf"];
    assert_eq!((&ebpf["action"], &ebpf["table"], &ebpf["mark"]), (&json!("redirect"), &json!(112), &json!(5)));
    assert_eq!((&ebpf["rule"]["name"], &ebpf["rule"]["owner"]), (&json!("web"), &json!("wayfork")));
    assert!(ebpf["rule"]["at"].as_str().is_some_and(|at| at.ends_with(":14")), "{}", ebpf["rule"]["at"]);
    assert_eq!(document["kernel"]["table"], 112);
    let notes = document["notes"].as_array().expect("a list");
    let rewritten = "[[mark]] rewrites the mark 0x0 to 0x5 before the rules see it";
    assert!(notes.contains(&json!(rewritten)), "{notes:?}");
    let outside =
        router.json(&["explain", "8.8.8.8", "--iif", "lan", "--ipproto", "tcp", "--dport", "444", "--json"], b"").0;
    assert_eq!((&outside["scratch"], &outside["ebpf"]["table"]), (&json!(false), &json!(254)));
    let (report, status) =
        router.json(&["compare", "--packets", "3000", "--seed", "9", "--config", "-", "--json"], POLICY);
    assert_eq!((status, &report["scratch"], &report["disagree"]), (Some(0), &json!(true), &json!(0)), "{report:#}");
    let after = router.netns.run(|| Netlink::open()?.host()).expect("a thread").expect("the host");
    assert_eq!((after.rules, after.routes, after.links), (before.rules, before.routes, before.links));
}

#[test]
fn a_running_router_answers_with_its_live_maps_and_counts_nothing() {
    let Some(router) = Router::new() else { return };
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(POLICY).expect("written");
    let path = file.path().to_str().expect("a path").to_owned();
    let mut running = router.netns.spawn(command(&["run", &path])).expect("wayfork starts");
    let mut lines = BufReader::new(running.stderr.take().expect("standard error")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line == "wayfork: ready")), "it never became ready");
    let status = || router.json(&["status", "--json"], b"").0;
    let before = status();
    let question = ["explain", "8.8.8.8", "--iif", "lan", "--ipproto", "tcp", "--dport", "443", "--json"];
    let (document, code) = router.json(&question, b"");
    assert_eq!(
        (code, &document["agree"], &document["scratch"]),
        (Some(0), &json!(true), &json!(false)),
        "{document:#}"
    );
    // Only the running router knows the file's marks and names.
    assert_eq!((&document["ebpf"]["table"], &document["ebpf"]["mark"]), (&json!(112), &json!(5)));
    assert_eq!(document["ebpf"]["rule"]["name"], "web");
    assert_eq!(document["kernel"]["table"], 112);
    assert_eq!(router.json(&["explain", "8.8.8.8", "--iif", "eth9", "--json"], b"").1, Some(2));
    let after = status();
    for field in ["rules", "pass_reasons", "interfaces"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    // The router's own program does not keep another process from trying what a program of its own would do.
    for arguments in [vec!["compare"], vec!["compare", "--config", &path]] {
        let options = ["--packets", "300", "--seed", "5", "--json"];
        let (report, code) = router.json(&[&arguments[..], &options[..]].concat(), b"");
        assert_eq!((code, &report["disagree"]), (Some(0), &json!(0)), "{report:#}");
        assert!(report["decided"].as_u64() > Some(0), "{report:#}");
        assert_eq!(report["passed"]["interface"], json!(null), "{report:#}");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("a signal");
    assert!(running.wait().expect("it ends").success());
}

#[test]
fn without_privilege_it_says_what_is_needed() {
    let Some(router) = Router::new() else { return };
    let mut command = command(&["explain", "8.8.8.8", "--iif", "lan"]);
    command.uid(65534).gid(65534);
    let Ok(mut child) = router.netns.spawn(command) else {
        eprintln!("left out: nobody may run the binary where it lies");
        return;
    };
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("wayfork ends");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("root"), "{output:?}");
}

/// A rule of a set: the kernel's side by the set's bit, which set it was, and the fast path's side by the set itself.
#[test]
fn explain_says_which_set_holds_an_address() {
    let Some(router) = Router::new() else { return };
    let policy = String::from_utf8_lossy(POLICY)
        .replace("fwmark   = \"0x5/0xff\"", "from     = \"@few\"\nto       = [\"@far\", \"9.9.9.0/24\"]")
        + "[sets]\nfew = [\"192.168.8.2\", \"192.168.8.64/26\"]\nfar = [\"8.0.0.0/8\"]\n";
    for (from, to, table, sets) in [
        ("192.168.8.2", "8.8.8.8", 112, &["from @few", "to @far"][..]),
        ("192.168.8.100", "9.9.9.9", 112, &["from @few"]),
        ("192.168.8.2", "7.8.8.8", 254, &["from @few"]),
        ("192.168.8.3", "8.8.8.8", 254, &["to @far"]),
    ] {
        let question = ["explain", to, "--iif", "lan", "--from", from, "--config", "-", "--json"];
        let (document, status) = router.json(&question, policy.as_bytes());
        assert_eq!((status, &document["agree"]), (Some(0), &json!(true)), "{document:#}");
        assert_eq!(document["kernel"]["table"], table, "{from} {to}: {document:#}");
        assert_eq!(document["ebpf"]["action"], "redirect", "{document:#}");
        assert_eq!(document["ebpf"]["table"], table, "{document:#}");
        let notes: Vec<&str> = document["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let told: Vec<&str> = notes.iter().filter_map(|note| note.strip_prefix("an address is in a set: ")).collect();
        assert_eq!(told, sets, "{notes:?}");
    }
    let (report, status) =
        router.json(&["compare", "--packets", "2000", "--seed", "9", "--config", "-", "--json"], policy.as_bytes());
    assert_eq!((status, &report["disagree"]), (Some(0), &json!(0)), "{report:#}");
}
