//! `expirefs explain`: its verdict on a name matches what the mount does.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use expirefs::embedded::Object;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::s3_server::http_date;
use crate::support::{FUTURE, PAST};

/// One of each kind.
fn bucket() -> Embedded {
    let store = Embedded::start();
    let live = Object::new("12345").expires(FUTURE).content_type("text/plain");
    store.put_object("live", live);
    store.put_expiring("expired", "x", PAST);
    store.put_expiring("unparsable", "x", "never");
    store.put("plain", "x");
    store.put("folder/file", "x");
    store
}

/// The output of an `explain` command, which must leave standard error empty.
#[track_caller]
fn said(output: Output) -> String {
    let Output { status, stdout, stderr } = output;
    let stderr = String::from_utf8_lossy(&stderr);
    let explained = matches!(status.code(), Some(0 | 4)) || !stdout.is_empty();
    assert!(explained && stderr.is_empty(), "{status}: {stderr}");
    String::from_utf8(stdout).expect("text")
}

#[track_caller]
fn json(output: Output) -> Value {
    let said = said(output);
    assert_eq!(said.lines().count(), 1, "{said}");
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// `expirefs explain PATH --json` of a name in a mount.
#[track_caller]
fn explain(mount: &Mount, name: &str) -> Value {
    json(mount.control_at("explain", &mount.path(name), &["--json"]))
}

/// The same for a key, without a mount.
#[track_caller]
fn explain_key(store: &Embedded, key: &str, args: &[&str]) -> Value {
    let url = format!("s3://{}/{key}", Embedded::BUCKET);
    let mut command = store.endpoint().expirefs("explain", &url, &[&["--json"], args].concat());
    json(command.output().expect("it runs"))
}

/// Its statement about a header.
#[track_caller]
fn header<'a>(explanation: &'a Value, name: &str) -> &'a Value {
    let headers = explanation["headers"].as_array().expect("headers");
    let found = headers.iter().find(|header| header["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {explanation:#}"))
}

/// Panics, with the whole explanation, unless these fields have these values.
#[track_caller]
fn assert_says(explanation: &Value, fields: &Value) {
    for (name, value) in fields.as_object().expect("an object") {
        assert_eq!(&explanation[name], value, "{name} in {explanation:#}");
    }
}

fn seconds_left(explanation: &Value) -> f64 {
    explanation["seconds_left"].as_f64().expect("a number")
}

#[test]
fn a_live_object() {
    let store = bucket();
    let mount = store.mounting().with("--metadata-ttl 60s").start();
    fs::metadata(mount.path("live")).expect("it is there");
    let live = explain(&mount, "live");
    assert_says(
        &live,
        &json!({
            "bucket": Embedded::BUCKET, "key": "live", "verdict": "live", "decided_by": "expires",
            "instant": "2100-01-01T00:00:00Z", "default_ttl": null, "hidden": null,
        }),
    );
    assert!(seconds_left(&live) > 1e9, "{live:#}");
    let expires = json!({
        "name": "Expires", "raw": FUTURE, "reading": "understood",
        "instant": "2100-01-01T00:00:00Z", "ignored": null,
    });
    assert_eq!(header(&live, "Expires"), &expires);
    for name in ["Cache-Control", "x-amz-expiration"] {
        assert_says(header(&live, name), &json!({ "raw": null, "reading": "absent" }));
    }
    assert_says(&live["object"], &json!({ "size": 5, "content_type": "text/plain" }));
    let offset = live["clocks"]["offset_ms"].as_i64().expect("a number");
    assert!(offset.abs() <= 1_000, "the clock of the same machine: {offset} ms");

    let mount_says = &live["mount"];
    assert_says(mount_says, &json!({ "dir": mount.dir().to_str(), "believes": "file" }));
    assert_says(mount_says, &json!({ "instant": live["instant"], "open_handles": 0 }));
    assert_eq!(mount_says["etag"], live["object"]["etag"]);
    let trusted = mount_says["trusted_s"].as_f64().expect("a number");
    assert!((1.0..=60.0).contains(&trusted), "{trusted} s");

    let file = fs::File::open(mount.path("live")).expect("open");
    assert_eq!(explain(&mount, "live")["mount"]["open_handles"], 1);
    drop(file);
}

