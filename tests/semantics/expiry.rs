//! Expiry as existence: rules E1 to E10, R1 and R2.

use std::time::Duration;

use futures_util::FutureExt;

use expirefs::catalog::Trust;
use expirefs::error::Error;
use expirefs::expiry::{OnUnparsable, Policy, Source};
use expirefs::fs::Lookup;
use expirefs::fs::inode::ROOT;

use super::memory::{Mood, Requests};
use super::{Make, Rig, SECOND, expires, pattern};

#[tokio::test]
async fn an_object_is_absent_from_its_expiry_on() {
    let rig = Rig::default();
    rig.store.put("f", "text", expires(2));
    assert!(rig.look("f").await.unwrap().is_some());
    rig.clock.advance(2 * SECOND - Duration::from_nanos(1));
    assert!(rig.look("f").await.unwrap().is_some());
    rig.clock.advance(Duration::from_nanos(1));
    assert_eq!(rig.look("f").await, Ok(None));
    assert_eq!(rig.list("", 100).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn expiring_between_lookup_and_open() {
    let rig = Rig::default();
    rig.store.put("f", "text", expires(2));
    let ino = rig.ino("f").await;
    rig.clock.advance(2 * SECOND);
    // Not ESTALE, which a program would get that opens it through /proc/self/fd, without a name.
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Expired));
    assert_eq!(rig.look("f").await, Ok(None));
    assert_eq!(rig.fs.access(ino), Err(Error::Expired));
    assert_eq!(rig.fs.getattr(ino), Err(Error::Expired));
    assert_eq!(rig.store.asked().get, 0, "nothing is fetched in vain");
}

#[tokio::test]
async fn expiring_while_it_is_open() {
    let rig = Rig::default();
    let content = pattern(1, 600 << 10);
    rig.store.put("f", content.clone(), expires(2));
    let ino = rig.ino("f").await;
    let file = rig.open_ino(ino).await.unwrap();
    let first = file.read(0, 4096).await.unwrap();
    assert_eq!(first, content[..4096]);
    rig.clock.advance(60 * SECOND);
    assert_eq!(rig.look("f").await, Ok(None));
    assert_eq!(rig.fs.getattr(ino).unwrap().size, content.len() as u64, "fstat");
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Expired), "a second open");
    assert_eq!(file.read_all().await.unwrap(), content);
    drop(file);
    assert_eq!(rig.fs.getattr(ino), Err(Error::Expired));
}

#[tokio::test]
async fn expiring_during_a_listing() {
    for page in [1, 2, 1000] {
        let mut make = Make::default();
        make.settings.listing.page = page;
        let rig = make.rig();
        for name in ["a", "b", "d", "e"] {
            rig.store.put(name, "x", expires(if name == "a" { 1000 } else { 2 }));
        }
        rig.store.put("c", "x", None);
        rig.store.put("f/g", "x", expires(1));
        let fh = rig.fs.opendir(ROOT).unwrap();
        let first = rig.read_dir(ROOT, fh, 2, 1).await.unwrap();
        assert_eq!(first[0].1, "a");
        rig.clock.advance(2 * SECOND);
        let (mut offset, mut rest) = (first[0].0, Vec::new());
        loop {
            let some = rig.read_dir(ROOT, fh, offset, 1).await.unwrap();
            let Some((next, name)) = some.into_iter().next() else { break };
            offset = next;
            rest.push(name);
        }
        // Entries that were fetched before, but not returned yet, are hidden too.
        assert_eq!(rest, ["c", "f/"], "page {page}");
        rig.fs.releasedir(fh).unwrap();
    }
}

#[tokio::test]
async fn replaced_between_lookup_and_open() {
    let rig = Rig::default();
    let (old, new) = (pattern(1, 300 << 10), pattern(2, 300 << 10));
    rig.store.put("f", old, None);
    let ino = rig.ino("f").await;
    rig.store.put("f", new.clone(), None);
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Stale));
    rig.must_be_at_rest();
    // After ESTALE the kernel looks the name up again at once, within any metadata TTL.
    let again = rig.ino("f").await;
    assert_ne!(again, ino);
    let file = rig.open_ino(again).await.unwrap();
    assert_eq!(file.read_all().await.unwrap(), new);
}

