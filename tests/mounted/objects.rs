//! `put`, `get`, `rm` and `ttl`: single objects, without a mount.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use expirefs::embedded::Object;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;

use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3_server::seaweedfs;
use crate::support::wait::{equal, eventually};
use crate::support::{Endpoint, FUTURE, PAST};

const HOUR: Duration = Duration::from_secs(3600);

pub fn url(key: &str) -> String {
    format!("s3://{}/{key}", Embedded::BUCKET)
}

pub fn run(endpoint: &Endpoint, args: &[&str]) -> Output {
    endpoint.typed(args).output().expect("it runs")
}

/// What it prints; it must succeed.
#[track_caller]
pub fn printed(output: Output) -> String {
    let Output { status, stdout, stderr } = output;
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
    String::from_utf8(stdout).expect("text")
}

/// The line that it fails with, and its status.
#[track_caller]
pub fn refused(output: Output) -> (i32, String) {
    let Output { status, stdout, stderr } = output;
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    (status.code().expect("an exit"), stderr)
}

/// Whether this is so far ahead. An `Expires` is rounded up to a second.
fn is_in(at: Option<SystemTime>, ttl: Duration) -> bool {
    let left = at.and_then(|at| at.duration_since(SystemTime::now()).ok());
    left.is_some_and(|left| {
        left <= ttl + Duration::from_secs(1) && left + Duration::from_secs(60) > ttl
    })
}

#[test]
fn what_is_put_is_what_is_got() {
    let bucket = seaweedfs().bucket("objects");
    let dir = tempfile::tempdir().expect("a folder");
    let (source, copy) = (dir.path().join("source.html"), dir.path().join("copy"));
    for (n, size) in [0, 1, 100_000, 8 * MIB, 8 * MIB + 1, 30 * MIB].into_iter().enumerate() {
        let bytes = content(n as u64, size);
        fs::write(&source, &bytes).expect("write");
        let url = format!("s3://{}/d/", bucket.name);
        let source = source.to_str().expect("text");
        printed(run(bucket.endpoint(), &["put", source, &url, "--ttl", "1h"]));
        let head = bucket.head("d/source.html");
        assert_eq!(head.content_type(), Some("text/html"));
        assert!(head.expires_string().is_some(), "{head:?}");
        let url = url + "source.html";
        printed(run(bucket.endpoint(), &["get", &url, copy.to_str().expect("text")]));
        assert!(fs::read(&copy).expect("read") == bytes, "{size} bytes");
        let below = tempfile::tempdir().expect("a folder");
        let directory = below.path().to_str().expect("text");
        printed(run(bucket.endpoint(), &["get", &url, directory]));
        assert!(fs::read(below.path().join("source.html")).expect("read") == bytes);
        let streamed = run(bucket.endpoint(), &["get", &url, "-"]);
        assert!(streamed.status.success() && streamed.stdout == bytes, "{size} bytes");
    }
    assert_eq!(bucket.uploads(), [""; 0]);
}

#[test]
fn standard_input_is_put_with_any_expiry_and_a_line_or_an_object_says_so() {
    let store = Embedded::start();
    let put = |key: &str, args: &[&str], bytes: &[u8]| {
        let url = url(key);
        let typed = [&["put", "-", &url], args].concat();
        let mut command = store.endpoint().typed(&typed);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        child.stdin.take().expect("a pipe").write_all(bytes).expect("it reads");
        printed(child.wait_with_output().expect("it ends"))
    };
    let large = content(1, 20 * MIB);
    let said = put("large", &["--ttl", "1h"], &large);
    assert!(said.starts_with(&format!("stored {}, expires ", url("large"))), "{said}");
    assert!(store.body("large") == large && is_in(store.expires("large"), HOUR));
    assert_eq!(put("kept", &["--ttl", "never", "--quiet"], b"x"), "");
    assert_eq!(store.expires("kept"), None);
    let said = put("dated", &["--expires", "2100-01-01T00:00:00Z", "--json"], b"xyz");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&said["done"], &said["size"], &said["expires"]),
        (&"stored".into(), &3.into(), &"2100-01-01T00:00:00Z".into())
    );
    assert_eq!(store.get("dated").expect("it is there").expires.expect("Expires"), FUTURE);
}

