//! `put`, `get`, `rm` and `ttl` where store, files and programs behave badly.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::objects::{printed, refused, run, url};
use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::proxy::{Answer, Fault, Proxy};
use crate::support::s3_server::{moto, object};
use crate::support::tmpfs::Tmpfs;
use crate::support::wait::{equal, eventually, within};
use crate::support::{Endpoint, FUTURE, block_on};

const BOUND: Duration = Duration::from_secs(20);

fn started(endpoint: &Endpoint, args: &[&str]) -> Child {
    let mut command = endpoint.typed(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it runs")
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("a signal");
}

fn ended(child: Child) -> Output {
    within(BOUND, "the command ends", || child.wait_with_output().expect("it ends"))
}

/// Has `wrapper` run the command.
fn same_by<'a>(wrapper: &'a mut Command, command: &Command) -> &'a mut Command {
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    wrapper.arg(command.get_program()).args(command.get_args())
}

fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("a folder");
    names.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

/// Their 404s to a HEAD have no id that would show that they are the store's own.
#[test]
fn objects_are_absent_on_stores_whose_responses_have_no_request_id() {
    let bucket = moto().bucket("no-id");
    let url = format!("s3://{}/absent", bucket.name);
    for args in [&["get", &url, "/dev/null"][..], &["rm", &url], &["ttl", &url, "1h"]] {
        let (status, says) = refused(run(bucket.endpoint(), args));
        assert_eq!(status, 4, "{says}");
    }
    printed(run(bucket.endpoint(), &["put", "Cargo.toml", &url, "--ttl", "1h", "--if-absent"]));
    assert!(bucket.content("absent").is_some());
}

#[test]
fn get_fetches_the_new_version_of_an_object_that_is_replaced_at_that_moment() {
    let store = Arc::new(Embedded::start());
    store.put_expiring("f", "old", FUTURE);
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let (written, first) = (store.clone(), AtomicBool::new(true));
    proxy.script(move |request| {
        if request.is_body_of("f") && first.swap(false, Ordering::Relaxed) {
            written.put_expiring("f", "newer", FUTURE);
        }
        Fault::None
    });
    assert_eq!(printed(run(proxy.endpoint(), &["get", &url("f"), "-"])), "newer");

    let deleted = store.clone();
    proxy.script(move |request| {
        if request.is_body_of("f") {
            deleted.delete("f");
        }
        Fault::None
    });
    assert_eq!(refused(run(proxy.endpoint(), &["get", &url("f"), "-"])).0, 4);
}

#[test]
fn a_get_is_interrupted_while_its_body_stalls_or_nobody_reads_its_pipe() {
    let store = Embedded::start();
    store.put_expiring("f", content(1, 5 * MIB), FUTURE);
    let proxy = Proxy::start(store.endpoint(), |request| match request.is_body_of("f") {
        true => Fault::Stall(3 << 20),
        false => Fault::None,
    });
    let dir = tempfile::tempdir().expect("a folder");
    let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
    fs::write(&file, "old").expect("write");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let child = started(proxy.endpoint(), &["get", &url("f"), file.to_str().expect("text")]);
    eventually(BOUND, || equal("names", names_in(dir.path()).len(), 3));
    interrupt(&child);
    let (status, says) = refused(ended(child));
    assert!(status == 1 && says.contains("signal"), "{says}");
    assert_eq!(fs::read(&file).expect("read"), b"old");
    assert_eq!(names_in(dir.path()).len(), 2);

    let before = store.requests().get;
    let child = started(store.endpoint(), &["get", &url("f"), pipe.to_str().expect("text")]);
    eventually(BOUND, || equal("requests", store.requests().get, before + 1));
    interrupt(&child);
    let (status, says) = refused(ended(child));
    assert!(status == 1 && says.contains("signal"), "{says}");
}

#[test]
fn a_put_that_is_interrupted_after_its_last_request_does_not_claim_that_nothing_was_stored() {
    let store = Embedded::start();
    let proxy = Proxy::start(store.endpoint(), |request| match &*request.method {
        "PUT" => Fault::Delay(Duration::from_secs(3600)),
        _ => Fault::None,
    });
    let child = started(proxy.endpoint(), &["put", "Cargo.toml", &url("f"), "--ttl", "1h"]);
    eventually(BOUND, || equal("requests", proxy.did("delay"), 1));
    interrupt(&child);
    let (status, says) = refused(ended(child));
    assert!(status == 1 && says.contains("perhaps not stored"), "{says}");
}

