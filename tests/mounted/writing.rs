//! Writing as programs do it: when what they write becomes an object, who sees it when, and what is
//! read back before (W2-W5, W13-W15).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::content::{KIB, MIB, assert_content, assert_same_bytes, content};
use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::tools::shell;
use crate::support::wait::{equal, eventually};

/// The server, a writable mount of it, and another mount that keeps nothing in mind.
fn writing() -> (Embedded, Mount, Mount) {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    let other = store.mounting().with("--metadata-ttl 0s").start();
    (store, mount, other)
}

fn alone() -> (Embedded, Mount) {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    (store, mount)
}

fn at_least(what: &str, got: i64, least: i64) -> Result<(), String> {
    if got >= least { Ok(()) } else { Err(format!("{what}: {got}, under {least}")) }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("ls");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_seen_by_nobody_else_before_its_commit_and_by_everybody_after_its_close() {
    let (store, mount, other) = writing();
    for size in [5, 100 * KIB, 20 * MIB + 5] {
        let (name, bytes) = (format!("f{size}"), content(1, size));
        let mut file = File::create(mount.path(&name)).expect("create");
        file.write_all(&bytes).expect("write");
        // Here it is there at once, to its last byte.
        assert!(names(mount.dir()).contains(&name), "ls");
        assert_eq!(fs::metadata(mount.path(&name)).expect("stat").len(), size as u64);
        assert_content(&mount.path(&name), 1, size);
        assert!(store.get(&name).is_none(), "{name} is an object already");
        assert!(!other.path(&name).exists(), "{name} is seen");
        assert!(!names(other.dir()).contains(&name), "{name} is listed");
        drop(file);
        assert_same_bytes(&name, &store.body(&name), &bytes);
        assert_content(&other.path(&name), 1, size);
        assert_content(&mount.path(&name), 1, size);
    }
    assert_eq!(store.uploads(), 0);
}

#[test]
fn a_small_file_is_one_put_and_a_large_one_is_one_upload() {
    let (store, mount) = alone();
    let all = ["put", "create_upload", "upload_part", "complete_upload", "copy", "delete", "list"];
    let small = mount.grown(&all, || fs::write(mount.path("small"), "small").expect("write"));
    assert_eq!(small[..6], [1, 0, 0, 0, 0, 0]);
    let large = content(1, 20 * MIB);
    let large = mount.grown(&all, || fs::write(mount.path("large"), &large).expect("write"));
    assert_eq!(large[..6], [0, 1, 3, 1, 0, 0]);
    assert_content(&mount.path("large"), 1, 20 * MIB);
    assert_eq!(store.uploads(), 0);
}

#[test]
fn fsync_commits_and_what_is_written_later_is_committed_later() {
    let (store, mount, other) = writing();
    let mut file = File::create(mount.path("log")).expect("create");
    file.write_all(b"one ").expect("write");
    file.sync_all().expect("fsync");
    assert_eq!(&store.body("log")[..], b"one ");
    assert_eq!(fs::read(other.path("log")).expect("read"), b"one ");
    file.write_all(b"two").expect("write");
    assert_eq!(&store.body("log")[..], b"one ");
    assert_eq!(fs::read(mount.path("log")).expect("read here"), b"one two");
    let puts = mount.grown(&["put"], || file.sync_data().expect("fdatasync"));
    assert_eq!(puts, [1]);
    assert_eq!(&store.body("log")[..], b"one two");
    let puts = mount.grown(&["put"], || {
        file.sync_all().expect("fsync of what is committed");
        drop(file);
    });
    assert_eq!(puts, [0]);
    assert_eq!(fs::read(other.path("log")).expect("read"), b"one two");
}

/// A forked child closes its duplicates of all descriptors when it ends: that is no wish of anybody.
#[test]
fn a_close_in_a_forked_child_commits_nothing() {
    let (store, mount) = alone();
    let script = r#"python3 -c '
import os, sys
f = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(f, b"half ")
pid = os.fork()
if pid == 0:
    os.close(f)
    os._exit(0)
os.waitpid(pid, 0)
sys.stdout.write("forked\n"); sys.stdout.flush()
sys.stdin.readline()
os.write(f, b"and half")
os.close(f)'"#;
    let mut python = std::process::Command::new("bash")
        .args(["-c", &format!("exec {script}")])
        .current_dir(mount.dir())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("bash");
    let mut said = [0; 7];
    python.stdout.take().expect("it is piped").read_exact(&mut said).expect("its word");
    assert_eq!(&said, b"forked\n");
    assert!(store.get("f").is_none(), "committed by the child");
    python.stdin.take().expect("it is piped").write_all(b"\n").expect("go on");
    assert!(python.wait().expect("its end").success());
    assert_eq!(&store.body("f")[..], b"half and half");
}

/// The shell opens, duplicates and closes before anything is written; what it runs writes.
#[test]
fn redirections_of_the_shell_commit_what_was_written_once() {
    let (store, mount) = alone();
    let run = |script: &str| mount.grown(&["put"], || shell(mount.dir(), script));
    assert_eq!(run("echo one > f"), [1]);
    assert_eq!(&store.body("f")[..], b"one\n");
    assert_eq!(run("echo two >> f"), [1]);
    assert_eq!(&store.body("f")[..], b"one\ntwo\n");
    assert_eq!(run("cat < /etc/hostname > g"), [1]);
    run("(echo a; /bin/echo b; echo c) > h; cat h > i");
    assert_eq!(
        (&store.body("h")[..], &store.body("i")[..]),
        (&b"a\nb\nc\n"[..], &b"a\nb\nc\n"[..])
    );
    run(
        ": > f; printf x | tee j > /dev/null; set -o noclobber; echo n > new; ! (echo n > new) 2> /dev/null",
    );
    eventually(Duration::from_secs(5), || equal("f", store.body("f").len(), 0));
    assert_eq!((&store.body("j")[..], &store.body("new")[..]), (&b"x"[..], &b"n\n"[..]));
}

#[test]
fn an_empty_file_is_an_object_after_its_last_close() {
    let (store, mount) = alone();
    drop(File::create(mount.path("empty")).expect("create"));
    shell(mount.dir(), "touch touched; : > colon; truncate -s 0 cut; cp /dev/null copied");
    for name in ["empty", "touched", "colon", "cut", "copied"] {
        // A release is not waited for by close(2).
        eventually(Duration::from_secs(5), || {
            store.get(name).map(|object| assert!(object.body.is_empty())).ok_or(name.to_owned())
        });
        assert_eq!(fs::metadata(mount.path(name)).expect(name).len(), 0);
    }
}

/// As nginx does with what it caches: the temporary file is read back and renamed before it is closed.
#[test]
fn a_rename_commits_an_open_file_under_its_new_name_with_one_put() {
    let (store, mount, other) = writing();
    fs::create_dir(mount.path("a")).expect("mkdir");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path("a/tmp.1"))
        .expect("create");
    file.write_all(b"KEY: x\n\nbody").expect("write");
    let mut back = [0; 4];
    file.read_exact_at(&mut back, 8).expect("read back");
    assert_eq!(&back, b"body");
    let all = ["put", "copy", "delete", "rename"];
    let requests = mount.grown(&all, || {
        fs::rename(mount.path("a/tmp.1"), mount.path("a/entry")).expect("rename");
        assert_eq!(file.metadata().expect("fstat").len(), 12);
        assert_eq!(fs::read(other.path("a/entry")).expect("read"), b"KEY: x\n\nbody");
        drop(file);
    });
    assert_eq!(requests, [1, 0, 0, 0], "{all:?}");
    assert!(store.get("a/tmp.1").is_none());
    assert_eq!(names(&mount.path("a")), ["entry"]);
    assert_eq!(fs::read(mount.path("a/entry")).expect("read here"), b"KEY: x\n\nbody");

    // It goes on writing to what it has renamed, and the new name gets that too.
    let mut file = File::create(mount.path("a/tmp.2")).expect("create");
    file.write_all(b"first").expect("write");
    fs::rename(mount.path("a/tmp.2"), mount.path("a/entry")).expect("rename over it");
    file.write_all(b" and second").expect("write on");
    drop(file);
    assert_eq!(&store.body("a/entry")[..], b"first and second");
    assert_eq!(fs::read(mount.path("a/entry")).expect("read here"), b"first and second");
    assert_eq!(names(&mount.path("a")), ["entry"]);
}

