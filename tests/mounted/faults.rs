//! A store that breaks connections, stalls, lies, refuses or is down: R1, R3, R4, R5 and B6. A
//! proxy between the daemon and a real server causes the faults (`support/proxy.rs`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::content::{KIB, MIB, assert_content, assert_same_bytes, content, part};
use crate::support::embedded::Embedded;
use crate::support::mount::{Setup, is_mounted};
use crate::support::proxy::{Fault, Head, Proxy, Request};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::stuck::{self, end_of};
use crate::support::wait::{HANGS, at_most, equal, eventually, within};

const SIZE: usize = 24 * MIB;

/// A bucket with `file` and `small` on SeaweedFS, and a proxy in front of it that causes no faults
/// yet.
fn faulty() -> (Bucket, Proxy) {
    let bucket = seaweedfs().bucket("faults");
    bucket.put("file", object(content(1, SIZE)));
    bucket.put("small", object("small"));
    let proxy = Proxy::start(bucket.endpoint(), |_| Fault::None);
    (bucket, proxy)
}

fn through(proxy: &Proxy, bucket: &Bucket) -> Setup {
    Setup::new(proxy.endpoint(), &bucket.name).with("--pool-idle 1s")
}

/// Whether it is a request for a body of `file`, and not for the first bytes fetched by a lookup.
fn is_body(request: &Request) -> bool {
    request.is_body_of("file")
}

/// The bytes of an open file from its start, and the result of the last read.
fn read_all(file: &File) -> (Vec<u8>, io::Result<()>) {
    let (mut bytes, mut slice) = (Vec::new(), vec![0; 256 * KIB]);
    loop {
        match file.read_at(&mut slice, bytes.len() as u64) {
            Ok(0) => return (bytes, Ok(())),
            Ok(n) => bytes.extend_from_slice(&slice[..n]),
            Err(e) => return (bytes, Err(e)),
        }
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|e| e.raw_os_error().unwrap_or_else(|| panic!("no errno: {e}")))
}

/// R3: wherever and however a body breaks, it is resumed after its last good byte, and no reader
/// notices.
#[test]
fn a_body_that_breaks_is_resumed_unnoticed() {
    // Some are short, but not so many that one read would run out of retries.
    const BREAKS: [u64; 12] =
        [300_001, 0, 1048575, 1, 1048576, 4095, 2097153, 4096, 3149825, 65535, 4194304, 12345];
    let bucket = seaweedfs().bucket("breaks");
    let kinds = ["reset", "truncate", "half-close"];
    bucket.put_all((0..).zip(kinds).map(|(i, kind)| (kind.to_owned(), object(content(i, SIZE)))));
    let bodies = AtomicUsize::new(0);
    let proxy = Proxy::start(bucket.endpoint(), move |request| {
        if !request.is_get() || !request.of_version {
            return Fault::None;
        }
        let after = BREAKS[bodies.fetch_add(1, Ordering::Relaxed) % BREAKS.len()];
        match request.path.rsplit('/').next() {
            Some("reset") => Fault::Reset(after),
            Some("truncate") => Fault::Truncate(after),
            _ => Fault::HalfClose(after),
        }
    });
    let mount = through(&proxy, &bucket).start();
    let fds = mount.process().fds();
    for (seed, kind) in (0..).zip(kinds) {
        let before = mount.status().number("bodies_resumed");
        assert_content(&mount.path(kind), seed, SIZE);
        let resumed = mount.status().number("bodies_resumed") - before;
        println!("{kind}: {} times, resumed {resumed} times", proxy.did(kind));
        assert!(proxy.did(kind) >= 12, "{kind}: only {} times", proxy.did(kind));
        assert!(resumed >= 12, "{kind}: bodies_resumed went up by {resumed}");
    }
    assert_eq!(mount.status().number("bodies_peak"), 1, "a resume keeps its permit (B1)");
    mount.assert_all_given_back(fds);
}

/// R1: a body that breaks is resumed with the same version or not at all: no byte comes from
/// another version.
#[test]
fn a_broken_body_of_a_replaced_or_deleted_object_gets_estale() {
    for deleted in [false, true] {
        let (bucket, proxy) = faulty();
        proxy.script(|request| match is_body(request) {
            true => Fault::Truncate(8 << 20),
            false => Fault::None,
        });
        let mount = through(&proxy, &bucket).with("--metadata-ttl 0s").start();
        let file = File::open(mount.path("file")).expect("open");
        file.read_exact_at(&mut [0; 4 * KIB], 0).expect("read");
        match deleted {
            true => bucket.delete("file"),
            false => bucket.put("file", object(content(2, SIZE))),
        }
        let (bytes, end) = within(HANGS, "reading on", || read_all(&file));
        assert_same_bytes("before the end", &bytes, &part(1, 0..bytes.len()));
        assert_eq!(errno(end), Some(libc::ESTALE), "after {} bytes", bytes.len());
        assert_eq!(proxy.did("truncate"), 1);
        proxy.behave();
        match deleted {
            true => assert_eq!(errno(File::open(mount.path("file"))), Some(libc::ENOENT)),
            false => assert_content(&mount.path("file"), 2, SIZE),
        }
    }
}