#[tokio::test]
async fn an_expired_file_whose_name_has_another_version_is_looked_up_again() {
    for (name, content) in [("f", "new"), ("f/g", "below")] {
        let rig = Rig::default();
        rig.store.put("f", "old", expires(2));
        let ino = rig.ino("f").await;
        rig.clock.advance(2 * SECOND);
        if name != "f" {
            rig.store.delete("f");
        }
        rig.store.put(name, content, None);
        assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Stale), "{name}");
        assert!(rig.look("f").await.unwrap().is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_replaced_or_deleted_object_is_requested_once_that_is_noticed() {
    for replaced in [true, false] {
        let mut make = Make::default();
        make.settings.trust = Trust::UntilExpiry;
        let rig = make.rig();
        rig.store.put("f", "old", expires(3600));
        let ino = rig.ino("f").await;
        let file = rig.open_ino(ino).await.unwrap();
        assert_eq!(file.read_all().await.unwrap(), b"old");
        drop(file);
        rig.store.delete("f");
        if replaced {
            rig.store.put("f", "new", expires(3600));
        }
        // It is not noticed until the kernel has dropped its pages and reads again.
        let file = rig.open_ino(ino).await.unwrap();
        assert_eq!(rig.fs.idle_now(), None);
        assert_eq!(file.read_all().await, Err(Error::Stale));
        drop(file);
        let idle = rig.fs.idle_now().expect("the kernel must drop the name");
        assert_eq!((idle.parent, idle.name.as_str()), (ROOT, "f"));
        assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Stale), "it sends a request");
        let found = rig.look("f").await.unwrap();
        assert_eq!(found.is_some(), replaced);
        if let Some(new) = found {
            assert_ne!(new.ino, ino);
            let file = rig.open_ino(new.ino).await.unwrap();
            assert_eq!(file.read_all().await.unwrap(), b"new");
        }
    }
}

#[tokio::test]
async fn ttls_given_to_the_kernel_are_a_minute_at_most() {
    let mut make = Make::default();
    make.settings.trust = Trust::UntilExpiry;
    let rig = make.rig();
    rig.store.put("f", "text", expires(7200));
    let attr = rig.look("f").await.unwrap().unwrap();
    assert!(attr.ttl <= 60 * SECOND, "{:?}", attr.ttl);
    assert!(rig.fs.getattr(attr.ino).unwrap().ttl <= 60 * SECOND);
    assert!(rig.fs.getattr(ROOT).unwrap().ttl <= 60 * SECOND);
    rig.store.asked();
    rig.clock.advance(3600 * SECOND);
    assert_eq!(rig.look("f").await.unwrap().map(|attr| attr.ino), Some(attr.ino));
    assert_eq!(rig.store.asked(), Requests::default(), "it is answered from the cache");
}

#[tokio::test]
async fn deleted_between_lookup_and_open() {
    let rig = Make::without_probes().rig();
    rig.store.put("f", "text", None);
    let ino = rig.ino("f").await;
    rig.store.delete("f");
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Stale));
    assert_eq!(rig.look("f").await, Ok(None));
}

#[tokio::test]
async fn bytes_of_an_object_replaced_during_a_read_are_never_mixed() {
    let rig = Make { cap: 1, ..Make::default() }.rig();
    let (old, new) = (pattern(1, 1 << 20), pattern(2, 1 << 20));
    rig.store.put("f", old.clone(), None);
    rig.store.put("g", pattern(3, 1 << 20), None);
    let file = rig.open("f").await.unwrap();
    assert_eq!(file.read(0, 4096).await.unwrap(), old[..4096]);
    rig.store.put("f", new, None);
    // The open body continues with the old version.
    assert_eq!(file.read(4096, 4096).await.unwrap(), old[4096..8192]);
    // Parked for another, it would need another request, and fails.
    let other = rig.open("g").await.unwrap();
    assert_eq!(other.read(0, 1).await.unwrap(), pattern(3, 1)[..]);
    assert_eq!(file.read(8192, 4096).await, Err(Error::Stale));
}