/// Against a file of this host: the same calls, the same bytes.
#[test]
fn bytes_may_be_written_in_any_order_read_back_cut_off_and_grown() {
    let (store, mount) = alone();
    let local = tempfile::tempdir().expect("a folder");
    let open = |path: &Path| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(path).expect("create")
    };
    let files = [open(&mount.path("f")), open(&local.path().join("f"))];
    let same = |what: &str| {
        let [got, want] = files.each_ref().map(|mut file| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0)).expect("seek");
            file.read_to_end(&mut bytes).expect("read");
            bytes
        });
        assert_same_bytes(what, &got, &want);
        want
    };
    let piece = content(7, 3 * MIB + 11);
    let write = |offset: usize, length: usize| {
        let bytes = &piece[offset % MIB..][..length];
        files.iter().for_each(|file| file.write_all_at(bytes, offset as u64).expect("write"));
    };
    // Beyond the end, over what is there, over the edge of a part, the header last.
    write(10 * MIB + 5, MIB);
    write(100, 200 * KIB);
    write(8 * MIB - 1000, 2000);
    same("with holes");
    write(17 * MIB, 2 * MIB);
    write(0, 4 * KIB);
    write(3 * MIB, 2 * MIB + 1);
    same("filled");
    for size in [18 * MIB + 7, 9 * MIB + 1, 12 * MIB] {
        files.iter().for_each(|file| file.set_len(size as u64).expect("truncate"));
        same("cut off and grown");
    }
    write(9 * MIB, 10);
    let want = same("written once more");
    files.iter().for_each(|file| file.sync_all().expect("fsync"));
    assert_same_bytes("the object", &store.body("f"), &want);
    // An edit of what is committed, in the same descriptor.
    write(11 * MIB, 100);
    files.iter().for_each(|file| file.set_len(5 * MIB as u64).expect("truncate"));
    write(5 * MIB + 3, 4);
    let want = same("after the commit");
    drop(files);
    assert_same_bytes("the object", &store.body("f"), &want);
    assert_same_bytes("here", &fs::read(mount.path("f")).expect("read"), &want);
    assert_eq!(store.uploads(), 0);
}

