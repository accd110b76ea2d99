//! A mount by a user who is not root, with fusermount3. As root, this test runs in its own
//! namespaces, with such a user and another /etc/fuse.conf: the machine is not changed, and
//! leftovers vanish with the namespaces. If a user runs the tests, all of them mount this way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use nix::unistd::Uid;

use crate::support::PAST;
use crate::support::embedded::Embedded;

/// `$1` is a folder that everyone may enter, with the program; `$2` the endpoint, `$3` the bucket.
const SCRIPT: &str = r#"
work=$1 endpoint=$2 bucket=$3 uid=61184
mkdir "$work"/{mnt,run}
chown $uid:$uid "$work"/{mnt,run}
{ cat /etc/passwd; echo "expirefs-test:x:$uid:$uid::/nonexistent:/usr/sbin/nologin"; } >"$work/passwd"
mount --bind "$work/passwd" /etc/passwd
mknod -m 666 "$work/fuse" c 10 229 # as udev has it; in containers it may be root's alone
mount --bind "$work/fuse" /dev/fuse

as() { setpriv --reuid "$1" --regid "$1" --clear-groups --inh-caps=-all -- "${@:2}"; }
mine() { as $uid env XDG_RUNTIME_DIR="$work/run" "$@"; }
fail() { echo "$*"; exit 1; }

# start OPTION...: a mount by the user; returns when it is ready. What the daemon said is in $said.
start() {
  exec {out}< <(mine "$work/expirefs" mount "$bucket" "$work/mnt" --foreground --endpoint-url "$endpoint" \
    --region us-east-1 --no-sign-request --addressing-style path "$@" 2>&1)
  daemon=$! said=
  while read -r line <&$out; do
    said+=$line$'\n'
    [[ $line != "expirefs: mounted "* ]] || return 0
  done
  return 1
}

# What that user can do, and that the mount is theirs.
works() {
  [[ $(findmnt -no FSTYPE "$work/mnt") == fuse.expirefs ]] || fail "mounted as $(findmnt -no FSTYPE "$work/mnt")"
  options=,$(findmnt -no OPTIONS "$work/mnt"),
  for option in ro nosuid nodev user_id=$uid default_permissions; do
    [[ $options == *,$option,* ]] || fail "mounted with $options, not $option"
  done
  [[ $(mine ls "$work/mnt") == file ]] || fail "ls: $(mine ls "$work/mnt")"
  [[ $(mine cat "$work/mnt/file") == content ]] || fail "cat: $(mine cat "$work/mnt/file")"
  [[ $(mine stat -c %u "$work/mnt/file") == "$uid" ]] || fail "whose: $(mine stat -c %u "$work/mnt/file")"
  mine "$work/expirefs" status "$work/mnt" >/dev/null
}

# ended COMMAND...: the user unmounts with it, and nothing is left.
ended() {
  mine "$@"
  wait "$daemon" || fail "the daemon ended with status $?: $said$(cat <&$out)"
  exec {out}<&-
  ! mountpoint -q "$work/mnt" || fail "still mounted"
  ! pgrep -u $uid -a || fail "still running"
  [[ -z $(find "$work/run" -type s) ]] || fail "left behind: $(find "$work/run" -type s)"
}

start || fail "did not mount: $said"
works
! looked=$(LC_ALL=C ls "$work/mnt" 2>&1) || fail "root looks in: $looked"
[[ $looked == *"Permission denied"* ]] || fail "to root: $looked"
listed=$("$work/expirefs" list | grep " $work/mnt\$")
[[ $listed == *"other user"* ]] || fail "to root it is listed as: $listed"
[[ $(mine "$work/expirefs" list) == *serving*"$work/mnt"* ]] || fail "to its user: $(mine "$work/expirefs" list)"
! as 65534 "$work/expirefs" umount "$work/mnt" 2>/dev/null || fail "another user unmounts it"
ended "$work/expirefs" umount "$work/mnt"

sed '/^user_allow_other/d' /etc/fuse.conf >"$work/fuse.conf"
mount --bind "$work/fuse.conf" /etc/fuse.conf
! start --allow-other || fail "others are let in, which /etc/fuse.conf forbids"
[[ $said == *user_allow_other* ]] || fail "the refusal does not name its cause: $said"
echo user_allow_other >>"$work/fuse.conf"
start --allow-other || fail "did not mount: $said"
works
for other in 0 65534; do
  [[ $(as $other cat "$work/mnt/file") == content ]] || fail "uid $other cannot read"
done
ended fusermount3 -u "$work/mnt"

start --allow-other --file-mode 0400 || fail "did not mount: $said"
works
! as 65534 cat "$work/mnt/file" 2>/dev/null || fail "another user reads what only its owner may"
ended "$work/expirefs" umount "$work/mnt"
"#;

#[test]
fn every_mount_is_read_only_nosuid_and_nodev() {
    let store = Embedded::start();
    let mount = store.mounting().start();
    let mut findmnt = Command::new("findmnt");
    let output = findmnt.args(["-no", "OPTIONS"]).arg(mount.dir()).output().expect("findmnt(8)");
    let options = String::from_utf8(output.stdout).expect("text");
    let options: Vec<&str> = options.trim().split(',').collect();
    for option in ["ro", "nosuid", "nodev", "default_permissions"] {
        assert!(options.contains(&option), "{options:?}: no {option}");
    }
}

#[test]
fn a_user_mounts_reads_and_unmounts() {
    if !Uid::effective().is_root() {
        return;
    }
    let store = Embedded::start();
    store.put("file", "content");
    store.put_expiring("expired", "x", PAST);
    let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
    // Other users may not be able to reach the binary that cargo built.
    fs::copy(env!("CARGO_BIN_EXE_expirefs"), folder.path().join("expirefs")).expect("a copy");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");

    let mut bash = Command::new("timeout");
    bash.args(["--signal=KILL", "60"]);
    bash.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    bash.args(["bash", "-euo", "pipefail", "-c", SCRIPT, "bash"]).arg(folder.path());
    bash.args([&store.endpoint().url, Embedded::BUCKET]).stdin(Stdio::null());
    let output = bash.output().expect("timeout(1)");
    assert!(output.status.success(), "{output:#?}");
}
