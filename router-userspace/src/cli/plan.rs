//! `wayfork plan`.

use super::args::PlanArgs;
use super::render::plan::{Document, Interface, Wait, text};
use super::{Exit, Failure, Global, Outcome, output, policy_file};
use crate::fastpath::{self, Capacity, FastPath};
use crate::kernel::{ForeignPrograms, Kernel, Netlink, survey};
use crate::mirror::{self, Item, Kind, MarkClasses, Op, Words};
use crate::model::Host;
use crate::policy::{Mode, Policy};
use crate::router::control::{self, Request, Response};
use crate::router::status::Status;
use crate::safety::{self, Judgement, May, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Shows what `run` would change. Changes nothing.
pub fn run(global: &Global, args: &PlanArgs) -> Outcome {
    let path = args.file.path();
    let policy = policy_file::load(path)?;
    let plan = plan(path, &policy)?;
    if global.json {
        output::print_json(&plan)?;
    } else {
        output::print(&text(&plan, output::colored(global))?)?;
    }
    Ok(match args.exit_code {
        true if plan.changes_something() => Exit::No,
        // Whether there is something to change is not known.
        true if !plan.unseen.is_empty() => Exit::Cannot,
        _ => Exit::Done,
    })
}

fn plan(path: Option<&PathBuf>, policy: &Policy) -> anyhow::Result<Document> {
    let mut kernel = Netlink::open()?;
    let host = kernel.host()?;
    let (mut against, mut unseen) = (Vec::new(), Vec::new());
    let installed = kernel.mark_chain().unwrap_or_else(|error| {
        unseen.push(format!("whether marks are installed: {error}"));
        None
    });
    let running = running(&mut against, &mut unseen);
    let bound = with_set_bits(policy, &host)?;
    let policy = &bound;
    let (judgement, off) = judge(policy, &host);
    let taken = kernel.marks_are_anothers().unwrap_or(false);
    let desired = mirror::desired(policy, &host, &MarkClasses::from(&judgement)).with_marks_taken(taken);
    let words = Words { host: &host, policy };
    let changes = mirror::diff(&desired, &host, installed);
    let mut items = mirror::items(&desired, &host, &changes, &words);
    items.extend(attachments(&judgement, &host, running.as_ref()));
    against.extend(mirror::against(&desired, &host, policy.router.mark_bits));
    match off {
        Some(error @ fastpath::Error::Privilege { .. }) => {
            unseen.push(format!("where the fast path would be attached, and what it may do there: {error}"));
        }
        Some(error) => against.push(format!("no fast path here, the stack alone carries the traffic: {error}")),
        None => {}
    }
    if in_the_first_namespace() {
        against.extend(networkd(Path::new("/")));
    }
    let interfaces = judgement.interfaces.iter().map(|(index, judged)| Interface {
        name: host.link_name(*index),
        may: judged.may.name(),
        why: judged.why.clone(),
    });
    Ok(Document {
        schema: 1,
        file: path.map(|path| path.display().to_string()),
        mode: match policy.router.mode {
            Mode::Auto => "auto",
            Mode::Ebpf => "ebpf",
            Mode::Netlink => "netlink",
        },
        changes: items,
        waiting: desired.waiting.iter().map(Wait::from).collect(),
        interfaces: interfaces.collect(),
        against,
        unseen,
    })
}

/// The policy with bits for its sets, where others leave some.
fn with_set_bits(policy: &Policy, host: &Host) -> anyhow::Result<Policy> {
    let facts = match policy.wants_mark_bits() {
        true => survey(ForeignPrograms::default()),
        false => safety::Facts::default(),
    };
    safety::with_set_bits(policy, host, &facts, &BTreeMap::new())
        .map_err(|error| Failure::new(Exit::Cannot, error).into())
}

/// What the guard would say, and why there is no fast path at all, where that is so. The program is loaded for the question,
/// and attached to nothing.
fn judge(policy: &Policy, host: &Host) -> (Judgement, Option<fastpath::Error>) {
    let without_classes = mirror::desired(policy, host, &MarkClasses::default());
    let after = mirror::after(&without_classes, host);
    let marks = policy.mark_rules();
    let wanted = Wanted { settings: &policy.router, marks: &marks };
    let pass_all = |why: String, judgement: Judgement| {
        let interfaces = judgement.interfaces.into_keys();
        let all = interfaces.map(|index| (index, safety::Interface { may: May::Pass, why: why.clone() }));
        Judgement { interfaces: all.collect(), ..Judgement::default() }
    };
    if policy.router.mode == Mode::Netlink {
        let judgement = safety::judge(&after, &safety::Facts::default(), &wanted);
        return (pass_all("mode = \"netlink\" in the file".to_owned(), judgement), None);
    }
    let mut fast = match FastPath::load(Capacity::of(&Default::default())) {
        Ok(fast) => fast,
        Err(error) => {
            let judgement = safety::judge(&after, &safety::Facts::default(), &wanted);
            let why = match error {
                fastpath::Error::Privilege { .. } => "only root is told",
                _ => "the fast path cannot be loaded here",
            };
            return (pass_all(why.to_owned(), judgement), Some(error));
        }
    };
    let programs = fast.foreign(host.links.keys().copied());
    (safety::judge(&after, &survey(programs), &wanted), None)
}

/// The router that runs here, if one does.
fn running(against: &mut Vec<String>, unseen: &mut Vec<String>) -> Option<Status> {
    match control::ask(&Request::Status) {
        Err(control::ControlError::NotRunning) => None,
        Err(error) => {
            against.push(error.to_string());
            None
        }
        Ok(Response::Failed { message, .. }) => {
            unseen.push(format!("what the wayfork that runs here has attached: {message}"));
            None
        }
        Ok(Response::Done(document)) => match serde_json::from_value::<Status>(document) {
            Ok(status) => {
                let pid = status.pid;
                against.push(format!(
                    "a wayfork runs here already (process {pid}): `wayfork reload FILE` makes these changes, `run` is refused"
                ));
                Some(status)
            }
            Err(error) => {
                against.push(format!("the wayfork that runs here is of another version: {error}"));
                None
            }
        },
    }
}

/// The program on interfaces: where it goes, and where it is.
fn attachments(judgement: &Judgement, host: &Host, running: Option<&Status>) -> Vec<Item> {
    let interfaces = running.map(|status| status.interfaces.as_slice()).unwrap_or_default();
    let attached: BTreeSet<&str> = interfaces
        .iter()
        .filter(|interface| interface.attached.is_some())
        .map(|interface| interface.name.as_str())
        .collect();
    let item = |op, name: &str, may: &str| Item {
        op,
        kind: Kind::Attachment,
        family: None,
        text: format!("TC program at ingress of {name}{may}"),
        name: None,
        at: None,
        rule: None,
    };
    let mut wanted = BTreeSet::new();
    let mut items = Vec::new();
    for (index, judged) in judgement.interfaces.iter().filter(|(_, judged)| judged.may != May::Pass) {
        let name = host.link_name(*index);
        let op = if attached.contains(name.as_str()) { Op::Keep } else { Op::Add };
        items.push(item(op, &name, &format!(" ({})", judged.may.name())));
        wanted.insert(name);
    }
    items.extend(attached.iter().filter(|name| !wanted.contains(**name)).map(|name| item(Op::Remove, name, "")));
    items
}

/// Whether this is the network namespace of process 1, which is the one that the host's services look after. True where that
/// cannot be read.
fn in_the_first_namespace() -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    of("1").zip(of("thread-self")).is_none_or(|(first, here)| first == here)
}

