//! The arguments of every command (contract: command line).

use crate::router::Rate;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// Routes by policy, not by destination alone, on an eBPF fast path that gives the kernel's own verdict.
#[derive(Debug, Parser)]
#[command(name = "wayfork", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// One JSON document on standard output (one per line where it streams); failures too.
    #[arg(long, global = true)]
    pub json: bool,
    /// Work in this network namespace, a name as `ip netns` has it.
    #[arg(short = 'n', long, global = true, value_name = "NAME")]
    pub netns: Option<String>,
    /// More detail on standard error; twice for all.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Only errors on standard error.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which paths carry the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// The fast path where this host can run it and it is proven safe, the stack otherwise.
    Auto,
    /// The fast path, or an error.
    Ebpf,
    /// The mirror alone.
    Netlink,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Route by the policy until SIGINT or SIGTERM, then take back all that was installed.
    Run(RunArgs),
    /// Give the running router a new policy, whole or not at all.
    Reload(FileArg),
    /// Parse and validate a policy file; the same answer on every host, no privilege.
    Check(CheckArgs),
    /// Show what `run` would change on this host. Changes nothing.
    Plan(PlanArgs),
    /// Decide one packet twice, by the fast path and by the kernel, and show why.
    Explain(ExplainArgs),
    /// Decide many packets by both paths; status 1 and the smallest counter-example on any disagreement.
    Compare(CompareArgs),
    /// The running router: interfaces, rules with counters, reasons for pass.
    Status,
    /// Print a policy file equal to what is there.
    Import(ImportArgs),
    /// A throw-away lab of network namespaces with real traffic down both paths.
    Lab(LabArgs),
    /// The measured comparison of the paths on this machine, in network namespaces of its own.
    Bench(BenchArgs),
}

/// A policy file given as FILE or as --config FILE.
#[derive(Clone, Debug, Default, Args)]
pub struct FileArg {
    /// Policy file; `-` is standard input. Without one, the rules that are already there.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// The same as FILE.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl FileArg {
    /// The file, however it was given.
    pub fn path(&self) -> Option<&PathBuf> {
        self.file.as_ref().or(self.config.as_ref())
    }
}

/// `wayfork run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The policy.
    #[command(flatten)]
    pub file: FileArg,
    /// Overrides the file's mode.
    #[arg(long, value_enum)]
    pub mode: Option<ModeArg>,
    /// Leave the mirror installed at the end.
    #[arg(long)]
    pub keep: bool,
    /// Check this share of the fast path's decisions against the kernel while it runs: 1/N or N%.
    #[arg(long, value_name = "RATE")]
    pub shadow: Option<Rate>,
}

/// `wayfork check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Policy file; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "config", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// The same as FILE.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `wayfork plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The policy.
    #[command(flatten)]
    pub file: FileArg,
    /// Status 1 where something would change.
    #[arg(long)]
    pub exit_code: bool,
}

/// `wayfork explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Destination address.
    #[arg(value_name = "ADDR")]
    pub to: IpAddr,
    /// Interface it comes in by; without it, a packet made on this host.
    #[arg(long, value_name = "DEV")]
    pub iif: Option<String>,
    /// Source address.
    #[arg(long, value_name = "ADDR")]
    pub from: Option<IpAddr>,
    /// Mark, decimal or 0x….
    #[arg(long, value_name = "N", value_parser = parse_u32, default_value = "0")]
    pub mark: u32,
    /// IP protocol by name or number.
    #[arg(long, value_name = "P")]
    pub ipproto: Option<String>,
    /// Source port.
    #[arg(long, value_name = "N")]
    pub sport: Option<u16>,
    /// Destination port.
    #[arg(long, value_name = "N")]
    pub dport: Option<u16>,
    /// DSCP, 0 to 63.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..64))]
    pub dscp: Option<u8>,
    /// IPv6 flow label, 0 to 0xfffff.
    #[arg(long, value_name = "N", value_parser = parse_u32)]
    pub flowlabel: Option<u32>,
    /// The first of several IPv4 fragments: rules find no ports in it.
    #[arg(long)]
    pub fragment: bool,
    /// Try this policy file in a scratch namespace made like this host.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `wayfork compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Try this policy file in a scratch namespace made like this host.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How many packets: 20,000 where nobody says, with --pcap all that are in it.
    #[arg(long, value_name = "N")]
    pub packets: Option<u64>,
    /// Seed of the generator; printed, so that a run can be repeated.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Take the packets from a capture.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

/// `wayfork import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// From where.
    #[command(subcommand)]
    pub from: ImportFrom,
}

/// What to import.
#[derive(Debug, Subcommand)]
pub enum ImportFrom {
    /// What this namespace's kernel has now.
    Kernel,
}

/// `wayfork lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Only this scenario.
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// List the scenarios.
    #[arg(long)]
    pub list: bool,
}

/// `wayfork bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Only these paths (`--list` names them).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub path: Vec<String>,
    /// Numbers of rules or prefixes, up to 1,048,576.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub size: Vec<u32>,
    /// Look addresses up among so many prefixes, up to 1,048,576, without forwarding; no paths unless they are named.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub lookups: Vec<u32>,
    /// Load so many rules (up to 100,000) and so many routes into the fast path, change one, and reload a running router of so
    /// many rules or prefixes of sets under traffic; no paths unless they are named.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub updates: Vec<u32>,
    /// How often each path is measured.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Milliseconds of one measurement.
    #[arg(long, value_name = "MS")]
    pub slice: Option<u64>,
    /// Of the packets and of the rules.
    #[arg(long, value_enum, default_value_t = FamilyArg::Ipv4)]
    pub family: FamilyArg,
    /// Bytes of a frame, the check sequence not included.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(64..=1514))]
    pub packet: Vec<u32>,
    /// How many flows the packets belong to.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub flows: Vec<FlowsArg>,
    /// rp_filter of the router's interfaces.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=2))]
    pub rp_filter: Vec<u32>,
    /// Every kind of traffic that matters, instead of one.
    #[arg(long, conflicts_with_all = ["family", "packet", "flows", "rp_filter"])]
    pub all: bool,
    /// Every path once with few rules, in seconds: shows that it works, not how fast it is.
    #[arg(long)]
    pub quick: bool,
    /// Seconds to wait for a path to be ready; then it is left out.
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub patience: u64,
    /// The CPU that sends, routes and counts: by default the last one.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// List the paths.
    #[arg(long)]
    pub list: bool,
}

/// Which families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FamilyArg {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// One after the other.
    Both,
}

/// How many flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowsArg {
    /// One, which belongs to the last rule.
    One,
    /// 4,096.
    Many,
    /// Addresses never come again.
    Random,
}

/// A number, decimal or hexadecimal with `0x`.
fn parse_u32(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{error}; give a number such as 5324 or 0x14cc"))
}
