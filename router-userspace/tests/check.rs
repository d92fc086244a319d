//! `wayfork check` as scripts use it: exit statuses, where it writes, its JSON. Needs no privilege.

use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn check(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfork"));
    command.arg("check").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("wayfork starts");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_vec();
    // From a thread: it may stop reading early, and its output may fill a pipe.
    let writer = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output().expect("wayfork ends");
    writer.join().expect("the writer ends");
    output
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

const RIGHT: &[u8] = b"[[rule]]\npriority = 1000\niif = \"eth1\"\ntable = 111\n";
const WRONG: &[u8] = b"[[rule]]\npriority = 1000\niff = \"eth1\"\ntable = 111\n\n[[rule]]\npriority = 1000\nfrom = \"10.0.0.1/24\"\ntable = 111\n";

#[test]
fn a_right_file_is_status_0() {
    let output = check(&["-"], RIGHT);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "standard input: right: 1 rule (2 in the kernel)\n");
    assert_eq!(output.stderr, b"");
    let output = check(&["--json", "-"], RIGHT);
    assert_eq!(document(&output), json!({ "schema": 1, "ok": true, "errors": [], "warnings": [] }));
}

#[test]
fn a_wrong_file_is_status_2_with_all_its_errors() {
    let output = check(&["-"], WRONG);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for said in ["standard input:3:1", "standard input:7:12", "standard input:8:8", "did you mean `iif`?", "3 errors"] {
        assert!(text.contains(said), "{said}\n{text}");
    }
    let output = check(&["--json", "-"], WRONG);
    assert_eq!(output.status.code(), Some(2));
    let document = document(&output);
    assert_eq!(document["ok"], false);
    assert_eq!(
        document["errors"][2],
        json!({ "file": "standard input", "line": 8, "column": 8, "message": "`10.0.0.1/24` has bits set beyond its length",
            "help": "the network is \"10.0.0.0/24\", the address alone \"10.0.0.1\"" })
    );
}

#[test]
fn an_output_that_takes_nothing_is_told_on_standard_error() {
    for arguments in [&["check", "-"][..], &["--json", "check", "-"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let mut command = Command::new(env!("CARGO_BIN_EXE_wayfork"));
        let output = command.args(arguments).stdin(Stdio::null()).stdout(full).output().expect("wayfork ends");
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("No space left on device"), "{arguments:?}: {text}");
    }
}

#[test]
fn files_that_are_no_policy_are_status_2() {
    let missing = check(&["--json", "/nonexistent/policy.toml"], b"");
    assert_eq!(missing.status.code(), Some(2));
    assert_eq!(document(&missing)["errors"][0]["file"], "/nonexistent/policy.toml");
    assert!(document(&missing)["error"]["message"].is_string());
    for (input, said) in
        [(b"caf\xe9 = 1".to_vec(), "not UTF-8: byte 0xe9 at offset 3"), (vec![b'#'; 50_000_000], "larger than 16 MiB")]
    {
        let output = check(&["-"], &input);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
}

#[test]
fn a_file_cannot_write_to_the_terminal() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("a\u{1b}]0;title\u{7}b.toml");
    std::fs::write(&path, "[[rule]]\npriority = 1\niif = \"\u{1b}[2J\"\n# \u{9b}2J\n").expect("write");
    for arguments in [&[][..], &["--json"]] {
        let output = check(&[arguments, &[path.to_str().expect("UTF-8")]].concat(), b"");
        assert_eq!(output.status.code(), Some(2));
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).expect("UTF-8");
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}

/// A set's own file is named where it is wrong, drawn with its line, and with it in JSON.
#[test]
fn a_wrong_line_of_a_set_is_named_in_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        path.display().to_string()
    };
    let policy = write(
        "policy.toml",
        "[sets]\nstreaming = { file = \"prefixes.txt\" }\n[[rule]]\npriority = 1\nfrom = \"@streaming\"\ntable = 111\n",
    );
    let members = write("prefixes.txt", "# streams\n10.0.0.0/8\n  10.0.0.1/24  # one\n");
    let output = check(&[&policy], b"");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for said in [&format!("[{members}:3:3]"), "3 │   10.0.0.1/24  # one", "the network is \"10.0.0.0/24\"", "1 error"]
    {
        assert!(text.contains(said), "{said}\n{text}");
    }
    let output = check(&["--json", &policy], b"");
    let error = &document(&output)["errors"][0];
    assert_eq!((&error["file"], &error["line"], &error["column"]), (&json!(members), &json!(3), &json!(3)));
    write("prefixes.txt", "10.0.0.0/8\nfd00::1\n");
    let output = check(&[&policy], b"");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{policy}: right: 1 rule (2 in the kernel), 1 set of 2 prefixes\n")
    );
}