/// `explain` shows what the mount had cached: the request itself looks no name up.
#[test]
fn explaining_a_name_does_not_look_it_up() {
    let store = bucket();
    let mount = store.mounting().with("--metadata-ttl 60s").start();
    for name in ["live", "expired", "folder", "absent"] {
        let mount_says = &explain(&mount, name)["mount"];
        assert_says(mount_says, &json!({ "believes": "nothing", "etag": null, "trusted_s": 0.0 }));
    }
}

/// A version that was replaced, while the mount may still have it cached.
#[test]
fn explain_shows_cached_and_current_version() {
    let store = bucket();
    let mount = store.mounting().with("--metadata-ttl 60s").start();
    fs::metadata(mount.path("live")).expect("it is there");
    store.put_expiring("live", "another", PAST);
    let live = explain(&mount, "live");
    assert_says(&live, &json!({ "verdict": "expired", "instant": "2020-01-01T00:00:00Z" }));
    let mount_says = &live["mount"];
    assert_says(mount_says, &json!({ "believes": "file", "instant": "2100-01-01T00:00:00Z" }));
    assert_ne!(mount_says["etag"], live["object"]["etag"]);
    fs::metadata(mount.path("live")).expect("it is cached");
}

#[test]
fn explain_of_an_expired_and_an_unparsable_object() {
    let store = bucket();
    let mount = store.mounting().start();
    let expired = explain(&mount, "expired");
    let says = json!({
        "verdict": "expired", "decided_by": "expires", "instant": "2020-01-01T00:00:00Z",
    });
    assert_says(&expired, &says);
    assert!(seconds_left(&expired) < -1e8, "{expired:#}");

    let unparsable = explain(&mount, "unparsable");
    let says = json!({
        "verdict": "expired", "decided_by": "expires", "instant": null, "seconds_left": null,
    });
    assert_says(&unparsable, &says);
    let expires = json!({ "raw": "never", "reading": "unreadable", "ignored": null });
    assert_says(header(&unparsable, "Expires"), &expires);
}

#[test]
fn explain_of_an_absent_name_and_a_directory() {
    let store = bucket();
    let mount = store.mounting().start();
    let nothing = json!({
        "decided_by": null, "instant": null, "object": null, "headers": [], "hidden": null,
    });
    let absent = explain(&mount, "no/such/name");
    assert_says(&absent, &json!({ "key": "no/such/name", "verdict": "absent" }));
    assert_says(&absent, &nothing);
    assert_eq!(absent["mount"]["believes"], "nothing");

    fs::metadata(mount.path("folder")).expect("it is there");
    let folder = explain(&mount, "folder");
    assert_says(&folder, &json!({ "key": "folder", "verdict": "directory" }));
    assert_says(&folder, &nothing);
    assert_eq!(folder["mount"]["believes"], "directory");
}

/// The mount point is a directory, too: of a whole bucket, and of a prefix.
#[test]
fn the_mount_point_is_a_directory() {
    let store = bucket();
    for bucket in [Embedded::BUCKET.to_owned(), format!("{}/folder", Embedded::BUCKET)] {
        let mount = Setup::new(store.endpoint(), &bucket).start();
        let root = json(mount.control_at("explain", mount.dir(), &["--json"]));
        assert_eq!(root["verdict"], "directory", "{bucket}: {root:#}");
    }
}

/// N2: a live file hides the keys below its name.
#[test]
fn a_name_behind_a_live_file_is_hidden() {
    let store = bucket();
    store.put("live/below", "x");
    store.put("expired/below", "x");
    let mount = store.mounting().start();
    let hidden = explain(&mount, "live/below");
    assert_says(&hidden, &json!({ "key": "live/below", "verdict": "live" }));
    let why = hidden["hidden"].as_str().expect("why");
    assert!(why.contains("live file live "), "{why}");
    assert_says(&explain(&mount, "expired/below"), &json!({ "verdict": "live", "hidden": null }));
}

/// An expired file does not hide the keys below its name.
#[test]
fn an_expired_file_hides_nothing() {
    let store = bucket();
    let mount = store.mounting().start();
    let below = explain(&mount, "expired/below");
    assert_says(&below, &json!({ "verdict": "absent", "hidden": null }));
}

