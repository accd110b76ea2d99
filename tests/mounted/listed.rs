//! `expirefs list`, and `status --watch`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::support::embedded::Embedded;
use crate::support::stuck::end_of;
use crate::support::wait::within;

fn text(Output { status, stdout, stderr }: Output) -> String {
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// Commands that nobody waits for any more stay in the queue of the socket: a monitor that runs `status`
/// each second fills it within the hour.
#[test]
fn no_command_hangs_at_a_stopped_daemon_with_a_full_socket() {
    let store = Embedded::start();
    let mount = store.mounting().start();
    let folder = fs::read_dir(mount.runtime_dir().join("expirefs")).expect("its sockets");
    let [socket] = &folder.map(|it| it.expect("an entry").path()).collect::<Vec<_>>()[..] else {
        panic!("it has one socket")
    };
    mount.signal(Signal::SIGSTOP);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("one");
    runtime.block_on(async { while UnixStream::connect(socket).await.is_ok() {} });
    let dir = mount.dir().to_str().expect("text");
    let replace = store.mounting().in_background().with("--replace-dead");
    let commands = [
        mount.command(&["list", "--json"]),
        mount.command(&["status", dir]),
        mount.command(&["umount", dir]),
        replace.command(mount.dir(), mount.runtime_dir()),
    ];
    let ends = commands.map(|mut command| {
        end_of(&mut command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs"))
    });
    mount.signal(Signal::SIGCONT);
    assert_eq!(ends.map(|end| end.success()), [true, false, false, false]);
}

#[test]
fn list_shows_each_mount_and_whether_it_is_served() {
    let store = Embedded::start();
    store.put("f", vec![0; 4 << 20]);
    let mut mount = store.mounting().with("--max-open-bodies 7").start();
    let file = fs::File::open(mount.path("f")).expect("open");
    let it = mount.listed();
    assert_eq!(
        (&it["state"], &it["source"]),
        (&"serving".into(), &"s3://embedded/".into()),
        "{it}"
    );
    let pid = i64::from(mount.process().0);
    assert_eq!((&it["pid"], &it["cap"], &it["bodies_open"]), (&pid.into(), &7.into(), &1.into()));
    drop(file);
    let lines = text(mount.command(&["list"]).output().expect("it runs"));
    let line = lines.lines().find(|line| line.ends_with(mount.dir().to_str().expect("text")));
    assert!(line.expect("a line").contains("serving"), "{lines}");
    mount.signal(Signal::SIGSTOP);
    let it = within(Duration::from_secs(30), "list", || mount.listed());
    assert_eq!((&it["state"], &it["pid"]), (&"silent".into(), &Value::Null), "{it}");
    mount.signal(Signal::SIGKILL);
    mount.ended();
    assert_eq!(mount.listed()["state"], "dead");
    assert!(mount.control("umount", &[]).status.success());
}

/// Names of folders are shown, not obeyed.
#[test]
fn list_escapes_the_names_of_folders() {
    let store = Embedded::start();
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("a\u{1b}[2Jb\nc");
    fs::create_dir(&dir).expect("mkdir");
    let mount = store.mounting().start_on(&dir);
    for args in [&["list"][..], &["list", "--json"]] {
        let lines = text(mount.command(args).output().expect("it runs"));
        let escaped = ["\\u{1b}[2Jb\\nc", "\\u001b[2Jb\\nc"];
        assert!(escaped.iter().any(|name| lines.contains(name)), "{lines:?}");
        assert!(!lines.contains('\u{1b}'), "{lines:?}");
    }
}

#[test]
fn a_watched_status_is_printed_anew_until_a_signal() {
    let store = Embedded::start();
    let mount = store.mounting().start();
    let watching = |args: &[&str]| -> Command {
        let mut command = mount.control_command("status", mount.dir(), args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut child = watching(&["--json", "--watch=10ms"]).spawn().expect("it runs");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for line in lines.take(3) {
        let status: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        assert_eq!(status["pid"], mount.process().0);
    }
    // Nobody reads its output any more.
    assert!(end_of(&mut child).success());
    let mut child = watching(&["--watch"]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let titles = lines.by_ref().map(|line| line.expect("text"));
    assert_eq!(titles.filter(|line| line.contains("on /")).take(2).count(), 2);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("a signal");
    assert!(lines.all(|line| !line.expect("text").contains('\u{1b}')), "it is no terminal");
    assert!(end_of(&mut child).success());
}

#[test]
fn a_watched_mount_that_is_unmounted_is_an_error() {
    let store = Embedded::start();
    let mut mount = store.mounting().start();
    let mut child = mount
        .control_command("status", mount.dir(), &["--json", "--watch=10ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    lines.next().expect("a line").expect("text");
    assert!(mount.control("umount", &[]).status.success());
    lines.for_each(drop);
    let said = std::io::read_to_string(child.stderr.take().expect("a pipe")).expect("text");
    assert_eq!(end_of(&mut child).code(), Some(1), "{said}");
    assert!(said.trim_end().ends_with("is no longer mounted"), "{said}");
    mount.assert_ended_well();
}