#[tokio::test]
async fn the_expires_in_the_answer_to_an_open_counts() {
    let rig = Rig::default();
    rig.store.put("f", pattern(1, 1 << 20), expires(1000));
    let ino = rig.ino("f").await;
    rig.store.say_on_get("f", expires(-1).unwrap());
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Expired));
    rig.store.say_on_get("f", "never".into());
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Expired));
}

#[tokio::test]
async fn no_ttl_given_to_the_kernel_outlives_the_object() {
    for (trust, most) in [(Trust::For(SECOND), SECOND), (Trust::UntilExpiry, 10 * SECOND)] {
        let mut make = Make::default();
        make.settings.trust = trust;
        let rig = make.rig();
        rig.store.put("f", "text", expires(10));
        for left in [10_000, 5_000, 900, 11, 10, 9, 1] {
            let gone = Duration::from_secs(10) - Duration::from_millis(left);
            let now = rig.clock.now().duration_since(super::start()).unwrap();
            rig.clock.advance(gone - now);
            let left = Duration::from_millis(left).min(most);
            let ttl = rig.look("f").await.unwrap().unwrap().ttl;
            assert!(ttl <= left.saturating_sub(Duration::from_millis(10)), "{ttl:?} of {left:?}");
            let ino = rig.ino("f").await;
            let ttl = rig.fs.getattr(ino).unwrap().ttl;
            assert!(ttl <= left.saturating_sub(Duration::from_millis(10)), "{ttl:?} of {left:?}");
        }
    }
}

#[tokio::test]
async fn an_object_cached_until_its_expiry_is_requested_once() {
    let mut make = Make::default();
    make.settings.trust = Trust::UntilExpiry;
    let rig = make.rig();
    rig.store.put("f", "text", expires(1000));
    rig.store.put("g", "text", None);
    for round in 0..5 {
        let file = rig.open("f").await.unwrap();
        if round == 0 {
            // From then on the kernel has its pages cached.
            assert_eq!(file.read_all().await.unwrap(), b"text");
        }
        drop(file);
        rig.ino("g").await;
        rig.clock.advance(11 * SECOND);
    }
    assert_eq!(rig.store.asked(), Requests { probe: 2, ..Requests::default() });
    rig.clock.advance(10 * SECOND);
    rig.ino("g").await;
    assert_eq!(rig.store.asked().head, 1, "one without an expiry is cached for 60 s");
}

#[tokio::test]
async fn unparsable_expires_under_each_policy() {
    for (on_unparsable, want) in [
        (OnUnparsable::Expired, Ok(false)),
        (OnUnparsable::Fresh, Ok(true)),
        (OnUnparsable::Error, Err(Error::Unparsable)),
    ] {
        let policy = Policy { on_unparsable, ..Policy::default() };
        let rig = Make { policy, ..Make::default() }.rig();
        for (i, raw) in ["0", "-1", "never", "", "2099-01-01T00:00:00Z"].into_iter().enumerate() {
            let name = format!("f{i}");
            rig.store.put(&name, "text", Some(raw.into()));
            for _ in 0..2 {
                assert_eq!(rig.look(&name).await.map(|found| found.is_some()), want, "{raw:?}");
            }
        }
        assert_eq!(rig.metrics.unparsable.get(), 5, "each is counted once");
        // An object whose expiry is unknown is listed, and lookups and opens of it return EIO.
        let shown = rig.list("", 100).await.unwrap().len();
        assert_eq!(shown, if want == Ok(false) { 0 } else { 5 });
    }
}

#[tokio::test]
async fn a_default_ttl_counts_from_last_modified() {
    // Objects of this store were modified 60 s before the start.
    let policy = Policy { default_ttl: Some(90 * SECOND), ..Policy::default() };
    let rig = Make { policy, ..Make::default() }.rig();
    rig.store.put("f", "text", None);
    rig.store.put("g", "text", expires(1000));
    rig.clock.advance(29 * SECOND);
    assert_eq!(rig.list("", 100).await.unwrap(), ["f", "g"]);
    rig.clock.advance(SECOND);
    assert_eq!(rig.list("", 100).await.unwrap(), ["g"]);
    assert_eq!(rig.look("f").await, Ok(None));
}