#[test]
fn fallocate_makes_a_file_longer_and_keeps_what_is_in_it() {
    let (store, mount) = alone();
    shell(
        mount.dir(),
        "echo content > f; fallocate -l 100 f; fallocate -l 50 f; fallocate -n -l 999 f",
    );
    let body = store.body("f");
    assert_eq!((&body[..8], body.len()), (&b"content\n"[..], 100));
    assert!(body[8..].iter().all(|byte| *byte == 0));
    let refused = "! fallocate -p -o 0 -l 4 f 2> /dev/null; cat f | wc -c";
    assert_eq!(shell(mount.dir(), refused), "100\n");
}

#[test]
fn a_mapped_file_is_written_through_its_mapping() {
    let (store, mount) = alone();
    let script = r#"python3 -c '
import mmap, os
f = os.open("f", os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 3 << 20)
with mmap.mmap(f, 3 << 20) as m:
    m[0:5] = b"start"
    m[(2 << 20):(2 << 20) + 3] = b"mid"
    m[-3:] = b"end"
    m.flush()
    os.fsync(f)
    m[0:5] = b"START"
os.close(f)
# The mapping outlives the descriptor.
f = os.open("g", os.O_RDWR | os.O_CREAT)
os.write(f, b"." * 10000)
m = mmap.mmap(f, 10000)
os.close(f)
m[5000:5004] = b"late"
m.close()
'"#;
    shell(mount.dir(), script);
    let body = store.body("f");
    assert_eq!((&body[..5], &body[2 * MIB..2 * MIB + 3]), (&b"START"[..], &b"mid"[..]));
    assert_eq!((body.len(), &body[3 * MIB - 3..]), (3 * MIB, &b"end"[..]));
    eventually(Duration::from_secs(5), || {
        equal("what was mapped last", &store.body("g")[5000..5004], &b"late"[..])
    });
}

