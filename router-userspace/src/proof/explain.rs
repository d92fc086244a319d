//! `explain`: one packet decided by the fast path and by the kernel, with every rule tried.

use super::decide::{self, Decider, DeciderError, Fast, Measure};
use super::packet::{Packet, protocol_name};
use super::question::{BadQuestion, Question};
use super::reference::{Outcome, Reference, Step, WhyNot};
use super::route_get::{self, Asked, RouteGet};
use super::text::route_text;
use crate::kernel::{self, Kernel, RouteAnswer};
use crate::model::{Host, Rule, protocol_name as owner_name, rule_ids};
use crate::policy::{Origins, Policy};
use crate::safety::{Between, Facts, Judgement, between};
use router_common::verdict::{Action, PassReason, Verdict};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The whole answer (contract: `explain --json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Version of the document.
    pub schema: u32,
    /// Whether it was tried in a scratch namespace made like this host.
    pub scratch: bool,
    /// The packet asked about.
    pub packet: PacketView,
    /// The fast path's side; null for a packet made on this host, which never passes TC ingress.
    pub ebpf: Option<FastView>,
    /// Why there is no fast path's side.
    pub ebpf_reason: Option<String>,
    /// The kernel's side; null where the kernel cannot be asked.
    pub kernel: Option<KernelView>,
    /// Whether both sides agree.
    pub agree: bool,
    /// Every rule tried, in order.
    pub trail: Vec<StepView>,
    /// IPv4's look at the source.
    pub source_check: Option<SourceView>,
    /// What `ip route get` shows of it.
    pub ip_route_get: Vec<RouteGet>,
    /// What else the packet meets on its way, in order: traffic control, netfilter, xfrm.
    pub between: Vec<BetweenView>,
    /// What else there is to know, in sentences.
    pub notes: Vec<String>,
}

/// A packet in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketView {
    /// Ingress interface.
    pub iif: Option<String>,
    /// Source.
    pub from: Option<IpAddr>,
    /// Destination.
    pub to: IpAddr,
    /// fwmark as it comes in.
    pub mark: u32,
    /// Protocol by name, or number where it has none.
    pub ipproto: String,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// DSCP.
    pub dscp: u8,
    /// IPv6 flow label.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flowlabel: u32,
    /// The first of several fragments.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fragment: bool,
}

/// What most packets do not have is left out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The fast path's side. Verdict, oif, via and table are null with `pass`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastView {
    /// `forward`, …
    pub verdict: Option<String>,
    /// `redirect`, `mark`, `pass` or `drop`.
    pub action: String,
    /// Egress interface.
    pub oif: Option<String>,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Table that gave the route.
    pub table: Option<u32>,
    /// The rule that decided.
    pub rule: Option<RuleView>,
    /// The mark afterwards.
    pub mark: u32,
    /// Why, with `pass`.
    pub reason: Option<String>,
}

/// The kernel's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelView {
    /// `forward`, …
    pub verdict: String,
    /// Egress interface.
    pub oif: Option<String>,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Table that gave the route.
    pub table: Option<u32>,
    /// The error that the kernel answered with; 0 for none.
    pub errno: i32,
}

/// A rule and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Stable, unique.
    pub rule_id: String,
    /// Its priority.
    pub priority: u32,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// The name in the policy file.
    pub name: Option<String>,
    /// Who installed it.
    pub owner: String,
    /// Where the policy file says so.
    pub at: Option<String>,
    /// The rule in iproute2's words.
    pub text: String,
}

/// One rule tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// The rule.
    pub rule: RuleView,
    /// Whether it matched.
    pub matched: bool,
    /// The selector that kept it from matching.
    pub why_not: Option<String>,
    /// `route`, `no-route`, `throw`, `suppressed`, `goto`, `goto-unresolved`, `nop`, `blackhole`, `unreachable`, `prohibit` or
    /// `unknown`; null where it did not match.
    pub outcome: Option<String>,
    /// The route that the table gave, or what else belongs to the outcome.
    pub detail: Option<String>,
}

/// IPv4's look at the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Whether the stack accepts it.
    pub valid: bool,
    /// Why.
    pub why: String,
    /// `rp_filter` in force on the ingress interface.
    pub rp_filter: u8,
    /// The rules tried on the way back.
    pub trail: Vec<StepView>,
}

/// Something that the packet meets besides routing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BetweenView {
    /// What it is.
    pub what: String,
    /// What it may do to the packet.
    pub effect: String,
    /// Whether it may change, before routing, what routing looks at.
    pub rewrites: bool,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The question is wrong.
    #[error(transparent)]
    Question(#[from] BadQuestion),
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The program could not be run.
    #[error(transparent)]
    Decider(#[from] DeciderError),
}

/// The fast path's side, or why there is none.
pub enum FastSide<'a> {
    /// The program.
    Program(&'a mut dyn Decider),
    /// None, for this reason.
    None(String),
}

/// Decides one packet on both sides and tells why. `host` is a fresh snapshot, `policy` the running file's or the tried one's,
/// `facts` what else acts on packets where they pass.
pub fn explain(
    question: &Question,
    host: &Host,
    facts: &Facts,
    policy: Option<&Policy>,
    kernel: &mut dyn Kernel,
    fast: FastSide<'_>,
) -> Result<Explanation, ExplainError> {
    let (packet, notes) = question.packet(host)?;
    let marks = policy.map(Policy::mark_rules).unwrap_or_default();
    let measure = Measure::new(host, &marks);
    let (mut explanation, told) = explain_and_tell(&packet, &measure, policy, kernel, fast)?;
    explanation.notes.splice(0..0, notes);
    let link = packet.iif.and_then(|iif| host.links.get(&iif));
    let met = link.map(|link| between(facts, link)).unwrap_or_default();
    let Told { mark, answer, note } = &told;
    let asked = Asked { host, packet: &packet, mark: *mark, answer: answer.as_ref(), note: *note, between: &met };
    explanation.ip_route_get = route_get::commands(kernel, &asked)?;
    let view = |one: Between| BetweenView { what: one.what, effect: one.effect, rewrites: one.rewrites };
    explanation.between = met.into_iter().map(view).collect();
    Ok(explanation)
}

/// What an explanation rests on beside the fast path's side.
struct Told {
    /// The mark after the `[[mark]]` statements.
    mark: u32,
    /// The kernel's answer.
    answer: Option<RouteAnswer>,
    /// What the stack does after the look-up.
    note: Option<&'static str>,
}

/// The same for a packet that is known already.
pub fn explain_packet(
    packet: &Packet,
    measure: &Measure<'_>,
    policy: Option<&Policy>,
    kernel: &mut dyn Kernel,
    fast: FastSide<'_>,
) -> Result<Explanation, ExplainError> {
    explain_and_tell(packet, measure, policy, kernel, fast).map(|(explanation, _)| explanation)
}

fn explain_and_tell(
    packet: &Packet,
    measure: &Measure<'_>,
    policy: Option<&Policy>,
    kernel: &mut dyn Kernel,
    fast: FastSide<'_>,
) -> Result<(Explanation, Told), ExplainError> {
    let host = measure.host;
    let origins = policy.map(Policy::origins).unwrap_or_default();
    let view = Viewer { host, ids: rule_ids(&host.rules), origins };
    let link = packet.iif.and_then(|iif| host.links.get(&iif));
    let (decided, ebpf_reason) = match (link, fast) {
        (None, _) => (None, Some("made on this host: never passes TC ingress".to_owned())),
        (Some(_), FastSide::None(why)) => (None, Some(why)),
        (Some(link), FastSide::Program(program)) => (Some(program.decide(packet, link)?), None),
    };
    let (mark, reference) = measure.reference(packet);
    let answer = decide::ask(kernel, host, packet, mark)?;
    let agree = decided.as_ref().is_none_or(|fast| decide::agree(fast, answer.as_ref(), &reference));
    let mut notes = Vec::new();
    if mark != packet.mark {
        notes.push(format!("[[mark]] rewrites the mark {:#x} to {mark:#x} before the rules see it", packet.mark));
    }
    if answer.is_none() {
        let name = protocol_name(packet.ipproto);
        notes
            .push(format!("the kernel takes no question about {name}, and the rules tell it from those that it takes"));
    }
    notes.extend(reference.note.map(str::to_owned));
    notes.extend(reference.unknown.as_ref().map(|what| format!("the trail ends where it cannot be followed: {what}")));
    let explanation = Explanation {
        schema: 1,
        scratch: false,
        packet: view.packet(packet),
        ebpf: decided.as_ref().map(|fast| view.fast(fast)),
        ebpf_reason,
        kernel: answer.as_ref().map(|answer| view.kernel(answer, &reference)),
        agree,
        trail: view.trail(&reference.trail),
        source_check: reference.source.as_ref().map(|check| SourceView {
            valid: check.valid,
            why: check.why.to_owned(),
            rp_filter: check.rp_filter,
            trail: view.trail(&check.trail),
        }),
        ip_route_get: Vec::new(),
        between: Vec::new(),
        notes,
    };
    Ok((explanation, Told { mark, answer, note: reference.note }))
}

impl Explanation {
    /// Says why the guard leaves the ingress interface to the stack, where that is the reason.
    pub fn note_guard(&mut self, judgement: &Judgement, host: &Host) {
        let left = |fast: &FastView| fast.reason.as_deref() == Some(PassReason::InterfacePass.name());
        let Some(link) = self.packet.iif.as_ref().and_then(|name| host.link(name)) else { return };
        if let (true, Some(judged)) = (self.ebpf.as_ref().is_some_and(left), judgement.interfaces.get(&link.index)) {
            self.notes.push(format!("{} is left to the stack: {}", link.name, judged.why));
        }
    }
}

/// Puts indexes into words.
struct Viewer<'a> {
    host: &'a Host,
    ids: Vec<String>,
    origins: Origins<'a>,
}

impl Viewer<'_> {
    fn packet(&self, packet: &Packet) -> PacketView {
        PacketView {
            iif: packet.iif.map(|iif| self.host.link_name(iif)),
            from: packet.from,
            to: packet.to,
            mark: packet.mark,
            ipproto: protocol_name(packet.ipproto),
            sport: packet.sport,
            dport: packet.dport,
            dscp: packet.dscp,
            flowlabel: packet.flowlabel,
            fragment: packet.fragment,
        }
    }

    fn fast(&self, fast: &Fast) -> FastView {
        let forward = fast.verdict == Verdict::Forward;
        let rule = fast.rule_id.as_ref().and_then(|id| self.ids.iter().position(|other| other == id));
        FastView {
            verdict: (fast.action != Action::Pass).then(|| fast.verdict.name().to_owned()),
            action: fast.action.name().to_owned(),
            oif: forward.then(|| self.host.link_name(fast.oif)),
            via: fast.via,
            table: forward.then_some(fast.table),
            rule: rule.map(|index| self.rule(index)),
            mark: fast.mark,
            reason: fast.reason.map(|reason| reason.name().to_owned()),
        }
    }

    fn kernel(&self, answer: &RouteAnswer, reference: &Reference) -> KernelView {
        // Of two verdicts that the kernel's error cannot tell apart, the reference's is the one that explains the trail.
        let expected = reference.way().verdict;
        let verdict = if answer.errno != 0 && answer.allows(expected) { expected } else { answer.verdict };
        let forward = verdict == Verdict::Forward;
        KernelView {
            verdict: verdict.name().to_owned(),
            oif: forward.then(|| self.host.link_name(answer.oif)),
            via: answer.via,
            table: forward.then_some(answer.table),
            errno: answer.errno,
        }
    }

    fn rule(&self, index: usize) -> RuleView {
        let rule: &Rule = &self.host.rules[index];
        let origin = self.origins.of(rule);
        RuleView {
            rule_id: self.ids[index].clone(),
            priority: rule.priority,
            family: rule.family.to_string(),
            name: match rule.is_scaffold() {
                true => Some("spares a walk".to_owned()),
                false => origin.and_then(|origin| origin.name.clone()),
            },
            owner: owner_name(rule.protocol),
            at: origin.map(|origin| origin.at.clone()),
            text: rule.without_priority(),
        }
    }

    fn trail(&self, steps: &[Step]) -> Vec<StepView> {
        steps.iter().map(|step| self.step(step)).collect()
    }

    fn step(&self, step: &Step) -> StepView {
        let route = |index: &usize| Some(route_text(self.host, &self.host.routes[*index]));
        let (outcome, detail) = match &step.outcome {
            None => (None, None),
            Some(outcome) => {
                let (word, detail) = match outcome {
                    Outcome::Route(index) => ("route", route(index)),
                    Outcome::NoRoute => ("no-route", None),
                    Outcome::Throw(index) => ("throw", route(index)),
                    Outcome::Suppressed(index) => ("suppressed", route(index)),
                    Outcome::Refused(index) => (self.host.routes[*index].kind.name(), route(index)),
                    Outcome::Goto(target) => ("goto", Some(target.to_string())),
                    Outcome::GotoUnresolved(target) => ("goto-unresolved", Some(target.to_string())),
                    Outcome::Nop => ("nop", None),
                    Outcome::Action(verdict) => (verdict.name(), None),
                    Outcome::Unknown(what) => ("unknown", Some(what.clone())),
                };
                (Some(word.to_owned()), detail)
            }
        };
        let detail = match step.why_not {
            Some(WhyNot::IifDetached) => Some("there is no such interface".to_owned()),
            Some(WhyNot::Oif) => Some("a packet that comes in has no egress interface yet".to_owned()),
            _ => detail,
        };
        StepView {
            rule: self.rule(step.rule),
            matched: step.why_not.is_none(),
            why_not: step.why_not.map(|why| why.selector().to_owned()),
            outcome,
            detail,
        }
    }
}