#[test]
fn an_expired_or_absent_object_is_not_got_and_nothing_is_written() {
    let store = Embedded::start();
    store.put_expiring("expired", "x", PAST);
    store.put_expiring("unparsable", "x", "soon");
    let in_a_minute = SystemTime::now() + Duration::from_secs(60);
    store.put_expiring("short", "x", expirefs::expiry::format_http_date(in_a_minute));
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("f");
    let typed = file.to_str().expect("text");
    for key in ["expired", "unparsable", "absent"] {
        for to in [typed, "-"] {
            let (status, says) = refused(run(store.endpoint(), &["get", &url(key), to]));
            assert_eq!(status, 4, "{says}");
            assert!(says.contains(&url(key)), "{says}");
        }
    }
    let for_long = run(store.endpoint(), &["get", &url("short"), typed, "--if-live-for", "5m"]);
    assert_eq!(refused(for_long).0, 4);
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
    printed(run(store.endpoint(), &["get", &url("short"), typed, "--if-live-for", "5s"]));
    assert_eq!(fs::read(&file).expect("read"), b"x");
}

/// As with cp(1): a device or pipe is written to, not replaced, and a link stays a link.
#[test]
fn get_replaces_regular_files_only() {
    let store = Embedded::start();
    store.put_expiring("f", "content", FUTURE);
    let dir = tempfile::tempdir().expect("a folder");
    let [pipe, link, target] = ["pipe", "link", "target"].map(|name| dir.path().join(name));
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe)
    });
    let get = |to: &Path| {
        printed(run(store.endpoint(), &["get", &url("f"), to.to_str().expect("text")]));
    };
    get(&pipe);
    assert!(fs::metadata(&pipe).expect("it is there").file_type().is_fifo());
    assert_eq!(reader.join().expect("a thread").expect("read"), b"content");
    fs::write(&target, "old").expect("write");
    symlink(&target, &link).expect("a link");
    get(&link);
    assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
    assert_eq!(fs::read(&target).expect("read"), b"content");
}

#[test]
fn put_if_absent_replaces_what_has_expired_and_nothing_else() {
    let store = Embedded::start();
    store.put_expiring("live", "old", FUTURE);
    store.put_expiring("expired", "old", PAST);
    let put = |key: &str| {
        let args = ["put", "Cargo.toml", &url(key), "--ttl", "1h", "--if-absent"];
        run(store.endpoint(), &args)
    };
    let (status, says) = refused(put("live"));
    assert!(status == 1 && says.contains("live"), "{status}: {says}");
    assert_eq!(store.body("live"), "old");
    for key in ["expired", "new"] {
        printed(put(key));
        assert_eq!(store.body(key), fs::read("Cargo.toml").expect("read"));
    }
}

#[test]
fn rm_deletes_live_objects_and_says_which_are_absent() {
    let store = Embedded::start();
    let keep = || {
        store.put_expiring("a", "x", FUTURE);
        store.put_expiring("b", "x", FUTURE);
        store.put_expiring("expired", "x", PAST);
    };
    keep();
    let said = printed(run(store.endpoint(), &["rm", &url("a"), &url("b")]));
    assert_eq!(said, format!("deleted {}\ndeleted {}\n", url("a"), url("b")));
    assert!(store.get("a").is_none() && store.get("b").is_none());
    keep();
    let (status, _) = refused(run(store.endpoint(), &["rm", &url("expired")]));
    assert_eq!(status, 4, "all are absent");
    let some = run(store.endpoint(), &["rm", &url("expired"), &url("a"), "--json"]);
    assert_eq!(some.status.code(), Some(3), "some are absent");
    let said: Value = serde_json::from_slice(&some.stdout).expect("JSON");
    assert_eq!((&said["path"], &said["done"]), (&url("a").into(), &"deleted".into()));
    assert!(store.get("expired").is_some(), "that is for a sweep");
}

#[test]
fn ttl_stamps_objects_and_files_in_a_mount() {
    let store = Embedded::start();
    let object = Object::new("x").content_type("a/b").expires(FUTURE);
    store.put_object("a", object.clone());
    store.put_object("b", object);
    store.put_expiring("expired", "x", PAST);
    let said = printed(run(store.endpoint(), &["ttl", &url("a"), "1h"]));
    assert!(said.starts_with(&format!("stamped {}, expires ", url("a"))), "{said}");
    assert!(is_in(store.expires("a"), HOUR));
    assert_eq!(store.get("a").expect("it is there").content_type.as_deref(), Some("a/b"));
    printed(run(store.endpoint(), &["ttl", &url("a"), "never"]));
    assert_eq!(store.expires("a"), None);
    assert_eq!(refused(run(store.endpoint(), &["ttl", &url("expired"), "1h"])).0, 4);

    let mount = store.mounting().writable().start();
    let file = mount.path("b");
    let file = file.to_str().expect("text");
    let said = printed(run(store.endpoint(), &["ttl", file, "2h"]));
    assert!(said.starts_with(&format!("stamped {file}, expires ")), "{said}");
    assert!(is_in(store.expires("b"), 2 * HOUR));
    let (status, says) = refused(run(store.endpoint(), &["ttl", "Cargo.toml", "2h"]));
    assert!(status == 1 && says.contains("Cargo.toml"), "{says}");
}