/// Another program renews the object between the HEAD and the change.
#[test]
fn rm_and_ttl_leave_an_object_alone_that_is_replaced_at_that_moment() {
    let store = Arc::new(Embedded::start());
    store.put_expiring("f", "old", FUTURE);
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    for (args, change) in
        [(&["rm", &url("f")][..], "DELETE"), (&["ttl", &url("f"), "never"], "PUT")]
    {
        let (written, n) = (store.clone(), proxy.requests());
        proxy.script(move |request| {
            if request.method == change {
                written.put_expiring("f", format!("newer{n}"), FUTURE);
            }
            Fault::None
        });
        let (status, says) = refused(run(proxy.endpoint(), args));
        assert!(status == 1 && says.contains("replaced"), "{says}");
        assert!(store.body("f").starts_with(b"newer") && store.expires("f").is_some());
    }
}

/// The first signal ends the transfer, and its upload is aborted; with the second nobody waits for
/// that. The next put of the bucket aborts it.
#[test]
fn a_second_signal_ends_a_put_whose_upload_cannot_be_aborted_yet() {
    let store = Embedded::start();
    let proxy = Proxy::start(store.endpoint(), |request| match &*request.method {
        "DELETE" => Fault::Delay(Duration::from_secs(3600)),
        _ => Fault::None,
    });
    let mut child = started(proxy.endpoint(), &["put", "-", &url("f"), "--ttl", "1h"]);
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(&content(1, 20 * MIB)).expect("it reads");
    eventually(BOUND, || equal("uploads", store.uploads(), 1));
    interrupt(&child);
    eventually(BOUND, || equal("aborts", proxy.did("delay").min(1), 1));
    interrupt(&child);
    assert_eq!(refused(ended(child)).0, 1);
    assert_eq!(store.uploads(), 1);
    proxy.behave();
    printed(run(proxy.endpoint(), &["put", "Cargo.toml", &url("g"), "--ttl", "1h"]));
    assert_eq!(store.uploads(), 0);
}

#[test]
fn get_leaves_the_old_file_alone_and_no_other_if_it_cannot_write() {
    let store = Embedded::start();
    store.put_expiring("f", content(1, 5 * MIB), FUTURE);
    let disk = Tmpfs::new("1m");
    let file = disk.path().join("file");
    fs::write(&file, "old").expect("write");
    let get = || refused(run(store.endpoint(), &["get", &url("f"), file.to_str().expect("text")]));
    let (status, says) = get();
    assert!(status == 1 && says.contains("No space left"), "{says}");
    assert_eq!(
        (names_in(disk.path()), fs::read(&file).expect("read")),
        (vec!["file".into()], b"old".into())
    );
    // As here, if it is not full but the process may write no larger file.
    let roomy = tempfile::tempdir().expect("a folder");
    let unlimited =
        store.endpoint().typed(&["get", &url("f"), roomy.path().to_str().expect("text")]);
    let mut bash = Command::new("bash");
    let limited = same_by(bash.args(["-c", "ulimit -f 100; exec \"$0\" \"$@\""]), &unlimited);
    let (status, says) = refused(limited.output().expect("bash"));
    assert!(status == 1 && says.contains("File too large"), "{says}");
    assert_eq!(names_in(roomy.path()).len(), 0);
    disk.remount("ro");
    let (status, says) = get();
    assert!(status == 1 && says.contains("Read-only"), "{says}");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let mut command = store.endpoint().typed(&["get", &url("f"), "-"]);
    let (status, says) = refused(command.stdout(full).output().expect("it runs"));
    assert!(status == 1 && says.contains("No space left"), "{says}");
}

