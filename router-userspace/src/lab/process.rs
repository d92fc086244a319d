//! `wayfork` as a child process inside a host of the lab: the same binary, the same commands as a user's.

use super::needs::patience;
use super::{Error, Result};
use crate::kernel::netns::Netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The line on standard error that says that traffic is decided by the policy.
pub const READY: &str = "wayfork: ready";

/// A running `wayfork run`. Ends with SIGKILL when dropped without [`Daemon::stop`].
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Log,
}

/// The lines of a child's standard error, as they come.
#[derive(Clone, Debug, Default)]
struct Log(Arc<(Mutex<LogState>, Condvar)>);

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    closed: bool,
}

impl Daemon {
    /// Starts `wayfork run` with these further arguments inside `netns`, without waiting for it; `policy` is given on standard
    /// input (name it with the argument `-`).
    pub fn start(netns: &Netns, exe: &Path, args: &[&str], policy: Option<&str>) -> Result<Self> {
        let mut command = Command::new(exe);
        command.arg("run").args(args).stdout(Stdio::null()).stderr(Stdio::piped());
        command.stdin(if policy.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = netns.spawn(command)?;
        if let (Some(policy), Some(mut input)) = (policy, child.stdin.take()) {
            // A child that ends before it has read its policy says why on standard error; the pipe's error would hide that.
            input.write_all(policy.as_bytes()).ok();
        }
        let log = Log::default();
        if let Some(stderr) = child.stderr.take() {
            let log = log.clone();
            std::thread::Builder::new()
                .name("wayfork's log".to_owned())
                .spawn(move || log.follow(BufReader::new(stderr)))
                .map_err(|error| Error::new("start a thread", error))?;
        }
        Ok(Daemon { child, log })
    }

    /// Starts it and waits until it is ready.
    pub fn ready(netns: &Netns, exe: &Path, args: &[&str], policy: Option<&str>) -> Result<Self> {
        let mut daemon = Self::start(netns, exe, args, policy)?;
        daemon.wait_ready(Duration::from_secs(20))?;
        Ok(daemon)
    }

    /// Waits for the line `wayfork: ready`, as long as a machine that takes no longer than `time` ([`patience`]).
    pub fn wait_ready(&mut self, time: Duration) -> Result<()> {
        if self.wait_line(time, |line| line == READY) {
            return Ok(());
        }
        // One that has closed its standard error is about to end.
        let closed = self.log.lock().closed;
        let ended = self.wait(Duration::from_secs(if closed { 2 } else { 0 }))?;
        let how = match ended {
            Some(status) => format!("ended with {status}"),
            None => format!("was not ready after {time:?}"),
        };
        Err(Error::Daemon { how, log: self.log() })
    }

    /// Waits for a line of its standard error that `wanted` is true for, those that came before included; false when the
    /// time is over or the child has closed it.
    pub fn wait_line(&self, time: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        self.log.wait(patience(time), wanted)
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        self.log.lock().lines.join("\n")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal)
            .map_err(|error| Error::new(format!("send {signal} to wayfork"), error.into()))
    }

    /// Waits until it has ended; None when the time is over.
    pub fn wait(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience(time);
        loop {
            let ended = self.child.try_wait().map_err(|error| Error::new("wait for wayfork", error))?;
            if ended.is_some() {
                // All that it said is in the log then; a child of its own might still hold standard error open.
                self.log.wait_closed(Duration::from_secs(1));
            }
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGTERM, and its exit status; an error when it has not ended after 5 seconds ([`patience`]).
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        match self.wait(Duration::from_secs(5))? {
            Some(status) => Ok(status),
            None => Err(Error::Daemon { how: "did not end within 5 s of SIGTERM".to_owned(), log: self.log() }),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when the child has been waited for, which is what they are for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, mut from: impl BufRead) {
        let mut line = Vec::new();
        // A log that is not UTF-8 is still a log.
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            tracing::debug!(target: "wayfork::lab::log", "{text}");
            self.lock().lines.push(text);
            self.0.1.notify_all();
            line.clear();
        }
        self.lock().closed = true;
        self.0.1.notify_all();
    }

    fn wait_closed(&self, time: Duration) {
        let (log, changed) = &*self.0;
        let state = log.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(state, time, |state| !state.closed));
    }

    fn wait(&self, time: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.lock();
        loop {
            if state.lines.iter().any(|line| wanted(line)) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return false;
            }
            state = match self.0.1.wait_timeout(state, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

/// Runs `wayfork ARGS` inside `netns` to its end and returns what it wrote.
pub fn output(netns: &Netns, exe: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(exe);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = || format!("run `{} {}`", exe.display(), args.join(" "));
    let child = netns.spawn(command)?;
    child.wait_with_output().map_err(|error| Error::new(what(), error))
}

/// The same, for a command whose answer is one JSON document and that must succeed.
pub fn json(netns: &Netns, exe: &Path, args: &[&str]) -> Result<serde_json::Value> {
    let output = output(netns, exe, args)?;
    let wrong = |how: String| Error::Daemon { how, log: String::from_utf8_lossy(&output.stderr).trim_end().to_owned() };
    if !output.status.success() {
        return Err(wrong(format!("`wayfork {}` ended with {}", args.join(" "), output.status)));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| wrong(format!("`wayfork {}` did not answer in JSON: {error}", args.join(" "))))
}