/// R4 and R5: while the store is down, all calls that need it return EIO in time, and never ENOENT.
/// When it is back, open files can be read on.
#[test]
fn a_store_that_is_down_means_eio_until_it_is_back() {
    let (bucket, mut proxy) = faulty();
    let mount = through(&proxy, &bucket).with("--timeout 3s --metadata-ttl 0s").start();
    let file = File::open(mount.path("file")).expect("open");
    file.read_exact_at(&mut [0; 4 * KIB], 0).expect("read");

    proxy.down();
    let mut slice = [0; 4 * KIB];
    let read = within(HANGS, "read", || file.read_at(&mut slice, 20 << 20));
    assert_eq!(errno(read), Some(libc::EIO), "read");
    let stat = within(HANGS, "stat", || fs::metadata(mount.path("small")));
    assert_eq!(errno(stat), Some(libc::EIO), "stat");
    let absent = within(HANGS, "stat of what is not there", || fs::metadata(mount.path("absent")));
    assert_eq!(errno(absent), Some(libc::EIO), "stat of what is not there");
    let open = within(HANGS, "open", || File::open(mount.path("file")));
    assert_eq!(errno(open), Some(libc::EIO), "open");
    let list = within(HANGS, "ls", || {
        fs::read_dir(mount.dir()).and_then(|d| d.collect::<Result<Vec<_>, _>>())
    });
    assert_eq!(errno(list), Some(libc::EIO), "ls");
    eventually(HANGS, || equal("bodies_open", mount.status().number("bodies_open"), 0));

    proxy.up();
    let (bytes, end) = read_all(&file);
    end.expect("the same handle");
    assert_same_bytes("the same handle", &bytes, &content(1, SIZE));
    assert_eq!(fs::read_to_string(mount.path("small")).expect("another file"), "small");
    assert_eq!(errno(fs::metadata(mount.path("absent"))), Some(libc::ENOENT));
}

/// R3 and R4: reads, lookups, listings and opens during a restart of the store wait for it, within
/// `--timeout`, and then succeed.
#[test]
fn calls_during_a_restart_of_the_store_wait_and_succeed() {
    let (bucket, mut proxy) = faulty();
    bucket.put("folder/file", object("x"));
    let mount = through(&proxy, &bucket).with("--metadata-ttl 0s").start();
    let fds = mount.process().fds();
    let file = File::open(mount.path("file")).expect("open");
    file.read_exact_at(&mut [0; 4 * KIB], 0).expect("read");

    proxy.down();
    let lists = || mount.status().number("requests.list");
    let before = lists();
    thread::scope(|scope| {
        let read = scope.spawn(|| read_all(&file));
        let stat = scope.spawn(|| fs::metadata(mount.path("small")));
        let absent = scope.spawn(|| fs::metadata(mount.path("absent")));
        let list = scope.spawn(|| fs::read_dir(mount.dir())?.collect::<io::Result<Vec<_>>>());
        // This many tries of one request take some 8 s.
        eventually(HANGS, || at_most("tries to come", 8, lists() - before));
        let explain =
            within(HANGS / 3, "explain", || mount.control_at("explain", &mount.path("small"), &[]));
        assert!(!explain.status.success(), "the store is down: {explain:?}");
        proxy.up();
        let (bytes, end) = read.join().expect("the reader");
        end.expect("the read under way");
        assert_same_bytes("the read under way", &bytes, &content(1, SIZE));
        assert_eq!(stat.join().expect("stat").expect("stat").len(), 5);
        assert_eq!(errno(absent.join().expect("stat")), Some(libc::ENOENT));
        assert_eq!(list.join().expect("ls").expect("ls").len(), 3);
    });
    drop(file);
    mount.assert_all_given_back(fds);
}