#[test]
fn get_keeps_the_mode_of_the_file_it_replaces_and_refuses_what_it_cannot_replace() {
    let store = Embedded::start();
    for key in ["f", "d/..", "d/."] {
        store.put_expiring(key, "new", FUTURE);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let [file, link, folder] = ["file", "link", "folder"].map(|name| dir.path().join(name));
    fs::write(&file, "old").expect("write");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
    let mut reader = File::open(&file).expect("open");
    let get = |key: &str, to: &Path| {
        run(store.endpoint(), &["get", &url(key), to.to_str().expect("text")])
    };
    printed(get("f", &file));
    assert_eq!(fs::read(&file).expect("read"), b"new");
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o7777, 0o600);
    let mut old = String::new();
    reader.read_to_string(&mut old).expect("read");
    assert_eq!(old, "old", "who has it open keeps it");

    symlink(dir.path().join("nowhere"), &link).expect("a link");
    fs::create_dir_all(folder.join("f")).expect("a folder");
    let requests = store.requests().get;
    for (key, to, why) in [
        ("f", link.clone(), "No such file"),
        ("f", dir.path().join("new/"), "Not a directory"),
        ("f", folder.clone(), "Is a directory"),
        ("d/..", folder.clone(), "Is a directory"),
        ("d/.", folder.clone(), "Is a directory"),
    ] {
        let (status, says) = refused(get(key, &to));
        assert!(status == 1 && says.contains(why), "{key} {to:?}: {says}");
    }
    assert_eq!(store.requests().get, requests, "nothing is fetched in vain");
    assert!(link.is_symlink() && !link.exists() && names_in(dir.path()).len() == 3);
}

#[test]
fn a_file_that_is_truncated_while_it_is_put_is_not_stored() {
    let store = Embedded::start();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("f");
    // Sparse. More than may be read before the first part has left.
    let file = File::create(&path).expect("create");
    file.set_len(100 << 20).expect("truncate");
    let proxy = Proxy::start(store.endpoint(), move |request| {
        if request.method == "POST" && request.query.contains("uploads") {
            file.set_len(60 << 20).expect("truncate");
        }
        Fault::None
    });
    let typed = path.to_str().expect("text");
    let (status, says) = refused(run(proxy.endpoint(), &["put", typed, &url("f"), "--ttl", "1h"]));
    assert!(status == 1 && says.contains("truncated") && says.contains(typed), "{says}");
    assert!(store.get("f").is_none());
    assert_eq!(store.uploads(), 0);
}

/// Such as files of /proc, whose size is 0.
#[test]
fn a_file_whose_size_is_not_that_of_its_content_is_put_as_it_is_read() {
    let store = Embedded::start();
    printed(run(store.endpoint(), &["put", "/proc/version", &url("f"), "--ttl", "1h"]));
    assert_eq!(store.body("f"), fs::read("/proc/version").expect("read"));
    let page = "/sys/kernel/mm/transparent_hugepage/enabled";
    let page = [page, "/sys/kernel/profiling", "/sys/power/state"]
        .into_iter()
        .find(|p| Path::new(p).exists());
    let page = page.expect("a file of /sys, with the size of a page");
    printed(run(store.endpoint(), &["put", page, &url("f"), "--ttl", "1h"]));
    assert_eq!(store.body("f"), fs::read(page).expect("read"));
}

#[test]
fn keys_of_any_characters_are_put_got_stamped_and_deleted() {
    const KEYS: [&str; 16] = [
        " a b+c ",
        "100%",
        "%41%2F%00",
        "/leading//x",
        "..",
        "a/../b/./c",
        "ü/日本/e\u{301}",
        "?",
        "a#b&c=d;e",
        "\"'`$(x)\\",
        "new\nline",
        "\u{1}\u{7f}",
        "<a>&amp;",
        "{a}|^~*!@:,",
        "-",
        "a=b?versionId=1",
    ];
    let store = Embedded::start();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("f");
    let typed = file.to_str().expect("text");
    let urls: Vec<String> = KEYS.iter().map(|key| url(key)).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    for (n, (key, url)) in KEYS.iter().zip(&urls).enumerate() {
        let bytes = content(n as u64, 1000);
        fs::write(&file, &bytes).expect("write");
        printed(run(store.endpoint(), &["put", typed, url, "--ttl", "1h", "-q"]));
        assert_eq!(store.body(key), bytes, "{key:?}");
        fs::remove_file(&file).expect("remove");
        printed(run(store.endpoint(), &["get", url, typed, "-q"]));
        assert_eq!(fs::read(&file).expect("read"), bytes, "{key:?}");
    }
    printed(run(store.endpoint(), &[&["ttl", "-q"], &urls[..], &["never"]].concat()));
    assert!(KEYS.iter().all(|key| store.expires(key).is_none()));
    printed(run(store.endpoint(), &[&["rm", "-q"], &urls[..]].concat()));
    assert!(KEYS.iter().all(|key| store.get(key).is_none()));
}

