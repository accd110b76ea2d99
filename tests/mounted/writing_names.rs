//! Names that change: edits and their conditions, exclusive creation, rename, unlink, directories
//! (W5-W9, W11).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::support::content::{KIB, MIB, assert_content, assert_same_bytes, content};
use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::s3_server::{Bucket, http_date, moto, object, seaweedfs};
use crate::support::tools::{assert_same_tree, attempt, shell};
use crate::support::wait::{equal, eventually};
use crate::support::{FUTURE, PAST};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|e| e.raw_os_error().unwrap_or_else(|| panic!("no errno: {e}")))
}

fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[test]
fn an_edit_changes_what_it_writes_and_keeps_the_rest() {
    let store = Embedded::start();
    for size in [0, 10, 300 * KIB, 20 * MIB + 3] {
        let mount = store.mounting().writable().start();
        let mut want = content(1, size).to_vec();
        store.put("f", want.clone());
        let file = OpenOptions::new().read(true).write(true).open(mount.path("f")).expect("open");
        file.write_all_at(b"in the middle", size as u64 / 2).expect("write");
        let end = (size / 2 + 13).max(size);
        want.resize(end, 0);
        want[size / 2..size / 2 + 13].copy_from_slice(b"in the middle");
        let mut back = Vec::new();
        (&file).read_to_end(&mut back).expect("read back");
        assert_same_bytes("read back", &back, &want);
        drop(file);
        assert_same_bytes("the object", &store.body("f"), &want);
        shell(mount.dir(), "echo more >> f");
        want.extend_from_slice(b"more\n");
        assert_same_bytes("appended to", &store.body("f"), &want);
        shell(mount.dir(), "truncate -s 7 f");
        want.resize(7, 0);
        assert_same_bytes("cut off", &store.body("f"), &want);
        assert_same_bytes("here", &fs::read(mount.path("f")).expect("read"), &want);
    }
    assert_eq!(store.uploads(), 0);
}

#[test]
fn an_existing_file_that_is_opened_for_writing_and_not_changed_stays_as_it_is() {
    let store = Embedded::start();
    store.put_expiring("f", "content", FUTURE);
    let mount = store.mounting().writable().start();
    let requests = mount.grown(&["put", "copy", "delete"], || {
        drop(OpenOptions::new().append(true).open(mount.path("f")).expect("open"));
        shell(mount.dir(), ": >> f; python3 -c 'open(\"f\", \"r+\").read(3)'; cat f");
    });
    assert_eq!(requests, [0, 0, 0]);
    assert_eq!(store.get("f").expect("f").expires.expect("its end"), FUTURE);
    assert_eq!(fs::read(mount.path("f")).expect("read"), b"content");
}

#[test]
fn an_append_to_a_large_object_copies_its_parts_in_the_store() {
    for large in [40 * MIB, 41 * MIB + 5] {
        let store = Embedded::start();
        store.put("f", content(1, large));
        let mount = store.mounting().writable().start();
        let received = mount.status().number("bytes_received");
        let names = ["copy_part", "upload_part", "put", "complete_upload"];
        let requests = mount.grown(&names, || shell(mount.dir(), "echo the end >> f"));
        assert_eq!(requests, [5, 1, 0, 1], "{names:?}");
        let received = mount.status().number("bytes_received") - received;
        assert!(received < 3 * MIB as i64, "{received} bytes were fetched");
        let body = store.body("f");
        assert_same_bytes("the old bytes", &body[..large], &content(1, large));
        assert_eq!(&body[large..], b"the end\n");
        assert_eq!(store.uploads(), 0);
    }
}

