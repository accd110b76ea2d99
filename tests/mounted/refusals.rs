//! M2: a mount that fails prints one line before the command returns. B3 for the numbers.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::mount::{Setup, is_mounted};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::wait::{eventually, within};
use crate::support::{Credentials, Endpoint};

fn bucket() -> Bucket {
    let bucket = seaweedfs().bucket("refusals");
    bucket.put("file", object("x"));
    bucket
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The mount fails with status 1, one line that contains all of `names`, and nothing mounted.
/// Errors of the argument parser may have status 2 and hints in further lines.
#[track_caller]
fn assert_refused(setup: &Setup, dir: &Path, names: &[&str]) -> String {
    let mounted = is_mounted(dir);
    let Output { status, stdout, stderr } = setup.refused_on(dir);
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let code = status.code();
    assert!(matches!(code, Some(1 | 2)), "{status}: {stderr}");
    assert!(stdout.is_empty(), "on standard output: {}", String::from_utf8_lossy(&stdout));
    if code == Some(1) {
        assert_eq!(stderr.lines().count(), 1, "one line, not:\n{stderr}");
    }
    let line = stderr.lines().next().unwrap_or_default().to_owned();
    for name in names {
        assert!(line.to_lowercase().contains(&name.to_lowercase()), "no {name:?} in: {line}");
    }
    assert_eq!(is_mounted(dir), mounted, "mounted on {}", dir.display());
    line
}

/// The same on a new empty folder.
#[track_caller]
fn assert_refused_anywhere(setup: &Setup, names: &[&str]) -> String {
    assert_refused(setup, folder().path(), names)
}

#[test]
fn a_bucket_that_is_missing() {
    let setup = Setup::new(&seaweedfs().endpoint, "no-such-bucket");
    assert_refused_anywhere(&setup, &["no-such-bucket"]);
}

/// Empty variables count as unset.
#[test]
fn credentials_that_are_missing() {
    let bucket = bucket();
    let mut endpoint = bucket.endpoint().clone();
    endpoint.credentials = Some(Credentials::default());
    let setup = Setup::new(&endpoint, &bucket.name);
    assert_refused_anywhere(&setup, &["no credentials", "--no-sign-request"]);
}

#[test]
fn bad_credentials() {
    let bucket = bucket();
    let wrong = [("nobody", "secret-of-nobody"), ("expirefs-test", "not-its-secret")];
    for (id, secret) in wrong {
        let mut endpoint = bucket.endpoint().clone();
        let credentials = endpoint.credentials.as_mut().expect("SeaweedFS asks for some");
        id.clone_into(&mut credentials.access_key_id);
        secret.clone_into(&mut credentials.secret_access_key);
        let setup = Setup::new(&endpoint, &bucket.name);
        let line = assert_refused_anywhere(&setup, &[&bucket.name, "access denied"]);
        assert!(!line.contains(secret), "M4: the secret is in: {line}");
    }
}

/// The error comes within seconds, whatever `--timeout`, from the commands too: only a running
/// mount waits for a store that restarts.
#[test]
fn an_endpoint_without_a_server() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}", free.local_addr().expect("its address"));
    drop(free);
    let endpoint =
        Endpoint { url: url.clone(), credentials: bucket().endpoint().credentials.clone() };
    let seconds = Duration::from_secs(15);
    within(seconds, "mount", || assert_refused_anywhere(&Setup::new(&endpoint, "bucket"), &[&url]));
    for command in ["ls", "explain"] {
        let mut expirefs = endpoint.expirefs(command, "s3://bucket/key", &[]);
        let output = within(seconds, command, || expirefs.output().expect("it runs"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(says.contains("cannot be reached") && says.contains("refused"), "{says}");
    }
}

#[test]
fn a_mount_point_that_is_absent() {
    let folder = folder();
    let dir = folder.path().join("absent");
    assert_refused(&bucket().mounting(), &dir, &[dir.to_str().unwrap()]);
}

#[test]
fn a_mount_point_that_is_a_file() {
    let folder = folder();
    let file = folder.path().join("file");
    File::create(&file).expect("a file");
    assert_refused(&bucket().mounting(), &file, &[file.to_str().unwrap(), "directory"]);
}

#[test]
fn a_mount_point_that_is_mounted_already() {
    let bucket = bucket();
    let mount = bucket.mounting().start();
    let dir = mount.dir().to_str().unwrap();
    assert_refused(&bucket.mounting(), mount.dir(), &[dir, "already"]);
    assert_eq!(fs::read_to_string(mount.path("file")).expect("the mount still works"), "x");
}

/// A mount left by a crash is reported, and removed on request.
#[test]
fn a_dead_mount_is_named_and_replaced_on_demand() {
    let bucket = bucket();
    let mut mount = bucket.mounting().start();
    mount.signal(Signal::SIGKILL);
    mount.ended();
    let dir = mount.dir().to_owned();
    eventually(Duration::from_secs(5), || match fs::metadata(&dir).map_err(|e| e.raw_os_error()) {
        Err(Some(libc::ENOTCONN)) => Ok(()),
        other => Err(format!("the mount is not dead: {other:?}")),
    });
    let names = [dir.to_str().unwrap(), "--replace-dead"];
    assert_refused(&bucket.mounting(), &dir, &names);

    let again = bucket.mounting().with("--replace-dead").start_on(&dir);
    assert_eq!(fs::read_to_string(dir.join("file")).expect("a live mount"), "x");
    drop(again);
    assert!(!is_mounted(&dir), "the dead mount was covered, and not taken away");
}

/// B3: refused with the requested number and the one that fits.
#[test]
fn more_bodies_than_descriptors() {
    let setup = bucket().mounting().with("--max-open-bodies 5000").nofile(256);
    let line = assert_refused_anywhere(&setup, &["--max-open-bodies", "5000"]);
    let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    let fits: Vec<u32> = numbers.filter(|n| (1..256).contains(n)).collect();
    assert!(!fits.is_empty(), "no number that would fit in: {line}");
}

/// The error for a wrong value contains the option, the value and the expected form.
#[test]
fn values_that_have_no_meaning() {
    let bucket = bucket();
    for (option, value, right) in [
        ("--metadata-ttl", "soon", "10m"),
        ("--open-wait", "-5", "10m"),
        ("--timeout", "1x", "10m"),
        ("--on-unparsable", "perhaps", "fresh"),
        ("--clock", "sundial", "server"),
        ("--file-mode", "rw-r--r--", "0644"),
        ("--max-open-bodies", "many", "number"),
        ("--fuse-threads", "100000", "64"),
    ] {
        // `=`, or a value with a dash in front would be taken for another option.
        let setup = bucket.mounting().with(&format!("{option}={value}"));
        let folder = folder();
        let stderr = String::from_utf8(setup.refused_on(folder.path()).stderr).expect("text");
        for word in [option, value, right] {
            assert!(stderr.contains(word), "{option}={value}: no {word:?} in: {stderr}");
        }
        assert_refused(&setup, folder.path(), &[option, value]);
    }
}

/// A private bucket, requested without a signature.
#[test]
fn no_access_without_credentials() {
    let bucket = bucket();
    let endpoint = Endpoint { credentials: None, ..bucket.endpoint().clone() };
    assert_refused_anywhere(&Setup::new(&endpoint, &bucket.name), &[&bucket.name]);
}

/// Runs it by a bash script that ends in `"$@"`, in its own mount namespace.
#[track_caller]
fn refused_after(setup: &Setup, script: &str) -> String {
    let folder = folder();
    let command = setup.command(folder.path(), folder.path());
    let mut bash = Command::new("unshare");
    bash.args(["--mount", "bash", "-e", "-c", script, "bash"]);
    bash.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bash.env(name, value),
            None => bash.env_remove(name),
        };
    }
    let output = bash.output().expect("unshare");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line, not:\n{stderr}");
    assert!(stderr.contains(folder.path().to_str().unwrap()), "{stderr}");
    stderr
}

