//! Large and changing directories: E1, E7 and N4 for thousands of names, several readers and a
//! store that changes; and the options of listings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::expiry::{soon, watch};
use crate::support::dir_stream::{DirStream, Position};
use crate::support::embedded::Embedded;
use crate::support::mount::Mount;
use crate::support::s3_server::{http_date, object, seaweedfs};
use crate::support::tools::{assert_same_lines, attempt, shell};
use crate::support::wait::{equal, eventually};
use crate::support::{FUTURE, PAST};

/// Keys in one LIST response of S3.
const PAGE: usize = 1000;

/// Three and a half pages.
const KEYS: usize = 3_500;

/// E1 for 20,000 names, every second one of an expired object: every tool sees exactly the live
/// ones. The headers of each object are requested once, whatever the metadata TTL.
#[test]
fn twenty_thousand_names_are_listed_exactly() {
    const KEYS: usize = 20_000;
    let bucket = seaweedfs().bucket("scale");
    let expires = |i: usize| if i.is_multiple_of(2) { PAST } else { FUTURE };
    let upload = |i| (format!("big/{i:05}"), object("12345").expires(expires(i)));
    bucket.put_all((0..KEYS).map(upload));
    let live = |form: fn(usize) -> String| (1..KEYS).step_by(2).map(form).collect::<String>();
    let folder = tempfile::tempdir().expect("a folder");
    let index = format!("--index {}/index", folder.path().display());

    let mount = bucket.mounting().with(&index).start();
    let big = mount.path("big");
    let before = heads(&mount);
    assert_eq!(shell(&big, "ls -f | wc -l"), format!("{}\n", KEYS / 2 + 2));
    assert_eq!(heads(&mount) - before, KEYS as i64, "HEADs of the first listing");
    let names = shell(&big, "ls -f | grep -v '^\\.'");
    assert_same_lines("ls -f", &names, &live(|i| format!("{i:05}\n")));
    // The directory's own name may have been requested again.
    let second = heads(&mount) - before - KEYS as i64;
    assert!(second <= 1, "{second} HEADs of the second listing");
    drop(mount);

    // These tools stat each name once more, some seconds after it was listed.
    let mount = bucket.mounting().with(&index).with("--metadata-ttl 5m").start();
    let big = mount.path("big");
    let long = shell(&big, "ls -l | awk 'NR > 1 { print $1, $5, $9 }'");
    assert_same_lines("ls -l", &long, &live(|i| format!("-r--r--r-- 5 {i:05}\n")));
    let found = shell(&big, "find . -type f -size -6c");
    assert_same_lines("find", &found, &live(|i| format!("./{i:05}\n")));
    let total = shell(&big, "du --apparent-size --block-size=1 --summarize .");
    assert_eq!(total, format!("{}\t.\n", 5 * KEYS / 2), "du");
    assert!(heads(&mount) <= 1, "HEADs of them all: {}", heads(&mount)); // the folder's
}

fn heads(mount: &Mount) -> i64 {
    mount.status().number("requests.head")
}

/// A folder `d` of 3,500 keys, every seventh of which has expired.
fn folder() -> Embedded {
    let store = Embedded::start();
    for i in 0..KEYS {
        let expires = if i.is_multiple_of(7) { PAST } else { FUTURE };
        store.put_expiring(&format!("d/{}", name(i)), "x", expires);
    }
    store
}

fn name(i: usize) -> String {
    format!("{i:05}")
}

/// Its live names, in byte order.
fn live() -> Vec<String> {
    (0..KEYS).filter(|i| !i.is_multiple_of(7)).map(name).collect()
}

/// The next `most` names of a stream, without `.` and `..`.
fn take(stream: &mut DirStream, most: usize) -> Vec<String> {
    let next = || stream.next().expect("readdir");
    let names = iter::from_fn(next).map(|name| name.into_string().expect("UTF-8"));
    names.filter(|name| name != "." && name != "..").take(most).collect()
}

/// All remaining names.
fn rest(stream: &mut DirStream) -> Vec<String> {
    take(stream, usize::MAX)
}

