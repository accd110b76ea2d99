//! How a mount ends in difficult situations: M3 under load, at the wrong moment, and without a
//! reader of its output. Each with a defined outcome.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use expirefs::daemon::mounts;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd};
use tempfile::TempDir;

use crate::support::content::{KIB, MIB, assert_same_bytes, content, part};
use crate::support::mount::{Setup, detach, is_mounted};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::stuck::{self, end_of};
use crate::support::tools::shell;
use crate::support::wait::{HANGS, at_most, equal, eventually};

const SIZE: usize = 8 * MIB;

/// `0` and so on, of 8 MiB each, and `small`.
fn bucket(files: u64) -> Bucket {
    let bucket = seaweedfs().bucket("death");
    bucket.put_all((0..files).map(|i| (i.to_string(), object(content(i, SIZE)))));
    bucket.put("small", object("small"));
    bucket
}

fn proxied(bucket: &Bucket) -> (Proxy, Setup) {
    let proxy = Proxy::start(bucket.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), &bucket.name);
    (proxy, setup)
}

/// M3: after a signal while files are being read, these are read to their ends, and no more files
/// are opened.
#[test]
fn a_signal_under_load_lets_open_files_be_read_to_their_end() {
    const READERS: u64 = 4;
    const FILES: u64 = 32;
    let bucket = bucket(FILES);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut mount = bucket.mounting().start();
        let under_way = AtomicUsize::new(0);
        let dir = mount.dir().to_owned();
        let read = |i: u64| {
            let mut file = File::open(dir.join(i.to_string()))?;
            let mut bytes = vec![0; MIB];
            file.read_exact(&mut bytes).expect("the first part of an open file");
            under_way.fetch_add(1, Ordering::SeqCst);
            file.read_to_end(&mut bytes).expect("the rest of an open file");
            assert_same_bytes(&format!("file {i}"), &bytes, &content(i, SIZE));
            io::Result::Ok(())
        };
        let refused = thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|first| {
                    let mine = (first..FILES).step_by(READERS as usize);
                    scope.spawn(move || mine.map(read).find_map(Result::err))
                })
                .collect();
            eventually(HANGS, || at_most("readers to come", 4, under_way.load(Ordering::SeqCst)));
            mount.signal(signal);
            mount.assert_ended_well();
            let errors = readers.into_iter().map(|reader| reader.join().expect("a reader"));
            errors.flatten().count()
        });
        println!("{signal}: {refused} of {READERS} readers were refused an open");
        assert!(refused > 0, "{signal}: all of {FILES} files were read: it came too late");
    }
}

/// M3: the first signal gives reads in flight 5 s; a second one ends the mount at once.
#[test]
fn a_second_signal_does_not_wait_for_reads() {
    let bucket = bucket(1);
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let (proxy, setup) = proxied(&bucket);
        let mut mount = setup.start();
        let mut reader = stuck::reader(&mount, &proxy, "0");
        let start = Instant::now();
        mount.signal(Signal::SIGTERM);
        eventually(HANGS, || match File::open(mount.path("small")) {
            Err(e) if e.raw_os_error() == Some(libc::ESHUTDOWN) => Ok(()),
            other => Err(format!("an open: {other:?}")),
        });
        mount.signal(second);
        mount.assert_ended_well();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "it waited for the read: {took:?}");
        assert!(!end_of(&mut reader).success(), "the reader cannot have got it all");
    }
    // Two at a time, with nothing to wait for.
    let mut mount = bucket.mounting().start();
    assert_eq!(fs::read_to_string(mount.path("small")).expect("read"), "small");
    mount.signal(Signal::SIGTERM);
    mount.signal(Signal::SIGINT);
    mount.assert_ended_well();
}

/// M3: a system call that hangs in a lookup or a listing keeps neither the mount nor the process
/// alive.
#[test]
fn a_signal_while_requests_hang_ends_them() {
    let bucket = bucket(1);
    let (proxy, setup) = proxied(&bucket);
    let mut mount = setup.start();
    proxy.script(|_| Fault::Delay(Duration::MAX));
    let dir = mount.dir().to_owned();
    thread::scope(|scope| {
        let stat = scope.spawn(|| fs::metadata(dir.join("small")).map(drop));
        let list = scope.spawn(|| fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>().map(drop));
        eventually(HANGS, || at_most("requests to come", 2, proxy.did("delay")));
        mount.signal(Signal::SIGTERM);
        mount.assert_ended_well();
        for hung in [stat, list] {
            hung.join().expect("a thread").expect_err("it cannot have been answered");
        }
    });
}

