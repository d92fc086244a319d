//! Every flow of a scenario, three times: without the policy, through the stack, through the fast path.

use super::process::{self, Daemon};
use super::scenario::{Case, Scenario};
use super::topology::Lab;
use super::traffic::{Arrived, Flow};
use super::{Error, Result};
use crate::model::Family;
use router_common::verdict::{Action, PassReason};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// Where a flow came out, as its receivers saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The router's interface by which it left; None where it arrived nowhere.
    pub oif: Option<&'static str>,
    /// Units that arrived there.
    pub packets: u32,
    /// Units that arrived twice, or by another interface.
    pub strays: u32,
    /// TTLs or hop limits on arrival; empty for TCP.
    pub ttls: BTreeSet<u8>,
}

/// What the fast path says that it did with a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Did {
    /// What it did with most of the packets.
    pub action: Action,
    /// Why it passed some or all of them; `None` where it passed none.
    pub reason: Option<String>,
    /// How many packets it counted under the rule that is meant to decide.
    pub counted: u64,
    /// How many packets it passed, whatever the reason; other traffic's included.
    pub passed: u64,
}

/// One flow with all that was found out about it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The flow.
    pub case: Case,
    /// Without the policy.
    pub unruled: Seen,
    /// With the policy, through the stack.
    pub stack: Seen,
    /// With the policy and the fast path.
    pub fast: Seen,
    /// What the fast path did; None for a flow that the router makes itself.
    pub did: Option<Did>,
    /// Everything that is not as it should be, in words. Empty: both paths agree with each other and with the policy.
    pub faults: Vec<String>,
}

impl Row {
    /// Whether both paths agree.
    pub fn agree(&self) -> bool {
        self.faults.is_empty()
    }

    /// Why the fast path passed packets of the flow; None where it passed none. What it passes meanwhile that is not of the
    /// flow, such as a tunnel's outer packets for the router itself, has reasons too, and is not meant.
    pub fn reason(&self) -> Option<&str> {
        let did = self.did.as_ref()?;
        let all = did.counted >= self.case.least_packets();
        did.reason.as_deref().filter(|_| did.action == Action::Pass || !all)
    }

    /// The deciding rule: `1000 from-eth1`.
    pub fn rule(&self) -> String {
        format!("{} {}", self.case.rule.0, self.case.rule.1)
    }
}

/// A scenario being run.
struct Stage<'a> {
    scenario: &'a Scenario,
    exe: &'a Path,
    lab: Lab,
    cases: Vec<Case>,
    next_flow: u32,
    /// Whether the policy is in force.
    ruled: bool,
    progress: &'a mut dyn FnMut(&str),
}

/// Builds the lab of a scenario and sends all its flows; `exe` is the `wayfork` to run in it. `progress` is told each step.
pub fn run(scenario: &Scenario, exe: &Path, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    progress("building the lab");
    let mut lab = Lab::new();
    (scenario.build)(&mut lab)?;
    lab.settle()?;
    let mut stage = Stage { scenario, exe, lab, cases: (scenario.flows)(), next_flow: 1, ruled: false, progress };
    let unruled = stage.send_all("without policy", |_, _| Ok(()), |_, _, ()| Ok(None))?;
    let stack = stage.with_daemon("netlink", |stage| stage.send_all("stack", |_, _| Ok(()), |_, _, ()| Ok(None)))?;
    let fast = stage.with_daemon("ebpf", |stage| {
        stage.send_all("fast path", Stage::settle, |stage, case, before| stage.did(case, before))
    })?;
    let cases = std::mem::take(&mut stage.cases);
    let rows = cases.into_iter().zip(unruled).zip(stack.into_iter().zip(fast));
    Ok(rows
        .map(|((case, (unruled, _)), ((stack, _), (fast, did)))| {
            let faults = faults(&case, &unruled, &stack, &fast, did.as_ref());
            Row { case, unruled, stack, fast, did, faults }
        })
        .collect())
}

