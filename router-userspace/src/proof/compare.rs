//! `compare`: many packets decided by the fast path, by the kernel and by the reference, until one differs.

use super::counterexample::{Counterexample, Side, all_settings, commands, marks_file, odd_settings};
use super::decide::{self, DeciderError, Fast, Measure, Refresh};
use super::explain::{ExplainError, FastSide, explain_packet};
use super::packet::Packet;
use super::reduce::{fewest, reduce, restore};
use super::reference::Reference;
use super::shrink::shrink;
use crate::kernel::{self, Kernel, RouteAnswer};
use crate::model::{Host, MarkRule};
use crate::policy::Policy;
use crate::scratch::Scratch;
use router_common::verdict::{Action, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The result (contract: `compare --json`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the document.
    pub schema: u32,
    /// Whether it was tried in a scratch namespace made like this host.
    pub scratch: bool,
    /// Packets compared.
    pub packets: u64,
    /// Packets about which all sides agree.
    pub agree: u64,
    /// Packets about which they do not.
    pub disagree: u64,
    /// Packets that the fast path decided itself.
    pub decided: u64,
    /// Packets that it left to the stack, by reason.
    pub passed: BTreeMap<String, u64>,
    /// Of these the ones that the kernel forwards.
    pub forward_passed: BTreeMap<String, u64>,
    /// Packets by the kernel's verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// The generator's seed; null for a capture.
    pub seed: Option<u64>,
    /// Packets about which the kernel takes no question; they were held against the reference.
    pub unasked: u64,
    /// How often rules, routes or interfaces changed meanwhile, so that packets were asked again.
    pub moved: u64,
    /// Frames of a capture that are no such packets, by what they are.
    pub skipped: BTreeMap<String, u64>,
    /// The smallest policy and packet that differ.
    pub counterexample: Option<Counterexample>,
}

/// What is compared.
pub struct Subject<'a> {
    /// The kernel.
    pub kernel: &'a mut dyn Kernel,
    /// The program.
    pub decider: &'a mut dyn Refresh,
    /// The policy file, for names and `[[mark]]`.
    pub policy: Option<&'a Policy>,
    /// Where it is tried in a scratch namespace, with the mirror installed: there the rules for Wayfork's own mark bits are
    /// too, so that the kernel is also asked where a packet goes with the mark that the fast path gave it.
    pub scratch: Option<&'a Scratch>,
    /// Whether the namespace is a throw-away one, in which rules and routes may be taken away to find the smallest policy that
    /// differs.
    pub throw_away: bool,
}

impl Subject<'_> {
    fn read(&mut self) -> kernel::Result<Host> {
        match self.scratch {
            Some(scratch) => scratch.host(self.kernel),
            None => self.kernel.host(),
        }
    }
}

/// Why a comparison broke off.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The program could not be run.
    #[error(transparent)]
    Decider(#[from] DeciderError),
    /// The counter-example could not be explained.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// The rules never stood still long enough.
    #[error("rules, routes or interfaces change all the time; compare when they stand still")]
    Restless,
}

/// How often one packet is asked again because something changed.
const PATIENCE: u32 = 20;

/// What the three sides said about one packet.
struct Verdicts {
    fast: Fast,
    answer: Option<RouteAnswer>,
    reference: Reference,
    differs: Option<Side>,
}

