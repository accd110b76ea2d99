//! O2: mounts by mount(8), from fstab and by hand, as the types `expirefs` and `fuse.expirefs`; and on a
//! descriptor of /dev/fuse that another program has mounted. In namespaces of their own, with the helpers
//! in a layer over /usr/sbin: the machine is not changed.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::support::embedded::Embedded;
use crate::support::mount::{detach, is_mounted};
use crate::support::stuck::end_of;

/// `$1` is a folder, `$2` the program, `$3` the endpoint, `$4` the bucket.
const START: &str = r#"
work=$1 program=$2 endpoint=$3 bucket=$4
mkdir "$work"/{layer,mnt,"a b",run}
mount -t tmpfs tmpfs "$work/layer"
mkdir "$work"/layer/{up,work}
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$work/layer/up,workdir=$work/layer/work" /usr/sbin
rm -f /usr/sbin/mount.{expirefs,fuse.expirefs}
ln -s "$program" /usr/sbin/expirefs
export XDG_RUNTIME_DIR=$work/run
unset HOME
cat >"$work/env" <<END
AWS_ENDPOINT_URL=$endpoint
AWS_EC2_METADATA_DISABLED=true
AWS_ACCESS_KEY_ID=test
AWS_SECRET_ACCESS_KEY=test
END
fixed=env_file=$work/env,region=us-east-1,addressing_style=path
fail() { echo "$*"; exit 1; }
# is STATUS COMMAND...: it has this exit status. What it says is in $said.
is() { local status=0; said=$("${@:2}" 2>&1) || status=$?; ((status == $1)) || fail "${*:2}: status $status: $said"; }
holds() { [[ $1 == *"$2"* ]] || fail "no $2 in: $1"; }
options() { findmnt -no OPTIONS "$1"; }
"#;

