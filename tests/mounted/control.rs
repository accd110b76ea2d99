//! `expirefs status` and `expirefs umount`, and the socket they use.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Output;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::PAST;
use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::mount::{is_mounted, sockets_under};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::wait::{eventually, within};

fn bucket() -> Bucket {
    let bucket = seaweedfs().bucket("control");
    bucket.put("folder/file", object(content(1, 24 * MIB)));
    bucket.put("expired", object("x").expires(PAST));
    bucket
}

#[test]
fn status_shows_what_the_daemon_holds() {
    let bucket = bucket();
    let mount = bucket.mounting().nofile(200).with("--max-open-bodies 7").start();
    let numbers = |names: &[&str]| {
        let status = mount.status();
        names.iter().map(|name| status.number(name)).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&["cap", "fd_limit"]), [7, 200]);
    let gauges = ["bodies_open", "bodies_parked", "opens_waiting", "handles"];
    assert_eq!(numbers(&gauges), [0, 0, 0, 0], "{gauges:?} before the first open");
    let requests = ["requests.get", "requests.head", "requests.list", "expired_hidden"];
    let before = numbers(&requests);

    let file = fs::File::open(mount.path("folder/file")).expect("open");
    file.read_exact_at(&mut [0; 4096], 0).expect("read");
    fs::read_dir(mount.dir()).expect("ls").for_each(drop);
    fs::metadata(mount.path("expired")).expect_err("it has expired");

    assert_eq!(numbers(&gauges), [1, 0, 0, 1], "{gauges:?} with a file open");
    let after = numbers(&requests);
    for ((name, before), after) in requests.iter().zip(before).zip(after) {
        assert!(after > before, "{name} went from {before} to {after}");
    }
    let status = mount.status();
    let open = status.0["handles_detail"].as_array().expect("an array");
    assert_eq!(open.len(), 1, "handles_detail: {open:#?}");
    assert!(open[0].to_string().contains("folder/file"), "no key in {open:#?}");
    let [fds, sockets] = ["fds", "sockets"].map(|name| status.number(name) as usize);
    assert!(sockets >= 1 && fds > sockets && fds <= 200, "fds {fds}, sockets {sockets}");
    assert_eq!(status.number("unparsable"), 0);
    let offset = status.number("clock_offset_ms");
    assert!(offset.abs() <= 1_000, "the clock of the same machine is {offset} ms off");
    drop(file);
}

/// Each operation counts once, by its errno.
#[test]
fn status_counts_operations_by_result_and_time() {
    let bucket = bucket();
    let mount = bucket.mounting().start();
    let counted = |operation: &str| {
        let status = mount.status();
        let of = &status.0["operations"][operation];
        let counts = of["took"]["counts"].as_array().map(|counts| counts.to_owned());
        let all = counts.unwrap_or_default().iter().filter_map(|n| n.as_u64()).sum::<u64>();
        let results = of["results"].as_object().cloned().unwrap_or_default();
        assert_eq!(all, results.values().filter_map(|n| n.as_u64()).sum::<u64>(), "{of:#}");
        (all, move |result: &str| results.get(result).and_then(|n| n.as_u64()).unwrap_or(0))
    };
    assert_eq!(counted("open").0, 0);
    fs::read_to_string(mount.path("folder/file")).expect_err("it is not a text");
    fs::metadata(mount.path("expired")).expect_err("it has expired");
    fs::write(mount.path("new"), "x").expect_err("it is read-only");
    // An operation is counted just after its reply.
    eventually(Duration::from_secs(10), || {
        let (opens, open) = counted("open");
        let (_, lookup) = counted("lookup");
        let (reads, read) = counted("read");
        let (releases, _) = counted("release");
        let right = opens == 1 && open("ok") == 1 && lookup("ENOENT") >= 2 && lookup("ok") >= 2;
        match right && reads > 1 && read("ok") == reads && releases == 1 {
            true => Ok(()),
            false => Err(format!("{:#}", mount.status().0["operations"])),
        }
    });
}

