//! Ranges of names that a LIST has covered: a name in such a range that was not on the page is
//! absent, without a request ("aggressive use" of a negative cache, RFC 8198 for DNSSEC).
//!
//! A listing is in byte order (S3 API reference, ListObjectsV2). Some stores have `a/` before `a.b`,
//! by path component, and some have no order. So a range covers a name only if it does so in both
//! orders, as an object and as a directory; a page that is not in order, or too short to tell, proves
//! nothing.
//!
//! Names are kept as hashes: a collision costs a request.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::weighed::{Weighed, Weight};
use crate::name::directory;
use crate::store::{PAGE, Page};

/// Memory for all ranges: about 1,000 full pages.
const BYTES: usize = 8 << 20;

/// Ranges of one directory; the one asked for first is dropped.
const RANGES: usize = 64;

/// The most names of a range that it does not answer for; one that is left with more is dropped.
const NAMES: usize = 16 << 10;

/// Names of the first LIST of a directory. Each range that is still fresh means four times as many
/// for the next one: the lookups go on, and the directory is large.
const FIRST_PAGE: u16 = 64;
const GROWTH: u16 = 4;

/// A page that others follow proves nothing with fewer names: they may be in order by chance.
const FEW: usize = 16;

/// See the module.
pub struct Ranges {
    /// TTL of an absence; zero: no range is cached.
    ttl: Duration,
    hasher: RandomState,
    // No other lock is taken while this one is held.
    state: Mutex<State>,
}

struct State {
    /// By directory.
    levels: Weighed<String, Level>,
    /// LISTs in flight.
    inquiries: HashMap<u64, Inquired>,
    next: u64,
}

/// A LIST in flight.
struct Inquired {
    directory: String,
    /// Hashes of names that may exist by now, whatever it answers. With too many of them it proves
    /// nothing.
    excepted: Vec<u64>,
}

/// The ranges of a directory.
#[derive(Default)]
struct Level(Vec<Range>);

struct Range {
    reach: Reach,
    asked: SystemTime,
    /// Hashes of the names that it does not answer for, sorted.
    names: Vec<u64>,
}

/// Which names of a directory a page covers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reach {
    /// All of them come after this one.
    from: String,
    /// And before this one; `None`: the page was the last.
    to: Option<String>,
}

impl Reach {
    /// Whether neither the object `key` nor a key below `key/` can be on another page.
    fn holds(&self, key: &str) -> bool {
        // What comes before `to` as a directory does so as an object, and by component.
        let ends = |to: &String| key.bytes().chain([b'/']).lt(to.bytes());
        *self.from < *key && self.to.as_ref().is_none_or(ends)
    }
}

impl Range {
    fn except(&mut self, name: u64) {
        if let Err(at) = self.names.binary_search(&name) {
            // Exactly, as the weight counts it.
            self.names.reserve_exact(1);
            self.names.insert(at, name);
        }
    }
}

impl Weight<String> for Level {
    fn weight(&self, directory: &String) -> usize {
        let weight = |Range { reach, names, .. }: &Range| {
            120 + reach.from.len() + reach.to.as_ref().map_or(0, String::len) + 8 * names.capacity()
        };
        200 + directory.len() + self.0.iter().map(weight).sum::<usize>()
    }
}

/// What ranges say of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Absent {
        until: SystemTime,
    },
    /// It was listed or has been seen since, and may be absent all the same.
    Exists,
    Nothing,
}

/// Where a LIST for a name should begin, and how many names to ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The end of the range before, if a range after it is known too: the names between the two may
    /// fit on one page. An empty text is the beginning of the directory; `None`: at the name.
    pub gap: Option<String>,
    pub max_keys: u16,
}

