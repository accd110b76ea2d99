//! O4: no text from a bucket controls the terminal or forges a line, in the output of any command
//! or in the log. And a closed standard output ends every command quietly.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

use expirefs::embedded::Object;

use crate::support::embedded::Embedded;
use crate::support::mount::{Setup, is_mounted};
use crate::support::stuck::end_of;
use crate::support::tools::attempt;
use crate::support::wait::{HANGS, eventually};

/// A window title, a bell, a forged line, a cleared screen in C1, text that runs backwards.
const NAMES: [&str; 7] = [
    "esc\u{1b}]0;OWNED\u{7}\u{1b}[2J",
    "line\nFORGED expirefs: mounted",
    "return\rFORGED",
    "c1\u{9b}2J",
    "delete\u{7f}",
    "separator\u{2028}FORGED",
    "bidi\u{202e}x",
];

#[track_caller]
fn assert_harmless(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    let acts = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(acts), "{what}: {text:?}");
    let forged = text.lines().find(|line| line.starts_with("FORGED"));
    assert_eq!(forged, None, "{what}");
}

#[track_caller]
fn assert_command(what: &str, output: Output, says: &str) {
    assert_harmless(&format!("{what}, output"), &output.stdout);
    assert_harmless(&format!("{what}, errors"), &output.stderr);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(says), "{what}: no {says:?} in {text}");
}

#[test]
fn a_malicious_bucket_cannot_control_the_terminal() {
    let store = Embedded::start();
    for name in NAMES {
        let object = Object::new("x".repeat(8 << 20)).content_type("text/\u{9b}2J");
        store.put_object(name, object.expires("never\u{9b}2J\u{202e}"));
        store.put(&format!("folder{name}/x"), "x");
    }
    let options = "--log debug --on-unparsable fresh --idle-warn 1s --probe-size 0";
    let mount = store.mounting().with(options).start();

    // A process with a malicious name holds them open.
    let mut holder = Command::new("bash");
    holder.args([
        "-c",
        "printf 'b\\e[2J\\a' > /proc/$$/comm; for f; do exec {fd}<\"$f\"; \
        head -c 1 <&$fd > /dev/null; done; echo; read",
        "bash",
    ]);
    holder.args(NAMES.map(|name| mount.path(name)));
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash");
    let mut ready = [0];
    holder.stdout.take().expect("piped").read_exact(&mut ready).expect("they are open");
    eventually(HANGS, || {
        let reports = mount.said().iter().filter(|l| l.contains("has not been read")).count();
        crate::support::wait::equal("reports", reports, NAMES.len())
    });
    assert_command("status", mount.control("status", &[]), r#""line\nFORGED"#);
    assert_command("status --json", mount.control("status", &["--json"]), "OWNED");
    for name in NAMES {
        fs::metadata(mount.path(format!("absent{name}"))).expect_err("it is absent");
        // Some servers cannot list such a folder: the error text must be harmless, too.
        let _ = fs::metadata(mount.path(format!("folder{name}/x")));
        let head = &name[..2];
        for args in [&[][..], &["--json"]] {
            let explained = mount.control_at("explain", &mount.path(name), args);
            assert_command("explain", explained, head);
            let url = format!("s3://{}/{name}", Embedded::BUCKET);
            let output = |command: &str| {
                store.endpoint().expirefs(command, &url, args).output().expect("it runs")
            };
            assert_command("explain s3://", output("explain"), head);
            assert_command("ls s3://", output("ls"), head);
        }
    }
    // As programs do, whether it succeeds or not.
    attempt(mount.dir(), "ls -lR; cat * | head -c 1; getfattr -d *");
    drop(holder.stdin.take().expect("piped").write_all(b"\n"));
    assert!(end_of(&mut holder).success());
    let log = mount.said().join("\n");
    assert!(log.contains("OWNED") && log.contains("FORGED"), "no name in the log");
    assert_harmless("the log", log.as_bytes());
}

#[test]
fn a_refused_mount_cannot_control_the_terminal() {
    let store = Embedded::start();
    let folder = tempfile::tempdir().expect("a folder");
    for bucket in ["embedded/\u{1b}[2J/..", "b\u{1b}[2J", "embedded/a\u{9b}/\u{2028}//"] {
        let refused = Setup::new(store.endpoint(), bucket).refused_on(folder.path());
        assert_harmless("a refusal", &refused.stderr);
    }
}

/// Runs it with a closed output.
#[track_caller]
fn assert_ends_quietly(mut command: Command) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let what = format!("{command:?}");
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let mut child = child.spawn().expect("it runs");
    drop(command);
    let status = end_of(&mut child);
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    assert!(status.success() && stderr.is_empty(), "{what}: {status}: {stderr}");
}

#[test]
fn a_closed_output_ends_commands_quietly() {
    let store = Embedded::start();
    store.put("a", "x");
    let mount = store.mounting().start();
    let url = format!("s3://{}/a", Embedded::BUCKET);
    for args in [&[][..], &["--json"]] {
        assert_ends_quietly(store.endpoint().expirefs("ls", &url, args));
        assert_ends_quietly(store.endpoint().expirefs("explain", &url, args));
        assert_ends_quietly(mount.control_command("status", mount.dir(), args));
        assert_ends_quietly(mount.control_command("explain", &mount.path("a"), args));
    }
}

/// The demo unmounts when its output is closed, before or after it has printed everything.
#[test]
fn a_closed_output_ends_the_demo() {
    for lines in [1, 9] {
        let temporary = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("one");
        let mut demo = Command::new(env!("CARGO_BIN_EXE_expirefs"));
        demo.arg("demo").env("TMPDIR", temporary.path()).env("XDG_RUNTIME_DIR", temporary.path());
        demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut demo = demo.spawn().expect("the demo");
        let mut output = BufReader::with_capacity(16, demo.stdout.take().expect("piped"));
        let mut read = String::new();
        for _ in 0..lines {
            output.read_line(&mut read).expect("a line");
        }
        drop(output);
        let status = end_of(&mut demo);
        let mut stderr = String::new();
        demo.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        assert!(status.success() && stderr.is_empty(), "{status}: {stderr}; it said {read}");
        let left = temporary.path().join(format!("expirefs-demo-{}", demo.id()));
        assert!(!is_mounted(&left) && !left.exists(), "{} is left", left.display());
    }
}
