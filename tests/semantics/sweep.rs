//! A sweep deletes no live object (rules S1 to S3): writers renew objects at every moment.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use expirefs::bucket::Bucket;
use expirefs::bucket::honours::Honours;
use expirefs::catalog::index::Index;
use expirefs::clock::Clock;
use expirefs::error::{Error, Report};
use expirefs::expiry::Policy;
use expirefs::sweep::{
    Ended, Guard, Item, Outcome, Range, Rules, State, Stop, Sweep, Sweeping, Totals,
};
use tokio::sync::mpsc;

use super::memory::writes::{Change, Changed, Fate, OfVersion};
use super::memory::{Asked, Memory, Moment, start};
use super::{SECOND, expires};

const HOUR: Duration = Duration::from_secs(3600);

/// What a store compares when it deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// ETag, size and Last-Modified.
    Exact,
    /// The ETag; the others are refused.
    Refuses,
    /// The ETag; the others are ignored.
    Ignores,
    Nothing,
}

/// How a writer changes an object that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    OtherBytes,
    SameBytes,
    /// The same bytes, without an expiry.
    Endless,
    Deletes,
    /// It deletes, and puts the same bytes at the next moment.
    DeletesAndPuts,
}

/// What decides whether an object is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Head,
    Index,
    /// `--ttl-between`
    Age,
}

const KINDS: [Kind; 4] = [Kind::Exact, Kind::Refuses, Kind::Ignores, Kind::Nothing];

/// What a sweep finds out about it.
fn guard_of(kind: Kind) -> Guard {
    match kind {
        Kind::Exact => Guard::Version,
        Kind::Refuses | Kind::Ignores => Guard::Etag,
        Kind::Nothing => Guard::None,
    }
}

/// One moment of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    after: bool,
    /// L, H or D.
    request: char,
    key: String,
}

impl Seen {
    fn of(moment: Moment<'_>) -> Seen {
        let (after, asked) = match moment {
            Moment::Before(asked) => (false, asked),
            Moment::After(asked) => (true, asked),
        };
        let (request, key) = match asked {
            Asked::List(prefix) => ('L', prefix),
            Asked::Head(key) => ('H', key),
            Asked::Change(Change::Delete, key) => ('D', key),
            other => panic!("a sweep asks for {other:?}"),
        };
        Seen { after, request, key: key.to_owned() }
    }

    fn is(&self, after: bool, request: char, key: &str) -> bool {
        (self.after, self.request, &*self.key) == (after, request, key)
    }
}

/// A store with a clock, and what a sweep of it is asked to do.
struct Rig {
    store: Arc<Memory>,
    clock: Arc<Clock>,
    index: Option<Arc<Index>>,
    rules: Rules,
    most: Option<u64>,
    rate: Option<NonZeroU32>,
    concurrency: usize,
    stop: Arc<Stop>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// What a sweep has done.
struct Swept {
    ended: Ended,
    totals: Totals,
    items: Vec<Item>,
    guard: Option<Guard>,
}

impl Swept {
    fn outcomes(&self) -> BTreeMap<&str, Outcome> {
        self.items.iter().map(|item| (&*item.key, item.outcome)).collect()
    }
}

impl Rig {
    fn new(kind: Kind) -> Rig {
        let clock = Arc::new(Clock::manual(start()));
        let store = Arc::new(Memory::writable(0, clock.clone()));
        store.honour(Honours { delete_if_match: kind != Kind::Nothing, ..Honours::ALL });
        store.treat_versions_as(match kind {
            Kind::Exact => OfVersion::Compared,
            Kind::Refuses => OfVersion::Refused,
            Kind::Ignores | Kind::Nothing => OfVersion::Ignored,
        });
        let seen = Arc::default();
        let rules = Rules { grace: HOUR, unparsable: false, ttl_between: None };
        Rig {
            store,
            clock,
            index: None,
            rules,
            most: None,
            rate: None,
            concurrency: 1,
            stop: Arc::default(),
            seen,
        }
    }

    /// Puts an object that expired two hours ago.
    fn put_due(&self, key: &str) {
        self.store.put_at(key, "same", expires(-7200), start() - 10 * HOUR);
    }

    fn put_live(&self, key: &str) {
        self.store.put_at(key, "live", expires(60), start() - 10 * HOUR);
    }

