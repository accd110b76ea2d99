//! The instant at which an object expires: E1, E7, E8, E9, E10 and the options of E3 and E4.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::mount::{MntFlags, MsFlags};

use crate::support::content::{KIB, MIB, assert_same_bytes, content};
use crate::support::embedded::Embedded;
use crate::support::mount::Mount;
use crate::support::s3_server::{http_date, object, seaweedfs};
use crate::support::wait::{equal, eventually};
use crate::support::{FUTURE, PAST};

/// The kernel counts lifetimes in ticks of its clock, 4 ms or 10 ms long.
const LATE: Duration = Duration::from_millis(50);
const EARLY: Duration = Duration::from_millis(100);

/// A whole second, since `Expires` has no fractions, with enough time to put an object and to open
/// it on a busy machine.
pub(crate) fn soon() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    UNIX_EPOCH + Duration::from_secs(since.as_secs() + 6)
}

/// E1, E7: `stat`, `ls` and `open` lose the object at its instant, although the kernel may cache
/// metadata for a minute. E8: open handles can still be read. E9: the store still has it. E10: its
/// folder stays.
#[test]
fn an_object_vanishes_at_its_expiry() {
    let bytes = content(1, 24 * MIB); // more than all buffers on the way hold
    let bucket = seaweedfs().bucket("vanish");
    let mount = bucket.mounting().with("--metadata-ttl 60s").start();
    let (path, folder) = (mount.path("folder/short"), mount.path("folder"));
    let instant = soon();
    bucket.put("folder/short", object(bytes.clone()).expires(http_date(instant)));

    let mut file = File::open(&path).expect("open before the instant");
    let mut read = vec![0; 64 * KIB];
    file.read_exact(&mut read).expect("read before the instant");

    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    thread::scope(|scope| {
        scope.spawn(|| watch("stat", instant, || is_there(fs::symlink_metadata(&path))));
        scope.spawn(|| watch("open", instant, || is_there(File::open(&path))));
        scope.spawn(|| {
            watch("ls", instant, || {
                fs::read_dir(&folder).expect("ls").map(name).any(|name| name == "short")
            });
        });
    });

    let size = file.metadata().expect("fstat after the instant").size();
    assert_eq!(size, bytes.len() as u64, "fstat after the instant");
    file.read_to_end(&mut read).expect("read on after the instant");
    assert_same_bytes("read across the instant", &read, &bytes);
    drop(file);

    assert!(!is_there(File::open(&path)), "open after the last close");
    assert_eq!(fs::read_dir(&folder).expect("ls").count(), 0, "names in the folder");
    assert_eq!(bucket.head("folder/short").content_length(), Some(bytes.len() as i64));
}

/// E1: reopened through its descriptor or a bind mount, it has no name that the kernel could look
/// up again: the error is ENOENT there, too, and not ESTALE.
#[test]
fn an_expired_file_is_absent_through_its_descriptor_and_its_bind_mount() {
    let store = Embedded::start();
    let mount = store.mounting().with("--metadata-ttl 60s").start();
    let instant = soon();
    store.put_expiring("short", "text", expirefs::expiry::format_http_date(instant));
    let file = File::open(mount.path("short")).expect("open before the instant");
    let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    let target = tempfile::Builder::new().prefix("expirefs-test-").tempfile().expect("a file");
    let none = None::<&str>;
    nix::mount::mount(Some(&mount.path("short")), target.path(), none, MsFlags::MS_BIND, none)
        .expect("bind");
    let _unbound = Unbound(target.path());
    let bound = target.path();
    assert_eq!(fs::read_to_string(bound).expect("read"), "text");
    watch("its descriptor", instant, || is_there(File::open(&by_descriptor)));
    assert!(!is_there(File::open(bound)), "where it is bound");
}

/// Removes a bind mount on drop.
struct Unbound<'a>(&'a Path);

impl Drop for Unbound<'_> {
    fn drop(&mut self) {
        nix::mount::umount2(self.0, MntFlags::MNT_DETACH).expect("unbind");
    }
}

