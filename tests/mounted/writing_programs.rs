//! Unmodified programs that write: what they have written is what another mount reads.

use std::fs;
use std::path::Path;
use std::thread;

use crate::support::mount::Mount;
use crate::support::s3_server::seaweedfs;
use crate::support::tools::shell;

/// Files that the programs copy.
const MAKE: &str = r#"
    export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com \
        GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
    mkdir -p tree/sub/deep
    for i in $(seq 40); do seq $i 900 > tree/sub/$i.txt; done
    head -c 20000000 /dev/urandom > tree/large.bin
    : > tree/sub/deep/empty
    tar cf tree.tar tree
    git init -q -b main work
    for i in 1 2 3; do
        seq $i 5000 > work/f$i
        git -C work add . && git -C work commit -q -m "commit $i"
    done
"#;

/// A folder with those files, and two mounts of one bucket.
fn mounted(bucket: &str) -> (tempfile::TempDir, Mount, Mount) {
    let folder = tempfile::tempdir().expect("a folder");
    shell(folder.path(), MAKE);
    let bucket = seaweedfs().bucket(bucket);
    let mount = bucket.mounting().writable().start();
    let other = bucket.mounting().with("--metadata-ttl 0s").start();
    (folder, mount, other)
}

fn same(one: &Path, other: &Path) {
    shell(Path::new("/"), &format!("diff -r {} {}", one.display(), other.display()));
}

#[test]
fn archives_are_unpacked_and_trees_are_copied_whole() {
    let (folder, mount, other) = mounted("trees");
    let source = folder.path().display();
    shell(mount.dir(), &format!("mkdir t c && tar xf {source}/tree.tar -C t"));
    shell(mount.dir(), &format!("cp -a {source}/tree c/"));
    for name in ["t/tree", "c/tree"] {
        same(&folder.path().join("tree"), &other.dir().join(name));
    }
    shell(mount.dir(), "mv c/tree/large.bin moved && mv c/tree d && rm -r t d");
    let left = shell(other.dir(), "find . -type f");
    assert_eq!(left.trim(), "./moved");
}

/// A second run sends nothing if it goes by size. By time it sends all again: the time of a file is
/// that of its commit.
#[test]
fn rsync_sends_a_tree_once() {
    let (folder, mount, other) = mounted("rsync");
    let tree = folder.path().join("tree");
    // A time that no commit has, whichever second it is made in.
    shell(&tree, "find . -exec touch -d 2020-01-01 {} +");
    let rsync = |options: &str| {
        let rsync = format!("rsync -a {options} --stats {}/ r/", tree.display());
        let stats = shell(mount.dir(), &rsync);
        let sent = stats.lines().find(|line| line.contains("regular files transferred"));
        sent.and_then(|line| line.rsplit(' ').next()).and_then(|n| n.parse::<u32>().ok())
    };
    assert_eq!(rsync(""), Some(42));
    same(&tree, &other.dir().join("r"));
    assert_eq!(rsync("--size-only"), Some(0));
    assert_eq!(rsync(""), Some(42));
}

#[test]
fn git_clones_into_a_mount_and_finds_nothing_wrong() {
    let (folder, mount, other) = mounted("git");
    let source = folder.path().join("work");
    shell(
        mount.dir(),
        &format!("git clone -q {} g && git -C g fsck --no-dangling", source.display()),
    );
    let log = "git -c safe.directory='*' log --format=%H";
    let cloned = shell(&other.dir().join("g"), log);
    assert_eq!(cloned, shell(&source, log));
}

#[test]
fn databases_and_temporary_files_of_programs_are_whole() {
    let (_folder, mount, other) = mounted("programs");
    shell(
        mount.dir(),
        "sqlite3 s.db 'create table t (x); insert into t values (1), (2); update t set x = x + 1'",
    );
    assert_eq!(shell(other.dir(), "sqlite3 -readonly s.db 'select sum(x) from t'").trim(), "5");
    let python = r#"
import os, shutil, tempfile
number, name = tempfile.mkstemp(dir=".")
os.write(number, b"one"); os.fsync(number); os.close(number)
os.replace(name, "replaced")
shutil.copy2("/etc/passwd", "copied")
with open("header", "wb") as file:
    file.write(bytes(9_000_000)); file.seek(0); file.write(b"HEAD")
"#;
    shell(mount.dir(), &format!("python3 -c '{python}'"));
    assert_eq!(fs::read(other.dir().join("replaced")).expect("read"), b"one");
    same(Path::new("/etc/passwd"), &other.dir().join("copied"));
    let header = fs::read(other.dir().join("header")).expect("read");
    assert!(header.len() == 9_000_000 && header.starts_with(b"HEAD\0"));
    shell(mount.dir(), "echo a > log; for i in 1 2 3; do echo b >> log; done");
    assert_eq!(fs::read_to_string(other.dir().join("log")).expect("read"), "a\nb\nb\nb\n");
}

