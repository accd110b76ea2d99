//! Standard tools on a tree of some thousand objects, a third of them expired, see the same as on a
//! local folder with the live ones: E1, E9, E10, N4, and all bytes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use tempfile::TempDir;

use crate::support::content::{KIB, MIB, assert_same_bytes, content};
use crate::support::mount::Mount;
use crate::support::s3_server::{Bucket, Upload, moto, object, seaweedfs};
use crate::support::tools::{assert_same_lines, assert_same_tree, shell, shell_bytes};
use crate::support::{FUTURE, PAST};

/// More than a page of a listing, which has 1,000 keys.
const FLAT: usize = 1_300;
const NESTED: usize = 900;

/// Around the sizes of a page, of the kernel's requests and of SeaweedFS's chunks (4 MiB); large
/// files are rare.
const LARGE: [usize; 4] = [9 * MIB + 1, 4 * MIB, 4 * MIB + 1, MIB - 1];
const SMALL: [usize; 9] =
    [0, 1, 100, 4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 10_000, 128 * KIB, 128 * KIB + 1];

struct Tree {
    bucket: Bucket,
    /// Every key, expired or not.
    keys: BTreeSet<String>,
    /// What the mount should look like.
    reference: TempDir,
}

static TREE: LazyLock<Tree> = LazyLock::new(|| {
    let reference = tempfile::tempdir().expect("a folder");
    let keys: Vec<String> = (0..NESTED + FLAT).map(key).collect();
    let uploads: Vec<(String, Upload)> = keys
        .iter()
        .enumerate()
        .map(|(i, key)| {
            let path = reference.path().join(key);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            let bytes = bytes(i);
            let upload = match i % 6 {
                _ if is_expired(i) => object(bytes).expires(PAST),
                live => {
                    fs::write(&path, &bytes).expect("a file of the reference");
                    if live % 2 == 0 { object(bytes).expires(FUTURE) } else { object(bytes) }
                }
            };
            (key.clone(), upload)
        })
        .collect();
    let bucket = seaweedfs().bucket("tree");
    bucket.put_all(uploads);
    Tree { bucket, keys: keys.into_iter().collect(), reference }
});

fn is_expired(i: usize) -> bool {
    i.is_multiple_of(3) || key(i).starts_with("all expired/")
}

/// A third of the keys in one flat folder, the others up to five folders deep, with names that are
/// difficult in scripts and URLs, and one folder with only expired files.
fn key(i: usize) -> String {
    let n = match i.checked_sub(NESTED) {
        Some(n) => return format!("flat/{n:05}"),
        None => i,
    };
    let (a, b, c) = (n % 7, n % 5, n % 3);
    match n % 10 {
        0 => format!("{n:03}.txt"),
        1 => format!("one/{n}"),
        2 => format!("all expired/{a}/{n}.gone"),
        3 => format!("with space/a b/ {n}"),
        4 => format!("größe/日本/{a}/ü{n}"),
        5 => format!("deep/{a}/{b}/{c}/x/{n}.bin"),
        6 => format!("signs/100%/a+b=c&d/'{n}'"),
        7 => format!(".hidden/.{a}/-{n}"),
        8 => format!("deep/{a}/{b}/#{n}?"),
        _ => format!("deep/{a}/[{n}]*\"$"),
    }
}

/// For grep: a line of text in every 16th object, including expired ones.
fn bytes(i: usize) -> Bytes {
    let size = match i % 250 {
        1 => LARGE[i / 250 % LARGE.len()],
        _ => SMALL[i / 3 % SMALL.len()],
    };
    let mut bytes = content(i as u64, size).to_vec();
    if i.is_multiple_of(16) {
        bytes.extend_from_slice(format!("\nneedle {i}\n").as_bytes());
    }
    bytes.into()
}

/// A mount with an empty cache. Its metadata TTL is longer than the test, so only the first of
/// several tools waits for the store.
fn mounted() -> (Mount, &'static Path) {
    (TREE.bucket.mounting().with("--metadata-ttl 5m").start(), TREE.reference.path())
}

/// Checks that a script prints the same lines in the mount and in the reference, and prints
/// something.
#[track_caller]
fn assert_same_output(mount: &Mount, script: &str) {
    let want = shell(TREE.reference.path(), script);
    assert!(want.lines().count() > 1, "{script} says nothing: {want:?}");
    assert_same_lines(script, &shell(mount.dir(), script), &want);
}

#[test]
fn ls_and_find_list_exactly_the_live() {
    let (mount, _) = mounted();
    assert_same_output(&mount, "ls -RAp");
    let find = r"find . -mindepth 1 -type d -printf '%p/\n' -o -type f -printf '%s %p\n'";
    assert_same_output(&mount, find);
}

/// E10: a key lies below it, so it is not absent.
#[test]
fn a_folder_of_expired_files_is_empty() {
    let (mount, _) = mounted();
    // By a lookup first, then by a listing of its parent.
    for folder in ["all expired/3", "all expired", "all expired/4"] {
        assert!(fs::metadata(mount.path(folder)).expect(folder).is_dir(), "{folder}");
    }
    assert_eq!(shell(mount.dir(), "ls -A 'all expired/3'; ls -A 'all expired/4'"), "");
    assert_eq!(shell(mount.dir(), "find 'all expired' -type f"), "");
}

