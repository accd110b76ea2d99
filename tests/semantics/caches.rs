//! What the caches of a mount have counted, and for how long opened files were still valid.

use std::time::Duration;

use expirefs::expiry::OnUnparsable;
use expirefs::metrics::{Cache, CacheCounts, Caches};

use super::{Make, Rig, SECOND, expires};

fn counted(rig: &Rig) -> Caches<(u64, u64)> {
    rig.metrics.caches.map(|cache: &Cache| {
        let CacheCounts { hits, misses } = cache.now();
        (hits, misses)
    })
}

#[tokio::test]
async fn each_cache_counts_hits_and_misses() {
    let mut make = Make::default();
    make.settings.negative_ttl = Duration::from_secs(60);
    let rig = make.rig();
    rig.store.put("f", "text", None);
    let nothing = Caches::default();
    rig.open("f").await.unwrap().read_all().await.unwrap();
    let once = Caches { names: (0, 1), absences: (0, 1), questions: (0, 1), ..nothing };
    let once = Caches { pages: (0, 1), first_bytes: (1, 0), ..once };
    assert_eq!(counted(&rig), once);
    rig.open("f").await.unwrap();
    assert_eq!(counted(&rig), Caches { names: (1, 1), pages: (1, 1), ..once });
    // Two absent names, then a LIST that answers for all others.
    let rig = Rig::default();
    let (one, two) = tokio::join!(rig.look("g"), rig.look("g"));
    assert_eq!((one, two), (Ok(None), Ok(None)));
    let both = Caches { names: (0, 2), absences: (0, 2), questions: (1, 1), ..nothing };
    assert_eq!(counted(&rig), both);
}

#[tokio::test]
async fn an_absence_from_a_listing_is_a_hit() {
    let mut make = Make::default();
    make.settings.negative_ttl = Duration::from_secs(60);
    let rig = make.rig();
    rig.store.put("z", "text", None);
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(rig.look(name).await, Ok(None));
    }
    let (hits, misses) = counted(&rig).absences;
    assert!(hits > 0 && hits + misses == 5, "{hits} hits, {misses} misses");
}

#[tokio::test]
async fn a_second_listing_hits_the_expiry_headers() {
    let rig = Rig::default();
    ["a", "b"].iter().for_each(|key| rig.store.put(key, "text", None));
    rig.clock.advance(10 * SECOND);
    rig.list("", 100).await.unwrap();
    assert_eq!(counted(&rig).expiry_headers, (0, 2));
    rig.list("", 100).await.unwrap();
    assert_eq!(counted(&rig).expiry_headers, (2, 2));
}

#[tokio::test]
async fn opened_files_are_counted_by_the_time_until_they_expire() {
    let mut make = Make::default();
    make.policy.on_unparsable = OnUnparsable::Fresh;
    let rig = make.rig();
    rig.store.put("short", "x", expires(5));
    rig.store.put("long", "x", expires(7200));
    rig.store.put("endless", "x", None);
    for key in ["short", "long", "long", "endless"] {
        rig.open(key).await.unwrap();
    }
    let now = rig.metrics.opened.now();
    assert_eq!((now.endless, now.left.count(), now.left.sum_s), (1, 3, 14_405.0));
    assert_eq!(now.left.counts[1], 1, "at most 10 s: {now:?}");
}
