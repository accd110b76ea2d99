//! One pass over a directory, page by page (rule N4): what an open directory handle reads from.
//!
//! Offsets stay valid for the life of the handle in little memory: a few pages are kept whole, of
//! the others only the token that fetches them again and a hash per entry, 8 bytes, by which each
//! entry finds its place again whatever came or went meanwhile.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, StreamExt, stream};
use lru::LruCache;
use tokio::task::JoinSet;
use tracing::{Instrument, warn};

use crate::catalog::{Catalog, Fact};
use crate::error::{Error, Result};
use crate::expiry::Presence;
use crate::metrics::Metrics;
use crate::name::{self, Prefix, Shadows};
use crate::store::{ListRequest, Store, Version};

/// Keys and prefixes a page, the most S3 gives (ListObjectsV2, `MaxKeys`).
pub const PAGE: u16 = 1000;

/// Pages kept whole: the one being read, the one before, the one being fetched.
const KEPT: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// HEAD requests for one page under way at one time.
const FAN_OUT: usize = 64;

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
    /// A file of which no more than the name is known: the store refuses its headers.
    NameOnly,
}

/// Where a directory handle reads from.
pub struct Listing {
    source: Arc<Source>,
    // Held for moments only, never over a wait.
    state: Mutex<State>,
}

/// What fetching a page needs.
struct Source {
    store: Arc<dyn Store>,
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    prefix: Prefix,
    page: u16,
    hasher: RandomState,
}

struct State {
    marks: Vec<Mark>,
    loads: LruCache<usize, Load>,
}

/// How to fetch a page again.
#[derive(Clone, Default)]
struct Mark {
    token: Option<String>,
    shadows: Shadows,
    /// A hash for each entry, in the order first met; empty until it was fetched once.
    order: Arc<[u64]>,
    /// The last key of the page then: keys that came since may push it to a later one.
    last: Option<Arc<str>>,
}

type Load = Shared<BoxFuture<'static, Result<Arc<Loaded>>>>;