#[test]
fn in_a_versioned_bucket_the_newest_version_counts_and_rm_hides_it() {
    let bucket = moto().bucket("versioned");
    let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
    let put = bucket.client().put_bucket_versioning().bucket(&bucket.name);
    block_on(put.versioning_configuration(versioning.build()).send()).expect("versioning");
    let url = format!("s3://{}/f", bucket.name);
    bucket.put("f", object("old").expires(FUTURE));
    bucket.put("f", object("new").expires(FUTURE));
    assert_eq!(printed(run(bucket.endpoint(), &["get", &url, "-"])), "new");
    printed(run(bucket.endpoint(), &["ttl", &url, "1h"]));
    assert_eq!(printed(run(bucket.endpoint(), &["get", &url, "-"])), "new");
    printed(run(bucket.endpoint(), &["rm", &url]));
    assert_eq!(refused(run(bucket.endpoint(), &["get", &url, "-"])).0, 4);
    let versions = block_on(bucket.client().list_object_versions().bucket(&bucket.name).send());
    let versions = versions.expect("versions");
    assert_eq!((versions.versions().len(), versions.delete_markers().len()), (3, 1));
}

#[test]
fn get_of_an_archived_object_names_its_class() {
    let store = Embedded::start();
    store.put_expiring("f", "x", FUTURE);
    let document = "<Error><Code>InvalidObjectState</Code><Message>m</Message>\
                    <StorageClass>GLACIER</StorageClass></Error>";
    let proxy = Proxy::start(store.endpoint(), move |request| match request.is_body_of("f") {
        true => {
            Fault::Answer(Answer::new(403).header("content-type", "application/xml").body(document))
        }
        false => Fault::None,
    });
    let (status, says) = refused(run(proxy.endpoint(), &["get", &url("f"), "/dev/null"]));
    assert!(status == 1 && says.contains("GLACIER"), "{says}");
}

/// A proxy that answers with a page of its own in place of the store.
#[test]
fn a_change_that_the_store_never_got_is_not_reported_as_done() {
    let store = Embedded::start();
    store.put_expiring("f", "old", FUTURE);
    let proxy = Proxy::start(store.endpoint(), |request| match &*request.method {
        "PUT" => {
            Fault::Answer(Answer::new(200).header("content-type", "text/html").body("<html/>"))
        }
        _ => Fault::None,
    });
    for args in [
        &["put", "Cargo.toml", &url("f"), "--ttl", "1h", "--timeout", "3s"][..],
        &["ttl", &url("f"), "1h", "--timeout", "3s"],
    ] {
        let (status, says) = refused(run(proxy.endpoint(), args));
        assert_eq!(status, 1, "{says}");
    }
    assert_eq!(store.body("f"), "old");
}

#[test]
fn a_store_that_contradicts_itself_yields_no_file() {
    let store = Embedded::start();
    store.put_expiring("f", "content", FUTURE);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("f");
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    type Lie = fn() -> Fault;
    for (on_head, lie) in [
        (true, (|| Fault::header("content-length", "8")) as Lie),
        (true, || Fault::rewrite(|head| head.remove("content-length"))),
        (true, || Fault::header("etag", "\"another\"")),
        (true, || Fault::header("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")),
        (false, || Fault::header("etag", "\"another\"")),
        (false, || {
            Fault::Answer(Answer::new(200).header("content-type", "text/html").body("content"))
        }),
        (false, || Fault::Answer(Answer::new(200).header("etag", "\"x\"").body("<html></html>"))),
    ] {
        proxy.script(move |request| match request.is_head() == on_head && request.is_of("f") {
            true => lie(),
            false => Fault::None,
        });
        let args = ["get", &url("f"), file.to_str().expect("text"), "--timeout", "2s"];
        let (status, says) = refused(run(proxy.endpoint(), &args));
        assert_eq!(status, 1, "{:?}: {says}", lie());
        assert_eq!(names_in(dir.path()).len(), 0);
    }
}

/// A small object needs no list of uploads, and a container may have no place for it.
#[test]
fn put_works_without_a_place_for_the_list_of_uploads() {
    let store = Embedded::start();
    let typed = store.endpoint().typed(&["put", "Cargo.toml", &url("f"), "--ttl", "1h"]);
    let script = "mount -t tmpfs -o ro none /var/tmp && exec \"$0\" \"$@\"";
    let mut unshare = Command::new("unshare");
    let done = same_by(unshare.args(["--mount", "sh", "-c", script]), &typed).output();
    let done = done.expect("unshare(1)");
    let says = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && says.contains("no list of uploads"), "{says}");
    assert!(store.get("f").is_some());
}
