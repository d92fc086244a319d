//! Puts the eBPF objects that `cargo xtask build` left in the target folder where `fastpath/object.rs` embeds them.
//!
//! Where there is none, an empty file is embedded, so that `cargo check`, clippy and editors work with nothing but a stable
//! compiler; the loader tells people what to do then.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object_dir = target_dir().join("ebpf");
    // The folder is watched and not the file: cargo takes a missing file as changed each time, and would build the
    // whole crate anew at every check. So the folder has to be there.
    fs::create_dir_all(&object_dir)?;
    println!("cargo::rerun-if-changed={}", object_dir.display());
    println!("cargo::rerun-if-changed=build.rs");

    for (name, variable) in [("router-ebpf", "WAYFORK_EBPF_OBJECT"), ("bench-ebpf", "WAYFORK_BENCH_OBJECT")] {
        embed(&object_dir, name, variable)?;
    }
    Ok(())
}

/// Copies an object to where `variable` tells the compiler to find it. The copy keeps what is compiled in fixed while another
/// build replaces the original.
fn embed(object_dir: &Path, name: &str, variable: &str) -> io::Result<()> {
    let object = match fs::read(object_dir.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let copy = environment("OUT_DIR")?.join(name);
    fs::write(&copy, object)?;
    println!("cargo::rustc-env={variable}={}", copy.display());
    Ok(())
}

/// The workspace's target folder, found as `cargo xtask` finds it.
fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace.join(dir),
        None => workspace.join("target"),
    }
}

fn environment(name: &str) -> io::Result<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other(format!("cargo did not set {name} for the build script")))
}
