//! The key space that is left to sweep, as ranges. Workers take one each; one without a range takes
//! half of another's, so that all have something to do to the end, whatever the keys are like.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The keys after `after`, up to and with `upto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub after: String,
    /// None: to the end.
    pub upto: Option<String>,
}

impl Range {
    pub fn all() -> Range {
        Range { after: String::new(), upto: None }
    }

    pub fn contains(&self, key: &str) -> bool {
        key > self.after.as_str() && self.upto.as_deref().is_none_or(|upto| key <= upto)
    }
}

#[derive(Debug)]
struct Slot {
    id: u64,
    range: Range,
    /// Keys up to this one are listed, or were: a split lies after it.
    listed: String,
    taken: bool,
}

/// See the module. All keys of a range that is `taken` belong to one [`Work`].
#[derive(Debug)]
pub struct Ranges {
    slots: Mutex<Vec<Slot>>,
    ids: AtomicU64,
}

/// A range that a worker has.
#[derive(Debug)]
pub struct Work {
    ranges: Arc<Ranges>,
    id: u64,
}

impl Ranges {
    pub fn new(ranges: Vec<Range>) -> Arc<Ranges> {
        let all = Ranges { slots: Mutex::default(), ids: 0.into() };
        ranges.into_iter().for_each(|range| all.add(range));
        Arc::new(all)
    }

    /// What is left of all of them.
    pub fn left(&self) -> Vec<Range> {
        self.slots().iter().map(|slot| slot.range.clone()).collect()
    }

    /// A range that nobody has.
    pub fn take(self: &Arc<Self>) -> Option<Work> {
        let mut slots = self.slots();
        let slot = slots.iter_mut().find(|slot| !slot.taken)?;
        slot.taken = true;
        Some(Work { ranges: self.clone(), id: slot.id })
    }

