//! The control socket: how `status`, `reload` and `explain` reach the router that runs in this network namespace.
//!
//! An abstract unix socket: its name belongs to the network namespace, so that each namespace has at most one router, and
//! it is gone with the process, however that ends. One JSON document a line, in both directions. Only root is answered.

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// The socket's name in the abstract namespace.
const NAME: &[u8] = b"wayfork";
/// A request's longest line; policy files travel in it.
pub const MAX_REQUEST: usize = 256 << 20;
/// How long a client waits for an answer. A reload with 100,000 rules takes a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);

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
    /// The socket failed.
    #[error("control socket: {0}")]
    Socket(#[from] io::Error),
    /// The answer makes no sense.
    #[error("the running wayfork answered with something else than expected ({0}); is it another version?")]
    Answer(#[from] serde_json::Error),
}

fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(NAME)
}

/// Claims the namespace for this process.
pub fn listen() -> Result<UnixListener, ControlError> {
    match UnixListener::bind_addr(&address()?) {
        Ok(listener) => {
            listener.set_nonblocking(true)?;
            Ok(listener)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let pid = UnixStream::connect_addr(&address()?).and_then(|stream| peer(&stream)).map_or(0, |(pid, _)| pid);
            Err(ControlError::AlreadyRunning { pid })
        }
        Err(error) => Err(error.into()),
    }
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
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(
            io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer; only root is answered").into()
        );
    }
    Ok(serde_json::from_str(&answer)?)
}
