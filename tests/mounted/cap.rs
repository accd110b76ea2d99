//! Many handles and few bodies: B1, B3, B4, B5 and B6.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::content::{KIB, MIB, assert_same_bytes, content, part};
use crate::support::embedded::Embedded;
use crate::support::mount::Mount;
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::wait::{at_most, equal, eventually, within};

/// As many files as handles: a second handle on a file would be served from the page cache.
const FILES: usize = 100;
const SIZE: usize = 8 * MIB;
const SLICE: usize = 2 * MIB;

/// `00` to `99`, and in `folder/` some small ones.
static BUCKET: LazyLock<Bucket> = LazyLock::new(|| {
    let bucket = seaweedfs().bucket("cap");
    bucket.put_all((0..FILES).map(|i| (name(i), object(content(i as u64, SIZE)))));
    bucket.put_all((0..20).map(|i| (format!("folder/{i}"), object("small"))));
    bucket
});

fn name(i: usize) -> String {
    format!("{i:02}")
}

/// Opens the first `count` files, and reads each before the next is opened, so that each has had a
/// body.
fn open_and_read_a_little(mount: &Mount, count: usize) -> Vec<File> {
    let open = |i| {
        let file = File::open(mount.path(name(i))).unwrap_or_else(|e| panic!("open {i}: {e}"));
        let mut start = vec![0; 4 * KIB];
        file.read_exact_at(&mut start, 0).unwrap_or_else(|e| panic!("read {i}: {e}"));
        assert_same_bytes(&name(i), &start, &part(i as u64, 0..start.len()));
        file
    };
    (0..count).map(open).collect()
}

/// Reads all of them in turn, one slice of each and then the next slice of each, up to `end`.
fn read_in_turn(files: &[File], end: usize) {
    let mut slice = vec![0; SLICE];
    for offset in (0..end).step_by(SLICE) {
        for (i, file) in files.iter().enumerate() {
            let read = file.read_exact_at(&mut slice, offset as u64);
            read.unwrap_or_else(|e| panic!("read {i} at {offset}: {e}"));
            let want = part(i as u64, offset..offset + SLICE);
            assert_same_bytes(&format!("{i} from {offset} on"), &slice, &want);
        }
    }
}

/// B4: bodies never exceed the cap, and no reader notices. B5: a body that was read to its end is
/// closed, while its handle stays open.
#[test]
fn a_hundred_handles_share_eight_bodies() {
    let mount = BUCKET.mounting().with("--max-open-bodies 8").start();
    let files = open_and_read_a_little(&mount, FILES);
    let status = mount.status();
    assert_eq!(status.number("cap"), 8);
    assert_eq!(status.number("handles"), FILES as i64);
    let details = status.0["handles_detail"].as_array().map(Vec::len);
    assert_eq!(details, Some(FILES), "handles_detail: {:#}", status.0);

    read_in_turn(&files, SIZE);
    let status = mount.status();
    assert_eq!(status.number("handles"), FILES as i64);
    assert_eq!(status.number("bodies_open"), 0, "all have been read to their ends");
    let peak = status.number("bodies_peak");
    assert!((1..=8).contains(&peak), "bodies_peak is {peak}");
}

/// B3: the default cap is below the descriptor limit, so nothing ever runs out of descriptors; and
/// `stat` and `ls` work while all bodies are in use.
#[test]
fn the_default_cap_lies_below_the_descriptor_limit() {
    let mount = BUCKET.mounting().nofile(64).start();
    let files = open_and_read_a_little(&mount, FILES);
    let entries = fs::read_dir(mount.path("folder")).expect("ls");
    let sizes = entries.map(|e| fs::metadata(e.expect("an entry").path()).expect("stat").size());
    assert_eq!(sizes.sum::<u64>(), 20 * "small".len() as u64);
    read_in_turn(&files, SLICE);

    let status = mount.status();
    let [cap, peak] = ["cap", "bodies_peak"].map(|name| status.number(name));
    assert_eq!(status.number("fd_limit"), 64);
    assert!(0 < peak && peak <= cap && cap < 64, "cap {cap}, bodies_peak {peak}");
}

/// B3: the soft limit is raised to the hard one, unless `--keep-fd-limit`.
#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let limit = |args| BUCKET.mounting().with(args).nofile("128:512").start().status();
    let [raised, kept] = ["", "--keep-fd-limit"].map(limit);
    assert_eq!(raised.number("fd_limit"), 512);
    assert_eq!(kept.number("fd_limit"), 128);
    let [raised, kept] = [raised, kept].map(|status| status.number("cap"));
    assert!(kept < raised, "cap {kept} of 128, {raised} of 512");
}

