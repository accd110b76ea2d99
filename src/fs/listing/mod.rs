//! One pass over a directory, page by page (rule N4): what an open directory handle reads from.
//!
//! Offsets stay valid for the life of the handle in little memory: a few pages are kept whole, of
//! the others only the token that fetches them again and a hash per entry, 8 bytes, by which each
//! entry finds its place again whatever came or went meanwhile.

mod memory;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, StreamExt, stream};
use lru::LruCache;
use tokio::task::JoinSet;
use tracing::{Instrument, warn};

use crate::catalog::{Catalog, Fact, Known};
use crate::error::{Error, Result};
use crate::expiry::Presence;
use crate::metrics::Metrics;
use crate::name::{self, Prefix, Shadows};
use crate::store::{Guard, ListRequest, Pages, Store, Version};
pub use memory::PageMemory;
use memory::Share;

/// Pages fetched ahead of the one that is read. A page's LIST starts when that of the page before
/// is answered, beside the HEADs of both.
const AHEAD: usize = 2;

/// Pages kept whole: the one being read, the one before, those ahead.
const KEPT: NonZeroUsize = NonZeroUsize::new(2 + AHEAD).unwrap();

/// So many pages may have to be read to find again what was one before other keys came.
const MERGED: usize = 64;

/// What a listing goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Keys asked for with one LIST.
    pub page: u16,
    /// HEAD requests for one page under way at one time.
    pub fan_out: usize,
    /// How long the last HEAD requests of a page are waited for after the others were answered.
    pub patience: Duration,
    pub exactness: Exactness,
}

/// What a listing shows of objects that nothing but their names is known of (`--ls`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exactness {
    /// No expired name is ever shown: the headers of each unknown object are asked for
    #[default]
    Exact,
    /// Names that are not known to have expired are shown as the store lists them
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
    /// A file of which no more is known than the listing tells.
    Listed(Version),
}

/// Where a directory handle reads from.
pub struct Listing {
    source: Arc<Source>,
    // Held for moments only, never over a wait.
    state: Arc<Mutex<State>>,
    share: Share,
}

/// What fetching a page needs.
struct Source {
    store: Arc<dyn Store>,
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    prefix: Prefix,
    rules: Rules,
    hasher: RandomState,
}

struct State {
    marks: Vec<Mark>,
    loads: LruCache<usize, Load>,
    /// Of the pages met first so far.
    guard: Guard,
    /// The page that was asked for last.
    reading: usize,
    /// Pages to fetch ahead of it: none before a second read, which many handles never see.
    ahead: usize,
    /// Counts rewinds: what was under way before one is nobody's.
    pass: u64,
}

impl State {
    fn new(pass: u64) -> State {
        let first = Mark { shadows: Some(Shadows::default()), ..Mark::default() };
        State {
            marks: vec![first],
            loads: LruCache::new(KEPT),
            guard: Guard::default(),
            reading: 0,
            ahead: 0,
            pass,
        }
    }
}

/// How to fetch a page again.
#[derive(Clone, Default)]
struct Mark {
    token: Option<String>,
    /// Of the pages before; `None` while those are on their way.
    shadows: Option<Shadows>,
    /// A hash for each entry, in the order first met; empty until it was fetched once.
    order: Arc<[u64]>,
    /// The last key of the page then: keys that came since may push it to a later one.
    last: Option<Arc<str>>,
}

type Load = Shared<BoxFuture<'static, Result<Arc<Loaded>>>>;

/// A page as fetched. `None` stands for an entry that is hidden, or gone since.
struct Loaded {
    entries: Vec<Option<DirEntry>>,
    /// What the pages after it may be hidden by.
    shadows: Shadows,
    /// What it takes in memory, some bytes more or less.
    bytes: usize,
}

/// What an entry takes beside its name, in bytes.
const ENTRY: usize = 200;

