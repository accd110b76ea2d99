//! The number of requests for reading, as counted by the embedded server.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use expirefs::embedded::Object;

use crate::support::content::{
    KIB, MIB, assert_content, assert_same_bytes, content, part, scattered,
};
use crate::support::embedded::Embedded;
use crate::support::tools::{assert_same_lines, shell};
use crate::support::{FUTURE, PAST};

/// `--metadata-ttl expiry`: a fresh object is cached until it expires, and pages stay in the
/// kernel, so a second read sends no request.
#[test]
fn a_second_read_of_a_fresh_object_sends_no_request() {
    let store = Embedded::start();
    let bytes = content(1, 3 * MIB);
    store.put_expiring("folder/file", bytes.clone(), FUTURE);
    let mount = store.mounting().with("--metadata-ttl expiry").start();
    let path = mount.path("folder/file");
    fs::metadata(mount.path("folder")).expect("the folder");
    let before = store.requests();
    assert_eq!(fs::read(&path).expect("read"), bytes);
    let first = store.requests();
    assert_eq!(first.get - before.get, 2, "GETs: of the lookup, and of the reading");
    assert_eq!(fs::read(&path).expect("read again"), bytes);
    assert_eq!(store.requests(), first, "requests of the second reading");
}

/// A listing has no `Expires`, so it costs a HEAD for each object; the next listing of unchanged
/// objects costs only the LIST.
#[test]
fn a_second_listing_of_unchanged_objects_needs_no_head() {
    let store = Embedded::start();
    (0..200).for_each(|i| store.put(&format!("{i:03}"), "x"));
    let mount = store.mounting().with("--metadata-ttl 0s").start();
    let before = store.requests();
    assert_eq!(shell(mount.dir(), "ls -f | wc -l"), "202\n");
    let first = store.requests();
    assert_eq!(first.head - before.head, 200, "HEADs of the first listing");
    assert_eq!(shell(mount.dir(), "ls -f | wc -l"), "202\n");
    let second = store.requests();
    assert_eq!(second.head, first.head, "HEADs after the second listing");
    assert!(second.list > first.list, "the second listing came from nowhere");
}

/// E4: `--expires-from list`: only the listing decides what is live, whatever the `Expires`, and it
/// costs no HEAD.
#[test]
fn expires_from_list_needs_no_head() {
    let store = Embedded::start();
    let two_hours_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    for i in 0..50 {
        store.put_expiring(&format!("new-{i:02}"), "x", PAST);
        store.put_object(&format!("old-{i:02}"), Object::new("x").last_modified(two_hours_ago));
    }
    let mount = store.mounting().with("--expires-from list --default-ttl 1h").start();
    let before = store.requests();
    let listed = shell(mount.dir(), "stat -c '%n %s' *");
    let want: String = (0..50).map(|i| format!("new-{i:02} 1\n")).collect();
    assert_same_lines("ls", &listed, &want);
    assert_eq!(store.requests().head - before.head, 0, "HEADs");
}

/// Programs that start together look up the same name; the store gets one request.
#[test]
fn equal_lookups_in_flight_share_a_request() {
    let store = Embedded::start();
    store.put("file", "x");
    let mount = store.mounting().with("--metadata-ttl 60s").start();
    let before = store.requests();
    let script = "for i in $(seq 16); do stat -c %s file & done; wait";
    assert_eq!(shell(mount.dir(), script), "1\n".repeat(16));
    let after = store.requests();
    assert_eq!((after.head + after.get) - (before.head + before.get), 1, "HEADs and GETs");
}

/// A small file that is not cached costs one request, without a LIST: the lookup fetches its bytes.
/// A cached one costs none, and all requests reuse existing connections.
#[test]
fn a_small_file_takes_one_request() {
    const FILES: usize = 300;
    let store = Embedded::start();
    let bytes = |i: usize| content(i as u64, 1 + i * 200);
    for i in 0..FILES {
        store.put_expiring(&format!("d/{i}"), bytes(i), FUTURE);
    }
    let mount = store.mounting().with("--metadata-ttl expiry").start();
    fs::metadata(mount.path("d")).expect("the folder");
    let opened_before = mount.status().number("connections_opened");
    let before = store.requests();
    let read_all = || {
        for i in 0..FILES {
            let got = fs::read(mount.path(format!("d/{i}"))).expect("read");
            assert_same_bytes(&i.to_string(), &got, &bytes(i));
        }
    };
    read_all();
    let cold = store.requests();
    assert_eq!(cold.get - before.get, FILES as u64, "GETs");
    assert_eq!((cold.head, cold.list), (before.head, before.list), "HEADs and LISTs");
    read_all();
    assert_eq!(store.requests(), cold, "requests of the second reading");
    let status = mount.status();
    assert_eq!(status.number("bodies_peak"), 0, "nothing stays open for an open to come");
    assert_eq!(status.number("probe_bytes"), 0, "the kernel has them all");
    assert!(status.number("connections_reused") >= FILES as i64 - 1);
    assert!(status.number("connections_opened") - opened_before <= 1);
}

