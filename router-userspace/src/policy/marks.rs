//! `[[mark]]`: the rewriting of marks ahead of all rules.

use super::PolicyMark;
use super::cursor::{Findings, Section};
use super::diagnostic::Span;
use super::selectors::{MOST, combinations, combine, compared_mark, families, nets_of, only_ipv6, values};
use super::sets::{Sets, check_empty};
use super::values::{Net, WITH_PORTS, dscp, family, flowlabel, interface, ipproto, ipproto_name, mark, net, ports};
use crate::model::{Family, MarkRule, MarkSelectors, Ports};
use toml::de::DeTable;

const KEYS: [&str; 11] =
    ["iif", "from", "to", "fwmark", "ipproto", "sport", "dport", "dscp", "flowlabel", "family", "set"];

/// One `[[mark]]` of the file.
pub(super) struct Statement {
    pub span: Span,
    pub families: Vec<Family>,
    pub iif: Vec<(String, Span)>,
    pub fwmark: Vec<(u32, u32, Span)>,
    pub from: Vec<(Net, Span)>,
    pub to: Vec<(Net, Span)>,
    pub ipproto: Vec<(u8, Span)>,
    pub sport: Vec<(Ports, Span)>,
    pub dport: Vec<(Ports, Span)>,
    pub dscp: Vec<((u8, u8), Span)>,
    pub flowlabel: Vec<((u32, u32), Span)>,
    /// The bits to set, and the bits to replace.
    pub set: Option<(u32, u32, Span)>,
}

pub(super) fn read<'d>(
    findings: &mut Findings<'_>,
    sets: &Sets,
    sections: &[(Span, &'d DeTable<'d>)],
) -> Vec<Statement> {
    sections.iter().map(|(span, table)| read_one(findings, sets, span.clone(), table)).collect()
}

fn read_one<'d>(findings: &mut Findings<'_>, sets: &Sets, span: Span, table: &'d DeTable<'d>) -> Statement {
    let section = Section::open(findings, "[[mark]]", span.clone(), table, &KEYS);
    let said = section.get("family").and_then(|field| field.one(findings)).and_then(|item| family(findings, &item));
    let mut nets = |key| values(findings, &section, key, |findings, item| net(findings, item, sets));
    let (from, to) = (nets("from"), nets("to"));
    let flowlabel = values(findings, &section, "flowlabel", flowlabel);
    let mut families = families(findings, said, &from, &to);
    only_ipv6(findings, &flowlabel, &mut families);
    let statement = Statement {
        families,
        iif: values(findings, &section, "iif", interface),
        fwmark: compared_mark(findings, &section),
        from,
        to,
        ipproto: values(findings, &section, "ipproto", ipproto),
        // nftables compares 65535 too; 0 is no port, and what a fragment seems to have.
        sport: values(findings, &section, "sport", |findings, item| ports(findings, item, u16::MAX)),
        dport: values(findings, &section, "dport", |findings, item| ports(findings, item, u16::MAX)),
        dscp: values(findings, &section, "dscp", |findings, item| dscp(findings, item)),
        flowlabel,
        set: read_set(findings, &section),
        span,
    };
    check_ports(findings, &statement);
    check_empty(findings, &statement.from, false);
    check_empty(findings, &statement.to, false);
    statement
}

fn read_set(findings: &mut Findings<'_>, section: &Section<'_>) -> Option<(u32, u32, Span)> {
    let Some(field) = section.get("set") else {
        section.missing(findings, &["set"], "this [[mark]] sets nothing", "add set = \"0x20/0xff\" (value/mask)");
        return None;
    };
    let item = field.one(findings)?;
    match mark(findings, &item)? {
        (_, Some(0)) => {
            findings.error(item.span, "a mask of 0 replaces no bit", "such as set = \"0x20/0xff\"");
            None
        }
        (value, Some(mask)) if value & !mask != 0 => {
            let message = format!("{value:#x} has bits outside of its mask {mask:#x}");
            let help =
                format!("write \"{value:#x}/{:#x}\" to set them, or \"{:#x}/{mask:#x}\"", value | mask, value & mask);
            findings.error(item.span, message, help);
            None
        }
        (value, mask) => Some((value, mask.unwrap_or(u32::MAX), item.span)),
    }
}

/// Ports belong to a protocol: the bytes at their place mean something else elsewhere.
fn check_ports(findings: &mut Findings<'_>, statement: &Statement) {
    let Some((_, first)) = statement.sport.first().or(statement.dport.first()) else { return };
    if statement.ipproto.is_empty() {
        findings.error(first.clone(), "ports need a protocol", "add ipproto = \"tcp\", or [\"tcp\", \"udp\"]");
    }
    for (number, span) in &statement.ipproto {
        if !WITH_PORTS.contains(number) {
            let name = ipproto_name(*number).map_or_else(|| number.to_string(), str::to_owned);
            let help = "tcp, udp, sctp, dccp and udplite have; take the protocol or the ports away";
            findings.error(span.clone(), format!("protocol {name} has no ports"), help);
        }
    }
}

/// The alternatives of all statements, in order.
pub(super) fn expand(findings: &mut Findings<'_>, sets: &Sets, statements: &[Statement]) -> Vec<PolicyMark> {
    let mut all = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        let Some((value, mask, _)) = statement.set else { continue };
        let count = combinations(&[
            statement.families.len(),
            statement.iif.len(),
            statement.fwmark.len(),
            statement.from.len(),
            statement.to.len(),
            statement.ipproto.len(),
            statement.sport.len(),
            statement.dport.len(),
            statement.dscp.len(),
            statement.flowlabel.len(),
        ]);
        if count > MOST - all.len() {
            let message = format!("with this [[mark]] the file comes to more than {MOST} alternatives");
            findings.error(statement.span.clone(), message, "use shorter lists, or wider prefixes and ranges");
            break;
        }
        let at = findings.text.at(statement.span.start);
        for family in &statement.families {
            for selectors in alternatives(statement, sets, *family) {
                let (family, statement) = (*family, index as u32);
                let rule = MarkRule { family, statement, selectors, value, mask, membership: false };
                all.push(PolicyMark { rule, at: at.clone() });
            }
        }
    }
    all
}

fn alternatives(statement: &Statement, sets: &Sets, family: Family) -> Vec<MarkSelectors> {
    let set = |index: Option<usize>| index.and_then(|index| sets.get(index));
    let all = vec![MarkSelectors::default()];
    let all = combine(all, &statement.iif, |one, (name, _)| one.iif = Some(name.clone()));
    let all = combine(all, &statement.fwmark, |one, (value, mask, _)| one.fwmark = Some((*value, *mask)));
    let all = combine(all, &nets_of(&statement.from, family), |one, from| {
        (one.from, one.from_set) = (from.net, set(from.set))
    });
    let all = combine(all, &nets_of(&statement.to, family), |one, to| (one.to, one.to_set) = (to.net, set(to.set)));
    let all = combine(all, &statement.ipproto, |one, (number, _)| one.ipproto = Some(*number));
    let all = combine(all, &statement.sport, |one, (range, _)| one.sport = Some(*range));
    let all = combine(all, &statement.dport, |one, (range, _)| one.dport = Some(*range));
    let all = combine(all, &statement.dscp, |one, (dscp, _)| one.dscp = Some(*dscp));
    combine(all, &statement.flowlabel, |one, (label, _)| one.flowlabel = Some(*label))
}
