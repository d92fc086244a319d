//! A rustc, and what it brings for BPF.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{TARGET, Way};
use crate::{
    place::{self, Cache},
    step,
};

/// How long rustup may take to fetch rust-src before the next way is tried.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);

/// A rustc that has a `core` for BPF, or the source to build one from.
pub struct Compiler {
    /// The compiler itself, by absolute path.
    pub rustc: PathBuf,
    /// The cargo to drive it with: the one beside it, as `-Z build-std` needs the two to fit.
    pub cargo: OsString,
    /// True where `core` has to be built from source.
    pub build_std: bool,
    /// The version of LLVM, as "22.1.2".
    pub llvm: String,
    release: String,
    version: String,
    sysroot: PathBuf,
}

impl Compiler {
    /// Asks `rustc` what it is; an error where it has neither a `core` for BPF nor the source of one.
    pub fn probe(rustc: &Path) -> Result<Self> {
        let version = ask(Command::new(rustc).arg("-vV"))?;
        let field = |name: &str| {
            let value = version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned).ok_or_else(|| anyhow!("{} tells no `{name}`", rustc.display()))
        };
        let (release, llvm) = (field("release")?, field("LLVM version")?);
        let sysroot = PathBuf::from(ask(Command::new(rustc).args(["--print", "sysroot"]))?.trim());
        let build_std = !has_core(&sysroot);
        if build_std && !has_source(&sysroot) {
            bail!("rustc {release} has neither a core for {TARGET} nor the rust-src component to build one from");
        }
        let beside = sysroot.join("bin/cargo");
        let cargo = if beside.is_file() { beside.into() } else { place::cargo() };
        Ok(Self { rustc: rustc.to_owned(), cargo, build_std, llvm, release, version, sysroot })
    }

    /// What tells this compiler from any other.
    pub fn identity(&self) -> String {
        let core = if self.build_std { "source" } else { "ready" };
        format!("{} core: {core} sysroot: {}", self.version, self.sysroot.display())
    }

    /// For people: which compiler this is and where it came from.
    pub fn account(&self, way: Way) -> String {
        let from = match way {
            Way::Current => "the one in use",
            Way::Debian => "Debian's rustc-web",
            Way::Nightly => "rustup's nightly",
        };
        let core = if self.build_std { "core built from rust-src" } else { "with its own core for BPF" };
        format!("rustc {} (LLVM {}), {from}, {core}", self.release, self.llvm)
    }

    /// A name for files that belong to this compiler alone.
    pub fn label(&self) -> String {
        format!("rust-{}-llvm-{}", self.release, self.llvm)
    }

    /// The number that bpf-linker's features go by.
    pub fn llvm_major(&self) -> &str {
        self.llvm.split('.').next().unwrap_or(&self.llvm)
    }

    /// The libLLVM that this compiler itself writes bitcode with.
    pub fn libllvm(&self) -> Option<PathBuf> {
        let lib = self.sysroot.join("lib");
        let mut folders = vec![lib.clone(), self.sysroot.join("lib64")];
        folders.extend(entries(&lib).into_iter().filter(|path| path.to_string_lossy().contains("-linux-")));
        let names = [format!("libLLVM.so.{}", self.llvm_major()), format!("libLLVM-{}", self.llvm_major())];
        names.iter().find_map(|name| {
            let mut fitting = folders.iter().flat_map(|folder| entries(folder));
            fitting.find(|path| file_name(path).starts_with(name.as_str()))
        })
    }

    /// The clippy of this compiler, where it has one.
    pub fn has_clippy(&self) -> bool {
        self.sysroot.join("bin/cargo-clippy").is_file() && self.sysroot.join("bin/clippy-driver").is_file()
    }

    /// The folder of this compiler's programs.
    pub fn bin(&self) -> PathBuf {
        self.sysroot.join("bin")
    }
}

/// The rustc in use, with rust-src, which rustup is asked for where it is missing.
pub fn current(cache: &Cache) -> Result<Compiler> {
    let rustc = in_sysroot(Command::new("rustc").current_dir(place::workspace()))?;
    let missing = match Compiler::probe(&rustc) {
        Ok(compiler) => return Ok(compiler),
        Err(error) => error,
    };
    if ask(Command::new("rustup").arg("--version")).is_err() {
        bail!("{missing:#}, and there is no rustup to get it with");
    }
    step::run_within(
        "getting rust-src",
        Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(place::workspace()),
        &cache.log("rust-src"),
        "Where rustup reaches its server, `rustup component add rust-src` mends this.",
        Some(RUSTUP_LIMIT),
    )?;
    Compiler::probe(&rustc)
}

/// A nightly that rustup has already, rust-src included.
pub fn nightly() -> Result<Compiler> {
    let mut ask_nightly = Command::new("rustup");
    ask_nightly.args(["run", "nightly", "rustc"]);
    let rustc = in_sysroot(&mut ask_nightly).context("rustup has no nightly")?;
    Compiler::probe(&rustc)
}

/// The real compiler behind a rustup proxy: its path does not depend on the folder or the environment.
fn in_sysroot(rustc: &mut Command) -> Result<PathBuf> {
    let sysroot = ask(rustc.args(["--print", "sysroot"]))?;
    let path = Path::new(sysroot.trim()).join("bin/rustc");
    if !path.is_file() {
        bail!("rustc names {} as its home, but there is no bin/rustc in it", sysroot.trim());
    }
    Ok(path)
}

fn has_core(sysroot: &Path) -> bool {
    let ready = entries(&sysroot.join("lib/rustlib").join(TARGET).join("lib"));
    ready.iter().any(|path| file_name(path).starts_with("libcore-") && path.extension().is_some_and(|e| e == "rlib"))
}

fn has_source(sysroot: &Path) -> bool {
    let library = sysroot.join("lib/rustlib/src/rust/library");
    library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file()
}

/// What is in a folder, sorted; nothing where it cannot be read.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The last part of a path, as text.
pub fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a short command prints; an error with its complaint where it fails.
pub fn ask(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}): {}", output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
