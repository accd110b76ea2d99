//! Every byte is right, however programs read: out of order, concurrently, mapped, from the end.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;

use crate::support::content::{KIB, MIB, assert_same_bytes, content, part, scattered};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::tools::shell;

const SIZE: usize = 64 * MIB + 12345;

/// `big`, and the files that the programs below read: one with checksums in it, a zip and a tar.
static BUCKET: LazyLock<Bucket> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    for i in 0..50u64 {
        fs::write(folder.path().join(format!("m{i}")), content(i, 100_000 + 777 * i as usize))
            .expect("a member");
    }
    shell(folder.path(), "zip -q -0 members.zip m* && tar -cf members.tar m*");
    shell(folder.path(), &format!("{FIO} --filename=fio --rw=write --bs=4k --do_verify=0"));
    let bucket = seaweedfs().bucket("reading");
    bucket.put("big", object(content(1, SIZE)));
    for name in ["members.zip", "members.tar", "fio"] {
        let bytes = fs::read(folder.path().join(name)).expect(name);
        bucket.put(name, object(bytes));
    }
    bucket
});

/// Each block has a checksum and its own offset in it.
const FIO: &str = "fio --name=verified --size=32M --verify=crc32c --verify_interval=4k \
    --verify_fatal=1 --minimal --output=/dev/null";

fn check(file: &File, offset: usize, len: usize) {
    let len = len.min(SIZE - offset);
    let mut got = vec![0; len];
    let read = file.read_exact_at(&mut got, offset as u64);
    read.unwrap_or_else(|e| panic!("{len} bytes at {offset}: {e}"));
    assert_same_bytes(&format!("from {offset} on"), &got, &part(1, offset..offset + len));
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn pieces_in_shuffled_order() {
    let mount = BUCKET.mounting().start();
    let file = open(&mount.path("big"));
    let piece = 300 * KIB;
    // A prime that does not divide their number: each piece is read once.
    let (pieces, step) = (SIZE.div_ceil(piece), 97);
    assert!(!pieces.is_multiple_of(step));
    (0..pieces).for_each(|i| check(&file, i * step % pieces * piece, piece));
}

#[test]
fn eight_threads_on_one_handle() {
    for options in ["", "--fuse-threads 4", "--buffer-memory 4MiB --max-open-bodies 1"] {
        let mount = BUCKET.mounting().with(options).start();
        let file = &open(&mount.path("big"));
        thread::scope(|scope| {
            for t in 0..8 {
                scope.spawn(move || {
                    // Concurrently in one place, then in order, then anywhere.
                    (0..64).for_each(|i| check(file, (i * 8 + t) * 64 * KIB, 64 * KIB));
                    let share = SIZE / 8;
                    (0..share / MIB).for_each(|i| check(file, t * share + i * MIB, MIB));
                    scattered(50, SIZE - MIB).for_each(|at| check(file, at, 1 + at % MIB));
                });
            }
        });
    }
}

#[test]
fn fio_verifies() {
    let mount = BUCKET.mounting().start();
    for how in [
        "--rw=randread --bs=4k --io_size=4M",
        "--rw=read --bs=128k",
        "--rw=randread --bs=64k --ioengine=mmap",
    ] {
        shell(mount.dir(), &format!("{FIO} --filename=fio --readonly {how}"));
    }
    // Four jobs, each on its own part.
    let jobs = "--rw=read --bs=64k --thread --numjobs=4 --offset_increment=8M";
    let fio = FIO.replace("--size=32M", "--size=8M");
    shell(mount.dir(), &format!("{fio} --filename=fio --readonly {jobs}"));
}

#[test]
fn a_program_that_maps_the_file() {
    let mount = BUCKET.mounting().start();
    let script = "python3 - <<'END'\n\
        import hashlib, mmap\n\
        with open('big', 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:\n\
        \x20   middle = len(m) // 2\n\
        \x20   backwards = b''.join(m[i:i + 4096] for i in range(40960, -1, -4096))\n\
        \x20   print(len(m), m[middle:middle + 16].hex(), hashlib.sha256(m).hexdigest(), len(backwards))\n\
        END";
    let middle = part(1, SIZE / 2..SIZE / 2 + 16);
    let middle: String = middle.iter().map(|byte| format!("{byte:02x}")).collect();
    let sum = shell(mount.dir(), "sha256sum < big");
    let want =
        format!("{SIZE} {middle} {} {}\n", sum.trim_end_matches([' ', '-', '\n']), 11 * 4096);
    assert_eq!(shell(mount.dir(), script), want);
    let local = tempfile::tempdir().expect("a folder");
    fs::write(local.path().join("big"), content(1, SIZE)).expect("a copy");
    assert_eq!(shell(local.path(), "sha256sum < big"), sum);
}

#[test]
fn the_tail_of_a_file() {
    let mount = BUCKET.mounting().start();
    let path = mount.path("big");
    for n in [1, 4096, 100_000, 3 * MIB] {
        let script = format!("tail -c {n} '{}'", path.display());
        let got = crate::support::tools::shell_bytes(mount.dir(), &script);
        assert_same_bytes(&script, &got, &part(1, SIZE - n..SIZE));
    }
}

#[test]
fn members_of_archives_by_seeking() {
    let mount = BUCKET.mounting().start();
    let want = |i: u64| content(i, 100_000 + 777 * i as usize);
    for i in [0, 49, 7, 23] {
        for script in [
            format!("unzip -p members.zip m{i}"),
            format!("tar --extract --seek --to-stdout --file members.tar m{i}"),
            format!(
                "python3 -c 'import sys, zipfile; \
                 sys.stdout.buffer.write(zipfile.ZipFile(\"members.zip\").read(\"m{i}\"))'"
            ),
        ] {
            let got = crate::support::tools::shell_bytes(mount.dir(), &script);
            assert_same_bytes(&script, &got, &want(i));
        }
    }
}