/// The errors for a user without fusermount3, or without access to the device: root without
/// capabilities is such a user.
#[test]
fn no_helper_and_no_device() {
    const AS_USER: &str =
        "exec setpriv --bounding-set=-sys_admin,-dac_override,-dac_read_search \"$@\"";
    let bucket = bucket();
    let says = refused_after(
        &bucket.mounting(),
        &format!("export FUSERMOUNT_PATH=/nonexistent; {AS_USER}"),
    );
    assert!(says.contains("fusermount3") && says.contains("package fuse3"), "{says}");
    let device = "f=$(mktemp); chmod 0600 $f; chown 1 $f; mount --bind $f /dev/fuse; rm $f";
    let says = refused_after(&bucket.mounting(), &format!("{device}; {AS_USER}"));
    assert!(says.contains("/dev/fuse (mode 0600, owner 1:0)"), "{says}");
    let says = refused_after(&bucket.mounting(), &format!("mount -t tmpfs x /dev; {AS_USER}"));
    assert!(says.contains("/dev/fuse") && says.contains("module fuse"), "{says}");
}

#[test]
fn a_prefix_that_cannot_be_a_path() {
    let bucket = bucket();
    for (prefix, says) in [
        ("tools//web", "empty component"),
        ("../x", "\"..\""),
        ("a/./b", "\".\""),
        (&"x".repeat(256), "255"),
        (&"abcdefg/".repeat(200), "1024"),
    ] {
        let setup = Setup::new(bucket.endpoint(), &format!("{}/{prefix}", bucket.name));
        assert_refused_anywhere(&setup, &["prefix", says]);
    }
}

/// A wrong prefix looks as if all objects had expired: a warning says so. It is mounted anyway,
/// since keys may be added.
#[test]
fn a_prefix_without_keys_is_mounted_with_a_warning() {
    let bucket = bucket();
    bucket.put("folder/object", object("x"));
    let start =
        |prefix: &str| Setup::new(bucket.endpoint(), &format!("{}/{prefix}", bucket.name)).start();
    for (prefix, says) in [
        ("foldre", "no key begins with foldre/: is the prefix right?"),
        ("folder/object", "folder/object is an object"),
    ] {
        let mount = start(prefix);
        let said = mount.said();
        assert_eq!(said.len(), 2, "{said:#?}");
        assert!(said[0].contains("WARN") && said[0].contains(says), "{said:#?}");
        assert_eq!(fs::read_dir(mount.dir()).expect("ls").count(), 0);
    }
    for prefix in ["", "folder", "folder/"] {
        assert_eq!(start(prefix).said().len(), 1, "{prefix:?}");
    }
}
