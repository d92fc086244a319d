//! Traffic control of others: filters on the way in, and whatever on the way out looks at marks.

use super::wire::{self, Attrs, Message, Wire, find, ne32, string};
use crate::safety::Filter;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::BTreeMap;
use std::io;

/// The name of Wayfork's own filters.
pub(crate) const OWN_FILTER: &str = "wayfork";

const RTM_GETQDISC: u16 = libc::RTM_GETQDISC;
const RTM_GETTFILTER: u16 = libc::RTM_GETTFILTER;
const RTM_GETTCLASS: u16 = libc::RTM_GETTCLASS;
/// Length of `struct tcmsg`.
const TCMSG: usize = 20;
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

/// The fields of `struct tcmsg` that matter here.
struct Header {
    ifindex: u32,
    handle: u32,
}

/// The filters of all interfaces, and the qdiscs that look at marks by themselves; Wayfork's own filters left out.
pub(super) fn filters() -> io::Result<BTreeMap<u32, Vec<Filter>>> {
    let mut wire = Wire::open(NETLINK_ROUTE)?;
    let mut found: BTreeMap<u32, Vec<Filter>> = BTreeMap::new();
    for qdisc in wire.dump(RTM_GETQDISC, &question(0, 0))? {
        let header = header(&qdisc)?;
        let attributes = wire::attributes_after(TCMSG, &qdisc.body)?;
        let kind = find(&attributes, TCA_KIND).map(string).unwrap_or_default();
        let options = find(&attributes, TCA_OPTIONS).unwrap_or_default();
        let list = found.entry(header.ifindex).or_default();
        match kind.as_str() {
            "clsact" => {
                list.extend(filters_of(&mut wire, header.ifindex, SIDE_INGRESS, true)?);
                list.extend(filters_of(&mut wire, header.ifindex, SIDE_EGRESS, false)?);
            }
            "ingress" => list.extend(filters_of(&mut wire, header.ifindex, SIDE_INGRESS, true)?),
            // A handle of 0 is a default qdisc, which takes no filters.
            _ if header.handle == 0 => {}
            _ => {
                if kind == "cake" && find(&wire::attributes(options)?, TCA_CAKE_FWMARK).and_then(ne32) != Some(0) {
                    list.push(Filter { kind: kind.clone(), matches_mark: true, ..Filter::default() });
                }
                list.extend(filters_of(&mut wire, header.ifindex, header.handle, false)?);
                for class in classes_of(&mut wire, header.ifindex, header.handle)? {
                    list.extend(filters_of(&mut wire, header.ifindex, class, false)?);
                }
            }
        }
    }
    found.retain(|_, list| !list.is_empty());
    Ok(found)
}

/// `struct tcmsg`: family, two paddings, interface, handle, parent, info.
fn question(ifindex: u32, parent: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for field in [ifindex, 0, parent, 0] {
        bytes.extend_from_slice(&field.to_ne_bytes());
    }
    debug_assert_eq!(bytes.len(), TCMSG);
    Attrs::after(&bytes).done()
}

fn header(message: &Message) -> io::Result<Header> {
    let field = |at: usize| message.body.get(at..).and_then(ne32);
    let (Some(ifindex), Some(handle)) = (field(4), field(8)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of traffic control is too short"));
    };
    Ok(Header { ifindex, handle })
}

/// A qdisc or a device may be gone by the time it is asked about.
fn or_gone(answer: io::Result<Vec<Message>>) -> io::Result<Vec<Message>> {
    match answer {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
            Ok(Vec::new())
        }
        answer => answer,
    }
}

fn classes_of(wire: &mut Wire, ifindex: u32, qdisc: u32) -> io::Result<Vec<u32>> {
    // The parent that is asked for is the qdisc: of it alone.
    let classes = or_gone(wire.dump(RTM_GETTCLASS, &question(ifindex, qdisc)))?;
    classes.iter().map(|class| Ok(header(class)?.handle)).collect()
}

fn filters_of(wire: &mut Wire, ifindex: u32, parent: u32, ingress: bool) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for message in or_gone(wire.dump(RTM_GETTFILTER, &question(ifindex, parent)))? {
        let attributes = wire::attributes_after(TCMSG, &message.body)?;
        let Some(options) = find(&attributes, TCA_OPTIONS) else {
            // The head of a classifier, or of a u32 hash table; its filters come as messages of their own. A classifier
            // without any acts on nothing, but `fw` without any goes by the mark.
            let kind = find(&attributes, TCA_KIND).map(string).unwrap_or_default();
            if kind == "fw" {
                filters.push(Filter { ingress, kind, matches_mark: true, ..Filter::default() });
            }
            continue;
        };
        let kind = find(&attributes, TCA_KIND).map(string).unwrap_or_default();
        let filter = read_filter(kind, wire::attributes(options)?, ingress)?;
        filters.extend(Some(filter).filter(|filter| !is_own(filter)));
    }
    Ok(filters)
}

fn is_own(filter: &Filter) -> bool {
    filter.kind == "bpf" && filter.name == OWN_FILTER
}

fn read_filter(kind: String, options: Vec<(u16, &[u8])>, ingress: bool) -> io::Result<Filter> {
    // Where the classifiers that look at no mark by themselves have their actions (include/uapi/linux/pkt_cls.h).
    let actions = match kind.as_str() {
        "u32" => Some(7),
        "flower" => Some(3),
        "matchall" => Some(2),
        _ => None,
    };
    let mut filter = Filter { ingress, matches_mark: actions.is_none(), ..Filter::default() };
    if kind == "bpf" {
        filter.name = find(&options, TCA_BPF_NAME).map(string).unwrap_or_default();
    }
    if kind == "u32" && find(&options, TCA_U32_MARK).is_some() {
        filter.matches_mark = true;
    }
    if let Some(list) = actions.and_then(|attribute| find(&options, attribute)) {
        for (_, action) in wire::attributes(list)? {
            filter.actions.push(find(&wire::attributes(action)?, TCA_ACT_KIND).map(string).unwrap_or_default());
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
        read_filter(kind.into(), wire::attributes(&bytes).expect("attributes"), false).expect("a filter")
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
}
