//! Rule R5 as programs see it: no response of something between here and the store hides a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Answer, Fault, Proxy, Request, at_random};
use crate::support::s3_server::{object, seaweedfs};
use crate::support::wait::within;

/// Longer than any system call may take here.
const HANGS: Duration = Duration::from_secs(60);

const FILES: [&str; 7] = ["d/f0", "d/f1", "d/sub/f2", "d-e", "e/f3", "top", "top-2"];

/// A store of those files behind a proxy.
struct Rig {
    proxy: Proxy,
    _store: Embedded,
    mirror: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let store = Embedded::start();
        for key in FILES {
            store.put(key, format!("the content of {key}"));
        }
        let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
        let mirror = tempfile::Builder::new().prefix("expirefs-test-mirror-").tempdir().unwrap();
        Rig { proxy, _store: store, mirror }
    }

    fn mount(&self, args: &str) -> Mount {
        let setup = Setup::new(self.proxy.endpoint(), Embedded::BUCKET).living(5 * HANGS);
        setup.with("--metadata-ttl 0s").with(args).start()
    }

    fn rsync(&self, mount: &Mount) -> Output {
        let mut rsync = Command::new("rsync");
        rsync.args(["-a", "--delete"]).arg(mount.path("")).arg(self.mirror.path());
        within(HANGS, "rsync", move || rsync.output().expect("rsync"))
    }

    #[track_caller]
    fn assert_mirror_is_whole(&self, what: &str, rsync: &Output) {
        let found = files(self.mirror.path());
        let want: BTreeMap<_, _> =
            FILES.iter().map(|key| ((*key).to_owned(), format!("the content of {key}"))).collect();
        assert_eq!(found, want, "{what}: {rsync:?}");
    }
}

/// The files below a folder, and their content.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("UTF-8");
        match entry.file_type().expect("its type").is_dir() {
            true => found.extend(
                files(&entry.path())
                    .into_iter()
                    .map(|(below, text)| (format!("{name}/{below}"), text)),
            ),
            false => _ = found.insert(name, fs::read_to_string(entry.path()).expect("a file")),
        }
    }
    found
}

/// A server behind an ingress restarts, at each request of a run of `rsync --delete`.
#[test]
fn a_mirror_survives_404s_that_start_at_any_request() {
    const THREADS: u64 = 6;
    let at_every = |first: u64| {
        let rig = Rig::new();
        let mount = rig.mount("--timeout 1s");
        let before = rig.proxy.requests();
        let sound = rig.rsync(&mount);
        assert!(sound.status.success(), "{sound:?}");
        rig.assert_mirror_is_whole("with a working store", &sound);
        let requests = rig.proxy.requests() - before;
        for moment in (first..=requests).step_by(THREADS as usize) {
            let last = rig.proxy.requests() + moment;
            rig.proxy.script(move |request| match request.number > last {
                true => Fault::stray_404(),
                false => Fault::None,
            });
            let run = rig.rsync(&mount);
            rig.assert_mirror_is_whole(&format!("404 after {moment} requests"), &run);
            rig.proxy.behave();
        }
        let last = rig.rsync(&mount);
        assert!(last.status.success(), "{last:?}");
    };
    // Most of the time is spent waiting for retries of the daemon.
    thread::scope(|scope| (0..THREADS).for_each(|first| _ = scope.spawn(move || at_every(first))));
}

/// Two servers behind a balancer, one of which is not an S3 server: first only listings work
/// always, then no request does.
#[test]
fn occasional_404s_hide_no_file() {
    let rig = Rig::new();
    let mount = rig.mount("--timeout 3s");
    assert!(rig.rsync(&mount).status.success());
    for (what, one_in, listings) in [("HEAD and GET", 2, false), ("any request", 3, true)] {
        let chance = at_random(7, one_in, false);
        rig.proxy.script(move |request| {
            let strays = !matches!(chance(request), Fault::None);
            match strays && (listings || !request.is_list()) {
                true => Fault::stray_404(),
                false => Fault::None,
            }
        });
        for _ in 0..3 {
            let run = rig.rsync(&mount);
            rig.assert_mirror_is_whole(what, &run);
            for key in FILES {
                let found = fs::metadata(mount.path(key));
                let absent = found.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ENOENT));
                assert!(!absent, "{what}: {key} is absent");
            }
        }
        assert!(rig.proxy.did("answer") > 10);
        rig.proxy.behave();
    }
}

/// Listings that are truncated when their connection closes.
#[test]
fn a_truncated_listing_hides_no_file() {
    let rig = Rig::new();
    let mount = rig.mount("--timeout 2s");
    assert!(rig.rsync(&mount).status.success());
    // Each cut costs all tries of a request, so only some lengths are tested here, and all of them
    // in tests/store.rs.
    for bytes in (0..1400).step_by(200) {
        rig.proxy.script(move |request: &Request| match request.is_list() {
            true => Fault::Cut(bytes),
            false => Fault::None,
        });
        let run = rig.rsync(&mount);
        rig.assert_mirror_is_whole(&format!("cut after {bytes} bytes"), &run);
    }
}

