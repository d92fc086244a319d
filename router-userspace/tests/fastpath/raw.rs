//! A program of somebody else's at TCX egress, from bare instructions: drops what has a given value in one
//! field of `__sk_buff`, or a given checksum.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_EGRESS: u32 = 47;

/// `priority`, by its offset.
pub const PRIORITY: i16 = 32;
/// `mark`.
pub const MARK: i16 = 8;

/// The program, attached as long as this lives.
pub struct DropsWhere {
    _program: OwnedFd,
    _link: OwnedFd,
}

fn bpf(command: libc::c_long, attributes: &mut [u32]) -> OwnedFd {
    // SAFETY: the attributes are readable and as long as said.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    assert!(fd >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    // SAFETY: just opened.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

impl DropsWhere {
    /// Drops what leaves by `ifindex` with `value` in the field at `offset`; TC_ACT_UNSPEC for the rest.
    pub fn field_is(ifindex: u32, offset: i16, value: u32) -> Self {
        Self::attach(
            ifindex,
            &[
                instruction(0x61, 0x12, offset, 0),   // r2 = *(u32 *)(r1 + offset)
                instruction(0xb4, 0x00, 0, u32::MAX), // w0 = -1
                instruction(0x56, 0x02, 1, value),    // if w2 != value goto +1
                instruction(0xb4, 0x00, 0, 2),        // w0 = TC_ACT_SHOT
                instruction(0x95, 0x00, 0, 0),        // exit
            ],
        )
    }

    /// Drops what has a checksum over its whole frame (CHECKSUM_COMPLETE) that, folded, is `sum`.
    pub fn whole_sum_is(ifindex: u32, sum: u16) -> Self {
        let fold = [
            instruction(0xbf, 0x02, 0, 0),      // r2 = r0
            instruction(0x77, 0x02, 0, 16),     // r2 >>= 16
            instruction(0x57, 0x00, 0, 0xffff), // r0 &= 0xffff
            instruction(0x0f, 0x20, 0, 0),      // r0 += r2
        ];
        let program = [
            instruction(0xb7, 0x02, 0, 0),  // r2 = 0
            instruction(0x85, 0x00, 0, 40), // r0 = bpf_csum_update(r1, r2): the sum, or -ENOTSUPP
            instruction(0xbf, 0x06, 0, 0),  // r6 = r0
            instruction(0x77, 0x06, 0, 32), // r6 >>= 32
            instruction(0x55, 0x06, 9, 0),  // if r6 != 0 goto +9
            fold[0],
            fold[1],
            fold[2],
            fold[3],
            fold[0],
            fold[1],
            fold[2],
            fold[3],
            instruction(0x15, 0x00, 2, u32::from(sum)), // if r0 == sum goto +2
            instruction(0xb4, 0x00, 0, u32::MAX),       // w0 = -1
            instruction(0x95, 0x00, 0, 0),              // exit
            instruction(0xb4, 0x00, 0, 2),              // w0 = TC_ACT_SHOT
            instruction(0x95, 0x00, 0, 0),              // exit
        ];
        Self::attach(ifindex, &program)
    }

    fn attach(ifindex: u32, program: &[u64]) -> Self {
        let (code, license) = (program.as_ptr() as u64, c"GPL".as_ptr() as u64);
        let mut load = [0u32; 18];
        load[0] = BPF_PROG_TYPE_SCHED_CLS;
        load[1] = program.len() as u32;
        (load[2], load[3]) = (code as u32, (code >> 32) as u32);
        (load[4], load[5]) = (license as u32, (license >> 32) as u32);
        let program = bpf(BPF_PROG_LOAD, &mut load);
        let mut create = [0u32; 8];
        create[0] = program.as_raw_fd() as u32;
        create[1] = ifindex;
        create[2] = BPF_TCX_EGRESS;
        let link = bpf(BPF_LINK_CREATE, &mut create);
        DropsWhere { _program: program, _link: link }
    }
}

/// Opcode, registers (source << 4 | destination), offset, immediate.
fn instruction(code: u8, registers: u8, offset: i16, immediate: u32) -> u64 {
    u64::from(code) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(immediate) << 32
}