/// W5: the commit of an edit names the version that was edited.
#[test]
fn an_edit_of_an_object_replaced_meanwhile_is_estale_and_the_other_one_stays() {
    let store = Embedded::start();
    for size in [1000, 20 * MIB] {
        let mount = store.mounting().writable().with("--metadata-ttl 10m").start();
        for deleted in [false, true] {
            store.put("f", content(1, size));
            let file = eventually(Duration::from_secs(5), || {
                let file = OpenOptions::new().write(true).open(mount.path("f"));
                let file = file.map_err(|e| e.to_string())?;
                file.write_all_at(b"edited", 10).map_err(|e| e.to_string())?;
                Ok(file)
            });
            match deleted {
                false => store.put("f", "another's"),
                true => store.delete("f"),
            }
            assert_eq!(errno(file.sync_all()), Some(libc::ESTALE), "{size}, {deleted}");
            assert_eq!(errno(file.write_all_at(b"x", 0)), Some(libc::ESTALE), "it sticks");
            drop(file);
            let found = store.get("f").map(|object| object.body);
            assert_eq!(found, (!deleted).then(|| "another's".into()));
            eventually(Duration::from_secs(5), || {
                let read = fs::read(mount.path("f")).ok();
                equal("the name", read, (!deleted).then(|| b"another's".to_vec()))
            });
        }
    }
    assert_eq!(store.uploads(), 0);
}

/// W6 on three servers: what has expired is no obstacle, what lives is.
fn creates_over_corpses(setup: &Setup, put: impl Fn(&str, Option<&str>)) {
    let mount = setup.clone().writable().with("--metadata-ttl 10m").start();
    for (key, end) in [("corpse", PAST), ("large", PAST), ("moved", PAST), ("live", FUTURE)] {
        put(key, Some(end));
    }
    put("endless", None);
    for (key, size) in [("corpse", 1000), ("large", 9 * MIB), ("absent", 10)] {
        let mut file = create_new(&mount.path(key)).expect(key);
        file.write_all(&content(1, size)).expect("write");
        file.sync_all().unwrap_or_else(|e| panic!("{key}: {e}"));
        drop(file);
        assert_content(&mount.path(key), 1, size);
        assert_eq!(errno(create_new(&mount.path(key))), Some(libc::EEXIST), "{key}");
    }
    for key in ["live", "endless"] {
        assert_eq!(errno(create_new(&mount.path(key))), Some(libc::EEXIST), "{key}");
    }
    fs::write(mount.path("source"), "source").expect("write");
    for key in ["live", "endless", "corpse"] {
        let renamed = rename_noreplace(&mount.path("source"), &mount.path(key));
        assert_eq!(errno(renamed), Some(libc::EEXIST), "{key}");
    }
    rename_noreplace(&mount.path("source"), &mount.path("moved")).expect("over a corpse");
    assert_eq!(fs::read(mount.path("moved")).expect("read"), b"source");
    assert!(!mount.path("source").exists());

    // One that came after its absence was noted fails the commit, and stays.
    assert!(!mount.path("late").exists());
    let mut file = create_new(&mount.path("late")).expect("nobody knows of another");
    put("late", Some(FUTURE));
    file.write_all(b"mine").expect("write");
    assert_eq!(errno(file.sync_all()), Some(libc::EEXIST));
    drop(file);
    assert_eq!(fs::read(mount.path("late")).expect("the other one"), b"others'");
}

#[test]
fn exclusive_creation_is_refused_by_what_lives_and_not_by_a_corpse() {
    let store = Embedded::start();
    creates_over_corpses(&store.mounting(), |key, end| match end {
        Some(end) => store.put_expiring(key, "others'", end),
        None => store.put(key, "others'"),
    });
}

fn on(bucket: &Bucket) {
    creates_over_corpses(&bucket.mounting(), |key, end| {
        let upload = object("others'");
        bucket.put(key, end.map_or(upload.clone(), |end| upload.expires(end)));
    });
}

#[test]
fn exclusive_creation_on_seaweedfs_is_refused_by_what_lives_and_not_by_a_corpse() {
    on(&seaweedfs().bucket("exclusive"));
}