/// A proxy with some wrong answers: a failure of one object does not affect the others.
#[test]
fn a_failing_object_hides_no_other() {
    let rig = Rig::new();
    let mount = rig.mount("--timeout 4s");
    for status in [500, 503, 403, 400, 404] {
        rig.proxy.script(move |request| match request.is_of("d/f0") {
            true => Fault::status(status, None),
            false => Fault::None,
        });
        let names = within(HANGS, "ls", || {
            let names = fs::read_dir(mount.path("d")).expect("d");
            names.map(|name| name.expect("a name").file_name()).collect::<Vec<_>>()
        });
        // A 404 with NoSuchKey comes from the store itself, but the listing still has the key.
        assert_eq!(names, ["f0", "f1", "sub"], "{status}");
        assert!(fs::read(mount.path("d/f1")).is_ok(), "{status}");
    }
    let said = mount.said();
    assert!(said.iter().any(|line| line.contains("key=\"d/f0\"")), "{said:#?}");
}

/// SeaweedFS lists `a/` before `a.b`. No name that exists is absent by such a listing.
#[test]
fn a_listing_in_another_order_hides_no_name() {
    let bucket = seaweedfs().bucket("order");
    let fill = (0..70).map(|i| format!("d/a!{i:02}"));
    let files = ["d/a-b/x", "d/a.b", "d/a/x", "d/a0", "d/b", "d/b-/x", "d/b.c/x"];
    let keys: Vec<String> = fill.chain(files.map(str::to_owned)).collect();
    keys.iter().for_each(|key| bucket.put(key, object("x")));
    let names: BTreeSet<String> = keys
        .iter()
        .map(|key| key.split('/').take(2).collect::<Vec<_>>().join("/"))
        .flat_map(|name| [format!("{name}!"), format!("{name}."), format!("{name}z"), name])
        .collect();
    for (ttl, backwards) in [("0s", false), ("60s", false), ("60s", true)] {
        let mount = bucket.mounting().with(&format!("--negative-ttl {ttl}")).start();
        for name in ["d/!", "d/!!", "d/!!!"] {
            assert!(!mount.path(name).exists());
        }
        let mut names: Vec<&String> = names.iter().collect();
        if backwards {
            names.reverse();
        }
        for name in names {
            let below = format!("{name}/");
            let want = keys.iter().any(|key| key == name || key.starts_with(&below));
            let found = fs::metadata(mount.path(name));
            assert_eq!(found.is_ok(), want, "{name}, --negative-ttl {ttl}: {found:?}");
        }
    }
}

/// A name that this mount creates exists at once, and one that it removes does not, also if cached
/// listings answer for absent names.
#[test]
fn names_that_this_mount_creates_and_removes() {
    let (bucket, store) = (seaweedfs().bucket("creates"), Embedded::start());
    for ttl in ["0s", "60s"] {
        for mounting in [bucket.mounting(), store.mounting()] {
            let options = format!("--writable --ttl 1h --metadata-ttl 0s --negative-ttl {ttl}");
            let mount = mounting.with(&options).start();
            for directory in ["", "made/", "made/below/"] {
                if !directory.is_empty() {
                    fs::create_dir(mount.path(directory)).expect("mkdir");
                }
                for i in 0..4 {
                    assert!(!mount.path(format!("{directory}miss-{i}")).exists());
                }
                fs::write(mount.path(format!("{directory}new")), "x").expect("write");
                let renamed = mount.path(format!("{directory}renamed"));
                fs::rename(mount.path(format!("{directory}new")), &renamed).expect("rename");
                assert!(!mount.path(format!("{directory}new")).exists(), "{ttl} {directory}");
                assert_eq!(fs::read(&renamed).expect("read"), b"x");
                fs::remove_file(&renamed).expect("unlink");
                assert!(!renamed.exists(), "{ttl} {directory}");
                fs::write(&renamed, "again").expect("write");
                assert_eq!(fs::read(&renamed).expect("read"), b"again");
                fs::remove_file(&renamed).expect("unlink");
            }
            for directory in ["made/below", "made"] {
                fs::remove_dir(mount.path(directory)).expect("rmdir");
                assert!(!mount.path(directory).exists(), "{directory} is removed, {ttl}");
            }
        }
    }
}

/// A bucket that is deleted while it is mounted does not look like an empty one.
#[test]
fn a_deleted_bucket_is_an_error() {
    let rig = Rig::new();
    let mount = rig.mount("--timeout 2s");
    let gone = "<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>";
    rig.proxy.script(move |_| {
        let answer = Answer::new(404).header("x-amz-request-id", "1");
        Fault::Answer(answer.header("content-type", "application/xml").body(gone))
    });
    let errno = |result: std::io::Result<()>| result.err().and_then(|e| e.raw_os_error());
    let listed =
        fs::read_dir(mount.path("d")).and_then(|names| names.collect::<Result<Vec<_>, _>>());
    assert_eq!(errno(listed.map(drop)), Some(libc::EIO));
    assert_eq!(errno(fs::metadata(mount.path("top")).map(drop)), Some(libc::EIO));
    rig.proxy.behave();
    assert_eq!(fs::metadata(mount.path("top")).expect("it is back").size(), 18);
}
