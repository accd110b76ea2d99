//! One pass over a directory, page by page (rule N4): what an open directory handle reads from.
//!
//! Owns the pages of one handle. Offsets stay valid for the life of the handle in little memory: a
//! few pages are kept whole; of the others, only the token that fetches them again and a hash per
//! entry (8 bytes), by which each entry is found again after the directory has changed. Knows
//! nothing of inodes, reply buffers or other handles.
//!
//! [`Listing`] alone advances its pages: it starts the task of each page, and records a page when
//! it returns it. A task starts no other task; the task of a page ahead waits for the page before
//! it.

mod fetch;
mod memory;
mod source;

use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::catalog::{Catalog, Fact};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::name::Prefix;
use crate::store::{Guard, Store, Version};
use fetch::{Fetch, Loaded, Mark, Start};
pub use memory::PageMemory;
use memory::Share;
use source::Source;

/// Pages fetched ahead of the one that is read. A page's LIST is sent when that of the page before
/// is answered, while the HEADs of both are in flight.
const AHEAD: usize = 2;

/// Pages kept whole: the one being read, the one before, those ahead.
const KEPT: NonZeroUsize = NonZeroUsize::new(2 + AHEAD).unwrap();

/// The settings of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Keys requested with one LIST.
    pub page: u16,
    /// Concurrent HEAD requests for one page.
    pub fan_out: usize,
    /// How long the last HEAD requests of a page are waited for after the others were answered.
    pub patience: Duration,
    pub exactness: Exactness,
}

/// What a listing shows of objects of which only the name is known (`--ls`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exactness {
    /// Never show an expired name: request the headers of each unknown object
    #[default]
    Exact,
    /// Show names as the store lists them, except those known to have expired
    Lazy,
}

/// One name in a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    pub name: String,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    File(Fact),
    Directory(Prefix, Fact),
    /// A file known only by the listing.
    Listed(Version),
}

/// The listing of one directory handle.
pub struct Listing {
    source: Arc<Source>,
    // Held briefly, never while waiting.
    state: Arc<Mutex<State>>,
    share: Share,
}

struct State {
    /// How to fetch the pages returned so far, and the next one, if there is one.
    marks: Vec<Mark>,
    /// For the pages returned so far.
    guard: Guard,
    pages: LruCache<usize, Fetch>,
    /// Counts rewinds: the results of fetches from before a rewind are ignored.
    pass: u64,
}

impl State {
    fn new(pass: u64) -> State {
        let pages = LruCache::new(KEPT);
        State { marks: vec![Mark::default()], guard: Guard::default(), pages, pass }
    }

    /// A page, and whether it was loaded or in flight before; `None` if no such page is known.
    /// Starts to fetch the `ahead` pages after it, too, as far as they exist.
    fn fetch(&mut self, source: &Arc<Source>, page: usize, ahead: usize) -> Option<(Fetch, bool)> {
        let known = self.pages.contains(&page);
        let fetch = self.get_or_start(source, page, Start::At(self.marks.get(page)?.clone()));
        let mut before = fetch.clone();
        for page in page + 1..=page + ahead {
            let start = match self.marks.get(page) {
                Some(mark) => Start::At(mark.clone()),
                None if before.next_now() == Some(None) => break,
                None => Start::After(before),
            };
            before = self.get_or_start(source, page, start);
        }
        Some((fetch, known))
    }

    fn get_or_start(&mut self, source: &Arc<Source>, page: usize, start: Start) -> Fetch {
        self.pages.get_or_insert(page, || Fetch::start(source, start)).clone()
    }

    /// Drops a page and those that were fetched after it.
    fn drop_from(&mut self, page: usize) {
        (page..=page + AHEAD).for_each(|page| _ = self.pages.pop(&page));
    }

