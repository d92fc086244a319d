//! The running loop: events of the kernel, signals, the control socket and the clock, one at a time.

use super::control::{self, NewPolicy, Request, Response};
use super::engine::Engine;
use super::server::{self, Call};
use super::{Options, PolicyFile, RouterError, memory};
use crate::policy::{self, Mode, Refused, TableNames};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;

/// How often the lease is renewed and what nobody announces is read again (settings, legacy tables, stale neighbours).
const TICK: Duration = Duration::from_millis(500);

/// Routes by the policy until SIGINT or SIGTERM; returns when everything is taken back.
///
/// `ready` is called when traffic is decided by the policy.
pub fn run(options: Options, ready: impl FnOnce()) -> Result<(), RouterError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RouterError::Start)?;
    runtime.block_on(route(options, ready))
}

async fn route(options: Options, ready: impl FnOnce()) -> Result<(), RouterError> {
    let listener = control::listen()?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(RouterError::Start)?;
    // From here on a signal ends the loop, not the process: what is installed is taken back.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RouterError::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RouterError::Start)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(RouterError::Start)?;

    if options.shadow.is_some() && options.mode.unwrap_or(options.policy.router.mode) == Mode::Netlink {
        tracing::warn!(
            "--shadow checks what the fast path decides; in mode netlink there is none, and nothing to check"
        );
    }
    let keep = options.keep;
    let mut engine = Engine::open(options)?;
    let announcements = engine.announcements().map_err(RouterError::Start)?;
    // SAFETY: an owned descriptor names itself and stays open as long as it lives.
    let announcements = unsafe { AsyncFd::register_with_interest(announcements, tokio::io::Interest::READABLE) }
        .map_err(|error| RouterError::Start(error.into()))?;
    // The loop does not look at its signals while a long change is made.
    let mut findings = engine.findings();
    let ending = engine.ending();
    for signal in [nix::libc::SIGINT, nix::libc::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ending)).map_err(RouterError::Start)?;
    }
    if let Err(error) = engine.start() {
        engine.stop(false)?;
        // Broken off and undone is what the signal asked for.
        return if ending.load(Ordering::Relaxed) { Ok(()) } else { Err(error) };
    }
    memory::give_back();
    ready();

    let (sender, mut calls) = mpsc::channel(16);
    tokio::spawn(server::serve(listener, sender));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            announced = announcements.readable() => {
                // Cleared first: what comes while the rest is read wakes the loop again.
                announced.map_err(RouterError::Start)?.clear_ready();
                engine.follow();
            }
            _ = tick.tick() => engine.tick(),
            _ = hangup.recv() => {
                if let Response::Failed { message, .. } = reload(&mut engine, None) {
                    tracing::error!("reload: {message}; the old policy stays");
                }
            }
            Some(finding) = next(&mut findings) => engine.found(finding),
            Some(call) = calls.recv() => handle(&mut engine, call),
        }
    }
    engine.stop(keep)
}

/// The next one; never, where there is no shadow mode.
async fn next<T>(findings: &mut Option<UnboundedReceiver<T>>) -> Option<T> {
    match findings {
        Some(findings) => findings.recv().await,
        None => std::future::pending().await,
    }
}

fn handle(engine: &mut Engine, (request, answer): Call) {
    let send = |answer: oneshot::Sender<Response>, response| {
        if answer.send(response).is_err() {
            tracing::debug!("the client did not wait for its answer");
        }
    };
    let response = match request {
        Request::Status => match serde_json::to_value(engine.status()) {
            Ok(document) => Response::Done(document),
            Err(error) => Response::Failed { exit: 3, message: error.to_string() },
        },
        Request::Reload { policy } => reload(engine, policy),
        Request::Explain { question } => match engine.explain(&question) {
            // A thread of its own, which begins in this thread's network namespace and which the end does not wait for.
            Ok(rest) => {
                std::thread::spawn(move || send(answer, rest()));
                return;
            }
            Err(response) => response,
        },
    };
    send(answer, response);
}

/// Takes a new policy, or the own file again.
fn reload(engine: &mut Engine, policy: Option<NewPolicy>) -> Response {
    let names = TableNames::of_host();
    let (loaded, file) = match (policy, engine.file().cloned()) {
        (Some(NewPolicy { name, path, folder, text }), _) => {
            let loaded = policy::parse_within(&folder, &name, &text, &names, &memory::room);
            (loaded, path.map(|path| PolicyFile { name, path }))
        }
        (None, Some(file)) => (policy::load_file_within(&file.name, &file.path, &names, &memory::room), Some(file)),
        (None, None) => return refused(2, "the router has no file to read again; name one: wayfork reload FILE"),
    };
    // Of what was read only the policy is kept, while it is put in force.
    let policy = match loaded.map(|loaded| loaded.policy) {
        Ok(policy) => policy,
        Err(Refused::Rejected(rejected)) => return refused(2, &rejected.to_string()),
        Err(Refused::Room(error)) => return refused(3, &error.to_string()),
    };
    let done = engine.reload(policy, file);
    memory::give_back();
    match done {
        Ok(()) => {
            tracing::info!("reloaded");
            Response::Done(serde_json::json!({ "schema": 1, "reloaded": true }))
        }
        Err(error) => Response::Failed { exit: error.exit(), message: error.to_string() },
    }
}

fn refused(exit: u8, message: &str) -> Response {
    Response::Failed { exit, message: message.to_owned() }
}