/// R1 where the writer is on the same mount.
#[test]
fn readers_that_have_the_old_version_open_keep_it() {
    let (store, mount) = alone();
    let old = content(1, 12 * MIB);
    store.put("f", old.clone());
    let reader = File::open(mount.path("f")).expect("open");
    let mut first = vec![0; MIB];
    reader.read_exact_at(&mut first, 0).expect("read");

    // Replaced by another program, then edited by one more.
    fs::write(mount.path("f"), content(2, 10 * MIB)).expect("overwrite");
    assert_content(&mount.path("f"), 2, 10 * MIB);
    let second = File::open(mount.path("f")).expect("open");
    let edit = OpenOptions::new().write(true).open(mount.path("f")).expect("open for writing");
    edit.write_all_at(b"edited", 0).expect("edit");
    let mut third = [0; 6];
    File::open(mount.path("f")).expect("open").read_exact_at(&mut third, 0).expect("read");
    assert_eq!(&third, b"edited", "a new reader gets what was written so far");
    drop(edit);
    assert_eq!(&store.body("f")[..6], b"edited");

    let all = |file: &File, size| {
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    };
    assert_same_bytes("the second version", &all(&second, 10 * MIB), &content(2, 10 * MIB));
    // Pages that are here; the rest is of an object that is gone.
    assert_same_bytes("the first version", &all(&reader, MIB), &old[..MIB]);
    let mut rest = vec![0; 10 * MIB];
    match reader.read_exact_at(&mut rest, 2 * MIB as u64) {
        Ok(()) => assert_same_bytes("the first version", &rest, &old[2 * MIB..]),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE)),
    }
}

/// As nginx checks that what it is about to change is what it has read.
#[test]
fn an_edit_has_the_inode_number_of_what_is_read_until_it_is_committed() {
    let (store, mount) = alone();
    store.put("f", "old");
    let number = |file: &File| file.metadata().expect("fstat").ino();
    let reader = File::open(mount.path("f")).expect("open");
    let edit = OpenOptions::new().read(true).write(true).open(mount.path("f")).expect("open");
    assert_eq!(number(&edit), number(&reader));
    edit.write_all_at(b"new", 0).expect("write");
    assert_eq!(number(&edit), number(&reader));
    assert_eq!(fs::metadata(mount.path("f")).expect("stat").ino(), number(&reader));
    drop(edit);
    let replaced = File::open(mount.path("f")).expect("open");
    assert_ne!(number(&replaced), number(&reader), "another version");
    assert_eq!(fs::read_to_string(mount.path("f")).expect("read"), "new");
}

/// Each commit is whole: of two writers at one time the later one wins, and no byte of the other.
#[test]
fn of_two_mounts_that_write_one_name_the_last_commit_wins() {
    let store = Embedded::start();
    let mounts = [(); 2].map(|()| store.mounting().writable().with("--metadata-ttl 0s").start());
    for size in [10 * KIB, 18 * MIB] {
        let files = mounts.each_ref().map(|mount| File::create(mount.path("f")).expect("create"));
        for (seed, mut file) in (1..).zip(&files) {
            file.write_all(&content(seed, size)).expect("write");
        }
        let [first, second] = files;
        drop(second);
        assert_content(&mounts[0].path("f"), 1, size); // its own, still open
        assert_content(&mounts[1].path("f"), 2, size);
        drop(first);
        for mount in &mounts {
            eventually(Duration::from_secs(5), || {
                let bytes = fs::read(mount.path("f")).map_err(|e| e.to_string())?;
                equal("the last one", bytes == content(1, size), true)
            });
        }
    }
    // Many names, many times, from both.
    std::thread::scope(|scope| {
        for (seed, mount) in (0..).zip(&mounts) {
            for thread in 0..4 {
                scope.spawn(move || {
                    for i in 0..20 {
                        let path = mount.path(format!("n{}", (i + thread) % 5));
                        fs::write(path, content(seed, 1000 + i)).expect("write");
                    }
                });
            }
        }
    });
    for mount in &mounts {
        for name in names(mount.dir()) {
            let bytes = fs::read(mount.path(&name)).expect("read");
            assert!((0..2).any(|seed| bytes == content(seed, bytes.len())), "{name}");
            assert_same_bytes(&name, &bytes, &store.body(&name));
        }
    }
}

