//! How much memory many readers use: peaks of the daemon's resident memory, from `/proc`.

use std::env;
use std::fs::File;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use expirefs::embedded::Object;

use crate::support::content::{KIB, MIB, assert_content, content};
use crate::support::dir_stream::DirStream;
use crate::support::embedded::Embedded;
use crate::support::mount::Mount;
use crate::support::tools::shell;

/// Files of `size` bytes, `0` and so on, all of the same content.
fn files(count: usize, size: usize) -> Embedded {
    let store = Embedded::start();
    let bytes = content(7, size);
    (0..count).for_each(|i| store.put(&i.to_string(), bytes.clone()));
    store
}

/// Reads every file completely, each in its own thread, all concurrently.
fn read_all_at_once(mount: &Mount, count: usize, size: usize) {
    thread::scope(|scope| {
        for i in 0..count {
            scope.spawn(move || assert_content(&mount.path(i.to_string()), 7, size));
        }
    });
}

fn peak_mib(mount: &Mount) -> usize {
    mount.process().peak_memory_kib() / KIB
}

/// With each tool; half of its objects have expired. `EXPIREFS_TEST_KEYS=1000000` sets a larger
/// one.
#[test]
fn a_large_directory_is_read_in_96_mib() {
    let keys = env::var("EXPIREFS_TEST_KEYS").map_or(20_000, |n| n.parse().expect("a number"));
    let store = Embedded::start();
    for i in 0..keys {
        let ends = if i % 2 == 0 { "2020" } else { "2100" };
        store.put_expiring(&format!("d/{i:07}"), "x", format!("Fri, 01 Jan {ends} 00:00:00 GMT"));
    }
    let bound = Duration::from_secs(60) + Duration::from_millis(keys * 3);
    let mount = store.mounting().living(bound).start();
    let live = keys / 2;
    let looks = [
        ("ls -f d | wc -l", live + 2),
        ("ls -l d | wc -l", live + 1),
        ("find d -type f | wc -l", live),
        // These stat each name, in another order if there are more than 10,000.
        ("find d -size -2 -type f | wc -l", live),
        ("du -a d | wc -l", live + 1),
    ];
    for (look, lines) in looks.into_iter().take(if keys > 100_000 { 3 } else { 5 }) {
        let started = Instant::now();
        assert_eq!(shell(mount.dir(), look), format!("{lines}\n"), "{look}");
        let status = mount.status();
        println!(
            "{look}: {:?}, peak {} MiB, {} inodes, {} versions, {} HEADs so far",
            started.elapsed(),
            peak_mib(&mount),
            status.number("inodes"),
            status.number("versions_known"),
            status.number("requests.head"),
        );
    }
    let peak = peak_mib(&mount);
    assert!(peak <= 96, "{peak} MiB for {keys} keys");
}

#[test]
fn one_reader_uses_little_memory() {
    let store = files(1, 256 * MIB);
    let mount = store.mounting().start();
    read_all_at_once(&mount, 1, 256 * MIB);
    let peak = peak_mib(&mount);
    assert!(peak <= 24, "{peak} MiB");
}

#[test]
fn sixty_four_readers_stay_under_the_limit() {
    let store = files(64, 8 * MIB);
    let mount = store.mounting().start();
    read_all_at_once(&mount, 64, 8 * MIB);
    let peak = peak_mib(&mount);
    assert!(peak <= 160, "{peak} MiB");
}

/// More readers than the memory allows take turns; none fails.
#[test]
fn five_hundred_and_twelve_readers_share_the_buffer_memory() {
    let store = files(512, 2 * MIB);
    let mount = store.mounting().with("--buffer-memory 32MiB").start();
    read_all_at_once(&mount, 512, 2 * MIB);
    let status = mount.status();
    let buffers = status.number("buffer_bytes_peak") as usize;
    assert!(buffers <= 32 * MIB, "{buffers} bytes in buffers");
    assert_eq!(status.number("buffer_bytes"), 0, "once all is read");
    let peak = peak_mib(&mount);
    assert!(peak <= 192, "{peak} MiB");
}

/// Open but unread handles do not exceed the limit, either.
#[test]
fn open_and_unread_handles_share_the_buffer_memory() {
    let store = files(1000, 60 * KIB);
    let mount = store.mounting().with("--buffer-memory 8MiB --probe-cache 8MiB").start();
    let open = |i: usize| File::open(mount.path(i.to_string())).expect("open");
    let handles: Vec<File> = (0..1000).map(open).collect();
    let peak = peak_mib(&mount);
    assert!(peak <= 64, "{peak} MiB");
    let want = content(7, 60 * KIB);
    for (i, mut file) in handles.into_iter().enumerate() {
        let mut got = Vec::new();
        file.read_to_end(&mut got).unwrap_or_else(|e| panic!("read {i}: {e}"));
        assert!(got == want, "the bytes of {i}");
    }
}

/// Long headers, which bucket writers control, take no memory beyond their first bytes.
#[test]
fn long_headers_use_little_memory() {
    const FILES: usize = 20_000;
    let store = Embedded::start();
    for i in 0..FILES {
        let long = format!("text/{i}{}", "x".repeat(7000));
        store.put_object(&format!("d/{i}"), Object::new("x").content_type(long));
    }
    let mount = store.mounting().with("--metadata-ttl expiry").start();
    assert_eq!(shell(mount.dir(), "ls -l d | wc -l"), format!("{}\n", FILES + 1));
    let peak = peak_mib(&mount);
    assert!(peak <= 80, "{peak} MiB");
}

/// Directory handles that are held open, each read once, share the memory for pages; evicted pages
/// are fetched again.
#[test]
fn directory_handles_held_open_share_the_page_memory() {
    const FILES: usize = 3000;
    let store = Embedded::start();
    (0..FILES).for_each(|i| store.put(&format!("d/{i:04}-{}", "x".repeat(200)), "x"));
    let args = "--expires-from list --default-ttl 3650d";
    let mount = store.mounting().with(args).living(Duration::from_secs(300)).start();
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = DirStream::open(&mount.path("d")).expect("opendir");
        stream.next().expect("readdir").expect("an entry");
        held.push(stream);
    }
    let peak = peak_mib(&mount);
    println!("peak {peak} MiB for {} handles", held.len());
    assert!(peak <= 128, "{peak} MiB for {} handles", held.len());
    for stream in held.iter_mut().step_by(150) {
        assert_eq!(stream.rest().expect("readdir").len(), FILES + 1);
    }
}
