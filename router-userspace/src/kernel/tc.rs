//! Traffic control of others: filters on the way in, and whatever on the way out looks at marks.

use super::Result;
use super::attributes::{Decode, Malformed};
use super::socket::{Request, Socket};
use super::wire::{Attrs, Found};
use crate::safety::Filter;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::BTreeMap;

/// The name of Wayfork's own filters.
pub(crate) const OWN_FILTER: &str = "wayfork";

/// Length of `struct tcmsg`, and where it has the interface and the handle.
const TCMSG: usize = 20;
const IFINDEX: usize = 4;
const HANDLE: usize = 8;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_U32_MARK: u16 = 10;
const TCA_CAKE_FWMARK: u16 = 18;
const TCA_ACT_KIND: u16 = 1;
/// TC_H_CLSACT, which is TC_H_INGRESS too; with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS the two sides of a clsact qdisc.
const CLSACT: u32 = 0xffff_0000;
const SIDE_INGRESS: u32 = CLSACT | 0xfff2;
const SIDE_EGRESS: u32 = CLSACT | 0xfff3;

const WHAT: &str = "list traffic control";

/// A qdisc: its interface, its handle, its kind, and whether it goes by the mark itself.
struct Qdisc {
    ifindex: u32,
    handle: u32,
    kind: String,
    matches_mark: bool,
}

/// The filters of all interfaces, and the qdiscs that look at marks by themselves; Wayfork's own filters left out.
pub(super) fn filters() -> Result<BTreeMap<u32, Vec<Filter>>> {
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let mut found: BTreeMap<u32, Vec<Filter>> = BTreeMap::new();
    for qdisc in dump(&mut socket, libc::RTM_GETQDISC, 0, 0, |body| read_qdisc(body).map(Some))? {
        let list = found.entry(qdisc.ifindex).or_default();
        let mut add = |parent, ingress| -> Result<()> {
            let read = |body: &[u8]| read_filter(body, ingress).map(|filter| filter.filter(|filter| !is_own(filter)));
            list.extend(or_gone(dump(&mut socket, libc::RTM_GETTFILTER, qdisc.ifindex, parent, read))?);
            Ok(())
        };
        match qdisc.kind.as_str() {
            "clsact" => {
                add(SIDE_INGRESS, true)?;
                add(SIDE_EGRESS, false)?;
            }
            "ingress" => add(SIDE_INGRESS, true)?,
            // A handle of 0 is a default qdisc, which takes no filters.
            _ if qdisc.handle == 0 => {}
            _ => {
                add(qdisc.handle, false)?;
                if qdisc.matches_mark {
                    list.push(Filter { kind: qdisc.kind, matches_mark: true, ..Filter::default() });
                }
                // The parent that is asked for is the qdisc: classes of it alone.
                let classes = dump(&mut socket, libc::RTM_GETTCLASS, qdisc.ifindex, qdisc.handle, |body| {
                    number(body, HANDLE).map(Some)
                });
                for class in or_gone(classes)? {
                    let read = |body: &[u8]| read_filter(body, false);
                    list.extend(or_gone(dump(&mut socket, libc::RTM_GETTFILTER, qdisc.ifindex, class, read))?);
                }
            }
        }
    }
    found.retain(|_, list| !list.is_empty());
    Ok(found)
}