impl Ranges {
    /// Ranges with this TTL, counted from when their LISTs were sent.
    pub fn new(ttl: Duration) -> Ranges {
        let (levels, inquiries) = (Weighed::new(BYTES), HashMap::new());
        let state = Mutex::new(State { levels, inquiries, next: 0 });
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody can choose names whose hashes collide"
        )]
        let hasher = RandomState::new();
        Ranges { ttl, hasher, state }
    }

    /// What the ranges say of `key` now.
    pub fn say(&self, key: &str, now: SystemTime) -> Said {
        let mut state = self.state();
        let Some(level) = state.levels.get(directory(key)) else { return Said::Nothing };
        let fresh = level.fresh(now, self.ttl).filter(|range| range.reach.holds(key));
        let Some(latest) = fresh.max_by_key(|range| range.asked) else { return Said::Nothing };
        match latest.names.binary_search(&self.hasher.hash_one(key)) {
            Ok(_) => Said::Exists,
            Err(_) => Said::Absent { until: until(latest.asked, self.ttl) },
        }
    }

    /// How to ask for `key` by a LIST.
    pub fn plan(&self, key: &str, now: SystemTime) -> Plan {
        let mut state = self.state();
        let none = Plan { gap: None, max_keys: FIRST_PAGE };
        let Some(level) = state.levels.get(directory(key)) else { return none };
        let (mut gap, mut before_another, mut inside) = ("", false, false);
        let mut max_keys = FIRST_PAGE;
        for Range { reach, .. } in level.fresh(now, self.ttl) {
            max_keys = max_keys.saturating_mul(GROWTH).min(PAGE);
            let ended = reach.to.as_deref().filter(|to| *to <= key);
            match ended {
                Some(to) => gap = gap.max(to),
                None if *reach.from < *key => inside = true,
                None => before_another = true,
            }
        }
        let gap = (before_another && !inside).then(|| gap.to_owned());
        Plan { gap, max_keys }
    }

    /// Records that `key` may exist: no range answers for it until a LIST that is sent from now on
    /// covers it.
    pub fn except(&self, key: &str) {
        let (directory, name) = (directory(key), self.hasher.hash_one(key));
        let mut state = self.state();
        state.inquiries.retain(|_, inquired| {
            if inquired.directory == directory {
                inquired.excepted.push(name);
            }
            inquired.excepted.len() <= NAMES
        });
        let answers =
            |range: &Range| range.reach.holds(key) && range.names.binary_search(&name).is_err();
        if state.levels.peek(directory).is_some_and(|level| level.0.iter().any(answers))
            && let Some((directory, mut level)) = state.levels.pop(directory)
        {
            level.0.iter_mut().filter(|range| answers(range)).for_each(|r| r.except(name));
            level.0.retain(|range| range.names.len() <= NAMES);
            state.levels.put(directory, level);
        }
    }

    /// To be called before a LIST of a directory is sent.
    pub fn inquire<'a>(&'a self, directory: &'a str, now: SystemTime) -> Inquiry<'a> {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        let inquired = Inquired { directory: directory.to_owned(), excepted: Vec::new() };
        state.inquiries.insert(id, inquired);
        Inquiry { ranges: self, id, directory, asked: now }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Level {
    fn fresh(&self, now: SystemTime, ttl: Duration) -> impl Iterator<Item = &Range> {
        self.0.iter().filter(move |range| now < until(range.asked, ttl))
    }

    fn add(&mut self, range: Range, ttl: Duration) {
        let Reach { from, to } = &range.reach;
        let is_within = |of: &Reach| {
            *from <= of.from
                && to.as_ref().is_none_or(|to| of.to.as_ref().is_some_and(|end| end <= to))
        };
        self.0.retain(|old| {
            let replaced = old.asked <= range.asked && is_within(&old.reach);
            !replaced && range.asked < until(old.asked, ttl)
        });
        if self.0.len() >= RANGES
            && let Some(oldest) = (0..self.0.len()).min_by_key(|i| self.0[*i].asked)
        {
            self.0.swap_remove(oldest);
        }
        self.0.push(range);
    }
}

/// The end of a TTL that is counted from when the LIST was sent.
pub fn until(asked: SystemTime, ttl: Duration) -> SystemTime {
    asked.checked_add(ttl).unwrap_or(asked)
}

/// A LIST of a directory in flight. It knows which names may have come to exist meanwhile.
pub struct Inquiry<'a> {
    ranges: &'a Ranges,
    id: u64,
    directory: &'a str,
    /// When it was sent.
    pub asked: SystemTime,
}

