//! Probes: content of small objects fetched by a lookup, cached until they are opened and read.
//!
//! A lookup that sends a GET instead of a HEAD saves the request of a later open of a small file.
//! If no open follows (`stat`, `find`, `test -f`) or the file is larger, the content was fetched in
//! vain. So a credit follows what programs do.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use tokio::sync::Notify;

use crate::store::Version;

/// Lookups in a row that may fetch content in vain: as many as a busy program has threads.
const CREDIT: u32 = 32;

/// The same before the first open, which shows what kind of program this is.
const FIRST_CREDIT: u32 = 8;

/// How long the next lookups wait for that open, once in the life of a mount: if a program starts
/// with many threads, its first open decides for all of them.
const FIRST_OPEN: Duration = Duration::from_millis(50);

/// Credit for an open that needed no request: with one such open in this many lookups, probing
/// continues.
const REWARD: u32 = 4;

/// How much content lookups fetch and cache.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// First bytes of an object to fetch (`--probe-size`); 0: none.
    pub size: u64,
    /// Memory for all cached first bytes (`--probe-cache`).
    pub cache: usize,
}

pub struct Probes {
    limits: Limits,
    state: Mutex<State>,
    /// Notifies of the first open, or that none came in time.
    judged: Notify,
}

struct State {
    /// How many more lookups may fetch content before an open uses it.
    credit: u32,
    judged: bool,
    /// The first bytes of versions; the least recently looked up comes last.
    waiting: LruCache<Arc<Version>, Bytes>,
    /// Bytes in `waiting`.
    bytes: usize,
}

impl State {
    fn earn(&mut self, credit: u32) {
        self.credit = (self.credit + credit).min(CREDIT);
    }
}

impl Probes {
    pub fn new(limits: Limits) -> Probes {
        // Do not fetch more than fits into the cache.
        let limits = Limits { size: limits.size.min(limits.cache as u64), ..limits };
        let waiting = LruCache::unbounded();
        let state = State { credit: FIRST_CREDIT, judged: false, waiting, bytes: 0 };
        Probes { limits, state: Mutex::new(state), judged: Notify::new() }
    }

    /// How many first bytes a lookup should fetch now; 0: send a HEAD.
    pub async fn ask(&self) -> u64 {
        if self.limits.size == 0 {
            return 0;
        }
        let first_open = async {
            loop {
                let mut judged = pin!(self.judged.notified());
                // Enable before the check, so that no notification is missed in between.
                judged.as_mut().enable();
                if let Some(size) = self.ask_now() {
                    return size;
                }
                judged.await;
            }
        };
        match tokio::time::timeout(FIRST_OPEN, first_open).await {
            Ok(size) => size,
            Err(_) => {
                self.state().judged = true;
                self.judged.notify_waiters();
                0
            }
        }
    }

    /// `None`: wait for the first open.
    fn ask_now(&self) -> Option<u64> {
        let mut state = self.state();
        match (state.credit.checked_sub(1), state.judged) {
            (Some(left), _) => {
                state.credit = left;
                Some(self.limits.size)
            }
            (None, true) => Some(0),
            (None, false) => None,
        }
    }

    /// Refunds an [`Probes::ask`]: the lookup found nothing to open, and a HEAD would have cost the
    /// same.
    pub fn took_nothing(&self) {
        self.state().earn(1);
    }

    /// Records that an open of a version followed its lookup.
    pub fn opened(&self, version: &Version) {
        let mut state = self.state();
        let first = !std::mem::replace(&mut state.judged, true);
        if (1..=self.limits.size).contains(&version.size) {
            state.earn(if first { CREDIT } else { REWARD });
        }
        drop(state);
        if first {
            self.judged.notify_waiters();
        }
    }

    /// Caches the first bytes of a version for a later open.
    pub fn keep(&self, version: &Arc<Version>, first: Bytes) {
        if first.is_empty() || first.len() > self.limits.cache {
            return;
        }
        let mut state = self.state();
        state.bytes += first.len();
        if let Some(before) = state.waiting.put(version.clone(), first) {
            state.bytes -= before.len();
        }
        while state.bytes > self.limits.cache
            && let Some((_, oldest)) = state.waiting.pop_lru()
        {
            state.bytes -= oldest.len();
        }
    }

