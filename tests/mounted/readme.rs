//! The service that README.md shows: it is run as it stands there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::mount::environment_of_a_shell;
use crate::support::process::Process;
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::stuck::end_of;
use crate::support::wait::{HANGS, eventually};
use crate::support::{FUTURE, PAST};

/// The indented lines of README.md from the one with `from` up to the first that is not indented, for
/// this bucket.
fn shown(from: &str, bucket: &Bucket) -> String {
    let readme = include_str!("../../README.md");
    let lines = readme.lines().skip_while(|line| !line.contains(from));
    let block = lines.map_while(|line| line.strip_prefix("    "));
    block.map(|line| format!("{line}\n")).collect::<String>().replace("my-bucket", &bucket.name)
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// What the service makes: the number of reports made so far.
const MAKE_REPORT: &str = "#!/bin/sh -e
[ \"$1\" != wrong ]
echo x >> \"$0.made\"
echo \"$1 number $(wc -l < \"$0.made\")\"
";

#[test]
fn the_service_of_the_readme_makes_reports_once_and_anew_when_they_expire() {
    let bucket = seaweedfs().bucket("readme");
    let folder = tempfile::tempdir().expect("a folder");
    write_program(&folder.path().join("make-report"), MAKE_REPORT);
    let script = shown("#!/bin/sh -e", &bucket);
    assert_eq!(script.lines().filter(|line| !line.starts_with('#')).count(), 7, "{script}");
    write_program(&folder.path().join("report"), &script);
    let here = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(folder.path()).env("TMPDIR", folder.path());
        environment_of_a_shell(&mut command, bucket.endpoint(), folder.path());
        command
    };
    let report = |name: &str| here("./report", &[name]).output().expect("it runs");
    let printed = |Output { status, stdout, stderr }: Output| {
        assert!(status.success() && stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("text")
    };
    assert_eq!(printed(report("a")), "a number 1\n");
    assert_eq!(printed(report("a")), "a number 1\n");
    assert_eq!(printed(report("b")), "b number 2\n");
    bucket.put("reports/a", object("old").expires(PAST));
    assert_eq!(printed(report("a")), "a number 3\n");
    let failed = report("wrong");
    assert!(!failed.status.success() && failed.stdout.is_empty(), "{failed:?}");
    assert!(!bucket.keys().contains("reports/wrong"));

    bucket.put("reports/old", object("old").expires(PAST));
    bucket.put("reports/new", object("new").expires(FUTURE));
    bucket.put("elsewhere", object("old").expires(PAST));
    bucket.until_settled("reports/old");
    let sweep = shown("sweep s3://my-bucket/reports", &bucket);
    let mut sweep = here("sh", &["-c", &format!("exec {sweep}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    eventually(HANGS, || match bucket.keys().contains("reports/old") {
        false => Ok(()),
        true => Err("it is still there".to_owned()),
    });
    let left: Vec<String> = bucket.keys().into_iter().collect();
    assert_eq!(left, ["elsewhere", "reports/a", "reports/b", "reports/new"]);
    // It waits for the next sweep.
    let process = Process(sweep.id());
    eventually(HANGS, || match (process.close_wait(), process.tcp_sockets()) {
        (0, 0) => Ok(()),
        sockets => Err(format!("sockets in CLOSE_WAIT, and all: {sockets:?}")),
    });
    kill(Pid::from_raw(sweep.id() as i32), Signal::SIGTERM).expect("kill");
    assert!(end_of(&mut sweep).success());
    let left = fs::read_dir(folder.path()).expect("a folder");
    let mut left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["make-report", "make-report.made", "report"]);
}
