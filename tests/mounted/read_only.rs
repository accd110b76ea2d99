//! M1: every change fails with EROFS, from the kernel and from the daemon itself.

use nix::mount::{MsFlags, mount};
use nix::unistd::Uid;

use crate::support::s3_server::{object, seaweedfs};
use crate::support::tools::{attempt, shell};

/// One for each system call that changes something.
const CHANGES: [&str; 18] = [
    "touch new",
    "touch file",
    "echo more >> file",
    "echo other > file",
    "truncate -s 1 file",
    "mkdir new",
    "rmdir folder",
    "rm -f file",
    "rm -rf folder",
    "mv file other",
    "mv file folder/file",
    "chmod 600 file",
    "chown 1:1 file",
    "ln -s file link",
    "ln file link",
    "mkfifo pipe",
    "python3 -c 'import os; os.setxattr(\"file\", \"user.a\", b\"b\")'",
    "touch -d 2001-01-01 folder",
];

const LOOK: &str = "find . | sort; cat file folder/below; stat -c '%n %a %u %g %Y %s' file folder";

#[test]
fn every_change_answers_erofs() {
    let bucket = seaweedfs().bucket("read-only");
    bucket.put("file", object("the file"));
    bucket.put("folder/below", object("below"));
    let keys = bucket.keys();
    let mounted = bucket.mounting().start();
    let look = shell(mounted.dir(), LOOK);

    let change_all = |when: &str| {
        for change in CHANGES {
            let output = attempt(mounted.dir(), change);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{when}: {change} succeeded");
            assert!(stderr.contains("Read-only file system"), "{when}: {change}: {stderr}");
        }
        assert_eq!(shell(mounted.dir(), LOOK), look, "{when}: after the changes");
    };
    change_all("mounted");

    // After root has remounted it, the kernel checks nothing, and only the daemon refuses.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let remounted = mount(None::<&str>, mounted.dir(), None::<&str>, flags, None::<&str>);
    assert_eq!(remounted.is_ok(), Uid::effective().is_root(), "remount: {remounted:?}");
    change_all("remounted");
    assert_eq!(bucket.keys(), keys);
}