/// A warning where systemd-networkd is in use and takes other programs' rules or routes away when it starts or reloads.
fn networkd(root: &Path) -> Option<String> {
    if !root.join("run/systemd/netif").exists() {
        return None;
    }
    let missing: Vec<&str> = ["ManageForeignRoutingPolicyRules", "ManageForeignRoutes"]
        .into_iter()
        .filter(|key| networkd_setting(root, key).is_none_or(|value| !is_no(&value)))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let lines = missing.iter().map(|key| format!("{key}=no")).collect::<Vec<_>>().join(" and ");
    Some(format!(
        "systemd-networkd is in use here and removes other programs' rules and routes when it restarts; {lines} in \
         /etc/systemd/networkd.conf under [Network] keeps it from that"
    ))
}

fn is_no(value: &str) -> bool {
    ["no", "false", "0", "off", "n", "f"].iter().any(|no| value.eq_ignore_ascii_case(no))
}

/// The value that is in force for a key: the main file, then drop-ins by name, the last one wins; a drop-in of /etc goes before
/// one of the same name in /run, that before one in /usr/lib.
fn networkd_setting(root: &Path, key: &str) -> Option<String> {
    let folders = ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"];
    let main = folders.iter().map(|folder| root.join(folder).join("networkd.conf")).find(|path| path.exists());
    let mut drop_ins = std::collections::BTreeMap::new();
    for folder in folders {
        let entries = std::fs::read_dir(root.join(folder).join("networkd.conf.d")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "conf")) {
            drop_ins.entry(path.file_name().map(ToOwned::to_owned)).or_insert(path);
        }
    }
    let texts = main.into_iter().chain(drop_ins.into_values()).filter_map(|path| std::fs::read_to_string(path).ok());
    let mut value = None;
    for text in texts {
        for line in text.lines() {
            if let Some((name, found)) = line.split_once('=')
                && name.trim() == key
            {
                value = Some(found.trim().to_owned());
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networkd_is_warned_of_unless_it_was_told() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(networkd(root.path()), None, "it does not run here");
        std::fs::create_dir_all(root.path().join("run/systemd/netif")).unwrap();
        let both = networkd(root.path()).unwrap();
        assert!(both.contains("ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no"), "{both}");
        write("etc/systemd/networkd.conf", "[Network]\nManageForeignRoutingPolicyRules = no\n");
        let one = networkd(root.path()).unwrap();
        assert!(one.contains("ManageForeignRoutes=no") && !one.contains("PolicyRules"), "{one}");
        write("usr/lib/systemd/networkd.conf.d/50-a.conf", "[Network]\nManageForeignRoutes=false\n");
        assert_eq!(networkd(root.path()), None);
        write("run/systemd/networkd.conf.d/60-b.conf", "[Network]\nManageForeignRoutes=yes\n#ManageForeignRoutes=no\n");
        assert!(networkd(root.path()).is_some(), "the last one wins");
    }
}