fn bytes_of(entries: &[Option<DirEntry>]) -> usize {
    let bytes = |entry: &DirEntry| {
        let about = match &entry.what {
            What::File(Fact { known: Known::File { about: Some(about), .. }, .. }) => {
                about.text_len()
            }
            _ => 0,
        };
        2 * entry.name.len() + about
    };
    entries.iter().map(|entry| ENTRY + entry.as_ref().map_or(0, bytes)).sum()
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
            reason = "who writes into the bucket must not foresee the hashes of its keys"
        )]
        let hasher = RandomState::new();
        let source = Arc::new(Source { store, catalog, metrics, prefix, rules, hasher });
        Listing { source, state: Arc::new(Mutex::new(State::new(0))), share: Share::of(memory) }
    }

    /// Forgets what was read: the next page is the first, as the store has it now.
    pub fn rewind(&self) {
        let mut state = locked(&self.state);
        if state.marks.len() > 1 || !state.marks[0].order.is_empty() {
            *state = State::new(state.pass + 1);
        }
    }

    /// The entries from `offset` on that lie in one page; `None` at the end. The pages after it
    /// are being fetched by the time this returns, unless these are the first entries.
    pub async fn from(&self, offset: u64) -> Result<Option<Batch>> {
        let (page, first) = place(offset);
        let Some((load, fetched_ahead)) = self.load(page, first) else { return Ok(None) };
        let mut loaded = load.await;
        if loaded.is_err() && fetched_ahead {
            // What failed while nobody waited for it is tried again.
            locked(&self.state).loads.pop(&page);
            let Some((again, _)) = self.load(page, first) else { return Ok(None) };
            loaded = again.await;
        }
        let mut state = locked(&self.state);
        let loaded = loaded.inspect_err(|_| {
            state.loads.pop(&page);
        })?;
        if let Some(next) = state.marks.get_mut(page + 1) {
            next.shadows = Some(loaded.shadows.clone());
        }
        // Those under way become as large as this one.
        let bytes = |load: &Load| match load.peek() {
            Some(Ok(loaded)) => loaded.bytes,
            Some(Err(_)) => 0,
            None => loaded.bytes,
        };
        let held = state.loads.iter().map(|(_, load)| bytes(load)).sum();
        drop(state);
        self.share.holds(&self.state, held);
        Ok(Some(Batch { page, first, loaded }))
    }

    /// The page, being fetched, and whether it was before; `None` where there is none. Those that
    /// are to be fetched ahead of it are under way then, as far as it is known where they begin.
    fn load(&self, page: usize, first: usize) -> Option<(Load, bool)> {
        let mut state = locked(&self.state);
        state.reading = page;
        state.ahead = if (page, first) == (0, 0) { 0 } else { AHEAD };
        let load = load(&self.source, &self.state, &mut state, page)?;
        for ahead in page + 1..=page + state.ahead {
            load_ahead(&self.source, &self.state, &mut state, ahead);
        }
        Some(load)
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load_ahead(source: &Arc<Source>, shared: &Arc<Mutex<State>>, state: &mut State, page: usize) {
    // Not awaited: it is under way now.
    let _ = load(source, shared, state, page);
}

fn load(
    source: &Arc<Source>,
    shared: &Arc<Mutex<State>>,
    state: &mut State,
    page: usize,
) -> Option<(Load, bool)> {
    if let Some(load) = state.loads.get(&page) {
        return Some((load.clone(), true));
    }
    let mark = state.marks.get(page)?.clone();
    let before = match mark.shadows {
        Some(_) => None,
        None => Some(load(source, shared, state, page.checked_sub(1)?)?.0),
    };
    let answered =
        Answered { source: source.clone(), state: Arc::downgrade(shared), page, pass: state.pass };
    let mut task = JoinSet::new();
    task.spawn(answered.source.clone().fetch(mark, before, answered).in_current_span());
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

/// Told of the answer to a page's LIST: the next one may be asked for.
struct Answered {
    source: Arc<Source>,
    /// Weak: the state owns the task that holds this.
    state: Weak<Mutex<State>>,
    page: usize,
    pass: u64,
}

impl Answered {
    /// `order` and `last` are of the page as it was first met: by them it is found again, since
    /// the next one begins where this one ended then.
    fn with(
        self,
        order: &Arc<[u64]>,
        first: Option<&str>,
        last: Option<&Arc<str>>,
        next: Option<&str>,
    ) -> Result<()> {
        let Some(shared) = self.state.upgrade() else { return Ok(()) };
        let mut state = locked(&shared);
        if state.pass != self.pass {
            return Ok(());
        }
        if let Some(mark) = state.marks.get_mut(self.page) {
            mark.order = order.clone();
            mark.last = last.cloned();
        }
        let Some(token) = next else { return Ok(()) };
        let next = self.page + 1;
        if state.marks.len() == next {
            let State { guard, marks, .. } = &mut *state;
            guard.pass(marks[self.page].token.as_deref(), first, token)?;
            state.marks.push(Mark { token: Some(token.to_owned()), ..Mark::default() });
        }
        if next <= state.reading + state.ahead {
            load_ahead(&self.source, &shared, &mut state, next);
        }
        Ok(())
    }
}

/// A name as the store lists it.
enum Raw {
    File(Version),
    Directory,
}

impl Source {
    /// `before` is the page before, where it is not known yet what that hides.
    async fn fetch(
        self: Arc<Self>,
        mark: Mark,
        before: Option<Load>,
        answered: Answered,
    ) -> Result<Loaded> {
        let (raw, next) = self.raw(&mark).await?;
        let order = match mark.order.is_empty() {
            true => raw.iter().map(|(key, _)| self.hasher.hash_one(key)).collect(),
            false => mark.order,
        };
        let last = mark.last.or_else(|| raw.last().map(|(key, _)| key.as_str().into()));
        let first = raw.first().map(|(key, _)| key.as_str());
        answered.with(&order, first, last.as_ref(), next.as_deref())?;

        let found = self.entries(raw, next.is_some()).await?;
        let mut shadows = match (mark.shadows, before) {
            (Some(shadows), _) => shadows,
            (None, Some(before)) => before.await?.shadows.clone(),
            (None, None) => return Err(Error::Defect("a page that follows none".into())),
        };
        let mut shown = Vec::with_capacity(found.len());
        for entry in found {
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
                What::File(_) | What::Listed(_) => shadows.file(&entry.name),
            }
            shown.push(entry);
        }
        let entries = self.arrange(shown, &order);
        let bytes = bytes_of(&entries);
        Ok(Loaded { entries, shadows, bytes })
    }

    /// The names of a page in byte order, up to what was its last key when it was met first, and
    /// the token of the page after it.
    async fn raw(&self, mark: &Mark) -> Result<(Vec<(String, Raw)>, Option<String>)> {
        let (token, max_keys) = (mark.token.as_deref(), self.rules.page);
        let level = ListRequest::level(self.prefix.as_str());
        let mut pages = Pages::new(&*self.store, ListRequest { token, max_keys, ..level });
        let mut raw = Vec::new();
        for _ in 0..MERGED {
            let Some(page) = pages.next().await? else { return Ok((raw, None)) };
            page.undecodable.iter().for_each(|key| self.skip(key));
            raw.extend(page.objects.into_iter().map(|v| (v.key.to_string(), Raw::File(v))));
            raw.extend(page.prefixes.into_iter().map(|p| (p, Raw::Directory)));
            if raw.len() >= 1 << 16 {
                return Err(Error::Protocol(format!("a page of {} entries", raw.len())));
            }
            raw.sort_by(|a: &(String, Raw), b| a.0.cmp(&b.0));
            let end = raw.last().map(|(key, _)| key.as_str());
            if mark.last.as_deref() <= end {
                return Ok((raw, page.next));
            }
        }
        Err(Error::Protocol(format!("{MERGED} pages where one was before")))
    }

    /// Each entry in the place it had when the page was first met.
    fn arrange(&self, shown: Vec<DirEntry>, order: &[u64]) -> Vec<Option<DirEntry>> {
        let mut by_hash: std::collections::HashMap<u64, DirEntry> = shown
            .into_iter()
            .map(|entry| {
                let slash = if matches!(entry.what, What::Directory(..)) { "/" } else { "" };
                let key = format!("{}{}{slash}", self.prefix, entry.name);
                (self.hasher.hash_one(key), entry)
            })
            .collect();
        order.iter().map(|hash| by_hash.remove(hash)).collect()
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
        self.skip(key);
        None
    }

    /// Counts a key that cannot be a path, and logs one of them per directory (rule N1).
    fn skip(&self, key: &str) {
        self.metrics.unnameable.add(1);
        if self.catalog.is_news(format!("unnameable: {}", self.prefix)) {
            warn!(key, directory = %self.prefix, "keys that cannot be a path are not shown, as this one");
        }
    }

    /// What is shown of the names of a page, now; nothing of an expired one. `more`: other pages
    /// follow it.
    async fn entries(&self, raw: Vec<(String, Raw)>, more: bool) -> Result<Vec<DirEntry>> {
        let named: Vec<(String, Raw)> =
            raw.into_iter().filter_map(|(key, raw)| Some((self.name(&key, &raw)?, raw))).collect();
        let files: Vec<(&str, &Version)> = named
            .iter()
            .filter_map(|(name, raw)| match raw {
                Raw::File(version) => Some((name.as_str(), version)),
                Raw::Directory => None,
            })
            .collect();
        let versions: Vec<&Version> = files.iter().map(|(_, version)| *version).collect();
        let known = self.catalog.confirm(&versions).await.into_iter();
        let mut answers: Vec<Answer> =
            known.map(|fact| fact.map_or(Answer::NameOnly, Answer::Fact)).collect();
        let clashing = match self.rules.exactness {
            Exactness::Exact => None,
            Exactness::Lazy => Some(clashing(&named, more)),
        };
        let unknown = files.iter().enumerate().filter(|(i, (name, _))| {
            matches!(answers[*i], Answer::NameOnly)
                && clashing.as_ref().is_none_or(|clashing| clashing.contains(name))
        });
        let unknown: Vec<_> = unknown.map(|(i, (_, version))| (i, version.key.clone())).collect();
        self.ask(unknown, &mut answers).await?;

        let mut answers = answers.into_iter();
        let mut found = Vec::new();
        for (name, raw) in named {
            let what = match raw {
                Raw::Directory => {
                    let prefix = Prefix::new(&self.prefix.key(&name));
                    What::Directory(prefix, self.catalog.directory())
                }
                Raw::File(version) => match answers.next() {
                    Some(Answer::Fact(fact)) => {
                        if self.catalog.presence(&fact) == Presence::Expired {
                            self.metrics.expired_hidden.add(1);
                            continue;
                        }
                        What::File(fact)
                    }
                    Some(Answer::Gone) => continue,
                    Some(Answer::NameOnly) | None => What::Listed(version),
                },
            };
            found.push(DirEntry { name, what });
        }
        Ok(found)
    }

    /// Asks for the headers of these files, and puts each answer in its place.
    ///
    /// An object that cannot be asked for does not hide the others: its name is shown alone. Where
    /// none of a page can be, the page is an error.
    async fn ask(&self, unknown: Vec<(usize, Arc<str>)>, answers: &mut [Answer]) -> Result<()> {
        let mut answered = unknown.len() < answers.len();
        let mut pending: BTreeMap<usize, Arc<str>> = unknown.iter().cloned().collect();
        let head =
            |(i, key): (usize, Arc<str>)| async move { (i, self.catalog.head(&key).await, key) };
        // In whatever order the answers come, so that none waits for one before it.
        let mut heads = stream::iter(unknown).map(head).buffer_unordered(self.rules.fan_out);
        let mut failure = None;
        loop {
            let stragglers = answered && pending.len() <= self.rules.fan_out;
            let next = match stragglers {
                false => heads.next().await,
                // All that is missing is under way, and the others need not wait for it for long.
                true => match tokio::time::timeout(self.rules.patience, heads.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            let Some((i, answer, key)) = next else { break };
            pending.remove(&i);
            match answer {
                Ok(fact) => {
                    answered = true;
                    answers[i] = fact.map_or(Answer::Gone, Answer::Fact);
                }
                Err(error) => {
                    // Who may list and not read gets the names.
                    answered |= matches!(error, Error::Denied(_) | Error::Refused(_));
                    self.note_unanswered(&key, &error);
                    failure = Some(error);
                }
            }
        }
        for key in pending.into_values() {
            self.note_unanswered(&key, &Error::TimedOut(self.rules.patience));
        }
        failure.filter(|_| !answered).map_or(Ok(()), Err)
    }

    fn note_unanswered(&self, key: &str, error: &Error) {
        if self.catalog.is_news(format!("unanswered: {key}")) {
            warn!(key, "listed by its name alone, whether it has expired or not: {error}");
        }
    }
}

/// What is known of a file that the store lists.
enum Answer {
    Fact(Fact),
    /// It was deleted since it was listed.
    Gone,
    NameOnly,
}

/// The files of a page whose end decides whether a directory of the same name is shown (rule N2):
/// the directory is on this page, or may be on one of those that follow.
fn clashing(named: &[(String, Raw)], more: bool) -> HashSet<&str> {
    let mut clashing = HashSet::new();
    let mut shadows = Shadows::default();
    for (name, raw) in named {
        match raw {
            Raw::File(_) => shadows.file(name),
            Raw::Directory => _ = shadows.hides(name).then(|| clashing.insert(name.as_str())),
        }
    }
    if more {
        let open = |name: &&str| shadows.names().any(|open| open == *name);
        clashing.extend(named.iter().map(|(name, _)| name.as_str()).filter(open));
    }
    clashing
}