#[test]
fn exclusive_creation_on_moto_is_refused_by_what_lives_and_not_by_a_corpse() {
    on(&moto().bucket("exclusive"));
}

/// A source that found its target taken is still there, whatever its state.
#[test]
fn a_rename_that_is_refused_leaves_its_source_as_it_was() {
    let store = Embedded::start();
    let mount = store.mounting().writable().with("--metadata-ttl 10m --negative-ttl 10m").start();
    for open in [true, false] {
        let (source, target) = (mount.path(format!("s{open}")), mount.path(format!("t{open}")));
        assert!(!target.exists());
        let mut file = File::create(&source).expect("create");
        file.write_all(b"mine").expect("write");
        let file = open.then_some(file);
        store.put(&format!("t{open}"), "others'");
        assert_eq!(errno(rename_noreplace(&source, &target)), Some(libc::EEXIST));
        if let Some(mut file) = file {
            file.write_all(b" still").expect("write on");
            file.sync_all().expect("fsync under the old name");
        }
        let want = if open { &b"mine still"[..] } else { b"mine" };
        assert_eq!(fs::read(&source).expect("the source"), want);
        assert_eq!(&store.body(&format!("s{open}"))[..], want);
        assert_eq!(&store.body(&format!("t{open}"))[..], b"others'");
    }
}

#[test]
fn a_rename_of_a_file_takes_its_end_along_unless_another_rule_holds_for_the_new_name() {
    let store = Embedded::start();
    let bucket = seaweedfs().bucket("rename");
    for setup in [store.mounting(), bucket.mounting()] {
        let mount = setup.clone().writable().with("--ttl-rule *.log=10m").start();
        let other = setup.with("--metadata-ttl 0s").start();
        shell(
            mount.dir(),
            "echo content > a; setfattr -n user.expirefs.ttl -v 10h a; mkdir d; mv a d/b",
        );
        let left = |mount: &Mount, name: &str| {
            let get = "getfattr --only-values -n user.expirefs.expires";
            let at = shell(mount.dir(), &format!("date -u +%s -d $({get} {name})"));
            let at = Duration::from_secs(at.trim().parse().expect("seconds"));
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("now");
            at.as_secs().saturating_sub(now.as_secs()).div_ceil(60)
        };
        // Rounded up to a second, and now to a minute.
        let are = |name: &str, minutes: u64| {
            let left = [&mount, &other].map(|mount| left(mount, name));
            assert!(left.iter().all(|n| (minutes..=minutes + 1).contains(n)), "{name}: {left:?}");
        };
        are("d/b", 600);
        let reader = File::open(mount.path("d/b")).expect("open");
        shell(mount.dir(), "mv d/b c.log; cat c.log");
        are("c.log", 10);
        assert!(!mount.path("d/b").exists() && !other.path("d/b").exists());
        let mut bytes = String::new();
        (&reader).read_to_string(&mut bytes).expect("what was open before");
        assert_eq!(bytes, "content\n");
        // Over another one, which a reader has open.
        shell(mount.dir(), "echo other > e.log");
        let reader = File::open(mount.path("e.log")).expect("open");
        shell(mount.dir(), "mv c.log e.log");
        let mut bytes = String::new();
        (&reader).read_to_string(&mut bytes).expect("the version it has opened");
        assert_eq!(bytes, "other\n");
        for dir in [mount.dir(), other.dir()] {
            assert_eq!(shell(dir, "cat e.log; ls"), "content\nd\ne.log\n");
        }
    }
}

