//! What reading costs, by the embedded server's own count.

use std::fs;
use std::time::{Duration, SystemTime};

use expirefs::embedded::Object;

use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::tools::{assert_same_lines, shell};

/// `--metadata-ttl expiry`: what HTTP calls fresh is trusted until it expires, and pages stay in the
/// kernel; so a second reading asks nothing.
#[test]
fn a_second_reading_of_a_fresh_object_asks_nothing() {
    let store = Embedded::start();
    let bytes = content(1, 3 * MIB);
    store.put_expiring("folder/file", bytes.clone(), "Fri, 01 Jan 2100 00:00:00 GMT");
    let mount = store.mounting().with("--metadata-ttl expiry").start();
    let path = mount.path("folder/file");
    let before = store.requests();
    assert_eq!(fs::read(&path).expect("read"), bytes);
    let first = store.requests();
    assert_eq!(first.get - before.get, 1, "GETs of the first reading");
    assert_eq!(fs::read(&path).expect("read again"), bytes);
    assert_eq!(store.requests(), first, "requests of the second reading");
}

/// A listing has no `Expires`, so it costs a HEAD for each object; the next one of unchanged objects
/// costs the listing alone.
#[test]
fn a_second_listing_of_unchanged_objects_needs_no_head() {
    let store = Embedded::start();
    (0..200).for_each(|i| store.put(&format!("{i:03}"), "x"));
    let mount = store.mounting().with("--metadata-ttl 0s").start();
    let before = store.requests();
    assert_eq!(shell(mount.dir(), "ls -f | wc -l"), "202\n");
    let first = store.requests();
    assert_eq!(first.head - before.head, 200, "HEADs of the first listing");
    assert_eq!(shell(mount.dir(), "ls -f | wc -l"), "202\n");
    let second = store.requests();
    assert_eq!(second.head, first.head, "HEADs after the second listing");
    assert!(second.list > first.list, "the second listing came from nowhere");
}

/// E4: `--expires-from list`: the listing alone says who lives, whatever an `Expires` says, and costs
/// no HEAD.
#[test]
fn expires_from_list_needs_no_head() {
    let store = Embedded::start();
    let past = "Wed, 01 Jan 2020 00:00:00 GMT";
    let two_hours_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    for i in 0..50 {
        store.put_expiring(&format!("new-{i:02}"), "x", past);
        store.put_object(&format!("old-{i:02}"), Object::new("x").last_modified(two_hours_ago));
    }
    let mount = store.mounting().with("--expires-from list --default-ttl 1h").start();
    let before = store.requests();
    let listed = shell(mount.dir(), "stat -c '%n %s' *");
    let want: String = (0..50).map(|i| format!("new-{i:02} 1\n")).collect();
    assert_same_lines("ls", &listed, &want);
    assert_eq!(store.requests().head - before.head, 0, "HEADs");
}

/// Programs that start together ask for the same name; the store is asked once.
#[test]
fn equal_lookups_in_flight_share_a_request() {
    let store = Embedded::start();
    store.put("file", "x");
    let mount = store.mounting().with("--metadata-ttl 60s").start();
    let before = store.requests();
    let script = "for i in $(seq 16); do stat -c %s file & done; wait";
    assert_eq!(shell(mount.dir(), script), "1\n".repeat(16));
    assert_eq!(store.requests().head - before.head, 1, "HEADs");
}
