//! Which bits of marks nftables' rules compare and write: their expressions followed from register to register.

use super::attributes::Decode;
use super::nft::*;
use super::wire::Found;
use crate::safety::Marks;
use std::collections::{BTreeMap, BTreeSet};

/// NFT_META_MARK and NFT_CT_MARK.
const KEY_MARK: u32 = 3;
/// Attributes that this file alone reads (include/uapi/linux/netfilter/nf_tables.h).
const NFTA_CT_DREG: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_BITWISE_OP: u16 = 6;
const NFTA_BITWISE_SREG2: u16 = 8;
const NFTA_BYTEORDER_SREG: u16 = 1;
const NFTA_BYTEORDER_DREG: u16 = 2;
const NFTA_HASH_SREG: u16 = 1;
const NFTA_DYNSET_SREG_KEY: u16 = 4;
const NFTA_DYNSET_SREG_DATA: u16 = 5;
const NFTA_SOCKET_KEY: u16 = 1;
const NFT_SOCKET_MARK: u32 = 1;
const NFT_CMP_NEQ: u32 = 1;
/// NFTA_MATCH_REV and _INFO, the same for targets: the form of the extension's own structure, and it.
const NFTA_EXTENSION_REVISION: u16 = 2;
const NFTA_EXTENSION_INFO: u16 = 3;

/// What the rules of one chain have to do with marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// What is known.
    pub marks: BTreeSet<Marks>,
    /// Names of sets whose keys are compared with whole marks.
    pub keys: BTreeSet<String>,
    /// Names of maps whose values are written as whole marks.
    pub values: BTreeSet<String>,
}

