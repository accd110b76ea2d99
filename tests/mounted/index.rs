//! `--index FILE`: cached expiry headers outlive the mount, and whatever state the file is in,
//! listings are right.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::tmpfs::Tmpfs;
use crate::support::tools::shell;
use crate::support::wait::eventually;
use crate::support::{FUTURE, PAST};

const KEYS: usize = 60;

/// Every third has expired, every third has no `Expires`.
fn bucket() -> Embedded {
    let store = Embedded::start();
    for i in 0..KEYS {
        match i % 3 {
            0 => store.put_expiring(&name(i), "x", PAST),
            1 => store.put_expiring(&name(i), "x", FUTURE),
            _ => store.put(&name(i), "x"),
        }
    }
    store
}

fn name(i: usize) -> String {
    format!("{i:02}")
}

fn live() -> Vec<String> {
    (0..KEYS).filter(|i| !i.is_multiple_of(3)).map(name).collect()
}

/// The place of an index, in its own folder.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("index")
    }

    fn set_aside(&self) -> PathBuf {
        self.0.path().join("index.set-aside-1")
    }

    /// The names of the files in it, in order.
    fn names(&self) -> Vec<String> {
        names(self.0.path())
    }
}

/// The names of the files in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    shell(folder, "ls -A").lines().map(str::to_owned).collect()
}

fn with_index(store: &Embedded, file: &Path) -> Setup {
    store.mounting().with(&format!("--index {}", file.display()))
}

/// Lists the mount, checks that the names are the live ones, and returns the number of HEADs.
#[track_caller]
fn heads_of_ls(store: &Embedded, mount: &Mount) -> u64 {
    let before = store.requests().head;
    let names = shell(mount.dir(), "ls -f | grep -v '^\\.' | sort");
    assert_eq!(names.lines().collect::<Vec<_>>(), live());
    store.requests().head - before
}

/// Makes an index of all keys of a bucket, with a mount that ends.
#[track_caller]
fn learn(store: &Embedded, file: &Path) {
    let mount = with_index(store, file).start();
    assert_eq!(heads_of_ls(store, &mount), KEYS as u64, "HEADs of the first listing");
    assert_eq!(warnings(&mount), [""; 0]);
}

/// The output of the daemon, except the line that it has mounted.
fn warnings(mount: &Mount) -> Vec<String> {
    let said = mount.said().into_iter();
    said.filter(|line| !line.starts_with("expirefs: mounted ")).collect()
}

/// Checks that it has logged one warning, with this file and these words.
#[track_caller]
fn assert_warned(mount: &Mount, file: &Path, words: &[&str]) {
    let lines = warnings(mount);
    assert_eq!(lines.len(), 1, "one line, not {lines:#?}");
    for word in [&["WARN", file.to_str().unwrap()], words].concat() {
        assert!(lines[0].contains(word), "no {word:?} in {}", lines[0]);
    }
}

/// A mount uses the index of the one before: it requests the headers of new objects only.
#[test]
fn the_next_mount_sends_no_head_for_versions_in_the_index() {
    let (store, place) = (bucket(), Place::new());
    learn(&store, &place.file());
    assert_eq!(place.names(), ["index"]);

    let mount = with_index(&store, &place.file()).start();
    assert_eq!(heads_of_ls(&store, &mount), 0, "HEADs of the second mount's first listing");
    store.put_expiring(&name(1), "another", FUTURE);
    assert_eq!(heads_of_ls(&store, &mount), 1, "HEADs where one is replaced");
    assert_eq!(warnings(&mount), [""; 0]);
    drop(mount);

    // Lookups use it, too; and entries of the replaced version are still there.
    let mount = with_index(&store, &place.file()).with("--metadata-ttl 0s").start();
    assert_eq!(heads_of_ls(&store, &mount), 0, "HEADs of the third mount's first listing");
    let error = fs::metadata(mount.path(name(0))).expect_err("it has expired");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
}

/// The index contains headers, not verdicts: a mount with other options may judge differently.
#[test]
fn other_options_judge_cached_headers_anew() {
    let store = Embedded::start();
    store.put_expiring("unparsable", "x", "never");
    store.put_expiring("past", "x", PAST);
    store.put("plain", "x");
    let place = Place::new();
    let setup = with_index(&store, &place.file());
    let ls = |options: &str| {
        let mount = setup.clone().with(options).start();
        let before = store.requests().head;
        let names = shell(mount.dir(), "ls -A");
        (names, store.requests().head - before)
    };
    assert_eq!(ls(""), ("plain\n".to_owned(), 3));
    assert_eq!(ls("--on-unparsable fresh"), ("plain\nunparsable\n".to_owned(), 0));
    assert_eq!(ls("--default-ttl 0s"), (String::new(), 0));
}

