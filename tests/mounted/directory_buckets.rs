//! Directory buckets (S3 Express One Zone), whose listings have no order and cannot begin at a key.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;
use std::time::{Duration, SystemTime};

use expirefs::embedded::Object;

use crate::support::embedded::Embedded;
use crate::support::mount::Setup;
use crate::support::s3_server::http_date;
use crate::support::{Credentials, Endpoint};

const BUCKET: &str = "cache--usw2-az1--x-s3";

/// More than two pages.
const FILES: usize = 2300;

struct Filled {
    store: Embedded,
    endpoint: Endpoint,
    live: BTreeSet<String>,
    expired: BTreeSet<String>,
}

/// Files in three directories, each fifth of which has expired.
fn filled() -> Filled {
    let store = Embedded::with_bucket(BUCKET);
    let (mut live, mut expired) = (BTreeSet::new(), BTreeSet::new());
    let now = SystemTime::now();
    for i in 0..FILES {
        let key = match i % 10 {
            0 => format!("d/{i}"),
            1 => format!("d/e-{i}/x"),
            _ => format!("f{i}"),
        };
        let (ends, keys) = match i % 5 {
            0 => (now - Duration::from_secs(7200), &mut expired),
            _ => (now + Duration::from_secs(7200), &mut live),
        };
        let object = Object::new(key.clone().into_bytes()).expires(http_date(ends));
        store.put_object(&key, object.last_modified(now - Duration::from_secs(9000)));
        keys.insert(key);
    }
    let credentials = Some(Credentials {
        access_key_id: "key".to_owned(),
        secret_access_key: "secret".to_owned(),
    });
    let endpoint = Endpoint { credentials, ..store.endpoint().clone() };
    Filled { store, endpoint, live, expired }
}

fn names(dir: &std::path::Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect()
}

/// The last parts of the keys that lie in this directory.
fn within(keys: &BTreeSet<String>, directory: &str) -> BTreeSet<String> {
    let below = keys.iter().filter_map(|key| key.strip_prefix(directory));
    below.map(|rest| rest.split('/').next().unwrap_or_default().to_owned()).collect()
}

fn ran(endpoint: &Endpoint, args: &[&str]) -> Output {
    let output = endpoint.typed(args).output().expect("it runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn keys_of(output: &Output) -> BTreeSet<String> {
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let key = |line| serde_json::from_slice::<serde_json::Value>(line).expect("JSON");
    let keys = lines.map(key).filter_map(|line| Some(line["key"].as_str()?.to_owned()));
    keys.collect()
}

#[test]
fn a_mount_of_a_directory_bucket_shows_what_is_live_and_takes_files() {
    let Filled { store, endpoint, live, .. } = filled();
    let mount = Setup::new(&endpoint, BUCKET).writable().start();
    for directory in ["", "d/"] {
        let (shown, expected) = (names(&mount.path(directory)), within(&live, directory));
        assert_eq!(shown, expected, "{directory:?}");
    }
    for key in live.iter().step_by(97) {
        assert_eq!(fs::read_to_string(mount.path(key)).expect("a file"), *key);
    }
    for absent in ["f0", "nothing", "d/0", "d/nothing", "x/y"] {
        let error = fs::read(mount.path(absent)).expect_err("it is absent");
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{absent}");
    }
    fs::create_dir(mount.path("new")).expect("a directory");
    fs::write(mount.path("new/one"), "1").expect("a file");
    fs::rename(mount.path("new/one"), mount.path("new/two")).expect("a name");
    assert_eq!(store.body("new/two"), "1");
    assert_eq!(names(&mount.path("new")), BTreeSet::from(["two".to_owned()]));
    fs::remove_file(mount.path("new/two")).expect("it is there");
    assert!(store.get("new/two").is_none());
}

#[test]
fn ls_lists_a_directory_bucket_in_order() {
    let Filled { store: _store, endpoint, live, expired } = filled();
    let url = format!("s3://{BUCKET}/");
    let all = ran(&endpoint, &["ls", "-r", &url, "--json"]);
    assert_eq!(keys_of(&all), live.union(&expired).cloned().collect());
    assert_eq!(keys_of(&ran(&endpoint, &["ls", "-r", &url, "--live", "--json"])), live);
}

#[test]
fn sweep_deletes_what_has_expired_in_a_directory_bucket_also_in_parts() {
    for options in [&["--shards", "1"][..], &["--shards", "4"]] {
        let Filled { store, endpoint, live, expired } = filled();
        let url = format!("s3://{BUCKET}/");
        ran(&endpoint, &[&["sweep", &url, "--delete"][..], options].concat());
        let left = |keys: &BTreeSet<String>| keys.iter().filter(|k| store.get(k).is_some()).count();
        assert_eq!((left(&live), left(&expired)), (live.len(), 0), "{options:?}");
    }
}
