//! M5: what stat(2) and statfs(2) say.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getegid, geteuid};

use crate::support::content::{KIB, content};
use crate::support::seaweedfs::{Bucket, object, seaweedfs};
use crate::support::tools::shell;

const SIZE: usize = 300 * KIB + 1;
const DIRECTORY: u32 = libc::S_IFDIR;
const FILE: u32 = libc::S_IFREG;

fn bucket() -> Bucket {
    let bucket = seaweedfs().bucket("attributes");
    bucket.put("folder/file", object(content(1, SIZE)));
    bucket
}

#[test]
fn a_file_tells_its_size_times_mode_and_owner() {
    let bucket = bucket();
    let modified = bucket.head("folder/file").last_modified.expect("Last-Modified").secs();
    let mount = bucket.mounting().start();
    let file = fs::metadata(mount.path("folder/file")).expect("stat");
    assert_eq!(file.size(), SIZE as u64);
    assert_eq!(file.blocks(), SIZE.div_ceil(512) as u64);
    assert_eq!((file.mtime(), file.ctime()), (modified, modified), "mtime, ctime");
    assert_eq!(file.nlink(), 1);
    assert_eq!(file.mode(), FILE | 0o444, "mode is {:o}", file.mode());
    assert_eq!((file.uid(), file.gid()), (geteuid().as_raw(), getegid().as_raw()), "owner");
    assert!(file.blksize() >= 128 * KIB as u64, "blksize is {}", file.blksize());
    assert_ne!(file.ino(), 0);

    for folder in [mount.dir(), &mount.path("folder")] {
        let folder = fs::metadata(folder).expect("stat");
        assert_eq!(folder.mode(), DIRECTORY | 0o555, "mode is {:o}", folder.mode());
        assert_eq!((folder.uid(), folder.gid()), (file.uid(), file.gid()), "owner");
    }
}

#[test]
fn options_set_owner_and_modes() {
    let args = "--uid 1234 --gid 2345 --file-mode 0640 --dir-mode 0750";
    let mount = bucket().mounting().with(args).start();
    let stat = shell(mount.dir(), "stat -c '%n %a %u %g' folder folder/file");
    assert_eq!(stat, "folder 550 1234 2345\nfolder/file 440 1234 2345\n");
}

/// Asked for or listed, and after the metadata lifetime: while the version is the same, so is its
/// number. `--metadata-ttl 0s` makes the kernel ask each time.
#[test]
fn the_inode_number_is_fixed_for_a_version() {
    let mount = bucket().mounting().with("--metadata-ttl 0s").start();
    let listed = |line: String| line.split_whitespace().next().map(str::to_owned);
    let first = shell(mount.dir(), "stat -c %i folder/file").trim().to_owned();
    for _ in 0..3 {
        let again = shell(mount.dir(), "cat folder/file > /dev/null; stat -c %i folder/file");
        assert_eq!(again.trim(), first, "stat");
        assert_eq!(listed(shell(mount.dir(), "ls -i folder")).as_ref(), Some(&first), "ls -i");
    }
}

#[test]
fn df_shows_the_mount() {
    let mount = bucket().mounting().start();
    let dir = mount.dir().to_str().unwrap();
    let df = shell(mount.dir(), "df --output=target,size,iavail,pcent . | tail -n +2");
    let columns: Vec<&str> = df.split_whitespace().collect();
    assert_eq!(columns[0], dir);
    assert!(columns[1].parse::<u64>().is_ok_and(|size| size > 0), "df: {df}");

    let stat = statvfs(mount.dir()).expect("statvfs");
    assert_eq!(stat.name_max(), 255);
    assert!(stat.fragment_size() >= 512, "{stat:?}");
    assert!(stat.flags().contains(FsFlags::ST_RDONLY), "{stat:?}");
}
