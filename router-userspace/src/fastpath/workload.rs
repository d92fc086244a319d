//! The programs of the benchmark: generator, sink and the bare TC program. See `router_common::bench`.
//!
//! Programs are attached, and packets sent, in the network namespace of the calling thread.

use super::attach::interface_name;
use super::object::BENCH_OBJECT;
use super::tables::take;
use super::{Error, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::links::LinkOrder;
use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
    tc::TcAttachOptions,
};
use router_common::bench::{COUNTS, Generator, Limit, SAMPLES, Sink, Span};
use std::time::Duration;

const GENERATE: &str = "generate";
const SINK: &str = "sink";
const PASS: &str = "pass";
const FIB: &str = "fib";
const LIMIT: &str = "limit";

/// The loaded programs. Dropping it detaches and unloads all of it.
pub struct Workload {
    ebpf: Ebpf,
    generator: Array<MapData, Generator>,
    sink: Array<MapData, Sink>,
    limit: Array<MapData, Limit>,
    counters: PerCpuArray<MapData, u64>,
    times: Array<MapData, u32>,
    span: PerCpuArray<MapData, Span>,
    /// What the generator's frames are made from: the generator writes the headers.
    template: Vec<u8>,
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload").field("frame", &self.template.len()).finish_non_exhaustive()
    }
}

impl Workload {
    /// Loads the programs, attached nowhere.
    pub fn load() -> Result<Self> {
        if BENCH_OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let what = "load the programs of the benchmark";
        let mut ebpf = Ebpf::load(BENCH_OBJECT).map_err(|error| Error::from_any(what, error))?;
        for name in [GENERATE, SINK, PASS, FIB] {
            xdp(&mut ebpf, name)?.load().map_err(Error::from_load)?;
        }
        classifier(&mut ebpf)?;
        Ok(Workload {
            generator: take(&mut ebpf, "GENERATOR")?,
            sink: take(&mut ebpf, "SINK")?,
            limit: take(&mut ebpf, "LIMIT")?,
            counters: take(&mut ebpf, "COUNTERS")?,
            times: take(&mut ebpf, "TIMES")?,
            span: take(&mut ebpf, "SPAN")?,
            template: Vec::new(),
            ebpf,
        })
    }

    /// Has an interface count and drop what arrives.
    pub fn attach_sink(&mut self, ifindex: u32) -> Result<()> {
        self.attach_xdp(SINK, ifindex)
    }

    /// Has an interface take the frames of the generator, and does no more.
    pub fn attach_pass(&mut self, ifindex: u32) -> Result<()> {
        self.attach_xdp(PASS, ifindex)
    }

    /// Has an interface forward by the kernel's look-up (`bpf_fib_lookup`) in XDP; it takes the frames of the generator too.
    pub fn attach_fib(&mut self, ifindex: u32) -> Result<()> {
        self.attach_xdp(FIB, ifindex)
    }

    fn attach_xdp(&mut self, name: &'static str, ifindex: u32) -> Result<()> {
        let attached = xdp(&mut self.ebpf, name)?.attach_to_if_index(ifindex, XdpMode::Driver);
        attached.map_err(|error| Error::from_any(format!("attach `{name}` to interface {ifindex}"), error))?;
        Ok(())
    }

    /// Has everything that comes in by `ifindex` forwarded as `limit` says, by the bare TC program.
    pub fn attach_limit(&mut self, ifindex: u32, limit: Limit) -> Result<()> {
        self.limit.set(0, limit, 0).map_err(|error| Error::from_map("write the map LIMIT", error))?;
        let name = interface_name(ifindex)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::last());
        let program = classifier(&mut self.ebpf)?;
        let attached = program.attach_with_options(&name, TcAttachType::Ingress, options);
        attached.map_err(|error| Error::from_any(format!("attach the bare TC program to {name}"), error))?;
        Ok(())
    }

    /// What the next packets are.
    pub fn set_generator(&mut self, generator: &Generator) -> Result<()> {
        self.template = vec![0; generator.length as usize];
        self.generator.set(0, generator, 0).map_err(|error| Error::from_map("write the map GENERATOR", error))
    }

    /// What the sink takes for right. The span of packets begins anew.
    pub fn set_sink(&mut self, sink: &Sink) -> Result<()> {
        self.sink.set(0, sink, 0).map_err(|error| Error::from_map("write the map SINK", error))?;
        let what = "write the map SPAN";
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| Error::from_os(what, error))?;
        let none = PerCpuValues::try_from(vec![Span::default(); cpus]).map_err(|error| Error::from_os(what, error))?;
        self.span.set(0, none, 0).map_err(|error| Error::from_map(what, error))
    }

    /// From the first packet's sending to the last one's arrival, since [`Workload::set_sink`]; None where none arrived right.
    /// All packets must have arrived by one CPU.
    pub fn span(&self) -> Result<Option<Duration>> {
        let spans = self.span.get(&0, 0).map_err(|error| Error::from_map("read the map SPAN", error))?;
        let used = spans.iter().find(|span| span.last > span.first && span.first != 0);
        Ok(used.map(|span| Duration::from_nanos(span.last - span.first)))
    }

    /// Sends packets from the calling thread, on its CPU, `batch` at a time (1 to 256).
    pub fn send(&self, packets: u32, batch: u32) -> Result<()> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.template);
        options.repeat = packets;
        options.attrs = TestRunAttrs::new().xdp_live_frames(batch);
        let program = self.ebpf.program(GENERATE).ok_or(Error::Object(GENERATE))?;
        let program: &Xdp = program.try_into().map_err(|_| Error::Object(GENERATE))?;
        program.test_run(options).map_err(|error| Error::from_any("send packets (BPF_PROG_TEST_RUN)", error))?;
        Ok(())
    }

    /// What arrived so far, by `router_common::bench::Count`.
    pub fn counts(&self) -> Result<[u64; COUNTS]> {
        let mut counts = [0; COUNTS];
        for (index, count) in counts.iter_mut().enumerate() {
            let values = self.counters.get(&(index as u32), 0);
            let values = values.map_err(|error| Error::from_map("read the map COUNTERS", error))?;
            *count = values.iter().sum();
        }
        Ok(counts)
    }

    /// The times that the packets with these numbers (from 0, among those that arrived right) took; of them the last
    /// `router_common::bench::SAMPLES` are kept.
    pub fn times(&self, numbers: std::ops::Range<u64>) -> Result<Vec<Duration>> {
        let read = |number: u64| self.times.get(&(number as u32 & (SAMPLES - 1)), 0);
        let times = numbers.map(|number| read(number).map(|time| Duration::from_nanos(time.into())));
        times.collect::<Result<_, _>>().map_err(|error| Error::from_map("read the map TIMES", error))
    }

    /// The mean time of one run of the bare TC program over this frame.
    pub fn limit_alone(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let program = self.ebpf.program(LIMIT).ok_or(Error::Object(LIMIT))?;
        let program: &SchedClassifier = program.try_into().map_err(|_| Error::Object(LIMIT))?;
        let result = program.test_run(options);
        Ok(result.map_err(|error| Error::from_any("run the bare TC program (BPF_PROG_TEST_RUN)", error))?.duration)
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).ok_or(Error::Object(name))?;
    program.try_into().map_err(|_: ProgramError| Error::Object(name))
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    super::load::program(ebpf, LIMIT)
}
