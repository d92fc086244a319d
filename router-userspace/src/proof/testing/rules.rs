//! Random rules and `[[mark]]` statements of the whole language.

use super::{net, one_in, pick};
use crate::kernel::{Kernel, Netlink};
use crate::model::{Attached, Family, Ports, Rule, RuleAction, Selectors};
use crate::policy::{self, Policy};
use fastrand::Rng;

/// 0 is "any empty table" to IPv4, and nothing that IPv6 takes; 999 and the last are no tables, or large ones.
const TABLES: [u32; 10] = [111, 111, 112, 112, 113, 254, 255, 0, 999, 4_000_000_000];

/// A rule with few or many selectors.
pub fn rule(rng: &mut Rng, family: Family) -> Rule {
    let mut s = Selectors { not: one_in(rng, 5), ..Selectors::default() };
    if one_in(rng, 3) {
        s.iif = Some(pick(rng, &["lan", "guest", "up0", "lo", "gone"]).to_owned());
    }
    s.oif = one_in(rng, 12).then(|| "up1".to_owned());
    if one_in(rng, 3) {
        s.fwmark =
            Some(pick(rng, &[(1, u32::MAX), (0x20, 0xff), (0, 0xff), (0x8000_0000, 0x8000_0000), (0, u32::MAX)]));
    }
    s.from = one_in(rng, 3).then(|| net(rng, family));
    s.to = one_in(rng, 3).then(|| net(rng, family));
    s.tos = if one_in(rng, 9) { pick(rng, &[0x08, 0x10, 0x1c]) } else { 0 };
    if s.tos == 0 && one_in(rng, 9) {
        s.dscp = Some(pick(rng, &[(46, 0x3f), (0, 0x3f), (0x20, 0x38)]));
    }
    if one_in(rng, 5) {
        s.ipproto = Some(pick(rng, &[6, 17, if family == Family::Ipv4 { 1 } else { 58 }]));
    }
    let masked = Ports::Masked { value: 0x0100, mask: 0xff00 };
    let range = |rng: &mut Rng| pick(rng, &[Ports::Range { start: 80, end: 443 }, Ports::one(53), masked]);
    s.sport = one_in(rng, 9).then(|| range(rng));
    s.dport = one_in(rng, 6).then(|| range(rng));
    s.uidrange = one_in(rng, 15).then(|| pick(rng, &[(0, 0), (1, 1000), (0, 5000)]));
    if family == Family::Ipv6 && one_in(rng, 9) {
        s.flowlabel = Some(pick(rng, &[(0x12345, 0xfffff), (0x12000, 0xff000), (0, 0xf)]));
    }
    s.tun_id = one_in(rng, 20).then_some(7);
    let priority = pick(rng, &[10, 20, 30, 30, 40, 50, 60, 32766, 32800]);
    let action = match rng.u8(..16) {
        0 => RuleAction::Nop,
        1 => RuleAction::Blackhole,
        2 => RuleAction::Unreachable,
        3 => RuleAction::Prohibit,
        // Some of these find no rule.
        4 | 5 => RuleAction::Goto(priority + pick(rng, &[10, 20, 5])),
        _ => RuleAction::Table(pick(rng, &TABLES)),
    };
    let table = matches!(action, RuleAction::Table(_));
    Rule {
        family,
        priority,
        selectors: s,
        action,
        suppress_prefixlength: (table && one_in(rng, 6)).then(|| pick(rng, &[0, 8, 24])),
        suppress_ifgroup: (table && one_in(rng, 9)).then_some(7),
        realms: (family == Family::Ipv4 && one_in(rng, 9)).then_some(0x1_0002),
        protocol: 3,
        attached: Attached::default(),
    }
}

/// Puts the rule for `local` behind others, or between them, or takes it away altogether.
pub fn move_local(kernel: &mut Netlink, rng: &mut Rng, family: Family) {
    let rules = kernel.rules().unwrap();
    let Some(local) = rules.iter().find(|rule| rule.family == family && rule.priority == 0) else { return };
    kernel.delete_rule(local).unwrap();
    if !one_in(rng, 5) {
        kernel.add_rule(&Rule { priority: pick(rng, &[15, 30, 55, 32790]), protocol: 3, ..local.clone() }).unwrap();
    }
}

/// A policy file with some `[[mark]]` statements and nothing else.
pub fn marks(rng: &mut Rng) -> Policy {
    let mut text = String::new();
    for _ in 0..pick(rng, &[0, 1, 1, 2, 4]) {
        text += "[[mark]]\n";
        let mut selector = |line: &str| text += &format!("{line}\n");
        if one_in(rng, 2) {
            selector(pick(rng, &["iif = [\"lan\", \"guest\"]", "iif = \"up0\"", "iif = \"gone\""]));
        }
        if one_in(rng, 3) {
            selector(pick(rng, &["fwmark = \"0x20/0xff\"", "fwmark = 1", "fwmark = \"0x0/0xff\""]));
        }
        match rng.u8(..9) {
            0 => selector("from = [\"10.1.0.0/16\", \"fd01::/64\"]"),
            1 => selector("to = [\"8.8.8.0/24\", \"2001:db8::/32\"]"),
            2 => selector("dscp = 46"),
            3 => selector("ipproto = \"tcp\"\ndport = [53, \"80-443\"]"),
            4 => selector("ipproto = [\"udp\", \"icmp\", \"ipv6-icmp\"]"),
            5 => selector("ipproto = \"udp\"\nsport = [\"1000-60000\", 65535]"),
            6 => selector("ipproto = [\"tcp\", \"udp\"]\ndport = \"0x100/0xff00\"\nsport = \"0x1/0x1\""),
            7 => selector(pick(
                rng,
                &["flowlabel = 0x12345", "flowlabel = \"0x12000/0xff000\"", "flowlabel = \"0x0/0xf\""],
            )),
            _ => {}
        }
        selector(pick(rng, &["set = \"0x20/0xff\"", "set = \"0x1/0xffffffff\"", "set = \"0x0/0xff\""]));
    }
    policy::parse("random.toml", &text, &policy::TableNames::default())
        .unwrap_or_else(|errors| panic!("{errors:#?} in:\n{text}"))
        .policy
}