impl Stage<'_> {
    /// Runs `body` while `wayfork run --mode MODE` has the scenario's policy in force.
    fn with_daemon<T>(&mut self, mode: &str, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        (self.progress)(&format!("starting wayfork run --mode {mode}"));
        let router = self.lab.netns(self.scenario.router)?;
        let daemon = Daemon::ready(router, self.exe, &["-", "--mode", mode], Some(self.scenario.policy))?;
        self.ruled = true;
        let result = body(self);
        self.ruled = false;
        let result = result?;
        let log = daemon.log();
        let status = daemon.stop()?;
        if status.success() { Ok(result) } else { Err(Error::Daemon { how: format!("ended with {status}"), log }) }
    }

    /// Sends every flow and returns what came out; `before` and `after` surround each flow that comes in by an interface.
    fn send_all<B>(
        &mut self,
        phase: &str,
        mut before: impl FnMut(&mut Self, &Case) -> Result<B>,
        mut after: impl FnMut(&mut Self, &Case, B) -> Result<Option<Did>>,
    ) -> Result<Vec<(Seen, Option<Did>)>> {
        let cases = self.cases.clone();
        let mut sent = Vec::with_capacity(cases.len());
        for (index, case) in cases.iter().enumerate() {
            (self.progress)(&format!("{phase}: flow {}/{}, {}", index + 1, cases.len(), case.name));
            let ready = if case.router_made { None } else { Some(before(self, case)?) };
            let id = self.send(case, case.flow.units)?;
            let did = match ready {
                Some(ready) => after(self, case, ready)?,
                None => None,
            };
            sent.push((id, did));
        }
        // What came late or twice is counted too.
        std::thread::sleep(Duration::from_millis(20));
        Ok(cases.iter().zip(sent).map(|(case, (id, did))| (seen(case, &self.lab.tally().of(id)), did)).collect())
    }

    /// Sends one flow under a new number and waits for it.
    fn send(&mut self, case: &Case, units: u32) -> Result<u32> {
        let id = self.next_flow;
        self.next_flow += 1;
        let flow = Flow { id, units, ..case.flow.clone() };
        // Long enough for a lost packet to be sent again, but not where nothing is meant to arrive.
        let nothing = !self.ruled && case.unruled.is_none();
        let patience = Duration::from_millis(if nothing { 150 } else { 3000 });
        // A flow that cannot be sent or connected arrives nowhere, which is what its receivers say.
        if let Err(error) = self.lab.send(case.sender, flow, patience)? {
            tracing::debug!(flow = case.name, %error, "not sent whole");
        }
        let places: Vec<&str> = case.exits.iter().map(|(place, _)| *place).collect();
        self.lab.tally().wait(id, &places, units, patience.min(Duration::from_millis(500)));
        Ok(id)
    }

    /// Sends single units until the fast path no longer waits for a neighbour, as after any first packet; then its counters.
    fn settle(&mut self, case: &Case) -> Result<Counters> {
        let mut before = self.counters()?;
        for _ in 0..20 {
            self.send(case, 1)?;
            let now = self.counters()?;
            let waits = [PassReason::Neighbour, PassReason::Resync].map(|reason| now.passed(&before, reason.name()));
            before = now;
            if waits == [0, 0] {
                break;
            }
            std::thread::sleep(Duration::from_millis(15));
        }
        Ok(before)
    }

    fn did(&mut self, case: &Case, before: Counters) -> Result<Option<Did>> {
        let now = self.counters()?;
        Ok(Some(now.did(&before, case)))
    }

    fn counters(&self) -> Result<Counters> {
        let router = self.lab.netns(self.scenario.router)?;
        Counters::read(&process::json(router, self.exe, &["--json", "status"])?)
    }
}