#[tokio::test]
async fn expiry_from_the_listing_needs_no_head() {
    let (default_ttl, source) = (Some(90 * SECOND), Source::List);
    let policy = Policy { default_ttl, source, ..Policy::default() };
    let rig = Make { policy, ..Make::default() }.rig();
    rig.store.put("f", "text", expires(-1000));
    assert_eq!(rig.list("", 100).await.unwrap(), ["f"]);
    assert_eq!(rig.store.asked(), Requests { list: 1, ..Requests::default() });
    rig.clock.advance(30 * SECOND);
    assert_eq!(rig.list("", 100).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_failure_never_means_absence() {
    let failures = [
        (Error::OutOfDescriptors("EMFILE".into()), libc::ENFILE),
        (Error::Unreachable("refused".into()), libc::EIO),
        (Error::TimedOut(SECOND), libc::EIO),
        (Error::Store("SlowDown (503)".into()), libc::EIO),
        (Error::Denied("AccessDenied (403)".into()), libc::EACCES),
    ];
    for (failure, errno) in failures {
        let rig = Rig::default();
        rig.store.put("f", vec![0; 1 << 20], None);
        rig.store.put("d/f", "text", None);
        let ino = rig.ino("f").await;
        rig.store.be(Mood::Fails(failure.clone()));
        for name in ["f2", "d", "nothing"] {
            let answer = rig.lookup(ROOT, name).await;
            assert_eq!(answer, Err(failure.clone()), "{name}");
        }
        assert_eq!(failure.errno(), errno);
        assert_eq!(rig.fs.open(ino, 1).await, Err(failure.clone()));
        assert_eq!(rig.list("", 10).await, Err(failure));
        rig.store.be(Mood::Well);
        assert_eq!(rig.list("", 10).await.unwrap(), ["d/", "f"]);
        assert!(matches!(rig.lookup(ROOT, "d").await, Ok(Lookup::Found(_))));
    }
}

#[tokio::test]
async fn equal_lookups_in_flight_share_one_request() {
    let rig = Rig::default();
    rig.store.put("f", "text", None);
    let looks = (0..10).map(|_| rig.lookup(ROOT, "f"));
    let found = futures_util::future::join_all(looks).await;
    assert!(found.iter().all(|f| *f == found[0] && f.is_ok()));
    assert_eq!(rig.store.asked(), Requests { probe: 1, ..Requests::default() });
}

#[tokio::test]
async fn a_lookup_does_not_share_an_answer_older_than_its_ttl() {
    let mut make = Make::default();
    make.settings.trust = Trust::For(Duration::ZERO);
    let rig = make.rig();
    rig.store.put("f", "old", None);
    let mut first = Box::pin(rig.lookup(ROOT, "f"));
    assert!((&mut first).now_or_never().is_none(), "it waits for the store");
    tokio::task::yield_now().await;
    // The store has answered by now, and the response is in flight.
    rig.store.put("f", "newer", None);
    assert_eq!(rig.look("f").await.unwrap().unwrap().size, 5);
    let Ok(Lookup::Found(late)) = first.await else { panic!("it was found") };
    assert_eq!(late.size, 3);
    assert_eq!(rig.look("f").await.unwrap().unwrap().size, 5, "the late answer is not cached");
}

#[tokio::test]
async fn absence_is_cached_for_the_negative_ttl() {
    let mut make = Make::default();
    make.settings.negative_ttl = 5 * SECOND;
    let rig = make.rig();
    rig.store.put("old", "text", expires(-1));
    for name in ["f", "old"] {
        let answer = rig.lookup(ROOT, name).await.unwrap();
        let Lookup::Nothing(ttl) = answer else { panic!("{answer:?}") };
        assert!(ttl > 4 * SECOND && ttl <= 5 * SECOND, "{ttl:?}");
    }
    rig.store.put("f", "text", None);
    assert_eq!(rig.look("f").await, Ok(None));
    rig.clock.advance(5 * SECOND);
    assert!(rig.look("f").await.unwrap().is_some());
}
