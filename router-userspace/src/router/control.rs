//! The control socket: how `status`, `reload` and `explain` reach the router that runs in this network namespace.
//!
//! An abstract unix socket: its name belongs to the network namespace, so that each namespace has at most one router, and
//! it is gone with the process, however that ends. One JSON document a line, in both directions. Only root is answered.

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The socket's name in the abstract namespace.
const NAME: &[u8] = b"wayfork";
/// A request's longest line; policy files travel in it.
pub const MAX_REQUEST: usize = 256 << 20;
/// How long a client waits for an answer. A reload with 100,000 rules takes a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// How long one that has been killed may take to end. A large one gives its memory back first.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked whether it has, and how many looks in a row say that it lives.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS: u32 = 3;

/// What a client may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case")]
pub enum Request {
    /// The status document.
    Status,
    /// Take a new policy: the text of a file, or the running router's own file again.
    Reload {
        /// The new policy; None for the file that the router read last.
        policy: Option<NewPolicy>,
    },
    /// Decide one packet with the live maps.
    Explain {
        /// What `explain` was asked.
        question: crate::proof::Question,
    },
}

/// A policy for the running router.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewPolicy {
    /// What messages and `at` call it.
    pub name: String,
    /// The file, absolute, to be read again at SIGHUP; None for standard input.
    pub path: Option<PathBuf>,
    /// The folder from which it names files, absolute.
    #[serde(default)]
    pub folder: PathBuf,
    /// Its text.
    pub text: String,
}

/// What the router answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done; the document that was asked for.
    Done(serde_json::Value),
    /// Refused or failed.
    Failed {
        /// The exit status that the client should end with.
        exit: u8,
        /// What went wrong, for a person.
        message: String,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no wayfork is running in this network namespace; start one with `wayfork run`")]
    NotRunning,
    /// Somebody listens already.
    #[error(
        "a wayfork is already running in this network namespace: process {pid}; end it, or give it a new policy with `wayfork reload FILE`"
    )]
    AlreadyRunning {
        /// The process that listens.
        pid: i32,
    },
    /// The listener is not root's.
    #[error("process {pid} of user {uid} holds wayfork's control socket but is not root; end it")]
    Impostor {
        /// The process that listens.
        pid: i32,
        /// Its user.
        uid: u32,
    },
    /// It closed the connection.
    #[error("the running wayfork gave no answer; only root is answered: try again as root, with sudo")]
    NoAnswer,
    /// The socket failed.
    #[error("control socket: {0}")]
    Socket(#[from] io::Error),
    /// The answer makes no sense.
    #[error("the running wayfork answered with something else than expected ({0}); is it another version?")]
    Answer(#[from] serde_json::Error),
}

impl ControlError {
    /// The exit status that belongs to it (contract): 1 where none runs, 3 where this user or this host cannot ask it.
    pub fn exit(&self) -> u8 {
        if matches!(self, ControlError::NotRunning) { 1 } else { 3 }
    }
}

fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(NAME)
}

/// Claims the namespace for this process. One that is just ending still has the name: it is waited for.
pub fn listen() -> Result<UnixListener, ControlError> {
    let deadline = Instant::now() + ENDS_WITHIN;
    let mut seen_alive = 0;
    loop {
        match UnixListener::bind_addr(&address()?) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
        // Refused, where the name has lost its listener meanwhile.
        let pid = UnixStream::connect_addr(&address()?).and_then(|stream| peer(&stream)).map(|(pid, _)| pid).ok();
        seen_alive = if pid.is_none_or(is_ending) { 0 } else { seen_alive + 1 };
        // Seldom, one that was killed looks alive for a moment: between taking the signal and beginning to end.
        if seen_alive == LOOKS || Instant::now() >= deadline {
            return Err(ControlError::AlreadyRunning { pid: pid.unwrap_or(0) });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a process has ended, is ending or is about to: gone, a zombie, exiting, or with SIGKILL pending.
fn is_ending(pid: i32) -> bool {
    // 0: of a PID namespace that cannot be seen from here.
    pid > 0 && std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| tells_of_an_end(&stat))
}

/// The same from the process's line in /proc (`do_task_stat`, fs/proc/array.c). The name, in parentheses, may hold anything.
fn tells_of_an_end(stat: &str) -> bool {
    const PF_EXITING: u64 = 4;
    const SIGKILL: u64 = 1 << (nix::libc::SIGKILL - 1);
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    // The fields that proc(5) counts from 1, the state being the third.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let has = |number, bit| field(number).parse::<u64>().is_ok_and(|bits| bits & bit != 0);
    matches!(field(3), "Z" | "X") || has(9, PF_EXITING) || has(31, SIGKILL)
}

/// Process and user at the other end.
pub fn peer(stream: &UnixStream) -> io::Result<(i32, u32)> {
    let credentials = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok((credentials.pid(), credentials.uid()))
}

/// Asks the running router.
pub fn ask(request: &Request) -> Result<Response, ControlError> {
    let mut stream = match UnixStream::connect_addr(&address()?) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(ControlError::NotRunning),
        Err(error) => return Err(error.into()),
    };
    let (pid, uid) = peer(&stream)?;
    if uid != 0 {
        return Err(ControlError::Impostor { pid, uid });
    }
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // One that does not listen to this user has closed its end by now, but what it said is still to be read.
    let sent = stream.write_all(&line);
    let mut answer = String::new();
    let received = BufReader::new(stream).read_line(&mut answer);
    if !answer.is_empty() {
        return Ok(serde_json::from_str(&answer)?);
    }
    match sent.and(received) {
        Ok(_) => Err(ControlError::NoAnswer),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            Err(ControlError::NoAnswer)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::tells_of_an_end;

    #[test]
    fn an_ending_process_is_told_from_a_living_one() {
        let stat = |state: &str, flags: u64, pending: u64| {
            format!(
                "7 (a) Z (b) {state} 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 5 6 7 8 9 10 11 12 13 {pending} 0 0 0"
            )
        };
        assert!(!tells_of_an_end(&stat("S", 0x0040_0140, 0)));
        assert!(!tells_of_an_end(&stat("R", 0x0040_0100, 0x4000)), "another signal is pending");
        assert!(tells_of_an_end(&stat("Z", 0x0040_0140, 0)));
        assert!(tells_of_an_end(&stat("R", 0x0040_0144, 0)), "PF_EXITING");
        assert!(tells_of_an_end(&stat("R", 0x0040_0140, 0x100)), "SIGKILL is pending");
        let own = std::fs::read_to_string("/proc/self/stat").expect("this process");
        assert!(!tells_of_an_end(&own), "{own}");
        assert!(!tells_of_an_end(""));
    }
}
