//! Debian's archive beyond what this machine's sources list: the ordinary apt, with sources and lists of its own in the
//! cache. The mirror is the one that the machine itself uses.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    apt::{self, Apt},
    place::Cache,
    step,
    toolchain::ask,
};

/// Where the kernels' packages are, beside the machine's own release.
const RELEASES: [&str; 2] = ["bookworm", "trixie"];
/// Signs all of Debian's releases. Where it is missing, apt goes by the keys that it trusts anyway.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt's view of the archive, in two widths.
#[derive(Clone)]
pub struct Archive {
    /// The machine's own release with its backports: what can run here.
    pub own: Apt,
    /// All releases that have a kernel to test with.
    pub all: Apt,
    /// The machine's backports, as apt's release.
    pub backports: String,
}

/// One of the machine's sources.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    release: String,
}

impl Archive {
    /// Writes the sources and brings the lists up to date.
    pub fn open(cache: &Cache) -> Result<Self> {
        apt::check()?;
        let os = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
        let field = |name: &str| os.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim_matches('"'));
        let (Some("debian"), Some(codename)) = (field("ID="), field("VERSION_CODENAME=")) else {
            bail!("this is no Debian release, and only Debian's own packages are known to fit each other");
        };
        let targets = ask(&mut Apt::default().command(
            "apt-get",
            &["indextargets", "Created-By: Packages", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
        ))?;
        let sources = machine(&targets);
        let find = |release: &str| sources.iter().find(|source| source.release == release);
        let main = find(codename)
            .or_else(|| find("stable"))
            .ok_or_else(|| anyhow!("apt's sources do not list Debian's {codename}, so its mirror is not known"))?;
        let security = find(&format!("{codename}-security")).or_else(|| find("stable-security"));

        let home = cache.join("vm/apt");
        let own = stanzas(&main.uri, security.map(|source| source.uri.as_str()), &[codename]);
        let mut releases = RELEASES.to_vec();
        releases.push(codename);
        releases.sort_unstable();
        releases.dedup();
        let all = stanzas(&main.uri, security.map(|source| source.uri.as_str()), &releases);
        for folder in ["lists/partial", "cache/archives/partial", "own", "all"] {
            let folder = home.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        for (name, text) in [("own/debian.sources", own), ("all/debian.sources", all)] {
            fs::write(home.join(name), text).with_context(|| format!("cannot write {name} in {}", home.display()))?;
        }
        let archive =
            Self { own: apt(&home, "own"), all: apt(&home, "all"), backports: format!("{codename}-backports") };
        let update = step::run(
            "getting the package lists of Debian's releases",
            &mut archive.all.command("apt-get", &["update"]),
            &cache.log("vm-apt-update"),
            "",
        );
        if let Err(error) = update {
            // One release that has moved away does not take the others with it.
            eprintln!("warning: {error:#}");
        }
        Ok(archive)
    }

    /// The packages of the newest kernel whose version begins with `version`, or of the newest of all.
    pub fn kernel(&self, version: Option<&str>) -> Result<Vec<String>> {
        const META: &str = "linux-image-amd64";
        let known = ask(&mut self.all.command("apt-cache", &["madison", META]))?;
        let found = newest(&known, version)
            .ok_or_else(|| anyhow!("the releases that apt reaches have no {META} {}", version.unwrap_or("at all")))?;
        let mut packages: Vec<String> = Vec::new();
        let mut open = vec![format!("{META}={found}")];
        while let Some(package) = open.pop() {
            let about = ask(&mut self.all.command("apt-cache", &["show", &package]))?;
            open.extend(parts(&about).into_iter().filter(|part| *part != package && !packages.contains(part)));
            packages.push(package);
        }
        // The meta package has nothing in it.
        packages.remove(0);
        packages.sort();
        packages.dedup();
        Ok(packages)
    }
}

fn apt(home: &Path, sources: &str) -> Apt {
    let home = home.display();
    let options = [
        format!("Dir::State::lists={home}/lists"),
        format!("Dir::Cache={home}/cache"),
        "Dir::Etc::sourcelist=/dev/null".to_owned(),
        format!("Dir::Etc::sourceparts={home}/{sources}"),
        // apt's own user cannot write to a user's cache.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    Apt::with(options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect())
}

/// Reads lines of URI, release and component.
fn machine(targets: &str) -> Vec<Source> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let (uri, release, component) = (words.next()?, words.next()?, words.next()?);
        (component == "main").then(|| Source { uri: uri.to_owned(), release: release.to_owned() })
    };
    targets.lines().filter_map(of).collect()
}