/// B4 with `--no-parking`: the ninth open waits for `--open-wait` and fails; metadata requests do
/// not wait; and after a close the next open succeeds.
#[test]
fn without_parking_the_ninth_open_fails_and_metadata_requests_succeed() {
    // The exact limit is tested with a manual clock. Here it leaves time for other requests, even
    // on a busy machine.
    let args = "--max-open-bodies 8 --no-parking --open-wait 3s";
    let mount = BUCKET.mounting().with(args).start();
    let mut files = open_and_read_a_little(&mount, 8);
    assert_eq!(mount.status().number("bodies_open"), 8);

    let ninth = mount.path(name(8));
    thread::scope(|scope| {
        let opening = scope.spawn(|| timed(|| File::open(&ninth)));
        eventually(Duration::from_secs(2), || {
            equal("opens_waiting", mount.status().number("opens_waiting"), 1)
        });
        for path in [mount.path("folder"), mount.path("folder/3"), mount.path(name(50))] {
            fs::metadata(&path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
        }
        assert_eq!(fs::read_dir(mount.path("folder")).expect("ls").count(), 20);
        assert!(!opening.is_finished(), "names were answered only after the open");

        let (opened, took) = opening.join().expect("the opener");
        let error = opened.expect_err("all bodies are taken");
        assert_eq!(error.raw_os_error(), Some(libc::ENFILE), "{error}");
        assert!((2.9..15.0).contains(&took.as_secs_f64()), "it failed after {took:?}");
    });

    files.pop();
    let file = File::open(&ninth).expect("open after a close");
    let mut start = vec![0; 4 * KIB];
    file.read_exact_at(&mut start, 0).expect("read after a close");
    assert_same_bytes("the ninth", &start, &part(8, 0..start.len()));
}

/// B4: a waiting open succeeds at a close, before its wait ends.
#[test]
fn a_waiting_open_succeeds_after_a_close() {
    let args = "--max-open-bodies 2 --no-parking --open-wait 20s";
    let mount = BUCKET.mounting().with(args).start();
    let mut files = open_and_read_a_little(&mount, 2);
    let third: PathBuf = mount.path(name(2));
    thread::scope(|scope| {
        let opening = scope.spawn(|| File::open(&third));
        eventually(Duration::from_secs(5), || {
            equal("opens_waiting", mount.status().number("opens_waiting"), 1)
        });
        let closed = Instant::now();
        files.pop();
        opening.join().expect("the opener").expect("open after a close");
        at_most("seconds to get in", closed.elapsed().as_secs_f64(), 5.0).unwrap();
    });
}

/// B6: bodies that are closed halfway or at the end leave no descriptor behind.
#[test]
fn descriptors_are_freed_when_handles_are_closed() {
    let mount = BUCKET.mounting().with("--pool-idle 1s").start();
    let daemon = mount.process();
    let before = daemon.fds();
    let files = open_and_read_a_little(&mount, 40);
    let held = daemon.tcp_sockets();
    assert!(held >= 40, "40 bodies are open over {held} sockets");
    read_in_turn(&files[..5], SIZE);
    drop(files);
    mount.assert_all_given_back(before);
}

fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (action(), start.elapsed())
}

/// B4: handles that were opened and not read release their bodies, and later reads are correct.
#[test]
fn five_hundred_opens_without_a_read_share_eight_bodies() {
    const OPENS: usize = 500;
    let store = Embedded::start();
    (0..OPENS).for_each(|i| store.put(&format!("f{i}"), content(i as u64, 300 * KIB)));
    let mount = store.mounting().with("--max-open-bodies 8 --open-wait 60s").start();
    let files: Vec<File> = within(Duration::from_secs(60), "opens", || {
        let open = |i| File::open(mount.path(format!("f{i}"))).expect("open");
        (0..OPENS).map(open).collect()
    });
    let status = mount.status();
    assert!(status.number("bodies_peak") <= 8, "{status:?}");
    for (i, mut file) in files.into_iter().enumerate() {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("read");
        assert_same_bytes(&format!("f{i}"), &bytes, &content(i as u64, 300 * KIB));
    }
}

/// B4: a program that opens and reads at once keeps its body, however many others wait.
#[test]
fn many_threads_that_open_and_read_send_one_request_per_file() {
    const THREADS: usize = 32;
    const EACH: usize = 12;
    let store = Embedded::start();
    let key = |thread: usize, i: usize| format!("f{thread}-{i}");
    for thread in 0..THREADS {
        (0..EACH).for_each(|i| store.put(&key(thread, i), content(thread as u64, MIB)));
    }
    let args = "--max-open-bodies 8 --open-wait 60s --probe-size 0";
    let mount = store.mounting().with(args).start();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (mount, key) = (&mount, &key);
            scope.spawn(move || {
                let want = content(thread as u64, MIB);
                for i in 0..EACH {
                    let bytes = fs::read(mount.path(key(thread, i))).expect("read");
                    assert_same_bytes(&key(thread, i), &bytes, &want);
                }
            });
        }
    });
    let (opens, gets) = (THREADS * EACH, store.requests().get as usize);
    assert!(gets * 10 <= opens * 11, "{gets} GETs for {opens} opens");
}
