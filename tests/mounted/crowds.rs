//! More names than the kernel's and the daemon's caches are meant for.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::FUTURE;
use crate::support::content::KIB;
use crate::support::embedded::Embedded;
use crate::support::mount::Setup;
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools::shell;
use crate::support::wait::{at_most, eventually, within};

/// Directories do not evict files: with more directories known than the limit of unopened files,
/// files stay in the kernel's cache.
#[test]
fn files_stay_cached_beside_many_directories() {
    const DIRECTORIES: usize = 33_000;
    const FILES: usize = 200;
    let store = Embedded::start();
    (0..DIRECTORIES).for_each(|i| store.put(&format!("d/{i}/f"), "x"));
    for i in 0..FILES {
        store.put_expiring(&format!("f/{i}"), "x", FUTURE);
    }
    let mount = store.mounting().with("--metadata-ttl expiry").start();
    assert_eq!(shell(mount.dir(), "ls -l d | wc -l"), format!("{}\n", DIRECTORIES + 1));
    for reading in 1..=4 {
        let before = store.requests().get;
        for i in 0..FILES {
            assert_eq!(fs::read_to_string(mount.path(format!("f/{i}"))).expect("read"), "x");
        }
        let gets = store.requests().get - before;
        let most = if reading == 1 { FILES as u64 + 2 } else { slack(FILES) };
        assert!(gets <= most, "{gets} GETs of reading {reading}");
    }
    assert!(mount.status().number("inodes") >= DIRECTORIES as i64);
}

/// Files that may need a GET in the second pass, since the kernel may drop pages when memory is
/// short.
fn slack(files: usize) -> u64 {
    files as u64 / 20
}

/// Fresh objects are read a second time without a GET, however many files and directories there
/// are. `EXPIREFS_TEST_CROWD=100000:65536` sets the numbers of files and directories.
#[test]
fn a_second_read_of_many_files_in_many_directories_sends_no_get() {
    let size = env::var("EXPIREFS_TEST_CROWD").unwrap_or_else(|_| "3000:2000".into());
    let (files, directories) = size.split_once(':').expect("FILES:DIRECTORIES");
    let [files, directories]: [usize; 2] =
        [files, directories].map(|n| n.parse().expect("a number"));
    let store = Embedded::start();
    // Directories without such a file get one that is not read.
    let key = |i: usize| format!("{:02x}/{:02x}/{i}", i % directories / 256, i % directories % 256);
    for i in 0..files.max(directories) {
        store.put_expiring(&key(i), i.to_string(), FUTURE);
    }
    let mount = store
        .mounting()
        .with("--metadata-ttl expiry")
        .living(Duration::from_secs(120) + Duration::from_millis((files + directories) as u64 * 4))
        .start();
    let read_all = |what: &str| {
        within(Duration::from_secs(3600), what, || {
            thread::scope(|scope| {
                for thread in 0..8 {
                    let (mount, key) = (&mount, &key);
                    scope.spawn(move || {
                        for i in (thread..files.max(directories)).step_by(8) {
                            let path = mount.path(key(i));
                            if i < files {
                                assert_eq!(fs::read_to_string(path).expect("read"), i.to_string());
                            } else {
                                fs::metadata(path.parent().expect("a directory")).expect("stat");
                            }
                        }
                    });
                }
            });
        });
    };
    read_all("first reading");
    let first = store.requests();
    read_all("second reading");
    let status = mount.status();
    let gets = store.requests().get - first.get;
    println!("requests: {first:?}, then {:?}", store.requests());
    assert!(gets <= slack(files), "{gets} GETs of the second reading");
    let peak = mount.process().peak_memory_kib() / KIB;
    println!("{} inodes, peak {peak} MiB", status.number("inodes"));
    assert!(peak <= 192, "{peak} MiB");
}

/// A lookup that waits for the store holds a shared lock on its directory in the kernel; to drop a
/// name of that directory the kernel needs it exclusively, and while it waits, it blocks new
/// lookups.
#[test]
fn lookups_do_not_wait_for_a_stalled_one_while_names_are_dropped() {
    const NAMES: usize = 40_000;
    const STALL: Duration = Duration::from_secs(20);
    let store = Embedded::start();
    for i in 0..NAMES {
        store.put(&format!("d/{i}"), "x");
    }
    let stalled = std::sync::Arc::new(AtomicBool::new(false));
    let proxy = Proxy::start(store.endpoint(), {
        let stalled = stalled.clone();
        move |request| match request.is_of("d/stalled") {
            true => {
                stalled.store(true, Ordering::Relaxed);
                Fault::Delay(STALL)
            }
            false => Fault::None,
        }
    });
    // All names are live by the listing, which therefore needs no HEADs.
    let args = "--metadata-ttl 60s --expires-from list --default-ttl 3650d";
    let mount = Setup::new(proxy.endpoint(), Embedded::BUCKET).with(args).start();
    thread::scope(|scope| {
        let stuck = scope.spawn(|| fs::metadata(mount.path("d/stalled")).map(drop));
        eventually(STALL, || {
            stalled.load(Ordering::Relaxed).then_some(()).ok_or("no request yet".to_owned())
        });
        assert_eq!(shell(mount.dir(), "ls -l d | wc -l"), format!("{}\n", NAMES + 1));
        // Long enough for names to be dropped.
        let (start, mut lookups) = (Instant::now(), 0);
        while lookups < 50 || start.elapsed() < Duration::from_secs(5) {
            let started = Instant::now();
            assert!(fs::metadata(mount.path(format!("d/none-{lookups}"))).is_err());
            let took = started.elapsed();
            assert!(took < STALL / 4, "lookup {lookups} took {took:?}");
            lookups += 1;
        }
        assert!(!stuck.is_finished(), "nothing stalled beside {lookups} lookups");
    });
    eventually(Duration::from_secs(20), || {
        at_most("inodes", mount.status().number("inodes"), 33_000)
    });
}
