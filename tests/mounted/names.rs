//! From keys to names: N1 to N4. SeaweedFS stores objects as files in folders, so keys that no file
//! system can store are on the embedded server.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::dir_stream::DirStream;
use crate::support::embedded::Embedded;
use crate::support::mount::Setup;
use crate::support::s3_server::{object, seaweedfs};
use crate::support::tools::shell;
use crate::support::{FUTURE, PAST};

/// The names in a folder, `/` after those of folders, in order.
fn ls(folder: &Path) -> Vec<String> {
    shell(folder, "ls -Ap").lines().map(str::to_owned).collect()
}

/// N1: keys that cannot be a path are skipped, and the others are visible.
#[test]
fn keys_that_cannot_be_paths_are_skipped() {
    let store = Embedded::start();
    let long = "l".repeat(256);
    let skipped = ["/rooted", "a//b", "./c", "a/./d", "../e", "a/../f", "..", &long];
    for key in skipped.iter().copied().chain(["a/kept", "kept", &long[..255]]) {
        store.put(key, "x");
    }
    let mount = store.mounting().start();
    assert_eq!(ls(mount.dir()), ["a/", "kept", &long[..255]]);
    assert_eq!(ls(&mount.path("a")), ["kept"]);
    for path in ["a/kept", "kept", &long[..255]] {
        assert_eq!(fs::read_to_string(mount.path(path)).expect(path), "x");
    }
}

/// N2: the live file is shown, and keys below the same name are hidden.
#[test]
fn a_live_file_hides_the_folder_of_its_name() {
    let store = Embedded::start();
    store.put_expiring("foo", "file", FUTURE);
    store.put("foo/bar", "below");
    let mount = store.mounting().start();
    assert_eq!(ls(mount.dir()), ["foo"]);
    assert_eq!(fs::read_to_string(mount.path("foo")).expect("the file"), "file");
    let error = fs::read(mount.path("foo/bar")).expect_err("a file has nothing below it");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR), "{error}");
}

/// N2: an expired file hides nothing, in lookups or listings.
#[test]
fn an_expired_file_does_not_hide_the_folder_of_its_name() {
    let store = Embedded::start();
    store.put_expiring("foo", "file", PAST);
    store.put("foo/bar", "below");
    let asked = store.mounting().start();
    assert_eq!(fs::read_to_string(asked.path("foo/bar")).expect("by its path"), "below");
    let listed = store.mounting().start();
    assert_eq!(ls(listed.dir()), ["foo/"]);
    assert_eq!(ls(&listed.path("foo")), ["bar"]);
}

/// N3.
#[test]
fn a_marker_is_a_folder_and_never_a_file() {
    let store = Embedded::start();
    store.put("empty/", "");
    store.put("full/", "");
    store.put("full/file", "x");
    let mount = store.mounting().start();
    assert_eq!(ls(mount.dir()), ["empty/", "full/"]);
    assert_eq!(ls(&mount.path("empty")), [""; 0]);
    assert_eq!(ls(&mount.path("full")), ["file"]);
}

/// The mount of a prefix shows only the folder of that name, not other names that begin with it.
#[test]
fn a_prefix_can_be_mounted() {
    let bucket = seaweedfs().bucket("prefix");
    let keys = ["top", "caches/a", "caches/deep/b", "caches-of-others/c"];
    bucket.put_all(keys.map(|key| (key.to_owned(), object(key))));
    for form in ["", "s3://"] {
        let place = format!("{form}{}/caches", bucket.name);
        let mount = Setup::new(bucket.endpoint(), &place).start();
        assert_eq!(shell(mount.dir(), "find . -type f | sort"), "./a\n./deep/b\n", "{place}");
        assert_eq!(fs::read_to_string(mount.path("deep/b")).expect("b"), "caches/deep/b");
    }
}

/// N4: positions in a folder of several pages stay valid while it is open, in any order, and
/// whatever is added meanwhile.
#[test]
fn positions_in_a_folder_stay_valid() {
    const FILES: usize = 2_300;
    let store = Embedded::start();
    (0..FILES).for_each(|i| store.put(&format!("{i:04}"), "x"));
    // Without a HEAD for each file, since only the names matter here.
    let mount = store.mounting().with("--expires-from list --default-ttl 1h").start();

    let mut folder = DirStream::open(mount.dir()).expect("opendir");
    let (mut names, mut positions) = (Vec::new(), vec![folder.tell()]);
    while let Some(name) = folder.next().expect("readdir") {
        names.push(name);
        positions.push(folder.tell());
    }
    assert_eq!(names.len(), FILES + 2, "every file, `.` and `..`");
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "each of them once");

    store.put("0000-added", "x");
    for at in [FILES, 1_001, 1_000, 999, 3, FILES + 2, 2_000, 1] {
        folder.seek(positions[at]);
        let mut rest = folder.rest().expect("readdir");
        rest.retain(|name| name != "0000-added"); // may show, or not
        let same = rest.iter().zip(&names[at..]).take_while(|(got, want)| got == want).count();
        let (got, want) = (rest.get(same), names.get(at + same));
        assert_eq!(got, want, "{same} names after the {at}th position");
    }
    folder.rewind();
    let again: BTreeSet<_> = folder.rest().expect("readdir").into_iter().collect();
    let missing: Vec<_> = names.iter().filter(|name| !again.contains(*name)).take(10).collect();
    assert!(missing.is_empty(), "after rewinddir: {missing:?} are missing");
}