/// What the receivers saw of one flow.
fn seen(case: &Case, places: &BTreeMap<String, Arrived>) -> Seen {
    let mut best = Seen::default();
    let mut all = 0;
    for (place, oif) in case.exits {
        let Some(arrived) = places.get(*place) else { continue };
        all += arrived.units() + arrived.duplicates;
        if arrived.units() > best.packets {
            best = Seen { oif: Some(oif), packets: arrived.units(), strays: 0, ttls: arrived.ttls.clone() };
        }
    }
    best.strays = all - best.packets;
    best
}

/// Everything that is not as it should be.
fn faults(case: &Case, unruled: &Seen, stack: &Seen, fast: &Seen, did: Option<&Did>) -> Vec<String> {
    let mut faults = Vec::new();
    let by = |oif: Option<&str>| oif.map_or_else(|| "nowhere".to_owned(), |oif| format!("by {oif}"));
    if unruled.oif != case.unruled {
        faults.push(format!("without policy it left {}, meant {}", by(unruled.oif), by(case.unruled)));
    }
    for (path, seen) in [("stack", stack), ("fast path", fast)] {
        if seen.oif != Some(case.oif) {
            faults.push(format!("{path}: left {}, the policy means {}", by(seen.oif), case.oif));
        }
        if seen.packets != case.flow.units {
            faults.push(format!("{path}: {} of {} arrived", seen.packets, case.flow.units));
        }
        if seen.strays != 0 {
            faults.push(format!("{path}: {} arrived twice or elsewhere", seen.strays));
        }
    }
    if stack.ttls != fast.ttls {
        faults
            .push(format!("TTL on arrival {:?} through the stack, {:?} through the fast path", stack.ttls, fast.ttls));
    }
    if let Some(did) = did {
        if did.action == Action::Drop {
            faults.push("the fast path says it dropped it".to_owned());
        }
        if did.counted + did.passed < case.least_packets() {
            faults.push(format!("the fast path counted {} under rule {}", did.counted, case.rule.0));
        }
    }
    faults
}

/// The counters of `wayfork status --json`.
#[derive(Debug, Default)]
struct Counters {
    /// Packets per action, by priority and family of the rule.
    rules: BTreeMap<(u32, Family), [u64; 4]>,
    /// Packets by reason.
    passed: BTreeMap<String, u64>,
}

impl Counters {
    fn read(status: &serde_json::Value) -> Result<Self> {
        let wrong =
            |what: &str| Error::Daemon { how: format!("`status --json` has no {what}"), log: status.to_string() };
        let mut counters = Counters::default();
        for rule in status["rules"].as_array().ok_or_else(|| wrong("list `rules`"))? {
            let priority = rule["priority"].as_u64().and_then(|number| u32::try_from(number).ok());
            let family = serde_json::from_value(rule["family"].clone()).ok();
            let (priority, family) = priority.zip(family).ok_or_else(|| wrong("priority and family of a rule"))?;
            let slot: &mut [u64; 4] = counters.rules.entry((priority, family)).or_default();
            for action in Action::ALL {
                slot[action as usize] += rule["actions"][action.name()]["packets"].as_u64().unwrap_or(0);
            }
        }
        for (reason, count) in status["pass_reasons"].as_object().ok_or_else(|| wrong("object `pass_reasons`"))? {
            counters.passed.insert(reason.clone(), count["packets"].as_u64().or(count.as_u64()).unwrap_or(0));
        }
        Ok(counters)
    }

    /// Packets passed for a reason since `before`.
    fn passed(&self, before: &Counters, reason: &str) -> u64 {
        let count = |counters: &Counters| counters.passed.get(reason).copied().unwrap_or(0);
        count(self).saturating_sub(count(before))
    }

