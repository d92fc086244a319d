//! The status document, from what the engine holds.

use super::engine::Engine;
use super::status::{Count, Interface, Rule, Status};
use crate::fastpath::Attached;
use crate::model::{Host, protocol_name, rule_ids};
use crate::policy::Mode;
use router_common::layout::Counter;
use router_common::verdict::Action;
use std::collections::{BTreeMap, HashMap};

impl Engine {
    /// What `status` shows.
    pub fn status(&mut self) -> Status {
        let (live, passed) = match &self.fast {
            Some(fast) => match (fast.rule_counters(), fast.pass_counters()) {
                (Ok(live), Ok(passed)) => (live, passed),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!("{error}");
                    Default::default()
                }
            },
            None => Default::default(),
        };
        let passed = passed.into_iter().filter(|(_, counter)| counter.packets > 0);
        let counted = self.counters.read(&live);
        Status {
            schema: 1,
            pid: std::process::id() as i32,
            uptime_s: self.since.elapsed().as_secs(),
            mode: mode_name(self.mode(&self.policy)).to_owned(),
            file: self.file().map(|file| file.path.display().to_string()),
            fast_path: match (self.fast.is_some(), self.active) {
                (false, _) => "off",
                (true, false) => "suspended",
                (true, true) => "active",
            }
            .to_owned(),
            why_off: self.why_off.clone(),
            generation: self.updates,
            interfaces: self.interfaces(),
            rules: rules(&self.host, &self.policy.origins(), &counted),
            pass_reasons: passed.map(|(reason, counter)| (reason.name().to_owned(), counter.packets)).collect(),
            waiting: self.waiting.iter().map(ToString::to_string).collect(),
            shadow: self.shadow.as_ref().map(super::shadow::Shadow::status),
        }
    }

    fn interfaces(&self) -> Vec<Interface> {
        let judged = self.judgement.interfaces.iter();
        judged
            .map(|(index, judged)| Interface {
                name: self.host.link_name(*index),
                ifindex: *index,
                attached: self.fast.as_ref().and_then(|fast| fast.attached(*index)).map(|how| {
                    match how {
                        Attached::Tcx => "tcx",
                        Attached::Clsact => "clsact",
                    }
                    .to_owned()
                }),
                may: judged.may.name().to_owned(),
                why: judged.why.clone(),
            })
            .collect()
    }
}

fn rules(host: &Host, origins: &crate::policy::Origins<'_>, counted: &HashMap<&str, Counter>) -> Vec<Rule> {
    let ids = rule_ids(&host.rules);
    host.rules
        .iter()
        .zip(ids)
        .filter(|(rule, _)| !rule.is_scaffold())
        .map(|(rule, rule_id)| {
            let own = (rule.protocol == crate::model::OWN_PROTOCOL).then(|| origins.of(rule)).flatten();
            let counter = counted.get(rule_id.as_str()).copied().unwrap_or_default();
            let actions: BTreeMap<String, Count> = Action::ALL
                .iter()
                .map(|action| {
                    let index = *action as usize;
                    (action.name().to_owned(), Count { packets: counter.packets[index], bytes: counter.bytes[index] })
                })
                .collect();
            Rule {
                rule_id,
                priority: rule.priority,
                family: rule.family.to_string(),
                name: own.and_then(|own| own.name.clone()),
                owner: protocol_name(rule.protocol),
                at: own.map(|own| own.at.clone()),
                text: rule.to_string(),
                packets: counter.packets.iter().sum(),
                bytes: counter.bytes.iter().sum(),
                actions,
            }
        })
        .collect()
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Ebpf => "ebpf",
        Mode::Netlink => "netlink",
    }
}
