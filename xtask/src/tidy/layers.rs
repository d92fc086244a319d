//! Who may use whom.

use super::{Finding, Source};

/// Names that code in some places may not mention.
struct Layer {
    /// The names, as parts of a path; one that ends in `_` is a prefix.
    names: &'static [&'static str],
    /// Where the rule holds.
    inside: &'static [&'static str],
    /// Where, within that, it does not.
    except: &'static [&'static str],
    /// Why, as the end of a sentence.
    why: &'static str,
}

const USERSPACE: &str = "router-userspace/src";

const LAYERS: &[Layer] = &[
    Layer {
        names: &["aya", "aya_log", "aya_obj"],
        inside: &[USERSPACE, "tests"],
        except: &["router-userspace/src/fastpath"],
        why: "aya's types stop at router-userspace/src/fastpath",
    },
    Layer {
        names: &["rtnetlink", "netlink_"],
        inside: &[USERSPACE, "tests"],
        except: &["router-userspace/src/kernel"],
        why: "netlink's types stop at router-userspace/src/kernel",
    },
    Layer {
        names: &["anyhow"],
        inside: &[USERSPACE],
        except: &["router-userspace/src/cli", "router-userspace/src/main"],
        why: "a library module has typed errors; only cli and main may use anyhow",
    },
    Layer {
        names: &["tokio", "aya", "aya_log", "aya_obj", "rtnetlink", "netlink_"],
        inside: &[
            "router-userspace/src/policy",
            "router-userspace/src/model",
            "router-userspace/src/compile",
            "router-userspace/src/safety",
        ],
        except: &[],
        why: "policy, model, compile and safety are pure: they can be tested on any host",
    },
    Layer {
        names: &["cli"],
        inside: &[USERSPACE, "tests"],
        except: &["router-userspace/src/cli", "router-userspace/src/main", "router-userspace/src/lib"],
        why: "nothing imports cli",
    },
    Layer {
        names: &["wayfork_tests"],
        inside: &[USERSPACE],
        except: &[],
        why: "tests use the lab, and never the other way round",
    },
    Layer {
        names: &["walk"],
        inside: &["router-ebpf/src"],
        except: &[],
        why: "the reference walk is what the eBPF program is compared with, so the program never calls it",
    },
];

/// Every mention of a name where it may not be.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let holds = |layer: &&Layer| {
            layer.inside.iter().any(|place| source.within(place))
                && !layer.except.iter().any(|place| source.within(place))
        };
        for layer in LAYERS.iter().filter(holds) {
            for (line, name) in mentions(&source.code, layer.names) {
                findings.push(Finding::at(source, line, format!("uses `{name}`: {}", layer.why)));
            }
        }
    }
    findings
}

/// Where `code` uses one of `names` as a part of a path, by line: `name::…`, `…::name`, `use name`, `mod name`, or
/// inside the braces of a `use`. A variable or a field of that name is none.
fn mentions<'a>(code: &'a str, names: &[&str]) -> Vec<(usize, &'a str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found: Vec<(usize, &str)> = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find(is_word).map(|next| at + next) {
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |length| start + length);
        let word = &code[start..end];
        let fits = |name: &&str| {
            if name.ends_with('_') { word.starts_with(*name) } else { word == *name }
        };
        if names.iter().any(fits) && in_path(&code[..start], &code[end..]) {
            let line = code[..start].matches('\n').count() + 1;
            if found.last().is_none_or(|(last, _)| *last != line) {
                found.push((line, word));
            }
        }
        at = end;
    }
    found
}