    /// What was done since `before` with the packets of a flow.
    fn did(&self, before: &Counters, case: &Case) -> Did {
        let rule = (case.rule.0, case.flow.family());
        let count =
            |counters: &Counters, action: Action| counters.rules.get(&rule).map_or(0, |rule| rule[action as usize]);
        let since = |action: Action| count(self, action).saturating_sub(count(before, action));
        let acts = [Action::Redirect, Action::Mark, Action::Drop].map(|action| (since(action), action));
        let (counted, action) = acts.into_iter().max_by_key(|(packets, _)| *packets).unwrap_or((0, Action::Pass));
        let why = self
            .passed
            .keys()
            .map(|reason| (self.passed(before, reason), reason))
            .max()
            .filter(|(packets, _)| *packets >= u64::from(case.flow.units).saturating_sub(counted).max(1));
        let action = if counted == 0 { Action::Pass } else { action };
        let passed = self.passed.keys().map(|reason| self.passed(before, reason)).sum();
        Did { action, reason: why.map(|(_, reason)| reason.clone()), counted, passed }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::ALL;
    use super::*;
    use crate::kernel::{Kernel, Netlink};
    use crate::model::NextHop;
    use crate::policy;

    /// The lab of a scenario, and what came out of all its flows after `prepare`. None without privilege.
    fn send_all(scenario: &Scenario, prepare: impl FnOnce(&Lab)) -> Option<Vec<(Case, Seen)>> {
        let mut lab = Lab::new();
        match (scenario.build)(&mut lab) {
            Err(Error::Privilege) => {
                eprintln!("left out: {}", Error::Privilege);
                return None;
            }
            built => built.unwrap_or_else(|error| panic!("{}: {error}", scenario.name)),
        }
        lab.settle().expect("carriers");
        prepare(&lab);
        let mut quiet = |_: &str| {};
        let (exe, cases) = (Path::new(""), (scenario.flows)());
        let mut stage =
            Stage { scenario, exe, lab, cases: cases.clone(), next_flow: 1, ruled: false, progress: &mut quiet };
        let sent = stage.send_all("test", |_, _| Ok(()), |_, _, ()| Ok(None)).expect("sent");
        Some(cases.into_iter().zip(sent.into_iter().map(|(seen, _)| seen)).collect())
    }

    /// What the drawing says must be true before any policy is looked at.
    #[test]
    fn without_a_policy_every_flow_goes_as_drawn() {
        for scenario in &ALL {
            for (case, seen) in send_all(scenario, |_| {}).into_iter().flatten() {
                assert_eq!(seen.oif, case.unruled, "{}: {}", scenario.name, case.name);
                let units = if case.unruled.is_some() { case.flow.units } else { 0 };
                assert_eq!((seen.packets, seen.strays), (units, 0), "{}: {}", scenario.name, case.name);
            }
        }
    }

    /// The policies mean what the scenarios say, with their rules and routes added one by one and no router running.
    #[test]
    fn with_the_policy_in_the_kernel_every_flow_goes_as_meant() {
        for scenario in &ALL {
            let policy = policy::parse(scenario.name, scenario.policy, &policy::TableNames::of_host());
            let policy = policy.expect("a policy without errors").policy;
            let install = |lab: &Lab| {
                let requests = || install(&policy);
                lab.inside(scenario.router, requests).unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
            };
            for (case, seen) in send_all(scenario, install).into_iter().flatten() {
                assert_eq!(seen.oif, Some(case.oif), "{}: {}", scenario.name, case.name);
                assert_eq!((seen.packets, seen.strays), (case.flow.units, 0), "{}: {}", scenario.name, case.name);
            }
        }
    }

    fn install(policy: &policy::Policy) -> crate::kernel::Result<()> {
        let mut kernel = Netlink::open()?;
        let links = kernel.links()?;
        for route in &policy.routes {
            let hop = &route.nexthops[0];
            let dev = links.values().find(|link| Some(&link.name) == hop.dev.as_ref()).expect("the device");
            let via = match hop.via {
                Some(policy::Via::Address(via)) => Some(via),
                _ => None,
            };
            let mut installed = super::super::topology::plain_route(route.table, route.to);
            installed.nexthops.push(NextHop { via, dev: dev.index, weight: 1, ..NextHop::default() });
            kernel.add_route(&installed)?;
        }
        for rule in policy.rpdb() {
            kernel.add_rule(rule)?;
        }
        kernel.set_mark_chain(&policy.mark_rules(), 1)
    }
}