/// The three numbers of a `Content-Range`, changed.
fn range_told(change: impl Fn([u64; 3]) -> [u64; 3] + Send + Sync + 'static) -> Fault {
    Fault::rewrite(move |head: &mut Head| {
        let Some(told) = head.get("content-range") else { return };
        let told = String::from_utf8_lossy(told).into_owned();
        let numbers: Vec<u64> =
            told.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
        let [first, last, size] = change(numbers.try_into().expect("bytes FIRST-LAST/SIZE"));
        head.set("content-range", format!("bytes {first}-{last}/{size}").as_bytes());
    })
}

/// R1: a response that does not match the request is never passed on, whether it is the first one
/// about a file or a later one.
#[test]
fn lies_about_the_range_are_detected() {
    assert_detected([
        ("a range further on", range_told(|[first, last, size]| [first + 1, last + 1, size + 1])),
        ("a range before", range_told(|[first, last, size]| [first.max(1) - 1, last - 1, size])),
        ("a range that ends early", range_told(|[first, _, size]| [first, first + 9, size])),
        ("a range that goes on", range_told(|[first, _, size]| [first, size + 9, size])),
        ("a range that ends where it starts", range_told(|[first, _, size]| [first, 0, size])),
        // The same wrong size in all responses could not be detected.
        ("sizes", range_told(|[first, last, size]| [first, last, size - 1 - first.min(1)])),
        ("a range of lines", Fault::header("content-range", "lines 1-2/3")),
        ("two ranges", Fault::header("content-type", "multipart/byteranges; boundary=x")),
        ("the whole object", Fault::Whole),
    ]);
}

/// The same for a 206 without its range, which is invalid (RFC 9110 §15.3.7.1): its length is not
/// the object's.
#[test]
fn a_206_without_a_range_is_not_taken_for_the_whole_object() {
    assert_detected([("no range", Fault::rewrite(|head| head.remove("content-range")))]);
}

/// The same for the version: ETag and Last-Modified are compared, if they are sent.
#[test]
fn lies_about_the_version_are_detected() {
    assert_detected([
        ("another ETag", Fault::header("etag", "\"00000000000000000000000000000000\"")),
        ("no ETag", Fault::rewrite(|head| head.remove("etag"))),
        ("a later date", Fault::header("last-modified", "Fri, 01 Jan 2100 00:00:00 GMT")),
        ("no date", Fault::rewrite(|head| head.remove("last-modified"))),
    ]);
}

/// The same for the length: it must be that of the range.
#[test]
fn lies_about_the_length_are_detected() {
    assert_detected([
        ("a shorter length", Fault::header("content-length", "1000")),
        ("a longer length", Fault::header("content-length", "99999999")),
        ("no length", Fault::rewrite(|head| head.remove("content-length"))),
    ]);
}