/// A page as fetched. `None` stands for an entry that is hidden, or gone since.
struct Loaded {
    entries: Vec<Option<DirEntry>>,
    order: Arc<[u64]>,
    last: Option<Arc<str>>,
    next: Option<Mark>,
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
        page: u16,
    ) -> Listing {
        let hasher = RandomState::new();
        let source = Arc::new(Source { store, catalog, metrics, prefix, page, hasher });
        let state = State { marks: vec![Mark::default()], loads: LruCache::new(KEPT) };
        Listing { source, state: Mutex::new(state) }
    }

    /// Forgets what was read: the next page is the first, as the store has it now.
    pub fn rewind(&self) {
        let mut state = self.state();
        if state.marks.len() > 1 || !state.marks[0].order.is_empty() {
            *state = State { marks: vec![Mark::default()], loads: LruCache::new(KEPT) };
        }
    }

    /// The entries from `offset` on that lie in one page; `None` at the end. The page after it
    /// is being fetched by the time this returns.
    pub async fn from(&self, offset: u64) -> Result<Option<Batch>> {
        let (page, first) = place(offset);
        let Some((load, fetched_ahead)) = self.load(page) else { return Ok(None) };
        let mut loaded = load.await;
        if loaded.is_err() && fetched_ahead {
            // What failed while nobody waited for it is tried again.
            self.state().loads.pop(&page);
            let Some((again, _)) = self.load(page) else { return Ok(None) };
            loaded = again.await;
        }
        let loaded = loaded.inspect_err(|_| {
            self.state().loads.pop(&page);
        })?;
        {
            let mut state = self.state();
            if let Some(mark) = state.marks.get_mut(page) {
                mark.order = loaded.order.clone();
                mark.last = loaded.last.clone();
            }
            if let (Some(next), true) = (&loaded.next, state.marks.len() == page + 1) {
                state.marks.push(next.clone());
            }
        }
        // Not awaited: it is under way now.
        self.load(page + 1);
        Ok(Some(Batch { page, first, loaded }))
    }

    /// The page, being fetched, and whether it was before; `None` where there is none.
    fn load(&self, page: usize) -> Option<(Load, bool)> {
        let mut state = self.state();
        if let Some(load) = state.loads.get(&page) {
            return Some((load.clone(), true));
        }
        let mark = state.marks.get(page)?.clone();
        let source = self.source.clone();
        let mut task = JoinSet::new();
        task.spawn(async move { source.fetch(mark).await }.in_current_span());
        // The set ends the task when the last who waits for it is gone, the listing included.
        let load = async move {
            match task.join_next().await {
                Some(Ok(loaded)) => loaded.map(Arc::new),
                Some(Err(panic)) => Err(Error::Defect(panic.to_string())),
                None => Err(Error::Defect("a page without a task".into())),
            }
        };
        let load = load.boxed().shared();
        state.loads.put(page, load.clone());
        Some((load, false))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name as the store lists it.
enum Raw {
    File(Version),
    Directory,
}

impl Source {
    async fn fetch(&self, mark: Mark) -> Result<Loaded> {
        let (raw, next) = self.raw(&mark).await?;
        let order: Arc<[u64]> = raw.iter().map(|(key, _)| self.hasher.hash_one(key)).collect();
        let last = mark.last.or_else(|| raw.last().map(|(key, _)| key.as_str().into()));

        let named = raw.into_iter().filter_map(|(key, raw)| Some((self.name(&key, &raw)?, raw)));
        let facts = stream::iter(named).map(|(name, raw)| async {
            let entry = self.entry(name, raw).await;
            entry.transpose()
        });
        let found: Vec<Result<DirEntry>> =
            facts.buffered(FAN_OUT).filter_map(std::future::ready).collect().await;

        let mut shadows = mark.shadows;
        let mut shown = Vec::with_capacity(found.len());
        for entry in found {
            let entry = entry?;
            match &entry.what {
                What::Directory(..) if shadows.hides(&entry.name) => {
                    let key = self.prefix.key(&entry.name);
                    if self.catalog.is_news(format!("hidden: {key}/")) {
                        warn!(key, "a directory is hidden by the live file of its name");
                    }
                    continue;
                }
                What::Directory(_, fact) => {
                    self.catalog.note_directory(&self.prefix.key(&entry.name), fact);
                }
                What::File(_) | What::NameOnly => shadows.file(&entry.name),
            }
            shown.push(entry);
        }
        let (entries, order) = self.arrange(shown, order, mark.order);
        let next = next.map(|token| Mark { token: Some(token), shadows, ..Mark::default() });
        Ok(Loaded { entries, order, last, next })
    }

    /// The names of a page in byte order, up to what was its last key when it was met first, and
    /// the token of the page after it.
    async fn raw(&self, mark: &Mark) -> Result<(Vec<(String, Raw)>, Option<String>)> {
        let (mut raw, mut token) = (Vec::new(), mark.token.clone());
        loop {
            let prefix = self.prefix.as_str();
            let request = ListRequest { prefix, token: token.as_deref(), max_keys: self.page };
            let page = self.store.list(request).await?;
            if page.next.is_some() && page.next == token {
                return Err(Error::Protocol("a listing that does not go on".into()));
            }
            raw.extend(page.objects.into_iter().map(|v| (v.key.to_string(), Raw::File(v))));
            raw.extend(page.prefixes.into_iter().map(|p| (p, Raw::Directory)));
            if raw.len() >= 1 << 16 {
                return Err(Error::Protocol(format!("a page of {} entries", raw.len())));
            }
            raw.sort_by(|a: &(String, Raw), b| a.0.cmp(&b.0));
            let end = raw.last().map(|(key, _)| key.as_str());
            if page.next.is_none() || mark.last.as_deref() <= end {
                return Ok((raw, page.next));
            }
            token = page.next;
        }
    }

    /// Each entry in the place it had when the page was first met.
    fn arrange(
        &self,
        shown: Vec<DirEntry>,
        now: Arc<[u64]>,
        before: Arc<[u64]>,
    ) -> (Vec<Option<DirEntry>>, Arc<[u64]>) {
        let order = if before.is_empty() { now } else { before };
        let mut by_hash: std::collections::HashMap<u64, DirEntry> = shown
            .into_iter()
            .map(|entry| {
                let slash = if matches!(entry.what, What::Directory(..)) { "/" } else { "" };
                let key = format!("{}{}{slash}", self.prefix, entry.name);
                (self.hasher.hash_one(key), entry)
            })
            .collect();
        (order.iter().map(|hash| by_hash.remove(hash)).collect(), order)
    }

    /// The path component that a key or a common prefix is in this directory, if it is one.
    fn name(&self, key: &str, raw: &Raw) -> Option<String> {
        let name = key.strip_prefix(self.prefix.as_str())?;
        let name = match raw {
            Raw::Directory => name.strip_suffix('/').unwrap_or(name),
            // The marker of this directory itself, or of one below (rule N3).
            Raw::File(_) if name.is_empty() || name.ends_with('/') => return None,
            Raw::File(_) => name,
        };
        if name::is_legal(name) {
            return Some(name.to_owned());
        }
        self.metrics.unnameable.add(1);
        if self.catalog.is_news(format!("unnameable: {}", self.prefix)) {
            warn!(key, directory = %self.prefix, "keys that cannot be a path are not shown, as this one");
        }
        None
    }

    /// What is shown of a name, now; nothing of an expired one.
    async fn entry(&self, name: String, raw: Raw) -> Result<Option<DirEntry>> {
        let version = match raw {
            Raw::Directory => {
                let prefix = Prefix::new(&self.prefix.key(&name));
                return Ok(Some(DirEntry {
                    name,
                    what: What::Directory(prefix, self.catalog.directory()),
                }));
            }
            Raw::File(version) => version,
        };
        let fact = match self.catalog.confirm(&version) {
            Some(fact) => fact,
            None => match self.catalog.head(&version.key).await {
                Ok(fact) => fact,
                Err(Error::NotFound) => return Ok(None),
                // One object that cannot be asked for does not hide the others.
                Err(error @ (Error::Denied(_) | Error::Refused(_) | Error::Protocol(_))) => {
                    if self.catalog.is_news(format!("refused: {}", version.key)) {
                        warn!(key = %version.key, "only its name can be shown: {error}");
                    }
                    return Ok(Some(DirEntry { name, what: What::NameOnly }));
                }
                Err(error) => return Err(error),
            },
        };
        if self.catalog.presence(&fact) == Presence::Expired {
            self.metrics.expired_hidden.add(1);
            return Ok(None);
        }
        Ok(Some(DirEntry { name, what: What::File(fact) }))
    }
}