    /// Makes two ranges of one that a worker has, if at least `worth` keys that are not listed are left
    /// for each. `nth_key` finds the n-th key of a range, if it has so many. Returns whether there is a
    /// range now that nobody has.
    ///
    /// # Errors
    /// Those of `nth_key`.
    pub async fn split<E, F>(
        &self,
        worth: u16,
        nth_key: impl Fn(Range, u16) -> F,
    ) -> Result<bool, E>
    where
        F: Future<Output = Result<Option<String>, E>>,
    {
        let ids: Vec<u64> = self.slots().iter().map(|slot| slot.id).collect();
        for id in ids {
            let Some(rest) = self.unlisted(id) else { continue };
            let Some(low) = nth_key(rest.clone(), worth).await? else { continue };
            let upto = rest.upto;
            let is_worth = |after| {
                let asked = nth_key(Range { after, upto: upto.clone() }, worth);
                async { Ok(asked.await?.is_some()) }
            };
            if let Some(middle) = middle_of(&low, upto.as_deref(), is_worth).await?
                && self.cut(id, middle, upto)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a worker has not yet begun of its range.
    fn unlisted(&self, id: u64) -> Option<Range> {
        let slots = self.slots();
        let slot = slots.iter().find(|slot| slot.id == id && slot.taken)?;
        Some(Range { after: slot.listed.clone(), upto: slot.range.upto.clone() })
    }

    /// Ends a range in the middle; what lies after it becomes a range. Returns whether the first was
    /// still as it was.
    fn cut(&self, id: u64, middle: String, upto: Option<String>) -> bool {
        let mut slots = self.slots();
        let Some(slot) = slots.iter_mut().find(|slot| slot.id == id) else { return false };
        if slot.range.upto != upto || slot.listed > middle {
            return false;
        }
        slot.range.upto = Some(middle.clone());
        drop(slots);
        self.add(Range { after: middle, upto });
        true
    }

    fn add(&self, range: Range) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.slots().push(Slot { id, listed: range.after.clone(), range, taken: false });
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn with<T>(&self, access: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.ranges.slots().iter_mut().find(|slot| slot.id == self.id).map(access)
    }

    pub fn after(&self) -> String {
        self.with(|slot| slot.range.after.clone()).unwrap_or_default()
    }

    /// Begins a page whose last key is `last`: returns which of its keys belong to this range, which
    /// does not change any more.
    pub fn begin(&self, last: &str) -> Range {
        let begun = self.with(|slot| {
            let upto = slot.range.upto.as_deref().map_or(last, |upto| upto.min(last));
            slot.listed = slot.listed.as_str().max(upto).to_owned();
            Range { upto: Some(upto.to_owned()), ..slot.range.clone() }
        });
        begun.unwrap_or(Range { after: last.to_owned(), upto: Some(last.to_owned()) })
    }

    /// Whether the range ends at or before a key.
    pub fn ends_by(&self, key: &str) -> bool {
        let ends = self.with(|slot| slot.range.upto.as_deref().is_some_and(|upto| upto <= key));
        ends.unwrap_or(true)
    }

    /// All keys of the range up to this one are done.
    pub fn done(&self, key: &str) {
        self.with(|slot| slot.range.after = slot.range.after.as_str().max(key).to_owned());
    }

    /// The range is done.
    pub fn end(self) {
        self.ranges.slots().retain(|slot| slot.id != self.id);
    }
}

/// What is not done is left to another worker.
impl Drop for Work {
    fn drop(&mut self) {
        self.with(|slot| {
            slot.taken = false;
            slot.listed.clone_from(&slot.range.after);
        });
    }
}

/// Greater than any character that keys are likely to have.
const LAST: char = '\u{10fffd}';

/// A text after `low` behind which so many keys lie that they are worth a range of their own, and about
/// in the middle of the keys from `low` on, as far as few requests show. `None` if there is none.
async fn middle_of<E, F>(
    low: &str,
    upto: Option<&str>,
    is_worth: impl Fn(String) -> F,
) -> Result<Option<String>, E>
where
    F: Future<Output = Result<bool, E>>,
{
    let beyond = |prefix: &str| format!("{prefix}{LAST}");
    // All but a few keys begin with the first `shared` characters of `low`, and not with the first
    // `apart`. To halve the distance finds the place where they differ in a few steps, however long
    // the directories are that they share.
    let ends: Vec<usize> = low.char_indices().map(|(at, _)| at).chain([low.len()]).collect();
    let (mut shared, mut apart) = (0, ends.len());
    while apart - shared > 1 {
        let length = shared.midpoint(apart);
        match is_worth(beyond(&low[..ends[length]])).await? {
            true => apart = length,
            false => shared = length,
        }
    }
    let beyond_shared = beyond(&low[..ends[shared]]);
    let mut high = upto.map_or(&*beyond_shared, |upto| upto.min(&beyond_shared)).to_owned();
    while let Some(middle) = between(low, &high) {
        if is_worth(middle.clone()).await? {
            return Ok(Some(middle));
        }
        high = middle;
    }
    Ok(None)
}

/// A text between two others, about in the middle of the keys that are likely between them: of printable
/// ASCII characters. `None` if there is none.
fn between(low: &str, high: &str) -> Option<String> {
    let common: String =
        low.chars().zip(high.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    let mut rest = low[common.len()..].chars();
    let first = rest.next().map_or(BELOW_PRINTABLE, u32::from);
    let end = u32::from(high[common.len()..].chars().next()?);
    // Few keys have other characters than those of ASCII.
    let end = if first + 1 < ABOVE_PRINTABLE { end.min(ABOVE_PRINTABLE) } else { end };
    let mut text = common;
    if let Some(middle) = middle(first, end) {
        text.push(middle);
        return Some(text);
    }
    // The first characters are neighbours: go on after that of the lower one.
    text.push(char::from_u32(first).filter(|_| first > BELOW_PRINTABLE)?);
    for next in rest {
        if let Some(middle) = middle(u32::from(next), ABOVE_PRINTABLE) {
            text.push(middle);
            return Some(text);
        }
        text.push(next);
    }
    text.push(middle(BELOW_PRINTABLE, ABOVE_PRINTABLE)?);
    Some(text)
}

const BELOW_PRINTABLE: u32 = 0x1f;
const ABOVE_PRINTABLE: u32 = 0x7f;

/// The character in the middle between two code points, other than both.
fn middle(low: u32, high: u32) -> Option<char> {
    let middle = low + high.checked_sub(low)? / 2;
    // No surrogate is a character.
    let middle = char::from_u32(middle).or_else(|| char::from_u32(0xd7ff));
    middle.filter(|it| u32::from(*it) > low && u32::from(*it) < high)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn range(after: &str, upto: Option<&str>) -> Range {
        Range { after: after.into(), upto: upto.map(Into::into) }
    }

    /// Splits among these keys.
    fn split(ranges: &Ranges, keys: &BTreeSet<String>) -> bool {
        let nth_key = |range: Range, n: u16| {
            let found = keys.iter().filter(|key| range.contains(key)).nth(usize::from(n) - 1);
            std::future::ready(Ok::<_, ()>(found.cloned()))
        };
        ranges.split(2, nth_key).now_or_never().unwrap().unwrap()
    }

    proptest! {
        #[test]
        fn the_middle_lies_between(mut texts in proptest::array::uniform2("\\PC{0,6}")) {
            texts.sort();
            let [low, high] = texts;
            if let Some(middle) = between(&low, &high) {
                prop_assert!(low < middle && middle < high, "{low:?} {middle:?} {high:?}");
            }
        }

        /// Whoever takes pages and splits when: each key is swept once.
        #[test]
        fn each_key_belongs_to_one_range(
            keys in proptest::collection::btree_set("[ -~]{1,4}|é[a-z]", 1..60),
            steps in proptest::collection::vec((0_usize..4, 1_usize..8), 1..200),
        ) {
            let ranges = Ranges::new(vec![Range::all()]);
            let mut works: Vec<Work> = Vec::new();
            let mut swept: Vec<String> = Vec::new();
            let page = |work: &Work, size: usize| -> Vec<String> {
                keys.iter().filter(|key| **key > work.after()).take(size).cloned().collect()
            };
            let step = |works: &mut Vec<Work>, swept: &mut Vec<String>, at: usize, size: usize| {
                if works.is_empty() {
                    return;
                }
                let at = at % works.len();
                let page = page(&works[at], size);
                let Some(last) = page.last() else { works.remove(at).end(); return };
                let range = works[at].begin(last);
                swept.extend(page.iter().filter(|key| range.contains(key)).cloned());
                works[at].done(range.upto.as_deref().unwrap());
                if works[at].ends_by(last) {
                    works.remove(at).end();
                }
            };
            for (what, size) in steps {
                match what {
                    0 => works.extend(ranges.take()),
                    1 => _ = split(&ranges, &keys),
                    // Left by a worker that was stopped.
                    2 if works.len() > 1 => drop(works.pop()),
                    at => step(&mut works, &mut swept, at, size),
                }
            }
            while !ranges.left().is_empty() {
                works.extend(ranges.take());
                step(&mut works, &mut swept, 0, 3);
            }
            swept.sort();
            prop_assert_eq!(swept, keys.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_range_is_halved_where_keys_are() {
        let hex: BTreeSet<String> = (0..256).map(|n| format!("cache/2026/{n:02x}")).collect();
        let ranges = Ranges::new(vec![Range::all()]);
        let work = ranges.take().unwrap();
        work.begin("cache/2026/00");
        assert!(split(&ranges, &hex));
        let [first, second] = ranges.left().try_into().unwrap();
        assert_eq!(first.upto.as_deref(), Some(second.after.as_str()));
        let in_second = hex.iter().filter(|key| second.contains(key)).count();
        assert!((64..=192).contains(&in_second), "{in_second} of 256");
    }

    #[test]
    fn few_requests_find_the_middle_however_long_the_shared_directories_are() {
        for directory in ["", "a/long/way/down/2026/é/of/nothing/but/names/", "中文/~~/\u{7f}/"]
        {
            let keys: BTreeSet<String> =
                (0..900).map(|n| format!("{directory}{n:06}/index.html")).collect();
            let requests = Cell::new(0);
            let is_worth = |after: String| {
                requests.set(requests.get() + 1);
                let beyond = keys.iter().filter(|key| **key > after).count();
                std::future::ready(Ok::<_, ()>(beyond >= 100))
            };
            let low = keys.iter().nth(100).unwrap();
            let middle = middle_of(low, None, is_worth).now_or_never().unwrap().unwrap().unwrap();
            assert!(*low < middle && requests.get() <= 14, "{middle}: {}", requests.get());
            let after = keys.iter().filter(|key| **key > middle).count();
            assert!((200..=700).contains(&after), "{after} after {middle}");
        }
    }

    #[test]
    fn a_range_is_not_split_before_what_is_listed_or_where_nothing_follows() {
        let keys: BTreeSet<String> = ["a", "b"].map(Into::into).into();
        let ranges = Ranges::new(vec![Range::all()]);
        let work = ranges.take().unwrap();
        assert_eq!(work.begin("b"), range("", Some("b")));
        assert!(!split(&ranges, &keys));
        work.done("a");
        drop(work);
        let [left] = ranges.left().try_into().unwrap();
        assert_eq!(left.after, "a");
        assert!(left.contains("b"));
    }
}
