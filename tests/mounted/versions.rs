//! Objects replaced while they are read: R1 and R2.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::FUTURE;
use crate::support::content::{KIB, MIB, assert_same_bytes, content, difference};
use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3_server::{object, seaweedfs};
use crate::support::wait::{equal, eventually};

const SIZE: usize = 24 * MIB;

/// The bytes of an open file from `offset` on, and the result of the last read.
fn read_from(file: &File, mut offset: usize) -> (Vec<u8>, io::Result<()>) {
    let (mut bytes, mut slice) = (Vec::new(), vec![0; 256 * KIB]);
    loop {
        match file.read_at(&mut slice, offset as u64) {
            Ok(0) => return (bytes, Ok(())),
            Ok(n) => {
                bytes.extend_from_slice(&slice[..n]);
                offset += n;
            }
            Err(e) => return (bytes, Err(e)),
        }
    }
}

/// R2: the new version is a new inode, which the next open gets. R1: the old handle continues with
/// the old bytes, or gets ESTALE; versions are never mixed.
#[test]
fn a_replaced_object_is_a_new_file() {
    let bucket = seaweedfs().bucket("replaced");
    let [old, new] = [1, 2].map(|version| content(version, SIZE));
    bucket.put("file", object(old.clone()));
    let mount = bucket.mounting().with("--metadata-ttl 0s").start();
    let path = mount.path("file");

    let old_file = File::open(&path).expect("open the old version");
    let mut first = vec![0; 64 * KIB];
    old_file.read_exact_at(&mut first, 0).expect("read the old version");
    bucket.put("file", object(new.clone()));

    let new_file = File::open(&path).expect("open the new version");
    let [old_ino, new_ino] = [&old_file, &new_file].map(|f| f.metadata().expect("fstat").ino());
    assert_ne!(old_ino, new_ino, "a version is an inode");
    assert_eq!(fs::metadata(&path).expect("stat").ino(), new_ino, "the path names the new one");

    let (bytes, end) = read_from(&new_file, 0);
    end.expect("read the new version");
    assert_same_bytes("the new version", &bytes, &new);

    let (bytes, end) = read_from(&old_file, first.len());
    assert_same_bytes("the old version", &bytes, &old[first.len()..][..bytes.len()]);
    match end {
        Ok(()) => assert_eq!(bytes.len(), SIZE - first.len(), "the end of the old version"),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ESTALE), "the old handle: {e}"),
    }
}

/// R1: a parked handle resumes only the version it was opened on, which no longer exists.
#[test]
fn a_parked_handle_of_a_replaced_object_gets_estale() {
    let bucket = seaweedfs().bucket("parked");
    let old = content(1, SIZE);
    bucket.put_all([
        ("file".to_owned(), object(old.clone())),
        ("other".to_owned(), object(content(3, SIZE))),
    ]);
    let mount = bucket.mounting().with("--max-open-bodies 1").start();

    let file = File::open(mount.path("file")).expect("open");
    let mut first = vec![0; 64 * KIB];
    file.read_exact_at(&mut first, 0).expect("read");
    let other = File::open(mount.path("other")).expect("open the other: it takes over the permit");
    other.read_exact_at(&mut first, 0).expect("read the other");
    bucket.put("file", object(content(2, SIZE)));

    let (bytes, end) = read_from(&file, 0);
    assert_same_bytes("before ESTALE", &bytes, &old[..bytes.len()]);
    let error = end.expect_err("the rest of the old version is nowhere");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error} after {} bytes", bytes.len());
}

/// R1 and R2 with a writer that writes continuously: a reader gets one whole version, not older
/// than the last one written before its open.
#[test]
fn readers_never_see_two_versions_at_once() {
    const READINGS: u64 = 100;
    const VERSIONS: u64 = 1_000; // the writer gives up
    const SIZE: usize = 300 * KIB;
    let bucket = seaweedfs().bucket("hammer");
    bucket.put("file", object(content(0, SIZE)));
    let mount = bucket.mounting().with("--metadata-ttl 0s").start();
    let path = mount.path("file");
    let (written, readings) = (AtomicU64::new(0), AtomicU64::new(0));

    let reader = || {
        while readings.load(Ordering::SeqCst) < READINGS {
            let floor = written.load(Ordering::SeqCst);
            if floor == VERSIONS {
                break;
            }
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                // Replaced twice within one open, or while it was read.
                Err(e) if e.raw_os_error() == Some(libc::ESTALE) => continue,
                Err(e) => panic!("read: {e}"),
            };
            let seed = bytes.first_chunk().map_or(0, |seed| u64::from_be_bytes(*seed));
            let difference = difference(&bytes, &content(seed, SIZE));
            assert_eq!(difference, None, "what should be version {seed}");
            assert!(seed >= floor, "version {seed}, though {floor} was there before the open");
            readings.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for version in 1..=VERSIONS {
            bucket.put("file", object(content(version, SIZE)));
            written.store(version, Ordering::SeqCst);
            if readers.iter().all(|reader| reader.is_finished()) {
                break;
            }
        }
    });
    let (written, readings) = (written.into_inner(), readings.into_inner());
    assert!(readings >= READINGS, "only {readings} readings of {written} versions");
    assert!(written >= 10, "only {written} versions for {readings} readings: no race at all");
}

