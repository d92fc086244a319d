//! A policy tried in scratch namespaces made like random routers: its mirror, its marks.
#![allow(clippy::unwrap_used)]

use super::testing::{have_object, randomize, world};
use super::{Program, Subject, compare as compare_all, generated, in_scratch};
use crate::kernel::admin::write_setting;
use router_common::verdict::Action;

/// The seeds of the random routers that a test tries: always the same, but for WAYFORK_ROUTERS (how many) and WAYFORK_SEED
/// (the first).
fn routers(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("WAYFORK_SEED").unwrap_or(0);
    first..first + number("WAYFORK_ROUTERS").unwrap_or(usual)
}

/// Marks before the rules, rules of both families with names, lists and `not`, a strict table.
const POLICY: &str = r#"
[tables]
vpn = { id = 5324, strict = true }

[[route]]
table = "vpn"
to    = "default"
via   = "10.4.0.2"
dev   = "up1"

[[route]]
table = "vpn"
to    = "default"
via   = "fd04::2"
dev   = "up1"

[[mark]]
iif     = ["lan", "guest"]
ipproto = "tcp"
dport   = [53, "80-443"]
set     = "0x20/0xff"

[[mark]]
fwmark = "0x20/0xff"
from   = ["8.8.8.0/24", "2001:db8::/32"]
set    = "0x1/0xff"

[[rule]]
priority = 15
fwmark   = "0x20/0xff"
table    = "vpn"

[[rule]]
priority = 16
not      = true
from     = ["10.0.0.0/8", "fd00::/8"]
to       = ["203.0.112.0/20", "2a00::/16"]
table    = "vpn"
"#;

#[test]
fn a_policy_in_a_scratch_namespace_agrees_too_with_marks_written_and_read() {
    if !have_object() {
        return;
    }
    let policy = crate::policy::parse("policy.toml", POLICY, &crate::policy::TableNames::default()).unwrap().policy;
    let mut marked = 0;
    for seed in routers(8) {
        let Some(world) = world() else { return };
        let (report, notes) = world.run(|kernel| {
            randomize(kernel, &mut fastrand::Rng::with_seed(seed), true);
            // rp_filter keeps the fast path from redirecting; it marks then.
            if seed % 2 == 0 {
                write_setting("net.ipv4.conf.all.rp_filter", "2").unwrap();
            }
            in_scratch(&policy, |trial| {
                let packets = &mut generated(&trial.host, &policy.mark_rules(), seed, 1000);
                let mut counting = Counting(trial.program.as_mut().unwrap(), 0);
                let host = trial.host.clone();
                let mut subject = Subject {
                    kernel: trial.kernel,
                    decider: &mut counting,
                    policy: Some(&policy),
                    scratch: trial.scratch,
                    throw_away: true,
                };
                let report = compare_all(&mut subject, host, packets, &mut |_| {}).unwrap();
                (report, counting.1)
            })
            .unwrap()
        });
        assert_eq!(notes, Vec::<String>::new(), "seed {seed}");
        assert_eq!(report.0.disagree, 0, "seed {seed}: {:#?}", report.0.counterexample);
        marked += report.1;
    }
    assert!(marked > 100, "only {marked} packets were marked: the marks' way was not compared");
}

/// Counts the packets that the program marks.
struct Counting<'a>(&'a mut Program, u32);

impl super::Decider for Counting<'_> {
    fn decide(
        &mut self,
        packet: &super::Packet,
        link: &crate::model::Link,
    ) -> Result<super::Fast, super::DeciderError> {
        let fast = self.0.decide(packet, link)?;
        self.1 += u32::from(fast.action == Action::Mark);
        Ok(fast)
    }
}

impl super::Refresh for Counting<'_> {
    fn refresh(
        &mut self,
        host: &crate::model::Host,
        marks: &[crate::model::MarkRule],
    ) -> Result<(), super::DeciderError> {
        self.0.refresh(host, marks)
    }
}
