//! Who runs this, and how a program gets the privilege that it needs.

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

/// How a program that changes networking or loads eBPF can be started here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// As it is: this is root, and root may make namespaces here.
    Own,
    /// Through sudo.
    Sudo,
    /// Not at all.
    None(&'static str),
}

/// True where this process is root.
pub fn is_root() -> bool {
    // A process's folder there belongs to its effective user.
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Finds out by trying; asks for sudo's password where there is somebody to ask.
pub fn find() -> Privilege {
    if is_root() {
        // Root in a container often may not.
        return if works("unshare", &["--net", "--mount", "true"]) {
            Privilege::Own
        } else {
            Privilege::None("root may not make network namespaces here (a container without CAP_SYS_ADMIN?)")
        };
    }
    if works("sudo", &["-n", "true"]) {
        return Privilege::Sudo;
    }
    if io::stdin().is_terminal() && Command::new("sudo").arg("-v").status().is_ok_and(|status| status.success()) {
        return Privilege::Sudo;
    }
    Privilege::None("this is not root, and sudo is missing or refuses")
}

fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