/// A process that holds a body open without a read is logged once.
#[test]
fn an_unread_body_is_reported_once() {
    let bucket = bucket();
    let mount = bucket.mounting().with("--idle-warn 1s").start();
    let file = fs::File::open(mount.path("folder/file")).expect("open");
    file.read_exact_at(&mut [0; 4096], 0).expect("read");
    let reports = || -> Vec<String> {
        mount.said().into_iter().filter(|line| line.contains("has not been read")).collect()
    };
    let report = eventually(Duration::from_secs(20), || {
        reports().pop().ok_or_else(|| "no report".to_owned())
    });
    let command = fs::read_to_string("/proc/self/comm").expect("this program's name");
    let pid = std::process::id().to_string();
    for part in ["folder/file", command.trim(), &pid, "offset="] {
        assert!(report.contains(part), "no {part} in {report}");
    }
    assert_eq!(mount.status().number("bodies_forgotten"), 1);
    // After a read it is no longer idle, and may be logged again later.
    file.read_exact_at(&mut [0; 4096], 8 * MIB as u64).expect("read on");
    assert_eq!(mount.status().number("bodies_forgotten"), 0);
    assert_eq!(reports().len(), 1, "{:#?}", reports());
    drop(file);
}

/// For people: the same figures as a text.
#[test]
fn status_without_json_is_text() {
    let mount = bucket().mounting().with("--max-open-bodies 7").start();
    let output = mount.control("status", &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("cap") && text.contains('7'), "{text}");
}

#[test]
fn the_socket_is_private_and_removed_with_the_mount() {
    let mut mount = bucket().mounting().start();
    let sockets = sockets_under(mount.runtime_dir());
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    let mode = fs::metadata(&sockets[0]).expect("stat").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "the socket's mode is {mode:o}");

    let output = mount.control("umount", &[]);
    assert!(output.status.success(), "umount: {output:?}");
    assert!(mount.ended().success());
    mount.assert_nothing_left();
}