    /// Sweeps, with headers that are known from now on.
    async fn know_by(&mut self, by: By) {
        match by {
            By::Head => {}
            By::Index => {
                self.index = Some(Index::new(1 << 20, None));
                let listed = self.run(false, None).await;
                assert_eq!(listed.totals.deleted, 0);
            }
            By::Age => self.rules.ttl_between = Some((HOUR, 2 * HOUR)),
        }
    }

    async fn run(&self, delete: bool, state: Option<(State, Vec<Range>)>) -> Swept {
        let policy = Policy::default();
        let sweep = Sweep {
            store: self.store.clone(),
            bucket: Bucket { store: self.store.clone(), clock: self.clock.clone(), policy },
            prefix: String::new(),
            rules: self.rules,
            delete,
            most: self.most,
            uploads: None,
            rate: self.rate,
            concurrency: self.concurrency,
            shards: 1,
            skew: Some(30 * SECOND),
            index: self.index.clone(),
        };
        let (state, ranges) = match state {
            Some((state, left)) => (Some(state), left),
            None => (None, vec![Range::all()]),
        };
        let (items, mut shown) = mpsc::channel(1000);
        let sweeping = Sweeping::new(sweep, ranges, state, self.stop.clone(), items);
        let ended = sweeping.run().await;
        let items = std::iter::from_fn(|| shown.try_recv().ok()).collect();
        Swept { ended, totals: sweeping.totals(), items, guard: sweeping.guard() }
    }

    async fn sweep(&self) -> Swept {
        self.run(true, None).await
    }