/// Sources in deb822 form.
fn stanzas(main: &str, security: Option<&str>, releases: &[&str]) -> String {
    let signed = if PathBuf::from(KEYRING).is_file() { format!("Signed-By: {KEYRING}\n") } else { String::new() };
    let stanza = |uri: &str, suites: Vec<String>| {
        // Only the lists of packages, whatever else the machine's apt is used to get.
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {}\nComponents: main\nTargets: Packages\n{signed}\n",
            suites.join(" ")
        )
    };
    let of_main = releases
        .iter()
        .flat_map(|release| [(*release).to_owned(), format!("{release}-updates"), format!("{release}-backports")]);
    let mut text = stanza(main, of_main.collect());
    if let Some(uri) = security {
        text += &stanza(uri, releases.iter().map(|release| format!("{release}-security")).collect());
    }
    text
}

/// The first version in apt's list, which is sorted, that begins with `wanted`.
fn newest(madison: &str, wanted: Option<&str>) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let fits = |version: &&str| {
        wanted.is_none_or(|wanted| {
            version.strip_prefix(wanted).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    versions.into_iter().find(fits).map(str::to_owned)
}

/// The packages of the same kernel that a package depends on, as NAME=VERSION.
fn parts(about: &str) -> Vec<String> {
    let depends = about.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let part = |word: &str| {
        let (name, version) = word.trim().split_once(" (= ")?;
        let of_kernel = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
        let fits = of_kernel.iter().any(|prefix| name.starts_with(prefix));
        fits.then(|| format!("{name}={}", version.trim_end_matches(')')))
    };
    depends.split(',').filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = " linux-image-amd64 | 7.3.4-1~bpo13+1 | http://mirror trixie-backports/main amd64 Packages\n\
        linux-image-amd64 | 6.12.118-1 | http://mirror trixie-security/main amd64 Packages\n\
        linux-image-amd64 | 6.1.192-2 | http://mirror bookworm-security/main amd64 Packages\n\
        linux-image-amd64 | 6.1.176-1 | http://mirror bookworm/main amd64 Packages\n";

    #[test]
    fn the_newest_kernel_of_a_series() {
        assert_eq!(newest(MADISON, None).as_deref(), Some("7.3.4-1~bpo13+1"));
        assert_eq!(newest(MADISON, Some("6.1")).as_deref(), Some("6.1.192-2"), "6.12 is no 6.1");
        assert_eq!(newest(MADISON, Some("6.12")).as_deref(), Some("6.12.118-1"));
        assert_eq!(newest(MADISON, Some("6.13")), None);
    }

    #[test]
    fn a_kernel_in_several_packages() {
        let about = "Package: linux-image-7\nDepends: dracut | initramfs-tools (>= 0.120), \
            linux-base-7 (= 7.3.4-1), linux-modules-7 (= 7.3.4-1), kmod\n";
        assert_eq!(parts(about), ["linux-base-7=7.3.4-1", "linux-modules-7=7.3.4-1"]);
        assert!(parts("Package: linux-image-6\n").is_empty());
    }

    #[test]
    fn the_machines_sources() {
        let targets = "http://a/debian/ bookworm main\nhttp://a/debian/ bookworm contrib\nhttp://b/ nodistro main\n";
        let source = |uri: &str, release: &str| Source { uri: uri.into(), release: release.into() };
        assert_eq!(machine(targets), [source("http://a/debian/", "bookworm"), source("http://b/", "nodistro")]);
    }
}
