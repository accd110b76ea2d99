//! When what is written ends, and the attributes that a program may set (W1, W10).

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, SystemTime};

use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::s3_server::{http_date, object, seaweedfs};
use crate::support::tools::{attempt, shell};
use crate::support::wait::{equal, eventually};
use crate::support::{FUTURE, PAST};

/// Panics unless an object ends so long after it was written, between `before` and now: rounded up
/// to a second.
#[track_caller]
fn assert_ends(store: &Embedded, key: &str, before: SystemTime, ttl: u64) {
    let ends = store.expires(key).unwrap_or_else(|| panic!("{key} has no end"));
    let (ttl, second) = (Duration::from_secs(ttl), Duration::from_secs(1));
    // The daemon's clock follows the store's Date, which has whole seconds.
    let (least, most) = (before + ttl - second, SystemTime::now() + ttl + 2 * second);
    let name = |at: SystemTime| http_date(at);
    assert!(ends >= least && ends <= most, "{key}: {} is not in {}..", name(ends), name(least));
}

#[test]
fn what_is_written_ends_after_the_ttl_of_the_first_rule_that_its_path_matches() {
    let store = Embedded::start();
    let setup = store.mounting().writable().with("--ttl-rule *.log=10m");
    let mount = setup.with("--ttl-rule keep/**=never --ttl-rule keep/*.log=1s").start();
    let before = SystemTime::now();
    shell(mount.dir(), "mkdir keep; for f in a b.log keep/c keep/d.log; do echo > $f; done");
    fs::write(mount.path("large"), content(1, 9 * MIB)).expect("write");
    assert_ends(&store, "a", before, 3600);
    assert_ends(&store, "large", before, 3600);
    assert_ends(&store, "b.log", before, 600);
    assert_ends(&store, "keep/d.log", before, 600);
    assert_eq!(store.expires("keep/c"), None);
    assert_eq!(store.expires("keep/"), None, "a directory does not end");
    // An edit is written anew.
    store.put_expiring("a", "old", FUTURE);
    let mount = store.mounting().writable().start();
    let before = SystemTime::now();
    shell(mount.dir(), "echo more >> a");
    assert_ends(&store, "a", before, 3600);
    assert_eq!(&store.body("a")[..], b"oldmore\n");
}

#[test]
fn content_type_goes_by_the_name() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    shell(mount.dir(), "echo > page.html; echo > noise");
    let of = |key: &str| store.get(key).expect(key).content_type.expect("a type");
    assert_eq!(of("page.html"), "text/html");
    assert!(of("noise").ends_with("/octet-stream"));
}

#[test]
fn an_attribute_of_an_open_file_says_when_it_ends() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    let before = SystemTime::now();
    let script = r#"python3 -c '
import os
def write(name, attribute, value):
    f = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(f, b"x")
    os.setxattr(f, "user.expirefs." + attribute, value)
    print(os.getxattr(f, "user.expirefs.expires").decode())
    os.close(f)
write("ttl", "ttl", b"90s")
write("date", "expires", b"2100-01-01T00:00:00Z")
write("http", "expires", b"Fri, 01 Jan 2100 00:00:00 GMT")
f = os.open("never", os.O_WRONLY | os.O_CREAT)
os.setxattr(f, "user.expirefs.ttl", b"never")
os.close(f)
f = os.open("back", os.O_WRONLY | os.O_CREAT)
os.setxattr(f, "user.expirefs.ttl", b"1s")
os.removexattr(f, "user.expirefs.ttl")
os.write(f, b"x" * (9 << 20))
os.close(f)
f = os.open("late", os.O_WRONLY | os.O_CREAT)
os.write(f, b"x" * (20 << 20))
os.setxattr(f, "user.expirefs.ttl", b"10m")
os.close(f)
'"#;
    let said = shell(mount.dir(), script);
    assert!(said.lines().skip(1).all(|line| line == "2100-01-01T00:00:00Z"), "{said}");
    assert_ends(&store, "ttl", before, 90);
    assert_ends(&store, "back", before, 3600);
    assert_ends(&store, "late", before, 600);
    for key in ["date", "http"] {
        assert_eq!(http_date(store.expires(key).expect("an end")), FUTURE);
    }
    eventually(Duration::from_secs(5), || store.get("never").map(drop).ok_or("never".into()));
    assert_eq!(store.expires("never"), None);
    assert_eq!(store.uploads(), 0);
}

#[test]
fn an_attribute_of_a_committed_file_stamps_it_anew() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    let other = store.mounting().with("--metadata-ttl 0s").start();
    shell(mount.dir(), "echo content > f.html");
    let before = SystemTime::now();
    let set = |name: &str, value: &str| {
        shell(mount.dir(), &format!("setfattr -n user.expirefs.{name} -v '{value}' f.html"));
    };
    set("ttl", "5m");
    assert_ends(&store, "f.html", before, 300);
    set("expires", "2100-01-01T00:00:00Z");
    assert_eq!(store.get("f.html").expect("f").expires.expect("an end"), FUTURE);
    let get = "getfattr --only-values -n user.expirefs.expires f.html";
    assert_eq!(shell(mount.dir(), get), "2100-01-01T00:00:00Z");
    assert_eq!(shell(other.dir(), get), "2100-01-01T00:00:00Z");
    shell(mount.dir(), "setfattr -x user.expirefs.expires f.html");
    assert_ends(&store, "f.html", before, 3600);
    set("ttl", "never");
    assert_eq!(store.expires("f.html"), None);
    assert_eq!(store.get("f.html").expect("f").content_type.as_deref(), Some("text/html"));
    assert_eq!(
        shell(mount.dir(), "cat f.html; getfattr f.html | grep -c expires || :"),
        "content\n0\n"
    );

    // It ends for everybody, this mount first.
    set("expires", "2020-01-01T00:00:00Z");
    assert!(!mount.path("f.html").exists() && !other.path("f.html").exists());
    for wrong in
        ["-n user.expirefs.ttl -v soon", "-n user.expirefs.expires -v soon", "-n user.a -v b"]
    {
        shell(mount.dir(), "echo > g");
        let output = attempt(mount.dir(), &format!("setfattr {wrong} g"));
        assert!(!output.status.success(), "{wrong}");
    }
}