impl<'a> Inquiry<'a> {
    /// Caches the range of names that a page covers. `from` is where the LIST began: at the name
    /// after it, or with the first one if it is empty.
    ///
    /// `None` where the page proves nothing about names that are not on it.
    pub fn end(self, from: &str, page: &Page) -> Option<Coverage<'a>> {
        let Inquiry { ranges, id, directory, asked } = self;
        let reach = reach(directory, from, page)?;
        let hash = |name: &str| ranges.hasher.hash_one(name);
        let names = names(page).map(hash);
        let mut state = ranges.state();
        // Under one lock with the range: what is excepted from now on finds it.
        let excepted = state.inquiries.remove(&id)?.excepted;
        if !ranges.ttl.is_zero() {
            let mut names: Vec<u64> = names.chain(excepted.iter().copied()).collect();
            names.sort_unstable();
            names.dedup();
            names.shrink_to_fit();
            let level = state.levels.pop(directory);
            let (directory, mut level) = level.unwrap_or((directory.to_owned(), Level::default()));
            level.add(Range { reach: reach.clone(), asked, names }, ranges.ttl);
            state.levels.put(directory, level);
        }
        Some(Coverage { hasher: &ranges.hasher, reach, excepted })
    }
}

impl Drop for Inquiry<'_> {
    fn drop(&mut self) {
        self.ranges.state().inquiries.remove(&self.id);
    }
}

/// What a page covers.
pub struct Coverage<'a> {
    hasher: &'a RandomState,
    reach: Reach,
    excepted: Vec<u64>,
}

impl Coverage<'_> {
    /// Whether the page says all of the object `key` and of the keys below `key/`.
    pub fn covers(&self, key: &str) -> bool {
        self.reach.holds(key) && !self.excepted.contains(&self.hasher.hash_one(key))
    }
}

/// The keys of the names on a page, without the final `/` of directories.
fn names(page: &Page) -> impl Iterator<Item = &str> {
    let directories = page.prefixes.iter().filter_map(|prefix| prefix.strip_suffix('/'));
    page.objects.iter().map(|version| &*version.key).chain(directories)
}

