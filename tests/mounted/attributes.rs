//! M5: the results of stat(2) and statfs(2), and of getxattr(2) for an object.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr;

use expirefs::embedded::Object;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getegid, geteuid};

use crate::support::FUTURE;
use crate::support::content::{KIB, content};
use crate::support::embedded::Embedded;
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::tools::{assert_same_lines, shell};

const SIZE: usize = 300 * KIB + 1;
const DIRECTORY: u32 = libc::S_IFDIR;
const FILE: u32 = libc::S_IFREG;

fn bucket() -> Bucket {
    let bucket = seaweedfs().bucket("attributes");
    bucket.put("folder/file", object(content(1, SIZE)));
    bucket
}

#[test]
fn stat_shows_size_times_mode_and_owner() {
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

/// Looked up or listed, and after the metadata TTL: the same version has the same inode number.
/// `--metadata-ttl 0s` makes the kernel send a lookup each time.
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

const FUTURE_ASCTIME: &str = "Fri Jan  1 00:00:00 2100";

/// Objects of each kind, and a folder.
fn described() -> Embedded {
    let store = Embedded::start();
    let typed = |expires: &str| Object::new("x").expires(expires).content_type("text/html");
    store.put_object("d/imf", typed(FUTURE));
    store.put_object("d/asctime", typed(FUTURE_ASCTIME));
    store.put_object("d/no date", typed("never"));
    store.put("d/plain", "x");
    store
}

/// The output of getfattr(1) for a file, without our prefix.
fn described_as(folder: &Path, name: &str) -> String {
    let found = shell(folder, &format!("stat '{name}' > /dev/null; getfattr -d '{name}'"));
    let lines = found.lines().filter_map(|line| line.strip_prefix("user.expirefs."));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Attributes show cached headers of an object, without a request.
#[test]
fn extended_attributes_show_the_headers_of_an_object() {
    let store = described();
    let mount = store.mounting().with("--metadata-ttl 60s --on-unparsable fresh").start();
    let etag = "9dd4e461268c8034f5c8564e155c67a6"; // md5 of `x`
    let says = |key: &str, of_expires: &str, content_type: &str| {
        format!(
            "{of_expires}etag=\"{etag}\"\nkey=\"{key}\"\nstorage_class=\"STANDARD\"\n\
             content_type=\"{content_type}\"\n"
        )
    };
    let dated = |raw: &str| format!("expires=\"2100-01-01T00:00:00Z\"\nexpires_raw=\"{raw}\"\n");
    let table = [
        ("imf", dated(FUTURE), "text/html"),
        ("asctime", dated(FUTURE_ASCTIME), "text/html"),
        ("no date", "expires_raw=\"never\"\n".to_owned(), "text/html"),
        ("plain", String::new(), "binary/octet-stream"),
    ];
    let d = mount.path("d");
    for (name, of_expires, content_type) in &table {
        let want = says(&format!("d/{name}"), of_expires, content_type);
        assert_same_lines(name, &described_as(&d, name), &want);
    }
    let before = store.requests();
    shell(
        &d,
        "getfattr -d imf asctime plain > /dev/null; getfattr -n user.expirefs.key imf > /dev/null",
    );
    assert_eq!(store.requests(), before, "requests for attributes");
    assert_eq!(shell(mount.dir(), "getfattr -d . d"), "", "directories");
}

/// `ls --color`, `cp -a` and the kernel request other attributes, and work without them.
#[test]
fn other_extended_attributes_do_not_exist() {
    let store = described();
    let mount = store.mounting().start();
    for path in [mount.path("d/imf"), mount.path("d"), mount.dir().to_owned()] {
        for (name, errno) in [
            ("security.capability", libc::EOPNOTSUPP),
            ("trusted.x", libc::EOPNOTSUPP),
            ("system.posix_acl_access", libc::EOPNOTSUPP),
            ("user.other", libc::ENODATA),
            ("user.expirefs.other", libc::ENODATA),
            ("user.expirefs.", libc::ENODATA),
        ] {
            let error = getxattr(&path, name, 100).expect_err(name).raw_os_error();
            assert_eq!(error, Some(errno), "{name} of {}", path.display());
        }
    }
    let copy = tempfile::tempdir().expect("a folder");
    shell(&mount.path("d"), &format!("cp -a imf {0}/; ls -l --color {0}", copy.path().display()));
}

/// getxattr(2): a size of 0 returns the length, a size that is too small is an error.
#[test]
fn the_length_of_an_attribute_can_be_queried() {
    let store = described();
    let mount = store.mounting().start();
    let get = |room: usize| {
        let got = getxattr(&mount.path("d/imf"), "user.expirefs.expires_raw", room);
        got.map_err(|error| error.raw_os_error())
    };
    assert_eq!(get(0), Ok((FUTURE.len(), vec![])));
    for room in [FUTURE.len(), FUTURE.len() + 1, 64 * KIB] {
        assert_eq!(get(room), Ok((FUTURE.len(), FUTURE.into())), "{room} bytes");
    }
    for room in [1, FUTURE.len() - 1] {
        assert_eq!(get(room), Err(Some(libc::ERANGE)), "{room} bytes");
    }
    let script = "import os; print(*sorted(os.listxattr('d/imf')), os.listxattr('d'))";
    let names = ["content_type", "etag", "expires", "expires_raw", "key", "storage_class"];
    let listed = names.map(|name| format!("user.expirefs.{name} ")).concat() + "[]\n";
    assert_eq!(shell(mount.dir(), &format!("python3 -c \"{script}\"")), listed);
}

/// getxattr(2) with room for `room` bytes: the length it returns, and the bytes it wrote.
fn getxattr(path: &Path, name: &str, room: usize) -> io::Result<(usize, Vec<u8>)> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    let name = CString::new(name).expect("a name without NUL");
    let mut value = vec![0; room];
    let into = if room == 0 { ptr::null_mut() } else { value.as_mut_ptr().cast() };
    // SAFETY: both strings end in NUL, and `into` has room for that many bytes.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), into, room) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    value.truncate(length.min(room));
    Ok((length, value))
}

/// A program compiled for 32 bits without `_FILE_OFFSET_BITS`: it gets 32-bit numbers, or
/// EOVERFLOW.
const PROGRAM: &str = r#"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static int walk(const char *path) {
    struct stat st;
    if (stat(path, &st)) return printf("stat %s: %s\n", path, strerror(errno)), 1;
    printf("%lu %s\n", (unsigned long)st.st_ino, path);
    if (!S_ISDIR(st.st_mode)) return 0;
    DIR *dir = opendir(path);
    if (!dir) return printf("opendir %s: %s\n", path, strerror(errno)), 1;
    struct dirent *entry;
    int failed = 0;
    while (errno = 0, entry = readdir(dir)) {
        char below[4096];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        failed |= walk(below);
    }
    if (errno) return printf("readdir %s: %s\n", path, strerror(errno)), 1;
    closedir(dir);
    return failed;
}

int main(int argc, char **argv) {
    struct statvfs vfs;
    if (statvfs(argv[1], &vfs)) return printf("statvfs: %s\n", strerror(errno)), 1;
    return walk(argv[1]);
}
"#;

#[test]
fn a_32_bit_program_sees_the_same_as_others() {
    let store = Embedded::start();
    (0..300).for_each(|i| store.put(&format!("d{}/e/{i}", i % 7), "x"));
    let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
    let source = folder.path().join("walk.c");
    fs::write(&source, PROGRAM).expect("write the program");
    // Needs the Debian package gcc-multilib.
    shell(folder.path(), "gcc -m32 -o walk walk.c");
    for ls in ["exact", "lazy"] {
        let mount = store.mounting().with(&format!("--ls {ls} --metadata-ttl 60s")).start();
        let walk = format!("{} .", folder.path().join("walk").display());
        let got = shell(mount.dir(), &walk);
        assert_eq!(got.lines().count(), 1 + 7 + 7 + 300);
        assert_same_lines("walk", &got, &shell(mount.dir(), "find . -printf '%i %p\\n'"));
    }
}
