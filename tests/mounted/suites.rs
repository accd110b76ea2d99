//! Test suites for file systems in general, on a mount. `scripts/pinned` installs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;

use crate::support::s3_server::seaweedfs;
use crate::support::tools::{attempt, shell};

/// The path of the program that has the name of its suite.
fn suite(name: &str) -> PathBuf {
    let pinned = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/pinned");
    let output = Command::new(pinned).arg(name).output().expect(pinned);
    assert!(output.status.success(), "{pinned} {name}: {output:?}");
    let folder = String::from_utf8(output.stdout).expect("a path");
    Path::new(folder.trim()).join(name)
}

/// What fsx does, in these shares. Not with it: punch_hole, which a mount refuses.
const OPERATIONS: &str = "
    [opsize]
    max = 600000
    [weights]
    close_open = 2
    invalidate = 1
    mapread = 4
    mapwrite = 4
    read = 5
    write = 10
    truncate = 3
    fsync = 1
    fdatasync = 1
    posix_fallocate = 1
    sendfile = 1
    posix_fadvise = 1
    copy_file_range = 2
";

/// Runs fsx, which compares each read with what it has written, on a file of up to this size, with
/// parts of 5 MiB; another mount then reads the same file.
fn fsx(size: u32, operations: u32, seeds: std::ops::Range<u32>) {
    let fsx = suite("fsx");
    let bucket = seaweedfs().bucket("fsx");
    let mount = bucket.mounting().writable().with("--part-size 5MiB").living(LONG).start();
    let other = bucket.mounting().with("--metadata-ttl 0s").living(LONG).start();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("fsx.toml"), format!("flen = {size}\n{OPERATIONS}"))
        .expect("write");
    for seed in seeds {
        let file = mount.path(format!("seed{seed}"));
        let run = format!(
            "timeout 200 {} -f fsx.toml -S {seed} -N {operations} -P . {} 2>&1",
            fsx.display(),
            file.display()
        );
        let output = attempt(folder.path(), &run);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "seed {seed}: {said}");
        shell(mount.dir(), &format!("cmp seed{seed} {}/seed{seed}", other.dir().display()));
    }
}

/// How long a mount may live here.
const LONG: Duration = Duration::from_secs(500);

#[test]
fn fsx_finds_no_fault_in_a_file_of_one_part() {
    fsx(4_000_000, 600, 1..4);
}

#[test]
fn fsx_finds_no_fault_in_a_file_of_several_parts() {
    fsx(16_000_000, 250, 4..6);
}

/// The cases of pjdfstest, and how many of them it skips: those of features that the list turns off, for
/// mounts that become read-only, and for the greatest link count.
const CASES: [u32; 2] = [397, 21];

/// tests/pjdfstest.toml has what fails, with the reasons.
#[test]
fn pjdfstest_finds_what_is_listed_and_nothing_else() {
    assert!(Uid::effective().is_root(), "pjdfstest changes users: run this as root");
    let program = suite("pjdfstest");
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pjdfstest.toml");
    let bucket = seaweedfs().bucket("pjdfstest");
    let mount = bucket.mounting().writable().with("--allow-other").living(LONG).start();
    let elsewhere = tempfile::tempdir().expect("a folder of another file system");
    // Mostly they sleep until a file would get another time: so all at the same time.
    let shares = [
        "link::",
        "open:: posix_fallocate:: utimensat::",
        "rename:: rmdir:: mkdir::",
        "chmod:: chown:: tests::truncate:: mkfifo:: mknod::",
        // Not `unchanged_ctime_failed`: it closes its new file between the two times that it compares,
        // and the commit, which sets the time, comes before the second or after it.
        "ftruncate::a ftruncate::e ftruncate::s ftruncate::up",
    ];
    let run_once = |patterns: &'static str| {
        let run = format!(
            "NO_COLOR=1 timeout 300 {} -c {list} -p $(mktemp -d -p .) -s {} {patterns} 2>&1",
            program.display(),
            elsewhere.path().display()
        );
        let output = attempt(mount.dir(), &run);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let run = |patterns: &'static str| {
        let (mut succeeds, mut said) = run_once(patterns);
        // A file is committed some milliseconds after its close: into the next second, once in many
        // runs, so that it seems to have got another time.
        let failed = |said: &str| {
            let lines = said.lines().filter(|line| line.ends_with(" FAILED"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        if !succeeds && failed(&said).iter().all(|line| line.contains("unchanged_ctime")) {
            (succeeds, said) = run_once(patterns);
        }
        assert!(succeeds, "{said}");
        let summary = said.lines().find(|line| line.starts_with("Summary: ")).expect("a summary");
        let count = |what: &str| {
            let before = summary.split(what).next().and_then(|text| text.trim().rsplit(' ').next());
            before.and_then(|number| number.parse::<u32>().ok()).expect("a number")
        };
        [count(" total"), count(" skipped")]
    };
    let run = &run;
    let counts = thread::scope(|scope| {
        let runs = shares.map(|patterns| scope.spawn(move || run(patterns)));
        runs.map(|run| run.join().expect("a run of pjdfstest"))
    });
    let sum = |at: usize| counts.iter().map(|counts| counts[at]).sum::<u32>();
    assert_eq!([sum(0), sum(1)], CASES, "cases, and skipped ones");
}