#[test]
fn a_directory_is_not_renamed_but_mv_moves_it() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    let local = tempfile::tempdir().expect("a folder");
    let make = "mkdir -p a/b/c; echo 1 > a/1; echo 2 > a/b/2; head -c 100000 /dev/zero > a/b/c/3";
    shell(mount.dir(), make);
    shell(local.path(), make);
    let renamed = fs::rename(mount.path("a"), mount.path("z"));
    assert_eq!(errno(renamed), Some(libc::EXDEV));
    shell(mount.dir(), "mv a z");
    shell(local.path(), "mv a z");
    assert_same_tree(mount.dir(), local.path());
    let exchanged = renameat2(
        AT_FDCWD,
        &mount.path("z/1"),
        AT_FDCWD,
        &mount.path("z/b/2"),
        RenameFlags::RENAME_EXCHANGE,
    );
    assert_eq!(exchanged, Err(nix::errno::Errno::EINVAL));
}

#[test]
fn unlink_takes_the_name_and_leaves_what_is_open() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    let other = store.mounting().with("--metadata-ttl 0s").start();
    store.put("read", content(1, 100 * KIB));
    store.put("large", content(1, 12 * MIB));
    let reader = File::open(mount.path("read")).expect("open");
    let mut pending = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path("pending"))
        .expect("create");
    pending.write_all(&content(2, 9 * MIB)).expect("write");
    let edit = OpenOptions::new().read(true).write(true).open(mount.path("large")).expect("open");
    edit.write_all_at(b"edited", 0).expect("edit");
    let puts = mount.grown(&["put", "complete_upload"], || {
        for name in ["read", "pending", "large"] {
            fs::remove_file(mount.path(name)).unwrap_or_else(|e| panic!("rm {name}: {e}"));
            assert!(!mount.path(name).exists() && !other.path(name).exists(), "{name}");
            assert_eq!(errno(fs::remove_file(mount.path(name))), Some(libc::ENOENT));
        }
        let mut bytes = vec![0; 100 * KIB];
        reader.read_exact_at(&mut bytes, 0).expect("read on");
        assert_same_bytes("read", &bytes, &content(1, 100 * KIB));
        pending.write_all_at(b"more", 0).expect("write on");
        let mut bytes = vec![0; 9 * MIB];
        pending.read_exact_at(&mut bytes, 0).expect("read back");
        assert_same_bytes("pending", &bytes[4 * KIB..], &content(2, 9 * MIB)[4 * KIB..]);
        pending.sync_all().expect("fsync of what has no name");
        drop((pending, edit));
    });
    assert_eq!(puts, [0, 0]);
    for name in ["read", "pending", "large"] {
        assert!(store.get(name).is_none(), "{name}");
    }
    eventually(Duration::from_secs(5), || equal("uploads", store.uploads(), 0));
}

#[test]
fn unlink_of_an_expired_name_is_enoent_without_a_request() {
    let store = Embedded::start();
    store.put_expiring("corpse", "x", PAST);
    let soon = http_date(SystemTime::now() + Duration::from_secs(2));
    store.put_expiring("soon", "x", soon);
    let mount = store.mounting().writable().start();
    assert!(mount.path("soon").exists());
    eventually(Duration::from_secs(10), || {
        equal("soon is there", mount.path("soon").exists(), false)
    });
    assert!(!mount.path("corpse").exists());
    let deletes = mount.grown(&["delete", "put"], || {
        for name in ["corpse", "soon"] {
            assert_eq!(errno(fs::remove_file(mount.path(name))), Some(libc::ENOENT), "{name}");
        }
    });
    assert_eq!(deletes, [0, 0]);
    assert!(store.get("corpse").is_some() && store.get("soon").is_some());
}

