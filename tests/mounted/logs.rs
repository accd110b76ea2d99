//! O4 and R5: what the log of a mount says, and where it goes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup, is_mounted};
use crate::support::proxy::{Answer, Fault, Proxy};
use crate::support::wait::{equal, eventually, within};

/// For a line to get to its destination.
const SOON: Duration = Duration::from_secs(10);

/// For a mount to be there, and to end.
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);

/// Longer than `--slow`.
const SLOW: Duration = Duration::from_millis(600);

/// A name that forges lines and drives a terminal, if it is shown as it is.
const HOSTILE: &str = "a\n2026-01-01 ERROR forged\u{1b}]0;P\u{7}\u{9b}\u{202e}";

/// More than a lookup fetches.
const LARGE: usize = 2 << 20;

/// A store behind a proxy.
struct Rig {
    proxy: Proxy,
    _store: Embedded,
}

impl Rig {
    fn new() -> Rig {
        let store = Embedded::start();
        store.put(HOSTILE, vec![b'x'; LARGE]);
        store.put("file", "x");
        store.put("other", vec![b'x'; LARGE]);
        Rig { proxy: Proxy::start(store.endpoint(), |_| Fault::None), _store: store }
    }

    fn setup(&self, args: &str) -> Setup {
        Setup::new(self.proxy.endpoint(), Embedded::BUCKET).with(args)
    }

    /// Each further request fails.
    fn fail(&self) {
        let says = "<Error><Code>Nope</Code><Message>none\nERROR forged</Message>\
            <RequestId>req-1</RequestId></Error>";
        self.proxy.script(move |request| {
            let says = if request.method == "HEAD" { "" } else { says };
            let answer = Answer::new(418).header("x-amz-request-id", "req-1");
            Fault::Answer(answer.header("content-type", "application/xml").body(says))
        });
    }
}

/// Opens a file, which fails with EIO.
#[track_caller]
fn assert_fails(mount: &Mount, name: &str) {
    let errno = fs::read(mount.path(name)).expect_err("no answer").raw_os_error();
    assert_eq!(errno, Some(libc::EIO));
}

#[test]
fn a_failed_operation_is_one_line_with_its_name_key_errno_code_and_request_id() {
    let rig = Rig::new();
    let mount = rig.setup("--metadata-ttl 0s --timeout 2s").start();
    fs::metadata(mount.path(HOSTILE)).expect("it is there");
    let cached = rig.setup("--metadata-ttl 60s --timeout 2s").start();
    fs::metadata(cached.path(HOSTILE)).expect("it is there");
    rig.fail();
    // A failed HEAD has no document, and so no code.
    let code = "code=\"Nope\"";
    for (mount, operation, code) in [(&mount, "lookup", ""), (&cached, "open", code)] {
        assert_fails(mount, HOSTILE);
        eventually(SOON, || {
            let said = mount.said();
            // The kernel repeats a lookup whose entry it had.
            let line = said.iter().rfind(|line| line.contains("ERROR")).ok_or("no line")?;
            let operation = format!("operation=\"{operation}\"");
            let named = ["key=\"a\\n", "forged", "errno=EIO", "request_id=\"req-1\"", code];
            for part in named.into_iter().chain([&*operation]) {
                assert!(line.contains(part), "no {part} in {line}");
            }
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
            Ok(())
        });
    }
    rig.proxy.behave();
}

/// What a slow operation waited for (`…_ms`), and how long it took.
fn waits(line: &str) -> (BTreeMap<&str, u64>, u64) {
    let fields = line.split(' ').filter_map(|word| word.split_once("_ms="));
    let mut waits: BTreeMap<_, u64> =
        fields.map(|(name, ms)| (name, ms.parse().expect("a number"))).collect();
    let total = waits.remove("total").expect("total_ms");
    (waits, total)
}