/// A file that is not a valid index is set aside unchanged, and a new one is made and used.
#[track_caller]
fn is_set_aside(damage: impl FnOnce(&mut Vec<u8>)) {
    let (store, place) = (bucket(), Place::new());
    learn(&store, &place.file());
    let mut bytes = fs::read(place.file()).expect("the index");
    damage(&mut bytes);
    fs::write(place.file(), &bytes).expect("a damaged index");

    let mount = with_index(&store, &place.file()).start();
    assert_warned(&mount, &place.file(), &["set aside", place.set_aside().to_str().unwrap()]);
    let aside = fs::read(place.set_aside()).expect("the old file");
    let changed = aside.iter().zip(&bytes).filter(|(a, b)| a != b).count();
    // The library marks an opened file in one byte.
    assert!(aside.len() == bytes.len() && changed <= 1, "{changed} of its bytes are others");
    assert_eq!(heads_of_ls(&store, &mount), KEYS as u64, "HEADs");
    assert_eq!(place.names(), ["index", "index.set-aside-1"]);
    drop(mount);
    let mount = with_index(&store, &place.file()).start();
    assert_eq!(warnings(&mount), [""; 0], "of the new one");
    assert_eq!(heads_of_ls(&store, &mount), 0, "HEADs with the new one");
}

#[test]
fn a_file_cut_to_half_is_set_aside() {
    is_set_aside(|bytes| bytes.truncate(bytes.len() / 2));
}

#[test]
fn a_file_of_ten_bytes_is_set_aside() {
    is_set_aside(|bytes| bytes.truncate(10));
}

#[test]
fn a_file_with_flipped_bytes_is_set_aside() {
    is_set_aside(|bytes| bytes.iter_mut().step_by(997).for_each(|byte| *byte ^= 0x55));
}

/// Pages that were never written, as a crash of the machine may leave them.
#[test]
fn a_file_with_zeroes_after_its_head_is_set_aside() {
    is_set_aside(|bytes| bytes[4096..].fill(0));
}

#[test]
fn a_file_of_something_else_is_set_aside() {
    is_set_aside(|bytes| *bytes = b"dear diary\n".repeat(1000));
}

/// Damage may hit unused bytes. In any case no name is lost, and no expired one shown.
#[test]
fn no_flipped_page_makes_a_listing_wrong() {
    let (store, place) = (bucket(), Place::new());
    learn(&store, &place.file());
    let whole = fs::read(place.file()).expect("the index");
    let used = whole.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0));
    for page in used.map(|(i, _)| i) {
        let place = Place::new();
        let mut bytes = whole.clone();
        let end = bytes.len().min((page + 1) * 4096);
        bytes[page * 4096..end].iter_mut().step_by(61).for_each(|byte| *byte = !*byte);
        fs::write(place.file(), &bytes).expect("a damaged index");
        let mount = with_index(&store, &place.file()).start();
        heads_of_ls(&store, &mount);
        let warnings = warnings(&mount);
        assert!(warnings.len() <= 1, "page {page}: {warnings:#?}");
        drop(mount);
    }
}

/// Another bucket may have the same keys and ETags, with other headers.
#[test]
fn an_index_of_another_bucket_is_set_aside() {
    let (store, place) = (bucket(), Place::new());
    let other = Embedded::start();
    other.put("other", "x");
    let mount = with_index(&other, &place.file()).start();
    assert_eq!(shell(mount.dir(), "ls -A"), "other\n");
    drop(mount);

    let mount = with_index(&store, &place.file()).start();
    let (mine, its) = (store.endpoint().url.as_str(), other.endpoint().url.as_str());
    assert_warned(&mount, &place.file(), &["set aside", mine, its]);
    assert_eq!(heads_of_ls(&store, &mount), KEYS as u64, "HEADs");
    drop(mount);
    // Nothing of the set-aside index is lost.
    let mount = with_index(&other, &place.set_aside()).start();
    let before = other.requests().head;
    assert_eq!(shell(mount.dir(), "ls -A"), "other\n");
    assert_eq!(other.requests().head, before, "HEADs by the index set aside");
    assert_eq!(warnings(&mount), [""; 0]);
}

/// The mount does not use or change this file: it logs one warning, and works without an index.
#[track_caller]
fn goes_on_without(store: &Embedded, file: &Path, words: &[&str]) {
    let mount = with_index(store, file).start();
    assert_warned(&mount, file, &[&["going on without it"], words].concat());
    assert_eq!(heads_of_ls(store, &mount), KEYS as u64, "HEADs");
    assert_eq!(heads_of_ls(store, &mount), 0, "HEADs of the second listing");
}