/// Removes the clsact qdisc of an interface unless a filter hangs on it; true where it was removed.
pub(super) fn remove_empty_clsact(ifindex: u32) -> Result<bool> {
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    for side in [SIDE_INGRESS, SIDE_EGRESS] {
        let filters = dump(&mut socket, libc::RTM_GETTFILTER, ifindex, side, |_| Ok(Some(())));
        if !or_gone(filters)?.is_empty() {
            return Ok(false);
        }
    }
    // TC_H_CLSACT as the parent, no handle: the one that is there.
    let what = format!("remove the clsact qdisc of interface {ifindex}");
    let request = Request::new(what, libc::RTM_DELQDISC, 0, &Attrs::after(&header(ifindex, CLSACT | 0xfff1)));
    match socket.request(request) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.errno(), libc::ENODEV | libc::EINVAL | libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `struct tcmsg`: family, two paddings, interface, handle, parent, info.
fn header(ifindex: u32, parent: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for field in [ifindex, 0, parent, 0] {
        header.extend_from_slice(&field.to_ne_bytes());
    }
    debug_assert_eq!(header.len(), TCMSG);
    header
}

/// Asks for a list.
fn dump<T>(
    socket: &mut Socket,
    kind: u16,
    ifindex: u32,
    parent: u32,
    read: impl Fn(&[u8]) -> Decode<Option<T>>,
) -> Result<Vec<T>> {
    let question = Attrs::after(&header(ifindex, parent));
    socket.dump(WHAT, kind, &question, |body| read(body).map_err(|malformed| malformed.during(WHAT)))
}

/// A qdisc or a device may be gone by the time it is asked about.
fn or_gone<T>(answer: Result<Vec<T>>) -> Result<Vec<T>> {
    match answer {
        Err(error) if matches!(error.errno(), libc::ENODEV | libc::EINVAL | libc::ENOENT) => Ok(Vec::new()),
        answer => answer,
    }
}

/// A field of `struct tcmsg`.
fn number(body: &[u8], at: usize) -> Decode<u32> {
    let bytes = body.get(at..).and_then(|rest| rest.first_chunk().copied());
    bytes.map(u32::from_ne_bytes).ok_or(Malformed("message of traffic control"))
}

fn read_qdisc(body: &[u8]) -> Decode<Qdisc> {
    let found = Found::after(TCMSG, body)?;
    let kind = found.name(TCA_KIND, "qdisc: no kind")?;
    let matches_mark = kind == "cake" && {
        let fwmark = found.nested(TCA_OPTIONS)?.get(TCA_CAKE_FWMARK).map(|attribute| attribute.u32()).transpose()?;
        fwmark != Some(0)
    };
    Ok(Qdisc { ifindex: number(body, IFINDEX)?, handle: number(body, HANDLE)?, kind, matches_mark })
}

/// A filter; None for the head of a classifier or of a hash table, whose filters come as messages of their own.
fn read_filter(body: &[u8], ingress: bool) -> Decode<Option<Filter>> {
    let found = Found::after(TCMSG, body)?;
    let kind = found.name(TCA_KIND, "filter: no kind")?;
    if found.has(TCA_OPTIONS) {
        return read_options(kind, &found.nested(TCA_OPTIONS)?, ingress).map(Some);
    }
    // A classifier without any filter acts on nothing, but `fw` without any goes by the mark.
    Ok((kind == "fw").then(|| Filter { ingress, kind, matches_mark: true, ..Filter::default() }))
}

fn is_own(filter: &Filter) -> bool {
    filter.kind == "bpf" && filter.name == OWN_FILTER
}

fn read_options(kind: String, options: &Found<'_>, ingress: bool) -> Decode<Filter> {
    // Where the classifiers that look at no mark by themselves have their actions (include/uapi/linux/pkt_cls.h).
    let actions = match kind.as_str() {
        "u32" => Some(7),
        "flower" => Some(3),
        "matchall" => Some(2),
        _ => None,
    };
    let mut filter = Filter { ingress, matches_mark: actions.is_none(), ..Filter::default() };
    if kind == "bpf" {
        filter.name = options.text(TCA_BPF_NAME).unwrap_or_default();
    }
    if kind == "u32" && options.has(TCA_U32_MARK) {
        filter.matches_mark = true;
    }
    if let Some(attribute) = actions {
        for action in options.nested(attribute)?.all() {
            filter.actions.push(Found::within(action.value)?.text(TCA_ACT_KIND).unwrap_or_default());
        }
    }
    filter.kind = kind;
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, options: Attrs) -> Filter {
        let bytes = options.done();
        read_options(kind.into(), &Found::within(&bytes).expect("attributes"), false).expect("a filter")
    }

    fn actions(kinds: &[&str]) -> Attrs {
        let action = |(index, kind): (usize, &&str)| (index as u16 + 1, Attrs::default().string(TCA_ACT_KIND, kind));
        kinds.iter().enumerate().map(action).fold(Attrs::default(), |list, (index, action)| list.nested(index, action))
    }

    /// Classifiers and actions that the test kernel may lack.
    #[test]
    fn what_looks_at_marks() {
        let plain = Filter { kind: "flower".into(), ..Filter::default() };
        assert_eq!(read("flower", Attrs::default().string(2, "eth0")), plain);
        let with_actions = read("flower", Attrs::default().nested(3, actions(&["police", "skbedit"])));
        assert_eq!(with_actions, Filter { actions: vec!["police".into(), "skbedit".into()], ..plain });
        assert_eq!(read("matchall", Attrs::default().nested(2, actions(&["gact"]))).actions, ["gact"]);
        assert!(!read("u32", Attrs::default()).matches_mark);
        assert!(read("u32", Attrs::default().bytes(TCA_U32_MARK, &[0; 12])).matches_mark);
        let bpf = read("bpf", Attrs::default().string(TCA_BPF_NAME, "cil_to_netdev"));
        assert_eq!((bpf.name.as_str(), bpf.matches_mark), ("cil_to_netdev", true));
        assert!(!is_own(&bpf) && is_own(&read("bpf", Attrs::default().string(TCA_BPF_NAME, OWN_FILTER))));
        for kind in ["fw", "basic", "flow", "something new"] {
            assert!(read(kind, Attrs::default()).matches_mark, "{kind}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(body: Vec<u8>, options: Vec<u8>) {
            let filter = Attrs::after(&[0; TCMSG]).string(TCA_KIND, "u32").bytes(TCA_OPTIONS, &options).done();
            for body in [&body, &filter] {
                if let Ok(Some(filter)) = read_filter(body, true) {
                    proptest::prop_assert!(filter.ingress);
                }
                if let Ok(qdisc) = read_qdisc(body) {
                    proptest::prop_assert!(body.len() >= TCMSG, "{}", qdisc.kind);
                }
            }
        }
    }
}
