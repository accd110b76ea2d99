//! Lookups of absent names: one LIST of a directory answers for all names that it covers,
//! and never for one that exists.

use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use expirefs::bucket::Bucket;
use expirefs::catalog::index::Index;
use expirefs::catalog::{Catalog, Known, Settings, Trust, probe};
use expirefs::clock::Clock;
use expirefs::error::Error;
use expirefs::expiry::Policy;
use expirefs::metrics::Metrics;
use expirefs::store::{Page, Store};
use proptest::prelude::*;

use super::memory::{Asked, Memory, Order, start};
use super::{SECOND, expires};

/// The TTL of an absence, where there is one.
const TTL: Duration = Duration::from_secs(60);

/// A catalog over a store in memory.
struct Rig {
    store: Arc<Memory>,
    clock: Arc<Clock>,
    catalog: Arc<Catalog>,
}

impl Rig {
    fn new(negative_ttl: Duration) -> Rig {
        let store = Arc::new(Memory::of_chunks(0));
        let clock = Arc::new(Clock::manual(start()));
        let settings = Settings {
            trust: Trust::For(SECOND),
            negative_ttl,
            timeout: 30 * SECOND,
            probe: probe::Limits { size: 0, cache: 0 },
        };
        let policy = Policy::default();
        let bucket = Bucket { store: store.clone(), clock: clock.clone(), policy };
        let index = Index::new(1 << 20, None);
        let catalog = Catalog::new(bucket, Arc::new(Metrics::default()), settings, index);
        Rig { store, clock, catalog }
    }

    fn of(negative_ttl: Duration, keys: impl IntoIterator<Item = impl AsRef<str>>) -> Rig {
        let rig = Rig::new(negative_ttl);
        keys.into_iter().for_each(|key| rig.store.put(key.as_ref(), "x", None));
        rig
    }

    /// What a name is: `file`, `directory` or `absent`.
    async fn look(&self, key: &str) -> &'static str {
        match self.catalog.resolve(key, |_| true).await.unwrap().known {
            Known::File { .. } => "file",
            Known::Directory => "directory",
            Known::Absent => "absent",
        }
    }

    /// The same, and how many requests that took.
    async fn cost(&self, key: &str) -> (&'static str, usize) {
        self.requests();
        let what = self.look(key).await;
        (what, self.requests())
    }

    /// Requests since this was called last.
    fn requests(&self) -> usize {
        let asked = self.store.asked();
        asked.head + asked.probe + asked.get + asked.list
    }

    /// Misses in a directory, so that the next lookup there sends a LIST first.
    async fn miss(&self, directory: &str) {
        for name in ["!", "!!"] {
            assert_eq!(self.look(&format!("{directory}{name}")).await, "absent");
        }
    }
}

/// The numbers below `n` in an order of their own.
fn shuffled(n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(move |i| (i * 7919 + 13) % n)
}

/// A thousand lookups of absent names took 2,000 requests when each one was asked for.
#[tokio::test]
async fn a_thousand_absent_names_take_a_few_requests() {
    let orders: [(&str, Vec<u64>); 3] = [
        ("ascending", (0..1000).collect()),
        ("descending", (0..1000).rev().collect()),
        ("any", shuffled(1000).collect()),
    ];
    let most: [(u64, RangeInclusive<usize>); 3] = [(0, 5..=6), (10, 5..=6), (10_000, 12..=30)];
    for (present, requests) in most {
        for (what, order) in &orders {
            let rig = Rig::of(TTL, (0..present).map(|i| format!("d/{:05}", 10 * i)));
            // They lie between the names that are there, or after each other where none are.
            for i in order {
                assert_eq!(rig.look(&format!("d/{:05}", 100 * i + 7)).await, "absent");
            }
            let asked = rig.requests();
            assert!(requests.contains(&asked), "{present} names, {what}: {asked} requests");
            // Those that are there are seen at the usual price; a few may lie in no range.
            let names: Vec<_> = (0..present).step_by(7).collect();
            for i in &names {
                assert_eq!(rig.look(&format!("d/{:05}", 10 * i)).await, "file");
            }
            let asked = rig.requests();
            assert!(asked <= names.len() + 3, "{asked} requests for {}", names.len());
        }
    }
}