#[test]
fn a_directory_instead_of_the_file_is_left_alone() {
    let (store, place) = (bucket(), Place::new());
    fs::create_dir(place.file()).expect("a directory");
    goes_on_without(&store, &place.file(), &[]);
    assert_eq!(place.names(), ["index"]);
    goes_on_without(&store, &place.0.path().join("no/such/folder/index"), &[]);
}

/// The first mount uses it; the second one works without it.
#[test]
fn only_one_of_two_concurrent_mounts_uses_the_index() {
    let (store, place) = (bucket(), Place::new());
    learn(&store, &place.file());
    let first = with_index(&store, &place.file()).start();
    goes_on_without(&store, &place.file(), &["another process"]);
    assert_eq!(heads_of_ls(&store, &first), 0, "HEADs of the first");
    assert_eq!(warnings(&first), [""; 0]);
    assert_eq!(place.names(), ["index"]);
}

#[test]
fn a_file_that_is_read_only_is_left_alone() {
    let (store, tmpfs) = (bucket(), Tmpfs::new("16m"));
    let file = tmpfs.path().join("index");
    tmpfs.remount("ro");
    goes_on_without(&store, &file, &["Read-only"]);
    tmpfs.remount("rw");
    learn(&store, &file);
    let bytes = fs::read(&file).expect("the index");
    tmpfs.remount("ro");
    goes_on_without(&store, &file, &["Read-only"]);
    assert!(fs::read(&file).expect("the index") == bytes, "it was changed");
    assert_eq!(names(tmpfs.path()), ["index"]);
}

/// No room for a new index: no file is left behind, and it works once there is room.
#[test]
fn a_full_disk_affects_only_the_index() {
    let (store, tmpfs) = (bucket(), Tmpfs::new("1m"));
    let file = tmpfs.path().join("index");
    let ballast = tmpfs.fill_up();
    goes_on_without(&store, &file, &["No space left"]);
    fs::remove_file(ballast).expect("room again");
    learn(&store, &file);
    let mount = with_index(&store, &file).start();
    assert_eq!(heads_of_ls(&store, &mount), 0, "HEADs once there is room");
}

/// The disk becomes full while the index is in use: the mount logs a warning and stops using it,
/// and its earlier entries are there for the next mount.
#[test]
fn a_disk_that_fills_up_breaks_no_listing() {
    const MORE: usize = 3_000;
    let (store, tmpfs) = (bucket(), Tmpfs::new("64m"));
    let file = tmpfs.path().join("index");
    learn(&store, &file);
    let mount = with_index(&store, &file).start();
    (0..MORE).for_each(|i| store.put_expiring(&format!("more/{i:04}"), "x", FUTURE));
    let ballast = tmpfs.fill_up();
    let more = || shell(mount.dir(), "ls -A more | wc -l");
    assert_eq!(more(), format!("{MORE}\n"));
    eventually(Duration::from_secs(10), || match warnings(&mount).as_slice() {
        [] => Err("no warning".to_owned()),
        _ => Ok(()),
    });
    assert_warned(&mount, &file, &["cannot be written", "going on without it"]);
    assert_eq!(more(), format!("{MORE}\n"));
    drop(mount);

    fs::remove_file(ballast).expect("room again");
    let mount = with_index(&store, &file).start();
    assert_eq!(shell(mount.dir(), "ls -A more | wc -l"), format!("{MORE}\n"));
    assert_eq!(shell(mount.dir(), "ls -A | grep -c ^[0-9]"), format!("{}\n", live().len()));
    assert_eq!(warnings(&mount), [""; 0]);
}

/// A killed daemon leaves an index that can be used, or at worst must be made again.
#[test]
fn a_killed_daemon_leaves_an_index_that_can_be_used() {
    let (store, place) = (bucket(), Place::new());
    learn(&store, &place.file());
    let mut mount = with_index(&store, &place.file()).start();
    (0..200).for_each(|i| store.put_expiring(&format!("more/{i:03}"), "x", FUTURE));
    assert_eq!(shell(mount.dir(), "ls -A more | wc -l"), "200\n");
    mount.signal(Signal::SIGKILL);
    mount.ended();
    drop(mount);
    let mount = with_index(&store, &place.file()).start();
    let before = store.requests().head;
    let names = shell(mount.dir(), "ls -A | grep '^[0-9]'");
    assert_eq!(names.lines().collect::<Vec<_>>(), live());
    assert_eq!(store.requests().head - before, 0, "HEADs for what the first mount had learnt");
    assert_eq!(shell(mount.dir(), "ls -A more | wc -l"), "200\n");
    assert_eq!(warnings(&mount), [""; 0]);
    assert_eq!(place.names(), ["index"]);
}
