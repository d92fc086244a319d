//! The programs by themselves: BPF_PROG_TEST_RUN, and what the verifier made of them.

use super::measure::Driver;
use super::paths::{KERNEL, LIMIT, Ready};
use super::report::ProgramRow;
use super::topology::{index, macs};
use super::{Error, Result, rules};
use crate::compile::Generation;
use crate::fastpath::{self, Capacity, Context, FastPath};
use crate::kernel::{Kernel, Netlink};
use crate::policy::Policy;
use crate::proof::Program;
use router_common::bench::{Generator, Plan, header4, header6};
use router_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4};

/// Runs over one packet.
const REPEAT: u32 = 100_000;

/// The time of one decision by the rules of this path, where it can be had: of the program that decides by the kernel's own list,
/// and of the bare one.
pub fn alone(driver: &mut Driver, ready: &Ready) -> Result<Option<ProgramRow>> {
    let frame = frame(&ready.plan, 0);
    let (program, time) = match ready.path.name {
        LIMIT => (LIMIT, driver.within(ready, || Ok(driver.workload.limit_alone(&frame, REPEAT)?))?),
        // A copy of the program beside no running one, which would be another's to it.
        KERNEL => {
            let time = ready.bed.router()?.run(|| {
                let host = Netlink::open()?.host()?;
                let program = Program::load(&host, &Policy::default(), None);
                let mut program =
                    program.map_err(|error| Error::new("load the program", std::io::Error::other(error)))?;
                let context = Context { ifindex: index::IN, ..Context::default() };
                let repeat = REPEAT.min(10_000_000 / ready.plan.rules);
                Ok::<_, Error>(program.time(&frame, context, repeat)?)
            })??;
            (fastpath::PROBE, time)
        }
        _ => return Ok(None),
    };
    Ok(Some(ProgramRow {
        program: program.to_owned(),
        rules: Some(ready.plan.rules).filter(|_| program != LIMIT),
        family: Some(rules::family(&ready.plan)),
        ns: Some(time.as_nanos() as f64),
        verified_instructions: None,
        stack_bytes: None,
    }))
}

/// What the verifier made of the programs.
pub fn verified() -> Result<Vec<ProgramRow>> {
    let mut fast = FastPath::load(Capacity::of(&Generation::default()))?;
    let verified = fast.verified()?;
    let row = |(program, verified): (&str, fastpath::Verified)| ProgramRow {
        program: program.to_owned(),
        rules: None,
        family: None,
        ns: None,
        verified_instructions: verified.instructions,
        stack_bytes: verified.stack,
    };
    Ok([fastpath::PROGRAM, fastpath::PROBE].into_iter().zip(verified).map(row).collect())
}

/// The first packet of a flow, as the generator writes it but for the payload.
fn frame(plan: &Plan, flow: u32) -> Vec<u8> {
    let length = Generator::least_length(plan.family) as usize;
    let total = (length - 14) as u32;
    let (from, to) = plan.addresses(flow);
    let (ethertype, header) = match plan.family {
        IPV4 => (ETHERTYPE_IPV4, header4(from[0], to[0], total).to_vec()),
        _ => (ETHERTYPE_IPV6, header6(from, to, total).to_vec()),
    };
    let udp = [Plan::ports(flow), (total - header.len() as u32 * 4) << 16];
    let mut frame = macs().concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(header.iter().chain(&udp).flat_map(|word| word.to_be_bytes()));
    frame.resize(length, 0);
    frame
}