/// Which names a page covers, if it proves anything.
fn reach(directory: &str, from: &str, page: &Page) -> Option<Reach> {
    let from = from.max(directory);
    let is_own = |key: &str| key == directory && from == directory;
    // Each one alone is a name of this level, and was asked for.
    let is_file = |key: &str| {
        is_own(key) || (key > from && key.strip_prefix(directory).is_some_and(|n| !n.contains('/')))
    };
    let is_directory = |prefix: &str| {
        let name = prefix.strip_prefix(directory).and_then(|name| name.strip_suffix('/'));
        prefix > from && name.is_some_and(|name| !name.contains('/'))
    };
    let objects = || page.objects.iter().map(|version| &*version.key);
    let prefixes = || page.prefixes.iter().map(String::as_str);
    let in_order = objects().is_sorted_by(|a, b| a < b) && prefixes().is_sorted_by(|a, b| a < b);
    // The place of a key that is no UTF-8 is not known.
    let sound = in_order
        && page.undecodable.is_empty()
        && objects().all(is_file)
        && prefixes().all(is_directory);
    let to = match &page.next {
        None => None,
        Some(_) if page.objects.len() + page.prefixes.len() < FEW => return None,
        Some(_) => Some(names(page).max()?.to_owned()),
    };
    sound.then(|| Reach { from: from.to_owned(), to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Version;

    const START: SystemTime = SystemTime::UNIX_EPOCH;
    const TTL: Duration = Duration::from_secs(60);

    /// A page of these names, those that end in `/` but the marker `d/` as prefixes. `more`: others follow.
    fn page(names: &[&str], more: bool) -> Page {
        let mut page = Page { next: more.then(|| "token".to_owned()), ..Page::default() };
        for name in names {
            match name.ends_with('/') && *name != "d/" {
                true => page.prefixes.push((*name).to_owned()),
                false => page.objects.push(Version {
                    key: (*name).into(),
                    etag: "e".into(),
                    last_modified: START,
                    slack: Duration::ZERO,
                    size: 1,
                }),
            }
        }
        page
    }

    /// So many names `d/c00`, `d/c01`, ….
    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("d/c{i:02}")).collect()
    }

    /// A page that others follow.
    fn full(first: &[String], last: &[&str]) -> Page {
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        page(&[&first, last].concat(), true)
    }

    fn learn(ranges: &Ranges, from: &str, page: &Page, asked: SystemTime) {
        assert!(ranges.inquire("d/", asked).end(from, page).is_some());
    }

    fn is_absent(ranges: &Ranges, key: &str, now: SystemTime) -> bool {
        matches!(ranges.say(key, now), Said::Absent { .. })
    }

    #[test]
    fn a_page_covers_a_name_as_object_and_as_directory_in_both_orders() {
        let first = names(20);
        let last: [(&[&str], &str); 4] = [
            // `d/e/` comes after `d/e.f` in byte order.
            (&["d/e.f"], "d/d d/dd d/e! d/e- d/e-g d/e."),
            (&["d/e.f/"], "d/d d/dd d/e! d/e- d/e-g d/e."),
            // `d/e-g` comes after `d/e/` by component.
            (&["d/e-f", "d/e/"], "d/d d/dd d/e! d/e-"),
            (&["d/e/"], "d/d d/dd"),
        ];
        for (last, passed) in last {
            let reach = reach("d/", "d/a", &full(&first, last)).unwrap();
            let all = ["d/a", "d/d", "d/dd", "d/e", "d/e!", "d/e-", "d/e-g", "d/e.", "d/e0", "d/f"];
            let holds = all.iter().filter(|key| reach.holds(key));
            let want = all.iter().filter(|key| passed.split(' ').any(|p| p == **key));
            assert_eq!(holds.collect::<Vec<_>>(), want.collect::<Vec<_>>(), "{last:?}");
        }
        let end = reach("d/", "d/a", &page(&["d/b"], false)).unwrap();
        assert!(["d/aa", "d/b", "d/\u{10ffff}"].iter().all(|key| end.holds(key)));
        assert!(!end.holds("d/a"), "it is where the listing began");
    }

    #[test]
    fn a_page_that_is_not_in_order_proves_nothing() {
        let wrong: [&[&str]; 9] = [
            &["d/c", "d/b"],
            &["d/b", "d/b"],
            &["d/a/", "d/a-b/"],
            &["d/a"],
            &["d/"],
            &["d/b/c"],
            &["d/b/c/"],
            &["e/b"],
            &["d/B"],
        ];
        for names in wrong {
            assert_eq!(reach("d/", "d/a", &page(names, false)), None, "{names:?}");
        }
        let marked = page(&["d/", "d/b"], false);
        assert!(reach("d/", "", &marked).is_some(), "the marker of the directory itself");
        let undecodable = Page { undecodable: vec!["d/%ff".into()], ..page(&["d/b"], false) };
        assert_eq!(reach("d/", "d/a", &undecodable), None);
        for (count, proves) in [(0, false), (FEW - 1, false), (FEW, true)] {
            let reach = reach("d/", "d/a", &full(&names(count), &[]));
            assert_eq!(reach.is_some(), proves, "{count} names of a page that others follow");
        }
        assert!(reach("d/", "d/a", &Page::default()).is_some(), "nothing is there");
    }

    #[test]
    fn the_latest_range_counts_until_its_ttl_is_over() {
        let ranges = Ranges::new(TTL);
        let second = Duration::from_secs(1);
        learn(&ranges, "d/a", &page(&["d/c"], false), START);
        let until = START + TTL;
        assert_eq!(ranges.say("d/b", START), Said::Absent { until });
        assert_eq!(ranges.say("d/c", START), Said::Exists);
        assert_eq!(ranges.say("d/a", START), Said::Nothing);
        assert_eq!(ranges.say("e/b", START), Said::Nothing);
        // A later one, of other names; one sent before it that is answered after it changes nothing.
        learn(&ranges, "d/b", &page(&["d/d"], false), START + second);
        learn(&ranges, "d/b", &page(&["d/e"], false), START);
        let now = START + second;
        let said = ["d/c", "d/d", "d/e"].map(|key| is_absent(&ranges, key, now));
        assert_eq!(said, [true, false, true]);
        assert!(!is_absent(&ranges, "d/b", until), "`d/b` is of the first one only");
        assert!(is_absent(&ranges, "d/c", until) && !is_absent(&ranges, "d/c", until + second));
        let never = Ranges::new(Duration::ZERO);
        learn(&never, "d/a", &page(&["d/c"], false), START);
        assert_eq!(never.say("d/b", START), Said::Nothing);
    }

    #[test]
    fn an_exception_holds_for_ranges_that_were_asked_for_before() {
        let ranges = Ranges::new(TTL);
        learn(&ranges, "d/a", &page(&[], false), START);
        let inquiry = ranges.inquire("d/", START);
        let other = ranges.inquire("e/", START);
        ranges.except("d/b");
        let coverage = inquiry.end("d/a", &page(&[], false)).unwrap();
        assert!(!coverage.covers("d/b") && coverage.covers("d/c"));
        assert!(other.end("", &page(&[], false)).unwrap().covers("e/b"));
        assert_eq!(ranges.say("d/b", START), Said::Exists);
        assert!(is_absent(&ranges, "d/c", START));
        learn(&ranges, "d/a", &page(&[], false), START);
        assert!(is_absent(&ranges, "d/b", START), "asked again");
        assert!(ranges.state().inquiries.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let ranges = Ranges::new(TTL);
        let first = names(90);
        for i in 0..3 * RANGES {
            let from = format!("d/b{i:03}");
            let at = START + Duration::from_millis(i as u64);
            // In an order in which none replaces another.
            learn(&ranges, &from, &full(&first, &[&format!("d/x{i:03}")]), at);
        }
        let count = ranges.state().levels.peek("d/").unwrap().0.len();
        assert_eq!(count, RANGES);
        assert_eq!(ranges.say("d/b000", START), Said::Nothing);
        assert!(is_absent(&ranges, "d/bb", START));
        let waiting = ranges.inquire("d/", START);
        (0..=NAMES).for_each(|i| ranges.except(&format!("d/bb{i}")));
        assert_eq!(ranges.say("d/bb", START), Said::Nothing, "too many exceptions");
        assert!(waiting.end("", &page(&[], false)).is_none());
        for i in 0..20_000 {
            let directory = format!("e{i:0100}/");
            assert!(ranges.inquire(&directory, START).end("", &page(&[], false)).is_some());
        }
        let kept = |i: u32| is_absent(&ranges, &format!("e{i:0100}/x"), START);
        assert!(kept(19_999) && kept(10_000) && !kept(0));
    }

    #[test]
    fn a_list_begins_where_the_range_before_ends_if_one_after_it_is_known() {
        let ranges = Ranges::new(TTL);
        let plan = |key: &str| {
            let Plan { gap, max_keys } = ranges.plan(key, START);
            (gap, max_keys)
        };
        assert_eq!(plan("d/x"), (None, 64));
        learn(&ranges, "d/x", &page(&[], false), START);
        assert_eq!(plan("d/k"), (Some(String::new()), 256), "from the beginning");
        learn(&ranges, "d/b", &full(&names(64), &[]), START);
        assert_eq!(plan("d/k"), (Some("d/c63".to_owned()), 1000));
        assert_eq!(
            plan("d/c6"),
            (None, 1000),
            "`d/c6/` is on another page, the name itself is not"
        );
        assert_eq!(plan("d/a"), (Some(String::new()), 1000));
        assert_eq!(ranges.plan("d/k", START + TTL), Plan { gap: None, max_keys: 64 });
    }
}
