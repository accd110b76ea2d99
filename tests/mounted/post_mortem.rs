//! The case this program was written for: thousands of opens of expired objects, and of objects
//! with an unparsable `Expires`, under a limit of 64 descriptors: B2, B3, B6, R5.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::PAST;
use crate::support::embedded::Embedded;
use crate::support::mount::Mount;
use crate::support::s3_server::{object, seaweedfs};
use crate::support::wait::at_most;

const OPENS: usize = 5_000;
const THREADS: usize = 16;
const OBJECTS: usize = 48;

fn name(i: usize) -> String {
    format!("gone-{:02}", i % OBJECTS)
}

#[test]
fn opens_of_expired_objects_leak_nothing() {
    let bucket = seaweedfs().bucket("expired");
    bucket.put_all((0..OBJECTS).map(|i| (name(i), object("expired").expires(PAST))));
    bucket.put("live", object("live"));
    let mount = bucket.mounting().with("--metadata-ttl 0s --pool-idle 1s").nofile(64).start();
    open_them_all(&mount);
    let hidden = mount.status().number("expired_hidden");
    assert!(hidden >= OBJECTS as i64, "expired_hidden is {hidden}");
}

#[test]
fn opens_of_unparsable_objects_leak_nothing() {
    let store = Embedded::start();
    (0..OBJECTS).for_each(|i| store.put_expiring(&name(i), "unparsable", "never"));
    store.put("live", "live");
    let mount = store.mounting().with("--metadata-ttl 0s --pool-idle 1s").nofile(64).start();
    let before = store.requests();
    open_them_all(&mount);
    let after = store.requests();
    let asked = (after.get + after.head) - (before.get + before.head);
    assert!(asked >= OPENS as u64 / THREADS as u64, "{asked} requests: the opens never left");
    assert_eq!(mount.status().number("unparsable"), OBJECTS as i64, "keys counted");
}

/// Every open returns ENOENT, a live file can be read before and after, and then the daemon has as
/// many descriptors as before the first open, none of them half closed.
fn open_them_all(mount: &Mount) {
    let before = mount.process().fds();
    assert_eq!(fs::read_to_string(mount.path("live")).expect("before"), "live");

    let (next, answers) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<_, usize>::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= OPENS {
                        break;
                    }
                    let errno = File::open(mount.path(name(i))).err().map(|e| e.to_string());
                    *answers.lock().unwrap().entry(errno).or_default() += 1;
                }
            });
        }
    });
    let enoent = std::io::Error::from_raw_os_error(libc::ENOENT).to_string();
    assert_eq!(answers.into_inner().unwrap(), BTreeMap::from([(Some(enoent), OPENS)]));

    assert_eq!(fs::read_to_string(mount.path("live")).expect("after"), "live");
    mount.assert_all_given_back(before);
    let status = mount.status();
    at_most("bodies_peak", status.number("bodies_peak"), status.number("cap")).unwrap();
}
