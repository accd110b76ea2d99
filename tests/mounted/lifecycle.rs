//! M3 and M4: how a mount ends, and what it prints.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::PAST;
use crate::support::content::{MIB, content};
use crate::support::mount::{detach, is_mounted};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::tools::shell;
use crate::support::wait::{equal, eventually};

fn bucket() -> Bucket {
    let bucket = seaweedfs().bucket("lifecycle");
    bucket.put("file", object(content(1, 24 * MIB)));
    bucket.put("expired", object("x").expires(PAST));
    bucket
}

/// SIGHUP comes when the terminal is closed.
#[test]
fn the_signals_that_end_a_process_unmount() {
    let bucket = bucket();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut mount = bucket.mounting().start();
        fs::metadata(mount.path("file")).expect("a working mount");
        mount.signal(signal);
        let status = mount.ended();
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
        mount.assert_nothing_left();
    }
}

/// As with nohup(1): the kernel drops an ignored signal, so it cannot end the mount.
#[test]
fn a_signal_ignored_at_the_start_stays_ignored() {
    let mount = bucket().mounting().ignoring("HUP").start();
    let status = fs::read_to_string(format!("/proc/{}/status", mount.process().0)).expect("status");
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        u64::from_str_radix(line.expect("a mask").trim(), 16).expect("hexadecimal digits")
    };
    let bit = |signal: Signal| 1 << (signal as i32 - 1);
    assert_eq!(mask("SigIgn:") & bit(Signal::SIGHUP), bit(Signal::SIGHUP));
    let heard = bit(Signal::SIGTERM) | bit(Signal::SIGINT) | bit(Signal::SIGQUIT);
    assert_eq!(mask("SigCgt:") & (heard | bit(Signal::SIGHUP)), heard);
}

/// The file system type, for PRUNEFS of updatedb.conf(5), is the same for all users and ways to
/// mount.
#[test]
fn the_type_of_the_file_system_names_expirefs() {
    let bucket = bucket();
    for options in ["", "--allow-other"] {
        let mount = bucket.mounting().with(options).start();
        let dir = mount.dir().to_str().expect("a path in UTF-8");
        let found = shell(mount.dir(), &format!("findmnt -n -o FSTYPE {dir}"));
        assert_eq!(found.trim(), "fuse.expirefs", "{options:?}");
        shell(mount.dir(), "test -f file");
    }
}

/// M3: with `--allow-other`, fusermount3 unmounts after a daemon was killed.
#[test]
fn a_killed_daemon_with_allow_other_leaves_no_mount() {
    let bucket = bucket();
    let mut mount = bucket.mounting().with("--allow-other").start();
    mount.signal(Signal::SIGKILL);
    mount.ended();
    eventually(Duration::from_secs(10), || equal("mounted", is_mounted(mount.dir()), false));
}

/// If no control socket can be made, the mount logs that and works anyway.
#[test]
fn daemon_serves_without_a_control_socket() {
    let bucket = bucket();
    let mut mount = bucket.mounting().without_control().start();
    assert_eq!(fs::read(mount.path("file")).expect("a working mount").len(), 24 * MIB);
    mount.signal(Signal::SIGTERM);
    let status = mount.ended();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(mount.said()[0].contains("no control socket"), "{:#?}", mount.said());
}

/// An open file, its body half read, keeps neither the mount nor the process alive.
#[test]
fn an_open_file_does_not_keep_it_mounted() {
    let mut mount = bucket().mounting().start();
    let file = File::open(mount.path("file")).expect("open");
    file.read_exact_at(&mut [0; 4096], 0).expect("read");
    mount.signal(Signal::SIGTERM);
    let status = mount.ended();
    assert_eq!(status.code(), Some(0), "{status}");
    mount.assert_nothing_left();
    drop(file);
}

/// Another mount on top of it is left alone, and the daemon does not report that it has unmounted.
#[test]
fn a_mount_below_another_one_is_not_reported_as_unmounted() {
    let mut mount = bucket().mounting().start();
    let cover = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(mount.dir()).output();
    let cover = cover.expect("mount(8)");
    assert!(cover.status.success(), "mount(8) as root: {cover:?}");
    mount.signal(Signal::SIGTERM);
    let status = mount.ended();
    let said = mount.said();
    // The tmpfs, then the mount, which is dead now.
    (0..2).for_each(|_| detach(mount.dir()));
    assert_eq!(status.code(), Some(1), "{said:?}");
    assert!(said.last().is_some_and(|line| line.contains("on top of it")), "{said:?}");
    mount.assert_nothing_left();
}

/// One line when it is ready, one at its end; normal events, such as a missing file, are not
/// logged.
#[test]
fn a_mount_prints_two_lines() {
    let mut mount = bucket().mounting().start();
    shell(mount.dir(), "ls -lR; cat file | wc -c; ! stat missing 2>/dev/null; ! stat expired 2>&1");
    mount.signal(Signal::SIGTERM);
    mount.ended();
    assert_eq!(mount.said().len(), 2, "{:#?}", mount.said());
}

/// M4, at the most verbose level.
#[test]
fn the_secret_never_reaches_the_log() {
    let bucket = bucket();
    let secret = bucket.endpoint().credentials.clone().expect("a key pair").secret_access_key;
    let mut mount = bucket.mounting().with("--log trace").start();
    shell(mount.dir(), "ls -l; head -c 1000 file | wc -c");
    mount.signal(Signal::SIGTERM);
    mount.ended();
    let said = mount.said();
    assert!(said.len() > 10, "no log, so this proves nothing: {said:#?}");
    let told: Vec<_> = said.iter().filter(|line| line.contains(&secret)).collect();
    assert!(told.is_empty(), "{told:#?}");
}
