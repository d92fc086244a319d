//! One long step that people watch: a spinner with the time and the last line of output, or plain lines in a log.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How much of a failed command's output is shown.
const TAIL_LINES: usize = 25;
/// How often a log without a terminal hears that a step still goes on.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Runs `command` as the step `label`, everything it prints going to `log`. Where it fails, the error holds the end of
/// the log and `remedy`.
pub fn run(label: &str, command: &mut Command, log: &Path, remedy: &str) -> Result<()> {
    run_within(label, command, log, remedy, None)
}

/// As [`run`], but the command is ended after `limit`.
pub fn run_within(label: &str, command: &mut Command, log: &Path, remedy: &str, limit: Option<Duration>) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{label}: cannot start {program}"))?;
    let started = Instant::now();
    let mut display = Display::start(label);
    let mut file = File::create(log).with_context(|| format!("{label}: cannot write {}", log.display()))?;

    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    let mut tail = Vec::new();
    let mut ended_for = None;
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                writeln!(file, "{line}").with_context(|| format!("{label}: cannot write {}", log.display()))?;
                display.line(&line);
                tail.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        display.tick(started);
        if let Some(limit) = limit.filter(|limit| ended_for.is_none() && started.elapsed() > *limit) {
            end(&mut child, label)?;
            ended_for = Some(limit);
        }
    }
    let status = child.wait().with_context(|| format!("{label}: lost {program}"))?;
    display.finish(started, status);
    if status.success() {
        return Ok(());
    }
    let how = match ended_for {
        Some(limit) => format!("gave no result in {} s and was ended", limit.as_secs()),
        None => format!("failed ({status})"),
    };
    let shown = tail.split_off(tail.len().saturating_sub(TAIL_LINES)).join("\n    ");
    bail!("{label}: {program} {how}. The end of {}:\n    {shown}\n{remedy}", log.display());
}

fn end(child: &mut Child, label: &str) -> Result<()> {
    child.kill().with_context(|| format!("{label}: cannot end a command that takes too long"))
}

/// Sends each line of a pipe on, from a thread of its own, until the pipe closes.
fn forward(pipe: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        // Not `lines()`: a compiler may quote bytes that are no UTF-8, and the rest of its output still counts.
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if !line.is_empty() && sender.send(line).is_err() {
                return;
            }
        }
    });
}

enum Display {
    Terminal(ProgressBar, String),
    Plain { label: String, last: String, heard: Instant },
}

impl Display {
    fn start(label: &str) -> Self {
        if !io::stderr().is_terminal() {
            eprintln!("{label} …");
            return Self::Plain { label: label.to_owned(), last: String::new(), heard: Instant::now() };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        Self::Terminal(bar, label.to_owned())
    }

    fn line(&mut self, line: &str) {
        match self {
            Self::Terminal(bar, _) => bar.set_message(line.to_owned()),
            Self::Plain { last, .. } => line.clone_into(last),
        }
    }

    fn tick(&mut self, started: Instant) {
        match self {
            Self::Terminal(bar, _) => bar.tick(),
            Self::Plain { label, last, heard } if heard.elapsed() >= HEARTBEAT => {
                *heard = Instant::now();
                eprintln!("{label}: {} s so far: {last}", started.elapsed().as_secs());
            }
            Self::Plain { .. } => {}
        }
    }

    fn finish(self, started: Instant, status: ExitStatus) {
        let word = if status.success() { "done" } else { "failed" };
        let label = match self {
            Self::Terminal(bar, label) => {
                bar.finish_and_clear();
                label
            }
            Self::Plain { label, .. } => label,
        };
        eprintln!("{label}: {word} in {:.1} s", started.elapsed().as_secs_f32());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Option<Duration>) -> (Result<()>, String) {
        let dir =
            std::env::temp_dir().join(format!("wayfork-step-{}-{:?}", std::process::id(), thread::current().id()));
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let done = run_within("a step", &mut command, &dir, "Do this.", limit);
        let log = std::fs::read_to_string(&dir).expect("the log is there");
        std::fs::remove_file(&dir).expect("the log can be removed");
        (done, log)
    }

    #[test]
    fn keeps_both_outputs() {
        let (done, log) = shell("echo one; echo two >&2", None);
        assert!(done.is_ok());
        assert!(log.contains("one") && log.contains("two"));
    }

    #[test]
    fn a_failure_shows_the_end_of_the_output_and_the_remedy() {
        let (done, _) = shell("seq 100; exit 3", None);
        let error = done.expect_err("exit 3 is a failure").to_string();
        assert!(error.contains("    100\nDo this."), "{error}");
        assert!(!error.contains("    70\n"), "only the tail: {error}");
    }

    #[test]
    fn a_step_that_hangs_is_ended() {
        let (done, _) = shell("exec sleep 60", Some(Duration::from_millis(300)));
        assert!(done.expect_err("it was ended").to_string().contains("was ended"));
    }
}