/// What a register of 4 bytes holds.
#[derive(Clone, Debug)]
enum Held {
    /// A mark, of which these bits are kept and those turned round. Whose it is, by the name of the expression that loaded it.
    Mark { of: &'static str, kept: u32, turned: u32 },
    /// Something made of these bits of a mark.
    Derived(u32),
    /// This number.
    Number(u32),
    /// A value of this map.
    Of(String),
}

/// Notes what one rule does.
pub(super) fn read_rule(expressions: &Found<'_>, uses: &mut Uses) -> Decode<()> {
    let mut registers: BTreeMap<u32, Held> = BTreeMap::new();
    for element in expressions.all() {
        let found = Found::within(element.value)?;
        let name = found.text(NFTA_EXPR_NAME).unwrap_or_default();
        step(&name, &found.nested(NFTA_EXPR_DATA)?, &mut registers, uses)?;
    }
    Ok(())
}

fn step(name: &str, data: &Found<'_>, registers: &mut BTreeMap<u32, Held>, uses: &mut Uses) -> Decode<()> {
    let register = |attribute| Ok(data.be32(attribute)?.map(place));
    match name {
        "meta" | "ct" => {
            let (of, [key, to, from]) = match name {
                "meta" => ("meta", [NFTA_META_KEY, NFTA_META_DREG, NFTA_META_SREG]),
                _ => ("ct", [NFTA_CT_KEY, NFTA_CT_DREG, NFTA_CT_SREG]),
            };
            let of_mark = data.be32(key)? == Some(KEY_MARK);
            if let Some(to) = register(to)? {
                let mark = of_mark.then_some(Held::Mark { of, kept: u32::MAX, turned: 0 });
                put(registers, Some(to), mark);
            }
            if let Some(from) = register(from)?.filter(|_| of_mark) {
                uses.written(of, registers.get(&from));
            }
        }
        "immediate" => {
            let bytes = data.nested(NFTA_IMMEDIATE_DATA)?.get(NFTA_DATA_VALUE).map(|value| value.value);
            let number = bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
            put(registers, register(NFTA_IMMEDIATE_DREG)?, number.map(Held::Number));
        }
        "bitwise" => {
            let held = register(NFTA_BITWISE_SREG)?.and_then(|from| registers.get(&from).cloned());
            let result = bitwise(data, held)?;
            put(registers, register(NFTA_BITWISE_DREG)?, result);
        }
        "byteorder" => {
            let held = register(NFTA_BYTEORDER_SREG)?.and_then(|from| registers.get(&from).cloned());
            let held = held.map(|held| match held {
                Held::Mark { kept, .. } => Held::Derived(kept),
                Held::Number(number) => Held::Number(number.swap_bytes()),
                other => other,
            });
            put(registers, register(NFTA_BYTEORDER_DREG)?, held);
        }
        "cmp" => {
            let held = register(NFTA_CMP_SREG)?.and_then(|from| registers.get(&from));
            let exact = matches!(data.be32(NFTA_CMP_OP)?, Some(NFT_CMP_EQ | NFT_CMP_NEQ));
            let bytes = data.nested(NFTA_CMP_DATA)?.get(NFTA_DATA_VALUE).map(|value| value.value);
            let value = bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
            uses.compared(held, value.filter(|_| exact));
        }
        "range" => uses.compared(register(NFTA_RANGE_SREG)?.and_then(|from| registers.get(&from)), None),
        "lookup" => {
            let held = register(NFTA_LOOKUP_SREG)?.and_then(|from| registers.get(&from));
            let set = data.text(NFTA_LOOKUP_SET).unwrap_or_default();
            match held {
                Some(Held::Mark { kept: u32::MAX, turned: 0, .. }) => drop(uses.keys.insert(set.clone())),
                held => uses.compared(held, None),
            }
            put(registers, register(NFTA_LOOKUP_DREG)?, Some(Held::Of(set)));
        }
        "hash" | "dynset" => {
            let sources: &[u16] =
                if name == "hash" { &[NFTA_HASH_SREG] } else { &[NFTA_DYNSET_SREG_KEY, NFTA_DYNSET_SREG_DATA] };
            for source in sources {
                uses.compared(register(*source)?.and_then(|from| registers.get(&from)), None);
            }
            // A hash goes to the register that numgen's does: attribute 2.
            if name == "hash" {
                put(registers, register(2)?, None);
            }
        }
        "match" | "target" => {
            let info = data.get(NFTA_EXTENSION_INFO).map(|info| info.value).unwrap_or_default();
            let revision = data.be32(NFTA_EXTENSION_REVISION)?.unwrap_or(0);
            uses.extension((name, &data.text(NFTA_EXTENSION_NAME).unwrap_or_default(), revision), info);
        }
        // What else loads a register loads no mark: what it held is gone.
        "payload" | "exthdr" | "rt" | "xfrm" | "numgen" | "osf" | "fib" => put(registers, register(1)?, None),
        // The mark of a socket is one, whoever set it.
        "socket" => {
            let mark = data.be32(NFTA_SOCKET_KEY)? == Some(NFT_SOCKET_MARK);
            put(registers, register(2)?, mark.then_some(Held::Mark { of: "socket", kept: u32::MAX, turned: 0 }));
        }
        "tunnel" => put(registers, register(2)?, None),
        _ => {}
    }
    Ok(())
}

/// Registers of 4 bytes and those of 16 that overlap them, by the first of 4 bytes (NFT_REG32_00 is 8).
fn place(register: u32) -> u32 {
    if register >= 8 { register - 8 } else { register.saturating_sub(1) * 4 }
}

fn put(registers: &mut BTreeMap<u32, Held>, to: Option<u32>, held: Option<Held>) {
    let Some(to) = to else { return };
    match held {
        Some(held) => drop(registers.insert(to, held)),
        None => drop(registers.remove(&to)),
    }
}

/// `(register & mask) ^ xor`; any other operation makes something that is no mark any more.
fn bitwise(data: &Found<'_>, held: Option<Held>) -> Decode<Option<Held>> {
    let number = |attribute| -> Decode<Option<u32>> {
        let bytes = data.nested(attribute)?.get(NFTA_DATA_VALUE).map(|value| value.value);
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes))
    };
    let plain = data.be32(NFTA_BITWISE_OP)?.unwrap_or(0) == 0 && !data.has(NFTA_BITWISE_SREG2);
    let by = number(NFTA_BITWISE_MASK)?.zip(number(NFTA_BITWISE_XOR)?).filter(|_| plain);
    Ok(match (held, by) {
        (Some(Held::Mark { of, kept, turned }), Some((mask, xor))) => {
            Some(Held::Mark { of, kept: kept & mask, turned: turned & mask ^ xor })
        }
        (Some(Held::Number(number)), Some((mask, xor))) => Some(Held::Number(number & mask ^ xor)),
        (Some(Held::Mark { kept, .. } | Held::Derived(kept)), _) => Some(Held::Derived(kept)),
        _ => None,
    })
}

