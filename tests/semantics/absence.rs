//! Rule R5: a name is absent only if the store itself says so, and no failure hides a name.

use expirefs::error::Error;
use expirefs::fs::listing::Exactness;

use super::memory::{Asked, Mood};
use super::{Make, Rig, SECOND, expires};

fn stray() -> Error {
    Error::Unconfirmed("404".into())
}

fn denied() -> Error {
    Error::Denied("403".into())
}

/// HEADs and GETs fail with this error, listings are answered.
fn refuse_all_but_listings(rig: &Rig, error: Error) {
    rig.store.refuse(move |asked| match asked {
        Asked::List(_) => None,
        _ => Some(error.clone()),
    });
}

#[tokio::test(start_paused = true)]
async fn a_404_that_may_come_from_a_proxy_is_checked_by_a_listing() {
    let rig = Rig::default();
    rig.store.put("d/f", "x", None);
    rig.store.put("f", "x", None);
    rig.store.put("f-1", "x", None);
    refuse_all_but_listings(&rig, stray());
    assert_eq!(rig.look("f").await, Err(stray()), "it is listed");
    assert!(rig.look("d").await.unwrap().is_some(), "keys lie below it");
    for name in ["missing", "f-", "d/f/g"] {
        let found = rig.look(name).await;
        assert!(!matches!(found, Ok(Some(_))), "{name}: {found:?}");
    }
    assert_eq!(rig.look("missing").await, Ok(None));
    rig.store.be(Mood::Fails(stray()));
    rig.clock.advance(2 * SECOND);
    for name in ["f", "d", "missing"] {
        assert_eq!(rig.look(name).await, Err(stray()), "{name} is not confirmed to be absent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lookup_survives_occasional_stray_404s() {
    for one_in in 2..5 {
        let rig = Rig::default();
        rig.store.put("f", "x", None);
        let count = std::sync::atomic::AtomicUsize::new(0);
        rig.store.refuse(move |asked| match asked {
            Asked::List(_) => None,
            _ => {
                let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                (n % one_in != one_in - 1).then(stray)
            }
        });
        for _ in 0..10 {
            assert!(rig.look("f").await.unwrap().is_some());
            rig.clock.advance(2 * SECOND);
        }
    }
}

#[tokio::test]
async fn if_head_is_forbidden_a_listing_decides_what_a_name_is() {
    let rig = Rig::default();
    rig.store.put("d/f", "x", None);
    rig.store.put("secret", "x", None);
    refuse_all_but_listings(&rig, denied());
    assert!(rig.look("d").await.unwrap().is_some());
    assert_eq!(rig.look("secret").await, Err(denied()), "it exists");
    assert_eq!(rig.look("missing").await, Ok(None));
    assert_eq!(rig.look("d/missing").await, Ok(None));
    // Listings are permitted below `d/` only.
    rig.store.refuse(|asked| match asked {
        Asked::List(prefix) if prefix.starts_with("d/") => None,
        _ => Some(denied()),
    });
    rig.clock.advance(2 * SECOND);
    assert!(rig.look("d").await.unwrap().is_some());
    assert_eq!(rig.look("d/missing").await, Ok(None));
    for name in ["secret", "missing"] {
        assert_eq!(rig.look(name).await, Err(denied()), "what {name} is cannot be decided");
    }
}

#[tokio::test]
async fn a_listed_key_with_a_404_to_head_is_retried() {
    let rig = Make::without_probes().rig();
    for key in ["a", "b", "c"] {
        rig.store.put(key, "x", None);
    }
    for denial in [Error::NotFound, stray()] {
        rig.store.refuse(move |asked| (asked == Asked::Head("b")).then(|| denial.clone()));
        assert_eq!(rig.list("", 10).await.unwrap(), ["a", "b", "c"], "it is listed again");
        rig.clock.advance(2 * SECOND);
    }
}

#[tokio::test]
async fn an_object_whose_head_fails_is_listed_by_its_name() {
    let rig = Make::without_probes().rig();
    for key in ["a", "b", "c"] {
        rig.store.put(key, "x", None);
    }
    rig.store.put("expired", "x", expires(-1));
    let failures = [
        Error::Store("500".into()),
        Error::Throttled("503".into()),
        Error::Unreachable("reset".into()),
        Error::Protocol("no date".into()),
        Error::TimedOut(SECOND),
        denied(),
    ];
    for failure in failures {
        let rig = Make::without_probes().rig();
        for (key, end) in [("a", None), ("b", None), ("c", None), ("expired", expires(-1))] {
            rig.store.put(key, "x", end);
        }
        let refused = failure.clone();
        rig.store.refuse(move |asked| (asked == Asked::Head("b")).then(|| refused.clone()));
        assert_eq!(rig.list("", 10).await.unwrap(), ["a", "b", "c"], "{failure}");
        assert_eq!(rig.look("b").await, Err(failure.clone()));

        let rig = Make::without_probes().rig();
        rig.store.put("b", "x", None);
        let refused = failure.clone();
        rig.store.refuse(move |asked| (asked == Asked::Head("b")).then(|| refused.clone()));
        let listed = rig.list("", 10).await;
        match failure {
            Error::Denied(_) => {
                assert_eq!(listed.unwrap(), ["b"], "a caller that may list gets the names")
            }
            _ => assert_eq!(listed, Err(failure), "no object of the page was answered"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_does_not_wait_until_the_timeout_for_one_object() {
    let rig = Make::without_probes().rig();
    for key in ["a", "b", "c"] {
        rig.store.put(key, "x", None);
    }
    rig.store.be(Mood::StallsAt("b".into()));
    let start = tokio::time::Instant::now();
    assert_eq!(rig.list("", 10).await.unwrap(), ["a", "b", "c"]);
    assert!(start.elapsed() <= 7 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lazy_listing_shows_a_directory_beside_an_expired_file_of_its_name() {
    for page in [1, 2, 3, 1000] {
        let mut make = Make::without_probes();
        make.settings.listing.exactness = Exactness::Lazy;
        make.settings.listing.page = page;
        let rig = make.rig();
        rig.store.put("foo", "x", expires(-1));
        rig.store.put("goo", "x", None);
        for key in ["foo-bar", "foo.txt", "foo/bar", "foo0", "goo/x", "old"] {
            rig.store.put(key, "x", None);
        }
        let want = ["foo-bar", "foo.txt", "foo/", "foo0", "goo", "old"];
        assert_eq!(rig.list("", 100).await.unwrap(), want, "page {page}");
        if page == 1000 {
            assert_eq!(rig.store.asked().head, 2, "only files with a directory of their name");
        }
    }
}