fn open(folder: &Path) -> DirStream {
    DirStream::open(folder).expect("opendir")
}

/// N4: two readers read a cold folder completely while a third one stops midway: each has its own
/// position, and the fetches of the third are dropped.
#[test]
fn readers_of_one_folder_do_not_disturb_each_other() {
    let store = folder();
    let mount = store.mounting().start();
    let (d, all, start) = (mount.path("d"), live(), Barrier::new(3));
    thread::scope(|scope| {
        let read = |most: usize| {
            let (d, all, start) = (&d, &all, &start);
            scope.spawn(move || {
                let mut stream = open(d);
                start.wait();
                let names = take(&mut stream, most);
                assert!(names == all[..most.min(all.len())], "{most}: {} names", names.len());
            })
        };
        let _ = [usize::MAX, PAGE + PAGE / 2, usize::MAX].map(read);
    });
    assert!(rest(&mut open(&d)) == all, "a later reader");
}

/// N4: a position stays valid for the life of the handle, whatever was read meanwhile.
#[test]
fn a_reader_can_seek_to_every_earlier_position() {
    let store = folder();
    let mount = store.mounting().start();
    let all = live();
    let mut stream = open(&mount.path("d"));
    let begin = stream.tell();
    while stream.next().expect("readdir").is_some_and(|name| name != "..") {}
    let positions: Vec<Position> = (0..=all.len())
        .map(|i| {
            let position = stream.tell();
            assert_eq!(take(&mut stream, 1), all[i..(i + 1).min(all.len())], "name {i}");
            position
        })
        .collect();
    for i in [all.len(), 10, 2_999, 0, 856, 857, 858, 1_714, all.len() - 1, 1] {
        stream.seek(positions[i]);
        assert_eq!(take(&mut stream, 3), all[i..(i + 3).min(all.len())], "from name {i} on");
    }
    for i in [700, 2_500, 0] {
        stream.seek(positions[i]);
        assert!(rest(&mut stream) == all[i..], "the rest from name {i} on");
    }
    stream.seek(begin);
    assert!(rest(&mut stream) == all, "from the first position");
    take(&mut stream, 1);
    stream.rewind();
    assert!(rest(&mut stream) == all, "after rewinddir");
    stream.rewind();
    take(&mut stream, 1_200);
    stream.rewind();
    assert!(rest(&mut stream) == all, "after rewinddir amidst it");
}

/// Twelve pages are more than are cached. For a slow reader that seeks back, each page is fetched
/// once more, and not more often.
#[test]
fn going_back_fetches_each_page_once() {
    const PAGES: usize = 12;
    let store = Embedded::start();
    (0..PAGES * PAGE).for_each(|i| store.put(&name(i), "x"));
    let mount = store.mounting().with("--expires-from list --default-ttl 10h").start();
    let mut stream = open(mount.dir());
    take(&mut stream, 1);
    let second = stream.tell();
    let others = rest(&mut stream);
    assert_eq!(others.len(), PAGES * PAGE - 1);
    let before = store.requests().list;
    stream.seek(second);
    for page in others.chunks(PAGE) {
        assert!(take(&mut stream, PAGE) == page, "the second time");
        thread::sleep(Duration::from_millis(100)); // in which more might be fetched
    }
    let back = store.requests().list - before;
    assert!(back <= PAGES as u64, "{back} LISTs for {PAGES} pages");
}