/// Compares packet after packet and stops at the first that differs. `host` is a fresh snapshot, from which the program was
/// compiled. `progress` is told how many packets are done.
pub fn compare(
    subject: &mut Subject<'_>,
    mut host: Host,
    packets: &mut dyn Iterator<Item = Packet>,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, CompareError> {
    let marks = subject.policy.map(Policy::mark_rules).unwrap_or_default();
    let mut report = Report { schema: 1, ..Report::default() };
    let mut waiting: Option<Packet> = None;
    let mut again = 0;
    loop {
        let measure = Measure::new(&host, &marks);
        let moved = loop {
            let Some(packet) = waiting.take().or_else(|| packets.next()) else { break None };
            let Some(said) = ask_all(subject, &measure, &packet)? else { continue };
            if said.differs.is_some() {
                let now = subject.read()?;
                if !same_routing(&now, &host) || !differs_still(subject, &measure, &packet)? {
                    waiting = Some(packet);
                    break Some(now);
                }
            }
            again = 0;
            count(&mut report, &said);
            if let Some(differs) = said.differs {
                drop(measure);
                report.counterexample = Some(counterexample(subject, host, &marks, (packet, differs))?);
                return Ok(report);
            }
            if report.packets.is_multiple_of(256) {
                progress(report.packets);
            }
        };
        let Some(now) = moved else { break };
        again += 1;
        report.moved += 1;
        if again > PATIENCE {
            return Err(CompareError::Restless);
        }
        subject.decider.refresh(&now, &marks)?;
        host = now;
    }
    progress(report.packets);
    Ok(report)
}

/// Whether a disagreement is still there once the kernel has done what it had put off: what nobody can list may go with that.
///
/// `fib_num_tclassid_users` counts the IPv4 routes with realms, and while it is not 0 sources are looked up that else are not
/// (`fib_validate_source`, net/ipv4/fib_frontend.c). It goes down when a route is freed (`free_fib_info_rcu`), which is a moment after
/// the route is deleted; one that was refused counts for a moment too.
fn differs_still(subject: &mut Subject<'_>, measure: &Measure<'_>, packet: &Packet) -> Result<bool, CompareError> {
    // Where it cannot be waited for, asking again is the best that is left.
    if let Err(error) = kernel::wait_for_what_was_put_off() {
        tracing::debug!("{error}");
    }
    let again = ask_all(subject, measure, packet)?;
    let differs = again.as_ref().is_some_and(|again| again.differs.is_some());
    if !differs {
        let answer = again.map(|again| again.answer);
        tracing::warn!("a disagreement about {packet:?} is gone; now the kernel says {answer:?}");
    }
    Ok(differs)
}

/// None where the packet's interface is gone.
fn ask_all(
    subject: &mut Subject<'_>,
    measure: &Measure<'_>,
    packet: &Packet,
) -> Result<Option<Verdicts>, CompareError> {
    let Some(link) = packet.iif.and_then(|iif| measure.host.links.get(&iif)) else { return Ok(None) };
    let fast = subject.decider.decide(packet, link)?;
    let (mark, reference) = measure.reference(packet);
    let answer = decide::ask(subject.kernel, measure.host, packet, mark)?;
    let mut differs = None;
    if answer.as_ref().is_some_and(|answer| !reference.allows(answer)) {
        differs = Some(Side::Reference);
    }
    if subject.scratch.is_some() && fast.action == Action::Mark {
        let marked = decide::ask(subject.kernel, measure.host, packet, fast.mark)?;
        if marked.as_ref().is_some_and(|marked| !decide::agree(&fast, Some(marked), &reference)) {
            differs = Some(Side::Mark);
        }
    }
    if !decide::agree(&fast, answer.as_ref(), &reference) {
        differs = Some(Side::FastPath);
    }
    Ok(Some(Verdicts { fast, answer, reference, differs }))
}

fn count(report: &mut Report, said: &Verdicts) {
    report.packets += 1;
    let expected = said.reference.way().verdict;
    let verdict = match &said.answer {
        Some(answer) if !answer.allows(expected) => answer.verdict,
        _ => expected,
    };
    *report.verdicts.entry(verdict.name().to_owned()).or_default() += 1;
    match said.fast.reason {
        None => report.decided += 1,
        Some(reason) => {
            *report.passed.entry(reason.name().to_owned()).or_default() += 1;
            if verdict == Verdict::Forward {
                *report.forward_passed.entry(reason.name().to_owned()).or_default() += 1;
            }
        }
    }
    report.unasked += u64::from(said.answer.is_none());
    *(if said.differs.is_some() { &mut report.disagree } else { &mut report.agree }) += 1;
}

fn counterexample(
    subject: &mut Subject<'_>,
    host: Host,
    marks: &[MarkRule],
    (packet, differs): (Packet, Side),
) -> Result<Counterexample, CompareError> {
    let small = smaller(subject, &Measure::new(&host, marks), packet)?;
    if !subject.throw_away {
        let why = "rules and routes of a host in use are left as they are";
        return describe(subject, &host, marks, (small, differs), Some(why));
    }
    take_away(subject, &host, marks, &small)?;
    let fewer = fewest(marks.to_vec(), |marks| differs_here(subject, marks, &small).map(|(_, differs)| differs))?;
    make_plain(subject, &fewer, &small)?;
    let (fewest, _) = differs_here(subject, &fewer, &small)?;
    let measure = Measure::new(&fewest, &fewer);
    let least = smaller(subject, &measure, small)?;
    if let Some(differs) = ask_all(subject, &measure, &least)?.and_then(|said| said.differs) {
        drop(measure);
        return describe(subject, &fewest, &fewer, (least, differs), None);
    }
    restore(subject.kernel, &host)?;
    write_settings(subject.kernel, all_settings(&host))?;
    let host = subject.read()?;
    subject.decider.refresh(&host, marks)?;
    let why = "with fewer it shows at times only: the kernel remembers earlier answers";
    describe(subject, &host, marks, (small, differs), Some(why))
}

/// Puts it into words and commands.
fn describe(
    subject: &mut Subject<'_>,
    host: &Host,
    marks: &[MarkRule],
    (packet, differs): (Packet, Side),
    not_shrunk: Option<&str>,
) -> Result<Counterexample, CompareError> {
    let measure = Measure::new(host, marks);
    let (mark, reference) = measure.reference(&packet);
    let fast = FastSide::Program(subject.decider);
    let explanation = explain_packet(&packet, &measure, subject.policy, subject.kernel, fast)?;
    Ok(Counterexample {
        differs,
        commands: commands(host, &packet, mark, &reference, not_shrunk.is_none()),
        not_shrunk: not_shrunk.map(str::to_owned),
        policy: if marks.is_empty() { None } else { marks_file(marks) },
        explanation,
        packet: Some(packet),
    })
}

/// The smallest packet that differs.
fn smaller(subject: &mut Subject<'_>, measure: &Measure<'_>, packet: Packet) -> Result<Packet, CompareError> {
    shrink(packet, |smaller| Ok(ask_all(subject, measure, smaller)?.is_some_and(|said| said.differs.is_some())))
}

/// What the namespace holds now, and whether `packet` differs with it and these `[[mark]]` statements.
fn differs_here(subject: &mut Subject<'_>, marks: &[MarkRule], packet: &Packet) -> Result<(Host, bool), CompareError> {
    let now = subject.read()?;
    subject.decider.refresh(&now, marks)?;
    let said = ask_all(subject, &Measure::new(&now, marks), packet)?;
    let differs = said.is_some_and(|said| said.differs.is_some());
    Ok((now, differs))
}

/// Makes every setting plain without which `packet` still differs.
fn make_plain(subject: &mut Subject<'_>, marks: &[MarkRule], packet: &Packet) -> Result<(), CompareError> {
    let mut before = subject.read()?;
    for (name, plain) in odd_settings(&before) {
        subject.kernel.write_setting(&name, &plain.to_string())?;
        let (now, differs) = differs_here(subject, marks, packet)?;
        match differs {
            true => before = now,
            // All of them: `forwarding` for all devices writes that of each.
            false => write_settings(subject.kernel, all_settings(&before))?,
        }
    }
    Ok(())
}

fn write_settings(kernel: &mut dyn Kernel, settings: Vec<(String, u8)>) -> kernel::Result<()> {
    settings.into_iter().try_for_each(|(name, value)| kernel.write_setting(&name, &value.to_string()))
}

/// Leaves the fewest rules and routes with which `packet` differs.
fn take_away(subject: &mut Subject<'_>, host: &Host, marks: &[MarkRule], packet: &Packet) -> Result<(), CompareError> {
    let Subject { kernel, decider, policy, scratch, throw_away } = subject;
    reduce(*kernel, host, |kernel| {
        let mut subject =
            Subject { kernel, decider: *decider, policy: *policy, scratch: *scratch, throw_away: *throw_away };
        differs_here(&mut subject, marks, packet).map(|(_, differs)| differs)
    })
}

/// Whether two snapshots route alike. Neighbours come and go by themselves and decide no verdict.
pub fn same_routing(one: &Host, other: &Host) -> bool {
    one.rules == other.rules
        && one.routes == other.routes
        && one.links == other.links
        && one.addresses == other.addresses
        && one.settings == other.settings
}

/// The interfaces that packets come in by: all that are up, but loopback.
pub fn ingress(host: &Host) -> Vec<u32> {
    host.links
        .values()
        .filter(|link| link.up && link.index != super::reference::LOOPBACK)
        .map(|link| link.index)
        .collect()
}

/// `count` packets of a generator.
pub fn generated(host: &Host, marks: &[MarkRule], seed: u64, count: u64) -> impl Iterator<Item = Packet> + use<> {
    let mut generator = super::generate::Generator::new(host, marks, ingress(host), seed);
    (0..count).map_while(move |_| generator.next_packet())
}
