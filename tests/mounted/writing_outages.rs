//! Trouble in the middle of an upload: parts without an answer, credentials that end, a disk that is
//! full. The file that it meets fails with an honest error, and no other one does (W12, W13).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::content::{MIB, assert_content, content};
use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Answer, Fault, Proxy};
use crate::support::tmpfs::Tmpfs;
use crate::support::wait::{HANGS, equal, eventually, within};

/// Writes a file of three parts of 5 MiB.
fn write_large(path: &Path, seed: u64) -> io::Result<()> {
    let file = File::create(path)?;
    let written = file.write_all_at(&content(seed, 12 * MIB), 0);
    Ok(nix::unistd::close(file)?).and(written)
}

/// Nothing is kept of what was written, and no upload is left.
#[track_caller]
fn assert_nothing_pending(store: &Embedded, mount: &Mount) {
    eventually(Duration::from_secs(10), || {
        let status = mount.status();
        for gauge in ["memory_bytes", "spool_bytes", "writes_waiting"] {
            equal(gauge, status.number(&format!("writing.{gauge}")), 0)?;
        }
        equal("pending", status.0["writing"]["pending"].as_array().map(Vec::len), Some(0))?;
        equal("uploads", store.uploads(), 0)
    });
}

#[track_caller]
fn assert_says(mount: &Mount, words: &str) {
    eventually(HANGS, || {
        let said = mount.said().join("\n");
        if said.contains(words) { Ok(()) } else { Err(said) }
    });
}

/// A store behind a proxy, with `large`, and a mount with parts of 5 MiB.
fn proxied(options: &str) -> (Embedded, Proxy, Mount) {
    let store = Embedded::start();
    store.put("large", "old");
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).writable();
    let mount = setup.with("--part-size 5MiB").with(options).start();
    (store, proxy, mount)
}

#[test]
fn a_file_whose_parts_get_no_answer_fails_and_others_are_written_meanwhile() {
    let (store, proxy, mount) = proxied("--timeout 4s");
    proxy.script(|request| match request.query.contains("partNumber=") {
        true => Fault::Delay(Duration::MAX),
        false => Fault::None,
    });
    let failed = within(HANGS, "all writers", || {
        std::thread::scope(|scope| {
            let large = scope.spawn(|| write_large(&mount.path("large"), 1));
            eventually(HANGS, || match proxy.did("delay") {
                0 => Err("no part is under way".to_owned()),
                _ => Ok(()),
            });
            for i in 0..20 {
                fs::write(mount.path(i.to_string()), content(i, 1000)).expect("another file");
                assert_eq!(store.body(&i.to_string()), content(i, 1000));
            }
            large.join().expect("a writer")
        })
    });
    assert_eq!(failed.err().and_then(|e| e.raw_os_error()), Some(libc::EIO));
    assert_eq!(&store.body("large")[..], b"old");
    assert_nothing_pending(&store, &mount);
    proxy.behave();
    write_large(&mount.path("large"), 2).expect("written again");
    assert_eq!(store.body("large"), content(2, 12 * MIB));
}

/// Whether the store has the first request or not: a commit with a condition is settled by a HEAD then.
#[test]
fn a_file_whose_content_gets_no_answer_once_is_written_all_the_same() {
    for fault in [Fault::Delay(Duration::MAX), Fault::Withhold, Fault::Unread] {
        let (store, proxy, mount) = proxied("--timeout 9s");
        // One connection for each.
        let [large, small, new] =
            [AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false)];
        let hangs = fault.clone();
        proxy.script(move |request| {
            let which = match &*request.path {
                _ if request.query.contains("partNumber=2") => &large,
                path if request.method == "PUT" && path.ends_with("/small") => &small,
                path if request.method == "PUT" && path.ends_with("/new") => &new,
                _ => return Fault::None,
            };
            if which.swap(true, Ordering::SeqCst) { Fault::None } else { hangs.clone() }
        });
        std::thread::scope(|scope| {
            scope.spawn(|| write_large(&mount.path("large"), 1).expect("large"));
            scope.spawn(|| fs::write(mount.path("small"), "small").expect("small"));
            scope.spawn(|| {
                let file = File::create_new(mount.path("new")).expect("new");
                file.write_all_at(b"new", 0).expect("new");
                nix::unistd::close(file).expect("new");
            });
        });
        assert_eq!(proxy.did(fault.name()), 3);
        assert_eq!(store.body("large"), content(1, 12 * MIB));
        assert_eq!(&store.body("small")[..], b"small");
        assert_eq!(&store.body("new")[..], b"new");
        assert_nothing_pending(&store, &mount);
    }
}