/// M2 and M3: a signal before the mount is ready: one line, status 1, nothing mounted.
#[test]
fn a_signal_during_start_up_mounts_nothing() {
    let bucket = bucket(0);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (proxy, setup) = proxied(&bucket);
        proxy.script(|_| Fault::Delay(Duration::MAX));
        let mut daemon = Bare::start(&setup, "");
        eventually(HANGS, || at_most("requests to come", 1, proxy.did("delay")));
        daemon.signal(signal);
        let status = end_of(&mut daemon.child);
        let mut said = String::new();
        let stderr = daemon.child.stderr.as_mut().expect("it is piped");
        stderr.read_to_string(&mut said).expect("text");
        assert_eq!(status.code(), Some(1), "{signal}: {status}; it said {said:?}");
        assert_eq!(said, "expirefs: interrupted; nothing is mounted\n", "{signal}");
        assert!(!is_mounted(&daemon.dir()), "{signal}");
    }
}

/// M2 and M3: files that were open when the daemon was killed get ENOTCONN for ever; a new mount
/// replaces the dead one while they are open.
#[test]
fn a_killed_daemon_is_replaced_while_its_files_are_open() {
    let bucket = bucket(1);
    let mut mount = bucket.mounting().start();
    let file = File::open(mount.path("0")).expect("open");
    file.read_exact_at(&mut [0; 4 * KIB], 0).expect("read");
    mount.signal(Signal::SIGKILL);
    mount.ended();
    let far = || file.read_at(&mut [0; 4 * KIB], 7 << 20).map_err(|e| e.raw_os_error());
    eventually(HANGS, || equal("a read", far(), Err(Some(libc::ENOTCONN))));

    let again = bucket.mounting().with("--replace-dead").start_on(mount.dir());
    assert_eq!(fs::read(again.path("0")).expect("the new mount"), content(0, SIZE));
    assert_eq!(far(), Err(Some(libc::ENOTCONN)), "the old handle");
}

/// M2: a daemon was killed, and its device is still open in another process, or in a thread that waits
/// in the kernel: the kernel does not know that nobody serves the mount, and programs hang. Clearing the
/// mount ends their requests.
#[test]
fn a_dead_mount_whose_device_is_held_open_is_cleared_and_nothing_hangs() {
    if !Path::new("/sys/fs/fuse/connections").read_dir().is_ok_and(|mut all| all.next().is_some()) {
        shell(
            Path::new("/"),
            "mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections",
        );
    }
    let bucket = bucket(1);
    for replace in [false, true] {
        let mut mount = bucket.mounting().start();
        let id = mount.process().0;
        let numbers = fs::read_dir(format!("/proc/{id}/fd")).expect("its descriptors");
        let device = numbers.flatten().find(|fd| {
            fs::read_link(fd.path()).is_ok_and(|target| target == Path::new("/dev/fuse"))
        });
        let number = device.expect("/dev/fuse").file_name().into_string().expect("a number");
        let process = rustix::process::Pid::from_raw(id as i32).expect("a process");
        let process =
            rustix::process::pidfd_open(process, PidfdFlags::empty()).expect("pidfd_open(2)");
        let number = number.parse().expect("a number");
        let held = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).expect("pidfd_getfd(2)");
        mount.signal(Signal::SIGKILL);
        mount.ended();
        let mut hangs = Command::new("stat")
            .arg(mount.path("small"))
            .stderr(Stdio::null())
            .spawn()
            .expect("stat");
        assert_eq!(mount.listed()["state"], "dead");
        match replace {
            true => {
                // With the control socket of the killed one.
                let again = bucket.mounting().in_background().with("--replace-dead");
                let output = again.command(mount.dir(), mount.runtime_dir()).output();
                let output = output.expect("it runs");
                assert!(output.status.success(), "{output:?}");
                assert_eq!(fs::read(mount.path("0")).expect("the new mount"), content(0, SIZE));
                let output = mount.control("umount", &[]);
                assert!(output.status.success(), "{output:?}");
            }
            false => {
                let output = mount.control("umount", &[]);
                assert!(output.status.success(), "{output:?}");
                assert!(!is_mounted(mount.dir()));
            }
        }
        end_of(&mut hangs);
        drop(held);
    }
}

/// Of two processes that replace the same dead mount, the slower one leaves the mount of the faster one
/// alone: while it holds the dead one, no other mount gets its numbers.
#[test]
fn a_dead_mount_that_was_replaced_meanwhile_is_cleared_without_harm() {
    let bucket = bucket(1);
    let mut mount = bucket.mounting().start();
    mount.signal(Signal::SIGKILL);
    mount.ended();
    let dead = mounts::at(mount.dir()).expect("the mount table").expect("the dead mount");
    let slower = dead.hold().expect("the mount table").expect("the dead mount");
    let faster = bucket.mounting().in_background().with("--replace-dead");
    let output = faster.command(mount.dir(), mount.runtime_dir()).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    slower.clear().expect("it is gone already");
    assert_eq!(fs::read(mount.path("small")).expect("the new mount"), b"small");
    assert!(mount.control("umount", &[]).status.success());
}

