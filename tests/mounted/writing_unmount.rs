//! Unmounting while programs write, and after: what was closed is in the store, and what is open is
//! committed at its close or named (W14).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::content::{MIB, assert_same_bytes, content};
use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup, is_mounted};
use crate::support::proxy::{Answer, Fault, Proxy};
use crate::support::tools::{attempt, shell};
use crate::support::wait::{HANGS, eventually};

const UNMOUNTS: [&str; 4] =
    ["umount mnt", "fusermount3 -u mnt", "umount -l mnt", "fusermount3 -u -z mnt"];

/// Now and then umount(8) says "not mounted" on a busy machine although it has unmounted.
fn unmount(mount: &Mount, command: &str) {
    let done = attempt(mount.dir().parent().expect("a folder"), command);
    assert!(done.status.success() || !is_mounted(mount.dir()), "{command}: {done:?}");
}

/// The journal of uploads is removed at the end, whatever of the daemon still runs then.
#[test]
fn an_unmounted_daemon_leaves_nothing_in_the_directory_of_its_spool() {
    let store = Embedded::start();
    let spool = tempfile::tempdir().expect("a folder");
    let options = format!("--spool {}", spool.path().display());
    for i in 0..20 {
        let mut mount = store.mounting().writable().with(&options).start();
        fs::write(mount.path("f"), content(i, 9 * MIB)).expect("write");
        match i % 2 {
            0 => mount.signal(Signal::SIGTERM),
            _ => unmount(&mount, UNMOUNTS[0]),
        }
        mount.assert_ended_well();
        assert_eq!(fs::read_dir(spool.path()).expect("a folder").count(), 0, "at {i}");
    }
}

/// What has no commit at its close is committed in the background: a file that was only created or
/// emptied, one that waits for its rename, and one that another process has closed.
#[test]
fn what_is_closed_is_committed_also_if_it_is_unmounted_at_once() {
    let store = Embedded::start();
    let script = r#"
touch mnt/new
: > mnt/emptied
echo staged > mnt/staged.tmp
python3 -c '
import os
f = os.open("mnt/inherited", os.O_WRONLY | os.O_CREAT)
child = os.fork()
if child:
    os.close(f)
    os.waitpid(child, 0)
else:
    os.write(f, b"inherited")
    os._exit(0)
'
"#;
    for (i, command) in UNMOUNTS.into_iter().enumerate() {
        store.put("emptied", "old");
        for key in ["new", "staged.tmp", "inherited"] {
            store.delete(key);
        }
        let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
        let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).writable();
        let mut mount = setup.with("--stage *.tmp").start();
        // The commits are under way when it is unmounted.
        proxy.script(move |request| match &*request.method {
            "PUT" if i % 2 == 0 => Fault::Delay(Duration::from_millis(700)),
            _ => Fault::None,
        });
        let folder = mount.dir().parent().expect("a folder").to_owned();
        shell(&folder, &format!("{script}{command}"));
        mount.assert_ended_well();
        let said = mount.said();
        for (key, want) in
            [("new", ""), ("emptied", ""), ("staged.tmp", "staged\n"), ("inherited", "inherited")]
        {
            let got = store.get(key).map(|object| object.body);
            assert_eq!(got.as_deref(), Some(want.as_bytes()), "{command}: {key}; {said:#?}");
        }
    }
}

/// umount(8) refuses while a file is open; a lazy one lets programs write on, and their closes commit.
#[test]
fn a_lazy_unmount_lets_writers_finish() {
    for command in ["umount -l mnt", "fusermount3 -u -z mnt"] {
        let store = Embedded::start();
        store.put("old", "old");
        let mut mount = store.mounting().writable().with("--part-size 5MiB").start();
        let mut large = File::create(mount.path("large")).expect("create");
        let mut added = OpenOptions::new().append(true).open(mount.path("old")).expect("open");
        large.write_all(&content(1, 6 * MIB)).expect("write");
        added.write_all(b" and more").expect("write");
        let folder = mount.dir().parent().expect("a folder").to_owned();
        let busy = attempt(&folder, "umount mnt");
        assert!(!busy.status.success(), "umount while files are open: {busy:?}");
        unmount(&mount, command);
        assert!(!is_mounted(mount.dir()));
        assert!(store.get("large").is_none());
        large.write_all(&content(1, 12 * MIB)[6 * MIB..]).expect("write on");
        added.write_all(b", and more").expect("write on");
        nix::unistd::close(large).expect("close");
        nix::unistd::close(added).expect("close");
        mount.assert_ended_well();
        assert_same_bytes(command, &store.body("large"), &content(1, 12 * MIB));
        assert_eq!(&store.body("old")[..], b"old and more, and more");
        assert_eq!(store.uploads(), 0);
    }
}

