//! Misses: lookups of absent names, one after the other, as by a program that creates files or
//! tries import paths.
//!
//! The store needs a HEAD and a LIST to say that one name is absent; one LIST of the directory says
//! it of all names that it covers (see `ranges`). So after a few misses in a row the LIST comes
//! first. If it does not settle the lookup, the number of misses required doubles.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;

use crate::name::directory;

/// Misses in a row before the first LIST.
const FIRST: u32 = 2;

/// The most misses required for a LIST.
const MOST: u32 = 1 << 10;

/// Misses further apart are not in a row.
const RECENT: Duration = Duration::from_secs(60);

/// Directories watched at one time.
const WATCHED: NonZeroUsize = NonZeroUsize::new(256).unwrap();

#[derive(Debug)]
pub struct Misses(Mutex<LruCache<String, Run>>);

/// The misses of a directory since its last hit.
#[derive(Debug)]
struct Run {
    missed: u32,
    /// How many of them trigger a LIST.
    wanted: u32,
    last: SystemTime,
}

impl Default for Misses {
    fn default() -> Misses {
        Misses(Mutex::new(LruCache::new(WATCHED)))
    }
}

impl Misses {
    /// Records that the store has no such name.
    pub fn missed(&self, key: &str, now: SystemTime) {
        let mut runs = self.runs();
        let fresh = || Run { missed: 0, wanted: FIRST, last: now };
        let run = runs.get_or_insert_mut(directory(key).to_owned(), fresh);
        let missed = if run.is_recent(now) { run.missed } else { 0 };
        *run = Run { missed: missed.saturating_add(1), last: now, ..*run };
    }

    /// Records that the store has an object of this name.
    pub fn hit(&self, key: &str) {
        if let Some(run) = self.runs().get_mut(directory(key)) {
            run.missed = 0;
        }
    }

    /// Whether a LIST should answer the lookup of `key`, instead of a HEAD.
    pub fn are_worth_a_listing(&self, key: &str, now: SystemTime) -> bool {
        let mut runs = self.runs();
        runs.get(directory(key)).is_some_and(|run| run.missed >= run.wanted && run.is_recent(now))
    }

    /// Records whether the LIST settled the lookup of `key`.
    pub fn listed(&self, key: &str, settled: bool, now: SystemTime) {
        let mut runs = self.runs();
        let Some(run) = runs.get_mut(directory(key)) else { return };
        *run = match settled {
            true => Run { wanted: FIRST, last: now, ..*run },
            false => Run { missed: 0, wanted: (2 * run.wanted).min(MOST), ..*run },
        };
    }

    fn runs(&self) -> MutexGuard<'_, LruCache<String, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn is_recent(&self, now: SystemTime) -> bool {
        now.duration_since(self.last).is_ok_and(|passed| passed <= RECENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    /// Requests of so many lookups, none of which is answered from the cache.
    fn cost(lookups: u32, is_there: impl Fn(u32) -> bool) -> u32 {
        let (misses, mut requests) = (Misses::default(), 0);
        for i in 0..lookups {
            if misses.are_worth_a_listing("d/f", START) {
                requests += 1;
                misses.listed("d/f", !is_there(i), START);
                if !is_there(i) {
                    continue;
                }
            }
            match is_there(i) {
                true => (requests, _) = (requests + 1, misses.hit("d/f")),
                false => (requests, _) = (requests + 2, misses.missed("d/f", START)),
            }
        }
        requests
    }

    #[test]
    fn absent_names_cost_one_request_each_and_present_names_hardly_more() {
        assert_eq!(cost(1000, |_| false), 1002);
        assert_eq!(cost(1000, |_| true), 1000);
        for every in 2..20 {
            let is_there = |i| i % every == every - 1;
            let before: u32 = (0..1000).map(|i| if is_there(i) { 1 } else { 2 }).sum();
            let cost = cost(1000, is_there);
            assert!(
                cost <= before + 1,
                "each {every}th is there: {cost} requests, {before} before"
            );
        }
    }

    #[test]
    fn misses_in_a_row_are_of_one_directory_and_of_one_minute() {
        let misses = Misses::default();
        misses.missed("d/a", START);
        misses.missed("e/a", START);
        assert!(!misses.are_worth_a_listing("d/b", START));
        misses.missed("d/b", START + 2 * RECENT);
        assert!(!misses.are_worth_a_listing("d/c", START + 2 * RECENT));
        misses.missed("d/b", START + 3 * RECENT);
        assert!(misses.are_worth_a_listing("d/c", START + 3 * RECENT));
        assert!(!misses.are_worth_a_listing("d/c", START + 5 * RECENT));
        misses.hit("d/x");
        assert!(!misses.are_worth_a_listing("d/c", START + 3 * RECENT));
    }
}
