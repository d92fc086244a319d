//! Where things are: the workspace, its target folder, the user's cache.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};

/// The folder of the workspace that this program was built from.
pub fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The workspace's target folder, absolute. `router-userspace/build.rs` finds it the same way.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Where an eBPF object is put for the loader to embed.
pub fn ebpf_object(name: &str) -> PathBuf {
    target_dir().join("ebpf").join(name)
}

/// The cargo that started this program, or the one on the path.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// True on a continuous-integration machine, where nobody reads a warning and nothing may be left out.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// What is fetched or built once for a user, not once for a checkout.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$WAYFORK_CACHE`, `$XDG_CACHE_HOME/wayfork` or `~/.cache/wayfork`, making it where it is missing.
    pub fn open() -> Result<Self> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("WAYFORK_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|caches| caches.join("wayfork")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/wayfork")))
            .ok_or_else(|| anyhow!("no folder for the cache: set WAYFORK_CACHE or HOME"))?;
        let root = std::path::absolute(&root).with_context(|| format!("the cache folder {}", root.display()))?;
        for folder in ["logs", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| {
                format!("cannot make {}; set WAYFORK_CACHE to a folder that you may write to", folder.display())
            })?;
        }
        Ok(Self { root })
    }

    /// A path inside the cache.
    pub fn join(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// Where a step called `name` writes what its command prints.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Waits until no other `cargo xtask` changes the cache, and keeps others out until the guard is dropped.
    pub fn lock(&self) -> Result<File> {
        lock(&self.root)
    }

    /// An empty folder for work in progress, gone when the guard is dropped. Only the holder of the lock may ask.
    pub fn workshop(&self, name: &str) -> Result<Workshop> {
        let path = self.root.join("tmp").join(name);
        remove(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Workshop(path))
    }
}

/// Waits until no other `cargo xtask` has the lock of a folder, and has it until the guard is dropped.
pub fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another `cargo xtask` that works in {}", folder.display());
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// A folder for work in progress.
pub struct Workshop(PathBuf);

impl Workshop {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves what was made at `below` to its place in one step, so that nobody sees it half done.
    pub fn deliver(&self, below: impl AsRef<Path>, to: &Path) -> Result<()> {
        remove(to)?;
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let from = self.0.join(below);
        fs::rename(&from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("warning: {error:#}");
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