#[test]
fn directories_are_made_and_removed_with_what_has_expired_in_them() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    let other = store.mounting().with("--metadata-ttl 0s").start();
    fs::create_dir(mount.path("d")).expect("mkdir");
    assert_eq!(store.expires("d/"), None);
    assert!(other.path("d").is_dir());
    assert_eq!(errno(fs::create_dir(mount.path("d"))), Some(libc::EEXIST));
    fs::write(mount.path("d/f"), "x").expect("write");
    assert_eq!(errno(fs::create_dir(mount.path("d/f"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::remove_dir(mount.path("d/f"))), Some(libc::ENOTDIR));
    assert_eq!(errno(fs::remove_file(mount.path("d"))), Some(libc::EISDIR));
    assert_eq!(errno(fs::remove_dir(mount.path("d"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(fs::remove_dir(mount.path("absent"))), Some(libc::ENOENT));
    fs::remove_file(mount.path("d/f")).expect("rm");
    let pending = File::create(mount.path("d/p")).expect("create");
    assert_eq!(errno(fs::remove_dir(mount.path("d"))), Some(libc::ENOTEMPTY));
    fs::remove_file(mount.path("d/p")).expect("rm");
    drop(pending);
    store.put_expiring("d/corpse", "x", PAST);
    store.put_expiring("d/e/corpse", "x", PAST);
    fs::remove_dir(mount.path("d/e")).expect("rmdir of a directory of corpses");
    fs::remove_dir(mount.path("d")).expect("rmdir");
    for key in ["d/", "d/corpse", "d/e/corpse"] {
        assert!(store.get(key).is_none(), "{key}");
    }
    assert!(!mount.path("d").exists() && !other.path("d").exists());

    // A directory without a marker stays when its last file goes, and can be removed.
    store.put("implied/f", "x");
    shell(
        mount.dir(),
        "rm implied/f; ls; touch implied/g; rm implied/g; rmdir implied; mkdir implied",
    );
    shell(mount.dir(), "rmdir implied; test ! -e implied");
}

#[test]
fn rmdir_of_too_many_corpses_is_refused_and_names_sweep() {
    let store = Embedded::start();
    (0..1001).for_each(|i| store.put_expiring(&format!("d/{i}"), "x", PAST));
    (0..1000).for_each(|i| store.put_expiring(&format!("e/{i}"), "x", PAST));
    let mount = store.mounting().writable().start();
    assert_eq!(errno(fs::remove_dir(mount.path("d"))), Some(libc::ENOTEMPTY));
    assert!(store.get("d/0").is_some() && store.get("d/1000").is_some());
    eventually(Duration::from_secs(10), || {
        let told = mount.said().iter().any(|line| line.contains("expirefs sweep"));
        equal("a line about it", told, true)
    });
    fs::remove_dir(mount.path("e")).expect("a thousand go");
    assert!(store.get("e/0").is_none() && store.get("e/999").is_none());
}

#[test]
fn rm_removes_a_tree_that_others_see_and_leaves_nothing() {
    let bucket = seaweedfs().bucket("rm");
    let mount = bucket.mounting().writable().start();
    let other = bucket.mounting().with("--metadata-ttl 0s").start();
    shell(
        mount.dir(),
        "mkdir -p t/a/b t/c; for i in $(seq 60); do echo $i > t/a/$i; echo $i > t/a/b/$i; done",
    );
    bucket.put("t/c/corpse", object("x").expires(PAST));
    bucket.put("t/implied/f", object("x"));
    assert_eq!(shell(other.dir(), "find t -type f | wc -l"), "121\n");
    shell(mount.dir(), "rm -rf t; test ! -e t");
    assert!(!other.path("t").exists());
    assert!(bucket.keys().is_empty(), "{:?}", bucket.keys());
}

#[test]
fn what_no_bucket_holds_is_eperm() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    shell(mount.dir(), "echo x > f");
    for change in ["ln f hard", "ln -s f soft", "mkfifo pipe"] {
        let output = attempt(mount.dir(), change);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("Operation not permitted"), "{change}: {output:?}");
    }
    shell(mount.dir(), "mkdir d; python3 -c 'import os; os.fsync(os.open(\"d\", os.O_RDONLY))'");
}

/// RenameObject keeps the Last-Modified of an object, which may be old.
#[test]
fn a_renamed_file_can_be_appended_to_at_once() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    store.put("f", "old ");
    shell(mount.dir(), "cat f >/dev/null; mv f g; printf new >> g");
    assert_eq!(&store.body("g")[..], b"old new");
}