/// Panics if, with any of these lies, a reader gets a wrong byte or an early end of file.
fn assert_detected<const N: usize>(lies: [(&'static str, Fault); N]) {
    let store = Embedded::start();
    let contents = [1, 2].map(|seed| content(seed, 3 * MIB));
    store.put("first", contents[0].clone());
    store.put("later", contents[1].clone());
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET);
    let told = |proxy: &Proxy| proxy.did("rewrite") + proxy.did("whole");
    for (what, lie) in lies {
        // The first bytes come with the lookup, and all the rest in one body; that of `later`
        // breaks, and the store lies about the next one.
        proxy.script(move |request| match request {
            request if !request.is_get() => Fault::None,
            request if request.is_of("first") => lie.clone(),
            Request { from: Some(from), .. } if *from > 1 << 20 => lie.clone(),
            Request { of_version: true, .. } => Fault::Truncate(1 << 20),
            _ => Fault::None,
        });
        let mount = setup.clone().with("--timeout 3s --metadata-ttl 0s").start();
        for (name, want) in ["first", "later"].into_iter().zip(&contents) {
            let before = told(&proxy);
            let outcome = within(HANGS, what, || {
                let file = File::open(mount.path(name))?;
                let (bytes, end) = read_all(&file);
                assert_same_bytes(what, &bytes, &want[..bytes.len()]);
                end.map(|()| assert_eq!(bytes.len(), want.len(), "{what}: the end of the file"))
            });
            let outcome = match errno(outcome) {
                None => "right",
                Some(libc::EIO) => "EIO",
                Some(libc::ESTALE) => "ESTALE",
                Some(other) => panic!("{what}: {}", io::Error::from_raw_os_error(other)),
            };
            println!("{what}, {name}: {outcome}");
            assert!(told(&proxy) > before, "{what}, {name}: no lie was told");
        }
        proxy.behave();
        for (name, want) in ["first", "later"].into_iter().zip(&contents) {
            let bytes = fs::read(mount.path(name)).unwrap_or_else(|e| panic!("{what}: after: {e}"));
            assert_same_bytes(what, &bytes, want);
        }
    }
}

/// R4: whatever part of a response stalls, the waiting call ends with EIO in time, and holds
/// nothing afterwards; when the store answers again, the handle works again.
#[test]
fn a_body_that_stalls_fails_in_time() {
    let (bucket, proxy) = faulty();
    for (what, fault) in [
        ("the headers", (|_| Fault::Delay(Duration::MAX)) as fn(u64) -> Fault),
        ("the first byte", |_| Fault::Stall(0)),
        // At every retry, from any offset.
        ("a later byte", |from| Fault::Stall((3_u64 << 20).saturating_sub(from))),
        ("all but a byte a second", |from| Fault::Dribble((3_u64 << 20).saturating_sub(from))),
    ] {
        proxy.behave();
        let mount = through(&proxy, &bucket).with("--timeout 3s").start();
        let fds = mount.process().fds();
        let kind = fault(0).name();
        let before = proxy.did(kind);
        let opened = File::open(mount.path("small")).expect("open");
        proxy.script(move |request| match is_body(request) {
            true => fault(request.from.unwrap_or(0)),
            false => Fault::None,
        });
        let file = match within(HANGS, what, || File::open(mount.path("file"))) {
            Ok(file) => {
                let (bytes, end) = within(HANGS, what, || read_all(&file));
                assert_same_bytes(what, &bytes, &part(1, 0..bytes.len()));
                assert_eq!(errno(end), Some(libc::EIO), "{what}, after {} bytes", bytes.len());
                Some(file)
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}: {error}");
                None
            }
        };
        assert!(proxy.did(kind) > before, "{what}: nothing stalled");
        drop(opened);
        mount.assert_all_given_back(fds);

        proxy.behave();
        let file = file.unwrap_or_else(|| File::open(mount.path("file")).expect("open again"));
        let (bytes, end) = read_all(&file);
        end.unwrap_or_else(|e| panic!("{what}: once it is back: {e}"));
        assert_same_bytes(what, &bytes, &content(1, SIZE));
    }
}

/// R4 for names: a lookup that hangs ends with EIO, and others work meanwhile; a listing shows the
/// names of objects whose HEAD hangs.
#[test]
fn a_lookup_that_stalls_fails_in_time() {
    let (bucket, proxy) = faulty();
    bucket.put("folder/file", object("x"));
    proxy.script(|request| {
        match request.query.contains("folder") || request.path.ends_with("file") {
            true => Fault::Delay(Duration::MAX),
            false => Fault::None,
        }
    });
    let mount = through(&proxy, &bucket).with("--timeout 3s").start();
    let fds = mount.process().fds();
    thread::scope(|scope| {
        let stat = scope.spawn(|| within(HANGS, "stat", || fs::metadata(mount.path("file"))));
        let below = scope.spawn(|| within(HANGS, "ls", || fs::metadata(mount.path("folder/file"))));
        eventually(HANGS, || at_most("requests to come", 2, proxy.did("delay")));
        assert_eq!(fs::read_to_string(mount.path("small")).expect("another"), "small");
        for (what, stuck) in [("stat", stat), ("a name below", below)] {
            let error = errno(stuck.join().expect("the thread"));
            assert_eq!(error, Some(libc::EIO), "{what}");
        }
    });
    let list = within(HANGS, "ls", || {
        fs::read_dir(mount.dir()).and_then(|d| d.collect::<Result<Vec<_>, _>>())
    });
    let list = list.expect("ls: others than the one that does not answer do");
    assert!(list.iter().any(|entry| entry.file_name() == "file"), "{list:?}");
    mount.assert_all_given_back(fds);
}

/// R4: a process that is killed while its read stalls ends in time, and leaves nothing behind.
#[test]
fn a_reader_killed_while_its_read_stalls_ends() {
    let (bucket, proxy) = faulty();
    let mount = through(&proxy, &bucket).with("--timeout 4s").start();
    let fds = mount.process().fds();
    let mut reader = stuck::reader(&mount, &proxy, "file");
    reader.kill().expect("SIGKILL");
    let status = within(HANGS, "its end", || end_of(&mut reader));
    assert!(!status.success(), "{status}");
    eventually(HANGS, || equal("handles", mount.status().number("handles"), 0));
    mount.assert_all_given_back(fds);
}

