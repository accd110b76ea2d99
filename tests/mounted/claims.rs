//! M2 and M3: several daemons on one mount point, and a mount point that is moved.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::embedded::Embedded;
use crate::support::mount::{Setup, detach};
use crate::support::stuck::end_of;
use crate::support::wait::{equal, eventually};

const BOUND: Duration = Duration::from_secs(60);
const DAEMONS: usize = 5;
const ROUNDS: usize = 5;

/// Daemons and a mount point, killed and cleared at the end of a test, even if it fails.
struct Rivals<'a>(Vec<Child>, &'a Path);

impl Drop for Rivals<'_> {
    fn drop(&mut self) {
        for child in &mut self.0 {
            _ = child.kill();
            _ = child.wait();
        }
        while mounts(self.1) > 0 {
            detach(self.1);
        }
    }
}

/// The number of mounts on exactly this directory.
fn mounts(dir: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let dir = dir.to_str();
    table.lines().filter(|row| row.split(' ').nth(4) == dir).count()
}

fn start(setup: &Setup, dir: &Path, runtime: &Path) -> Child {
    let mut daemon = setup.command(dir, runtime);
    daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    daemon.spawn().expect("a daemon")
}

fn said(child: &mut Child) -> String {
    let mut said = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
    said
}

/// Starts several at once: one mounts, the others report why they do not, and it is mounted once.
#[track_caller]
fn assert_one_wins(setup: &Setup, dir: &Path, runtime: &Path) -> Child {
    let daemons = (0..DAEMONS).map(|_| start(setup, dir, runtime)).collect();
    let mut rivals = Rivals(daemons, dir);
    let mut refused = 0;
    eventually(BOUND, || {
        rivals.0.retain_mut(|child| {
            let Some(status) = child.try_wait().expect("its status") else { return true };
            let said = said(child);
            assert_eq!(status.code(), Some(1), "{status}: {said}");
            assert!(said.contains("is an expirefs mount already"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            refused += 1;
            false
        });
        equal("the daemons that were refused", refused, DAEMONS - 1)
    });
    eventually(BOUND, || equal("mounts", mounts(dir), 1));
    assert_eq!(fs::read_to_string(dir.join("file")).expect("the mount works"), "x");
    rivals.0.pop().expect("the winner")
}

#[test]
fn one_of_several_concurrent_mounts_on_a_directory_succeeds() {
    let server = Embedded::start();
    server.put("file", "x");
    let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("its path");
    let [dir, runtime] = ["mnt", "run"].map(|name| root.join(name));
    for path in [&dir, &runtime] {
        fs::create_dir(path).expect("a folder in it");
    }
    for _ in 0..ROUNDS {
        let winner = assert_one_wins(&server.mounting(), &dir, &runtime);
        let mut winner = Rivals(vec![winner], &dir);
        // A dead mount is replaced once, too.
        winner.0[0].kill().expect("kill");
        winner.0[0].wait().expect("its end");
        let replacing = server.mounting().with("--replace-dead");
        let last = assert_one_wins(&replacing, &dir, &runtime);
        winner.0.push(last);
        let last = &mut winner.0[1];
        kill(Pid::from_raw(last.id() as i32), Signal::SIGTERM).expect("a signal");
        let status = end_of(last);
        assert!(status.success(), "{status}: {}", said(last));
        assert_eq!(mounts(&dir), 0);
    }
}

/// M3: a mount moves with its parent directory. It is unmounted at its new place, and leaves no
/// dead mount.
#[test]
fn a_mount_below_a_renamed_directory_is_unmounted() {
    let server = Embedded::start();
    server.put("file", "x");
    let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("its path");
    let [before, after, runtime] = ["before", "after", "run"].map(|name| root.join(name));
    let dir = before.join("mnt");
    for path in [&dir, &runtime] {
        fs::create_dir_all(path).expect("a folder in it");
    }
    let daemon = start(&server.mounting(), &dir, &runtime);
    let moved = after.join("mnt");
    let mut daemon = Rivals(vec![daemon], &moved);
    eventually(BOUND, || equal("mounts", mounts(&dir), 1));
    assert_eq!(fs::read_to_string(dir.join("file")).expect("the mount works"), "x");
    fs::rename(&before, &after).expect("rename");
    assert_eq!(mounts(&moved), 1);
    let daemon = &mut daemon.0[0];
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).expect("a signal");
    let status = end_of(daemon);
    assert!(status.success(), "{status}: {}", said(daemon));
    assert_eq!(mounts(&moved), 0);
}

/// A lock held on the directory by another program makes the mount fail within a bounded time.
#[test]
fn a_directory_that_another_process_has_locked_is_refused() {
    let server = Embedded::start();
    let folder = tempfile::tempdir().expect("a folder");
    let lock = fs::File::open(folder.path()).expect("the directory");
    lock.lock().expect("its lock");
    let refused = server.mounting().refused_on(folder.path());
    let said = String::from_utf8(refused.stderr).expect("text");
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("flock(2)") && said.lines().count() == 1, "{said}");
    assert_eq!(mounts(folder.path()), 0);
}