    /// From now on moments are seen, and at each of them this is done.
    fn at_moments(&self, mut act: impl FnMut(usize, &Memory) + Send + 'static) {
        let (seen, store): (_, Weak<Memory>) = (self.seen.clone(), Arc::downgrade(&self.store));
        self.store.watch(move |moment| {
            let n = {
                let mut seen = seen.lock().unwrap();
                seen.push(Seen::of(moment));
                seen.len() - 1
            };
            act(n, &store.upgrade().expect("it is swept"));
        });
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn removed(&self, key: &str) -> usize {
        let is_it = |changed: &&Changed| matches!(changed, Changed::Removed(k) if k == key);
        self.store.log().iter().filter(is_it).count()
    }
}

/// At `moment` of a sweep of three due objects the last one is renewed. Returns the number of moments,
/// and whether the renewed object was deleted.
async fn try_at(
    kind: Kind,
    by: By,
    learned: bool,
    renewal: Option<(Renewal, usize)>,
) -> (usize, bool) {
    let told = format!("{kind:?}, by {by:?}, learned {learned}, {renewal:?}");
    let mut rig = Rig::new(kind);
    if learned {
        ["a", "b"].iter().for_each(|key| rig.put_due(key));
    }
    rig.put_due("k");
    if by != By::Age {
        rig.put_live("live");
        rig.store.put_at("no-expiry", "x", None, start() - 10 * HOUR);
    }
    rig.know_by(by).await;
    let by_writer = Arc::new(AtomicUsize::new(0));
    let count = by_writer.clone();
    rig.at_moments(move |n, store| {
        let Some((renewal, at)) = renewal else { return };
        let put = |bytes, expires| store.put_at("k", bytes, expires, start());
        if n == at && matches!(renewal, Renewal::Deletes | Renewal::DeletesAndPuts) {
            count.fetch_add(usize::from(store.content("k").is_some()), Ordering::Relaxed);
        }
        match renewal {
            Renewal::OtherBytes if n == at => put("other", expires(60)),
            Renewal::SameBytes if n == at => put("same", expires(60)),
            Renewal::Endless if n == at => put("same", None),
            Renewal::Deletes | Renewal::DeletesAndPuts if n == at => store.delete("k"),
            Renewal::DeletesAndPuts if n == at + 1 => put("same", expires(60)),
            _ => {}
        }
    });
    let swept = rig.sweep().await;
    let seen = rig.seen();
    assert_eq!((&swept.ended, swept.totals.failed), (&Ended::Complete, 0), "{told}");
    assert!(!seen.iter().any(|it| it.request == 'D' && ["live", "no-expiry"].contains(&&*it.key)));
    // What is counted is what was done.
    let by_sweep = rig.removed("k") - by_writer.load(Ordering::Relaxed);
    let outcome = swept.outcomes().get("k").copied();
    // A DELETE without a condition does not show whether there was an object.
    let deletes = matches!(renewal, Some((Renewal::Deletes | Renewal::DeletesAndPuts, _)));
    let unknown = kind == Kind::Nothing && deletes;
    let by_sweep = match unknown {
        true => usize::from(outcome == Some(Outcome::Deleted)),
        false => by_sweep,
    };
    assert_eq!(outcome == Some(Outcome::Deleted), by_sweep == 1, "{told}: {outcome:?}");
    let others = if learned { 2 } else { 0 };
    assert_eq!(swept.totals.deleted, (others + by_sweep) as u64, "{told}");
    let Totals { due, deleted, renewed, .. } = swept.totals;
    let gone = u64::from(outcome == Some(Outcome::Gone));
    assert_eq!(due, deleted + renewed + gone, "{told}");
    let Some((renewal, at)) = renewal else {
        assert_eq!(outcome, Some(Outcome::Deleted), "{told}");
        return (seen.len(), false);
    };
    assert!(seen.len() > at, "{told}");
    let by_writer = matches!(renewal, Renewal::Deletes | Renewal::DeletesAndPuts);
    assert!(outcome != Some(Outcome::Gone) || by_writer, "{told}");
    let renewed_at = at + usize::from(renewal == Renewal::DeletesAndPuts);
    let was_put = renewal != Renewal::Deletes && seen.len() > renewed_at;
    let lost = was_put && rig.store.content("k").is_none();
    if lost {
        let is_compared = match kind {
            Kind::Exact => true,
            Kind::Refuses | Kind::Ignores => renewal == Renewal::OtherBytes,
            Kind::Nothing => false,
        };
        assert!(!is_compared, "{told}: {seen:?}");
        // The answer of the last HEAD, or the way of the DELETE.
        let (now, next) = (&seen[renewed_at], &seen[renewed_at + 1]);
        assert!(
            now.is(false, 'D', "k") || now.is(true, 'H', "k") && next.is(false, 'D', "k"),
            "{told}: {seen:?}"
        );
    }
    (seen.len(), lost)
}

#[tokio::test(start_paused = true)]
async fn a_renewed_object_is_only_deleted_where_nothing_that_differs_is_compared() {
    use Renewal::{Deletes, DeletesAndPuts, Endless, OtherBytes, SameBytes};
    for kind in KINDS {
        for (by, learned) in [By::Head, By::Index, By::Age]
            .into_iter()
            .flat_map(|by| [false, true].map(|learned| (by, learned)))
        {
            let (moments, _) = try_at(kind, by, learned, None).await;
            for renewal in [OtherBytes, SameBytes, Endless, Deletes, DeletesAndPuts] {
                let mut lost = 0;
                for at in 0..moments {
                    lost += usize::from(try_at(kind, by, learned, Some((renewal, at))).await.1);
                }
                let window = match (kind, renewal) {
                    (Kind::Exact, _) | (_, Deletes) => 0,
                    (Kind::Refuses | Kind::Ignores, OtherBytes) => 0,
                    (_, DeletesAndPuts) => 1,
                    // After the answer of a HEAD, and before the DELETE.
                    _ => 2,
                };
                assert_eq!(lost, window, "{kind:?} by {by:?}, learned {learned}: {renewal:?}");
            }
        }
    }
}

/// Whoever waits, for what is learned from another object or for its turn: nothing lies between HEAD and
/// DELETE.
#[tokio::test(start_paused = true)]
async fn the_window_is_one_round_trip_also_among_many_objects_and_at_a_low_rate() {
    for kind in [Kind::Refuses, Kind::Ignores, Kind::Nothing] {
        for rate in [None, NonZeroU32::new(50)] {
            let rig = Rig { concurrency: 8, rate, ..Rig::new(kind) };
            let keys: Vec<String> = (0..30).map(|n| format!("k{n:02}")).collect();
            keys.iter().for_each(|key| rig.put_due(key));
            rig.at_moments(|_, _| {});
            let swept = rig.sweep().await;
            assert_eq!((swept.ended, swept.totals.deleted), (Ended::Complete, 30));
            let seen = rig.seen();
            for key in &keys {
                let of_key = |it: &Seen| it.key == *key;
                // A request of another object has two moments, and the next one of it begins.
                let deleted = seen.iter().rposition(|it| it.is(false, 'D', key)).unwrap();
                let judged = seen[..deleted].iter().rposition(of_key).unwrap();
                assert!(seen[judged].is(true, 'H', key), "{kind:?} {key}: {seen:?}");
                for other in &keys {
                    let meanwhile = seen[judged..deleted].iter().filter(|it| it.key == *other);
                    assert!(meanwhile.count() <= 3, "{kind:?} {key}, {other}: {seen:?}");
                }
            }
        }
    }
}

/// A version that is renewed within the second of its Last-Modified is equal to what it was.
#[tokio::test(start_paused = true)]
async fn an_object_is_not_due_while_another_version_could_be_equal_to_it() {
    for kind in KINDS {
        for by in [By::Head, By::Index, By::Age] {
            let mut rig = Rig::new(kind);
            rig.rules.grace = Duration::ZERO;
            rig.rules.ttl_between = (by == By::Age).then_some((Duration::ZERO, Duration::ZERO));
            rig.store.put_at("k", "same", expires(-60), start());
            if by == By::Index {
                rig.know_by(by).await;
            }
            let swept = rig.sweep().await;
            assert_eq!((swept.totals.due, rig.store.keys().len()), (0, 1), "{kind:?} by {by:?}");
            rig.store.put_at("k", "same", expires(60), start());
            rig.clock.advance(2 * SECOND);
            rig.rules.ttl_between = None;
            let swept = rig.sweep().await;
            assert_eq!((swept.totals.due, swept.totals.live), (0, 1), "{kind:?} by {by:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_before_its_grace_time_is_over() {
    for kind in KINDS {
        for by in [By::Head, By::Index] {
            let mut rig = Rig::new(kind);
            for (key, ended) in [("a", 3600), ("b", 3599), ("c", 1), ("d", -1), ("e", 7200)] {
                rig.store.put_at(key, "x", expires(-ended), start() - 10 * HOUR);
            }
            rig.know_by(by).await;
            let swept = rig.sweep().await;
            assert_eq!(rig.store.keys(), ["b", "c", "d"], "{kind:?} by {by:?}");
            let Totals { deleted, in_grace, live, .. } = swept.totals;
            assert_eq!((deleted, in_grace, live), (2, 2, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn exactly_as_many_as_allowed_are_deleted_although_some_are_renewed_in_flight() {
    for kind in KINDS {
        for most in [0, 1, 7, 24, 25] {
            let mut rig = Rig { concurrency: 16, most: Some(most), ..Rig::new(kind) };
            (0..32).for_each(|n| rig.put_due(&format!("k{n:02}")));
            rig.know_by(By::Index).await;
            // Each fourth one is renewed after it was judged.
            for n in (0..32).step_by(4) {
                rig.store.put_at(&format!("k{n:02}"), "other", expires(60), start() - 10 * HOUR);
            }
            rig.at_moments(|n, store| {
                if n == 1 {
                    for n in (2..32).step_by(4) {
                        store.put_at(&format!("k{n:02}"), "new", expires(60), start());
                    }
                }
            });
            let swept = rig.sweep().await;
            let deleted = 32 - rig.store.keys().len() as u64;
            assert_eq!((swept.totals.deleted, deleted), (most.min(16), most.min(16)), "{kind:?}");
            let want = if most < 16 { Ended::AtMost(most) } else { Ended::Complete };
            assert_eq!(swept.ended, want, "{kind:?}, {most}");
        }
    }
}

/// It is judged, waits until another one turns out to be gone, and is renewed meanwhile.
#[tokio::test(start_paused = true)]
async fn an_object_that_waits_for_what_is_left_of_the_most_is_judged_again() {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    // Where nothing is compared, an object that is gone counts as deleted.
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Nothing) {
        let rig = Rig { concurrency: 4, most: Some(3), ..Rig::new(kind) };
        KEYS.iter().for_each(|key| rig.put_due(key));
        let seen = rig.seen.clone();
        rig.at_moments(move |n, store| {
            let seen = seen.lock().unwrap();
            let begun = |key: &&&str| seen.iter().any(|it| it.is(false, 'D', key));
            let waiting: Vec<_> = KEYS.iter().filter(|key| !begun(key)).collect();
            if let [waiting] = waiting[..]
                && seen[n].request == 'D'
                && !seen[n].after
            {
                store.delete(&seen[n].key);
                store.put_at(waiting, "same", expires(60), start());
            }
        });
        let swept = rig.sweep().await;
        let [left] = rig.store.keys().try_into().unwrap_or_else(|_| panic!("{:?}", rig.seen()));
        assert_eq!(swept.outcomes()[&*left], Outcome::Renewed, "{kind:?}: {:?}", rig.seen());
    }
}

/// What a store does to one DELETE, and what becomes of the object.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_fails_once_is_tried_again_after_another_look() {
    let fails = |error: fn(Report) -> Error| Fate::Fails(error("as told".into()));
    let fates = [
        Fate::Unclear { made: true },
        Fate::Unclear { made: false },
        Fate::Late { made: true },
        Fate::Late { made: false },
        fails(Error::Throttled),
        fails(Error::Conflict),
        fails(Error::Unreachable),
    ];
    for kind in KINDS {
        for fate in &fates {
            for nth in 1..8 {
                let told = format!("{kind:?}, {fate:?} for DELETE {nth}");
                let rig = Rig::new(kind);
                ["a", "b", "c", "d"].iter().for_each(|key| rig.put_due(key));
                rig.put_live("live");
                rig.store.decide_one(Change::Delete, nth, fate.clone());
                rig.at_moments(|_, _| {});
                let swept = rig.sweep().await;
                assert_eq!((&swept.ended, swept.totals.failed), (&Ended::Complete, 0), "{told}");
                assert_eq!((rig.store.keys(), swept.totals.deleted), (vec!["live".into()], 4));
                let want = guard_of(kind);
                assert!(swept.guard.is_none_or(|guard| guard == want), "{told}: {:?}", swept.guard);
                if kind != Kind::Exact {
                    each_delete_follows_a_head(&rig.seen(), &told);
                }
            }
        }
    }
}

fn each_delete_follows_a_head(seen: &[Seen], told: &str) {
    for (n, it) in seen.iter().enumerate().filter(|(_, it)| it.request == 'D' && !it.after) {
        let before = seen[..n].iter().rev().find(|other| other.key == it.key);
        // A DELETE that was refused may be followed by a weaker one: then a HEAD is between.
        assert!(before.is_some_and(|it| it.request == 'H'), "{told}: {n} of {seen:?}");
    }
}

/// A DELETE whose answer is lost may have been made, and the object put again since.
#[tokio::test(start_paused = true)]
async fn an_object_put_again_after_a_lost_answer_is_not_deleted() {
    for kind in KINDS {
        for nth in 1..6 {
            let rig = Rig::new(kind);
            ["a", "b", "c"].iter().for_each(|key| rig.put_due(key));
            rig.store.decide_one(Change::Delete, nth, Fate::Unclear { made: true });
            rig.at_moments({
                let mut lost = 0;
                let seen = rig.seen.clone();
                move |n, store| {
                    let it = seen.lock().unwrap()[n].clone();
                    lost += usize::from(it.request == 'D' && !it.after);
                    if it.request == 'D'
                        && it.after
                        && lost == nth
                        && store.content(&it.key).is_none()
                    {
                        store.put_at(&it.key, "same", expires(60), start());
                    }
                }
            });
            let swept = rig.sweep().await;
            let (left, put_again) = (rig.store.keys().len(), rig.store.log().len() > 6);
            assert_eq!(left, usize::from(put_again), "{kind:?}, {nth}: {:?}", rig.store.log());
            assert_eq!((swept.totals.failed, swept.ended), (0, Ended::Complete));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn deletions_that_keep_failing_are_reported_and_nothing_hangs() {
    let fates = [
        (Fate::Fails(Error::PreconditionFailed), Ended::Complete),
        (Fate::Fails(Error::Throttled("as told".into())), Ended::Complete),
        (Fate::Fails(Error::Conflict("as told".into())), Ended::Complete),
        (Fate::Fails(Error::Denied("as told".into())), Ended::Complete),
        (Fate::Fails(Error::Refused("as told".into())), Ended::Complete),
        (Fate::Unclear { made: false }, Ended::Complete),
        (Fate::Late { made: false }, Ended::Complete),
        (Fate::Fails(Error::Unreachable("as told".into())), {
            Ended::Failed(Error::Unreachable("as told".into()))
        }),
    ];
    for kind in KINDS {
        for (fate, want) in &fates {
            let rig = Rig::new(kind);
            ["a", "b"].iter().for_each(|key| rig.put_due(key));
            let fate = fate.clone();
            rig.store.decide(move |_, _| fate.clone());
            let began = tokio::time::Instant::now();
            let swept = rig.sweep().await;
            let told = format!("{kind:?}: {:?}", swept.items);
            // A minute, and one more try of half a minute, for each object.
            assert!(began.elapsed() <= 2 * 90 * SECOND, "{told}: {:?}", began.elapsed());
            assert_eq!((&swept.ended, rig.store.keys().len()), (want, 2), "{told}");
            let failed = if *want == Ended::Complete { 2 } else { 1 };
            assert_eq!((swept.totals.failed, swept.totals.deleted), (failed, 0), "{told}");
            assert!(swept.items.iter().all(|item| item.error.is_some()), "{told}");
        }
    }
}

/// One object that nobody may delete shows nothing about the store.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_deleted_weakens_no_condition_for_others() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        ["a", "b", "c", "d"].iter().for_each(|key| rig.put_due(key));
        let refuses = |asked: Asked<'_>| {
            let is_it = asked == Asked::Change(Change::Delete, "a");
            is_it.then(|| Error::Refused("as told".into()))
        };
        rig.store.refuse(refuses);
        let swept = rig.sweep().await;
        assert_eq!((swept.totals.failed, rig.store.keys()), (1, vec!["a".to_owned()]));
        assert_eq!(swept.guard, Some(guard_of(kind)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_only_says_that_it_deletes_is_found_out() {
    for kind in [Kind::Ignores, Kind::Nothing] {
        let rig = Rig::new(kind);
        ["a", "b"].iter().for_each(|key| rig.put_due(key));
        rig.store.pretend_to_delete();
        let swept = rig.sweep().await;
        assert_eq!((swept.totals.failed, swept.totals.deleted, swept.guard), (2, 0, None));
    }
}

#[tokio::test(start_paused = true)]
async fn the_version_that_head_shows_counts_where_a_listing_shows_another() {
    for kind in KINDS {
        for by in [By::Head, By::Index, By::Age] {
            let mut rig = Rig::new(kind);
            rig.store.list_later(SECOND);
            ["a", "b", "c"].iter().for_each(|key| rig.put_due(key));
            rig.store.put_at("live", "same", expires(60), start() - HOUR / 2);
            rig.store.drop_etag("b");
            rig.know_by(by).await;
            let swept = rig.sweep().await;
            let told = format!("{kind:?} by {by:?}: {:?}", swept.items);
            assert_eq!(
                (rig.store.keys(), swept.totals.deleted),
                (vec!["live".into()], 3),
                "{told}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_is_stopped_leaves_in_its_state_what_is_left() {
    let keys: Vec<String> = (0..6).map(|n| format!("k{n}")).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    for (kind, concurrency) in KINDS.into_iter().flat_map(|kind| [(kind, 1), (kind, 3)]) {
        for at in 0.. {
            let told = format!("{kind:?}, {concurrency} at once, stopped at {at}");
            let mut rig = Rig { concurrency, ..Rig::new(kind) };
            keys.iter().for_each(|key| rig.put_due(key));
            rig.put_live("k2");
            let stop = rig.stop.clone();
            rig.at_moments(move |n, _| {
                if n == at {
                    stop.stop()
                }
            });
            let swept = rig.run(true, Some(State::open(&path, "x".into()).unwrap())).await;
            let seen = rig.seen();
            // What is in flight ends, and no other object is begun.
            let begun = |seen: &[Seen]| {
                let keys = seen.iter().filter(|it| it.request != 'L' && it.key != "k2");
                let mut keys: Vec<String> = keys.map(|it| it.key.clone()).collect();
                keys.sort();
                keys.dedup();
                keys
            };
            if seen.len() <= at {
                assert_eq!(swept.ended, Ended::Complete);
                break;
            }
            let before = begun(&seen[..=at]);
            assert!(begun(&seen).len() < before.len() + concurrency, "{told}: {seen:?}");
            let removed: Vec<String> =
                begun(&seen).into_iter().filter(|key| rig.removed(key) == 1).collect();
            assert_eq!(swept.totals.deleted, removed.len() as u64, "{told}");
            if swept.ended == Ended::Complete {
                assert!(!path.exists(), "{told}");
                continue;
            }
            assert_eq!(swept.ended, Ended::Stopped, "{told}");
            let (state, left) = State::open(&path, "x".into()).unwrap();
            for key in rig.store.keys().iter().filter(|key| *key != "k2") {
                assert!(left.iter().any(|range| range.contains(key)), "{told}: {key} in {left:?}");
            }
            let done: Vec<&String> =
                keys.iter().filter(|key| !left.iter().any(|it| it.contains(key))).collect();
            assert!(done.len() + concurrency > removed.len(), "{told}: {done:?}, {removed:?}");
            rig.stop = Arc::default();
            rig.seen.lock().unwrap().clear();
            let swept = rig.run(true, Some((state, left))).await;
            assert_eq!(
                (swept.ended, rig.store.keys()),
                (Ended::Complete, vec!["k2".into()]),
                "{told}"
            );
            let asked = rig.seen();
            let again = |key: &&String| asked.iter().any(|it| it.request != 'L' && it.key == **key);
            assert!(!done.iter().any(again), "{told}: {done:?} are asked for again");
            assert!(!path.exists(), "{told}");
        }
    }
}

/// By a clock that is a day ahead, all live objects have expired.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ends_the_sweep_and_no_live_object_is_deleted() {
    for kind in KINDS {
        for by in [By::Head, By::Index] {
            for at in 0.. {
                let told = format!("{kind:?} by {by:?}, at {at}");
                let mut rig = Rig { concurrency: 2, ..Rig::new(kind) };
                for n in 0..4 {
                    rig.put_due(&format!("k{}", 2 * n));
                    rig.put_live(&format!("k{}", 2 * n + 1));
                }
                rig.know_by(by).await;
                let clock = rig.clock.clone();
                rig.at_moments(move |n, _| {
                    let now = clock.local_now();
                    // A single answer is not believed.
                    let answers = if n == at { 3 } else { 0 };
                    (0..answers).for_each(|_| clock.learn(now + 24 * HOUR, now, now));
                });
                let swept = rig.sweep().await;
                let live = rig.store.keys().iter().filter(|key| rig.removed(key) == 0).count();
                for n in [1, 3, 5, 7] {
                    assert_eq!(rig.removed(&format!("k{n}")), 0, "{told}");
                }
                assert_eq!(live as u64, 8 - swept.totals.deleted, "{told}");
                if rig.seen().len() <= at {
                    assert_eq!((swept.ended, swept.totals.deleted), (Ended::Complete, 4));
                    break;
                }
                let skewed = matches!(swept.ended, Ended::Skewed(_));
                assert!(skewed || swept.totals.deleted == 4, "{told}: {:?}", swept.ended);
            }
        }
    }
}

/// By a listing of another time, or of something between the store and here.
#[tokio::test(start_paused = true)]
async fn an_object_that_only_a_listing_shows_is_not_deleted() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        ["a", "b", "c"].iter().for_each(|key| rig.put_due(key));
        rig.store.refuse(|asked| (asked == Asked::Head("b")).then_some(Error::NotFound));
        rig.at_moments(|_, _| {});
        let swept = rig.sweep().await;
        assert_eq!((swept.totals.failed, rig.store.keys()), (1, vec!["b".to_owned()]), "{kind:?}");
        assert!(!rig.seen().iter().any(|it| it.is(false, 'D', "b")));
    }
}

/// A DELETE that is refused since the object is another one by then does not show what is compared.
#[tokio::test(start_paused = true)]
async fn nothing_is_learned_from_an_object_that_was_replaced_meanwhile() {
    for kind in KINDS {
        for at in 0.. {
            let told = format!("{kind:?}, replaced at {at}");
            let rig = Rig::new(kind);
            ["a", "b", "c"].iter().for_each(|key| rig.put_due(key));
            rig.at_moments(move |n, store| {
                // Others that are due, too.
                for key in ["a", "b"].iter().filter(|key| n == at && store.content(key).is_some()) {
                    store.put_at(key, "other", expires(-7200), start() - 5 * HOUR);
                }
            });
            let swept = rig.sweep().await;
            assert_eq!((&swept.ended, swept.totals.failed), (&Ended::Complete, 0), "{told}");
            assert_eq!((rig.store.keys().len(), swept.totals.deleted), (0, 3), "{told}");
            let want = guard_of(kind);
            assert!(swept.guard.is_none_or(|guard| guard == want), "{told}: {:?}", swept.guard);
            if rig.seen().len() <= at {
                break;
            }
        }
    }
}