/// E3: `--on-unparsable error` and `fresh`.
#[test]
fn on_unparsable_decides_the_verdict() {
    let store = bucket();
    let mount = store.mounting().with("--on-unparsable error").start();
    let says = json!({ "verdict": "unreadable", "decided_by": "expires", "instant": null });
    assert_says(&explain(&mount, "unparsable"), &says);
    fs::metadata(mount.path("unparsable")).expect_err("EIO");

    let mount = store.mounting().with("--on-unparsable fresh").start();
    let fresh = explain(&mount, "unparsable");
    assert_says(&fresh, &json!({ "verdict": "live", "decided_by": "none", "instant": null }));
    let expires = json!({ "reading": "unreadable", "ignored": "--on-unparsable fresh" });
    assert_says(header(&fresh, "Expires"), &expires);
    fs::metadata(mount.path("unparsable")).expect("as if it had no Expires");
}

/// E4: `--default-ttl` decides where no header does.
#[test]
fn the_default_ttl_decides_where_no_header_does() {
    let store = bucket();
    let mount = store.mounting().with("--default-ttl 1h").start();
    let plain = explain(&mount, "plain");
    let says = json!({ "verdict": "live", "decided_by": "default-ttl", "default_ttl": 3600 });
    assert_says(&plain, &says);
    assert!((3000.0..=3600.0).contains(&seconds_left(&plain)), "{plain:#}");
    assert_eq!(explain(&mount, "live")["decided_by"], "expires");
}

/// E5: `--cache-control last-modified` comes before `Expires`.
#[test]
fn cache_control_counts_if_the_option_says_so() {
    let store = bucket();
    let an_hour = Duration::from_secs(3600);
    let put = |key: &str, expires: &str, cache_control: &str| {
        let modified = SystemTime::now() - 2 * an_hour;
        let object = Object::new("x").expires(expires).last_modified(modified);
        store.put_object(key, object.cache_control(cache_control));
        http_date(modified + an_hour)
    };
    put("aged", FUTURE, "public, max-age=3600");
    put("fresh", PAST, "max-age=1, s-maxage=\"10800\"");
    put("wrong", FUTURE, "max-age=soon");
    put("silent", FUTURE, "no-store");

    let mount = store.mounting().with("--cache-control last-modified").start();
    let aged = explain(&mount, "aged");
    assert_says(&aged, &json!({ "verdict": "expired", "decided_by": "cache-control" }));
    assert!((-3700.0..=-3600.0).contains(&seconds_left(&aged)), "{aged:#}");
    assert_eq!(header(&aged, "Expires")["ignored"], "Cache-Control comes first");
    let says = json!({
        "raw": "public, max-age=3600", "reading": "understood", "instant": aged["instant"],
        "ignored": null,
    });
    assert_says(header(&aged, "Cache-Control"), &says);

    let fresh = explain(&mount, "fresh");
    assert_says(&fresh, &json!({ "verdict": "live", "decided_by": "cache-control" }));
    assert!((3500.0..=3600.0).contains(&seconds_left(&fresh)), "{fresh:#}");

    let wrong = explain(&mount, "wrong");
    let says = json!({ "verdict": "expired", "decided_by": "cache-control", "instant": null });
    assert_says(&wrong, &says);
    assert_eq!(header(&wrong, "Cache-Control")["reading"], "unreadable");

    let silent = explain(&mount, "silent");
    assert_says(&silent, &json!({ "verdict": "live", "decided_by": "expires" }));
    let says = json!({ "raw": "no-store", "reading": "absent", "ignored": null });
    assert_says(header(&silent, "Cache-Control"), &says);

    let there = |name: &str| fs::metadata(mount.path(name)).is_ok();
    let there = ["aged", "fresh", "wrong", "silent"].map(there);
    assert_eq!(there, [false, true, false, true], "what the mount does");

    let by_default = explain_key(&store, "aged", &[]);
    assert_says(&by_default, &json!({ "verdict": "live", "decided_by": "expires" }));
    let ignored = &header(&by_default, "Cache-Control")["ignored"];
    assert_eq!(ignored, "--cache-control ignore");
}