/// M3: a daemon that ends late leaves the next mount alone, which the kernel may have given the same
/// numbers, so that it has the same name for its control socket.
#[test]
fn a_daemon_that_ends_late_leaves_the_next_mount_and_its_socket() {
    let bucket = bucket(1);
    let mut mount = bucket.mounting().start();
    mount.signal(Signal::SIGSTOP);
    umount2(mount.dir(), MntFlags::MNT_DETACH).expect("umount2(2)");
    let next = bucket.mounting().in_background();
    let output = next.command(mount.dir(), mount.runtime_dir()).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    mount.signal(Signal::SIGCONT);
    mount.ended();
    assert_eq!(fs::read(mount.path("small")).expect("the next mount"), b"small");
    for command in ["status", "umount"] {
        let output = mount.control(command, &[]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

/// M3: after `umount -l`, even if the mount point was removed, open files are served until they are
/// closed; then the daemon ends, as after any other unmount.
#[test]
fn a_lazy_unmount_ends_the_daemon_at_the_last_close() {
    let bucket = bucket(1);
    for remove_the_directory in [false, true] {
        let mut mount = bucket.mounting().start();
        let file = File::open(mount.path("0")).expect("open");
        file.read_exact_at(&mut [0; 4 * KIB], 0).expect("read");
        let folder = mount.dir().parent().expect("a folder").to_owned();
        shell(&folder, "umount -l mnt");
        assert!(!is_mounted(mount.dir()));
        if remove_the_directory {
            fs::remove_dir(mount.dir()).expect("remove the mount point");
        }
        for offset in [6 * MIB, 2 * MIB] {
            let mut bytes = vec![0; MIB];
            file.read_exact_at(&mut bytes, offset as u64).expect("read on");
            assert_same_bytes("after umount -l", &bytes, &part(0, offset..offset + MIB));
        }
        drop(file);
        mount.assert_ended_well();
    }
}

/// Without standard streams it serves and ends normally.
#[test]
fn daemon_serves_with_its_streams_closed() {
    assert_serves(">&- 2>&-");
    assert_serves("<&- >&- 2>&-");
}

/// So it does if its log goes to a full disk, or to a pipe without a reader.
#[test]
fn daemon_serves_if_its_log_cannot_be_written() {
    assert_serves("2> >(:)");
    assert_serves(">/dev/full 2>/dev/full");
}

#[track_caller]
fn assert_serves(redirection: &str) {
    let bucket = bucket(1);
    let setup = bucket.mounting().with("--log debug");
    let mut daemon = Bare::start(&setup, redirection);
    let dir = daemon.dir();
    eventually(HANGS, || match daemon.child.try_wait().expect("its status") {
        Some(status) => panic!("{redirection}: it has ended: {status}"),
        None => equal("mounted", is_mounted(&dir), true),
    });
    let read = fs::read(dir.join("0")).unwrap_or_else(|e| panic!("{redirection}: read: {e}"));
    assert_same_bytes(redirection, &read, &content(0, SIZE));
    let names = fs::read_dir(&dir).and_then(|names| names.collect::<Result<Vec<_>, _>>());
    let names = names.unwrap_or_else(|e| panic!("{redirection}: ls: {e}"));
    assert_eq!(names.len(), 2, "{redirection}: ls");
    let absent = fs::metadata(dir.join("absent")).map_err(|e| e.raw_os_error()).map(drop);
    assert_eq!(absent, Err(Some(libc::ENOENT)), "{redirection}: what is absent");
    daemon.signal(Signal::SIGTERM);
    let status = end_of(&mut daemon.child);
    assert_eq!(status.code(), Some(0), "{redirection}: {status}");
    assert!(!is_mounted(&dir), "{redirection}");
}

/// A daemon without [`Mount`]: the test neither waits until it is ready nor reads its output
/// meanwhile.
struct Bare {
    child: Child,
    folder: TempDir,
}

impl Bare {
    /// With a redirection of its streams, in bash syntax.
    fn start(setup: &Setup, redirection: &str) -> Bare {
        let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
        let [dir, runtime] = ["mnt", "run"].map(|name| folder.path().join(name));
        for path in [&dir, &runtime] {
            fs::create_dir(path).expect("a folder in it");
        }
        let command = setup.command(&dir, &runtime);
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")]);
        bash.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        bash.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = bash.spawn().expect("bash");
        Bare { child, folder }
    }

    fn dir(&self) -> PathBuf {
        let folder: &Path = self.folder.path();
        folder.canonicalize().expect("its path").join("mnt") // as mountinfo has it
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a signal");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Has no effect if it has ended and was waited for.
        _ = self.child.kill();
        _ = self.child.wait();
        detach(&self.dir());
    }
}