#[test]
fn an_upload_that_is_slow_is_sent_once() {
    let (store, proxy, mount) = proxied("--timeout 9s");
    // Of a large part some 80 pieces: longer than a connection may do nothing, which is 3 s.
    proxy.script(|request| match request.query.contains("partNumber=") {
        true => Fault::ReadSlowly(Duration::from_millis(50)),
        false => Fault::None,
    });
    write_large(&mount.path("large"), 1).expect("written");
    assert_eq!(proxy.did("read slowly"), 3);
    assert_eq!(store.body("large"), content(1, 12 * MIB));
}

/// S3 answers 400 to a token whose time is over, other stores 403. It answers so to the abort as well:
/// the parts that are left are in the journal.
#[test]
fn credentials_that_end_during_an_upload_fail_it_and_with_fresh_ones_it_is_written() {
    for status in [400, 403] {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = format!("--spool {}", folder.path().display());
        let (store, proxy, mount) = proxied(&format!("--timeout 10s {spool}"));
        // From the second part on nothing is answered otherwise.
        let over = AtomicBool::new(false);
        proxy.script(move |request| {
            let ends = request.query.contains("partNumber=2");
            if !over.fetch_or(ends, Ordering::SeqCst) && !ends {
                return Fault::None;
            }
            let body =
                "<Error><Code>ExpiredToken</Code><Message>so the test says</Message></Error>";
            let answer = Answer::new(status).header("content-type", "application/xml");
            Fault::Answer(answer.body(body))
        });
        let failed = write_large(&mount.path("large"), 1);
        assert_eq!(failed.err().and_then(|e| e.raw_os_error()), Some(libc::EACCES));
        assert_says(&mount, "ExpiredToken");
        assert_eq!(&store.body("large")[..], b"old");
        proxy.behave();
        write_large(&mount.path("large"), 2).expect("written again");
        assert_eq!(store.body("large"), content(2, 12 * MIB));
        drop(mount);
        let again = Setup::new(proxy.endpoint(), Embedded::BUCKET).writable().with(&spool);
        let _again = again.start();
        eventually(HANGS, || equal("uploads", store.uploads(), 0));
    }
}

/// The disk of the spool is full, which is less than `--spool-size`.
#[test]
fn a_full_disk_is_enospc_for_its_file_and_others_go_on() {
    let disk = Tmpfs::new("14m");
    let options = format!("--timeout 3s --buffer-memory 48MiB --spool {}", disk.path().display());
    let (store, _proxy, mount) = proxied(&options);
    let free = || nix::sys::statvfs::statvfs(disk.path()).expect("statvfs").blocks_available();
    let before = free();
    let file = File::options().write(true).truncate(true).open(mount.path("large")).expect("open");
    let failed = (0..40).find_map(|i| {
        // Each in a part of its own, and none of them full, so that none is sent.
        file.write_all_at(&content(1, 3 * MIB), i * 5 * MIB as u64).err()
    });
    assert_eq!(failed.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    assert_eq!(file.sync_all().err().and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    assert_says(&mount, "No space left on device");
    for i in 0..10 {
        let name = i.to_string();
        fs::write(mount.path(&name), content(i, 50_000)).expect("another file");
        assert_eq!(store.body(&name), content(i, 50_000));
    }
    nix::unistd::close(file).expect_err("close says it again");
    assert_eq!(&store.body("large")[..], b"old");
    assert_nothing_pending(&store, &mount);
    eventually(HANGS, || equal("free blocks of the disk", free(), before));
    write_large(&mount.path("large"), 2).expect("there is room again");
    assert_content(&mount.path("large"), 2, 12 * MIB);
    assert_eq!(store.body("large"), content(2, 12 * MIB));
}