/// Checks repeatedly whether the object is there. It must be until its instant, and not after.
#[track_caller]
pub(crate) fn watch(what: &str, instant: SystemTime, is_there: impl Fn() -> bool) {
    let mut seen = 0;
    loop {
        let asked = SystemTime::now();
        let there = is_there();
        let answered = SystemTime::now();
        if there {
            seen += 1;
            assert!(asked < instant + LATE, "{what}: still there {}", after(asked, instant));
        } else {
            assert!(answered >= instant - EARLY, "{what}: absent {}", after(answered, instant));
            if answered > instant + Duration::from_millis(500) {
                break; // and it has not come back
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(seen >= 20, "{what}: seen only {seen} times: this proves nothing");
}

/// `-12 ms after the instant`, for one that is 12 ms before it.
fn after(time: SystemTime, instant: SystemTime) -> String {
    let ms = match time.duration_since(instant) {
        Ok(late) => late.as_secs_f64() * 1e3,
        Err(early) => -early.duration().as_secs_f64() * 1e3,
    };
    format!("{ms:.1} ms after its instant")
}

/// Absent means ENOENT; any other error fails the test.
#[track_caller]
fn is_there<T>(answer: io::Result<T>) -> bool {
    match answer {
        Ok(_) => true,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => false,
        Err(e) => panic!("neither there nor absent: {e}"),
    }
}

/// With `--negative-ttl 0`, the default, the absence is not cached.
#[test]
fn a_renewed_object_is_visible_at_once() {
    let bucket = seaweedfs().bucket("renewed");
    bucket.put("cache", object("old").expires(PAST));
    let mount = bucket.mounting().with("--metadata-ttl 60s").start();
    assert!(!is_there(fs::read(mount.path("cache"))), "it has expired");
    bucket.put("cache", object("new").expires(FUTURE));
    assert_eq!(fs::read_to_string(mount.path("cache")).expect("the new one"), "new");
}

/// E2: of the three forms of RFC 9110 §5.6.7, SeaweedFS and the SDK know only the first.
#[test]
fn all_three_date_forms_count() {
    let forms = [
        (PAST, FUTURE),
        ("Wednesday, 01-Jan-20 00:00:00 GMT", "Tuesday, 01-Jan-69 00:00:00 GMT"),
        ("Wed Jan  1 00:00:00 2020", "Fri Jan  1 00:00:00 2100"),
    ];
    let store = Embedded::start();
    for (i, (past, future)) in forms.iter().enumerate() {
        store.put_expiring(&format!("past-{i}"), "x", past);
        store.put_expiring(&format!("future-{i}"), "x", future);
    }
    let mount = store.mounting().start();
    assert_eq!(names(&mount), ["future-0", "future-1", "future-2"]);
    assert_eq!(mount.status().number("unparsable"), 0);
}

/// Values found in practice, none of which is a date of RFC 9110.
const UNPARSABLE: [&str; 5] =
    ["0", "-1", "never", "2100-01-01T00:00:00Z", "Fri, 01 Jan 2100 00:00:00 CET"];

fn unparsable() -> Embedded {
    let store = Embedded::start();
    for (i, value) in UNPARSABLE.iter().enumerate() {
        store.put_expiring(&format!("unparsable-{i}"), *value, value);
    }
    store.put("live", "live");
    store
}

fn names(mount: &Mount) -> Vec<String> {
    let entries = fs::read_dir(mount.dir()).expect("ls");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// E3: the default.
#[test]
fn an_expires_that_cannot_be_parsed_means_expired() {
    let store = unparsable();
    let mount = store.mounting().start();
    assert_eq!(names(&mount), ["live"]);
    for (i, value) in UNPARSABLE.iter().enumerate() {
        let path = mount.path(format!("unparsable-{i}"));
        assert!(!is_there(File::open(path)), "Expires: {value}");
    }
    assert_eq!(mount.status().number("unparsable"), UNPARSABLE.len() as i64, "keys counted");
}

/// E3: `--on-unparsable fresh`.
#[test]
fn on_unparsable_fresh_shows_the_object() {
    let store = unparsable();
    let mount = store.mounting().with("--on-unparsable fresh").start();
    assert_eq!(names(&mount).len(), 1 + UNPARSABLE.len());
    for (i, value) in UNPARSABLE.iter().enumerate() {
        let path = mount.path(format!("unparsable-{i}"));
        assert_eq!(fs::read_to_string(path).expect("fresh"), *value);
    }
}

/// E3: `--on-unparsable error`: EIO, never absent, and one line in the log for each key.
#[test]
fn on_unparsable_error_answers_eio_and_logs_the_key_once() {
    let store = unparsable();
    let mount = store.mounting().with("--on-unparsable error").start();
    for _ in 0..3 {
        for (i, value) in UNPARSABLE.iter().enumerate() {
            let error = File::open(mount.path(format!("unparsable-{i}"))).expect_err(value);
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "Expires: {value}: {error}");
        }
    }
    for i in 0..UNPARSABLE.len() {
        let key = format!("unparsable-{i}");
        eventually(Duration::from_secs(5), || {
            let lines = mount.said().iter().filter(|line| line.contains(&key)).count();
            equal(&format!("the number of lines about {key}"), lines, 1)
        });
    }
}

/// E4: `--default-ttl` counts from Last-Modified, for objects that have no `Expires`.
#[test]
fn the_default_ttl_counts_from_last_modified() {
    let bucket = seaweedfs().bucket("default-ttl");
    bucket.put("plain", object("plain"));
    bucket.put("dated", object("dated").expires(FUTURE));
    let modified = bucket.head("plain").last_modified.expect("Last-Modified");
    let modified = SystemTime::try_from(modified).expect("a time");
    let mount = bucket.mounting().with("--metadata-ttl 60s --default-ttl 4s").start();
    watch("stat", modified + Duration::from_secs(4), || {
        is_there(fs::symlink_metadata(mount.path("plain")))
    });
    assert!(is_there(File::open(mount.path("dated"))), "its own Expires counts");
}