/// W14: what a program still writes is named, what is closed is committed.
#[test]
fn unmounting_names_files_that_are_still_written_and_commits_none_of_them() {
    let store = Embedded::start();
    let mut mount = store.mounting().writable().with("--stage *.tmp").start();
    fs::write(mount.path("done"), "done").expect("write");
    fs::write(mount.path("staged.tmp"), "staged").expect("write");
    let mut half = File::create(mount.path("half")).expect("create");
    half.write_all(&content(1, 20 * MIB)).expect("write");
    mount.signal(Signal::SIGTERM);
    assert!(mount.ended().success());
    let said = mount.said().join("\n");
    let named = said.lines().find(|line| line.contains("still being written"));
    assert!(named.is_some_and(|line| line.contains("half")), "{said}");
    assert!(half.write_all(b"more").is_err());
    drop(half);
    assert_eq!(
        (&store.body("done")[..], &store.body("staged.tmp")[..]),
        (&b"done"[..], &b"staged"[..])
    );
    assert!(store.get("half").is_none());
    assert_eq!(store.uploads(), 0);
}

/// W16.
#[test]
fn a_staged_file_is_one_put_under_its_new_name_or_is_committed_after_a_while() {
    let store = Embedded::start();
    let mount = store.mounting().writable().with("--stage *.tmp").start();
    let all = ["put", "copy", "delete", "rename"];
    let requests = mount.grown(&all, || {
        for i in 0..5 {
            shell(mount.dir(), &format!("echo {i} > {i}.tmp; mv {i}.tmp {i}"));
        }
    });
    assert_eq!(requests, [5, 0, 0, 0], "{all:?}");
    assert_eq!(&store.body("3")[..], b"3\n");
    fs::write(mount.path("left.tmp"), "left").expect("write");
    assert!(store.get("left.tmp").is_none());
    assert_eq!(fs::read(mount.path("left.tmp")).expect("read"), b"left");
    eventually(Duration::from_secs(8), || {
        store.get("left.tmp").map(drop).ok_or("it is not committed".to_owned())
    });
    assert_eq!(&store.body("left.tmp")[..], b"left");
}

/// W4.
#[test]
fn without_a_spool_files_are_written_in_order_only() {
    let store = Embedded::start();
    let mount = store.mounting().writable().with("--no-spool").start();
    fs::write(mount.path("large"), content(1, 30 * MIB)).expect("write in order");
    assert_content(&mount.path("large"), 1, 30 * MIB);
    // Cut off at the end of a part that has left.
    let file = File::create(mount.path("cut")).expect("create");
    file.write_all_at(&content(3, 20 * MIB), 0).expect("write in order");
    let sent = || at_least("parts sent", mount.status().number("requests.upload_part"), 6);
    eventually(Duration::from_secs(10), sent);
    file.set_len(8 * MIB as u64).expect("truncate");
    file.sync_all().expect("fsync");
    drop(file);
    assert_same_bytes("cut", &store.body("cut"), &content(3, 8 * MIB));
    let file = File::create(mount.path("f")).expect("create");
    file.write_all_at(&content(2, 20 * MIB), 0).expect("write in order");
    // The parts may not have left yet.
    let errno = eventually(Duration::from_secs(10), || {
        let refused = file.write_all_at(b"header", 0).err().ok_or("it is written".to_owned())?;
        Ok(refused.raw_os_error())
    });
    assert_eq!(errno, Some(libc::EOPNOTSUPP));
    let told = |line: &&String| line.contains("out of order") && line.contains("--no-spool");
    let lines = || equal("lines about it", mount.said().iter().filter(told).count(), 1);
    eventually(Duration::from_secs(5), lines);
    drop(file);
    assert!(store.get("f").is_none(), "a prefix was published");
    eventually(Duration::from_secs(5), || equal("uploads", store.uploads(), 0));
}

