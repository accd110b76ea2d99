//! Walks: sequential lookups of the names of a directory, as by `find`, `du` and `rsync`.
//!
//! Entries go stale soon (`--metadata-ttl`), and revalidating each one costs a HEAD. One LIST
//! revalidates a thousand at the price of twelve HEADs. So after enough HEADs that a LIST would
//! have saved, a LIST is sent, starting at the name looked up. If the names after it are not looked
//! up, the number of HEADs required for the next LIST doubles.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::name::directory;

/// The price of a LIST in HEADs (S3 price list: 0.005 and 0.0004 USD per thousand).
const PRICE: u32 = 12;

/// HEADs in a directory before the first LIST.
const FIRST: u32 = 2 * PRICE;

/// The most HEADs required for a LIST.
const MOST: u32 = 1 << 14;

/// Maximum number of directories watched.
const WATCHED: NonZeroUsize = NonZeroUsize::new(64).unwrap();

#[derive(Debug)]
pub struct Walks(Mutex<LruCache<String, Walk>>);

#[derive(Debug)]
struct Walk {
    /// HEADs since the last LIST that a LIST would have saved.
    missed: u32,
    /// How many of them trigger a LIST.
    wanted: u32,
    /// Lookups answered by the last LIST instead of a HEAD; `None` before the first LIST.
    spared: Option<u32>,
}

impl Default for Walks {
    fn default() -> Walks {
        Walks(Mutex::new(LruCache::new(WATCHED)))
    }
}

impl Walks {
    /// Records a HEAD that a LIST would have saved.
    pub fn missed(&self, key: &str) {
        let fresh = || Walk { missed: 0, wanted: FIRST, spared: None };
        let mut walks = self.walks();
        walks.get_or_insert_mut(directory(key).to_owned(), fresh).missed += 1;
    }

    /// Records a lookup that was answered by a LIST for a walk.
    pub fn spared(&self, key: &str) {
        if let Some(walk) = self.walks().get_mut(directory(key)) {
            walk.spared = walk.spared.map(|n| n.saturating_add(1));
        }
    }

    /// Whether a LIST should answer the lookup of `key`, instead of a HEAD.
    pub fn is_worth_a_listing(&self, key: &str) -> bool {
        let mut walks = self.walks();
        let Some(walk) = walks.get_mut(directory(key)) else { return false };
        match walk.spared {
            // The last LIST has paid off: continue the walk.
            Some(PRICE..) => walk.wanted = FIRST,
            _ if walk.missed < walk.wanted => return false,
            Some(_) => walk.wanted = (2 * walk.wanted).min(MOST),
            None => {}
        }
        *walk = Walk { missed: 0, spared: Some(0), ..*walk };
        true
    }

    fn walks(&self) -> MutexGuard<'_, LruCache<String, Walk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text just before `key` in byte order, with no plausible file name between the two: a listing
/// that starts after it begins with `key`.
pub fn just_before(key: &str) -> String {
    let mut text = key.to_owned();
    let last = text.pop().map_or(0, u32::from);
    // Between U+D7FF and U+E000 there are no characters.
    if let Some(before) = last.checked_sub(1).map(|c| char::from_u32(c).unwrap_or('\u{d7ff}')) {
        text.extend([before, char::MAX]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LISTs and HEADs of this many lookups. `known` tells which lookups a LIST answers.
    fn cost(lookups: usize, known: impl Fn(usize, usize) -> bool) -> (usize, usize) {
        let walks = Walks::default();
        let (mut lists, mut heads, mut listed) = (0, 0, usize::MAX);
        for i in 0..lookups {
            if listed != usize::MAX && known(listed, i) {
                walks.spared("d/f");
            } else if walks.is_worth_a_listing("d/f") {
                lists += 1;
                listed = i;
            } else {
                walks.missed("d/f");
                heads += 1;
            }
        }
        (lists, heads)
    }

    #[test]
    fn a_walk_costs_a_listing_a_page() {
        let (lists, heads) = cost(50_000, |listed, i| i < listed + 1000);
        assert!(lists == 50 && heads == FIRST as usize, "{lists} LISTs, {heads} HEADs");
    }

    #[test]
    fn scattered_lookups_send_few_extra_requests() {
        let (lists, heads) = cost(50_000, |_, i| i % 1000 == 999);
        let more = lists * PRICE as usize;
        assert!(lists > 0 && more * 20 < heads, "{lists} LISTs, {heads} HEADs");
    }

    #[test]
    fn just_before_is_directly_before_the_key() {
        for key in ["d/f000123", "a", "ü", "\u{e000}", "d/x ", "\u{10000}", "z\u{1}"] {
            let before = just_before(key);
            assert!(*before < *key, "{key:?}");
            let near = &key[..key.len() - key.chars().next_back().unwrap().len_utf8()];
            assert!(before.starts_with(near), "{before:?}");
        }
    }
}