/// Writers that run while the mount is told to end: each close that has returned 0 is in the store,
/// each file is its old version or a whole new one, and each that is lost was told.
#[test]
fn what_a_program_was_told_to_be_written_is_there_after_a_signal_among_writers() {
    const WRITERS: u8 = 6;
    let store = Embedded::start();
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).writable();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut mount = setup.clone().with("--part-size 5MiB").start();
        // Closes take a while, so that the signal meets some of them.
        proxy.script(|request| match &*request.method {
            "PUT" | "POST" => Fault::Delay(Duration::from_millis(30)),
            _ => Fault::None,
        });
        let (closed, closes) = mpsc::channel();
        let device = fs::metadata(mount.dir()).expect("stat").dev();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (path, closed) = (mount.path(writer.to_string()), closed.clone());
                // The versions that were told to be there, or may be.
                thread::spawn(move || {
                    let mut may: Vec<Vec<u8>> = Vec::new();
                    for n in 0u8.. {
                        let size = if writer == 0 { 6 * MIB } else { 2000 };
                        let bytes = vec![n; size];
                        let write = || -> io::Result<()> {
                            let mut file = File::create(&path)?;
                            if file.metadata()?.dev() != device {
                                // It was unmounted before: this is another directory.
                                fs::remove_file(&path)?;
                                return Err(io::ErrorKind::NotFound.into());
                            }
                            let written = file.write_all(&bytes);
                            Ok(nix::unistd::close(file)?).and(written)
                        };
                        match write() {
                            Ok(()) => may = vec![bytes],
                            Err(_) => {
                                may.push(bytes);
                                break;
                            }
                        }
                        _ = closed.send(());
                    }
                    may
                })
            })
            .collect();
        for _ in 0..3 * WRITERS {
            closes.recv_timeout(HANGS).expect("a close");
        }
        mount.signal(signal);
        mount.assert_ended_well();
        proxy.behave();
        for (writer, may) in writers.into_iter().enumerate() {
            let may = may.join().expect("a writer");
            let got = store.get(&writer.to_string()).map(|object| object.body.to_vec());
            let is_one = got.as_ref().is_some_and(|got| may.contains(got));
            let shown = |bytes: &Vec<u8>| (bytes.len(), bytes.first().copied());
            let may: Vec<_> = may.iter().map(shown).collect();
            assert!(is_one, "{signal}: {writer} has {:?}, not {may:?}", got.as_ref().map(shown));
        }
        eventually(HANGS, || crate::support::wait::equal("uploads", store.uploads(), 0));
    }
}

/// Nobody else can tell: the program that wrote it has closed it without an error.
#[test]
fn umount_says_that_a_closed_file_could_not_be_committed() {
    let store = Embedded::with_a_file();
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).writable();
    let mut mount = setup.with("--stage *.tmp").start();
    // The store answers when it has begun to unmount.
    let (begun, waits) = mpsc::channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    proxy.script(move |request| match request.method.as_str() {
        "PUT" => {
            let _ = waits.lock().expect("a lock").recv();
            Fault::Answer(Answer::new(403))
        }
        _ => Fault::None,
    });
    fs::write(mount.path("f.tmp"), "staged").expect("write");
    let umount = thread::scope(|threads| {
        let umount = threads.spawn(|| mount.control("umount", &[]));
        eventually(HANGS, || match File::open(mount.path("file")) {
            Ok(_) => Err("files can be opened".to_owned()),
            Err(_) => Ok(()),
        });
        drop(begun);
        umount.join().expect("it ends")
    });
    let said = String::from_utf8(umount.stderr).expect("text");
    assert_eq!(umount.status.code(), Some(1), "{said}");
    assert!(
        said.contains("1 of the files that programs had closed could not be committed"),
        "{said}"
    );
    assert!(!is_mounted(mount.dir()));
    mount.assert_ended_well();
}

/// A killed connection is no close: a file that a program was still writing is named, and is not
/// committed half.
#[test]
fn a_forced_unmount_commits_no_file_that_is_still_written() {
    let store = Embedded::start();
    store.put("f", "old");
    let mut mount = store.mounting().writable().start();
    let mut file = File::create(mount.path("f")).expect("create");
    file.write_all(b"half").expect("write");
    // umount -f ends the connection to the kernel, and fails since the file is open.
    let connection = format!("/sys/fs/fuse/connections/{}/abort", minor(&mount));
    if fs::write(&connection, "1").is_err() {
        shell("/sys/fs/fuse".as_ref(), "mount -t fusectl none connections");
        fs::write(&connection, "1").expect("fusectl");
    }
    let status = mount.ended();
    let said = mount.said().join("\n");
    assert_eq!(&store.body("f")[..], b"old");
    let named = said.lines().find(|line| line.contains("still being written"));
    assert!(named.is_some_and(|line| line.contains("key=f")), "{status}: {said}");
    nix::unistd::close(file).expect_err("a close that commits nothing");
}

/// The number of the mount's device, by which the kernel calls its connection.
fn minor(mount: &Mount) -> u64 {
    libc::minor(fs::metadata(mount.dir()).expect("stat").dev()).into()
}
