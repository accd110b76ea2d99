//! What all commands have in common: options, exit statuses, and what goes to which stream.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::embedded::Embedded;
use crate::support::{FUTURE, PAST};

/// The exit statuses of docs/CONFIGURATION.md.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const PARTLY: i32 = 3;
const ABSENT: i32 = 4;

/// Commands without a mount: what they are asked, the exit status, and the number of objects that are
/// reported as failed or absent.
const TABLE: [(&[&str], i32, usize); 34] = [
    (&["ls", "s3://embedded/"], DONE, 0),
    (&["ls", "s3://embedded/", "--all", "--recursive", "--long"], DONE, 0),
    (&["ls", "s3://nowhere/"], FAILED, 1),
    (&["ls", "s3://no bucket/"], USAGE, 1),
    (&["ls", "s3://embedded/", "--lifecycle", "--expires-from=list", "--default-ttl=1h"], USAGE, 1),
    (&["explain", "s3://embedded/live"], DONE, 0),
    (&["explain", "s3://nowhere/key"], FAILED, 1),
    (&["explain", "s3:///key"], USAGE, 1),
    (&["explain", "s3://embedded/expired"], ABSENT, 0),
    (&["explain", "s3://embedded/absent"], ABSENT, 0),
    (&["put", "Cargo.toml", "s3://embedded/new", "--ttl=1h"], DONE, 0),
    (&["put", "Cargo.toml", "s3://embedded/live", "--ttl=1h", "--if-absent"], FAILED, 1),
    (&["put", "Cargo.toml", "s3://nowhere/new", "--ttl=1h"], FAILED, 1),
    (&["put", "/nowhere", "s3://embedded/new", "--ttl=1h"], FAILED, 1),
    (&["put", "-", "s3://embedded/", "--ttl=1h"], USAGE, 1),
    (&["put", "Cargo.toml", "s3://embedded/new", "--ttl=1h", "--sse-kms-key-id=a"], USAGE, 1),
    (&["get", "s3://embedded/live", "/dev/null"], DONE, 0),
    (&["get", "s3://embedded/live", "/nowhere/file"], FAILED, 1),
    (&["get", "s3://embedded/", "/dev/null"], USAGE, 1),
    (&["get", "s3://embedded/expired", "/dev/null"], ABSENT, 1),
    (&["rm", "s3://embedded/live", "s3://embedded/other"], DONE, 0),
    (&["rm", "s3://embedded"], USAGE, 1),
    (&["rm", "s3://embedded/absent", "s3://embedded/live", "s3://embedded/expired"], PARTLY, 2),
    (&["rm", "s3://embedded/absent", "s3://embedded/expired"], ABSENT, 2),
    (&["ttl", "s3://embedded/live", "s3://embedded/other", "1h"], DONE, 0),
    (&["ttl", "Cargo.toml", "1h"], FAILED, 1),
    (&["ttl", "s3://embedded/live", "s3://embedded/", "1h"], USAGE, 1),
    (&["ttl", "s3://embedded/live", "s3://embedded/absent", "1h"], PARTLY, 1),
    (&["ttl", "s3://embedded/expired", "1h"], ABSENT, 1),
    (&["sweep", "s3://embedded/"], DONE, 0),
    (&["sweep", "s3://embedded/", "--delete"], DONE, 0),
    (&["sweep", "s3://nowhere/"], FAILED, 1),
    (&["sweep", "s3://embedded/", "--state=Cargo.toml"], FAILED, 1),
    (&["sweep", "s3://no bucket/"], USAGE, 1),
];

fn filled() -> Embedded {
    let store = Embedded::start();
    for (key, expires) in [("live", FUTURE), ("other", FUTURE), ("expired", PAST)] {
        store.put_expiring(key, "x", expires);
    }
    store
}

#[track_caller]
fn assert_shape(command: &mut Command, option: &str, status: i32, lines: usize) {
    let what = format!("{command:?} {option}");
    let Output { status: got, stdout, stderr } = command.output().expect("it runs");
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    assert_eq!(got.code(), Some(status), "{what}: {stderr}");
    // The summary of a sweep, for people.
    let errors = stderr.lines().filter(|line| !line.contains(" objects listed, "));
    assert_eq!(errors.count(), lines, "{what}: {stderr}");
    assert!(stderr.lines().all(|line| line.starts_with("expirefs: ")), "{what}: {stderr}");
    match option {
        "-q" => assert_eq!(stdout, "", "{what}"),
        "--json" => {
            let objects = stdout.lines().map(serde_json::from_str::<Value>);
            assert!(
                objects.into_iter().all(|o| o.is_ok_and(|o| o.is_object())),
                "{what}: {stdout}"
            );
        }
        _ => {}
    }
    let shows = option != "-q" && [DONE, PARTLY].contains(&status);
    assert!(!shows || !stdout.is_empty(), "{what}");
}

#[test]
fn each_command_has_the_exit_statuses_of_the_table_and_the_same_options_for_output() {
    for (args, status, lines) in TABLE {
        for option in ["", "--json", "-q"] {
            let store = filled();
            let args: Vec<&str> = args.iter().copied().chain(Some(option)).collect();
            let args = args.strip_suffix(&[""]).unwrap_or(&args);
            let mut command = store.endpoint().typed(args);
            assert_shape(&mut command, option, status, lines);
        }
    }
}

#[test]
fn commands_about_a_mount_have_the_same_statuses_and_options() {
    let store = filled();
    let mut mount = store.mounting().start();
    let elsewhere = tempfile::tempdir().expect("a folder");
    for option in ["", "--json", "-q"] {
        let options: &[&str] = if option.is_empty() { &[] } else { &[option] };
        for (command, path, status, lines) in [
            ("status", mount.dir(), DONE, 0),
            ("status", elsewhere.path(), FAILED, 1),
            ("explain", &*mount.path("live"), DONE, 0),
            ("explain", &*mount.path("expired"), ABSENT, 0),
            ("explain", elsewhere.path(), FAILED, 1),
        ] {
            let mut command = mount.control_command(command, path, options);
            assert_shape(&mut command, option, status, lines);
        }
        let list: Vec<&str> = ["list"].into_iter().chain(options.iter().copied()).collect();
        assert_shape(&mut mount.command(&list), option, DONE, 0);
    }
    for args in [
        &["status"][..],
        &["umount"],
        &["mount", "embedded"],
        &["ls"],
        &["list", "x"],
        &["top", "a", "b"],
        &["explain"],
        &["demo", "x"],
    ] {
        let refused = store.endpoint().typed(args).output().expect("it runs");
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(USAGE), 0), "{args:?}");
    }
    let top = mount.control("top", &[]);
    assert_eq!((top.status.code(), top.stdout.is_empty()), (Some(DONE), false), "{top:?}");
    let refused = mount.control_at("top", elsewhere.path(), &[]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(FAILED), 0));
    let refused = mount.control_at("umount", elsewhere.path(), &[]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(FAILED), 0));
    let done = mount.control("umount", &[]);
    assert_eq!((done.status.code(), done.stdout.len()), (Some(DONE), 0), "{done:?}");
    mount.assert_ended_well();
}