/// W4 and W13.
#[test]
fn a_full_spool_is_enospc_which_sticks() {
    let store = Embedded::start();
    let spool = tempfile::tempdir().expect("a folder");
    let setup: Setup = store.mounting().writable();
    let setup = setup.with(&format!("--spool {}", spool.path().display()));
    let mount = setup.with("--spool-size 8MiB --buffer-memory 16MiB --timeout 5s").start();
    let file = File::create(mount.path("f")).expect("create");
    let written = (0..100).find_map(|i| {
        // Each in a part of its own, and none of them full.
        file.write_all_at(&content(1, 5 * MIB), (i * 8 * MIB) as u64).err()
    });
    assert_eq!(written.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    let errnos = [
        file.write_all_at(b"x", 0).err().and_then(|e| e.raw_os_error()),
        file.sync_all().err().and_then(|e| e.raw_os_error()),
    ];
    assert_eq!(errnos, [Some(libc::ENOSPC); 2]);
    drop(file);
    assert!(store.get("f").is_none());
    assert!(!mount.path("f").exists());
    fs::write(mount.path("g"), content(2, 7 * MIB)).expect("there is room again");
    assert_content(&mount.path("g"), 2, 7 * MIB);
    eventually(Duration::from_secs(5), || equal("uploads", store.uploads(), 0));
}

/// Kills the daemon while 20 programs write, and mounts again: each object is the old one or a
/// complete new one, and no upload is left.
#[test]
fn a_killed_daemon_leaves_no_half_object_and_the_next_mount_no_upload() {
    const FILES: u8 = 20;
    const SIZE: usize = 40 << 20;
    let store = Embedded::start();
    let spool = tempfile::tempdir().expect("a folder");
    let setup = store.mounting().writable().with(&format!("--spool {}", spool.path().display()));
    let key = |n: u8| format!("f{n}");
    let old = |n: u8| vec![n; 1000];
    (0..FILES / 2).for_each(|n| store.put(&key(n), old(n)));
    let mut mount = setup.start();
    let half = Arc::new(Barrier::new(usize::from(FILES) + 1));
    let writers: Vec<_> = (0..FILES)
        .map(|n| {
            let path = mount.dir().join(key(n));
            let half = half.clone();
            // The standard library does not say whether close(2) failed.
            let write = move || {
                let mut file = File::create(path)?;
                let content = vec![n + 100; SIZE];
                file.write_all(&content[..SIZE / 2])?;
                half.wait();
                file.write_all(&content[SIZE / 2..])?;
                file.sync_all()
            };
            std::thread::spawn(move || write().is_ok())
        })
        .collect();
    // Some of their uploads are being created, others have parts.
    half.wait();
    mount.signal(Signal::SIGKILL);
    let synced: Vec<bool> = writers.into_iter().map(|it| it.join().expect("a writer")).collect();
    for n in 0..FILES {
        let got = store.get(&key(n)).map(|_| store.body(&key(n)).to_vec());
        let (is_old, is_new) = match &got {
            None => (n >= FILES / 2, false),
            Some(bytes) => (n < FILES / 2 && *bytes == old(n), *bytes == vec![n + 100; SIZE]),
        };
        assert!(is_old || is_new, "{n}: {:?} bytes", got.map(|bytes| bytes.len()));
        assert!(is_new || !synced[usize::from(n)], "{n}: fsync succeeded and the bytes are lost");
    }
    mount.ended();
    let _again = setup.with("--replace-dead").start_on(mount.dir());
    eventually(Duration::from_secs(30), || equal("uploads", store.uploads(), 0));
}

/// A new expiry and a rename make another version under the inode that readers have open. What is
/// written to the file afterwards is not what they read.
#[test]
fn readers_keep_their_bytes_when_a_file_is_stamped_anew_or_renamed_and_then_overwritten() {
    let (store, mount) = alone();
    let old = content(1, MIB);
    for (name, change) in [("f", "setfattr -n user.expirefs.ttl -v 2h f"), ("g", "mv g h; mv h g")]
    {
        store.put(name, old.clone());
        let mut file = File::open(mount.path(name)).expect("open");
        let mut first = vec![0; MIB / 2];
        file.read_exact(&mut first).expect("read");
        shell(
            mount.dir(),
            &format!("{change}; printf new | dd of={name} conv=notrunc status=none"),
        );
        let mut again = vec![0; MIB / 2];
        file.read_exact_at(&mut again, 0).expect("read again");
        assert_same_bytes(change, &again, &old[..MIB / 2]);
        drop(file);
        assert_same_bytes(change, &fs::read(mount.path(name)).expect("read")[..3], b"new");
    }
}