/// The store changes during a walk. Objects that stay are seen once; those added, deleted or
/// replaced at most once; those deleted before never; and objects that expire are not listed
/// afterwards.
#[test]
fn a_walk_sees_each_name_once_despite_changes() {
    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Stays,
        Replaced,
        Deleted,
        Expires,
        Expired,
    }
    use Fate::*;
    let fate = |i: usize| [Stays, Replaced, Deleted, Expires, Expired, Stays, Stays][i % 7];
    let store = Embedded::start();
    let instant = soon() + Duration::from_secs(2);
    let ends = http_date(instant);
    for i in 0..KEYS {
        let expires = match fate(i) {
            Expired => PAST,
            Expires => &ends,
            Stays | Replaced | Deleted => FUTURE,
        };
        store.put_expiring(&format!("d/{}", name(i)), "old", expires);
    }
    let mount = store.mounting().with("--metadata-ttl 60s").start();
    let mut stream = open(&mount.path("d"));
    let mut names = take(&mut stream, 10);
    let position = stream.tell();
    assert!(SystemTime::now() < instant, "too slow a machine: this proves nothing");

    for i in 0..KEYS {
        let key = format!("d/{}", name(i));
        match fate(i) {
            Replaced => store.put_expiring(&key, "new", FUTURE),
            Deleted => store.delete(&key),
            // Another one is added next to it.
            Stays => store.put(&format!("{key}-come"), "x"),
            Expires | Expired => {}
        }
    }
    eventually(Duration::from_secs(20), || match fs::metadata(mount.path("d/00003")) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => Err(format!("an object that expires: {other:?}")),
    });
    // The C library has read ahead, but not more than a page.
    let later = |names: &[String]| names.iter().skip(PAGE).cloned().collect::<Vec<_>>();
    let check = |what: &str, names: &[String], from: usize| {
        let mut times = BTreeMap::new();
        names.iter().for_each(|name| *times.entry(name.as_str()).or_insert(0) += 1);
        for i in 0..KEYS {
            let (name, times) = (name(i), times.get(name(i).as_str()).copied().unwrap_or(0));
            let right = match fate(i) {
                Stays | Replaced if i >= from => times == 1,
                Stays | Replaced | Deleted | Expires => times <= 1,
                Expired => times == 0,
            };
            assert!(right, "{what}: {name} {times} times");
        }
        let come = times.iter().filter(|(name, _)| name.ends_with("-come"));
        assert!(come.clone().all(|(_, times)| *times == 1), "{what}: {come:?}");
        let late = later(names);
        let late = late.iter().filter_map(|name| name.parse::<usize>().ok());
        let late: Vec<usize> = late.filter(|i| fate(*i) == Expires).collect();
        assert!(late.is_empty(), "{what}: long after its end: {late:?}");
    };
    names.extend(rest(&mut stream));
    check("the walk", &names, 0);
    stream.seek(position);
    let from = names[10].parse().expect("a number");
    check("from a position on", &rest(&mut stream), from);

    let now: Vec<String> = (0..KEYS)
        .flat_map(|i| match fate(i) {
            Stays => vec![name(i), format!("{}-come", name(i))],
            Replaced => vec![name(i)],
            Deleted | Expires | Expired => vec![],
        })
        .collect();
    stream.rewind();
    assert!(rest(&mut stream) == now, "after rewinddir it is as it is now");
}

/// New keys in pages fetched ahead move others to a later page: a reader that first goes back, and
/// so fetches those pages again, misses no name.
#[test]
fn going_back_loses_no_name_after_keys_were_added() {
    const PAGES: usize = 7;
    let store = Embedded::start();
    let all: Vec<String> = (0..PAGES * PAGE).map(name).collect();
    all.iter().for_each(|name| store.put(name, "x"));
    let mount = store.mounting().with("--expires-from list --default-ttl 10h").start();
    let before = store.requests().list;
    let mut stream = open(mount.dir());
    take(&mut stream, 1);
    let second = stream.tell();
    // Into the third page: the fourth and fifth are fetched ahead.
    take(&mut stream, 2 * PAGE);
    eventually(Duration::from_secs(10), || equal("LISTs", store.requests().list - before, 5));
    for page in 3..5 {
        (0..300).for_each(|i| store.put(&format!("{}-{i:03}", name(page * PAGE)), "x"));
    }
    stream.seek(second);
    let seen: Vec<String> = rest(&mut stream).into_iter().filter(|n| n.len() == 5).collect();
    let missing: BTreeSet<_> = all[1..].iter().collect::<BTreeSet<_>>();
    let missing: Vec<_> = missing.difference(&seen.iter().collect()).copied().collect();
    assert!(missing.is_empty(), "{} are missing: {:?}…", missing.len(), missing.first());
    assert_eq!(seen.len(), all.len() - 1, "names twice");
}