/// Rule of the account: each moment counts once, so the parts are the whole.
#[test]
fn a_slow_operation_is_one_line_with_what_it_waited_for() {
    let rig = Rig::new();
    let mounting = rig.setup("--metadata-ttl 60s --slow 200ms --max-open-bodies 1 --no-parking");
    let mount = mounting.start();
    let (large, other) = (mount.path(HOSTILE), mount.path("other"));
    for path in [&large, &other] {
        fs::metadata(path).expect("it is there");
    }
    rig.proxy.script(|request| match request.is_body_of("other") {
        true => Fault::Delay(SLOW),
        false => Fault::None,
    });
    let file = File::open(&other).expect("open");
    // The first file has the only body until this thread has waited for the second one.
    let second = std::thread::spawn(move || fs::read(large).map(|content| content.len()));
    eventually(SOON, || equal("opens_waiting", mount.status().number("opens_waiting"), 1));
    std::thread::sleep(SLOW);
    drop(file);
    assert_eq!(second.join().expect("no panic").expect("read"), LARGE);
    eventually(SOON, || {
        let said = mount.said();
        let slow: Vec<_> = said.iter().filter(|line| line.contains("--slow")).collect();
        let [first, second] = slow[..] else { return Err(format!("{said:#?}")) };
        for (line, key, most) in [(first, "other", "response"), (second, "a\\n", "body_permit")] {
            assert!(line.contains("operation=\"open\""), "{line}");
            assert!(line.contains(&format!("key=\"{key}")), "{line}");
            let (waits, total) = waits(line);
            let longest = waits.iter().max_by_key(|(_, ms)| **ms).expect("some");
            assert_eq!(*longest.0, most, "{line}");
            // Each part is rounded down.
            let sum: u64 = waits.values().sum();
            assert!(sum <= total && total - sum <= 10, "{sum} of {total}: {line}");
        }
        Ok(())
    });
    rig.proxy.behave();
}

/// The lines of a file, which may not exist yet.
fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn failures(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.contains("operation=\"open\"")).count()
}

