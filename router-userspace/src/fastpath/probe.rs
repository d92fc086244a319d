//! Questions to the program: BPF_PROG_TEST_RUN.

use super::load::program;
use super::{Error, FastPath, PROBE, Result, ethernet_frame};
use aya::programs::{TestRun, TestRunOptions};
use router_common::layout::Decision;
use std::time::Duration;

/// What comes with a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Ingress interface index; it must exist in the calling thread's namespace.
    pub ifindex: u32,
    /// fwmark.
    pub mark: u32,
    /// Payload bytes of each segment, for a GSO packet; 0 for any other.
    pub gso_size: u32,
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) as BPF_PROG_TEST_RUN takes it: where the fields lie that may be set.
mod sk_buff {
    pub const SIZE: usize = 192;
    pub const MARK: usize = 8;
    pub const IFINDEX: usize = 40;
    pub const GSO_SIZE: usize = 176;
}

impl FastPath {
    /// What the program would do with this Ethernet frame. Counts and changes nothing.
    ///
    /// The kernel compares the destination address with the device's to tell whether the frame is for this host; for a
    /// device without a hardware address it must be zero.
    pub fn probe_frame(&mut self, frame: &[u8], context: Context) -> Result<Decision> {
        self.probe_repeated(frame, context, 1).map(|(decision, _)| decision)
    }

    /// What the program would do with this IP packet, which comes in by `context.ifindex` addressed to this host.
    pub fn probe(&mut self, packet: &[u8], context: Context) -> Result<Decision> {
        // What the program does not know it passes, whatever the address.
        let mac = self.tables.link(context.ifindex).map(|link| bytemuck::cast(link.mac)).unwrap_or_default();
        self.probe_frame(&ethernet_frame(mac, packet), context)
    }

    /// The same question `repeat` times, and the mean time of an answer.
    pub fn probe_repeated(&mut self, frame: &[u8], context: Context, repeat: u32) -> Result<(Decision, Duration)> {
        let mut input = [0u8; sk_buff::SIZE];
        for (at, value) in
            [(sk_buff::MARK, context.mark), (sk_buff::IFINDEX, context.ifindex), (sk_buff::GSO_SIZE, context.gso_size)]
        {
            input[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&input);
        options.repeat = repeat;
        let result = program(&mut self.ebpf, PROBE)?
            .test_run(options)
            .map_err(|error| Error::from_any("ask the eBPF program (BPF_PROG_TEST_RUN)", error))?;
        Ok((self.tables.decision()?, result.duration))
    }
}
