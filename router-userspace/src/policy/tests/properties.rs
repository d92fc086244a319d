//! No text makes the parser panic, and what it says stays within the text.

use super::*;
use proptest::prelude::*;

const SAMPLE: &str = r#"
[router]
mode = "ebpf"
interfaces = ["lan*", "eth1"]
fast_path = "mark"
bypass = ["netfilter", "xfrm", "rp_filter"]
mark_bits = "0xff000000"
[tables]
isp2 = 111
vpn = { id = 5324, strict = true }
[[route]]
table = "isp2"
to = "default"
via = "learned"
dev = "eth1"
[[route]]
to = "10.0.0.0/8"
metric = 5
nexthops = [{ via = "10.0.0.1", dev = "eth1", weight = 2 }, { dev = "eth2", onlink = false }]
[[mark]]
iif = ["lan", "guest"]
ipproto = "tcp"
dport = [80, "443-444"]
fwmark = "0x1/0xf"
set = "0x20/0xff"
[[rule]]
name = "guests ☕"
priority = 1000
not = true
iif = ["eth1", "eth2"]
table = "isp2"
[[rule]]
priority = 1010
from = ["192.168.8.0/24", "fd00:8::/64"]
tos = 0x10
uidrange = "5-9"
goto = 1020
[[rule]]
priority = 1020
action = "prohibit"
"#;

/// Parses and looks at everything that was said.
fn survive(text: &str) {
    let (warnings, errors) = match parse("p.toml", text, &TableNames::default()) {
        Ok(loaded) => (loaded.warnings, Vec::new()),
        Err(rejected) => {
            assert!(!rejected.errors.is_empty(), "refused without a reason: {text:?}");
            (rejected.warnings, rejected.errors)
        }
    };
    let source = Source::new("p.toml", text);
    for diagnostic in warnings.iter().chain(&errors) {
        assert!(!diagnostic.message.is_empty());
        let Some(span) = &diagnostic.span else { continue };
        assert!(span.start <= span.end && span.end <= text.len() + 1, "{diagnostic:?}");
        assert_eq!((diagnostic.line, diagnostic.column), {
            let (line, column) = source.place(span.start);
            (Some(line), Some(column))
        });
    }
}

/// Pieces that are put into the place of others.
const PIECES: &[&str] = &[
    "[[rule]]",
    "[router]",
    "priority",
    "=",
    "\"",
    "'''",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "\n",
    "#",
    "0x",
    "-1",
    "1e400",
    "18446744073709551616",
    "nan",
    "true",
    "1979-05-27T07:32:00Z",
    "from",
    "not",
    "\"fd00::/8\"",
    "\"10.0.0.1/8\"",
    "\"0/0\"",
    "\"all\"",
    "table",
    "\u{feff}",
    "\\u0000",
    "☕",
    "\0",
    "goto",
    "4294967295",
    "[[route]]",
    "set",
    "a.b",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn arbitrary_sequences_of_pieces(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        survive(&pieces.concat());
    }

    #[test]
    fn mutated_samples(changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, proptest::sample::select(PIECES)), 1..6)) {
        let mut text = SAMPLE.to_owned();
        for (at, length, piece) in changes {
            let from = text.floor_char_boundary(at.index(text.len() + 1));
            let to = text.ceil_char_boundary((from + length).min(text.len()));
            text.replace_range(from..to, piece);
        }
        survive(&text);
    }

    #[test]
    fn truncated_samples(at in 0..SAMPLE.len()) {
        survive(&SAMPLE[..SAMPLE.floor_char_boundary(at)]);
    }

    /// However the statements stand in the file, the kernel's order is the same.
    #[test]
    fn the_order_of_the_file_is_no_matter(order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle()) {
        let statement = |n: usize| {
            let more = ["not = true\niif = [\"a\", \"b\"]", "from = [\"10.0.0.0/8\", \"fd00::/8\"]", "family = \"ipv6\""][n % 3];
            format!("[[rule]]\npriority = {}\ntable = {}\n{more}\n", 10 + 2 * n, n + 1)
        };
        let sorted: String = (0..8).map(statement).collect();
        let shuffled: String = order.into_iter().map(statement).collect();
        prop_assert_eq!(rules(&shuffled), rules(&sorted));
    }
}

#[test]
fn the_sample_is_accepted() {
    policy(SAMPLE);
}

/// Deep nesting, which a recursive parser pays for with its stack.
#[test]
fn nesting_is_bounded() {
    for piece in ["[", "{a=", "a.", "[[", "a=[{"] {
        survive(&piece.repeat(100_000));
        survive(&format!("x = {}", piece.repeat(100_000)));
    }
}

/// Long lists of errors are cut, and so is the time that they take.
#[test]
fn many_errors_are_cut() {
    for piece in ["[[rule]]\n", "x\n", "a = \n", "x ", "[[rule]]\npriority = 5\n", "\u{0}"] {
        let text = piece.repeat(20_000);
        survive(&text);
        let errors = parse("p.toml", &text, &TableNames::default()).unwrap_err().errors;
        assert!(errors.len() <= 1001, "{piece:?}");
    }
}

#[test]
fn a_hundred_thousand_rules() {
    let text: String = (0..100_000u32)
        .map(|n| {
            let (a, b) = (n / 256 % 256, n % 256);
            format!(
                "[[rule]]\npriority = {}\nfrom = [\"10.{}.{a}.{b}\", \"fd00::{:x}:{a:x}:{b:x}\"]\niif = \"eth1\"\ntable = {}\n",
                n + 1,
                n / 65536,
                n / 65536,
                n % 50 + 1
            )
        })
        .collect();
    let loaded = accepted(&text);
    assert_eq!(loaded.policy.rules.len(), 200_000);
    assert!((text.len() as u64) < LARGEST * 2 / 3);
}