/// The names in the mount as `ls -f` has them, in order.
fn ls(mount: &Mount) -> Vec<String> {
    let names = shell(mount.dir(), "ls -f | grep -v '^\\.' | sort");
    names.lines().map(str::to_owned).collect()
}

fn stat_is_refused(mount: &Mount, name: &str) {
    let error = fs::metadata(mount.path(name)).expect_err(name);
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{name}: {error}");
}

/// `--ls lazy`: a listing requests no headers, so it shows expired names until they are known to
/// have expired: E1 holds for lookups.
#[test]
fn lazy_listings_send_no_head_and_hide_known_expired_names() {
    let store = Embedded::start();
    for name in ["expired-a", "expired-b"] {
        store.put_expiring(name, "x", PAST);
    }
    store.put_expiring("live-a", "x", FUTURE);
    store.put("live-b", "x");
    let all = ["expired-a", "expired-b", "live-a", "live-b"];

    let lazy = store.mounting().with("--ls lazy").start();
    let before = store.requests();
    assert_eq!(ls(&lazy), all);
    let after = store.requests();
    assert_eq!((after.head, after.get), (before.head, before.get), "HEADs and GETs of ls -f");
    stat_is_refused(&lazy, "expired-a");
    assert_eq!(ls(&lazy), all[1..], "one is known to have expired");
    assert_eq!(shell(lazy.dir(), "cat live-a live-b"), "xx");
    stat_is_refused(&lazy, "expired-b");
    assert_eq!(ls(&lazy), all[2..], "both are");
    assert_eq!(shell(lazy.dir(), "stat -c '%n %s' *"), "live-a 1\nlive-b 1\n");

    let exact = store.mounting().with("--ls exact").start();
    assert_eq!(ls(&exact), all[2..]);
}

/// E7 in listings: with warm caches, the name vanishes at its expiry and does not reappear. The
/// kernel reads names with attributes (readdirplus), or names only if listings are lazy.
fn vanishes_from_listings(option: &str) {
    let store = Embedded::start();
    store.put_expiring("d/long", "x", FUTURE);
    let mount = store.mounting().with(option).start();
    let d = mount.path("d");
    let instant = soon();
    store.put_expiring("d/short", "x", http_date(instant));
    shell(&d, "stat short long; ls -l; find . -type f; ls -f");
    let lists = |script: &str| {
        let output = attempt(&d, script); // it may fail, where the name goes amidst it
        let lines = String::from_utf8(output.stdout).expect("text");
        assert!(lines.contains("long"), "{script}: {lines}");
        lines.contains("short")
    };
    thread::scope(|scope| {
        for script in ["ls -f", "ls -l", "find . -type f", "find . -size -9 -name '*o*'"] {
            scope.spawn(move || watch(script, instant, || lists(script)));
        }
    });
    assert_eq!(shell(&d, "ls -A; ls -l | wc -l; find . -type f"), "long\n2\n./long\n");
}

#[test]
fn a_name_vanishes_from_warm_listings_at_its_expiry() {
    vanishes_from_listings("--metadata-ttl expiry");
}

#[test]
fn a_name_vanishes_from_warm_lazy_listings_at_its_expiry() {
    vanishes_from_listings("--metadata-ttl 60s --ls lazy");
}

/// `--metadata-concurrency` limits the requests in flight, and so the connections.
#[test]
fn few_connections_list_many_names() {
    const KEYS: usize = 300;
    let store = Embedded::start();
    (0..KEYS).for_each(|i| store.put_expiring(&name(i), "x", FUTURE));
    let mount = store.mounting().with("--metadata-concurrency 2").start();
    assert_eq!(ls(&mount), (0..KEYS).map(name).collect::<Vec<_>>());
    let status = mount.status();
    assert!(status.number("requests.head") >= KEYS as i64);
    let opened = status.number("connections_opened");
    assert!(opened <= 3, "{opened} connections");
    let sockets = mount.process().tcp_sockets();
    assert!(sockets <= 3, "{sockets} TCP sockets");
}
