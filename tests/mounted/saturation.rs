//! Far more handles than bodies, at the limits: B3, B4 and B6 under load and under faults.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::content::{KIB, MIB, assert_same_bytes, content, part, scattered};
use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{self, Fault, Proxy};
use crate::support::wait::{at_most, equal, eventually, within};

const FILES: usize = 500;
/// Far more than is sent in advance, so that a body stays open.
const SIZE: usize = 2 * MIB;
/// Different contents; file `i` has the content `i % CONTENTS`, so that all fit into memory.
const CONTENTS: usize = 16;
const START: usize = 4 * KIB;

/// The longest time of an open: `--open-wait` and `--timeout`, both at their defaults.
const OPEN_BOUND: Duration = Duration::from_secs(5 + 30);

/// `0` to `499`, and in `folder/` some small ones.
static STORE: LazyLock<Embedded> = LazyLock::new(|| {
    let store = Embedded::start();
    let contents: Vec<_> = (0..CONTENTS).map(|seed| content(seed as u64, SIZE)).collect();
    (0..FILES).for_each(|i| store.put(&i.to_string(), contents[i % CONTENTS].clone()));
    (0..20).for_each(|i| store.put(&format!("folder/{i}"), "small"));
    store
});

/// Reads `len` bytes of file `i`, and panics unless they are right.
#[track_caller]
fn read_right(file: &File, i: usize, offset: usize, len: usize) {
    let mut bytes = vec![0; len];
    let read = file.read_exact_at(&mut bytes, offset as u64);
    read.unwrap_or_else(|e| panic!("read {i} at {offset}: {e}"));
    let want = part((i % CONTENTS) as u64, offset..offset + len);
    assert_same_bytes(&format!("{i} at {offset}"), &bytes, &want);
}

fn open_and_read(mount: &Mount, i: usize) -> File {
    let file = File::open(mount.path(i.to_string())).unwrap_or_else(|e| panic!("open {i}: {e}"));
    read_right(&file, i, 0, START);
    file
}

/// Opens all files, some at a time, and reads the start of each. Also returns the time of the
/// slowest open.
fn open_all(mount: &Mount, threads: usize) -> (Vec<File>, Duration) {
    let (next, opened) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let i @ 0..FILES = next.fetch_add(1, Ordering::Relaxed) {
                    let start = Instant::now();
                    let file = File::open(mount.path(i.to_string()));
                    let file = file.unwrap_or_else(|e| panic!("open {i}: {e}"));
                    let took = start.elapsed();
                    read_right(&file, i, 0, START);
                    opened.lock().unwrap().push((i, file, took));
                }
            });
        }
    });
    let mut opened = opened.into_inner().unwrap();
    opened.sort_by_key(|(i, ..)| *i);
    let slowest = opened.iter().map(|(.., took)| *took).max().expect("some");
    (opened.into_iter().map(|(_, file, _)| file).collect(), slowest)
}

/// B3 and B4: a daemon with 128 descriptors serves 500 open files, and no read waits long or fails.
/// B6: afterwards all descriptors are closed.
#[test]
fn five_hundred_open_files_fit_into_128_descriptors() {
    let mount = STORE.mounting().with("--pool-idle 1s").nofile(128).start();
    let fds = mount.process().fds();
    let (files, slowest) = open_all(&mount, 16);
    println!("slowest open: {slowest:.1?}");
    assert!(slowest < OPEN_BOUND, "the slowest open took {slowest:?}");
    let status = mount.status();
    let [cap, peak] = ["cap", "bodies_peak"].map(|name| status.number(name));
    assert_eq!(status.number("handles"), FILES as i64);
    assert!(0 < peak && peak <= cap && cap < 128, "cap {cap}, bodies_peak {peak}");
    at_most("descriptors", status.number("fds_peak"), 128).unwrap();

    // Reads each again, beyond the read-ahead: most are parked now.
    for (i, file) in files.iter().enumerate() {
        read_right(file, i, SIZE - START, START);
    }
    let status = mount.status();
    at_most("bodies_peak", status.number("bodies_peak"), cap).unwrap();
    at_most("descriptors", status.number("fds_peak"), 128).unwrap();
    drop(files);
    mount.assert_all_given_back(fds);
}