fn in_path(before: &str, after: &str) -> bool {
    let statement = before.rsplit(';').next().unwrap_or(before);
    let mut words = statement.split(|c: char| !c.is_alphanumeric() && c != '_');
    let in_use = words.any(|word| word == "use");
    let before = before.trim_end();
    let keyword = ["use", "mod", "crate"].iter().any(|keyword| before.ends_with(keyword));
    let listed = in_use && (before.ends_with('{') || before.ends_with(','));
    after.trim_start().starts_with("::") || before.ends_with("::") || keyword || listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&[Source::new(path, text)]).into_iter().map(|finding| finding.message).collect()
    }

    /// The rule with this `why` catches `text` at `path`, and nothing is wrong with it at `allowed`.
    fn catches(text: &str, path: &str, allowed: &str, why: &str) {
        let messages = found(path, text);
        assert!(messages.iter().any(|message| message.contains(why)), "{path}: {text}: {messages:?}");
        assert_eq!(found(allowed, text), Vec::<String>::new(), "{allowed}: {text}");
    }

    #[test]
    fn aya_stops_at_the_fast_path() {
        let why = "aya's types";
        catches("use aya::Ebpf;", "router-userspace/src/router/mod.rs", "router-userspace/src/fastpath/load.rs", why);
        catches("let a: aya_log::EbpfLogger;", "router-userspace/src/lab.rs", "router-userspace/src/fastpath.rs", why);
        catches("use {std::fs, aya};", "tests/tests/walk.rs", "router-common/src/map_layout.rs", why);
    }

    #[test]
    fn netlink_stops_at_the_kernel() {
        let why = "netlink's types";
        catches(
            "use rtnetlink::Handle;",
            "router-userspace/src/mirror/mod.rs",
            "router-userspace/src/kernel/rules.rs",
            why,
        );
        catches(
            "fn f(m: netlink_packet_route::Nla)",
            "router-userspace/src/lab/a.rs",
            "router-userspace/src/kernel.rs",
            why,
        );
    }

    #[test]
    fn anyhow_stays_above_the_library() {
        let why = "typed errors";
        catches("use anyhow::Result;", "router-userspace/src/model/mod.rs", "router-userspace/src/cli/run.rs", why);
        catches("fn f() -> anyhow::Result<()>", "router-userspace/src/lib.rs", "router-userspace/src/main.rs", why);
    }

    #[test]
    fn the_pure_modules_stay_pure() {
        let why = "are pure";
        for place in ["policy", "model", "compile", "safety"] {
            let path = format!("router-userspace/src/{place}/x.rs");
            catches("use tokio::time;", &path, "router-userspace/src/router/x.rs", why);
            catches("use rtnetlink::Handle;", &path, "router-userspace/src/kernel/x.rs", why);
            catches("use aya::maps;", &path, "router-userspace/src/fastpath/x.rs", why);
        }
    }

    #[test]
    fn nothing_imports_cli() {
        let why = "imports cli";
        catches(
            "use crate::cli::render;",
            "router-userspace/src/proof/mod.rs",
            "router-userspace/src/cli/explain.rs",
            why,
        );
        catches("use wayfork::{cli, lab};", "tests/tests/a.rs", "router-userspace/src/main.rs", why);
        assert_eq!(found("router-userspace/src/lib.rs", "pub mod cli;"), Vec::<String>::new());
    }

    #[test]
    fn the_lab_never_imports_tests() {
        catches("use wayfork_tests::x;", "router-userspace/src/lab/mod.rs", "tests/tests/a.rs", "the other way round");
    }

    #[test]
    fn the_ebpf_program_never_walks() {
        let why = "reference walk";
        catches("use router_common::walk;", "router-ebpf/src/decide.rs", "router-userspace/src/proof/mod.rs", why);
        catches("let v = router_common::walk::walk(p);", "router-ebpf/src/main.rs", "tests/tests/a.rs", why);
        catches("use router_common::{packet, walk};", "router-ebpf/src/main.rs", "router-common/src/lib.rs", why);
    }

    #[test]
    fn words_and_comments_are_no_imports() {
        let text =
            "// aya::Ebpf\nlet cli = aya; // anyhow\nself.walk(netlink);\nlet s = \"tokio::time\"; maya::b(); x.aya";
        assert_eq!(found("router-userspace/src/policy/file.rs", text), Vec::<String>::new());
        assert_eq!(found("router-ebpf/src/main.rs", text), Vec::<String>::new());
    }
}