/// `--metadata-ttl expiry`: a replacement or deletion is not noticed until a read needs the store.
/// From then on opens get the current version.
#[test]
fn a_version_cached_until_its_expiry_is_dropped_once_a_read_finds_another() {
    let [old, new] = [1, 2].map(|version| content(version, 300 * KIB));
    for replaced in [true, false] {
        let store = Embedded::start();
        store.put_expiring("file", old.clone(), FUTURE);
        let mount = store.mounting().with("--metadata-ttl expiry").start();
        let path = mount.path("file");
        assert_same_bytes("before", &fs::read(&path).expect("read"), &old);
        match replaced {
            true => store.put_expiring("file", new.clone(), FUTURE),
            false => store.delete("file"),
        }
        assert_same_bytes("the kernel's pages", &fs::read(&path).expect("read"), &old);
        let file = File::open(&path).expect("open");
        let dropped = nix::fcntl::posix_fadvise(
            &file,
            0,
            0,
            nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        );
        dropped.expect("posix_fadvise");
        drop(file);
        let error = fs::read(&path).expect_err("the old version is nowhere");
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
        // stat is answered from the kernel's cache, from which the name is dropped in the
        // background.
        let size = |path| fs::metadata(path).map(|meta| meta.len()).map_err(|e| e.raw_os_error());
        let read = fs::read(&path).map_err(|e| e.raw_os_error());
        match replaced {
            true => assert_same_bytes("after", &read.expect("read the new version"), &new),
            false => assert_eq!(read, Err(Some(libc::ENOENT))),
        }
        let want = if replaced { Ok(300 * KIB as u64) } else { Err(Some(libc::ENOENT)) };
        eventually(Duration::from_secs(5), || equal("its size", size(&path), want));
    }
}

/// A proxy that compresses makes strong ETags weak, which If-Match never matches (RFC 9110 §13.1.1).
#[test]
fn files_with_weak_etags_are_read_and_their_replacement_is_noticed() {
    let store = Embedded::start();
    let proxy = Proxy::start(store.endpoint(), |_| {
        Fault::rewrite(|head| {
            if let Some(etag) = head.text("etag") {
                head.set("etag", format!("W/{etag}").as_bytes());
            }
        })
    });
    let mount = Setup::new(proxy.endpoint(), Embedded::BUCKET).with("--metadata-ttl 0s").start();
    for seed in 1..4 {
        let bytes = content(seed, 2 * MIB);
        store.put("f", bytes.clone());
        assert_eq!(fs::read_dir(mount.dir()).expect("ls").count(), 1);
        assert_same_bytes("f", &fs::read(mount.path("f")).expect("f"), &bytes);
    }
    assert_said_once(&mount, "weak ETags");
}

#[test]
fn a_file_without_an_etag_is_read_from_start_to_end() {
    let store = Embedded::start();
    let proxy = Proxy::start(store.endpoint(), |_| Fault::rewrite(|head| head.remove("etag")));
    let bytes = content(1, 2 * MIB);
    ["f", "g"].iter().for_each(|key| store.put(key, bytes.clone()));
    let mount = Setup::new(proxy.endpoint(), Embedded::BUCKET).start();
    for key in ["f", "g"] {
        assert_same_bytes(key, &fs::read(mount.path(key)).expect(key), &bytes);
    }
    assert_said_once(&mount, "no ETag");
}

#[track_caller]
fn assert_said_once(mount: &Mount, what: &str) {
    let said = mount.said();
    assert_eq!(said.iter().filter(|line| line.contains(what)).count(), 1, "{said:#?}");
}