/// B4 and R3: 500 handles share eight bodies while 32 threads read at random offsets and one
/// request in 60 fails: every byte is right, metadata requests work meanwhile, and parked handles
/// keep no memory.
#[test]
fn five_hundred_handles_share_eight_bodies_while_requests_fail() {
    const TIME: Duration = Duration::from_secs(8);
    const THREADS: usize = 32;
    const READ: usize = 16 * KIB;
    let proxy = Proxy::start(STORE.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).with("--max-open-bodies 8");
    let setup = setup.with("--metadata-ttl 0s --buffer-memory 16MiB --probe-cache 4MiB");
    let mount = setup.with("--pool-idle 1s").start();
    let (daemon, fds) = (mount.process(), mount.process().fds());
    proxy.script(proxy::at_random(1, 60, false));

    let (files, slowest) = open_all(&mount, THREADS);
    println!("slowest open: {slowest:.1?}");
    assert!(slowest < OPEN_BOUND, "the slowest open took {slowest:?}");

    let (reads, looks) = (AtomicU64::new(0), AtomicU64::new(0));
    let (end, over) = (Instant::now() + TIME, AtomicBool::new(false));
    thread::scope(|scope| {
        let readers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (files, reads) = (&files, &reads);
                let pages = SIZE / READ;
                let mut places = scattered(usize::MAX >> 1, FILES * pages).skip(thread * 10_000);
                scope.spawn(move || {
                    while Instant::now() < end {
                        let place = places.next().expect("no end");
                        let (i, offset) = (place % FILES, place / FILES * READ);
                        read_right(&files[i], i, offset, READ);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for i in 0..20 {
                    let path = mount.path(format!("folder/{i}"));
                    let found = fs::metadata(&path).unwrap_or_else(|e| panic!("stat {i}: {e}"));
                    assert_eq!(found.len(), "small".len() as u64);
                }
                let names = fs::read_dir(mount.path("folder")).expect("ls");
                let names: Vec<_> = names.map(|name| name.expect("ls").file_name()).collect();
                assert_eq!(names.len(), 20);
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let failed = readers.into_iter().filter_map(|reader| reader.join().err()).count();
        over.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "readers that failed");
    });

    let status = mount.status();
    let (reads, looks) = (reads.into_inner(), looks.into_inner());
    let (harm, resumed) = (proxy.harm(), status.number("bodies_resumed"));
    let peak = daemon.peak_memory_kib() / KIB;
    println!("{reads} reads, {looks} looks, {harm} faults, {resumed} resumed, peak {peak} MiB");
    assert!(reads > 500, "{reads} reads");
    assert!(looks > 1, "metadata stood still");
    assert!(harm > 10 && resumed > 0, "{harm} faults, {resumed} resumed");
    at_most("bodies_peak", status.number("bodies_peak"), 8).unwrap();
    assert_eq!(status.number("handles"), FILES as i64);
    // 20 MiB of it for buffers and first bytes, some 50 for an unoptimised program; each parked
    // handle that kept its window would add half a MiB.
    at_most("MiB resident at the peak", peak, 128).unwrap();

    proxy.behave();
    drop(files);
    mount.assert_all_given_back(fds);
}

/// B4: reads that wait, for a store that stalls or for a body, block no read of another file and no
/// release, however many they are.
#[test]
fn two_hundred_stalled_reads_block_no_other_read_and_no_release() {
    const STALLED: usize = 200;
    /// Less than half of `--timeout`, after which a stalled body is abandoned.
    const BOUND: Duration = Duration::from_secs(10);
    const OTHERS: usize = 4;
    for (cap, others_have_bodies) in [(STALLED + OTHERS, true), (STALLED / 2, false)] {
        let mut proxy = Proxy::start(STORE.endpoint(), |_| Fault::None);
        let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET);
        // Memory for all of them: a read that waits for the store holds its buffer.
        let args = format!("--max-open-bodies {cap} --timeout 60s --buffer-memory 1GiB");
        let mount = setup.with(&args).start();
        // The start of a file is sent; then its body stalls.
        proxy.script(|request| {
            let is_other = |i: usize| request.is_of(&i.to_string());
            match request.of_version && !(STALLED..STALLED + OTHERS).any(is_other) {
                true => Fault::Stall(256 << 10),
                false => Fault::None,
            }
        });
        let open = |i| open_and_read(&mount, i);
        let files: Vec<_> = (0..STALLED).map(open).collect();
        let others: Vec<_> = (STALLED..STALLED + OTHERS).map(open).collect();
        thread::scope(|scope| {
            for (i, file) in files.iter().enumerate() {
                scope.spawn(move || read_right(file, i, START, SIZE - START));
            }
            eventually(BOUND, || {
                let status = mount.status();
                let handles = status.0["handles_detail"].as_array().expect("handles");
                let reading = handles.iter().filter(|handle| handle["state"] == "reading");
                equal("reads under way", reading.count(), STALLED)
            });
            if others_have_bodies {
                within(BOUND, "reading others", || {
                    for (file, i) in others.iter().zip(STALLED..) {
                        read_right(file, i, START, SIZE - START);
                    }
                });
            }
            drop(others);
            eventually(BOUND, || {
                equal("handles", mount.status().number("handles"), STALLED as i64)
            });
            // The stalled bodies break, and the reads resume.
            proxy.behave();
            proxy.down();
            proxy.up();
        });
    }
}