#[track_caller]
fn run(script: &str) {
    if !Uid::effective().is_root() {
        return;
    }
    let store = Embedded::start();
    store.put("file", "content");
    store.put("d/sub", "in d");
    let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
    let folder_path = folder.path().canonicalize().expect("its path");
    // What is left over ends with the first process of the namespace.
    let mut bash = Command::new("timeout");
    bash.args(["--signal=KILL", "60", "unshare"]);
    bash.args([
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    bash.args(["bash", "-euo", "pipefail", "-c", &format!("{START}{script}"), "bash"]);
    bash.arg(&folder_path).arg(env!("CARGO_BIN_EXE_expirefs"));
    bash.args([&store.endpoint().url, Embedded::BUCKET]).stdin(Stdio::null());
    let output = bash.output().expect("unshare(1)");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
}

#[test]
fn mount_a_mounts_what_fstab_lists() {
    run(r#"
ln -s "$program" /usr/sbin/mount.expirefs
cat >"$work/fstab" <<END
$bucket $work/mnt expirefs $fixed,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=60,noexec 0 0
s3://$bucket/d $work/a\\040b expirefs $fixed,noauto,users,writable,ttl=1h,ttl-rule=a\\,b=5m 0 0
END
is 0 mount -a -T "$work/fstab"
holds "$(findmnt -no FSTYPE,SOURCE "$work/mnt")" "fuse.expirefs $bucket"
holds ",$(options "$work/mnt")," ,noexec,
[[ $(cat "$work/mnt/file") == content ]] || fail "cat"
! mountpoint -q "$work/a b" || fail "noauto is mounted"
# What is mounted is known by its source.
is 0 mount -a -T "$work/fstab"
[[ -z $said ]] || fail "the second time: $said"
is 0 mount -T "$work/fstab" "$work/a b"
[[ $(cat "$work/a b/sub") == "in d" ]] || fail "cat in d"
echo new >"$work/a b/a,b"
is 32 mount -o remount,ro -T "$work/fstab" "$work/a b"
holds "$said" "cannot be remounted"
is 0 umount "$work/a b"
is 0 umount "$work/mnt"
! findmnt -no TARGET -t fuse.expirefs | grep "$work" || fail "still mounted"
for _ in {1..1000}; do pgrep -x expirefs >/dev/null || break; sleep 0.01; done
! pgrep -ax expirefs || fail "still running"
"#);
}

#[test]
fn each_type_mounts_with_its_helper_and_by_that_of_libfuse() {
    run(r#"
mount_with() {
  is 0 mount -t "$1" -o "$fixed" "$bucket" "$work/mnt"
  [[ $(findmnt -no FSTYPE "$work/mnt") == fuse.expirefs && $(cat "$work/mnt/file") == content ]] || fail "$1"
  is 0 umount "$work/mnt"
}
# mount.fuse3 runs `expirefs SOURCE DIR -o …`.
mount_with fuse.expirefs
ln -s "$program" /usr/sbin/mount.fuse.expirefs
mount_with fuse.expirefs
ln -s "$program" /usr/sbin/mount.expirefs
mount_with expirefs
"#);
}

#[test]
fn the_helper_has_the_exit_status_of_mount8() {
    run(r#"
ln -s "$program" /usr/sbin/mount.expirefs
for wrong in "writeable: did you mean \"writable\"" "ttl: a value" "ro,writable: contradict" "ls=fast: lazy" "zzz: zzz"; do
  is 1 mount.expirefs "$bucket" "$work/mnt" -o "$fixed,${wrong%%: *}"
  holds "$said" "${wrong#*: }"
done
is 0 mount.expirefs "$bucket" "$work/mnt" -s -o "$fixed,zzz"
is 32 mount.expirefs "$bucket" "$work/mnt" -o "$fixed"
holds "$said" "an expirefs mount already"
is 0 umount "$work/mnt"
is 32 mount.expirefs absent-bucket "$work/mnt" -o "$fixed"
holds "$said" "no such bucket"
is 32 mount.expirefs "$bucket" "$work/mnt" -o env_file=/absent
holds "$said" "--env-file /absent"
is 0 mount.expirefs "$bucket" "$work/mnt" -f -o "$fixed"
! mountpoint -q "$work/mnt" || fail "--fake has mounted"
is 1 mount.expirefs "$bucket" "$work/mnt" -f -o "$fixed,ttl=1h"
is 1 mount.expirefs "$bucket"
"#);
}

/// What a Kubernetes node plugin does: it opens and mounts, and passes the descriptor to a process
/// without privileges. Also if that process is in another mount namespace.
#[test]
fn a_descriptor_that_another_program_has_mounted_is_served_until_it_is_unmounted() {
    if !Uid::effective().is_root() {
        return;
    }
    let store = Embedded::start();
    store.put("file", "content");
    for elsewhere in [false, true] {
        let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("its path");
        let [dir, run] = ["mnt", "run"].map(|name| root.join(name));
        for path in [&dir, &run] {
            fs::create_dir(path).expect("a folder in it");
        }
        let device =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        fcntl(&device, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is inherited");
        // A namespace of its own is made before the mount, and never sees it.
        let daemon = || {
            let setup = store.mounting();
            let target = format!("/dev/fd/{}", device.as_raw_fd());
            let command = setup.command(Path::new(&target), &run);
            let mut shell = Command::new(if elsewhere { "unshare" } else { "env" });
            shell.args(elsewhere.then_some("--mount"));
            shell.args(["sh", "-c", r#"echo; read -r go; exec "$0" "$@""#]);
            shell.arg(command.get_program()).args(command.get_args());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => shell.env(name, value),
                    None => shell.env_remove(name),
                };
            }
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut shell = shell.spawn().expect("it runs");
            shell.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it is there");
            shell
        };
        let mut unmounted = daemon();
        unmounted.stdin.take().expect("piped").write_all(b"\n").expect("go");
        let said = unmounted.wait_with_output().expect("it ends").stderr;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("nothing is mounted by this descriptor yet"), "{said}");

        let mut daemon = daemon();
        let mode = fs::metadata(&dir).expect("the folder").mode();
        let data =
            format!("fd={},rootmode={mode:o},user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_RDONLY;
        mount(Some("x"), &dir, Some("fuse.expirefs"), flags, Some(data.as_str()))
            .expect("mount(2)");
        daemon.stdin.take().expect("piped").write_all(b"\n").expect("go");
        let pid = Pid::from_raw(daemon.id() as i32);
        drop(device);
        let mut lines = BufReader::new(daemon.stderr.take().expect("piped")).lines();
        let line = lines.next().expect("a line").expect("text");
        assert!(line.starts_with("expirefs: mounted s3://"), "{line}");
        assert_eq!(fs::read_to_string(dir.join("file")).expect("it serves"), "content");
        let mut status = Command::new(env!("CARGO_BIN_EXE_expirefs"));
        let status = status.arg("status").arg(&dir).env("XDG_RUNTIME_DIR", &run).output();
        let status = status.expect("it runs");
        assert!(status.status.success(), "{elsewhere} {status:?}");
        match elsewhere {
            // Its own end: the mount is of no use then, and stays with who has made it.
            true => {
                kill(pid, Signal::SIGTERM).expect("a signal");
                assert!(end_of(&mut daemon).success());
                let read = fs::read(dir.join("file")).map_err(|e| e.raw_os_error());
                assert_eq!(read, Err(Some(libc::ENOTCONN)));
            }
            false => {
                detach(&dir);
                assert!(end_of(&mut daemon).success());
            }
        }
        detach(&dir);
        assert!(!is_mounted(&dir));
    }
}