/// The first two absent names of a directory take two requests each; after that each one takes one,
/// or none while a cached listing covers it. As when Python searches for a module.
#[test]
fn absent_names_take_one_request_or_none() {
    const NAMES: usize = 300;
    let store = Embedded::start();
    (0..100).for_each(|i| store.put(&format!("d/present-{i:02}"), "x"));
    for (ttl, most) in [("0s", NAMES + 2), ("60s", 8)] {
        let options = format!("--metadata-ttl 60s --negative-ttl {ttl}");
        let mount = store.mounting().with(&options).start();
        fs::metadata(mount.path("d")).expect("the folder");
        let before = store.requests();
        for i in 0..NAMES {
            let found = fs::metadata(mount.path(format!("d/module-{i}.py")));
            assert_eq!(found.expect_err("absent").raw_os_error(), Some(libc::ENOENT));
        }
        let after = store.requests();
        let [gets, heads, lists] =
            [after.get - before.get, after.head - before.head, after.list - before.list];
        let sum = gets + heads + lists;
        assert!(sum <= most as u64, "{ttl}: {gets} GETs, {heads} HEADs, {lists} LISTs");
        for i in 0..100 {
            fs::metadata(mount.path(format!("d/present-{i:02}"))).expect("present");
        }
    }
}

/// A new small file is its lookup and one PUT.
#[test]
fn a_new_file_takes_two_requests_or_one() {
    const FILES: u64 = 200;
    let store = Embedded::start();
    for (ttl, most) in [("0s", 2 * FILES + 2), ("60s", FILES + 10)] {
        store.put(&format!("d{ttl}/old"), "x");
        let options = format!("--writable --ttl 1h --metadata-ttl 60s --negative-ttl {ttl}");
        let mount = store.mounting().with(&options).start();
        let directory = mount.path(format!("d{ttl}"));
        fs::metadata(&directory).expect("the folder");
        let before = store.requests();
        for i in 0..FILES {
            fs::write(directory.join(format!("{i:03}")), "x").expect("a new file");
        }
        let after = store.requests();
        assert_eq!(after.put - before.put, FILES, "PUTs");
        let [gets, heads, lists] =
            [after.get - before.get, after.head - before.head, after.list - before.list];
        let sum = FILES + gets + heads + lists;
        assert!(sum <= most, "{ttl}: {gets} GETs, {heads} HEADs, {lists} LISTs");
        for i in 0..FILES {
            assert_eq!(fs::read(directory.join(format!("{i:03}"))).expect("read"), b"x");
        }
    }
}

/// An empty file has no first byte to fetch: its attributes come with a HEAD.
#[test]
fn an_empty_file_is_visible() {
    let store = Embedded::start();
    store.put("empty", "");
    let mount = store.mounting().start();
    assert_eq!(
        shell(mount.dir(), "stat -c '%n %s' empty; cat empty; wc -c < empty"),
        "empty 0\n0\n"
    );
}

/// A program that only stats files fetches no content, except a little at first; with opens, one
/// request per file is enough again.
#[test]
fn a_walk_without_opens_fetches_no_content() {
    const FILES: u64 = 5000;
    const SIZE: usize = 32 * KIB;
    let store = Embedded::start();
    let bytes = content(1, SIZE);
    (0..FILES).for_each(|i| store.put(&format!("{i:04}"), bytes.clone()));
    let mount = store.mounting().start();
    let before = store.requests();
    for i in 0..FILES {
        let meta = fs::metadata(mount.path(format!("{i:04}"))).expect("stat");
        assert_eq!(meta.len(), SIZE as u64);
    }
    let looked = store.requests();
    let [gets, heads] = [looked.get - before.get, looked.head - before.head];
    assert_eq!(gets + heads, FILES, "requests of the walk");
    assert!(gets <= 50, "{gets} GETs");
    let received = mount.status().number("bytes_received");
    assert!(received <= 50 * SIZE as i64, "{received} bytes received");
    // `find` reads the directory; its HEADs fetch no content, either.
    let found = shell(mount.dir(), "find . -type f -size 32k | wc -l");
    assert_eq!(found, format!("{FILES}\n"));
    assert_eq!(store.requests().get, looked.get, "GETs of find");
}

/// One GET reads it from its first byte to its last, however large, and every byte is received
/// once.
#[test]
fn a_gibibyte_read_in_order_is_one_get() {
    const SIZE: usize = 1 << 30;
    let store = Embedded::start();
    store.put("big", content(1, SIZE));
    for (probe, gets) in [("64KiB", 2), ("0", 1)] {
        // With a probe, its first bytes were fetched by the lookup.
        let mount = store.mounting().with(&format!("--probe-size {probe}")).start();
        let before = store.requests();
        assert_content(&mount.path("big"), 1, SIZE);
        let cold = store.requests();
        assert_eq!(cold.get - before.get, gets, "GETs, --probe-size {probe}");
        assert_eq!(mount.status().number("bytes_received"), SIZE as i64);
    }
}

/// Random reads fetch little more than they request, over one connection.
#[test]
fn random_reads_fetch_little_more_than_they_request() {
    const SIZE: usize = 256 * MIB;
    const READS: usize = 400;
    let store = Embedded::start();
    store.put("big", content(1, SIZE));
    let mount = store.mounting().start();
    let file = File::open(mount.path("big")).expect("open");
    let before = store.requests();
    let mut page = [0; 4 * KIB];
    for offset in scattered(READS, SIZE / page.len()).map(|page| page * 4 * KIB) {
        file.read_exact_at(&mut page, offset as u64).expect("read");
        assert_same_bytes("big", &page, &part(1, offset..offset + page.len()));
    }
    let status = mount.status();
    let per_byte = status.number("bytes_received") as f64 / (READS * page.len()) as f64;
    assert!(per_byte <= 40.0, "{per_byte} bytes received per byte read");
    assert!(store.requests().get - before.get <= READS as u64 + 2, "GETs");
    let opened = status.number("connections_opened");
    assert!(opened <= 5, "{opened} connections");
}