/// An attribute that is set on a version that another has replaced does not give that one's end to
/// other bytes.
#[test]
fn an_attribute_of_a_file_replaced_meanwhile_is_estale_or_goes_to_the_new_one() {
    let store = Embedded::start();
    let mount = store.mounting().writable().with("--metadata-ttl 10m").start();
    shell(mount.dir(), "echo mine > f; cat f");
    store.put("f", "another's");
    let output = attempt(mount.dir(), "setfattr -n user.expirefs.ttl -v 5m f");
    assert_eq!(&store.body("f")[..], b"another's");
    let anew = store.expires("f").is_some();
    assert_eq!(output.status.success(), anew, "{output:?}");
    eventually(Duration::from_secs(5), || {
        equal("f", fs::read(mount.path("f")).ok(), Some(b"another's".to_vec()))
    });
}

#[test]
fn modes_owners_and_times_are_accepted_and_not_kept() {
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    shell(mount.dir(), "echo x > f; mkdir d");
    let look = "stat -c '%a %u %g' f d";
    let before = shell(mount.dir(), look);
    let requests = store.requests();
    let change = "chmod 600 f; chown 1:1 f; touch -d 2001-01-01 f; touch f; chmod 700 d; touch d";
    shell(mount.dir(), change);
    let after = store.requests();
    assert_eq!((after.put, after.copy), (requests.put, requests.copy));
    assert_eq!(shell(mount.dir(), look), before);
    let open = r#"python3 -c '
import os
f = os.open("g", os.O_WRONLY | os.O_CREAT)
os.fchmod(f, 0o600); os.fchown(f, 1, 1); os.utime(f, (1, 1)); os.write(f, b"x"); os.utime(f)
os.close(f)'"#;
    shell(mount.dir(), open);

    let strict = store.mounting().writable().with("--strict-attributes").start();
    for change in ["chmod 600 f", "chown 1:1 f", "touch -d 2001-01-01 f", "touch f", "cp -p f h"] {
        let output = attempt(strict.dir(), change);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("Operation not permitted"), "{change}: {output:?}");
    }
    shell(strict.dir(), "echo y > f; truncate -s 1 f; : > new");
}

/// Build caches touch what they hit.
#[test]
fn touch_renew_stamps_anew_what_has_less_than_half_of_its_ttl_left() {
    let store = Embedded::start();
    let mount = store.mounting().writable().with("--touch renew").start();
    let soon = http_date(SystemTime::now() + Duration::from_secs(600));
    let later = http_date(SystemTime::now() + Duration::from_secs(3000));
    for (key, end) in
        [("soon", &soon), ("later", &later), ("dated", &soon), ("corpse", &PAST.into())]
    {
        store.put_expiring(key, "x", end);
    }
    store.put("endless", "x");
    let before = SystemTime::now();
    let copies = store.requests().copy;
    shell(
        mount.dir(),
        "touch -c soon later endless corpse; touch -d 2001-01-01 dated; touch -c soon",
    );
    assert_ends(&store, "soon", before, 3600);
    assert_eq!(http_date(store.expires("later").expect("an end")), later);
    assert_eq!(http_date(store.expires("dated").expect("an end")), soon);
    assert_eq!(store.expires("endless"), None);
    assert_eq!(http_date(store.expires("corpse").expect("an end")), PAST);
    assert_eq!(store.requests().copy - copies, 1);
    assert_eq!(shell(mount.dir(), "cat soon"), "x");
}

/// The server that others run: the header is on the object, the attribute renews it, and what has
/// come to its end is gone from both.
#[test]
fn seaweedfs_keeps_the_end_that_is_written() {
    let bucket = seaweedfs().bucket("ends");
    bucket.put("old", object("old").expires(PAST));
    let mount = bucket.mounting().writable().start();
    let other = bucket.mounting().with("--metadata-ttl 0s").start();
    let mut file = File::create(mount.path("old")).expect("create over a corpse");
    file.write_all(&content(1, 9 * MIB)).expect("write");
    drop(file);
    shell(
        mount.dir(),
        "echo small > small; setfattr -n user.expirefs.expires -v 2100-01-01T00:00:00Z small old",
    );
    for key in ["small", "old"] {
        assert_eq!(bucket.head(key).expires_string(), Some(FUTURE), "{key}");
        assert!(other.path(key).exists(), "{key}");
    }
    shell(mount.dir(), "setfattr -n user.expirefs.ttl -v 1s small");
    eventually(Duration::from_secs(5), || {
        equal("seen", (mount.path("small").exists(), other.path("small").exists()), (false, false))
    });
    let output = attempt(mount.dir(), "cat small");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"), "{output:?}");
}