/// M3: a mount whose store is dead, and whose reader is stuck in it, can be unmounted.
#[test]
fn a_mount_whose_store_is_dead_is_unmounted() {
    let (bucket, mut proxy) = faulty();
    let mut mount = through(&proxy, &bucket).start();
    let mut reader = stuck::reader(&mount, &proxy, "file");
    let start = Instant::now();
    let output = mount.control("umount", &[]);
    let took = start.elapsed();
    println!("umount: {took:.1?}");
    assert!(output.status.success(), "umount: {output:?}");
    assert!(took < Duration::from_secs(10), "umount took {took:?}");
    assert!(!is_mounted(mount.dir()));
    let status = mount.ended();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!end_of(&mut reader).success(), "it cannot have read it all");
    mount.assert_nothing_left();

    // And one whose store refuses connections, without a reader.
    proxy.behave();
    let mut mount = through(&proxy, &bucket).start();
    assert_eq!(fs::read_to_string(mount.path("small")).expect("read"), "small");
    proxy.down();
    let output = within(HANGS, "umount", || mount.control("umount", &[]));
    assert!(output.status.success(), "umount: {output:?}");
    assert_eq!(mount.ended().code(), Some(0));
}

/// B6: connections that a server half closes after each response, or midway, do not stay in
/// CLOSE_WAIT; and no caller notices that they are closed.
#[test]
fn half_closed_connections_are_closed() {
    const FILES: usize = 40;
    let bucket = seaweedfs().bucket("half-closed");
    bucket.put_all((0..FILES).map(|i| (i.to_string(), object(content(i as u64, MIB)))));
    let proxy = Proxy::start(bucket.endpoint(), |request| match request.number % 4 {
        0 => Fault::HalfClose(100_000),
        _ => Fault::HalfClose(u64::MAX),
    });
    let mount = through(&proxy, &bucket).with("--metadata-ttl 0s").start();
    let fds = mount.process().fds();
    thread::scope(|scope| {
        for i in 0..FILES {
            let path = mount.path(i.to_string());
            scope.spawn(move || assert_content(&path, i as u64, MIB));
        }
    });
    assert_eq!(fs::read_dir(mount.dir()).expect("ls").count(), FILES);
    assert!(proxy.did("half-close") > FILES as u64, "{}", proxy.did("half-close"));
    mount.assert_all_given_back(fds);
}

/// R5: a temporary refusal is retried, and succeeds. A permanent one is EIO: only the store itself
/// can report an absence.
#[test]
fn refusals_are_retried_and_never_mean_absent() {
    const FILES: usize = 8;
    let faults = [
        ("503", Fault::status(503, None)),
        ("503 with Retry-After", Fault::status(503, Some(1))),
        ("500", Fault::status(500, None)),
        ("closed", Fault::Close),
        ("reset", Fault::Reset(0)),
        ("cut short", Fault::Truncate(10)),
    ];
    let store = Embedded::start();
    for (seed, (folder, _)) in (0..).zip(&faults) {
        (0..FILES).for_each(|i| store.put(&format!("{folder}/{i}"), content(seed, 1000)));
    }
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).with("--metadata-ttl 0s");
    let mount = setup.clone().start();
    for (seed, (what, fault)) in (0..).zip(faults.clone()) {
        // The first two tries of each request.
        let seen = Mutex::new(HashMap::<_, u32>::new());
        proxy.script(move |Request { method, path, query, .. }| {
            let mut seen = seen.lock().unwrap();
            let times = seen.entry(format!("{method} {path} {query}")).or_default();
            *times += 1;
            if *times <= 2 { fault.clone() } else { Fault::None }
        });
        let before = proxy.harm();
        let folder = mount.path(what);
        within(HANGS, what, || {
            thread::scope(|scope| {
                for path in (0..FILES).map(|i| folder.join(i.to_string())) {
                    scope.spawn(move || assert_content(&path, seed, 1000));
                }
            });
            let names = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{what}: ls: {e}"));
            assert_eq!(names.flatten().count(), FILES, "{what}: ls");
        });
        let harm = proxy.harm() - before;
        assert!(harm >= 2 * FILES as u64, "{what}: {harm} times");
    }
    assert!(mount.status().number("throttled") >= 4 * FILES as i64);
    drop(mount);

    let mount = setup.with("--timeout 2s").start();
    for (what, fault) in faults {
        proxy.script(move |_| fault.clone());
        for (name, there) in [("500/3", true), ("500", true), ("absent", false)] {
            match within(HANGS, what, || fs::metadata(mount.path(name))) {
                // A lookup needs only headers, which a broken response may still have.
                Ok(_) => assert!(there, "{what}: {name} is not there"),
                Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO), "{what}: {name}: {e}"),
            }
        }
    }
    proxy.behave();
    assert_content(&mount.path("500/3"), 2, 1000);
}
