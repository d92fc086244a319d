//! How much stack a loaded program needs: read from its instructions, as the kernel gives them back. The verifier knows it, and
//! says so in its log alone.

use super::{Error, Result};
use aya::programs::ProgramFd;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One instruction: `struct bpf_insn` (include/uapi/linux/bpf.h), little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

impl Instruction {
    fn new(bytes: &[u8; 8]) -> Self {
        let [code, registers, o0, o1, imm @ ..] = *bytes;
        let (dst, src) = (registers & 0xf, registers >> 4);
        Instruction { code, dst, src, off: i16::from_le_bytes([o0, o1]), imm: i32::from_le_bytes(imm) }
    }
}

/// The frame pointer.
const R10: u8 = 10;
/// BPF_JMP | BPF_CALL, BPF_PSEUDO_CALL: `off` is how far the function is.
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
/// BPF_LD | BPF_IMM | BPF_DW, BPF_PSEUDO_FUNC: `imm` is how far the function is.
const LOAD_64: u8 = 0x18;
const PSEUDO_FUNC: u8 = 4;
/// BPF_ALU64 | BPF_MOV | BPF_X.
const MOVE: u8 = 0xbf;
/// BPF_ALU64 | BPF_ADD | BPF_K.
const ADD: u8 = 0x07;
/// Room for the instructions of any program of ours.
const MOST: usize = 1 << 20;

/// Bytes of stack of the deepest chain of calls. None where the kernel does not show the instructions.
pub(super) fn depth(program: &ProgramFd) -> Result<Option<u32>> {
    let bytes = translated(program)?;
    let instructions: Vec<Instruction> = bytes.as_chunks().0.iter().map(Instruction::new).collect();
    Ok((!instructions.is_empty()).then(|| deepest(&instructions)))
}

/// BPF_OBJ_GET_INFO_BY_FD: the instructions as they were translated.
fn translated(program: &ProgramFd) -> Result<Vec<u8>> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    /// The beginning of `struct bpf_prog_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        tag: [u8; 8],
        jited_len: u32,
        translated_len: u32,
        jited: u64,
        translated: u64,
    }
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut bytes = vec![0u8; MOST];
    let mut info = Info { translated_len: MOST as u32, translated: bytes.as_mut_ptr() as u64, ..Info::default() };
    let fd = program.as_fd().as_raw_fd() as u32;
    let attr = Attr { fd, len: size_of::<Info>() as u32, info: &raw mut info as u64 };
    // SAFETY: `attr` is the beginning of `union bpf_attr` for the command; it names a structure and a buffer that live until the
    // call returns, with their lengths.
    let status = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attr, size_of::<Attr>()) };
    if status != 0 {
        return Err(Error::from_os("read the program's instructions", io::Error::last_os_error()));
    }
    // Zero where they may not be read.
    bytes.truncate(if info.translated == 0 { 0 } else { info.translated_len as usize });
    Ok(bytes)
}

/// The function that an instruction at `place` names.
fn named(place: usize, instruction: &Instruction) -> Option<usize> {
    let far = match (instruction.code, instruction.src) {
        (CALL, PSEUDO_CALL) => i64::from(instruction.off),
        (LOAD_64, PSEUDO_FUNC) => i64::from(instruction.imm),
        _ => return None,
    };
    usize::try_from(place as i64 + 1 + far).ok()
}

/// A function's own stack, and whom it calls or hands on.
#[derive(Default)]
struct Function {
    own: u32,
    calls: Vec<usize>,
}

fn deepest(instructions: &[Instruction]) -> u32 {
    let mut starts: Vec<usize> = vec![0];
    starts.extend(instructions.iter().enumerate().filter_map(|(place, instruction)| named(place, instruction)));
    starts.retain(|start| *start < instructions.len());
    starts.sort_unstable();
    starts.dedup();
    let mut functions = BTreeMap::new();
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(instructions.len());
        let body = &instructions[*start..end];
        let calls = body.iter().enumerate().filter_map(|(place, instruction)| named(start + place, instruction));
        functions.insert(*start, Function { own: frame(body), calls: calls.collect() });
    }
    // The verifier allows eight frames.
    chain(&functions, 0, 8)
}

fn chain(functions: &BTreeMap<usize, Function>, start: usize, left: u32) -> u32 {
    let Some(function) = functions.get(&start).filter(|_| left > 0) else { return 0 };
    function.own + function.calls.iter().map(|call| chain(functions, *call, left - 1)).max().unwrap_or(0)
}

/// How far below the frame pointer the instructions of a function reach, by it and by what was copied from it.
fn frame(body: &[Instruction]) -> u32 {
    let mut below: [Option<i32>; 16] = [None; 16];
    below[R10 as usize] = Some(0);
    let mut deepest = 0;
    for instruction in body {
        let Instruction { code, dst, src, off, imm } = *instruction;
        let base = match code & 0x07 {
            // BPF_LDX reads at src, BPF_ST and BPF_STX write at dst.
            1 => below[usize::from(src)],
            2 | 3 => below[usize::from(dst)],
            _ => None,
        };
        deepest = deepest.min(base.map_or(0, |base| base + i32::from(off)));
        match code {
            MOVE => below[usize::from(dst)] = below[usize::from(src)],
            ADD => {
                let sum = below[usize::from(dst)].map(|base| base.saturating_add(imm));
                below[usize::from(dst)] = sum;
                deepest = deepest.min(sum.unwrap_or(0));
            }
            // Anything else that writes a register: loads and arithmetic.
            _ if matches!(code & 0x07, 0 | 1 | 4 | 7) && dst != R10 => below[usize::from(dst)] = None,
            _ => {}
        }
    }
    deepest.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    fn of(bytes: &[[u8; 8]]) -> u32 {
        deepest(&bytes.iter().map(Instruction::new).collect::<Vec<_>>())
    }

    #[test]
    fn a_frame_is_what_is_touched() {
        // *(u64 *)(r10 - 16) = r1
        let store = [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0];
        assert_eq!(of(&[store, EXIT]), 16);
        // r2 = r10; r2 += -40: what a helper is given.
        let (copy, add) = ([0xbf, 0xa2, 0, 0, 0, 0, 0, 0], [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff]);
        assert_eq!(of(&[copy, add, store, EXIT]), 40);
        // r2 = 5; r2 += -40: a number.
        let number = [0xb7, 0x02, 0, 0, 5, 0, 0, 0];
        assert_eq!(of(&[copy, number, add, EXIT]), 0);
    }

    #[test]
    fn frames_of_a_chain_add_up_and_those_of_brothers_do_not() {
        let store = |below: i8| [0x7b, 0x1a, below.to_le_bytes()[0], 0xff, 0, 0, 0, 0];
        let call = |far: u8| [0x85, 0x10, far, 0, 0, 0, 0, 0];
        // 0: call 4; 1: call 6; 2: -8; 3: exit / 4: -16; 5: exit / 6: -32; 7: exit
        let program = [call(3), call(4), store(-8), EXIT, store(-16), EXIT, store(-32), EXIT];
        assert_eq!(of(&program), 8 + 32);
    }
}