/// E1 for a name that is looked up and was not listed before.
#[test]
fn stat_and_open_know_exactly_the_live() {
    let (mount, reference) = mounted();
    let errno = |e: io::Error| e.raw_os_error();
    for key in (0..NESTED / 2).map(key) {
        let want = if reference.join(&key).exists() { None } else { Some(libc::ENOENT) };
        let stat = fs::symlink_metadata(mount.path(&key)).err().and_then(errno);
        assert_eq!(stat, want, "stat {key}");
        let open = File::open(mount.path(&key)).err().and_then(errno);
        assert_eq!(open, want, "open {key}");
    }
}

#[test]
fn cat_sha256sum_and_grep_read_every_byte() {
    let (mount, reference) = mounted();
    let cat = "find . -type f -print0 | sort -z | xargs -0 cat";
    let [got, want] = [mount.dir(), reference].map(|folder| shell_bytes(folder, cat));
    assert_same_bytes("cat", &got, &want);
    assert_same_output(&mount, "find . -type f -print0 | xargs -0 sha256sum");
    assert_same_output(&mount, "grep -raoE 'needle [0-9]+' .");
}

/// E9: whatever is listed, looked up or read, expired or not, the store still has every key.
#[test]
fn reading_deletes_nothing() {
    let (mount, _) = mounted();
    shell(mount.dir(), "find . -type f -exec cat {} + >/dev/null");
    let expired = (0..NESTED + FLAT).filter(|i| is_expired(*i)).map(key);
    for key in expired {
        assert!(File::open(mount.path(&key)).is_err(), "{key} can be opened");
    }
    drop(mount);
    assert_eq!(TREE.bucket.keys(), TREE.keys);
}

/// Another implementation of S3, whose responses lack headers that SeaweedFS sends.
#[test]
fn moto_is_mounted_like_seaweedfs() {
    let bucket = moto().bucket("tree");
    let keys = (0..NESTED).step_by(9).map(key).chain(["all expired/x".into(), "live/x".into()]);
    bucket.put_all(keys.map(|key| {
        let past = key.starts_with("all expired/");
        (key.clone(), object(key).expires(if past { PAST } else { FUTURE }))
    }));
    let mount = bucket.mounting().start();
    for (name, expected) in [("missing", None), ("live", Some(true)), ("all expired/x", None)] {
        let is_dir = fs::metadata(mount.path(name)).map(|meta| meta.is_dir());
        assert_eq!(
            is_dir.map_err(|e| e.raw_os_error()),
            expected.ok_or(Some(libc::ENOENT)),
            "{name}"
        );
    }
    let live: BTreeSet<String> =
        bucket.keys().into_iter().filter(|key| !key.starts_with("all expired/")).collect();
    let found = shell(mount.dir(), "find . -type f -printf '%P\\n'");
    assert_eq!(found.lines().map(str::to_owned).collect::<BTreeSet<_>>(), live);
    for key in live {
        assert_eq!(fs::read_to_string(mount.path(&key)).expect(&key), key);
    }
    assert_eq!(shell(mount.dir(), "find 'all expired' -type f"), "");
}

#[test]
fn mmap_reads_every_byte() {
    let (mount, _) = mounted();
    assert_same_output(
        &mount,
        r#"python3 - <<'END'
import hashlib, mmap, os
for folder, _, names in os.walk("."):
    for name in names:
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            print(hashlib.sha256(mapped).hexdigest(), path)
END"#,
    );
}

#[test]
fn cp_and_tar_copy_the_live_tree() {
    let (mount, reference) = mounted();
    for copy in ["cp -r --no-preserve=mode . ", "tar --mode=u+w -cf - . | tar -xf - -C "] {
        let folder = tempfile::tempdir().expect("a folder");
        shell(mount.dir(), &format!("{copy}{}", folder.path().display()));
        assert_same_tree(folder.path(), reference);
    }
}

/// By checksum: nothing to copy to the reference, and nothing to delete from it.
#[test]
fn rsync_finds_nothing_to_do() {
    let (mount, reference) = mounted();
    let dry_run = |to: &Path| {
        let script = format!("rsync -rcni --delete ./ {}/", to.display());
        shell(mount.dir(), &script)
    };
    assert_eq!(dry_run(reference), "", "rsync would change the reference");

    // A copy by rsync itself is the same, too; and rsync does notice a file with other bytes.
    let copy = tempfile::tempdir().expect("a folder");
    shell(mount.dir(), &format!("rsync -rc --chmod=u+w ./ {}/", copy.path().display()));
    assert_same_tree(copy.path(), reference);
    fs::write(copy.path().join("flat/00001"), "changed").expect("a changed file");
    let changes = dry_run(copy.path());
    assert_eq!(changes.lines().count(), 1, "{changes}");
}