#[test]
fn sighup_opens_the_log_file_anew_and_ends_nothing() {
    let (rig, folder) = (Rig::new(), tempfile::tempdir().expect("a folder"));
    let (path, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
    let file = format!("--metadata-ttl 60s --log-file {}", path.display());
    let mut mount = rig.setup(&file).start();
    fs::metadata(mount.path(HOSTILE)).expect("it is there");
    rig.fail();
    assert_fails(&mount, HOSTILE);
    eventually(SOON, || equal("lines", failures(&lines(&path)), 1));
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
    fs::rename(&path, &rotated).expect("rename");
    mount.signal(Signal::SIGHUP);
    eventually(SOON, || equal("a new file", path.exists(), true));
    assert_fails(&mount, HOSTILE);
    eventually(SOON, || equal("lines", failures(&lines(&path)), 1));
    assert_eq!(failures(&lines(&rotated)), 1);
    // A file that cannot be opened anew: the old one is kept.
    fs::remove_file(&path).expect("unlink");
    fs::create_dir(&path).expect("a folder in its place");
    mount.signal(Signal::SIGHUP);
    assert_fails(&mount, HOSTILE);
    assert!(!mount.said().iter().any(|line| line.contains("operation=")), "{:?}", mount.said());
    rig.proxy.behave();
    assert_eq!(fs::read(mount.path(HOSTILE)).expect("read").len(), LARGE);
    mount.signal(Signal::SIGTERM);
    mount.assert_ended_well();
}

#[test]
fn a_log_in_json_is_an_object_per_line_whatever_a_bucket_holds() {
    let rig = Rig::new();
    let mount = rig.setup("--metadata-ttl 60s --log-format json --log trace").start();
    fs::metadata(mount.path(HOSTILE)).expect("it is there");
    rig.fail();
    assert_fails(&mount, HOSTILE);
    eventually(SOON, || {
        let said = mount.said();
        let said = said.iter().filter(|line| !line.starts_with("expirefs: "));
        let events = said.map(|line| {
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
        });
        let events: Vec<serde_json::Value> = events.collect();
        let failed = events.iter().find(|event| event["level"] == "ERROR").ok_or("no line")?;
        let fields = &failed["fields"];
        assert_eq!((&fields["operation"], &fields["key"]), (&"open".into(), &HOSTILE.into()));
        assert_eq!((&fields["errno"], &fields["code"]), (&"EIO".into(), &"Nope".into()));
        Ok(())
    });
    rig.proxy.behave();
}

/// `log` of `expirefs log DIR`, and the error of `expirefs log DIR FILTER`.
#[test]
fn the_filter_of_a_running_mount_is_shown_and_changed_and_a_wrong_one_is_refused() {
    let rig = Rig::new();
    let mount = rig.setup("--metadata-ttl 0s --log error").start();
    let log = |args: &[&str]| {
        let output = mount.control("log", args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let looked_up = || {
        fs::metadata(mount.path("file")).expect("it is there");
        mount.said().iter().filter(|line| line.contains("DEBUG")).count()
    };
    let shows = |filter: &str| assert_eq!(log(&[]), (Some(0), filter.into(), String::new()));
    shows("error");
    assert_eq!(looked_up(), 0);
    let (status, stdout, stderr) = log(&["inof"]);
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("\"inof\" is no level"), "{stderr}");
    shows("error");
    assert_eq!(log(&["debug"]), (Some(0), String::new(), String::new()));
    shows("debug");
    eventually(SOON, || equal("is logged", looked_up() > 0, true));
    assert_eq!(log(&["off"]).0, Some(0));
    let before = looked_up();
    assert_eq!(looked_up(), before);
}

/// A disk that is full, a pipe that nobody reads or whose reader is gone.
#[test]
fn a_log_that_cannot_be_written_harms_no_operation() {
    let rig = Rig::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (gone, closed) = std::io::pipe().expect("a pipe");
    drop(gone);
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let outputs = [Stdio::from(writer), Stdio::from(closed), Stdio::from(full)];
    let filters = ["--log trace", "--log trace", "--log trace --log-file /dev/full"];
    for (stderr, filter) in outputs.into_iter().zip(filters) {
        let place = tempfile::tempdir().expect("a folder");
        let dir = place.path().join("mnt");
        fs::create_dir(&dir).expect("a folder");
        let mut daemon = rig.setup("--metadata-ttl 0s").with(filter).command(&dir, place.path());
        let mut daemon = daemon.stderr(stderr).spawn().expect("it starts");
        eventually(START, || equal("mounted", is_mounted(&dir), true));
        let read = |path: &Path| fs::read(path).expect("read").len();
        // At this level more is logged than a pipe holds.
        for _ in 0..200 {
            let path = dir.join(HOSTILE);
            assert_eq!(within(SOON, "read", move || read(&path)), LARGE);
        }
        kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).expect("it runs");
        let status = within(STOP, "its end", move || daemon.wait().expect("a child"));
        assert_eq!(status.code(), Some(0), "{filter}");
        assert!(!is_mounted(&dir));
    }
    drop(reader);
}

#[test]
fn a_log_file_that_cannot_be_used_is_refused() {
    let (rig, folder) = (Rig::new(), tempfile::tempdir().expect("a folder"));
    let dir = folder.path();
    let inside = format!("--log-file {}/log", dir.display());
    let cases = [
        (inside.as_str(), "would lie in the mount"),
        ("--log-file /no/such/folder/log", "cannot log to /no/such/folder/log"),
        ("--log-file /dev", "cannot log to /dev"),
        ("--log-to stderr --log-file /tmp/log", "cannot be used with"),
    ];
    for (args, says) in cases {
        let refused = rig.setup(args).refused_on(dir);
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(stderr.contains(says), "{args}: {stderr}");
    }
}

/// Listens on the sockets of the journal and of syslog, in a mount namespace of its own, and prints what
/// it gets from two runs of the command.
const LISTEN: &str = r#"
import os, socket, subprocess, sys
sockets = {}
for to, path in ('journald', '/run/systemd/journal/socket'), ('syslog', '/run/log'):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sockets[to] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sockets[to].bind(path)
for to, server in sockets.items():
    subprocess.run([sys.argv[1], '--log-to', to, *sys.argv[2:]], stderr=subprocess.DEVNULL)
    server.setblocking(False)
    try:
        while True:
            print(repr((to, server.recv(1 << 20).decode())))
    except BlockingIOError:
        pass
"#;

#[test]
fn the_journal_and_syslog_get_a_datagram_for_each_line() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("listen.py"), LISTEN).expect("a file");
    // /dev/log is a link, as on a host with systemd.
    let namespace =
        "mount -t tmpfs none /run && mount -t tmpfs none /dev/shm && mkdir /dev/shm/dev &&
        cp -a /dev/null /dev/urandom /dev/shm/dev/ && ln -s /run/log /dev/shm/dev/log &&
        mount --bind /dev/shm/dev /dev && exec python3 \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", namespace, "sh", "listen.py"]);
    unshare.arg(env!("CARGO_BIN_EXE_expirefs")).args(["ls", "s3://bucket", "--timeout", "1s"]);
    unshare.args(["--endpoint-url", "http://127.0.0.1:1", "--no-sign-request", "--log", "debug"]);
    unshare.current_dir(folder.path());
    let output = within(STOP, "two runs", move || unshare.output().expect("unshare(1)"));
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = |to: &str| -> Vec<_> {
        let start = format!("('{to}', ");
        text.lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect()
    };
    let (journal, syslog) = (lines("journald"), lines("syslog"));
    assert!(
        !journal.is_empty() && !syslog.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in journal {
        for field in ["MESSAGE=", "PRIORITY=7\\n", "SYSLOG_IDENTIFIER=expirefs", "EXPIREFS_TARGET="]
        {
            assert!(line.contains(field), "{line}");
        }
    }
    for line in syslog {
        assert!(line.contains("<31>expirefs["), "{line}");
    }
}