#[test]
fn a_put_that_fails_or_is_interrupted_leaves_the_old_object_and_no_upload() {
    let store = Embedded::start();
    store.put_expiring("f", "old", FUTURE);
    let proxy =
        Proxy::start(store.endpoint(), |request| match request.query.contains("partNumber=2") {
            true => Fault::status(403, None),
            false => Fault::None,
        });
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("f");
    fs::write(&file, content(1, 20 * MIB)).expect("write");
    let file = file.to_str().expect("text");
    let (status, says) = refused(run(proxy.endpoint(), &["put", file, &url("f"), "--ttl", "1h"]));
    assert!(status == 1 && says.contains("403"), "{says}");
    assert_eq!((store.body("f"), store.uploads()), ("old".into(), 0));

    // Standard input that does not end.
    let mut command = store.endpoint().typed(&["put", "-", &url("f"), "--ttl", "1h"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(&content(1, 20 * MIB)).expect("it reads");
    eventually(Duration::from_secs(20), || equal("uploads", store.uploads(), 1));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("a signal");
    let (status, says) = refused(child.wait_with_output().expect("it ends"));
    assert!(status == 1 && says.contains("signal"), "{says}");
    assert_eq!((store.body("f"), store.uploads()), ("old".into(), 0));
}

#[test]
fn a_get_whose_body_breaks_is_resumed_and_one_that_fails_leaves_the_old_file() {
    let store = Embedded::start();
    let bytes = content(1, 20 * MIB);
    store.put_expiring("f", bytes.clone(), FUTURE);
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("f");
    let typed = file.to_str().expect("text");
    let bodies = AtomicU32::new(0);
    proxy.script(move |request| match request.is_body_of("f") {
        true if bodies.fetch_add(1, Ordering::Relaxed) == 0 => Fault::Reset(3 << 20),
        _ => Fault::None,
    });
    printed(run(proxy.endpoint(), &["get", &url("f"), typed]));
    assert!(fs::read(&file).expect("read") == bytes);

    fs::write(&file, "old").expect("write");
    let bodies = AtomicU32::new(0);
    proxy.script(move |request| match request.is_body_of("f") {
        true if bodies.fetch_add(1, Ordering::Relaxed) == 0 => Fault::Truncate(3 << 20),
        true => Fault::Close,
        false => Fault::None,
    });
    store.put_expiring("f", content(2, 20 * MIB), FUTURE);
    let args = ["get", &url("f"), typed, "--timeout", "2s"];
    let (status, says) = refused(run(proxy.endpoint(), &args));
    assert_eq!(status, 1, "{says}");
    assert_eq!(fs::read(&file).expect("read"), b"old");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "no temporary file");
}

#[test]
fn arguments_that_name_no_object_are_refused() {
    let store = Embedded::start();
    for args in [
        &["get", "s3://embedded/", "-"][..],
        &["get", "s3://embedded/d/", "-"],
        &["get", "key", "-"],
        &["put", "-", "s3://embedded/d/", "--ttl", "1h"],
        &["rm", "s3://embedded"],
        &["ttl", "s3://embedded/", "1h"],
    ] {
        let (status, says) = refused(run(store.endpoint(), args));
        assert!(status == 2 && says.contains("names no"), "{args:?}: {says}");
    }
    let missing = run(store.endpoint(), &["put", "/nowhere", &url("f"), "--ttl", "1h"]);
    assert!(refused(missing).1.contains("/nowhere"));
    let endless: Command = store.endpoint().typed(&["put", "Cargo.toml", &url("f")]);
    assert_eq!({ endless }.output().expect("it runs").status.code(), Some(2), "no expiry");
    assert!(Path::new("Cargo.toml").exists() && store.get("f").is_none());
}