/// Without a mount, with the given options: the same answer, without the part about the mount.
#[test]
fn a_key_is_explained_without_a_mount() {
    let store = bucket();
    let mount = store.mounting().start();
    for name in ["live", "expired", "unparsable", "plain", "folder", "absent"] {
        let mut here = explain(&mount, name);
        let mut alone = explain_key(&store, name, &[]);
        assert_eq!(alone["mount"], Value::Null, "{name}");
        for explanation in [&mut here, &mut alone] {
            // These differ from one moment to the next.
            for field in ["mount", "clocks", "seconds_left"] {
                explanation[field] = Value::Null;
            }
        }
        assert_eq!(alone, here, "{name}");
    }
    let plain = explain_key(&store, "plain", &["--default-ttl", "1h"]);
    assert_says(&plain, &json!({ "verdict": "live", "decided_by": "default-ttl" }));

    store.put("a//b", "x");
    let why = explain_key(&store, "a//b", &[])["hidden"].to_string();
    assert!(why.contains("component"), "N1: {why}");
}

/// For people: one line for each item, and a verdict in words.
#[test]
fn explain_without_json_is_text() {
    let store = bucket();
    let mount = store.mounting().start();
    let line = |name: &str, of: &str| {
        let text = said(mount.control_at("explain", &mount.path(name), &[]));
        let found = text.lines().find(|line| line.starts_with(of)).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no line {of} in\n{text}"))
    };
    assert!(line("live", "Expires").contains(FUTURE));
    for (name, verdict) in [
        ("live", "live, by Expires, until 2100-01-01T00:00:00Z"),
        ("expired", "expired, by Expires, since 2020-01-01T00:00:00Z"),
        ("unparsable", "expired, by Expires"),
        ("folder", "a directory"),
        ("absent", "absent"),
    ] {
        let line = line(name, "verdict");
        assert!(line.contains(verdict), "{name}: {line}");
    }
}

/// One line reports the error, and the status is 1.
#[test]
fn paths_that_cannot_be_explained_are_refused() {
    let store = bucket();
    let mut mount = store.mounting().start();
    let refused = |what: &str, output: Output, names: &str| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
        assert!(output.stdout.is_empty(), "{what}: {output:?}");
        assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
        assert!(stderr.contains(names), "{what}: {stderr}");
    };
    for path in ["/", "/tmp/no/such/file", "/proc/sys/kernel"] {
        refused(path, mount.control_at("explain", Path::new(path), &[]), path);
    }
    let above = mount.dir().parent().expect("a folder").to_owned();
    refused("above the mount", mount.control_at("explain", &above, &[]), above.to_str().unwrap());

    let ask = |url: &str| store.endpoint().expirefs("explain", url, &[]).output().expect("it runs");
    refused("a missing bucket", ask("s3://no-such-bucket/key"), "no-such-bucket");

    mount.signal(Signal::SIGKILL);
    mount.ended();
    let path = mount.path("live");
    refused("a dead mount", mount.control_at("explain", &path, &[]), mount.dir().to_str().unwrap());
}

/// 0 if the mount shows the name, 4 if it returns ENOENT, 1 if it returns EIO.
#[test]
fn exit_status_shows_whether_the_name_is_visible() {
    let store = bucket();
    store.put_expiring("gone", "x", PAST);
    store.put("gone/below", "x");
    let mount = store.mounting().with("--on-unparsable error").start();
    let table = [
        ("live", 0),
        ("plain", 0),
        ("folder", 0),
        ("gone", 0),
        ("expired", 4),
        ("missing", 4),
        ("unparsable", 1),
    ];
    for (name, status) in table {
        let there = fs::metadata(mount.path(name)).map_err(|e| e.raw_os_error());
        let wanted = match there {
            Ok(_) => 0,
            Err(Some(libc::ENOENT)) => 4,
            Err(_) => 1,
        };
        assert_eq!(wanted, status, "{name}: {there:?}");
        for args in [&[][..], &["--json"]] {
            let output = mount.control_at("explain", &mount.path(name), args);
            assert_eq!(output.status.code(), Some(status), "{name}: {output:?}");
            assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{name}: {output:?}");
        }
    }
    let url = format!("s3://{}/missing", Embedded::BUCKET);
    let status = store.endpoint().expirefs("explain", &url, &[]).output().expect("it runs").status;
    assert_eq!(status.code(), Some(4));
}