impl Uses {
    /// What a register holds is compared with a number, or in a way that is not followed.
    fn compared(&mut self, held: Option<&Held>, with: Option<u32>) {
        let what = match (held, with) {
            (Some(Held::Mark { kept: u32::MAX, turned, .. }), Some(value)) => Marks::Whole(value ^ turned),
            (Some(Held::Mark { kept, .. } | Held::Derived(kept)), _) => Marks::Bits(*kept),
            _ => return,
        };
        self.marks.insert(what);
    }

    /// What a register holds becomes the mark of the packet or of its connection. A whole mark that goes from one to the other is
    /// nobody's: it says nothing of any bit. Of a part the bits are somebody's that it has.
    fn written(&mut self, to: &str, held: Option<&Held>) {
        let what = match held {
            Some(Held::Mark { kept: u32::MAX, turned: 0, .. }) => return,
            Some(Held::Mark { of, kept, turned }) if *of == to => Marks::Bits(!kept | turned),
            Some(Held::Mark { kept, turned, .. }) if kept | turned == u32::MAX => Marks::Bits(*turned),
            Some(Held::Mark { kept, turned, .. }) => Marks::Bits(kept | turned),
            Some(Held::Number(number)) => Marks::Whole(*number),
            Some(Held::Of(map)) => {
                self.values.insert(map.clone());
                return;
            }
            Some(Held::Derived(_)) | None => Marks::Unknown,
        };
        self.marks.insert(what);
    }

    /// The extensions of xtables that are about marks, by the structures of include/uapi/linux/netfilter/xt_mark.h and
    /// xt_connmark.h; of all others the guard has a list.
    fn extension(&mut self, extension: (&str, &str, u32), info: &[u8]) {
        let word = |at: usize| Some(u32::from_ne_bytes(info.get(at * 4..at * 4 + 4)?.try_into().ok()?));
        let either = |value: u32, mask: u32| match mask {
            u32::MAX => Some(Marks::Whole(value)),
            mask => Some(Marks::Bits(mask | value)),
        };
        let what = match extension {
            ("match", "mark" | "connmark", 1) => word(0).zip(word(1)).map(|(value, mask)| match mask {
                u32::MAX => Marks::Whole(value),
                mask => Marks::Bits(mask),
            }),
            ("target", "MARK", 2) => word(0).zip(word(1)).and_then(|(value, mask)| either(value, mask)),
            // Value, mask of the connection's, mask of the packet's, from form 2 on a shift (which way, how far), and what to do: set,
            // save, restore.
            ("target", "CONNMARK", revision @ (1 | 2)) => {
                let (shift, mode) = if revision == 1 { (Some(&0), info.get(12)) } else { (info.get(13), info.get(14)) };
                match (word(0), word(1), word(2), shift, mode) {
                    (Some(value), Some(mask), _, Some(0), Some(0)) => either(value, mask),
                    (_, Some(u32::MAX), Some(u32::MAX), Some(0), Some(1 | 2)) => return,
                    (_, Some(of_connection), Some(of_packet), Some(0), Some(1 | 2)) => {
                        Some(Marks::Bits(of_connection | of_packet))
                    }
                    _ => None,
                }
            }
            ("match", "mark" | "connmark", _) | ("target", "MARK" | "CONNMARK", _) => None,
            _ => return,
        };
        self.marks.insert(what.unwrap_or(Marks::Unknown));
    }
}

/// Keys and values of 4 bytes of the elements in one message of a set's dump; None for what is none.
pub(super) fn read_elements(body: &[u8]) -> Decode<Vec<(Option<u32>, Option<u32>)>> {
    let number = |element: &Found<'_>, attribute| -> Decode<Option<u32>> {
        let bytes = element.nested(attribute)?.get(NFTA_DATA_VALUE).map(|value| value.value);
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes))
    };
    let list = Found::after(NFGENMSG, body)?.nested(NFTA_SET_ELEM_LIST_ELEMENTS)?;
    let read = |element: &super::attributes::Attribute<'_>| {
        let element = Found::within(element.value)?;
        Ok((number(&element, NFTA_SET_ELEM_KEY)?, number(&element, NFTA_SET_ELEM_DATA)?))
    };
    list.all().iter().map(read).collect()
}

#[cfg(test)]
#[path = "nft_marks_tests.rs"]
mod tests;