#[tokio::test]
async fn new_files_take_two_requests_each_without_a_negative_ttl_and_one_with_it() {
    for (ttl, lookups) in [(Duration::ZERO, 1002), (TTL, 6)] {
        let rig = Rig::of(ttl, ["d/z"]);
        for i in 0..1000 {
            let key = format!("d/new-{i}");
            assert_eq!(rig.look(&key).await, "absent", "{key}");
            // The PUT, which is one request more.
            rig.store.put(&key, "x", None);
            rig.catalog.appeared(&key);
        }
        assert_eq!(rig.requests(), lookups, "{ttl:?}");
        for i in 0..1000 {
            assert_eq!(rig.look(&format!("d/new-{i}")).await, "file");
        }
    }
}

#[tokio::test]
async fn the_first_misses_of_a_directory_ask_for_the_name() {
    let rig = Rig::of(TTL, ["d/a", "d/z", "e/a"]);
    for (key, requests) in [("d/b", 2), ("e/b", 2), ("d/c", 2), ("d/d", 1), ("d/e", 0), ("e/c", 2)]
    {
        assert_eq!(rig.cost(key).await, ("absent", requests), "{key}");
    }
    // One that is there takes a HEAD if it is known from the range, else a LIST may come first.
    assert_eq!(rig.cost("d/z").await, ("file", 1));
    assert_eq!(rig.cost("d/a").await, ("file", 2));
    assert_eq!(rig.cost("d/a").await, ("file", 0));
}

#[tokio::test]
async fn an_object_of_another_writer_is_seen_after_the_negative_ttl() {
    let rig = Rig::of(5 * SECOND, ["d/a"]);
    rig.miss("d/").await;
    assert_eq!(rig.look("d/b").await, "absent");
    rig.clock.advance(4 * SECOND);
    rig.store.put("d/c", "x", None);
    let fact = rig.catalog.resolve("d/c", |_| true).await.unwrap();
    assert!(matches!(fact.known, Known::Absent), "{fact:?}");
    assert_eq!(rig.catalog.ttl(&fact), SECOND, "counted from when the LIST was sent");
    rig.clock.advance(SECOND);
    assert_eq!(rig.look("d/c").await, "file");
    assert_eq!(rig.look("d/d").await, "absent");
}

#[tokio::test]
async fn without_a_negative_ttl_no_absence_is_cached() {
    let rig = Rig::of(Duration::ZERO, ["d/a"]);
    rig.miss("d/").await;
    for i in 0..10 {
        let key = format!("d/b{i}");
        assert_eq!(rig.cost(&key).await, ("absent", 1));
        assert_eq!(rig.cost(&key).await, ("absent", 1));
        rig.store.put(&key, "x", None);
        assert_eq!(rig.cost(&key).await, ("file", 2), "a LIST in vain");
        // After that more misses are required.
        rig.miss("d/").await;
        rig.miss("d/").await;
    }
}

#[tokio::test]
async fn an_expired_object_is_asked_for_and_its_renewal_is_seen() {
    let rig = Rig::of(TTL, ["d/a"]);
    rig.store.put("d/old", "x", expires(-1));
    rig.miss("d/").await;
    assert_eq!(rig.cost("d/b").await, ("absent", 1));
    // It is on the page: its headers say that it has expired.
    assert_eq!(rig.cost("d/old").await, ("file", 2));
    rig.store.put("d/old", "new", expires(100));
    rig.catalog.appeared("d/old");
    assert_eq!(rig.cost("d/old").await, ("file", 1));
}

#[tokio::test]
async fn directories_of_a_page_are_known() {
    let rig = Rig::of(TTL, ["d/a/x", "d/b", "d/b/x", "d/c/x"]);
    rig.miss("d/").await;
    assert_eq!(rig.cost("d/a").await, ("directory", 1));
    assert_eq!(rig.cost("d/c").await, ("directory", 0));
    assert_eq!(rig.cost("d/b").await, ("file", 1), "a file hides the directory of its name");
    assert_eq!(rig.cost("d/a.b").await, ("absent", 0));
}