/// Its writer goes back to the start of a file for the size of the frames, and reads the file again to
/// move its index there (`faststart`).
#[test]
fn ffmpeg_rewrites_the_header_of_its_file() {
    let bucket = seaweedfs().bucket("ffmpeg");
    let mount = bucket.mounting().writable().with("--part-size 5MiB").start();
    let other = bucket.mounting().with("--metadata-ttl 0s").start();
    let encode = "ffmpeg -nostdin -v error -f lavfi -i testsrc2=size=1280x720:rate=25:duration=10 \
                  -c:v mpeg4 -threads 1 -qscale:v 1 -bitexact";
    for (name, flags) in [("plain.mp4", "0"), ("fast.mp4", "faststart")] {
        shell(mount.dir(), &format!("{encode} -movflags {flags} {name}"));
        let size = fs::metadata(other.path(name)).expect("stat").len();
        assert!(size > 10 << 20, "{size} bytes: less than two parts");
        let local = tempfile::tempdir().expect("a folder");
        shell(local.path(), &format!("{encode} -movflags {flags} {name}"));
        same(&local.path().join(name), &other.path(name));
        let probe =
            "ffprobe -v error -count_frames -show_entries stream=nb_read_frames -of csv=p=0";
        assert_eq!(shell(other.dir(), &format!("{probe} {name}")).trim(), "250");
    }
}

/// With the same result as in a local folder.
#[test]
fn a_shell_redirects_appends_and_moves_as_in_a_local_folder() {
    let bucket = seaweedfs().bucket("shell");
    let mount = bucket.mounting().writable().start();
    let other = bucket.mounting().with("--metadata-ttl 0s").start();
    let script = r#"
        { echo one; (echo two); } > out; echo three >> out; seq 3 | tee -a out > tee
        : > empty; echo > emptied; : > emptied; mkdir d e; mv out d/moved; mv d/moved e/; cp e/moved copy
        echo x > copy; mv -n copy e/moved; mv copy e/moved; echo y >> e/moved
        out=$(mktemp -d); mv e "$out/"; echo back >> "$out/e/moved"; mv "$out/e" f; rmdir "$out" d
        exec 3> held; echo 1 >&3; echo 2 >&3; exec 3>&-
        head -c 9000000 /dev/zero > large; echo end >> large; truncate -s 8500000 large
        sed -i s/t/T/ tee; sort -o tee tee; printf %s abc | dd of=f/moved bs=1 seek=1 conv=notrunc status=none
    "#;
    let local = tempfile::tempdir().expect("a folder");
    shell(local.path(), script);
    shell(mount.dir(), script);
    same(local.path(), other.dir());
}

/// Ten rounds in which both mounts write the same names at once, by a plain write and by a rename.
#[test]
fn of_names_that_two_mounts_write_at_once_each_is_the_whole_of_one() {
    let bucket = seaweedfs().bucket("both");
    let mounts = [(); 2].map(|()| bucket.mounting().writable().with("--metadata-ttl 0s").start());
    let other = bucket.mounting().with("--metadata-ttl 0s").start();
    let script = |who: &str| {
        format!(
            "for i in $(seq 10); do for size in 10 3000000; do
                 head -c $size /dev/zero | tr '\\0' {who} > plain$i.$size
                 head -c $size /dev/zero | tr '\\0' {who} > {who}.tmp && mv {who}.tmp renamed$i.$size
             done; done"
        )
    };
    let [one, two] = ["a", "b"].map(script);
    thread::scope(|scope| {
        scope.spawn(|| shell(mounts[0].dir(), &one));
        scope.spawn(|| shell(mounts[1].dir(), &two));
    });
    let check = "ls | wc -l; for f in *; do [ $(stat -c %s $f) = ${f#*.} ] || echo size $f
                     grep -qxE 'a+|b+' $f || echo mixed $f; done";
    assert_eq!(shell(other.dir(), check), "40\n");
}