/// Both commands report that nothing is mounted on the folder.
#[test]
fn a_folder_that_is_not_a_mount_is_refused() {
    let mut mount = bucket().mounting().start();
    assert!(mount.control("umount", &[]).status.success());
    assert!(mount.ended().success());
    for command in ["status", "umount"] {
        let output = mount.control(command, &[]);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{command}: {stderr}");
        assert!(stderr.contains(mount.dir().to_str().unwrap()), "{command}: {stderr}");
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

/// A daemon that cannot be reached may still serve: its mount stays, whether it hangs or not,
/// without `--force`.
#[test]
fn umount_leaves_the_mount_of_a_daemon_that_may_be_alive() {
    let mut mount = bucket().mounting().start();
    for socket in sockets_under(mount.runtime_dir()) {
        fs::remove_file(socket).expect("remove the socket");
    }
    for hung in [false, true] {
        if hung {
            mount.signal(Signal::SIGSTOP);
        }
        let refused = mount.control("umount", &[]);
        let said = text(refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("no control socket") && said.contains("--force"), "{said}");
        assert!(is_mounted(mount.dir()));
        if hung {
            mount.signal(Signal::SIGCONT);
        }
        fs::metadata(mount.path("folder/file")).expect("it is served");
    }
    let forced = mount.control("umount", &["--force"]);
    assert!(forced.status.success(), "{}", text(forced.stderr));
    assert!(mount.ended().success());
    mount.assert_nothing_left();
}

#[test]
fn umount_clears_a_dead_mount() {
    let mut mount = bucket().mounting().start();
    // The kernel still caches the attributes of the root.
    fs::metadata(mount.dir()).expect("stat");
    mount.signal(Signal::SIGKILL);
    mount.ended();
    let cleared = mount.control("umount", &[]);
    assert!(cleared.status.success(), "{}", text(cleared.stderr));
    assert!(!is_mounted(mount.dir()));
}

/// Clients that connect and send nothing, more than there are places and descriptors.
#[test]
fn silent_clients_do_not_block_status() {
    let mount = bucket().mounting().start();
    let sockets = sockets_under(mount.runtime_dir());
    let [socket] = sockets.as_slice() else { panic!("{sockets:?}") };
    let silent: Vec<_> = (0..200).map(|_| UnixStream::connect(socket).expect("connect")).collect();
    for _ in 0..3 {
        within(Duration::from_secs(10), "status", || mount.status());
    }
    drop(silent);
}

/// A client finds the socket in whichever place its daemon uses.
#[test]
fn the_environments_of_daemon_and_client_may_differ() {
    let bucket = bucket();
    let mount = bucket.mounting().without_runtime_dir().start();
    assert!(sockets_under(mount.runtime_dir()).is_empty());
    assert_eq!(mount.status().number("handles"), 0);
    let mut without = mount.control_command("status", mount.dir(), &[]);
    assert!(without.env_remove("XDG_RUNTIME_DIR").status().expect("status").success());
    let output = mount.control("umount", &[]);
    assert!(output.status.success(), "{output:?}");
    let mut mount = mount;
    assert!(mount.ended().success());
}

/// A request of another version is not misread, and is answered with a line of text.
#[test]
fn a_request_of_another_version_is_refused() {
    let store = Embedded::start();
    let mount = store.mounting().start();
    let sockets = sockets_under(mount.runtime_dir());
    for request in ["\"unmount\"", "\"status\"", r#"{"protocol":99,"request":"unmount"}"#, "?", ""]
    {
        let mut stream = UnixStream::connect(&sockets[0]).expect("connect");
        stream.write_all(format!("{request}\n").as_bytes()).expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("another version of expirefs"), "{request}: {answer}");
        assert_eq!(answer.lines().count(), 1, "{request}: {answer}");
    }
    assert!(is_mounted(mount.dir()));
}

/// The same for replies: each command fails with one line that says why, and prints nothing else.
#[test]
fn a_reply_of_another_version_is_not_shown() {
    let store = Embedded::start();
    let mount = store.mounting().start();
    let socket = sockets_under(mount.runtime_dir()).pop().expect("a socket");
    let aside = socket.with_extension("aside");
    fs::rename(&socket, &aside).expect("rename");
    // Replies of a daemon without protocol versions, and of possible later ones.
    let answers =
        ["not a request: unknown variant `protocol`\n", r#"{"version":"9"}"#, r#"{"Ok":9}"#];
    for answer in answers {
        let listener = UnixListener::bind(&socket).expect("bind");
        let commands: [(&str, &[&str]); 4] =
            [("status", &[]), ("status", &["--json"]), ("explain", &[]), ("umount", &[])];
        let daemon = thread::spawn(move || {
            for stream in listener.incoming().take(commands.len()) {
                let mut stream = BufReader::new(stream.expect("a client"));
                stream.read_line(&mut String::new()).expect("a request");
                stream.get_mut().write_all(answer.as_bytes()).expect("answer");
            }
        });
        for (command, args) in commands {
            let Output { status, stdout, stderr } = mount.control(command, args);
            let said = text(stderr);
            assert_eq!(status.code(), Some(1), "{command}, {answer}: {said}");
            assert!(stdout.is_empty(), "{command}, {answer}: {}", text(stdout));
            let first = said.lines().next().unwrap_or_default();
            assert!(first.contains("different versions"), "{command}, {answer}: {said}");
            assert_eq!(said.lines().count(), 1, "{command}, {answer}: {said}");
            assert!(is_mounted(mount.dir()), "{command}, {answer}");
        }
        daemon.join().expect("the other daemon");
        fs::remove_file(&socket).expect("remove");
    }
    fs::rename(&aside, &socket).expect("rename");
}

/// Several clients that request to unmount at the same time all get the outcome.
#[test]
fn every_client_that_unmounts_gets_the_outcome() {
    let store = Embedded::start();
    store.put("f", content(1, MIB));
    let mut mount = store.mounting().start();
    // Read just now, so that unmounting takes a while.
    let file = fs::File::open(mount.path("f")).expect("open");
    file.read_exact_at(&mut [0; 4096], 0).expect("read");
    let asking: Vec<_> = (0..6)
        .map(|_| mount.control_command("umount", mount.dir(), &[]).spawn().expect("it runs"))
        .collect();
    for mut child in asking {
        assert!(child.wait().expect("it ends").success());
    }
    drop(file);
    assert!(mount.ended().success());
    mount.assert_nothing_left();
}