/// Pages of 64 names: where one ends, a name and its directory are on different pages.
#[tokio::test]
async fn names_at_the_edges_of_a_page() {
    for order in [Order::Bytes, Order::Components] {
        for fill in 60..70 {
            for last in ["d/a", "d/a.b", "d/a-b/x", "d/a/x", "d/ab"] {
                for key in ["d/a", "d/a.", "d/a.b", "d/a-b", "d/ab", "d/b", "d/a!"] {
                    let keys = (0..fill).map(|i| format!("d/a!{i:02}"));
                    let rig = Rig::of(TTL, keys.chain([last.to_owned(), "d/b/x".to_owned()]));
                    rig.store.list_by(order);
                    let want = match (last, key) {
                        (_, "d/b") => "directory",
                        ("d/a/x", "d/a") | ("d/a-b/x", "d/a-b") => "directory",
                        (last, key) if last == key => "file",
                        _ => "absent",
                    };
                    rig.miss("d/").await;
                    // From `d/a!00` on.
                    rig.look("d/a!0").await;
                    let what = format!("{fill} names, {last}, {order:?}");
                    assert_eq!(rig.look(key).await, want, "{key}: {what}");
                    assert_eq!(rig.look(key).await, want, "{key} again: {what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_store_without_an_order_is_asked_for_each_name() {
    let rig = Rig::of(TTL, (0..5000).map(|i| format!("d/{i:04}")));
    rig.store.list_by(Order::Scrambled);
    for i in shuffled(1000) {
        assert_eq!(rig.look(&format!("d/{i:04}-")).await, "absent");
    }
    let asked = rig.requests();
    assert!((2000..2020).contains(&asked), "{asked} requests: a LIST in vain now and then");
    for i in 0..5000 {
        assert_eq!(rig.look(&format!("d/{i:04}")).await, "file");
    }
}

#[tokio::test]
async fn a_store_that_reads_directories_whole_is_asked_for_each_name() {
    let rig = Rig::of(TTL, (0..5000).map(|i| format!("d/{i:04}")));
    rig.store.list_by(Order::ReadWhole);
    for i in shuffled(1000) {
        assert_eq!(rig.look(&format!("d/{i:04}-")).await, "absent");
    }
    assert_eq!(rig.requests(), 2000);
}

#[tokio::test]
async fn a_listing_that_fails_says_nothing() {
    let failures = [
        Error::Protocol("a page that is not whole".into()),
        Error::Throttled("503".into()),
        Error::Denied("403".into()),
    ];
    for failure in failures {
        let rig = Rig::of(TTL, ["d/a", "d/b/x"]);
        rig.miss("d/").await;
        // The level cannot be listed, what lies below a name can.
        let refused = failure.clone();
        rig.store.refuse(move |asked| (asked == Asked::List("d/")).then(|| refused.clone()));
        for (key, want) in [("d/a", "file"), ("d/b", "directory"), ("d/c", "absent")] {
            assert_eq!(rig.look(key).await, want, "{key}: {failure}");
        }
        rig.store.be(super::memory::Mood::Fails(failure.clone()));
        rig.clock.advance(2 * TTL);
        let answer = rig.catalog.resolve("d/d", |_| true).await;
        assert_eq!(answer.err(), Some(failure));
    }
}

#[tokio::test]
async fn what_this_mount_has_created_is_there_and_what_it_forgets_is_asked_for() {
    let rig = Rig::of(TTL, ["d/a", "z"]);
    for directory in ["", "d/"] {
        rig.miss(directory).await;
        assert_eq!(rig.cost(&format!("{directory}b")).await, ("absent", 1));
    }
    for key in ["n/o/p", "d/n", "d/o/"] {
        for name in ["n", "d/n", "d/o"] {
            assert_eq!(rig.cost(name).await.1, 0, "{name} is in a range");
        }
        rig.store.put(key, "", None);
        match key {
            "d/n" => rig.catalog.forget(key),
            _ => rig.catalog.appeared(key),
        }
        let name = key.strip_suffix("/o/p").or(key.strip_suffix('/')).unwrap_or(key);
        assert_ne!(rig.look(name).await, "absent", "{name}");
        rig.store.delete(key);
        rig.clock.advance(SECOND);
        assert_eq!(rig.cost(name).await, ("absent", 2), "{name} is asked for");
        assert_eq!(rig.cost(name).await, ("absent", 0));
        assert_eq!(rig.cost("d/c").await, ("absent", 0), "the others are in the range still");
    }
}

/// The page was made before the object, and is answered after it.
#[tokio::test]
async fn a_listing_in_flight_does_not_hide_what_appears_meanwhile() {
    for forgets in [false, true] {
        let rig = Rig::of(TTL, ["d/a"]);
        rig.miss("d/").await;
        let catalog: Arc<OnceLock<Arc<Catalog>>> = Arc::default();
        catalog.set(rig.catalog.clone()).ok();
        rig.store.refuse(move |asked| {
            if let (Asked::List("d/"), Some(catalog)) = (asked, catalog.get()) {
                for key in ["d/new", "d/sub/x", "d/first"] {
                    match forgets {
                        true => catalog.forget(key),
                        false => catalog.appeared(key),
                    }
                }
            }
            None
        });
        assert_eq!(rig.look("d/first").await, "absent", "the store has not had it by then");
        assert_eq!(rig.cost("d/other").await, ("absent", 0));
        rig.store.refuse(|_| None);
        for key in ["d/new", "d/sub/x", "d/first"] {
            rig.store.put(key, "x", None);
        }
        for (key, want) in [("d/new", "file"), ("d/sub", "directory"), ("d/first", "file")] {
            assert_eq!(rig.look(key).await, want, "{key}");
        }
    }
}

/// What a lookup or a listing has shown after the range was asked for does not vanish.
#[tokio::test]
async fn what_was_seen_since_stays() {
    let rig = Rig::of(TTL, ["d/a"]);
    rig.miss("d/").await;
    assert_eq!(rig.cost("d/b").await, ("absent", 1));
    let inquiry = rig.catalog.inquire("e/");
    for key in ["d/n", "d/o/x", "d/p", "e/q"] {
        rig.store.put(key, "x", None);
    }
    assert_eq!(rig.look("d/n").await, "absent");
    rig.catalog.learn(rig.store.head("d/n").await.unwrap());
    rig.catalog.note_directory("d/o", &rig.catalog.directory());
    let listed = rig.store.head("d/p").await.unwrap().version;
    assert!(rig.catalog.confirm(&[&listed]).await[0].is_none(), "its headers are not known");
    assert_eq!(rig.look("e/q").await, "file");
    assert!(inquiry.end("", &Page::default()).is_some(), "a late answer");
    for _ in 0..3 {
        for (key, want) in [("d/n", "file"), ("d/o", "directory"), ("d/p", "file"), ("e/q", "file")]
        {
            assert_eq!(rig.look(key).await, want, "{key}");
        }
        rig.clock.advance(2 * SECOND);
    }
}

#[tokio::test]
async fn a_directory_that_was_read_answers_for_absent_names() {
    let mut make = super::Make::default();
    make.settings.negative_ttl = TTL;
    let rig = make.rig();
    for i in 0..100 {
        rig.store.put(&format!("d/{i}"), "x", None);
    }
    assert_eq!(rig.list("d", 1000).await.unwrap().len(), 100);
    rig.store.asked();
    for i in 0..100 {
        assert_eq!(rig.look(&format!("d/new-{i}")).await, Ok(None));
    }
    assert_eq!(rig.store.asked(), super::memory::Requests::default());
}

#[derive(Clone, Debug)]
enum Event {
    Look(String),
    /// By this mount.
    Put(String),
    Delete(String),
    Advance(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let key = || {
        let name = prop::sample::select(vec!["a", "a-", "a.b", "ab", "b", "b!", "ü", "0"]);
        prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
    };
    prop_oneof![
        8 => key().prop_map(Event::Look),
        2 => key().prop_map(Event::Put),
        1 => key().prop_map(Event::Delete),
        1 => (0u32..4).prop_map(Event::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// With one writer, which says what it does, no name is absent that exists.
    #[test]
    fn no_name_that_exists_is_absent(
        events in prop::collection::vec(event(), 0..60),
        filler in prop::sample::select(vec![0usize, 40, 90, 300]),
        order in prop::sample::select(vec![Order::Bytes, Order::Components, Order::Scrambled]),
        ttl in prop::sample::select(vec![0u32, 2, 60]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut keys: std::collections::BTreeSet<String> =
                (0..filler).map(|i| ["a!", "a/", "b"][i % 3].to_owned() + &i.to_string()).collect();
            let rig = Rig::of(ttl * SECOND, &keys);
            rig.store.list_by(order);
            for event in events {
                match event {
                    Event::Put(key) => {
                        rig.store.put(&key, "x", None);
                        rig.catalog.appeared(&key);
                        keys.insert(key);
                    }
                    Event::Delete(key) => {
                        rig.store.delete(&key);
                        keys.remove(&key);
                    }
                    Event::Advance(seconds) => rig.clock.advance(seconds * SECOND),
                    Event::Look(key) => {
                        let below = format!("{key}/");
                        let exists = keys.contains(&key)
                            || keys.iter().any(|other| other.starts_with(&below));
                        let found = rig.look(&key).await;
                        assert!(!exists || found != "absent", "{key} of {keys:?}");
                    }
                }
            }
        });
    }
}