    /// The cached first bytes of a version, possibly none.
    pub fn first_bytes(&self, version: &Version) -> Bytes {
        self.state().waiting.get(version).cloned().unwrap_or_default()
    }

    /// Evicts a version's bytes: the kernel has them.
    pub fn forget(&self, version: &Version) {
        let mut state = self.state();
        if let Some(bytes) = state.waiting.pop(version) {
            state.bytes -= bytes.len();
        }
    }

    /// Bytes cached.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn version(key: &str, size: u64) -> Arc<Version> {
        let last_modified = SystemTime::UNIX_EPOCH;
        Arc::new(Version {
            key: key.into(),
            etag: "e".into(),
            last_modified,
            slack: Duration::ZERO,
            size,
        })
    }

    fn probes(cache: usize) -> Probes {
        Probes::new(Limits { size: 64, cache })
    }

    /// How many of `n` lookups fetch content, if one in `opened` is followed by an open.
    async fn asked(probes: &Probes, n: u32, opened: u32, size: u64) -> u32 {
        let mut asked = 0;
        for i in 1..=n {
            asked += u32::from(probes.ask().await > 0);
            if i % opened == 0 {
                probes.opened(&version("k", size));
            }
        }
        asked
    }

    #[tokio::test(start_paused = true)]
    async fn content_is_fetched_if_that_saves_requests() {
        let probes = probes(1000);
        assert_eq!(asked(&probes, 1000, 1, 64).await, 1000);
        assert_eq!(asked(&probes, 1000, REWARD, 64).await, 1000);
        // A walk that opens nothing, or nothing small, fetches a few objects at most.
        assert_eq!(asked(&probes, 5000, u32::MAX, 64).await, CREDIT);
        assert_eq!(asked(&probes, 5000, 1, 65).await, 0);
        // Once small files are opened again, probing resumes.
        assert_eq!(asked(&probes, 1000, 1, 64).await, 999);
    }

    #[tokio::test(start_paused = true)]
    async fn absent_names_cost_no_credit() {
        let probes = probes(1000);
        for _ in 0..1000 {
            assert!(probes.ask().await > 0);
            probes.took_nothing();
        }
    }

    /// `n` concurrent lookups, then an open of `opened` bytes, if any: how many lookups fetch
    /// content, and how long they take.
    async fn at_once(n: usize, opened: Option<u64>) -> (usize, Duration) {
        let probes = probes(1000);
        let start = tokio::time::Instant::now();
        let open = async {
            if let Some(size) = opened {
                tokio::time::sleep(Duration::from_millis(1)).await;
                probes.opened(&version("k", size));
            }
        };
        let ask = futures_util::future::join_all((0..n).map(|_| probes.ask()));
        let (asked, ()) = tokio::join!(ask, open);
        (asked.into_iter().filter(|size| *size > 0).count(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_lookups_wait_for_the_first_open() {
        let moment = Duration::from_millis(1);
        assert_eq!(at_once(32, Some(64)).await, (32, moment), "all of them want content");
        assert_eq!(at_once(32, Some(65)).await, (FIRST_CREDIT as usize, moment), "none of them");
        assert_eq!(at_once(32, None).await, (FIRST_CREDIT as usize, FIRST_OPEN));
    }

    #[test]
    fn the_least_recently_looked_up_is_evicted() {
        let probes = probes(100);
        let [a, b, c] = ["a", "b", "c"].map(|key| version(key, 100));
        probes.keep(&a, Bytes::from_static(&[1; 50]));
        probes.keep(&b, Bytes::from_static(&[2; 50]));
        probes.keep(&a, Bytes::from_static(&[1; 40]));
        probes.keep(&c, Bytes::from_static(&[3; 60]));
        assert_eq!(probes.bytes(), 100);
        let lengths = [&a, &b, &c].map(|v| probes.first_bytes(v).len());
        assert_eq!(lengths, [40, 0, 60]);
        probes.forget(&a);
        probes.forget(&b);
        assert_eq!(probes.bytes(), 60);
        probes.keep(&b, Bytes::from(vec![0; 101]));
        assert_eq!(probes.bytes(), 60, "more than all of it does not fit");
    }
}