    /// Records a page when it is returned: the offsets of its entries, and how to fetch the next
    /// page.
    ///
    /// # Errors
    /// `Protocol` if the listing does not end.
    fn note(&mut self, page: usize, loaded: &Loaded) -> Result<()> {
        let State { marks, guard, .. } = self;
        let is_last_known = page + 1 == marks.len();
        let Some(mark) = marks.get_mut(page) else { return Ok(()) };
        if is_last_known && let Some(next) = &loaded.next {
            guard.pass(mark.token.as_deref(), loaded.first.as_deref(), next)?;
        }
        mark.met.get_or_insert_with(|| loaded.met.clone());
        let shadows = loaded.shadows.clone();
        match (marks.get_mut(page + 1), &loaded.next) {
            (Some(next), _) => next.shadows = shadows,
            (None, Some(next)) => {
                marks.push(Mark { token: Some(next.clone()), shadows, met: None });
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Memory of the pages. Those in flight are assumed to be as large as this one.
    fn bytes(&self, loaded: &Loaded) -> usize {
        let bytes = |fetch: &Fetch| match fetch.loaded.peek() {
            Some(Ok(Some(loaded))) => loaded.bytes,
            Some(Ok(None) | Err(_)) => 0,
            None => loaded.bytes,
        };
        self.pages.iter().map(|(_, fetch)| bytes(fetch)).sum()
    }
}

/// The entries of one page from some offset on, each with the offset after it.
pub struct Batch {
    page: usize,
    first: usize,
    loaded: Arc<Loaded>,
}

impl Batch {
    pub fn entries(&self) -> impl Iterator<Item = (u64, &DirEntry)> {
        let rest = self.loaded.entries.iter().enumerate().skip(self.first);
        rest.filter_map(|(i, entry)| Some((offset(self.page, i + 1), entry.as_ref()?)))
    }

    /// The offset at which the next page begins.
    pub fn end(&self) -> u64 {
        offset(self.page + 1, 0)
    }
}

/// `readdir` offsets below this are `.` and `..`.
pub const FIRST_OFFSET: u64 = 2;

/// The offset of the entry `index` of a page. Pages hold fewer than 65,536 entries.
fn offset(page: usize, index: usize) -> u64 {
    ((page as u64 + 1) << 16) | index as u64
}

fn place(offset: u64) -> (usize, usize) {
    match offset >> 16 {
        0 => (0, 0),
        page => (page as usize - 1, (offset & 0xffff) as usize),
    }
}

impl Listing {
    pub fn new(
        store: Arc<dyn Store>,
        catalog: Arc<Catalog>,
        metrics: Arc<Metrics>,
        prefix: Prefix,
        rules: Rules,
        memory: &Arc<PageMemory>,
    ) -> Listing {
        #[expect(
            clippy::disallowed_methods,
            reason = "bucket writers must not be able to predict the hashes of keys"
        )]
        let hasher = RandomState::new();
        let source = Arc::new(Source { store, catalog, metrics, prefix, rules, hasher });
        Listing { source, state: Arc::new(Mutex::new(State::new(0))), share: Share::of(memory) }
    }

    /// Starts again with a fresh first page. A first page whose LIST is in flight counts as fresh.
    pub fn rewind(&self) {
        let mut state = locked(&self.state);
        let first = state.pages.peek(&0);
        if state.marks[0].met.is_some() || first.is_some_and(|first| first.next_now().is_some()) {
            *state = State::new(state.pass + 1);
        }
    }

    /// The entries from `offset` on that lie in one page; `None` at the end. The pages after it are
    /// being fetched by the time this returns, unless these are the first entries: many handles are
    /// never read a second time.
    pub async fn from(&self, offset: u64) -> Result<Option<Batch>> {
        let (page, first) = place(offset);
        let ahead = if (page, first) == (0, 0) { 0 } else { AHEAD };
        loop {
            let (pass, fetch, known) = {
                let mut state = locked(&self.state);
                let Some((fetch, known)) = state.fetch(&self.source, page, ahead) else {
                    return Ok(None);
                };
                (state.pass, fetch, known)
            };
            let loaded = fetch.loaded.await;
            let mut state = locked(&self.state);
            let noted = match loaded {
                // The result of a fetch from before a rewind is ignored.
                Ok(Some(loaded)) if state.pass == pass => {
                    state.note(page, &loaded).map(|()| Some(loaded))
                }
                other => other,
            };
            match noted {
                Ok(Some(loaded)) => {
                    let bytes = state.bytes(&loaded);
                    drop(state);
                    self.share.holds(&self.state, bytes);
                    return Ok(Some(Batch { page, first, loaded }));
                }
                failed => {
                    state.drop_from(page);
                    // A page fetched ahead that failed is fetched again.
                    if !known {
                        return failed.map(|_| None);
                    }
                }
            }
        }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
