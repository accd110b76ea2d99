//! Stores that ignore conditions, compare bare ETags, or take RenameObject for a PUT of an empty
//! object: each promise that needs no condition holds on them, and the mount says what is weaker
//! (W5 to W8, W17).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use expirefs::embedded::{Conditions, Contents, Effect, Mutation, Operation, Personality, replay};

use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::mount::Mount;
use crate::support::tools::{attempt, shell};

const S3: Personality = Personality::S3;

/// Each with a word of the warning at its mount.
fn stores() -> [(Personality, Option<&'static str>); 6] {
    use Conditions::{Complete, CopySource, CopyTarget, Delete, Put, Rename};
    let all = &[Put, Complete, CopySource, CopyTarget, Delete, Rename];
    [
        (S3, None),
        (Personality { bare_etags: true, ..S3 }, None),
        (Personality { takes_rename_for_put: true, ..S3 }, None),
        (Personality::GARAGE, Some("If-Match of PutObject")),
        (Personality::CEPH, Some("If-Match of CompleteMultipartUpload")),
        (Personality { ignores: all, ..S3 }, Some("If-Match of DeleteObject")),
    ]
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

/// A store of this kind with some objects, whose changes are logged from now on.
fn store_of(personality: Personality) -> Embedded {
    let store = Embedded::start();
    store.behave_as(personality);
    for key in ["a", "b", "d/c", ".expirefs", "edited", "taken"] {
        store.put(key, format!("old {key}"));
    }
    store.put("appended", content(1, 9 * MIB));
    store.keep_mutations();
    store
}

#[track_caller]
fn assert_says(mount: &Mount, personality: Personality, word: Option<&str>) {
    let status = mount.control("status", &[]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let warnings: Vec<String> =
        mount.said().into_iter().filter(|line| line.contains("does not honour")).collect();
    match word {
        None => {
            assert_eq!(warnings, [""; 0], "{personality:?}");
            assert!(status.contains("honours all conditions"), "{personality:?}: {status}");
        }
        Some(word) => {
            assert_eq!(warnings.len(), 1, "{personality:?}: {warnings:?}");
            assert!(warnings[0].contains(word), "{personality:?}: {warnings:?}");
            assert!(status.contains(word), "{personality:?}: {status}");
        }
    }
}

fn key_of(effect: &Effect) -> Option<&str> {
    match effect {
        Effect::Stored { key, .. } | Effect::Removed { key } | Effect::Begun { key, .. } => {
            Some(key)
        }
        Effect::Part { .. } | Effect::Ended { .. } => None,
    }
}

/// The proof at the start of the mount touches its own objects only, and leaves none.
#[track_caller]
fn assert_probes_only(store: &Embedded, personality: Personality) {
    let log = store.mutations();
    let before = store_keys(&log, true);
    let touched = store_keys(&log, false);
    let strange: Vec<_> = touched.iter().filter(|key| !key.contains(".expirefs-probe-")).collect();
    assert!(!touched.is_empty() && strange.is_empty(), "{personality:?}: {strange:?}");
    let after = replay(&log);
    assert_eq!(after.objects.keys().map(String::as_str).collect::<BTreeSet<_>>(), before);
    assert!(after.uploads.is_empty(), "{personality:?}: {:?}", after.uploads);
}

/// The keys that were there before, or that a request has changed.
fn store_keys(log: &[Mutation], inside: bool) -> BTreeSet<&str> {
    let is_inside = |mutation: &Mutation| mutation.operation == Operation::Inside;
    let of = log.iter().filter(|mutation| is_inside(mutation) == inside);
    of.flat_map(|mutation| mutation.effects.iter().filter_map(key_of)).collect()
}

/// At each moment each key holds one whole version, and what is renamed is under one of its names.
#[track_caller]
fn assert_whole_at_each_moment(log: &[Mutation], personality: Personality) {
    let versions: [(&str, &[&[u8]]); 4] = [
        ("a", &[b"old a", b"new a"]),
        ("renamed", &[b"new a"]),
        ("b", &[b"old b", b"tmp"]),
        ("edited", &[b"old edited", b"OLD edited", b"OLD edited, more"]),
    ];
    let mut contents = Contents::default();
    let mut is_written = false;
    for mutation in log {
        contents.apply(mutation);
        for (key, whole) in versions {
            if let Some(object) = contents.objects.get(key) {
                assert!(whole.contains(&&object.body[..]), "{personality:?}: {key} {object:?}");
            }
        }
        if let Some(object) = contents.objects.get("large") {
            assert_eq!(object.body.len(), 9 * MIB, "{personality:?}");
        }
        // "a" is renamed to "renamed", after it was replaced.
        let has = |key: &str| contents.objects.get(key).is_some_and(|it| it.body[..] == *b"new a");
        is_written |= has("a");
        assert!(!is_written || has("a") || has("renamed"), "{personality:?}: a is lost");
        // "b" is replaced by a rename: it is there all the time.
        let begun = contents.objects.contains_key("taken");
        assert!(!begun || contents.objects.contains_key("b"), "{personality:?}: b is lost");
    }
}

/// What needs no other writer to be kept out.
fn run_programs(mount: &Mount) {
    let path = |name: &str| mount.path(name);
    fs::write(path("a"), "new a").expect("replace");
    fs::write(path("large"), content(2, 9 * MIB)).expect("a file of two parts");
    fs::rename(path("a"), path("renamed")).expect("rename");
    fs::write(path("x.tmp"), "tmp").expect("write");
    fs::rename(path("x.tmp"), path("b")).expect("rename over another");
    let edited = File::options().write(true).open(path("edited")).expect("open");
    edited.write_all_at(b"OLD", 0).expect("edit");
    nix::unistd::close(edited).expect("close");
    let append = |name: &str, bytes: &[u8]| {
        let mut file = OpenOptions::new().append(true).open(path(name)).expect("open");
        file.write_all(bytes).expect("append");
        nix::unistd::close(file).expect("close");
    };
    append("edited", b", more");
    append("appended", b"the end");
    // O_EXCL and RENAME_NOREPLACE.
    assert_eq!(errno(File::create_new(path("taken"))), Some(libc::EEXIST));
    let mut new = File::create_new(path("new")).expect("a new name");
    new.write_all(b"new").expect("write");
    nix::unistd::close(new).expect("close");
    // mv(1) tries RENAME_NOREPLACE, and does nothing if that is refused.
    let refused = attempt(mount.dir(), "mv -n new taken; cat new");
    assert_eq!(refused.stdout, b"new", "{refused:?}");
    shell(mount.dir(), "setfattr -n user.expirefs.ttl -v 2h edited; mv -n new moved");
    fs::remove_file(path("d/c")).expect("unlink");
    shell(mount.dir(), "rmdir d; mkdir e; rmdir e");
}

#[test]
fn on_weak_stores_nothing_is_lost_or_half_written_and_the_mount_says_what_is_weaker() {
    for (personality, word) in stores() {
        let store = store_of(personality);
        let mount = store.mounting().writable().start();
        assert_probes_only(&store, personality);
        assert_says(&mount, personality, word);
        run_programs(&mount);
        let appended = [&content(1, 9 * MIB)[..], b"the end"].concat();
        let want: [(&str, &[u8]); 7] = [
            ("renamed", b"new a"),
            ("b", b"tmp"),
            ("edited", b"OLD edited, more"),
            ("taken", b"old taken"),
            ("moved", b"new"),
            ("large", &content(2, 9 * MIB)),
            ("appended", &appended),
        ];
        for (key, bytes) in want {
            let same = store.body(key)[..] == *bytes;
            let read = fs::read(mount.path(key)).expect("read") == bytes;
            assert!(same && read, "{personality:?}: {key}");
        }
        for gone in ["a", "x.tmp", "new", "d/c"] {
            assert!(store.get(gone).is_none(), "{personality:?}: {gone}");
        }
        assert_eq!(store.uploads(), 0, "{personality:?}");
        assert_whole_at_each_moment(&store.mutations(), personality);
    }
}

/// A HEAD right before the change stands in for a condition that is ignored: what another client has
/// done before is not undone.
#[test]
fn on_weak_stores_what_another_client_has_written_before_is_not_overwritten_by_an_edit() {
    for (personality, _) in stores() {
        let store = store_of(personality);
        let mount = store.mounting().writable().with("--metadata-ttl 10m").start();
        for key in ["edited", "appended"] {
            let mut file = OpenOptions::new().append(true).open(mount.path(key)).expect("open");
            file.write_all(b"more").expect("write");
            store.put(key, "another's");
            assert_eq!(errno(file.sync_all()), Some(libc::ESTALE), "{personality:?}: {key}");
            drop(file);
            assert_eq!(&store.body(key)[..], b"another's", "{personality:?}");
        }
        // The mount has not seen it.
        let mut new = File::create_new(mount.path("new")).expect("create");
        new.write_all(b"mine").expect("write");
        store.put("new", "another's");
        assert_eq!(errno(new.sync_all()), Some(libc::EEXIST), "{personality:?}");
        drop(new);
        assert_eq!(&store.body("new")[..], b"another's", "{personality:?}");
        assert_eq!(store.uploads(), 0, "{personality:?}");
    }
}
